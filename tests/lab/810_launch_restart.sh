#!/usr/bin/env bash
# The launched daemon comes back after a crash, knows its containers again, is replaced by another
# version without a frame lost, and does as `--no-restart` says.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/launch.sh"

launch_up 2
for number in 1 2; do run $number c$number weave; done
one=$(address 1 c1 weave) two=$(address 2 c2 weave)
all_reach_all "1:c1:$one" "2:c2:$two"
daemon() { on 1 pgrep -f '^/weave daemon'; }

# Killed.
ping=$WORK/ping
ping_start 2 c2 "$one" "$ping"
before=$(daemon)
on 1 kill -9 "$before"
wait_for 20 has_connections 1 1
[[ $(daemon) != "$before" ]] || fail 'the daemon was not killed'
assert_nothing_lost 2 "$ping" 'while the daemon was killed'
knows() { weave 1 status endpoints | grep -q "c1.*$one"; }
wait_for 10 knows
named() { [[ "$(weave 1 dns-lookup c1) $(weave 2 dns-lookup c1)" == "$one $one" ]]; }
wait_for 10 named
# Its address is not given to another.
run 1 c3 weave
[[ $(address 1 c3 weave) != "$one" ]] || fail 'an address was given twice'

# Another version: the same program with another end.
other=$WORK/weave-other
cp "$WEAVE" "$other"
echo other >>"$other"
ping_start 2 c2 "$one" "$ping"
id=$(d 1 inspect -f '{{.Id}}' weave)
PROGRAM=$other launch 1 >/dev/null
[[ $(d 1 inspect -f '{{.Id}}' weave) != "$id" ]] || fail 'the daemon was not replaced'
mesh_ready 2
assert_nothing_lost 2 "$ping" 'while the daemon was replaced'
# With the peers it had before.
assert_contains "$(d 1 inspect -f '{{.Config.Cmd}}' weave)" $UNDERLAY.2
assert_eq "$(d 1 images -q -f dangling=true)" '' 'images without a name'
assert_refused 'running already' env PROGRAM="$other" bash -c ". $HERE/lib.sh; . $HERE/launch.sh; launch 1"

# Without restarts.
weave 1 stop
launch 1 --no-restart $UNDERLAY.2 >/dev/null
assert_eq "$(d 1 inspect -f '{{.HostConfig.RestartPolicy.Name}}' weave)" no
mesh_ready 2
name=$(report 1 | jq -r .mesh.id)
on 1 kill -9 "$(daemon)"
gone() { [[ $(d 1 inspect -f '{{.State.Running}}' weave) == false ]]; }
wait_for 10 gone
stays 2 gone
# One that has ended is launched again; the peer is the same until it is reset.
launch 1 >/dev/null
mesh_ready 2
assert_eq "$(report 1 | jq -r .mesh.id)" "$name" 'the peer'
weave 1 forget $UNDERLAY.2
d 1 rm -f c1 c3 >/dev/null
on 1 timeout 30 "$WEAVE" reset >/dev/null
launch 1 $UNDERLAY.2 >/dev/null
mesh_ready 2
[[ $(report 1 | jq -r .mesh.id) != "$name" ]] || fail 'after a reset it is the same peer'
launch_down
