#!/usr/bin/env bash
# Containers of `docker run` on a swarm's network, on managers and workers: by address and by name.
. "$(dirname "$0")/lib.sh"

swarm_up 3
network 1 web --attachable --subnet 10.41.0.0/16
for number in 1 2 3; do run $number c$number web; done
all_reach_all "1:c1:$(address 1 c1 web)" "2:c2:$(address 2 c2 web)" "3:c3:$(address 3 c3 web)"
assert_eq "$(lookup 3 c3 c1)" "$(address 1 c1 web)" "the address behind a name"

# Docker tells a node to remove the network with its last container, and to make it again.
d 2 rm -f c2 >/dev/null
wait_for 10 no_links_left 2
run 2 c2 web
all_reach_all "1:c1:$(address 1 c1 web)" "2:c2:$(address 2 c2 web)"

# Beside Docker's overlay.
d 1 network create -d overlay --attachable over >/dev/null
run 1 both over
d 1 network connect web both
run 3 overlaid over
reaches 3 c3 "$(address 1 both web)"
reaches 3 overlaid "$(address 1 both over)"
d 1 rm -f both >/dev/null
d 3 rm -f overlaid >/dev/null
