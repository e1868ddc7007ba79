#define _GNU_SOURCE
#include "udp_tunnel.h"
#include "udp_packet.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Of Linux 4.18, 5.0 and 6.2; headers may be older than the kernel. */
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

#define MAX_DATAGRAM 65507     /* what UDP over IPv4 can carry */
#define MAX_SEGMENTS 64        /* UDP_MAX_SEGMENTS of kernels before 6.9 */
#define READ_SIZE 65552        /* virtio header and packet, rounded up */
#define ARENA (READ_SIZE + (128 << 10)) /* what is read from the TUN before it is sent; fits a level 2 cache */
#define READS 64
#define BATCH 64               /* datagrams, or trains of datagrams, in one sendmmsg(2) */
#define PACKETS 512            /* packets in those */
#define RECEIVES 16            /* datagrams or trains in one recvmmsg(2) */
#define SOCKET_BUFFER (4 << 20) /* bytes; by default, three trains fill it */
#define SEND_TIMEOUT_US 50000
/* ICMP errors: 1,000 a second, as the kernel allows itself (icmp_msgs_per_sec, icmp_msgs_burst). */
#define ICMP_WINDOW_MS 50
#define ICMP_PER_WINDOW 50

struct table {
  size_t peers, hosts;
  const uint32_t *host; /* sorted, behind the peers */
  struct peer peer[];   /* sorted */
};

/* Packets to one host that leave together: all of one size but the last, as UDP_SEGMENT has it. */
struct train {
  struct sockaddr_in to;
  size_t size, length;
  unsigned packets, first_iov, iovs;
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(uint16_t))];
  } control;
};

struct outbox {
  unsigned trains, packets, iovs;
  struct train train[BATCH];
  struct mmsghdr message[BATCH];
  struct iovec iov[2 * PACKETS];
  uint8_t headers[PACKETS][MAX_HEADERS];
};

struct inbox {
  struct sockaddr_in from[RECEIVES];
  struct mmsghdr message[RECEIVES];
  struct iovec iov[RECEIVES];
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
  } control[RECEIVES];
  uint8_t bytes[RECEIVES][65536];
};

struct tunnel {
  int tun, wire, raw, wake;
  bool running, device_gone, trains, with_udp;
  uint32_t own;
  uint16_t port;
  pthread_t thread;
  atomic_bool stop;
  _Atomic(struct table *) next; /* handed over and not yet taken */
  struct table *table;
  const struct peer *last_to, *last_from; /* in the table; most packets are for the same peer as the one before */
  struct timespec icmp_since;
  unsigned icmp_sent;
  _Atomic uint64_t counters[COUNTERS];
  struct outbox out;
  struct inbox in;
  struct group group;
  uint8_t arena[ARENA];
};

/* The thread alone writes the counters. */
static void set_counter(struct tunnel *t, enum counter which, uint64_t value) {
  atomic_store_explicit(&t->counters[which], value, memory_order_relaxed);
}

uint64_t tunnel_counter(const struct tunnel *t, enum counter which) {
  return atomic_load_explicit(&t->counters[which], memory_order_relaxed);
}

static void add(struct tunnel *t, enum counter which, uint64_t by) {
  set_counter(t, which, tunnel_counter(t, which) + by);
}

/* ---- peers ---- */

static int by_first(const void *a, const void *b) {
  const struct peer *x = a, *y = b;
  return (x->first > y->first) - (x->first < y->first);
}

static int by_value(const void *a, const void *b) {
  const uint32_t *x = a, *y = b;
  return (*x > *y) - (*x < *y);
}

static int by_range(const void *address, const void *element) {
  const uint32_t *a = address;
  const struct peer *peer = element;
  return (*a > peer->last) - (*a < peer->first);
}

int tunnel_set_peers(struct tunnel *t, const struct peer *peers, size_t count) {
  struct table *table = malloc(sizeof *table + count * (sizeof *peers + sizeof(uint32_t)));
  if (!table) return -ENOMEM;
  uint32_t *host = (uint32_t *)&table->peer[count];
  if (count > 0) memcpy(table->peer, peers, count * sizeof *peers);
  for (size_t i = 0; i < count; i++) host[i] = peers[i].host;
  qsort(table->peer, count, sizeof *peers, by_first);
  qsort(host, count, sizeof *host, by_value);
  *table = (struct table){.peers = count, .hosts = count, .host = host};
  free(atomic_exchange(&t->next, table));
  return 0;
}

