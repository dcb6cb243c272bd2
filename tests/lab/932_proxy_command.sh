#!/usr/bin/env bash
# The docker command sees the same through the proxy as past it, building with BuildKit too where it can.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/proxy.sh"

launch_up 1
command_calls() { on 1 env DOCKER_HOST="$1" "$HERE/client_calls.sh"; }
same_both_ways command_calls
launch_down
