#!/usr/bin/env bash
# The classic session on hosts without the managed plugin: launch, containers on the network `weave`,
# status, ps, stop, launch again, reset.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/launch.sh"

lab_up 2
assert_refused 'weave launch' weave 1 status
said=$(launch 1 $UNDERLAY.2)
assert_contains "$said" 'docker run --net=weave'
launch 2 $UNDERLAY.1 >/dev/null
mesh_ready 2
for number in 1 2; do
  wait_for 15 has_weave_network $number
  within 20 run $number c$number weave
done
one=$(address 1 c1 weave) two=$(address 2 c2 weave)
all_reach_all "1:c1:$one" "2:c2:$two"
assert_eq "$(d 1 inspect -f '{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.Privileged}}' weave)" 'always false'

# A second one is refused with the reason, and disturbs nothing.
assert_refused 'running already' launch 1
reaches 1 c1 "$two"

# What goes on.
assert_contains "$(weave 1 version)" 'daemon  3.'
assert_contains "$(weave 1 status)" host1
assert_contains "$(weave 1 status connections)" established
assert_contains "$(weave 1 ps)" "$one/12"
assert_contains "$(weave 1 ps --json c1)" "$one/12"
assert_eq "$(weave 1 ps nobody)" '' 'containers called nobody'
for section in targets connections peers networks endpoints services ipam dns tunnel plugin settings; do
  weave 1 status $section --json | jq -e . >/dev/null
  weave 1 status $section | grep -q .
done
assert_contains "$(weave 1 status peers)" 1450
assert_contains "$(weave 1 status connections)" 1450
assert_contains "$(weave 1 status plugin)" '/run/docker/plugins/weavemesh.sock  served'
[[ $(weave 1 status plugin) != */host/run* ]] || fail 'paths are shown that the host does not have'
# Networks by their names.
assert_eq "$(weave 1 status networks --json | jq -r '.[].networks[].name')" weave
weave 1 status endpoints | grep -qE "^c1 +weave +$one " || fail 'c1 is not on a network by the name weave'
assert_eq "$(weave 1 report -f '{{.DNS.Domain}}{{range .mesh.peers}} {{.nickname}}{{end}}' | tr ' ' '\n' | sort | paste -sd' ')" 'host1 host2 weave.local'
assert_eq "$(weave 1 report -f '{{json .version}}')" '"3.0.0"'
assert_refused 'template: expected' weave 1 report -f '{{'
shown=$(on 1 timeout 4 "$WEAVE" status --watch || true)
(($(grep -c 'Version:' <<<"$shown") >= 2)) || fail 'the status is not shown again'
assert_contains "$(d 1 logs weave 2>&1)" 'peer="host2 ('
assert_contains "$(on 1 curl -sf http://127.0.0.1:6782/metrics)" 'weave_connections{state="established",type="vxlan",encryption=""} 1'
for metric in weave_dns_entries weave_mesh_sessions_total 'weave_tunnel_sent_bytes_total{peer="host2"' weave_ips; do
  assert_contains "$(on 1 curl -sf http://127.0.0.1:6782/metrics)" "$metric"
done
assert_contains "$(on 1 curl -sf http://127.0.0.1:6782/)" '<!doctype html>'
assert_contains "$(on 1 curl -s -X POST -d '{}' http://127.0.0.1:6782/connect)" 'read-only'

# Stopped and launched again: containers talk all the time, and have their addresses.
ping=$WORK/ping
ping_start 2 c2 "$one" "$ping"
weave 1 stop
assert_refused 'not running' weave 1 status
launch 1 >/dev/null
mesh_ready 2
assert_eq "$(address 1 c1 weave)" "$one"
assert_nothing_lost 2 "$ping" 'while the daemon was stopped and launched'
assert_contains "$(weave 1 ps)" "$one/12"

# Commands of old that are no more say what to do.
assert_refused 'docker run --net=weave' weave 1 run 10.2.1.1/24 -ti lab
assert_refused 'weave status dns' weave 1 --local status dns
# Not for others than root.
nobody() { on 1 setpriv --reuid 65534 --clear-groups "$WORK/weave" "$@"; }
install -m 755 "$WEAVE" "$WORK/weave"
assert_refused 'sudo weave' nobody status
assert_refused 'sudo weave daemon' nobody daemon
assert_refused 'are you root' nobody launch

# Parts are switched, and that is remembered.
weave 1 stop-plugin
wait_for 5 on 1 test ! -e /run/docker/plugins/weavemesh.sock
d 1 restart -t 5 weave >/dev/null
wait_for 15 weave 1 status
on 1 test ! -e /run/docker/plugins/weavemesh.sock
weave 1 launch-plugin
wait_for 5 on 1 test -S /run/docker/plugins/weavemesh.sock
run 1 c3 weave
reaches 1 c3 "$two"

# The image alone.
assert_contains "$(on 1 timeout 60 "$WEAVE" setup)" 'is ready'

# Nothing stays.
mesh_ready 2
launch_down
for number in 1 2; do
  assert_eq "$(d $number ps -aq)" '' containers
  assert_eq "$(d $number network ls -q -f driver=weavemesh)" '' networks
  on $number test ! -e /var/lib/weave/identity.json
  on $number test ! -e /run/netns/weave
done
