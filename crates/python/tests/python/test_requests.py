"""Requests and replies: requesters, pendings, responders."""

import asyncio
import gc
import os
import signal
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor, wait

import busway
from busway import aio
from stage import PATIENCE, Child, Claims, mapping_of, resident

#: A time that is to be over, and not before another program has had its turn.
LONG = 3.0
#: A program that answers: `echo` what it got, `stream:N` so many parts, `die`, `drop`, `fail`, `sleep` until it is told to go on.
RESPONDER = """
with busway.Bus("requests") as bus, bus.responder("ask") as responder:
    print("here", flush=True)
    for request in responder:
        word = bytes(request.data[:4])
        if word == b"die!":
            import os
            os.kill(os.getpid(), 9)
        elif word == b"drop":
            request.release()
        elif word == b"fail":
            request.fail("no, " + bytes(request).decode())
        elif word == b"wait":
            print("has it", flush=True)
            sys.stdin.readline()
            try:
                request.reply(b"late")
            except busway.Cancelled:
                print("cancelled", request.is_cancelled, request.done, flush=True)
        elif word == b"part":
            try:
                for number in range(request.data[4]):
                    request.reply_part(bytes([number]) * 200)
                request.reply(b"last")
            except busway.Cancelled:
                pass
        else:
            request.reply(request)
"""


