#!/usr/bin/env bash
# An address belongs to one container: another host's container cannot have it, and a new container
# that has it, with another MAC, is reachable at once although neighbours remember the old one.
. "$(dirname "$0")/lib.sh"

mesh_up 3
for number in 1 2 3; do network $number web --subnet 10.40.0.0/16; done
run 1 c1 web --ip 10.40.0.10
run 2 c2 web --ip 10.40.0.20
reaches 2 c2 10.40.0.10

refusal=$(d 3 run -d --name c3 --network web --ip 10.40.0.10 lab 2>&1) && fail "an address is given twice"
assert_contains "$refusal" host1
assert_contains "$refusal" --ip-range
d 3 rm -f c3 >/dev/null 2>&1 || true

for round in 1 2 3; do
  d 1 rm -f c1 >/dev/null
  run 1 c1 web --ip 10.40.0.10
  reaches 2 c2 10.40.0.10 || fail "not reachable at once, round $round"
done

# The same address on another host.
d 1 rm -f c1 >/dev/null
# News of the removal may still be on its way; a refused container keeps its name.
take_over() { d 3 rm -f c3 >/dev/null 2>&1; run 3 c3 web --ip 10.40.0.10; }
wait_for 2 take_over
reaches 2 c2 10.40.0.10 || fail "not reachable at once after a move"
