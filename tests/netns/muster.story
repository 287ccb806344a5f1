#!/usr/bin/env bash
# `muster` day by day: services updated, rolled back, explained and drained; what it prints and what it ends with; contexts.
. "$(dirname "$0")/lib.sh"
m() { muster_on 1 "$@"; }
ends "a host that is not there ends it with 125" 125 "$BIN/muster" -H "unix://$W/nobody.sock" ps
ends "a wrong flag with 2" 2 "$BIN/muster" ps --nonesuch
ends "no command at all with 2" 2 "$BIN/muster"
for shell in bash zsh fish; do "$BIN/muster" completion $shell >"$W/completion.$shell" || bad "completion $shell"; done
check "bash reads the completion that is made for it" bash -n "$W/completion.bash"
knows() { for shell in bash zsh fish; do grep -q rollback "$W/completion.$shell" || return 1; done; }
check "and each shell's knows the commands" knows

three_hosts
web_image
image2="$(me_ip):$REGISTRY_PORT/web:2"
image_put web 2 '{"Env":["PATH=/bin","VERSION=2"],"Cmd":["httpd","-f","-p","0.0.0.0:80","-h","/www"],"ExposedPorts":{"80/tcp":{}}}'
quiet m network create shop
prints "service create waits for its tasks and says so" "3 of 3 tasks run" \
  m service create --name web --replicas 3 --network shop --env GREETING=hello --env OLD=1 "$image"
first() { m ps --filter name=web. --format '{{.Names}}' | head -n 1; }
env_is() { # env_is WANTED: what the application of each container was given
  local c; for c in $(m ps --filter name=web. --format '{{.Names}}'); do [ "$(m exec "$c" env | grep -E '^(GREETING|OLD|VERSION|NEW)=' | sort | xargs)" = "$1" ] || return 1; done
}
check "containers have the service's environment" env_is "GREETING=hello OLD=1"
images_are() { [ "$(m service ps web --filter desired-state=running --format '{{.Image}}' | sort -u)" = "$1" ]; }
prints "service update brings another image and environment" "3 of 3 tasks run" \
  m service update --image "$image2" --env-add GREETING=bye --env-add NEW=1 --env-rm OLD web
check "every task has the new image" images_are "$image2"
within 10 "and its container the new environment" env_is "GREETING=bye NEW=1 VERSION=2"
is "service inspect shows it" "$image2 3" m service inspect -f '{{.service.spec.task.container.image}} {{.running_tasks}}' web
json_says() { [ "$(m service inspect web | jq -r '.[0].service.spec.task.container.env | sort | join(",")')" = "GREETING=bye,NEW=1" ]; }
check "and as JSON" json_says
prints "rollback waits as well" "3 of 3 tasks run" m service rollback web
check "every task has the former image" images_are "$image"
within 10 "and its container the former environment" env_is "GREETING=hello OLD=1"
refuses "a name that is no image's is refused" "no name of an image" m service update --image 'Not An Image' web

say_it() { local c; for c in $(m ps --filter name=web. --format '{{.Names}}'); do m exec "$c" sh -c 'echo said-by-$(hostname) >/proc/1/fd/1' || return 1; done; }
check "the containers say something" say_it
logged() { [ "$(m service logs -t web 2>&1 | grep -cE '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z web\.[1-3]@'"$P"'host[1-3] +\| said-by-')" = 3 ]; }
within 10 "service logs shows it with the time, the task and its host" logged
is "and the last line of each with --tail" 3 wc -l < <(m service logs --tail 1 web)

