#!/usr/bin/env bash
# Without a password VXLAN carries frames while it gets through; blocked, the tunnel; that blocked as
# well, another host. Each change is in the status and in the log, and ends with the block.
. "$(dirname "$0")/lib.sh"

mesh_up 3
local_network 3 web 10.40
for number in 1 2 3; do run $number c$number web; done
there=$(address 2 c2 web)

block() { # N PORT: to and from host 2
  on "$1" nft "add table inet block; add chain inet block in { type filter hook input priority -300; }; add chain inet block out { type filter hook output priority -300; }"
  on "$1" nft "add rule inet block in ip saddr $UNDERLAY.2 udp dport $2 drop; add rule inet block out ip daddr $UNDERLAY.2 udp dport $2 drop"
}
unblock() { on "$1" nft delete table inet block; }
both_go_by() { goes_by 1 2 "$1" && goes_by 2 1 "$1"; }
# Which way frames really go.
device_of() { # N MAC: the port behind which the bridge has it
  on "$1" bridge -n weave fdb show | awk -v mac="$2" '$1 == mac && /master/ && !/self/ {print substr($3, 1, 2)}' | sort -u
}
mac=$(d 2 exec c2 cat "/sys/class/net/$(interface 2 c2 "$there")/address")
logged() { lab log "$1" | grep 'transport chosen' | tail -n 3 | grep -q "host$2.*$3"; }

wait_for 10 both_go_by vxlan
wait_for 5 reaches 1 c1 "$there"
wait_for 5 logged 1 2 vxlan
assert_eq "$(device_of 1 "$mac")" vx "port of c2 on host1"

changes() { # SECONDS TRANSPORT WORDS
  local begin
  begin=$(now_ms)
  wait_for "$1" both_go_by "$2"
  wait_for "$1" reaches 1 c1 "$there"
  echo "$2 after $(($(now_ms) - begin)) ms: $(transport 1 2)"
  assert_at_most $(($(now_ms) - begin)) $(($1 * 1000)) "milliseconds until containers talk by $2"
  assert_contains "$(transport 1 2)" "$3"
  wait_for 2 logged 1 2 "$2"
}

block 1 6784
changes 5 tunnel 'UDP 6784 does not get through'
assert_eq "$(device_of 1 "$mac")" vt "port of c2 on host1"
goes_by 1 3 vxlan || fail "host 3 is reached otherwise than before"
weave 1 status connections | grep host2 | grep -q tunnel || fail "status does not name the transport"
block 1 6783
changes 15 tunnel 'by way of'
reaches 2 c2 "$(address 1 c1 web)"
d 2 exec -d c2 iperf3 -s
wait_for 5 d 1 exec c1 iperf3 -c "$there" -n 1K
d 1 exec c1 iperf3 -c "$there" -n 20M >/dev/null

unblock 1
changes 15 vxlan 'no password is set'
assert_eq "$(device_of 1 "$mac")" vx "port of c2 on host1"
# An unblocked mesh forgets nothing: the others never moved.
goes_by 3 1 vxlan && goes_by 3 2 vxlan || fail "host 3 reaches others otherwise than before"
