#!/bin/sh
# Looks for the programs that a make target needs and installs what is missing from Debian's packages. Without root or
# apt it prints what is missing, where it comes from, and stops.
#
#   scripts/setup.sh build|demo|test|soak|vm|e2e|bench|binary|image|release
set -eu

# program:package, one for each program that is not in every Debian system
build='npm:npm cc:gcc'
lab='ip:iproute2 nsenter:util-linux setpriv:util-linux ping:iputils-ping iptables:iptables python3:python3 etcd:etcd-server'
# what a few tests are left out without
optional=
# make binary builds for the other architecture too.
case $(uname -m) in
  aarch64) cross='x86_64-linux-gnu-gcc:gcc-x86-64-linux-gnu qemu-x86_64-static:qemu-user-static' ;;
  *) cross='aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu qemu-aarch64-static:qemu-user-static' ;;
esac
case ${1:-} in
  build) wanted=$build ;;
  demo) wanted="$build $lab" ;;
  test)
    wanted="$build $lab openssl:openssl curl:curl nft:nftables dash:dash bash:bash ethtool:ethtool"
    optional='dockerd:docker.io busybox:busybox-static promtool:prometheus strace:strace chromium:chromium'
    ;;
  soak) wanted="$build $lab nft:nftables" ;;
  vm) wanted="$build $lab qemu-system-x86_64:qemu-system-x86 depmod:kmod dpkg-deb:dpkg wg:wireguard-tools" ;;
  bench) wanted="$build $lab strip:binutils iperf3:iperf3" ;;
  e2e) wanted="$build $lab strip:binutils systemd-nspawn:systemd-container mmdebstrap:mmdebstrap ssh-keygen:openssh-client" ;;
  binary) wanted="$build strip:binutils $cross" ;;
  image) wanted="$build strip:binutils iptables:iptables nft:nftables buildah:buildah" ;;
  # what the tests of the binary, the package and the image are left out without
  release)
    wanted="$build strip:binutils $cross nft:nftables buildah:buildah podman:podman runc:runc lintian:lintian"
    wanted="$wanted groff:groff-base systemd-analyze:systemd"
    ;;
  *) echo "usage: $0 build|demo|test|soak|vm|e2e|bench|binary|image|release" >&2; exit 2 ;;
esac

missing() {
  for pair in $1; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || echo "$pair"
  done
}

packages=$(missing "$wanted $optional" | sed 's/.*://' | sort -u | tr '\n' ' ')
[ -n "$packages" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "installing: $packages"
  export DEBIAN_FRONTEND=noninteractive
  # One by one, so that a package this release does not have does not keep the others away. Compilers need a C library
  # to link, and Node under QEMU needs a C++ one.
  apt-get -qq update || echo 'apt-get update failed; going on with the package lists that are here' >&2
  for package in $packages; do
    case $package in
      gcc) package='gcc libc6-dev' ;;
      gcc-aarch64-linux-gnu) package="$package libc6-dev-arm64-cross libstdc++6-arm64-cross" ;;
      gcc-x86-64-linux-gnu) package="$package libc6-dev-amd64-cross libstdc++6-amd64-cross" ;;
    esac
    # shellcheck disable=SC2086
    apt-get -qq install -y --no-install-recommends $package >/dev/null || true
  done
  # The tests start an etcd and a docker of their own. The services that came with the packages are not wanted.
  for service in etcd:etcd-server docker.socket:docker.io docker:docker.io; do
    case " $packages" in
      *" ${service#*:} "*) [ ! -d /run/systemd/system ] || systemctl disable --now "${service%:*}" || true ;;
    esac
  done
fi

for pair in $(missing "$optional"); do
  echo "missing: ${pair%%:*} (Debian package ${pair##*:}); the tests that need it are left out" >&2
done
rest=$(missing "$wanted")
[ -n "$rest" ] || exit 0
for pair in $rest; do
  echo "missing: ${pair%%:*} (Debian package ${pair##*:})" >&2
done
# The demo can do without etcd: it says so, and uses the in-memory one.
[ "$1 $rest" != 'demo etcd:etcd-server' ] || exit 0
echo "get it with: apt-get install $(echo "$rest" | sed 's/.*://' | sort -u | tr '\n' ' ')" >&2
exit 1
