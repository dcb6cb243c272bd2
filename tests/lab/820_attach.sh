#!/usr/bin/env bash
# Containers attached beside Docker, with all ways to write addresses: across hosts, after a stop and
# start, after a restart of the daemon; gone with the container.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/launch.sh"

launch_up 2
for number in 1 2; do plain $number c$number; done

# An address of one's own choice, any of a subnet, any of the default subnet.
manual1=$(weave 1 attach 10.99.1.1/24 c1) manual2=$(weave 2 attach ip:10.99.1.2/24 c2)
assert_eq "$manual1 $manual2" '10.99.1.1 10.99.1.2'
subnet1=$(weave 1 attach net:10.60.0.0/16 c1) subnet2=$(weave 2 attach net:10.60.0.0/16 c2)
assert_contains "$subnet1" 10.60.
default1=$(weave 1 attach c1) default2=$(weave 2 attach net:default c2)
[[ $default1 != "$subnet1" && $default2 != "$subnet2" ]] || fail 'one address for two subnets'
for pair in "$manual1 $manual2" "$subnet1 $subnet2" "$default1 $default2"; do
  wait_for 5 reaches 1 c1 "${pair#* }"
  wait_for 5 reaches 2 c2 "${pair% *}"
done
assert_contains "$(d 1 exec c1 /usr/bin/ip route)" '224.0.0.0/4 dev ethwe'

# The same again changes nothing; several at once; `ps` shows all.
assert_eq "$(weave 1 attach net:default c1)" "$default1"
assert_eq "$(weave 1 attach 10.99.1.1/24 net:10.60.0.0/16 c1)" "10.99.1.1 $subnet1"
assert_eq "$(attached 1 c1 | wc -w)" 3 'addresses of c1'
assert_contains "$(attached 1 c1)" "$default1/12"
assert_eq "$(weave 1 attach --json net:default c1 | jq -r '.[0]')" "$default1/12"

# What makes no sense.
assert_refused "subnet's own" weave 1 attach net:10.60.0.1/16 c1
assert_refused '/30 or larger' weave 1 attach net:10.60.0.0/31 c1
assert_refused 'no container' weave 1 attach nobody
plain 1 c3
assert_refused 'used by' weave 1 attach 10.99.1.1/24 c3
assert_refused 'already used' weave 1 attach 10.99.1.2/24 c3
d 1 run -d --name c4 --network host lab >/dev/null
assert_refused 'weave expose' weave 1 attach c4

# On the network `weave` as Docker knows it they are as well.
run 2 c5 weave
wait_for 5 reaches 1 c1 "$(address 2 c5 weave)"

# The daemon may restart and crash.
d 1 kill -s KILL weave >/dev/null
d 1 start weave >/dev/null
wait_for 15 has_connections 1 1
reaches 2 c2 "$default1"
assert_eq "$(attached 1 c1 | wc -w)" 3 'addresses of c1'

# Gone with the container, at once; its addresses are kept for it and for nobody else.
d 1 stop -t 3 c1 >/dev/null
gone_from_ps() { [[ -z $(attached 1 c1) ]]; }
wait_for 1 gone_from_ps
no_trace() { ! weave 2 status endpoints | grep -q 'c1 '; }
wait_for 5 no_trace
new=$(weave 1 attach c3)
[[ $new != "$default1" ]] || fail "the address of a stopped container was given away"
d 1 start c1 >/dev/null
assert_eq "$(weave 1 attach c1)" "$default1" 'the address after a restart'
wait_for 5 reaches 2 c2 "$default1"

# Detached, one by one and all.
weave 1 attach 10.99.1.1/24 c1
within 1 weave 1 detach 10.99.1.1/24 c1
assert_eq "$(attached 1 c1)" "$default1/12"
weave 1 attach 10.99.1.1/24 net:10.60.0.0/16 c1 >/dev/null
weave 1 detach 10.99.1.1/24 net:10.60.0.0/16 c1
assert_eq "$(attached 1 c1)" "$default1/12"
weave 1 detach c1
assert_eq "$(attached 1 c1)" '' 'addresses of c1'
[[ $(d 1 exec c1 /usr/bin/ip -o link) != *ethwe* ]] || fail 'an interface is left'
weave 1 detach c1

# A container that is removed gives its addresses back.
third=$(d 1 inspect -f '{{.Id}}' c3)
assert_contains "$(weave 1 ipam lookup "$third")" "$new"
d 1 rm -f c3 >/dev/null
free() { [[ -z $(weave 1 ipam lookup "$third") ]]; }
wait_for 10 free
launch_down
