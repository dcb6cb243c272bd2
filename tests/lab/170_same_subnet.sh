#!/usr/bin/env bash
# Two networks of one subnet are two networks when they are named apart.
. "$(dirname "$0")/lib.sh"

mesh_up 3
network 1 red --subnet 10.40.0.0/16 --opt works.weave.network=red
network 2 red --subnet 10.40.0.0/16 --opt works.weave.network=red
network 3 blue --subnet 10.40.0.0/16 --opt works.weave.network=blue
run 1 red1 red --ip 10.40.0.10
run 3 blue3 blue --ip 10.40.0.10
run 2 red2 red --ip 10.40.0.20
reaches 2 red2 10.40.0.10
run 3 other blue --ip 10.40.0.30
reaches 3 other 10.40.0.10
reaches_not 2 red2 10.40.0.30
# Whom red2 reaches is red1.
d 1 stop red1 >/dev/null
reaches_not 2 red2 10.40.0.10
reaches 3 other 10.40.0.10
