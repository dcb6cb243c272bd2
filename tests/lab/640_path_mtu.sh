#!/usr/bin/env bash
# The tunnel finds what fits through the underlay and follows it while traffic runs: no transfer stalls,
# large datagrams arrive.
. "$(dirname "$0")/lib.sh"

mesh_up 2 WEAVE_PASSWORD=correct-horse
local_network 2 web 10.40
for number in 1 2; do run $number c$number web; done
here=$(address 1 c1 web) there=$(address 2 c2 web)
wait_for 10 reaches 1 c1 "$there"
d 2 exec -d c2 iperf3 -s
wait_for 5 d 1 exec c1 iperf3 -c "$there" -n 1K

path_mtu() { report "$1" | jq '.tunnel.peers[0].mtu'; }
fits() { # BYTES: what the tunnel found for an underlay of so many
  local number found
  for number in 1 2; do
    found=$(path_mtu $number)
    ((found <= $1 - 82 && found >= $1 - 82 - 16)) || return 1
  done
}
wait_for 10 fits 1500

transfers() { # BYTES: both ways, and a large datagram, over an underlay of so many bytes
  local begin
  begin=$(now_ms)
  d 1 exec c1 timeout 20 iperf3 -c "$there" -n 200M >/dev/null || fail "to host 2 over $1"
  d 1 exec c1 timeout 20 iperf3 -c "$there" -n 200M -R >/dev/null || fail "from host 2 over $1"
  echo "underlay $1: 200 MB each way in $(($(now_ms) - begin)) ms"
  d 1 exec c1 ping -c 1 -W 2 -s 8000 "$there" >/dev/null || fail "a large datagram over $1"
}
transfers 1500
# Smaller is followed at once; larger is tried once a minute.
for underlay in 1400 1280 9000; do
  d 1 exec c1 iperf3 -c "$there" -t 5 -i 1 --json >"$WORK/iperf" &
  sleep 1.5 # into the transfer
  lab mtu $underlay
  wait $! || fail "a transfer while the underlay became $underlay"
  # It had found its new size by the last second.
  jq -e '.intervals[-1].sum.bytes > 1000000' "$WORK/iperf" >/dev/null || fail "stalled when the underlay became $underlay"
  if ((underlay < 9000)); then wait_for 15 fits $underlay; fi
  transfers $underlay
done
reaches 2 c2 "$here"
