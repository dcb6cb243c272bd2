#!/usr/bin/env bash
# A machine that is a clone of another one, or has another identity than before, owns nothing of what
# its former self owned.
. "$(dirname "$0")/lib.sh"
. "$HERE/ipam.sh"

lab_up 3
for number in 1 2; do lab plugin $number install "WEAVE_PEERS=$(peer_list 2)"; done
for number in 1 2; do
  wait_for 15 has_connections $number 1
  within 8 weave $number prime
done
ipam_network 2 web --subnet 10.40.0.0/24
for number in 1 2; do run_many $number c web 3; done >"$WORK/addresses"
identity() { on "$1" jq -r .secret_key /var/lib/weave/identity.json; }
original=$(identity 1)

# Host 3 starts as who host 1 is, with all that it owns.
on 1 tar -C /var/lib/weave -c identity.json ipam | on 3 sh -c 'mkdir -p /var/lib/weave && tar -C /var/lib/weave -x'
assert_eq "$(identity 3)" "$original" "identity of the clone"
lab plugin 3 install "WEAVE_PEERS=$(peer_list 3)"
for number in 1 2 3; do wait_for 20 has_connections $number 2; done
[[ $(identity 3) != "$(identity 1)" ]] || fail "two hosts have one identity"
assert_eq "$(identity 1)" "$original" "identity of the host that was there first"
network 3 web --ipam-driver "$PLUGIN" --subnet 10.40.0.0/24
run_many 3 c web 3 >>"$WORK/addresses"
run_many 1 late web 3 >>"$WORK/addresses"
assert_unique "$WORK/addresses" 12
for number in 1 2 3; do
  no_conflicts $number || fail "$(ipam $number '.ipam.conflicts[]')"
  wait_for 15 nothing_lost $number
done
wait_for 10 reaches 3 c1 "$(address 1 c1 web)"

# Host 2 becomes another: its containers go on, and keep their addresses.
kept=$(address 2 c1 web)
d 2 plugin disable -f "$PLUGIN" >/dev/null
on 2 rm /var/lib/weave/identity.json
d 2 plugin enable "$PLUGIN" >/dev/null
for number in 1 2 3; do wait_for 20 has_connections $number 2; done
wait_for 10 has_ring 2
weave 1 rmpeer host2
wait_for 15 nothing_lost 1
assert_refused "used by" d 1 run --rm --network web --ip "$kept" lab true
run_many 2 late web 3 >>"$WORK/addresses"
run_many 3 late web 3 >>"$WORK/addresses"
assert_unique "$WORK/addresses" 18
wait_for 10 reaches 3 c1 "$kept"
