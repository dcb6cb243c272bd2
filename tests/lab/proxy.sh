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

# The same calls to host 1's engine past the proxy and through it: what they print is the same, in at least
# 60 lines of `CALL: OUTCOME`.
same_both_ways() { # COMMAND, which takes where the API is
  local past through calls
  past=$("$1" unix:///run/docker.sock)
  through=$("$1" unix:///run/weave/weave.sock)
  echo "$through"
  diff <(echo "$past") <(echo "$through") || fail 'the proxy is not the same'
  calls=$(grep -c '^[a-z0-9 =-]*: ' <<<"$through")
  ((calls >= 60)) || fail "expected 60 calls, got $calls"
  echo "$calls calls are the same"
}
