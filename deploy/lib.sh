# Hosts on one machine: shared by quickstart and tests/netns. To be sourced; bash.
#
# A set of hosts is named by a short prefix P and a number N: network namespaces P1, P2, ... on a switch in namespace P0,
# addresses 198.18.N.1, .2, ...; this machine itself is 198.18.N.254 on it (198.18.0.0/15 is set aside for tests, RFC 2544).
# Everything of the set lies in the folder W. Nothing else is touched, and hosts_down removes all of it.
#
# Daemons run in the hosts' network namespace but in this machine's mount namespace (nsenter, not `ip netns exec`): their
# pinned eBPF objects have to outlive them.

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
# give_up WHY: ends by the script's own `failed`, which cleans up, where it has one
give_up() { if [ "$(type -t failed)" = function ]; then failed "$*"; else die "$*"; fi; }

# need_packages PACKAGE...: installs those that are missing. None of their services is started by it: a registry or an engine of
# the distribution's would take the ports that ours are to have (policy-rc.d, Debian policy 9.3.3.1; exit 101 forbids).
need_packages() {
  local missing=() p policy=/usr/sbin/policy-rc.d mark='# of Muster: while packages are installed'
  # Left by one that was killed in the middle.
  grep -qsxF "$mark" $policy && rm -f $policy
  for p in "$@"; do dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p"); done
  [ ${#missing[@]} -eq 0 ] && return 0
  echo "installing: ${missing[*]}"
  (
    if [ ! -e $policy ]; then
      trap 'rm -f $policy' EXIT; trap 'exit 130' INT TERM
      printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >$policy && chmod 755 $policy || exit 1
    fi
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
  ) >"${APT_LOG:-/dev/null}" 2>&1 || die "these packages could not be installed: ${missing[*]} (apt-get install says why)"
}

# check_build: as check_host, for what is built here
check_build() { command -v cargo >/dev/null || die "cargo is not in PATH: install the Rust toolchain, version 1.95 or newer"; }
check_machine() { check_host; check_build; }

# check_host: says in one line what is missing and what would help
check_host() {
  [ "$(id -u)" = 0 ] || die "root is needed, to make namespaces, cgroups and mounts: sudo $0"
  command -v apt-get >/dev/null || die "this script installs packages with apt-get: run it on Debian or Ubuntu"
  local kernel; kernel=$(uname -r)
  [ "$(printf '6.1\n%s\n' "$kernel" | sort -V | head -n 1)" = 6.1 ] || die "this kernel is $kernel: 6.1 or newer is needed, for eBPF as Muster uses it"
  [ -e /sys/fs/cgroup/cgroup.controllers ] || [ -e /sys/fs/cgroup/unified/cgroup.controllers ] ||
    die "no cgroup v2 hierarchy at /sys/fs/cgroup: boot with systemd.unified_cgroup_hierarchy=1, or mount one at /sys/fs/cgroup/unified"
  grep -qw bpf /proc/filesystems || die "this kernel has no bpf file system (CONFIG_BPF_SYSCALL): a kernel of 6.1 or newer with it is needed"
  grep -qw overlay /proc/filesystems || modprobe overlay 2>/dev/null || die "this kernel has no overlay file system: load or build the module overlay"
}

host_ns() { echo "$P$1"; }
host_ip() { echo "198.18.$N.$1"; }
me_ip() { echo "198.18.$N.254"; }
host_sock() { echo "$W/h$1/run/muster.sock"; }
docker_sock() { echo "$W/h$1/run/docker.sock"; }
in_host() { local h=$1; shift; nsenter --net="/run/netns/$(host_ns "$h")" -- "$@"; }

# muster_on HOST ARGUMENT...: the muster command against a host's own socket
muster_on() { local h=$1; shift; "$BIN/muster" -H "unix://$(host_sock "$h")" "$@"; }

# switch_up: the switch, and this machine's own port on it
switch_up() {
  ip netns add "${P}0" || return 1
  ip -n "${P}0" link add sw type bridge
  ip -n "${P}0" link set sw up
  ip link add "${P}up" type veth peer name root netns "${P}0" || return 1
  ip -n "${P}0" link set root master sw up
  ip addr add "$(me_ip)/24" dev "${P}up"
  ip link set "${P}up" up
}

# host_up HOST: its namespace, on the switch
host_up() {
  local ns; ns=$(host_ns "$1")
  ip netns add "$ns" || return 1
  ip -n "$ns" link set lo up
  ip link add eth0 netns "$ns" type veth peer name "p$1" netns "${P}0" || return 1
  ip -n "${P}0" link set "p$1" master sw up
  ip -n "$ns" addr add "$(host_ip "$1")/24" dev eth0
  ip -n "$ns" link set eth0 up
  ip -n "$ns" route add default via "$(me_ip)"
  mkdir -p "$W/h$1"/{data,run}
}

# daemon_up HOST [FLAG...]: starts its musterd and waits until it serves
daemon_up() {
  local h=$1 d=$W/h$1 i; shift
  rm -f "$d/run/musterd.pid"
  in_host "$h" setsid "$BIN/musterd" --data-dir "$d/data" --run-dir "$d/run" --instance "$P$h" --hostname "${P}host$h" \
    --docker-host "unix://$d/run/docker.sock" --bpffs-dir "$W/bpf/h$h" --cgroup-parent "/muster/$P$h" \
    --advertise-addr "$(host_ip "$h")" --insecure-registries "$(me_ip):$REGISTRY_PORT" "$@" </dev/null >>"$d/log" 2>&1 &
  local started=$!
  disown $started
  for i in $(seq 300); do
    [ -s "$d/run/musterd.pid" ] && "$BIN/muster" -H "unix://$d/run/muster.sock" version >/dev/null 2>&1 && return 0
    kill -0 $started 2>/dev/null || [ -s "$d/run/musterd.pid" ] || { tail -n 20 "$d/log" >&2; return 1; }
    sleep 0.1
  done
  tail -n 20 "$d/log" >&2
  return 1
}

# daemon_kill HOST SIGNAL: ends it and waits until it is gone
daemon_kill() {
  local pid; pid=$(cat "$W/h$1/run/musterd.pid" 2>/dev/null) || return 0
  kill "-$2" "$pid" 2>/dev/null || return 0
  local i; for i in $(seq 200); do [ -d "/proc/$pid" ] && ! grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null || break; sleep 0.05; done
  rm -f "$W/h$1/run/musterd.pid"
}

# cgroup_dirs HOST: its folders in every hierarchy
cgroup_dirs() { ls -d /sys/fs/cgroup/"muster/$P$1" /sys/fs/cgroup/*/"muster/$P$1" 2>/dev/null; }

# host_kill HOST: as a power cut: daemon, shims and containers at once; network cut
host_kill() {
  local d pid
  ip -n "${P}0" link set "p$1" down 2>/dev/null
  daemon_kill "$1" KILL
  for d in $(cgroup_dirs "$1"); do
    for pid in $(find "$d" -name cgroup.procs -exec cat {} + 2>/dev/null); do kill -KILL "$pid" 2>/dev/null; done
  done
  true
}

# port_is_free ADDRESS PORT: whether nobody on this machine holds it, there or on every address
port_is_free() { ! ss -Hltn "sport = :$2" | awk '{print $4}' | grep -qE "^(\*|0\.0\.0\.0|\[::\]|${1//./\\.}):"; }

# registry_up: Debian's docker-registry on this machine's port of the switch
registry_up() {
  local i pid
  mkdir -p "$W/registry"
  printf 'version: 0.1\nlog: {level: error}\nstorage:\n  filesystem: {rootdirectory: %s}\nhttp: {addr: "%s:%s"}\n' \
    "$W/registry/data" "$(me_ip)" "$REGISTRY_PORT" >"$W/registry/config.yml"
  setsid docker-registry serve "$W/registry/config.yml" </dev/null >"$W/registry/log" 2>&1 &
  pid=$!
  echo $pid >"$W/registry/pid"
  # It has to be this one that answers: another on the same port may, and then this one has ended.
  for i in $(seq 100); do
    kill -0 $pid 2>/dev/null || break
    [ "$(curl -s -m 1 -o /dev/null -w '%{http_code}' "http://$(me_ip):$REGISTRY_PORT/v2/")" = 200 ] && kill -0 $pid 2>/dev/null && return 0
    sleep 0.1
  done
  give_up "the registry does not serve at $(me_ip):$REGISTRY_PORT: $(tail -n 1 "$W/registry/log")"
}

# blob_put REPOSITORY FILE: uploads a file by its digest, which it prints
blob_put() {
  local base="http://$(me_ip):$REGISTRY_PORT" digest where
  digest=sha256:$(sha256sum "$2" | cut -d' ' -f1)
  where=$(curl -sS -i -X POST "$base/v2/$1/blobs/uploads/" | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
  case $where in /*) where=$base$where ;; esac
  case $where in *\?*) where="$where&digest=$digest" ;; *) where="$where?digest=$digest" ;; esac
  curl -sS -f -o /dev/null -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$2" "$where" || return 1
  echo "$digest"
}

# image_put REPOSITORY TAG [CONFIG]: a small real OCI image in the registry: Debian's busybox-static and a page that says who
# answers and whom it sees. CONFIG: what a container of it runs (the OCI "config" object); by default it serves that page.
# What is in the folder $W/extra goes in as well.
image_put() {
  local run='{"Env":["PATH=/bin"],"Cmd":["httpd","-f","-p","0.0.0.0:80","-h","/www"],"ExposedPorts":{"80/tcp":{}}}'
  run=${3:-$run}
  local r=$W/image/root size_config size_layer layer config manifest diff a
  rm -rf "$W/image"; mkdir -p "$r"/{bin,etc,tmp,www/cgi-bin,proc,sys,dev,root,var}
  cp /bin/busybox "$r/bin/busybox"
  for a in $(/bin/busybox --list); do [ "$a" = busybox ] || ln -s busybox "$r/bin/$a"; done
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$r/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$r/etc/group"
  chmod 1777 "$r/tmp"
  printf '#!/bin/sh\necho "Content-Type: text/plain"\necho\necho "$(hostname) saw $REMOTE_ADDR"\n' >"$r/www/cgi-bin/who"
  chmod 755 "$r/www/cgi-bin/who"
  [ ! -d "$W/extra" ] || cp -a "$W/extra/." "$r/"
  tar -C "$r" --numeric-owner --owner=0 --group=0 --sort=name --mtime=@0 -cf "$W/image/layer.tar" .
  diff=sha256:$(sha256sum "$W/image/layer.tar" | cut -d' ' -f1)
  gzip -n -f "$W/image/layer.tar"
  local arch; case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) arch=$(uname -m) ;; esac
  printf '{"architecture":"%s","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":["%s"]},"history":[{"created":"1970-01-01T00:00:00Z","created_by":"busybox-static"}]}' \
    "$arch" "$run" "$diff" >"$W/image/config.json"
  layer=$(blob_put "$1" "$W/image/layer.tar.gz") && config=$(blob_put "$1" "$W/image/config.json") || give_up "the image could not be put into the registry"
  size_layer=$(stat -c %s "$W/image/layer.tar.gz"); size_config=$(stat -c %s "$W/image/config.json")
  printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"%s","size":%s}]}' \
    "$config" "$size_config" "$layer" "$size_layer" >"$W/image/manifest.json"
  curl -sS -f -o /dev/null -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' --data-binary "@$W/image/manifest.json" \
    "http://$(me_ip):$REGISTRY_PORT/v2/$1/manifests/$2" || give_up "the image's manifest could not be put into the registry"
  rm -rf "$r"
}

# hosts_down: removes every trace of the set, whatever state it is in
hosts_down() {
  local h pid ns m
  for h in 1 2 3 4 5; do
    [ -d "$W/h$h" ] || continue
    daemon_kill "$h" TERM
    host_kill "$h"
  done
  pid=$(cat "$W/registry/pid" 2>/dev/null) && kill "$pid" 2>/dev/null
  # Shims are killed with their cgroups; what they mounted goes now, the deepest first.
  for m in $(awk -v w="$W/" 'index($2, w) == 1 {print $2}' /proc/self/mounts | sort -r); do umount -l "$m" 2>/dev/null; done
  for h in 1 2 3 4 5; do
    local tries d
    # On a busy machine what was killed is reaped late.
    for tries in $(seq 150); do
      local left=0
      for d in $(cgroup_dirs "$h"); do find "$d" -depth -type d -exec rmdir {} + 2>/dev/null; [ -d "$d" ] && left=1; done
      [ $left = 0 ] && break
      sleep 0.1
    done
  done
  for ns in $(ip netns list 2>/dev/null | awk '{print $1}' | grep -E "^$P[0-5]$"); do ip netns del "$ns" 2>/dev/null; done
  ip link del "${P}up" 2>/dev/null
  rmdir /sys/fs/cgroup/muster /sys/fs/cgroup/*/muster 2>/dev/null
  rm -rf "$W"
  true
}
