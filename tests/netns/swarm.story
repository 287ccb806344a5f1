#!/usr/bin/env bash
# Swarm as the stock CLI shows it on three managers: events of the cluster on every manager's own endpoint and, once each, on
# the cluster's; what nodes, tasks and the swarm say of themselves.
. "$(dirname "$0")/lib.sh"
need_packages openssl jq >/dev/null
export DOCKER_CONFIG="$W/client" DOCKER_CLI_HINTS=false
unset DOCKER_HOST DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_API_VERSION
mkdir -p "$DOCKER_CONFIG"
on() { local h=$1; shift; docker -H "unix://$(docker_sock "$h")" "$@"; }
whole() { local h=$1; shift; docker -H "unix://$W/h$h/run/docker-cluster.sock" "$@"; }
# listen FILE WHOSE HOST FILTER...: what is told from now on, a line each, sorted attributes behind it
listen() {
  local file=$1 whose=$2 host=$3; shift 3
  setsid docker -H "unix://$W/h$host/run/$whose.sock" events --filter scope=swarm "$@" \
    --format '{{.Type}} {{.Action}} {{json .Actor.Attributes}}' >"$W/$file" 2>"$W/$file.errors" </dev/null &
  listeners="${listeners:-} $!"
}
told() { [ "$(grep -cxF -- "$2" "$W/$1")" = 1 ]; }
lines() { wc -l <"$W/$1"; }

three_hosts
web_image

#### what nodes and tasks say of themselves
is "each node's certificate hangs on the swarm's root" "Ready Ready Ready" sh -c "docker -H unix://$(docker_sock 1) node ls --format '{{.TLSStatus}}' | paste -sd' '"
same_tls() { [ "$(on 2 info -f '{{json .Swarm.Cluster.TLSInfo}}' | jq -S .)" = "$(on 2 node inspect "${P}host3" -f '{{json .Description.TLSInfo}}' | jq -S .)" ]; }
check "a node's is the same as the swarm's" same_tls
on 1 swarm ca >"$W/root.pem" || bad "swarm ca"
key_is() { [ "$(on 1 node inspect self -f '{{.Description.TLSInfo.CertIssuerPublicKey | json}}' | jq -r .)" = "$(openssl x509 -in "$W/root.pem" -noout -pubkey | openssl pkey -pubin -outform DER | base64 -w0)" ]; }
check "with the root's public key" key_is
subject_is() { on 1 node inspect self -f '{{json .Description.TLSInfo.CertIssuerSubject}}' | jq -r . | base64 -d | openssl asn1parse -inform DER | grep -q muster-ca; }
check "and its name" subject_is
quiet on 1 service create -d --name ported --publish published=18099,target=80,mode=host "$image"
ports_are() { [ "$(on 1 service ps ported --filter desired-state=running --format '{{.Ports}}')" = "*:18099->80/tcp" ]; }
within 40 "service ps shows a task's ports on its host" ports_are
quiet on 1 service rm ported

#### events
for h in 1 2; do listen "node$h" docker $h; done
listen whole docker-cluster 3
listen services docker-cluster 3 --filter type=service --filter service=web
listen host2 docker-cluster 3 --filter node="${P}host2"
started() { # Nothing says that a stream has begun but its first line.
  on 1 node update --label-add "seen=$RANDOM" "${P}host2" >/dev/null
  [ "$(lines node1)" -gt 0 ] && [ "$(lines node2)" -gt 0 ] && [ "$(lines whole)" -gt 0 ] && [ "$(lines host2)" -gt 0 ]
}
within 20 "streams of events begin" started
begun=$(date +%s.%N)
quiet on 1 network create -d overlay shop
quiet on 1 service create -d --name web --replicas 2 --network shop "$image"
quiet on 2 service scale -d web=3
quiet on 3 node update --availability drain "${P}host2"
quiet on 3 node update --availability active "${P}host2"
quiet on 1 service create -d --name other --replicas 1 "$image"
within 40 "the services run" running_are 1 web 3
quiet on 2 service rm web
quiet on 2 service rm other
in_use() { on 1 network rm shop; }
within 30 "the network is free again" in_use
expected=(
  'network create {"name":"shop"}'
  'service create {"name":"web"}'
  'service update {"name":"web","replicas.new":"3","replicas.old":"2"}'
  "node update {\"availability.new\":\"drain\",\"availability.old\":\"active\",\"name\":\"${P}host2\"}"
  'service create {"name":"other"}'
  'service remove {"name":"web"}'
  'network remove {"name":"shop"}'
)
for stream in node1 node2 whole; do
  for event in "${expected[@]}"; do within 10 "$stream tells once: $event" told "$stream" "$event"; done
