#!/usr/bin/env bash
# A host loses power and comes back; then all of them at once.
. "$(dirname "$0")/lib.sh"

restart_setup
lab reboot 1
back_soon 1
assert_nothing_lost 3 "$ping32" "between other hosts"
on 2 pkill -INT -x ping

for number in 1 2 3; do lab poweroff $number; done
pids=()
for number in 1 2 3; do lab poweron $number & pids+=($!); done
wait "${pids[@]}"
mesh_ready 3
for number in 1 2 3; do wait_for 10 plugin_enabled $number; done
everybody() { all_reach_all 1:c1:10.40.0.10 2:c2:10.40.0.20 3:c3:10.40.0.30; }
wait_for 10 reaches 1 c1 10.40.0.20
wait_for 10 reaches 2 c2 10.40.0.30
everybody
