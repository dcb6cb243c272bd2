# What the tests of partial meshes share; source it after lib.sh.
# shellcheck shell=bash

# On hosts 1 to N at the same time.
on_all() { # N CMD...: the command gets the host's number as well
  local number pids=()
  for ((number = 1; number <= $1; number++)); do "${@:2}" $number & pids+=($!); done
  for number in "${pids[@]}"; do wait "$number"; done
}

# Hosts of which each hears its neighbours alone. NEIGHBOURS has an entry for each host.
partial_mesh() { # NEIGHBOURS [K=V...]
  local -n neighbours=$1
  local number count=${#neighbours[@]}
  settings=("${@:2}")
  lab_up "$count"
  on_all "$count" partial_host
  # shellcheck disable=SC2086
  for ((number = 1; number <= count; number++)); do wait_for 15 has_connections $number "$(wc -w <<<"${neighbours[number]}")"; done
}

partial_host() { # N
  local other peers=()
  on "$1" nft "add table inet apart; add chain inet apart in { type filter hook input priority -300; }"
  for ((other = 1; other <= count; other++)); do
    if [[ " ${neighbours[$1]} " == *" $other "* ]]; then peers+=("$UNDERLAY.$other"); continue; fi
    on "$1" nft "add rule inet apart in ip saddr $UNDERLAY.$other meta l4proto { tcp, udp } th dport { 6783, 6784 } drop"
  done
  lab plugin "$1" install "WEAVE_PEERS=${peers[*]}" WEAVE_NO_DISCOVERY=true "${settings[@]}"
}

# Nothing of these protocols gets from one of the two to the other any more.
sever() { # N M PROTOCOLS
  on "$1" nft "add rule inet apart in ip saddr $UNDERLAY.$2 meta l4proto $3 th dport 6783 drop"
  on "$2" nft "add rule inet apart in ip saddr $UNDERLAY.$1 meta l4proto $3 th dport 6783 drop"
  # The answers of a session in place.
  on "$1" nft "add rule inet apart in ip saddr $UNDERLAY.$2 meta l4proto $3 th sport 6783 drop"
  on "$2" nft "add rule inet apart in ip saddr $UNDERLAY.$1 meta l4proto $3 th sport 6783 drop"
}

# By its identifier: the way to a peer may be known before its nickname is.
last_logged() { # N M WORDS
  local peer
  peer=$(report "$1" | jq -r ".transports[] | select(.nickname == \"host$2\") | .peer")
  lab log "$1" | grep "transport chosen peer=[^=]*${peer::10}" | tail -n 1 | grep -q "$3"
}

# A network for multicast on hosts 1 to N, a container on each that listens; their addresses in `there`.
listeners() { # N
  local number
  on_all "$1" listener
  for ((number = 1; number <= $1; number++)); do
    there[number]=$(address $number c$number web)
    wait_for 5 joined $number "$(interface $number c$number "${there[number]}")"
  done
}

joined() { d "$1" exec "c$1" sh -c "/usr/bin/ip maddr show dev $2 | grep -q 239.1.2.3"; } # N INTERFACE

listener() { # N
  local dev
  network "$1" web --subnet 10.40.0.0/16 --ip-range "10.40.$1.0/24" --opt works.weave.multicast
  run "$1" "c$1" web
  dev=$(interface "$1" "c$1" "$(address "$1" "c$1" web)")
  d "$1" exec -d "c$1" sh -c "socat -u UDP4-RECV:7001,ip-add-membership=239.1.2.3:$dev OPEN:/tmp/heard,creat,append"
}

# Ten broadcasts and ten multicasts of each of N arrive at all others, once.
all_hear_all_once() { # N
  local number
  on_all "$1" forget
  on_all "$1" say
  for ((number = 1; number <= $1; number++)); do wait_for 5 complete $number "$1"; done
  stays 1 complete "$1" "$1"
  for ((number = 1; number <= $1; number++)); do
    [[ -z $(heard_by $number | uniq -d) ]] || fail "c$number heard something twice"
  done
}

forget() { d "$1" exec "c$1" truncate -s 0 /tmp/heard; } # N
say() { # N
  d "$1" exec "c$1" sh -c "for i in 0 1 2 3 4 5 6 7 8 9; do echo c$1 \$i | socat -u - UDP4-DATAGRAM:10.40.255.255:7001,broadcast
    echo c$1 m\$i | socat -u - UDP4-DATAGRAM:239.1.2.3:7001,ip-multicast-ttl=4,ip-multicast-loop=0; done"
}
# What others said; a broadcast of its own may come back to it.
heard_by() { d "$1" exec "c$1" sort /tmp/heard | grep -v "^c$1 "; }
complete() { [[ $(heard_by "$1" | sort -u | wc -l) == $((20 * ($2 - 1))) ]]; } # N OF
