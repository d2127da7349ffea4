"""A port of the bus for one topic, and what is sent through it within one turn of an event loop.

The first message of a turn goes at once, so that one alone is not held up by what its task does next. Those after it wait for
the end of the turn and go as one batch: no more than there is surely room for, so that nothing of it has to be waited for.

Invariant: what a task hands in leaves in its order; what is in the batch is sent by the loop of the route, and counted then. So
nothing of that loop goes past the batch, and whoever waits in another loop holds up nothing of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from threading import Lock, get_ident
from typing import Any, TypeVar

import busway

from ._core import Core

#: Messages that are sent before the loop has its turn: a flood must not keep others from reading it.
TURN = 64
#: Larger messages are not put into a batch, which is copied in one piece.
BATCHED_BYTES_MAX = 1 << 16
#: Ids that a loop remembers, to drop what comes again: all that are sent within the longest pause of a retry, for most programs.
IDS = 1024
#: The shortest and longest pause before the next look for room, in seconds: who reads a queue of a thousand has read half of it.
PAUSE = (0.001, 0.005)
#: Seconds for which one looks in each turn of the loop before the first pause: as long as that would be. No pause of an event loop
#: is shorter than a millisecond, in which a reader that keeps up has read all that there is, and waits.
BRISK = 0.001
#: Of the waits that follow one that took longer one begins with a pause, then two, and so on up to so many, until one does not
#: take longer: a reader that is slow is not looked at all the time.
PATIENT = 16
#: What an account tells that is no fault: who left, what nobody waited for, and what came again.
NO_FAULT = frozenset(
    ["conflated", "duplicate", "no_subscriber", "subscriber_died", "subscriber_left", "expired", "cancelled", "dead_letter"]
)

Port = busway.Publisher | busway.Pusher
T = TypeVar("T")


def lost(account: dict[str, Any]) -> int:
    """Messages of an account that are lost, and should not have been."""
    return sum(count for cause, count in account["dropped"].items() if cause not in NO_FAULT)


def slots(hwm: int) -> int:
    """Messages that a ring of the bus holds for so many: the next power of two, at least 32."""
    return max(32, 1 << (hwm - 1).bit_length())


class Route:
    def __init__(self, core: Core, endpoint: str, native: Port, exactly: int | None, timeout: float) -> None:
        self.endpoint = endpoint
        self.native = native
        #: Senders that wait for room, in any loop.
        self.waiting: set[object] = set()
        #: Subscribers for which the publisher waits no more, each time that one became so.
        self.stalled = 0
        self._hwm = core.settings.hwm_outbound
        self.slots = slots(self._hwm)
        #: Sends the rest of a batch for which there was no room.
        self.rest: asyncio.Task[None] | None = None
        self._core = core
        self._timeout = timeout
        #: Messages that may wait, where that is held to the letter.
        self._exactly = exactly
        #: Held by a loop that takes over from one that is closed, and while `rest` is set: loops run in threads.
        self._succession = Lock()
        #: The loop that sends batches: the first one, until it is closed.
        self._loop: asyncio.AbstractEventLoop | None = None
        #: The thread in which the loop is, in a turn in which something was sent; else 0, which is none.
        self._turn_of = 0
        self._batch: list[bytes] = []
        #: Messages for which there is room, as far as was looked.
        self._credit = 0
        self._lost = 0
        #: Waits for room that are still to begin with a pause, and how many there were after the last that took long.
        self._patient = self._patience = 0

    async def when_there_is_room(self, send: Callable[[], T], timeout: float) -> T:
        """Tries to send until it works. Raises Full when the time is over."""
        loop = asyncio.get_running_loop()
        began, pause = loop.time(), 0.0
        brisk = BRISK if self._patient == 0 else 0.0
        self._patient = max(0, self._patient - 1)
        while True:
            await asyncio.sleep(pause)
            try:
                sent = send()
                self._patience = 0 if brisk else self._patience
                return sent
            except busway.Full:
                waited = loop.time() - began
                if waited >= timeout:
                    raise
            if waited >= brisk:
                if brisk:
                    self._patient = self._patience = min(max(2 * self._patience, 1), PATIENT)
                    brisk = 0.0
                pause = min(max(2 * pause, PAUSE[0]), PAUSE[1])

    def is_heard(self) -> bool:
        """Whether anybody listens."""
        native: Any = self.native
        return bool(native.subscribers if self._exactly is None else native.pullers)

    def room(self) -> int:
        """Messages for which there is room: so many at least, and exactly where one reads it."""
        return self._hwm - self.native._in_flight

    def send_now(self, payload: bytes, id: str | None = None, trace: str | None = None) -> busway.Sent:
        """Sends, or raises Full. By its id a message is known again where it comes twice; its trace stands in the header as well."""
        if self._exactly is not None and self._credit <= 0 and self.room() <= 0:
            raise busway.Full(401, "as many messages wait as may", self.native.topic, "raise hwm_outbound")
        try:
            if id is None and trace is None:
                sent = self.native.try_send(payload)
            else:
                sent = self.native.try_send(payload, id=id, traceparent=trace)
        except busway.TimedOut as error:
            # Another thread has the port, for longer than a moment: that is no fault of the endpoint.
            cause, remedy = "another thread uses the port", "try again in a moment"
            raise busway.Full(401, cause, self.native.topic, remedy) from error
        if sent.stalled:
            self.stalled += sent.stalled
            text = "%d subscribers of %s did not take a message within %s s: they are waited for when they have caught up"
            topic = self.native.topic
            self._core.log(logging.WARNING, f"stalled {topic}", text, sent.stalled, topic, self._timeout)
        self._credit -= 1
        return sent

    def take(self, payload: bytes, id: str | None = None) -> None:
        """Sends a message, at the end of this turn of the loop if not at once; one with an id by itself. Raises what hinders it now."""
        if id is None and self._may_wait() and self._credit > 0 and len(payload) <= BATCHED_BYTES_MAX:
            self._credit -= 1
            self._batch.append(payload)
            return
        loop = asyncio.get_running_loop()
        if self._loop is not loop and not self._is_for(loop):
            self.send_now(payload, id)
        else:
            if self._batch:
                self.flush(loop)
                if self.rest is not None:
                    raise busway.Full(401, "others wait before it", self.native.topic, "wait for them")
            self.send_now(payload, id)
            if not self._turn_of:
                self._turn_of = get_ident()
                loop.call_soon(self._end_turn, loop)
        self._core.metrics.messages_sent += 1

    def _may_wait(self) -> bool:
        """Whether this is the loop that sends batches, in a turn that it will end. To ask for the loop that runs is a call of the kernel in Python 3.11."""
        return self._turn_of == get_ident() and self._loop is not None and self._loop.is_running()

    def is_held_up(self) -> bool:
        """Whether something waits for room, and goes before what is sent now."""
        rest = self.rest
        if rest is not None and rest.get_loop().is_closed():
            # Its loop has ended before it: what it had is sent by the next loop.
            with self._succession:
                if self.rest is rest:
                    self.rest = None
        return bool(self.waiting) or self.rest is not None

    def _is_for(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the loop may send batches, from now on."""
        if self._loop is None or self._loop.is_closed():
            with self._succession:
                # Another may have been faster.
                before = self._loop
                if before is None or before.is_closed():
                    self._turn_of, self._credit, self.rest, self._loop = 0, 0, None, loop
        return self._loop is loop

    def _end_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._turn_of = 0
        self.flush(loop)
        if self._credit < TURN:
            try:
                self._credit = self.room()
            except busway.Error:
                self._credit = 0

    def flush(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Sends what waits for the end of the turn, where it is this loop that does."""
        while self._batch and loop is not None and self._is_for(loop) and self.rest is None:
            if not self._send_some() and self._batch:
                # There is less room than there was: memory is short, or another thread had it.
                self._credit = 0
                self._core.metrics.backpressure_events += 1
                with self._succession:
                    self.rest = loop.create_task(self._send_rest(loop.time() + self._timeout))

    async def _send_rest(self, until: float) -> None:
        """Sends what is left of a batch, until `until`. What is not sent then, or with its loop, stays in the batch."""
        loop = asyncio.get_running_loop()
        try:
            while self._batch:
                try:
                    await self.when_there_is_room(self._send_some_now, max(0.0, until - loop.time()))
                except busway.Error as error:
                    if self._batch:
                        del self._batch[0]
                        self._core.lost_on_the_way(self.endpoint, error)
        finally:
            if self.rest is asyncio.current_task():
                self.rest = None

    def _send_some(self) -> int:
        """Sends the first of a batch, as many as there is room for; returns how many left it. What cannot be sent is counted."""
        batch, failed = self._batch, None
        room = len(batch) if self._exactly is None else max(0, self.room())
        try:
            sent = self.native.try_send_many(batch[:room]) if room else 0
        except busway.Error as error:
            sent, failed = error.sent, error
        self._core.metrics.messages_sent += sent
        del batch[:sent]
        if failed is not None:
            del batch[0]
            self._core.lost_on_the_way(self.endpoint, failed)
            sent += 1
        return sent

    def _send_some_now(self) -> None:
        """The same; raises Full where there is no room for one."""
        # They may be given up meanwhile.
        if self._batch and not self._send_some():
            self.send_now(self._batch[0])
            del self._batch[0]
            self._core.metrics.messages_sent += 1

    def give_up(self) -> int:
        """Forgets what waits to be sent; returns how many messages that was."""
        left = len(self._batch)
        self._batch.clear()
        return left

    def losses(self) -> int:
        """Messages that were sent and are lost, for each subscriber that has lost them."""
        account = self.native.account()
        # What a slow subscriber will not find any more counts as soon as it is gone, not when that one looks.
        beyond = account["in_flight"] - self.slots * max(1, account["subscribers"])
        # Who leaves takes along what it had not read, and a count never falls.
        self._lost = max(lost(account) + max(0, int(beyond)), self.stalled, self._lost)
        return self._lost

    def account(self) -> Counter[str]:
        """What became of what was sent: what was taken, what is under way, and what was lost, by cause."""
        account = self.native.account()
        counts = Counter({f"lost.{cause}": count for cause, count in account["dropped"].items()})
        counts.update(delivered=account["delivered"], in_flight=account["in_flight"], expected=account["expected"])
        return counts

    def unattended(self) -> int:
        """Messages for which nobody came in time."""
        return int(self.native.account()["dropped"].get("no_subscriber", 0))
