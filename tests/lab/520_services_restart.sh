#!/usr/bin/env bash
# Virtual addresses go on working while the client's plugin and the manager's engine restart.
. "$(dirname "$0")/lib.sh"
. "$HERE/services.sh"

swarm_up 3
network 1 web --attachable
run 2 probe web
vip_service site web 6 --constraint node.role==worker
wait_for 60 has_ready_tasks 2 site 6
vip=$(vip site)
wait_for 10 has_answers 2 probe "$vip" 80 6

load_start 100
old=$(daemon_pid 2)
on 2 kill -9 "$old"
renewed() { local new; new=$(daemon_pid 2) && [[ -n $new && $new != "$old" ]]; }
wait_for 10 renewed
wait_for 20 has_ready_tasks 2 site 6
sleep 4
load_stop "the client's plugin killed"
assert_eq "$lost" 0 "connections lost by the death of the plugin"
load_start 100
lab dockerd 1 restart
wait_for 20 has_ready_tasks 2 site 6
sleep 2
load_stop "the manager's engine restarted"
assert_eq "$lost" 0 "connections lost by the restart of the manager"
