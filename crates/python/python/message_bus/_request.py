"""Requests and their answers.

Any number of requests is under way at once, each with a deadline of its own, over one requester for each port and event loop:
none waits for another, and one that was not answered leaves nothing behind that could lock the next. Who answers does so for
all requests at once, and survives whatever an answer comes to.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import Callable
from typing import Any

import busway
from busway import aio

from ._breaker import Breaker
from ._core import CALLER, Core
from ._hooks import Rejected, passed
from ._names import PortKey, requests
from ._pull import answer_of

#: Requests that are taken at once.
BATCH = 256
#: Seconds that a send which may not wait has nevertheless: less is no time at all.
AT_LEAST = 0.001


class Cooldown(RuntimeError):
    """An endpoint is left alone, because it has failed a moment ago."""


class Asking:
    def __init__(self, core: Core) -> None:
        self._core = core
        self.fresh()

    def fresh(self) -> None:
        self._requesters: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[PortKey, aio.Requester]]
        self._requesters = weakref.WeakKeyDictionary()
        self._opening: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()

    async def request(self, data: Any, port: PortKey, timeout: float | None) -> Any:
        """The answer. Raises what went wrong, which is counted then."""
        core = self._core
        breaker = core.breaker(f"req:{port}")
        if core.closed:
            core.metrics.dropped_outbound("closed")
            raise busway.Closed(602, "the message bus was cleaned up", core.service)
        leave = breaker.admit()
        if leave is None:
            core.metrics.dropped_outbound("cooldown")
            raise Cooldown(f"requests of port {port} are left alone, because they have failed a moment ago")
        try:
            return await self._asked(data, port, timeout or core.settings.req_total_timeout, breaker, leave)
        except Rejected:
            raise
        except Exception as error:
            core.metrics.error(error.code if isinstance(error, busway.Error) else type(error).__name__)
            raise
        finally:
            # Where it had no outcome: it was cancelled, or has failed before anybody was asked.
            breaker.gave_up(leave)

    async def _asked(self, data: Any, port: PortKey, total: float, breaker: Breaker, leave: int) -> Any:
        core = self._core
        try:
            message = core.envelope(data)
            if core.before_send:
                message = await passed(core.before_send, message)
            payload = core.dumps(message)
        except Rejected:
            core.metrics.dropped_outbound("rejected")
            raise
        except Exception:
            core.metrics.dropped_outbound("unserialisable")
            raise
        try:
            reply = await self._reply(payload, port, total)
        except (busway.TimedOut, TimeoutError) as error:
            core.metrics.request_timeouts += 1
            breaker.failed(leave)
            if isinstance(error, busway.TimedOut):
                raise
            raise busway.TimedOut(402, f"no answer within {total:g} s", f"port {port}") from None
        except busway.NoResponders:
            # Known at once, so that there is nothing to be spared by leaving them alone.
            core.metrics.dropped_outbound("no_responders")
            place, remedy = f"port {port}", f"start response_loop({port}), or wait longer for it (late_join_ms)"
            raise busway.NoResponders(406, "nobody answers requests", place, remedy) from None
        except (busway.ResponderDied, busway.Unanswered, busway.ReplyLost):
            breaker.failed(leave)
            raise
        except busway.ResponderFailed:
            breaker.succeeded(leave)
            raise
        except busway.Error as error:
            core.metrics.dropped_outbound(error.code)
            breaker.failed(leave)
            raise
        breaker.succeeded(leave)
        try:
            return core.loads(reply)
        except Exception:
            core.metrics.dropped_inbound("undecodable")
            raise

    async def _reply(self, payload: bytes, port: PortKey, total: float) -> bytes:
        """The bytes of the answer. At most half of the time goes into sending."""
        requester = await self._requester(port)
        halved = self._core.settings.req_timeout_split == "half"
        async with asyncio.timeout(total / 2):
            pending = await requester.send(payload, total)
        self._core.metrics.messages_sent += 1
        async with pending, asyncio.timeout(total / 2 if halved else None):
            reply = await pending.recv()
        if reply is None:
            raise busway.Unanswered(408, "the request was let go without an answer", f"port {port}")
        return bytes(reply)

    async def _requester(self, port: PortKey) -> aio.Requester:
        loop = asyncio.get_running_loop()
        of_loop = self._requesters.setdefault(loop, {})
        found = of_loop.get(port)
        if found is not None:
            return found
        async with self._opening.setdefault(loop, asyncio.Lock()):
            if port not in of_loop:
                of_loop[port] = await self._opened(port)
            return of_loop[port]

    async def _opened(self, port: PortKey) -> aio.Requester:
        core = self._core

        def open() -> busway.Requester:
            return core.bus().requester(requests(port), late_join=core.settings.responders_wait)

        try:
            requester = aio.Requester.of(await core.in_thread(open))
        except busway.Closed:
            raise
        except busway.Error as error:
            core.not_opened(f"req:{port}", error)
            raise
        core.opened(f"req:{port}")
        return requester

    async def close(self) -> None:
        """Closes what was opened; whoever waits for an answer is told."""
        here = asyncio.get_running_loop()
        for loop, of_loop in list(self._requesters.items()):
            for port, requester in of_loop.items():
                if loop is here:
                    await requester.close()
                elif not loop.is_closed():
                    asyncio.run_coroutine_threadsafe(requester.close(), loop)
                self._core.ended(f"req:{port}")
            of_loop.clear()


class Answering:
    def __init__(self, core: Core) -> None:
        self._core = core
        self.fresh()

    def fresh(self) -> None:
        self.waiting = 0

    async def loop(self, port: PortKey, handle: Callable[[Any], Any]) -> None:
        """Answers requests until it is cancelled."""
        asked = requests(port)

        def open() -> busway.Responder:
            return self._core.bus().responder(asked)

        async def use(native: busway.Responder) -> None:
            responder = aio.Responder.of(native)
            running: set[asyncio.Task[None]] = set()
            try:
                await self._take_all(responder, handle, running)
            finally:
                # They answer through it.
                await self._core.wind_up(running)
                await responder.close()

        await self._core.keep_open(f"rep:{port}", open, use)

    async def _take_all(
        self, responder: aio.Responder, handle: Callable[[Any], Any], running: set[asyncio.Task[None]]
    ) -> None:
        core, config = self._core, self._core.settings
        while True:
            room = config.hwm_inbound - len(running)
            if room <= 0:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                continue
            try:
                async with asyncio.timeout(config.rep_recv_timeout or None):
                    taken = await responder.recv_many(min(room, BATCH))
            except TimeoutError:
                core.metrics.causes["idle"] += 1
                core.log(logging.DEBUG, "idle", "no request came within %s s", config.rep_recv_timeout)
                continue
            except busway.ResourceError as error:
                # More large requests than may be held, until some are answered.
                core.log(logging.DEBUG, "holds", "%s", error)
                await asyncio.sleep(0.001)
                continue
            core.metrics.messages_received += len(taken)
            for request in taken:
                task = asyncio.create_task(self._answer(responder, request, handle))
                running.add(task)
                task.add_done_callback(running.discard)

    async def _answer(self, responder: aio.Responder, request: busway.Request, handle: Callable[[Any], Any]) -> None:
        """Answers one request, with an error where there is no answer."""
        core = self._core
        CALLER.set(asyncio.current_task())
        self.waiting += 1
        try:
            answer = await self._answer_of(bytes(request), handle)
            async with asyncio.timeout(max(core.settings.rep_send_timeout, AT_LEAST)):
                await responder.reply(request, answer)
        except busway.Cancelled:
            # Who asked has given up: the answer is not wanted any more.
            core.metrics.causes["unwanted"] += 1
        except (busway.Error, TimeoutError) as error:
            if not core.closed:
                core.metrics.error("reply")
                core.metrics.dropped_outbound("reply")
                core.log(logging.WARNING, "reply", "an answer could not be sent: %r", error)
        finally:
            self.waiting -= 1

    async def _answer_of(self, payload: bytes, handle: Callable[[Any], Any]) -> bytes:
        core = self._core
        try:
            message = core.loads(payload)
        except Exception as error:
            core.undecodable(error)
            return core.dumps({"error": f"Invalid JSON: {error}", "ts": time.time()})
        if core.after_receive:
            message = await core.received(message)
            if message is None:
                return core.dumps({"error": "Rejected", "ts": time.time()})
        try:
            return core.dumps(await answer_of(handle, message, core))
        except (Exception, asyncio.CancelledError) as error:
            core.handler_failed("requests", error)
            return core.dumps({"error": f"Handler error: {error}", "ts": time.time()})
