"""Two interpreters that are started in the same instant, and know nothing of each other but the name of a topic.

No program here sleeps, looks whether the other is there, or sends twice. Each pair has a domain of its own, so that nobody has met in it
before, and each second pair is started in the other order.
"""

import os
import subprocess
import sys

from stage import PATIENCE, Claims

#: Pairs for each of the two packages: what fits a suite of minutes, where a pair costs a tenth of a second, and a third of one where
#: asyncio is imported too. `cargo xtask soak pairs` starts a thousand.
PAIRS = {"busway": 120, "message_bus": 60}
#: For how long a pair may take to meet: a busy machine may start one of them seconds after the other.
MEET = 30

PUBLISHES = f"""
import busway, sys
with busway.Bus(sys.argv[1]) as bus, bus.publisher("first", late_join={MEET}) as publisher:
    publisher.send(sys.argv[1].encode())
    publisher.flush({MEET})
"""
SUBSCRIBES = f"""
import busway, sys
with busway.Bus(sys.argv[1]) as bus, bus.subscriber("first") as subscriber:
    sample = subscriber.recv({MEET})
    print(sample.sequence, bytes(sample).decode())
"""

#: As the quick start of the document has it, in two programs with the settings that nobody has changed; the cleanup follows at once.
BUS = """
import asyncio, sys
from message_bus import MessageBus, Ports

def bus():
    return MessageBus("analytics", {"domain": sys.argv[1]})
"""
BUS_PUBLISHES = f"""{BUS}
async def main():
    publisher = bus()
    await publisher.publish("price.tick", {{"symbol": "BTC", "pair": sys.argv[1]}})
    await publisher.cleanup()

asyncio.run(main())
"""
BUS_SUBSCRIBES = f"""{BUS}
async def main():
    subscriber, came = bus(), asyncio.Event()

    async def on_price(message):
        print("1", message["data"]["pair"])
        came.set()

    subscriber.register_handler("price.tick", on_price)
    asyncio.create_task(subscriber.subscribe_loop(Ports.GLOBAL_EVENTS, topics=["price.tick"]))
    await asyncio.wait_for(came.wait(), {MEET})
    await subscriber.cleanup()

asyncio.run(main())
"""


class Pairs(Claims):
    def pairs(self, package, publishes, subscribes):
        """Starts pair after pair, and sees that each subscriber had the first message of its publisher."""
        pairs = int(os.environ.get("BUSWAY_PAIRS", PAIRS[package]))
        for number in range(pairs):
            domain = f"pair-{number}"
            order = (publishes, subscribes) if number % 2 else (subscribes, publishes)
            both = [
                subprocess.Popen([sys.executable, "-c", script, domain], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                for script in order
            ]
            ended = [process.communicate(timeout=2 * MEET + PATIENCE) for process in both]
            told = f"pair {number}, {'publisher' if number % 2 else 'subscriber'} first: {ended}"
            self.assertEqual([process.returncode for process in both], [0, 0], told)
            self.assertEqual("".join(said for said, _ in ended), f"1 {domain}\n", told)
        self.evidence(package=package, pairs=pairs, lost=0)

    def test_no_first_message_is_lost_between_two_fresh_interpreters(self):
        self.pairs("busway", PUBLISHES, SUBSCRIBES)

    def test_no_first_message_is_lost_between_two_fresh_programs_of_message_bus(self):
        self.pairs("message_bus", BUS_PUBLISHES, BUS_SUBSCRIBES)