class Requests(Claims):
    def setUp(self):
        self.bus = busway.Bus("requests")
        self.addCleanup(self.bus.close)

    def test_what_is_asked_and_replied_is_shown_where_it_was_written(self):
        requester, responder = self.bus.requester("ask"), self.bus.responder("ask")
        pending = requester.send(b"q" * 70_000, timeout=PATIENCE)
        request = responder.recv(PATIENCE)
        self.assertEqual((request.topic, len(request), request.held), ("ask", 70_000, True))
        self.assertTrue(0 < request.remaining <= PATIENCE)
        asked = memoryview(request)
        self.assertTrue(asked.readonly)
        request.reply(b"r" * 80_000)
        self.assertTrue(request.done)
        reply = pending.recv(PATIENCE)
        self.assertEqual((reply.index, reply.last, reply.held), (0, True, True))
        answer = memoryview(reply)
        self.assertIsNone(pending.recv())
        for view in (asked, answer):
            self.assertIn("memfd:busway", mapping_of(view).name)
        # Both stay what they are, whatever comes and goes, and whoever is closed.
        for number in range(1500):
            size = 5000 if number % 2 else 70_000
            pending = requester.send(bytes([number % 50]) * size, timeout=PATIENCE)
            with responder.recv(PATIENCE) as other:
                other.reply(other)
            with pending.recv(PATIENCE) as answered:
                self.assertEqual((len(answered), answered.data[-1]), (size, number % 50))
        responder.close()
        requester.close()
        self.assertEqual((asked, answer), (b"q" * 70_000, b"r" * 80_000))
        for shown in (request, reply):
            with self.assertRaises(BufferError):
                shown.release()
        del asked, answer, view
        request.release()
        reply.release()
        with self.assertRaises(ValueError):
            request.remaining
        for again in (lambda: request.reply(b"again"), lambda: request.reply_part(b"again"), lambda: request.fail()):
            with self.assertRaises(ValueError):
                again()

    def test_each_way_in_which_a_request_ends_has_its_class(self):
        requester = self.bus.requester("ask", late_join=0.01)
        with self.assertRaises(busway.NoResponders) as told:
            requester.request(b"anybody?", timeout=PATIENCE)
        self.assertEqual(told.exception.code, "BUS-0406")
        with Child(RESPONDER) as child:
            self.assertEqual(child.hear(), "here")
            self.assertEqual(requester.wait_for_responders(1, PATIENCE), 1)
            self.assertEqual(requester.request(b"echo", timeout=PATIENCE), b"echo")
            with self.assertRaises(busway.Unanswered):
                requester.request(b"drop it", timeout=PATIENCE)
            with self.assertRaises(busway.ResponderFailed) as told:
                requester.request(b"fail \xc3\xa4", timeout=PATIENCE)
            self.assertEqual(told.exception.why.decode(), "no, fail ä")
            parts = list(requester.send(b"part\x03", timeout=PATIENCE))
            self.assertEqual([bytes(part)[:1] for part in parts], [b"\0", b"\1", b"\2", b"l"])
            self.assertEqual([(part.index, part.last) for part in parts], [(0, False), (1, False), (2, False), (3, True)])
            self.assertEqual(bytes(requester.request(b"part\x05", timeout=PATIENCE)), bytes(200))
            # Time that is up is told to both.
            pending = requester.send(b"wait", timeout=LONG)
            self.assertEqual(child.hear(), "has it")
            with self.assertRaises(busway.TimedOut):
                pending.recv(0.01)
            self.assertFalse(pending.over)
            with self.assertRaises(busway.TimedOut):
                pending.recv()
            self.assertTrue(pending.over)
            child.say("go on")
            self.assertEqual(child.hear(), "cancelled True True")
            # So is a request that nobody wants any more.
            for cancel in (lambda pending: pending.cancel(), lambda pending: pending.__exit__(), lambda pending: None):
                pending = requester.send(b"wait", timeout=PATIENCE)
                self.assertEqual(child.hear(), "has it")
                cancel(pending)
                del pending
                child.say("go on")
                self.assertEqual(child.hear(), "cancelled True True")
            pendings = [requester.send(b"echo", timeout=PATIENCE), requester.send(b"die!", timeout=PATIENCE)]
            self.assertEqual(pendings[0].recv(), b"echo")
            with self.assertRaises(busway.ResponderDied) as told:
                pendings[1].recv()
            self.assertEqual(told.exception.code, "BUS-0407")
        self.assertEqual(requester.under_way, 0)
        account = requester.account()
        self.assertEqual(account["in_flight"], 0)

    def test_a_wait_for_a_reply_or_a_request_ends_with_time_interrupts_and_closing(self):
        calls = ["requester.request(b'x', None)", "pending.recv()", "list(pending)", "responder.recv()",
                 "requester.wait_for_responders(9)", "[other.send(b'x', None) for _ in range(9)]"]
        for call in calls:
            script = f"""
with busway.Bus("interrupted") as bus:
    requester, responder, other = bus.requester("ask"), bus.responder("*"), bus.requester("b", in_flight=4)
    pending = requester.send(b"never answered", timeout=None)
    taken = responder.recv(PATIENCE)
    kept = []
    try:
        print("waits", flush=True)
        {call.replace("other.send(b'x', None)", "kept.append(other.send(b'x', None))")}
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
            with Child(script) as child:
                self.assertEqual(child.hear(), "waits")
                child.sleeps()
                child.process.send_signal(signal.SIGINT)
                self.assertEqual(child.hear(), "interrupted", call)
                self.assertEqual(child.process.wait(PATIENCE), 0)
        requester, responder = self.bus.requester("ask"), self.bus.responder("ask")
        with self.assertRaises(busway.TimedOut):
            responder.recv(0.01)
        for refused in (lambda: requester.request(b"x", float("nan")), lambda: responder.recv(float("nan"))):
            with self.assertRaises(busway.SettingError):
                refused()
        with ThreadPoolExecutor(4) as pool:
            pending = requester.send(b"x", timeout=None)
            taken = responder.recv(PATIENCE)
            waiting = [pool.submit(pending.recv), pool.submit(responder.recv), pool.submit(requester.request, b"y", None)]
            while not all(call.running() or call.done() for call in waiting):
                pass
            pending.cancel()
            self.assertIsInstance(waiting[0].exception(PATIENCE), busway.Closed)
            self.assertTrue(taken.is_cancelled)
            # One of the two has it, and nobody answers: until the bus is closed.
            self.bus.close()
            for call in waiting[1:]:
                self.assertTrue(call.exception(PATIENCE) is None or isinstance(call.exception(), busway.Closed))
        with self.assertRaises(busway.Closed):
            requester.request(b"z")

    def test_threads_ask_and_answer_at_once(self):
        requester, responder = self.bus.requester("double"), self.bus.responder("double")
        stop = threading.Event()

        def answer():
            done = 0
            while not stop.is_set():
                for request in responder.recv_many(4, 0.05):
                    request.reply(2 * bytes(request))
                    done += 1
            return done

        def ask(who):
            for number in range(400):
                word = f"{who}.{number}".encode() * (1 if number % 3 else 30)
                self.assertEqual(requester.request(word, timeout=PATIENCE), 2 * word)

        with ThreadPoolExecutor(7) as pool:
            answering = [pool.submit(answer) for _ in range(3)]
            for asking in [pool.submit(ask, who) for who in range(4)]:
                asking.result(3 * PATIENCE)
            stop.set()
            shares = [call.result(PATIENCE) for call in answering]
        self.assertEqual(sum(shares), 1600)
        self.assertEqual(requester.strays(), dict.fromkeys(requester.strays(), 0))
        self.evidence(requests=1600, shares=shares)

    def test_a_loop_has_thousands_of_requests_under_way(self):
        async def main():
            async with aio.Bus("requests") as bus, bus.responder("ask") as responder:
                async with bus.requester("ask", in_flight=512) as requester:

                    async def answer():
                        async for batch in responder.batches(64):
                            for request in batch:
                                request.reply(request)

                    answering = asyncio.create_task(answer())
                    rung = 0
                    tell = requester._rung

                    def count():
                        nonlocal rung
                        rung += 1
                        tell()

                    requester._rung = count

                    async def ask(number):
                        word = number.to_bytes(4, "big") * (1 if number % 5 else 200)
                        return bytes(await requester.request(word, timeout=3 * PATIENCE)) == word

                    answers = await asyncio.gather(*(ask(number) for number in range(4000)))
                    self.assertEqual(sum(answers), 4000)
                    large = await requester.request(b"l" * 5000, PATIENCE)
                    self.assertTrue(large.held, "it is shown where its responder wrote it")
                    self.assertEqual(large, b"l" * 5000)
                    self.assertEqual(requester.requester.under_way, 0)
                    self.assertEqual((len(requester._waiting), len(requester._placeless)), (0, 0))
                    answering.cancel()
                    return rung

        rung = asyncio.run(main())
        self.assertLess(rung, 2000, "a wake-up is for whatever has come")
        self.evidence(requests=4000, wake_ups=rung)

    def test_a_loop_is_told_how_each_request_ends(self):
        async def main():
            async with aio.Bus("requests") as bus, bus.requester("ask", late_join=0.01) as requester:

                async def ends(word, timeout=PATIENCE):
                    try:
                        return bytes(await requester.request(word, timeout))
                    except busway.Error as error:
                        return type(error)

                self.assertIs(await ends(b"anybody?"), busway.NoResponders)
                with Child(RESPONDER) as child:
                    self.assertEqual(await asyncio.to_thread(child.hear), "here")
                    await requester.wait_for_responders(1, PATIENCE)
                    words = [b"echo", b"drop", b"fail", b"part\x02"]
                    ended = await asyncio.gather(*map(ends, words))
                    self.assertEqual(ended, [b"echo", busway.Unanswered, busway.ResponderFailed, bytes(200)])
                    parts = [bytes(reply)[:1] async for reply in await requester.send(b"part\x02", PATIENCE)]
                    self.assertEqual(parts, [b"\0", b"\1", b"l"])
                    # A task that is cancelled, and time that is up, are told to who answers.
                    for timeout in (LONG, PATIENCE):
                        waiting = asyncio.create_task(ends(b"wait", timeout))
                        self.assertEqual(await asyncio.to_thread(child.hear), "has it")
                        if timeout == PATIENCE:
                            waiting.cancel()
                        outcome = (await asyncio.gather(waiting, return_exceptions=True))[0]
                        self.assertIs(outcome if timeout == LONG else type(outcome),
                                      busway.TimedOut if timeout == LONG else asyncio.CancelledError)
                        child.say("go on")
                        self.assertEqual(await asyncio.to_thread(child.hear), "cancelled True True")
                    died = await asyncio.gather(ends(b"die!"), *(ends(b"echo") for _ in range(3)))
                    self.assertIs(died[0], busway.ResponderDied)
                self.assertEqual(requester._waiting, {})
                # What is dropped without being awaited is cancelled.
                async with bus.responder("ask") as responder:
                    await requester.wait_for_responders(1, PATIENCE)
                    await requester.send(b"dropped", PATIENCE)
                    gc.collect()
                    self.assertEqual(requester.requester.under_way, 0)
                    pending = await requester.send(b"kept", PATIENCE)
                    request = await asyncio.wait_for(responder.recv(), PATIENCE)
                    self.assertEqual(bytes(request), b"kept")
                    await responder.reply_part(request, b"one")
                    await responder.fail(request, "two")
                    self.assertEqual(bytes(await pending.recv()), b"one")
                    with self.assertRaises(busway.ResponderFailed):
                        await pending.recv()

        asyncio.run(asyncio.wait_for(main(), 4 * PATIENCE))

    def test_tasks_that_wait_for_a_place_are_told_when_the_one_who_answers_dies(self):
        async def main(late_join):
            async with aio.Bus("requests") as bus, bus.requester("ask", late_join=late_join, in_flight=1) as requester:
                # The clock would call them all, but only while something is under way: what it finds is told as what comes is.
                requester._tick = requester._rung
                with Child(RESPONDER) as child:
                    self.assertEqual(await asyncio.to_thread(child.hear), "here")
                    await requester.wait_for_responders(1, PATIENCE)
                    # Nobody takes its end yet, nor lets it go, so that only the death itself can call the first of the others.
                    held = await requester.send(b"wait", None)
                    self.assertEqual(await asyncio.to_thread(child.hear), "has it")
                    more = [asyncio.create_task(requester.request(b"echo", None)) for _ in range(40)]
                    while len(requester._placeless) < len(more):
                        await asyncio.sleep(0)
                    child.process.kill()
                    ended = await asyncio.wait_for(asyncio.gather(*more, return_exceptions=True), PATIENCE)
                self.assertEqual([type(error) for error in ended], 40 * [busway.NoResponders])
                with self.assertRaises(busway.ResponderDied):
                    await held.recv()

        # Those who are called are told at once that nobody answers, or wait a while for another who does.
        for late_join in (0.0, LONG):
            asyncio.run(main(late_join))

    def test_a_place_that_is_given_up_is_the_next_ones_and_who_waits_for_one_has_its_own_time(self):
        async def main():
            async with aio.Bus("requests") as bus, bus.requester("ask", in_flight=1) as requester:
                async with bus.responder("ask") as responder:
                    await requester.wait_for_responders(1, PATIENCE)
                    held = await requester.send(b"held", None)
                    with self.assertRaises(busway.TooManyRequests):
                        await requester.send(b"late", 0.01)
                    more = [asyncio.create_task(requester.send(b"next", None)) for _ in range(40)]
                    while len(requester._placeless) < len(more):
                        await asyncio.sleep(0)
                    # One after the other is given up, without an answer.
                    held.cancel()
                    for task in more:
                        (await task).cancel()
                    self.assertEqual((requester.requester.under_way, len(requester._placeless)), (0, 0))
                    del responder

        asyncio.run(asyncio.wait_for(main(), PATIENCE))

    def test_closing_ends_the_tasks_that_wait_for_replies_and_for_requests(self):
        async def main(what):
            bus = await aio.Bus("requests")
            requester, responder = await bus.requester("ask", in_flight=4), await bus.responder("ask")
            waiting = [asyncio.create_task(requester.request(b"x", None)) for _ in range(9)]
            taken = [await responder.recv() for _ in range(4)]
            serving = asyncio.create_task(responder.recv())
            await asyncio.sleep(0)
            if what == "ports":
                await requester.close()
                await responder.close()
            else:
                await bus.close()
            ended = await asyncio.wait_for(asyncio.gather(serving, *waiting, return_exceptions=True), PATIENCE)
            self.assertEqual({type(error) for error in ended}, {busway.Closed})
            if what == "ports":
                self.assertTrue(all(request.is_cancelled for request in taken))
            await bus.close()

        for what in ("ports", "bus"):
            asyncio.run(main(what))

    def test_a_requester_goes_from_loop_to_loop_and_nothing_is_left_behind(self):
        native, responder = self.bus.requester("ask"), self.bus.responder("ask")
        requester = aio.Requester(lambda: native)
        stop = threading.Event()

        def answer():
            while not stop.is_set():
                for request in responder.recv_many(8, 0.05):
                    if request != b"never":
                        request.reply(request)

        async def one(number):
            await requester
            lost = asyncio.create_task(requester.request(b"never", None))
            self.assertEqual(await requester.request(b"%d" % number, PATIENCE), b"%d" % number)
            # The loop ends while this waits.
            self.assertFalse(lost.done())

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            for number in range(5):
                asyncio.run(one(number))

            async def elsewhere():
                waiting = asyncio.create_task(requester.request(b"never", None))
                await asyncio.sleep(0)
                with self.assertRaises(RuntimeError):
                    await asyncio.to_thread(asyncio.run, requester.request(b"x", 1))
                waiting.cancel()

            asyncio.run(elsewhere())
        finally:
            stop.set()
            thread.join(PATIENCE)
        gc.collect()
        self.assertEqual(native.under_way, 0)

    def test_memory_is_flat_over_a_hundred_thousand_requests(self):
        requester, responder = self.bus.requester("ask"), self.bus.responder("ask")

        def work(rounds):
            for _ in range(rounds):
                pendings = [requester.send(b"x" * (20 if at % 4 else 2000), timeout=PATIENCE) for at in range(50)]
                taken = 0
                while taken < 50:
                    for request in responder.recv_many(50, PATIENCE):
                        request.reply(request)
                        taken += 1
                for pending in pendings:
                    pending.recv()

        async def main():
            async with aio.Bus("requests") as bus, bus.requester("more") as asking, bus.responder("more") as answering:

                async def answer():
                    async for request in answering:
                        with request:
                            request.reply(request)

                served = asyncio.create_task(answer())

                async def work(rounds):
                    for _ in range(rounds):
                        await asyncio.gather(*(asking.request(b"x" * (20 if at % 4 else 2000), PATIENCE) for at in range(50)))

                await work(100)
                gc.collect()
                before = resident()
                await work(500)
                gc.collect()
                served.cancel()
                return resident() - before

        work(200)
        gc.collect()
        before = resident()
        work(1500)
        gc.collect()
        grown = resident() - before
        in_loop = asyncio.run(main())
        self.assertLess(max(grown, in_loop), 8 << 20)
        self.assertEqual(self.bus.held, 0)
        self.evidence(requests=100_000, grown_bytes=grown, grown_bytes_in_a_loop=in_loop)

    def test_nothing_of_a_request_is_kept_by_a_cycle_or_at_the_end_of_the_interpreter(self):
        requester, responder = self.bus.requester("ask"), self.bus.responder("ask")

        class Kept:
            pass

        kept = Kept()
        kept.pending = requester.send(b"x", timeout=PATIENCE)
        kept.request = responder.recv(PATIENCE)
        kept.self = kept
        gone = weakref.ref(kept.pending)
        del kept
        gc.collect()
        self.assertIsNone(gone())
        self.assertEqual(requester.under_way, 0)
        script = """
