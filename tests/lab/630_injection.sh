#!/usr/bin/env bash
# With a password, what others send is dropped and counted, and harms nobody: VXLAN in the clear, and
# packets of the tunnel that are forged, repeated, cut short or changed.
. "$(dirname "$0")/lib.sh"

lab_up 3
for number in 1 2; do lab plugin $number install "WEAVE_PEERS=$(peer_list 2)" WEAVE_PASSWORD=correct-horse; done
mesh_ready 2
local_network 2 web 10.40
for number in 1 2; do run $number c$number web; done
there=$(address 2 c2 web)
wait_for 10 reaches 1 c1 "$there"

on 2 tcpdump -Uni eth0 -s 0 -c 40 -w "$WORK/tunnel.pcap" "udp dst port 6783 and src host $UNDERLAY.1" >/dev/null 2>"$WORK/dump" &
dump=$!
wait_for 5 grep -q listening "$WORK/dump"
ping_start 1 c1 "$there" "$WORK/ping12"
wait $dump

mac=$(d 2 exec c2 cat "/sys/class/net/$(interface 2 c2 "$there")/address")
vni=$(report 2 | jq '.segments[0].vni')
received() { d 2 exec c2 cat "/sys/class/net/$(interface 2 c2 "$there")/statistics/rx_packets"; }
cat >"$WORK/inject.py" <<'PY'
import random, socket, struct, sys
target, mac, vni, pcap = sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", "")), int(sys.argv[3]), sys.argv[4]
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def send(port, data):
    # A closed port is told of by the next call.
    for _ in range(2):
        try: return udp.sendto(data, (target, port))
        except ConnectionRefusedError: pass
frame = mac + b"\2\0\0\0\0\1" + b"\x88\xb6" + b"injected" * 8
for _ in range(500):
    send(6784, struct.pack("!II", 0x08000000, vni << 8) + frame)
data, packets, at = open(pcap, "rb").read(), [], 24
while at < len(data):
    length = struct.unpack("<I", data[at + 8:at + 12])[0]
    packets.append(data[at + 16 + 42:at + 16 + length])
    at += 16 + length
assert packets
random.seed(1)
for packet in packets:
    send(6783, packet)
    for _ in range(20):
        changed = bytearray(packet)
        # A new number, so that it is not taken for a repetition.
        changed[8:16] = struct.pack("!Q", 1 << 40 | random.getrandbits(30))
        changed[random.randrange(16, len(packet))] ^= 1 << random.randrange(8)
        send(6783, bytes(changed))
        send(6783, packet[:random.randrange(len(packet))])
        send(6783, bytes(random.getrandbits(8) for _ in range(random.randrange(1, 1400))))
        unknown = bytearray(packet)
        unknown[4:8] = random.getrandbits(32).to_bytes(4, "big")
        send(6783, bytes(unknown))
PY
# Captured on its way to host 2, so good for nobody else; sent from host 3.
on 3 python3 "$WORK/inject.py" "$UNDERLAY.2" "$mac" "$vni" "$WORK/tunnel.pcap"

drops() { report 2 | jq -r ".tunnel.drops.$1 // .tunnel.peers[0].drops.$1 // 0"; }
for cause in replayed forged garbage unknown_key; do
  counted() { (($(drops $cause) > 0)); }
  wait_for 5 counted
  echo "$cause: $(drops $cause)"
done
assert_eq "$(report 2 | jq -r '.tunnel.peers[0].path')" direct "path"
# A repeated packet moves nobody's address to where it came from.
[[ $(report 2 | jq -r '.tunnel.peers[0].address') == *"$UNDERLAY.1:6783" ]] || fail "host1 is looked for elsewhere"
assert_at_most "$(ping_stop 1 "$WORK/ping12")" 1 "replies lost meanwhile"
grep -q DUP "$WORK/ping12" && fail "a packet arrived twice"
[[ $(d 2 exec c2 cat /proc/net/dev) ]] && reaches 1 c1 "$there"
