#!/usr/bin/env bash
# Builds the static binary and assembles plugin/, the bundle that `docker plugin create` takes.
# BINARY=path takes a ready static binary instead of building one.
set -euo pipefail

cd "$(dirname "$0")/.."
# 12 MB, so that a registry's pull on every host stays quick.
limit=$((12 * 1024 * 1024))

fail() { echo "plugin: $*" >&2; exit 1; }

build() {
  local cargo_version target
  command -v cargo >/dev/null || fail "cargo is missing: run 'make deps'"
  cargo_version=$(cargo --version | cut -d' ' -f2)
  [[ $(printf '%s\n' 1.95 "$cargo_version" | sort -V | head -n 1) == 1.95 ]] ||
    fail "cargo $cargo_version is too old, 1.95 or newer is needed: run 'rustup update stable'"
  target=$(rustc -vV | sed -n 's/^host: //p')
  # Functions that came out alike are kept once, and relocations packed: a tenth of the size. Only
  # on this target is the linker one that can.
  local link=()
  [[ $target != x86_64-unknown-linux-gnu ]] ||
    link=(-C link-arg=-Wl,--icf=all -C link-arg=-Wl,-z,pack-relative-relocs)
  # Naming the target keeps the flag away from build scripts and procedural macros.
  RUSTFLAGS="-C target-feature=+crt-static" \
    cargo rustc --release --locked --bin weave --target "$target" -- "${link[@]}" >&2
  echo "target/$target/release/weave"
}

binary=${BINARY:-$(build)}
# A program that wants a loader would fail in a rootfs that has none.
if ldd "$binary" 2>/dev/null | grep -q '=>'; then fail "$binary is not static"; fi

rm -rf plugin.new
# Docker mounts the socket's directory, /proc, /sys and /dev; the host's directories go below /host.
# Nothing uses /shared, the propagated mount: only with one do mounts made below /host/run reach the
# host (moby, plugin/v2/plugin_linux.go, RootfsPropagation), and with them the namespace of the devices.
mkdir -p plugin.new/rootfs/{run/docker/plugins,host/run,host/var/lib,shared,proc,sys,dev,etc,tmp}
install -m 755 "$binary" plugin.new/rootfs/weave
install -m 644 config.json plugin.new/config.json

size=$(du -sb plugin.new | cut -f1)
((size <= limit)) || fail "the bundle has $size bytes, more than $limit"
rm -rf plugin
mv plugin.new plugin
printf 'plugin/: %d.%d MB\n' $((size / 1048576)) $((size % 1048576 * 10 / 1048576))
