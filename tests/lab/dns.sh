# What the tests of weaveDNS share.
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Where host N serves names.
dns_server() { report "$1" | jq -r '.dns.listening.Ok // empty' | cut -d: -f1; }
dns_serves() { [[ -n $(dns_server "$1") ]]; }

dns_up() { # N [K=V...]: hosts that serve names
  mesh_up "$1" WEAVE_DNS=true "${@:2}"
  local number
  for ((number = 1; number <= $1; number++)); do wait_for 10 dns_serves "$number"; done
}

dns_run() { # N NAME NETWORK [ARGS...]: a container that uses weaveDNS
  local arguments
  arguments=$(weave "$1" dns-args) || return 1
  # shellcheck disable=SC2086
  run "$1" "$2" "$3" $arguments "${@:4}"
}

dns_ask() { # N NAME [TYPE...]: as host N itself
  on "$1" timeout 10 python3 "$HERE/dns.py" ask "$(dns_server "$1")" "${@:2}"
}

dns_ask_in() { # N CONTAINER NAME [TYPE...]: from the container's namespace, past Docker's own DNS
  on "$1" nsenter -t "$(container_pid "$1" "$2")" -n timeout 10 python3 "$HERE/dns.py" ask "$(dns_server "$1")" "${@:3}"
}

says() { # EXPECTED CMD...
  local said
  said=$("${@:2}") || return 1
  [[ $said == "$1" ]] || { echo "expected '$1', got '$said'"; return 1; }
}

# What the container's own resolver makes of a name: all addresses in a line.
resolves() { # N CONTAINER NAME
  lookup "$@" | paste -sd' '
}
