# docker build -t flanneld .
FROM node:24-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends iptables nftables
WORKDIR /flanneld
COPY . .
RUN npm ci && node scripts/build.ts && node scripts/binary.ts && scripts/image-root.sh out/flanneld /image

# Nothing but the daemon, iptables, nft and their libraries.
FROM scratch
COPY --from=build /image /
ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin
ENTRYPOINT ["/usr/bin/flanneld"]
