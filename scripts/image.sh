#!/bin/sh
# Builds the image of Dockerfile's last stage with buildah and without a registry, from this system's iptables, nft and
# libraries, and writes it to out/flanneld-image.tar as an OCI archive (podman load, ctr image import, docker load from 25).
#
#   scripts/image.sh [<flanneld> [<archive>]]
set -eu
cd "$(dirname "$0")/.."
version=v$(node -p 'require("./package.json").version')
time=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}

binary=${1:-out/flanneld} archive=${2:-out/flanneld-image.tar}

# Everything in a folder of its own: nothing of this machine's containers is touched.
mkdir -p build
work=$(mktemp -d "$PWD/build/image.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
scripts/image-root.sh "$binary" "$work/root"
storage=$work/containers
buildah() { command buildah --root "$storage" --runroot "$storage/run" --storage-driver vfs "$@"; }
container=$(buildah from scratch)
buildah copy --quiet "$container" "$work/root" / >/dev/null
buildah config --env PATH=/usr/sbin:/usr/bin:/sbin:/bin --entrypoint '["/usr/bin/flanneld"]' \
  --label org.opencontainers.image.title=flanneld --label "org.opencontainers.image.version=$version" "$container"
rm -f "$archive"
buildah commit --quiet --rm --timestamp "$time" "$container" "oci-archive:$archive:flanneld:$version" >/dev/null
echo "$archive"
