#!/usr/bin/env bash
# Docker's own API elsewhere than usual: `weave launch` takes it from where the launching client reaches
# Docker, or as told, and the whole daemon goes there; the managed plugin is told by its setting.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/proxy.sh"

lab_up 1
elsewhere=/etc/docker/engine/docker.sock
on 1 mkdir -p /etc/docker/engine /var/lib/engine
engine_at() { # SOCKET: host 1's engine listens there alone
  lab dockerd 1 restart --host unix:///run/docker.sock --host "unix://$1"
  on 1 rm /run/docker.sock
}
e() { on 1 env DOCKER_HOST=unix://$elsewhere "$@"; } # a command whose Docker is elsewhere
joins() { # NAME: a container through the proxy
  assert_contains "$(p 1 run --rm --name "$1" lab sh -c 'ip -o -4 addr; hostname -f')" "$1.weave.local"
}
in_force() { weave 1 status settings | awk '$1 == "WEAVE_DOCKER_SOCKET"'; }
has_network() { e docker network inspect weave >/dev/null; }

engine_at $elsewhere
assert_refused 'DOCKER_HOST=unix' launch 1
e timeout 90 "$WEAVE" launch >/dev/null
wait_for 15 has_network
wait_for 10 p 1 version
joins first
assert_contains "$(in_force)" "unix://$elsewhere"
e docker run -d --name c1 --network none lab >/dev/null
assert_contains "$(weave 1 attach net:10.2.1.0/24 c1)" 10.2.1.
assert_contains "$(weave 1 ps)" 10.2.1.
assert_eq "$(on 1 stat -L -c '%a %u %g' /run/weave/weave.sock)" "$(on 1 stat -c '%a %u %g' $elsewhere)"

# The engine makes its socket anew, and the daemon with it.
engine_at $elsewhere
wait_for 20 has_network
wait_for 20 p 1 version
joins again

# A client that was led to the proxy means Docker itself, and comes back to it.
environment=$(e "$WEAVE" env)
assert_eq "$environment" "export DOCKER_HOST=unix:///var/run/weave/weave.sock ORIG_DOCKER_HOST=unix://$elsewhere"
assert_refused 'running already' e bash -c "$environment; $WEAVE launch"
e "$WEAVE" stop >/dev/null
assert_eq "$(e docker ps -aq -f name=weave)" ''
e bash -c "$environment; timeout 90 $WEAVE launch" >/dev/null
wait_for 10 p 1 version
joins led
e docker rm -f c1 >/dev/null
e "$WEAVE" stop >/dev/null

# As told, also through a link; what cannot be is refused.
on 1 ln -s $elsewhere /run/link.sock
launch 1 --docker-socket=/run/link.sock >/dev/null
wait_for 10 p 1 version
joins linked
e timeout 30 "$WEAVE" reset --force 2>/dev/null
assert_eq "$(e docker network ls -q -f name=weave)" ''
on 1 mkdir /etc/docker/a:b
on 1 ln -s $elsewhere /etc/docker/a:b/link.sock
assert_refused 'would not see' launch 1 --docker-socket=/etc/docker/a:b/link.sock

# The managed plugin sees what is below /run and /var/lib.
elsewhere=/var/lib/engine/docker.sock
lab dockerd 1 restart --host unix:///run/docker.sock --host "unix://$elsewhere"
lab plugin 1 install WEAVE_PEERS= WEAVE_DOCKER_SOCKET=unix:///etc/docker/engine/docker.sock
wait_for 15 plugin_enabled 1
assert_contains "$(weave 1 status)" 'expected a socket that is to be seen from here'
lab plugin 1 disable -f
lab plugin 1 set WEAVE_DOCKER_SOCKET=unix://$elsewhere
lab plugin 1 enable
wait_for 15 plugin_enabled 1
network 1 weave --ipam-driver "$PLUGIN" --subnet 10.32.0.0/12
on 1 mv /run/docker.sock /run/moved.sock
weave 1 launch-proxy >/dev/null
wait_for 5 p 1 version
assert_contains "$(in_force)" "unix://$elsewhere"
assert_contains "$(p 1 run --rm lab ip -o -4 addr)" ethwe
weave 1 stop-proxy
on 1 mv /run/moved.sock /run/docker.sock
