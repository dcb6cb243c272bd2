#!/usr/bin/env bash
# The proxy speaks TLS where the Docker daemon does: found from the daemon's command line, its environment
# and its configuration file, or as given; only clients with a certificate are let in, and certificates that are
# renewed on disk are used.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/proxy.sh"

lab_up 1
on 1 mkdir -p /etc/docker/tls/client /etc/docker/tls/stranger
certificate() { # DIR NAME KIND CA: signed by DIR/CA.pem
  on 1 bash -ec "cd /etc/docker/tls
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=$2' -keyout '$1/key.pem.new' -out request 2>/dev/null
    openssl x509 -req -in request -CA '$4.pem' -CAkey '$4.key' -CAcreateserial -days 2 -out '$1/cert.pem.new' 2>/dev/null \
      -extfile <(printf 'extendedKeyUsage=$3\nsubjectAltName=DNS:host1,IP:127.0.0.1,IP:$UNDERLAY.1\n')
    mv '$1/key.pem.new' '$1/key.pem'; mv '$1/cert.pem.new' '$1/cert.pem'; cp ca.pem '$1/' 2>/dev/null || true"
}
for ca in ca other; do
  on 1 openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=$ca" -keyout /etc/docker/tls/$ca.key \
    -out /etc/docker/tls/$ca.pem 2>/dev/null
done
certificate . host1 serverAuth ca
certificate client client clientAuth ca
certificate stranger stranger clientAuth other
files='--tlscacert=/etc/docker/tls/ca.pem --tlscert=/etc/docker/tls/cert.pem --tlskey=/etc/docker/tls/key.pem'
socket=unix:///var/run/weave/weave.sock

t() { # ARGS...: docker with the client's certificate, through the proxy
  on 1 env DOCKER_CERT_PATH=/etc/docker/tls/client docker --tlsverify -H tcp://$UNDERLAY.1:12375 "$@"
}
as() { # DIR ARGS...: with another
  on 1 env DOCKER_CERT_PATH=/etc/docker/tls/"$1" docker --tlsverify -H tcp://$UNDERLAY.1:12375 "${@:2}"
}
only_clients_with_certificates() {
  assert_contains "$(weave 1 status proxy)" 'serving tcp://0.0.0.0:12375 with TLS'
  assert_contains "$(weave 1 status proxy)" "serving $socket"
  assert_eq "$(seq 100000 | t run -i --rm lab sh -c 'sleep 0.2; md5sum')" "$(seq 100000 | md5sum)" 'input of run -i'
  assert_refused 'certificate' as stranger version
  assert_refused 'certificate' on 1 curl -sS --cacert /etc/docker/tls/ca.pem https://$UNDERLAY.1:12375/_ping
  assert_contains "$(on 1 curl -s http://$UNDERLAY.1:12375/_ping)" 'expected TLS here'
}

# Found from the command line, and listening as this client reaches Docker.
# shellcheck disable=SC2086
lab dockerd 1 restart --host unix:///run/docker.sock --host tcp://0.0.0.0:2376 --tlsverify $files
on 1 env DOCKER_HOST=tcp://host1:2376 timeout 90 "$WEAVE" launch >/dev/null
wait_for 15 has_weave_network 1
wait_for 10 t version
only_clients_with_certificates

# Streams keep their two ends, errors their words; large bodies pass both ways.
t run -d --name c1 lab >/dev/null
assert_eq "$(seq 300000 | t exec -i c1 sh -c 'sleep 0.2; md5sum')" "$(seq 300000 | md5sum)" 'input of exec -i'
on 1 bash -c 'head -c 50000000 /dev/urandom >/tmp/big'
sum=$(on 1 md5sum /tmp/big | cut -d' ' -f1)
t cp /tmp/big c1:/tmp/big
assert_eq "$(t cp c1:/tmp/big - | tar -xO | md5sum | cut -d' ' -f1)" "$sum" 'copied in and out'
assert_refused 'No such container' t start nobody

# Clients are led there with TLS and back.
environment=$(on 1 env DOCKER_HOST=tcp://host1:2376 "$WEAVE" env)
assert_contains "$environment" 'DOCKER_HOST=tcp://host1:12375'
assert_contains "$environment" DOCKER_TLS_VERIFY=1
assert_eq "$(on 1 env DOCKER_HOST=tcp://host1:2376 "$WEAVE" config)" '-H=tcp://host1:12375 --tlsverify'
assert_eq "$(on 1 env DOCKER_HOST=tcp://host1:2376 DOCKER_CERT_PATH=/etc/docker/tls/client bash -c \
  "eval \"\$($WEAVE env)\"; docker ps --format '{{.Names}}' | sort | tr '\n' ' '; eval \"\$($WEAVE env --restore)\"; echo \$DOCKER_HOST \$DOCKER_TLS_VERIFY")" \
  'c1 weave tcp://host1:2376'
