#!/usr/bin/env bash
# The largest packet follows the underlay, fits through it, and can be set per network.
. "$(dirname "$0")/lib.sh"

# Outer Ethernet is not part of an MTU: IP 20, UDP 8, VXLAN 8 and the inner Ethernet header 14.
overhead=50
for underlay in 1400 1500 9000; do
  lab down
  LAB_MTU=$underlay mesh_up 2
  local_network 2 web 10.40
  run 1 c1 web
  run 2 c2 web
  there=$(address 2 c2 web)
  dev=$(interface 1 c1 "$(address 1 c1 web)")
  mtu=$(d 1 exec c1 cat "/sys/class/net/$dev/mtu")
  assert_at_most "$mtu" $((underlay - overhead)) "container's MTU on an underlay of $underlay"
  assert_at_most $((underlay - 150)) "$mtu" "container's MTU on an underlay of $underlay, at least"
  reaches_with_mtu 1 c1 "$there" "$mtu"
  d 2 exec -d c2 iperf3 -s
  wait_for 5 d 1 exec c1 iperf3 -c "$there" -n 1K
  d 1 exec c1 iperf3 -c "$there" -n 50M >/dev/null
done

local_network 2 small 10.41 --opt com.docker.network.driver.mtu=1234
run 1 s1 small
assert_eq "$(d 1 exec s1 cat "/sys/class/net/$(interface 1 s1 "$(address 1 s1 small)")/mtu")" 1234 "MTU of the network's option"
