#!/usr/bin/env bash
# With a password, hosts that trust the subnet between them on both sides use VXLAN and say so; a host
# that is not trusted back gets its traffic encrypted, and its VXLAN is not let in.
. "$(dirname "$0")/lib.sh"

lab_up 3
for number in 1 2; do
  lab plugin $number install "WEAVE_PEERS=$(peer_list 3)" WEAVE_PASSWORD=x WEAVE_TRUSTED_SUBNETS=$UNDERLAY.0/24
done
lab plugin 3 install "WEAVE_PEERS=$(peer_list 3)" WEAVE_PASSWORD=x
mesh_ready 3
local_network 3 web 10.40
for number in 1 2 3; do run $number c$number web; done
wait_for 10 goes_by 1 2 'vxlan both hosts trust the subnet'
wait_for 10 goes_by 2 1 'vxlan both hosts trust the subnet'
wait_for 10 goes_by 1 3 'tunnel a password is set and the other host does not trust the subnet'
wait_for 10 goes_by 3 1 'tunnel a password is set and only the other host trusts the subnet'
for number in 1 2 3; do there[number]=$(address $number c$number web); done
wait_for 5 reaches 1 c1 "${there[2]}"
all_reach_all 1:c1:"${there[1]}" 2:c2:"${there[2]}" 3:c3:"${there[3]}"

# VXLAN from the host that is not trusted is dropped before the device.
dropped() { on 1 nft -j list table ip weave-vxlan | jq '[.. | .counter? // empty | .packets] | add'; }
before=$(dropped)
on 3 sh -c "echo x | socat -u - UDP-SENDTO:$UNDERLAY.1:6784"
counted() { (($(dropped) > before)); }
wait_for 5 counted
on 3 ip -n weave -br link | grep -E '^v[xy]-' && fail "host3 has a VXLAN device"
true
