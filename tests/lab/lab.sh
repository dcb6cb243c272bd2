#!/usr/bin/env bash
# Many hosts on one machine: each has network, mount, UTS and pid namespaces and a dockerd of its own.
# They share an underlay, 192.168.77.0/24 on a bridge in a namespace apart, so labs with different
# names (LAB=...) never meet. Host N has the address 192.168.77.N.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: lab.sh COMMAND...          LAB=name (default lab), ENGINE=native|20.10|26|28, LAB_MTU=1500
  up [N]                          start N hosts (default 3), engines answering
  down                            stop everything, leave nothing
  ps                              hosts, engines and their state
  exec N CMD...                   run a command on host N
  shell N                         a shell on host N
  dockerd N start|stop|kill9|restart [FLAGS...]
                                  FLAGS (e.g. --live-restore) are kept until given anew; its environment
                                  is what DOCKERD_ENV='NAME=VALUE...' says
  log N                           dockerd's log, the plugin's output within
  reboot N                        kill everything on host N, start it again; /var/lib is kept
  poweroff N | poweron N          the two halves of a reboot
  cut N | unplug N | heal N       lose every frame silently | take the carrier away | undo both
  mtu BYTES                       of the underlay, on the switch and all hosts
  image                           build the test image and load it on all hosts
  plugin N create [NAME]          docker plugin create from the bundle in plugin/
  plugin N install [K=V...]       create, set and enable (name: $PLUGIN)
  plugin N set|enable|disable|rm [ARGS...]
  plugin all ...                  the same on all hosts at once
  registry                        start a registry on host 1, 192.168.77.1:5000
TEXT
}

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPO=$(cd "$HERE/../.." && pwd)
LAB=${LAB:-lab}
PLUGIN=${PLUGIN:-weaveworks/net-plugin:latest}
BUNDLE=${BUNDLE:-$REPO/plugin}
STATE=${WEAVE_LAB_STATE:-/var/lib/weave-lab}/$LAB
RUN=/run/weave-lab/$LAB
SWITCH=weave-lab-$LAB
UNDERLAY=192.168.77
SWITCH_ADDRESS=$UNDERLAY.254
CGROUP=weave-lab/$LAB
# dockerd, containerd and shims of one host on a machine shared with others.
START_SECONDS=60

fail() { echo "lab: $*" >&2; exit 1; }

cgroup_version() { [[ -e /sys/fs/cgroup/cgroup.controllers ]] && echo 2 || echo 1; }

cgroup_roots() {
  if [[ $(cgroup_version) == 2 ]]; then echo /sys/fs/cgroup; else
    awk '$3 ~ /^cgroup2?$/ && $2 ~ "^/sys/fs/cgroup/" {print $2}' /proc/mounts
  fi
}

# Another lab's last host must not take away the folder that this one's first has just found.
cgroup_lock() { # CMD...
  mkdir -p /run/lock
  (
    flock 8
    "$@"
  ) 8>/run/lock/weave-lab-cgroups
}

