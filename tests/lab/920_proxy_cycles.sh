#!/usr/bin/env bash
# Containers made and removed through the proxy again and again leave nothing: no address, no name, no
# interface, no memory.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/proxy.sh"

# A multiple of 20.
CYCLES=${CYCLES:-100}
launch_up 1
memory() { on 1 awk '/^VmRSS/ {print $2}' "/proc/$(on 1 pgrep -f '^/weave daemon')/status"; }
lane() { # NAME N: one after the other
  local number
  for ((number = 1; number <= $2; number++)); do
    p 1 run --rm --name "cycle$1-$number" lab true
  done
}
cycles() { # N, in four lanes
  local number pids=()
  for ((number = 1; number <= 4; number++)); do
    lane $number $(($1 / 4)) &
    pids+=($!)
  done
  for number in "${pids[@]}"; do wait "$number"; done
}
warm=$((CYCLES < 400 ? CYCLES / 5 : 80))
cycles $warm
before=$(memory)
begin=$(now_ms)
cycles "$CYCLES"
echo "$(((($(now_ms) - begin)) / CYCLES)) ms for each of $CYCLES cycles; memory $before, then $(memory) KiB"
assert_at_most "$(memory)" $((before + 4096)) 'memory in KiB'
assert_eq "$(report 1 | jq '.endpoints | length')" 0 endpoints
assert_eq "$(report 1 | jq '[.ipam.spaces[].peers[].active] | add')" 0 'addresses in use'
assert_eq "$(weave 1 status dns | grep -c cycle || true)" 0 names
assert_eq "$(report 1 | jq .proxy.placed)" $((CYCLES + warm)) 'containers placed'
wait_for 5 no_ports_left 1
launch_down
