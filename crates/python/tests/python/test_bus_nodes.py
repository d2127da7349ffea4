"""Programs that join a node of another host: with `node`, over TLS with `tls`, and as somebody with `token`.

The other host is a domain of its own with a real `busway up`; nothing but the link leads there.
"""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
import time

import busway
from bus_stage import BusClaims
from message_bus import DEFAULT_CONFIG, MessageBus, Ports
from stage import PATIENCE, Child

TOOL = os.environ.get("BUSWAY_TOOL", "busway")
TOKEN = "5ecret-token-of-lamp"
#: Far longer than a link takes to be made.
LATE = {"late_join_ms": PATIENCE * 1000, "req_total_timeout": PATIENCE}


@contextlib.contextmanager
def node(*arguments):
    """The address of a node of the domain `far`."""
    command = [TOOL, "up", "--domain", "far", "--listen", "127.0.0.1:0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    # It says its line, or ends.
    watchdog = threading.Timer(PATIENCE, process.kill)
    watchdog.start()
    try:
        found = re.search(r"listen=(\S+)", process.stdout.readline())
        assert found, "it is ready"
        yield found[1]
    finally:
        watchdog.cancel()
        process.terminate()
        process.communicate(timeout=PATIENCE)


@contextlib.contextmanager
def cluster(tokens=""):
    """A folder of certificates, and the address of a node that has one."""
    with tempfile.TemporaryDirectory() as pki:
        made = [TOOL, "cert", "new", "--dir", pki, "--node", "0", "--client", "lamp"]
        subprocess.run(made, check=True, capture_output=True, timeout=PATIENCE)
        config = os.path.join(pki, "busway.toml")
        with open(config, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(f'[tls]\nca = "ca.pem"\ncert = "node-0.pem"\nkey = "node-0.key"\n{tokens}')
        with node("--config", config) as address:
            yield pki, address


class Answers(MessageBus):
    """Keeps what comes, and answers what is asked."""

    def __init__(self, name, config):
        super().__init__(name, {**LATE, **config})
        self.results = asyncio.Queue()
        self.events = asyncio.Queue()
        self.register_handler(">", self.events.put)

    async def _handle_pulled_message(self, message):
        await self.results.put(message)

    async def _handle_request(self, request):
        return {"of": self.service_name, "op": request["data"]["op"]}

    def listen(self):
        loops = (self.subscribe_loop(Ports.GLOBAL_EVENTS, "price."), self.pull_results_loop(), self.response_loop())
        return [asyncio.create_task(loop) for loop in loops]


class Nodes(BusClaims):
    async def speak(self, config):
        """Each pattern once, from a program that joins a node to one beside that node; events also back."""
        far, near = Answers("far", {"domain": "far"}), Answers("near", {"domain": "near", **config})
        try:
            far.listen()
            back = asyncio.create_task(near.subscribe_loop(Ports.GLOBAL_EVENTS, "back."))
            await near.publish("price.tick", {"of": "near"})
            await near.push_result({"task": 1})
            self.assertEqual(await near.request({"op": "get"}), {"of": "far", "op": "get"})
            event = await asyncio.wait_for(far.events.get(), PATIENCE)
            self.assertEqual((event["sender"], event["data"]), ("near", {"of": "near"}))
            self.assertEqual((await asyncio.wait_for(far.results.get(), PATIENCE))["data"], {"task": 1})
            await far.publish("back.tick", {"of": "far"})
            self.assertEqual((await asyncio.wait_for(near.events.get(), PATIENCE))["data"], {"of": "far"})
            links = near.get_metrics(extended=True)["links"]
            self.assertEqual([(link["peer"], link["state"]) for link in links], [(links[0]["peer"], "connected")])
            back.cancel()
        finally:
            await near.cleanup()
            await far.cleanup()

    async def refused(self, config):
        """Why the link of a program is not made."""
        async with self.bus({"domain": "near", "late_join_ms": 0, **config}) as near:
            await near.publish("price.tick", {})
            links = lambda: [link["last_error"] for link in near.get_metrics(extended=True)["links"]]
            await self.until(lambda: any(links()), "the link is refused")
            return links()[0]

    def test_a_program_joins_a_node_and_all_patterns_cross(self):
        with node() as address:
            self.run_async(self.speak({"node": address}))
        with node("--index", "3", "--cluster", "north") as address:
            self.run_async(self.speak({"node": {"peers": f"3={address}", "cluster": "north", "client": 7}}))
            # As a file of JSON has it.
            self.run_async(self.speak({"node": {"peers": {"3": address}, "cluster": "north"}}))
            self.assertTrue(self.run_async(self.refused({"node": address})))
        self.evidence(programs=3, patterns=3)

    def test_a_program_joins_a_node_over_tls_by_its_certificate(self):
        with cluster() as (pki, address):
            files = {"ca": f"{pki}/ca.pem", "cert": f"{pki}/client-lamp.pem", "key": f"{pki}/client-lamp.key"}
            self.run_async(self.speak({"node": address, "tls": files}))
            self.assertIn("TLS", self.run_async(self.refused({"node": address})))
            only_ca = {"node": address, "tls": {"ca": files["ca"]}}
            self.assertIn("no certificate", self.run_async(self.refused(only_ca)))

    def test_a_program_shows_a_token_in_place_of_a_certificate(self):
        with cluster(f'[tokens]\nlamp = "{TOKEN}"\n') as (pki, address):
            said = {"node": {"peers": address, "client": "lamp"}, "tls": {"ca": f"{pki}/ca.pem"}}
            self.run_async(self.speak({**said, "token": TOKEN}))
            told = self.run_async(self.refused({**said, "token": "5ecret-token-of-nobody"}))
            self.assertIn("token", told)
            self.assertNotIn("5ecret", told)
            self.assertIn("neither a certificate nor a token", self.run_async(self.refused(said)))

    def test_programs_that_join_the_same_node_share_the_link_and_one_is_enough(self):
        script = """
import asyncio
from message_bus import MessageBus

async def main():
    bus = MessageBus("first", {"domain": "near", "node": sys.argv[1], "late_join_ms": 0})
    await bus.publish("price.other", {})
    while not any(link["state"] == "connected" for link in bus.get_metrics(extended=True)["links"]):
        await asyncio.sleep(0.01)
    print("linked", flush=True)
    await asyncio.sleep(PATIENCE)

asyncio.run(main())
"""

        async def main(address, first):
            far, near = Answers("far", {"domain": "far"}), Answers("near", {"domain": "near", "node": address})
            try:
                near.listen()
                await far.publish("price.tick", {"number": 1})
                event = await asyncio.wait_for(near.events.get(), PATIENCE)
                self.assertEqual(event["data"], {"number": 1})
                states = lambda: [link["state"] for link in near.get_metrics(extended=True)["links"]]
                self.assertEqual(states(), ["elsewhere"], "the first has the link")
                first.process.kill()
                await self.until(lambda: "connected" in states(), "the second takes it over")
                await far.publish("price.tick", {"number": 2})
                event = await asyncio.wait_for(near.events.get(), PATIENCE)
                self.assertEqual(event["data"], {"number": 2})
            finally:
                await near.cleanup()
                await far.cleanup()

        with node() as address, Child(script.replace("sys.argv[1]", repr(address))) as first:
            self.assertEqual(first.hear(), "linked")
            self.run_async(main(address, first))
        left = [name for name in os.listdir(os.environ["BUSWAY_DIR"]) if name.endswith(".share")]
        self.assertEqual(left, [])

    def test_a_node_that_is_forgotten_keeps_no_other_thread_from_python(self):
        with node() as address, busway.Bus("near") as bus:
            counts, over = [0], threading.Event()

            def count():
                while not over.is_set():
                    counts[0] += 1

            def forget():
                """How far the other thread came while a node that is linked ended."""
                forgotten = bus.node({0: address})
                deadline = time.monotonic() + PATIENCE
                while not any(peer["state"] == "connected" for peer in forgotten.peers()):
                    self.assertLess(time.monotonic(), deadline, "it is linked")
                interval = sys.getswitchinterval()
                try:
                    # Only who lets the interpreter go is passed.
                    sys.setswitchinterval(1.0)
                    before = counts[0]
                    del forgotten
                    return counts[0] - before
                finally:
                    sys.setswitchinterval(interval)

            counter = threading.Thread(target=count)
            counter.start()
            try:
                # A node may end before a busy host gives the other thread a turn: the next is as good.
                passed = any(forget() for _ in range(20))
            finally:
                over.set()
                counter.join()
            self.assertTrue(passed)
            with contextlib.closing(bus.node({0: address})) as again:
                self.assertTrue(again.carries, "the forgotten one has ended")

    def test_a_child_made_by_fork_is_refused_a_node_of_its_parents_bus(self):
        with busway.Bus("near") as bus, bus.node({0: "127.0.0.1:1"}) as held:
            self.assertTrue(held.carries)
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    bus.node({0: "127.0.0.1:1"})
                except busway.Forked:
                    status = 0
                finally:
                    os._exit(status)
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)

    def test_what_is_said_of_a_node_is_looked_at_where_it_is_given_and_shows_no_token(self):
        wrong = [
            {"node": value}
            for value in ("host", "host:", ":4420", "host:0", "host:65536", "x=host:1", "64=host:1", "0=a:1,0=b:1", "", 5, [], {})
        ]
        wrong += [{"node": {"peers": "a:1", **said}} for said in ({"clutser": "x"}, {"cluster": 5}, {"client": True})]
        wrong += [{"node": "a:1", "tls": value} for value in (True, {}, {"ca": "x", "cert": "y"}, {"ca": 5}, "ca.pem")]
        wrong += [{"tls": {"ca": "x"}}, {"token": TOKEN}, {"node": "a:1", "token": TOKEN}]
        wrong += [{"node": {"peers": "a:1", "client": "lamp"}, "token": [TOKEN]}]
        # One level too deep.
        wrong += [{"node": {"peers": "a:1", "client": "lamp", "token": TOKEN}}]
        wrong += [{"node": "a:1", "tls": {"ca": "x", "token": TOKEN}}]
        for config in wrong:
            with self.subTest(config=config), self.assertRaises(ValueError) as raised:
                MessageBus("x", config)
            self.assertNotIn(TOKEN, str(raised.exception))
        self.assertEqual([DEFAULT_CONFIG[key] for key in ("node", "tls", "token")], [None] * 3)
        said = {"node": {"peers": "a:1", "client": "lamp"}, "token": TOKEN}
        self.assertNotIn(TOKEN, repr(MessageBus("x", said)._core.settings))

        async def main():
            files = {"ca": "/nowhere/ca.pem"}
            async with self.bus({"domain": "near", "node": "a:1", "tls": files, "strict": True}) as bus:
                with self.assertRaisesRegex(busway.Error, "/nowhere/ca.pem"):
                    await bus.publish("price.tick", {})
                self.assertEqual(bus.get_metrics()["failed_bind_count"], 1)

        self.run_async(main())
