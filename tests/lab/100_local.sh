#!/usr/bin/env bash
# Networks of the same subnet on lone engines are one network: everybody reaches everybody.
. "$(dirname "$0")/lib.sh"

mesh_up 3
local_network 3 web 10.40
assert_eq "$(d 1 network inspect -f '{{.Scope}}' web)" local scope
for number in 1 2 3; do run $number c$number web; done
one=$(address 1 c1 web) two=$(address 2 c2 web) three=$(address 3 c3 web)
all_reach_all "1:c1:$one" "2:c2:$two" "3:c3:$three"

# Two containers of one host as well.
run 1 c4 web
all_reach_all "1:c1:$one" "1:c4:$(address 1 c4 web)"

# Stop and start.
d 1 stop c1 >/dev/null
reaches_not 2 c2 "$one"
d 1 start c1 >/dev/null
reaches 2 c2 "$(address 1 c1 web)"
reaches 1 c1 "$two"
