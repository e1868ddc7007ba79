"""Binds a unix datagram socket (a path, or @name in the abstract namespace) and prints one datagram as JSON."""
import json
import socket
import sys

address = sys.argv[1]
reader = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
reader.bind('\0' + address[1:] if address.startswith('@') else address)
print('bound', flush=True)
print(json.dumps(reader.recv(4096).decode()), flush=True)
