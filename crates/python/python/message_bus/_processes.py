"""Sync handlers in processes of their own, for those that compute: `sync_executor="process"`.

The processes are spawned, never forked: a fork would take along the threads and the locks of the bus. So a handler is looked
up there by its name, and one that has none (a lambda, a function within a function, a method of what cannot be pickled) is
refused where it is registered. A process has no bus; what a handler returns is let go, and what it raises comes back as text.

Invariant: no process outlives the one that it works for, however that ends.
"""

from __future__ import annotations

import contextlib
import inspect
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

#: Processes where their number is not limited: as many as there are processors, and no more than this. Each is an interpreter.
PROCESSES_MAX = 8


class HandlerFailed(RuntimeError):
    """What a handler raised in its process, as text."""


def pickled(function: Callable[[Any], Any]) -> bytes:
    """A function for another process. Raises ValueError for one that it could not find."""
    try:
        return pickle.dumps(function)
    except Exception as error:
        remedy = 'define it at the top of a module, make it `async`, or set sync_executor to "thread"'
        raise ValueError(f"{function!r} cannot be called in another process ({error}): {remedy}") from None


def call_each(pickled: bytes, messages: Sequence[Any]) -> list[str]:
    """Calls a function with each of the messages; returns what it raised. Runs in the other process."""
    try:
        # Here, as what cannot be found would else end the process.
        function = pickle.loads(pickled)
    except Exception as error:
        return [repr(error)] * len(messages)
    failed = []
    for message in messages:
        try:
            returned = function(message)
            if inspect.isawaitable(returned):
                if inspect.iscoroutine(returned):
                    returned.close()
                raise TypeError("what a handler in another process returns cannot be awaited")
        except Exception as error:
            failed.append(repr(error))
    return failed


def _begins() -> None:
    """Ends this process with the one that it works for, also where that was killed; and not by the user's interrupt."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_ends_with, args=[parent.sentinel], daemon=True).start()


def _ends_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


class Processes:
    """The processes of one bus. They are started by the first message for one of its handlers."""

    def __init__(self, count: int | None) -> None:
        count = count or os.cpu_count() or 1
        self._executor = ProcessPoolExecutor(
            min(count, PROCESSES_MAX), mp_context=multiprocessing.get_context("spawn"), initializer=_begins
        )

    def call(self, function: bytes, messages: Sequence[Any]) -> Future[list[str]]:
        """Calls a function with each of the messages, in one of the processes. It may have to be started: blocks."""
        return self._executor.submit(call_each, function, messages)

    def close(self, by: float) -> None:
        """Ends them: what is under way has until `by`. Blocks."""
        # There is no other way to ask for them before Python 3.14.
        processes = list((getattr(self._executor, "_processes", None) or {}).values())
        self._executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            with contextlib.suppress(ValueError, AssertionError, OSError):
                process.join(max(0.0, by - time.monotonic()))
                if process.is_alive():
                    process.kill()
                process.join(1.0)
