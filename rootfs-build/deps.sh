#!/usr/bin/env bash
# Installs what building and testing need on Debian. Asks the network only for what is missing.
set -euo pipefail

packages=(
  gcc libc6-dev make curl ca-certificates jq      # to build
  docker.io iproute2 iptables procps util-linux   # to run
  docker-registry iperf3 socat tcpdump busybox-static iputils-ping # for the tests
  ethtool nftables openssl python3 perl-base docker-compose python3-venv
  wireguard-go wireguard-tools dnsperf            # for the benches
)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
# A client from elsewhere (docker-ce-cli) or one that is a package of its own, as from Debian 13 on.
command -v docker >/dev/null || ! apt-cache show docker-cli >/dev/null 2>&1 || missing+=(docker-cli)
# An engine from elsewhere serves as well.
if command -v dockerd >/dev/null; then
  kept=()
  for package in "${missing[@]}"; do [[ $package == docker.io ]] || kept+=("$package"); done
  missing=("${kept[@]}")
fi
if [[ ${#missing[@]} -gt 0 ]]; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update
  apt-get -qq install -y --no-install-recommends --no-upgrade "${missing[@]}" </dev/null
fi

if ! command -v cargo >/dev/null; then
  # Debian's own cargo is older than 1.95, which this needs; from Debian 13 on it has rustup.
  apt-cache show rustup >/dev/null 2>&1 ||
    { echo "deps: Rust 1.95 or newer is missing, and this Debian has no rustup: install it from rust-lang.org, then repeat" >&2; exit 1; }
  echo "installing Rust with rustup"
  apt-get -qq install -y --no-install-recommends rustup </dev/null
  rustup toolchain install stable --profile minimal --component clippy --component rustfmt
fi
