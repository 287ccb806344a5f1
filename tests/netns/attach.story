#!/usr/bin/env bash
# Containers of no service on networks of the cluster: addresses from the cluster, names and traffic across hosts, and what
# becomes of an address when its container, daemon, manager or host goes away.
. "$(dirname "$0")/lib.sh"
switch_up || bad "the switch could not be made"
for h in 1 2 3; do host_up $h && daemon_up $h || bad "host $h did not start"; done
check "muster init founds a cluster" muster_on 1 init --advertise-addr "$(host_ip 1)"
for h in 2 3; do check "host $h joins as a worker" muster_on $h join --token "$(muster_on 1 join-token -q worker)" "$(host_ip 1):2377"; done
within 20 "three nodes are ready" nodes_are 1 3 Ready
web_image
D() { local h=$1; shift; docker -H "unix://$(docker_sock $h)" "$@"; }
address() { D "$1" inspect -f "{{(index .NetworkSettings.Networks \"$3\").IPAddress}}" "$2"; }
page() { D "$1" exec "$2" timeout 5 wget -qO- "http://$3/cgi-bin/who"; } # HOST CONTAINER NAME
for h in 1 2 3; do D $h pull -q "$image" >/dev/null || bad "host $h cannot pull"; done

# A network for everybody, one for services only.
check "the ingress network is there from the beginning" D 1 network inspect ingress -f '{{.Driver}}'
check "an attachable overlay is created" D 1 network create -d overlay --attachable --subnet 10.77.0.0/24 shop
check "muster creates one too" muster_on 1 network create lane
check "and one that is not" D 1 network create -d overlay closed
refuses "a container of its own on that one is refused, in Docker's words" "not manually attachable" D 1 run --rm --network closed "$image" true
refuses "also on a worker's host" "not manually attachable" D 2 run --rm --network closed "$image" true
refuses "and on the ingress network" "not manually attachable" D 2 run --rm --network ingress "$image" true
refuses "a network that is not there is not found" "network nonesuch not found" D 2 run --rm --network nonesuch "$image" true

# Names, addresses and traffic.
check "a container runs on it, on a worker's host" D 2 run -d --name two --network shop --network-alias duo --hostname zwei "$image"
check "and one on a manager's, at an address of its own choice" D 1 run -d --name one --network shop --ip 10.77.0.77 "$image"
[ "$(address 1 one shop)" = 10.77.0.77 ] && ok "which it gets" || bad "it has $(address 1 one shop)"
refuses "an address is given once in the cluster" "already in use" D 3 run --rm --network shop --ip 10.77.0.77 "$image" true
refuses "and from the network only" "does not belong" D 3 run --rm --network shop --ip 10.78.0.1 "$image" true
for name in two duo zwei; do within 5 "host 1's container finds the other by $name" page 1 one $name; done
within 5 "and is found" page 2 two one
sees() { page 1 one two | grep -q "saw 10.77.0.77"; }
check "as itself, through the tunnel" sees
listed() { D 1 network inspect shop -f '{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}}' | grep -qx 'one 10.77.0.77/24'; }
check "network inspect lists it" listed
muster_on 1 service create -d --name web --replicas 3 --network shop --hostname '{{.Node.Hostname}}' "$image" || bad "service create"
within 60 "a service runs beside them" running_are 1 web 3
all_hosts() { local i; for i in $(seq 12); do page 2 two web || return 1; done | sed 's/ saw.*//' | sort -u | wc -l | grep -qx 3; }
within 10 "its address leads a container to tasks on all hosts" all_hosts
tasks_name() { [ "$(D 2 exec two nslookup tasks.web 2>/dev/null | grep -c '^Address.*10\.77\.')" = 3 ]; }
within 5 "tasks.web resolves to each of them" tasks_name
task=$(D 3 ps -q --filter label=com.docker.swarm.service.name=web | head -n 1)
within 5 "a task finds a container by name" D 3 exec "$task" timeout 5 wget -qO- http://two/cgi-bin/who

# Live.
check "a running container joins a second network" D 2 network connect --alias lanes lane two
check "as does one elsewhere" D 3 run -d --name three --network lane "$image"
within 5 "they meet by alias" page 3 three lanes
check "rename" D 2 rename two zoe
within 5 "tells the other hosts" page 1 one zoe
no_name() { ! page 1 one two; }
within 5 "and the old name is gone" no_name
check "disconnect" D 2 network disconnect lane zoe
no_lanes() { ! page 3 three lanes; }
within 5 "takes it off again" no_lanes
refuses "a network with containers on it stays" "in use" muster_on 1 network rm lane

# Daemons and managers.
before=$(address 2 zoe shop)
daemon_kill 2 KILL; daemon_up 2 || bad "host 2 did not come back"
[ "$(address 2 zoe shop)" = "$before" ] && ok "after kill -9 of its daemon a container has its address" || bad "it has another address"
within 10 "and is reached" page 1 one zoe
check "one with a restart policy runs" D 2 run -d --name phoenix --restart always --network shop "$image"
within 5 "and is reached" page 1 one phoenix
bird=$(address 2 phoenix shop)
daemon_kill 1 TERM
check "without any manager containers reach each other" page 2 zoe 10.77.0.77
check "by name too" page 2 zoe one
D 2 exec phoenix kill 1 || true
again() { [ "$(D 2 inspect -f '{{.RestartCount}} {{.State.Running}}' phoenix)" = "1 true" ]; }
D 2 exec phoenix sh -c 'kill -9 -1' 2>/dev/null; kill -KILL "$(D 2 inspect -f '{{.State.Pid}}' phoenix)"
within 15 "one that dies comes up again without a manager" again
[ "$(address 2 phoenix shop)" = "$bird" ] && ok "at its address" || bad "it has $(address 2 phoenix shop) instead of $bird"
daemon_up 1 || bad "host 1 did not come back"
within 20 "the manager is back" nodes_are 1 3 Ready

# Giving back.
check "a container ends while its daemon is away" D 3 run -d --name brief --network shop --ip 10.77.0.99 "$image"
pid=$(D 3 inspect -f '{{.State.Pid}}' brief)
daemon_kill 3 KILL; kill -KILL "$pid"; daemon_up 3 || bad "host 3 did not come back"
take_it() { D 1 run --rm --network shop --ip 10.77.0.99 "$image" true; }
within 15 "its address is free again" take_it
check "a container on a host" D 3 run -d --name lost --network shop --ip 10.77.0.98 "$image"
within 5 "is reached" page 1 one lost
host_kill 3
within 15 "the host is lost" nodes_are 1 1 Down
no_lost() { ! page 1 one lost; }
within 5 "nobody is sent there any more" no_lost
refuses "its address stays its own, for it may still run" "already in use" D 1 run --rm --network shop --ip 10.77.0.98 "$image" true
check "until the host is removed" muster_on 1 node rm --force "${P}host3"
take_that() { D 1 run --rm --network shop --ip 10.77.0.98 "$image" true; }
within 10 "then it is given to others" take_that

# To the end.
muster_on 1 service rm web >/dev/null || bad "service rm"
D 1 rm -f one >/dev/null; D 2 rm -f zoe phoenix >/dev/null
for net in shop lane; do net_gone() { muster_on 1 network rm $net; }; within 20 "network $net can be removed when all are gone" net_gone; done
