#!/usr/bin/env bash
# The plugin goes to a registry and is installed from there, with settings, on every host.
. "$(dirname "$0")/lib.sh"

lab_up 3
lab registry
on 1 "$REPO/rootfs-build/push.sh" $UNDERLAY.1:5000 "$PLUGIN" >/dev/null
export PLUGIN=$UNDERLAY.1:5000/$PLUGIN
for number in 1 2 3; do
  d $number plugin install --grant-all-permissions "$PLUGIN" "WEAVE_PEERS=$(peer_list 3)" WEAVE_NICKNAME=peer$number >/dev/null
done
mesh_ready 3
assert_contains "$(weave 2 status)" peer2

local_network 3 web 10.40
for number in 1 2 3; do run $number c$number web; done
all_reach_all "1:c1:$(address 1 c1 web)" "2:c2:$(address 2 c2 web)" "3:c3:$(address 3 c3 web)"
# Here, as the networks' driver has another name than in other tests.
residue_check
