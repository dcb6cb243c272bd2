#!/usr/bin/env bash
# Containers made through the proxy are what their users asked for in all but the network; they know their
# address, users other than root as well; a few addresses are enough for many containers, one after the
# other; while no daemon is there, none is started half attached.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/proxy.sh"

lab_up 1
launch 1 --ipalloc-range 10.32.0.0/28 >/dev/null
wait_for 15 has_weave_network 1
wait_for 5 p 1 version

# The same program, arguments, mounts and image, made either way.
made() { # WHERE(p|d) ARGS...
  "$1" 1 create --name made "${@:2}" >/dev/null
  d 1 inspect -f '{{.Path}} {{.Args}} {{.Config.Entrypoint}} {{.Config.Cmd}} {{.Mounts}} {{.HostConfig.Binds}} {{.Config.User}} {{.Config.Env}} {{.HostConfig.RestartPolicy}}' made
  d 1 commit made made >/dev/null
  d 1 image inspect -f '{{.Config.Entrypoint}} {{.Config.Cmd}}' made
  d 1 rm -f made >/dev/null
  d 1 rmi -f made >/dev/null
}
alike() { assert_eq "$(made p "$@")" "$(made d "$@")" "$*"; }
alike lab
alike lab sh -c 'echo "$1"' x
alike --entrypoint /bin/sh lab
alike --entrypoint '' lab sh
alike --entrypoint sh -u 1000 -e A=b -v /tmp:/there:ro --restart on-failure:3 lab -c true
printf 'FROM lab\nENTRYPOINT ["sh", "-c"]\nCMD ["exit 9"]\n' | d 1 build -q -t entry - >/dev/null
alike entry
alike entry 'exit 8'
alike --entrypoint true entry
code=0
p 1 run --rm entry || code=$?
assert_eq "$code" 9 'the code of the entry point'
assert_refused 'nonsense' p 1 run --rm lab /nonsense
assert_refused 'No such image' p 1 create --pull never nobody

# Its address is in /etc/hosts, for whoever looks.
p 1 run -d --name hosts -u 1000 lab >/dev/null
assert_eq "$(d 1 exec hosts getent ahostsv4 hosts.weave.local | awk '$2 == "STREAM" {print $1}')" "$(address 1 hosts weave)"
assert_contains "$(d 1 exec hosts cat /etc/hosts)" "$(address 1 hosts weave)"
p 1 rm -f hosts >/dev/null

# Without a version in the path, in chunks, and with fields that nobody knows.
id=$(echo '{"Image": "lab", "Unknown": {"deep": [1, null]}, "hostconfig": null}' |
  on 1 curl -sf --unix-socket /run/weave/weave.sock -H 'Content-Type: application/json' -H 'Transfer-Encoding: chunked' \
    -d @- http://d/containers/create | jq -r .Id)
assert_eq "$(d 1 inspect -f '{{.HostConfig.NetworkMode}}' "$id")" weave

# What is said when it is started is the engine's to judge: the same answer either way.
answer() { # SOCKET BODY
  on 1 curl -s -o - -w ' %{http_code}' --unix-socket "$1" -H 'Content-Type: application/json' -d "$2" "http://d/containers/$id/start"
  d 1 stop -t 0 "$id" >/dev/null
}
for body in '' '{}' 'null' '{"HostConfig": null}' '{"HostConfig": {}}' '{"HostConfig": {"NetworkMode": "host"}}' '{"Nested": {"HostConfig": {"NetworkMode": "container:x"}}}' '{'; do
  assert_eq "$(answer /run/weave/weave.sock "$body")" "$(answer /run/docker.sock "$body")" "start with $body"
  assert_eq "$(d 1 inspect -f '{{.HostConfig.NetworkMode}}' "$id")" weave
done
d 1 rm -f "$id" >/dev/null

# Engines that still speak API 1.23 take there what clients of that time do not say in `create`, and
# forget what it made: the container stays where it was put all the same.
old() { on 1 curl -s -w ' %{http_code}' --unix-socket "$1" -H 'Content-Type: application/json' "${@:3}" "http://d/v1.23$2"; }
started() { # BODY: the answer, then where the container is and what it knows
  old /run/weave/weave.sock '/containers/create?name=old' -d '{"Image": "lab", "Env": ["WEAVE_CIDR=10.32.0.9/28"]}' >/dev/null
  old /run/weave/weave.sock /containers/old/start -d "$1"
  d 1 inspect -f ' {{.HostConfig.NetworkMode}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}} {{json .HostConfig.Dns}} {{json .HostConfig.DnsSearch}} {{json .HostConfig.Binds}}' old
  d 1 rm -f old >/dev/null
}
if [[ $(old /run/docker.sock /_ping -o /dev/null) == ' 200' ]]; then
  dns=$(on 1 ip -o -4 addr show docker0 | awk '{sub("/.*", "", $4); print $4}')
  for body in '{}' 'null' '{"HostConfig": null}' '{"HostConfig": {}}' '{"NetworkMode": "bridge"}' '{"Nested": {"HostConfig": {"NetworkMode": "container:x"}}}'; do
    assert_eq "$(started "$body")" " 204 weave 10.32.0.9 [\"$dns\"] [\"weave.local\"] null" "start with $body"
  done
  assert_eq "$(started '{"Binds": ["/tmp:/there"], "Dns": ["192.0.2.1"]}')" \
    " 204 weave 10.32.0.9 [\"192.0.2.1\",\"$dns\"] [\"weave.local\"] [\"/tmp:/there\"]" 'start with settings of its own'
  for mode in none host; do assert_contains "$(started "{\"NetworkMode\": \"$mode\"}")" " 204 $mode"; done
  assert_contains "$(started '{"Links": ["weave:x"]}')" 'expected links to be said when the container is created'
fi

# Fourteen addresses for fifty containers, ten at a time.
for ((round = 1; round <= 5; round++)); do
  pids=()
  for ((number = 1; number <= 10; number++)); do
    p 1 run --rm lab true &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid"; done
done
p 1 run -d --name stays --restart always lab >/dev/null
address 1 stays weave >/dev/null

# While the daemon is down.
weave 1 stop >/dev/null
assert_refused 'connect' p 1 run --rm lab true
assert_refused 'weave' d 1 restart -t 0 stays
assert_eq "$(d 1 inspect -f '{{.State.Running}}' stays)" false
launch 1 --ipalloc-range 10.32.0.0/28 >/dev/null
wait_for 15 p 1 version
wait_for 15 d 1 start stays
assert_contains "$(address 1 stays weave)" 10.32.0.
wait_for 5 running 1 stays

# Without names, containers are left with what Docker gives them.
weave 1 stop >/dev/null
launch 1 --ipalloc-range 10.32.0.0/28 --without-dns >/dev/null
wait_for 15 p 1 version
p 1 run -d --name nameless lab >/dev/null
assert_contains "$(d 1 inspect -f '{{.HostConfig.NetworkMode}} {{.HostConfig.Dns}} {{.HostConfig.DnsSearch}}' nameless)" 'weave [] []'
[[ $(d 1 exec nameless hostname -f) != *weave.local ]] || fail 'it has a name in weaveDNS'
launch_down
