"""Looks whether a program in Python finds what it needs here: `python -m busway.check [FOLDER]`.

It is run where the program is, or told its folder: a `message_bus.py` there is what `import message_bus` finds, and not the
module of the wheel. It says each thing in a line, `ok` or `finding` with what to try, and ends with 1 where there is a finding.
It opens a domain of its own, sends a message to itself and leaves nothing. `busway doctor` looks at the host as a whole.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import mmap
import os
import platform
import resource
import sys
from collections.abc import Callable, Iterator

import busway

#: The oldest Python that the wheel is for.
OLDEST = (3, 11)
#: Open files below which a program with some dozen peers does not get far.
FILES = 256
#: Packages that a program may want, and for what.
OPTIONAL = {
    "orjson": "the serializer orjson",
    "msgpack": "the serializer msgpack",
    "pyarrow": "the serializer arrow",
}


class Finding(Exception):
    """What is not as it should be, and what to try."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.remedy = remedy


def _python() -> str:
    version = platform.python_version()
    if sys.version_info < OLDEST:
        raise Finding(f"Python {version}", "use Python 3.11 or newer")
    if not sys.platform.startswith("linux"):
        raise Finding(f"Python {version} on {sys.platform}", "use Linux: there is no shared memory of this kind elsewhere")
    return f"Python {version} on {platform.machine()}"


def _wheel() -> str:
    place = os.path.dirname(busway.__file__)
    try:
        return f"busway {importlib.metadata.version('busway')} in {place}"
    except importlib.metadata.PackageNotFoundError:
        return f"busway in {place}, not installed as a wheel"


def _message_bus(folder: str) -> str:
    before = list(sys.path)
    # As where a program of that folder is started.
    sys.path[0] = folder
    try:
        importlib.invalidate_caches()
        spec = importlib.util.find_spec("message_bus")
    finally:
        sys.path[:] = before
    ours = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(busway.__file__))), "message_bus")
    found = None if spec is None else spec.origin
    if found is None:
        raise Finding("there is no module message_bus", "install the wheel anew")
    if os.path.dirname(os.path.abspath(found)) != ours:
        raise Finding(f"import message_bus finds {found}, not ours", f"rename or remove it; ours is {ours}")
    return f"message_bus in {ours}"


def _memory() -> str:
    try:
        fd = os.memfd_create("busway-check", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, 1 << 20)
            with mmap.mmap(fd, 1 << 20) as memory:
                memory[-1] = 1
        finally:
            os.close(fd)
    except OSError as error:
        raise Finding(f"no shared memory: {error}", "allow memfd_create and 1 MiB of memory to this process") from None
    return "shared memory (memfd)"


def _eventfd() -> str:
    try:
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    except OSError as error:
        raise Finding(f"no eventfd: {error}", "allow eventfd to this process: asyncio is woken by it") from None
    try:
        os.eventfd_write(fd, 1)
        os.eventfd_read(fd)
    finally:
        os.close(fd)
    return "eventfd"


def _files() -> str:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft != resource.RLIM_INFINITY and soft < FILES:
        raise Finding(f"{soft} open files", f"ulimit -n {FILES} or more")
    return f"{soft} open files"


def _message() -> str:
    try:
        with busway.Bus(f"check-{os.getpid()}", name="check") as bus:
            subscriber = bus.subscriber("check")
            with bus.publisher("check") as publisher:
                publisher.send(b"check")
                with subscriber.recv(timeout=5) as sample:
                    came = bytes(sample)
    except busway.Error as error:
        where = f" at {error.place}" if error.place else ""
        raise Finding(f"{error.code}: {error.cause}{where}", error.remedy or "busway doctor") from None
    if came != b"check":
        raise Finding("a message came as another one", "report it")
    return "a message through a domain of its own"


def checks(folder: str) -> Iterator[tuple[str, str, str]]:
    """What was looked at: `ok` or `finding`, what it is, and what to try."""
    looks: list[Callable[[], str]] = [_python, _wheel, lambda: _message_bus(folder), _memory, _eventfd, _files, _message]
    for look in looks:
        try:
            yield "ok", look(), ""
        except Finding as finding:
            yield "finding", str(finding), finding.remedy
    for package, what in OPTIONAL.items():
        there = importlib.util.find_spec(package) is not None
        yield "ok", f"{package} is {'there' if there else 'not there'}: {what}", ""


def main(arguments: list[str]) -> int:
    """Says what was found; returns the status to end with."""
    if len(arguments) > 1 or arguments[:1] in (["-h"], ["--help"]):
        print("usage: python -m busway.check [FOLDER]   (the folder of the program; the current one if none is named)")
        return 0 if len(arguments) == 1 else 2
    status = 0
    for state, what, remedy in checks(os.path.abspath(arguments[0] if arguments else os.getcwd())):
        print(f"{state:8}{what}")
        if remedy:
            print(f"{'  try:':8}{remedy}")
        status |= state == "finding"
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
