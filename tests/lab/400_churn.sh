#!/usr/bin/env bash
# Containers come and go in numbers, side by side on all hosts: nothing is left, nothing hangs, no
# address is in use twice.
. "$(dirname "$0")/lib.sh"

mesh_up 3
local_network 3 web 10.40
for number in 1 2 3; do run $number c$number web; done
rounds() { # N
  local round
  for round in {1..12}; do d "$1" run --rm --network web lab true || return 1; done
}
pids=()
for number in 1 2 3; do
  rounds $number & pids+=($!)
  rounds $number & pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || fail "docker run failed"; done
all_reach_all "1:c1:$(address 1 c1 web)" "2:c2:$(address 2 c2 web)" "3:c3:$(address 3 c3 web)"
# One end for the container that is left; the other is inside it.
has_one_veth() { [[ $(on "$1" ip -n weave -o link show type veth | wc -l) == 1 ]]; }
for number in 1 2 3; do wait_for 5 has_one_veth $number; done
# Networks as well.
for round in {1..5}; do
  network 1 "gone$round" --subnet "10.5$round.0.0/16"
  d 1 run --rm --network "gone$round" lab true
  d 1 network rm "gone$round" >/dev/null
done
