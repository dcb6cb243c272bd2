#!/usr/bin/env bash
# Puts a Docker Engine of another version beside the machine's own and prints the folders of its
# programs, as they belong on PATH. The machine's packages and apt lists are never touched.
set -euo pipefail

ENGINE=${1:?usage: engines.sh native|20.10|26|28}
CACHE=${WEAVE_LAB_CACHE:-/var/cache/weave-lab}

native_version() { dockerd --version 2>/dev/null | sed -n 's/^Docker version \([0-9.]*\).*/\1/p'; }

# Debian releases differ in the engine they carry.
suite_of() {
  case $1 in
    20.10) echo bookworm ;;
    26) echo trixie ;;
    28) echo sid ;;
    *) echo "engine $1: expected native, 20.10, 26 or 28" >&2; return 1 ;;
  esac
}

fetch() {
  local suite=$1 into=$2 apt=$CACHE/apt/$1 mirror
  # Where this machine gets its packages, the other releases are too.
  mirror=${WEAVE_LAB_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 '/debian/\?$' || true)}
  [[ -n $mirror ]] || { echo "no Debian mirror among this machine's package sources: name one with WEAVE_LAB_MIRROR" >&2; return 1; }
  mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$apt/debs"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$apt/sources.list"
  local options=(
    -o Dir::State="$apt/state" -o Dir::State::status=/dev/null -o Dir::Cache="$apt/cache"
    -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::Etc::preferencesparts=/dev/null -o Acquire::Languages=none -o APT::Sandbox::User=root
  )
  apt-get "${options[@]}" -qq update >&2
  (cd "$apt/debs" && rm -f ./*.deb && apt-get "${options[@]}" -qq download docker.io containerd >&2)
  rm -rf "$into.new"
  mkdir -p "$into.new"
  local deb
  for deb in "$apt"/debs/*.deb; do dpkg -x "$deb" "$into.new"; done
  # Their runc wants a newer libc than bookworm's; the machine's own serves every engine.
  rm -rf "$apt" "$into"
  mv "$into.new" "$into"
}

if [[ $ENGINE == native || $(native_version) == "$ENGINE".* ]]; then
  command -v dockerd >/dev/null || { echo "no dockerd on this machine: run 'make deps'" >&2; exit 1; }
  exit 0
fi
suite=$(suite_of "$ENGINE")
into=$CACHE/engines/$ENGINE
mkdir -p "$CACHE/engines"
exec 9>"$CACHE/engines/.lock"
flock 9
[[ -x $into/usr/sbin/dockerd ]] || fetch "$suite" "$into"
echo "$into/usr/sbin:$into/usr/bin"
