#!/usr/bin/env bash
# The lab itself: what later tests rest on, seen with Docker's own overlay network.
. "$(dirname "$0")/lib.sh"

lab_up 3
swarm_make 3
assert_eq "$(on 2 iptables -S FORWARD | head -n 1)" "-P FORWARD DROP" "the policy that dockerd sets on fresh hosts"

d 1 network create -d overlay --attachable over >/dev/null
run 1 one over
run 2 two over
there=$(address 1 one over)
reaches 2 two "$there"
assert_eq "$(lookup 2 two one)" "$there" "Docker's DNS"

lab cut 2
reaches_not 2 two "$there"
lab heal 2
wait_for 10 reaches 2 two "$there"

lab mtu 1400
assert_eq "$(on 3 cat /sys/class/net/eth0/mtu)" 1400 "mtu"

on 3 sh -c 'echo kept >/var/lib/kept; echo lost >/run/lost'
lab reboot 3
assert_eq "$(on 3 cat /var/lib/kept)" kept "a host's state after a reboot"
on 3 test ! -e /run/lost || fail "a host's /run survives a reboot"

d 1 rm -f one >/dev/null
d 2 rm -f two >/dev/null
d 1 network rm over >/dev/null
