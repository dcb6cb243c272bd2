#!/usr/bin/env bash
# A bad value never stops the plugin: it is named, with what would be right, in status.
. "$(dirname "$0")/lib.sh"

lab_up 2
begin=$(now_ms)
lab plugin 1 install WEAVE_PEERS="$UNDERLAY.2 bad:host:name" WEAVE_MTU=12 WEAVE_PORT=70000 WEAVE_SCOPE=galactic \
  IPALLOC_RANGE=10.32.0.0/33 WEAVE_CONN_LIMIT=-1 LOG_LEVEL=loud WEAVE_HOST=nowhere EXTRA_ARGS="--no-such-flag --nickname=one"
assert_at_most $(($(now_ms) - begin)) 5000 "ms to create and enable"
plugin_enabled 1
lab plugin 2 install WEAVE_PEERS=$UNDERLAY.1 WEAVE_NICKNAME=two

shown=$(weave 1 status)
for word in WEAVE_PEERS bad:host:name WEAVE_MTU 12 WEAVE_PORT 70000 WEAVE_SCOPE galactic IPALLOC_RANGE 10.32.0.0/33 \
  WEAVE_CONN_LIMIT LOG_LEVEL loud WEAVE_HOST nowhere --no-such-flag; do
  assert_contains "$shown" "$word"
done
# What was good is in force.
wait_for 15 has_connections 1 1
assert_contains "$(weave 2 status)" one
local_network 2 web 10.40
run 1 c1 web
run 2 c2 web
reaches 1 c1 "$(address 2 c2 web)"

# Another port, on both.
for number in 1 2; do
  d $number rm -f c$number >/dev/null
  lab plugin $number disable -f
done
lab plugin 1 set WEAVE_PORT=7000 EXTRA_ARGS= WEAVE_MTU= WEAVE_PEERS= WEAVE_HOST=
lab plugin 2 set WEAVE_PORT=7000 WEAVE_PEERS=$UNDERLAY.1:7000
lab plugin all enable
mesh_ready 2
run 1 c1 web
run 2 c2 web
wait_for 5 reaches 1 c1 "$(address 2 c2 web)"
