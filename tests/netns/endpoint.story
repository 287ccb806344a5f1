#!/usr/bin/env bash
# The cluster-scoped Docker endpoint with the stock client: three hosts answer as one. What is new is placed by the scheduler,
# what is there is found wherever it is. The client is on host 1; the containers that are worked with are on others.
. "$(dirname "$0")/lib.sh"
export DOCKER_CONFIG="$W/client" DOCKER_CLI_HINTS=false
unset DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_API_VERSION
mkdir -p "$DOCKER_CONFIG" "$W/files"
cluster_sock() { echo "$W/h$1/run/docker-cluster.sock"; }
# whole HOST ARGUMENT...: the docker CLI on a host's cluster endpoint; on HOST ...: on its node endpoint
whole() { local h=$1; shift; docker -H "unix://$(cluster_sock "$h")" "$@"; }
on() { local h=$1; shift; docker -H "unix://$(docker_sock "$h")" "$@"; }
export DOCKER_HOST="unix://$(cluster_sock 1)"
field() { docker inspect -f "{{$2}}" "$1"; }
field_is() { [ "$(field "$1" "$2" 2>/dev/null)" = "$3" ]; }
node_of() { docker inspect -f '{{.Node.Name}}' "$1"; }
on_host() { [ "$(node_of "$1")" = "${P}host$2" ]; }
api() { curl -s -m 20 --unix-socket "$(cluster_sock 1)" "$@"; }
sleeper='trap exit TERM; while :; do sleep 0.1; done'

three_hosts
web_image

#### images go where they are needed
prints "run pulls an image that is nowhere, on the node that the container is to run on" hello docker run --rm "$image" echo hello
is "and only there" 1 sh -c "for h in 1 2 3; do docker -H unix://$W/h\$h/run/docker.sock images -q; done | wc -l"
quiet docker pull "$image"
is "pull by itself brings it to every node" 3 sh -c "for h in 1 2 3; do docker -H unix://$W/h\$h/run/docker.sock images -q; done | wc -l"
is "which is one line in the list" "$image" docker images --format '{{.Repository}}:{{.Tag}}'
is "with its nodes" "${P}host1,${P}host2,${P}host3" sh -c "curl -s --unix-socket $(cluster_sock 1) http://d/images/json | jq -r '.[0].Labels[\"muster.node.names\"]' | tr , '\n' | sort | paste -sd,"
refuses "pull of what is nowhere says so" "not found" docker pull "${image%:*}:none"
quiet docker tag "$image" box:1
is "tag reaches every copy" 3 sh -c "for h in 1 2 3; do docker -H unix://$W/h\$h/run/docker.sock images -q box:1; done | wc -l"
quiet on 2 tag box:1 only2:1
prints "inspect finds an image of another host" '"only2:1"' docker image inspect -f '{{json .RepoTags}}' only2:1
quiet docker save -o "$W/files/box.tar" only2:1
prints "history of another host's image" busybox-static docker history --no-trunc --format '{{.CreatedBy}}' only2:1
prints "rmi takes every copy's name away" "Untagged: only2:1" docker rmi only2:1
prints "load brings an image back" "Loaded image: only2:1" docker load -i "$W/files/box.tar"
quiet on 2 tag box:1 only2:2; quiet on 2 tag box:1 only2:3; quiet on 3 tag box:1 only3:1
is "save takes several of another host" "only2:2 only2:3" sh -c "docker save only2:2 only2:3 | tar -xO manifest.json | jq -r '[.[].RepoTags[]] | sort | join(\" \")'"
refuses "what no host has together is said" "no node has all of the images only2:2, only3:1" docker save only2:2 only3:1
quiet docker rmi only2:2 only2:3 only3:1
quiet on 3 tag box:1 "$(me_ip):$REGISTRY_PORT/there:2"
is "push takes an image from where it is" "$(me_ip):$REGISTRY_PORT/there:2" docker push -q "$(me_ip):$REGISTRY_PORT/there:2"
quiet docker rmi "$(me_ip):$REGISTRY_PORT/there:2"
quiet docker pull "$(me_ip):$REGISTRY_PORT/there:2"; quiet docker rmi "$(me_ip):$REGISTRY_PORT/there:2"
refuses "and says so where it is nowhere" "does not exist locally with the tag" docker push "$(me_ip):$REGISTRY_PORT/there:3"
for h in 2 3; do quiet docker run --name layer$h -e "constraint:node==${P}host$h" box:1 sh -c "echo from $h >/who"; done
says() { local h; for h in 1 2 3; do docker run --rm -e "constraint:node==${P}host$h" "$@" || return 1; done | sort -u; }
dangling_all() { local h; for h in 1 2 3; do on $h images -q --filter dangling=true; done | wc -l; }
quiet docker commit layer2 moved:1
is "what is committed on one host is what all run" "from 2" says moved:1 cat /who
quiet docker commit layer3 moved:1
is "and moves the name away from every older one" "from 3" says moved:1 cat /who
is "which stay, without it" 3 dangling_all
quiet docker save -o "$W/files/moved.tar" moved:1; quiet docker tag box:1 moved:1
is "so does a tag" 1 sh -c "docker images -q moved | sort -u | wc -l"
quiet docker commit layer2 moved:1; quiet docker load -i "$W/files/moved.tar"
is "and what is loaded" "from 3" says moved:1 cat /who
docker export layer2 | docker import - moved:1 >/dev/null 2>&1 || bad "import"
is "or imported" "from 2" says moved:1 cat /who
quiet docker rm layer2 layer3; quiet docker rmi moved:1; quiet docker image prune -f
head -c 20000 "$W/files/box.tar" >"$W/files/half.tar"
ends "half an archive is not loaded" 1 docker load -i "$W/files/half.tar"

