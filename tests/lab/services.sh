# What the tests of services' virtual addresses share. Source it after lib.sh.
# shellcheck shell=bash

# In the default mode. Tasks tell whoever asks who they are; told to stop, they go on for two seconds (or
# $linger), as a server does that ends gracefully.
vip_service() { # NAME NETWORK REPLICAS [ARGS...]
  d 1 service create -d --no-resolve-image --name "$1" --network "$2" --replicas "$3" "${@:4}" lab answer "${linger:-2}" >/dev/null
}

# What asks a task whether it listens.
health=(--health-cmd 'socat -u OPEN:/dev/null TCP:127.0.0.1:80' --health-interval 500ms --health-start-period 0s)

vip() { # SERVICE [INDEX]
  d 1 service inspect -f '{{range .Endpoint.VirtualIPs}}{{.Addr}} {{end}}' "$1" | cut -d' ' -f"${2:-1}" | cut -d/ -f1
}

# Runs a program of this machine inside a container's network namespace.
inside() { # N CONTAINER CMD...
  on "$1" nsenter -t "$(container_pid "$1" "$2")" -n "${@:3}"
}

client() { # N CONTAINER ARGS...
  inside "$1" "$2" python3 "$HERE/client.py" "${@:3}"
}

answers() { # N CONTAINER ADDRESS CONNECTIONS: how many servers answer
  client "$1" "$2" count "$3" 80 "$4" | wc -l
}

has_answers() { [[ $(answers "$1" "$2" "$3" "$4") == "$5" ]]; }

# Shows how far from the mean the counts of a file of lines `N SERVER` are at most, in per cent.
spread() { # FILE
  awk '{n[NR] = $1; sum += $1} END {for (i in n) {d = n[i] * NR / sum - 1; if (d < 0) d = -d; if (d > max) max = d}
    printf "%.1f\n", max * 100}' "$1"
}

# How many tasks of a service take connections, as host N knows it.
ready_tasks() { # N SERVICE
  report "$1" | jq --arg s "$2" '[.services[] | select(.service == $s) | .tasks[] | select(.certainty == "confirmed" and .state == "ready")] | length'
}

has_ready_tasks() { [[ $(ready_tasks "$1" "$2") == "$3" ]]; }

# The addresses behind a virtual address in a container's namespace.
rules() { # N CONTAINER VIP
  inside "$1" "$2" nft list map ip weave "tasks-$3" | grep -oE ' : [0-9.]+' | cut -d' ' -f3
}

rules_with() { rules "$1" "$2" "$3" | grep -qxF "$4"; }
rules_without() { ! rules_with "$@"; }

# Milliseconds until a container's rules have a task, or have it no longer.
until_rules() { # with|without N CONTAINER VIP TASK
  local begin
  begin=$(now_ms)
  wait_for 30 "rules_$1" "${@:2}"
  echo $(($(now_ms) - begin))
}

# As until_rules; a second from the moment that the engine, or the mesh, knows, with what polling takes.
rules_soon() { # WHAT with|without N CONTAINER VIP TASK
  local took
  took=$(until_rules "${@:2}")
  echo "figure: $1 to rules on host $3: $took ms"
  assert_at_most "$took" 1500 "milliseconds from what follows to rules: $1"
}

# A client in host N's container that goes on until it is stopped. The file that gets its lines is named
# after its mode.
declare -A client_pids
client_start() { # N CONTAINER FILE VIP RATE
  # What a client before this one has left there says nothing of this one.
  : >"$3"
  client "$1" "$2" "$(basename "$3")" "$4" 80 "$5" >"$3" 2>&1 &
  client_pids[$3]=$!
  wait_for 10 test -s "$3"
}

client_stop() { # N FILE
  on "$1" pkill -TERM -f "client.py $(basename "$2") "
  wait "${client_pids[$2]}" || fail "the client ended: $(tail -n 3 "$2")"
}

# Connections to $vip from host 2's container `probe`, RATE per second, until load_stop.
load=$WORK/load
load_start() { client_start 2 probe "$load" "$vip" "$1"; }
load_stop() { # WHAT: stops, and shows how many failed, and how long the slowest took
  client_stop 2 "$load"
  lost=$(grep -c failed "$load" || true)
  echo "figure: $1: $(wc -l <"$load") connections, $lost failed, $(awk '$2 != "failed" {if ($3 > max) max = $3} END {print max + 0}' "$load") ms the slowest"
  grep failed "$load" | head -n 5 || true
}

# Services without tasks, which have their virtual addresses all the same.
many_services() { # N NETWORK-ID COUNT
  # shellcheck disable=SC2016
  on "$1" bash -c 'for ((n = 1; n <= $2; n++)); do
      echo "{\"Name\":\"more$n\",\"TaskTemplate\":{\"ContainerSpec\":{\"Image\":\"lab\"},\"Networks\":[{\"Target\":\"$1\"}]},
        \"Mode\":{\"Replicated\":{\"Replicas\":0}}}" |
        curl -sf --unix-socket /run/docker.sock -H "Content-Type: application/json" -d @- http://docker/services/create >/dev/null || exit 1
    done' - "$2" "$3"
}
