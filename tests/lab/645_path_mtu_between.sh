#!/usr/bin/env bash
# A router between two hosts of 9000 bytes takes less and less, which the hosts' own links do not show;
# it says so in ICMP, or nobody hears it. The tunnel follows all the same, and no transfer stalls.
. "$(dirname "$0")/lib.sh"
. "$HERE/path_mtu.sh"

# A container's largest packet is what the underlay carries when it starts: here much more than later.
export LAB_MTU=9000
lab_up 2
switch() { ip netns exec "weave-lab-$LAB" "$@"; }
switch sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.br0.send_redirects=0
for number in 1 2; do on $number ip route add $UNDERLAY.$((3 - number))/32 via $UNDERLAY.254; done
# What it tells is counted, to know that the test is one.
switch nft "add table ip told; add counter ip told large; add chain ip told out { type filter hook output priority 0; }"
switch nft "add rule ip told out icmp type destination-unreachable icmp code 4 counter name large"
told() { switch nft -j list counter ip told large | jq '.nftables[] | .counter? // empty | .packets'; }
plugin_up 2 WEAVE_PASSWORD=correct-horse
path_network
wait_for 10 fits 9000
transfers 'underlay 9000'
answers_too_large 1 2

# Lost probes tell it: three in a row, the first within a second. TCP waits twice as long after each
# packet of its own that is lost.
carries() { switch ip link set br0 mtu "$1"; }
changes_meanwhile 6 'the router came to carry 1500' carries 1500
wait_for 15 fits 1500
(($(told) > 0)) || fail "the router told nobody"
transfers 'router of 1500'
answers_too_large 1 2

switch nft "add rule ip told out icmp type destination-unreachable drop"
changes_meanwhile 6 'the router came to carry 1280, unheard' carries 1280
wait_for 15 fits 1280
transfers 'router of 1280, unheard'
answers_too_large 1 2
answers_too_large 2 1
