#!/usr/bin/env python3
"""A DNS client and a DNS server for tests; neither interprets more than it must.

dns.py ask SERVER NAME [TYPE] [tcp|udp] [EDNS-SIZE]   prints the code, `tc` if cut off, the answers;
                                                      gives up after PATIENCE (5) seconds
dns.py ttl SERVER NAME                                prints how long the answers may be remembered
dns.py nonsense SERVER COUNT                          sends datagrams that are not or hardly queries
dns.py watch SERVER NAME RATE SECONDS                 prints `MILLISECONDS CODE ANSWERS...` for each query
dns.py serve ADDRESS                                  answers all names, in a form that must arrive as it is
"""
import os
import random
import selectors
import socket
import struct
import sys
import threading
import time

PATIENCE = float(os.environ.get("PATIENCE", 5))
TYPES = {"A": 1, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28}
CODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}


def encode(name):
    labels = [label.encode() for label in name.rstrip(".").split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def query(name, kind, edns=0):
    number = random.randrange(65536)
    header = struct.pack(">6H", number, 0x0100, 1, 0, 0, 1 if edns else 0)
    extra = b"\0" + struct.pack(">HHIH", 41, edns, 0, 0) if edns else b""
    return header + encode(name) + struct.pack(">2H", TYPES[kind], 1) + extra


def read_name(message, at):
    labels, end = [], None
    while message[at]:
        if message[at] >= 0xC0:
            end = end or at + 2
            at = (message[at] & 0x3F) << 8 | message[at + 1]
        else:
            labels.append(message[at + 1:at + 1 + message[at]].decode())
            at += 1 + message[at]
    return ".".join(labels) + ".", end or at + 1


def read(message):
    """The code, with tc if cut off, the data of the answers, and how long they may be remembered."""
    _, flags, questions, answers, _, _ = struct.unpack(">6H", message[:12])
    at = 12
    for _ in range(questions):
        at = read_name(message, at)[1] + 4
    data, ttls = [], set()
    for _ in range(answers):
        at = read_name(message, at)[1]
        kind, _, ttl, length = struct.unpack(">HHIH", message[at:at + 10])
        ttls.add(ttl)
        at += 10
        if kind == 1:
            data.append(socket.inet_ntop(socket.AF_INET, message[at:at + 4]))
        elif kind == 28:
            data.append(socket.inet_ntop(socket.AF_INET6, message[at:at + 16]))
        elif kind == 12:
            data.append(read_name(message, at)[0])
        else:
            data.append(message[at:at + length].hex())
        at += length
    code = CODES.get(flags & 15, str(flags & 15))
    return code + (" tc" if flags & 0x0200 else ""), data, ttls


def ask(server, name, kind="A", over="udp", edns=0):
    asked = query(name, kind, int(edns))
    if over == "tcp":
        with socket.create_connection((server, 53), PATIENCE) as stream:
            stream.sendall(struct.pack(">H", len(asked)) + asked)
            file = stream.makefile("rb")
            answer = file.read(struct.unpack(">H", file.read(2))[0])
    else:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect((server, 53))
            sock.send(asked)
            answer = sock.recv(65535)
    assert answer[:2] == asked[:2]
    return read(answer)


def watch(server, name, rate, seconds):
    """Asks at a steady pace, whether answers come or not."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((server, 53))
    sock.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(sock, selectors.EVENT_READ)
    begin = due = time.time()
    while due < begin + float(seconds):
        sock.send(query(name, "A"))
        due += 1 / float(rate)
        while (left := due - time.time()) > 0:
            for _ in selector.select(left):
                code, data, _ = read(sock.recv(65535))
                print(int(time.time() * 1000), code, *sorted(data), flush=True)


def nonsense(server, count):
    """Noise, and queries with some bytes changed, cut short or repeated; nobody waits for answers."""
    chance = random.Random(1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for number in range(int(count)):
            datagram = bytearray(query("foo.weave.local", "A", 4096))
            if number % 4 == 0:
                datagram = bytearray(chance.randbytes(chance.randrange(600)))
            for _ in range(min(len(datagram), chance.randrange(4))):
                datagram[chance.randrange(len(datagram))] = chance.randrange(256)
            datagram = datagram[:chance.randrange(len(datagram) + 1)] if number % 3 == 0 else datagram
            sock.sendto(datagram, (server, 53))


def answer(asked):
    """Mixed case, an authority, an extra record of an unknown type: all of it is to arrive."""
    end = read_name(asked, 12)[1] + 4
    name, kind = asked[12:end - 4], struct.unpack(">H", asked[end - 4:end - 2])[0]
    data = {1: bytes([203, 0, 113, 7]), 15: b"\0\x05" + encode("Mail.Example.org")}.get(kind, b"\x04test")
    record = name + struct.pack(">HHIH", kind, 1, 300, len(data)) + data
    extra = b"\0" + struct.pack(">HHIH", 65280, 1, 7, 3) + b"xyz"
    header = asked[:2] + struct.pack(">5H", 0x8580, 1, 1, 0, 1)
    return header + asked[12:end] + record + extra


def serve(address):
    def over_tcp():
        listener = socket.create_server((address, 53))
        while True:
            stream = listener.accept()[0]
            file = stream.makefile("rb")
            length = file.read(2)
            if len(length) == 2:
                reply = answer(file.read(struct.unpack(">H", length)[0]))
                stream.sendall(struct.pack(">H", len(reply)) + reply)
            stream.close()

    threading.Thread(target=over_tcp, daemon=True).start()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 53))
    while True:
        asked, who = sock.recvfrom(4096)
        sock.sendto(answer(asked), who)


if __name__ == "__main__":
    command, *words = sys.argv[1:]
    if command == "ask":
        code, data, _ = ask(*words)
        print(code, *sorted(data))
    elif command == "ttl":
        print(*sorted(ask(*words)[2]))
    else:
        {"watch": watch, "serve": serve, "nonsense": nonsense}[command](*words)
