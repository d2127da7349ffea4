"""Hooks of the program: what it does with each message before it is sent, and after it was received.

A hook is given the message as a dict, which it may change, and is called in the order in which it was added; where it can be
awaited it is. It lets a message pass by returning None, puts another in its place by returning a dict, and refuses it by
returning False or by raising `Rejected`. What else it raises or returns refuses the message as well, and is an error.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

Hook = Callable[[dict[str, Any]], Any]


class Rejected(RuntimeError):
    """A hook refused a message."""


def checked(hook: Hook) -> Hook:
    if not callable(hook):
        raise TypeError(f"a hook must be callable, not {hook!r}")
    return hook


async def passed(hooks: tuple[Hook, ...], message: dict[str, Any]) -> dict[str, Any]:
    """The message behind the hooks. Raises what refused it."""
    for hook in hooks:
        said = hook(message)
        if inspect.isawaitable(said):
            said = await said
        if said is False:
            raise Rejected("a hook refused the message")
        if isinstance(said, dict):
            message = said
        elif said is not None:
            raise TypeError(f"a hook returns None, False or a message, not {said!r}")
    return message
