#!/usr/bin/env bash
# Puts docker's own library for Python, as the package index has it, into target/ and prints the
# interpreter that knows it. The machine's own packages are never touched.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WANTED=$HERE/requirements.txt
TARGET=$(cd "$HERE/../.." && pwd)/target
into=$TARGET/lab-python

mkdir -p "$TARGET"
exec 9>"$into.lock"
flock 9
# What is there was made from the same list, and whole.
if ! cmp -s "$WANTED" "$into/requirements.txt"; then
  python3 -c 'import ensurepip' 2>/dev/null || { echo "python3-venv is missing on this machine: run 'make deps'" >&2; exit 1; }
  rm -rf "$into"
  python3 -m venv "$into" >&2
  "$into/bin/pip" install --quiet --disable-pip-version-check --requirement "$WANTED" >&2
  cp "$WANTED" "$into/requirements.txt"
fi
echo "$into/bin/python3"
