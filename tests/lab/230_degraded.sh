#!/usr/bin/env bash
# Whatever is missing when it starts, the plugin is enabled at once, says what is wrong, and mends it
# by itself when it can.
. "$(dirname "$0")/lib.sh"

lab_up 3
# Nobody there, a name that cannot be found, and the ports taken.
on 1 socat -u UDP4-RECV:6784 - >/dev/null 2>&1 &
on 1 socat TCP4-LISTEN:6783,fork - >/dev/null 2>&1 &
on 1 socat TCP4-LISTEN:6782,bind=127.0.0.1,fork - >/dev/null 2>&1 &
listening() { [[ $(on 1 ss -Hlntu | grep -cE ':678[234] ') == 3 ]]; }
wait_for 5 listening
lab plugin 1 create
lab plugin 1 set WEAVE_PEERS="$UNDERLAY.200 no.such.host"
within 3 lab plugin 1 enable
shown=$(weave 1 status)
assert_contains "$shown" 6782
assert_contains "$shown" 6783
on 1 pkill -x socat
lab plugin 2 install WEAVE_PEERS=$UNDERLAY.1
wait_for 20 has_connections 1 1

# Docker's API does not answer.
on 3 mv /run/docker.sock /run/moved.sock
on 3 docker -H unix:///run/moved.sock plugin create "$PLUGIN" "$BUNDLE" >/dev/null
within 3 on 3 docker -H unix:///run/moved.sock plugin enable "$PLUGIN"
on 3 mv /run/moved.sock /run/docker.sock
plugin_enabled 3

local_network 2 web 10.40
run 1 c1 web
run 2 c2 web
wait_for 5 reaches 1 c1 "$(address 2 c2 web)"
