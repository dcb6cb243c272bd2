# What the tests of address allocation share; source it after lib.sh.
# shellcheck shell=bash

# A network with addresses from the plugin's IPAM, on hosts 1 to N.
ipam_network() { # N NAME [ARGS...]
  local number
  for ((number = 1; number <= $1; number++)); do
    network "$number" "$2" --ipam-driver "$PLUGIN" "${@:3}"
  done
}

ipam() { report "$1" | jq -c "$2 // empty" --raw-output; } # N JQ: of host N's report

# How many addresses of the main range host N's peer has, by nickname, as host M sees it.
owned() { # M N
  ipam "$1" ".ipam.spaces[0].peers[] | select(.nickname == \"host$2\") | .addresses"
}

owns_something() { [[ $(owned "$1" "$2") -gt 0 ]]; }
owns_nothing() { local has; has=$(owned "$1" "$2"); [[ ${has:-0} == 0 ]]; }

ring() { ipam "$1" .ipam.ring; }
has_ring() { [[ -n $(ring "$1") ]]; }

# Nothing of the main range is out of reach, as host N sees it, and all of it is somebody's.
nothing_lost() { # N
  [[ $(report "$1" | jq '.ipam.spaces[0] | .unreachable + .unaccounted') == 0 ]]
}

conflicts_contain() { # N WORDS
  ipam "$1" '.ipam.conflicts[]' | grep -qiF -- "$2"
}

no_conflicts() { [[ -z $(ipam "$1" '.ipam.conflicts[]') ]]; }

# The container's own view, with prefix length.
own_address() { # N CONTAINER
  d "$1" exec "$2" /usr/bin/ip -o -4 addr show | awk '$2 ~ /^ethwe/ {print $4}'
}

subnet() { # N NETWORK [INDEX]
  d "$1" network inspect -f "{{(index .IPAM.Config ${3:-0}).Subnet}}" "$2"
}

# Several containers on one network of one host, one after the other; prints HOST ADDRESS of each.
run_many() { # N PREFIX NETWORK COUNT
  local nth
  for ((nth = 1; nth <= $4; nth++)); do
    run "$1" "$2$nth" "$3"
    echo "host$1 $(address "$1" "$2$nth" "$3")"
  done
}

# HOST ADDRESS of each container on a network, on hosts 1 to N.
all_addresses() { # N NETWORK
  local number id
  for ((number = 1; number <= $1; number++)); do
    for id in $(d $number ps -q -f network="$2"); do echo "host$number $(address $number "$id" "$2")"; done
  done
}

# Lines of HOST ADDRESS: no address twice, none missing.
assert_unique() { # FILE COUNT
  assert_eq "$(awk 'NF == 2 {print $2}' "$1" | wc -l)" "$2" "addresses granted"
  local twice
  twice=$(awk '{print $2}' "$1" | sort | uniq -d)
  [[ -z $twice ]] || fail "$(wc -l <<<"$twice") addresses given twice, as $(awk -v one="${twice%%$'\n'*}" '$2 == one' "$1" | paste -sd ' ')"
}

# One of the IPAM driver's calls, over the socket that the engine uses.
call() { # N METHOD JSON
  # shellcheck disable=SC2016
  on "$1" sh -c 'curl -s --max-time 10 --unix-socket /run/docker/plugins/*/weave.sock -d "$2" "http://plugin/IpamDriver.$1"' - "$2" "$3"
}

pool_id() { # N SUBNET
  call "$1" RequestPool "{\"AddressSpace\":\"weavelocal\",\"Pool\":\"$2\"}" | jq -r .PoolID
}

kill_daemon() { on "$1" kill -9 "$(daemon_pid "$1")"; }

# The engine starts a plugin that has died again.
daemon_answers() { status "$1" >/dev/null; }
