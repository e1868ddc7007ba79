/*
 * Holds the udp backend's packet code to what it promises, under the sanitizers: `udpfuzz SEED ROUNDS`.
 *
 *     round_trip       a random super-packet is cut, each packet checked by slow and independent means, and put together
 *                      again: it has to be the one that it was
 *     strangers, ends  what looks like a flow's next packet and is not
 *     rubbish          random and mutated bytes, in buffers of exactly their size, into every function
 *     tunnel           the same through the thread, over descriptors that behave like a TUN and a UDP socket, while
 *                      peers come and go: all is counted, nothing forged gets through
 *
 * Prints what failed and exits 1; the sanitizers do the rest.
 */
#define _GNU_SOURCE
#include "../../native/udp_packet.h"
#include "../../native/udp_tunnel.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define EXPECT(condition) \
  do { \
    if (!(condition)) { \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      exit(1); \
    } \
  } while (0)

static uint64_t state;

static uint32_t random_number(uint32_t below) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (uint32_t)(state >> 32) % below;
}

static void random_bytes(uint8_t *bytes, size_t length) {
  for (size_t i = 0; i < length; i++) bytes[i] = (uint8_t)random_number(256);
}

static uint16_t be16(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }

static uint32_t be32(const uint8_t *at) { return (uint32_t)be16(at) << 16 | be16(at + 2); }

static void set16(uint8_t *at, unsigned value) {
  at[0] = (uint8_t)(value >> 8);
  at[1] = (uint8_t)value;
}

static void set32(uint8_t *at, uint32_t value) {
  set16(at, value >> 16);
  set16(at + 2, value & 0xffff);
}

/* RFC 1071 to the letter. */
static uint16_t checksum(const uint8_t *bytes, size_t length, uint32_t sum) {
  for (size_t i = 0; i < length; i += 2) {
    sum += (uint32_t)bytes[i] << 8 | (i + 1 < length ? bytes[i + 1] : 0);
    sum = (sum & 0xffff) + (sum >> 16);
  }
  return (uint16_t)~sum;
}

static uint32_t pseudo(const uint8_t *ip, size_t length) {
  return be16(ip + 12) + be16(ip + 14) + be16(ip + 16) + be16(ip + 18) + ip[9] + (uint32_t)length;
}

/* A TCP or UDP packet with this much payload and its checksum as the kernel leaves it to a device: of the pseudo-header. */
static size_t make_packet(uint8_t *ip, bool tcp, size_t payload, size_t ip_options, size_t tcp_options) {
  size_t header = 20 + ip_options, transport = tcp ? 20 + tcp_options : 8, length = header + transport + payload;
  random_bytes(ip, length);
  ip[0] = (uint8_t)(0x40 | header / 4);
  set16(ip + 2, (unsigned)length);
  set16(ip + 6, random_number(2) ? 0x4000 : 0);
  ip[8] = (uint8_t)(2 + random_number(250));
  ip[9] = tcp ? IPPROTO_TCP : IPPROTO_UDP;
  set16(ip + 10, 0);
  set16(ip + 10, checksum(ip, header, 0));
  uint8_t *check = ip + header + (tcp ? 16 : 6);
  if (tcp) {
    ip[header + 12] = (uint8_t)(transport / 4 << 4);
    ip[header + 13] = (uint8_t)(0x10 | (random_number(2) ? 0x08 : 0));
  } else {
    set16(ip + header + 4, (unsigned)(transport + payload));
  }
  uint32_t partial = pseudo(ip, length - header);
  while (partial >> 16) partial = (partial & 0xffff) + (partial >> 16);
  set16(check, partial);
  return length;
}

static void expect_right(const uint8_t *ip, size_t length) {
  size_t header = (ip[0] & 15) * 4u;
  EXPECT(be16(ip + 2) == length);
  EXPECT(checksum(ip, header, 0) == 0);
  EXPECT(checksum(ip + header, length - header, pseudo(ip, length - header)) == 0);
}