static void take_table(struct tunnel *t) {
  if (!atomic_load_explicit(&t->next, memory_order_relaxed)) return;
  free(t->table);
  t->table = atomic_exchange(&t->next, NULL);
  t->last_to = t->last_from = NULL;
}

static const struct peer *find_peer(const struct tunnel *t, uint32_t address, const struct peer **last) {
  if (*last && address >= (*last)->first && address <= (*last)->last) return *last;
  const struct peer *found = bsearch(&address, t->table->peer, t->table->peers, sizeof *found, by_range);
  if (found) *last = found;
  return found;
}

static bool is_peer(const struct tunnel *t, uint32_t host) {
  if (t->last_from && t->last_from->host == host) return true;
  return bsearch(&host, t->table->host, t->table->hosts, sizeof host, by_value) != NULL;
}

/* ---- from the TUN to the wire ---- */

/* The packets of a train one by one: their route takes no trains, or they have to be fragmented on it. */
static void send_singly(struct tunnel *t, const struct train *train) {
  const struct iovec *iov = &t->out.iov[train->first_iov], *end = iov + train->iovs;
  while (iov < end) {
    struct iovec parts[2];
    unsigned count = 0;
    for (size_t length = 0; iov < end && length < train->size && count < 2; iov++) {
      parts[count++] = *iov;
      length += iov->iov_len;
    }
    struct msghdr message = {
        .msg_name = (void *)&train->to, .msg_namelen = sizeof train->to, .msg_iov = parts, .msg_iovlen = count};
    ssize_t sent;
    do {
      sent = sendmsg(t->wire, &message, 0);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0) add(t, SEND_ERRORS, 1);
  }
}

static void flush(struct tunnel *t) {
  struct outbox *out = &t->out;
  for (unsigned i = 0; i < out->trains; i++) {
    struct train *train = &out->train[i];
    struct msghdr *message = &out->message[i].msg_hdr;
    *message = (struct msghdr){.msg_name = &train->to, .msg_namelen = sizeof train->to,
                               .msg_iov = &out->iov[train->first_iov], .msg_iovlen = train->iovs};
    if (train->packets == 1) continue;
    uint16_t size = (uint16_t)train->size;
    train->control.header = (struct cmsghdr){
        .cmsg_len = CMSG_LEN(sizeof size), .cmsg_level = IPPROTO_UDP, .cmsg_type = UDP_SEGMENT};
    memcpy(CMSG_DATA(&train->control.header), &size, sizeof size);
    message->msg_control = &train->control;
    message->msg_controllen = sizeof train->control;
  }
  for (unsigned i = 0; i < out->trains;) {
    int sent = sendmmsg(t->wire, &out->message[i], out->trains - i, 0);
    if (sent > 0) {
      i += (unsigned)sent;
    } else if (errno != EINTR) {
      bool refused = errno == EINVAL || errno == EMSGSIZE || errno == EIO;
      if (refused && out->train[i].packets > 1) send_singly(t, &out->train[i]);
      else add(t, SEND_ERRORS, out->train[i].packets);
      i++;
    }
  }
  out->trains = out->packets = out->iovs = 0;
}

/* Room for one more packet: its headers are written there, if it needs other ones than it came with. */
static uint8_t *next_headers(struct tunnel *t) {
  if (t->out.packets == PACKETS || t->out.trains == BATCH) flush(t);
  return t->out.headers[t->out.packets];
}

