#!/usr/bin/env bash
# A chain of four hosts, each of which reaches its neighbours alone: the others pass on what is for the
# rest, broadcasts and multicasts included, and nothing arrives twice.
. "$(dirname "$0")/lib.sh"

lab_up 4
neighbours=('' 2 '1 3' '2 4' 3)
for number in 1 2 3 4; do
  on $number nft "add table inet chain4; add chain inet chain4 in { type filter hook input priority -300; }"
  for other in 1 2 3 4; do
    [[ " ${neighbours[number]} $number " == *" $other "* ]] && continue
    on $number nft "add rule inet chain4 in ip saddr $UNDERLAY.$other meta l4proto { tcp, udp } th dport { 6783, 6784 } drop"
  done
  peers=()
  for other in ${neighbours[number]}; do peers+=("$UNDERLAY.$other"); done
  lab plugin $number install "WEAVE_PEERS=${peers[*]}" WEAVE_NO_DISCOVERY=true
done
for number in 1 4; do wait_for 15 has_connections $number 1; done
for number in 2 3; do wait_for 15 has_connections $number 2; done

local_network 4 web 10.40 --opt works.weave.multicast
for number in 1 2 3 4; do run $number c$number web; done
for number in 1 2 3 4; do there[number]=$(address $number c$number web); done
begin=$(now_ms)
wait_for 15 reaches 1 c1 "${there[4]}"
wait_for 15 reaches 1 c1 "${there[3]}"
wait_for 15 reaches 2 c2 "${there[4]}"
echo "relayed after $(($(now_ms) - begin)) ms"
transport() { report "$1" | jq -r ".transports[] | select(.nickname == \"host$2\") | .transport + \" \" + .reason"; }
goes_by() { [[ $(transport "$1" "$2") == "$3"* ]]; }
for way in '1 4' '4 1' '1 3' '2 4'; do
  # shellcheck disable=SC2086
  wait_for 10 goes_by $way 'tunnel the peer is reached by way of'
done
wait_for 10 goes_by 1 2 vxlan
all_reach_all 1:c1:"${there[1]}" 2:c2:"${there[2]}" 3:c3:"${there[3]}" 4:c4:"${there[4]}"

# Ten broadcasts and ten multicasts of each arrive at all others, once.
for number in 1 2 3 4; do
  dev=$(interface $number c$number "${there[number]}")
  d $number exec -d c$number sh -c "socat -u UDP4-RECV:7001,ip-add-membership=239.1.2.3:$dev CREATE:/tmp/heard"
  wait_for 5 d $number exec c$number sh -c "/usr/bin/ip maddr show dev $dev | grep -q 239.1.2.3"
done
send="for i in 0 1 2 3 4 5 6 7 8 9; do echo \$0 \$i | socat -u - UDP4-DATAGRAM:10.40.255.255:7001,broadcast
  echo \$0 m\$i | socat -u - UDP4-DATAGRAM:239.1.2.3:7001,ip-multicast-ttl=4,ip-multicast-loop=0; done"
for number in 1 2 3 4; do d $number exec c$number sh -c "$send" c$number; done
complete() { # N: 20 of each other
  local other
  for other in 1 2 3 4; do
    [[ $other == "$1" ]] || [[ $(d "$1" exec "c$1" grep -c "^c$other " /tmp/heard) == 20 ]] || return 1
  done
}
for number in 1 2 3 4; do wait_for 5 complete $number; done
stays 1 complete 4
for number in 1 2 3 4; do
  [[ -z $(d $number exec c$number sort /tmp/heard | grep -v "^c$number " | uniq -d) ]] || fail "c$number heard something twice"
done
# Large transfers end.
d 4 exec -d c4 iperf3 -s
wait_for 5 d 1 exec c1 iperf3 -c "${there[4]}" -n 1K
d 1 exec c1 timeout 20 iperf3 -c "${there[4]}" -n 50M >/dev/null
d 1 exec c1 timeout 20 iperf3 -c "${there[4]}" -n 50M -R >/dev/null