assert_contains "$(on 1 env DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH=/etc/docker/tls/client bash -c "eval \"\$($WEAVE env)\"; docker ps")" c1

# Renewed under the daemon's eyes: first half, then whole, then by another authority.
serial() { on 1 bash -c "openssl s_client -connect $UNDERLAY.1:12375 </dev/null 2>/dev/null | openssl x509 -noout -serial"; }
stream() { t exec c1 sh -c 'sleep 4; echo still here'; }
stream >"$WORK/stream" &
former=$(serial)
on 1 cp /etc/docker/tls/key.pem /etc/docker/tls/key.former
on 1 sh -c 'openssl ecparam -name prime256v1 -genkey -noout >/etc/docker/tls/key.pem'
assert_eq "$(serial)" "$former" 'while the key is that of no certificate'
assert_contains "$(weave 1 status proxy)" 'former certificates: --tlskey=/etc/docker/tls/key.pem'
assert_contains "$(weave 1 status)" 'goes on with former certificates'
certificate . host1 serverAuth ca
[[ $(serial) != "$former" ]] || fail 'the renewed certificate is not used'
t version >/dev/null
[[ $(weave 1 status proxy) != *former* ]] || fail 'former certificates are spoken of'
wait $!
assert_eq "$(<"$WORK/stream")" 'still here'
on 1 sh -c 'cp /etc/docker/tls/ca.pem /tmp/ca.pem; cp /etc/docker/tls/other.pem /etc/docker/tls/ca.pem'
assert_refused 'certificate' t version
on 1 cp /etc/docker/tls/ca.pem /etc/docker/tls/stranger/ca.pem
assert_contains "$(on 1 curl -sS -k --cert /etc/docker/tls/stranger/cert.pem --key /etc/docker/tls/stranger/key.pem https://$UNDERLAY.1:12375/_ping)" OK
on 1 cp /tmp/ca.pem /etc/docker/tls/ca.pem

# Who does not get on with it costs no more than others do.
on 1 python3 - <<PY
import socket, ssl, time
def client():
    s = socket.create_connection(("$UNDERLAY.1", 12375)); s.settimeout(30); return s
silent = [client() for _ in range(100)]
half = client(); half.sendall(b"\x16\x03\x01\x02\x00\x01")
garbage = client(); garbage.sendall(b"\x16\x03\x01\x00\x05hello" + b"x" * 70000)
begin = time.time()
try: assert garbage.recv(100)[:1] in (b"\x15", b"")
except ConnectionResetError: pass
assert time.time() - begin < 5
context = ssl.create_default_context(cafile="/etc/docker/tls/ca.pem")
context.load_cert_chain("/etc/docker/tls/client/cert.pem", "/etc/docker/tls/client/key.pem")
with context.wrap_socket(client(), server_hostname="host1") as s:
    s.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
    got = b""
    while True:
        more = s.recv(1000)
        if not more: break
        got += more
    assert got.endswith(b"OK"), got
begin = time.time()
for s in [half] + silent: assert s.recv(100) == b""
print("silent clients were ended after", round(time.time() - begin, 1), "s")
PY
d 1 rm -f c1 >/dev/null
weave 1 stop >/dev/null

# Found from the configuration file. TLS alone verifies clients, as with Docker itself.
lab dockerd 1 stop
on 1 sh -c 'cat >/etc/docker/daemon.json' <<'JSON'
{"tls": true, "tlscacert": "/etc/docker/tls/ca.pem", "tlscert": "/etc/docker/tls/cert.pem", "tlskey": "/etc/docker/tls/key.pem"}
JSON
lab dockerd 1 start --host unix:///run/docker.sock --host tcp://0.0.0.0:2376
launch 1 -H $socket -H tcp://127.0.0.1:12375 >/dev/null
with_certificate() {
  on 1 curl -sf --cacert /etc/docker/tls/ca.pem --cert /etc/docker/tls/client/cert.pem --key /etc/docker/tls/client/key.pem "$1"
}
both_verify() { # Docker and the proxy alike
  local port
  for port in 2376 12375; do
    wait_for 10 with_certificate "https://127.0.0.1:$port/_ping"
    if on 1 curl -sf --cacert /etc/docker/tls/ca.pem "https://127.0.0.1:$port/_ping"; then
      fail "port $port serves a client without a certificate"
    fi
  done
}
both_verify
weave 1 stop >/dev/null

