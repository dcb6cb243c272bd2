#!/usr/bin/env bash
# Measures virtual addresses on our network against Docker's overlay with services in mode dnsrr, in turns,
# and prints a table. It fails when a row is out of bounds. ROUNDS, RUNS and SERVICES make it shorter or longer.
export LAB=${LAB:-figures}
. "$(dirname "$0")/lib.sh"
. "$HERE/services.sh"
ROUNDS=${ROUNDS:-10}
# A client has 28,000 ports to one server, and a port that was used rests for a minute: twice ten rounds of
# so many must do.
CONNECTIONS=1200
RUNS=${RUNS:-30}
SERVICES=${SERVICES:-300}
failed=0
work=$(mktemp -d)
trap 'rm -rf "$work"; lab down' EXIT

# What is measured, as NAME:NETWORK:MODE; the task is on host 1, the client on host 2.
cases=(overlay-dnsrr:overlay:dnsrr weave-dnsrr:weave:dnsrr weave-vip:weave:vip)

lab down
swarm_up 2
d 1 network create -d overlay --attachable overlay >/dev/null
d 1 network create -d "$PLUGIN" --attachable --subnet 10.80.0.0/16 weave >/dev/null
d 1 network create -d "$PLUGIN" --attachable --subnet 10.81.0.0/16 bare >/dev/null
for network in overlay weave; do run 2 "probe-$network" $network; done
run 2 probe-bare bare
declare -A target
for case in "${cases[@]}"; do
  IFS=: read -r name network mode <<<"$case"
  d 1 service create -d --no-resolve-image --endpoint-mode "$mode" --name "$name" --network "$network" \
    --constraint node.hostname==host1 lab answer >/dev/null
  wait_for 60 has_running_tasks "$name" 1
  target[$name]=$(lookup 2 "probe-$network" "$name")
  wait_for 20 has_answers 2 "probe-$network" "${target[$name]}" 5 1
done

rounds() { # SUFFIX
  local round case name network
  for ((round = 0; round < ROUNDS; round++)); do
    for case in "${cases[@]}"; do
      IFS=: read -r name network _ <<<"$case"
      client 2 "probe-$network" rate "${target[$name]}" 80 $CONNECTIONS >"$work/one"
      cut -d' ' -f1 "$work/one" >>"$work/rate-$1-$name"
      cut -d' ' -f2 "$work/one" >>"$work/connect-$1-$name"
      client 2 "probe-$network" ping "${target[$name]}" 80 5000 >>"$work/ping-$1-$name"
    done
  done
}
rounds few

# Hundreds of services, and what a container's start takes beside a network that has none.
id=$(d 1 network inspect -f '{{.Id}}' weave)
many_services 1 "$id" "$SERVICES"
has_rules() { [[ $(inside 2 probe-weave nft list map ip weave virtual | grep -o goto | wc -l) == $((SERVICES + 1)) ]]; }
wait_for 60 has_rules
rounds many
start_once() { # NETWORK: milliseconds until a container has been started and has ended
  # shellcheck disable=SC2016
  on 2 bash -c 'docker create --name starts --network "$1" lab true >/dev/null
    begin=$EPOCHREALTIME; docker start -a starts; end=$EPOCHREALTIME
    docker rm starts >/dev/null
    echo $(((${end/[.,]/} - ${begin/[.,]/}) / 100))' - "$1" | awk '{print $1 / 10}'
}
# The first start after a change of services finds colder caches, and who comes second warmer ones.
for network in bare weave; do start_once $network >/dev/null; done
for ((round = 0; round < RUNS; round++)); do
  order=(bare weave)
  ((round % 2)) && order=(weave bare)
  for network in "${order[@]}"; do start_once "$network" >>"$work/start-$network"; done
done

row() { # WHAT UNIT OVERLAY OURS BOUND(most|least) RATIO
  local ratio verdict
  ratio=$(awk -v a="$4" -v b="$3" 'BEGIN {printf "%.3f", a / b}')
  verdict=$(awk -v r="$ratio" -v b="$6" -v w="$5" 'BEGIN {print (w == "most" ? r <= b : r >= b) ? "ok" : "NOT MET"}')
  [[ $verdict == ok ]] || failed=1
  printf '%-60s %9s %9s %-4s %6s  at %s %s: %s\n' "$1" "$3" "$4" "$2" "$ratio" "$5" "$6" "$verdict"
}
of() { median <"$work/$1"; }

printf '\nengine %s, medians of %s rounds of %s connections, and of %s starts, in turns\n' "$(d 1 version -f '{{.Server.Version}}')" "$ROUNDS" "$CONNECTIONS" "$RUNS"
printf '%-60s %9s %9s %-4s %6s\n' '' 'overlay' 'ours' '' ratio
row 'connections, virtual address' '1/s' "$(of rate-few-overlay-dnsrr)" "$(of rate-few-weave-vip)" least 0.95
row 'connections, dnsrr' '1/s' "$(of rate-few-overlay-dnsrr)" "$(of rate-few-weave-dnsrr)" least 0.95
row 'connect and answer, virtual address' us "$(of connect-few-overlay-dnsrr)" "$(of connect-few-weave-vip)" most 1.05
row 'round trip of a datagram, virtual address' us "$(of ping-few-overlay-dnsrr)" "$(of ping-few-weave-vip)" most 1.05
row "connections, virtual address among $((SERVICES + 1))" '1/s' "$(of rate-many-overlay-dnsrr)" "$(of rate-many-weave-vip)" least 0.95
row "round trip of a datagram, virtual address among $((SERVICES + 1))" us "$(of ping-many-overlay-dnsrr)" "$(of ping-many-weave-vip)" most 1.05
slower=$(awk -v a="$(of start-weave)" -v b="$(of start-bare)" 'BEGIN {printf "%.1f", a - b}')
verdict=$(awk -v s="$slower" 'BEGIN {print s <= 5 ? "ok" : "NOT MET"}')
[[ $verdict == ok ]] || failed=1
printf '%-60s %9s %9s %-4s %+6.1f  at most 5 ms more: %s\n' "start of a container, beside no service and beside $((SERVICES + 1))" "$(of start-bare)" "$(of start-weave)" ms "$slower" "$verdict"
exit $failed
