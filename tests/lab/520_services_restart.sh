#!/usr/bin/env bash
# Virtual addresses go on working while plugins restart, while no manager can be reached, when managers
# change, and when all of them restart.
. "$(dirname "$0")/lib.sh"
. "$HERE/services.sh"

swarm_up 3
network 1 web --attachable
run 2 probe web
# Without a check of health, a new task is refused connections until it listens.
vip_service site web 6 --constraint node.hostname!=host1 "${health[@]}"
wait_for 60 has_ready_tasks 2 site 6
vip=$(vip site)
wait_for 10 has_answers 2 probe "$vip" 80 6

kill_daemon() { # N, and waits for the next
  local old
  old=$(daemon_pid "$1")
  on "$1" kill -9 "$old"
  renewed() { local new; new=$(daemon_pid "$1") && [[ -n $new && $new != "$old" ]]; }
  wait_for 10 renewed "$1"
}

load_start 200
kill_daemon 2
wait_for 20 has_ready_tasks 2 site 6
sleep 4
load_stop "the client's plugin killed"
assert_eq "$lost" 0 "connections lost by the death of the plugin"

# No manager can be reached: the client's plugin restarts all the same, and tasks that die are noticed.
load_start 200
lab dockerd 1 stop
alone() { has_connections 2 1; }
wait_for 20 alone
kill_daemon 2
wait_for 20 alone
sleep 4
wait_for 20 has_ready_tasks 2 site 6
load_stop "no manager reachable, the client's plugin killed"
assert_eq "$lost" 0 "connections lost without a manager"
gone=$(task_container 3 site)
dead=$(address 3 "$gone" web)
d 3 kill -s KILL "$gone" >/dev/null
rules_soon "death of a task without a manager" without 2 probe "$vip" "$dead"

# The manager comes back, and all managers restart at once.
lab dockerd 1 start
wait_for 30 has_ready_tasks 2 site 6
manages() { d "$1" node ls >/dev/null; }
wait_for 30 manages 1
d 1 node promote host3 >/dev/null
two_managers() { manages 3; }
wait_for 30 two_managers
# The tasks of host 3 go on without their engine; the next one ends them, after its plugin has come back
# and long before it answers anybody.
tasks_of_3() { d 3 ps -q -f label=com.docker.swarm.service.name=site | sort; }
tasks_of_3 >"$WORK/before"
[[ -s $WORK/before ]] || fail "no tasks on host 3"
load_start 200
for number in 1 3; do lab dockerd $number kill9; done
sleep 3
starts=()
for number in 1 3; do lab dockerd $number start & starts+=($!); done
wait "${starts[@]}"
wait_for 60 two_managers
wait_for 60 has_connections 2 2
wait_for 60 has_running_tasks site 6
wait_for 60 has_ready_tasks 2 site 6
load_stop "all managers killed and started again, tasks on one of them"
assert_eq "$(tasks_of_3 | comm -12 - "$WORK/before")" "" "tasks of host 3 that outlive its next engine"
assert_eq "$lost" 0 "connections lost by the end of all managers, and of the tasks on one of them"

# Another manager: what it says counts.
d 3 node demote host1 >/dev/null
# Docker takes its time to make one manager out of two.
works_for_another() { [[ $(d 1 info -f '{{.Swarm.ControlAvailable}}') == false ]]; }
wait_for 60 works_for_another
wait_for 60 manages 3
d 3 service create -d --no-resolve-image --name late --network web --constraint node.hostname==host3 lab answer >/dev/null
wait_for 30 has_ready_tasks 2 late 1
late=$(d 3 service inspect -f '{{range .Endpoint.VirtualIPs}}{{.Addr}}{{end}}' late)
wait_for 10 has_answers 2 probe "${late%/*}" 5 1
d 3 service rm late >/dev/null
without_late() { ! inside 2 probe nft list table ip weave | grep -qF "${late%/*}"; }
wait_for 10 without_late
has_answers 2 probe "$vip" 80 6 || fail "not all tasks answer after managers have changed"
d 3 service rm site >/dev/null
