#!/usr/bin/env bash
# Without a password VXLAN carries frames while it gets through; blocked, the tunnel; that blocked as
# well, another host. Each change is in the status and in the log, and ends with the block.
. "$(dirname "$0")/lib.sh"

mesh_up 3
local_network 3 web 10.40
for number in 1 2 3; do run $number c$number web; done
there=$(address 2 c2 web)

block_in() { # N PORT: from host 2 alone
  on "$1" nft "add table inet block; add chain inet block in { type filter hook input priority -300; }"
  on "$1" nft "add rule inet block in ip saddr $UNDERLAY.2 udp dport $2 drop"
}
block() { # N PORT: to and from host 2
  block_in "$1" "$2"
  on "$1" nft "add chain inet block out { type filter hook output priority -300; }; add rule inet block out ip daddr $UNDERLAY.2 udp dport $2 drop"
}
unblock() { on "$1" nft delete table inet block; }
both_go_by() { goes_by 1 2 "$1" && goes_by 2 1 "$1"; }
# Which way frames really go.
device_of() { # N MAC: the port behind which the bridge has it
  on "$1" bridge -n weave fdb show | awk -v mac="$2" '$1 == mac && /master/ && !/self/ {print substr($3, 1, 2)}' | sort -u
}
mac=$(d 2 exec c2 cat "/sys/class/net/$(interface 2 c2 "$there")/address")
# Each step reads what the log says since it began.
choices() { lab log "$1" | grep 'transport chosen.*host'"$2" || true; } # N M
begins() { for number in 1 2; do seen[number]=$(choices $number $((3 - number)) | wc -l); done; }
logged() { # TRANSPORT REASON: both hosts said so as the last thing since the step began
  local number lines
  for number in 1 2; do
    lines=$(choices $number $((3 - number)) | tail -n "+$((seen[number] + 1))")
    tail -n 1 <<<"$lines" | grep "transport=.*$1" | grep -qF "$2" || { echo "host$number: $lines"; return 1; }
  done
}
seen=([1]=0 [2]=0)

wait_for 10 both_go_by vxlan
wait_for 5 reaches 1 c1 "$there"
wait_for 5 logged vxlan 'no password is set and UDP 6784 gets through'
assert_eq "$(device_of 1 "$mac")" vx "port of c2 on host1"

changes() { # SECONDS TRANSPORT REASON CMD...: after the command, on both hosts
  local begin took
  begins
  "${@:4}"
  begin=$(now_ms)
  wait_for "$1" both_go_by "$2 $3"
  wait_for "$1" reaches 1 c1 "$there"
  took=$(($(now_ms) - begin))
  echo "$2 after $took ms: $(transport 1 2)"
  assert_at_most $took $(($1 * 1000)) "milliseconds until containers talk by $2"
  wait_for 2 logged "$2" "$3"
  for number in 1 2; do
    grep "host$((3 - number)) " <<<"$(weave $number status connections)" | grep "$2 " | grep -qF "$3" ||
      fail "status of host$number: $(weave $number status connections)"
  done
}

changes 5 tunnel 'UDP 6784 does not get through' block 1 6784
assert_eq "$(device_of 1 "$mac")" vt "port of c2 on host1"
goes_by 1 3 vxlan || fail "host 3 is reached otherwise than before"
changes 15 tunnel 'the peer is reached by way of' block 1 6783
reaches 2 c2 "$(address 1 c1 web)"
d 2 exec -d c2 iperf3 -s
wait_for 5 d 1 exec c1 iperf3 -c "$there" -n 1K
d 1 exec c1 iperf3 -c "$there" -n 20M >/dev/null

changes 15 vxlan 'no password is set and UDP 6784 gets through' unblock 1
assert_eq "$(device_of 1 "$mac")" vx "port of c2 on host1"

# Where one host alone hears nothing both go another way.
changes 5 tunnel 'UDP 6784 does not get through' block_in 1 6784
assert_eq "$(device_of 1 "$mac")" vt "port of c2 on host1"
reaches 2 c2 "$(address 1 c1 web)"
changes 15 vxlan 'no password is set and UDP 6784 gets through' unblock 1
# An unblocked mesh forgets nothing: the others never moved.
goes_by 3 1 vxlan && goes_by 3 2 vxlan || fail "host 3 reaches others otherwise than before"
