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
launch_down
