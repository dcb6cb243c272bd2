# What the lab tests share. Source it; then bring up what the test needs with mesh_up or swarm_up.
# shellcheck shell=bash
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPO=$(cd "$HERE/../.." && pwd)
export LAB=${LAB:-test} PLUGIN=${PLUGIN:-weaveworks/net-plugin:latest}
BUNDLE=${BUNDLE:-$REPO/plugin}
UNDERLAY=192.168.77
# What tests keep for a while; run.sh has its logs here as well.
WORK=/tmp/weave-lab-tests/$LAB
mkdir -p "$WORK"

trap 'echo "failed at $(basename "${BASH_SOURCE[0]}"):$LINENO: $BASH_COMMAND" >&2' ERR
set -o errtrace

fail() { echo "failed: $*" >&2; exit 1; }

# ---- hosts ------------------------------------------------------------------------------------------

lab() { "$HERE/lab.sh" "$@"; }
on() { lab exec "$@"; }
d() { on "$1" docker "${@:2}"; } # docker on host N

host_numbers() { lab ps | sed -n 's/^host\([0-9]*\) .*/\1/p'; }

lab_up() { # N: hosts with the test image
  lab up "$1"
  lab image
}

# Hosts with the plugin, connected to one another. Settings follow as K=V.
mesh_up() { # N [K=V...]
  lab_up "$1"
  plugin_up "$1" "${@:2}"
}

plugin_up() { # N [K=V...]
  lab plugin all install "WEAVE_PEERS=$(peer_list "$1")" "${@:2}"
  mesh_ready "$1"
}

# A swarm of N hosts, host 1 its manager, with the plugin on all of them.
swarm_up() { # N [K=V...]
  lab_up "$1"
  swarm_make "$1"
  plugin_up "$1" "${@:2}"
  local number
  for ((number = 1; number <= $1; number++)); do
    wait_for 40 plugin_known_to_swarm "$number"
  done
}

swarm_make() { # N
  d 1 swarm init --advertise-addr $UNDERLAY.1 >/dev/null
  local number
  for ((number = 2; number <= $1; number++)); do swarm_join "$number"; done
}

swarm_join() { # N
  d "$1" swarm join --token "$(d 1 swarm join-token -q worker)" $UNDERLAY.1:2377 >/dev/null
}

# The scheduler places tasks only where it knows the plugin to be; a node reports it after seconds.
plugin_known_to_swarm() { # N
  d 1 node inspect -f '{{range .Description.Engine.Plugins}}{{.Type}} {{.Name}}{{"\n"}}{{end}}' "host$1" | grep -qi "^network.*$PLUGIN"
}

peer_list() { # N
  local number list=()
  for ((number = 1; number <= $1; number++)); do list+=("$UNDERLAY.$number"); done
  echo "${list[*]}"
}

# ---- the daemon -------------------------------------------------------------------------------------

