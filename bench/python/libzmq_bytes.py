"""Bytes over libzmq by pyzmq, blocking, without asyncio: what libzmq itself does from Python."""

from __future__ import annotations

import struct

import zmq
from count import Count, arguments, ready

BODY = bytes(56)
sequence_of = struct.Struct("<Q56x").unpack


def receive(place: str, expected: int) -> None:
    count = Count(expected)
    context = zmq.Context()
    pull = context.socket(zmq.PULL)
    pull.setsockopt(zmq.RCVHWM, 100_000)
    pull.setsockopt(zmq.RCVTIMEO, 500)
    pull.bind(place)
    ready()
    done = False
    while not done and not count.idle():
        try:
            frame = pull.recv()
        except zmq.Again:
            continue
        done = count.add(sequence_of(frame)[0])
    count.tell()


def send(place: str, expected: int) -> None:
    context = zmq.Context()
    push = context.socket(zmq.PUSH)
    push.setsockopt(zmq.SNDHWM, 100_000)
    push.connect(place)
    for sequence in range(expected):
        push.send(sequence.to_bytes(8, "little") + BODY)
    push.close(linger=30_000)
    context.term()


role, place, expected = arguments()
(receive if role == "receive" else send)(place, expected)
