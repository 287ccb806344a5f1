#!/usr/bin/env bash
# Three hosts become one: joining, scheduling, overlay, names, published ports, calls from any host to any host.
. "$(dirname "$0")/lib.sh"
three_hosts
web_image
check "an overlay network is created from any manager" muster_on 2 network create shop
refuses "a second network of that name is refused by name" shop muster_on 3 network create shop
check "a service of six replicas is created" muster_on 2 service create -d --name web --replicas 6 --network shop --publish 8080:80 \
  --hostname '{{.Node.Hostname}}-{{.Task.Slot}}' "$image"
within 60 "six replicas run" running_are 3 web 6
trace=$(muster_on 2 trace --name ServiceCreate -q | head -n 1)
[ -n "$trace" ] || bad "no trace begins with the call: $(muster_on 2 trace)"
spans() { muster_on 1 trace "$trace" --format '{{.Name}} {{.Node}}'; }
has_spans() { local s all; all=$(spans) || return 1; for s in "$@"; do grep -q "$s " <<<"$all" || { echo "no $s in:"; sort <<<"$all" | uniq -c; return 1; }; done; }
within 10 "any host shows its trace, from the call to the running task" \
  has_spans Cluster/ServiceCreate raft.commit raft.apply plan dispatch task.prepare image.pull container.create network.attach runtime.start running
is "it took two rounds of consensus" 2 grep -c '^raft.commit ' <(spans)
is "it saw three hosts" 3 wc -l < <(spans | awk '{print $2}' | sort -u)
spread() { [ "$(muster_on 1 service ps web --filter desired-state=running --format '{{.Node}}' | sort | uniq -c | awk '{print $1}' | sort -u)" = 2 ]; }
check "two of them on each host" spread
for h in 1 2 3; do within 10 "host $h answers at the published port" answers $h 8080; done
sees_me() { local i out; for i in $(seq 12); do out=$(curl -s -m 3 "http://$(host_ip "$1"):8080/cgi-bin/who") || return 1; case $out in *" saw $(me_ip)") ;; *) echo "$out"; return 1 ;; esac; done; }
for h in 1 2 3; do check "replicas on every host see the client's own address through host $h" sees_me $h; done
who_answers() { for i in $(seq 40); do curl -s -m 3 "http://$(host_ip "$1"):8080/cgi-bin/who"; done | sed 's/-[0-9]* saw.*//' | sort -u | wc -l; }
on_all() { [ "$(who_answers 1)" = 3 ]; }
check "a port on one host leads to replicas on all hosts" on_all

container() { muster_on 1 ps --format '{{.Names}}' | grep "$1" | head -n 1; }
mine=$(muster_on 1 ps --format '{{.Names}}' | grep -v / | head -n 1)
theirs=$(container "^${P}host2/"); third=$(container "^${P}host3/")
[ -n "$mine" ] && [ -n "$theirs" ] && [ -n "$third" ] || bad "muster ps does not list all hosts: $(muster_on 1 ps)"
# Backends are drawn: so many requests that no host is left out by chance.
by_name() { muster_on 1 exec "$1" sh -c 'for i in $(seq 60); do wget -qO- http://web/cgi-bin/who || exit 1; done' | sed 's/-[0-9]* saw.*//' | sort -u | wc -l | grep -qx 3; }
check "a container reaches the service by name, on all hosts" by_name "$mine"
check "and one on another host does" by_name "$theirs"
tasks_name() { [ "$(muster_on 1 exec "$mine" nslookup tasks.web 2>/dev/null | grep -c '^Address.*10\.')" = 6 ]; }
check "tasks.web resolves to six addresses" tasks_name

