#!/usr/bin/env bash
# The daemon as a service of the host, with the rights that docs/weave.service leaves it: there before
# Docker, so that containers come back with it; restarted without a frame lost; left alone by `launch`.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/launch.sh"

unit() { sed -n "s/^$1=//p" "$REPO/docs/weave.service"; }
rights=-all$(unit CapabilityBoundingSet | tr '[:upper:]' '[:lower:]' | sed 's/cap_/,+/g; s/ //g')
assert_eq "$(unit ExecStart) $(unit NoNewPrivileges)" '/usr/local/bin/weave daemon yes'

start() { # N
  # shellcheck disable=SC2046
  on "$1" env "$(unit Environment)" WEAVE_PEERS="$(peer_list 2)" \
    setpriv --bounding-set "$rights" --no-new-privs "$WEAVE" daemon >>"$WORK/service$1" 2>&1 &
}
stop() { # N
  on "$1" pkill -TERM -f 'weave daemon$'
  wait_for 10 eval "! on $1 pgrep -f 'weave daemon\$'"
}

lab_up 2
for number in 1 2; do start $number; done
mesh_ready 2
for number in 1 2; do
  wait_for 15 has_weave_network $number
  run $number c$number weave --restart always
done
one=$(address 1 c1 weave) two=$(address 2 c2 weave)
all_reach_all "1:c1:$one" "2:c2:$two"
[[ $(weave 1 status) != *lacks* ]] || fail 'rights are missing'
manual=$(weave 1 attach 10.99.1.1/24 c1) other=$(weave 2 attach 10.99.1.2/24 c2)
wait_for 5 reaches 1 c1 "$other"
weave 1 expose >/dev/null
weave 1 hide
# The proxy's socket is for those who may talk to Docker.
on 1 chgrp 5 /run/docker.sock
weave 1 launch-proxy >/dev/null
served() { [[ $(on 1 stat -c %g /run/weave/weave.sock) == 5 ]] && on 1 docker -H unix:///run/weave/weave.sock version; }
wait_for 10 served
weave 1 stop-proxy >/dev/null

# Others keep away from it, and say what to do.
assert_refused 'weave daemon' launch 1
assert_refused 'systemctl stop weave' weave 1 stop

# Restarted, as systemd does.
ping=$WORK/ping
ping_start 2 c2 "$one" "$ping"
stop 1
assert_refused 'not running' weave 1 status
start 1
wait_for 15 has_connections 1 1
assert_nothing_lost 2 "$ping" 'while the service restarted'
assert_contains "$(weave 1 ps)" "$one/12"
reaches 2 c2 "$manual"

# Docker comes after it, and finds the driver of its containers.
lab dockerd 1 restart
back() { [[ $(d 1 inspect -f '{{.State.Running}}' c1) == true ]] && reaches 1 c1 "$two"; }
wait_for 20 back

for number in 1 2; do
  d $number rm -f c$number >/dev/null
  d $number network rm weave >/dev/null
  stop $number
done
launch_down
