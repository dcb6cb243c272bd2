#!/usr/bin/env bash
# A ring of four hosts with a password. Where UDP between two neighbours stops and their mesh session goes
# on, no third host is connected to both: the other two pass on together.
. "$(dirname "$0")/lib.sh"
. "$HERE/relay.sh"

# shellcheck disable=SC2034
ring=([1]='4 2' [2]='1 3' [3]='2 4' [4]='3 1')
partial_mesh ring WEAVE_PASSWORD=correct-horse
listeners 4
wait_for 10 goes_by 1 4 'tunnel a password is set'
all_reach_all 1:c1:"${there[1]}" 2:c2:"${there[2]}" 3:c3:"${there[3]}" 4:c4:"${there[4]}"

sever 1 4 udp
begin=$(now_ms)
wait_for 15 reaches 1 c1 "${there[4]}"
echo "cut: the ends talk after $(($(now_ms) - begin)) ms"
wait_for 10 goes_by 1 4 'tunnel the peer is reached by way of'
wait_for 10 last_logged 1 4 'tunnel.*by way of'
has_connections 1 2 || fail "the mesh session is gone, so this was no test"
all_reach_all 1:c1:"${there[1]}" 2:c2:"${there[2]}" 3:c3:"${there[3]}" 4:c4:"${there[4]}"
all_hear_all_once 4
