#!/usr/bin/env bash
# Services on several networks, attached containers, services without a virtual address, published ports,
# and what is left when a service or a container goes.
. "$(dirname "$0")/lib.sh"
. "$HERE/services.sh"

swarm_up 3
network 1 web --attachable
network 1 other --attachable
run 2 probe web
run 3 elsewhere other
vip_service both web 2 --network other
vip_service site web 2
d 1 service create -d --no-resolve-image --endpoint-mode dnsrr --name plain --network web --replicas 2 lab answer >/dev/null
for service in both:4 site:2; do wait_for 60 has_ready_tasks 3 "${service%:*}" "${service#*:}"; done
wait_for 60 has_running_tasks plain 2

# A service on two networks has an address on each, and each network's containers reach its own.
first=$(vip both 1) second=$(vip both 2) site=$(vip site)
if [[ ${first%.*} != "${site%.*}" ]]; then read -r first second <<<"$second $first"; fi
wait_for 10 has_answers 2 probe "$first" 40 2
wait_for 10 has_answers 2 probe "$site" 40 2
wait_for 10 has_answers 3 elsewhere "$second" 40 2
inside 3 elsewhere nft list table ip weave | grep -qF "$first" && fail "a container translates another network's address"

# A container on both, attached while it runs; and detached again, it keeps nothing.
d 3 network connect web elsewhere
for address in "$first" "$second" "$site"; do wait_for 10 has_answers 3 elsewhere "$address" 40 2; done
d 3 network disconnect web elsewhere
without_web() { ! inside 3 elsewhere nft list table ip weave | grep -qF "$first"; }
wait_for 10 without_web
wait_for 10 has_answers 3 elsewhere "$second" 40 2
d 3 network disconnect other elsewhere
without_any() { ! inside 3 elsewhere nft list table ip weave | grep -qF "$second"; }
wait_for 10 without_any

# Without a virtual address: the names stand for the tasks, and nothing is translated.
assert_eq "$(lookup 2 probe plain | wc -l)" 2 "addresses of a service in mode dnsrr"
assert_eq "$(lookup 2 probe tasks.plain)" "$(lookup 2 probe plain)" "tasks.plain"
assert_eq "$(lookup 2 probe tasks.site | wc -l)" 2 "addresses of tasks.site"
for address in $(lookup 2 probe plain) $(lookup 2 probe tasks.site); do
  assert_eq "$(client 2 probe count "$address" 80 5)" "5 $address $(address 2 probe web)" "answers from a task's own address"
done
assert_eq "$(report 2 | jq '[.services[] | select(.service == "plain")] | length')" 0 "services without an address in status"

# Ports published by the hosts of the tasks, and the virtual address beside them.
vip_service ported web 3 --mode replicated --publish mode=host,target=80,published=8080
wait_for 60 has_ready_tasks 2 ported 3
for number in 1 2 3; do
  answer=$(on 1 socat -T3 - "TCP:$UNDERLAY.$number:8080" </dev/null) || fail "port 8080 of host $number does not answer"
  assert_contains "$answer" .
done
wait_for 10 has_answers 2 probe "$(vip ported)" 60 3

# A service that is gone leaves nothing; connections to others go on.
client_start 2 probe "$WORK/flow" "$site" 20
d 1 service rm both >/dev/null
gone() { ! inside 2 probe nft list table ip weave | grep -qF "$first"; }
wait_for 10 gone
client_stop 2 "$WORK/flow"
assert_eq "$(grep -c failed "$WORK/flow" || true)" 0 "answers lost by the end of another service"
assert_eq "$(cut -d' ' -f2 "$WORK/flow" | sort -u | wc -l)" 1 "tasks that answered one flow"
