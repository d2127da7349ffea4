"""Handlers that run at once: a loop that takes what comes for as long as there is a hand for it.

No more is taken than is being handled, so that the others of a group get the rest. What a handler raises is told to the loop's
exception handler and to who waits for the outcome, and ends nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import busway

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .aio import Puller, Responder

__all__ = ["serve", "work"]

T = TypeVar("T")


def _tell(what: str, error: Exception) -> None:
    asyncio.get_running_loop().call_exception_handler({"message": what, "exception": error})


async def _handle(recv: Callable[[], Awaitable[T]], handle: Callable[[T], Awaitable[None]], at_once: int) -> None:
    if at_once < 1:
        raise ValueError("at_once is at least 1")
    hands = asyncio.Semaphore(at_once)
    running: set[asyncio.Task[None]] = set()

    def ended(task: asyncio.Task[None]) -> None:
        running.discard(task)
        hands.release()

    async def run(taken: T) -> None:
        await handle(taken)

    async with asyncio.TaskGroup() as group:
        while True:
            await hands.acquire()
            try:
                taken = await recv()
            except busway.Closed:
                # What was taken is handled to its end.
                return
            except busway.ResourceError:
                hands.release()
                if not running:
                    raise
                # As much is held as may be: until a handler lets go of some.
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                continue
            task = group.create_task(run(taken))
            running.add(task)
            task.add_done_callback(ended)
            del taken, task


async def serve(
    responder: Responder, handler: Callable[[busway.Request], Awaitable[Buffer | None]], *, at_once: int = 16
) -> None:
    """Answers requests with what `handler` returns, at most `at_once` at a time, until the responder or its bus is closed.

    A handler that returns None has replied itself (`request.reply_part`, `request.reply`), or leaves the request unanswered. What
    it raises is told to who asked, as ResponderFailed. Where this is cancelled the handlers are, and their requests are
    unanswered.

    >>> import asyncio
    >>> from busway import aio
    >>> async def double(request):
    ...     return 2 * bytes(request)
    >>> async def main():
    ...     async with aio.Bus("example") as bus, bus.responder("double") as responder, bus.requester("double") as requester:
    ...         serving = asyncio.create_task(aio.serve(responder, double, at_once=4))
    ...         reply = await requester.request(b"ab", timeout=5)
    ...         await responder.close()
    ...         await serving
    ...         return bytes(reply)
    >>> asyncio.run(main())
    b'abab'
    """

    async def handle(request: busway.Request) -> None:
        with request:
            try:
                answer = await handler(request)
                if answer is not None:
                    await responder.reply(request, answer)
            except busway.Cancelled:
                # Nobody waits for it any more.
                return
            except Exception as error:
                _tell(f"a handler of requests on {request.topic} failed", error)
                if not request.done:
                    await _fail(request, error)

    async def _fail(request: busway.Request, error: Exception) -> None:
        try:
            await responder.fail(request, f"{type(error).__name__}: {error}")
        except busway.Error:
            # It is cancelled, or cannot be told.
            pass

    await _handle(responder.recv, handle, at_once)


async def work(puller: Puller, handler: Callable[[busway.Task], Awaitable[Any]], *, at_once: int = 16) -> None:
    """Has tasks done by `handler`, at most `at_once` at a time, until the puller or its bus is closed.

    A task is acknowledged when its handler returns, and given back where that raises or is cancelled; one that the handler has
    acknowledged or given back itself is left alone.

    >>> import asyncio
    >>> from busway import aio
    >>> async def main():
    ...     done = []
    ...     async def note(task):
    ...         done.append(bytes(task))
    ...     async with aio.Bus("example") as bus, bus.pusher("notes") as pusher, bus.puller("notes", ack=30) as puller:
    ...         working = asyncio.create_task(aio.work(puller, note))
    ...         await pusher.send(b"one")
    ...         await pusher.send(b"two")
    ...         await pusher.flush()
    ...         await puller.close()
    ...         await working
    ...         return sorted(done)
    >>> asyncio.run(main())
    [b'one', b'two']
    """

    async def handle(task: busway.Task) -> None:
        try:
            with task:
                await handler(task)
        except Exception as error:
            # Also TooLate: it was given to another meanwhile.
            _tell("a handler of work failed", error)

    # Not `recv`, by which the one before would be over.
    await _handle(puller._one, handle, at_once)
