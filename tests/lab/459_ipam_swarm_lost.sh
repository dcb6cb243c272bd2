#!/usr/bin/env bash
# The manager of a swarm, which allocates for all its nodes, loses what its allocator had stored, alone
# and together with its engine: no address that a task has is given to another.
. "$(dirname "$0")/lib.sh"
. "$HERE/ipam.sh"

swarm_up 3
# Few enough that space has to come from the other nodes.
network 1 web --ipam-driver "$PLUGIN" --subnet 10.40.0.0/27 --attachable
service site web 6
assert_tasks_unique() { # COUNT
  all_addresses 3 web >"$WORK/addresses"
  assert_unique "$WORK/addresses" "$1"
}
assert_tasks_unique 6
lose() { on 1 rm -rf /var/lib/weave/ipam; }

d 1 plugin disable -f "$PLUGIN" >/dev/null
lose
d 1 plugin enable "$PLUGIN" >/dev/null
wait_for 15 has_connections 1 2
d 1 service scale -d site=9 >/dev/null
wait_for 60 has_running_tasks site 9
assert_tasks_unique 9
wait_for 10 nothing_lost 2

# Swarm asks for all it knows once more when its engine starts.
lab dockerd 1 stop
lose
lab dockerd 1 start
wait_for 15 has_connections 1 2
wait_for 90 has_running_tasks site 9
d 1 service scale -d site=12 >/dev/null
wait_for 60 has_running_tasks site 12
assert_tasks_unique 12
wait_for 10 nothing_lost 2
for number in 1 2 3; do no_conflicts $number || fail "$(ipam $number '.ipam.conflicts[]')"; done

# What the tasks had is free once they are gone.
d 1 service rm site >/dev/null
for number in 1 2 3; do
  gone() { [[ -z $(d $number ps -q -f network=web) ]]; }
  wait_for 30 gone
done
service other web 12
assert_tasks_unique 12
