#!/usr/bin/env bash
# All hosts leave and come back as others, one after the other: nothing of the range is lost, and each
# can allocate.
. "$(dirname "$0")/lib.sh"
. "$HERE/ipam.sh"

mesh_up 3
for number in 1 2 3; do within 8 weave $number prime; done
ring=$(ring 1)
ipam_network 3 web --subnet 10.33.0.0/16
for number in 1 2 3; do run $number c$number web; done
for number in 1 2 3; do
  d $number rm -f c$number >/dev/null
  d $number network rm web >/dev/null
  within 9 weave $number reset
  d $number plugin rm -f "$PLUGIN" >/dev/null
  on $number rm -rf /var/lib/weave
  lab plugin $number install "WEAVE_PEERS=$(peer_list 3)"
  wait_for 15 has_connections $number 2
  wait_for 10 has_ring $number
  assert_eq "$(ring $number)" "$ring" "ring of host$number"
  network $number web --ipam-driver "$PLUGIN" --subnet 10.33.0.0/16
  run $number c$number web
done
for number in 1 2 3; do
  echo "host$number $(address $number c$number web)"
  no_conflicts $number || fail "$(ipam $number '.ipam.conflicts[]')"
  wait_for 10 nothing_lost $number
done >"$WORK/addresses"
assert_unique "$WORK/addresses" 3
wait_for 10 reaches 1 c1 "$(address 3 c3 web)"
