#!/usr/bin/env bash
# Networks with the plugin's IPAM on three engines that share no store: addresses are unique, with and
# without a subnet; gateways, ranges, auxiliary and chosen addresses are what the user said; IPv6.
. "$(dirname "$0")/lib.sh"
. "$HERE/ipam.sh"

mesh_up 3
for number in 1 2 3; do within 8 weave $number prime; done

# The same subnet on each host is one network.
ipam_network 3 web --subnet 10.40.0.0/16
for number in 1 2 3; do run_many $number w web 3; done >"$WORK/web"
assert_unique "$WORK/web" 9
assert_eq "$(own_address 1 w1)" "$(address 1 w1 web)/16"
reaches 1 w1 "$(address 2 w1 web)"
reaches 3 w3 "$(address 1 w2 web)"

# Without one, the network's name decides, on every host alike; another name, another subnet.
ipam_network 3 app --ipam-opt works.weave.network=app
ipam_network 3 db --ipam-opt works.weave.network=db
for number in 2 3; do
  assert_eq "$(subnet $number app)" "$(subnet 1 app)" "subnet of app on host$number"
  assert_eq "$(subnet $number db)" "$(subnet 1 db)" "subnet of db on host$number"
done
[[ $(subnet 1 app) != "$(subnet 1 db)" ]] || fail "two networks have one subnet"
[[ $(subnet 1 app) == 10.[34]* ]] || fail "not out of IPALLOC_RANGE: $(subnet 1 app)"
for number in 1 2 3; do run_many $number a app 2; done >"$WORK/app"
assert_unique "$WORK/app" 6
reaches 2 a1 "$(address 3 a2 app)"

# Without a name it is a subnet of its own.
network 1 lone --ipam-driver "$PLUGIN"
run 1 lone lone
[[ $(subnet 1 lone) != "$(subnet 1 app)" && -n $(address 1 lone lone) ]] || fail "no subnet of its own"

# A chosen address belongs to one container.
run 1 chosen web --ip 10.40.200.1
assert_eq "$(address 1 chosen web)" 10.40.200.1
assert_refused "host1" d 2 run --rm --network web --ip 10.40.200.1 lab true
d 1 rm -f chosen >/dev/null
run 2 chosen web --ip 10.40.200.1
reaches 1 w1 10.40.200.1

# A range, an auxiliary address and a gateway.
ipam_network 3 part --subnet 10.41.0.0/16 --ip-range 10.41.7.0/28 --gateway 10.41.7.1 --aux-address printer=10.41.7.2
for number in 1 2 3; do run_many $number p part 2; done >"$WORK/part"
assert_unique "$WORK/part" 6
awk '{print $2}' "$WORK/part" | while read -r given; do
  [[ $given == 10.41.7.* && $given != 10.41.7.1 && $given != 10.41.7.2 ]] || fail "$given is given"
done
assert_eq "$(d 1 network inspect -f '{{(index .IPAM.Config 0).Gateway}}' part)" 10.41.7.1
assert_refused "10.41.7.2" d 1 run --rm --network part --ip 10.41.7.2 lab true

# IPv6.
ipam_network 2 six --ipv6 --subnet 10.43.0.0/16 --subnet fd00:40::/64
run 1 six six
run 2 six six
six() { d "$1" inspect -f '{{.NetworkSettings.Networks.six.GlobalIPv6Address}}' six; }
[[ $(six 1) == fd00:40::* && $(six 2) == fd00:40::* && $(six 1) != "$(six 2)" ]] || fail "IPv6: $(six 1), $(six 2)"
wait_for 5 d 1 exec six ping -6 -c 1 -W 2 "$(six 2)"
for number in 1 2 3; do no_conflicts $number || fail "$(ipam $number .ipam.conflicts)"; done
