#!/usr/bin/env bash
# Creates and enables the plugin on this machine's engine. An earlier one is replaced and its settings
# are kept; K=V arguments win over them. Installs the weave command, with the man pages and completions
# of target/manual.
set -euo pipefail

cd "$(dirname "$0")/.."
plugin=${1:?usage: install.sh NAME [K=V...]}
shift

docker version >/dev/null 2>&1 || { echo "install: no Docker Engine answers on this machine: start dockerd, or run 'make deps'" >&2; exit 1; }

settings=()
if inspect=$(docker plugin inspect "$plugin" 2>/dev/null); then
  settable=$(jq -r '.env[] | select(.settable) | .name' config.json)
  while read -r setting; do
    grep -qxF "${setting%%=*}" <<<"$settable" && settings+=("$setting")
  done < <(jq -r '.[0].Settings.Env[]' <<<"$inspect")
  docker plugin disable -f "$plugin" >/dev/null 2>&1 || true
  docker plugin rm -f "$plugin" >/dev/null
fi
docker plugin create "$plugin" plugin >/dev/null
settings+=("$@")
[[ ${#settings[@]} == 0 ]] || docker plugin set "$plugin" "${settings[@]}"
docker plugin enable "$plugin" >/dev/null
install -m 755 plugin/rootfs/weave /usr/local/bin/weave
if [[ -d target/manual ]]; then
  (cd target/manual && find . -type f -exec install -D -m 644 {} /usr/local/share/{} \;)
fi
echo "$plugin is enabled; try: weave status"
