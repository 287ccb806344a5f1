#!/usr/bin/env bash
# What breaks: daemons killed under traffic, the leader killed under writes, a leader cut off, a host lost and back.
. "$(dirname "$0")/lib.sh"
three_hosts
web_image
muster_on 1 network create shop >/dev/null
check "a service is created" muster_on 1 service create -d --name web --replicas 6 --network shop --publish 8080:80 "$image"
within 60 "six replicas run" running_are 1 web 6
for h in 1 2 3; do within 10 "host $h answers" answers $h 8080; done

# A daemon is killed and started again under traffic: no request is lost, no container restarts.
before=$(muster_on 1 ps -q --node "${P}host2" | sort)
traffic() { local n=0 bad=0; while [ ! -e "$W/enough" ]; do curl -s -m 5 -f -o /dev/null "http://$(host_ip 2):8080/cgi-bin/who" || bad=$((bad + 1)); n=$((n + 1)); done; echo "$n $bad" >"$W/traffic"; }
rm -f "$W/enough"; traffic & t=$!
daemon_kill 2 KILL; daemon_up 2 || bad "musterd on host 2 did not come back"
within 20 "host 2 is ready again" nodes_are 1 3 'Ready'
touch "$W/enough"; wait $t
read -r n lost <"$W/traffic"
[ "$lost" = 0 ] && ok "no request of $n was lost while the daemon was killed and came back" || bad "$lost of $n requests were lost"
[ "$(muster_on 1 ps -q --node "${P}host2" | sort)" = "$before" ] && ok "its containers went on" || bad "its containers did not go on"

# The leader is killed under writes: every acknowledged write is there, and writes go on.
leader() { muster_on "${1:-1}" node ls --format '{{.Hostname}} {{.ManagerStatus}}' | awk '$2 == "Leader" {print $1}' | sed "s/${P}host//"; }
l=$(leader); other=$(( l % 3 + 1 ))
writes() { local i=0; while [ ! -e "$W/enough2" ]; do i=$((i + 1)); muster_on $other network create "n$i" >/dev/null 2>&1 && echo "n$i" >>"$W/acked"; done; }
: >"$W/acked"; writes & t=$!
enough() { [ "$(wc -l <"$W/acked")" -ge 5 ]; }
within 20 "writes are acknowledged" enough
daemon_kill "$l" KILL
n=$(wc -l <"$W/acked")
more() { [ "$(wc -l <"$W/acked")" -ge $((n + 5)) ]; }
within 15 "writes go on after the leader's death" more
touch "$W/enough2"; wait $t
all_there() { local have x; have=$(muster_on $other network ls --format '{{.Name}}'); while read -r x; do grep -qx "$x" <<<"$have" || { echo "lost: $x"; return 1; }; done <"$W/acked"; }
check "every acknowledged write is there" all_there
daemon_up "$l" || bad "the old leader did not come back"
within 20 "the old leader is a member again" nodes_are $other 3 'Ready (Leader|Reachable)'

# The leader is cut off: the majority elects another, and it follows when it is back.
l=$(leader $other); other=$(( l % 3 + 1 ))
ip -n "${P}0" link set "p$l" down
new_leader() { local n; n=$(leader $other); [ -n "$n" ] && [ "$n" != "$l" ]; }
within 15 "the majority has a new leader" new_leader
check "and takes writes" muster_on $other network create after-cut
not_cut_off() { [ "$(muster_on $other service ps web --filter desired-state=running --format '{{.Node}} {{.CurrentState}}' | grep -v "^${P}host$l " | grep -c ' Running')" = 6 ]; }
within 30 "all six replicas run on the two hosts" not_cut_off
ip -n "${P}0" link set "p$l" up
within 30 "the old leader is back" nodes_are $other 3 'Ready (Leader|Reachable)'
no_strays() { [ "$(muster_on $other ps -q | wc -l)" = 6 ]; }
within 40 "no task runs twice" no_strays