#### the scheduler places
for c in one two three; do quiet docker run -d --name $c box:1 sh -c "$sleeper"; done
spread() { [ "$(for c in one two three; do node_of $c; done | sort -u | wc -l)" = 3 ]; }
check "three containers go to three hosts" spread
quiet docker run -d --name env -e "constraint:node==${P}host2" -e A=b box:1 sh -c "$sleeper"
check "a constraint in the environment is heeded" on_host env 2
is "and not the process's business" "0 b" docker exec env sh -c 'echo $(env | grep -c constraint) $A'
quiet docker run -d --name label --label "muster.node=${P}host3" box:1 sh -c "$sleeper"
check "a label names the node" on_host label 3
quiet docker run -d --name classic --label "com.docker.swarm.constraints=[\"node!=${P}host1\",\"node!=${P}host3\"]" box:1 sh -c "$sleeper"
check "constraints in classic Swarm's label are heeded" on_host classic 2
quiet docker run -d --name "${P}host3/named" box:1 sh -c "$sleeper"
check "the name says the node" on_host named 3
quiet muster_on 1 node update --label-add zone=far "${P}host2"
quiet docker run -d --name zone -e constraint:node.labels.zone==far box:1 sh -c "$sleeper"
check "labels of nodes are heeded" on_host zone 2
quiet docker run -d --name soft -e "constraint:node==~nowhere" box:1 sh -c "$sleeper"
refuses "no node fits: the reasons are told, filter by filter" "3 of 3: constraint node.hostname==nowhere not met" docker run -d -e constraint:node==nowhere box:1 true
refuses "a constraint that is none is refused by its text" "constraint:node=x" docker run -d -e constraint:node=x box:1 true
refuses "room that is not there is told" "insufficient memory, need 9999 GiB" docker run -d -m 9999g box:1 true
cpus=$(nproc)
for h in 1 2 3; do quiet docker run -d --name full$h --cpus "$cpus" -e "constraint:node==${P}host$h" box:1 sh -c "$sleeper"; done
refuses "what running containers hold is not given twice" "3 of 3: insufficient CPU" docker run -d --cpus 1 box:1 true
quiet docker rm -f full1 full2 full3
at_once() { local i; for i in 1 2 3; do docker run --rm --cpus "$cpus" -e "constraint:node==${P}host2" box:1 true || return 1; done; }
check "and is free as soon as its container is gone" at_once
for i in 1 2 3; do quiet docker run -d --name port$i -p 8080:80 box:1; done
refuses "a port that every host has in use is told" "host port 8080/tcp in use" docker run -d -p 8080:80 box:1
for h in 1 2 3; do within 10 "host $h answers at the port of its container" answers $h 8080; done
quiet docker rm -f port1 port2 port3
quiet muster_on 1 node update --availability drain "${P}host1"
quiet muster_on 1 node update --availability pause "${P}host2"
for i in 1 2 3; do quiet docker run -d --name late$i box:1 sh -c "$sleeper"; done
all_on_3() { for i in 1 2 3; do on_host late$i 3 || return 1; done; }
check "drained and paused nodes get nothing" all_on_3
refuses "and say so" "drained [${P}host1]" docker run -d -e "constraint:node!=${P}host3" box:1 true
for h in 1 2; do quiet muster_on 1 node update --availability active "${P}host$h"; done
quiet docker rm -f late1 late2 late3 soft zone

