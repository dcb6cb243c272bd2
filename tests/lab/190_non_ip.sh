#!/usr/bin/env bash
# Frames that are not IP cross hosts too, to all and to one, and stay in their network.
. "$(dirname "$0")/lib.sh"

mesh_up 2
local_network 2 red 10.40
local_network 2 blue 10.41
run 1 sender red
run 2 receiver red
run 2 stranger blue
device() { interface "$1" "$2" "$(address "$1" "$2" "$3")"; }
mac() { d "$1" exec "$2" cat "/sys/class/net/$(device "$1" "$2" "$3")/address"; }

listen() { # CONTAINER NETWORK
  d 2 exec -d "$1" socat -u "INTERFACE:$(device 2 "$1" "$2")" CREATE:/tmp/frames
  wait_for 5 d 2 exec "$1" test -e /tmp/frames
}
has_heard() { d 2 exec "$1" grep -q "$2" /tmp/frames; } # CONTAINER WORD

send() { # MAC WORD: in a frame of the type for local experiments (IEEE 802, 0x88b5)
  local from
  from=$(mac 1 sender red)
  d 1 exec sender sh -c "printf '\\x${1//:/\\x}\\x${from//:/\\x}\\x88\\xb5%-50s' $2 | socat -u - INTERFACE:$(device 1 sender red)"
}

listen receiver red
listen stranger blue
send ff:ff:ff:ff:ff:ff to-all
wait_for 5 has_heard receiver to-all
send "$(mac 2 receiver red)" to-one
wait_for 5 has_heard receiver to-one
send "$(mac 2 stranger blue)" to-other
# Frames keep their order: what came later tells that the former did not come.
send "$(mac 2 receiver red)" the-last
wait_for 5 has_heard receiver the-last
! has_heard stranger to- || fail "a frame left its network"