static void round_trip(void) {
  bool tcp = random_number(2);
  size_t size = 1 + random_number(1400), segments = 2 + random_number(40);
  size_t payload = size * (segments - 1) + 1 + random_number((uint32_t)size);
  size_t ip_options = random_number(4) ? 0 : 4 * random_number(11), tcp_options = 4 * random_number(11);
  if (payload > 65000) return;
  uint8_t *original = malloc(MAX_PACKET), *cut = malloc(2 * MAX_PACKET + segments * MAX_HEADERS), *at = cut;
  size_t length = make_packet(original, tcp, payload, ip_options, tcp_options);
  size_t header = length - payload;
  struct virtio_net_hdr vnet = {.gso_type = tcp ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_UDP_L4,
                                .gso_size = (uint16_t)size};
  struct packet packet;
  struct segmenter segmenter;
  EXPECT(packet_parse(original, length, &packet));
  EXPECT(segmenter_start(&segmenter, &packet, &vnet));
  EXPECT(segmenter.header == header);
  struct group group = {.count = 0};
  const uint8_t *part;
  size_t n = 0, got;
  while ((got = segmenter_next(&segmenter, at, &part)) > 0) {
    bool last = n + 1 == segments;
    memcpy(at + header, part, got);
    expect_right(at, header + got);
    EXPECT(last ? got <= size : got == size);
    EXPECT(be16(at + 4) == (uint16_t)(be16(original + 4) + n));
    if (tcp) {
      const uint8_t *a = at + 20 + ip_options, *b = original + 20 + ip_options;
      EXPECT(be32(a + 4) == (uint32_t)(be32(b + 4) + n * size));
      EXPECT(a[13] == (last ? b[13] : (b[13] & ~0x08)));
      EXPECT(memcmp(a + 20, b + 20, tcp_options) == 0);
    }
    struct packet one;
    EXPECT(packet_parse(at, header + got, &one));
    if (n == 0) group_start(&group, &one);
    else EXPECT(group_join(&group, &one, true) == (ip_options == 0));
    at += header + got;
    n++;
  }
  EXPECT(n == segments);
  if (ip_options == 0) {
    uint8_t *whole = malloc(MAX_PACKET);
    size_t total = 0;
    group_finish(&group);
    EXPECT(group.count == segments && group.vnet.gso_size == size && group.vnet.gso_type == vnet.gso_type);
    EXPECT(group.vnet.csum_start == 20 && group.vnet.hdr_len == header);
    for (unsigned i = 1; i <= group.count; i++) {
      memcpy(whole + total, group.iov[i].iov_base, group.iov[i].iov_len);
      total += group.iov[i].iov_len;
    }
    EXPECT(total == length && memcmp(whole, original, length) == 0);
    free(whole);
  }
  free(original);
  free(cut);
}

static void put_checksums(uint8_t *ip, size_t length) {
  size_t header = (ip[0] & 15) * 4u;
  uint8_t *check = ip + header + (ip[9] == IPPROTO_TCP ? 16 : 6);
  set16(ip + 10, 0);
  set16(ip + 10, checksum(ip, header, 0));
  set16(check, 0);
  uint16_t value = checksum(ip + header, length - header, pseudo(ip, length - header));
  set16(check, value ? value : 0xffff);
}

/* A flow's packet number `n`, of `size` bytes of payload and with 12 bytes of options; whole. */
static struct packet nth(uint8_t *ip, const uint8_t *first, unsigned n, size_t size, size_t usual) {
  struct packet packet;
  memcpy(ip, first, 52);
  memset(ip + 52, 7, size);
  set16(ip + 2, (unsigned)(52 + size));
  set16(ip + 4, be16(first + 4) + n);
  set32(ip + 24, (uint32_t)(be32(first + 24) + n * usual));
  put_checksums(ip, 52 + size);
  EXPECT(packet_parse(ip, 52 + size, &packet));
  return packet;
}

static void make_first(uint8_t *ip, size_t size) {
  make_packet(ip, true, size, 0, 12);
  ip[33] = 0x10;
}

/* One bit of the headers that is not the first packet's, or one bit anywhere that no checksum covers up. */
static void strangers_in_a_flow(void) {
  uint8_t a[200], b[200];
  make_first(a, 100);
  struct packet first = nth(a, a, 0, 100, 100), second = nth(b, a, 1, 100, 100);
  struct group group = {.count = 0};
  bool covered = random_number(2);
  size_t at = random_number(covered ? 52 : 152), bit = 1u << random_number(8);
  bool length = at == 2 || at == 3, check = at == 10 || at == 11 || at == 36 || at == 37;
  bool id = (at == 4 || at == 5) && (a[6] & 0x40), push = at == 33 && bit == 0x08, urgent = at == 38 || at == 39;
  /* Only with their checksums wrong do these tell anything. */
  if (covered && (at == 0 || length || check || id || push || urgent)) return;
  b[at] ^= (uint8_t)bit;
  if (covered) {
    if (at == 9 || (at == 32 && bit > 8)) return; /* another header, with its checksum elsewhere */
    put_checksums(b, 152);
  }
  if (!packet_parse(b, 152, &second)) return;
  group_start(&group, &first);
  EXPECT(!group_join(&group, &second, true));
  group_finish(&group);
  EXPECT(group.count == 1 && group.vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE && group.vnet.flags == 0);
}