#### what a container needs beside it
quiet docker volume create --label "muster.node=${P}host2" data
is "a volume is made on the node that its label says" "${P}host2" docker volume inspect -f '{{index .Labels "muster.node.name"}}' data
for i in 1 2 3; do quiet docker run --name vol$i -v data:/d box:1 sh -c "echo $i >>/d/f"; done
is "containers go where their volume is" "1 2 3 " sh -c "docker run --rm -v data:/d:ro box:1 cat /d/f | tr '\n' ' '"
quiet docker run -d --name web -e "constraint:node==${P}host3" box:1
is "network container:X goes where X is" "${P}host3" sh -c "docker run -d --name beside --network container:web box:1 sh -c '$sleeper' >/dev/null && docker inspect -f '{{.Node.Name}}' beside"
prints "and shares its network" " saw 127.0.0.1" docker exec beside wget -qO- http://127.0.0.1/cgi-bin/who
is "pid container:X too" "${P}host3" sh -c "docker run -d --name pid --pid container:web box:1 sh -c '$sleeper' >/dev/null && docker inspect -f '{{.Node.Name}}' pid"
is "and volumes-from" 3 docker run --rm --volumes-from vol1 box:1 tail -n 1 /d/f
is "and an affinity" "${P}host3" sh -c "docker run -d --name near -e affinity:container==web box:1 sh -c '$sleeper' >/dev/null && docker inspect -f '{{.Node.Name}}' near"
refuses "two things on two nodes fit nowhere" "volume data is not there" docker run --rm -v data:/d --network container:web box:1 true
refuses "a container that is not there is named" "No such container: ghost" docker run --rm --network container:ghost box:1 true
refuses "a network that is not there is named" "network ghost not found" docker run --rm --network ghost box:1 true
quiet docker rm -f beside pid near vol1 vol2 vol3 web

