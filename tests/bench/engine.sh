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

# many_stopped: how long a daemon takes, from its start to its answer, that has many containers which do not run
many_stopped() {
  local index=$W/h1/data/engine/record-index a b= sockets=("$(docker_sock 1)")
  [ $peer = 0 ] || sockets+=("$(docker_sock $alone)")
  m make "$many" "$image" "${sockets[@]}" || exit 1
  a="$(starts 1 "$index" kept '') / $(starts 1 "$index" gone '')" || exit 1
  [ $peer = 0 ] || b=$(starts $alone '' kept '') || exit 1
  row "start over $many containers that do not run, to the list of them, ms, least: with the index over records / without it" "$a" "$b"
  a="$(starts 1 "$index" kept cold) / $(starts 1 "$index" gone cold)" || exit 1
  [ $peer = 0 ] || b=$(starts $alone '' kept cold) || exit 1
  row "the same, nothing of the disk in memory, ms" "$a" "$b"
  m discard "${sockets[@]}" || exit 1
}

# starts HOST INDEX kept|gone COLD: milliseconds of the fastest start of some; an orderly end writes the index
starts() {
  local h=$1 i up=daemon_up began least=
  [ "$h" = 1 ] || up=peer_up
  for i in 1 2 3 4 5; do
    daemon_kill "$h" TERM
    rm -f "$(docker_sock "$h")"
    [ "$3" = kept ] || rm -rf "$2"
    [ "$3" != kept ] || [ "$h" != 1 ] || [ -d "$2" ] || die "there is no index over the records: $2"
    [ -z "$4" ] || { sync; echo 3 >/proc/sys/vm/drop_caches; cat "$BIN/musterd" "$(command -v dockerd || echo /dev/null)" >/dev/null; }
    began=$(now)
    "$up" "$h" >&2 &
    m listed 60 "$many" "$(docker_sock "$h")" || exit 1
    began=$(since "$began")
    [ -n "$least" ] && [ "$least" -le "$began" ] || least=$began
    wait $! || exit 1
  done
  echo "$least"
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
  row "\`docker exec\` true, ms" "$mine" "$theirs"
  api_exec
  runc_exec
  runc_run
  D 1 rm -f ex >/dev/null; [ $peer = 0 ] || D $alone rm -f ex >/dev/null

  step "logs and pull"
  chatty
  big_pull

  step "starts over $many containers that do not run"
  many_stopped

  step "$idle idle containers"
  a=$(many_up 1) || exit 1; b=; [ $peer = 0 ] || b=$(many_up $alone) || exit 1
  row "$idle containers started one after the other by \`docker run -d\`, ms in all" "$a" "$b" "<= 1/2 of dockerd"
  both "$n" "ps"
  row "\`docker ps\` with $idle containers, ms" "$mine" "$theirs"
  api_ask /containers/json "API: list of $idle containers, ms" "<= 10"
  api_ask /containers/idle1/json "API: inspect with $idle containers, ms" "<= 2"
  a=$(shim_pss 1) || die "no shim of host 1 was found"; b=; [ $peer = 0 ] || b=$(shim_pss $alone)
  row "one shim of an idle container: PSS, KiB" "$a" "$b" "<= 400"
  a=$(daemon_mib 1); b=; [ $peer = 0 ] || b=$(daemon_mib $alone)
  row "daemon with $idle idle containers, after all of the above: RSS / PSS, MiB" "$a" "$b"
  step "the engines go"
  all_down || exit 1
  mkdir -p "$W"
}

# api_phases: where the time of `run` goes, call by call, without the client; sets api_all
api_phases() {
  local out sockets=("$(docker_sock 1)") i name
  [ $peer = 0 ] || sockets+=("$(docker_sock $alone)")
  out=$(m phases "$n" "$image" "${sockets[@]}") || exit 1
  api_all=$(awk 'NR == 1 { print $5 }' <<<"$out")
  i=1
  for name in create start wait remove "all four"; do
    row "API of one container that runs true: $name, ms, median" "$(awk -v i=$i 'NR == 1 { print $i }' <<<"$out")" "$(awk -v i=$i 'NR == 2 { print $i }' <<<"$out")"
    i=$((i + 1))
  done
}

# api_ask PATH WHAT GOAL: one question over a connection that is open, without the client
api_ask() {
  local out sockets=("$(docker_sock 1)")
  [ $peer = 0 ] || sockets+=("$(docker_sock $alone)")
  out=$(m ask "$n" "$1" "${sockets[@]}") || exit 1
  row "$2" "$(awk 'NR == 1 { print $1 " / " $2 }' <<<"$out")" "$(awk 'NR == 2 { print $1 " / " $2 }' <<<"$out")" "$3"
}