cgroup_make() { # N
  local root path
  for root in $(cgroup_roots); do
    path=$root
    for part in ${CGROUP//\// } "host$1"; do
      path=$path/$part
      mkdir -p "$path"
      # A cpuset without processors and memory takes no process, and does not inherit them.
      [[ -e $path/cpuset.cpus && -w $path/cpuset.cpus && $(cgroup_version) == 1 ]] || continue
      [[ -n $(<"$path/cpuset.cpus") ]] || cat "$path/../cpuset.cpus" >"$path/cpuset.cpus"
      [[ -n $(<"$path/cpuset.mems") ]] || cat "$path/../cpuset.mems" >"$path/cpuset.mems"
    done
  done
}

# Joins the calling shell to host N's cgroups; everything it starts inherits them.
cgroup_enter() { # N
  local root
  for root in $(cgroup_roots); do
    if [[ -d $root/$CGROUP/host$1/init ]]; then echo "$BASHPID" >"$root/$CGROUP/host$1/init/cgroup.procs"
    else echo "$BASHPID" >"$root/$CGROUP/host$1/cgroup.procs"; fi
  done
}

cgroup_remove() { # path below every root
  local root tries
  for root in $(cgroup_roots); do
    [[ -d $root/$1 ]] || continue
    for tries in {1..100}; do
      find "$root/$1" -depth -type d -exec rmdir {} + 2>/dev/null && break
      sleep 0.02
    done
  done
}

hosts() { # numbers of the hosts that exist, running or not
  local dir
  for dir in "$STATE"/host*; do [[ -d $dir ]] && echo "${dir##*host}"; done | sort -n
}

pid_of() { # N
  local pid
  pid=$(cat "$RUN/host$1/pid" 2>/dev/null) || fail "host $1 of lab '$LAB' is not running (lab.sh up)"
  echo "$pid"
}

# A pid outlives its process in our file, and may by then be somebody else's.
running() { [[ -s $RUN/host$1/pid ]] && grep -qs docker-init "/proc/$(<"$RUN/host$1/pid")/cmdline"; }

on() { # N CMD...
  local pid
  pid=$(pid_of "$1")
  shift
  nsenter -t "$pid" -m -u -n -p ${CGROUP_NS:-} -- env PATH="$(host_path)" "$@"
}

host_path() { echo "$(cat "$STATE/engine.path" 2>/dev/null):/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" | sed 's/^://'; }

each() { # runs "$@ N" for all hosts at once, fails if one fails
  local number failed=0 pids=()
  for number in $(hosts); do "$@" "$number" & pids+=($!); done
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
  return $failed
}

switch_up() {
  ip netns add "$SWITCH"
  ip -n "$SWITCH" link set lo up
  ip -n "$SWITCH" link add br0 type bridge mcast_snooping 0
  ip -n "$SWITCH" link set br0 mtu "${LAB_MTU:-1500}" up
  ip -n "$SWITCH" addr add $SWITCH_ADDRESS/24 dev br0
}

host_start() { # N: namespaces, cgroups, link
  local number=$1 run=$RUN/host$1 state=$STATE/host$1 mtu share=()
  mkdir -p "$run" "$state"
  rm -f "$run/pid"
  cgroup_lock cgroup_make "$number"
  [[ $(cgroup_version) == 1 ]] || share=(-C)
  (
    cgroup_enter "$number"
    exec setsid unshare -n -m -u -p -f "${share[@]}" --propagation private \
      bash "$HERE/host-init.sh" "$number" "$state" "$run" $SWITCH_ADDRESS "$(cgroup_version)"
  ) </dev/null >"$run/init.log" 2>&1 9>&- &
  until [[ -s $run/pid ]]; do
    kill -0 $! 2>/dev/null || fail "host $number did not start: $(cat "$run/init.log")"
    sleep 0.01
  done
  mtu=$(cat "$STATE/mtu")
  ip -n "$SWITCH" link add "host$number" mtu "$mtu" type veth peer name eth0 mtu "$mtu" netns "$(<"$run/pid")"
  ip -n "$SWITCH" link set "host$number" master br0 up
  nsenter -t "$(<"$run/pid")" -n sh -c "ip addr add $UNDERLAY.$number/24 dev eth0 && ip link set eth0 up && ip route add default via $SWITCH_ADDRESS"
}

host_stop() { # N: as if its power were cut
  local pid
  if running "$1"; then
    pid=$(pid_of "$1")
    # Killing pid 1 of the namespace takes everything with it.
    kill -9 "$pid" 2>/dev/null || true
    while [[ -d /proc/$pid ]]; do sleep 0.01; done
  fi
  ip -n "$SWITCH" link del "host$1" 2>/dev/null || true
  rm -f "$RUN/host$1/pid"
  cgroup_remove "$CGROUP/host$1"
}

dockerd_start() { # N
  local number=$1 pid parent=()
  pid=$(pid_of "$number")
  if [[ $(cgroup_version) == 1 ]]; then parent=(--cgroup-parent "/$CGROUP/host$number"); fi
  rm -f "/proc/$pid/root/run/docker.pid"
  local flags=()
  [[ -s $STATE/host$number/flags ]] && read -ra flags <"$STATE/host$number/flags"
  (
    cgroup_enter "$number"
    # shellcheck disable=SC2086
    exec setsid env -i PATH="$(host_path)" HOME=/root ${DOCKERD_ENV:-} nsenter -t "$pid" -m -u -n -p ${CGROUP_NS:-} -- \
      dockerd --insecure-registry $UNDERLAY.0/24 "${parent[@]}" "${flags[@]}"
  ) </dev/null >>"$RUN/host$number/dockerd.log" 2>&1 9>&- &
  echo $! >"$RUN/host$number/dockerd.outer"
  dockerd_wait "$number"
}

dockerd_answers() { [[ $(curl -s --max-time 2 --unix-socket "/proc/$(pid_of "$1")/root/run/docker.sock" http://docker/_ping) == OK ]]; }

dockerd_wait() { # N
  local deadline=$((SECONDS + START_SECONDS))
  until dockerd_answers "$1"; do
    kill -0 "$(<"$RUN/host$1/dockerd.outer")" 2>/dev/null || fail "dockerd of host $1 ended: $(tail -n 3 "$RUN/host$1/dockerd.log")"
    ((SECONDS < deadline)) || fail "dockerd of host $1 does not answer after $START_SECONDS s, see lab.sh log $1"
    sleep 0.02
  done
}

dockerd_pid() { cat "/proc/$(pid_of "$1")/root/run/docker.pid" 2>/dev/null || fail "no dockerd runs on host $1"; }

dockerd_end() { # N SIGNAL: until it is gone
  local outer
  outer=$(<"$RUN/host$1/dockerd.outer")
  on "$1" kill "-$2" "$(dockerd_pid "$1")"
  while [[ -d /proc/$outer ]]; do sleep 0.01; done
}

dockerd() { # N VERB [FLAGS...]
  local number=$1 verb=$2
  shift 2
  case $verb in
    start | restart)
      [[ $verb == start ]] || dockerd_end "$number" TERM
      [[ $# == 0 ]] || echo "$*" >"$STATE/host$number/flags"
      dockerd_start "$number"
      ;;
    stop) dockerd_end "$number" TERM ;;
    kill9) dockerd_end "$number" KILL ;;
    *) fail "dockerd: expected start, stop, kill9 or restart, got '$verb'" ;;
  esac
}

host_up() { host_start "$1"; dockerd_start "$1"; }

up() {
  local count=${1:-3} number engine_path
  [[ $count =~ ^[1-9][0-9]*$ && $count -le 200 ]] || fail "up: expected 1 to 200 hosts, got '$count'"
  [[ $EUID == 0 ]] || fail "needs root"
  [[ ! -e $RUN/up ]] || fail "lab '$LAB' is up already (lab.sh down)"
  engine_path=$("$HERE/engines.sh" "${ENGINE:-native}")
  down
  mkdir -p "$RUN" "$STATE" /etc/docker
  touch "$RUN/up"
  echo "$engine_path" >"$STATE/engine.path"
  echo "${LAB_MTU:-1500}" >"$STATE/mtu"
  for ((number = 1; number <= count; number++)); do mkdir -p "$STATE/host$number"; done
  switch_up
  each host_up
}

cgroup_remove_shared() {
  local root
  for root in $(cgroup_roots); do rmdir "$root/weave-lab" 2>/dev/null || true; done
}

down() {
  [[ ! -d $STATE ]] || each host_stop
  ip netns del "$SWITCH" 2>/dev/null || true
  cgroup_remove "$CGROUP"
  cgroup_lock cgroup_remove_shared
  rm -rf --one-file-system "$STATE" "$RUN"
  rmdir "$(dirname "$STATE")" "$(dirname "$RUN")" 2>/dev/null || true
}

list() {
  local number
  for number in $(hosts); do
    if ! running "$number"; then echo "host$number off"; continue; fi
    printf 'host%s %s.%s %s\n' "$number" $UNDERLAY "$number" \
      "$(on "$number" docker version -f 'engine {{.Server.Version}}' 2>/dev/null || echo 'no engine')"
  done
}

link_state() { # N cut|unplug|heal
  case $2 in
    cut) ip -n "$SWITCH" link set "host$1" nomaster ;;
    unplug) ip -n "$SWITCH" link set "host$1" down ;;
    heal) ip -n "$SWITCH" link set "host$1" master br0 up ;;
  esac
}

