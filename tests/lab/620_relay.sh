#!/usr/bin/env bash
# A chain of four hosts, each of which reaches its neighbours alone: the others pass on what is for the
# rest, broadcasts and multicasts included, and nothing arrives twice.
. "$(dirname "$0")/lib.sh"
. "$HERE/relay.sh"

# shellcheck disable=SC2034
chain=([1]=2 [2]='1 3' [3]='2 4' [4]=3)
partial_mesh chain
listeners 4
begin=$(now_ms)
wait_for 15 reaches 1 c1 "${there[4]}"
wait_for 15 reaches 1 c1 "${there[3]}"
wait_for 15 reaches 2 c2 "${there[4]}"
echo "relayed after $(($(now_ms) - begin)) ms"
for way in '1 4' '4 1' '1 3' '2 4'; do
  # shellcheck disable=SC2086
  wait_for 10 goes_by $way 'tunnel the peer is reached by way of'
done
wait_for 10 goes_by 1 2 vxlan
all_reach_all 1:c1:"${there[1]}" 2:c2:"${there[2]}" 3:c3:"${there[3]}" 4:c4:"${there[4]}"

all_hear_all_once 4
# Large transfers end.
d 4 exec -d c4 iperf3 -s
wait_for 5 d 1 exec c1 iperf3 -c "${there[4]}" -n 1K
d 1 exec c1 timeout 20 iperf3 -c "${there[4]}" -n 50M >/dev/null
d 1 exec c1 timeout 20 iperf3 -c "${there[4]}" -n 50M -R >/dev/null
