#!/usr/bin/env bash
# The cluster-scoped Docker endpoint on a worker's host, by an operator's credential that its administrator puts there: without
# one, with one that is of no use, with one that is; a manager lost in between; promoted and demoted. Three managers, host 4
# is the worker and where the client is.
. "$(dirname "$0")/lib.sh"
need_packages openssl >/dev/null
export DOCKER_CONFIG="$W/client" DOCKER_CLI_HINTS=false MUSTER_CONFIG_DIR="$W/config"
unset DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_API_VERSION
mkdir -p "$DOCKER_CONFIG" "$W/pki"
export DOCKER_HOST="unix://$W/h4/run/docker-cluster.sock"
file=$W/musterd.toml context=$W/pki/lab.pem
on() { local h=$1; shift; docker -H "unix://$(docker_sock "$h")" "$@"; }
node_of() { docker inspect -f '{{.Node.Name}}' "$1"; }
on_host() { [ "$(node_of "$1")" = "${P}host$2" ]; }
sleeper='trap exit TERM; while :; do sleep 0.1; done'
# reload TEXT: has host 4's daemon read its configuration, and waits for what it says
reload() {
  local seen i; seen=$(wc -l <"$W/h4/log")
  kill -HUP "$(cat "$W/h4/run/musterd.pid")"
  for i in $(seq 100); do tail -n "+$((seen + 1))" "$W/h4/log" | grep -qF "$1" && return 0; sleep 0.1; done
  tail -n "+$((seen + 1))" "$W/h4/log"; return 1
}
# authority NAME CN ORGANISATION
authority() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/O=$3/CN=$2" -keyout "$W/pki/$1.key" -out "$W/pki/$1.ca" 2>/dev/null; }
# issue AUTHORITY NAME SUBJECT DAYS [EXTENSION...]
issue() {
  local ca=$1 name=$2 subject=$3 days=$4; shift 4
  printf '%s\n' basicConstraints=CA:FALSE "$@" >"$W/pki/ext"
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$subject" -keyout "$W/pki/$name.key" -out "$W/pki/$name.csr" 2>/dev/null &&
    openssl x509 -req -in "$W/pki/$name.csr" -CA "$W/pki/$ca.ca" -CAkey "$W/pki/$ca.key" -CAcreateserial -days "$days" -extfile "$W/pki/ext" -out "$W/pki/$name.crt" 2>/dev/null || bad "certificate of $name"
}
# forged CLUSTER DAYS: a context by an authority that only calls itself the cluster's
forged() {
  authority "forged$2" muster-ca "$1"
  issue "forged$2" "forger$2" "/O=$1/OU=operator/CN=$1" "$2" extendedKeyUsage=clientAuth
  { echo "# address: $(host_ip 1):2377"; cat "$W/pki/forger$2.key" "$W/pki/forger$2.crt" "$W/pki/forged$2.ca"; } >"$context"; chmod 600 "$context"
}
# tls WHO WORDS...: the stock client at host 4's TLS port
tls() { local who=$1; shift; docker --host "tcp://$(host_ip 4):2376" --tlsverify --tlscacert "$W/pki/port.ca" --tlscert "$W/pki/$who.crt" --tlskey "$W/pki/$who.key" "$@"; }

authority port port docker
issue port server /CN=host 2 extendedKeyUsage=serverAuth "subjectAltName=IP:$(host_ip 4)"
for who in alice ci; do issue port $who /CN=$who 2 extendedKeyUsage=clientAuth; done
printf '%s\n' "docker-tls-cert = \"$W/pki/server.crt\"" "docker-tls-key = \"$W/pki/server.key\"" "docker-tls-ca = \"$W/pki/port.ca\"" 'docker-tls-allow = ["alice", "ci=read-only"]' >"$file"
three_hosts
web_image
host_up 4 || bad "host 4 could not be made"

#### what must not start
starts_not() { refuses "$1" "$2" in_host 4 timeout 10 "$BIN/musterd" --data-dir "$W/x" --run-dir "$W/x" --docker-cluster-context "$3"; }
starts_not "a context that is not there is named" "docker-cluster-context: $W/none.pem" "$W/none.pem"
echo nonsense >"$W/pki/nonsense"; chmod 600 "$W/pki/nonsense"
starts_not "nor one that is none" "docker-cluster-context: $W/pki/nonsense" "$W/pki/nonsense"
{ echo "# address: $(host_ip 1):2377"; cat "$W/h1/data/cluster/identity.pem"; } >"$W/pki/node"; chmod 600 "$W/pki/node"
starts_not "a node's certificate is no operator's" "expected an operator's" "$W/pki/node"

