#!/usr/bin/env bash
# A swarm node has networks of its own as well, through the legacy driver name.
. "$(dirname "$0")/lib.sh"

swarm_up 2 WEAVE_LEGACY_SOCKETS=weavemesh
for number in 1 2; do
  wait_for 5 on $number test -S /run/docker/plugins/weavemesh.sock
  d $number network create -d weavemesh --subnet 10.40.0.0/16 --ip-range 10.40.$number.0/24 own >/dev/null
  run $number c$number own
done
assert_eq "$(d 1 network inspect -f '{{.Scope}}' own)" local scope
reaches 1 c1 "$(address 2 c2 own)"
for number in 1 2; do
  d $number rm -f c$number >/dev/null
  d $number network rm own >/dev/null
done
