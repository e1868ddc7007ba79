/*
 * Holds the udp backend's packet code to what it promises, under the sanitizers: `udpfuzz SEED ROUNDS`.
 *
 *     round_trip   a random super-packet is cut, each packet checked by slow and independent means, and put together
 *                  again: it has to be the one that it was
 *     rubbish      random and mutated bytes, in buffers of exactly their size, into every function
 *     tunnel       the same through the thread, over descriptors that behave like a TUN and a UDP socket, while peers
 *                  come and go: all is counted, nothing forged gets through
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
  set16(check, (uint16_t)~checksum(NULL, 0, (pseudo(ip, length - header) & 0xffff) + (pseudo(ip, length - header) >> 16)));
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

/* What must not be taken for the flow's next packet. */
static void strangers_in_a_flow(void) {
  uint8_t a[200], b[200];
  struct packet first, second;
  struct group group = {.count = 0};
  size_t length = make_packet(a, true, 100, 0, 12);
  struct virtio_net_hdr vnet = {.csum_start = 20, .csum_offset = 16};
  set16(a + 6, 0x4000);
  set16(a + 10, 0);
  set16(a + 10, checksum(a, 20, 0));
  a[33] = 0x10;
  memcpy(b, a, length);
  set32(b + 24, be32(a + 24) + 100);
  EXPECT(packet_parse(a, length, &first) && packet_complete_checksum(&first, &vnet));
  /* Any one byte that is not right, and was not put right by a checksum either, keeps it out. */
  size_t at = random_number((uint32_t)length);
  EXPECT(packet_parse(b, length, &second) && packet_complete_checksum(&second, &vnet));
  b[at] ^= (uint8_t)(1u << random_number(8));
  if (!packet_parse(b, length, &second)) return;
  group_start(&group, &first);
  EXPECT(!group_join(&group, &second, true));
  group_finish(&group);
  EXPECT(group.count == 1 && group.vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE && group.vnet.flags == 0);
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
  if (random_number(4) == 0 || length < 100) {
    random_bytes(bytes, length);
    return length;
  }
  length = make_packet(bytes, random_number(2), length - 100, 4 * random_number(3), 4 * random_number(3));
  for (uint32_t flips = random_number(4); flips > 0; flips--) bytes[random_number(60) % length] = (uint8_t)random_number(256);
  return length;
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
    random_bytes((uint8_t *)&vnet, sizeof vnet);
    if (random_number(2)) vnet.gso_type = random_number(6);
    packet_decrement_ttl(&packet);
    icmp_error(&packet, 3, 8, 1, reply);
    struct segmenter segmenter;
    const uint8_t *payload;
    if (segmenter_start(&segmenter, &packet, &vnet))
      while (segmenter_next(&segmenter, headers, &payload) > 0) {}
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

#define OWN 0x0a010000u  /* 10.1.0.0/24 */
#define PEER 0x0a020000u /* 10.2.0.0/24, reached at 127.0.0.1 */

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

static void tunnel(unsigned rounds) {
  struct sockaddr_in wire_at, peer_at, stranger_at;
  int ends[2], on = 4 << 20, wire = udp_socket(INADDR_LOOPBACK, &wire_at);
  int peer = udp_socket(INADDR_LOOPBACK, &peer_at), stranger = udp_socket(INADDR_LOOPBACK + 1, &stranger_at);
  EXPECT(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0);
  EXPECT(setsockopt(ends[1], SOL_SOCKET, SO_SNDBUFFORCE, &on, sizeof on) == 0 ||
         setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &on, sizeof on) == 0);
  EXPECT(fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0);
  struct tunnel *t = tunnel_create();
  EXPECT(t != NULL);
  struct peer peers[] = {{PEER, PEER + 255, INADDR_LOOPBACK}, {PEER + 0x10000, PEER + 0x100ff, INADDR_LOOPBACK}};
  EXPECT(tunnel_set_peers(t, peers, 2) == 0);
  EXPECT(tunnel_adopt(t, dup(ends[1]), dup(wire), ntohs(peer_at.sin_port)) == 0);
  uint64_t sent = 0;
  size_t out = 0;
  for (unsigned i = 0; i < rounds; i++) {
    uint8_t bytes[10 + 2000];
    size_t length = any_packet(bytes, 2000);
    if (length >= 20 && random_number(2)) set32(bytes + 12, PEER + random_number(256));
    int from = random_number(8) ? peer : stranger;
    EXPECT(sendto(from, bytes, length, 0, (struct sockaddr *)&wire_at, sizeof wire_at) == (ssize_t)length);
    sent++;
    length = any_packet(bytes + 10, 2000);
    random_bytes(bytes, 10);
    if (random_number(2)) bytes[1] = (uint8_t)random_number(6);
    if (length >= 20 && random_number(2)) set32(bytes + 10 + 16, PEER + random_number(256));
    EXPECT(send(ends[0], bytes, 10 + length, 0) == (ssize_t)(10 + length));
    if (random_number(4) == 0) EXPECT(tunnel_set_peers(t, peers, 1 + random_number(2)) == 0);
    /* The thread may end and begin at any time. */
    if (random_number(64) == 0) EXPECT(tunnel_adopt(t, dup(ends[1]), dup(wire), ntohs(peer_at.sin_port)) == 0);
    /* Never more under way than the socket's buffer holds. */
    if (i % 16 == 15 || i + 1 == rounds) {
      while (received(t) < sent) {
        struct pollfd fds[] = {{ends[0], POLLIN, 0}};
        poll(fds, 1, 1);
        out += drain(ends[0]);
        drain(ends[0]);
        char rest[70000];
        while (recv(peer, rest, sizeof rest, MSG_DONTWAIT) >= 0) {}
      }
    }
  }
  EXPECT(received(t) == sent);
  EXPECT(tunnel_counter(t, STRANGERS) > 0 && tunnel_counter(t, FOREIGN) > 0 && tunnel_counter(t, MALFORMED) > 0);
  EXPECT(tunnel_counter(t, RECEIVED_PACKETS) > 0 && tunnel_counter(t, SENT_PACKETS) > 0);
  EXPECT(tunnel_counter(t, UNREACHABLE) > 0 && out > 0);
  tunnel_destroy(t);
  close(ends[0]);
  close(ends[1]);
  close(wire);
  close(peer);
  close(stranger);
}

int main(int argc, char **argv) {
  EXPECT(argc == 3);
  state = strtoull(argv[1], NULL, 10) * 2654435761u + 88172645463325252u;
  unsigned rounds = (unsigned)strtoul(argv[2], NULL, 10);
  for (unsigned i = 0; i < rounds; i++) {
    round_trip();
    strangers_in_a_flow();
    ttl_and_errors();
    rubbish();
  }
  tunnel(rounds);
  puts("ok");
  return 0;
}
