#!/usr/bin/env bash
# Peers are found, or not if so wished; connected to, replaced and forgotten while the daemon runs; named
# in a file; remembered.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/launch.sh"

targets() { weave "$1" status targets --json | jq -r '[.[].target] | sort | join(" ")'; }
has_targets() { [[ $(targets "$1") == "$2" ]]; }

# Told of host 2 alone, hosts 1 and 3 find each other and do without host 2.
lab_up 3
launch 1 $UNDERLAY.2 >/dev/null
launch 2 >/dev/null
launch 3 $UNDERLAY.2 >/dev/null
mesh_ready 3
for number in 1 3; do plain $number c$number; done
one=$(weave 1 attach 10.99.1.1/24 c1)
three=$(weave 3 attach 10.99.1.3/24 c3)
wait_for 5 reaches 1 c1 "$three"
weave 2 stop
wait_for 5 has_connections 1 1
reaches 1 c1 "$three"

# Connect, replace, forget.
weave 1 connect $UNDERLAY.3
assert_eq "$(targets 1)" "$UNDERLAY.2 $UNDERLAY.3"
weave 1 connect --replace $UNDERLAY.3
wait_for 5 has_targets 1 $UNDERLAY.3
weave 1 connect $UNDERLAY.9:7000
weave 1 forget $UNDERLAY.3
wait_for 5 has_targets 1 $UNDERLAY.9:7000
# Who forgets what nobody named is told so.
assert_contains "$(weave 1 forget $UNDERLAY.77 2>&1)" 'weave status targets'

# Remembered over a crash, and over stop and launch; void when peers are named anew.
on 1 pkill -9 -f '^/weave daemon'
wait_for 20 has_targets 1 $UNDERLAY.9:7000
weave 1 stop
launch 1 --resume >/dev/null
assert_eq "$(targets 1)" $UNDERLAY.9:7000
weave 1 stop
launch 1 $UNDERLAY.2 $UNDERLAY.3 >/dev/null
assert_eq "$(targets 1)" "$UNDERLAY.2 $UNDERLAY.3"

# From a file, while the daemon runs.
on 1 sh -c "printf '# ours\n$UNDERLAY.8 # a remark\n' >/var/lib/weave/peers"
wait_for 5 has_targets 1 "$UNDERLAY.2 $UNDERLAY.3 $UNDERLAY.8"
on 1 sh -c "echo nonsense:x >/var/lib/weave/peers"
complains() { weave 1 status | grep -q 'nonsense:x'; }
wait_for 5 complains
assert_eq "$(targets 1)" "$UNDERLAY.2 $UNDERLAY.3 $UNDERLAY.8"
on 1 rm /var/lib/weave/peers
wait_for 5 has_targets 1 "$UNDERLAY.2 $UNDERLAY.3"
launch_down

# Without discovery nobody is connected to who was not named, and addresses are agreed on through
# host 2.
assert_contains "$(launch 2 --no-discovery --plugin=false --proxy=false)" 'weave launch-plugin'
wait_for 5 on 2 test ! -e /run/docker/plugins/weavemesh.sock
on 2 test ! -e /run/weave/weave.sock
launch 1 --no-discovery --ipalloc-init consensus=3 $UNDERLAY.2 >/dev/null
launch 3 --no-discovery --ipalloc-init consensus=3 $UNDERLAY.2 >/dev/null
wait_for 15 has_connections 2 2
weave 1 prime
assert_eq "$(connections 1) $(connections 3)" '1 1' connections
for number in 1 3; do plain $number c$number; done
one=$(weave 1 attach c1) three=$(weave 3 attach c3)
wait_for 10 reaches 1 c1 "$three"
reaches 3 c3 "$one"
assert_eq "$(report 1 | jq '[.mesh.peers[] | select(.reachable)] | length')" 3 'peers that are reached'
# Frames go straight all the same, so they need no host 2; news have no way, until there is one.
assert_contains "$(weave 1 status peers)" 'via host2'
weave 2 stop
wait_for 10 has_connections 1 0
stays 2 reaches 1 c1 "$three"
assert_contains "$(weave 1 status | grep Peers:)" '1 of them reachable'
weave 1 connect $UNDERLAY.3
wait_for 10 has_connections 1 1
reaches 3 c3 "$one"
launch_down
