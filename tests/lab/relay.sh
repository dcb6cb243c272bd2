# What the tests of partial meshes share; source it after lib.sh.
# shellcheck shell=bash

# Hosts of which each hears its neighbours alone. NEIGHBOURS has an entry for each host.
partial_mesh() { # NEIGHBOURS [K=V...]
  local -n neighbours=$1
  local number other count=${#neighbours[@]} peers
  lab_up "$count"
  for ((number = 1; number <= count; number++)); do
    on $number nft "add table inet apart; add chain inet apart in { type filter hook input priority -300; }"
    peers=()
    for ((other = 1; other <= count; other++)); do
      if [[ " ${neighbours[number]} " == *" $other "* ]]; then peers+=("$UNDERLAY.$other"); continue; fi
      on $number nft "add rule inet apart in ip saddr $UNDERLAY.$other meta l4proto { tcp, udp } th dport { 6783, 6784 } drop"
    done
    lab plugin $number install "WEAVE_PEERS=${peers[*]}" WEAVE_NO_DISCOVERY=true "${@:2}"
  done
  # shellcheck disable=SC2086
  for ((number = 1; number <= count; number++)); do wait_for 15 has_connections $number "$(wc -w <<<"${neighbours[number]}")"; done
}

# Nothing of these protocols gets from one of the two to the other any more.
sever() { # N M PROTOCOLS
  on "$1" nft "add rule inet apart in ip saddr $UNDERLAY.$2 meta l4proto $3 th dport 6783 drop"
  on "$2" nft "add rule inet apart in ip saddr $UNDERLAY.$1 meta l4proto $3 th dport 6783 drop"
  # The answers of a session in place.
  on "$1" nft "add rule inet apart in ip saddr $UNDERLAY.$2 meta l4proto $3 th sport 6783 drop"
  on "$2" nft "add rule inet apart in ip saddr $UNDERLAY.$1 meta l4proto $3 th sport 6783 drop"
}

last_logged() { lab log "$1" | grep 'transport chosen' | grep "host$2" | tail -n 1 | grep -q "$3"; } # N M WORDS

# A network for multicast on hosts 1 to N, a container on each that listens; their addresses in `there`.
listeners() { # N
  local number
  local_network "$1" web 10.40 --opt works.weave.multicast
  for ((number = 1; number <= $1; number++)); do run $number c$number web; done
  for ((number = 1; number <= $1; number++)); do
    there[number]=$(address $number c$number web)
    dev=$(interface $number c$number "${there[number]}")
    d $number exec -d c$number sh -c "socat -u UDP4-RECV:7001,ip-add-membership=239.1.2.3:$dev OPEN:/tmp/heard,creat,append"
    wait_for 5 d $number exec c$number sh -c "/usr/bin/ip maddr show dev $dev | grep -q 239.1.2.3"
  done
}

# Ten broadcasts and ten multicasts of each of N arrive at all others, once.
all_hear_all_once() { # N
  local number send
  for ((number = 1; number <= $1; number++)); do d $number exec c$number truncate -s 0 /tmp/heard; done
  send="for i in 0 1 2 3 4 5 6 7 8 9; do echo \$0 \$i | socat -u - UDP4-DATAGRAM:10.40.255.255:7001,broadcast
    echo \$0 m\$i | socat -u - UDP4-DATAGRAM:239.1.2.3:7001,ip-multicast-ttl=4,ip-multicast-loop=0; done"
  for ((number = 1; number <= $1; number++)); do d $number exec c$number sh -c "$send" c$number; done
  for ((number = 1; number <= $1; number++)); do wait_for 5 complete $number "$1"; done
  stays 1 complete "$1" "$1"
  for ((number = 1; number <= $1; number++)); do
    [[ -z $(heard_by $number | uniq -d) ]] || fail "c$number heard something twice"
  done
}

# What others said; a broadcast of its own may come back to it.
heard_by() { d "$1" exec "c$1" sort /tmp/heard | grep -v "^c$1 "; }
complete() { [[ $(heard_by "$1" | sort -u | wc -l) == $((20 * ($2 - 1))) ]]; } # N OF
