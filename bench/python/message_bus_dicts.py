"""The same program over Busway: the module `message_bus`, a dict a message through `publish` and an async handler."""

from __future__ import annotations

import asyncio

from count import Count, arguments, ready
from message_bus import MessageBus, Ports


def bus(name: str, place: str) -> MessageBus:
    # A publisher waits for room, as long as its subscriber takes.
    return MessageBus(name, config={"serializer": "orjson", "domain": place, "pub_send_timeout": 30.0})


async def receive(place: str, expected: int) -> None:
    here, count, done = bus("receives", place), Count(expected), asyncio.Event()

    async def on_price(message: dict) -> None:
        if count.add(message["data"]["sequence"]):
            done.set()

    here.register_handler("price.tick", on_price)
    loop = asyncio.create_task(here.subscribe_loop(Ports.GLOBAL_EVENTS, topics=["price.tick"]))
    await asyncio.sleep(0.5)
    ready()
    while not done.is_set() and not count.idle():
        await asyncio.wait([asyncio.create_task(done.wait())], timeout=0.5)
    loop.cancel()
    count.tell()
    await here.cleanup()


async def send(place: str, expected: int) -> None:
    here = bus("sends", place)
    await here.ready("price.tick")
    for sequence in range(expected):
        await here.publish("price.tick", {"symbol": "BTC", "price": 43210.5, "sequence": sequence})
    await asyncio.sleep(1.0)
    await here.cleanup()


role, place, expected = arguments()
asyncio.run((receive if role == "receive" else send)(place, expected))
