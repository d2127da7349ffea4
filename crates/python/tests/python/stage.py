"""What the claims share: other processes, and where memory lies. Run as a program, it names all claims."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import threading
import time
import unittest

#: Far longer than any step takes, also on a machine that does ten other things.
PATIENCE = 20.0


class Py_buffer(ctypes.Structure):
    """As the interpreter's own header has it; its first two fields are what is asked for."""

    _fields_ = [("buf", ctypes.c_void_p), ("obj", ctypes.py_object), ("len", ctypes.c_ssize_t)] + [
        (f"rest{i}", ctypes.c_void_p) for i in range(8)
    ]


def address(shown: object) -> int:
    """Where a buffer lies."""
    view = Py_buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(shown), ctypes.byref(view), 0)
    try:
        return int(view.buf)
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))


class Mapping:
    """One line of /proc/PID/maps."""

    def __init__(self, line: str) -> None:
        span, self.mode, self.offset, _, self.inode, *name = line.split(maxsplit=5)
        self.start, self.end = (int(end, 16) for end in span.split("-"))
        self.name = name[0].strip() if name else ""


def mappings(pid: int | str = "self") -> list[Mapping]:
    with open(f"/proc/{pid}/maps") as lines:
        return [Mapping(line) for line in lines]


def mapping_of(shown: object) -> Mapping:
    at = address(shown)
    return next(mapping for mapping in mappings() if mapping.start <= at < mapping.end)


def resident() -> int:
    """Bytes of this process that are in memory and its own: what it shares with others is not counted."""
    with open("/proc/self/status") as status:
        return sum(int(line.split()[1]) for line in status if line.startswith("RssAnon")) << 10


class Child:
    """Another interpreter that runs a script, and talks by lines."""

    def __init__(self, script: str) -> None:
        # Who starts the tests in the background of a shell has told them to ignore it.
        interrupts = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        head = "import busway, sys\nfrom stage import PATIENCE\n" + interrupts
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", head + script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hear(self, patience: float = PATIENCE) -> str:
        """Its next line; '' at its end, which comes if it says nothing for too long."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(patience, self.process.kill)
        watchdog.start()
        try:
            return self.process.stdout.readline().strip()
        finally:
            watchdog.cancel()

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)

    def sleeps(self) -> None:
        """Returns when its main thread sleeps in a call, after whatever was heard of it."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with open(f"/proc/{self.process.pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "S":
                    return
        raise TimeoutError("it does not come to rest")

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Claims(unittest.TestCase):
    """A test that leaves no buffer behind for the next."""

    maxDiff = None

    def tearDown(self) -> None:
        gc.collect()

    def evidence(self, **numbers: object) -> None:
        print("evidence:", *(f"{name}={number}" for name, number in numbers.items()), flush=True)


def names() -> list[str]:
    """All claims beside this file."""

    def flat(suite: unittest.TestSuite) -> list[str]:
        return [name for test in suite for name in (flat(test) if isinstance(test, unittest.TestSuite) else [test.id()])]

    return flat(unittest.defaultTestLoader.discover(os.path.dirname(os.path.abspath(__file__))))


if __name__ == "__main__":
    print(*names(), sep="\n")
