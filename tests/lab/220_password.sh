#!/usr/bin/env bash
# Peers with different passwords, or one without, do not connect, carry nothing, and both say why.
# A peer with a password sends no container's frame in the clear.
. "$(dirname "$0")/lib.sh"

lab_up 3
lab plugin 1 install "WEAVE_PEERS=$(peer_list 3)" WEAVE_PASSWORD=correct-horse
lab plugin 2 install "WEAVE_PEERS=$(peer_list 3)" WEAVE_PASSWORD=battery-staple
lab plugin 3 install "WEAVE_PEERS=$(peer_list 3)"
says_password() { weave "$1" status connections | grep -qi password; }
for number in 1 2 3; do wait_for 15 says_password $number; done
stays 3 has_connections 1 0

local_network 3 web 10.40
for number in 1 2 3; do run $number c$number web; done
# Sniffed where it would pass, in the clear.
on 1 timeout 8 tcpdump -lni eth0 -c 1 'udp port 6784' >"$WORK/sniffed" 2>&1 &
sniffer=$!
wait_for 5 grep -q listening "$WORK/sniffed"
reaches_not 1 c1 "$(address 2 c2 web)"
reaches_not 3 c3 "$(address 1 c1 web)"
wait $sniffer && fail "VXLAN in the clear from a host with a password: $(cat "$WORK/sniffed")"

# The right password, from a file of the host.
on 2 sh -c 'umask 077; printf correct-horse >/var/lib/weave/password'
lab plugin 2 disable -f
lab plugin 2 set WEAVE_PASSWORD= WEAVE_PASSWORD_FILE=/var/lib/weave/password
lab plugin 2 enable
wait_for 15 has_connections 1 1
wait_for 15 has_connections 2 1
# What they carry is encrypted.
wait_for 10 reaches 1 c1 "$(address 2 c2 web)"
assert_contains "$(weave 1 status connections)" tunnel
# The password is nowhere to be read.
for number in 1 2; do
  weave $number status | grep -q correct-horse && fail "status shows the password"
  report $number | grep -q correct-horse && fail "the report shows the password"
  lab log $number | grep -q correct-horse && fail "the log shows the password"
done
true
