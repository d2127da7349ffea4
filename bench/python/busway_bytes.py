"""Bytes in batches over Busway: 64 bytes a message, sent 256 at a time, taken as views of where they lie."""

from __future__ import annotations

import struct

import busway
from count import Count, arguments, ready

BODY = bytes(56)
BATCH = 256
sequence_of = struct.Struct("<Q56x").unpack


def receive(place: str, expected: int) -> None:
    count = Count(expected)
    with busway.Bus(place, name="receives") as bus, bus.subscriber("price.tick", policy="block") as subscriber:
        ready()
        done = False
        while not done and not count.idle():
            try:
                samples = subscriber.recv_many(1024, timeout=0.5)
            except busway.TimedOut:
                continue
            done = bool(samples) and count.add_all([sequence_of(sample)[0] for sample in samples])
        count.tell()


def send(place: str, expected: int) -> None:
    with busway.Bus(place, name="sends") as bus, bus.publisher("price.tick", max_wait=30.0) as publisher:
        publisher.wait_for_subscribers(1, timeout=10)
        for first in range(0, expected, BATCH):
            last = min(first + BATCH, expected)
            publisher.send_many([sequence.to_bytes(8, "little") + BODY for sequence in range(first, last)])
        publisher.flush(timeout=30.0)


role, place, expected = arguments()
(receive if role == "receive" else send)(place, expected)