weave() { on "$1" timeout 10 "$BUNDLE/rootfs/weave" "${@:2}"; } # N ARGS...: the command line on host N
report() { on "$1" curl -sf --max-time 5 http://127.0.0.1:6782/report; }
status() { on "$1" curl -sf --max-time 5 http://127.0.0.1:6782/status; }

# How many peers host N has an established connection to.
connections() { report "$1" | jq '[.mesh.connections[]? | select(.state == "established") | .peer] | unique | length'; }
has_connections() { [[ $(connections "$1") == "$2" ]]; }

mesh_ready() { # N: everybody is connected to everybody else
  local number
  for ((number = 1; number <= $1; number++)); do wait_for 15 has_connections "$number" $(($1 - 1)); done
}

# Which transport host N has to host M, and why.
transport() { report "$1" | jq -r ".transports[] | select(.nickname == \"host$2\") | .transport + \" \" + .reason"; }
goes_by() { [[ $(transport "$1" "$2") == "$3"* ]]; } # N M TRANSPORT [REASON...]

plugin_enabled() { [[ $(d "$1" plugin inspect -f '{{.Enabled}}' "$PLUGIN") == true ]]; }

# The daemon's pid as host N sees it.
daemon_pid() { on "$1" pgrep -f '^/weave plugin'; }

# ---- networks and containers ------------------------------------------------------------------------

network() { # N NAME [ARGS...]
  d "$1" network create -d "$PLUGIN" "${@:3}" "$2" >/dev/null
}

# A local-scope network on hosts 1 to N, with a range of addresses for each host, as two engines' own
# IPAMs know nothing of each other.
local_network() { # N NAME SUBNET-PREFIX(a.b) [ARGS...]
  local number
  for ((number = 1; number <= $1; number++)); do
    network "$number" "$2" --subnet "$3.0.0/16" --ip-range "$3.$number.0/24" "${@:4}"
  done
}

run() { # N NAME NETWORK [ARGS...]: a container that stays
  d "$1" run -d --name "$2" --network "$3" "${@:4}" lab >/dev/null
}

address() { # N CONTAINER NETWORK
  d "$1" inspect -f "{{(index .NetworkSettings.Networks \"$3\").IPAddress}}" "$2"
}

interface() { # N CONTAINER ADDRESS: the interface that has the address
  d "$1" exec "$2" /usr/bin/ip -o -4 addr show | awk -v a="$3" 'index($4, a "/") == 1 {print $2}'
}

reaches() { # N CONTAINER ADDRESS
  d "$1" exec "$2" ping -c 1 -W 2 "$3" >/dev/null
}

reaches_not() { ! reaches "$@"; }

# Ping of the largest packet that an MTU allows, not to be fragmented on its way.
reaches_with_mtu() { # N CONTAINER ADDRESS MTU
  on "$1" nsenter -t "$(container_pid "$1" "$2")" -n ping -c 1 -W 2 -M 'do' -s $(($4 - 28)) "$3" >/dev/null
}

# Every container of the list reaches every other: N:CONTAINER:ADDRESS ...
all_reach_all() {
  local from to
  for from in "$@"; do
    for to in "$@"; do
      [[ $from != "$to" ]] || continue
      reaches "${from%%:*}" "$(cut -d: -f2 <<<"$from")" "${to##*:}" || fail "$from does not reach $to"
    done
  done
}

container_pid() { d "$1" inspect -f '{{.State.Pid}}' "$2"; }

# A ping of 20 packets per second inside a container's namespace, which Docker has no part in: it goes
# on while engines and plugins restart. `ping_stop FILE` prints how many replies were lost.
ping_start() { # N CONTAINER ADDRESS FILE
  local pid
  pid=$(container_pid "$1" "$2")
  on "$1" nsenter -t "$pid" -n ping -n -i 0.05 -W 1 "$3" >"$4" 2>&1 &
  wait_for 5 grep -q 'bytes from' "$4"
}

ping_stop() { # N FILE
  on "$1" pkill -INT -x ping
  wait_for 5 grep -q 'packets transmitted' "$2"
  awk '/packets transmitted/ {lost = $1 - $4; print (lost > 0 ? lost : 0)}' "$2"
}

running_tasks() { # SERVICE
  d 1 service ps -q -f desired-state=running --format '{{.CurrentState}}' "$1" | grep -c '^Running' || true
}

has_running_tasks() { [[ $(running_tasks "$1") == "$2" ]]; }

# docker's client waits five seconds more than needed for a service to be stable.
service() { # NAME NETWORK REPLICAS [ARGS...]
  d 1 service create -d --no-resolve-image --endpoint-mode dnsrr --name "$1" --network "$2" --replicas "$3" "${@:4}" lab >/dev/null
  wait_for 60 has_running_tasks "$1" "$3"
}

# The container on host N that runs a task of the service.
task_container() { d "$1" ps -q -f "label=com.docker.swarm.service.name=$2" | head -n 1; }

lookup() { # N CONTAINER NAME: all addresses, sorted
  d "$1" exec "$2" getent ahostsv4 "$3" | awk '$2 == "STREAM" {print $1}' | sort -u
}

# ---- figures -------------------------------------------------------------------------------------------

# Milliseconds of `docker run --rm` on host N, as seen there.
run_milliseconds() { # N NETWORK
  on "$1" bash -c 'begin=$EPOCHREALTIME; docker run --rm --network "$1" lab true || exit; end=$EPOCHREALTIME
    echo $(((${end/[.,]/} - ${begin/[.,]/}) / 1000))' - "$2"
}

# Of numbers, one in a line.
median() { sort -n | awk '{v[NR] = $1} END {print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }

# ---- waiting and asserting ----------------------------------------------------------------------------

# Polls until the command succeeds; its output is shown only when time is up.
wait_for() { # SECONDS CMD...
  local seconds=$1 deadline now
  shift
  deadline=$(($(now_ms) + seconds * 1000))
  until "$@" >"$WORK/wait" 2>&1; do
    now=$(now_ms)
    if ((now > deadline)); then
      cat "$WORK/wait" >&2
      fail "not within $seconds s: $*"
    fi
    sleep 0.05
  done
}

# Holds for as long as said: for what must not happen.
stays() { # SECONDS CMD...
  local seconds=$1 deadline
  shift
  deadline=$(($(now_ms) + seconds * 1000))
  while (($(now_ms) < deadline)); do
    "$@" || fail "no longer: $*"
    sleep 0.2
  done
}

now_ms() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }

# Runs a command and fails when it takes longer.
within() { # SECONDS CMD...
  local seconds=$1 begin took
  shift
  begin=$(now_ms)
  "$@"
  took=$(($(now_ms) - begin))
  ((took <= seconds * 1000)) || fail "took $took ms, expected at most $seconds s: $*"
}

assert_eq() { [[ $1 == "$2" ]] || fail "${3:-values}: expected '$2', got '$1'"; }
assert_at_most() { (($1 <= $2)) || fail "${3:-value}: expected at most $2, got $1"; }
assert_contains() { grep -qiF -- "$2" <<<"$1" || fail "expected '$2' in: $1"; }

# The command fails, and says why in these words.
assert_refused() { # WORDS CMD...
  local words=$1 output
  shift
  if output=$("$@" 2>&1); then fail "expected to be refused: $*"; fi
  assert_contains "$output" "$words"
}

# ---- what must be left when a test is over --------------------------------------------------------------

links_in_weave_namespace() { # N
  on "$1" sh -c '[ ! -e /run/netns/weave ] || ip -n weave -o link show' | awk -F': ' '$2 !~ /^lo(@|$)/ {print $2}'
}

# A namespace that cannot be entered is a failure: nobody knows what is left in it.
no_links_left() {
  local links
  links=$(links_in_weave_namespace "$1") || return 1
  [[ -z $links ]]
}

# While its networks are there, a host keeps their bridges.
no_ports_left() {
  local links
  links=$(links_in_weave_namespace "$1") || return 1
  ! grep -q '^vp' <<<"$links"
}

clean_host() { # N: no containers, no networks of ours
  local ids
  ids=$(d "$1" ps -aq)
  # shellcheck disable=SC2086
  [[ -z $ids ]] || d "$1" rm -f $ids >/dev/null
  ids=$(d "$1" network ls -q -f "driver=$PLUGIN" -f scope=local)
  # shellcheck disable=SC2086
  [[ -z $ids ]] || d "$1" network rm $ids >/dev/null
}

residue_check() {
  local number ids left
  if [[ $(d 1 info -f '{{.Swarm.ControlAvailable}}' 2>/dev/null) == true ]]; then
    ids=$(d 1 service ls -q)
    # shellcheck disable=SC2086
    [[ -z $ids ]] || d 1 service rm $ids >/dev/null
  fi
  for number in $(host_numbers); do
    on "$number" docker version >/dev/null 2>&1 || continue
    wait_for 20 clean_host "$number"
  done
  if [[ -n ${ids:-} ]]; then wait_for 20 no_tasks_left; fi
  if [[ $(d 1 info -f '{{.Swarm.ControlAvailable}}' 2>/dev/null) == true ]]; then
    ids=$(d 1 network ls -q -f "driver=$PLUGIN")
    # shellcheck disable=SC2086
    [[ -z $ids ]] || wait_for 20 d 1 network rm $ids
  fi
  for number in $(host_numbers); do
    on "$number" docker version >/dev/null 2>&1 || continue
    wait_for 5 no_links_left "$number"
    # A veth on one of Docker's own bridges is Docker's.
    left=$(on "$number" ip -o link show type veth | awk -F': ' '!/ eth0@| master docker/ {print $2}')
    [[ -z $left ]] || fail "host$number has links left: $left"
    left=$(on "$number" ps -eo pid=,stat=,comm= | awk '$2 ~ /^Z/ {print}')
    [[ -z $left ]] || fail "host$number has zombies: $left"
  done
}

no_tasks_left() {
  local number
  for number in $(host_numbers); do [[ -z $(d "$number" ps -aq) ]] || return 1; done
}

# ---- restarts -------------------------------------------------------------------------------------------

# Three hosts, a network, a container with a known address on each, and a ping that goes on between
# hosts 1 and 2 (`$ping12`) and between hosts 3 and 2 (`$ping32`).
restart_setup() { # [K=V...]
  mesh_up 3 "$@"
  local number
  for number in 1 2 3; do
    network "$number" web --subnet 10.40.0.0/16
    run "$number" "c$number" web --ip "10.40.0.$number"0 --restart always
  done
  all_reach_all 1:c1:10.40.0.10 2:c2:10.40.0.20 3:c3:10.40.0.30
  restart_pings
}

restart_pings() {
  ping12=$WORK/ping12 ping32=$WORK/ping32
  ping_start 2 c2 10.40.0.10 "$ping12"
  ping_start 3 c3 10.40.0.20 "$ping32"
}

# One reply may be on its way when a ping ends.
assert_nothing_lost() { # N FILE WHO
  local lost
  lost=$(ping_stop "$1" "$2")
  echo "$lost of $(awk '/packets transmitted/ {print $1}' "$2") replies lost $3"
  assert_at_most "$lost" 1 "replies lost $3"
}

# Host N's peers are back within ten seconds of its engine answering, and its container is reachable.
back_soon() { # N
  local begin peers
  begin=$(now_ms)
  wait_for 10 has_connections "$1" 2
  peers=$(($(now_ms) - begin))
  wait_for 10 reaches 2 c2 "10.40.0.$1"0
  reaches "$1" "c$1" 10.40.0.20
  echo "host$1: peers back after $peers ms, its container after $(($(now_ms) - begin)) ms"
}