mtu() {
  local number
  echo "$1" >"$STATE/mtu"
  for number in $(hosts); do
    ip -n "$SWITCH" link set "host$number" mtu "$1"
    on "$number" ip link set eth0 mtu "$1"
  done
  ip -n "$SWITCH" link set br0 mtu "$1"
}

image_load() { on "$1" docker load -q <"$RUN/image.tar" >/dev/null; }

image() {
  [[ -s $RUN/image.tar ]] || "$HERE/image.sh" "$RUN/image.tar"
  each image_load
}

plugin() { # N|all VERB ARGS...
  local number=$1 verb=$2
  if [[ $number == all ]]; then
    shift
    each plugin_on "$@"
  else
    shift
    plugin_on "$@" "$number"
  fi
}

plugin_on() { # VERB ARGS... N
  local verb=$1 number=${*: -1}
  local args=("${@:2:$#-2}")
  case $verb in
    create)
      [[ -d $BUNDLE/rootfs ]] || fail "no bundle in $BUNDLE: run 'make plugin'"
      on "$number" docker plugin create "${args[0]:-$PLUGIN}" "$BUNDLE" >/dev/null
      ;;
    install)
      plugin_on create "$number"
      [[ ${#args[@]} == 0 ]] || on "$number" docker plugin set "$PLUGIN" "${args[@]}"
      on "$number" docker plugin enable "$PLUGIN" >/dev/null
      ;;
    set | upgrade) on "$number" docker plugin "$verb" "$PLUGIN" "${args[@]}" ;;
    enable | disable | rm) on "$number" docker plugin "$verb" "${args[@]}" "$PLUGIN" >/dev/null ;;
    *) fail "plugin: expected create, install, set, enable, disable, upgrade or rm, got '$verb'" ;;
  esac
}