# api_exec: the same over the API, without the client's own start
api_exec() {
  local out where=("$(docker_sock 1)" ex)
  [ $peer = 0 ] || where+=("$(docker_sock $alone)" ex)
  out=$(m execs "$n" "${where[@]}") || exit 1
  row "API of one exec of true, ms" "$(awk 'NR == 1 { print $1 " / " $2 }' <<<"$out")" "$(awk 'NR == 2 { print $1 " / " $2 }' <<<"$out")" "<= \`runc exec\` + 10 ms"
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

# runc_run: what the runtime alone takes for a container that runs true, in the network and on the files of `ex`; the rest of
# the API's time for one is the engine's own
runc_run() {
  local id bundle=$W/bundle out
  id=$(D 1 inspect -f '{{.Id}}' ex); mkdir -p "$bundle"
  jq '.process.args = ["true"] | .process.terminal = false | .linux.cgroupsPath += "-alone" | del(.hooks)' \
    "$(find "$W/h1/data" -path "*/containers/$id/config.json")" >"$bundle/config.json" || die "the configuration of a container is not where it was"
  out=$(m rounds "$n" "runc --root $W/runc run --bundle $bundle alone") || exit 1
  row "\`runc run\` of the same container alone, ms" "$(awk '{ print $1 " / " $2 }' <<<"$out")" ""
  row "the engine's own share of one container: the API's median less that of \`runc run\`, ms" "$(awk -v all="$api_all" '{ printf "%.1f", all - $2 }' <<<"$out")" "" "<= 15"
}

# chatty: a container that logs 100 MB in lines of 100 bytes, from its start to its end
chatty() {
  local out cmds=("$W/chatty $(docker_sock 1) $image")
  [ $peer = 0 ] || cmds+=("$W/chatty $(docker_sock $alone) $image")
  cat >"$W/chatty" <<'SCRIPT'
#!/bin/sh
set -e
id=$(docker -H "unix://$1" run -d "$2" sh -c "yes $(printf '%099d' 7) | head -c 100000000")
docker -H "unix://$1" wait "$id"
docker -H "unix://$1" rm "$id"
SCRIPT
  chmod 755 "$W/chatty"
  out=$(m rounds 3 "${cmds[@]}") || exit 1
  row "a container that logs 100 MB in lines of 100 bytes, start to end, ms" \
    "$(awk 'NR == 1 { print $1 " / " $2 }' <<<"$out")" "$(awk 'NR == 2 { print $1 " / " $2 }' <<<"$out")" "<= 1/3 of dockerd"
}

# unpacking: the layer of that image, from its bytes to a folder, beside its decompressor alone
unpacking() {
  local out
  out=$("$BIN/examples/unpack" "$W/big/layer.tar.gz" 5 "$W") || exit 1
  row "its layer unpacked, digest checked (in the other column: the decompressor alone), ms" \
    "$(awk 'NR == 2 { print $1 " / " $2 }' <<<"$out")" "$(awk 'NR == 1 { print $1 " / " $2 }' <<<"$out")" "<= 1.3x"
}

# big_image: an image of one layer, 100 MB unpacked and about 75 MB in the registry
big_image() {
  local dir=$W/big layer config diff media=application/vnd.oci.image
  mkdir -p "$dir/root"
  head -c 78000000 /dev/urandom | base64 -w 0 | head -c 100000000 >"$dir/root/blob"
  tar -C "$dir/root" -cf "$dir/layer.tar" .
  diff=sha256:$(sha256sum "$dir/layer.tar" | cut -d' ' -f1)
  gzip -n -1 -f "$dir/layer.tar"
  printf '{"architecture":"%s","os":"linux","config":{"Cmd":["true"]},"rootfs":{"type":"layers","diff_ids":["%s"]}}' \
    "$(jq -r .architecture "$W/image/config.json")" "$diff" >"$dir/config.json"
  layer=$(blob_put big "$dir/layer.tar.gz") && config=$(blob_put big "$dir/config.json") || return 1
  printf '{"schemaVersion":2,"mediaType":"%s.manifest.v1+json","config":{"mediaType":"%s.config.v1+json","digest":"%s","size":%s},"layers":[{"mediaType":"%s.layer.v1.tar+gzip","digest":"%s","size":%s}]}' \
    $media $media "$config" "$(stat -c %s "$dir/config.json")" $media "$layer" "$(stat -c %s "$dir/layer.tar.gz")" >"$dir/manifest.json"
  curl -sS -f -o /dev/null -X PUT -H "Content-Type: $media.manifest.v1+json" --data-binary "@$dir/manifest.json" \
    "http://$(me_ip):$REGISTRY_PORT/v2/big/manifests/1"
}

# big_pull: three rounds of pull and removal of it
big_pull() {
  local i h began big; big=$(me_ip):$REGISTRY_PORT/big:1
  local -A took=([1]='' [$alone]='')
  big_image || die "the large image could not be put into the registry"
  for i in 1 2 3; do
    for h in 1 $([ $peer = 0 ] || echo $alone); do
      began=$(now)
      D $h pull -q "$big" >/dev/null || exit 1
      took[$h]+="$(since "$began")"$'\n'
      D $h rmi "$big" >/dev/null || exit 1
    done
  done
  for h in 1 $alone; do took[$h]=$(sed '/^$/d' <<<"${took[$h]}" | sort -n | paste -sd' ' | awk 'NF { print $1 " / " $2 }'); done
  row "pull of a 100 MB image from a registry on this machine, ms" "${took[1]}" "${took[$alone]}" "<= 1/3 of dockerd"
  unpacking
}
