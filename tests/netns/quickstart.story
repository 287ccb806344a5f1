#!/usr/bin/env bash
# The quickstart itself, with programs that are built already: whole, again over what it left, after a death half-way, and away.
. "$(dirname "$0")/lib.sh"
mine=$N P=mq$N W2=/var/lib/muster-quickstart-$N
quickstart() { "$top/deploy/quickstart" --beside "$mine" "$@"; }
out=$(mktemp)
finish_quickstart() { local rc=$?; [ $rc = 0 ] || tail -n 40 "$out"; quickstart down >/dev/null; rm -f "$out"; (exit $rc); finish; }
trap finish_quickstart EXIT
whole() { quickstart --bin "$BIN" >"$out" 2>&1; }
says() { grep -qF -- "$1" "$out"; }
nothing_left() {
  [ ! -e "$W2" ] && ! ip netns list | grep -qE "^$P[0-5]\b" && ! ip link show "${P}up" >/dev/null 2>&1 &&
    [ -z "$(cgroup_dirs 1)$(cgroup_dirs 2)$(cgroup_dirs 3)" ] && ! grep -q " $W2/" /proc/mounts && ! pgrep -f "$W2/" >/dev/null
}
check "it runs to its end" whole
for part in "host 1 answered a request after" "no orphan runs on it" "raft.commit" "image.pull" "the cluster is up; try"; do
  check "it says: $part" says "$part"
done
check "each host answers afterwards" curl -s -m 5 -f -o /dev/null "http://198.18.$mine.3:8080/cgi-bin/who"
refuses "an argument that it does not know is named" "unknown argument --nodes" quickstart --nodes 4
# Half-way: three hosts are up, nothing is deployed.
"$top/deploy/quickstart" --beside "$mine" --bin "$BIN" >"$out" 2>&1 & half=$!
within 60 "it is half-way" says "an image in a registry"
kill -KILL $half; wait $half 2>/dev/null
check "after a death half-way it runs to its end again" whole
check "down removes it" quickstart down
within 10 "and nothing is left" nothing_left
check "down may be said twice" quickstart down
