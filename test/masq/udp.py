"""UDP ends for the traffic tests.

  udp.py serve ADDRESS PORT [GROUP]     answers each datagram with the source address it saw; prints "ready";
                                        with a group, those sent to the group on the interface of ADDRESS
  udp.py ask FROM TO PORT COUNT         sends COUNT datagrams, each from a new port; prints every distinct answer
                                        with how often it came, "lost" included
"""
import collections
import socket
import struct
import sys


def serve(address, port, group=None):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((group or address, int(port)))
    if group:
        join = struct.pack("4s4s", socket.inet_aton(group), socket.inet_aton(address))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, join)
    print("ready", flush=True)
    while True:
        _, peer = sock.recvfrom(64)
        sock.sendto(peer[0].encode(), peer)


def ask(source, target, port, count):
    seen = collections.Counter()
    for _ in range(int(count)):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(3)
        sock.bind((source, 0))
        sock.sendto(b"?", (target, int(port)))
        try:
            seen[sock.recvfrom(64)[0].decode()] += 1
        except OSError:
            seen["lost"] += 1
        sock.close()
    for answer, times in sorted(seen.items()):
        print(answer, times)


{"serve": serve, "ask": ask}[sys.argv[1]](*sys.argv[2:])