/* Where a group ends. */
static void ends_of_a_flow(void) {
  static uint8_t bytes[80][1600];
  size_t size = 1 + random_number(1400);
  unsigned most = (unsigned)((MAX_PACKET - 52) / size), n = 1;
  struct group group = {.count = 0};
  make_first(bytes[0], size);
  struct packet packet = nth(bytes[0], bytes[0], 0, size, size);
  group_start(&group, &packet);
  for (; n < 80; n++) {
    packet = nth(bytes[n], bytes[0], n, size, size);
    if (!group_join(&group, &packet, true)) break;
  }
  EXPECT(n == (most < MAX_GROUP ? most : MAX_GROUP));
  /* A shorter one, one that pushes, one that is larger, a first one that is damaged. */
  for (int how = 0; how < 4; how++) {
    make_first(bytes[0], size);
    packet = nth(bytes[0], bytes[0], 0, size, size);
    if (how == 3) bytes[0][52 + random_number((uint32_t)size)] ^= 1;
    group_start(&group, &packet);
    packet = nth(bytes[1], bytes[0], 1, how == 0 ? size - 1 : how == 2 ? size + 1 : size, size);
    if (how == 1) {
      bytes[1][33] |= 0x08;
      put_checksums(bytes[1], packet.length);
    }
    EXPECT(group_join(&group, &packet, true) == (how < 2 && (how != 0 || size > 1)));
    packet = nth(bytes[2], bytes[0], 2, 1, size);
    set32(bytes[2] + 24, (uint32_t)(be32(bytes[0] + 24) + group.length - 52));
    put_checksums(bytes[2], packet.length);
    EXPECT(!group_join(&group, &packet, true) || (how == 2 || (how == 0 && size == 1)));
  }
}

static void ttl_and_errors(void) {
  uint8_t ip[120], reply[ICMP_ERROR_MAX];
  struct packet packet;
  size_t length = make_packet(ip, false, random_number(20), 4 * random_number(11), 0);
  set32(ip + 12, 0x0a000001 + random_number(1000));
  set32(ip + 16, 0x0a010001 + random_number(1000));
  size_t header = (ip[0] & 15) * 4u;
  set16(ip + 10, 0);
  set16(ip + 10, checksum(ip, header, 0));
  EXPECT(packet_parse(ip, length, &packet));
  uint8_t ttl = ip[8];
  EXPECT(packet_decrement_ttl(&packet) && ip[8] == ttl - 1 && checksum(ip, header, 0) == 0);
  size_t got = icmp_error(&packet, 3, 8, 0x0a020304, reply);
  EXPECT(got == 28 + header + 8 && be16(reply + 2) == got && checksum(reply, 20, 0) == 0);
  EXPECT(checksum(reply + 20, got - 20, 0) == 0 && reply[20] == 3 && reply[8] == 8);
  EXPECT(be32(reply + 12) == 0x0a020304 && be32(reply + 16) == packet_source(&packet));
  ip[8] = (uint8_t)random_number(2);
  EXPECT(!packet_decrement_ttl(&packet));
  set16(ip + 6, 1 + random_number(0x1fff));
  EXPECT(icmp_error(&packet, 3, 8, 1, reply) == 0);
  set16(ip + 6, 0);
  ip[9] = IPPROTO_ICMP;
  EXPECT(icmp_error(&packet, 3, 8, 1, reply) == 0);
}

static size_t any_packet(uint8_t *bytes, size_t room) {
  size_t length = random_number((uint32_t)room + 1);
  if (random_number(4) == 0) {
    random_bytes(bytes, length);
    return length;
  }
  size_t payload = length > 100 && random_number(2) ? length - 100 : random_number(30);
  length = make_packet(bytes, random_number(2), payload, 4 * random_number(3), 4 * random_number(3));
  if (random_number(3) == 0) { /* cut off anywhere, and true to it */
    length = random_number((uint32_t)length + 1);
    if (length >= 4) set16(bytes + 2, (unsigned)length);
  }
  for (uint32_t flips = random_number(4); flips > 0 && length > 0; flips--)
    bytes[random_number(60) % length] = (uint8_t)random_number(256);
  return length;
}