done
same() { diff <(sort "$W/node1" | grep -v '"seen"\|node update {"name":' | grep -v 'service update {"name":"[a-z]*"}') <(sort "$W/$1" | grep -v '"seen"\|node update {"name":' | grep -v 'service update {"name":"[a-z]*"}'); }
check "every manager tells the same" same node2
check "and the cluster endpoint the same as one of them" same whole
check "a filter of a service is kept" told services 'service create {"name":"web"}'
check "strictly" sh -c "! grep -v '\"name\":\"web\"' $W/services"
check "a filter of a node leaves that node's own" told host2 "node update {\"availability.new\":\"drain\",\"availability.old\":\"active\",\"name\":\"${P}host2\"}"
check "and nothing of services" sh -c "! grep -q '^service' $W/host2"
again() { on "$1" events --since "$begun" --until "$(date +%s.%N)" --filter scope=swarm --filter type=network --format '{{.Action}} {{.Actor.Attributes.name}}' | paste -sd' '; }
is "--since tells again what a manager remembers" "create shop remove shop" again 2
is "also at the cluster's, once each" "create shop remove shop" sh -c "docker -H unix://$W/h3/run/docker-cluster.sock events --since $begun --until $(date +%s.%N) --filter scope=swarm --filter type=network --format '{{.Action}} {{.Actor.Attributes.name}}' | paste -sd' '"
no_entry() { ! curl -s --max-time 2 --unix-socket "$(docker_sock 1)" "http://d/events?since=0" | grep -q MusterEntry; }
check "clients see no field that is not Docker's" no_entry

#### a leader is lost
leader=$(on 3 node ls --format '{{.Hostname}} {{.ManagerStatus}}' | sed -n "s/^${P}host\([123]\) Leader\$/\1/p")
[ "$leader" = 3 ] && { quiet on 1 node demote "${P}host3"; within 20 "host 3 is a worker" nodes_are 1 2 'Ready (Leader|Reachable)'; quiet on 1 node promote "${P}host3"; within 20 "and a manager again" nodes_are 3 3 'Ready (Leader|Reachable)'; leader=$(on 3 node ls --format '{{.Hostname}} {{.ManagerStatus}}' | sed -n "s/^${P}host\([123]\) Leader\$/\1/p"); }
host_kill "$leader"
# What was on its way to the lost leader when it went has an unknown end: that is said, and one asks again.
again_later() { on 3 network create -d overlay later >/dev/null 2>"$W/said" || grep -q "exists already" "$W/said"; }
within 10 "changes are taken" again_later
within 10 "what the next one does is told" told whole 'network create {"name":"later"}'
within 30 "and that the lost one is down" told whole "node update {\"name\":\"${P}host$leader\",\"state.new\":\"down\",\"state.old\":\"unknown\"}"
before=$(lines whole)
ip -n "${P}0" link set "p$leader" up; daemon_up "$leader" || bad "host $leader did not start"
within 30 "it comes back" told whole "node update {\"name\":\"${P}host$leader\",\"state.new\":\"ready\",\"state.old\":\"down\"}"
is "and tells nothing that was told before" 0 sh -c "tail -n +$((before + 1)) $W/whole | grep -c 'shop\|later\|web' || true"

#### a leader is cut off
within 20 "three managers answer" nodes_are "$leader" 3 'Ready (Leader|Reachable)'
leading() { on "$1" node ls --format '{{.Hostname}} {{.ManagerStatus}}' | sed -n "s/^${P}host\([123]\) Leader\$/\1/p"; }
cut=$(leading "$leader"); near=$(for h in 1 2 3; do [ $h = "$cut" ] || echo $h; done | head -n 1)
ip -n "${P}0" link set "p$cut" down
# What was asked of the one that is cut off meanwhile is given up when another leads.
writes() { timeout 5 docker -H "unix://$(docker_sock "$near")" network create -d overlay "cut$(date +%s%N)"; }
within 10 "another manager takes writes, also from who had asked the lost one" writes
ip -n "${P}0" link set "p$cut" up
within 30 "the one that was cut off is back" nodes_are "$near" 3 'Ready (Leader|Reachable)'

#### leaving
others() { for o in 1 2 3; do [ $o = $1 ] || { echo $o; return; }; done; }
quiet on "$leader" node demote "${P}host$leader"
stays=$(others "$leader")
within 20 "a manager becomes a worker" nodes_are "$stays" 2 'Ready (Leader|Reachable)'
knows() { [ "$(on "$leader" info -f '{{.Swarm.ControlAvailable}}')" = false ]; }
within 20 "and finds that out itself" knows
check "a worker leaves" on "$leader" swarm leave
is "and counts as down at once" "Down" on "$stays" node ls --filter name="${P}host$leader" --format '{{.Status}}'
check "so that it can be removed" on "$stays" node rm "${P}host$leader"
kill $listeners 2>/dev/null; wait $listeners 2>/dev/null
true
