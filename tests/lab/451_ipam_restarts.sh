#!/usr/bin/env bash
# Addresses survive restarts of the plugin, the engine and the host; those of containers that died
# meanwhile are freed; chosen and auxiliary addresses stay whose they are.
. "$(dirname "$0")/lib.sh"
. "$HERE/ipam.sh"

mesh_up 3
ipam_network 3 web --subnet 10.40.0.0/24 --aux-address printer=10.40.0.250
for number in 1 2 3; do
  run $number fixed web --ip "10.40.0.20$number" --restart always
  run $number stays web
done
everybody() { for number in 1 2 3; do echo "$(address $number fixed web) $(address $number stays web)"; done; }
before=$(everybody)
ring=$(ring 1)

active() { ipam "$1" ".ipam.spaces[] | select(.subnet == \"10.40.0.0/24\").peers[] | select(.nickname == \"host$1\").active"; }
has_active() { [[ $(active "$1") == "$2" ]]; }

# The plugin is killed: containers run on, and nobody else gets their addresses.
was=$(active 1)
kill_daemon 1
wait_for 15 daemon_answers 1
wait_for 10 has_connections 1 2
assert_eq "$(everybody)" "$before" "addresses after the plugin's death"
assert_refused "used by" d 2 run --rm --network web --ip 10.40.0.201 lab true
assert_refused "used by" d 1 run --rm --network web --ip 10.40.0.250 lab true
assert_eq "$(ring 1)" "$ring" ring
run_many 1 new web 3 >"$WORK/new"
for address in $before; do echo "before $address"; done >>"$WORK/new"
assert_unique "$WORK/new" 9
d 1 rm -f new1 new2 new3 >/dev/null
wait_for 10 has_active 1 "$was"

# Containers that are stopped while the plugin is away leave nothing in use.
d 2 plugin disable -f "$PLUGIN" >/dev/null
d 2 rm -f stays >/dev/null
d 2 plugin enable "$PLUGIN" >/dev/null
wait_for 15 has_connections 2 2
freed=$(awk 'NR == 2 {print $2}' <<<"$before")
free() { d 2 run --rm --network web --ip "$freed" lab true; }
wait_for 10 free

# The engine is killed and starts again; then the whole host.
lab dockerd 3 kill9
lab dockerd 3 start
wait_for 15 has_connections 3 2
has_address() { [[ $(address "$1" fixed web) == "10.40.0.20$1" ]] && reaches "$1" fixed 10.40.0.201; }
wait_for 15 has_address 3
lab reboot 2
wait_for 15 has_connections 2 2
wait_for 15 has_address 2
for number in 1 2 3; do
  assert_eq "$(ring $number)" "$ring" "ring of host$number"
  no_conflicts $number || fail "$(ipam $number .ipam.conflicts)"
done

# The allocator's state is lost, not the containers: their addresses are asked for again.
d 1 plugin disable -f "$PLUGIN" >/dev/null
on 1 rm -rf /var/lib/weave/ipam
d 1 plugin enable "$PLUGIN" >/dev/null
wait_for 15 has_connections 1 2
wait_for 30 nothing_lost 2
assert_refused "used by" d 2 run --rm --network web --ip 10.40.0.201 lab true
run_many 1 late web 3 >"$WORK/late"
run_many 3 late web 3 >>"$WORK/late"
for number in 1 2 3; do echo "fixed 10.40.0.20$number"; done >>"$WORK/late"
assert_unique "$WORK/late" 9
