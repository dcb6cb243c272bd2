#!/usr/bin/env bash
# Virtual addresses follow their tasks: scaling, rolling updates and draining lose no connection; health
# checks and deaths are noticed at once.
. "$(dirname "$0")/lib.sh"
. "$HERE/services.sh"

swarm_up 3
network 1 web --attachable
run 2 probe web
run 3 third web
vip_service site web 3 --stop-grace-period 10s --update-parallelism 1 --update-order start-first \
  --health-cmd 'socat -u OPEN:/dev/null TCP:127.0.0.1:80' --health-interval 300ms
wait_for 60 has_ready_tasks 2 site 3
vip=$(vip site)
wait_for 10 has_answers 2 probe "$vip" 40 3

# Milliseconds from an event of an engine to the rules of a container.
until_rules() { # N CONTAINER WORD [!]
  local word=$3 begin
  begin=$(now_ms)
  if [[ -n ${4:-} ]]; then wait_for 20 rules_without "$1" "$2" "$word"; else wait_for 20 rules_with "$1" "$2" "$word"; fi
  echo $(($(now_ms) - begin))
}
rules_with() { rules "$1" "$2" | grep -qF "$3"; }
rules_without() { ! rules "$1" "$2" | grep -qF "$3 "; }

# A rolling update and scaling lose no connection.
load_start 200
d 1 service update -d --no-resolve-image --force site >/dev/null
updated() { [[ $(d 1 service inspect -f '{{.UpdateStatus.State}}' site) == completed ]]; }
wait_for 90 updated
load_stop "rolling update under load"
assert_eq "$lost" 0 "connections lost in a rolling update"
load_start 200
for scale in 12 1 3; do
  d 1 service scale -d site=$scale >/dev/null
  wait_for 60 has_ready_tasks 2 site $scale
done
sleep 3
load_stop "scaling 3, 12, 1, 3 under load"
assert_eq "$lost" 0 "connections lost while scaling"

# A drained node's tasks go elsewhere.
load_start 200
d 1 node update --availability drain host3 >/dev/null
drained() { [[ -z $(d 3 ps -q -f label=com.docker.swarm.service.name=site) ]]; }
wait_for 60 drained
load_stop "draining a node under load"
assert_eq "$lost" 0 "connections lost by draining"
d 1 node update --availability active host3 >/dev/null

# A task gets connections once its health check passes. Swarm would end one that is found unhealthy.
d 1 service create -d --no-resolve-image --name sick --network web --mode global \
  --health-cmd 'test -e /tmp/well' --health-interval 200ms --health-retries 600 --restart-condition none \
  lab sh -c "$server" >/dev/null
sick_tasks() { for n in 1 2 3; do [[ -n $(task_container $n sick) ]] || return 1; done; }
wait_for 60 sick_tasks
well() { # N
  d "$1" exec "$(task_container "$1" sick)" touch /tmp/well
}
for number in 1 2 3; do well $number; done
wait_for 20 has_ready_tasks 2 sick 3
d 1 service rm sick >/dev/null

# A task that dies, a host that dies, the manager that restarts, the plugin that restarts.
begin_death() { # N: kills the site's task there; prints its address
  local task address
  task=$(task_container "$1" site)
  address=$(address "$1" "$task" web)
  d "$1" kill -s KILL "$task" >/dev/null
  echo "$address"
}
wait_for 60 has_ready_tasks 2 site 3
d 1 service scale -d site=6 >/dev/null
wait_for 60 has_ready_tasks 2 site 6
number=1
[[ -n $(task_container 1 site) ]] || number=2
dead=$(begin_death $number)
echo "figure: death of a task to rules on two hosts: $(until_rules 2 probe "$dead" gone) ms, $(until_rules 3 third "$dead" gone) ms"
wait_for 60 has_ready_tasks 2 site 6
