#!/usr/bin/env bash
# The tunnel finds what fits through the underlay and follows it while traffic runs: no transfer stalls,
# large datagrams arrive, and who sends too large a packet is told so.
. "$(dirname "$0")/lib.sh"
. "$HERE/path_mtu.sh"

path_setup
wait_for 10 fits 1500
transfers 'underlay 1500'
for number in 1 2; do
  on $number nft "add table inet deaf; add chain inet deaf in { type filter hook input priority -300; }"
done
for underlay in 1400 1280; do
  changes_meanwhile 3 "the underlay became $underlay" lab mtu $underlay
  wait_for 15 fits $underlay
  transfers "underlay $underlay"
  answers_too_large 1 2
  answers_too_large 2 1
  # From the second change on the underlay's ICMP arrives nowhere.
  for number in 1 2; do on $number nft "add rule inet deaf in iif eth0 meta l4proto { icmp, ipv6-icmp } drop"; done
done
changes_meanwhile 3 'the underlay became 9000' lab mtu 9000
# Larger is tried once a minute.
wait_for 75 fits 9000
transfers 'underlay 9000'