#### without a credential, and with ones of no use
daemon_up 4 --config "$file" --docker-cluster-host "$DOCKER_HOST,tcp://$(host_ip 4):2376" || bad "host 4 did not start"
check "a worker joins" muster_on 4 join --token "$(muster_on 1 join-token -q worker)" "$(host_ip 1):2377"
within 20 "it is ready" nodes_are 1 1 'Ready $'
refuses "without a credential its cluster endpoint says what to do" "docker-cluster-context" docker ps
refuses "also of services" "not a swarm manager" docker service ls
echo "docker-cluster-context = \"$context\"" >>"$file"
check "a file that is not there is refused" reload "$context"
refuses "and changes nothing" "docker-cluster-context" docker ps
cluster=$(docker -H "unix://$W/h1/run/docker.sock" info -f '{{.Swarm.Cluster.ID}}')
forged "$(echo "$cluster" | tr '[:alnum:]' '0')" 2
check "another cluster's context is read" reload "configuration reloaded"
refuses "and is told from this one's" "is for cluster 0" docker ps
forged "$cluster" -1
check "one that has run out is read" reload "configuration reloaded"
refuses "and told" "expired at" docker ps
refuses "also of services" "expired at" docker service ls
forged "$cluster" 2
check "one of an authority that lies is read" reload "configuration reloaded"
refuses "and opens nothing" "no manager of the cluster answers" docker service ls
prints "no host's containers are shown for it" "did not answer" sh -c 'docker ps -a 2>&1 >/dev/null; curl -s -D - -o /dev/null --unix-socket "${DOCKER_HOST#unix://}" http://d/containers/json | grep -i ^warning'

#### with an operator's
quiet muster_on 1 context create lab
(umask 077; "$BIN/muster" context export lab >"$context") || bad "the context was not exported"
check "the cluster's own is taken without a restart" reload "configuration reloaded"
quiet docker pull "$image"; quiet docker tag "$image" box:1
is "pull and tag reach every host" 4 sh -c "for h in 1 2 3 4; do docker -H unix://$W/h\$h/run/docker.sock images -q box:1; done | wc -l"
for h in 1 2 3 4; do quiet docker run -d --name c$h -e "constraint:node==${P}host$h" box:1 sh -c "$sleeper"; done
is "run goes where it is told, and ps lists all hosts" "c4 ${P}host1/c1 ${P}host2/c2 ${P}host3/c3" sh -c "docker ps --format '{{.Names}}' | sort | paste -sd' '"
refuses "a name is one container's in the whole cluster" "already in use" docker run -d --name c2 box:1 true
refuses "the scheduler is asked" "constraint node.hostname==nowhere not met" docker run --rm -e constraint:node==nowhere box:1 true
is "run prints what the container prints" "hi there" docker run --rm -e "constraint:node==${P}host3" box:1 echo hi there
ends "and ends with its code" 7 docker run --rm -e "constraint:node==${P}host2" box:1 sh -c 'exit 7'
ends "exec -it too" 5 on_tty "docker exec -it c2 sh -c 'exit 5'"
prints "on a terminal of the client's size" "33 77" on_tty "docker exec -it c3 sh -c 'i=0; until [ \"\$(stty size)\" = \"33 77\" ] || [ \$i = 50 ]; do sleep 0.1; i=\$((i+1)); done; stty size'"
stdin_exec() { echo in | docker exec -i c1 cat; }
is "exec -i carries standard input and its end" in stdin_exec
echo one >"$W/pki/a"; quiet docker cp "$W/pki/a" c2:/tmp/a
is "cp goes in and out" one sh -c 'docker cp c2:/tmp/a - | tar -xO'
check "stop, start and inspect find it" sh -c "docker stop -t 5 c3 >/dev/null && docker start c3 >/dev/null && [ \"\$(docker inspect -f '{{.State.Running}}' c3)\" = true ]"
check "a network for all hosts is made" docker network create wide
prints "containers of two hosts meet there" " saw " sh -c "docker run -d --name served --network wide -e constraint:node==${P}host1 box:1 >/dev/null && docker run --rm --network wide -e constraint:node==${P}host4 box:1 timeout 10 wget -qO- http://served/cgi-bin/who"
quiet docker rm -f served; quiet docker network rm wide
is "node ls is the managers' list" 4 sh -c 'docker node ls -q | wc -l'
quiet docker service create -d --name web --replicas 2 "$image"
within 40 "a service runs" running_are 1 web 2
quiet docker service rm web
is "info is of this node, with the cluster's control" "true 4 3" docker info -f '{{.Swarm.ControlAvailable}} {{.Swarm.Nodes}} {{.Swarm.Managers}}'
refuses "the host's own endpoint stays a worker's" "not a swarm manager" on 4 node ls
refuses "and its own socket" "managers" muster_on 4 ps

#### the TLS port
is "a client of the list is let in" "${P}host3/c3" tls alice ps --filter "name=/c3\$" --format '{{.Names}}'
is "as far as the list says" "${P}host2/c2" tls ci ps --filter "name=/c2\$" --format '{{.Names}}'
refuses "and no further" "may only read" tls ci rm -f c2
ends "a full one works elsewhere" 0 tls alice exec c2 true

