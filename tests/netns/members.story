#!/usr/bin/env bash
# Who may join and who may ask: tokens, workers, operators from elsewhere, leaving, a daemon without a cluster.
. "$(dirname "$0")/lib.sh"
switch_up || bad "the switch could not be made"
for h in 1 2; do host_up $h && daemon_up $h || bad "host $h did not start"; done
refuses "a host without a cluster says so" "not a swarm manager" muster_on 1 service ls
refuses "nor is there anything to go on with alone" "not part of a swarm" muster_on 1 init --force-new-cluster
check "muster init founds a cluster" muster_on 1 init --advertise-addr "$(host_ip 1)"
refuses "a second init is refused" "already part of a swarm" muster_on 1 init
refuses "a timeout of nodes that is out of bounds is refused" "NodeTimeout" muster_on 1 cluster update --node-timeout 1ms
check "the timeout of nodes is set" muster_on 1 cluster update --node-timeout 4s
set_so() { muster_on 1 cluster inspect | tr -d ' \n' | grep -qF '"node_timeout":{"secs":4,"nanos":0}'; }
check "and shown" set_so
worker=$(muster_on 1 join-token -q worker); manager=$(muster_on 1 join-token -q manager)
wrong_digest=$(echo "$worker" | sed 's/-[0-9a-f]\{64\}-/-'"$(printf '0%.0s' $(seq 64))"'-/')
wrong_secret=${worker%-*}-0000000000000000000000000
refuses "a token of another authority is refused" "another authority" muster_on 2 join --token "$wrong_digest" "$(host_ip 1)"
refuses "a token with a wrong secret is refused" "not valid" muster_on 2 join --token "$wrong_secret" "$(host_ip 1)"
refuses "nobody at the address is said" "cannot connect" muster_on 2 join --token "$worker" "$(host_ip 1):1"
check "a worker joins" muster_on 2 join --token "$worker" "$(host_ip 1)"
within 10 "it is ready, and no manager" nodes_are 1 1 'Ready $'
refuses "a worker's host does not list services" "not a swarm manager" muster_on 2 service ls
refuses "a worker's host does not look into other hosts" "managers" muster_on 2 ps
web_image
check "a service runs" muster_on 1 service create -d --name web --replicas 2 --publish 8080:80 "$image"
within 40 "on both" running_are 1 web 2
within 10 "the worker answers the published port" answers 2 8080
export MUSTER_CONFIG_DIR=$W/config
check "an operator's certificate is made" muster_on 1 context create lab
check "and opens the cluster" "$BIN/muster" -c lab node ls
check "through a worker, too, for what a worker may answer" "$BIN/muster" -c lab version
refuses "a context that is not there is named" nope "$BIN/muster" -c nope node ls
check "the join token is rotated" muster_on 1 join-token -q --rotate worker
host_up 3 && daemon_up 3 || bad "host 3 did not start"
refuses "the old token opens nothing" "not valid" muster_on 3 join --token "$worker" "$(host_ip 1)"
check "the manager's still does" muster_on 3 join --token "$manager" "$(host_ip 1)"
within 20 "two managers" nodes_are 1 2 'Ready (Leader|Reachable)'

# An operator's certificate is called back before it ends.
muster() { "$BIN/muster" "$@"; }
opens() { muster -c "$1" version >/dev/null 2>&1; }
refused() { case $(muster -c "$1" version 2>&1) in *"was revoked"*) true ;; *) false ;; esac; }
listed() { muster_on 1 context ls --issued | awk 'NR > 1 { print $2; s[$5] } END { for (k in s) print k }' | sort | paste -sd' '; }
quiet muster_on 1 context create --addr "$(host_ip 2):2377" far
quiet muster_on 3 context create --addr "$(host_ip 3):2377" near
for c in far near; do check "a certificate opens the door of the host that context $c names" opens $c; done
prints "any manager lists them" "far" muster_on 3 context ls --issued
is "by name, with their state" "far lab near valid" listed
serial=$(muster_on 1 context ls --issued | awk '$2 == "near" { print $1 }')
muster -c near logs -f --tail 0 "$(docker -H "unix://$(docker_sock 3)" ps -q | head -n 1)" >/dev/null 2>&1 & stream=$!
is "revoke takes a serial" "$serial" muster_on 1 context revoke "$serial"
ended() { ! kill -0 "$stream" 2>/dev/null; }
check "and a name, at any manager" muster_on 3 context revoke far
for c in far near; do within 5 "context $c opens nothing any more" refused $c; done
within 5 "what it had open has ended" ended
check "others do" opens lab
prints "the list says so" "revoked 20" muster_on 3 context ls
refuses "once" "revoked before" muster_on 1 context revoke far
refuses "what was never given is not known" "not found" muster_on 1 context revoke nobody
for h in 1 3; do daemon_kill $h KILL; done; daemon_kill 2 KILL; daemon_up 2 || bad "host 2 did not come back"
check "a worker remembers, without its managers" refused far
for h in 1 3; do daemon_up $h || bad "host $h did not come back"; done
within 30 "the managers are back" nodes_are 1 2 'Ready (Leader|Reachable)'
check "and remember" refused near
check "a new certificate of the name" muster_on 1 context create --addr "$(host_ip 2):2377" far
check "opens the door" opens far
within 30 "the service is as it was" running_are 1 web 2

