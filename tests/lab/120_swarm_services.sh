#!/usr/bin/env bash
# Services in dnsrr mode: tasks on all nodes, found by name, reached by address, scaled up and down.
. "$(dirname "$0")/lib.sh"

swarm_up 3
network 1 web --attachable
assert_eq "$(d 1 network inspect -f '{{.Scope}}' web)" swarm scope
service site web 3
wait_for 60 has_running_tasks site 3
nodes=$(d 1 service ps -f desired-state=running --format '{{.Node}}' site | sort -u | wc -l)
assert_eq "$nodes" 3 "nodes that run tasks"

run 2 probe web
has_addresses() { [[ $(lookup 2 probe site | wc -l) == "$1" ]]; }
wait_for 20 has_addresses 3
for address in $(lookup 2 probe site); do reaches 2 probe "$address"; done

for scale in 5 1; do
  d 1 service scale -d site=$scale >/dev/null
  wait_for 60 has_running_tasks site $scale
  wait_for 20 has_addresses $scale
  for address in $(lookup 2 probe site); do reaches 2 probe "$address"; done
done
