#!/usr/bin/env bash
# Builds the test image out of this machine's own files, without any registry: busybox, and dynamic
# programs with the libraries they need. `docker load` takes the result.
set -euo pipefail

out=${1:?usage: image.sh FILE.tar}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,etc,tmp,var/run,proc,sys,dev}

add() { # a program and the libraries it is linked with
  local program library
  program=$(command -v "$1") || { echo "image: $1 is missing on this machine: run 'make deps'" >&2; exit 1; }
  install -D "$program" "$root/usr/bin/$1"
  # `ldd` fails on static programs.
  { ldd "$program" 2>/dev/null || true; } | grep -o '/[^ ]*' | while read -r library; do
    [[ -e $root$library ]] || install -D "$library" "$root$library"
  done
}

busybox=$(command -v busybox) || { echo "image: busybox is missing on this machine: run 'make deps'" >&2; exit 1; }
install "$busybox" "$root/bin/busybox"
for applet in $("$busybox" --list | grep -vx busybox); do ln -s busybox "$root/bin/$applet"; done
# Debian's static busybox crashes when it looks up a name through libc, so what takes names in tests is
# getent, socat and iperf3.
for program in iperf3 socat tcpdump getent ip perl; do add $program; done
rm -f "$root/bin/ip"
install "$(dirname "$0")/answer.pl" "$root/usr/bin/answer"
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
# Ends at once when told to, as pid 1 otherwise would not.
cat >"$root/bin/idle" <<'SH'
#!/bin/sh
trap 'exit 0' TERM INT
sleep infinity &
wait
SH
chmod +x "$root/bin/idle"

layer=$work/layer.tar
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$root" -cf "$layer" .
layer_id=$(sha256sum "$layer" | cut -d' ' -f1)
machine=$(dpkg --print-architecture 2>/dev/null || echo amd64)
cat >"$work/config.json" <<JSON
{"architecture":"$machine","os":"linux","created":"1970-01-01T00:00:00Z",
"config":{"Env":["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["/bin/idle"]},
"rootfs":{"type":"layers","diff_ids":["sha256:$layer_id"]},
"history":[{"created":"1970-01-01T00:00:00Z","created_by":"tests/lab/image.sh"}]}
JSON
echo '[{"Config":"config.json","RepoTags":["lab:latest"],"Layers":["layer.tar"]}]' >"$work/manifest.json"
tar -C "$work" -cf "$out.new" manifest.json config.json layer.tar
mv "$out.new" "$out"
