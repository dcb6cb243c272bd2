#!/usr/bin/env bash
# The Docker API proxy: containers that name no network are on `weave`, with address and names, before
# their first process runs, and stay so through restarts; those that name one are left alone.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/proxy.sh"

launch_up 2
socket=unix:///var/run/weave/weave.sock
assert_eq "$(weave 1 env)" "export DOCKER_HOST=$socket"
assert_eq "$(on 1 env DOCKER_HOST=tcp://h:1 "$WEAVE" env)" "export DOCKER_HOST=$socket ORIG_DOCKER_HOST=tcp://h:1"
assert_eq "$(on 1 env ORIG_DOCKER_HOST=tcp://h:1 "$WEAVE" env --restore)" \
  'export DOCKER_HOST=tcp://h:1; unset ORIG_DOCKER_HOST'
assert_eq "$(weave 1 config)" "-H=$socket"
assert_eq "$(on 1 stat -L -c '%a %u %g' /var/run/weave/weave.sock)" "$(on 1 stat -L -c '%a %u %g' /var/run/docker.sock)"
for number in 1 2; do on $number bash -c "eval \"\$($WEAVE env)\"; docker run -d --name c$number lab" >/dev/null; done
one=$(address 1 c1 weave) two=$(address 2 c2 weave)
wait_for 5 reaches 1 c1 "$two"
wait_for 5 reaches 2 c2 "$one"
for name in c2 c2.weave.local; do wait_for 3 names 1 c1 $name "$two"; done
assert_eq "$(d 2 exec c2 hostname -f)" c2.weave.local

# All is there for the first process.
first=$(p 1 run --rm --name first lab sh -c 'ip -o -4 addr; ip route; cat /etc/hosts; getent ahostsv4 c2')
for words in 'ethwe' ' 10.' '224.0.0.0/4' "first.weave.local" "$two"; do assert_contains "$first" "$words"; done

# Addresses of one's own choice, of other subnets, several; none.
p 1 run -d --name exact -e WEAVE_CIDR=10.32.200.1/12 lab >/dev/null
assert_eq "$(address 1 exact weave)" 10.32.200.1
p 1 run -d --name other -e WEAVE_CIDR=net:10.60.0.0/16 lab >/dev/null
p 2 run -d --name several -e 'WEAVE_CIDR=10.60.9.9/16 net:default 10.61.0.7/24' lab >/dev/null
for there in 10.60.9.9/16 10.61.0.7/24 "$(address 2 several weave)/"; do
  assert_contains "$(d 2 exec several /usr/bin/ip -o -4 addr)" "$there"
done
wait_for 5 reaches 1 other 10.60.9.9
assert_eq "$(weave 1 attach 10.61.0.8/24 exact)" 10.61.0.8
wait_for 5 reaches 1 exact 10.61.0.7
p 1 run -d --name blank -e WEAVE_CIDR= lab >/dev/null
assert_contains "$(address 1 blank weave)" .
assert_contains 'bridge default' "$(mode 1 none -e WEAVE_CIDR=none)"

# What cannot be had leaves nothing behind.
assert_refused 'prefix length' p 1 run -d --name bad -e WEAVE_CIDR=10.2.1.5 lab
assert_refused 'one address in each subnet' p 1 run -d --name bad -e 'WEAVE_CIDR=10.2.1.5/24 10.2.1.6/24' lab
assert_refused 'IPv4' p 1 run -d --name bad -e WEAVE_CIDR=fd00::5/64 lab
assert_eq "$(d 1 ps -aq -f name=bad)" ''
assert_refused 'already used' p 2 run -d --name taken -e 'WEAVE_CIDR=net:default 10.60.9.9/16' lab
assert_eq "$(d 2 inspect -f '{{.State.Running}}' taken)" false
holder() { weave 2 ipam lookup "$(d 2 inspect -f '{{.Id}}' taken)"; }
assert_eq "$(holder)" ''
d 2 rm taken >/dev/null

# Containers with a network of their own.
d 1 network create web >/dev/null
for network in host none web; do assert_eq "$(mode 1 left --network $network)" $network; done
assert_contains "$(mode 1 left --network container:c1)" container:
d 1 network rm web >/dev/null
assert_contains "$(weave 1 status proxy)" 'serving unix://'

# Back again by Docker alone: without the proxy, after restarts of container, daemon and engine.
p 1 update --restart always c1 >/dev/null
weave 1 stop-proxy
assert_refused 'connect' p 1 ps
assert_refused 'the proxy is off' weave 1 env
p 2 restart -t 1 c2 >/dev/null
two=$(address 2 c2 weave)
wait_for 5 reaches 1 c1 "$two"
d 1 restart -t 1 weave >/dev/null
wait_for 15 has_connections 1 1
assert_refused 'the proxy is off' weave 1 env
weave 1 launch-proxy >/dev/null
wait_for 5 p 1 version
d 1 restart -t 1 weave >/dev/null
wait_for 15 p 1 version
lab dockerd 1 restart
wait_for 30 running 1 c1
wait_for 15 has_connections 1 1
one=$(address 1 c1 weave)
wait_for 10 reaches 2 c2 "$one"
wait_for 5 names 2 c2 c1 "$one"
wait_for 10 p 1 version
launch_down
