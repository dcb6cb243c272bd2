#!/usr/bin/env bash
# This host on the containers' networks: expose and hide, again and again, with and without translation
# of addresses, after restarts.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/launch.sh"

# Tells whoever connects what address it has.
answer='socat TCP-LISTEN:80,fork,reuseaddr SYSTEM:"echo \$SOCAT_PEERADDR"'

launch_up 2
d 2 run -d --name c2 --network none lab sh -c "$answer" >/dev/null
plain 2 c3
two=$(weave 2 attach net:10.41.0.0/16 c2) other=$(weave 2 attach net:10.42.0.0/16 c3)
host=$(weave 1 expose net:10.41.0.0/16)
assert_eq "$(weave 1 expose net:10.41.0.0/16)" "$host" 'the address exposed again'
on 1 ping -c 1 -W 5 "$two" >/dev/null
wait_for 5 reaches 2 c2 "$host"
assert_contains "$(on 1 ip -o -4 addr show weave)" "$host/16"
assert_contains "$(weave 1 ps weave:expose)" "$host/16"

# Containers of another subnet are none of the host's business.
if on 1 ping -c 1 -W 1 "$other" >/dev/null; then fail 'another subnet is reached'; fi
reaches_not 2 c3 "$host"

# Routed from elsewhere: Docker's firewall forwards nothing unless told to, and answers find their way
# because the host's address takes the place of the other's.
on 1 iptables -I DOCKER-USER -o weave -j ACCEPT
on 1 iptables -I DOCKER-USER -i weave -j ACCEPT
on 2 ip route add 10.41.0.0/16 via $UNDERLAY.1
far() { on 2 socat -T3 - "TCP:$two:80,connect-timeout=3" </dev/null; }
assert_eq "$(far)" "$host" 'who the container sees'
weave 1 expose --without-masquerade net:10.41.0.0/16
assert_eq "$(on 1 nft list tables | grep -c weave-expose || true)" 0 'tables of translation'
if far; then fail 'answered without a way back'; fi
weave 1 expose net:10.41.0.0/16
assert_eq "$(far)" "$host" 'who the container sees'

# After a restart of the daemon, and of the host.
d 1 restart -t 5 weave >/dev/null
wait_for 15 has_connections 1 1
assert_eq "$(far)" "$host" 'who the container sees after a restart'
lab reboot 1
wait_for 60 has_connections 1 1
exposed() { on 1 ping -c 1 -W 1 "$two" && [[ $(on 1 ip -o -4 addr show weave) == *"$host/16"* ]]; }
wait_for 10 exposed

# Hidden, again and again, and by an address that waits for nobody.
within 2 weave 1 hide "$host/16"
within 2 weave 1 hide
if on 1 ping -c 1 -W 1 "$two" >/dev/null; then fail 'reached although hidden'; fi
weave 1 expose 10.99.7.1/24 10.99.8.1/24
assert_eq "$(weave 1 ps weave:expose | wc -w)" 4 'words of weave:expose'
weave 1 expose net:10.43.0.0/16 net:default >/dev/null
assert_eq "$(weave 1 ps weave:expose | wc -w)" 6 'words of weave:expose'
weave 1 hide 10.99.7.1/24 net:10.43.0.0/16
assert_eq "$(weave 1 ps weave:expose | wc -w)" 4 'words of weave:expose'
assert_refused 'address of a host' weave 1 expose 10.41.0.0/16
assert_refused '/30 or larger' weave 1 expose net:10.41.0.0/31
weave 1 hide
[[ $(on 1 ip -o link show type veth) != *' weave'* ]] || fail 'an interface is left'
launch_down
