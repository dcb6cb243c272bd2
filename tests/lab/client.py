#!/usr/bin/env python3
"""Asks servers that answer with their own name and their client's address, and tells who answered how
often. Run it inside a container's network namespace.

    client.py count ADDRESS PORT N       N connections, one after another; lines `N SERVER CLIENT`
    client.py udp ADDRESS PORT N         the same by UDP, each flow asking twice and answered by one
    client.py sctp ADDRESS PORT N        the same by SCTP's first messages (raw: the kernel's own SCTP
                                         is not needed); answers must come from ADDRESS
    client.py sctp-server ADDRESS PORT -  what answers them, until it is killed
    client.py load ADDRESS PORT RATE     RATE connections per second until SIGINT or SIGTERM; lines
                                         `TIME SERVER MILLISECONDS` or `TIME failed REASON`
    client.py flow ADDRESS PORT RATE     one flow of datagrams, until SIGTERM; lines `TIME SERVER`
    client.py hold ADDRESS PORT RATE     one connection that is used RATE times per second, likewise
    client.py rate ADDRESS PORT N        N connections, one after another: how many per second, and
                                         their median and 99th percentile latency in microseconds
    client.py ping ADDRESS PORT N        the median round trip of N datagrams in microseconds, on one
                                         flow
"""
import collections
import signal
import socket
import statistics
import struct
import sys
import threading
import time


def ask(address, port):
    with socket.create_connection((address, port), timeout=3) as connection:
        answer = connection.recv(200).decode().strip()
    if not answer:
        raise OSError("no answer")
    return answer


def show(answers):
    for answer, times in sorted(collections.Counter(answers).items()):
        print(times, answer)


def count(address, port, number):
    show(ask(address, port) for _ in range(int(number)))


def udp(address, port, number):
    def flow():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(3)
            client.connect((address, port))
            answers = set()
            for _ in range(2):
                client.send(b"?")
                answers.add(client.recv(200).decode().strip())
        assert len(answers) == 1, f"one flow, answered by {answers}"
        return answers.pop()

    show(flow() for _ in range(int(number)))


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def sctp_packet(source, target, tag, kind, own_tag):
    # RFC 9260, sections 3.1 and 3.3.2: INIT (1) and INIT ACK (2) with the mandatory cookie (7).
    chunk = struct.pack("!IIHHI", own_tag, 65536, 1, 1, 1)
    if kind == 2:
        chunk += struct.pack("!HH4s", 7, 8, b"lab!")
    chunk = struct.pack("!BBH", kind, 0, 4 + len(chunk)) + chunk
    header = struct.pack("!HHI", source, target, tag)
    checksum = struct.pack("<I", crc32c(header + bytes(4) + chunk))
    return header + checksum + chunk


def sctp_socket():
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP)
    raw.settimeout(3)
    return raw


def sctp_parse(packet):
    body = packet[(packet[0] & 15) * 4:]
    source, target, tag = struct.unpack("!HHI", body[:8])
    return socket.inet_ntoa(packet[12:16]), source, target, tag, body[12], struct.unpack("!I", body[16:20])[0]


def sctp(address, port, number):
    raw, answers = sctp_socket(), []
    for source in range(20000, 20000 + int(number)):
        raw.sendto(sctp_packet(source, port, 0, 1, source), (address, 0))
        while True:
            sender, _, target, tag, kind, server = sctp_parse(raw.recv(2000))
            if target == source and kind == 2:
                break
        assert sender == address, f"answered by {sender} instead of {address}"
        assert tag == source
        answers.append(f"{server >> 24}.{server >> 16 & 255}.{server >> 8 & 255}.{server & 255}")
    show(answers)


def sctp_server(address, port, _):
    raw = sctp_socket()
    raw.settimeout(None)
    own_tag, = struct.unpack("!I", socket.inet_aton(address))
    while True:
        sender, source, target, _, kind, tag = sctp_parse(raw.recv(2000))
        if target == port and kind == 1:
            raw.sendto(sctp_packet(port, source, tag, 2, own_tag), (sender, 0))
            print(sender, flush=True)


def until_stopped():
    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return stop


def load(address, port, rate):
    stop, lock = until_stopped(), threading.Lock()
    workers, begin = 20, time.monotonic()

    def work(number):
        due = begin + number / float(rate)
        while not stop.is_set():
            time.sleep(max(0, due - time.monotonic()))
            due += workers / float(rate)
            at, asked = time.time(), time.monotonic()
            try:
                line = f"{ask(address, port).split()[0]} {(time.monotonic() - asked) * 1e3:.1f}"
            except OSError as error:
                line = f"failed {error}"
            with lock:
                print(f"{at:.3f} {line}", flush=True)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(workers)]
    for thread in threads:
        thread.start()
    stop.wait()
    for thread in threads:
        thread.join()


def repeat(rate, question):
    stop = until_stopped()
    while not stop.wait(1 / float(rate)):
        try:
            line = question()
        except OSError as error:
            line = f"failed {error}"
        print(f"{time.time():.3f} {line}", flush=True)


def flow(address, port, rate):
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(0.2)

    def question():
        client.sendto(b"?", (address, port))
        return client.recv(200).decode().split()[0]

    repeat(rate, question)


def hold(address, port, rate):
    connection = socket.create_connection((address, port), timeout=3)
    connection.recv(200)

    def question():
        connection.send(b"?\n")
        answer = connection.recv(200).decode().split()
        return answer[0] if answer else "failed closed"

    repeat(rate, question)


def rate(address, port, number):
    took = []
    for _ in range(int(number)):
        begin = time.monotonic()
        ask(address, port)
        took.append(time.monotonic() - begin)
    took.sort()
    print(round(len(took) / sum(took)), round(statistics.median(took) * 1e6), round(took[len(took) * 99 // 100] * 1e6))


def ping(address, port, number):
    client, took = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), []
    client.settimeout(3)
    client.connect((address, port))
    for _ in range(int(number)):
        begin = time.monotonic()
        client.send(b"?")
        client.recv(200)
        took.append((time.monotonic() - begin) * 1e6)
    print(round(statistics.median(took)))


modes = [count, udp, sctp, sctp_server, load, flow, hold, rate, ping]
{mode.__name__.replace("_", "-"): mode for mode in modes}[sys.argv[1]](sys.argv[2], int(sys.argv[3]), sys.argv[4])
