#!/usr/bin/env bash
# Multicast of a swarm's network, and of all networks by the plugin's setting.
. "$(dirname "$0")/lib.sh"

swarm_up 2
network 1 cast --attachable --opt works.weave.multicast=true
network 1 plain --attachable
multicast_route() { d "$1" exec "$2" /usr/bin/ip route show | grep -qE '^(multicast )?224\.0\.0\.0/4'; }
run 2 c2 cast
multicast_route 2 c2
run 2 p2 plain
multicast_route 2 p2 && fail "a multicast route nobody asked for"
d 2 rm -f c2 p2 >/dev/null

lab plugin 2 disable -f
lab plugin 2 set WEAVE_MULTICAST=1
lab plugin 2 enable
run 2 c2 plain
multicast_route 2 c2
