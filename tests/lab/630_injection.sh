#!/usr/bin/env bash
# With a password, what others send is dropped and counted, and harms nobody: VXLAN in the clear, and
# packets of the tunnel that are forged, repeated, cut short or changed, from an address of their own or
# from that of a peer.
. "$(dirname "$0")/lib.sh"

lab_up 3
for number in 1 2; do lab plugin $number install "WEAVE_PEERS=$(peer_list 2)" WEAVE_PASSWORD=correct-horse; done
mesh_ready 2
local_network 2 web 10.40
for number in 1 2; do run $number c$number web; done
here=$(address 1 c1 web) there=$(address 2 c2 web)
wait_for 10 reaches 1 c1 "$there"

on 2 tcpdump -Uni eth0 -s 0 -c 40 -w "$WORK/tunnel.pcap" "udp dst port 6783 and src host $UNDERLAY.1" >/dev/null 2>"$WORK/dump" &
dump=$!
wait_for 5 grep -q listening "$WORK/dump"
ping_start 1 c1 "$there" "$WORK/ping12"
wait $dump

dev=$(interface 2 c2 "$there")
mac=$(d 2 exec c2 cat "/sys/class/net/$dev/address")
vni=$(report 2 | jq '.segments[0].vni')
# All that has the type of the injected frames, as the container gets it.
on 2 nsenter -t "$(container_pid 2 c2)" -n tcpdump -Uni "$dev" -w "$WORK/inside.pcap" ether proto 0x88b6 >/dev/null 2>"$WORK/dump2" &
dump=$!
wait_for 5 grep -q listening "$WORK/dump2"

cat >"$WORK/inject.py" <<'PY'
import collections, random, socket, struct, sys, time
target, peer, mac, vni, pcap = sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3].replace(":", "")), int(sys.argv[4]), sys.argv[5]
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
sent = collections.Counter()
def send(cause, port, data):
    sent[cause] += 1
    # Every second one as if the peer had sent it.
    if sent[cause] % 2:
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, 17, 0, socket.inet_aton(peer), socket.inet_aton(target))
        raw.sendto(ip + struct.pack("!HHHH", port, port, 8 + len(data), 0) + data, (target, 0))
        return
    # A closed port is told of by the next call.
    for _ in range(2):
        try: return udp.sendto(data, (target, port))
        except ConnectionRefusedError: pass
for to in [mac, b"\xff" * 6]:
    frame = to + b"\2\0\0\0\0\1" + b"\x88\xb6" + b"injected" * 8
    for _ in range(250):
        send("vxlan", 6784, struct.pack("!II", 0x08000000, vni << 8) + frame)
data, packets, at = open(pcap, "rb").read(), [], 24
while at < len(data):
    length = struct.unpack("<I", data[at + 8:at + 12])[0]
    packets.append(data[at + 16 + 42:at + 16 + length])
    at += 16 + length
assert len(packets) == 40 and all(packet[0] == 0x11 and len(packet) > 40 for packet in packets)
random.seed(1)
for packet in packets:
    for _ in range(20):
        send("replayed", 6783, packet)
        # A new number, so that it is not taken for a repetition.
        fresh = bytearray(packet)
        fresh[8:16] = struct.pack("!Q", 1 << 40 | random.getrandbits(30))
        flipped = bytearray(fresh)
        flipped[random.randrange(16, len(packet))] ^= 1 << random.randrange(8)
        send("forged", 6783, bytes(fresh))
        send("forged", 6783, bytes(flipped))
        # No packet is shorter than 40 bytes.
        send("forged", 6783, bytes(fresh[:random.randrange(40, len(packet))]))
        send("garbage", 6783, packet[:random.randrange(40)])
        send("garbage", 6783, b"\0" + random.randbytes(random.randrange(1400)))
        unknown = bytearray(packet)
        unknown[4:8] = random.getrandbits(32).to_bytes(4, "big")
        send("unknown_key", 6783, bytes(unknown))
    # The receiver's buffer shall lose none of them, as it is to count them.
    time.sleep(0.005)
for cause, count in sent.items():
    print(cause, count)
PY
drops() { report 2 | jq -r ".tunnel.drops.$1 // .tunnel.peers[0].drops.$1 // 0"; }
# Of VXLAN the filter counts what it drops; without one the kernel counts what nobody listens to.
vxlan_drops() {
  local filtered
  filtered=$(on 2 nft -j list table ip weave-vxlan 2>/dev/null | jq '[.. | .counter? // empty | .packets] | add') || filtered=0
  echo $((${filtered:-0} + $(on 2 awk '$1 == "Udp:" && $2 ~ /^[0-9]+$/ {print $3}' /proc/net/snmp)))
}
counted() { if [[ $1 == vxlan ]]; then vxlan_drops; else drops "$1"; fi; }
declare -A before
for cause in vxlan replayed forged garbage unknown_key; do before[$cause]=$(counted $cause); done
daemon=$(daemon_pid 2)

# Captured on its way to host 2, so good for nobody else; sent from host 3.
on 3 python3 "$WORK/inject.py" "$UNDERLAY.2" "$UNDERLAY.1" "$mac" "$vni" "$WORK/tunnel.pcap" >"$WORK/sent"
assert_eq "$(wc -l <"$WORK/sent")" 5 "kinds of what was sent"
while read -r cause count; do
  all_counted() { (($(counted "$cause") - before[$cause] >= count)); }
  wait_for 5 all_counted
  echo "$cause: $count sent, $(($(counted "$cause") - before[$cause])) counted"
done <"$WORK/sent"

# After them one from a container, which is to show that they would have been seen.
on 1 nsenter -t "$(container_pid 1 c1)" -n python3 -c '
import socket, sys
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
link.bind((sys.argv[1], 0))
link.send(bytes.fromhex(sys.argv[2].replace(":", "")) + link.getsockname()[4] + b"\x88\xb6" + b"genuine." * 8)' \
  "$(interface 1 c1 "$here")" "$mac"
wait_for 5 grep -qa genuine "$WORK/inside.pcap"
on 2 pkill -INT -f inside.pcap
wait $dump || true
# Lines of bytes are set in.
assert_eq "$(tcpdump -nr "$WORK/inside.pcap" 2>/dev/null | grep -c '^[^[:space:]]')" 1 "frames of that type in the container"
[[ -z $(links_in_weave_namespace 2 | grep -E '^v[xy]-') ]] || fail "host2 has a VXLAN device"

assert_eq "$(report 2 | jq -r '.tunnel.peers[0].path')" direct "path"
# A repeated packet moves nobody's address to where it came from.
[[ $(report 2 | jq -r '.tunnel.peers[0].address') == *"$UNDERLAY.1:6783" ]] || fail "host1 is looked for elsewhere"
assert_eq "$(daemon_pid 2)" "$daemon" "pid of the daemon"
assert_at_most "$(ping_stop 1 "$WORK/ping12")" 1 "replies lost meanwhile"
grep -q DUP "$WORK/ping12" && fail "a packet arrived twice"
reaches 2 c2 "$here"
