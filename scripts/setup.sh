#!/bin/sh
# Looks for the programs that a make target needs and installs what is missing from Debian's packages. Without root or
# apt it prints what is missing, where it comes from, and stops.
#
#   scripts/setup.sh build|demo|test|bench
set -eu

# program:package, one for each program that is not in every Debian system
build='npm:npm cc:gcc'
lab='ip:iproute2 nsenter:util-linux setpriv:util-linux ping:iputils-ping iptables:iptables python3:python3 etcd:etcd-server'
case ${1:-} in
  build) wanted=$build ;;
  demo) wanted="$build $lab" ;;
  test) wanted="$build $lab openssl:openssl curl:curl nft:nftables dash:dash bash:bash" ;;
  bench) wanted="$build $lab iperf3:iperf3" ;;
  *) echo "usage: $0 build|demo|test|bench" >&2; exit 2 ;;
esac

missing() {
  for pair in $wanted; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || echo "$pair"
  done
}

[ -n "$(missing)" ] || exit 0
packages=$(missing | sed 's/.*://' | sort -u | tr '\n' ' ')

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "installing: $packages"
  export DEBIAN_FRONTEND=noninteractive
  # One by one, so that a package this release does not have does not keep the others away. gcc needs libc6-dev to link.
  apt-get -qq update || echo 'apt-get update failed; going on with the package lists that are here' >&2
  for package in $packages; do
    [ "$package" != gcc ] || package='gcc libc6-dev'
    # shellcheck disable=SC2086
    apt-get -qq install -y --no-install-recommends $package >/dev/null || true
  done
  # The tests start an etcd of their own. The service that came with the package is not wanted.
  case " $packages" in
    *' etcd-server '*) [ ! -d /run/systemd/system ] || systemctl disable --now etcd || true ;;
  esac
fi

rest=$(missing)
[ -n "$rest" ] || exit 0
for pair in $rest; do
  echo "missing: ${pair%%:*} (Debian package ${pair##*:})" >&2
done
# The demo can do without etcd: it says so, and uses the in-memory one.
[ "$1 $rest" != 'demo etcd:etcd-server' ] || exit 0
echo "get it with: apt-get install $(echo "$rest" | sed 's/.*://' | sort -u | tr '\n' ' ')" >&2
exit 1
