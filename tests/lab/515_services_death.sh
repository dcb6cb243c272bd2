#!/usr/bin/env bash
# Who does not take connections any more is noticed: a health check that fails, a task that dies, a host
# that dies; flows of datagrams go on to another task, established connections to others are not disturbed.
. "$(dirname "$0")/lib.sh"
. "$HERE/services.sh"

swarm_up 3
network 1 web --attachable
run 2 probe web
run 1 third web
# Swarm would end a task that is found unhealthy: with so many retries the container is, and stays.
d 1 service create -d --no-resolve-image --name sick --network web --mode global --env HOLD=1 \
  --health-cmd 'test -e /tmp/well' --health-interval 200ms --health-retries 600 lab answer >/dev/null
sick_tasks() { for number in 1 2 3; do [[ -n $(task_container $number sick) ]] || return 1; done; }
wait_for 60 sick_tasks
vip=$(vip sick)
known() { [[ $(report 2 | jq '[.services[].tasks[]] | length') == 3 ]]; }
wait_for 20 known
assert_eq "$(ready_tasks 2 sick)" 0 "tasks that are ready before their health check passes"
declare -A task
for number in 1 2 3; do
  container=$(task_container $number sick)
  task[$number]=$(address $number "$container" web)
  d $number exec "$container" touch /tmp/well
  healthy() { [[ $(d $number inspect -f '{{.State.Health.Status}}' "$container") == healthy ]]; }
  wait_for 20 healthy
  rules_soon "health check passes on host $number" with 2 probe "$vip" "${task[$number]}"
done

# One whose health check fails: swarm would end it some time later.
d 1 service create -d --no-resolve-image --name frail --network web --health-cmd 'test ! -e /tmp/ill' \
  --health-interval 200ms --health-retries 1 --stop-grace-period 20s --constraint node.hostname==host3 lab answer 20 >/dev/null
wait_for 60 has_ready_tasks 2 frail 1
frail=$(task_container 3 frail)
rules_soon "health check passes" with 2 probe "$(vip frail)" "$(address 3 "$frail" web)"
d 3 exec "$frail" touch /tmp/ill
ill() { [[ $(d 3 inspect -f '{{.State.Health.Status}}' "$frail") == unhealthy ]]; }
wait_for 20 ill
rules_soon "health check fails" without 2 probe "$(vip frail)" "$(address 3 "$frail" web)"
assert_eq "$(d 3 inspect -f '{{.State.Running}}' "$frail")" true "the container with the failing health check runs"
d 1 service rm frail >/dev/null

# Established connections stay with their task through all that follows, where it lives.
wait_for 10 has_answers 2 probe "$vip" 40 3
# Starts clients until one's first answer is from the task wanted; each starts a flow of its own, so that
# thirty in a row miss one of three tasks once in 200 000 times.
client_to() { # FILE SERVER
  local tries
  for ((tries = 0; tries < 30; tries++)); do
    client_start 2 probe "$1" "$vip" 20
    [[ $(head -n 1 "$1" | cut -d' ' -f2) != "$2" ]] || return 0
    client_stop 2 "$1"
  done
  fail "none of $tries clients got to $2"
}
client_to "$WORK/hold" "${task[2]}"

# A flow of datagrams to a host's task.
flow_to() { # TASK-HOST
  local container
  container=$(task_container "$1" sick)
  client_to "$WORK/flow" "${container:0:12}"
}
# Milliseconds without an answer, at most.
longest_gap() { # FILE
  grep -v failed "$1" | awk 'NR > 1 && $1 - last > gap {gap = $1 - last} {last = $1} END {printf "%d\n", gap * 1000}'
}

# Its task dies; swarm replaces it.
flow_to 3
d 3 kill -s KILL "$(task_container 3 sick)" >/dev/null
rules_soon "death of a task" without 2 probe "$vip" "${task[3]}"
rules_soon "the same" without 1 third "$vip" "${task[3]}"
sleep 2
client_stop 2 "$WORK/flow"
assert_eq "$(cut -d' ' -f2 "$WORK/flow" | grep -v failed | uniq | wc -l)" 2 "tasks that answered one flow"
gap=$(longest_gap "$WORK/flow")
echo "figure: a flow of datagrams whose task died waits $gap ms"
assert_at_most "$gap" 1500 "wait of a flow"

# A host dies. Its peers know at once that its sessions end, or after their timeout.
renewed() { container=$(task_container 3 sick) && [[ -n $container ]] && d 3 exec "$container" touch /tmp/well; }
wait_for 40 renewed
task[3]=$(address 3 "$container" web)
wait_for 20 rules_with 2 probe "$vip" "${task[3]}"
flow_to 3
lab poweroff 3
unreachable() { ! has_connections "$1" 2; }
wait_for 20 unreachable 2
rules_soon "death of a host, known to the mesh," without 2 probe "$vip" "${task[3]}"
rules_soon "the same" without 1 third "$vip" "${task[3]}"
client 2 probe count "$vip" 80 200 | tee "$WORK/answers"
assert_eq "$(wc -l <"$WORK/answers")" 2 "tasks that answer without host 3"
sleep 1
client_stop 2 "$WORK/flow"
echo "figure: a flow of datagrams whose host died waits $(longest_gap "$WORK/flow") ms"
assert_eq "$(cut -d' ' -f2 "$WORK/flow" | grep -v failed | uniq | wc -l)" 2 "tasks that answered one flow"
client_stop 2 "$WORK/hold"
echo "figure: an established connection to another task: $(wc -l <"$WORK/hold") answers, $(grep -c failed "$WORK/hold" || true) failed"
assert_eq "$(cut -d' ' -f2 "$WORK/hold" | sort -u)" "${task[2]}" "answers on an established connection"
