# Three hosts: what a cluster costs, and how long it takes. The peer is Docker's swarm mode on three hosts of the same kind.
#
# $S names the system that is measured, muster or swarm; what differs between the two are the functions ${S}_*. A measurement
# leaves its figure in `took`.

# --- Muster
muster_up() {
  local h token
  for h in 1 2 3 4; do host_up $h && daemon_up $h || exit 1; done
  muster_on 1 init --advertise-addr "$(host_ip 1)" >/dev/null && token=$(muster_on 1 join-token -q manager) || exit 1
  for h in 2 3; do muster_on $h join --token "$token" "$(host_ip 1):2377" >/dev/null || exit 1; done
  token=$(muster_on 1 join-token -q worker) && muster_on 4 join --token "$token" "$(host_ip 1):2377" >/dev/null || exit 1
  within 30 ready_are 1 4
  muster_on 1 node update --availability drain "${P}host4" >/dev/null || exit 1
}
muster_service() { muster_on "$1" service "${@:2}"; }
muster_node() { muster_on "$1" node "${@:2}"; }
muster_overlay() { timeout 20 "$BIN/muster" -H "unix://$(host_sock "$1")" network create "$2"; }
muster_back() { daemon_up "$1"; }

# --- the peer
swarm_up() {
  local h token
  for h in 1 2 3; do host_up $h && peer_up $h || exit 1; done
  D 1 swarm init --advertise-addr "$(host_ip 1)" >/dev/null && token=$(D 1 swarm join-token -q manager) || exit 1
  for h in 2 3; do D $h swarm join --advertise-addr "$(host_ip $h)" --token "$token" "$(host_ip 1):2377" >/dev/null || exit 1; done
  within 30 ready_are 1 3
}
swarm_service() { D "$1" service "${@:2}"; }
swarm_node() { D "$1" node "${@:2}"; }
swarm_overlay() { timeout 20 docker -H "unix://$(docker_sock "$1")" network create -d overlay "$2"; }
swarm_back() { peer_up "$1"; }

ready_are() { [ "$("${S}_node" "$1" ls --format '{{.Status}}' | grep -c '^Ready')" = "$2" ]; }
replicas_are() { [ "$("${S}_service" "$1" ls --format '{{.Replicas}}')" = "$2/$2" ]; }
# runs_without HOST LOST N: N tasks run, none of them counted on the lost host
runs_without() {
  [ "$("${S}_service" "$1" ps web --filter desired-state=running --format '{{.Node}} {{.CurrentState}}' | grep -v "^${P}host$2 " | grep -c ' Running')" = "$3" ]
}
# leader_is: the number of the host that leads
leader_is() { "${S}_node" "$1" ls --format '{{.Hostname}} {{.ManagerStatus}}' | sed -n "s/^${P}host\([0-9]\) Leader.*/\1/p"; }
# image_everywhere: so that no pull is in the figures
image_everywhere() { local h; for h in 1 2 3; do D $h pull -q "$image" >/dev/null || exit 1; done; }

create_20() {
  local began; began=$(now)
  "${S}_service" 2 create -d --name web --replicas 10 --network shop "$image" >/dev/null || exit 1
  within 90 replicas_are 2 10
  took="$(since "$began")"
  began=$(now)
  "${S}_service" 2 update -d --replicas 20 web >/dev/null || exit 1
  within 90 replicas_are 2 20
  took_scale="$(since "$began")"
  "${S}_service" 2 rm web >/dev/null || exit 1
  within 60 none_runs
  began=$(now)
  "${S}_service" 2 create -d --name web --replicas 20 --network shop "$image" >/dev/null || exit 1
  within 90 replicas_are 2 20
  took_20="$(since "$began")"
}
none_runs() { local h; for h in 1 2 3; do [ -z "$(D $h ps -q)" ] || return 1; done; }