# Who follows a service hears of the tasks that come later, through a manager's host and through Docker's API.
setsid "$BIN/muster" -H "unix://$(host_sock 1)" service logs -f --tail 0 web >"$W/followed" 2>&1 & followers=$!
setsid docker -H "unix://$(docker_sock 2)" service logs -f --tail 0 web >"$W/followed2" 2>&1 & followers2=$!
prints "service scale waits for the tasks it asked for" "4 of 4 tasks run" m service scale web=4
is "service inspect shows so many" "4" m service inspect -f '{{.running_tasks}}' web
refuses "and nothing that is no number" 'expected SERVICE=N' m service scale web=many
heard() { say_it && for f in followed followed2; do grep -q 'web\.1.*said-by-' "$W/$f" && grep -q 'web\.4.*said-by-' "$W/$f" || return 1; done; }
within 20 "who follows the service hears its old tasks and its new one" heard
quiet m service scale web=3
# Two who update at once, and an update that gets on meanwhile: nobody's change is lost or refused.
both() {
  local h i pids=()
  for h in 1 2; do (for i in 1 2 3 4 5; do muster_on $h service update -d --label-add "l$h$i=x" web >/dev/null || exit 1; done) & pids+=($!); done
  wait "${pids[0]}" && wait "${pids[1]}" && [ "$(m service inspect web | jq '.[0].service.spec.labels | length')" = 10 ]
}
check "updates from two hosts at once are all made" both

quiet m service create -d --name picky --constraint node.labels.disk==ssd --reserve-memory 900G "$image"
quiet m node update --availability drain "${P}host3"
quiet m node update --label-add disk=ssd "${P}host2"
explains() {
  local why; why=$(m service ps --no-trunc --format '{{.Error}}' picky)
  for part in "1 of 3: drained [${P}host3]" "constraint node.labels.disk==ssd not met [${P}host1]" "insufficient memory, need 900 GiB [${P}host2]"; do
    case $why in *"$part"*) ;; *) echo "no '$part' in: $why"; return 1 ;; esac
  done
}
within 10 "service ps explains filter by filter, with the hosts, why a task is pending" explains
elsewhere() { [ "$(m service ps web --filter desired-state=running --format '{{.Node}} {{.CurrentState}}' | grep Running | grep -cE "^${P}host[12] ")" = 3 ] && [ -z "$(m ps -q --node "${P}host3")" ]; }
within 30 "a drained host's tasks run elsewhere" elsewhere
is "node inspect shows it" "${P}host3 drain" m node inspect -f '{{.node.description.hostname}} {{lower .node.spec.availability}}' "${P}host3"
quiet m node update --availability active --label-add rack=1 "${P}host3"
is "a label is put on a node" "${P}host3" m node ls --filter label=rack=1 --format '{{.Hostname}}'
quiet m node update --label-rm rack "${P}host3"
is "and taken away" "" m node ls --filter label=rack=1 --format '{{.Hostname}}'
quiet m service rm picky

# What is printed.
export MUSTER_CONFIG_DIR=$W/config
lists=("ps" "images" "node ls" "network ls" "service ls" "service ps web" "context ls" "trace")
# shellcheck disable=SC2086  # a command is several words
as_json() { m $1 --format json | jq -es 'length > 0 and all(type == "object" and (has("Short") or has("Shown") | not))' >/dev/null; }
for list in "${lists[@]}"; do check "muster $list is JSON when asked, a line for each" as_json "$list"; done
headed() { local first; first=$(m ps --format 'table {{.Names}}\t{{.ID}}\t{{.RunningFor}}' | head -n 1); [[ $first =~ ^NAMES\ +CONTAINER\ ID\ +CREATED$ ]] || { echo "$first"; return 1; }; }
check "a table of chosen columns has their headings" headed
columns() { sed -n 1p <<<"$(m ps)" | grep -qE '^CONTAINER ID +IMAGE +COMMAND +CREATED +STATUS +PORTS +NAMES +NODE$'; }
check "and ps those of docker, and the node" columns
is "templates have docker's functions" '"web" WEB 3' m service ls --format '{{json .Name}} {{upper .Name}} {{len .Name}}'
refuses "what they have not is named" '"range" is not supported' m service ls --format '{{range .Name}}{{end}}'
refuses "and so is a field that is not there" "expected one of" m inspect -f '{{.Nope}}' "$(first)"
is "info and version take templates" "${P}host1 manager" m info -f '{{.Name}} {{lower .Cluster.role}}'
is "each of its parts" "$(m version -f '{{.Client.Version}}')" m version -f '{{.Server.Version}}'
# A pipe whose reader has gone: the command ends as the signal would end it, without a word.
gone_reader() {
  local words
  mkfifo "$W/pipe" && exec 7<>"$W/pipe" 8>"$W/pipe" 7<&-
  words=$("$BIN/muster" completion bash 2>&1 >&8); [ "$? $words" = "141 " ] || { echo "completion: $words"; return 1; }
  words=$(m ps 2>&1 >&8); [ "$? $words" = "141 " ] || { echo "ps: $words"; return 1; }
  words=$(m exec "$(first)" cat /etc/passwd 2>&1 >&8); [ "$? $words" = "141 " ] || { echo "exec: $words"; return 1; }
  exec 8>&-
}
check "a reader that has gone ends a command quietly" gone_reader
full() { m ps >/dev/full; }
refuses "a full disk is said" "cannot be written" full

