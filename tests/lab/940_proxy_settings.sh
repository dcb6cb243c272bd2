#!/usr/bin/env bash
# The proxy's settings: where it listens, which containers it takes, what they are called, what inspect
# tells; in the managed plugin it is there when asked for.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/proxy.sh"

lab_up 1
launch 1 -H unix:///run/weave/other.sock -H tcp://127.0.0.1:12375 -H tcp://0.0.0.0:12376 --no-default-ipalloc \
  --rewrite-inspect --hostname-from-label host --hostname-match '^aws-[0-9]+-(.*)$' --hostname-replacement 'my-app-$1' >/dev/null
wait_for 15 has_weave_network 1
tcp() { on 1 docker -H tcp://127.0.0.1:12375 "$@"; }
wait_for 5 tcp version
assert_eq "$(weave 1 config)" '-H=unix:///run/weave/other.sock'
assert_eq "$(on 1 docker -H unix:///run/weave/other.sock ps -q | wc -l)" 1
assert_contains "$(weave 1 status)" 'root on this host'
assert_refused 'Failed to connect' on 1 curl -sS http://127.0.0.1:12376/_ping
[[ ! $(on 1 ls /run/weave) == *weave.sock* ]] || fail 'the usual socket is there too'

tcp run -d --name alone lab >/dev/null
assert_contains 'bridge default' "$(d 1 inspect -f '{{.HostConfig.NetworkMode}}' alone)"
tcp run -d --name c1 -e WEAVE_CIDR= --label host=aws-12798186823-foo lab >/dev/null
assert_eq "$(d 1 exec c1 hostname -f)" my-app-foo.weave.local
assert_eq "$(tcp inspect -f '{{.NetworkSettings.IPAddress}}' c1)" "$(address 1 c1 weave)"
assert_eq "$(d 1 inspect -f '{{.NetworkSettings.IPAddress}}' c1)" ''
launch_down

# The managed plugin, on another host's worth of a fresh start.
lab plugin all install WEAVE_PEERS=
wait_for 15 plugin_enabled 1
assert_refused 'the proxy is off' weave 1 env
weave 1 launch-proxy >/dev/null
wait_for 5 p 1 version
assert_refused 'no network `weave`' p 1 run --rm lab true
network 1 weave --ipam-driver "$PLUGIN" --subnet 10.32.0.0/12
assert_contains "$(p 1 run --rm lab ip -o -4 addr)" ethwe
weave 1 stop-proxy