/* Queues a packet in one or two parts; they have to stay in place until the flush. */
static void enqueue(struct tunnel *t, uint32_t host, const struct iovec *parts, unsigned count) {
  struct outbox *out = &t->out;
  size_t length = parts[0].iov_len + (count > 1 ? parts[1].iov_len : 0);
  struct train *train = out->trains > 0 ? &out->train[out->trains - 1] : NULL;
  bool joins = train && t->trains && train->to.sin_addr.s_addr == htonl(host) && train->packets < MAX_SEGMENTS &&
               train->length == train->packets * train->size && length <= train->size &&
               train->length + length <= MAX_DATAGRAM;
  if (!joins) {
    train = &out->train[out->trains++];
    train->to = (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(t->port), .sin_addr.s_addr = htonl(host)};
    train->size = length;
    train->length = train->packets = train->iovs = 0;
    train->first_iov = out->iovs;
  }
  for (unsigned i = 0; i < count; i++) out->iov[out->iovs++] = parts[i];
  train->iovs += count;
  train->length += length;
  train->packets++;
  out->packets++;
  add(t, SENT_PACKETS, 1);
  add(t, SENT_BYTES, length);
}

/* Tells the sender of a packet that it did not get through. Not by the TUN: the kernel would take a packet with an own
 * address as its source that comes in there for a forgery. */
static void send_icmp(struct tunnel *t, const struct packet *offender, uint8_t type, uint8_t ttl) {
  uint8_t reply[ICMP_ERROR_MAX];
  size_t length = icmp_error(offender, type, ttl, t->own, reply);
  struct timespec now;
  if (length == 0 || t->raw < 0 || clock_gettime(CLOCK_MONOTONIC_COARSE, &now) != 0) return;
  int64_t ms = (now.tv_sec - t->icmp_since.tv_sec) * 1000 + (now.tv_nsec - t->icmp_since.tv_nsec) / 1000000;
  if (ms >= ICMP_WINDOW_MS) {
    t->icmp_since = now;
    t->icmp_sent = 0;
  }
  if (t->icmp_sent++ >= ICMP_PER_WINDOW) return;
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(packet_source(offender))};
  /* An error about an error would help nobody. */
  (void)!sendto(t->raw, reply, length, MSG_DONTWAIT, (struct sockaddr *)&to, sizeof to);
}

static void forward(struct tunnel *t, uint8_t *bytes, size_t length) {
  struct virtio_net_hdr vnet;
  struct packet packet;
  if (length < sizeof vnet) return;
  memcpy(&vnet, bytes, sizeof vnet);
  /* IPv6 comes from the kernel itself, which looks for neighbours on every device. */
  if (!packet_parse(bytes + sizeof vnet, length - sizeof vnet, &packet)) return;
  const struct peer *peer = find_peer(t, packet_destination(&packet), &t->last_to);
  if (!peer) {
    add(t, UNREACHABLE, 1);
    send_icmp(t, &packet, 3, 8); /* destination (network) unreachable; both numbers are flannel's */
    return;
  }
  if (!packet_decrement_ttl(&packet)) {
    add(t, EXPIRED, 1);
    send_icmp(t, &packet, 11, 64); /* time exceeded */
    return;
  }
  struct segmenter segmenter;
  if (vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE) {
    bool complete = !(vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) || packet_complete_checksum(&packet, &vnet);
    if (!complete) {
      add(t, UNUSABLE, 1);
      return;
    }
    next_headers(t);
    enqueue(t, peer->host, &(struct iovec){packet.ip, packet.length}, 1);
  } else if (segmenter_start(&segmenter, &packet, &vnet)) {
    for (;;) {
      const uint8_t *payload;
      uint8_t *headers = next_headers(t);
      size_t size = segmenter_next(&segmenter, headers, &payload);
      if (size == 0) break;
      enqueue(t, peer->host, (struct iovec[]){{headers, segmenter.header}, {(void *)payload, size}}, 2);
    }
  } else {
    add(t, UNUSABLE, 1);
  }
}

/* Takes what the TUN has, as far as there is room. Returns whether there was anything. */
static bool from_tun(struct tunnel *t) {
  size_t used = 0;
  unsigned reads = 0;
  while (reads < READS && used + READ_SIZE <= ARENA) {
    ssize_t length = read(t->tun, t->arena + used, READ_SIZE);
    if (length < 0) {
      if (errno == EINTR) continue;
      /* Without its device, the descriptor is of no use any more; the daemon makes another one. */
      t->device_gone = errno == EBADFD;
      break;
    }
    reads++;
    forward(t, t->arena + used, (size_t)length);
    used += ((size_t)length + 7) & ~(size_t)7;
  }
  flush(t);
  return reads > 0;
}

