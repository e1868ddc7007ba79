#!/bin/sh
# Boots one machine with systemd as its PID 1, and keeps it until standard input ends; then it goes, whatever it is doing,
# with all it left. The other end of standard input is the test's, so the machine cannot outlive the test.
#
#   boot.sh FOLDER TREE NAME CGROUP
#
# FOLDER/upper lies over TREE and holds what is this machine's own. CGROUP is a path below a cgroup2 mount, made here.
#
# A PID namespace around the machine makes its end certain: the kernel kills all in it when its first process dies.
set -eu
if [ "$1" != inside ]; then
  folder=$1 cgroup=$4
  mkdir -p "$folder/work" "$folder/root" "$folder/docker"
  setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --mount-proc "$0" inside "$@" </dev/null &
  read -r _ || :
  kill -KILL $! 2>/dev/null || :
  wait
  # What the kernel has killed takes a moment to be gone; only then is the cgroup free, and the folder left alone.
  tries=0
  while [ -d "$cgroup" ] && [ $tries -lt 100 ]; do
    find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
    tries=$((tries + 1))
  done
  rm -rf "$folder"
  exit
fi
folder=$2 tree=$3 name=$4 cgroup=$5
mount -t overlay -o "lowerdir=$tree,upperdir=$folder/upper,workdir=$folder/work" "$name" "$folder/root"
# nspawn keeps its sockets there, and dockerd's overlay cannot lie on top of another one.
mkdir -p /run/systemd/nspawn
mount -t tmpfs nspawn /run/systemd/nspawn
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
# Like a machine that has power: when it goes down, it comes up again.
while :; do
  # nspawn splits its cgroup in two, so it wants a new one each time.
  [ ! -d "$cgroup" ] || find "$cgroup" -depth -type d -exec rmdir {} +
  mkdir "$cgroup"
  status=0
  sh -euc 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"' sh "$cgroup" \
    systemd-nspawn --quiet --boot --register=no --keep-unit --console=pipe --link-journal=no \
    --resolv-conf=off --timezone=off --capability=all --system-call-filter='add_key keyctl bpf' \
    --machine="$name" --directory="$folder/root" --bind="$folder/docker:/var/lib/docker" \
    --network-bridge=br0 || status=$?
  echo "the machine went down: nspawn's status is $status"
  sleep 1
done