registry() {
  command -v docker-registry >/dev/null || fail "no docker-registry on this machine: run 'make deps'"
  local root
  root=/proc/$(pid_of 1)/root
  cat >"$root/run/registry.yml" <<'YAML'
version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/registry}}
http: {addr: ":5000"}
YAML
  (exec setsid nsenter -t "$(pid_of 1)" -m -u -n -p -- docker-registry serve /run/registry.yml) </dev/null >"$RUN/registry.log" 2>&1 9>&- &
  until on 1 curl -sf http://127.0.0.1:5000/v2/ >/dev/null; do
    kill -0 $! 2>/dev/null || fail "the registry ended: $(tail -n 3 "$RUN/registry.log")"
    sleep 0.02
  done
}

[[ $(cgroup_version) == 1 ]] || CGROUP_NS=-C
command=${1:-help}
[[ $# == 0 ]] || shift
case $command in
  up | down | image | registry) "$command" "$@" ;;
  ps) list ;;
  exec) on "$@" ;;
  shell) on "$1" env PS1="host$1# " bash --norc -i ;;
  log) cat "$RUN/host$1/dockerd.log" ;;
  dockerd | plugin | mtu) "$command" "$@" ;;
  poweroff) host_stop "$1" ;;
  poweron) host_up "$1" ;;
  reboot) host_stop "$1"; host_up "$1" ;;
  cut | unplug | heal) link_state "$1" "$command" ;;
  help | -h | --help) usage ;;
  *) usage >&2; exit 2 ;;
esac
