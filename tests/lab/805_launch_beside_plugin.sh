#!/usr/bin/env bash
# Where the managed plugin runs, `launch` refuses and says why; all commands work with the plugin.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/launch.sh"

mesh_up 2
assert_refused 'docker plugin disable' launch 1
assert_refused 'docker plugin disable' weave 1 stop
assert_eq "$(d 1 ps -aq)" '' containers
mesh_ready 2

for number in 1 2; do plain $number c$number; done
one=$(weave 1 attach c1) two=$(weave 2 attach 10.32.0.77/12 c2)
assert_eq "$two" 10.32.0.77
wait_for 5 reaches 1 c1 "$two"
wait_for 5 reaches 2 c2 "$one"
host=$(weave 1 expose)
on 1 ping -c 1 -W 2 "$two" >/dev/null
wait_for 5 reaches 2 c2 "$host"
weave 1 hide
for number in 1 2; do weave $number detach c$number; done
