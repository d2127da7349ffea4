"""Artifacts in Python, had by a node of another process, as programs have them. One test at a time uses each domain."""

import asyncio
import hashlib
import io
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import busway
from busway import aio
from busway.artifacts import Arriving, Artifact, Interest, Progress, Reader, Withdrawn
from stage import PATIENCE, Child, Claims, address, resident

TOOL = os.environ.get("BUSWAY_TOOL", "busway")
LARGE = 20_000_000


def large(seed, size=LARGE):
    return random.Random(seed).randbytes(size)


class Stage(Claims):
    """A node in another process, and a bus of this one."""

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.domain = f"artifacts-{os.getpid()}-{id(self):x}"
        self.start(self.domain)
        self.bus = busway.Bus(self.domain)
        self.addCleanup(self.bus.close)
        self.artifacts = self.bus.artifacts("maps")

    def start(self, domain, *settings):
        """A node; what it says when it is ready."""
        command = [TOOL, "--domain", domain, "up", "--json", *settings]
        self.node = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.addCleanup(self.end_node, self.node)
        return json.loads(self.node.stdout.readline())

    def end_node(self, node=None):
        node = node or self.node
        node.kill()
        node.wait(PATIENCE)
        node.stdout.close()

    def until(self, claim):
        deadline = time.monotonic() + PATIENCE
        while not claim():
            self.assertLess(time.monotonic(), deadline, "it does not come to be")


