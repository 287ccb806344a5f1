#!/usr/bin/env bash
# The cluster-scoped Docker endpoint when things go wrong: clients that are cut off, readers that are slow, a host that goes
# away and comes back. The client is on host 1, what it works with on host 2 or 3.
. "$(dirname "$0")/lib.sh"
export DOCKER_CONFIG="$W/client" DOCKER_CLI_HINTS=false
unset DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_API_VERSION
mkdir -p "$DOCKER_CONFIG" "$W/files"
whole_sock="$W/h1/run/docker-cluster.sock"
export DOCKER_HOST="unix://$whole_sock"
field_is() { [ "$(docker inspect -f "{{$2}}" "$1" 2>/dev/null)" = "$3" ]; }
api() { curl -s -m 20 --unix-socket "$whole_sock" "$@"; }
daemon() { cat "$W/h$1/run/musterd.pid"; }
# open_files HOST PART: files that a host's daemon has open whose path has PART in it
open_files() { ls -l "/proc/$(daemon "$1")/fd" 2>/dev/null | grep -c -- "$2"; }
no_open_files() { [ "$(open_files "$1" "$2")" = 0 ]; }
rss() { awk '/^VmRSS/ {print $2}' "/proc/$(daemon "$1")/status"; }
# start_client COMMAND...: its output goes to a file; cut_client: it dies without a word
start_client() { setsid "$@" </dev/null >"$W/out" 2>&1 & client=$!; }
cut_client() { kill -KILL -- "-$client" 2>/dev/null; wait "$client" 2>/dev/null; }
has_output() { [ -s "$W/out" ]; }
sleeper='trap exit TERM; while :; do sleep 0.1; done'

three_hosts
web_image
quiet docker pull "$image"; quiet docker tag "$image" box:1
there() { docker run -e "constraint:node==${P}host2" "$@"; }

#### a client that is cut off
quiet there -d --name talker box:1 sh -c 'while :; do echo line; sleep 0.1; done'
start_client docker logs -f talker
within 10 "a client follows a log on another host" has_output
[ "$(open_files 2 json.log)" -gt 0 ] && ok "which that host reads" || bad "host 2 has no log open"
cut_client
within 10 "cut off, nobody reads it any more" no_open_files 2 json.log

quiet there -d --name target box:1 sh -c "$sleeper"
(sleep 100 & echo $! >"$W/feeder"; wait) | setsid docker exec -i target sh -c 'echo up; exec cat' >"$W/out" 2>&1 & client=$!
within 10 "a client feeds a command on another host" has_output
cats() { docker exec target ps | grep -c ' cat$'; }
one_cat() { [ "$(cats)" = 1 ]; }
within 10 "which runs there" one_cat
kill -KILL "$client" 2>/dev/null; kill "$(cat "$W/feeder")" 2>/dev/null; wait "$client" 2>/dev/null
no_cats() { [ "$(cats)" = 0 ]; }
within 10 "cut off, the command gets its end of input" no_cats

start_client script -qec "docker run -it --name kept -e constraint:node==${P}host2 box:1 sh -c 'echo up; exec sleep 1000'" /dev/null
within 20 "a client runs a terminal on another host" has_output
within 10 "which is there" field_is kept .State.Running true
cut_client
is "cut off, the container goes on, as on one host" true docker inspect -f '{{.State.Running}}' kept
quiet docker rm -f kept

quiet docker exec target sh -c 'dd if=/dev/zero of=/tmp/large bs=1M count=200 2>/dev/null'
mkfifo "$W/outgoing"
docker cp target:/tmp/large - >"$W/outgoing" 2>/dev/null & client=$!
exec 8<"$W/outgoing"; head -c 1000000 <&8 >"$W/out"
reads() { [ "$(open_files 2 tmp/large)" -gt 0 ]; }
check "a client copies a large file out of another host" reads
kill -KILL "$client"; wait "$client" 2>/dev/null; exec 8<&-
within 10 "cut off, nobody reads the file any more" no_open_files 2 tmp/large

mkfifo "$W/half"
setsid sh -c "docker cp - target:/root <'$W/half'" >"$W/out" 2>&1 & client=$!
exec 7>"$W/half"; mkdir -p "$W/files/up"; dd if=/dev/urandom of="$W/files/up/half" bs=1M count=20 2>/dev/null
tar -C "$W/files/up" -cf - half | head -c 10000000 >&7
arrives() { docker exec target test -s /root/half; }
within 20 "a client copies a large file in" arrives
cut_client; exec 7>&-
settled() { local a b; a=$(docker exec target stat -c %s /root/half 2>/dev/null); sleep 0.3; b=$(docker exec target stat -c %s /root/half 2>/dev/null); [ "$a" = "$b" ] && no_open_files 2 root/half; }
within 10 "cut off, nothing is written any more" settled

