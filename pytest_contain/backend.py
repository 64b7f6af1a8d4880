"""What the controller asks of whatever makes containers: a worker in an environment, and a sandbox for each test.

Only types: the real thing is made by `pytest_contain.containers` with `contain`; a project's plugin may give another one through
the hook ``pytest_contain_make_backend``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from contain.declared import EnvironmentSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxVerdict:
    """What a sandbox's own limits and process table say after its test, whatever the test itself reported."""

    out_of_memory: bool = False
    memory_limit_bytes: int | None = None
    pids_limit_reached: bool = False
    pids_limit: int | None = None
    leftover_processes: tuple[str, ...] = ()  # one line each: what it is called, as ``sleep 1000``


class Sandbox(Protocol):
    """One container for one child of the worker, prepared ahead of need."""

    @property
    def details(self) -> Mapping[str, Any]:
        """JSON-able facts that ``inside/entry.py`` needs to enter it."""

    @property
    def fds(self) -> Sequence[int]:
        """File descriptors that ``inside/entry.py`` needs to enter it; they stay the sandbox's own."""

    def kill(self) -> None:
        """End every process in it, at once. May be called more than once."""

    def finish(self) -> SandboxVerdict:
        """Take it down completely and say what it saw. Called exactly once, after its child ended or was killed."""


class WorkerProcess(Protocol):
    """The worker: a Python of the environment that runs ``inside/worker.py``."""

    @property
    def pid(self) -> int:
        """Its number on the host."""

    def wait(self, timeout_seconds: float) -> int | None:
        """Its exit status, negative for a signal, or None if it still runs after ``timeout_seconds``."""

    def kill(self) -> None:
        """End it and everything that it started outside of sandboxes."""


class EnvironmentSession(Protocol):
    """One environment, ready to run one suite."""

    @property
    def name(self) -> str:
        """The environment's name."""

    @property
    def summary(self) -> str:
        """For the header: which image, as ``sha256:1234567890ab``, and where it came from if that is worth saying."""

    @property
    def build_seconds(self) -> float:
        """How long it took to get the image; next to nothing when all came from the cache."""

    @property
    def worker_command(self) -> Sequence[str]:
        """The image's Python and the path of ``inside/worker.py``, as the environment sees them."""

    @property
    def pytest_directory(self) -> str:
        """Where the host's pure-Python pytest is seen inside, for an image that has none."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Environment variables for the worker."""

    def start_worker(
        self, arguments: Sequence[str], environment: Mapping[str, str], fds: Sequence[int], *, stdout: int, stderr: int
    ) -> WorkerProcess:
        """Start ``arguments`` in the environment. It sees ``fds`` as 3, 4, … in this order, and nothing on its standard input."""

    def take_sandbox(self) -> Sandbox:
        """A fresh sandbox. Quick if one was prepared."""


class Backend(Protocol):
    """Makes environments ready."""

    def open(self, settings: EnvironmentSettings, suite: Suite) -> AbstractContextManager[EnvironmentSession]:
        """Build or fetch the environment's image; on leaving the block nothing of it runs. Raises `contain.errors.ContainError`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """What the controller knows of the suite, in host paths."""

    project_directory: str  # appears inside at this very path, copy-on-write
    working_directory: str
    concurrency: int  # how many sandboxes are in use at one time
    limits_output: bool = True
