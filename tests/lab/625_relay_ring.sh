#!/usr/bin/env bash
# A ring of six hosts with a password, each of which reaches its two neighbours alone: there are two ways
# to everybody, and still nothing goes round or arrives twice, also when the ring is cut.
. "$(dirname "$0")/lib.sh"
. "$HERE/relay.sh"

# shellcheck disable=SC2034
ring=([1]='6 2' [2]='1 3' [3]='2 4' [4]='3 5' [5]='4 6' [6]='5 1')
partial_mesh ring WEAVE_PASSWORD=correct-horse
listeners 6

# Neighbours directly, the others by way of a neighbour: so say status and the last line of the log.
ways() {
  local number other
  for number in 1 2 3 4 5 6; do
    for other in 1 2 3 4 5 6; do
      [[ $number != "$other" ]] || continue
      if [[ " ${ring[number]} " == *" $other "* ]]; then goes_by $number $other 'tunnel a password is set' || return 1; continue; fi
      goes_by $number $other 'tunnel the peer is reached by way of' || return 1
      last_logged $number $other 'tunnel.*by way of' || return 1
    done
  done
}
wait_for 20 ways
everybody() {
  all_reach_all 1:c1:"${there[1]}" 2:c2:"${there[2]}" 3:c3:"${there[3]}" 4:c4:"${there[4]}" 5:c5:"${there[5]}" 6:c6:"${there[6]}"
}

underlay_packets() { # all that the hosts got
  local number
  for number in 1 2 3 4 5 6; do on $number cat /sys/class/net/eth0/statistics/rx_packets; done | awk '{sum += $1} END {print sum}'
}
idle_packets() { # within three seconds in which nobody says anything
  local before
  before=$(underlay_packets)
  sleep 3
  echo $(($(underlay_packets) - before))
}
quiet=$(idle_packets)
everybody
all_hear_all_once 6
# What goes round would go round for ever, thousands of times a second.
nothing_goes_round() {
  local now
  now=$(idle_packets)
  echo "idle: $now packets on the underlay in 3 s, $quiet before anybody said anything"
  assert_at_most "$now" $((quiet * 2 + 200)) "packets on the idle underlay"
}
nothing_goes_round

# Cut between hosts 1 and 6 the ring is a chain of six, five passes from end to end.
sever 1 6 '{ tcp, udp }'
begin=$(now_ms)
wait_for 30 reaches 1 c1 "${there[6]}"
took=$(($(now_ms) - begin))
ends_relayed() {
  local way
  for way in '1 6 2' '6 1 5'; do
    read -r number other via <<<"$way"
    goes_by $number $other 'tunnel the peer is reached by way of' || return 1
    assert_eq "$(report $number | jq -r ".tunnel.peers[] | select(.nickname == \"host$other\").via")" "host$via" "who passes on"
    last_logged $number $other 'tunnel.*by way of' || return 1
  done
}
wait_for 10 ends_relayed
echo "cut: the ends talk after $took ms"
all_hear_all_once 6
nothing_goes_round
