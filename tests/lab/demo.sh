#!/usr/bin/env bash
# Two Docker Engines on this machine, the plugin on both, one network: containers ping each other.
export LAB=${LAB:-demo}
. "$(dirname "$0")/lib.sh"
trap 'code=$?; lab down; exit $code' EXIT

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { # N CMD...: as if typed on host N
  printf 'host%s# %s\n' "$1" "${*:2}"
  on "$@"
}

lab down
say "Two hosts, each with a Docker Engine of its own"
lab up 2
lab image
lab ps

say "The plugin on both, told about one other"
lab plugin all install "WEAVE_PEERS=$UNDERLAY.1 $UNDERLAY.2"
mesh_ready 2
show 1 docker plugin ls
printf 'host1# weave status\n'
weave 1 status

say "A network on both, and a container on each"
for number in 1 2; do
  show $number docker network create -d "$PLUGIN" --subnet 10.32.0.0/16 --ip-range "10.32.$number.0/24" web
  show $number docker run -d --name "hello$number" --network web lab
done

say "They ping each other"
wait_for 10 reaches 1 hello1 "$(address 2 hello2 web)"
show 1 docker exec hello1 ping -c 3 "$(address 2 hello2 web)"
show 2 docker exec hello2 ping -c 3 "$(address 1 hello1 web)"

say "That was it: cleaning up. To play with it yourself: make lab"
