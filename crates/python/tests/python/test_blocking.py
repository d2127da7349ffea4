"""The calls that wait."""

import array
import pickle
import signal
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from unittest import mock

import busway
from busway import _busway, _errors
from stage import PATIENCE, Child, Claims


class Blocking(Claims):
    def setUp(self):
        self.bus = busway.Bus("blocking")
        self.addCleanup(self.bus.close)
        self.pool = ThreadPoolExecutor(8)
        self.addCleanup(self.pool.shutdown)

    def test_a_program_without_a_name_is_called_python(self):
        names = []
        for argv in ([], ["-c"], [""], ["\udcff.py"], [3], None, ["shop/till.py"]):
            with mock.patch("sys.argv", argv), busway.Bus("blocking") as bus:
                names.append(bus.name)
        self.assertEqual(names, ["python"] * 6 + ["till"])

    def test_a_time_that_is_over_is_told_and_one_that_is_no_number_is_refused(self):
        subscriber, publisher = self.bus.subscriber("x"), self.bus.publisher("y")
        for timeout in (0, 0.01, -1, -1e300):
            with self.assertRaises(TimeoutError) as told:
                subscriber.recv(timeout)
            self.assertEqual(told.exception.code, "BUS-0402")
        self.assertEqual(subscriber.recv_many(timeout=0.01), [])
        self.assertEqual(subscriber.recv_many(0), [])
        self.assertIsNone(subscriber.try_recv())
        with self.assertRaises(busway.TimedOut):
            publisher.wait_for_subscribers(1, 0.01)
        nan = float("nan")
        for refused in (lambda: subscriber.recv(nan), lambda: publisher.send(b"x", nan), lambda: publisher.flush(nan)):
            with self.assertRaises(busway.SettingError):
                refused()
        # Longer than any clock goes is no limit.
        here = self.bus.publisher("x")
        waiting = self.pool.submit(subscriber.recv, 1e300)
        here.send(b"came")
        self.assertEqual(waiting.result(PATIENCE), b"came")

    def test_a_message_says_its_id_and_its_trace(self):
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        subscriber, publisher = self.bus.subscriber("x"), self.bus.publisher("x")
        first, second = self.bus.next_id(), self.bus.next_id()
        self.assertLess(first, second)
        said = {"id": first, "traceparent": trace, "tracestate": "rojo=1"}
        for data in (b"", b"small", bytearray(b"x" * 5000)):
            publisher.send(data, 5, **said)
            publisher.send(data)
            message, plain = subscriber.recv(PATIENCE), subscriber.recv(PATIENCE)
            self.assertEqual((message, plain), (data, data))
            self.assertEqual((message.id, message.traceparent, message.tracestate), (first, trace, "rojo=1"))
            self.assertEqual((plain.id, plain.traceparent, plain.tracestate), (None, None, None))
            publisher.try_send(data, **said)
            message = subscriber.recv(PATIENCE)
            self.assertEqual((message, message.id, message.traceparent, message.tracestate), (data, first, trace, "rojo=1"))
        puller, pusher = self.bus.puller("jobs", ack=60), self.bus.pusher("jobs")
        pusher.send(b"work", id=second)
        with puller.recv(PATIENCE) as task:
            self.assertEqual((task.id, task.traceparent), (second, None))
        for wrong in ({"id": "7"}, {"traceparent": trace[1:]}, {"tracestate": "a=b"}, {"traceparent": trace, "tracestate": "no"}):
            with self.assertRaises(busway.Error) as told:
                publisher.send(b"x", **wrong)
            self.assertIn(told.exception.code, ("BUS-0110", "BUS-0111"))
            with self.assertRaises(busway.Error) as told:
                publisher.try_send(b"x", **wrong)
            self.assertIn(told.exception.code, ("BUS-0110", "BUS-0111"))
        with self.assertRaises(TypeError):
            publisher.send(b"x", None, first)

    def test_the_interpreter_is_free_while_a_thread_waits(self):
        subscriber, publisher = self.bus.subscriber("x"), self.bus.publisher("x")
        waiting = [self.pool.submit(subscriber.recv, PATIENCE), self.pool.submit(subscriber.recv_many, 1, PATIENCE)]
        # Bytecode runs here, and the subscriber answers, for as long as the others wait.
        for _ in range(50):
            self.assertEqual(sum(range(1000)), 499500)
            self.assertEqual(subscriber.account()["delivered"], 0)
            self.assertEqual(subscriber.losses(), [])
        self.assertFalse(any(call.done() for call in waiting))
        publisher.send(b"1")
        publisher.send(b"2")
        taken = waiting[0].result(PATIENCE), waiting[1].result(PATIENCE)
        self.assertEqual(sorted(bytes(sample) for sample in (taken[0], *taken[1])), [b"1", b"2"])

    def test_what_is_published_before_anybody_subscribes_waits_for_the_first(self):
        publisher = self.bus.publisher("early", late_join=PATIENCE)
        for body in (b"1", b"2"):
            publisher.send(body)
        self.assertEqual((publisher.account()["in_flight"], publisher.account()["subscribers"]), (2, 0))
        first, second = self.bus.subscriber("early"), self.bus.subscriber("early")
        self.assertEqual([bytes(first.recv(PATIENCE)) for _ in range(2)], [b"1", b"2"])
        self.assertIsNone(second.try_recv())
        hasty = self.bus.publisher("hasty", late_join=0.001)
        hasty.send(b"1")
        hasty.flush(PATIENCE)
        self.assertEqual(hasty.account()["dropped"], {"no_subscriber": 1})
        kept = self.bus.publisher("kept", history_for=PATIENCE, history=1)
        for body in (b"1", b"2"):
            kept.send(body)
        late = self.bus.subscriber("kept", history=100)
        self.assertEqual([bytes(late.recv(PATIENCE)) for _ in range(2)], [b"1", b"2"])
        with self.assertRaises(busway.SettingError):
            self.bus.publisher("x", late_join=float("nan"))

    def test_what_a_process_counts_is_a_dict(self):
        subscriber, publisher = self.bus.subscriber("counted"), self.bus.publisher("counted")
        for body in (b"1", b"22"):
            publisher.send(body)
        subscriber.recv(PATIENCE)
        metrics = self.bus.metrics()
        counted = {name: metrics[name] for name in ("messages_sent", "messages_received", "bytes_sent", "in_flight")}
        self.assertEqual(counted, {"messages_sent": 2, "messages_received": 1, "bytes_sent": 3, "in_flight": 1})
        self.assertEqual((metrics["inbound_dropped"]["lapped"], metrics["accounts_open"]), (0, 0))
        everybody = self.bus.metrics_of_all()
        self.assertIn(self.bus.name, [process["name"] for process in everybody])
        self.assertIn("# TYPE busway_messages_sent_total counter\n", self.bus.prometheus())

    def test_an_interrupt_ends_a_wait(self):
        for call in ("subscriber.recv()", "subscriber.recv_many()", "next(iter(subscriber))", "late.wait_for_subscribers()"):
            script = f"""
with busway.Bus("interrupted") as bus:
    subscriber, late = bus.subscriber("x"), bus.publisher("y")
    try:
        print("waits", flush=True)
        {call}
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
            with Child(script) as child:
                self.assertEqual(child.hear(), "waits")
                child.sleeps()
                child.process.send_signal(signal.SIGINT)
                self.assertEqual(child.hear(), "interrupted", call)
                self.assertEqual(child.process.wait(PATIENCE), 0)

    def test_closing_ends_every_wait(self):
        for close in ("subscriber", "bus"):
            bus = busway.Bus("closing")
            subscriber = bus.subscriber("x")
            waiting = [self.pool.submit(subscriber.recv), self.pool.submit(subscriber.recv_many)]
            iterating = self.pool.submit(list, subscriber)
            bus.publisher("x").send(b"last")
            while subscriber.account()["delivered"] == 0:
                pass
            (subscriber if close == "subscriber" else bus).close()
            ended = [call.exception(PATIENCE) for call in waiting]
            self.assertEqual(iterating.result(PATIENCE) in ([], [b"last"]), True)
            self.assertTrue(all(error is None or isinstance(error, busway.Closed) for error in ended), ended)
            self.assertLessEqual(sum(error is None for error in ended), 1)
            with self.assertRaises(busway.Closed) as told:
                subscriber.recv()
            self.assertEqual(told.exception.code, "BUS-0602")
            bus.close()
            with self.assertRaises(busway.Closed):
                bus.publisher("x")
            self.assertTrue(bus.closed)

    def test_a_list_is_sent_whole_and_in_order_and_who_refuses_it_says_how_much_was_sent(self):
        publisher = self.bus.publisher("many", slots_max=32, max_wait=PATIENCE)
        self.assertEqual((publisher.send_many([]), publisher.try_send_many(iter(()))), (0, 0))
        subscriber = self.bus.subscriber("many", policy="block")
        publisher.wait_for_subscribers(1, PATIENCE)
        # More than the ring has room for, of every kind.
        kinds = [bytes, bytearray, memoryview, lambda text: array.array("B", text)]
        sent = [b"%d" % number * (1 + number % 40) for number in range(5_000)]
        many = self.pool.submit(publisher.send_many, (kinds[at % 4](text) for at, text in enumerate(sent)), PATIENCE)
        got = []
        while len(got) < len(sent) and (samples := subscriber.recv_many(timeout=PATIENCE)):
            got += [bytes(sample) for sample in samples]
        self.assertEqual((many.result(PATIENCE), got == sent), (len(sent), True))
        # What has room, and no more.
        self.assertEqual(publisher.try_send_many([b"room"] * 50), 32)
        with self.assertRaises(busway.TimedOut) as told:
            publisher.send_many([b"x"], 0.01)
        self.assertEqual(told.exception.sent, 0)
        self.assertEqual(len(subscriber.recv_many(32, PATIENCE)), 32)
        with self.assertRaises(busway.TimedOut) as told:
            publisher.send_many([b"y"] * 50, 0.05)
        self.assertEqual((told.exception.sent, len(subscriber.recv_many(64, PATIENCE))), (32, 32))
        # What is no message is refused before any is sent.
        for refused in (b"one", "one", 7, [b"y", "text"], [b"y", None]):
            for send in (publisher.send_many, publisher.try_send_many):
                with self.assertRaises(TypeError):
                    send(refused)
        self.assertIsNone(subscriber.try_recv())
        publisher.close()
        with self.assertRaises(busway.Closed):
            publisher.send_many([b"late"])

    def test_a_number_that_fits_no_setting_is_refused_as_a_setting(self):
        refused = [
            lambda n: self.bus.publisher("x", slots_max=n),
            lambda n: self.bus.publisher("x", bytes_max=n),
            lambda n: self.bus.publisher("x", history=n),
            lambda n: self.bus.subscriber("x", history=n),
            lambda n: self.bus.subscriber("x", holds=n),
            lambda n: self.bus.pusher("x", slots_max=n),
            lambda n: self.bus.puller("x", attempts=n),
            lambda n: self.bus.puller("x", holds=n),
            lambda n: self.bus.requester("x", in_flight=n),
            lambda n: self.bus.responder("x", holds=n),
            lambda n: busway.Bus("x", budget=n),
            lambda n: busway.Bus("x", arena_bytes=n),
        ]
        for call in refused:
            for number in (-1, 1 << 64, 10**4000):
                with self.assertRaises(busway.SettingError) as raised:
                    call(number)
                self.assertEqual(raised.exception.code, "BUS-0106")
                self.assertLess(len(str(raised.exception)), 300)
            with self.assertRaises(TypeError):
                call("many")
        self.evidence(settings=len(refused))

    def test_threads_share_a_publisher_and_a_subscriber(self):
        subscriber = self.bus.subscriber("x", policy="block")
        publisher = self.bus.publisher("x", max_wait=PATIENCE)
        each, senders = 1500, 3

        def send(number):
            for at in range(each):
                publisher.send(bytes([number]) * (40 if at % 2 else 400) + at.to_bytes(4, "big"))

        def receive():
            taken = []
            while len(batch := subscriber.recv_many(64, 2 * PATIENCE)) > 0:
                taken += [(sample.sequence, bytes(sample)) for sample in batch]
                if any(sample == b"end" for sample in batch):
                    return taken
            return taken

        receivers = [self.pool.submit(receive) for _ in range(3)]
        for sender in [self.pool.submit(send, number) for number in range(senders)]:
            sender.result(2 * PATIENCE)
        left = set(receivers)
        while left:
            publisher.send(b"end")
            # One end each: the next only when who has it is gone, since a batch may hold two.
            done, left = wait(left, 2 * PATIENCE, FIRST_COMPLETED)
            self.assertEqual(len(done), 1)
        taken = [receiver.result(2 * PATIENCE) for receiver in receivers]
        for part in taken:
            self.assertEqual(part, sorted(part), "in order for each of them")
        every = sorted(one for part in taken for one in part)
        self.assertEqual([sequence for sequence, _ in every], list(range(1, each * senders + 4)))
        self.assertEqual(len({payload for _, payload in every}), each * senders + 1)
        self.evidence(messages=len(every), shares=[len(part) for part in taken])

    def test_who_looks_at_a_port_does_not_take_it_from_who_sends(self):
        publisher = self.bus.publisher("x")
        over, looks = threading.Event(), []

        def look():
            while not over.is_set():
                looks.append(publisher.account()["in_flight"] + publisher.subscribers)

        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            looking = [self.pool.submit(look) for _ in range(2)]
            for _ in range(20_000):
                publisher.try_send(b"x")
            over.set()
            for one in looking:
                one.result(PATIENCE)
        finally:
            over.set()
            sys.setswitchinterval(before)
        self.evidence(looks=len(looks))

    def test_a_publisher_that_waits_lets_the_interpreter_go(self):
        subscriber = self.bus.subscriber("x", policy="block")
        publisher = self.bus.publisher("x", slots_max=32, max_wait=10 * PATIENCE)
        with self.assertRaises(busway.Full) as told:
            for _ in range(100):
                publisher.try_send(b"fill")
        self.assertEqual(told.exception.code, "BUS-0401")
        with self.assertRaises(busway.TimedOut):
            publisher.send(b"no time", timeout=0.01)
        with self.assertRaises(busway.TimedOut):
            publisher.flush(0.01)
        # It waits for us, who need the interpreter to read.
        waiting = [self.pool.submit(publisher.send, data) for data in (b"a", bytearray(500), bytes(300 << 10))]
        self.assertFalse(any(call.done() for call in waiting))
        there = publisher.account()["sent"] if not waiting else 32
        for _ in range(there):
            self.assertEqual(subscriber.recv(PATIENCE), b"fill")
        for call in waiting:
            call.result(PATIENCE)
        sizes = sorted(len(subscriber.recv(PATIENCE)) for _ in waiting)
        self.assertEqual(sizes, [1, 500, 300 << 10])
        publisher.flush(PATIENCE)

    def test_every_code_has_its_class_and_says_what_to_try(self):
        codes = _busway.codes()
        self.assertGreater(len(codes), 30)
        for number, _meaning in codes:
            error = _errors.of(number, "cause", "place", "remedy")
            self.assertIsInstance(error, busway.Error)
            # Those of an outlet, of a breaker and of HTTP, which Python does not have, are no class of their own.
            self.assertEqual(type(error) is busway.Error, number in (414, 415, 417), f"{number} has no class")
            self.assertEqual(error.code, f"BUS-{number:04}")
            self.assertEqual(str(error), f"error[{error.code}]: cause\n  at: place\n  try: remedy")
            self.assertIsNone(getattr(error, "errno", None), "its number is no errno")
            again = pickle.loads(pickle.dumps(error))
            self.assertEqual((type(again), again.args, again.code), (type(error), error.args, error.code))
        refused = {
            "BUS-0101": lambda: self.bus.publisher("no..topic"),
            "BUS-0102": lambda: self.bus.subscriber("a.>.b"),
            "BUS-0103": lambda: busway.Bus("no/domain"),
            "BUS-0104": lambda: self.bus.subscriber("x", policy="sometimes"),
            "BUS-0105": lambda: self.bus.publisher("$peers"),
            "BUS-0106": lambda: self.bus.subscriber("x", holds=0),
            "BUS-0210": lambda: busway.Bus("x", group="no such group"),
        }
        for code, call in refused.items():
            with self.assertRaises(busway.Error) as told:
                call()
            error = told.exception
            self.assertEqual(error.code, code)
            self.assertTrue(error.cause and error.remedy, f"{error}")
        self.assertTrue(issubclass(busway.SettingError, ValueError))
        self.assertTrue(issubclass(busway.TimedOut, TimeoutError))
        self.assertTrue(issubclass(busway.JoinError, OSError))
        self.assertTrue(issubclass(busway.ResourceError, MemoryError))

    def test_what_was_lost_is_told_and_the_account_closes(self):
        subscriber, publisher = self.bus.subscriber("x", policy="drop-oldest:4"), self.bus.publisher("x")
        for number in range(10):
            publisher.send(bytes([number]))
        self.assertEqual([bytes(sample)[0] for sample in subscriber.recv_many(4, PATIENCE)], [6, 7, 8, 9])
        lost = subscriber.losses()
        self.assertEqual([(one["topic"], one["count"], one["from"], one["to"]) for one in lost], [("x", 6, 1, 6)])
        self.assertEqual(subscriber.losses(), [])
        for account in (subscriber.account(), publisher.account()):
            self.assertEqual((account["sent"], account["delivered"], sum(account["dropped"].values())), (10, 4, 6))

    def test_what_follows_a_batch_is_told_by_the_next_call(self):
        subscriber = self.bus.subscriber("x.*", policy="evict")
        slow, other = self.bus.publisher("x.slow", slots_max=32, max_wait=0.01), self.bus.publisher("x.other")
        # Whose turn it is next is the other: the eviction comes after the first message of a batch.
        for publisher in (other, slow):
            publisher.send(b"first")
            self.assertEqual(subscriber.recv(PATIENCE).topic, publisher.topic)
        evicted = 0
        while evicted == 0:
            evicted = slow.send(b"too many").evicted
        for number in range(10):
            other.send(bytes([number]))
        told, numbers = 0, []
        while len(numbers) < 10 or told == 0:
            try:
                batch = subscriber.recv_many(64, PATIENCE)
            except busway.Evicted as error:
                self.assertEqual(error.code, "BUS-0403")
                told += 1
                continue
            numbers += [bytes(sample)[0] for sample in batch if sample.topic == "x.other"]
            self.assertTrue(batch, "neither messages nor a reason")
        self.assertEqual((told, numbers), (1, list(range(10))))
