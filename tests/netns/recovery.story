#!/usr/bin/env bash
# The majority of the managers is lost for good: one of the others goes on alone, with everything that it had received.
. "$(dirname "$0")/lib.sh"
three_hosts
web_image
check "a service runs on all hosts" muster_on 1 service create -d --name web --replicas 3 --publish 8080:80 "$image"
within 40 "three replicas" running_are 1 web 3
for h in 2 3; do daemon_kill $h KILL; done
refuses "without a majority nothing is written" "leader" muster_on 1 service update -d --replicas 4 web
refuses "a pool is not for a cluster that goes on" "default-addr-pool" muster_on 1 init --force-new-cluster --default-addr-pool 10.9.0.0/16
check "host 1 goes on alone" muster_on 1 init --force-new-cluster
within 20 "it is the only manager and leads" nodes_are 1 1 'Ready Leader'
check "it takes writes" muster_on 1 service update -d --replicas 4 web
within 60 "and runs everything" running_are 1 web 4
within 10 "its port answers" answers 1 8080
daemon_kill 1 KILL; daemon_up 1 || bad "host 1 did not come back"
within 20 "a restart finds it so" nodes_are 1 1 'Ready Leader'
daemon_up 2 || bad "host 2 did not come back"
within 40 "a manager that was given up comes back as a worker" nodes_are 1 1 'Ready $'
lists_nothing() { grep -q "not a swarm manager" <<<"$(muster_on 2 service ls 2>&1)"; }
within 20 "and lists no services itself" lists_nothing
check "it can be made a manager again" muster_on 1 node promote "${P}host2"
within 40 "and is one" nodes_are 1 2 'Ready (Leader|Reachable)'