address() { muster_on 1 inspect "$1" | jq -r '.[0].NetworkSettings.Networks.shop.IPAddress'; }
pid=$(muster_on 1 inspect "$mine" | jq -r '.[0].State.Pid') stranger=$(address "$theirs") target=$(address "$third")
dropped() { muster_on 1 info | sed -n 's/^ *Dropped packets (spoofed_ip): //p'; }
# A process in the container's namespace that speaks with the address of a container elsewhere.
spoofs() {
  local dev; dev=$(nsenter -t "$pid" -n ip -o route get "$target" | sed -n 's/.* dev \([^ ]*\).*/\1/p')
  nsenter -t "$pid" -n ip addr add "$stranger/32" dev "$dev" || return 1
  nsenter -t "$pid" -n ping -q -c 1 -W 1 -I "$stranger" "$target" >/dev/null && { echo "it was answered"; return 1; }
  nsenter -t "$pid" -n ip addr del "$stranger/32" dev "$dev"
}
before=$(dropped)
check "a packet with another's source address is not answered" spoofs
more() { [ "$(dropped)" -gt "${before:-0}" ]; }
within 5 "it is counted by its reason in muster info" more
prints "and in docker info" "Dropped packets (spoofed_ip): $(dropped)" docker -H "unix://$(docker_sock 1)" info
prints "and in the cluster's" "Dropped packets (spoofed_ip): " docker -H "unix://$W/h2/run/docker-cluster.sock" info
exec_there() { [ "$(muster_on 1 exec "$theirs" sh -c 'echo from $(hostname); exit 7' 2>/dev/null; echo $?)" = "from $(muster_on 1 exec "$theirs" hostname)
7" ]; }
check "exec runs on another host and brings its exit code back" exec_there
stdin_there() { [ "$(echo in | muster_on 1 exec -i "$third" cat)" = in ]; }
check "exec carries stdin there and back" stdin_there
logs_there() { muster_on 1 exec "$theirs" sh -c 'echo hello-log > /proc/1/fd/1' && muster_on 3 logs "$theirs" 2>&1 | grep -q hello-log; }
check "logs of a container are read from any host" logs_there
check "stop reaches a container on another host" muster_on 1 stop -t 1 "$third"
within 30 "its task is replaced" running_are 1 web 6
check "the service is scaled" muster_on 3 service update -d --replicas 3 web
within 40 "three replicas run" running_are 2 web 3
only_three() { [ "$(muster_on 1 ps -q | wc -l)" = 3 ]; }
within 30 "and no more containers than that" only_three

refuses "an unknown flag is refused" --nonesuch muster_on 1 service create --nonesuch x
refuses "a malformed token is refused" "malformed join token" muster_on 1 join --token MSTR-1-x "$(host_ip 1)"
refuses "a duplicate service is refused by name" web muster_on 1 service create -d --name web "$image"
refuses "a published port in use is refused" 8080 muster_on 1 service create -d --name web2 --publish 8080:80 "$image"
refuses "an overlapping subnet is refused" overlap muster_on 1 network create --subnet 198.18.$N.0/24 clash
refuses "a node that does not exist is named" nonesuch muster_on 1 node inspect nonesuch
check "an image that does not exist makes tasks fail" muster_on 1 service create -d --name none --restart-condition none "$(me_ip):$REGISTRY_PORT/none:1"
says_why() { muster_on 1 service ps none --no-trunc | grep -q 'not found'; }
within 20 "and service ps says why" says_why
check "a service that fits nowhere is accepted" muster_on 1 service create -d --name big --reserve-memory 900G "$image"
pending() { muster_on 1 service ps big --no-trunc | grep -q 'insufficient memory'; }
within 10 "and service ps says filter by filter why it is pending" pending
d1="docker -H unix://$(docker_sock 2)"
quiet $d1 service create -d --name bydocker "$image"
trace=$(muster_on 3 trace --name services/create -q | head -n 1)
[ -n "$trace" ] || bad "no trace begins with the docker client's call: $(muster_on 3 trace)"
within 20 "so does the trace of what docker created" has_spans 'POST /services/create' raft.commit plan container.create running
mine=0af7651916cd43dd8448eb211c80319c
quiet curl -s --unix-socket "$(docker_sock 1)" -H "traceparent: 00-$mine-b7ad6b7169203331-01" http://docker/v1.41/containers/json
prints "a client's own trace is continued" "GET /containers/json" muster_on 2 trace $mine
is "and found by its name" $mine muster_on 2 trace --name 'GET /containers/json' -q
for s in bydocker none big web; do check "service $s is removed" muster_on 2 service rm $s; done
nothing_runs() { [ -z "$(muster_on 1 ps -aq)" ]; }
within 40 "no container is left of them" nothing_runs
net_gone() { muster_on 1 network rm shop; }
within 20 "the network can be removed then" net_gone