/* A virtio header as it might be, for a packet of this length. */
static void any_vnet(struct virtio_net_hdr *vnet, size_t length) {
  random_bytes((uint8_t *)vnet, sizeof *vnet);
  if (random_number(4) == 0) return;
  vnet->flags = (uint8_t)random_number(3);
  vnet->gso_type = (uint8_t)(random_number(2) ? 0 : random_number(6));
  vnet->gso_size = (uint16_t)random_number(random_number(2) ? 10 : 1500);
  vnet->csum_start = (uint16_t)random_number((uint32_t)length + 3);
  vnet->csum_offset = (uint16_t)random_number(20);
}

static void rubbish(void) {
  struct group group = {.count = 0};
  uint8_t *packets[8] = {NULL};
  for (int i = 0; i < 8; i++) {
    uint8_t scratch[3000], headers[MAX_HEADERS], reply[ICMP_ERROR_MAX];
    size_t length = any_packet(scratch, random_number(2) ? 70 : sizeof scratch);
    packets[i] = malloc(length > 0 ? length : 1);
    memcpy(packets[i], scratch, length);
    struct packet packet;
    if (!packet_parse(packets[i], length, &packet)) continue;
    struct virtio_net_hdr vnet;
    any_vnet(&vnet, length);
    packet_decrement_ttl(&packet);
    icmp_error(&packet, 3, 8, 1, reply);
    struct segmenter segmenter;
    const uint8_t *payload;
    if (segmenter_start(&segmenter, &packet, &vnet)) {
      EXPECT(vnet.gso_size > 0);
      while (segmenter_next(&segmenter, headers, &payload) > 0) {}
    }
    packet_complete_checksum(&packet, &vnet);
    if (group.count == 0) group_start(&group, &packet);
    else if (!group_join(&group, &packet, random_number(2))) {
      group_finish(&group);
      group_start(&group, &packet);
    }
  }
  for (int i = 0; i < 8; i++) free(packets[i]);
}

/* ---- the thread ---- */

#define PEER 0x0a020000u /* 10.2.0.0/24, reached at 127.0.0.1 */
#define FORGER (INADDR_LOOPBACK + 2) /* a peer, too, that says it is another */

static int udp_socket(uint32_t address, struct sockaddr_in *at) {
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  socklen_t length = sizeof *at;
  *at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(address)};
  EXPECT(fd >= 0 && bind(fd, (struct sockaddr *)at, sizeof *at) == 0);
  EXPECT(getsockname(fd, (struct sockaddr *)at, &length) == 0);
  return fd;
}

static uint64_t received(const struct tunnel *t) {
  return tunnel_counter(t, RECEIVED_PACKETS) + tunnel_counter(t, STRANGERS) + tunnel_counter(t, FOREIGN) +
         tunnel_counter(t, MALFORMED) + tunnel_counter(t, WRITE_ERRORS);
}

static size_t drain(int fd) {
  uint8_t bytes[70000];
  size_t count = 0;
  ssize_t length;
  while ((length = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT)) > 0) {
    /* Whatever comes out of the TUN's end says that it is from the peer's subnet. */
    EXPECT(length >= 30 && (be32(bytes + 10 + 12) & 0xffffff00) == PEER);
    count++;
  }
  return count;
}

/* As many trains as one turn can make, and some more, wait when the thread begins. */
static void fill(int tun) {
  for (unsigned i = 0; i < 64; i++) {
    uint8_t bytes[10 + 400];
    bool many = i >= 58;
    struct virtio_net_hdr vnet = {.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4, .gso_size = (uint16_t)(many ? 2 : 3 + i)};
    size_t length = make_packet(bytes + 10, false, many ? 130 : vnet.gso_size + 1, 0, 0);
    set32(bytes + 10 + 16, PEER);
    memcpy(bytes, &vnet, 10);
    EXPECT(send(tun, bytes, 10 + length, 0) == (ssize_t)(10 + length));
  }
}

/* What leaves by the wire is one whole packet a datagram, for a peer. */
static void check_sent(int peer) {
  uint8_t bytes[70000];
  ssize_t length;
  while ((length = recv(peer, bytes, sizeof bytes, MSG_DONTWAIT)) >= 0) {
    struct packet packet;
    EXPECT(packet_parse(bytes, (size_t)length, &packet) && packet.length == (size_t)length);
    EXPECT((packet_destination(&packet) & 0xfffeff00) == PEER);
  }
}

