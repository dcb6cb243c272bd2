#!/usr/bin/env bash
# Hosts are cut off, killed and restarted under 200 queries per second: once the mesh knows, no name
# stands for what cannot be reached, and what returns is answered again.
. "$(dirname "$0")/dns.sh"

dns_up 3
local_network 3 web 10.40
for number in 1 2 3; do dns_run $number c$number web --network-alias all --restart always; done
one=$(address 1 c1 web) two=$(address 2 c2 web) three=$(address 3 c3 web)
three=$(address 3 c3 web)
everybody="NOERROR $(printf '%s\n' "$one" "$two" "$three" | sort | paste -sd' ')"
nobody3="NOERROR $(printf '%s\n' "$one" "$two" | sort | paste -sd' ')"
for number in 1 2 3; do wait_for 5 says "$everybody" dns_ask $number all.weave.local; done

answers=$WORK/dns-answers
on 1 python3 "$HERE/dns.py" watch "$(dns_server 1)" all.weave.local 200 230 >"$answers" 2>"$WORK/dns-watch" &
watcher=$!
trap 'kill $watcher 2>/dev/null || true' EXIT

# Every answer between two times is this one.
only() { # FROM TO EXPECTED
  awk -v from="$1" -v to="$2" -v want="$3" '
    $1 >= from && $1 < to { time = $1; $1 = ""; sub(/^ /, ""); n++; if ($0 != want) { bad++; print time ": " $0 } }
    END { print n " answers, " bad + 0 " wrong"; exit !(n > 0 && !bad) }' "$answers" >"$WORK/only" 2>&1 ||
    { tail -n 3 "$WORK/only"; fail "expected only '$3'"; }
  tail -n 1 "$WORK/only"
}

answers_all() { says "$everybody" dns_ask "$1" all.weave.local; }

echo "-- host 3 is cut off"
lab cut 3
wait_for 10 has_connections 1 1
knows=$(now_ms)
sleep 4
echo "host 1: $(only $((knows + 2000)) "$(now_ms)" "$nobody3")"
says "NOERROR $three" dns_ask 3 all.weave.local
lab heal 3
for number in 1 2 3; do wait_for 15 answers_all $number; done

echo "-- a name ends and another begins while their hosts cannot tell"
dns_run 3 old web
wait_for 5 says "NOERROR $(address 3 old web)" dns_ask 1 old.weave.local
lab cut 3
wait_for 10 has_connections 1 1
d 3 rm -f old >/dev/null
dns_run 3 new web
weave 1 dns-add 203.0.113.1 -h meanwhile
lab heal 3
for number in 1 2 3; do
  wait_for 15 says NXDOMAIN dns_ask $number old.weave.local
  wait_for 15 says "NOERROR $(address 3 new web)" dns_ask $number new.weave.local
  wait_for 15 says "NOERROR 203.0.113.1" dns_ask $number meanwhile.weave.local
done
for number in 1 2 3; do wait_for 15 answers_all $number; done

echo "-- host 3 loses its power"
lab poweroff 3
wait_for 10 has_connections 1 1
knows=$(now_ms)
sleep 4
echo "host 1: $(only $((knows + 2000)) "$(now_ms)" "$nobody3")"
lab poweron 3
wait_for 30 has_connections 1 2
wait_for 30 dns_serves 3
wait_for 30 d 3 exec c3 true
three=$(address 3 c3 web)
everybody="NOERROR $(printf '%s\n' "$one" "$two" "$three" | sort | paste -sd' ')"
for number in 1 2 3; do wait_for 20 answers_all $number; done

echo "-- host 2's daemon is killed"
begin=$(now_ms)
on 2 kill -9 "$(daemon_pid 2)"
wait_for 20 answers_all 2
wait_for 20 answers_all 1
echo "back after $(($(now_ms) - begin)) ms"

echo "-- host 2's engine restarts"
lab dockerd 2 restart
wait_for 30 dns_serves 2
wait_for 30 d 2 exec c2 true
two=$(address 2 c2 web)
everybody="NOERROR $(printf '%s\n' "$one" "$two" "$three" | sort | paste -sd' ')"
for number in 1 2 3; do wait_for 20 answers_all $number; done

kill -0 $watcher || fail "the queries ended: $(cat "$WORK/dns-watch")"
kill $watcher
echo "$(wc -l <"$answers") answers on host 1"
if grep -v NOERROR "$answers" | head -n 3 | grep .; then fail "host 1 did not always answer"; fi
