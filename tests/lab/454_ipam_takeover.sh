#!/usr/bin/env bash
# A host is dead for good: an operator has its space taken over at once, a majority takes it over after
# some time by itself. One that comes back learns it, and keeps its containers' addresses.
. "$(dirname "$0")/lib.sh"
. "$HERE/ipam.sh"

mesh_up 3 IPALLOC_TAKEOVER_AFTER=12s
for number in 1 2 3; do within 8 weave $number prime; done
ipam_network 3 web --subnet 10.33.0.0/16
run 3 c3 web --ip 10.33.0.77 --restart always
owns_something 1 3 || fail "host3 owns nothing"

# By itself, after the time that was set; no earlier than that.
lab cut 3
begin=$(now_ms)
has_lost_all() { owns_nothing 1 3 && owns_nothing 2 3; }
wait_for 60 has_lost_all
echo "taken over after $(($(now_ms) - begin)) ms"
assert_at_most 12000 $(($(now_ms) - begin)) "time before the takeover"
wait_for 10 nothing_lost 1
wait_for 10 nothing_lost 2

# Cut off for so long, it hands out nothing that may be somebody else's by now.
assert_refused "cut off" d 3 run --rm --network web lab true

# It comes back: it hears of it, its container keeps its address, and it can allocate again.
lab heal 3
wait_for 40 has_connections 3 2
wait_for 20 conflicts_contain 3 "taken this host for dead"
wait_for 20 d 3 run --rm --network web lab true
assert_refused "used by" d 1 run --rm --network web --ip "$(address 3 c3 web)" lab true
wait_for 10 reaches 3 c3 "$(run 1 c1 web; address 1 c1 web)"

# An operator does not want to wait.
assert_refused "can be reached" weave 1 rmpeer host3
lab poweroff 3
unreachable() { [[ $(report 1 | jq '.ipam.spaces[0].unreachable') -gt 0 ]]; }
wait_for 15 unreachable
within 9 weave 1 rmpeer host3
wait_for 5 nothing_lost 1
wait_for 5 nothing_lost 2
assert_contains "$(weave 1 status ipam)" host2
