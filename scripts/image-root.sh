#!/bin/sh
# Gathers the file system of the image from the system that this runs on, which has glibc, iptables and nft: the daemon,
# the programs that it starts, the libraries of all of them, and nothing else; no shell, no package manager.
#
#   scripts/image-root.sh <flanneld> <target folder>
set -eu
flanneld=$1 target=$2

# Copies a file, and what links to it, to the same place below the target.
take() {
  mkdir -p "$target$(dirname "$1")"
  cp -a "$1" "$target$1"
  if [ -L "$1" ]; then
    next=$(readlink "$1")
    case $next in /*) ;; *) next=$(dirname "$1")/$next ;; esac
    [ -e "$target$next" ] || take "$next"
  fi
}
libraries() {
  ldd "$1" | sed -nE 's/.*(=> |^\s*)(\/[^ ]+) \(0x.*/\2/p' | while read -r library; do take "$library"; done
}

mkdir -p "$target/usr/bin" "$target/usr/sbin" "$target/etc" "$target/run/flannel" "$target/etc/flanneld"
# As the system has them: with /bin and /lib as links into /usr, or as folders of their own.
for link in /bin /sbin /lib /lib64; do
  [ ! -L $link ] || { mkdir -p "$target/usr$link" && cp -a $link "$target$link"; }
done
install -m 755 "$flanneld" "$target/usr/bin/flanneld"
libraries "$flanneld"
for program in iptables iptables-save iptables-restore iptables-nft iptables-nft-save iptables-nft-restore \
  iptables-legacy iptables-legacy-save iptables-legacy-restore nft; do
  path=$(command -v $program) || { echo "image-root.sh: $program is missing" >&2; exit 1; }
  take "$path"
  libraries "$path"
done
# iptables loads its matches and targets by name.
for folder in /usr/lib/*/xtables /usr/lib/xtables /usr/lib64/xtables; do
  [ ! -d "$folder" ] || for plugin in "$folder"/*.so; do take "$plugin"; done
done
# Host names in -etcd-endpoints: the C library looks here for how to find them. protocols(5) is iptables'.
printf 'root:x:0:0:root:/:/sbin/nologin\n' >"$target/etc/passwd"
printf 'hosts: files dns\nprotocols: files\n' >"$target/etc/nsswitch.conf"
[ ! -e /etc/protocols ] || cp /etc/protocols "$target/etc/protocols"