#### a manager is lost
last() { # the manager that host 4 asks: the one its daemon has most connections to
  in_host 4 ss -Htn state established 'dport = :2377' | awk '{print $4}' | sort | uniq -c | sort -rn | awk '{split($2, a, ":"); split(a[1], b, "."); print b[4]; exit}'
}
victim=$(last); [ "$victim" = 1 ] || [ "$victim" = 2 ] || [ "$victim" = 3 ] || victim=1
away=$((victim % 3 + 1)); other=$((away % 3 + 1))
quiet docker run -d --name lines -e "constraint:node==${P}host$away" box:1 sh -c 'i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done'
setsid docker logs -f lines >"$W/lines" 2>&1 </dev/null & follower=$!
setsid docker events --format '{{.Type}} {{.Action}} {{index .Actor.Attributes "node.name"}}' >"$W/told" 2>&1 </dev/null & listener=$!
setsid docker exec -i "c$away" sh -c 'echo up; sleep 20; exit 9' >"$W/long" 2>&1 </dev/null & long=$!
within 10 "a client follows a log" test -s "$W/lines"
within 10 "and runs a command" test -s "$W/long"
check "the configuration is read again meanwhile" reload "configuration reloaded"
host_kill "$victim"
quick() { local began=$SECONDS; docker run --rm -e "constraint:node==${P}host$other" box:1 true && [ $((SECONDS - began)) -le 25 ]; }
check "run works on, by another manager" quick
check "and the control plane answers" docker node ls
size() { wc -l <"$W/lines"; }; had=$(size)
more() { [ "$(size)" -gt $((had + 5)) ] && kill -0 "$follower"; }
within 10 "the log is followed on" more
check "whole and in order" sh -c "seq \$(wc -l <$W/lines) | cmp - $W/lines"
wait "$long"; [ $? = 9 ] && ok "the command ended with its code" || bad "the command's client ended otherwise"
told() { grep -qx "$*" "$W/told"; }
within 30 "events tell who went" told "node disconnect ${P}host$victim"
within 10 "and go on" told "container die ${P}host$other"
kept=$(cat "$context"); forged "$(echo "$cluster" | tr '[:alnum:]' '0')" 3
check "the credential is exchanged for one of no use" reload "configuration reloaded"
refuses "by which nothing is seen" "is for cluster 0" docker ps
sleep 3 # Who listens to events tries again every two seconds: it is to want the lost host with this credential once.
echo "$kept" >"$context"
check "and for the right one again" reload "configuration reloaded"
refuses "what was on it is named with it" "${P}host$victim" docker stop "${P}host$victim/c$victim"
ip -n "${P}0" link set "p$victim" up; daemon_up "$victim" || bad "host $victim did not start"
within 30 "it comes back" nodes_are "$victim" 4 Ready
within 30 "events tell that, too" told "node reconnect ${P}host$victim"
kill "$follower" "$listener" 2>/dev/null; wait "$follower" "$listener" 2>/dev/null

#### promoted and demoted
quiet muster_on 1 node promote "${P}host4"
within 30 "the worker is promoted" muster_on 4 node ls
is "its endpoint works on" up docker exec "c$away" echo up
rm "$context"; sed -i '/docker-cluster-context/d' "$file"
check "now without a credential" reload "configuration reloaded"
check "as a manager's does" docker node ls
(umask 077; "$BIN/muster" context export lab >"$context"); echo "docker-cluster-context = \"$context\"" >>"$file"
check "which is put back" reload "configuration reloaded"
# Refused while one of the others is not back in touch with the leader.
within 20 "the worker is demoted again" muster_on 1 node demote "${P}host4"
worker() { case $(muster_on 4 node ls 2>&1) in *"not a swarm manager"*) true ;; *) false ;; esac; }
within 30 "it is demoted" worker
is "and its endpoint works on" up docker exec "c$away" echo up
check "for new containers, too" docker run --rm -e "constraint:node==${P}host$away" box:1 true
docker rm -f c1 c2 c3 c4 lines >/dev/null 2>&1
is "nothing is left" "" docker ps -aq

#### called back
quiet muster_on 1 context revoke lab
said() { case $("$@" 2>&1) in *"was revoked"*) true ;; *) false ;; esac; }
within 5 "a credential that is called back opens nothing more, and that is said" said docker node ls
within 5 "of the nodes, too" said curl -s -D - -o /dev/null --unix-socket "${DOCKER_HOST#unix://}" http://d/containers/json
quiet muster_on 1 context create lab
(umask 077; "$BIN/muster" context export lab >"$context")
check "another one is taken without a restart" reload "configuration reloaded"
is "and opens all" 4 sh -c 'docker node ls -q | wc -l'
