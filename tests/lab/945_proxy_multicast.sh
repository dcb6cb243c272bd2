#!/usr/bin/env bash
# Who has the route of multicast: containers on the network `weave`, unless the proxy or they themselves
# say otherwise; on other networks as those say. It stays so when they are started again.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/proxy.sh"

lab_up 1
launch 1 >/dev/null
wait_for 15 has_weave_network 1
route() { # CONTAINER: the interface that multicast goes to
  d 1 exec "$1" /usr/bin/ip route show 224.0.0.0/4 | awk '{print $3}'
}
p 1 run -d --name with lab >/dev/null
assert_contains "$(route with)" ethwe
d 1 run -d --name own --network name=weave,driver-opt=works.weave.multicast=false lab >/dev/null
assert_eq "$(route own)" ''
for option in '' =true; do
  d 1 network create -d weavemesh --ipam-driver weavemesh --subnet 10.60.0.0/16 --opt works.weave.multicast$option web >/dev/null
  run 1 member web
  assert_contains "$(route member)" ethwe
  d 1 rm -f member >/dev/null
  d 1 network rm web >/dev/null
done
d 1 network create -d weavemesh --ipam-driver weavemesh --subnet 10.60.0.0/16 --opt works.weave.multicast=false web >/dev/null
run 1 member web
assert_eq "$(route member)" ''
d 1 run -d --name wanting --network name=web,driver-opt=works.weave.multicast=true lab >/dev/null
assert_contains "$(route wanting)" ethwe
assert_refused 'works.weave.multicast' d 1 run --rm --network name=web,driver-opt=works.weave.multicast=perhaps lab true
d 1 rm -f member wanting >/dev/null
d 1 network rm web >/dev/null

weave 1 stop >/dev/null
launch 1 --no-multicast-route --no-rewrite-hosts >/dev/null
wait_for 15 p 1 version
assert_contains "$(weave 1 status)" 'Docker itself writes'
p 1 run -d --name without lab >/dev/null
assert_eq "$(route without)" ''
# With several networks as well, and as they were made when the daemon says otherwise.
p 1 run -d --name several -e 'WEAVE_CIDR=net:default net:10.61.0.0/16' lab >/dev/null
assert_eq "$(route several)" ''
d 1 restart -t 1 without with >/dev/null
assert_eq "$(route without)" ''
assert_contains "$(route with)" ethwe
plain 1 attached
weave 1 attach --no-multicast-route attached >/dev/null
assert_eq "$(route attached)" ''
launch_down
