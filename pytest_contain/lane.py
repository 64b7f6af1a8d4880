"""One environment at work: its worker, the channel to it, and the children that wait or run in their sandboxes.

A doer. What to run next, and what to tell the user, is decided in `pytest_contain.loop`.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from contain.declared import EnvironmentSettings
from contain.errors import HostError, IntegrityError, UsageError, WorkerLost
from contain.progress import Progress
from pytest_contain.backend import Backend, PreparedEnvironment, Sandbox, SandboxVerdict, Suite, Uneventful, WorkerProcess
from pytest_contain.channel import Channel, Message
from pytest_contain.collection import Collection
from pytest_contain.options import WorkerTokens

PROTOCOL = 1
_OLDEST_PYTEST = (7, 0)
_LOG_BYTES = 1 << 16
_TAIL_BYTES = 1 << 16
_FINISH_SECONDS = 20.0


@dataclass(slots=True, eq=False)
class Child:
    """One process of the suite in one sandbox. ``files``: what it prints, as descriptors, by name."""

    identity: int
    channel: Channel
    sandbox: Sandbox
    files: dict[str, int] = field(default_factory=dict)
    wait_status: int | None = None
    exited: bool = False
    closed_at: float | None = None  # when its channel was found closed
    _finished: bool = False

    def finish(self) -> SandboxVerdict:
        """Take its sandbox down, once."""
        if self._finished:
            return Uneventful()
        self._finished = True
        return self.sandbox.finish()

    def let_go(self) -> None:
        """Take its sandbox down without asking what it saw, and without waiting."""
        if not self._finished:
            self._finished = True
            self.sandbox.dispose()

    def abandon(self) -> None:
        """Its sandbox is gone with everything else of its session."""
        self._finished = True

    def dispose(self) -> None:
        """`let_go`, and close what is open for it."""
        self.let_go()
        self.close()

    def close(self) -> None:
        """Close its channel and files."""
        self.channel.close()
        for number in self.files.values():
            with contextlib.suppress(OSError):
                os.close(number)
        self.files = {}

    def take_files(self, names: Sequence[str], numbers: Sequence[int]) -> None:
        """Its files from now on, in place of earlier ones. Raises ValueError where names and descriptors are not one each."""
        if len(names) != len(numbers) or len(set(names)) != len(names):
            for number in numbers:
                os.close(number)
            raise ValueError("files without names")
        for number in self.files.values():
            with contextlib.suppress(OSError):
                os.close(number)
        self.files = dict(zip(names, numbers, strict=True))

    def output_size_bytes(self) -> int:
        """How much it has printed since its last report."""
        total = 0
        for name in ("out", "err"):
            if name in self.files:
                with contextlib.suppress(OSError):
                    total += os.fstat(self.files[name]).st_size
        return total

    def tail(self, name: str) -> str:
        """The end of what it printed since its last report, or of its crash dump."""
        number = self.files.get(name)
        if number is None:
            return ""
        try:
            size = os.fstat(number).st_size
            data = os.pread(number, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        except OSError:
            return ""
        return data.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStart:
    """What every worker of a run is told."""

    arguments: tuple[WorkerTokens, ...]
    argv: tuple[str, ...]
    ini_names: tuple[str, ...]
    markers: tuple[str, ...]
    docs: bool
    compares: bool  # several environments
    terminal: bool  # -s: tests write to the controller's own terminal
    working_directory: str
    current_directory_first: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The worker's session ended before it served: ``status`` is pytest's, ``cause`` an ``exit`` or ``interrupt`` message."""

    status: int
    cause: Message | None
    log: str


