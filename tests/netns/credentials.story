#!/usr/bin/env bash
# A service of an image that needs a password: its node pulls it, also after the leader's death and a restart of all; nobody
# is shown the password, and no host's disk has it. Three managers, host 4 is a worker and runs the service.
. "$(dirname "$0")/lib.sh"
need_packages perl >/dev/null
export DOCKER_CONFIG="$W/client" DOCKER_CLI_HINTS=false MUSTER_CONFIG_DIR="$W/config"
unset DOCKER_HOST DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_API_VERSION
mkdir -p "$DOCKER_CONFIG"
on() { local h=$1; shift; docker -H "unix://$(docker_sock "$h")" "$@"; }
private=$(me_ip):5001 password=open-sesame-7
# start HOST: its daemon takes both registries over plain HTTP
start() { daemon_up "$1" --insecure-registries "$private" || bad "host $1 did not start"; }
switch_up || bad "the switch could not be made"
for h in 1 2 3 4; do host_up $h && start $h; done
quiet muster_on 1 init --advertise-addr "$(host_ip 1)"
for h in 2 3; do quiet muster_on $h join --token "$(muster_on 1 join-token -q manager)" "$(host_ip 1):2377"; done
quiet muster_on 4 join --token "$(muster_on 1 join-token -q worker)" "$(host_ip 1):2377"
within 20 "three managers and a worker" nodes_are 1 4 Ready
web_image
# The same images by another door, which asks for a password.
perl -e 'print "me:", crypt($ARGV[0], "\$2y\$05\$abcdefghijklmnopqrstuu"), "\n"' "$password" >"$W/registry/passwords"
{ sed "s/:$REGISTRY_PORT\"/:5001\"/" "$W/registry/config.yml"; echo "auth: {htpasswd: {realm: story, path: $W/registry/passwords}}"; } >"$W/registry/private.yml"
setsid docker-registry serve "$W/registry/private.yml" </dev/null >"$W/registry/private.log" 2>&1 & guarded=$!
trap 'rc=$?; kill $guarded 2>/dev/null; (exit $rc); finish' EXIT
asks() { [ "$(curl -s -m 1 -o /dev/null -w '%{http_code}' "http://$private/v2/")" = 401 ]; }
within 10 "a registry asks for a password" asks
quiet sh -c "echo $password | docker -H unix://$(docker_sock 1) login -u me --password-stdin $private"

there() { on "$1" service create -d --restart-delay 1s --constraint "node.hostname==${P}host4" "${@:2}"; }
quiet there 1 --name bare "$private/web:1" httpd -f -p 0.0.0.0:80 -h /www
says_why() { on 1 service ps bare --no-trunc | grep -qiE 'unauthorized|denied|authentication'; }
within 30 "without the password there is no image" says_why
quiet on 1 service rm bare
quiet there 1 --name web --with-registry-auth --publish 8080:80 "$private/web:1"
within 40 "with it the worker pulls and runs it" answers 4 8080

#### who sees it
# Its base64 as the header has it: three bytes are four letters.
header=$(printf '{"username":"me","password":"%s"' "$password" | head -c 42 | base64 -w 0)
secret() { grep -rlaF -e "$password" -e "$header" "$@"; }
printf '%s' "{\"username\":\"me\",\"password\":\"$password\",\"x\":1}" | base64 -w 0 >"$W/known"
is "what is looked for would be found" "$W/known" secret "$W/known"
nowhere() { ! secret "$W"/h?/data "$W"/h?/log "$W"/h?/run; }
check "no host's disk has the password" nowhere
shown() {
  muster_on 1 service inspect web; on 2 service inspect web; on 3 inspect "$(on 3 service ps -q web | head -n 1)"
  for path in services tasks; do curl -s --unix-socket "$(docker_sock 2)" "http://d/$path"; done
}
hidden() { shown >"$W/shown" && grep -q "$private/web:1" "$W/shown" && ! secret "$W/shown"; }
check "no view shows it" hidden

#### it is there when it is needed
leader() { local h; for h in 1 2 3; do muster_on $h node ls --format '{{.Hostname}} {{.ManagerStatus}}' 2>/dev/null | sed -n "s/^${P}host\(.\) Leader/\1/p" | grep . && return 0; done; return 1; }
# anew HOST: the service has to pull once more, by its node's word. No client gives the password again.
anew() {
  # The image is there by its digest alone, as the client gave it.
  local gone; gone() { local images; [ -z "$(on 4 ps -aq)" ] || return 1; images=$(on 4 images -q) || return 1; [ -z "$images" ] || { on 4 rmi -f $images >/dev/null 2>&1; false; }; }
  on "$1" service update -d --replicas 0 web >/dev/null && within 40 "the worker has the image no more" gone
  on "$1" service update -d --replicas 1 web >/dev/null && within 60 "$2" answers 4 8080
}
first=$(leader); other=$((first % 3 + 1))
anew "$other" "pulled again after updates that did not give it"
host_kill "$first"
next() { local now; now=$(leader) && [ "$now" != "$first" ]; }
within 30 "the leader is lost, and another leads" next
anew "$other" "the new leader's word pulls it, too"
ip -n "${P}0" link set "p$first" up; start "$first"
within 30 "the lost one is back" nodes_are "$other" 4 Ready
for h in 1 2 3 4; do daemon_kill $h KILL; done
for h in 1 2 3 4; do start $h; done
within 30 "all daemons were killed and are back" nodes_are 1 4 Ready
anew 1 "and pull it"
check "still no disk has it" nowhere