# Exit codes.
ends "what is refused ends with 1" 1 m service rm nonesuch
ends "exec brings the command's own code" 7 m exec "$(first)" sh -c 'exit 7'
ends "127 when there is no such command" 127 m exec "$(first)" nonesuch
ends "126 when it cannot run" 126 m exec "$(first)" /etc/passwd
ends "1 when there is no such container" 1 m exec nonesuch true

# Containers and images of other hosts.
docker_on() { local h=$1; shift; docker -H "unix://$(docker_sock "$h")" "$@"; }
quiet docker_on 2 run -d -i --name shell "$image" sh
answered() { [ "$(echo 'echo from-$((40 + 2)); exit 5' | m attach "${P}host2/shell"; echo "$?")" = $'from-42\n5' ]; }
check "attach reaches a container's own process on another host, and brings its exit code" answered
quiet docker_on 2 run -d --name sleeper "$image" sleep 1000
is "restart reaches it" "${P}host2/sleeper" m restart -t 0 "${P}host2/sleeper"
state() { m inspect -f '{{.State.Status}}' "${P}host2/sleeper"; }
is "kill does" "${P}host2/sleeper" m kill "${P}host2/sleeper"
exited() { [ "$(state)" = exited ]; }
within 5 "and it is dead" exited
is "start does" "${P}host2/sleeper" m start "${P}host2/sleeper"
is "and it runs" running state
is "rm does" "${P}host2/sleeper" m rm -f "${P}host2/sleeper"
ends "and it is gone" 1 state
image_put lone 1
lone="$(me_ip):$REGISTRY_PORT/lone:1"
quiet m pull --node "${P}host3" "$lone"
is "pull --node brings an image to that host" "$lone" docker_on 3 images --format '{{.Repository}}:{{.Tag}}' "$lone"
is "and to no other" "" docker_on 2 images -q "$lone"
listed() { m images --format '{{.Repository}}:{{.Tag}}' | grep -qx "$lone"; }
check "images lists what any host has" listed
refuses "pull names the node that is not there" nowhere m pull --node nowhere "$lone"

# Contexts.
is "a context is made" prod m context create prod
is "the host's own socket is in use" $'default true\nprod false' "$BIN/muster" context ls --format '{{.Name}} {{.Current}}'
quiet "$BIN/muster" context use prod
is "then the other one" $'default false\nprod true' "$BIN/muster" context ls --format '{{.Name}} {{.Current}}'
is "and commands go to its cluster" 3 wc -l < <("$BIN/muster" node ls -q)
"$BIN/muster" context export prod >"$W/prod.pem" || bad "context export"
refuses "a context that is not there is not exported" nope "$BIN/muster" context export nope
is "a context that is removed" "" "$BIN/muster" context rm prod
is "is not in use any more" "default true" "$BIN/muster" context ls --format '{{.Name}} {{.Current}}'
export MUSTER_CONFIG_DIR=$W/elsewhere
quiet "$BIN/muster" context import there <"$W/prod.pem"
is "what was exported is imported elsewhere, and opens the cluster" 3 wc -l < <("$BIN/muster" -c there node ls -q)
refuses "what is no context is not imported" "no exported context" "$BIN/muster" context import junk </etc/passwd
