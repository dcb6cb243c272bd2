# What the tests of hosts without the managed plugin share. Source it after lib.sh.
# shellcheck shell=bash

WEAVE=$BUNDLE/rootfs/weave

# Making the image takes its time on a busy machine.
launch() { on "$1" timeout 90 "${PROGRAM:-$WEAVE}" launch "${@:2}"; } # N ARGS...

# Hosts 1 to N, each launched with all as its peers.
launch_up() { # N [ARGS...]
  local number
  lab_up "$1"
  for ((number = 1; number <= $1; number++)); do
    # shellcheck disable=SC2046
    launch $number $(peer_list "$1") "${@:2}" >/dev/null
  done
  mesh_ready "$1"
  for ((number = 1; number <= $1; number++)); do wait_for 15 has_weave_network $number; done
}

has_weave_network() { [[ $(d "$1" network inspect -f '{{.Driver}}' weave) == weavemesh ]]; }

# A container on the network `weave`, with no network of Docker's beside it.
plain() { # N NAME
  d "$1" run -d --name "$2" --network none lab >/dev/null
}

attached() { # N CONTAINER: its addresses as `weave ps` shows them
  weave "$1" ps "$(d "$1" inspect -f '{{.Id}}' "$2")" | cut -d' ' -f3- -s
}

# Leaves the hosts as they were before: what residue_check looks for must be gone.
launch_down() {
  local number ids
  for number in $(host_numbers); do
    ids=$(d "$number" ps -a --format '{{.ID}} {{.Names}}' | awk '$2 != "weave" {print $1}')
    # shellcheck disable=SC2086
    [[ -z $ids ]] || d "$number" rm -f $ids >/dev/null
    on "$number" timeout 30 "$WEAVE" reset --force 2>/dev/null
  done
}
