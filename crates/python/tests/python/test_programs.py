"""Programs that know nothing of each other but the name of a topic."""

import os
import subprocess

import busway
from stage import PATIENCE, Child, Claims

TOOL = os.environ.get("BUSWAY_TOOL", "busway")


class Programs(Claims):
    def test_messages_go_between_two_interpreters_started_at_once(self):
        publisher = """
with busway.Bus("pair") as bus, bus.publisher("numbers") as publisher:
    publisher.wait_for_subscribers(1, PATIENCE)
    for number in range(5000):
        publisher.send(number.to_bytes(4, "big") * (1 if number % 2 else 200))
    publisher.flush(PATIENCE)
"""
        subscriber = """
with busway.Bus("pair") as bus, bus.subscriber("numbers", policy="block") as subscriber:
    expected = 0
    while expected < 5000:
        for sample in subscriber.recv_many(timeout=PATIENCE):
            assert int.from_bytes(sample.data[:4], "big") == expected, expected
            expected += 1
    print("read", expected, flush=True)
"""
        for first, second in ((publisher, subscriber), (subscriber, publisher)):
            with Child(first) as one, Child(second) as other:
                reader = one if first is subscriber else other
                self.assertEqual(reader.hear(), "read 5000")
                self.assertEqual([one.process.wait(PATIENCE), other.process.wait(PATIENCE)], [0, 0])

    def test_a_message_of_the_command_reaches_python(self):
        with busway.Bus("default") as bus, bus.subscriber("price.*") as subscriber:
            done = subprocess.run([TOOL, "pub", "price.tick", "101.5"], timeout=PATIENCE, capture_output=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            sample = subscriber.recv(PATIENCE)
            self.assertEqual((sample.topic, bytes(sample)), ("price.tick", b"101.5"))

    def test_a_message_of_python_reaches_the_command(self):
        command = [TOOL, "sub", "price.>", "--raw", "--count", "2"]
        with busway.Bus("default") as bus, bus.publisher("price.tick") as publisher:
            with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
                publisher.wait_for_subscribers(1, PATIENCE)
                publisher.send(b"101.5")
                publisher.send(b"l" * 5000)
                output, _ = process.communicate(timeout=PATIENCE)
        self.assertIn(b"101.5", output)
        self.assertIn(b"l" * 5000, output)