class Artifacts(Stage):
    def test_a_file_of_one_program_is_whole_in_another_by_a_node_in_a_third(self):
        source = self.folder / "source"
        source.write_bytes(large(1))
        offerer = f"""
with busway.Bus("{self.domain}") as bus:
    with bus.artifacts("maps").offer_file("{source}", attribute=b"v1") as offer:
        print(offer.id, flush=True)
        sys.stdin.readline()
"""
        with Child(offerer) as child:
            name = child.hear()
            artifact = self.artifacts.fetch(name, PATIENCE)
            self.assertEqual((artifact.id, artifact.size, len(artifact), artifact.topic), (name, LARGE, LARGE, "maps"))
            self.assertEqual(artifact.advert.attribute, b"v1")
            artifact.save(self.folder / "saved")
            self.assertEqual((self.folder / "saved").read_bytes(), source.read_bytes())
            with memoryview(artifact) as view:
                self.assertTrue(view.readonly)
                self.assertEqual(hashlib.sha256(view).digest(), hashlib.sha256(source.read_bytes()).digest())
            self.assertEqual(artifact.read_at(LARGE - 3, 1 << 60), source.read_bytes()[-3:])
            self.assertEqual(artifact.read_at(1 << 50, 10), b"")
            with Reader(artifact) as reader, open(self.folder / "copied", "wb") as file:
                shutil.copyfileobj(reader, file)
            self.assertEqual((self.folder / "copied").read_bytes(), source.read_bytes())
            listed = self.artifacts.list()
            self.assertEqual([(of.advert.id, of.here, of.own) for of in listed], [(name, True, True)])
            child.say("end")
            self.assertEqual(child.process.wait(PATIENCE), 0)
        self.until(lambda: not self.artifacts.list())
        # What was received stays.
        self.assertEqual(artifact.read_at(0, 100), source.read_bytes()[:100])
        counts = self.artifacts.counts()
        self.assertEqual(counts["told"], counts["handled"] + counts["coalesced"] + sum(counts["dropped"].values()))
        self.evidence(bytes=LARGE, programs=3)

    def test_bytes_buffers_files_and_readers_are_offered_as_they_are_at_the_call(self):
        changes = bytearray(b"before" * 100_000)
        self.offers = [
            self.artifacts.offer(b""),
            self.artifacts.offer(b"small"),
            self.artifacts.offer(changes),
            self.artifacts.offer_reader(io.BytesIO(large(2, 3_000_001))),
        ]
        changes[:] = b"after!" * 100_000
        bodies = [b"", b"small", b"before" * 100_000, large(2, 3_000_001)]
        for offer, body in zip(self.offers, bodies, strict=True):
            self.assertEqual(offer.reach, "offered")
            artifact = self.artifacts.fetch(offer.id, PATIENCE)
            self.assertEqual(bytes(artifact), body)
            self.assertEqual(Reader(artifact).readall(), body)
        for wrong, kind in (("text", TypeError), (7, TypeError), (None, TypeError), (memoryview(b"abcd")[::2], (TypeError, BufferError))):
            with self.assertRaises(kind):
                self.artifacts.offer(wrong)
        # A small one is shown where it lies: twice the same memory.
        artifact = self.artifacts.fetch(self.offers[1].id, PATIENCE)
        self.assertEqual(address(artifact), address(memoryview(artifact)))
        with self.assertRaises(TypeError):
            memoryview(artifact)[0] = 1
        self.evidence(offered=len(bodies))

    def test_a_file_object_that_raises_or_lies_offers_nothing(self):
        class Lies:
            def __init__(self, answers):
                self.answers = iter(answers)

            def read(self, size):
                answer = next(self.answers)
                if isinstance(answer, BaseException):
                    raise answer
                return answer(size) if callable(answer) else answer

        boom = ZeroDivisionError("boom")
        wrongs = [
            ([boom], ZeroDivisionError),
            ([b"x" * 32, boom], ZeroDivisionError),
            ([lambda size: bytes(size + 1)], ValueError),
            ([lambda size: bytes(1 << 28)], ValueError),
            (["text"], TypeError),
            ([None], BlockingIOError),
            ([KeyboardInterrupt()], KeyboardInterrupt),
        ]
        for answers, kind in wrongs:
            with self.assertRaises(kind):
                self.artifacts.offer_reader(Lies(answers))
        with self.assertRaises(AttributeError):
            self.artifacts.offer_reader(7)
        self.assertEqual(self.artifacts.list(), [])
        self.evidence(refused=len(wrongs) + 1)

    def test_what_cannot_be_offered_or_fetched_has_its_code(self):
        sparse = self.folder / "sparse"
        with open(sparse, "wb") as file:
            file.truncate((4 << 30) + 1)
        topics = self.bus.artifacts("maps.>")
        refused = {
            "BUS-0107": lambda: self.artifacts.offer_file(sparse),
            "BUS-0214": lambda: self.artifacts.offer_file(self.folder / "nothing"),
            "BUS-0101": lambda: topics.offer(b"x"),
            "BUS-0112": lambda: self.artifacts.offer(b"x", to=[1, 2]),
            "BUS-0106": lambda: self.artifacts.fetch("no id", 1),
            "BUS-0402": lambda: self.artifacts.fetch("0" * 64, 0.05),
            "BUS-0105": lambda: self.bus.artifacts("$artifacts"),
        }
        for code, call in refused.items():
            with self.assertRaises(busway.Error, msg=code) as told:
                call()
            self.assertEqual(told.exception.code, code)
        with self.assertRaises(busway.TooLarge):
            self.artifacts.offer(b"x", attribute=bytes(257))
        with self.assertRaises(TypeError):
            self.artifacts.offer(b"x", to=object())
        with busway.Bus(self.domain + "-none", timeout=1) as alone, self.assertRaises(busway.JoinError) as told:
            alone.artifacts("maps")
        self.assertEqual(told.exception.code, "BUS-0213")
        self.assertEqual(self.artifacts.list(), [])
        self.evidence(codes=len(refused) + 2)

    def test_an_offer_stands_until_its_end_and_says_how_far_it_has_come(self):
        with self.artifacts.subscriber() as subscriber:
            with self.artifacts.offer(b"first") as offer:
                artifact = subscriber.recv(PATIENCE)
                self.assertEqual((bytes(artifact), artifact.id), (b"first", offer.id))
            withdrawn = subscriber.recv(PATIENCE)
            self.assertIsInstance(withdrawn, Withdrawn)
            self.assertEqual(withdrawn.advert.id, offer.id)
            self.assertEqual((offer.reach, bytes(artifact)), ("withdrawn", b"first"))
            kept = self.artifacts.offer(b"kept", keep=True)
            self.assertEqual(bytes(subscriber.recv(PATIENCE)), b"kept")
            kept.close()
            self.assertEqual([of.advert.id for of in self.artifacts.list()], [kept.id])
            self.assertEqual(self.artifacts.remove(kept.id), 1)
            self.assertIsInstance(subscriber.recv(PATIENCE), Withdrawn)
            again = self.artifacts.offer(b"kept", keep=True)
            again.withdraw()
            self.until(lambda: not self.artifacts.list())
            # The only node has it.
            with self.artifacts.offer(b"to all", reach_all=PATIENCE) as all_nodes:
                all_nodes.wait_reached(PATIENCE)
                self.assertEqual((all_nodes.reach, all_nodes.missing), ("reached", []))
            with self.artifacts.offer(b"stands") as stands, self.assertRaises(busway.TimedOut):
                stands.wait_reached(0.05)
            with self.assertRaises(busway.Closed):
                stands.wait_reached(PATIENCE)

    def test_who_knows_an_id_is_given_none_of_its_bytes_on_another_topic(self):
        for size in (100, 100_000, 1_000_000):
            with self.artifacts.offer(large(size, size)) as offer, self.bus.artifacts("public.>").subscriber() as seen:
                public = self.bus.artifacts("public.a")
                for others in (public, self.bus.artifacts("public.>")):
                    with self.assertRaises(busway.TimedOut):
                        others.fetch(offer.id, 0.1)
                    self.assertEqual(others.list(), [])
                # Where it lies is no matter of who offers other bytes there, or the same.
                with public.offer(b"other") as other:
                    self.assertEqual(seen.recv(PATIENCE).id, other.id)
                    self.assertEqual([of.advert.id for of in public.list()], [other.id])
                with public.offer(large(size, size)) as same:
                    self.assertEqual(same.id, offer.id)
                    self.assertEqual(public.fetch(offer.id, PATIENCE).topic, "public.a")
                self.assertEqual(self.artifacts.fetch(offer.id, PATIENCE).topic, "maps")
        self.evidence(sizes=3, bytes_of_other_topics=0)

    def test_a_function_of_interest_decides_and_what_it_raises_is_raised_where_it_is_called(self):
        asked, says = [], {}

        def interest(advert):
            asked.append(bytes(advert.attribute))
            said = says[advert.attribute]
            if isinstance(said, BaseException):
                raise said
            return said

        says |= {b"drop": Interest.DROP, b"stash": Interest.STASH, b"fetch": Interest.FETCH, b"now": Interest.FETCH_NOW, b"later": Interest.LATER}
        says |= {b"raises": ZeroDivisionError("boom"), b"none": None, b"word": "perhaps", b"interrupt": KeyboardInterrupt()}
        with self.artifacts.subscriber(interest=interest) as subscriber:
            self.offers = [self.artifacts.offer(word, attribute=word) for word in (b"drop", b"stash", b"fetch", b"now")]
            came = {bytes(subscriber.recv(PATIENCE)) for _ in range(2)}
            self.assertEqual((came, set(asked)), ({b"fetch", b"now"}, {b"drop", b"stash", b"fetch", b"now"}))
            for word, kind in ((b"raises", ZeroDivisionError), (b"none", TypeError), (b"word", ValueError), (b"interrupt", KeyboardInterrupt)):
                self.offers.append(self.artifacts.offer(word, attribute=word))
                with self.assertRaises(kind):
                    subscriber.recv(PATIENCE)
            # What raised, and what was stashed, is asked about again, and nothing is lost; what was dropped is not.
            for word in says:
                says[word] = Interest.FETCH
            subscriber.reconsider()
            came = {bytes(subscriber.recv(PATIENCE)) for _ in range(5)}
            self.assertEqual(came, {b"stash", b"raises", b"none", b"word", b"interrupt"})
            self.assertIsNone(subscriber.try_recv())
        self.evidence(asked=len(asked))

    def test_a_function_of_interest_that_blocks_holds_up_nobody_else(self):
        blocks, stuck = threading.Event(), threading.Event()
        self.addCleanup(blocks.set)

        def interest(advert):
            stuck.set()
            blocks.wait(PATIENCE)
            return Interest.FETCH

        subscriber = self.artifacts.subscriber(interest=interest)
        raised = []

        def receive():
            try:
                subscriber.recv(PATIENCE)
            except busway.Error as error:
                raised.append(error.code)

        thread = threading.Thread(target=receive)
        thread.start()
        self.offers = [self.artifacts.offer(b"body %d" % number) for number in range(50)]
        self.assertTrue(stuck.wait(PATIENCE))
        with self.artifacts.subscriber() as other:
            self.assertEqual({bytes(other.recv(PATIENCE)) for _ in range(50)}, {b"body %d" % number for number in range(50)})
        self.assertIsNone(subscriber.try_recv())
        # Nor who closes it.
        subscriber.close()
        self.assertTrue(subscriber.closed)
        self.assertTrue(thread.is_alive())
        blocks.set()
        thread.join(PATIENCE)
        self.assertFalse(thread.is_alive())
        with self.assertRaises(busway.Closed):
            subscriber.recv(1)
        self.evidence(given_to_others=50)

    def test_a_large_one_is_read_as_it_arrives_and_says_how_much_is_here(self):
        body = large(3)
        # What is offered here is all here: what arrives comes from another node.
        (near, far), name = self.two_nodes(), None
        counts = []

        def count(subscriber):
            for event in subscriber:
                if isinstance(event, Artifact):
                    return
                counts.append(event.have)

        artifacts = near.artifacts("maps")
        with artifacts.subscriber(progress=True) as counter, artifacts.subscriber(arriving=True) as subscriber:
            thread = threading.Thread(target=count, args=(counter,))
            thread.start()
            offer = far.artifacts("maps").offer(body)
            self.addCleanup(offer.close)
            events = []
            while not (events and isinstance(events[-1], Artifact)):
                event = subscriber.recv(PATIENCE)
                events.append(event)
                if isinstance(event, Arriving):
                    name = event.advert.id
                    half = Reader(event, timeout=PATIENCE)
                    self.assertEqual(len(half.read(1000)), 1000)
                    half.close()
                    with self.assertRaises(ValueError):
                        half.read(1)
                    with io.BufferedReader(Reader(event, timeout=PATIENCE)) as reader:
                        self.assertEqual(reader.read(), body)
                        reader.seek(5_000_000)
                        self.assertEqual(reader.read(10), body[5_000_000:5_000_010])
            self.assertEqual(name, offer.id)
            self.assertEqual([type(event) for event in events], [Arriving, Artifact])
            self.assertEqual(bytes(events[-1]), body)
            thread.join(PATIENCE)
        self.assertTrue(counts and counts == sorted(counts) and counts[-1] <= LARGE, counts)
        self.evidence(progress=len(counts))

    def two_nodes(self):
        """Buses of two domains whose nodes are linked."""
        near, far = self.domain + "-near", self.domain + "-far"
        ready = self.start(far, "--index", "1", "--listen", "127.0.0.1:0")
        self.start(near, "--index", "0", "--peer", f"1={ready['listen'][0]}")
        buses = busway.Bus(near), busway.Bus(far)
        for bus in buses:
            self.addCleanup(bus.close)
        return buses


