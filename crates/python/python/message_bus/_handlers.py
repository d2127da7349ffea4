"""Which handlers a topic has, and how each of them is called.

A handler of the topic itself comes before those of patterns: `price.*` is any one token more, `price.>` one or more. Whether a
handler is awaited or called in a thread is decided when it is registered.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from ._care import Care, Times
from ._processes import pickled

#: Anything that takes a message: a coroutine function is awaited, anything else is called in a thread.
Function = Callable[[Any], Any]

#: Topics whose handlers are remembered. Beyond, all are looked up again.
KNOWN_MAX = 4096


class Handler:
    """A function and how it is called."""

    __slots__ = ("care", "function", "is_async", "pickled", "times", "topic")

    def __init__(self, topic: str, function: Function, in_process: bool, care: Care | None) -> None:
        if not callable(function):
            raise TypeError(f"a handler must be callable, not {function!r}")
        #: The topic or pattern for which it was registered.
        self.topic = topic
        self.function = function
        self.care = care
        self.times = Times()
        self.is_async = _is_async(function)
        #: What another process finds it by, where it is called in one.
        self.pickled = pickled(function) if in_process and not self.is_async else None


def _is_async(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))


def matches(pattern: str, topic: str) -> bool:
    """Whether a pattern with `*` and `>` as tokens means this topic."""
    wanted, tokens = pattern.split("."), topic.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(tokens) <= len(wanted):
            return False
        tokens = tokens[: len(wanted)]
    return len(wanted) == len(tokens) and all(one in ("*", token) for one, token in zip(wanted, tokens))


class Handlers:
    """The handlers of a bus. They may be registered at any time."""

    def __init__(self, in_process: bool) -> None:
        self._in_process = in_process
        self._registered: dict[str, tuple[Handler, ...]] = {}
        self._known: dict[str, tuple[Handler, ...]] = {}

    def set(self, topic: str, function: Function, care: Care | None) -> None:
        """The only handler of a topic or pattern: the last one wins."""
        self._registered[_checked(topic)] = (Handler(topic, function, self._in_process, care),)
        self._known = {}

    def add(self, topic: str, function: Function, care: Care | None) -> None:
        """One more handler; they are called in the order in which they were added."""
        handler = Handler(topic, function, self._in_process, care)
        self._registered[_checked(topic)] = (*self._registered.get(topic, ()), handler)
        self._known = {}

    def remove(self, topic: str, function: Function | None) -> bool:
        """Takes away the handlers of a topic or pattern, or the one that is `function`; whether there was any."""
        before = self._registered.get(topic, ())
        left = tuple(handler for handler in before if function is not None and handler.function != function)
        if left:
            self._registered[topic] = left
        else:
            self._registered.pop(topic, None)
        self._known = {}
        return len(left) < len(before)

    def times(self) -> dict[str, dict[str, float]]:
        """By topic or pattern: the calls of its handlers, and within which time 99 of 100 are done."""
        found: dict[str, dict[str, float]] = {}
        for topic, handlers in list(self._registered.items()):
            calls = sum(handler.times.calls for handler in handlers)
            found[topic] = {"calls": calls, "p99_s": max(handler.times.p99() for handler in handlers)}
        return found

    def of(self, topic: str) -> tuple[Handler, ...]:
        """The handlers of a topic: its own, or those of the patterns that match it."""
        known = self._known
        found = known.get(topic)
        if found is None:
            found = self._registered.get(topic) or tuple(
                handler
                for pattern, handlers in list(self._registered.items())
                if ("*" in pattern or ">" in pattern) and matches(pattern, topic)
                for handler in handlers
            )
            if len(known) >= KNOWN_MAX:
                known.clear()
            known[topic] = found
        return found


def _checked(topic: str) -> str:
    if not isinstance(topic, str):
        raise TypeError(f"a topic is text, not {topic!r}")
    if ">" in topic.split(".")[:-1]:
        raise ValueError(f"{topic!r} matches nothing: `>` stands at the end of a pattern only")
    return topic
