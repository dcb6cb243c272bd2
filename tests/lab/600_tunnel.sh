#!/usr/bin/env bash
# With a password all that containers say travels through the tunnel: over a busy time, a daemon killed
# within it, the underlay shows no VXLAN, no container's bytes, addresses or network name.
. "$(dirname "$0")/lib.sh"

mesh_up 3 WEAVE_PASSWORD=correct-horse
# Everything that hosts 1 and 3 send and receive; who passes what on sees no more.
for number in 1 3; do
  on $number tcpdump -Uni eth0 -s 0 -B 65536 -w "$WORK/wire$number.pcap" >/dev/null 2>"$WORK/dump$number" &
  dumps[number]=$!
  wait_for 5 grep -q listening "$WORK/dump$number"
done

local_network 3 secretnet 10.40
for number in 1 2 3; do run $number c$number secretnet; done
for number in 1 2 3; do there[number]=$(address $number c$number secretnet); done
wait_for 10 reaches 1 c1 "${there[2]}"
all_reach_all 1:c1:"${there[1]}" 2:c2:"${there[2]}" 3:c3:"${there[3]}"
for number in 1 2 3; do
  assert_contains "$(weave $number status connections)" tunnel
  assert_contains "$(weave $number status connections)" 'a password is set'
  [[ -z $(links_in_weave_namespace $number | grep -E '^v[xy]-') ]] || fail "host$number has a VXLAN device"
done
# The largest packet gets through without fragments: 1500 less 20 + 8 + 40 + 14.
mtu=$(d 1 exec c1 cat "/sys/class/net/$(interface 1 c1 "${there[1]}")/mtu")
assert_eq "$mtu" 1418 "MTU"
reaches_with_mtu 1 c1 "${there[2]}" "$mtu"

# What must not be seen: text in TCP both ways, a broadcast, the largest datagrams.
secret=the-quick-brown-fox-jumps-over-the-lazy-dog
d 2 exec -d c2 sh -c "while :; do yes $secret | head -c 300000 | socat -u - TCP-LISTEN:7000,reuseaddr; done"
fetch() { d 1 exec c1 sh -c "socat -u TCP:${there[2]}:7000,connect-timeout=2 - | grep -c ." >"$WORK/lines"; }
wait_for 10 fetch
shout() { d 3 exec c3 sh -c "echo $secret | socat -u - UDP-DATAGRAM:10.40.255.255:7001,broadcast"; }
d 1 exec -d c1 sh -c "socat -u UDP-RECV:7001 - >/tmp/heard"
heard() { shout && d 1 exec c1 grep -q $secret /tmp/heard; }
wait_for 10 heard

ping_start 1 c1 "${there[2]}" "$WORK/ping12"
inside=$(container_pid 2 c2)
# One that is lost must not take all the time there is.
answers_soon() { on 2 nsenter -t "$inside" -n ping -n -c 1 -W 0.2 "${there[1]}"; }
on 2 kill -9 "$(daemon_pid 2)"
begin=$(now_ms)
wait_for 20 has_connections 2 2
meshed=$(now_ms)
wait_for 10 answers_soon
took=$(($(now_ms) - meshed))
echo "killed daemon: sessions after $((meshed - begin)) ms, containers talk $took ms later"
assert_at_most $took 2000 "milliseconds from the mesh session to the first answer"
ping_stop 1 "$WORK/ping12" >/dev/null
wait_for 10 fetch
all_reach_all 1:c1:"${there[1]}" 2:c2:"${there[2]}" 3:c3:"${there[3]}"

for number in 1 3; do on $number pkill -INT -x tcpdump; done
wait "${dumps[@]}" || true
for number in 1 3; do
  wire=$WORK/wire$number.pcap
  [[ -n $(tcpdump -nr "$wire" -c 1 'udp port 6783' 2>/dev/null) ]] || fail "nothing went through host$number's tunnel"
  [[ -z $(tcpdump -nr "$wire" -c 1 'udp port 6784' 2>/dev/null) ]] || fail "VXLAN from or to host$number"
  grep -qaF brown-fox "$wire" && fail "a container's bytes in the clear at host$number"
  grep -qaF secretnet "$wire" && fail "the network's name in the clear at host$number"
  # 10.40.x.y as a packet has it, and the MAC addresses.
  for peer in 1 2 3; do
    mac=$(d $peer exec c$peer cat "/sys/class/net/$(interface $peer c$peer "${there[peer]}")/address")
    bytes="\\x${mac//:/\\x}"
    LC_ALL=C grep -qaP "$bytes" "$wire" && fail "the MAC address of c$peer in the clear at host$number"
  done
done
rm -f "$WORK"/wire?.pcap
