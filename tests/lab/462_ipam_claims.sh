#!/usr/bin/env bash
# A host that has lost what its allocator had stored claims its containers' addresses, those too that
# were another's before: as soon as the others are there. Until then it says whom it waits for, and what
# lies outside of all that is shared out waits for nobody.
. "$(dirname "$0")/lib.sh"
. "$HERE/ipam.sh"

mesh_up 2
for number in 1 2; do within 8 weave $number prime; done
ipam_network 2 web --subnet 10.40.0.0/24
# Whichever of the two owns which half.
fixed=(10.40.0.10 10.40.0.250)
for index in 0 1; do run 1 "fixed$index" web --ip "${fixed[index]}" --restart always; done
run 1 given web --restart always
run 2 other web
given=$(address 1 given web)
ring=$(ring 1)

d 2 plugin disable -f "$PLUGIN" >/dev/null
d 1 plugin disable -f "$PLUGIN" >/dev/null
on 1 rm -rf /var/lib/weave/ipam
d 1 plugin enable "$PLUGIN" >/dev/null
wait_for 15 daemon_answers 1
begin=$(now_ms)
assert_refused "waiting for 2 of 2 expected peers" d 1 run --rm --network web lab true
assert_at_most $(($(now_ms) - begin)) 8000 "time to refuse, with docker's own"
assert_refused "waiting for 2 of 2 expected peers" weave 1 ipam claim near 10.40.0.9/24
within 2 weave 1 ipam claim far 10.99.0.9/24
weave 1 ipam release far

# A claim waits for a moment; who comes back meanwhile lets it through.
on 1 timeout 60 bash -c 'until "$0" ipam claim near 10.40.0.9/24; do :; done' "$BUNDLE/rootfs/weave" >/dev/null 2>&1 &
claim=$!
d 2 plugin enable "$PLUGIN" >/dev/null
wait_for 15 has_connections 1 1
wait $claim || fail "the claim was not let through"
assert_eq "$(ring 1)" "$ring" "the ring after the database was lost"
wait_for 30 nothing_lost 2
for address in "${fixed[@]}" "$given"; do
  assert_refused "used by" d 2 run --rm --network web --ip "$address" lab true
done
assert_refused "near" d 2 run --rm --network web --ip 10.40.0.9 lab true
for number in 1 2; do
  no_conflicts $number || fail "$(ipam $number '.ipam.conflicts[]')"
  run_many $number late web 4
done >"$WORK/addresses"
for address in "${fixed[@]}" "$given" "$(address 2 other web)"; do echo "before $address"; done >>"$WORK/addresses"
assert_unique "$WORK/addresses" 12

# What is chosen is kept over a restart of the engine, too.
lab dockerd 1 kill9
lab dockerd 1 start
wait_for 15 has_connections 1 1
for address in "${fixed[@]}"; do wait_for 20 reaches 2 other "$address"; done
