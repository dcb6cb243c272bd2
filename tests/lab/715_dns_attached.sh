#!/usr/bin/env bash
# Names of what is attached beside Docker: containers by their own names, this host by the one it is
# exposed with; on their segment alone, for as long as they are attached, also after restarts. Nobody
# but containers and the host is answered.
. "$(dirname "$0")/dns.sh"
. "$(dirname "$0")/launch.sh"

launch_up 2
for number in 1 2; do wait_for 10 dns_serves $number; done
answered() { dns_ask "$1" "$2.weave.local"; }

# On Docker's own bridge, so that it can ask, and on no network of ours until it is attached.
for number in 1 2; do
  # shellcheck disable=SC2046
  d $number run -d --name c$number $(weave $number dns-args -h foo$number.weave.local) lab >/dev/null
done
says NXDOMAIN answered 2 c1
one=$(weave 1 attach net:10.60.0.0/16 c1) two=$(weave 2 attach net:10.60.0.0/16 c2)
begin=$(now_ms)
for name in c1 foo1; do wait_for 3 says "NOERROR $one" answered 2 $name; done
echo "names of an attached container after $(($(now_ms) - begin)) ms"
wait_for 3 says "$one" resolves 2 c2 c1
wait_for 3 says "$one" resolves 2 c2 foo1.weave.local
wait_for 5 reaches 2 c2 "$(resolves 2 c2 foo1)"
assert_contains "$(weave 2 status dns)" c1.weave.local

# On the network `weave` of the legacy driver.
dns_run 1 n1 weave
wait_for 3 says "NOERROR $(address 1 n1 weave)" answered 2 n1
d 1 rm -f n1 >/dev/null
wait_for 3 says NXDOMAIN answered 2 n1

# A second address of the same container; one that is to have no name; a segment that is not the asker's.
more=$(weave 1 attach net:10.61.0.0/16 c1)
wait_for 3 says "NOERROR $(printf '%s\n' "$one" "$more" | sort | paste -sd' ')" answered 1 c1
says "NOERROR $one" dns_ask_in 2 c2 c1.weave.local
plain 1 c3
weave 1 attach --without-dns net:10.60.0.0/16 c3 >/dev/null
weave 1 dns-add 10.60.9.9 -h marker
wait_for 3 says "NOERROR 10.60.9.9" answered 2 marker
says NXDOMAIN answered 2 c3
assert_refused 'docker run --add-host' weave 1 attach --rewrite-hosts c3

# This host by name.
host=$(weave 1 expose net:10.60.0.0/16 -h gate)
wait_for 3 says "NOERROR $host" dns_ask_in 2 c2 gate.weave.local
wait_for 5 reaches 2 c2 "$(resolves 2 c2 gate)"
assert_eq "$(weave 1 expose net:10.60.0.0/16 --name door.weave.local)" "$host" 'the address exposed again'
wait_for 3 says "NOERROR $host" answered 2 door
says "NOERROR $host" answered 2 gate
assert_refused 'in the domain' weave 1 expose -h weave.local
reverse=$(awk -F. '{print $4 "." $3 "." $2 "." $1 ".in-addr.arpa"}' <<<"$host")
says "NOERROR door.weave.local. gate.weave.local." dns_ask 2 "$reverse" PTR

# After a crash of the daemon, and after a restart of the host.
d 1 kill -s KILL weave >/dev/null
d 1 start weave >/dev/null
wait_for 15 has_connections 1 1
wait_for 10 says "NOERROR $one" dns_ask_in 2 c2 c1.weave.local
wait_for 10 says "NOERROR $host" answered 2 gate
lab reboot 1
wait_for 60 has_connections 1 1
wait_for 10 says "NOERROR $host" answered 2 gate
says NXDOMAIN answered 2 c1

# Detached, hidden.
d 1 start c1 >/dev/null
assert_eq "$(weave 1 attach net:10.60.0.0/16 c1)" "$one"
wait_for 3 says "NOERROR $one" answered 2 c1
weave 1 detach net:10.60.0.0/16 c1
wait_for 3 says NXDOMAIN answered 2 c1
weave 1 hide
for name in gate door; do wait_for 3 says NXDOMAIN answered 2 $name; done

# Another host gets no answer, though it reaches the address.
weave 1 stop
launch 1 --dns-listen-address $UNDERLAY.1 $UNDERLAY.2 >/dev/null
wait_for 10 dns_serves 1
says "NOERROR 10.60.9.9" answered 1 marker
if on 2 timeout 8 python3 "$HERE/dns.py" ask $UNDERLAY.1 marker.weave.local 2>/dev/null; then fail 'a stranger was answered'; fi
if on 2 timeout 8 python3 "$HERE/dns.py" ask $UNDERLAY.1 marker.weave.local A tcp 2>/dev/null; then fail 'a stranger was answered'; fi
weave 1 dns-remove 10.60.9.9 -h marker
launch_down
