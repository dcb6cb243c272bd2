#!/usr/bin/env bash
# A node is removed from the swarm: ten seconds later nothing is out of reach.
. "$(dirname "$0")/lib.sh"
. "$HERE/ipam.sh"

# All three have a share.
swarm_up 3 WEAVE_LEGACY_SOCKETS=weavemesh
for number in 1 2 3; do within 8 weave $number prime; done
for number in 1 2 3; do wait_for 5 owns_something 1 $number; done
lab poweroff 3
lost() { [[ $(report "$1" | jq '.ipam.spaces[0].unreachable') -gt 0 ]]; }
wait_for 15 lost 1
down() { [[ $(d 1 node inspect -f '{{.Status.State}}' host3) == down ]]; }
wait_for 40 down
stays 2 lost 1
d 1 node rm host3 >/dev/null
begin=$(now_ms)
wait_for 10 nothing_lost 1
wait_for 10 nothing_lost 2
echo "taken over $(($(now_ms) - begin)) ms after the node was removed"
assert_at_most $(($(now_ms) - begin)) 10000 "time"
