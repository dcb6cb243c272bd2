#!/usr/bin/env bash
# Multicast: off unless asked for, per network or for all; crosses hosts; a container may be on two
# such networks.
. "$(dirname "$0")/lib.sh"

mesh_up 2
for name in one:10.40 two:10.41; do local_network 2 "${name%:*}" "${name#*:}" --opt works.weave.multicast; done
local_network 2 plain 10.42

multicast_route() { d "$1" exec "$2" /usr/bin/ip route show | grep -E '^(multicast )?224\.0\.0\.0/4'; }
run 1 plain1 plain
multicast_route 1 plain1 && fail "a multicast route nobody asked for"

run 1 sender one
run 2 receiver one
multicast_route 1 sender >/dev/null || fail "no multicast route"

hears() { # a datagram of BYTES bytes to the group arrives
  local address dev
  address=$(address 2 receiver one)
  dev=$(interface 2 receiver "$address")
  d 2 exec receiver sh -c 'rm -f /tmp/heard'
  d 2 exec -d receiver sh -c "socat -u UDP4-RECV:5000,ip-add-membership=239.1.2.3:$dev,reuseaddr CREATE:/tmp/heard"
  wait_for 5 d 2 exec receiver sh -c "/usr/bin/ip maddr show dev $dev | grep -q 239.1.2.3"
  d 1 exec sender sh -c "truncate -s $1 /tmp/said; socat -u -b 9000 OPEN:/tmp/said,rdonly UDP4-DATAGRAM:239.1.2.3:5000,ip-multicast-ttl=4"
  arrived() { [[ $(d 2 exec receiver stat -c %s /tmp/heard) == "$1" ]]; }
  wait_for 5 arrived "$1"
  d 2 exec receiver killall socat
}
hears 100
# Larger than one packet: in fragments.
hears 5000

# Two such networks.
d 1 network connect two sender
d 2 run --rm --network one lab true
d 1 run -d --name both --network one lab >/dev/null
d 1 network connect two both
d 1 restart -t 1 both >/dev/null
reaches 2 receiver "$(address 1 both one)"
