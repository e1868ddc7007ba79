/*
 * The data path of flannel's udp backend: a TUN device and a UDP socket, with a thread between them.
 *
 *     from_tun   read a packet or super-packet - find the peer - cut it - sendmmsg(2), UDP_SEGMENT
 *     from_wire  recvmmsg(2), UDP_GRO - known sender, own source - group of one flow - one write
 *
 * One thread does both ways in turn and owns everything while it runs. Others may only hand it a new table of peers,
 * which it takes over at its next turn (one atomic exchange each, no lock), and read the counters. For anything else
 * the thread is ended first and started again, which takes microseconds.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* A lease of another node: the first and last address of its subnet, and where it is; host order. */
struct peer {
  uint32_t first, last, host;
};

/* What src/backend/udp/tunnel.ts calls them, in its order. */
enum counter {
  SENT_PACKETS, SENT_BYTES, RECEIVED_PACKETS, RECEIVED_BYTES,
  STRANGERS,     /* packets from a host that is no peer */
  FOREIGN,       /* packets of a peer with a source that is not in its subnet */
  MALFORMED,     /* what is no whole IPv4 packet, from a peer */
  UNREACHABLE,   /* packets to where no peer is */
  EXPIRED,       /* packets whose time to live was over */
  SEND_ERRORS,   /* packets that the UDP socket would not take */
  UNUSABLE,      /* packets that the TUN gave us in a form that we did not ask for */
  WRITE_ERRORS,  /* packets that the TUN would not take */
  LAST_OFFENDER, /* no count: the host that sent the last of STRANGERS, FOREIGN or MALFORMED */
  COUNTERS
};

struct tunnel;

/* NULL when there is no memory. */
struct tunnel *tunnel_create(void);
/* Ends the thread and closes all; the tunnel is gone. */
void tunnel_destroy(struct tunnel *tunnel);

/* Makes a TUN device of that name, or after that pattern (`flannel%d`), in place of the one that the tunnel had;
 * `name` has IFNAMSIZ bytes and becomes the real name. `own` is the source of ICMP errors. Returns 0 or -errno. */
int tunnel_open_device(struct tunnel *tunnel, char *name, uint32_t own);
/* Binds the UDP socket in place of the one it had; peers are sent to at the same port. Returns 0 or -errno. */
int tunnel_bind(struct tunnel *tunnel, uint32_t address, uint16_t port);
/* Hands over the whole list of peers; ranges must not overlap. Returns 0 or -errno. */
int tunnel_set_peers(struct tunnel *tunnel, const struct peer *peers, size_t count);
uint64_t tunnel_counter(const struct tunnel *tunnel, enum counter which);

/* For tests: takes over descriptors that behave like a TUN and like a UDP socket. Returns 0 or -errno. */
int tunnel_adopt(struct tunnel *tunnel, int tun, int wire, uint16_t port);