# A registry that takes the call and never answers.
python3 -c "
import socket, sys
s = socket.create_server(('$(me_ip)', 5999)); open('$W/mute', 'w').write('up'); held = []
while True: held.append(s.accept())
" & mute=$!
within 10 "a registry is mute" test -s "$W/mute"
calls() { local h n=0; for h in 1 2 3; do n=$((n + $(in_host $h ss -Htn state established "dport = :5999" | wc -l))); done; echo $n; }
start_client docker pull "$(me_ip):5999/x:1"
three_call() { [ "$(calls)" = 3 ]; }; none_calls() { [ "$(calls)" = 0 ]; }
within 15 "a pull waits for it on every host" three_call
cut_client
within 15 "cut off, no host waits any more" none_calls
kill "$mute" 2>/dev/null; wait "$mute" 2>/dev/null

#### many that stall: all calls to a host share one connection
quiet there -d --name deaf box:1 sleep 1000
quiet there -d --name loud box:1 sh -c 'while :; do seq 1 2000; done'
stalled=()
for i in 1 2 3 4; do
  # Again, where a busy machine's host did not answer in time.
  setsid sh -c "until head -c 50000000 /dev/zero | docker exec -i deaf sleep 1000; do sleep 0.1; done" >/dev/null 2>&1 & stalled+=($!)
  setsid sh -c "until docker logs -f loud; do sleep 0.1; done | sleep 1000" >/dev/null 2>&1 & stalled+=($!)
done
sleepers() { [ "$(docker exec deaf ps | grep -c ' sleep 1000$')" = 5 ]; }
within 20 "four commands on another host read no input, four clients no output" sleepers
held() { [ "$(ls -l "/proc/$(daemon 2)/fd" | grep -c -- -json.log)" -ge 4 ]; }
within 20 "whose logs are open there" held
idle_io() { local a b; a=$(rchar); sleep 0.5; b=$(rchar); [ $((b - a)) -lt 500000 ]; }
rchar() { awk '/^rchar/ {print $2}' "/proc/$(daemon 1)/io"; }
within 20 "until nothing moves any more" idle_io
is "others are not held up" up timeout -s KILL 5 docker exec deaf echo up
early() { head -c 20000000 /dev/zero | timeout -s KILL 20 docker run --rm -i -e "constraint:node==${P}host2" box:1 sh -c 'head -c 1 | wc -c'; }
is "nor is a large input that comes before its container has started" 1 early
for pid in "${stalled[@]}"; do kill -KILL -- "-$pid" 2>/dev/null; wait "$pid" 2>/dev/null; done
quiet docker rm -f deaf loud

