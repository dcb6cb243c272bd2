#!/usr/bin/env bash
# In a swarm nobody needs to name peers: the engines know them.
. "$(dirname "$0")/lib.sh"

lab_up 3
swarm_make 3
lab plugin all install
mesh_ready 3

# A host outside the swarm's knowledge of us at start: it joins with its plugin already running.
d 3 swarm leave >/dev/null
lab dockerd 3 restart
swarm_join 3
mesh_ready 3
