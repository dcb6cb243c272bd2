#!/usr/bin/env bash
# Measures our network against Docker's overlay, side by side in one run, and prints a table.
# OVERLAY_ONLY=1 measures the overlay alone; ROUNDS, RUNS and SECONDS_EACH make it shorter or longer.
export LAB=${LAB:-figures}
. "$(dirname "$0")/lib.sh"
RUNS=${RUNS:-20}
ROUNDS=${ROUNDS:-3}
SECONDS_EACH=${SECONDS_EACH:-5}
networks=(overlay weave)
[[ -z ${OVERLAY_ONLY:-} ]] || networks=(overlay)
failed=0

trap 'lab down' EXIT
lab down
if [[ -n ${OVERLAY_ONLY:-} ]]; then lab_up 3; swarm_make 3; else swarm_up 3; fi
for network in "${networks[@]}"; do
  driver=$PLUGIN
  [[ $network != overlay ]] || driver=overlay
  d 1 network create -d "$driver" --attachable "fig-$network" >/dev/null
done

run_times() { # FILE-SUFFIX: networks take turns, so that a busy machine burdens them alike
  local round network
  for ((round = 0; round < RUNS; round++)); do
    for network in "${networks[@]}"; do run_milliseconds 2 "fig-$network" >>"$work/run-$1-$network"; done
    run_milliseconds 2 none >>"$work/run-$1-none"
  done
}

throughput() { # NETWORK STREAMS: Mb/s from host 2 to host 1
  d 2 exec "client-$1" iperf3 -J -c "$(address 1 "server-$1" "fig-$1")" -t "$SECONDS_EACH" -P "$2" |
    jq '.end.sum_received.bits_per_second / 1e6 | floor'
}

row() { # WHAT UNIT FILE BOUND(max|min) RATIO
  local overlay ours ratio verdict=
  overlay=$(median <"$work/$3-overlay")
  if [[ -n ${OVERLAY_ONLY:-} ]]; then printf '%-44s %10s %-5s\n' "$1" "$overlay" "$2"; return; fi
  ours=$(median <"$work/$3-weave")
  ratio=$(awk -v a="$ours" -v b="$overlay" 'BEGIN {printf "%.2f", a / b}')
  if [[ -n ${5:-} ]]; then
    verdict="at ${4} $5: $(awk -v r="$ratio" -v b="$5" -v w="$4" 'BEGIN {print (w == "most" ? r <= b : r >= b) ? "ok" : "NOT MET"}')"
    [[ $verdict != *NOT* ]] || failed=1
  fi
  printf '%-44s %10s %10s %-5s %6s  %s\n' "$1" "$overlay" "$ours" "$2" "$ratio" "$verdict"
}

work=$(mktemp -d)
trap 'rm -rf "$work"; lab down' EXIT

run_times first
for network in "${networks[@]}"; do
  run 1 "server-$network" "fig-$network"
  run 2 "client-$network" "fig-$network"
  d 1 exec -d "server-$network" iperf3 -s
done
run_times next
for network in "${networks[@]}"; do
  wait_for 10 d 2 exec "client-$network" iperf3 -c "$(address 1 "server-$network" "fig-$network")" -n 1K
done
for ((round = 0; round < ROUNDS; round++)); do
  for streams in 1 4; do
    for network in "${networks[@]}"; do throughput "$network" $streams >>"$work/tcp-$streams-$network"; done
  done
done

# The driver's own share of a `docker run --rm`: what Docker would ask, asked by ourselves.
share_once() { # ENDPOINT-ID
  local call
  for call in CreateEndpoint Join Leave DeleteEndpoint; do
    jq -nc --arg network "$network_id" --arg endpoint "$1" --arg address "$free_address" \
      '{NetworkID: $network, EndpointID: $endpoint, SandboxKey: "/var/run/docker/netns/figures",
        Interface: {Address: $address, AddressIPv6: "", MacAddress: ""}, Options: {}}' |
      on 2 curl -sf --unix-socket "$socket" -w '%{time_total}\n' -o /dev/null -d @- "http://plugin/NetworkDriver.$call"
  done | awk '{sum += $1} END {if (NR != 4) exit 1; printf "%.1f\n", sum * 1000}'
}

if [[ -z ${OVERLAY_ONLY:-} ]]; then
  socket=/run/docker/plugins/$(d 2 plugin inspect -f '{{.Id}}' "$PLUGIN")/weave.sock
  network_id=$(d 1 network inspect -f '{{.Id}}' fig-weave)
  free_address=$(address 2 client-weave fig-weave)
  free_address=${free_address%.*}.250/24
  for ((round = 0; round < RUNS; round++)); do share_once "$(printf '%064x' $((round + 1)))" >>"$work/share"; done
fi

printf '\nengine %s, %s runs, %s rounds of %s s\n' "$(d 1 version -f '{{.Server.Version}}')" "$RUNS" "$ROUNDS" "$SECONDS_EACH"
[[ -n ${OVERLAY_ONLY:-} ]] || printf '%-44s %10s %10s %-5s %6s\n' median overlay weave '' ratio
row 'docker run --rm' ms run-first most 0.75
# An overlay network that has a container on the host already costs next to nothing beyond the
# engine's own time, so there is nothing to win there.
row 'docker run --rm, others on the network' ms run-next
row 'TCP, 1 stream' Mb/s tcp-1 least 0.95
row 'TCP, 4 streams' Mb/s tcp-4
printf '%-44s %21s %-5s\n' 'docker run --rm --network none' "$(median <"$work/run-first-none")" ms
[[ -z ${OVERLAY_ONLY:-} ]] || exit 0

share=$(median <"$work/share")
verdict=$(awk -v s="$share" 'BEGIN {print s <= 10 ? "ok" : "NOT MET"}')
[[ $verdict == ok ]] || failed=1
printf '%-44s %21s %-5s %6s  at most 10: %s\n' 'the driver, CreateEndpoint to DeleteEndpoint' "$share" ms '' "$verdict"
for number in 1 2 3; do
  rss=$(on "$number" awk '/^VmRSS/ {printf "%.1f", $2 / 1024}' "/proc/$(daemon_pid "$number")/status")
  verdict=$(awk -v r="$rss" 'BEGIN {print r < 25 ? "ok" : "NOT MET"}')
  [[ $verdict == ok ]] || failed=1
  printf '%-44s %21s %-5s %6s  below 25: %s\n' "daemon, host $number, RSS" "$rss" MB '' "$verdict"
done
exit $failed
