#!/usr/bin/env bash
# The classic session on three hosts: names of containers started anywhere resolve everywhere, by
# container name, host name and alias, in any case, forward and back, on their segment alone; they end
# with their container; `dns-add` names what is no container of ours.
. "$(dirname "$0")/dns.sh"

dns_up 3
local_network 3 web 10.40
assert_eq "$(weave 1 dns-args)" "--dns=172.17.0.1 --dns-search=weave.local"
assert_eq "$(weave 1 dns-args --without-dns)" ''
assert_eq "$(weave 1 dns-args --name foo)" \
  "--dns=172.17.0.1 --hostname=foo.weave.local --dns-search=weave.local"

dns_run 2 asker web --add-host added:203.0.113.9
dns_run 1 c1 web --hostname foo.weave.local --network-alias shop
foo=$(address 1 c1 web)
begin=$(now_ms)
for name in foo.weave.local foo c1.weave.local c1 shop.weave.local FOO.Weave.Local; do
  wait_for 3 says "$foo" resolves 2 asker $name
done
echo "all names after $(($(now_ms) - begin)) ms"
reaches 2 asker "$(resolves 2 asker foo)"
# Its own name, as it finds it itself.
wait_for 2 says "$foo" resolves 1 c1 foo.weave.local
assert_contains "$(d 2 exec asker getent hosts "$foo")" weave.local
says "NOERROR $foo" dns_ask_in 2 asker fOO.weave.local A
for kind in AAAA MX; do says NOERROR dns_ask_in 2 asker fOO.weave.local $kind; done
says NXDOMAIN dns_ask_in 2 asker nobody.weave.local
assert_eq "$(on 2 python3 "$HERE/dns.py" ttl "$(dns_server 2)" foo.weave.local)" 1 'seconds to remember'
reverse=$(awk -F. '{print $4 "." $3 "." $2 "." $1 ".in-addr.arpa"}' <<<"$foo")
assert_eq "$(resolves 2 asker added)" 203.0.113.9 "a name of the container's own"
for name in "$reverse" "${reverse^^}"; do
  says "NOERROR c1.weave.local. foo.weave.local. shop.weave.local." dns_ask 3 "$name" PTR
done

# The very first query of a container that has only just started.
assert_eq "$(d 3 run --rm --network web $(weave 3 dns-args) lab getent ahostsv4 foo.weave.local | awk '{print $1; exit}')" "$foo" "first query"

# Another segment sees nothing of it, the host everything, strangers nothing at all.
local_network 3 db 10.41
dns_run 3 other db
says NXDOMAIN dns_ask_in 3 other foo.weave.local
says "NOERROR $(address 3 other db)" dns_ask_in 3 other other.weave.local
says "NOERROR $foo" dns_ask 3 foo.weave.local
d 2 network connect db asker
wait_for 3 says "NOERROR $(address 3 other db)" dns_ask_in 2 asker other.weave.local
d 2 network disconnect db asker
wait_for 3 says NXDOMAIN dns_ask_in 2 asker other.weave.local

# Added names: for a container, for a container's address, for addresses of nobody.
weave 1 dns-add c1 -h www
weave 1 dns-add "$foo" c1 -h one.weave.local
weave 1 dns-add 203.0.113.1 203.0.113.2 -h out
weave 1 dns-add 2001:db8::1 203.0.113.3 -h both
wait_for 2 says "NOERROR $foo" dns_ask_in 2 asker www.weave.local
wait_for 2 says "NOERROR $foo" dns_ask_in 2 asker one.weave.local
wait_for 2 says "NOERROR 203.0.113.1 203.0.113.2" dns_ask_in 3 other out.weave.local
assert_eq "$(weave 3 dns-lookup out | sort | paste -sd' ')" "203.0.113.1 203.0.113.2"
wait_for 2 says "NOERROR 203.0.113.3" dns_ask_in 3 other both.weave.local
says "NOERROR 2001:db8::1" dns_ask_in 3 other both.weave.local AAAA
weave 1 dns-remove 203.0.113.1 -h out
wait_for 2 says "NOERROR 203.0.113.2" dns_ask 3 out.weave.local
weave 1 dns-remove c1 -h www
wait_for 2 says NXDOMAIN dns_ask 3 www.weave.local
assert_refused "weave.local" weave 1 dns-add c1 -h weave.local
assert_refused "no container" weave 1 dns-add nobody
assert_contains "$(weave 2 status dns)" foo.weave.local
[[ $(weave 2 status dns) =~ 'tombstones of names that are gone: '[1-9] ]] || fail 'no tombstone is counted'
assert_eq "$(weave 3 dns-lookup --json foo)" "[\"$foo\"]"
metrics=$(on 2 curl -sf http://127.0.0.1:6782/metrics)
for metric in 'queries_total{type="A",outcome="found"} [1-9]' 'queries_total{type="A",outcome="unknown"} [1-9]' \
  'entries [1-9]' 'tombstones [1-9]' 'answer_seconds_count [1-9]' 'serving 1'; do
  grep -q "^weave_dns_$metric" <<<"$metrics" || fail "expected $metric in: $(grep dns <<<"$metrics")"
done

# What is no query, or hardly one, is answered in form or not at all, and stops nothing.
on 2 python3 "$HERE/dns.py" nonsense "$(dns_server 2)" 20000
PATIENCE=1 wait_for 3 says "NOERROR $foo" dns_ask_in 2 asker foo.weave.local

# Killed and started, again and again: never the address of a dead container.
for round in 1 2 3 4 5; do
  d 1 rm -f c1 >/dev/null
  wait_for 2 says NXDOMAIN dns_ask 2 c1.weave.local
  wait_for 2 says NXDOMAIN dns_ask 3 one.weave.local
  [[ $(dns_ask 3 "$reverse" PTR) != *c1.weave* ]] || fail 'a dead container has a name'
  dns_run 1 c1 web --ip "10.40.1.$((100 + round))"
  wait_for 2 says "NOERROR 10.40.1.$((100 + round))" dns_ask 2 c1.weave.local
done

# A restarted daemon's names are those that its engine tells; what was added for addresses stays.
dns_run 1 gone web
wait_for 2 says "NOERROR $(address 1 gone web)" dns_ask 2 gone.weave.local
lab plugin 1 disable -f
d 1 rm -f gone >/dev/null
lab plugin 1 enable
wait_for 10 says NXDOMAIN dns_ask 2 gone.weave.local
wait_for 10 says "NOERROR 10.40.1.105" dns_ask 2 c1.weave.local
wait_for 10 says "NOERROR 203.0.113.2" dns_ask 2 out.weave.local
wait_for 10 says "NOERROR 203.0.113.2" dns_ask 1 out.weave.local
