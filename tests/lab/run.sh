#!/usr/bin/env bash
# Runs the lab tests whose file name contains PATTERN (all without one), one lab for each, on the
# engine that ENGINE names. After each, every host must be free of what the test made. TRIES=2 gives a
# failed test a second chance; the first failure is shown all the same. LANE=1/2 runs every second
# test, LANE=2/2 the others: two lanes, in labs of their own, take half the time.
set -uo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
export LAB=${LAB:-test}
pattern=${1:-}
seconds=${TEST_SECONDS:-240}
logs=${TEST_LOGS:-/tmp/weave-lab-tests/$LAB}
lane=${LANE:-1/1} number=0
passed=0 failed=0 broken=()
mkdir -p "$logs" /run/lock

exec 9>"/run/lock/weave-lab-$LAB"
flock -n 9 || { echo "tests run in lab '$LAB' already: choose another name with LAB=..." >&2; exit 2; }

lab() { "$HERE/lab.sh" "$@"; }
trap 'lab down >/dev/null 2>&1' EXIT
trap 'exit 130' INT TERM

show_hosts() {
  local number
  for number in $(lab ps 2>/dev/null | sed -n 's/^host\([0-9]*\) .*/\1/p'); do
    echo "---- host$number: status"
    timeout 10 bash -c ". '$HERE/lib.sh'; trap - ERR; status $number || weave $number status" 2>&1 | tail -n 60
    echo "---- host$number: links in namespace weave"
    lab exec "$number" ip -n weave -br link 2>&1
    echo "---- host$number: dockerd and plugin"
    lab log "$number" | grep -v -e 'net\.ipv4\.' -e '\[core\]' -e memberlist -e 'default vlan' -e 'loading plugin' | tail -n "${LOG_LINES:-60}"
  done
}

# What an assertion, the lab or Docker said; else where it happened.
reason() { # LOG
  grep -m 1 -E '^(failed:|lab:|Error |docker:)' "$1" || grep -m 1 '^failed' "$1" || echo 'see its log'
}

# One test in a fresh lab, and a look at what it left.
run_test() { # FILE LOG
  local code
  lab down >/dev/null 2>&1
  timeout "$seconds" bash "$1" >"$2" 2>&1 </dev/null
  code=$?
  [[ $code != 124 ]] || echo "failed: not done within $seconds s" >>"$2"
  if [[ $code != 0 ]]; then
    # A shell that ends over an expression in something awaited says so where nobody looks.
    grep -q '^failed' "$2" || { echo 'failed: ended while waiting, at last over this:'; tail -n 5 "/tmp/weave-lab-tests/$LAB/wait"; } >>"$2" 2>&1
    return $code
  fi
  timeout 120 bash -c ". '$HERE/lib.sh'; residue_check" >>"$2" 2>&1 </dev/null
}

for file in "$HERE"/[0-9][0-9][0-9]_*.sh; do
  name=$(basename "$file" .sh)
  [[ $name == *"$pattern"* ]] || continue
  number=$((number + 1))
  [[ $((number % ${lane#*/})) == $((${lane%/*} % ${lane#*/})) ]] || continue
  log=$logs/$name.log
  # A machine that is busy with something else can make a test miss a deadline once.
  for ((try = 1; try <= ${TRIES:-1}; try++)); do
    begin=$SECONDS
    if run_test "$file" "$log"; then verdict=ok; break; fi
    verdict='not ok'
    echo "not ok $name: $(reason "$log") ($((SECONDS - begin)) s)"
    show_hosts >>"$log" 2>&1
    sed 's/^/    /' "$log"
  done
  if [[ $verdict == ok ]]; then
    passed=$((passed + 1))
    echo "ok $name ($((SECONDS - begin)) s)"
  else
    failed=$((failed + 1))
    broken+=("$name")
  fi
done
lab down >/dev/null 2>&1

[[ $((passed + failed)) -gt 0 ]] || { echo "no test matches '$pattern'" >&2; exit 2; }
[[ $failed == 0 ]] || printf 'failed: %s\n' "${broken[@]}"
echo "$passed passed, $failed failed"
[[ $failed == 0 ]]