/* ---- from the wire to the TUN ---- */

static void write_group(struct tunnel *t) {
  struct group *group = &t->group;
  if (group->count == 0) return;
  group_finish(group);
  ssize_t written;
  do {
    written = writev(t->tun, group->iov, (int)group->count + 1);
  } while (written < 0 && errno == EINTR);
  if (written < 0) {
    add(t, WRITE_ERRORS, group->count);
  } else {
    add(t, RECEIVED_PACKETS, group->count);
    add(t, RECEIVED_BYTES, group->length);
  }
  group->count = 0;
}

static void refuse(struct tunnel *t, enum counter why, uint32_t host) {
  add(t, why, 1);
  set_counter(t, LAST_OFFENDER, host);
}

static void accept_packet(struct tunnel *t, uint8_t *bytes, size_t length, uint32_t host) {
  struct packet packet;
  if (!packet_parse(bytes, length, &packet)) {
    refuse(t, MALFORMED, host);
    return;
  }
  const struct peer *peer = find_peer(t, packet_source(&packet), &t->last_from);
  if (!peer || peer->host != host) {
    refuse(t, FOREIGN, host);
    return;
  }
  if (t->group.count > 0 && group_join(&t->group, &packet, t->with_udp)) return;
  write_group(t);
  group_start(&t->group, &packet);
}

/* The size of the datagrams that UDP_GRO has put together, or that of the one. */
static size_t datagram_size(struct msghdr *message, size_t length) {
  for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
    int size;
    if (c->cmsg_level != IPPROTO_UDP || c->cmsg_type != UDP_GRO) continue;
    memcpy(&size, CMSG_DATA(c), sizeof size);
    if (size > 0) return (size_t)size;
  }
  return length;
}

/* Takes what the socket has, as far as there is room. Returns whether there was anything. */
static bool from_wire(struct tunnel *t) {
  struct inbox *in = &t->in;
  for (unsigned i = 0; i < RECEIVES; i++) {
    in->iov[i] = (struct iovec){in->bytes[i], sizeof in->bytes[i]};
    in->message[i].msg_hdr = (struct msghdr){
        .msg_name = &in->from[i], .msg_namelen = sizeof in->from[i], .msg_iov = &in->iov[i], .msg_iovlen = 1,
        .msg_control = &in->control[i], .msg_controllen = sizeof in->control[i]};
  }
  int received = recvmmsg(t->wire, in->message, RECEIVES, MSG_DONTWAIT, NULL);
  for (int i = 0; i < received; i++) {
    struct mmsghdr *message = &in->message[i];
    uint32_t host = ntohl(in->from[i].sin_addr.s_addr);
    size_t length = message->msg_len, size = datagram_size(&message->msg_hdr, length);
    bool known = is_peer(t, host);
    size_t offset = 0;
    /* An empty datagram is one, too. */
    do {
      size_t left = length - offset;
      if (known) accept_packet(t, in->bytes[i] + offset, left < size ? left : size, host);
      else refuse(t, STRANGERS, host);
      offset += size;
    } while (offset < length);
  }
  write_group(t);
  return received > 0;
}

/* ---- the thread ---- */

static void *run(void *argument) {
  struct tunnel *t = argument;
  struct pollfd fds[] = {{t->wire, POLLIN, 0}, {t->wake, POLLIN, 0}, {t->tun, POLLIN, 0}};
  while (!atomic_load(&t->stop)) {
    take_table(t);
    bool busy = from_wire(t);
    if (!t->device_gone && from_tun(t)) busy = true;
    if (!busy) poll(fds, t->device_gone ? 2 : 3, -1);
  }
  return NULL;
}

static void stop(struct tunnel *t) {
  if (!t->running) return;
  uint64_t one = 1;
  atomic_store(&t->stop, true);
  (void)!write(t->wake, &one, sizeof one);
  pthread_join(t->thread, NULL);
  (void)!read(t->wake, &one, sizeof one);
  t->running = false;
}

