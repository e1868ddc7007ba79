/*
 * IPv4 packets as flannel's udp backend needs them: pure functions on bytes, no system call.
 *
 *     pods -- TUN: super-packets of up to 64 KiB with --+-- segmenter --> packets of the MTU's size, one a datagram,
 *             a virtio header, checksums left out       |                 every checksum complete: all that Go can read
 *                                                       +-- group <------ the same, from peers
 *
 * Addresses and lengths are in host order here; the bytes of a packet are as the wire has them. No function reads
 * or writes outside of the length it was given, whatever the bytes are: test/native/udpfuzz.c holds them to it.
 */
#pragma once
#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4 /* Linux 6.2 */
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

#define MAX_PACKET 65535
/* IPv4 and TCP with all the options they can have. */
#define MAX_HEADERS 120
#define ICMP_ERROR_MAX (20 + 8 + 60 + 8)
/* Packets in one write to the TUN; the kernel takes no more of them than fill 64 KiB. */
#define MAX_GROUP 64

/* A packet whose version, header length and total length make sense; bytes behind it are not part of it. */
struct packet {
  uint8_t *ip;
  size_t header;
  size_t length;
};

bool packet_parse(uint8_t *bytes, size_t length, struct packet *packet);
uint32_t packet_source(const struct packet *packet);
uint32_t packet_destination(const struct packet *packet);

/* One hop less to live. False when it has none left; the packet is then as it was. */
bool packet_decrement_ttl(struct packet *packet);

/* Fills in the checksum that the kernel left to the device. False when the virtio header points outside. */
bool packet_complete_checksum(struct packet *packet, const struct virtio_net_hdr *vnet);

/* An ICMP error of `type` and `code` 0 about a packet, RFC 792. Returns its length, 0 where there must be none. */
size_t icmp_error(const struct packet *offender, uint8_t type, uint8_t ttl, uint32_t from,
                  uint8_t reply[ICMP_ERROR_MAX]);

/* Cuts a TCP or UDP super-packet into packets: headers made anew, payloads where they lie. */
struct segmenter {
  const struct packet *packet;
  size_t header; /* IPv4 and TCP or UDP */
  size_t size;   /* payload of all segments but the last */
  size_t offset; /* of the next one's payload */
  uint16_t index;
};

/* False when it is no super-packet that we offered to take. */
bool segmenter_start(struct segmenter *segmenter, const struct packet *packet, const struct virtio_net_hdr *vnet);
/* Writes the next segment's headers, `segmenter->header` bytes, and finds its payload; 0 at the end. */
size_t segmenter_next(struct segmenter *segmenter, uint8_t headers[MAX_HEADERS], const uint8_t **payload);

/*
 * Packets of one flow that make one super-packet, in the manner of the kernel's GRO: same headers, consecutive, all
 * payloads of one size but the last. Of each packet that joins, all checksums were found right before.
 */
struct group {
  struct virtio_net_hdr vnet;
  struct iovec iov[1 + MAX_GROUP]; /* virtio header, first packet, payloads of the others */
  struct packet first;
  size_t header;  /* IPv4 and TCP or UDP */
  size_t size;    /* payload of the first */
  size_t length;  /* of all packets as one */
  unsigned count; /* of packets; 0 when it is empty */
  bool checked;   /* the first one's checksums */
  bool closed;
};

/* Begins with a packet, which has to stay in place until the group is written. */
void group_start(struct group *group, const struct packet *packet);
/* False when the packet does not go with the others, and nothing was changed. */
bool group_join(struct group *group, const struct packet *packet, bool with_udp);
/* Makes one packet of the group; `iov[0]` to `iov[group->count]` are to be written to the TUN at once. */
void group_finish(struct group *group);
