#!/usr/bin/env bash
# A host told of one peer finds all; a peer that ends is gone from all within a second, one that is cut
# off silently within five; both come back by themselves.
. "$(dirname "$0")/lib.sh"

lab_up 4
for number in 1 2 3 4; do lab plugin $number install WEAVE_PEERS=$UNDERLAY.1; done
mesh_ready 4

lab poweroff 4
for number in 1 2 3; do wait_for 6 has_connections $number 2; done
lab poweron 4
mesh_ready 4

# Killed and not started again, as far as Docker lets us: its restart of the plugin is faster than we
# are, so the plugin is disabled.
lab plugin 4 disable -f
for number in 1 2 3; do wait_for 1 has_connections $number 2; done
lab plugin 4 enable
mesh_ready 4

lab cut 4
for number in 1 2 3; do wait_for 6 has_connections $number 2; done
lab heal 4
mesh_ready 4