# lose_leader: kill -9 of the leader's daemon until another manager has accepted a write; the daemon comes back
lose_leader() {
  local lead other began out end=$((SECONDS + 60)) try=0
  lead=$(leader_is 1); [ -n "$lead" ] || die "there is no leader"
  other=$(( lead % 3 + 1 ))
  began=$(now)
  kill -KILL "$(cat "$W/h$lead/run/musterd.pid")"
  # A new name each time: a write that was accepted without an answer must not make the next one a duplicate.
  until out=$("${S}_overlay" $other "after$try" 2>&1); do try=$((try + 1)); [ $SECONDS -lt $end ] || die "no write was accepted after the leader's death: $out"; done
  took=$(since "$began")
  rm -f "$W/h$lead/run/musterd.pid"
  "${S}_back" "$lead" || exit 1
  within 60 ready_are $other "$1"
}

# lose_host: a power cut of a host that does not lead, until as many replicas run on the others
lose_host() {
  local lost began lead; lead=$(leader_is 1)
  lost=$(( lead % 3 + 1 ))
  within 60 replicas_are "$lead" 20
  began=$(now)
  host_kill $lost
  within 90 runs_without "$lead" $lost 20
  took=$(since "$began")
}

# in_container HOST COMMAND...: this machine's command in the network of a container of the service
in_container() {
  local h=$1 pid; shift
  pid=$(D "$h" inspect -f '{{.State.Pid}}' "$(D "$h" ps -q | head -n 1)") || return 1
  nsenter --net="/proc/$pid/ns/net" -- "$@"
}
# address_of HOST: of a container of the service, on the overlay
address_of() { D "$1" inspect -f '{{.NetworkSettings.Networks.shop.IPAddress}}' "$(D "$1" ps -q | head -n 1)"; }

# flow_between FROM TO ADDRESS: sets trip (microseconds, min / median) and rate (Gbit/s); FROM and TO are commands that lead there
flow_between() {
  local from=$1 to=$2 address=$3 served
  $to python3 "$here/measure.py" echo-serve "$address" 5301 & served=$!
  trip=$($from python3 "$here/measure.py" echo-ask "$address" 5301 "$trips" | awk '{ print $1 " / " $2 }') || trip=
  wait $served
  $to iperf3 -s -1 -B "$address" -p 5302 >/dev/null 2>&1 & served=$!
  rate=; local end=$((SECONDS + 10))
  until rate=$($from iperf3 -c "$address" -p 5302 -t "$flow" -J 2>/dev/null | python3 -c 'import json, sys; print("%.2f" % (json.load(sys.stdin)["end"]["sum_received"]["bits_per_second"] / 1e9))' 2>/dev/null); do
    [ $SECONDS -lt $end ] || break; sleep 0.1
  done
  kill $served 2>/dev/null; wait $served 2>/dev/null
}
flows() {
  flow_between "in_container 1" "in_container 2" "$(address_of 2)"
  overlay_trip=$trip overlay_rate=$rate
  flow_between "in_host 1" "in_host 2" "$(host_ip 2)"
  under_trip=$trip under_rate=$rate
}
# whole_ps: `docker ps` on the cluster endpoint beside that of one host, 100 containers on each of three
whole_ps() {
  local h i whole="$W/h1/run/docker-cluster.sock" one starts
  one=$(docker_sock 1)
  for h in 1 2 3; do
    for i in $(seq 10); do
      starts=()
      # By name: the daemons are children of this shell as well.
      for i in $(seq 10); do D $h run -d "$image" sleep 100000 >/dev/null & starts+=($!); done
      wait "${starts[@]}"
    done
    [ "$(D $h ps -q | wc -l)" -ge 100 ] || die "host $h does not run 100 containers"
  done
  read -r whole_cli one_cli < <(m rounds "$n" "docker -H unix://$whole ps" "docker -H unix://$one ps" | awk '{ printf "%s/%s ", $1, $2 }')
  read -r whole_api one_api < <(m ask "$((n * 4))" "/containers/json?all=1" "$whole" "$one" | awk '{ printf "%s/%s ", $1, $2 }')
  for h in 1 2 3; do D $h ps -q | xargs docker -H "unix://$(docker_sock $h)" rm -f >/dev/null || exit 1; done
}

