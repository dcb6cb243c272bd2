# What the tests of the path MTU share; source it after lib.sh.
# shellcheck shell=bash

# Two hosts with a container each that has an IPv4 and an IPv6 address, and servers in both.
path_setup() {
  mesh_up 2 WEAVE_PASSWORD=correct-horse
  path_network
}

path_network() {
  local number
  for number in 1 2; do
    network $number web --ipv6 --ipam-driver "$PLUGIN" --subnet 10.40.0.0/16 --subnet fd00:40::/64
    run $number c$number web
    there[number]=$(address $number c$number web)
    there6[number]=$(d $number inspect -f '{{.NetworkSettings.Networks.web.GlobalIPv6Address}}' c$number)
    inside[number]=$(container_pid $number c$number)
    d $number exec -d c$number socat -u -b 65535 UDP4-RECV:7002 OPEN:/tmp/heard,creat,append
  done
  wait_for 10 reaches 1 c1 "${there[2]}"
  d 2 exec -d c2 iperf3 -s
  wait_for 5 d 1 exec c1 iperf3 -c "${there[2]}" -n 1K
}

inside() { on "$1" nsenter -t "${inside[$1]}" -n "${@:2}"; } # N CMD...: in the container's namespace

path_mtu() { report "$1" | jq '.tunnel.peers[0].mtu // 0'; } # 0: not known yet

fits() { # BYTES: what the tunnel found for an underlay of so many
  local number found
  for number in 1 2; do
    found=$(path_mtu $number)
    ((found <= $1 - 82 && found >= $1 - 82 - 16)) || return 1
  done
}

# From this second on bytes arrived in every interval, in both directions where there are two. The
# last one may be too short for any.
never_stalls() { # FILE SECOND
  jq -e --argjson from "$2" '[.intervals[] | .sum, .sum_bidir_reverse // empty
    | select(.start >= $from - 0.1 and .seconds > 0.5)] | length > 0 and all(.bytes > 0)' "$1" >/dev/null
}

empty_seconds() { # FILE: in how many, of the worse direction, nothing arrived
  jq '[[.intervals[].sum], [.intervals[].sum_bidir_reverse] | map(select(.seconds > 0.5 and .bytes == 0)) | length] | max' "$1"
}

transfers() { # WHAT: 1 GB and a large datagram each way
  local begin way
  begin=$(now_ms)
  for way in '' -R; do
    # shellcheck disable=SC2086
    d 1 exec c1 timeout 40 iperf3 -c "${there[2]}" -n 1000M -i 1 --json $way >"$WORK/iperf" || fail "a transfer over $1 $way"
    never_stalls "$WORK/iperf" 0 || fail "a transfer stalled over $1 $way"
  done
  echo "$1: 1 GB each way in $(($(now_ms) - begin)) ms"
  datagram 1 2
  datagram 2 1
}

datagram() { # FROM TO: one of 60000 bytes arrives
  d "$2" exec "c$2" truncate -s 0 /tmp/heard
  # From a file, as a pipe may be read in parts: datagrams that fit the interface and must not be fragmented.
  d "$1" exec "c$1" sh -c "truncate -s 60000 /tmp/large; socat -u -b 65000 OPEN:/tmp/large,rdonly UDP4-SENDTO:${there[$2]}:7002"
  arrived() { [[ $(d "$1" exec "c$1" stat -c %s /tmp/heard) == 60000 ]]; }
  wait_for 5 arrived "$2"
}

# While a transfer runs both ways the underlay changes, in its second second; bytes go on arriving, in
# every second from the given one on.
changes_meanwhile() { # SECOND WHAT CMD...
  local second=$1
  shift
  # Written by a process of its own, as the change must not wait for it.
  d 1 exec c1 timeout 30 iperf3 -c "${there[2]}" --bidir -t 8 -i 1 --json >"$WORK/iperf" &
  local transfer=$!
  sleep 1.5 # into the transfer
  "${@:2}"
  wait $transfer || fail "a transfer while $1: $(jq -r .error "$WORK/iperf")"
  echo "$1: $(empty_seconds "$WORK/iperf") s without bytes"
  never_stalls "$WORK/iperf" "$second" || fail "stalled while $1: $(jq -c '[.intervals[] | .sum.bytes, .sum_bidir_reverse.bytes]' "$WORK/iperf")"
}

ping_whole() { # FROM TO 4|6 BYTES: an IP packet of so many bytes that nobody may fragment
  local target=${there[$2]} headers=28
  if [[ $3 == 6 ]]; then target=${there6[$2]} headers=48; fi
  inside "$1" ping "-$3" -n -c 1 -W 2 -M 'do' -s $(($4 - headers)) "$target" 2>&1
}

# Packets that must not be fragmented: as large as fits they arrive; one more byte is answered with
# what fits, once it is known that no more does.
answers_too_large() { # FROM TO
  wait_for 20 answers_exactly "$@" 4
  # What takes IPv6 has to carry 1280 bytes, and nobody may be told less: the tunnel cuts it then.
  if (($(path_mtu "$1") >= 1280)); then wait_for 5 answers_exactly "$@" 6; else
    ping_whole "$@" 6 1290 >/dev/null || fail "c$1: IPv6 of 1290 bytes does not arrive"
  fi
}

answers_exactly() { # FROM TO 4|6
  local mtu answer
  mtu=$(path_mtu "$1")
  if answer=$(ping_whole "$@" $((mtu + 1))); then echo "too large for $mtu, and arrived: $answer"; return 1; fi
  echo "told, where $mtu fit: $answer"
  grep -qE "mtu ?[=:] ?$mtu\b" <<<"$answer" && ping_whole "$@" "$mtu"
}
