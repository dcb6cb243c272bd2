#!/usr/bin/env bash
# How long `docker run --rm` takes on each kind of network, measured in turns: prints `NETWORK<TAB>MS` with the
# medians of RUNS. `make bench` puts them into its report.
export LAB=${LAB:-figures}
. "$(dirname "$0")/lib.sh"
RUNS=${RUNS:-20}
work=$(mktemp -d)
trap 'rm -rf "$work"; lab down >&2' EXIT

# The name of each network, and what the report calls it.
networks=(none:none bridge:"Docker's bridge" own:"a bridge network of one's own" overlay:"Docker's overlay" weave:"ours, swarm scope" local:"ours, local scope")

prepare() {
  lab down
  swarm_up 2 WEAVE_LEGACY_SOCKETS=weavemesh
  d 1 network create -d overlay --attachable overlay
  d 1 network create -d "$PLUGIN" --attachable weave
  d 2 network create own
  # Docker makes no local network of a driver that serves a swarm, but by a socket of another name.
  wait_for 5 on 2 test -S /run/docker/plugins/weavemesh.sock
  d 2 network create -d weavemesh local
}

prepare >&2
order=("${networks[@]%%:*}")
for ((round = 0; round <= RUNS; round++)); do
  # Each begins in its turn: what the one before leaves behind burdens all alike.
  order=("${order[@]:1}" "${order[0]}")
  for network in "${order[@]}"; do
    # The first round finds nothing in any cache.
    run_milliseconds 2 "$network" | if ((round == 0)); then cat >/dev/null; else cat >>"$work/$network"; fi
  done
done
for network in "${networks[@]}"; do
  printf '%s\t%s\n' "${network#*:}" "$(median <"$work/${network%%:*}")"
done
