#!/usr/bin/env bash
# An engine stops and starts: its peers are back soon, its containers too, others notice nothing.
. "$(dirname "$0")/lib.sh"

restart_setup
within 30 lab dockerd 1 stop
within 15 lab dockerd 1 start
back_soon 1
assert_nothing_lost 3 "$ping32" "between other hosts"
on 2 pkill -INT -x ping
# A network made before, used for the first time after.
run 1 later web --ip 10.40.0.11
reaches 2 c2 10.40.0.11
