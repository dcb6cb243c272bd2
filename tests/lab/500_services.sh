#!/usr/bin/env bash
# Services in the default endpoint mode: their virtual address reaches their tasks on all hosts.
. "$(dirname "$0")/lib.sh"
. "$HERE/services.sh"

swarm_up 3
network 1 web --attachable
run 2 probe web
vip_service site web 3
wait_for 60 has_ready_tasks 2 site 3
vip=$(vip site)

# By the name that Docker's own DNS knows, and by address.
assert_eq "$(lookup 2 probe site)" "$vip" "the address behind the service's name"
own=$(address 2 probe web)
wait_for 10 has_answers 2 probe "$vip" 60 3
client 2 probe count "$vip" 80 100 | while read -r _ _ from; do
  assert_eq "$from" "$own" "the client that the server saw"
done
assert_contains "$(d 2 exec probe socat -T3 - TCP:site:80 </dev/null)" "$own"
assert_contains "$(echo hello | d 2 exec -i probe socat -T3 - UDP:site:80)" "$own"
reaches 2 probe "$vip"

# From tasks, one's own among those that answer.
for number in 1 2 3; do
  task=$(task_container $number site)
  has_answers $number "$task" "$vip" 60 3 || fail "not all tasks answer those on host $number"
done

# A container that has only just started, in its first instruction.
assert_contains "$(d 3 run --rm --network web lab socat -T3 - "TCP:$vip:80" </dev/null)" "10."

# Evenly.
d 1 service scale -d site=10 >/dev/null
wait_for 60 has_ready_tasks 2 site 10
client 2 probe count "$vip" 80 10000 | tee "$WORK/spread"
assert_eq "$(wc -l <"$WORK/spread")" 10 "tasks that answered"
awk '$1 < 800 || $1 > 1200 {exit 1}' "$WORK/spread" || fail "uneven: $(cat "$WORK/spread")"

# Another network with a service of its own, and a service on both.
network 1 other --attachable
vip_service both web 2 --network other
run 3 elsewhere other
wait_for 60 has_ready_tasks 3 both 4
first=$(vip both 1) second=$(vip both 2)
if [[ ${first%.*} != "${vip%.*}" ]]; then read -r first second <<<"$second $first"; fi
wait_for 10 has_answers 2 probe "$first" 40 2
wait_for 10 has_answers 3 elsewhere "$second" 40 2
d 3 network connect web elsewhere
wait_for 10 has_answers 3 elsewhere "$first" 40 2
wait_for 10 has_answers 3 elsewhere "$second" 40 2

assert_contains "$(weave 2 status services)" site
weave 2 status services

# A service that is gone leaves nothing.
d 1 service rm both >/dev/null
gone() { ! rules 2 probe | grep -qF "$first"; }
wait_for 10 gone
