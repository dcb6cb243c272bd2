#!/usr/bin/env bash
# What Docker's clients do with streams is the same through the proxy as past it: attach and exec with
# input that ends, logs, events, copies, builds, images of some size; clients that are cut off.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/proxy.sh"

launch_up 1
p 1 run -d --name c1 lab >/dev/null

# Input that ends while output is still to come.
count=$(seq 200000 | p 1 run -i --rm lab sh -c 'sleep 0.2; md5sum')
assert_eq "$count" "$(seq 200000 | md5sum)" 'input of run -i'
assert_eq "$(seq 100000 | p 1 exec -i c1 md5sum)" "$(seq 100000 | md5sum)" 'input of exec -i'
assert_eq "$(p 1 exec c1 sh -c 'head -c 30000000 /dev/zero | tr "\0" x' | md5sum)" \
  "$(head -c 30000000 /dev/zero | tr '\0' x | md5sum)" 'output of exec'
assert_eq "$(p 1 exec c1 sh -c 'echo out; echo err >&2' 2>/dev/null)" out 'output without errors'
code=0
p 1 exec c1 sh -c 'exit 7' || code=$?
assert_eq "$code" 7 'the code of exec'
assert_contains "$(on 1 script -qec 'docker -H unix:///var/run/weave/weave.sock exec -t c1 tty' /dev/null)" /dev/pts/

# With nothing but HTTP, without an upgrade: as the oldest clients attach.
hijacked=$(on 1 bash -c 'id=$(curl -s --unix-socket /run/weave/weave.sock -H "Content-Type: application/json" \
  -d "{\"AttachStdin\":true,\"AttachStdout\":true,\"Cmd\":[\"cat\"]}" http://d/containers/c1/exec | jq -r .Id)
  { printf "POST /exec/$id/start HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{\"Detach\":false}"
    sleep 0.5; echo hello; } | timeout 10 socat -t 5 - UNIX-CONNECT:/run/weave/weave.sock')
assert_contains "$hijacked" hello

# What goes on and on, and ends when its reader does.
p 1 run -d --name ticks lab sh -c 'while :; do date; sleep 0.1; done' >/dev/null
assert_eq "$(on 1 timeout 5 bash -c 'docker -H unix:///var/run/weave/weave.sock logs -f ticks | head -n 20' | wc -l)" 20
on 1 timeout 4 docker -H unix:///var/run/weave/weave.sock events --filter container=ticks >"$WORK/events" &
sleep 1
d 1 rm -f ticks >/dev/null
wait $! || true
assert_contains "$(<"$WORK/events")" destroy
no_clients() { weave 1 status proxy | grep -qx 'clients: 0'; }
wait_for 5 no_clients

# Copies both ways, images of some size, a build.
on 1 bash -c "head -c 100000000 /dev/urandom >/tmp/big"
sum=$(on 1 md5sum /tmp/big | cut -d' ' -f1)
p 1 cp /tmp/big c1:/tmp/big
assert_eq "$(d 1 exec c1 md5sum /tmp/big | cut -d' ' -f1)" "$sum" 'copied in'
assert_eq "$(p 1 cp c1:/tmp/big - | tar -xO | md5sum | cut -d' ' -f1)" "$sum" 'copied out'
p 1 commit c1 large >/dev/null
p 1 save -o /tmp/large.tar large
d 1 rmi large >/dev/null
p 1 load -i /tmp/large.tar >/dev/null
assert_eq "$(d 1 run --rm large md5sum /tmp/big | cut -d' ' -f1)" "$sum" 'saved and loaded'
on 1 bash -c 'mkdir -p /tmp/build && printf "FROM lab\nCOPY big /\nRUN md5sum /big\n" >/tmp/build/Dockerfile && mv /tmp/big /tmp/build/'
assert_contains "$(on 1 env DOCKER_BUILDKIT=0 docker -H unix:///var/run/weave/weave.sock build /tmp/build 2>&1)" "$sum"
on 1 rm -rf /tmp/build /tmp/large.tar

# The same answers, byte for byte but for what tells the time.
answer() { # SOCKET PATH
  on 1 curl -si --unix-socket "$1" "http://d$2" |
    sed -e '/^Date:/d' -e 's/"NFd":.*"SystemTime":[^,]*,//' -e 's/"Status":"Up[^"]*"//'
}
# One container without mounts: the engine lists those in any order.
list='/containers/json?all=1&filters=%7B%22name%22%3A%5B%22c1%22%5D%7D'
for path in /_ping /version /v1.24/info "$list" /v1.41/containers/c1/json /images/json /networks/weave /nonsense /containers/nobody/json; do
  past=$(answer /run/docker.sock "$path") through=$(answer /run/weave/weave.sock "$path")
  assert_eq "$through" "$past" "$path"
done

# What the proxy costs: a call's median time, and how long a stream of some size takes.
on 1 python3 - <<'PY'
import socket, statistics, time
def call(path, request, size=0):
    begin = time.perf_counter()
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path)
        s.sendall(request.encode() + b"\r\nHost: d\r\nConnection: close\r\n\r\n")
        got = 0
        while more := s.recv(1 << 20): got += len(more)
    assert got > size, got
    return (time.perf_counter() - begin) * 1000
past, through = "/run/docker.sock", "/run/weave/weave.sock"
def medians(number, *call_of):
    took = [[call(path, *call_of) for path in (past, through)] for _ in range(number)]
    return [statistics.median(times) for times in zip(*took)]
for name, path in [("ping", "/_ping"), ("inspect", "/containers/c1/json")]:
    times = medians(200, f"GET {path} HTTP/1.1")
    print(f"{name}: {times[0]:.2f} ms past the proxy, {times[1]:.2f} ms through it")
    assert times[1] - times[0] < 1, times
times = medians(5, "GET /containers/c1/export HTTP/1.1", 20000000)
print(f"export: {times[0]:.0f} ms past the proxy, {times[1]:.0f} ms through it")
PY

# Clients who mean no good get a clear answer, and the others are served.
on 1 python3 - <<'PY'
import socket, time
def client():
    s = socket.socket(socket.AF_UNIX); s.settimeout(30); s.connect("/run/weave/weave.sock"); return s
def answer(data):
    s = client()
    try: s.sendall(data)
    except BrokenPipeError: pass
    out = b""
    while True:
        more = s.recv(65536)
        if not more: return out
        out += more
idle = [client() for _ in range(390)]
for data, status in [(b"hello\r\n\r\n", b"400"), (b"GET / HTTP/1.1\r\nX: " + b"x" * 300000, b"431"),
                     (b"POST /containers/create HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n" + b" " * 5000000, b"413"),
                     (b"GET / HT", b"408")]:
    got = answer(data)
    assert got.startswith(b"HTTP/1.1 " + status), got
    assert b'{"message":"weave proxy: ' in got, got
more = [client() for _ in range(600)]
begin = time.time()
got = answer(b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
assert got.endswith(b"OK"), got
print("served after", round(time.time() - begin, 1), "s among idle clients")
PY
launch_down
