"""The program that the ZeroMQ message bus document describes, as it behaves: a socket a pattern in asyncio, a future a message.

Settings are its own but for two that favour it: orjson, which the document recommends, and high-water marks that nothing reaches, as
else a PUB socket drops what its subscriber is late for without a word.
"""

from __future__ import annotations

import asyncio
import time

import orjson
import zmq
import zmq.asyncio
from count import Count, arguments, ready


class Bus:
    def __init__(self, service: str, count: int) -> None:
        self.service = service
        self.hwm = count + 1
        self.context = zmq.asyncio.Context()
        self.handlers = {}
        self.sent = self.received = self.dropped = 0

    def bind(self, place: str) -> None:
        self.pub = self.context.socket(zmq.PUB)
        self.pub.setsockopt(zmq.SNDHWM, self.hwm)
        self.pub.bind(place)

    async def publish(self, topic: str, data: dict) -> None:
        envelope = {"topic": topic, "sender": self.service, "ts": time.time(), "data": data}
        try:
            frames = [topic.encode(), orjson.dumps(envelope)]
            await asyncio.wait_for(self.pub.send_multipart(frames), 1.0)
            self.sent += 1
        except (asyncio.TimeoutError, zmq.ZMQError):
            self.dropped += 1

    async def subscribe_loop(self, place: str, topics: list[str]) -> None:
        sub = self.context.socket(zmq.SUB)
        sub.setsockopt(zmq.RCVHWM, self.hwm)
        sub.connect(place)
        for topic in topics:
            sub.setsockopt_string(zmq.SUBSCRIBE, topic)
        while True:
            frames = await sub.recv_multipart()
            self.received += 1
            if len(frames) != 2:
                self.dropped += 1
                continue
            message = orjson.loads(frames[1])
            handler = self.handlers.get(frames[0].decode())
            if handler is None:
                continue
            if asyncio.iscoroutinefunction(handler):
                await handler(message)
            else:
                await asyncio.to_thread(handler, message)


async def receive(place: str, expected: int) -> None:
    bus, count, done = Bus("receives", expected), Count(expected), asyncio.Event()

    async def on_price(message: dict) -> None:
        if count.add(message["data"]["sequence"]):
            done.set()

    bus.handlers["price.tick"] = on_price
    loop = asyncio.create_task(bus.subscribe_loop(place, ["price.tick"]))
    ready()
    while not done.is_set() and not count.idle():
        await asyncio.wait([asyncio.create_task(done.wait())], timeout=0.5)
    loop.cancel()
    count.tell()


async def send(place: str, expected: int) -> None:
    bus = Bus("sends", expected)
    bus.bind(place)
    # What is sent before the subscription has come is lost.
    await asyncio.sleep(1.0)
    for sequence in range(expected):
        await bus.publish("price.tick", {"symbol": "BTC", "price": 43210.5, "sequence": sequence})
    bus.pub.close(linger=30_000)
    bus.context.term()


role, place, expected = arguments()
asyncio.run((receive if role == "receive" else send)(place, expected))
