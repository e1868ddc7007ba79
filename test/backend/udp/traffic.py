"""Traffic between pods for the udp backend's tests.

  serve            TCP and UDP on port 7000 until killed; says "on" when it listens
  tcp HOST BYTES   sends and receives as many random bytes, compares SHA-256 both ways
  udp HOST         echoes datagrams of many sizes, fragmented ones too
  probe HOST       sends a datagram to HOST and prints the ICMP error that comes back
  listen           prints what arrives on UDP port 9000, one line each; says "on" when it listens
  inject TO PORT SOURCE DESTINATION TEXT   sends an IPv4/UDP packet as a datagram to TO:PORT, as flannel does
  spray TO PORT COUNT                      sends random bytes
"""
import hashlib, os, random, socket, struct, sys, threading

def receive(sock, count):
    digest, left = hashlib.sha256(), count
    while left:
        data = sock.recv(min(left, 1 << 20))
        if not data: raise SystemExit(f"ended {left} bytes too early")
        digest.update(data); left -= len(data)
    return digest.digest()

def send(sock, count):
    digest, block, left = hashlib.sha256(), os.urandom(1 << 20), count
    while left:
        part = block[: min(left, len(block))]
        sock.sendall(part); digest.update(part); left -= len(part)
    return digest.digest()

def serve():
    tcp = socket.create_server(("", 7000))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("", 7000))
    def echo():
        while True:
            data, sender = udp.recvfrom(1 << 16)
            udp.sendto(data, sender)
    threading.Thread(target=echo, daemon=True).start()
    print("on", flush=True)
    while True:
        sock, _ = tcp.accept()
        threading.Thread(target=answer, args=(sock,), daemon=True).start()

def answer(sock):
    (count,) = struct.unpack("!Q", sock.recv(8, socket.MSG_WAITALL))
    sock.sendall(receive(sock, count))
    sock.sendall(send(sock, count))

def tcp(host, count):
    sock = socket.create_connection((host, 7000), timeout=60)
    sock.sendall(struct.pack("!Q", count))
    digest = send(sock, count)
    assert sock.recv(32, socket.MSG_WAITALL) == digest, "what was sent is not what arrived"
    digest = receive(sock, count)
    assert sock.recv(32, socket.MSG_WAITALL) == digest, "what was received is not what was sent"

def udp(host):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sock.settimeout(0.5); sock.connect((host, 7000))
    sizes = [*range(0, 50), *range(1400, 1500), 2000, 4000, 9000, 30000, 65507]
    for size in sizes:
        data = os.urandom(size)
        for _ in range(20):
            sock.send(data)
            try:
                got = sock.recv(1 << 16)
                while got != data and len(got) != size: got = sock.recv(1 << 16)
            except socket.timeout: continue
            assert got == data, f"{size} bytes came back changed"
            break
        else: raise SystemExit(f"no echo of {size} bytes")
    # Trains of equal datagrams, as UDP_SEGMENT makes them: one by one they have to come out again.
    sock.setsockopt(socket.IPPROTO_UDP, 103, 1000)
    for _ in range(20):
        data = [bytes([i]) * 1000 for i in range(30)] + [b"last"]
        sock.send(b"".join(data))
        try:
            if [sock.recv(1 << 16) for _ in data] == data: return
        except socket.timeout: continue
    raise SystemExit("a train did not come back whole")

def probe(host):
    icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP); icmp.settimeout(3)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if ":" in host:
        host, ttl = host.split(":")
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, int(ttl))
    sock.sendto(b"x" * 20, (host, 9999))
    try: data, (sender, _) = icmp.recvfrom(2000)
    except socket.timeout: return print("nothing")
    quoted = data[28:]
    print(f"type {data[20]} code {data[21]} from {sender} ttl {data[8]} length {len(data)} about {socket.inet_ntoa(quoted[16:20])}")

def listen():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sock.bind(("", 9000))
    print("on", flush=True)
    while True: print(sock.recv(1 << 16).decode(), flush=True)

def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16: total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

def inject(to, port, source, destination, text):
    body = struct.pack("!HHHH", 9000, 9000, 8 + len(text), 0) + text.encode()
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(destination))
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(head + body, (to, port))

def spray(to, port, count):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for i in range(count):
        data = bytearray(os.urandom(random.choice([0, 1, 19, 20, 21, 60, 1472, 9000])))
        if data and i % 2: data[0] = 0x45
        if len(data) >= 20 and i % 4 == 3: data[2:4] = struct.pack("!H", len(data))
        sock.sendto(data, (to, port))

what, *args = sys.argv[1:]
globals()[what](*[int(a) if a.isdigit() else a for a in args])
