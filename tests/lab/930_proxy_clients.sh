#!/usr/bin/env bash
# Other clients of Docker's API: a compose project of three services on two hosts, whose services reach
# each other by name, and docker's own library for Python, which sees the same through the proxy as past it.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/proxy.sh"

python=$("$HERE/python.sh")
launch_up 2
project=$WORK/project
mkdir -p "$project"
cat >"$project/docker-compose.yml" <<'YAML'
version: "2.4"
services:
  db: {image: lab, container_name: db, network_mode: bridge, command: answer 80 tcp}
  shop: {image: lab, container_name: shop, network_mode: bridge}
  front: {image: lab, container_name: front, network_mode: bridge, restart: always}
YAML
compose() { # N ARGS...
  on "$1" env DOCKER_HOST=unix:///var/run/weave/weave.sock timeout 60 docker-compose \
    --project-directory "$project" -f "$project/docker-compose.yml" "${@:2}" 2>&1
}
compose 1 up -d db shop >/dev/null
compose 2 up -d front >/dev/null
for name in db shop; do wait_for 5 names 2 front $name "$(address 1 $name weave)"; done
wait_for 5 names 1 shop front "$(address 2 front weave)"
for name in db shop; do reaches 2 front "$(address 1 $name weave)"; done
assert_contains "$(compose 1 exec -T db hostname -f)" db.weave.local
compose 1 down >/dev/null
compose 2 down >/dev/null
assert_eq "$(d 1 ps -aq -f name=db -f name=shop)$(d 2 ps -aq -f name=front)" ''

library_calls() { on 1 "$python" "$HERE/client_calls.py" "$1"; }
same_both_ways library_calls
input=$(head -c 300000 /dev/zero | tr '\0' x | md5sum)
said "run tty=False: b'hi\\n'" "run tty=True: b'hi\\r\\n'" "attach: (44, b'\\x01\\x00\\x00\\x00\\x00\\x00\\x00\$$input\\n', 0)" \
  "attach tty: (14, b'hello\\r\\nhello\\r\\n', 0)" "get: 'running'" "exec: ExecResult(exit_code=3, output=b'out\\n')" \
  "exec demux: ExecResult(exit_code=0, output=(b'out\\n', b'err\\n'))" "exec tty: ExecResult(exit_code=0, output=b'hi\\r\\n')" \
  "exec input: (b'$input\\n', 0)" 'stat: 20000000' "paused: 'paused'" "renamed: 'calls2'" 'restart policy: 1' \
  "save and load large: (['large:1'], True, b'same\\n')" "logs follow: b'1\\n2\\n3\\n'" "logs tail: b'3\\n'" \
  "events: ['create', 'mount', 'unmount', 'destroy']" "volume used: b'kept\\n'" "its network: ['calls']" "build: ['built:latest']" "built: b'built\\n'"
launch_down
