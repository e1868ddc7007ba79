#include "udp_packet.h"
#include <netinet/in.h>
#include <string.h>

/* Offsets in the headers: RFC 791, 9293, 768. */
enum { V4_TOS = 1, V4_LENGTH = 2, V4_ID = 4, V4_FRAGMENT = 6, V4_TTL = 8, V4_PROTOCOL = 9, V4_CHECK = 10,
       V4_SOURCE = 12, V4_DESTINATION = 16, V4_HEADER = 20 };
enum { TCP_SEQ = 4, TCP_ACK = 8, TCP_OFFSET = 12, TCP_FLAGS = 13, TCP_CHECK = 16, TCP_HEADER = 20 };
enum { UDP_LENGTH = 4, UDP_CHECK = 6, UDP_HEADER = 8 };
enum { FIN = 0x01, PSH = 0x08, ACK = 0x10, ECE = 0x40, CWR = 0x80 };
enum { DONT_FRAGMENT = 0x4000, FRAGMENT_MASK = 0x3fff };

static uint16_t get16(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }

static uint32_t get32(const uint8_t *at) { return (uint32_t)get16(at) << 16 | get16(at + 2); }

static void put16(uint8_t *at, uint16_t value) {
  at[0] = (uint8_t)(value >> 8);
  at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value) {
  put16(at, (uint16_t)(value >> 16));
  put16(at + 2, (uint16_t)value);
}

/* The Internet checksum's sum, RFC 1071, of words in memory order; all parts but the last of even length. */
static uint64_t sum(const uint8_t *bytes, size_t length, uint64_t total) {
  uint32_t words[8];
  for (; length >= sizeof words; bytes += sizeof words, length -= sizeof words) {
    memcpy(words, bytes, sizeof words);
    total += (uint64_t)words[0] + words[1] + words[2] + words[3];
    total += (uint64_t)words[4] + words[5] + words[6] + words[7];
  }
  memset(words, 0, sizeof words);
  memcpy(words, bytes, length);
  for (size_t i = 0; i < 8; i++) total += words[i];
  return total;
}

static uint16_t fold(uint64_t total) {
  total = (total & 0xffffffff) + (total >> 32);
  total = (total & 0xffff) + (total >> 16 & 0xffff) + (total >> 32);
  total = (total & 0xffff) + (total >> 16);
  total = (total & 0xffff) + (total >> 16);
  return (uint16_t)total;
}

/* Memory order in, memory order out. */
static void put_check(uint8_t *at, uint16_t check) { memcpy(at, &check, sizeof check); }

static uint64_t pseudo_header(const uint8_t *ip, size_t transport_length) {
  const uint8_t rest[4] = {0, ip[V4_PROTOCOL], (uint8_t)(transport_length >> 8), (uint8_t)transport_length};
  return sum(rest, sizeof rest, sum(ip + V4_SOURCE, 8, 0));
}

static void put_ip_check(uint8_t *ip, size_t header) {
  put_check(ip + V4_CHECK, 0);
  put_check(ip + V4_CHECK, (uint16_t)~fold(sum(ip, header, 0)));
}

bool packet_parse(uint8_t *bytes, size_t length, struct packet *packet) {
  if (length < V4_HEADER || bytes[0] >> 4 != 4) return false;
  *packet = (struct packet){.ip = bytes, .header = (bytes[0] & 15u) * 4u, .length = get16(bytes + V4_LENGTH)};
  return packet->header >= V4_HEADER && packet->header <= packet->length && packet->length <= length;
}

uint32_t packet_source(const struct packet *packet) { return get32(packet->ip + V4_SOURCE); }

uint32_t packet_destination(const struct packet *packet) { return get32(packet->ip + V4_DESTINATION); }

bool packet_decrement_ttl(struct packet *packet) {
  uint8_t *ip = packet->ip;
  if (ip[V4_TTL] <= 1) return false;
  ip[V4_TTL]--;
  /* RFC 1624: the checksum moves by what the word moved, so one that was wrong stays so. */
  uint32_t check = get16(ip + V4_CHECK) + 0x100u;
  put16(ip + V4_CHECK, (uint16_t)(check + (check >> 16)));
  return true;
}

bool packet_complete_checksum(struct packet *packet, const struct virtio_net_hdr *vnet) {
  size_t start = vnet->csum_start, at = start + vnet->csum_offset;
  if (start < packet->header || at + 2 > packet->length) return false;
  uint16_t check = (uint16_t)~fold(sum(packet->ip + start, packet->length - start, 0));
  put_check(packet->ip + at, check ? check : 0xffff); /* for UDP, 0 would mean none */
  return true;
}

/* Whether an error may be sent there: RFC 1122, 3.2.2. */
static bool is_host(uint32_t address) {
  uint8_t first = (uint8_t)(address >> 24);
  return first != 0 && first != 127 && first < 224;
}