#### names
refuses "a name is one container's in the whole cluster" "already in use" docker run -d --name env -e "constraint:node==${P}host3" box:1 true
refuses "also when it is renamed" "already in use" docker rename one env
race() { # of creations of one name on two hosts' endpoints just one goes well
  local i n
  for i in $(seq 8); do
    whole 1 create --name "race$i" box:1 true >/dev/null 2>&1 & local one=$!
    whole 2 create --name "race$i" box:1 true >/dev/null 2>&1 & local two=$!
    n=0; wait $one && n=$((n + 1)); wait $two && n=$((n + 1))
    [ $n = 1 ] || { echo "round $i: $n of two went well"; return 1; }
    docker rm "race$i" >/dev/null || return 1
  done
}
check "two hosts do not race onto one name" race
again() { docker run --rm --name job box:1 true && docker run --rm --name job box:1 true; }
check "a name is free as soon as its container is gone" again
anew() { docker run -d --name job box:1 sleep 100 >/dev/null && docker rm -f job >/dev/null && whole 2 run --rm --name job box:1 true; }
check "also after rm -f, and for another host" anew
moved() { docker create --name job box:1 true >/dev/null && docker rename job done && docker create --name job box:1 true >/dev/null && docker rm job done >/dev/null; }
check "and when it is renamed" moved
meet() { # of renamings of two containers to one name on two hosts' endpoints just one goes well
  local n=0
  docker create --name left box:1 true >/dev/null && docker create --name right box:1 true >/dev/null || return 1
  whole 1 rename left met 2>/dev/null & local one=$!
  whole 2 rename right met 2>/dev/null & local two=$!
  wait $one && n=$((n + 1)); wait $two && n=$((n + 1))
  docker rm -f left right met >/dev/null 2>&1
  [ $n = 1 ] || { echo "$n of two went well"; return 1; }
}
check "two renamings do not race onto one name" meet
quiet on 1 run -d --name twin box:1 sh -c "$sleeper"; quiet on 2 run -d --name twin box:1 sh -c "$sleeper"
refuses "an ambiguous name lists the candidates" "${P}host1/twin, ${P}host2/twin" docker stop twin
is "the node's name says which is meant" "${P}host2" node_of "${P}host2/twin"
quiet docker rm -f "${P}host2/twin"
check "what remains is found by its name" on_host twin 1
is "ps names containers of other hosts with their host" "${P}host2/env" docker ps --filter name=env --format '{{.Names}}'
is "and chooses by node" "$(on 2 ps -q | wc -l)" sh -c "docker ps -q --filter node=${P}host2 | wc -l"
is "a filter may say the name as the list does" "${P}host2/env" docker ps --filter "name=${P}host2/env" --format '{{.Names}}'
is "with its anchors" "${P}host2/env" docker ps --filter "name=^/${P}host2/env\$" --format '{{.Names}}'
is "and no other node's" "" docker ps -q --filter "name=${P}host3/env"
for i in 1 2 3 4; do quiet docker create --name order$i -e "constraint:node==${P}host2" box:1 true; done
is "before and since go by the order that a node made its containers in" "order2 order1" sh -c "docker ps -a --filter before=order3 --filter name=order --format '{{.Names}}' | sed 's,.*/,,' | paste -sd' '"
is "not by the second" order4 sh -c "docker ps -a --filter since=order3 --filter name=order --format '{{.Names}}' | sed 's,.*/,,'"
quiet docker rm order1 order2 order3 order4
quiet docker rm -f twin one two three label classic named env