# story READY: all measurements of one system; the figures go into the array F
declare -A F
keep() { F[$S.$1]=$2; echo "$S.$1 $2" >>"$W/figures"; }
story() {
  local took took_scale took_20 trip rate overlay_trip overlay_rate under_trip under_rate
  image_everywhere
  "${S}_overlay" 2 shop >/dev/null || exit 1
  step "$S: services"; create_20
  keep create "$took"; keep scale "$took_scale"; keep create20 "$took_20"
  step "$S: overlay"; flows
  keep trip "$overlay_trip"; keep rate "$overlay_rate"; keep under_trip "$under_trip"; keep under_rate "$under_rate"
  step "$S: leader killed"; lose_leader "$1"
  keep leader "$took"
  step "$S: host lost"; lose_host
  keep host "$took"
}

cluster_part() {
  local S a h
  step "three managers and a worker"
  S=muster
  switch_up || exit 1; registry_up; image_put web 1
  muster_up
  for h in 1 2 3; do F[idle$h]=$(daemon_mib $h); done; F[idle4]=$(daemon_mib 4)
  local whole_cli one_cli whole_api one_api
  image_everywhere; step "muster: docker ps of three hosts"; whole_ps
  story 4
  all_down || exit 1
  if [ $peer = 1 ]; then
    step "three hosts of dockerd in swarm mode"
    mkdir -p "$W"; S=swarm
    switch_up || exit 1; registry_up; image_put web 1
    swarm_up
    for h in 1 2 3; do F[swarm.idle$h]=$(daemon_mib $h); done
    # In a shell of its own: where the peer fails, our figures are shown all the same, and its own until then.
    (story 3; true) || echo "the peer's swarm mode did not get through; its figures are missing from there on" >&2
    while read -r h a; do F[$h]=$a; done <"$W/figures"
    all_down || exit 1
  fi
  row "docker ps on the cluster endpoint, 3 hosts x 100 containers, ms (beside it: the node endpoint, 100 containers)" "${whole_cli/\// / }" "${one_cli/\// / }" "<= 3x"
  row "the same list over a connection that is open, ms" "${whole_api/\// / }" "${one_api/\// / }"
  row "idle as the leader of three managers: RSS / PSS, MiB" "${F[idle1]}" "${F[swarm.idle1]:-}" "<= 40"
  row "idle as another of them: RSS / PSS, MiB" "${F[idle2]}" "${F[swarm.idle2]:-}" "<= 40"
  row "idle as a worker: RSS / PSS, MiB" "${F[idle4]}" "" "<= 25"
  row "service create to 10 of 10 Running on three hosts, ms" "${F[muster.create]}" "${F[swarm.create]:-}"
  row "scale 10 to 20, to all Running, ms" "${F[muster.scale]}" "${F[swarm.scale]:-}"
  row "service create to 20 of 20 Running, ms" "${F[muster.create20]}" "${F[swarm.create20]:-}"
  row "kill -9 of the leader to the next accepted write, ms" "${F[muster.leader]}" "${F[swarm.leader]:-}" "<= 2000"
  row "host lost to all 20 replicas running on the others, ms" "${F[muster.host]}" "${F[swarm.host]:-}" "<= 10000"
  row "overlay, container to container across hosts: TCP round trip, µs" "${F[muster.trip]}" "${F[swarm.trip]:-}"
  row "the underlay between the same hosts: TCP round trip, µs" "${F[muster.under_trip]}" "${F[swarm.under_trip]:-}"
  row "overlay across hosts: one TCP stream, Gbit/s" "${F[muster.rate]}" "${F[swarm.rate]:-}"
  row "the underlay: one TCP stream, Gbit/s" "${F[muster.under_rate]}" "${F[swarm.under_rate]:-}"
}
