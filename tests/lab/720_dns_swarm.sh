#!/usr/bin/env bash
# In a swarm, weaveDNS of the managed plugin is off until it is switched on; then it works beside
# Docker's own DNS: tasks and attached containers are found by both, on all hosts.
. "$(dirname "$0")/dns.sh"

swarm_up 2
assert_eq "$(weave 1 dns-args)" ''
assert_contains "$(weave 1 status dns)" 'WEAVE_DNS is off'
assert_eq "$(on 1 ss -lunH 'sport = :53' | grep -c . || true)" 0 'sockets on port 53'
network 1 web --attachable
run 1 c1 web
run 2 c2 web
wait_for 5 says "$(address 1 c1 web)" resolves 2 c2 c1

for number in 1 2; do
  lab plugin $number disable -f
  lab plugin $number set WEAVE_DNS=true
  lab plugin $number enable
done
mesh_ready 2
for number in 1 2; do wait_for 10 dns_serves $number; done
assert_eq "$(weave 1 dns-args)" '--dns=172.17.0.1 --dns-search=weave.local'

# A container that was there before, and one that uses weaveDNS.
dns_run 2 asker web
one=$(address 1 c1 web)
wait_for 10 says "NOERROR $one" dns_ask_in 2 asker c1.weave.local
wait_for 3 says "$one" resolves 2 asker c1.weave.local
wait_for 5 says "$one" resolves 2 asker c1
reaches 2 asker "$one"

# A service: its virtual address by Docker's DNS, its tasks by both.
d 1 service create -d --no-resolve-image --name shop --network web --mode global lab >/dev/null
wait_for 60 has_running_tasks shop 2
tasks() { lookup 2 asker tasks.shop | paste -sd' '; }
wait_for 10 eval '[[ $(tasks | wc -w) == 2 ]]'
vip=$(d 1 service inspect -f '{{range .Endpoint.VirtualIPs}}{{.Addr}} {{end}}' shop | cut -d/ -f1)
assert_eq "$(resolves 2 asker shop)" "$vip" "the service in Docker's DNS"
task=$(d 1 inspect -f '{{.Name}}' "$(task_container 1 shop)")
assert_contains "$(tasks)" "$(address 1 "$(task_container 1 shop)" web)"
wait_for 5 says "NOERROR $(address 1 "$(task_container 1 shop)" web)" dns_ask_in 2 asker "${task#/}.weave.local"
d 1 service rm shop >/dev/null
wait_for 20 says NXDOMAIN dns_ask_in 2 asker "${task#/}.weave.local"

# Another network's containers are told nothing.
network 1 db --attachable
dns_run 2 other db
wait_for 5 says "NOERROR $(address 2 other db)" dns_ask_in 2 other other.weave.local
says NXDOMAIN dns_ask_in 2 other c1.weave.local
d 1 rm -f c1 >/dev/null
wait_for 3 says NXDOMAIN dns_ask_in 2 asker c1.weave.local
