# What the tests of services' virtual addresses share. Source it after lib.sh.
# shellcheck shell=bash

# Tells whoever connects who it is and who asks, by TCP and UDP. When it is told to stop it goes on
# for two seconds, as a server does that ends gracefully.
server='me=$(/usr/bin/ip -o -4 addr show | awk "/ethwe0/ {sub(\"/.*\", \"\", \$4); print \$4}"); export me
  trap "sleep 2; exit 0" TERM
  socat -T5 TCP-LISTEN:80,fork,reuseaddr,backlog=1024 SYSTEM:"echo \$me \\\$SOCAT_PEERADDR" &
  socat -T1 UDP-RECVFROM:80,fork SYSTEM:"echo \$me \\\$SOCAT_PEERADDR" &
  while :; do wait; done'

vip_service() { # NAME NETWORK REPLICAS [ARGS...]: in the default mode
  d 1 service create -d --no-resolve-image --name "$1" --network "$2" --replicas "$3" "${@:4}" lab sh -c "$server" >/dev/null
}

vip() { # SERVICE [INDEX]
  d 1 service inspect -f '{{range .Endpoint.VirtualIPs}}{{.Addr}} {{end}}' "$1" | cut -d' ' -f"${2:-1}" | cut -d/ -f1
}

# Runs the client inside a container's network namespace.
client() { # N CONTAINER ARGS...
  on "$1" nsenter -t "$(container_pid "$1" "$2")" -n python3 "$HERE/client.py" "${@:3}"
}

answers() { # N CONTAINER ADDRESS CONNECTIONS: how many servers answer
  client "$1" "$2" count "$3" 80 "$4" | wc -l
}

has_answers() { [[ $(answers "$1" "$2" "$3" "$4") == "$5" ]]; }

# How many backends of a service take connections, as host N knows it.
ready_tasks() { # N SERVICE
  report "$1" | jq --arg s "$2" '[.services[] | select(.service == $s) | .tasks[] | select(.reachable and .state == "ready")] | length'
}

has_ready_tasks() { [[ $(ready_tasks "$1" "$2") == "$3" ]]; }

# What is translated in a container's namespace.
rules() { # N CONTAINER
  on "$1" nsenter -t "$(container_pid "$1" "$2")" -n nft list table ip weave
}

# Connections to $vip from host 2's container `probe`, RATE per second, until load_stop.
load=$WORK/load
load_start() { # RATE
  on 2 nsenter -t "$(container_pid 2 probe)" -n python3 "$HERE/client.py" load "$vip" 80 "$1" >"$load" 2>&1 &
  wait_for 5 test -s "$load"
}
load_stop() { # WHAT: stops, and shows how many failed
  on 2 pkill -TERM -f 'client.py load'
  wait_for 10 no_client
  lost=$(grep -c failed "$load" || true)
  echo "figure: $1: $(wc -l <"$load") connections, $lost failed"
  grep failed "$load" | head -n 5 || true
}
no_client() { ! on 2 pgrep -f 'client.py load' >/dev/null; }
