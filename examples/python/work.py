"""Pictures are resized by two workers in an event loop: each by one of them, and what fails by another.

The workers are tasks of one program here; as programs of their own they need the same lines. Run it with `python work.py`.
"""

from __future__ import annotations

import asyncio

import busway
from busway import aio

PICTURES = 100


async def worker(name: str, done: dict[str, int]) -> None:
    async def resize(task: busway.Task) -> None:
        # The first try of each tenth picture fails: it is given back, and somebody tries it again.
        if int(bytes(task)) % 10 == 0 and task.deliveries == 1:
            raise RuntimeError("no room on the disk")
        await asyncio.sleep(0)
        done[name] = done.get(name, 0) + 1

    async with aio.Bus("example-work") as bus, bus.puller("resize", group="resizers", ack=30.0) as puller:
        await aio.work(puller, resize, at_once=4)


async def main() -> None:
    # What handlers raise is told to the loop; here it is expected.
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    done: dict[str, int] = {}
    async with aio.Bus("example-work") as bus, bus.pusher("resize") as pusher:
        workers = [asyncio.create_task(worker(name, done)) for name in ("one", "two")]
        await pusher.wait_for_pullers(2, timeout=5)
        for picture in range(PICTURES):
            await pusher.send(b"%d" % picture)
        # Until each is acknowledged.
        await pusher.flush(timeout=30)
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    print("done", sum(done.values()), "of", PICTURES)


if __name__ == "__main__":
    asyncio.run(main())
