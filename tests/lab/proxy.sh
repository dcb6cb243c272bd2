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

# The same calls to host 1's engine past the proxy and through it: what they print is the same, for at least
# 60 kinds of calls, a line of `CALL: OUTCOME` for each; `said` tells what is right.
same_both_ways() { # COMMAND, which takes where the API is
  local past kinds
  past=$("$1" unix:///run/docker.sock)
  through=$("$1" unix:///run/weave/weave.sock)
  echo "$through"
  diff <(echo "$past") <(echo "$through") || fail 'the proxy is not the same'
  kinds=$(grep -o '^[a-z0-9 =-]*: ' <<<"$through" | sort -u | wc -l)
  ((kinds >= 60)) || fail "expected 60 kinds of calls, got $kinds"
  echo "$kinds kinds of calls are the same"
}

said() { # LINE...: what same_both_ways printed
  local line
  for line in "$@"; do grep -qxF -- "$line" <<<"$through" || fail "expected the outcome '$line'"; done
}
