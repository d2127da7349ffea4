"""`python -m busway.check` says what a program finds here."""

import os
import pathlib
import resource
import subprocess
import sys
import tempfile
from unittest import mock

import busway.check
from bus_stage import BusClaims
from stage import PATIENCE


class Check(BusClaims):
    def check(self, folder, *arguments, **variables):
        environment = {**os.environ, **variables}
        command = [sys.executable, "-m", "busway.check", *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(done.stderr, "")
        findings = [line for line in done.stdout.splitlines() if line.startswith("finding")]
        self.assertEqual(done.returncode, int(bool(findings)))
        return findings, done.stdout

    def test_where_all_is_well_the_check_says_so_and_leaves_nothing(self):
        with tempfile.TemporaryDirectory() as parent:
            runtime = pathlib.Path(parent, "run")
            findings, said = self.check(parent, BUSWAY_DIR=str(runtime))
            self.assertEqual(findings, [])
            for what in ("Python 3.", "message_bus in", "shared memory", "eventfd", "open files", "a message", "orjson"):
                self.assertIn(what, said)
            self.assertEqual(list(runtime.rglob("*.sock")), [])

    def test_a_message_bus_in_the_folder_of_the_program_is_told(self):
        with tempfile.TemporaryDirectory() as parent, tempfile.TemporaryDirectory() as elsewhere:
            shadow = pathlib.Path(parent, "message_bus.py")
            shadow.write_text("raise SystemExit('it is not run')\n")
            for folder, arguments in ((parent, ()), (elsewhere, (parent,))):
                findings, said = self.check(folder, *arguments)
                self.assertEqual(len(findings), 1, said)
                self.assertIn(str(shadow), findings[0])
                self.assertIn("rename or remove it", said)
            self.assertEqual(self.check(elsewhere)[0], [])

    def test_what_is_not_well_is_told_with_what_to_try(self):
        with tempfile.TemporaryDirectory() as parent:
            blocked = pathlib.Path(parent, "run")
            blocked.write_text("no directory")
            findings, said = self.check(parent, BUSWAY_DIR=str(blocked))
            self.assertEqual(len(findings), 1, said)
            self.assertIn("BUS-0203", findings[0])
            self.assertIn("set BUSWAY_DIR", said)
        refused = OSError(1, "Operation not permitted")
        for broken, word in (
            (mock.patch("os.memfd_create", side_effect=refused), "shared memory"),
            (mock.patch("os.eventfd", side_effect=refused), "eventfd"),
            (mock.patch("resource.getrlimit", return_value=(64, 64)), "64 open files"),
            (mock.patch("sys.version_info", (3, 10, 2)), "Python"),
        ):
            with broken:
                found = [(what, remedy) for state, what, remedy in busway.check.checks(os.getcwd()) if state == "finding"]
            self.assertTrue(any(word in what and remedy for what, remedy in found), (word, found))
        self.assertNotEqual(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 0)
