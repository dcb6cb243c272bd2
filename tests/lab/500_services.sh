#!/usr/bin/env bash
# Services in the default endpoint mode: their virtual address reaches their tasks on all hosts, by every
# protocol, evenly, with the client's own address as the source.
. "$(dirname "$0")/lib.sh"
. "$HERE/services.sh"

swarm_up 3
network 1 web --attachable
run 2 probe web
vip_service site web 3
wait_for 60 has_ready_tasks 2 site 3
vip=$(vip site)

# By the name that Docker's own DNS knows, and by address.
assert_eq "$(lookup 2 probe site)" "$vip" "the address behind the service's name"
own=$(address 2 probe web)
wait_for 10 has_answers 2 probe "$vip" 60 3
for protocol in count udp; do
  client 2 probe $protocol "$vip" 80 200 | tee "$WORK/answers"
  assert_eq "$(wc -l <"$WORK/answers")" 3 "tasks that answered"
  while read -r _ _ from; do assert_eq "$from" "$own" "the client that the task saw"; done <"$WORK/answers"
done
assert_contains "$(d 2 exec probe socat -T3 - TCP:site:80 </dev/null)" "$own"
assert_contains "$(echo hello | d 2 exec -i probe socat -T3 - UDP:site:80)" "$own"
on 2 ip netns exec weave tcpdump -nl -i any -c 1 'icmp[icmptype] == icmp-echo' >"$WORK/echo" 2>"$WORK/capture" &
capture=$!
wait_for 10 grep -q 'listening on' "$WORK/capture"
# One by one: of several, `ping` waits for the last only as long as the others took.
for _ in {1..20}; do inside 2 probe ping -q -c 1 -W 2 "$vip" >/dev/null; done
wait $capture
assert_contains "$(cat "$WORK/echo")" "IP $own > "

# Nobody has the virtual address itself, and the client has got none beside its own.
assert_eq "$(inside 2 probe ip -o -4 address show | grep -cF "${own%.*}.")" 1 "addresses of the client on the network"
inside 2 probe ip neighbour show | grep -wF "$vip" && fail "somebody was asked for the virtual address"

# SCTP, where the kernel tracks it.
for number in 1 2 3; do
  task=$(task_container $number site)
  client $number "$task" sctp-server "$(address $number "$task" web)" 80 - >"$WORK/sctp$number" &
done
sctp_answers() { client 2 probe sctp "$vip" 80 60 >"$WORK/sctp"; }
wait_for 10 sctp_answers
cat "$WORK/sctp"
assert_eq "$(wc -l <"$WORK/sctp")" 3 "tasks that answered by SCTP"
assert_eq "$(sort -u "$WORK"/sctp[123])" "$own" "the client that tasks saw by SCTP"
for number in 1 2 3; do on $number pkill -f sctp-server; done

# From tasks, one's own among those that answer.
for number in 1 2 3; do
  task=$(task_container $number site)
  has_answers $number "$task" "$vip" 60 3 || fail "not all tasks answer those on host $number"
done

# A container that has only just started, in its first instruction.
assert_contains "$(d 3 run --rm --network web lab socat -T3 - "TCP:$vip:80" </dev/null)" "10."

# Evenly.
d 1 service scale -d site=10 >/dev/null
wait_for 60 has_ready_tasks 2 site 10
for protocol in count udp; do
  client 2 probe $protocol "$vip" 80 10000 >"$WORK/spread"
  assert_eq "$(wc -l <"$WORK/spread")" 10 "tasks that answered"
  uneven=$(spread "$WORK/spread")
  echo "figure: 10,000 over 10 tasks, $protocol: $(sort -n "$WORK/spread" | awk 'NR == 1 {low = $1} END {print low " to " $1}'), $uneven % from the mean at most"
  assert_at_most "${uneven%.*}" 19 "distance from the mean in per cent"
done

# What status shows.
client_start 2 probe "$WORK/flow" "$vip" 20
shown=$(weave 2 status services)
metrics=$(on 2 curl -sf --max-time 5 http://127.0.0.1:6782/metrics)
client_stop 2 "$WORK/flow"
echo "$shown"
metric() { sed -n "s/^weave_service_$1{service=\"site\",.*$2} //p" <<<"$metrics"; }
assert_eq "$(metric tasks 'ready="true"')" 10 "tasks that are ready, in the metrics"
[[ $(metric connections '"') -gt 0 ]] || fail "no connections in the metrics"
assert_contains "$shown" CONNECTIONS
assert_eq "$(grep -c ' ready ' <<<"$shown")" 10 "tasks shown as ready"
report 2 | jq -e '[.services[].tasks[].connections] | add > 0' >/dev/null || fail "no connections counted"
assert_eq "$(report 1 | jq '[.services[].tasks[].connections] | add')" 0 "connections of a host without clients"
