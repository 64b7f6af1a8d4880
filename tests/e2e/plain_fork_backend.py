"""A backend without containers, for tests of everything else: the worker is a process of this machine, a sandbox is a plain fork.

Loaded with ``-p plain_fork_backend``. Which Python is the worker's: ``$PLAIN_FORK_PYTHON``, else this one's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import pytest_contain
from contain.declared import EnvironmentSettings
from contain.progress import Progress
from pytest_contain.backend import PreparedEnvironment, SandboxVerdict, Suite, Uneventful

ENTRY = """
import os, socket

def fork_into(details, fds):
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        report = socket.socket(fileno=fds[0])
        report.send(str(os.getpid()).encode())
        report.close()
    return pid
"""


class PlainSandbox:
    """Its child tells its process id, so that it can be killed with its process group."""

    def __init__(self, verdict: SandboxVerdict) -> None:
        import socket

        self._ours, self._theirs = socket.socketpair()
        self._verdict = verdict
        self.details: Mapping[str, Any] = {}
        self.fds: Sequence[int] = (self._theirs.fileno(),)

    def close_fds(self) -> None:
        self._theirs.close()

    def finish(self) -> SandboxVerdict:
        self.dispose()
        return self._verdict

    def dispose(self) -> None:
        if self._ours.fileno() < 0:
            return
        with contextlib.suppress(OSError, ValueError):
            self._ours.settimeout(1)
            os.killpg(int(self._ours.recv(100)), signal.SIGKILL)
        self._ours.close()


class PlainWorker:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.status: int | None = None

    def wait_status(self) -> int | None:
        if self.status is None:
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self.status = status if pid else None
        return self.status


class PlainSession:
    def __init__(self, verdict: SandboxVerdict) -> None:
        self.worker: PlainWorker | None = None
        self.verdict = verdict

    def start_worker(
        self,
        arguments: Sequence[str],
        environment: Sequence[tuple[str, str]],
        *,
        stdio: tuple[int, int, int],
        fds: Sequence[int],
    ) -> PlainWorker:
        high = [os.dup(number) for number in (*stdio, *fds)]
        actions = [(os.POSIX_SPAWN_DUP2, number, place) for place, number in enumerate(high)]
        pid = os.posix_spawn(arguments[0], list(arguments), dict(environment), file_actions=actions, setsid=True)
        for number in high:
            os.close(number)
        self.worker = PlainWorker(pid)
        return self.worker

    def prepare(self, count: int) -> None:
        pass

    def take_sandbox(self) -> PlainSandbox:
        return PlainSandbox(self.verdict)

    def close(self) -> None:
        if self.worker is not None:
            if self.worker.wait_status() is None:
                os.kill(self.worker.pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(self.worker.pid, 0)
            os.close(self.worker.pidfd)


class PlainForkBackend:
    @contextlib.contextmanager
    def open(self, settings: EnvironmentSettings, suite: Suite, progress: Progress) -> Iterator[PreparedEnvironment]:
        verdict = Uneventful(**eval(os.environ.get("PLAIN_FORK_VERDICT", "{}")))
        with tempfile.TemporaryDirectory() as directory:
            inside = Path(directory) / "inside"
            shutil.copytree(Path(pytest_contain.__file__).parent / "inside", inside)
            (inside / "entry.py").write_text(ENTRY)
            session = PlainSession(verdict)
            lent = os.environ.get("PLAIN_FORK_LEND", "")
            try:
                yield PreparedEnvironment(
                    name=settings.name,
                    summary="no container",
                    digest="",
                    build_seconds=0.0,
                    session=session,
                    worker_command=(os.environ.get("PLAIN_FORK_PYTHON", sys.executable), str(inside / "worker.py")),
                    worker_environment=tuple(os.environ.items()) + settings.env,
                    pytest_directory=lent,
                    sees_own_processes=False,
                )
            finally:
                session.close()


@pytest.hookimpl(tryfirst=True)
def pytest_contain_make_backend(config: pytest.Config) -> Any:
    return PlainForkBackend()
