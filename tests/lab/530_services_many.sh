#!/usr/bin/env bash
# Hundreds of services on one network: connecting costs the same as with one, and so does a change.
. "$(dirname "$0")/lib.sh"
. "$HERE/services.sh"
SERVICES=${SERVICES:-300}

swarm_up 2
network 1 web --attachable --subnet 10.80.0.0/16
run 2 probe web
vip_service site web 2
wait_for 60 has_ready_tasks 2 site 2
vip=$(vip site)
wait_for 10 has_answers 2 probe "$vip" 40 2
rate() { client 2 probe rate "$vip" 80 5000; }
few=$(rate)

id=$(d 1 network inspect -f '{{.Id}}' web)
many_services 1 "$id" "$SERVICES"
has_rules() { [[ $(inside 2 probe nft list map ip weave virtual | grep -o goto | wc -l) == "$1" ]]; }
wait_for 30 has_rules $((SERVICES + 1))
many=$(rate)
echo "figure: connections/s, median and 99th percentile in microseconds with 1 service: $few; with $((SERVICES + 1)): $many"
# A busy machine may make one of them slow, not a multiple.
assert_at_most "$(cut -d' ' -f2 <<<"$many")" $((2 * $(cut -d' ' -f2 <<<"$few"))) "median latency among $((SERVICES + 1)) services"

# A new container has them all, in its first instruction.
assert_contains "$(d 1 run --rm --network web lab socat -T3 - "TCP:$vip:80" </dev/null)" "10.80."

# A change of one is in force within a second of its engine knowing.
container=$(task_container 1 site)
if [[ -n $container ]]; then number=1; else number=2 container=$(task_container 2 site); fi
dead=$(address "$number" "$container" web)
d "$number" kill -s KILL "$container" >/dev/null
rules_soon "death of a task among $((SERVICES + 1)) services" without 2 probe "$vip" "$dead"
wait_for 60 has_ready_tasks 2 site 2
# The daemon rests when nothing changes.
ticks() { on 2 cut -d' ' -f14,15 "/proc/$(daemon_pid 2)/stat" | awk '{print $1 + $2}'; }
before=$(ticks)
sleep 10
echo "figure: the daemon's processor time with $((SERVICES + 1)) services and nothing to do: $((($(ticks) - before) * 10)) ms in 10 s"
weave 2 status services | head -n 5
