#!/usr/bin/env bash
# The registry goes away in the middle of a deployment, and comes back.
. "$(dirname "$0")/lib.sh"
three_hosts
web_image
image_put web 2
kill "$(cat "$W/registry/pid")"
gone() { ! curl -s -m 1 -o /dev/null "http://$(me_ip):$REGISTRY_PORT/v2/"; }
within 10 "the registry is down" gone
check "a service is created all the same" muster_on 1 service create -d --name late --replicas 3 --restart-delay 1s "$(me_ip):$REGISTRY_PORT/web:2"
says_why() { muster_on 1 service ps late --no-trunc | grep -q 'unreachable'; }
within 60 "service ps says that the registry cannot be reached" says_why
/bin/busybox httpd -f -p "$(me_ip):$REGISTRY_PORT" -h "$W/registry" & other=$!
within 10 "another server has its port" curl -s -m 1 -o /dev/null "http://$(me_ip):$REGISTRY_PORT/v2/"
not_taken_for_it() { ! (registry_up) 2>/dev/null; }
check "which is not taken for the registry" not_taken_for_it
kill $other; within 10 "the port is free" port_is_free "$(me_ip)" $REGISTRY_PORT
registry_up
within 60 "the service runs once the registry is back" running_are 1 late 3
within 10 "the daemons are well" nodes_are 1 3 'Ready (Leader|Reachable)'
