#!/usr/bin/env bash
# From one task to many and back, under load: no connection is lost, and each task gets its share. SCALE
# says how many, RATE how many connections each second; engines start and stop few containers per
# second, so more take longer.
. "$(dirname "$0")/lib.sh"
. "$HERE/services.sh"
SCALE=${SCALE:-30}
RATE=${RATE:-100}

swarm_up 3
network 1 web --attachable
run 2 probe web
# Health checks are what burdens the machine most: two each second in all. And what is told to stop goes on
# for most of its grace period, as a server does that loses none of its clients.
linger=8 vip_service site web 1 --stop-grace-period 10s "${health[@]}" --health-interval $((SCALE / 2))s
wait_for 120 has_ready_tasks 2 site 1
vip=$(vip site)
wait_for 10 has_answers 2 probe "$vip" 10 1
load_start "$RATE"
begin=$(now_ms)
d 1 service scale -d site="$SCALE" >/dev/null
wait_for 600 has_ready_tasks 2 site "$SCALE"
echo "figure: 1 to $SCALE tasks after $(($(now_ms) - begin)) ms"
client 2 probe count "$vip" 80 $((SCALE * 100)) >"$WORK/spread"
assert_eq "$(wc -l <"$WORK/spread")" "$SCALE" "tasks that answered"
echo "figure: $((SCALE * 100)) connections over $SCALE tasks: $(spread "$WORK/spread") % from the mean at most"
begin=$(now_ms)
d 1 service scale -d site=1 >/dev/null
one_left() { [[ $(rules 2 probe "$vip" | wc -l) == 1 ]]; }
wait_for 600 one_left
wait_for 600 has_running_tasks site 1
sleep 3
echo "figure: $SCALE to 1 tasks after $(($(now_ms) - begin)) ms"
load_stop "scaling 1, $SCALE, 1 under $RATE connections/s"
assert_eq "$lost" 0 "connections lost while scaling"
