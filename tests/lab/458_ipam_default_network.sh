#!/usr/bin/env bash
# The network `weave` is there when it is wanted, with the default subnet, on every host; a route of the
# host that lies in the range is warned of and stops nothing.
. "$(dirname "$0")/lib.sh"
. "$HERE/ipam.sh"

lab_up 2
on 2 ip route add 10.45.3.0/24 via $UNDERLAY.254
plugin_up 2 WEAVE_DEFAULT_NETWORK=true "EXTRA_ARGS=--ipalloc-default-subnet=10.33.0.0/16"
is_there() { d "$1" network inspect weave >/dev/null; }
for number in 1 2; do
  wait_for 10 is_there $number
  assert_eq "$(subnet $number weave)" 10.33.0.0/16
  run_many $number c weave 2
done >"$WORK/addresses"
assert_unique "$WORK/addresses" 4
reaches 1 c1 "$(address 2 c2 weave)"
assert_contains "$(weave 2 status)" "IPALLOC_RANGE 10.32.0.0/12 overlaps routes of this host: 10.45.3.0/24 dev eth0"
if weave 1 status | grep -q overlaps; then fail "a warning without a reason"; fi
# Once more is as good as once.
kill_daemon 1
wait_for 15 daemon_answers 1
assert_eq "$(d 1 network ls -q -f name=weave | wc -l)" 1 "networks called weave"
