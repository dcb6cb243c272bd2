#!/usr/bin/env bash
# A swarm whose network gets its addresses from the plugin: services and containers on all nodes, over
# restarts of manager and worker; and the space of a node that was removed.
. "$(dirname "$0")/lib.sh"
. "$HERE/ipam.sh"

lab_up 3
swarm_make 3
lab plugin all install
mesh_ready 3
for number in 1 2 3; do wait_for 40 plugin_known_to_swarm $number; done
network 1 web --ipam-driver "$PLUGIN" --subnet 10.40.0.0/16 --attachable
service site web 6
all_addresses 3 web >"$WORK/addresses"
assert_unique "$WORK/addresses" 6
run 2 probe2 web
run 3 probe3 web
reach_all_tasks() {
  local address addresses
  addresses=$(lookup 3 probe3 site)
  [[ $(wc -l <<<"$addresses") == 6 ]] || return 1
  for address in $addresses; do reaches 3 probe3 "$address" || return 1; done
}
wait_for 20 reach_all_tasks

# Plugins die, the manager's engine restarts: nobody's address is given to another.
for number in 1 2 3; do
  kill_daemon $number
  wait_for 20 daemon_answers $number
done
lab dockerd 1 kill9
lab dockerd 1 start
wait_for 90 has_running_tasks site 6
d 1 service scale -d site=9 >/dev/null
wait_for 90 has_running_tasks site 9
run 2 late2 web
wait_for 20 reaches 3 probe3 "$(address 2 late2 web)"
all_addresses 3 web >"$WORK/addresses"
assert_unique "$WORK/addresses" "$(wc -l <"$WORK/addresses")"
for number in 1 2 3; do no_conflicts $number || fail "$(ipam $number .ipam.conflicts)"; done

# A second network, without a subnet.
network 1 app --ipam-driver "$PLUGIN" --ipam-opt works.weave.network=app --attachable
run 3 a3 app
[[ -n $(address 3 a3 app) ]] || fail "no address"
