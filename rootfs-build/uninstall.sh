#!/usr/bin/env bash
# Removes the plugin from this machine's engine, and the weave command with its manual. The state in /var/lib/weave stays;
# so do the devices while containers hang on them.
set -euo pipefail

plugin=${1:?usage: uninstall.sh NAME}
if docker plugin inspect "$plugin" >/dev/null 2>&1; then
  docker plugin disable -f "$plugin" >/dev/null 2>&1 || true
  docker plugin rm -f "$plugin" >/dev/null
fi
rm -f /usr/local/bin/weave
share=/usr/local/share
rm -f "$share"/man/man1/weave{,-*}.1 "$share"/bash-completion/completions/weave \
  "$share"/zsh/site-functions/_weave "$share"/fish/vendor_completions.d/weave.fish
# Without containers nothing in the devices' namespace is of use.
if [[ -e /run/netns/weave && -z $(ip -n weave -br link show type veth) ]]; then
  ip netns delete weave
  rm -rf /run/weave
fi
echo "$plugin is gone"
