# Common parts of the stories; to be sourced. A story is a set of hosts, asked and checked step by step; whatever happens,
# hosts_down removes the set at the end.
set -u -o pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd); top=$(cd "$here/../.." && pwd)
. "$top/deploy/lib.sh"
[ "$(id -u)" = 0 ] || die "root is needed"
# Runs beside other runs: a set of its own for each process.
N=$(( $$ % 70 + 1 )); while ip -o addr show | grep -q " 198.18.$N\."; do N=$((N % 70 + 1)); done
P=mt$N W=$(mktemp -d /tmp/muster-story.XXXXXX) REGISTRY_PORT=5000
BIN=${MUSTER_BIN:-$top/target/debug}
[ -x "$BIN/musterd" ] || die "$BIN/musterd is not there: cargo build"
checks=0
finish() {
  local rc=$?
  if [ $rc != 0 ]; then for h in 1 2 3 4; do [ -s "$W/h$h/log" ] && { echo "--- host $h:"; tail -n "${LOG_LINES:-25}" "$W/h$h/log"; }; done; fi
  hosts_down
  ip netns list | grep -qE "^$P[0-5]\b" && { echo "FAIL namespaces are left"; rc=1; }
  [ -z "$(cgroup_dirs 1)$(cgroup_dirs 2)$(cgroup_dirs 3)$(cgroup_dirs 4)" ] || { echo "FAIL cgroups are left"; rc=1; }
  pgrep -f "$W/" >/dev/null && { echo "FAIL processes are left: $(pgrep -fa "$W/" | head -n 3)"; rc=1; }
  [ $rc = 0 ] && echo "$checks passed, 0 failed"
  exit $rc
}
trap finish EXIT
trap 'exit 130' INT TERM
ok() { checks=$((checks + 1)); echo "ok $*"; }
bad() { echo "FAIL $*"; exit 1; }
# check WHAT COMMAND...: it must succeed
check() { local what=$1; shift; "$@" && ok "$what" || bad "$what"; }
# refuses WHAT TEXT COMMAND...: it must fail and say TEXT
refuses() { local what=$1 text=$2 out; shift 2; if out=$("$@" 2>&1); then bad "$what: it was accepted"; fi; case $out in *"$text"*) ok "$what" ;; *) bad "$what: it says: $out" ;; esac; }
# within SECONDS WHAT COMMAND...: it must become true
within() {
  local limit=$1 what=$2 end=$((SECONDS + $1)); shift 2
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || { "$@"; bad "$what (not within $limit s)"; }; sleep 0.1; done
  ok "$what"
}
nodes_are() { [ "$(muster_on "$1" node ls --format '{{.Status}} {{.ManagerStatus}}' | grep -cE "^$3")" = "$2" ]; }
running_are() { [ "$(muster_on "$1" service ps "$2" --filter desired-state=running --format '{{.CurrentState}}' | grep -c '^Running')" = "$3" ]; }
answers() { curl -s -m 3 -f -o /dev/null "http://$(host_ip "$1"):$2/cgi-bin/who"; }
three_hosts() {
  switch_up || bad "the switch could not be made"
  for h in 1 2 3; do host_up $h && daemon_up $h || bad "host $h did not start"; done
  check "muster init founds a cluster" muster_on 1 init --advertise-addr "$(host_ip 1)"
  local token; token=$(muster_on 1 join-token -q manager) || bad "no join token"
  for h in 2 3; do check "host $h joins as a manager" muster_on $h join --token "$token" "$(host_ip 1):2377"; done
  within 20 "three nodes ready, three managers, one leader" nodes_are 1 3 'Ready (Leader|Reachable)'
  check "exactly one leader" nodes_are 1 1 'Ready Leader'
}
web_image() { registry_up; image_put web 1; image="$(me_ip):$REGISTRY_PORT/web:1"; }
errors=$W/errors
# is WHAT WANTED COMMAND...: it must succeed and print just that
is() {
  local what=$1 wanted=$2 out; shift 2
  out=$("$@" 2>"$errors") || bad "$what: $(tail -n 3 "$errors")"
  [ "$out" = "$wanted" ] && ok "$what" || bad "$what: it prints '$out' instead of '$wanted'"
}
# prints WHAT PART COMMAND...: it must succeed and its output have that in it
prints() {
  local what=$1 part=$2 out; shift 2
  out=$("$@" 2>"$errors") || bad "$what: $(tail -n 3 "$errors")"
  case $out in *"$part"*) ok "$what" ;; *) bad "$what: no '$part' in '$out'" ;; esac
}
# ends WHAT CODE COMMAND...: it must end with this code
ends() {
  local what=$1 code=$2 rc; shift 2
  "$@" >/dev/null 2>"$errors"; rc=$?
  [ $rc = "$code" ] && ok "$what" || bad "$what: exit code $rc instead of $code: $(tail -n 3 "$errors")"
}
# quiet COMMAND...: a step on the way, not a check of its own
quiet() { "$@" >/dev/null 2>"$errors" || bad "$*: $(tail -n 3 "$errors")"; }
# on_tty COMMAND: runs it on a terminal of 33 rows and 77 columns
on_tty() { script -qec "stty rows 33 cols 77; $1" /dev/null </dev/null | tr -d '\r'; return "${PIPESTATUS[0]}"; }
