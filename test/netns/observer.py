"""What Node cannot listen to: unix datagrams (sd_notify) and rtnetlink, with the kernel's monotonic clock.

One JSON command per line on standard input, one JSON line per answer or event on standard output. Standard
library only. Notifications of the kernel are only counted and kept while they stream in; they are taken apart when
somebody asks, so that watching 45,000 of them does not slow down what is being watched.

  {"op": "notify", "path": P}      -> {"ok": "notify"}, later {"notice": TEXT, "path": P, "t": NS} for each datagram
  {"op": "watch", "namespace": N}  -> {"ok": "watch"}
  {"op": "counts", "namespace": N} -> {"counts": {"route": .., "neighbour": .., "fdb": .., "gone": .., "overrun": ..}}
  {"op": "first", "namespace": N}  -> {"first": {"route": {KEY: NS, ...}, "neighbour": {...}, "fdb": {...}, "gone": {...}}}

KEY is the destination address of a route or neighbour and the MAC of an FDB entry; NS is CLOCK_MONOTONIC when that
key was first added, or when a route of that destination first went ("gone").
"""
import ctypes, errno, json, os, selectors, socket, struct, sys, time

NEWROUTE, DELROUTE, NEWNEIGH, AF_BRIDGE = 24, 25, 28, 7
RTMGRP_NEIGH, RTMGRP_IPV4_ROUTE, SO_RCVBUFFORCE, CLONE_NEWNET = 0x4, 0x40, 33, 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
selector = selectors.DefaultSelector()
watches = {}


def say(value):
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def notify(path):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    # A leading @ is an abstract address, which lives in the network namespace of whoever binds it.
    s.bind("\0" + path[1:] if path.startswith("@") else path)

    def readable():
        text = s.recv(65536)
        say({"notice": text.decode(errors="replace"), "path": path, "t": time.monotonic_ns()})

    selector.register(s, selectors.EVENT_READ, readable)
    say({"ok": "notify"})


class Watch:
    def __init__(self, namespace):
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        there = os.open("/run/netns/" + namespace, os.O_RDONLY)
        self.enter(there)
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        self.enter(home)
        os.close(home)
        os.close(there)
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 256 << 20)
        except PermissionError:  # Root of a user namespace only: as much as net.core.rmem_max allows.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 << 20)
        self.socket.bind((0, RTMGRP_NEIGH | RTMGRP_IPV4_ROUTE))
        self.counts = {"route": 0, "neighbour": 0, "fdb": 0, "gone": 0, "overrun": 0}
        self.seen = []
        selector.register(self.socket, selectors.EVENT_READ, self.readable)

    @staticmethod
    def enter(fd):
        if libc.setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")

    def readable(self):
        recv, keep, counts, now = self.socket.recv, self.seen.append, self.counts, time.monotonic_ns
        for _ in range(1000):
            try:
                b = recv(65536)
            except BlockingIOError:
                return
            except OSError as e:
                if e.errno != errno.ENOBUFS:
                    raise
                counts["overrun"] += 1
                continue
            keep((now(), b))
            kind = b[4]
            if kind == NEWROUTE:
                counts["route"] += 1
            elif kind == DELROUTE:
                counts["gone"] += 1
            elif kind == NEWNEIGH:
                counts["fdb" if b[16] == AF_BRIDGE else "neighbour"] += 1

    def first(self):
        found = {"route": {}, "neighbour": {}, "fdb": {}, "gone": {}}
        for t, b in self.seen:
            off = 0
            while off + 16 <= len(b):
                length, kind = struct.unpack_from("=IH", b, off)
                if length < 16:
                    break
                message = b[off : off + length]
                if kind in (NEWROUTE, DELROUTE):
                    key = attribute(message, 16 + 12, 1)
                    found["route" if kind == NEWROUTE else "gone"].setdefault(key and socket.inet_ntoa(key), t)
                elif kind == NEWNEIGH and message[16] == AF_BRIDGE:
                    key = attribute(message, 16 + 12, 2)
                    found["fdb"].setdefault(key and key.hex(":"), t)
                elif kind == NEWNEIGH and message[16] == socket.AF_INET:
                    key = attribute(message, 16 + 12, 1)
                    found["neighbour"].setdefault(key and socket.inet_ntoa(key), t)
                off += (length + 3) & ~3
        return found


def attribute(message, off, wanted):
    while off + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, off)
        if length < 4:
            return None
        if kind == wanted:
            return message[off + 4 : off + length]
        off += (length + 3) & ~3
    return None


def command(line):
    c = json.loads(line)
    if c["op"] == "notify":
        notify(c["path"])
    elif c["op"] == "watch":
        if c["namespace"] in watches:
            old = watches.pop(c["namespace"])
            selector.unregister(old.socket)
            old.socket.close()
        watches[c["namespace"]] = Watch(c["namespace"])
        say({"ok": "watch"})
    elif c["op"] == "counts":
        say({"counts": watches[c["namespace"]].counts})
    elif c["op"] == "first":
        watches[c["namespace"]].readable()
        say({"first": watches[c["namespace"]].first()})


pending = b""


def stdin_readable():
    global pending
    data = os.read(0, 65536)
    if not data:
        sys.exit(0)
    *complete, pending = (pending + data).split(b"\n")
    for line in complete:
        command(line)


selector.register(0, selectors.EVENT_READ, stdin_readable)
while True:
    for key, _ in selector.select():
        key.data()
