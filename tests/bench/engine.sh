# One host: the engine without a cluster, by the stock client. Host 1 runs musterd, host 5 the peer.

[ $peer = 0 ] && peer_is="no peer in this run" || peer_is="Docker Engine: $(dockerd --version | tr -d ,)"

# both N ARGUMENTS...: "min / median" of a docker command on both engines, into $mine and $theirs
both() {
  local count=$1 out; shift
  local cmds=("docker -H unix://$(docker_sock 1) $1")
  [ $peer = 0 ] || cmds+=("docker -H unix://$(docker_sock $alone) ${2:-$1}")
  out=$(m rounds "$count" "${cmds[@]}") || exit 1
  mine=$(awk 'NR == 1 { print $1 " / " $2 }' <<<"$out"); theirs=$(awk 'NR == 2 { print $1 " / " $2 }' <<<"$out")
}

# many_up HOST: starts $idle containers one after the other; milliseconds of all
many_up() {
  local began i; began=$(now)
  for i in $(seq "$idle"); do D "$1" run -d --name "idle$i" "$image" sleep 100000 >/dev/null || exit 1; done
  since "$began"
}

# shim_pss HOST: KiB of one shim
shim_pss() {
  local pids; pids=$(shim_pids "$1"); [ -n "$pids" ] || return 1
  m memory $pids | awk -v n="$(wc -l <<<"$pids")" '{ printf "%.0f", $2 / n }'
}

# daemon_mib HOST: "RSS / PSS" in MiB of the daemon once it is idle
daemon_mib() {
  m settle 45 "$(head -n 1 "$W/h$1/run/musterd.pid")" >/dev/null
  m memory $(daemon_pids "$1") | awk '{ printf "%.1f / %.1f", $1 / 1024, $2 / 1024 }'
}

engine_part() {
  local mine theirs out a b
  step "one host$([ $peer = 0 ] || echo ', and dockerd beside it')"
  switch_up && host_up 1 && daemon_up 1 || exit 1
  registry_up; image_put web 1
  [ $peer = 0 ] || { host_up $alone && peer_up $alone || exit 1; }
  a=$(daemon_mib 1); b=; [ $peer = 0 ] || b=$(daemon_mib $alone)
  row "daemon idle, just started, one host: RSS / PSS, MiB (dockerd with its containerd)" "$a" "$b" "<= 30"
  D 1 pull -q "$image" >/dev/null || exit 1
  [ $peer = 0 ] || D $alone pull -q "$image" >/dev/null || exit 1

  step "docker version, run, exec: $n rounds"
  both "$n" "version"
  row "\`docker version\`, ms (the client's own floor)" "$mine" "$theirs"
  both "$n" "run --rm $image true"
  row "\`docker run --rm busybox true\`, ms" "$mine" "$theirs" "<= 1/3 of dockerd"
  both "$n" "run --rm --network none $image true"
  row "the same with \`--network none\`, ms" "$mine" "$theirs"
  api_phases
  D 1 run -d --name ex "$image" sleep 100000 >/dev/null || exit 1
  [ $peer = 0 ] || D $alone run -d --name ex "$image" sleep 100000 >/dev/null || exit 1
  both "$n" "exec ex true"
  row "\`docker exec\` true, ms" "$mine" "$theirs" "<= \`runc exec\` + 10 ms"
  runc_exec
  D 1 rm -f ex >/dev/null; [ $peer = 0 ] || D $alone rm -f ex >/dev/null

  step "$idle idle containers"
  a=$(many_up 1) || exit 1; b=; [ $peer = 0 ] || b=$(many_up $alone) || exit 1
  row "$idle containers started one after the other by \`docker run -d\`, ms in all" "$a" "$b" "<= 1/2 of dockerd"
  both "$n" "ps"
  row "\`docker ps\` with $idle containers, ms" "$mine" "$theirs" "list <= 10 ms + client"
  both "$n" "inspect idle1"
  row "\`docker inspect\` with $idle containers, ms" "$mine" "$theirs" "<= 2 ms + client"
  a=$(shim_pss 1) || die "no shim of host 1 was found"; b=; [ $peer = 0 ] || b=$(shim_pss $alone)
  row "one shim of an idle container: PSS, KiB" "$a" "$b" "<= 400"
  a=$(daemon_mib 1); b=; [ $peer = 0 ] || b=$(daemon_mib $alone)
  row "daemon with $idle idle containers, after all of the above: RSS / PSS, MiB" "$a" "$b"
  step "the engines go"
  all_down || exit 1
  mkdir -p "$W"
}

# api_phases: where the time of `run` goes, call by call, without the client
api_phases() {
  local out sockets=("$(docker_sock 1)") i name
  [ $peer = 0 ] || sockets+=("$(docker_sock $alone)")
  out=$(m phases "$n" "$image" "${sockets[@]}") || exit 1
  i=1
  for name in create start wait remove "all four"; do
    row "API of one container that runs true: $name, ms, median" "$(awk -v i=$i 'NR == 1 { print $i }' <<<"$out")" "$(awk -v i=$i 'NR == 2 { print $i }' <<<"$out")"
    i=$((i + 1))
  done
}

# runc_exec: the same by the runtime alone
runc_exec() {
  local a b= id
  id=$(D 1 inspect -f '{{.Id}}' ex)
  a=$(m rounds "$n" "runc --root $W/h1/run/shims/rt exec $id true") || exit 1
  if [ $peer = 1 ]; then
    id=$(D $alone inspect -f '{{.Id}}' ex)
    b=$(m rounds "$n" "runc --root $W/h$alone/run/docker/runtime-runc/moby exec $id true") || exit 1
  fi
  row "\`runc exec\` true in the same container, ms" "$(awk '{ print $1 " / " $2 }' <<<"$a")" "$(awk '{ print $1 " / " $2 }' <<<"$b")"
}
