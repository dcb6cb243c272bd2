#!/usr/bin/env bash
# Nothing is decided before somebody needs it; then an observer can bring it about. A range is changed
# while nothing is in use.
. "$(dirname "$0")/lib.sh"
. "$HERE/ipam.sh"

lab_up 2
lab plugin 1 install
lab plugin 2 install "EXTRA_ARGS=--ipalloc-init=observer" WEAVE_PEERS=$UNDERLAY.1
wait_for 15 has_connections 2 1
for number in 1 2; do
  [[ -z $(ring $number) ]] || fail "a ring that nobody needs on host$number"
  assert_contains "$(weave $number status ipam)" "idle:"
done
for number in 1 2; do network $number web --ipam-driver "$PLUGIN" --subnet 10.40.0.0/16; done
within 10 run 2 c2 web
run 1 c1 web
assert_eq "$(ring 2)" "$(ring 1)" ring
wait_for 10 reaches 1 c1 "$(address 2 c2 web)"

d 1 rm -f c1 >/dev/null
d 1 network rm web >/dev/null
d 1 plugin disable "$PLUGIN" >/dev/null
d 1 plugin set "$PLUGIN" IPALLOC_RANGE=10.64.0.0/16
d 1 plugin enable "$PLUGIN" >/dev/null
network 1 app --ipam-driver "$PLUGIN" --ipam-opt works.weave.network=app
within 10 run 1 a1 app
[[ $(address 1 a1 app) == 10.64.* ]] || fail "not of the new range: $(address 1 a1 app)"
wait_for 15 conflicts_contain 1 "give all hosts the same IPALLOC_RANGE"
