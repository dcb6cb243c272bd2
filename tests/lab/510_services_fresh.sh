#!/usr/bin/env bash
# Scaling, a rolling update and a drain under 500 connections per second lose none.
. "$(dirname "$0")/lib.sh"
. "$HERE/services.sh"

swarm_up 3
network 1 web --attachable
run 2 probe web
vip_service site web 3 --stop-grace-period 10s --update-parallelism 1 --update-order start-first "${health[@]}"
wait_for 60 has_ready_tasks 2 site 3
vip=$(vip site)
wait_for 10 has_answers 2 probe "$vip" 40 3

load_start 500
d 1 service update -d --no-resolve-image --force site >/dev/null
updated() { [[ $(d 1 service inspect -f '{{.UpdateStatus.State}}' site) == completed ]]; }
wait_for 90 updated
load_stop "rolling update under 500 connections/s"
assert_eq "$lost" 0 "connections lost in a rolling update"

load_start 500
for scale in 9 1 3; do
  d 1 service scale -d site=$scale >/dev/null
  wait_for 60 has_ready_tasks 2 site $scale
done
sleep 3
load_stop "scaling 3, 9, 1, 3 under 500 connections/s"
assert_eq "$lost" 0 "connections lost while scaling"

# A drained node's tasks go elsewhere, and established connections to others are not disturbed.
load_start 500
d 1 node update --availability drain host3 >/dev/null
drained() { [[ -z $(d 3 ps -q -f label=com.docker.swarm.service.name=site) ]]; }
wait_for 60 drained
load_stop "draining a node under 500 connections/s"
assert_eq "$lost" 0 "connections lost by draining"
