#!/usr/bin/env bash
# docker-compose on the cluster-scoped endpoint: a project of several services over three hosts, its networks overlays, its
# published service on host 2. The checks are those of tests/compat/compose. COMPOSE="1 2": which versions of the program.
. "$(dirname "$0")/lib.sh"
need_packages docker-compose
three_hosts
web_image
export MUSTER_IMAGE=$image MUSTER_NODE=${P}host2 MUSTER_ADDR; MUSTER_ADDR=$(host_ip 2)
for version in ${COMPOSE:-1}; do
  check "compose $version on the cluster endpoint" "$top/tests/compat/compose" --endpoint "unix://$W/h1/run/docker-cluster.sock" "$version"
done
