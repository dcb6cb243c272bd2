#!/usr/bin/env python3
"""Opens connections one after another to servers that answer with their own and their client's
address, and tells who answered how often. Run it inside a container's network namespace.

    client.py count ADDRESS PORT N       N connections; lines `N SERVER CLIENT`
    client.py load ADDRESS PORT RATE     RATE connections per second until SIGINT or SIGTERM; lines
                                         `TIME SERVER` or `TIME failed REASON`
    client.py rate ADDRESS PORT SECONDS  connections per second and their median and 99th
                                         percentile latency in microseconds
"""
import collections
import signal
import socket
import statistics
import sys
import threading
import time


def ask(address, port):
    with socket.create_connection((address, port), timeout=3) as connection:
        answer = connection.makefile().readline().strip()
    if not answer:
        raise OSError("no answer")
    return answer


def count(address, port, number):
    answers = collections.Counter(ask(address, port) for _ in range(int(number)))
    for answer, times in sorted(answers.items()):
        print(times, answer)


def load(address, port, rate):
    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    lock = threading.Lock()
    workers, begin = 10, time.monotonic()

    def work(number):
        due = begin + number / float(rate)
        while not stop.is_set():
            time.sleep(max(0, due - time.monotonic()))
            due += workers / float(rate)
            at = time.time()
            try:
                line = ask(address, port).split()[0]
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


def rate(address, port, seconds):
    took, end = [], time.monotonic() + float(seconds)
    while (begin := time.monotonic()) < end:
        ask(address, port)
        took.append((time.monotonic() - begin) * 1e6)
    took.sort()
    print(len(took) // float(seconds), round(statistics.median(took)), round(took[len(took) * 99 // 100]))


{"count": count, "load": load, "rate": rate}[sys.argv[1]](sys.argv[2], int(sys.argv[3]), sys.argv[4])
