#!/usr/bin/env bash
# The daemon is killed, again and again: Docker starts it anew and running containers notice nothing.
. "$(dirname "$0")/lib.sh"

restart_setup
for round in 1 2 3; do
  old=$(daemon_pid 1)
  on 1 kill -9 "$old"
  renewed() { local new; new=$(daemon_pid 1) && [[ -n $new && $new != "$old" ]]; }
  wait_for 10 renewed
  back_soon 1
  within 5 d 1 run --rm --network web lab true
done
assert_nothing_lost 2 "$ping12" "over the daemon's death"
assert_nothing_lost 3 "$ping32" "between other hosts"
