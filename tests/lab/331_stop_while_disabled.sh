#!/usr/bin/env bash
# A container that stops while the plugin is disabled leaves nothing once it is back.
. "$(dirname "$0")/lib.sh"

mesh_up 2
local_network 2 web 10.40
run 1 c1 web
run 2 c2 web
there=$(address 1 c1 web)
lab plugin 1 disable -f
# There is no process of ours: Docker tries Leave and DeleteEndpoint for 15 s each (moby,
# pkg/plugins/client.go, defaultTimeOut).
within 35 d 1 stop c1
lab plugin 1 enable
mesh_ready 2
# Its address is free for others, and it starts again.
d 1 start c1 >/dev/null
reaches 2 c2 "$(address 1 c1 web)"
d 1 rm -f c1 >/dev/null
wait_for 5 no_ports_left 1
run 2 heir web --ip "$there"
