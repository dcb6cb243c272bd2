#!/usr/bin/env bash
# With live-restore containers outlive their engine, stopped or killed; nothing is lost, and what was
# attached before is detached after.
. "$(dirname "$0")/lib.sh"

lab_up 3
lab dockerd 1 restart --live-restore
plugin_up 3
for number in 1 2 3; do
  network $number web --subnet 10.40.0.0/16
  run $number c$number web --ip 10.40.0.${number}0
done
reaches 2 c2 10.40.0.10
restart_pings
lab dockerd 1 stop
within 15 lab dockerd 1 start
back_soon 1
lab dockerd 1 kill9
within 15 lab dockerd 1 start
back_soon 1
assert_nothing_lost 2 "$ping12" "over an engine's stop and kill"
assert_nothing_lost 3 "$ping32" "between other hosts"
within 5 d 1 rm -f c1
wait_for 5 no_ports_left 1
run 1 c1 web --ip 10.40.0.10
reaches 2 c2 10.40.0.10
