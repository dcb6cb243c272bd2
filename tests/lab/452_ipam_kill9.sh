#!/usr/bin/env bash
# Daemons are killed while three hosts allocate for all they are worth: no address is given twice.
# An answer that a dying daemon did not get out is nobody's address. A daemon that starts frees what no
# container has, so what the clients got may be given again once everything else was: the subnet is so
# large that this takes longer than the test.
. "$(dirname "$0")/lib.sh"
. "$HERE/ipam.sh"

mesh_up 3 IPALLOC_RANGE=10.128.0.0/9
for number in 1 2 3; do within 8 weave $number prime; done
# Of these 4,194,304 addresses one host has 2,796,202 at first, another the rest; the third is given
# 524,288 whenever it has none.
ipam_network 3 web --subnet 10.128.0.0/10
AT_MOST=500000

# Clients of the plugin's socket that ask for addresses until a file is gone; now and then for one of
# their own choice, which its owner has to give to all hosts but itself.
cat >"$WORK/clients.py" <<'PY'
import glob, http.client, json, os, socket, sys, threading
until, out, host = sys.argv[1:]
lock = threading.Lock()
class Plugin(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(glob.glob("/run/docker/plugins/*/weave.sock")[0])
def ask(client):
    plugin, pool, asked = None, None, 0
    while os.path.exists(until):
        try:
            plugin = plugin or Plugin("plugin")
            asked += 1
            chosen = f"10.{187 + int(host[-1])}.{client * 64 + asked // 25600}.{asked // 100 % 256}" if asked % 100 == 0 else ""
            body = {"AddressSpace": "weavelocal", "Pool": "10.128.0.0/10"} if not pool else {"PoolID": pool, "Address": chosen}
            plugin.request("POST", "/IpamDriver.RequestPool" if not pool else "/IpamDriver.RequestAddress", json.dumps(body))
            answer = json.loads(plugin.getresponse().read())
            if not pool:
                pool = answer.get("PoolID")
            elif "Address" in answer:
                with lock, open(out, "a") as file:
                    file.write(f"{host} {answer['Address'].split('/')[0]}\n")
        except (OSError, IndexError, ValueError, http.client.HTTPException):
            plugin = None
threads = [threading.Thread(target=ask, args=(client,)) for client in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
PY
touch "$WORK/until"
rm -f "$WORK"/granted*
pids=()
for number in 1 2 3; do
  on $number python3 "$WORK/clients.py" "$WORK/until" "$WORK/granted$number" "host$number" & pids+=($!)
done
containers() { # N: as users do it
  local nth=0
  while [[ -e $WORK/until ]]; do
    nth=$((nth + 1))
    d "$1" run --rm --network web lab ip -o -4 addr show 2>/dev/null |
      awk -v host="host$1" '$2 ~ /^ethwe/ {split($4, a, "/"); print host, a[1]}' >>"$WORK/containers" || true
  done
}
rm -f "$WORK/containers"
containers 1 & pids+=($!)
containers 2 & pids+=($!)
for ((round = 1; round <= 6; round++)); do
  sleep 1
  kill_daemon $((round % 3 + 1))
  wait_for 20 daemon_answers $((round % 3 + 1))
done
rm "$WORK/until"
wait "${pids[@]}"
cat "$WORK"/granted* >"$WORK/granted"
echo "$(wc -l <"$WORK/granted") addresses granted over 6 kills, $(wc -l <"$WORK/containers") containers ran"
assert_unique "$WORK/granted" "$(wc -l <"$WORK/granted")"
for number in 1 2 3; do
  [[ -s $WORK/granted$number ]] || fail "host$number granted nothing"
  assert_at_most "$(wc -l <"$WORK/granted$number")" $AT_MOST "addresses granted on host$number"
  grep -q "10\.$((187 + number))\." "$WORK/granted$number" || fail "host$number granted no chosen address"
done
# A container's address is free again after it; but no address that a client holds was a container's.
sort -u "$WORK/containers" | while read -r host given; do
  if grep -qw "$given" "$WORK/granted"; then fail "$given was a container's on $host and a client's"; fi
done
for number in 1 2 3; do no_conflicts $number || fail "$(ipam $number .ipam.conflicts)"; done
