"""What is written about the module is true."""

import ast
import doctest
import importlib.util
import inspect
import os
import pathlib
import subprocess
import sys

import busway
import busway.aio
import busway.artifacts
import message_bus
from busway import _busway, _errors
from stage import PATIENCE, Claims

TOOL = os.environ.get("BUSWAY_TOOL", "busway")
SOURCES = pathlib.Path(os.environ["BUSWAY_SOURCES"])
#: What Python adds to every class and module.
ADDED = {"__doc__", "__module__", "__new__", "__repr__", "__hash__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"}
#: The buffer protocol has no names of its own before Python 3.12.
BUFFER = {"__buffer__", "__release_buffer__"}


def signature(function):
    """The names of its parameters, as they are told to `help`."""
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


class Words(Claims):
    def test_the_stubs_name_what_is_there(self):
        stub = ast.parse((SOURCES / "python/busway/_busway.pyi").read_text())
        classes = {node.name: node for node in stub.body if isinstance(node, ast.ClassDef)}
        functions = {node.name for node in stub.body if isinstance(node, ast.FunctionDef)}
        there = {name for name in dir(_busway) if not name.startswith("__")}
        self.assertEqual(there, set(classes) | functions)
        checked = 0
        for name, node in classes.items():
            kind = getattr(_busway, name)
            told = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
            own = set(vars(kind)) - ADDED - {"__weakref__", "__dict__"}
            self.assertEqual(own - BUFFER, set(told) - ADDED - BUFFER, name)
            for method, item in told.items():
                is_property = any(getattr(mark, "id", "") == "property" for mark in item.decorator_list)
                if method.startswith("__") or is_property:
                    continue
                arguments = [a.arg for a in [*item.args.posonlyargs, *item.args.args, *item.args.kwonlyargs]]
                self.assertEqual(signature(getattr(kind, method)), arguments[1:], f"{name}.{method}")
                checked += 1
            self.assertTrue(kind.__doc__, f"{name} has no documentation")
        arguments = [a.arg for n in classes["Bus"].body if getattr(n, "name", "") == "__new__" for a in n.args.args + n.args.kwonlyargs]
        self.assertEqual(signature(_busway.Bus), arguments[1:])
        self.assertEqual(set(busway.__all__), {n for n in dir(busway) if n[0].isupper()})
        self.assertEqual(set(_errors.__all__) - set(busway.__all__), set())
        self.assertTrue((SOURCES / "python/busway/py.typed").is_file())
        self.evidence(classes=len(classes), signatures=checked)

    def test_the_examples_of_the_documentation_run(self):
        attempted = 0
        for module in (busway, busway.aio, busway.artifacts, _errors, message_bus):
            results = doctest.testmod(module)
            self.assertEqual(results.failed, 0, module.__name__)
            attempted += results.attempted
        for name in ("python.md", "message_bus.md", "from_zeromq.md", "from_nats.md"):
            page = SOURCES.parent.parent / "docs" / name
            results = doctest.testfile(str(page), module_relative=False)
            self.assertEqual(results.failed, 0, page)
            attempted += results.attempted
        self.assertGreater(attempted, 40)
        self.evidence(examples=attempted)

    def test_the_example_programs_say_what_they_do(self):
        says = {
            "pubsub": "price.tick 1 101.5\nprice.tick 2 101.6\nprice.tick 3 101.7\ndropped {}\n",
            "work": "done 100 of 100\n",
            "requests": "one answer b'done'\na stream [b'0', b'1', b'2', b'done']\nan error b'a number below zero'\nnobody BUS-0406\n",
            "artifacts": "received 5000000 bytes of maps, v1\nread 5000000 bytes as they arrive\nwithdrawn\n",
            "numpy_view": "1000000 False 499999500000.0\n",
        }
        examples = SOURCES.parent.parent / "examples/python"
        self.assertEqual({path.stem for path in examples.glob("*.py")}, set(says))
        has_numpy = importlib.util.find_spec("numpy") is not None
        for name, text in says.items():
            if name == "numpy_view" and not has_numpy:
                continue
            command = [sys.executable, "-W", "error", str(examples / f"{name}.py")]
            command += [TOOL] if name == "artifacts" else []
            done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE)
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, text, ""), name)
        self.evidence(programs=len(says), numpy="here" if has_numpy else "absent")