static void tunnel(unsigned rounds) {
  struct sockaddr_in wire_at, peer_at, stranger_at, forger_at;
  int ends[2], on = 4 << 20, wire = udp_socket(INADDR_LOOPBACK, &wire_at);
  int peer = udp_socket(INADDR_LOOPBACK, &peer_at), stranger = udp_socket(INADDR_LOOPBACK + 1, &stranger_at);
  int forger = udp_socket(FORGER, &forger_at);
  EXPECT(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0);
  EXPECT(setsockopt(ends[1], SOL_SOCKET, SO_SNDBUFFORCE, &on, sizeof on) == 0 ||
         setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &on, sizeof on) == 0);
  EXPECT(fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0);
  struct tunnel *t = tunnel_create();
  EXPECT(t != NULL);
  struct peer peers[] = {{PEER + 0x20000, PEER + 0x200ff, FORGER},
                         {PEER, PEER + 255, INADDR_LOOPBACK},
                         {PEER + 0x10000, PEER + 0x100ff, INADDR_LOOPBACK}};
  EXPECT(tunnel_set_peers(t, peers, 3) == 0);
  EXPECT(setsockopt(ends[0], SOL_SOCKET, SO_SNDBUFFORCE, &on, sizeof on) == 0 ||
         setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &on, sizeof on) == 0);
  fill(ends[0]);
  EXPECT(tunnel_adopt(t, dup(ends[1]), dup(wire), ntohs(peer_at.sin_port)) == 0);
  uint64_t sent = 0, foreign = 0;
  size_t out = 0;
  for (unsigned i = 0; i < rounds; i++) {
    uint8_t bytes[10 + 2000];
    size_t length = any_packet(bytes, 2000);
    if (length >= 20 && random_number(2)) set32(bytes + 12, PEER + random_number(256));
    int from = random_number(8) ? peer : random_number(2) ? stranger : forger;
    struct packet packet;
    if (from != stranger && packet_parse(bytes, length, &packet))
      foreign += (packet_source(&packet) & 0xffffff00) != (from == peer ? PEER : PEER + 0x20000);
    EXPECT(sendto(from, bytes, length, 0, (struct sockaddr *)&wire_at, sizeof wire_at) == (ssize_t)length);
    sent++;
    length = any_packet(bytes + 10, 2000);
    struct virtio_net_hdr vnet;
    any_vnet(&vnet, length);
    memcpy(bytes, &vnet, 10);
    if (length >= 20 && random_number(2)) set32(bytes + 10 + 16, PEER + random_number(256));
    EXPECT(send(ends[0], bytes, 10 + length, 0) == (ssize_t)(10 + length));
    if (random_number(4) == 0) EXPECT(tunnel_set_peers(t, peers, 2 + random_number(2)) == 0);
    /* The thread may end and begin at any time. */
    if (random_number(64) == 0) EXPECT(tunnel_adopt(t, dup(ends[1]), dup(wire), ntohs(peer_at.sin_port)) == 0);
    /* Never more under way than the socket's buffer holds. */
    if (i % 16 == 15 || i + 1 == rounds) {
      while (received(t) < sent) {
        struct pollfd fds[] = {{ends[0], POLLIN, 0}};
        poll(fds, 1, 1);
        out += drain(ends[0]);
        check_sent(peer);
      }
    }
  }
  EXPECT(received(t) == sent);
  EXPECT(tunnel_counter(t, STRANGERS) > 0 && tunnel_counter(t, MALFORMED) > 0);
  EXPECT(foreign > 0 && tunnel_counter(t, FOREIGN) == foreign);
  EXPECT(tunnel_counter(t, RECEIVED_PACKETS) > 0 && tunnel_counter(t, SENT_PACKETS) > 0);
  EXPECT(tunnel_counter(t, UNREACHABLE) > 0 && out > 0);
  tunnel_destroy(t);
  close(ends[0]);
  close(ends[1]);
  close(wire);
  close(peer);
  close(stranger);
  close(forger);
}

int main(int argc, char **argv) {
  EXPECT(argc == 3);
  state = strtoull(argv[1], NULL, 10) * 2654435761u + 88172645463325252u;
  unsigned rounds = (unsigned)strtoul(argv[2], NULL, 10);
  for (unsigned i = 0; i < rounds; i++) {
    round_trip();
    strangers_in_a_flow();
    ends_of_a_flow();
    ttl_and_errors();
    rubbish();
  }
  tunnel(rounds);
  puts("ok");
  return 0;
}
