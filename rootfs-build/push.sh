#!/usr/bin/env bash
# Pushes the bundle to a registry, under the same name there.
set -euo pipefail

cd "$(dirname "$0")/.."
registry=${1:-}
name=${2:?usage: push.sh REGISTRY NAME}
[[ -n $registry ]] || { echo "push: name the registry: make push REGISTRY=host[:port]" >&2; exit 2; }
docker plugin rm -f "$registry/$name" >/dev/null 2>&1 || true
docker plugin create "$registry/$name" plugin >/dev/null
docker plugin push "$registry/$name"
docker plugin rm -f "$registry/$name" >/dev/null