#### one container's life, on host 2
there() { docker run -e "constraint:node==${P}host2" "$@"; }
is "run prints what the container prints" "hi there" there --rm box:1 echo hi there
ends "run ends with the command's exit code" 7 there --rm box:1 sh -c 'exit 7'
ends "a command that is not there is 127" 127 there --rm box:1 nonesuch
ends "one that cannot be executed is 126" 126 there --rm box:1 /etc
stdin_run() { echo in | there --rm -i box:1 cat; }
is "run -i carries standard input and its end" in stdin_run
prints "run -t gives a terminal" /dev/pts/ on_tty "docker run --rm -t -e constraint:node==${P}host2 box:1 tty"
prints "of the client's size" "33 77" on_tty "docker run --rm -t -e constraint:node==${P}host2 box:1 sh -c 'i=0; until [ \"\$(stty size)\" = \"33 77\" ] || [ \$i = 50 ]; do sleep 0.1; i=\$((i+1)); done; stty size'"
ends "the code comes through a terminal too" 5 on_tty "docker run --rm -t -e constraint:node==${P}host2 box:1 sh -c 'exit 5'"
quiet there -d --name box --label kind=box box:1 sh -c 'trap "exit 3" TERM; echo begun; echo oops >&2; while :; do sleep 0.1; done'
is "inspect says where it is" "${P}host2 $(host_ip 2) running" field box '.Node.Name}} {{.Node.IP}} {{.State.Status'
begun() { [ "$(docker logs box 2>/dev/null)" = begun ]; }
within 10 "logs shows what it printed" begun
is "logs keeps the streams apart" oops sh -c 'docker logs box 2>&1 >/dev/null'
is "exec runs a command in it" "b 65534" docker exec -e A=b -u nobody box sh -c 'echo $A $(id -u)'
stdin_exec() { echo in | docker exec -i box cat; }
is "exec -i carries standard input" in stdin_exec
prints "exec -t gives a terminal of the client's size" "33 77" on_tty "docker exec -t box sh -c 'i=0; until [ \"\$(stty size)\" = \"33 77\" ] || [ \$i = 50 ]; do sleep 0.1; i=\$((i+1)); done; stty size'"
codes() { local i; for i in $(seq 10); do docker exec box sh -c 'exit 4'; [ $? = 4 ] || return 1; done; }
check "exec ends with the command's code, always" codes
ends "exec of nothing is 127" 127 docker exec box nonesuch
quiet docker exec -d box sh -c 'echo late >/tmp/late'
within 5 "exec -d goes on without the client" docker exec box grep -q late /tmp/late
prints "top lists its processes" sleep docker top box
prints "stats measures it" "box" docker stats --no-stream --format '{{.Name}} {{.MemUsage}}' box
quiet docker pause box
is "pause" paused field box .State.Status
quiet docker unpause box
quiet docker rename box case
is "rename" "/case" field case .Name
quiet docker update -m 48m --memory-swap 96m case
is "update" 50331648 field case .HostConfig.Memory
prints "diff shows what it wrote" "A /tmp/late" docker diff case
mkdir -p "$W/files/in/sub"; echo one >"$W/files/in/a"; echo two >"$W/files/in/sub/b"
quiet docker cp "$W/files/in" case:/tmp/in
is "cp copies a folder in" "one two " sh -c "docker exec case cat /tmp/in/a /tmp/in/sub/b | tr '\n' ' '"
quiet docker cp case:/tmp/in "$W/files/out"
is "and out again" two cat "$W/files/out/sub/b"
refuses "cp of what is not there says so" /nonesuch docker cp case:/nonesuch "$W/files/x"
prints "export is its file system" tmp/late sh -c "docker export case | tar -t"
quiet docker commit case made:1
ends "what was committed on one host runs on another" 0 docker run --rm -e "constraint:node==${P}host3" made:1 grep -q late /tmp/late
quiet docker create -i --name talk -e "constraint:node==${P}host3" box:1 sh -c 'read x; echo "heard $x"; cat; echo end'
is "attach carries both ways, and half-close" "heard you more end " sh -c "printf 'you\nmore\n' | timeout -s KILL 20 docker start -ai talk | tr '\n' ' '"
quiet docker run -dit --name keys -e "constraint:node==${P}host3" box:1 sh
detach() { (sleep 1; printf '\020\021'; sleep 5) | timeout -s KILL 20 script -qec "docker attach keys" /dev/null >/dev/null; field_is keys .State.Running true; }
check "detach keys leave it running" detach
ends "wait gives the exit code" 0 sh -c '[ "$(docker wait case & sleep 0.5; docker stop -t 10 case >/dev/null; wait)" = 3 ]'
is "stop lets it end by itself" "exited 3" field case '.State.Status}} {{.State.ExitCode'
quiet docker start case; quiet docker restart -t 10 case
is "start and restart run it again" running field case .State.Status
quiet docker kill case
is "kill ends it at once" "exited 137" field case '.State.Status}} {{.State.ExitCode'
quiet docker rm case
refuses "rm removes it" "No such" docker inspect case
quiet there -d --name lines box:1 sh -c 'for i in 1 2 3; do echo $i; sleep 0.2; done'
is "logs -f follows to the end" "1 2 3 " sh -c "timeout 10 docker logs -f lines | tr '\n' ' '"
told() { docker events --since 10m --until 0s --filter container=lines --format '{{.Action}} {{index .Actor.Attributes "node.name"}}' | grep -qx "die ${P}host2"; }
within 5 "events say what happened, and where" told
both() { [ "$(docker events --since 10m --until 0s --filter event=create --filter type=container --format '{{index .Actor.Attributes "node.name"}}' | sort -u | wc -l)" = 3 ]; }
check "events of all hosts are one stream" both
check "in the order of their time" sh -c "docker events --since 10m --until 0s --format '{{.TimeNano}}' | sort -nc"
is "HOST/NAME names a container of that host" "die ${P}host2" sh -c "docker events --since 10m --until 0s --filter container=${P}host2/lines --filter event=die --format '{{.Action}} {{index .Actor.Attributes \"node.name\"}}'"
is "and of no other" "" docker events --since 10m --until 0s --filter "container=${P}host3/lines"
newest() {
  local h last id=
  for h in 3 2 1 3 2 1; do
    last=$id; id=$(docker create --label turn=1 -e "constraint:node==${P}host$h" box:1 true) || return 1
    [ "$(docker ps -lq --no-trunc)" = "$id" ] || return 1
    [ -z "$last" ] || [ "$(docker ps -aq --no-trunc --filter "since=$last")" = "$id" ] || return 1
  done
}
check "the newest is the newest, also within a second and over hosts" newest
quiet docker rm $(docker ps -aq --filter label=turn)
quiet there -d --name port -p 8082:80 box:1
prints "port tells which" "0.0.0.0:8082" docker port port 80/tcp
quiet docker rm -f lines; quiet there -d --name linked --link port:peer box:1 sh -c "$sleeper"
prints "--link names a container of the same host" peer docker exec linked grep -w peer /etc/hosts
prints "rm --link takes the link away where it is" linked/peer docker rm --link linked/peer
ends "with its name" 1 docker exec linked grep -w peer /etc/hosts
refuses "once" "linked/peer" docker rm --link "${P}host2/linked/peer"
check "and leaves its container" on_host linked 2
quiet docker rm -f port keys talk linked
quiet docker network create spans
quiet docker run -d --name peer1 --network spans -e "constraint:node==${P}host1" box:1
prints "--link on a network that spans hosts names one of another host" " saw " docker run --rm --network spans --link peer1:other -e "constraint:node==${P}host3" box:1 timeout 5 wget -qO- http://other/cgi-bin/who
quiet docker rm -f peer1; quiet docker network rm spans

