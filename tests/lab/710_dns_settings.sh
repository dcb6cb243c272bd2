#!/usr/bin/env bash
# Other names go to the host's own servers and back unharmed; a domain of one's own, sub-domains, many
# addresses in one answer, and weaveDNS switched off.
. "$(dirname "$0")/dns.sh"

dns_up 2 WEAVE_DNS_DOMAIN=my.test. WEAVE_DNS_TTL=5
lab plugin 2 disable -f
lab plugin 2 set WEAVE_DNS_DOMAIN=my.test
lab plugin 2 enable
mesh_ready 2
wait_for 10 dns_serves 2
local_network 2 web 10.40

# Host 2 serves other names to host 1, whose first server is silent.
on 2 python3 "$HERE/dns.py" serve $UNDERLAY.2 2>"$WORK/dns-upstream" &
upstream=$!
trap 'kill $upstream 2>/dev/null || true' EXIT
on 1 sh -c "printf 'nameserver $UNDERLAY.99\nnameserver 172.17.0.1\nnameserver $UNDERLAY.2\n' >/etc/resolv.conf"
has_upstream() { report 1 | jq -e --arg s "$UNDERLAY.2:53" '.dns.upstreams | index($s)' >/dev/null; }
wait_for 10 has_upstream
[[ $(report 1 | jq -c .dns.upstreams) != *172.17.0.1* ]] || fail "the server would ask itself"
dns_run 1 asker web --hostname asker.sub.my.test
wait_for 10 says "NOERROR 203.0.113.7" dns_ask_in 1 asker example.org
for kind in A MX TXT PTR; do
  direct=$(on 1 python3 "$HERE/dns.py" ask $UNDERLAY.2 Example.org $kind)
  says "$direct" dns_ask_in 1 asker Example.org $kind
  says "$direct" dns_ask_in 1 asker Example.org $kind tcp
done
assert_eq "$(resolves 1 asker example.org)" 203.0.113.7 "through Docker's own DNS"

# Names in the domain do not leave the host.
says NXDOMAIN dns_ask_in 1 asker nobody.my.test
says "NOERROR $(address 1 asker web)" dns_ask 1 asker.sub.my.test
says NOERROR dns_ask 1 sub.my.test
assert_eq "$(weave 2 dns-lookup asker)" "$(address 1 asker web)"
assert_eq "$(on 1 python3 "$HERE/dns.py" ttl "$(dns_server 1)" asker.sub.my.test)" 5 'seconds to remember'

# Below the domain, neighbours are found first, by short names.
run 2 far web --hostname far.sub.my.test
run 2 near web
assert_contains "$(weave 1 dns-args -h x.sub.my.test)" "--dns-search=sub.my.test --dns-search=my.test"
# shellcheck disable=SC2046
run 1 x1 web $(weave 1 dns-args -h x.sub.my.test)
# shellcheck disable=SC2046
run 1 x2 web $(weave 1 dns-args --dns-search sub.my.test)
for container in x1 x2; do wait_for 3 says "$(address 2 far web)" resolves 1 $container far; done
wait_for 3 says "$(address 2 near web)" resolves 1 x1 near

# Its first server was silent, which is counted.
failures() { on 1 curl -sf http://127.0.0.1:6782/metrics | grep "^weave_dns_upstream_failures_total{server=\"$1:53\"}"; }
failures $UNDERLAY.99 | grep -q ' [1-9]' || fail 'a silent server is not counted'

# Fifty addresses: cut off, whole in a large datagram, whole over a connection.
# shellcheck disable=SC2046
weave 2 dns-add $(printf '198.51.100.%s ' $(seq 50)) -h many
has_many() { [[ $(dns_ask "$1" many.my.test A tcp | wc -w) == 51 ]]; }
wait_for 5 has_many 1
assert_contains "$(dns_ask 1 many.my.test A udp)" "NOERROR tc"
assert_eq "$(dns_ask 1 many.my.test A udp 4096 | wc -w)" 51
assert_eq "$(resolves 1 asker many.my.test | wc -w)" 50 "addresses in the container"

# No server is left: a failure at once, and names go on.
on 1 sh -c "echo 'nameserver 172.17.0.1' >/etc/resolv.conf"
no_upstream() { [[ $(report 1 | jq -c .dns.upstreams) == '[]' ]]; }
wait_for 10 no_upstream
for over in udp tcp; do PATIENCE=1 says SERVFAIL dns_ask_in 1 asker example.org A $over; done
says "NOERROR $(address 1 asker web)" dns_ask_in 1 asker asker.my.test

# Switched off.
lab plugin 1 disable -f
lab plugin 1 set EXTRA_ARGS=--no-dns
lab plugin 1 enable
answers() { report "$1" >/dev/null; }
wait_for 10 answers 1
assert_eq "$(weave 1 dns-args)" ""
assert_contains "$(weave 1 status dns)" "not served"
assert_refused "WEAVE_DNS" weave 1 dns-lookup asker
on 1 sh -c "echo 'nameserver $UNDERLAY.2' >/etc/resolv.conf"
run 1 plain web
assert_eq "$(resolves 1 plain example.org)" 203.0.113.7 'names outside without weaveDNS'