# A host is lost and comes back.
# One that runs tasks: after the cut above all may be on one.
check "a forced update brings tasks to all hosts again" timeout 90 "$BIN/muster" -H "unix://$(host_sock $other)" service update --force web
spread() { [ "$(muster_on $other service ps web --filter desired-state=running --format '{{.Node}} {{.CurrentState}}' | grep ' Running' | cut -d' ' -f1 | sort -u | wc -l)" = 3 ]; }
within 30 "as many run as are wanted, on three hosts" spread
lost=$l
began=$(date +%s%N)
host_kill $lost
# Nobody knows yet, nor for the next 4.5 s: who is given to a replica that is lost repeats itself after 1 s and after 3 s.
crowd() {
  local pids=() pid lost=0
  for _ in $(seq 16); do curl -s --max-time 4 -f -o /dev/null "http://$(host_ip "$other"):8080/cgi-bin/who" & pids+=($!); done
  for pid in "${pids[@]}"; do wait "$pid" || lost=$((lost + 1)); done
  echo "# 16 requests at once answered after $(( ($(date +%s%N) - began) / 1000000 )) ms, $lost not"
  [ "$lost" = 0 ]
}
check "requests get through by a repetition before anybody knows of the loss" crowd
elsewhere() { [ "$(muster_on $other service ps web --filter desired-state=running --format '{{.Node}} {{.CurrentState}}' | grep -v "^${P}host$lost " | grep -c ' Running')" = 6 ]; }
within 15 "the lost host's tasks run elsewhere" elsewhere
echo "# after $(( ($(date +%s%N) - began) / 1000000 )) ms"
ip -n "${P}0" link set "p$lost" up
daemon_up $lost || bad "the lost host did not come back"
within 30 "it is ready again" nodes_are $other 3 'Ready'
within 40 "no orphan runs on it" no_strays

# Drain and demotion.
check "a node is drained" muster_on $other node update --availability drain "${P}host$other"
drained() { [ -z "$(muster_on $other ps -q --node "${P}host$other")" ]; }
within 40 "its tasks move away" drained
within 30 "and run elsewhere" running_are $other web 6
# One of the managers that stay may be on its way back still: then there would be no majority, and it is refused.
within 30 "a manager is demoted" muster_on $other node demote "${P}host$lost"
two() { nodes_are $other 2 'Ready (Leader|Reachable)'; }
within 30 "two managers are left" two
check "and promoted again" muster_on $other node promote "${P}host$lost"
within 30 "three managers again" nodes_are $other 3 'Ready (Leader|Reachable)'

# A daemon is killed while a task that takes its time ends: its end is told all the same, and the next one runs.
at=$(docker -H "unix://$(docker_sock $other)" node inspect -f '{{.ID}}' "${P}host$lost")
check "a task that ignores its stop signal runs" muster_on $other service create -d --name slow --constraint "node.id==$at" --stop-grace-period 5s "$image" sh -c 'trap "" TERM; while :; do sleep 0.1; done'
within 40 "on one host" running_are $other slow 1
slow_ones() { docker -H "unix://$(docker_sock "$lost")" ps -q --no-trunc --filter name=slow. "$@"; }
old=$(slow_ones); [ -n "$old" ] || bad "its container is not there"
check "it is replaced" docker -H "unix://$(docker_sock $other)" service update -d --force slow
ending() { docker -H "unix://$(docker_sock "$lost")" events --since 1m --until 0s --filter event=kill --format '{{.Actor.Attributes.name}}' | grep -q '^slow\.'; }
within 10 "and told to end" ending
daemon_kill "$lost" KILL; daemon_up "$lost" || bad "musterd on host $lost did not come back"
one_slow() { local up; up=$(slow_ones) && [ "$(echo "$up" | wc -w)" = 1 ] && [ "$up" != "$old" ] && [ -z "$(slow_ones -a --filter status=created)" ]; }
within 30 "the next one runs" one_slow
