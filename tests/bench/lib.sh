# Parts shared by the measurements; to be sourced after deploy/lib.sh.

step() { printf '== %s\n' "$*" >&2; }
m() { python3 "$here/measure.py" "$@"; }
now() { date +%s%N; }
# since NANOSECONDS: milliseconds since then
since() { echo "$(( ($(now) - $1) / 1000000 ))"; }
mib() { awk -v k="$1" 'BEGIN { printf "%.1f", k / 1024 }'; }
# D HOST ARGUMENT...: the stock client on a host's socket
D() { local h=$1; shift; docker -H "unix://$(docker_sock "$h")" "$@"; }

# row WHAT MUSTER PEER GOAL: a line of the table; an empty figure is a dash; the ratio is of the first numbers of both
row() {
  local a=${2%%[ /]*} b=${3%%[ /]*}
  printf '| %s | %s | %s | %s | %s |\n' "$1" "${2:--}" "${3:--}" "$(m ratio "${a:-x}" "${b:-x}")" "${4:--}" >>"$rows"
}

# within SECONDS COMMAND...: waits until it succeeds
within() {
  local end=$((SECONDS + $1)); shift
  until "$@" 2>/dev/null; do [ $SECONDS -lt $end ] || die "not so in time: $*"; sleep 0.02; done
}

# peer_up HOST: dockerd in the host's network namespace, in mount and UTS namespaces of its own, where the folders that it writes
# to whatever its flags say are hidden. It and its shims sit in a cgroup below the host's, so that hosts_down finds them; the pid
# file has the name that hosts_down looks for.
peer_up() {
  local h=$1 d=$W/h$1 cg i
  for cg in /sys/fs/cgroup /sys/fs/cgroup/unified; do [ -e "$cg/cgroup.controllers" ] && break; done
  cg=$cg/muster/$P$h/daemon
  mkdir -p "$cg" "$d/data" "$d/run"
  in_host "$h" setsid sh -c 'echo $$ >"$1/cgroup.procs" && shift && exec unshare -m -u --propagation private sh -c "
      for hidden in /etc/docker /opt /run; do mount -t tmpfs tmpfs \$hidden || exit 1; done; hostname \"\$1\" && shift && exec dockerd \"\$@\"" sh "$@"' \
    sh "$cg" "${P}host$h" --data-root "$d/data" --exec-root "$d/run/docker" --pidfile "$d/run/musterd.pid" \
    -H "unix://$d/run/docker.sock" --cgroup-parent "/muster/$P$h" --insecure-registry "$(me_ip):$REGISTRY_PORT" \
    </dev/null >>"$d/log" 2>&1 &
  disown $!
  for i in $(seq 300); do D "$h" version >/dev/null 2>&1 && return 0; sleep 0.1; done
  tail -n 20 "$d/log" >&2
  return 1
}

# daemon_pids HOST: those of the engine, without its shims
daemon_pids() { echo "$(<"$W/h$1/run/musterd.pid")"; m pids containerd "$W/h$1/"; }
shim_pids() { m pids muster-shim "$W/h$1/"; m pids containerd-shim-runc-v2 "$W/h$1/"; }

# all_down: removes every trace; says what is left, and then fails
all_down() {
  local h left=0 end=$((SECONDS + 20)) p
  # dockerd would wait for its containers: it is killed with them.
  for h in 1 2 3 4 5; do [ -d "$W/h$h/run/docker" ] && host_kill "$h"; done
  hosts_down
  while [ -n "$(for p in dockerd containerd containerd-shim-runc-v2 musterd muster-shim docker-registry; do m pids $p "$W/"; done)" ]; do
    [ $SECONDS -lt $end ] || { echo "left: processes of $W" >&2; left=1; break; }
    sleep 0.1
  done
  ip netns list | grep -qE "^$P[0-5]\b" && { echo "left: namespaces $P" >&2; left=1; }
  grep -q " $W/" /proc/mounts && { echo "left: mounts below $W" >&2; left=1; }
  for h in 1 2 3 4 5; do [ -z "$(cgroup_dirs $h)" ] || { echo "left: $(cgroup_dirs $h | head -n 1)" >&2; left=1; }; done
  return $left
}

print_table() {
  local b
  echo "Measured $(date -u +%F) on $(uname -sr), $(nproc) CPUs ($(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)), load average before $load_before, after $(cut -d' ' -f1-3 /proc/loadavg)."
  b="$("$BIN/musterd" --version)"; case $BIN in */debug) b="$b (debug build)" ;; esac
  echo "$b; $(runc --version | head -n 1) under both; docker CLI $(docker version --format '{{.Client.Version}}' 2>/dev/null); $peer_is. $n rounds, interleaved; times are min / median, the ratio is of the first figures."
  echo
  echo '| what | Muster | Docker Engine | ratio | to reach |'
  echo '|---|---|---|---|---|'
  cat "$rows"
}