/* Runs the thread if it has both ends. Returns 0 or -errno. */
static int start(struct tunnel *t) {
  if (t->tun < 0 || t->wire < 0) return 0;
  sigset_t all, before;
  sigfillset(&all);
  atomic_store(&t->stop, false);
  t->device_gone = false;
  /* Signals are the event loop's business. */
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create(&t->thread, NULL, run, t);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (error == 0) {
    t->running = true;
    pthread_setname_np(t->thread, "flannel-udp");
  }
  return -error;
}

static void replace(int *fd, int by) {
  if (*fd >= 0) close(*fd);
  *fd = by;
}

struct tunnel *tunnel_create(void) {
  struct tunnel *t = calloc(1, sizeof *t);
  if (!t) return NULL;
  t->tun = t->wire = t->raw = -1;
  t->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (t->wake < 0 || tunnel_set_peers(t, NULL, 0) != 0) {
    tunnel_destroy(t);
    return NULL;
  }
  return t;
}

void tunnel_destroy(struct tunnel *t) {
  stop(t);
  replace(&t->tun, -1);
  replace(&t->wire, -1);
  replace(&t->raw, -1);
  replace(&t->wake, -1);
  free(t->table);
  free(atomic_load(&t->next));
  free(t);
}

static int open_tun(char *name, bool *with_udp) {
  struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
  unsigned offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO_ECN;
  int header = sizeof(struct virtio_net_hdr);
  memcpy(request.ifr_name, name, IFNAMSIZ - 1);
  int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return -errno;
  if (ioctl(fd, TUNSETIFF, &request) != 0 || ioctl(fd, TUNSETVNETHDRSZ, &header) != 0) {
    int error = errno;
    close(fd);
    return -error;
  }
  /* Without them it is slower and works as well. */
  *with_udp = ioctl(fd, TUNSETOFFLOAD, offloads | TUN_F_USO4 | TUN_F_USO6) == 0;
  if (!*with_udp) ioctl(fd, TUNSETOFFLOAD, offloads);
  memcpy(name, request.ifr_name, IFNAMSIZ);
  return fd;
}

int tunnel_open_device(struct tunnel *t, char *name, uint32_t own) {
  bool with_udp = false;
  int fd = open_tun(name, &with_udp);
  if (fd < 0) return fd;
  stop(t);
  replace(&t->tun, fd);
  t->with_udp = with_udp;
  t->own = own;
  if (t->raw < 0) t->raw = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
  return start(t);
}

/* Beyond net.core.rmem_max takes CAP_NET_ADMIN; without it, as much as there is to have. */
static void set_buffer(int fd, int option, int forced) {
  int size = SOCKET_BUFFER;
  if (setsockopt(fd, SOL_SOCKET, forced, &size, sizeof size) != 0)
    setsockopt(fd, SOL_SOCKET, option, &size, sizeof size);
}

int tunnel_bind(struct tunnel *t, uint32_t address, uint16_t port) {
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(address)};
  struct timeval patience = {.tv_usec = SEND_TIMEOUT_US};
  int on = 1;
  /* The one that is replaced goes first: the new one may differ in the address alone. */
  stop(t);
  replace(&t->wire, socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (t->wire < 0) return -errno;
  if (bind(t->wire, (struct sockaddr *)&at, sizeof at) != 0) {
    int error = errno;
    replace(&t->wire, -1);
    return -error;
  }
  set_buffer(t->wire, SO_RCVBUF, SO_RCVBUFFORCE);
  set_buffer(t->wire, SO_SNDBUF, SO_SNDBUFFORCE);
  /* Sending waits, so that a slow link slows the pods down instead of losing their packets; but not for ever. */
  setsockopt(t->wire, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  setsockopt(t->wire, IPPROTO_UDP, UDP_GRO, &on, sizeof on); /* slower without, and works as well */
  socklen_t length = sizeof on;
  t->trains = getsockopt(t->wire, IPPROTO_UDP, UDP_SEGMENT, &on, &length) == 0;
  t->port = port;
  return start(t);
}

int tunnel_adopt(struct tunnel *t, int tun, int wire, uint16_t port) {
  stop(t);
  replace(&t->tun, tun);
  replace(&t->wire, wire);
  t->port = port;
  t->trains = t->with_udp = true;
  return start(t);
}
