#!/usr/bin/env bash
# In a swarm: a worker's and the manager's engine restart, stopped and killed; tasks come back, the
# scope stays global although Docker's API is not up when plugins start.
. "$(dirname "$0")/lib.sh"

swarm_up 3
network 1 web --attachable
service site web 3
run 3 probe web
task_addresses() {
  local number task
  for number in 1 2 3; do
    for task in $(d $number ps -q --filter label=com.docker.swarm.service.name=site); do
      address $number "$task" web
    done
  done | sort -u
}
reach_all_tasks() {
  local address addresses
  addresses=$(task_addresses)
  [[ $(wc -l <<<"$addresses") == 3 ]] || return 1
  for address in $addresses; do reaches 3 probe "$address" || return 1; done
}
names_all_tasks() { [[ $(lookup 3 probe site) == "$(task_addresses)" ]]; }
wait_for 20 reach_all_tasks
wait_for 20 names_all_tasks
for number in 2 1; do
  for how in stop kill9; do
    lab dockerd $number $how
    within 20 lab dockerd $number start
    wait_for 10 has_connections $number 2
    wait_for 90 has_running_tasks site 3
    wait_for 30 reach_all_tasks
  done
done
# Names are the engines' own: they look once a minute for one that has left their gossip
# (libnetwork, networkdb, rejoinClusterDuration and rejoinInterval).
wait_for 90 names_all_tasks
assert_eq "$(d 1 network inspect -f '{{.Scope}}' web)" swarm scope
network 1 after --attachable
run 2 late after
reaches 2 late "$(address 2 late after)"
