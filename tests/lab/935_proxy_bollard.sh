#!/usr/bin/env bash
# bollard, Rust's library for Docker's API, sees the same through the proxy as past it. It is built here,
# where there is a cargo.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/proxy.sh"

if ! command -v cargo >/dev/null; then
  echo 'skipped: there is no cargo to build the client with'
  lab_up 1
  exit 0
fi
cargo build --quiet --locked --manifest-path "$HERE/bollard/Cargo.toml"
launch_up 1
library_calls() { on 1 "$HERE/bollard/target/debug/weave-lab-bollard" "${1#unix://}"; }
same_both_ways library_calls
input=$(head -c 300000 /dev/zero | tr '\0' x | md5sum)
said 'run: "hi\n"' "attach: (\"$input\\n\", 0)" 'attach tty: ("hello\r\nhello\r\n", 0)' \
  'exec: (Some(3), "err\nout\n")' 'exec tty: (Some(4), "/dev/pts/0\r\n")' "exec input: (Some(0), \"$input\\n\")" \
  'stats: [true]' 'logs tail: 1' 'stat: ("big", 20000000)' 'paused: Some(PAUSED)' 'stopped: Some(EXITED)' 'wait: 137' \
  'restarts: (5, Some(1))' 'events: ["create", "destroy"]' 'volume: "calls"' 'its networks: Some(["calls"])' \
  'built: "made\n"' 'build fails: Docker stream error: The command '"'/bin/sh -c exit 3'"' returned a non-zero code: 3' \
  'commit: Some(["large:1"])' 'save: true' 'load: ["Loaded image: large:1\n"]' 'loaded: true'
launch_down