#### a reader that is slow
quiet there -d --name chatty box:1 sh -c 'while :; do echo "$(seq 1 2000)"; done'
before1=$(rss 1) before2=$(rss 2)
setsid docker logs -f chatty >"$W/slow" 2>&1 & client=$!
within 10 "a client reads a chatty log on another host" test -s "$W/slow"
kill -STOP "$client"
grows() { [ "$(stat -c %s "$(on_log)")" -gt "$1" ]; }
on_log() { ls "$W"/h2/data/engine/containers/"$(docker inspect -f '{{.Id}}' chatty)"/*-json.log; }
size=$(stat -c %s "$(on_log)")
within 60 "which goes on while the client sleeps" grows $((size + 40000000))
for h in 1 2; do
  eval "was=\$before$h"; is_now=$(rss $h)
  [ $((is_now - was)) -lt 40000 ] && ok "and costs host $h no memory ($((is_now - was)) KiB more)" || bad "host $h grew by $((is_now - was)) KiB"
done
kill -KILL "$client"; wait "$client" 2>/dev/null
quiet docker rm -f chatty talker target

#### a host that goes away
quiet docker tag box:1 gone:1
quiet docker run -d --name lost -e "constraint:node==${P}host3" box:1 sh -c 'while :; do echo line; sleep 0.1; done'
quiet there -d --name stays box:1 sh -c "$sleeper"
start_client docker events --format '{{.Type}} {{.Action}} {{index .Actor.Attributes "node.name"}}'; events=$client
setsid docker logs -f lost >"$W/lost" 2>&1 & follower=$!
within 10 "somebody follows a log on host 3" test -s "$W/lost"
(docker wait lost >"$W/waited" 2>&1; echo "ended $?" >>"$W/waited") & waiter=$!
waits() { [ "$(ss -Hx state established src "$whole_sock" | wc -l)" -ge 3 ]; }
within 10 "somebody waits for the end of its container" waits
host_kill 3
names_3() { api -D - -o /dev/null http://d/containers/json | grep -qi "^warning:.*${P}host3"; }
took() { local began=$SECONDS; names_3 || return 1; [ $((SECONDS - began)) -le 5 ]; }
check "the list comes, and names the host that is away" took
is "with what the others have" "${P}host2/stays" docker ps --format '{{.Names}}' --filter name=stays
ended() { ! kill -0 "$follower" 2>/dev/null; }
within 20 "who followed a log there is told, and not left hanging" ended
wait "$follower" 2>/dev/null
within 20 "who waited is told that, and no end that nobody knows" grep -qx "ended 1" "$W/waited"
wait "$waiter"
[ "$(grep -c -- -1 "$W/waited")" = 0 ] && ok "none is printed" || bad "wait printed $(cat "$W/waited")"
within 30 "the managers miss it" nodes_are 1 1 Down
is "what is elsewhere works" "up" docker exec stays echo up
refuses "what is nowhere may be on it" "${P}host3" docker inspect -f x ghost
quiet docker volume create --label "muster.node=${P}host2" kept; quiet docker network create near
is "who looks for anything of a name finds what is elsewhere" "true vol true" sh -c "{ docker inspect -f '{{if .RepoTags}}true{{end}}' box:1; docker inspect -f '{{if .Mountpoint}}vol{{end}}' kept; docker inspect -f '{{.Attachable}}' near; } | paste -sd' '"
quiet docker volume rm kept
check "a network that spans hosts can be removed" docker network rm near
refuses "what is on it cannot be worked with" "${P}host3" docker stop "${P}host3/lost"
refuses "a volume that is nowhere may be on it" "${P}host3" docker run --rm -v data:/d box:1 true
refuses "also when it is created" "${P}host3" docker volume create data
prints "who names a node gets one there" there sh -c "docker run --rm -e constraint:node==${P}host2 -v data:/d box:1 echo there"
quiet docker volume rm data
quiet muster_on 1 node update --availability drain "${P}host3"
check "one that is drained is not waited for" docker volume create data
quiet muster_on 1 node update --availability active "${P}host3"; quiet docker volume rm data
refuses "tag says which copy has not got the name" "did not answer: ${P}host3" docker tag box:1 box:2
refuses "rmi says where a copy may be left" "did not answer: ${P}host3" docker rmi gone:1
is "and takes the others away" "" sh -c "for h in 1 2; do docker -H unix://$W/h\$h/run/docker.sock images -q gone:1; done"
check "prune frees the others, and names it" sh -c "curl -s -m 20 -D - -X POST --unix-socket $whole_sock http://d/images/prune | grep -qi '^warning:.*${P}host3'"
refuses "nothing is placed there" "not ready [${P}host3]" docker run -d -e "constraint:node==${P}host3" box:1 true
prints "the rest takes what is new" hi docker run --rm box:1 echo hi
for l in volumes networks images/json system/df; do
  check "$l comes without it" sh -c "[ \"\$(curl -s -m 10 -o /dev/null -w '%{http_code}' --unix-socket $whole_sock http://d/$l)\" = 200 ]"
done
prints "info names it" "${P}host3" sh -c "docker info 2>&1 | grep -i 'did not answer'"
told() { grep -qx "node $1 ${P}host3" "$W/out"; }
within 20 "events tell that it went" told disconnect
ip -n "${P}0" link set p3 up; daemon_up 3 || bad "host 3 did not start"
within 30 "it comes back" nodes_are 1 3 Ready
whole_again() { ! names_3 && docker ps -a --format '{{.Names}}' | grep -qx "${P}host3/lost"; }
within 20 "and the list is whole again" whole_again
within 20 "events tell that it is back" told reconnect
client=$events; cut_client
is "what it still had is removed when it is back" "Untagged: gone:1" docker rmi gone:1
quiet docker rm -f "${P}host3/lost" stays
is "nothing is left" "" docker ps -aq
