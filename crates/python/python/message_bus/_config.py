"""What a bus is configured with: a dict whose keys are known, and whose values are looked at before anything is opened."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from ._log import logger
from ._node import Joined, joined
from ._retry import Retry, retry_of
from ._serializers import Serializer, build_serializer

#: Messages of a queue for which 0 stands, and the most that may be asked for: what a ring of the bus holds at most.
HWM_MAX = 1 << 20

#: Every key with its default: first those of the ZeroMQ message bus, then ours.
DEFAULT_CONFIG: dict[str, Any] = {
    "hwm_outbound": 1000,
    "hwm_inbound": 1000,
    "pub_send_timeout": 1.0,
    "push_send_timeout": 1.0,
    "req_total_timeout": 5.0,
    "rep_recv_timeout": 30.0,
    "rep_send_timeout": 5.0,
    "failed_socket_cooldown": 10.0,
    "handler_max_concurrency": None,
    "log_level_no_handler": "DEBUG",
    "serializer": "json",
    "close_linger_ms": 100,
    "breaker": "repeated",
    "domain": "default",
    "late_join_ms": 5000,
    "metrics_port": None,
    "node": None,
    "ordering": "topic",
    "policy": "block",
    "req_timeout_split": "shared",
    "retry": None,
    "slow_handler_ms": 1000,
    "strict": False,
    "sync_executor": "thread",
    "tls": None,
    "token": None,
}
#: Seconds that requests wait for the first who answers, where `late_join_ms` is not said: that nobody answers is to be known soon.
RESPONDERS_WAIT = 1.0
#: What happens to messages for which a subscriber has no room, in the words of `busway sub --policy`.
POLICIES = ("block", "drop-oldest", "keep-latest")


@dataclass(frozen=True)
class Settings:
    """A configuration that was looked at. Times are in seconds."""

    hwm_outbound: int
    hwm_inbound: int
    pub_send_timeout: float
    push_send_timeout: float
    req_total_timeout: float
    rep_recv_timeout: float
    rep_send_timeout: float
    failed_socket_cooldown: float
    handler_max_concurrency: int | None
    log_level_no_handler: int
    serializer: Serializer
    linger: float
    breaker: str
    domain: str
    late_join: float
    responders_wait: float
    metrics_port: int | None
    ordering: str
    policy: str
    req_timeout_split: str
    retry: Retry | None
    slow_handler: float
    strict: bool
    sync_executor: Executor | None
    in_processes: bool
    joined: Joined | None


def _wrong(key: str, value: object, wanted: str) -> ValueError:
    return ValueError(f"config[{key!r}] is {value!r}: it must be {wanted}")


def _seconds(given: Mapping[str, Any], key: str, per_second: float = 1.0) -> float:
    value = given[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise _wrong(key, value, "a time of 0 or more")
    return float(value) / per_second


def _messages(given: Mapping[str, Any], key: str) -> int:
    value = given[key]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= HWM_MAX:
        raise _wrong(key, value, f"a number of messages, 0 to {HWM_MAX}")
    return value or HWM_MAX


def _word(given: Mapping[str, Any], key: str, *words: str) -> str:
    value = given[key]
    if value not in words or not isinstance(value, str):
        raise _wrong(key, value, " or ".join(map(repr, words)))
    return value


def _concurrency(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _wrong("handler_max_concurrency", value, "None or a number of 1 or more")
    return value


def _port(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
        raise _wrong("metrics_port", value, "None or a port of this host, 1 to 65535")
    return value


def _level(value: object) -> int:
    levels = logging.getLevelNamesMapping()
    level = levels.get(value.upper()) if isinstance(value, str) else None
    if level is None:
        raise _wrong("log_level_no_handler", value, "one of " + ", ".join(levels))
    return level


def _executor(value: object) -> Executor | None:
    if isinstance(value, ProcessPoolExecutor):
        raise ValueError("config['sync_executor'] is a ProcessPoolExecutor: set it to 'process', which starts processes as they must be")
    if isinstance(value, Executor):
        return value
    if value not in ("thread", "process"):
        raise _wrong("sync_executor", value, "'thread', 'process' or a concurrent.futures.Executor of threads")
    return None


def _serializer(value: object) -> Serializer:
    if isinstance(value, str):
        return build_serializer(value)
    if callable(getattr(value, "dumps", None)) and callable(getattr(value, "loads", None)):
        return value  # type: ignore[return-value]
    raise _wrong("serializer", value, "a name, or an object with dumps and loads")


def _unknown(keys: list[str], strict: bool) -> None:
    for key in keys:
        near = difflib.get_close_matches(str(key), DEFAULT_CONFIG, 1)
        text = f"config has no key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")
        if strict:
            raise ValueError(text)
        logger.warning("%s", text)


def settings(config: Mapping[str, Any] | None) -> Settings:
    """What a configuration means. Raises ValueError for a value that cannot be meant; an unknown key is told to the log."""
    given = {**DEFAULT_CONFIG, **(config or {})}
    if not isinstance(given["strict"], bool):
        raise _wrong("strict", given["strict"], "True or False")
    if not isinstance(given["domain"], str):
        raise _wrong("domain", given["domain"], "the name of a domain")
    _unknown([key for key in given if key not in DEFAULT_CONFIG], given["strict"])
    return Settings(
        hwm_outbound=_messages(given, "hwm_outbound"),
        hwm_inbound=_messages(given, "hwm_inbound"),
        pub_send_timeout=_seconds(given, "pub_send_timeout"),
        push_send_timeout=_seconds(given, "push_send_timeout"),
        req_total_timeout=_seconds(given, "req_total_timeout"),
        rep_recv_timeout=_seconds(given, "rep_recv_timeout"),
        rep_send_timeout=_seconds(given, "rep_send_timeout"),
        failed_socket_cooldown=_seconds(given, "failed_socket_cooldown"),
        handler_max_concurrency=_concurrency(given["handler_max_concurrency"]),
        log_level_no_handler=_level(given["log_level_no_handler"]),
        serializer=_serializer(given["serializer"]),
        linger=_seconds(given, "close_linger_ms", 1000),
        breaker=_word(given, "breaker", "repeated", "strict"),
        domain=given["domain"],
        late_join=_seconds(given, "late_join_ms", 1000),
        responders_wait=_seconds(given, "late_join_ms", 1000) if "late_join_ms" in (config or {}) else RESPONDERS_WAIT,
        metrics_port=_port(given["metrics_port"]),
        ordering=_word(given, "ordering", "topic", "none"),
        policy=_word(given, "policy", *POLICIES),
        req_timeout_split=_word(given, "req_timeout_split", "shared", "half"),
        retry=retry_of(given["retry"], "config['retry']"),
        slow_handler=_seconds(given, "slow_handler_ms", 1000),
        strict=given["strict"],
        sync_executor=_executor(given["sync_executor"]),
        in_processes=given["sync_executor"] == "process",
        joined=joined(given),
    )
