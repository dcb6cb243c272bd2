# What the tests of the Docker API proxy share. Source it after lib.sh.
# shellcheck shell=bash
. "$(dirname "$0")/launch.sh"

p() { on "$1" docker -H unix:///var/run/weave/weave.sock "${@:2}"; } # docker on host N, through the proxy

names() { [[ $(lookup "$1" "$2" "$3") == "$4" ]]; } # N CONTAINER NAME ADDRESS

running() { [[ $(d "$1" inspect -f '{{.State.Running}}' "$2") == true ]]; }

# The network mode of a container made through the proxy, which is removed again.
mode() { # N NAME ARGS...
  p "$1" create --name "$2" "${@:3}" lab >/dev/null
  d "$1" inspect -f '{{.HostConfig.NetworkMode}}' "$2"
  d "$1" rm -f "$2" >/dev/null
}