# Found from the daemon's environment: where the files are, and that clients are verified where TLS is
# spoken of at all.
lab dockerd 1 stop
on 1 rm /etc/docker/daemon.json
for flag in --tls --tls=false; do
  DOCKERD_ENV='DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH=/etc/docker/tls' lab dockerd 1 start --host unix:///run/docker.sock \
    --host tcp://127.0.0.1:2376 $flag
  launch 1 -H $socket -H tcp://127.0.0.1:12375 >/dev/null
  both_verify
  weave 1 stop >/dev/null
  lab dockerd 1 stop
done
DOCKERD_ENV='DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH=/etc/docker/tls' lab dockerd 1 start --host unix:///run/docker.sock \
  --host tcp://127.0.0.1:2376
launch 1 -H $socket -H tcp://127.0.0.1:12375 >/dev/null
for port in 2376 12375; do wait_for 10 on 1 curl -sf "http://127.0.0.1:$port/_ping"; done
weave 1 stop >/dev/null

# Without verifying, only this host is let in, or who is named.
lab dockerd 1 stop
on 1 sh -c 'cat >/etc/docker/daemon.json' <<'JSON'
{"tlsverify": false, "tlscert": "/etc/docker/tls/cert.pem", "tlskey": "/etc/docker/tls/key.pem"}
JSON
lab dockerd 1 start --host unix:///run/docker.sock --host tcp://0.0.0.0:2376
launch 1 -H $socket -H tcp://127.0.0.1:12375 -H tcp://$UNDERLAY.1:12376 >/dev/null
wait_for 10 on 1 curl -sf --cacert /etc/docker/tls/ca.pem https://127.0.0.1:12375/_ping
assert_contains "$(weave 1 status proxy)" "not serving tcp://$UNDERLAY.1:12376: whoever reaches it would be root"
weave 1 stop >/dev/null
launch 1 -H tcp://$UNDERLAY.1:12376 --proxy-insecure >/dev/null
wait_for 10 on 1 curl -sf --cacert /etc/docker/tls/ca.pem https://$UNDERLAY.1:12376/_ping
weave 1 stop >/dev/null
launch 1 -H tcp://127.0.0.1:12375 --no-detect-tls >/dev/null
wait_for 10 on 1 curl -sf http://127.0.0.1:12375/_ping
weave 1 stop >/dev/null

# Given: links lead where they do on the host; what is wrong is told, and other listeners go on.
on 1 sh -c 'mkdir -p /root/live && ln -sf /etc/docker/tls/cert.pem /root/live/cert.pem'
launch 1 -H $socket -H tcp://127.0.0.1:12375 --tlsverify --tlscacert=/etc/docker/tls/ca.pem --tlscert=/root/live/cert.pem \
  --tlskey=/etc/docker/tls/key.pem >/dev/null
local_client() { on 1 env DOCKER_CERT_PATH=/etc/docker/tls/client docker --tlsverify -H tcp://127.0.0.1:12375 "$@"; }
wait_for 10 local_client version
weave 1 stop >/dev/null
launch 1 -H $socket -H tcp://127.0.0.1:12375 --tls --tlscert=/etc/docker/tls/nothing.pem --tlskey=/etc/docker/tls/key.pem >/dev/null
wait_for 10 p 1 version
assert_contains "$(weave 1 status proxy)" 'not serving tcp://127.0.0.1:12375: --tlscert=/etc/docker/tls/nothing.pem: it cannot be read'
weave 1 stop >/dev/null
launch 1 -H $socket -H tcp://127.0.0.1:12375 --tlsverify --tlscert=/etc/docker/tls/cert.pem --tlskey=/etc/docker/tls/key.pem >/dev/null
wait_for 10 p 1 version
assert_contains "$(weave 1 status proxy)" '--tlscacert is missing'
on 1 rm -rf /root/live
launch_down

# The managed plugin sees what is below /run and /var/lib/weave.
on 1 sh -c 'mkdir -p /var/lib/weave/tls && cp /etc/docker/tls/*.pem /var/lib/weave/tls/'
given() { # DIR
  echo "-H $socket -H tcp://$UNDERLAY.1:12375 --tlsverify --tlscacert=$1/ca.pem --tlscert=$1/cert.pem --tlskey=$1/key.pem"
}
lab plugin all install WEAVE_PEERS= "EXTRA_ARGS=$(given /etc/docker/tls)"
wait_for 15 plugin_enabled 1
weave 1 launch-proxy >/dev/null
wait_for 5 p 1 version
assert_contains "$(weave 1 status proxy)" '--tlscacert=/etc/docker/tls/ca.pem: it is not to be seen from here'
lab plugin 1 disable -f
lab plugin 1 set "EXTRA_ARGS=$(given /var/lib/weave/tls)"
lab plugin 1 enable
wait_for 15 t version
weave 1 stop-proxy
