#!/usr/bin/env bash
# How the ring comes into being: by the expected peers, whom a host waits for only so long; by seed;
# with observers. Two rings that were born apart meet.
. "$(dirname "$0")/lib.sh"
. "$HERE/ipam.sh"

lab_up 3
plugin() { lab plugin "$1" install "${@:2}"; }

# One of two expected: it says who is missing, soon; and goes on by itself when they come.
plugin 1 "EXTRA_ARGS=--ipalloc-init=consensus=3" WEAVE_PEERS=$UNDERLAY.2
network 1 web --ipam-driver "$PLUGIN" --subnet 10.40.0.0/16
begin=$(now_ms)
refusal=$(d 1 run --rm --network web lab true 2>&1) && fail "an address of a ring that was not born"
echo "refused after $(($(now_ms) - begin)) ms: $refusal"
assert_at_most $(($(now_ms) - begin)) 8000 "time to refuse, with docker's own"
assert_contains "$refusal" "waiting for 2 of 3 expected peers"
assert_contains "$(weave 1 status ipam)" "waiting for 2 of 3 expected peers"
assert_refused "waiting for 2 of 3 expected peers" weave 1 prime
assert_refused "waiting for 2 of 3 expected peers" weave 1 ipam claim near 10.40.0.9/16
# What lies outside of all that is shared out waits for nobody.
within 2 weave 1 ipam claim far 10.99.0.9/24
weave 1 ipam release far

# An observer has no vote, and gets its share all the same.
plugin 2 "EXTRA_ARGS=--ipalloc-init=observer" WEAVE_PEERS=$UNDERLAY.1
wait_for 15 has_connections 1 1
assert_refused "waiting for 2 of 3 expected peers" weave 1 prime
plugin 3 "EXTRA_ARGS=--ipalloc-init=consensus=3" WEAVE_PEERS=$UNDERLAY.1
wait_for 15 has_ring 1
for number in 2 3; do network $number web --ipam-driver "$PLUGIN" --subnet 10.40.0.0/16; done
for number in 1 2 3; do run_many $number c web 2; done >"$WORK/addresses"
assert_unique "$WORK/addresses" 6

# A range that is changed while addresses are in use.
d 1 plugin disable -f "$PLUGIN" >/dev/null
d 1 plugin set "$PLUGIN" IPALLOC_RANGE=10.64.0.0/16
d 1 plugin enable "$PLUGIN" >/dev/null
wait_for 15 conflicts_contain 1 "IPALLOC_RANGE was changed from 10.32.0.0/12 to 10.64.0.0/16"
assert_contains "$(ipam 1 '.ipam.conflicts[]')" "weave reset"

# Named founders need not see each other to begin.
for number in 1 2 3; do
  d $number rm -f c1 c2 >/dev/null
  d $number network rm web >/dev/null
  d $number plugin rm -f "$PLUGIN" >/dev/null
  on $number rm -rf /var/lib/weave
done
for number in 1 2; do
  plugin $number "EXTRA_ARGS=--ipalloc-init=seed=host1,host2"
  # Outside IPALLOC_RANGE: every founder has a part of every subnet there.
  network $number web --ipam-driver "$PLUGIN" --subnet 10.60.0.0/16
  run_many $number c web 3
done >"$WORK/addresses"
assert_unique "$WORK/addresses" 6
weave 1 connect $UNDERLAY.2
wait_for 15 has_connections 1 1
wait_for 10 reaches 1 c1 "$(address 2 c2 web)"
assert_eq "$(ring 1)" "$(ring 2)" ring

# A ring of another birth comes along: both go on, and say what is to be done.
plugin 3
network 3 other --ipam-driver "$PLUGIN" --subnet 10.61.0.0/16
run 3 c1 other
weave 3 connect $UNDERLAY.1
wait_for 15 conflicts_contain 3 "were born apart"
wait_for 15 conflicts_contain 1 "weave reset"
assert_contains "$(weave 1 status)" "born apart"
run 1 c9 web
run 3 c9 other
[[ $(ring 1) != "$(ring 3)" ]] || fail "a ring was overwritten"
