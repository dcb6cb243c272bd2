#!/usr/bin/env bash
# The docker command sees the same through the proxy as past it, building with BuildKit too where it can.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/proxy.sh"

launch_up 1
command_calls() { on 1 env DOCKER_HOST="$1" "$HERE/client_calls.sh"; }
same_both_ways command_calls
input=$(seq 200000 | md5sum) zeros=$(head -c 20000000 /dev/zero | md5sum | cut -d' ' -f1)
said 'run: 0 hi' 'run fails: 7 err' "run input: 0 $input" 'run terminal: 0 /dev/pts/0' \
  'inspect: 0 /calls running none' 'exec: 3 out' "exec input: 0 $input" 'exec terminal: 4 /dev/pts/0' \
  "start attached: 0 $(seq 100000 | md5sum)" 'start attached terminal: 0 /dev/pts/0' 'attach: 0 tick' \
  "sum: 0 $zeros  /tmp/big" "export: 0 $zeros  -" 'stats: 0 calls 2' 'paused: 0 paused' \
  'restart policy: 0 {on-failure 2} 67108864' 'wait: 0 137' 'restarts: 0 5' 'logs follow: 0 1' 'logs tail: 0 3' \
  'events: 0 create' 'volume used: 0 kept' 'its networks: 0 calls ' 'network in use: 0 has active endpoints' \
  'load: 0 Loaded image: large:1' 'loaded: 0 the same' 'builder 0: 0 classic' "built 0: 0 $zeros  /big" 'build fails 0: 3 '
[[ $through == *'skipped: '* ]] || said 'builder 1: 0 BuildKit' "built 1: 0 $zeros  /big" 'build fails 1: 1 '
launch_down
