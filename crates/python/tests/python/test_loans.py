"""A loan is written in place, once."""

import array
import gc

import busway
from stage import PATIENCE, Claims, mapping_of


class Loans(Claims):
    def setUp(self):
        self.bus = busway.Bus("loans", budget=96 << 20)
        self.addCleanup(self.bus.close)
        self.subscriber = self.bus.subscriber("x")
        self.publisher = self.bus.publisher("x")

    def test_a_loan_is_written_where_it_is_read(self):
        with self.publisher.loan(4096) as loan:
            with memoryview(loan) as view:
                self.assertFalse(view.readonly)
                written = mapping_of(view)
                view[:] = b"abcd" * 1024
            sent = loan.send()
        sample = self.subscriber.recv(PATIENCE)
        self.assertEqual(sample, b"abcd" * 1024)
        self.assertEqual(sample.sequence, sent.sequence)
        self.assertEqual((written.mode, mapping_of(sample).inode), ("rw-s", written.inode))

    def test_a_loan_that_can_still_be_written_is_not_sent_and_one_that_was_sent_cannot_be_written(self):
        for size in (1, 96, 97, 5000):
            loan = self.publisher.loan(size)
            self.assertEqual(len(loan), size)
            view = memoryview(loan)
            part = view[:1]
            for refused in (loan.send, loan.release):
                with self.assertRaises(BufferError):
                    refused()
            view[:] = b"w" * size
            view.release()
            with self.assertRaises(BufferError):
                loan.send()
            part.release()
            loan.send(timeout=PATIENCE)
            with self.assertRaises(ValueError):
                memoryview(loan)
            with self.assertRaises(ValueError):
                loan.send()
            self.assertEqual(self.subscriber.recv(PATIENCE), b"w" * size)
        # One that was shown when it was to be sent was not sent.
        self.assertIsNone(self.subscriber.try_recv())
        # Others are sent while one is filled, and a loan is sent after its publisher's handle is gone.
        loan = self.publisher.loan(1000)
        self.publisher.send(b"meanwhile")
        loan.data[:] = bytes(1000)
        loan.send()
        self.assertEqual(self.subscriber.recv(PATIENCE), b"meanwhile")
        self.assertEqual(self.subscriber.recv(PATIENCE), bytes(1000))

    def test_loans_that_are_dropped_give_their_memory_back(self):
        for number in range(300):
            loan = self.publisher.loan(1 << 20)
            loan.data[:4] = b"lost"
            if number % 3 == 0:
                loan.release()
            elif number % 3 == 1:
                with loan:
                    pass
            del loan
        gc.collect()
        self.assertIsNone(self.subscriber.try_recv())
        taken = self.bus.inspect()["budget"]["reserved_bytes"]
        self.assertLess(taken, 32 << 20)
        self.evidence(dropped=300, memory=taken)

    def test_what_shows_its_memory_can_be_sent_and_nothing_else(self):
        numbers = array.array("d", [1.5, 2.5] * 50)
        grid = memoryview(bytes(range(200))).cast("B", (10, 20))
        for data in (b"", b"x", bytearray(b"y" * 300), memoryview(b"z" * 99)[3:], numbers, grid, bytes(300 << 10)):
            self.publisher.send(data)
            self.assertEqual(bytes(self.subscriber.recv(PATIENCE)), bytes(memoryview(data)))
        for data in ("text", 5, None, ["x"], {}):
            with self.assertRaises(TypeError):
                self.publisher.send(data)
        with self.assertRaises((TypeError, BufferError)):
            self.publisher.send(memoryview(b"abcdef")[::2])
        with self.assertRaises(busway.TooLarge) as told:
            self.publisher.loan(1 << 50)
        self.assertEqual(told.exception.code, "BUS-0107")
        self.assertIsNone(self.subscriber.try_recv())