check "the worker leaves" muster_on 2 leave
empty() { [ -z "$(docker -H "unix://$(docker_sock 2)" ps -aq)" ]; }
within 20 "and its tasks end" empty
within 20 "they run elsewhere" running_are 1 web 2
# All daemons end and come back: the cluster goes on where it was.
for h in 1 3; do daemon_kill $h KILL; done
for h in 1 3; do daemon_up $h || bad "host $h did not come back"; done
within 30 "the cluster is back after all its daemons were killed" nodes_are 1 2 'Ready (Leader|Reachable)'
within 30 "with its service" running_are 3 web 2
# A manager that is not the leader leaves: the leader writes it down and stays.
leads() { muster_on "$1" node ls --format '{{.Hostname}} {{.ManagerStatus}}' | grep -q "^${P}host$1 Leader"; }
leaver=3; stayer=1; leads 3 && { leaver=1; stayer=3; }
refuses "a manager does not leave unless it is forced" "force" muster_on $leaver leave
# Its certificate has months to go: what it opens once its node is removed, by the calls that no context makes.
cp "$W/h$leaver/data/cluster/identity.pem" "$W/leaver.pem"
spans() {
  printf '\0\0\0\0\0' | curl -sk --http2 -m 5 -D - -o /dev/null --cert "$W/leaver.pem" --key "$W/leaver.pem" -H 'content-type: application/grpc' \
    -H 'te: trailers' --data-binary @- "https://$(host_ip $stayer):2377/muster.v1.Traces/Get" | tr -d '\r' | grep -i "^$1"
}
reads_spans() { spans 'HTTP/2 200' && ! spans 'grpc-status: 7'; }
check "a manager may read spans" reads_spans
check "with force it does" muster_on $leaver leave --force
within 20 "the other one leads alone" leads $stayer
gone() { [ "$(muster_on $stayer node ls --format '{{.Hostname}} {{.Status}}' | grep -c "^${P}host$leaver Ready")" = 0 ]; }
within 20 "the one that left is not ready any more" gone
check "its node is removed" muster_on $stayer node rm --force "${P}host$leaver"
check "its certificate reads no spans" spans 'grpc-status: 7'
within 40 "the service runs on what is left" running_are $stayer web 2

# A node that is removed hears of it: it ends its tasks and is free again.
check "the worker joins once more" muster_on 2 join --token "$(muster_on $stayer join-token -q worker)" "$(host_ip $stayer)"
again=$(muster_on 2 info | sed -n 's/^ *Node: //p')
two_ready() { [ "$(muster_on $stayer node ls --format '{{.Status}}' | grep -c Ready)" = 2 ]; }
within 20 "it is ready" two_ready
check "it gets a task" muster_on $stayer service update -d --replicas 4 web
has_task() { [ -n "$(docker -H "unix://$(docker_sock 2)" ps -q)" ]; }
within 40 "that runs there" has_task
check "it is removed by force" muster_on $stayer node rm --force "$again"
free() { muster_on 2 info | grep -q 'Cluster: none'; }
within 20 "and is in no cluster any more" free
within 20 "with nothing left running" empty

# A container of the host alone, with no cluster's help.
check "plain containers run beside" docker -H "unix://$(docker_sock 2)" run --rm "$image" true
