#!/usr/bin/env bash
# Addresses of one's own choice wait for nobody, also where the hosts have not agreed on how to share
# theirs out.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/launch.sh"

lab_up 1
launch 1 --ipalloc-init consensus=3 --nickname lonely >/dev/null
assert_contains "$(weave 1 status)" 'lonely ('
plain 1 c1
assert_eq "$(within 3 weave 1 attach 10.99.1.1/24 c1)" 10.99.1.1
assert_eq "$(within 3 weave 1 expose 10.99.1.2/24)" 10.99.1.2
on 1 ping -c 1 -W 2 10.99.1.1 >/dev/null
within 2 weave 1 detach 10.99.1.1/24 c1
within 2 weave 1 hide 10.99.1.2/24
assert_eq "$(attached 1 c1)" '' 'addresses of c1'

# Any other waits, for a bounded time, and says for whom.
assert_refused 'expected peers' on 1 timeout 20 "$WEAVE" attach net:default c1
launch_down
