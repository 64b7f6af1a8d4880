"""The worker's first lines: say which Python and which pytest are here, learn what to do, run one pytest session that serves.

Run by path with the controller's socket as descriptor 3. Standard library only, Python >= 3.8; `session` needs pytest, which is
the environment's own or, where it has none, the controller's, appended to the END of ``sys.path``.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import types
from typing import Any

CONTROL_DESCRIPTOR = 3
OLDEST_PYTHON = (3, 8)
PROTOCOL = 1


def load(name: str) -> Any:
    """A neighbour of this file, under a name that no test suite uses, without its directory on ``sys.path``."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py")
    spec = importlib.util.spec_from_file_location("_contain_inside_" + name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def pytest_version() -> str | None:
    """The version of the environment's own pytest, without importing it, or None."""
    if importlib.util.find_spec("pytest") is None:
        return None
    try:
        from importlib.metadata import version

        return str(version("pytest"))
    except Exception:
        return "0"  # importable, but nobody knows what it is: importing it will tell


def apply(start: dict[str, Any]) -> None:
    """Make this process look like one in which somebody typed ``pytest``."""
    if start["terminal"]:
        for number, target in zip(start["terminal_fds"], (1, 2)):
            os.dup2(number, target)
    for number in start["terminal_fds"]:
        os.close(number)
    os.chdir(start["working_directory"])
    if start["current_directory_first"]:
        sys.path.insert(0, os.getcwd())
    if start["pytest_directory"]:
        sys.path.append(start["pytest_directory"])
    sys.argv[:] = start["argv"]
    os.environ.pop("PYTEST_ADDOPTS", None)  # already among the arguments


def main() -> int:
    """Returns pytest's exit status, which nobody but the log reads: outcomes travel as messages."""
    here = os.path.dirname(os.path.abspath(__file__))
    if sys.path and os.path.abspath(sys.path[0]) == here:
        del sys.path[0]
    wire = load("wire")
    channel = wire.Channel(socket.socket(fileno=CONTROL_DESCRIPTOR))
    os.set_inheritable(CONTROL_DESCRIPTOR, False)
    hello = {
        "type": "hello",
        "protocol": PROTOCOL,
        "python": list(sys.version_info[:3]),
        "implementation": sys.implementation.name,
        "executable": sys.executable,
        "pytest": pytest_version(),
    }
    channel.send(hello)
    received = channel.receive()
    if received is None:
        return 0
    start, fds = received
    if start["type"] != "start":
        return 0
    start["terminal_fds"] = fds
    apply(start)
    # Tests that start processes with multiprocessing's "spawn" import ``__main__`` again: it must not be this file.
    stand_in = types.ModuleType("__main__")
    stand_in.__dict__["_kept"] = sys.modules["__main__"]
    sys.modules["__main__"] = stand_in
    session = load("session")
    return int(session.run(channel, start, load("entry"), load("output")))


if __name__ == "__main__":
    if sys.version_info < OLDEST_PYTHON:
        sys.stderr.write("this Python is {}.{}; tests inside a container need 3.8 or later\n".format(*sys.version_info[:2]))
        sys.exit(1)
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