#### volumes, networks, system
spared() { docker volume prune -af --filter "label!=muster.node.name=${P}host1" >/dev/null && docker volume inspect "${P}host1/same" >/dev/null && ! docker volume inspect "${P}host3/same" >/dev/null 2>&1; }
quiet docker volume create "${P}host1/same"; quiet docker volume create "${P}host3/same"
check "volume prune spares the node that a filter leaves out" spared
quiet docker volume create "${P}host3/same"; quiet docker volume create --label "muster.node=${P}host2" data
is "volume ls says whose where names collide" "data ${P}host1/same ${P}host3/same" sh -c "docker volume ls -q | sort | tr '\n' ' ' | sed 's/ \$//'"
refuses "an ambiguous volume lists the candidates" "${P}host1/same, ${P}host3/same" docker volume rm same
quiet docker volume rm "${P}host1/same" "${P}host3/same" data
is "volume rm removes them" "" docker volume ls -q
is "and by force is content with what is gone" data docker volume rm -f data
quiet docker network create wide
is "network ls chooses by node" "bridge host none" sh -c "docker network ls --filter node=${P}host2 --format '{{.Name}} {{.Scope}}' | sed -n 's/ local\$//p' | sort | paste -sd' '"
is "network create makes one for all hosts" "overlay swarm true" docker network inspect -f '{{.Driver}} {{.Scope}} {{.Attachable}}' wide
quiet docker network rm wide
quiet docker network create "${P}host3/lane"
is "NODE/NAME makes one host's own" "bridge local" docker network inspect -f '{{.Driver}} {{.Scope}}' lane
is "a container goes where its network is" "${P}host3" sh -c "docker run -d --name lane --network lane box:1 >/dev/null && docker inspect -f '{{.Node.Name}}' lane"
quiet docker run -d --name other -e "constraint:node==${P}host3" box:1
quiet docker network connect lane other
prints "connect joins a container of another host" " saw " docker exec other timeout 5 wget -qO- http://lane/cgi-bin/who
quiet docker network disconnect lane other
refuses "but not of a host that has no such container" "own, and the container is on" docker network connect "${P}host1/lane" other
quiet docker rm -f lane other; quiet docker network rm lane
is "bridge, host and none are listed once" "bridge host none" sh -c "docker network ls --filter driver=bridge --filter driver=host --filter driver=null --format '{{.Name}}' | sort | tr '\n' ' ' | sed 's/ \$//'"
prints "info counts all nodes" "Nodes: 3" docker info
for h in 1 2 3; do quiet docker run --name made$h -e "constraint:node==${P}host$h" box:1 sh -c "head -c 100000 /dev/zero >/f$h"; done
for h in 2 3; do quiet docker commit made$h; done
is "system df counts what all have" "Containers 3 0" sh -c "docker system df --format '{{.Type}} {{.TotalCount}} {{.Active}}' | grep Containers"
usage() { api http://d/system/df | jq -r '[(.Containers | map(.SizeRw) | add >= 300000), (.Images | map(.Id) | length == (unique | length)), (.Images | map(select(.RepoTags == [] or .RepoTags == null)) | length)] | join(" ")'; }
is "with what their containers wrote, and each image once" "true true 2" usage
quiet docker rm made1 made2 made3
dangling() { local h; for h in 1 2 3; do on $h images -q --filter dangling=true; done | wc -l; }
is "images without a name are on two hosts" 2 dangling
quiet docker image prune -f --filter "label!=muster.node.name=${P}host3"
is "image prune spares the host that a filter leaves out" 1 dangling
prints "and takes all without it" "Total reclaimed space" docker image prune -f
is "wherever they are" 0 dangling
quiet on 3 tag box:1 idle:1
prints "image prune -a reaches names that one host alone has" "untagged: idle:1" docker image prune -af
is "and leaves none that nobody uses" "" sh -c "for h in 1 2 3; do docker -H unix://$W/h\$h/run/docker.sock images -q; done"
quiet docker pull "$image"; quiet docker tag "$image" box:1
quiet docker network create "${P}host1/lane1"; quiet docker network create "${P}host3/lane3"
for n in wide used; do quiet docker network create $n; done
quiet docker network create --label keep=me kept
quiet docker run -d --name user --network used -e "constraint:node==${P}host2" box:1
pruned() { docker network prune -f --filter 'label!=keep' | grep -v : | grep . | sort | paste -sd' '; }
is "network prune takes hosts' own and those that span them" "lane1 ${P}host3/lane3 wide" pruned
is "not those in use, nor those that a filter keeps" "kept used" sh -c "docker network ls --filter driver=overlay --format '{{.Name}}' | grep -v ingress | sort | paste -sd' '"
quiet docker rm -f user; quiet docker network rm used kept
quiet docker create --name idle1 -e "constraint:node==${P}host1" box:1; quiet docker create --name idle2 -e "constraint:node==${P}host3" box:1
prints "container prune reaches all nodes" "Deleted Containers" docker container prune -f
is "nothing of all that is left" "" docker ps -aq