size_t icmp_error(const struct packet *offender, uint8_t type, uint8_t ttl, uint32_t from,
                  uint8_t reply[ICMP_ERROR_MAX]) {
  const uint8_t *ip = offender->ip;
  bool first_fragment = (get16(ip + V4_FRAGMENT) & 0x1fff) == 0;
  if (ip[V4_PROTOCOL] == IPPROTO_ICMP || !first_fragment || !is_host(packet_source(offender)) ||
      !is_host(packet_destination(offender)))
    return 0;
  size_t quoted = offender->header + 8;
  if (quoted > offender->length) quoted = offender->length;
  size_t length = V4_HEADER + 8 + quoted;
  memset(reply, 0, V4_HEADER + 8);
  reply[0] = 0x45;
  put16(reply + V4_LENGTH, (uint16_t)length);
  reply[V4_TTL] = ttl;
  reply[V4_PROTOCOL] = IPPROTO_ICMP;
  put32(reply + V4_SOURCE, from);
  put32(reply + V4_DESTINATION, packet_source(offender));
  put_ip_check(reply, V4_HEADER);
  uint8_t *icmp = reply + V4_HEADER;
  icmp[0] = type;
  memcpy(icmp + 8, ip, quoted);
  put_check(icmp + 2, (uint16_t)~fold(sum(icmp, 8 + quoted, 0)));
  return length;
}

/* The length of a whole TCP or UDP header behind the IPv4 one, or 0. */
static size_t transport_header(const struct packet *packet) {
  const uint8_t *transport = packet->ip + packet->header;
  size_t room = packet->length - packet->header;
  if (packet->ip[V4_PROTOCOL] == IPPROTO_UDP) return room >= UDP_HEADER ? UDP_HEADER : 0;
  if (packet->ip[V4_PROTOCOL] != IPPROTO_TCP || room < TCP_HEADER) return 0;
  size_t header = (transport[TCP_OFFSET] >> 4) * 4u;
  return header >= TCP_HEADER && header <= room ? header : 0;
}

static bool is_fragment(const uint8_t *ip) { return (get16(ip + V4_FRAGMENT) & FRAGMENT_MASK) != 0; }

bool segmenter_start(struct segmenter *segmenter, const struct packet *packet, const struct virtio_net_hdr *vnet) {
  size_t transport = transport_header(packet);
  uint8_t kind = vnet->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN, protocol = packet->ip[V4_PROTOCOL];
  bool matches = (kind == VIRTIO_NET_HDR_GSO_TCPV4 && protocol == IPPROTO_TCP) ||
                 (kind == VIRTIO_NET_HDR_GSO_UDP_L4 && protocol == IPPROTO_UDP);
  if (!matches || transport == 0 || vnet->gso_size == 0 || is_fragment(packet->ip)) return false;
  *segmenter = (struct segmenter){.packet = packet, .header = packet->header + transport, .size = vnet->gso_size};
  segmenter->offset = segmenter->header;
  return true;
}

size_t segmenter_next(struct segmenter *segmenter, uint8_t headers[MAX_HEADERS], const uint8_t **payload) {
  const struct packet *packet = segmenter->packet;
  size_t left = packet->length - segmenter->offset;
  if (left == 0) return 0;
  bool last = left <= segmenter->size;
  size_t size = last ? left : segmenter->size, length = segmenter->header + size;
  size_t transport_length = length - packet->header;
  bool tcp = packet->ip[V4_PROTOCOL] == IPPROTO_TCP;
  uint8_t *ip = headers, *transport = headers + packet->header;
  memcpy(headers, packet->ip, segmenter->header);
  put16(ip + V4_LENGTH, (uint16_t)length);
  put16(ip + V4_ID, (uint16_t)(get16(ip + V4_ID) + segmenter->index));
  put_ip_check(ip, packet->header);
  if (tcp) {
    put32(transport + TCP_SEQ, get32(transport + TCP_SEQ) + (uint32_t)(segmenter->offset - segmenter->header));
    /* RFC 3168: one CWR for one reduction; the end of the data is at its end. */
    if (segmenter->index > 0) transport[TCP_FLAGS] &= (uint8_t)~CWR;
    if (!last) transport[TCP_FLAGS] &= (uint8_t) ~(FIN | PSH);
  } else {
    put16(transport + UDP_LENGTH, (uint16_t)transport_length);
  }
  *payload = packet->ip + segmenter->offset;
  uint8_t *check = transport + (tcp ? TCP_CHECK : UDP_CHECK);
  put_check(check, 0);
  uint64_t total = sum(transport, segmenter->header - packet->header, pseudo_header(ip, transport_length));
  uint16_t value = (uint16_t)~fold(sum(*payload, size, total));
  put_check(check, value ? value : 0xffff);
  segmenter->offset += size;
  segmenter->index++;
  return size;
}

/* The length of all headers of a packet that may be part of a group, or 0. */
static size_t groupable(const struct packet *packet, bool with_udp) {
  const uint8_t *ip = packet->ip, *transport = ip + packet->header;
  size_t header = packet->header + transport_header(packet);
  if (packet->header != V4_HEADER || header == V4_HEADER || is_fragment(ip) || packet->length == header) return 0;
  if (ip[V4_PROTOCOL] == IPPROTO_TCP) return (transport[TCP_FLAGS] & ~(PSH | ECE)) == ACK ? header : 0;
  bool whole = get16(transport + UDP_LENGTH) == packet->length - V4_HEADER && get16(transport + UDP_CHECK) != 0;
  return with_udp && whole ? header : 0;
}

