#!/usr/bin/env bash
# An engine is killed: its containers run on and nothing is lost until it starts again.
. "$(dirname "$0")/lib.sh"

restart_setup
lab dockerd 1 kill9
stays 3 grep -q 'bytes from' "$ping12"
assert_nothing_lost 2 "$ping12" "while the engine is away"
within 15 lab dockerd 1 start
back_soon 1
assert_nothing_lost 3 "$ping32" "between other hosts"
