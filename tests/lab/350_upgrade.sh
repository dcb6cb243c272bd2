#!/usr/bin/env bash
# An upgrade keeps settings, state and the traffic of running containers.
. "$(dirname "$0")/lib.sh"

restart_setup WEAVE_NICKNAME=kept
lab registry
next=$WORK/next
rm -rf "$next"
cp -r "$BUNDLE" "$next"
jq '.description += ", the next one"' "$BUNDLE/config.json" >"$next/config.json"
d 1 plugin create $UNDERLAY.1:5000/weaveworks/net-plugin:next "$next" >/dev/null
d 1 plugin push $UNDERLAY.1:5000/weaveworks/net-plugin:next >/dev/null
d 1 plugin rm $UNDERLAY.1:5000/weaveworks/net-plugin:next >/dev/null
rm -rf "$next"

identity() { report 1 | jq -re '.mesh.id'; }
before=$(identity)
lab plugin 1 disable -f
d 1 plugin upgrade --skip-remote-check --grant-all-permissions "$PLUGIN" $UNDERLAY.1:5000/weaveworks/net-plugin:next >/dev/null
lab plugin 1 enable
back_soon 1
assert_nothing_lost 2 "$ping12" "over an upgrade"
assert_nothing_lost 3 "$ping32" "between other hosts"
assert_contains "$(d 1 plugin inspect -f '{{.Config.Description}}' "$PLUGIN")" "the next one"
assert_contains "$(weave 1 status)" kept
assert_eq "$(identity)" "$before" "identity after an upgrade"
run 1 later web --ip 10.40.0.11
reaches 2 c2 10.40.0.11
