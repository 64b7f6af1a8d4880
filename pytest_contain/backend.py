"""What the controller asks of whatever makes containers: a worker in an environment, and a sandbox for each test.

Only types: the real thing is made by `pytest_contain.containers` with `contain`; a project's plugin may give another one through
the hook ``pytest_contain_make_backend``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from contain.declared import EnvironmentSettings
from contain.progress import Progress

if TYPE_CHECKING:
    from contain.environment import Environment


class SandboxVerdict(Protocol):
    """What a sandbox's limits and process table say after its test, whatever the test itself reported."""

    @property
    def out_of_memory(self) -> bool:
        """Whether the kernel killed a process for memory."""

    @property
    def memory_limit_bytes(self) -> int | None:
        """The limit, if there is one."""

    @property
    def pids_limit_reached(self) -> bool:
        """Whether a fork was refused."""

    @property
    def pids_limit(self) -> int | None:
        """The limit, if there is one."""

    @property
    def leftover_processes(self) -> int:
        """How many processes still ran when the test's own had ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uneventful:
    """The verdict on a sandbox of which nothing is to be said."""

    out_of_memory: bool = False
    memory_limit_bytes: int | None = None
    pids_limit_reached: bool = False
    pids_limit: int | None = None
    leftover_processes: int = 0


class Sandbox(Protocol):
    """One container for one child of the worker, prepared ahead of need."""

    @property
    def details(self) -> Mapping[str, Any]:
        """JSON-able facts that ``inside/entry.py`` needs to enter it."""

    @property
    def fds(self) -> Sequence[int]:
        """File descriptors that ``inside/entry.py`` needs to enter it."""

    def close_fds(self) -> None:
        """Let go of the descriptors, once they were sent."""

    def finish(self) -> SandboxVerdict:
        """End whatever still runs in it, take it down, and say what it saw."""

    def dispose(self) -> None:
        """The same without asking, at once. Does nothing after `finish`."""


class WorkerProcess(Protocol):
    """The worker: a Python of the environment that runs ``inside/worker.py``."""

    @property
    def pidfd(self) -> int:
        """Readable once it has ended."""

    def wait_status(self) -> int | None:
        """Its wait status (waitpid(2)) if it has ended and that is known."""


class EnvironmentSession(Protocol):
    """Where one suite runs in one environment: a worker, and a sandbox for each of its children."""

    def start_worker(
        self,
        arguments: Sequence[str],
        environment: Sequence[tuple[str, str]],
        *,
        stdio: tuple[int, int, int],
        fds: Sequence[int],
    ) -> WorkerProcess:
        """Start ``arguments`` in the environment, once. It sees ``fds`` as 3, 4, … in this order."""

    def prepare(self, count: int) -> None:
        """Keep so many sandboxes ready."""

    def take_sandbox(self) -> Sandbox:
        """A fresh sandbox. Quick if one was prepared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedEnvironment:
    """An environment whose image is there and whose session is open."""

    name: str
    summary: str  # for the header: which image, as ``sha256:1234567890ab``, and whatever the reader should know of it
    digest: str  # the image's, or empty
    build_seconds: float
    session: EnvironmentSession
    worker_command: tuple[str, ...]  # the image's Python and ``inside/worker.py``, as the environment sees them
    worker_environment: tuple[tuple[str, str], ...]
    pytest_directory: str  # where the host's pure-Python pytest is seen inside, for an image that has none; or empty
    sees_own_processes: bool = True  # whether a sandbox's /proc lists its processes only
    capture: Callable[[], Environment] | None = None  # the environment's facts, to compare it with another


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """What the controller knows of the suite, in host paths."""

    project_directory: Path  # appears inside at this very path, copy-on-write
    working_directory: Path
    concurrency: int  # how many sandboxes are in use at one time


class Backend(Protocol):
    """Makes environments ready."""

    def open(
        self, settings: EnvironmentSettings, suite: Suite, progress: Progress
    ) -> AbstractContextManager[PreparedEnvironment]:
        """Build or fetch the environment's image and open a session in it; after the block nothing of it runs.

        Raises `contain.errors.ContainError`.
        """