class Waits(Stage):
    def test_interrupts_closing_and_the_end_of_the_node_end_each_wait(self):
        calls = {
            "recv": "artifacts.subscriber().recv()",
            "fetch": "artifacts.fetch('0' * 64)",
            "wait_reached": "artifacts.offer(b'x').wait_reached()",
        }
        for call in calls.values():
            script = f"""
with busway.Bus("{self.domain}") as bus:
    artifacts = bus.artifacts("maps")
    print("waits", flush=True)
    try:
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
        ended = []

        def wait(subscriber):
            ended.append(list(subscriber))

        # What the child offered stands on its topic until the node has seen that it is gone.
        charts = self.bus.artifacts("charts")
        subscribers = [charts.subscriber() for _ in range(2)]
        threads = [threading.Thread(target=wait, args=(subscriber,)) for subscriber in subscribers]
        for thread in threads:
            thread.start()
        subscribers[0].close()
        threads[0].join(PATIENCE)
        self.node.kill()
        threads[1].join(PATIENCE)
        self.assertEqual(ended, [[], []])
        with self.assertRaises(busway.Closed):
            self.artifacts.list()
        self.evidence(interrupted=len(calls))

    def test_a_loop_offers_is_given_fetches_reads_and_is_told(self):
        body = large(4)

        async def main():
            ticks = 0

            async def tick():
                nonlocal ticks
                while True:
                    await asyncio.sleep(0.001)
                    ticks += 1

            async with aio.Bus(self.domain) as bus, bus.artifacts("maps") as artifacts:
                ticking = asyncio.create_task(tick())
                async with artifacts.subscriber(interest=lambda advert: Interest.FETCH) as subscriber:
                    waiting = asyncio.create_task(subscriber.recv())
                    await asyncio.sleep(0)
                    async with artifacts.offer(bytearray(body), attribute=b"v1") as offer:
                        artifact = await asyncio.wait_for(waiting, PATIENCE)
                        self.assertEqual((artifact.id, artifact.advert.attribute), (offer.id, b"v1"))
                        parts = [part async for part in artifacts.read(artifact)]
                        self.assertEqual(b"".join(parts), body)
                        await artifacts.save(artifact, self.folder / "saved")
                        self.assertEqual((self.folder / "saved").read_bytes(), body)
                        fetched = await artifacts.fetch(offer.id, PATIENCE)
                        self.assertEqual(bytes(fetched), body)
                        self.assertEqual(len(await artifacts.list()), 1)
                    event = await asyncio.wait_for(subscriber.recv(), PATIENCE)
                    self.assertIsInstance(event, Withdrawn)
                    with self.assertRaises(busway.TimedOut):
                        await artifacts.fetch("0" * 64, 0.05)
                    async with artifacts.offer(b"all", reach_all=PATIENCE) as offer:
                        await offer.wait_reached(PATIENCE)
                        self.assertEqual(offer.reach, "reached")
                async with artifacts.subscriber() as subscriber:
                    # A receive that is cancelled has taken nothing.
                    receive = asyncio.create_task(subscriber.recv())
                    await asyncio.sleep(0)
                    receive.cancel()
                    await asyncio.gather(receive, return_exceptions=True)
                    async with artifacts.offer(b"next"):
                        self.assertEqual(bytes(await asyncio.wait_for(subscriber.recv(), PATIENCE)), b"next")
                ticking.cancel()
                self.assertGreater(ticks, 0)
                self.assertIn("told", await artifacts.counts())

        asyncio.run(main())

    def test_what_a_loop_s_function_raises_is_raised_by_its_receive_and_a_loop_that_ends_while_it_waits_ends(self):
        def interest(advert):
            raise ZeroDivisionError(advert.topic)

        async def raising():
            async with aio.Bus.of(self.bus).artifacts("maps") as artifacts, artifacts.subscriber(interest=interest) as subscriber:
                waiting = asyncio.create_task(subscriber.recv())
                async with artifacts.offer(b"x"):
                    with self.assertRaises(ZeroDivisionError):
                        await asyncio.wait_for(waiting, PATIENCE)

        asyncio.run(raising())
        kept = []

        async def waits():
            artifacts = await aio.Bus.of(self.bus).artifacts("maps")
            subscriber = await artifacts.subscriber()
            kept.append((subscriber, asyncio.create_task(subscriber.recv())))
            await asyncio.sleep(0.01)

        # The loop ends with the task in the midst of its wait; the next loop goes on with the same subscriber.
        asyncio.run(waits())
        subscriber, waited = kept[0]
        self.assertTrue(waited.cancelled())

        async def goes_on():
            with self.artifacts.offer(b"after"):
                event = await asyncio.wait_for(subscriber.recv(), PATIENCE)
                self.assertEqual(bytes(event), b"after")
            waiting = asyncio.create_task(subscriber.recv())
            event = await asyncio.wait_for(waiting, PATIENCE)
            self.assertIsInstance(event, Withdrawn)
            waiting = asyncio.create_task(subscriber.recv())
            await asyncio.sleep(0)
            await subscriber.close()
            with self.assertRaises(busway.Closed):
                await asyncio.wait_for(waiting, PATIENCE)

        asyncio.run(goes_on())

    def test_a_child_made_by_fork_is_told_and_takes_nothing_from_its_parent(self):
        body = large(5, 1_000_000)
        artifacts, offer = self.artifacts, self.artifacts.offer(body)
        subscriber = artifacts.subscriber()
        artifact = subscriber.recv(PATIENCE)
        reader = Reader(artifact)
        reader.read(10)
        stop = threading.Event()

        def busy():
            while not stop.is_set():
                artifacts.list()
                subscriber.try_recv()

        def child():
            calls = [
                lambda: artifacts.offer(b"x"),
                lambda: artifacts.offer_reader(io.BytesIO(b"x")),
                lambda: artifacts.fetch("0" * 64, 1),
                lambda: artifacts.list(),
                lambda: artifacts.counts(),
                lambda: artifacts.subscriber(),
                lambda: offer.reach,
                lambda: offer.wait_reached(1),
                lambda: subscriber.recv(1),
                lambda: subscriber.try_recv(),
                lambda: subscriber.closed,
                lambda: artifact.read_at(0, 1),
                lambda: bytes(artifact),
                lambda: reader.read(1),
                lambda: self.bus.artifacts("x"),
            ]
            for at, call in enumerate(calls):
                with self.assertRaises(busway.Forked, msg=f"call {at}"):
                    call()
            offer.close()
            offer.withdraw()
            subscriber.close()
            reader.close()
            with busway.Bus(self.domain) as own:
                self.assertEqual(bytes(own.artifacts("maps").fetch(offer.id, PATIENCE)), body)

        thread = threading.Thread(target=busy)
        thread.start()
        try:
            for _ in range(3):
                pid = os.fork()
                if pid == 0:
                    status = 1
                    try:
                        child()
                        status = 0
                    except BaseException as error:
                        print("in the child:", type(error), error, flush=True)
                    finally:
                        os._exit(status)
                self.assertEqual(os.waitpid(pid, 0)[1], 0)
        finally:
            stop.set()
            thread.join(PATIENCE)
        self.assertEqual((offer.reach, reader.read(10), bytes(artifact)), ("offered", body[10:20], body))
        offer.close()
        self.assertIsInstance(subscriber.recv(PATIENCE), Withdrawn)

    def test_ten_thousand_small_offers_leave_nothing_and_who_never_receives_holds_up_nobody(self):
        never = self.artifacts.subscriber()

        def there():
            return threading.active_count(), len(os.listdir("/proc/self/fd"))

        threads, files = there()
        body, grown = bytes(1000), 0
        with self.artifacts.subscriber() as subscriber:
            for number in range(10_000):
                if number == 1000:
                    grown = -resident()
                with self.artifacts.offer(b"%d" % number + body):
                    pass
                if number % 100 == 99:
                    with self.artifacts.offer(b"seen %d" % number) as seen:
                        while getattr(subscriber.recv(PATIENCE), "id", None) != seen.id:
                            pass
        grown += resident()
        self.assertLess(grown, 8 << 20)
        self.assertEqual(self.artifacts.list(), [])
        # What is passed from one program to another is open at this moment or the next.
        deadline = time.monotonic() + PATIENCE
        while there()[0] > threads or there()[1] > files:
            self.assertLess(time.monotonic(), deadline, f"{there()} are there, {threads, files} were")
            os.sched_yield()
        never.close()
        self.evidence(offers=10_000, grown_kib=grown >> 10)