class Lane:
    """A context manager around one environment's session."""

    def __init__(
        self, settings: EnvironmentSettings, backend: Backend, suite: Suite, start: WorkerStart, progress: Progress
    ) -> None:
        self.settings = settings
        self.suite = suite
        self.prepared: PreparedEnvironment
        self.control: Channel
        self.worker: WorkerProcess
        self.waiting: deque[Child] = deque()
        self.children: dict[int, Child] = {}
        self.used: set[int] = set()  # the children that ran a test
        self.restarts = 0
        self.info: Message = {}
        self._backend = backend
        self._start = start
        self._progress = progress
        self._stack = contextlib.ExitStack()
        self._log = -1
        self._next_identity = 0
        self._backlog: deque[Message] = deque()

    @property
    def name(self) -> str:
        """The environment's name."""
        return self.settings.name

    def __enter__(self) -> Self:
        """Build the image, open the session. Raises `contain.errors.ContainError`."""
        self.prepared = self._stack.enter_context(self._backend.open(self.settings, self.suite, self._progress))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave nothing behind."""
        for child in self.children.values():
            with contextlib.suppress(WorkerLost):
                child.dispose()
        self.children = {}
        self.waiting.clear()
        if hasattr(self, "control"):
            self.control.close()
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        self._stack.close()

    def restart(self) -> None:
        """A new session with a new worker that collects again. Raises `WorkerLost` if it does not find the same tests."""
        self.restarts += 1
        digest = self.info["digest"]
        for child in self.children.values():
            child.abandon()
        self.__exit__(None, None, None)
        self._backlog.clear()
        self.__enter__()
        self.start_worker()
        collection = Collection(environment=self.name)
        ended = self.configure(lambda _: None) or self.collect(collection, lambda _: None)
        if ended is not None or self.info["digest"] != digest:
            raise WorkerLost(
                f"the worker of environment {self.name!r} ended, and a new one did not find the same tests",
                code="tests-changed",
            )

    # -- the worker -----------------------------------------------------------------------------------------------------

    def start_worker(self) -> None:
        """Start it and tell it what to do. Raises `UsageError` if the environment's Python or pytest will not do."""
        self._log = os.memfd_create("contain-worker", os.MFD_CLOEXEC)
        self.control, theirs = Channel.pair()
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.worker = self.prepared.session.start_worker(
                self.prepared.worker_command,
                self.prepared.worker_environment,
                stdio=(nothing, self._log, self._log),
                fds=(theirs.fileno(),),
            )
        finally:
            os.close(nothing)
            theirs.close()
        hello = self._next_of("hello")
        if hello is None:
            raise UsageError(
                f"the Python of environment {self.name!r} could not start the worker:\n{self.log().strip() or 'it said nothing'}",
                code="worker-not-started",
                remedy="the image needs a working Python 3.8 or newer",
            )
        self.info.update(hello)
        start = {
            "type": "start",
            "arguments": [[list(group.tokens), group.optional_name] for group in self._start.arguments],
            "argv": list(self._start.argv),
            "ini_names": list(self._start.ini_names),
            "markers": list(self._start.markers),
            "docs": self._start.docs,
            "compares": self._start.compares,
            "terminal": self._start.terminal,
            "working_directory": self._start.working_directory,
            "current_directory_first": self._start.current_directory_first,
            "pytest_directory": self._pytest_directory(hello),
            "own_processes": self.prepared.sees_own_processes,
        }
        self.control.send(start, (1, 2) if self._start.terminal else ())

    def _pytest_directory(self, hello: Mapping[str, Any]) -> str:
        """Where the worker finds a pytest of ours, or nothing if it has its own."""
        if hello["protocol"] != PROTOCOL:
            raise HostError(f"the worker speaks protocol {hello['protocol']}, not {PROTOCOL}")
        python = tuple(hello["python"])
        shown = ".".join(map(str, python))
        if python < (3, 8):
            raise UsageError(
                f"environment {self.name!r} has Python {shown}; tests inside a container need 3.8 or newer",
                code="python-too-old",
            )
        version = hello["pytest"]
        if version is not None:
            numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
            if (0,) < numbers < _OLDEST_PYTEST:
                raise UsageError(
                    f"environment {self.name!r} has pytest {version}; {_OLDEST_PYTEST[0]} or newer is needed",
                    code="pytest-too-old",
                )
            return ""
        from pytest_contain.lending import refuse_unsupported_python

        refuse_unsupported_python(python, environment=self.name)
        return self.prepared.pytest_directory

    def configure(self, on_warning: Callable[[Message], None]) -> Ended | None:
        """Wait until the worker has read its options and the suite's first conftest files. None if it is content with them."""
        return self._hear_until("configured", "started", on_warning, lambda _: None)

    def collect(self, collection: Collection, on_warning: Callable[[Message], None]) -> Ended | None:
        """Take in everything that the worker finds. None when it now serves."""
        return self._hear_until("serving", "collected the tests", on_warning, collection.take)

    def _hear_until(
        self, last: str, phase: str, on_warning: Callable[[Message], None], take: Callable[[Message], None]
    ) -> Ended | None:
        cause: Message | None = None
        while True:
            message = self._next_message(block=True)
            if message is None:
                raise WorkerLost(f"the worker of environment {self.name!r} ended while it {phase}.{self._explain_end()}")
            match message["type"]:
                case "warning":
                    on_warning(message)
                case "exit" | "interrupt":
                    cause = message
                case "ended":
                    return Ended(status=message["status"], cause=cause, log=self.log())
                case "configured" | "serving" as kind:
                    self.info.update({key: value for key, value in message.items() if key != "type"})
                    if kind == last:
                        return None
                case _:
                    take(message)

    def log(self) -> str:
        """The end of what the worker printed outside of tests."""
        try:
            size = os.fstat(self._log).st_size
            return os.pread(self._log, _LOG_BYTES, max(0, size - _LOG_BYTES)).decode("utf-8", "replace")
        except OSError:
            return ""

    def _explain_end(self) -> str:
        select.select([self.worker.pidfd], [], [], 1.0)
        status = self.worker.wait_status()
        text = ""
        if status is not None and status & 0x7F:
            text = f" It was killed by signal {status & 0x7F}."
        elif status is not None:
            text = f" Its exit status was {status >> 8}."
        log = self.log().strip()
        return f"{text}\nIt printed:\n{log}" if log else text

    def gone(self) -> bool:
        """Whether the worker has ended."""
        return self.control.at_end or bool(select.select([self.worker.pidfd], [], [], 0.2)[0])

    def lost(self, phase: str) -> WorkerLost:
        """The error for a worker that is gone."""
        return WorkerLost(f"the worker of environment {self.name!r} ended {phase}.{self._explain_end()}")

    def _next_message(self, *, block: bool) -> Message | None:
        while not self._backlog:
            if self.control.at_end:
                return None
            if block:
                select.select([self.control], [], [])
            self._backlog.extend(self.control.receive_ready())
            if self.control.error is not None:
                raise self.control.error
            if not block:
                break
        return self._backlog.popleft() if self._backlog else None

    def _next_of(self, kind: str) -> Message | None:
        message = self._next_message(block=True)
        if message is None:
            return None
        if message["type"] != kind:
            raise IntegrityError(f"the worker said {message['type']!r}, not {kind!r}", code="bad-message")
        return message

    def messages(self) -> list[Message]:
        """What the worker said since, without waiting."""
        messages = []
        while (message := self._next_message(block=False)) is not None:
            messages.append(message)
        return messages

    # -- children -------------------------------------------------------------------------------------------------------

    def fork_ahead(self, count: int) -> list[Child]:
        """Have ``count`` children waiting; returns the new ones."""
        new = []
        while len(self.waiting) < count:
            sandbox = self.prepared.session.take_sandbox()
            channel, theirs = Channel.pair()
            self._next_identity += 1
            child = Child(self._next_identity, channel, sandbox)
            self.children[child.identity] = child
            message = {"type": "fork", "id": child.identity, "details": dict(sandbox.details)}
            sent = self.control.send(message, (theirs.fileno(), *sandbox.fds))
            theirs.close()
            sandbox.close_fds()
            if not sent:
                break
            self.waiting.append(child)
            new.append(child)
        return new

    def forget(self, child: Child) -> None:
        """Nothing more will be heard of it."""
        self.children.pop(child.identity, None)
        with contextlib.suppress(ValueError):
            self.waiting.remove(child)
        child.close()

    def finish_worker(self, failed: int) -> Sequence[Message]:
        """Let the worker's session end as a session does (``pytest_sessionfinish`` of the suite's conftest files)."""
        for child in list(self.children.values()):
            child.dispose()
        self.children = {}
        self.waiting.clear()
        heard: list[Message] = []
        if not self.control.send({"type": "finish", "failed": failed}):
            return heard
        deadline = time.monotonic() + _FINISH_SECONDS
        while not self.control.at_end and (left := deadline - time.monotonic()) > 0:
            select.select([self.control], [], [], left)
            with contextlib.suppress(IntegrityError):
                heard.extend(self.messages())
            if heard and heard[-1]["type"] == "ended":
                break
        return heard
