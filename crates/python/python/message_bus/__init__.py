"""A message bus of three patterns for asyncio: publish/subscribe, push/pull, request/response.

It has the names and the rules of the ZeroMQ message bus, and runs over `busway`: no sockets, nothing to start before, and
no pyzmq. docs/message_bus.md says what is the same and what is different.

>>> import asyncio
>>> from message_bus import MessageBus, Ports
>>> async def main():
...     bus = MessageBus("analytics")
...     seen = asyncio.get_running_loop().create_future()
...     bus.register_handler("price.tick", lambda message: seen.get_loop().call_soon_threadsafe(seen.set_result, message))
...     loop = asyncio.create_task(bus.subscribe_loop(Ports.GLOBAL_EVENTS, topics=["price."]))
...     await bus.publish("price.tick", {"symbol": "BTC"})
...     message = await seen
...     await bus.cleanup()
...     return message["sender"], message["data"]
>>> asyncio.run(main())
('analytics', {'symbol': 'BTC'})
"""

from __future__ import annotations

from ._bus import MessageBus, Ports, Topics
from ._config import DEFAULT_CONFIG
from ._hooks import Rejected
from ._metrics import BusMetrics
from ._outbound import PublishResult
from ._request import Cooldown
from ._serializers import JsonSerializer, OrjsonSerializer, Serializer, build_serializer
from ._trace import Trace, current_trace, tracing

__all__ = [
    "DEFAULT_CONFIG",
    "BusMetrics",
    "Cooldown",
    "JsonSerializer",
    "MessageBus",
    "OrjsonSerializer",
    "Ports",
    "PublishResult",
    "Rejected",
    "Serializer",
    "Topics",
    "Trace",
    "build_serializer",
    "current_trace",
    "tracing",
]
