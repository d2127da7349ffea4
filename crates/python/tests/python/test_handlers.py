"""Handlers of an event loop: of requests, and of work."""

import asyncio
import gc

import busway
from busway import aio
from stage import PATIENCE, Claims


class Handlers(Claims):
    def told(self, loop):
        """What is told to the loop's exception handler."""
        told = []
        loop.set_exception_handler(lambda _, context: told.append(context))
        return told

    def test_as_many_handlers_run_at_once_as_may_and_no_more_is_taken(self):
        async def main():
            running, most = 0, 0
            go_on = asyncio.Event()

            async def handler(request):
                nonlocal running, most
                running += 1
                most = max(most, running)
                await go_on.wait()
                running -= 1
                return bytes(request)

            async with aio.Bus("handlers") as bus, bus.responder("ask") as responder, bus.responder("ask") as other:
                requester = await bus.requester("ask")
                serving = asyncio.create_task(aio.serve(responder, handler, at_once=5))
                asking = [asyncio.create_task(requester.request(b"%d" % at, PATIENCE)) for at in range(20)]
                while running < 5:
                    await asyncio.sleep(0)
                # What it has no hand for is for another.
                for _ in range(15):
                    (await asyncio.wait_for(other.recv(), PATIENCE)).reply(b"other")
                go_on.set()
                replies = [bytes(reply) for reply in await asyncio.gather(*asking)]
                self.assertEqual(replies.count(b"other"), 15)
                await other.close()
                more = await asyncio.gather(*(requester.request(b"more", PATIENCE) for _ in range(500)))
                self.assertEqual({bytes(reply) for reply in more}, {b"more"})
                self.assertEqual(most, 5)
                await responder.close()
                await asyncio.wait_for(serving, PATIENCE)
                with self.assertRaises(ValueError):
                    await aio.serve(responder, handler, at_once=0)

        asyncio.run(main())
        self.evidence(requests=520, at_once=5)

    def test_what_a_handler_raises_is_told_and_ends_nothing_else(self):
        async def handler(request):
            match bytes(request):
                case b"raise":
                    raise KeyError("no such thing")
                case b"late":
                    request.reply_part(b"one")
                    raise ValueError("in the midst of a stream")
                case b"parts":
                    request.reply_part(b"one")
                    request.reply(b"two")
                case b"nothing":
                    return None
                case b"refuse":
                    request.fail("not today")
                case b"wrong":
                    return "text"
                case other:
                    return other

        async def main():
            told = self.told(asyncio.get_running_loop())
            async with aio.Bus("handlers") as bus, bus.responder("ask") as responder, bus.requester("ask") as requester:
                serving = asyncio.create_task(aio.serve(responder, handler))

                async def ends(word):
                    try:
                        return [bytes(reply) async for reply in await requester.send(word, PATIENCE)]
                    except busway.ResponderFailed as error:
                        return error.why
                    except busway.Error as error:
                        return type(error)

                words = [b"raise", b"late", b"parts", b"nothing", b"refuse", b"wrong", b"echo"]
                ended = dict(zip(words, await asyncio.gather(*map(ends, words))))
                self.assertEqual(ended[b"raise"], b"KeyError: 'no such thing'")
                self.assertEqual(ended[b"late"], b"ValueError: in the midst of a stream")
                self.assertEqual(ended[b"parts"], [b"one", b"two"])
                self.assertIs(ended[b"nothing"], busway.Unanswered)
                self.assertEqual(ended[b"refuse"], b"not today")
                self.assertTrue(ended[b"wrong"].startswith(b"TypeError"))
                self.assertEqual(ended[b"echo"], [b"echo"])
                self.assertEqual(sorted(type(context["exception"]).__name__ for context in told),
                                 ["KeyError", "TypeError", "ValueError"])
                self.assertFalse(serving.done())
                await responder.close()
                await asyncio.wait_for(serving, PATIENCE)

        asyncio.run(main())

    def test_handlers_that_are_cancelled_leave_their_requests_unanswered_and_their_work_to_others(self):
        async def main():
            self.told(asyncio.get_running_loop())
            begun = asyncio.Semaphore(0)

            async def never(_):
                begun.release()
                await asyncio.Event().wait()

            async with aio.Bus("handlers") as bus, bus.responder("ask") as responder, bus.requester("ask") as requester:
                pusher = await bus.pusher("work")
                puller = await bus.puller("work", ack=PATIENCE)
                loops = [asyncio.create_task(aio.serve(responder, never)), asyncio.create_task(aio.work(puller, never))]
                asking = [asyncio.create_task(requester.request(b"x", PATIENCE)) for _ in range(3)]
                for _ in range(3):
                    await pusher.send(b"task")
                for _ in range(6):
                    await asyncio.wait_for(begun.acquire(), PATIENCE)
                for loop in loops:
                    loop.cancel()
                await asyncio.wait(loops, timeout=PATIENCE)
                self.assertTrue(all(loop.cancelled() for loop in loops))
                ended = await asyncio.wait_for(asyncio.gather(*asking, return_exceptions=True), PATIENCE)
                self.assertEqual([type(error) for error in ended], [busway.Unanswered] * 3)
                for _ in range(3):
                    with await asyncio.wait_for(puller.recv(), PATIENCE) as task:
                        self.assertEqual(task.deliveries, 2)
                await pusher.flush(PATIENCE)
            gc.collect()

        asyncio.run(main())

    def test_work_that_fails_is_tried_again_and_the_rest_is_acknowledged(self):
        async def main():
            told = self.told(asyncio.get_running_loop())
            done = []

            async def handler(task):
                if bytes(task).startswith(b"bad") and task.deliveries < 3:
                    raise RuntimeError("not yet")
                await asyncio.sleep(0)
                done.append(bytes(task))
                if task == b"own":
                    task.ack()

            async with aio.Bus("handlers") as bus, bus.pusher("work", max_wait=PATIENCE) as pusher:
                puller = await bus.puller("work", group="hands", ack=PATIENCE)
                working = asyncio.create_task(aio.work(puller, handler, at_once=4))
                words = [b"%s%d" % (b"bad" if at % 10 == 0 else b"good", at) for at in range(1000)] + [b"own"]
                for word in words:
                    await pusher.send(word)
                await pusher.flush(PATIENCE)
                self.assertEqual(sorted(done), sorted(words))
                self.assertEqual(len(told), 200)
                account = pusher.pusher.account()
                self.assertEqual((account["delivered"], account["dropped"]), (1001, {}))
                await puller.close()
                await asyncio.wait_for(working, PATIENCE)
                # The loop of what is closed is over at once.
                await asyncio.wait_for(aio.work(puller, handler), PATIENCE)

        asyncio.run(main())
        self.evidence(tasks=1001, given_back=200)

    def test_who_holds_as_much_as_it_may_goes_on_when_a_handler_has_let_go(self):
        async def handler(request):
            await asyncio.sleep(0)
            return b"%d" % len(request)

        async def main():
            async with aio.Bus("handlers") as bus, bus.responder("ask", holds=2) as responder:
                async with bus.requester("ask", bytes_max=64 << 20) as requester:
                    serving = asyncio.create_task(aio.serve(responder, handler, at_once=10))
                    # Too large to be copied.
                    asking = (requester.request(bytes(200_000), PATIENCE) for _ in range(30))
                    replies = await asyncio.gather(*asking)
                    self.assertEqual({bytes(reply) for reply in replies}, {b"200000"})
                    self.assertFalse(serving.done())
                    await responder.close()
                    await asyncio.wait_for(serving, PATIENCE)

        asyncio.run(main())
