#!/usr/bin/env bash
# Nodes join, are drained and leave; peers follow, and tasks that move stay reachable.
. "$(dirname "$0")/lib.sh"

lab_up 3
swarm_make 2
for number in 1 2; do lab plugin $number install "WEAVE_PEERS=$(peer_list 2)"; done
mesh_ready 2
network 1 web --attachable
run 1 probe web

# A node joins that is told of one peer only, and finds all.
swarm_join 3
lab plugin 3 install WEAVE_PEERS=$UNDERLAY.1
mesh_ready 3
for number in 2 3; do wait_for 40 plugin_known_to_swarm $number; done
service site web 2 --constraint node.role==worker
reach_all_tasks() {
  local address addresses
  addresses=$(lookup 1 probe site)
  [[ $(wc -l <<<"$addresses") == 2 ]] || return 1
  for address in $addresses; do reaches 1 probe "$address" || return 1; done
}
wait_for 20 reach_all_tasks

d 1 node update --availability drain host3 >/dev/null
only_on_host2() { [[ $(d 1 service ps -f desired-state=running --format '{{.Node}}' site | sort -u) == host2 ]]; }
wait_for 60 only_on_host2
wait_for 60 has_running_tasks site 2
wait_for 20 reach_all_tasks

# A node leaves for good, and takes its plugin with it.
lab plugin 3 disable -f
d 3 swarm leave >/dev/null
wait_for 10 has_connections 1 1
wait_for 20 reach_all_tasks
