"""What the Rust side says, as records of Python's logging: in real programs, whose logging is theirs."""

import subprocess
import sys

from stage import PATIENCE, Claims

#: A reliable subscriber that does not read is waited for, and then told of.
STALLS = """
def stall():
    with busway.Bus("log") as bus, bus.subscriber("price.tick", policy="block") as subscriber:
        with bus.publisher("price.tick", slots_max=32, max_wait=0.001) as publisher:
            for number in range(100):
                publisher.send(b"x")
"""


class Log(Claims):
    def run_program(self, script):
        """What a program says on its two ways out, which ends well."""
        head = f"import busway, os, sys, threading\nfrom busway import _busway\n{STALLS}"
        done = subprocess.run([sys.executable, "-W", "error", "-c", head + script], timeout=PATIENCE, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout, done.stderr

    def test_a_warning_of_the_rust_side_is_a_record_of_the_logger_busway(self):
        script = """
import logging
logging.basicConfig(stream=sys.stdout, format="%(name)s|%(levelname)s|%(message)s")
stall()
"""
        said, wrong = self.run_program(script)
        lines = [line.split("|") for line in said.splitlines()]
        self.assertEqual({tuple(line[:2]) for line in lines}, {("busway", "WARNING")}, said)
        self.assertIn("topic price.tick: 1 subscribers were waited for too long", said)
        self.assertLess(len(lines), 10, "a cause is told once a second")
        self.assertEqual(wrong, "")
        self.evidence(lines=len(lines))

    def test_levels_are_those_of_logging_and_what_the_logger_does_not_want_is_not_told(self):
        script = """
import logging
logging.basicConfig(stream=sys.stdout, format="%(name)s|%(levelname)s|%(message)s", level=logging.INFO)
with busway.Bus("log"):
    for level in (10, 20, 30, 40):
        _busway._say(level, f"of {level}, 100 %s")
logging.getLogger("busway.link").setLevel(logging.ERROR)
with busway.Bus("log"):
    _busway._say(20, "too little for busway.link")
_busway._say(40, "nothing is open")
"""
        said, wrong = self.run_program(script)
        lines = [tuple(line.split("|")) for line in said.splitlines()]
        of = lambda name, level, number: (name, level, f"of {number}, 100 %s")
        wanted = [of("busway.link", "INFO", 20), of("busway", "WARNING", 30), of("busway", "ERROR", 40)]
        self.assertEqual([line for line in lines if line[2].startswith("of ")], wanted)
        self.assertNotIn("too little", said)
        self.assertEqual(wrong, "")

    def test_where_logging_is_not_configured_nothing_is_said_and_no_thread_is_left(self):
        for imports in ("", "import logging\n"):
            script = "stall()\nwith busway.Bus('log'):\n    _busway._say(40, 'x')\n"
            # One that was joined is still listed while the kernel clears it away; one that is left is listed until time is up.
            script += "while len(os.listdir('/proc/self/task')) > 1: os.sched_yield()\n"
            self.assertEqual(self.run_program(imports + script), ("", ""))

    def test_who_says_a_line_waits_for_no_handler_and_what_is_lost_is_counted(self):
        script = """
import logging
class Stuck(logging.Handler):
    def emit(self, record):
        entered.release()
        if not open.is_set():
            open.wait(PATIENCE)
        said.append(record.getMessage())

from stage import PATIENCE
open, entered, said = threading.Event(), threading.Semaphore(0), []
logging.getLogger("busway").addHandler(Stuck())
bus = busway.Bus("log")
_busway._say(40, "0")
assert entered.acquire(timeout=PATIENCE)
# A handler has it, and another thread: who says more has the interpreter all the while.
def say(): return max(_busway._say(30, "more") for _ in range(1000))
threads = [threading.Thread(target=say) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join(PATIENCE)
assert not any(thread.is_alive() for thread in threads)
lost = _busway._say(30, "last")
# Closing waits for a handler that hangs no longer than a second.
bus.close()
open.set()
# There is room again when it is told what was lost, and one more.
assert entered.acquire(timeout=PATIENCE) and entered.acquire(timeout=PATIENCE)
with busway.Bus("log"):
    _busway._say(40, "after")
told = sum(int(line.split()[0]) for line in said if "lines were lost" in line)
assert said.count("more") + lost >= 4000 and 0 < told <= lost + 1, (len(said), lost, told)
assert said[0] == "0" and said[-1] == "after", said[-3:]
print(len(said), lost)
"""
        said, _ = self.run_program(script)
        handled, lost = said.split()
        self.evidence(said=4002, handled=handled, lost=lost)

    def test_the_first_line_is_told_however_many_buses_before_it_said_nothing(self):
        script = """
import logging
logging.basicConfig(stream=sys.stdout, format="%(message)s")
for _ in range(300):
    busway.Bus("log").close()
with busway.Bus("log"):
    lost = _busway._say(40, "first")
print(lost)
"""
        self.assertEqual(self.run_program(script), ("first\n0\n", ""))

    def test_a_line_that_is_said_while_the_thread_ends_is_told(self):
        script = """
import logging
class Holds(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())
        entered.set()
        gone.wait(PATIENCE)

from stage import PATIENCE
said, rounds, logger = [], 200, logging.getLogger("busway")
entered, gone, looked, level = threading.Event(), threading.Event(), threading.Event(), logger.getEffectiveLevel
def looks():
    # The last that the thread asks Python for a line.
    if gone.is_set():
        looked.set()
    return level()
logger.getEffectiveLevel = looks
logger.addHandler(Holds())
for number in range(rounds):
    bus = busway.Bus("log")
    _busway._say(40, "one")
    assert entered.wait(PATIENCE)
    # The last bus goes; the thread sees that when it has told its line, and ends while the next is opened.
    del bus
    gone.set()
    assert looked.wait(PATIENCE)
    with busway.Bus("log"):
        _busway._say(40, "other")
    assert said == ["one", "other"], (number, said)
    said.clear()
    for event in (entered, gone, looked):
        event.clear()
print(2 * rounds)
"""
        said, _ = self.run_program(script)
        self.evidence(lines=said.strip())

    def test_what_the_thread_leaves_when_it_ends_is_counted_and_told(self):
        script = """
import logging, time
class Slow(logging.Handler):
    def emit(self, record):
        if "lost" in record.getMessage():
            said.append(record.getMessage())
            told.set()
            return
        entered.set()
        open.wait(PATIENCE)
        # A time and no event: the thread has half a second for all of them by its own clock, which nobody here sees pass.
        time.sleep(0.6)
        said.append(record.getMessage())

from stage import PATIENCE
open, entered, told, said = threading.Event(), threading.Event(), threading.Event(), []
logging.getLogger("busway").addHandler(Slow())
with busway.Bus("log"):
    for number in range(10):
        _busway._say(40, str(number))
    assert entered.wait(PATIENCE)
open.set()
assert told.wait(PATIENCE), said
lost = sum(int(line.split()[0]) for line in said if "lines were lost" in line)
handled = said.index(f"{lost} lines were lost: a handler of the log is slow")
assert handled + lost == 10 and said[:handled] == [str(number) for number in range(handled)], said
# It is said once, and counted for whoever asks.
assert len(said) == handled + 1 and _busway._say(10, "not wanted") == lost, said
print(handled, lost)
"""
        said, _ = self.run_program(script)
        handled, lost = said.split()
        self.evidence(said=10, handled=handled, lost=lost)

    def test_a_child_made_by_fork_says_its_own_and_a_program_that_ends_amid_lines_ends(self):
        script = """
import logging
logging.basicConfig(stream=sys.stdout, format="%(process)d %(message)s")
bus = busway.Bus("log")
_busway._say(40, "before")
child = os.fork()
if child == 0:
    _busway._say(40, "of nobody")
    with busway.Bus("log"):
        _busway._say(40, "of the child")
    sys.stdout.flush()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
_busway._say(40, "of the parent")
bus.close()
sys.stdout.flush()
os.write(2, str((os.getpid(), child)).encode())
with busway.Bus("log"):
    def forever():
        while True:
            _busway._say(30, "amid")
    for _ in range(2):
        threading.Thread(target=forever, daemon=True).start()
unclosed = busway.Bus("log")
_busway._say(30, "amid")
"""
        said, pids = self.run_program(script)
        parent, child = eval(pids)
        lines = said.splitlines()
        for line in (f"{parent} before", f"{child} of the child", f"{parent} of the parent"):
            self.assertEqual(lines.count(line), 1, lines[:10])
        self.assertNotIn("of nobody", said)