static bool checksums_right(const struct packet *packet) {
  size_t transport_length = packet->length - packet->header;
  uint64_t total = pseudo_header(packet->ip, transport_length);
  return fold(sum(packet->ip, packet->header, 0)) == 0xffff &&
         fold(sum(packet->ip + packet->header, transport_length, total)) == 0xffff;
}

void group_start(struct group *group, const struct packet *packet) {
  group->first = *packet;
  group->iov[0] = (struct iovec){&group->vnet, sizeof group->vnet};
  group->iov[1] = (struct iovec){packet->ip, packet->length};
  group->length = packet->length;
  group->header = 0; /* whether it can grow is seen when it would */
  group->count = 1;
  group->checked = group->closed = false;
}

/* Whether `next` continues the flow: what the kernel will copy from the first one's headers has to be the same. */
static bool continues(const struct group *group, const uint8_t *next) {
  const uint8_t *first = group->first.ip, *a = first + V4_HEADER, *b = next + V4_HEADER;
  uint16_t id = (uint16_t)(get16(first + V4_ID) + group->count);
  if (first[V4_TOS] != next[V4_TOS] || first[V4_TTL] != next[V4_TTL] || first[V4_PROTOCOL] != next[V4_PROTOCOL] ||
      memcmp(first + V4_FRAGMENT, next + V4_FRAGMENT, 2) != 0 || memcmp(first + V4_SOURCE, next + V4_SOURCE, 8) != 0 ||
      memcmp(a, b, 4) != 0)
    return false;
  /* Of a packet that may yet be fragmented, the id has a meaning. */
  if ((get16(first + V4_FRAGMENT) & DONT_FRAGMENT) == 0 && get16(next + V4_ID) != id) return false;
  if (first[V4_PROTOCOL] == IPPROTO_UDP) return true;
  return get32(b + TCP_SEQ) == (uint32_t)(get32(a + TCP_SEQ) + group->length - group->header) &&
         memcmp(a + TCP_ACK, b + TCP_ACK, 5) == 0 && ((a[TCP_FLAGS] ^ b[TCP_FLAGS]) & ~PSH) == 0 &&
         memcmp(a + 14, b + 14, 2) == 0 && /* window */
         memcmp(a + TCP_HEADER, b + TCP_HEADER, group->header - V4_HEADER - TCP_HEADER) == 0;
}

static bool pushes(const uint8_t *ip) {
  return ip[V4_PROTOCOL] == IPPROTO_TCP && (ip[V4_HEADER + TCP_FLAGS] & PSH) != 0;
}

bool group_join(struct group *group, const struct packet *packet, bool with_udp) {
  if (group->count == 1 && group->header == 0 && !group->closed) {
    group->header = groupable(&group->first, with_udp);
    group->size = group->length - group->header;
    group->closed = group->header == 0 || pushes(group->first.ip);
  }
  if (group->closed || group->count == MAX_GROUP) return false;
  size_t header = groupable(packet, with_udp), size = packet->length - header;
  if (header != group->header || size > group->size || group->length + size > MAX_PACKET) return false;
  if (!continues(group, packet->ip)) return false;
  if (!group->checked && !checksums_right(&group->first)) {
    group->closed = true;
    return false;
  }
  group->checked = true;
  if (!checksums_right(packet)) return false;
  group->iov[1 + group->count++] = (struct iovec){packet->ip + header, size};
  group->length += size;
  group->closed = size < group->size || pushes(packet->ip);
  if (pushes(packet->ip)) group->first.ip[V4_HEADER + TCP_FLAGS] |= PSH;
  return true;
}

void group_finish(struct group *group) {
  group->vnet = (struct virtio_net_hdr){.gso_type = VIRTIO_NET_HDR_GSO_NONE};
  if (group->count < 2) return;
  uint8_t *ip = group->first.ip, *transport = ip + V4_HEADER;
  bool tcp = ip[V4_PROTOCOL] == IPPROTO_TCP;
  size_t transport_length = group->length - V4_HEADER;
  put16(ip + V4_LENGTH, (uint16_t)group->length);
  put_ip_check(ip, V4_HEADER);
  if (!tcp) put16(transport + UDP_LENGTH, (uint16_t)transport_length);
  /* A partial checksum is the pseudo-header's sum, not inverted. */
  put_check(transport + (tcp ? TCP_CHECK : UDP_CHECK), fold(pseudo_header(ip, transport_length)));
  group->vnet = (struct virtio_net_hdr){
      .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
      .gso_type = tcp ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_UDP_L4,
      .hdr_len = (uint16_t)group->header,
      .gso_size = (uint16_t)group->size,
      .csum_start = V4_HEADER,
      .csum_offset = tcp ? TCP_CHECK : UDP_CHECK,
  };
}