import threading
bus = busway.Bus("ends")
requester, responder, puller = bus.requester("ask"), bus.responder("ask"), bus.puller("work", ack=5)
pending = requester.send(b"x", timeout=None)
for call in (responder.recv, pending.recv, puller.recv, lambda: requester.request(b"y", None)):
    def wait(call=call):
        try:
            call()
        except busway.Error:
            pass
    threading.Thread(target=wait, daemon=True).start()
other = requester.send(b"z", timeout=None)
request = responder.try_recv()
print("ends", flush=True)
"""
        with Child(script) as child:
            self.assertEqual(child.hear(), "ends")
            self.assertEqual(child.process.wait(PATIENCE), 0)

    def test_who_looks_at_a_request_while_its_lane_is_opened_leaves_the_interpreter_to_others(self):
        # The rendezvous is another program, which is stopped while a lane is to be opened.
        holder = """
with busway.Bus("stopped"):
    print("ready", flush=True)
    sys.stdin.readline()
"""
        with Child(holder) as child:
            self.assertEqual(child.hear(), "ready")
            with busway.Bus("stopped", timeout=2 * PATIENCE) as bus, busway.Bus("stopped", name="asks", timeout=2 * PATIENCE) as other:
                responder, requester = bus.responder("x"), other.requester("x")
                pending = requester.send(b"what?", timeout=2 * PATIENCE)
                request = responder.recv(PATIENCE)
                looks = (lambda: request.remaining, lambda: request.is_cancelled, lambda: request.done, lambda: len(request))
                os.kill(child.process.pid, signal.SIGSTOP)
                try:
                    with ThreadPoolExecutor(1 + len(looks)) as pool:
                        reply = pool.submit(request.reply, b"that")
                        seen = [pool.submit(look) for look in looks]
                        # This thread goes on, or nobody would let the rendezvous go on before the bus gives up.
                        wait(seen, 0.5)
                        os.kill(child.process.pid, signal.SIGCONT)
                        self.assertIsNone(reply.result(2 * PATIENCE))
                        for look in seen:
                            look.result(PATIENCE)
                finally:
                    os.kill(child.process.pid, signal.SIGCONT)
                self.assertEqual(bytes(pending.recv(PATIENCE)), b"that")
