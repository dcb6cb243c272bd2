#!/usr/bin/env bash
# Containers of two networks cannot reach each other, on one host or two, not even with forged
# addresses and neighbours.
. "$(dirname "$0")/lib.sh"

mesh_up 2
local_network 2 red 10.40
local_network 2 blue 10.41
run 1 red1 red --cap-add NET_ADMIN
run 2 red2 red
run 1 blue1 blue
run 2 blue2 blue
red2=$(address 2 red2 red) blue1=$(address 1 blue1 blue) blue2=$(address 2 blue2 blue)
reaches 1 red1 "$red2"
reaches 1 blue1 "$blue2"
reaches_not 1 red1 "$blue1"
reaches_not 1 red1 "$blue2"

# An address of the other subnet, on the interface of our own network.
dev=$(interface 1 red1 "$(address 1 red1 red)")
d 1 exec red1 /usr/bin/ip addr add 10.41.99.99/16 dev "$dev"
mac_of() { d "$1" exec "$2" cat "/sys/class/net/$(interface "$1" "$2" "$3")/address"; }
for target in "1 blue1 $blue1" "2 blue2 $blue2"; do
  read -r number container address <<<"$target"
  d 1 exec red1 /usr/bin/ip neigh replace "$address" lladdr "$(mac_of "$number" "$container" "$address")" dev "$dev"
  d 1 exec red1 ping -c 2 -W 1 -I "$dev" "$address" >/dev/null && fail "a forged frame is answered by $container"
done

# The other's own address and MAC, to draw its traffic.
d 1 exec red1 /usr/bin/ip addr add "$blue2/16" dev "$dev"
reaches 1 blue1 "$blue2"
d 1 exec red1 ping -c 2 -W 1 -I "$blue2" "$blue1" >/dev/null && fail "a forged sender is answered"
reaches 1 red1 "$red2"
