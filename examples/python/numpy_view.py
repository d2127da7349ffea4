"""An array is written where it is read: neither side copies it.

It needs numpy. Run it with `python numpy_view.py`.
"""

from __future__ import annotations

import numpy

import busway

NUMBERS = 1_000_000


def main() -> None:
    with busway.Bus("example-numpy") as bus:
        frames, readings = bus.subscriber("frame", policy="block"), bus.publisher("frame")
        with readings.loan(NUMBERS * 8) as loan:
            room = numpy.frombuffer(memoryview(loan), dtype=numpy.float64)
            room[:] = numpy.arange(NUMBERS)
            # While the array can be written, the message cannot be sent.
            del room
            loan.send()
        with frames.recv(timeout=5) as sample:
            values = numpy.frombuffer(memoryview(sample), dtype=numpy.float64)
            print(values.size, values.flags.writeable, float(values.sum()))
            # While the array is there, so is the memory of its publisher.
            del values


if __name__ == "__main__":
    main()
