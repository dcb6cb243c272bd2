#!/usr/bin/env bash
# A host that is cut off goes on allocating from what it has; a host without space gets some from the
# others in time, or hears who was asked; a host that leaves hands its space over.
. "$(dirname "$0")/lib.sh"
. "$HERE/ipam.sh"

# Two found the ring; the third has nothing of it.
lab_up 3
lab plugin 1 install "WEAVE_PEERS=$(peer_list 2)"
lab plugin 2 install "WEAVE_PEERS=$(peer_list 2)"
within 12 weave 1 prime
wait_for 10 has_ring 2
lab plugin 3 install "WEAVE_PEERS=$(peer_list 3)"
mesh_ready 3
wait_for 10 has_ring 3
assert_eq "$(owned 3 3)" 0 "addresses of a host that joined later"
assert_eq "$(ring 3)" "$(ring 1)" ring

# A donation, within Docker's patience.
ipam_network 3 web --subnet 10.33.0.0/16
within 3 run 3 c3 web
owns_something 3 3 || fail "nothing was donated"
run 1 c1 web
wait_for 5 reaches 1 c1 "$(address 3 c3 web)"

# Cut off, each side goes on.
lab cut 1
run_many 1 alone web 5 >"$WORK/addresses"
run_many 2 rest web 5 >>"$WORK/addresses"
run_many 3 rest web 5 >>"$WORK/addresses"
for number in 1 3; do echo "host$number $(address $number c$number web)" >>"$WORK/addresses"; done
lab heal 1
wait_for 30 has_connections 1 2
run_many 1 healed web 2 >>"$WORK/addresses"
assert_unique "$WORK/addresses" 19
no_conflicts 1 || fail "$(ipam 1 .ipam.conflicts)"

# An address that somebody else owns who cannot be reached: refused in time, with the reason.
lab cut 3
gone() { [[ $(ipam 1 '.mesh.peers[] | select(.nickname == "host3").reachable') != true ]]; }
wait_for 15 gone
third=$(address 3 c3 web)
begin=$(now_ms)
refusal=$(d 1 run --rm --network web --ip "$third" lab true 2>&1) && fail "an address of a host that is cut off is given"
took=$(($(now_ms) - begin))
assert_contains "$refusal" "host3 cannot be reached"
echo "refused after $took ms"
assert_at_most $took 4000 "time to refuse, with docker's own"
lab heal 3
wait_for 30 has_connections 3 2

# A host that leaves.
d 2 rm -f rest1 rest2 rest3 rest4 rest5 >/dev/null
d 2 network rm web >/dev/null
owns_something 1 2 || fail "host2 had nothing to hand over"
within 9 weave 2 reset
wait_for 5 owns_nothing 2 2
wait_for 5 owns_nothing 1 2
wait_for 10 nothing_lost 1
