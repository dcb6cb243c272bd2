#!/usr/bin/env bash
# The plugin is disabled by force and enabled again: running containers keep talking all the time.
. "$(dirname "$0")/lib.sh"

restart_setup
lab plugin 1 disable -f
assert_refused weave.sock d 1 run --rm --network web lab true
# A container that ends meanwhile is cleaned up after: Docker does not tell.
d 3 rm -f c3 >/dev/null
run 1 lone none
lab plugin 3 disable -f
lab plugin 3 enable
within 2 lab plugin 1 enable
back_soon 1
assert_nothing_lost 2 "$ping12" "while the plugin is away"
on 3 pkill -INT -x ping || true
run 1 later web --ip 10.40.0.11
reaches 2 c2 10.40.0.11
