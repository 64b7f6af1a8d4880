"""A test session's containers, as pytest sees them: one worker in which the suite is collected, and sandboxes made ahead of need.

The processes behind it are in `contain.container.session.keeper`. Everything here is called from one thread.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pickle
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import contain
from contain.annotations import Any
from contain.container.door import has_tty_group, verify_identity
from contain.container.files.host_view import divide_host_root
from contain.container.launch import raise_failure
from contain.container.network.etc_files import render_hosts
from contain.container.run import new_container_id, seccomp_program
from contain.container.session.keeper import HELD, SessionConfiguration
from contain.container.workspaces import sweep, workspaces
from contain.errors import InternalError, UsageError, WorkerLost
from contain.linux.capabilities import mask_of
from contain.linux.cgroups import probe_hierarchies
from contain.linux.seccomp import compile_default_policy
from contain.paths import HostPath, run_home
from contain.spec import ContainerSpec
from contain.values import dataclass, field

_PACKET = 65536
_BYTES_PER_INODE = 2048  # an empty file takes no block, but about 1 KiB of kernel memory
_FEWEST_INODES = 4096
_CLOSING_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxVerdict:
    """What the kernel says of a sandbox before it is taken away."""

    out_of_memory: bool = False
    memory_limit_bytes: int | None = None
    memory_peak_bytes: int | None = None
    pids_limit_reached: bool = False
    pids_limit: int | None = None
    leftover_processes: int = 0


@dataclass(slots=True)
class Sandbox:
    """A prepared container, waiting for one process to join. ``details`` and ``fds`` are what `entry.fork_into` takes."""

    number: int
    details: dict[str, Any]
    fds: list[int]
    _session: Session
    _open: bool = field(default=True)

    def close_fds(self) -> None:
        """Let go of the descriptors, once they are with the worker."""
        for descriptor in self.fds:
            os.close(descriptor)
        self.fds = []

    def finish(self) -> SandboxVerdict:
        """End whatever still runs in it, and say what happened. Returns once the kill is on its way."""
        self.close_fds()
        if not self._open:
            return SandboxVerdict()
        self._open = False
        return self._session.finish_sandbox(self.number)

    def dispose(self) -> None:
        """End it without asking what happened; does not wait."""
        self.close_fds()
        if self._open:
            self._open = False
            self._session.drop_sandbox(self.number)

    kill = dispose


@dataclass(slots=True)
class WorkerProcess:
    """The worker: its id as the session's namespace numbers it, and a descriptor that is readable once it has ended."""

    pid: int
    pidfd: int
    _session: Session

    def wait_status(self) -> int | None:
        """Its wait status if it has ended (waitpid(2))."""
        return self._session.ended.get(self.pid)


class Session:
    """Made by `open_session` only."""

    def __init__(self, configuration: SessionConfiguration, keeper: subprocess.Popen[bytes], control: socket.socket) -> None:
        self.configuration = configuration
        self.sandboxes_made = 0
        self.ended: dict[int, int] = {}
        self._keeper = keeper
        self._control = control
        self._ready: deque[Sandbox] = deque()
        self._asked = 0
        self._ahead = 1
        self._verdicts: dict[int, dict[str, Any]] = {}
        self._worker: tuple[int, int] | None = None
        self._details = self._join_details()

    def _join_details(self) -> dict[str, Any]:
        spec = self.configuration.spec
        mask = mask_of(spec.capabilities) if spec.identity.user_id == 0 else 0
        return {
            "cwd": str(spec.working_directory),
            "effective": mask,
            "held": mask_of(HELD),
            "seccomp": base64.b64encode(self.configuration.seccomp).decode(),
        }

    def start_worker(
        self,
        arguments: Sequence[str],
        environment: Sequence[tuple[str, str]],
        *,
        stdio: tuple[int, int, int],
        fds: Sequence[int],
    ) -> WorkerProcess:
        """Start the image's program that will fork the tests. ``fds`` get the numbers from 3 on. One worker per session.

        Raises `CommandNotStarted` or `HostError`.
        """
        self._send({"do": "worker", "arguments": list(arguments), "environment": list(environment)}, [*stdio, *fds])
        while self._worker is None:
            self._receive()
        pid, descriptor = self._worker
        return WorkerProcess(pid=pid, pidfd=descriptor, _session=self)

    def prepare(self, count: int) -> None:
        """Keep so many sandboxes ready. Call it after the worker has collected: the sandboxes then see what it wrote."""
        self._ahead = max(1, count)
        while len(self._ready) + self._asked < self._ahead:
            self._asked += 1
            self._send({"do": "sandbox"})

    def take_sandbox(self) -> Sandbox:
        """A fresh container; the next one is asked for at once."""
        self.prepare(self._ahead)
        while not self._ready:
            self._receive()
        sandbox = self._ready.popleft()
        self.prepare(self._ahead)
        return sandbox

    def finish_sandbox(self, number: int) -> SandboxVerdict:
        """See `Sandbox.finish`."""
        self._send({"do": "finish", "sandbox": number, "tell": True})
        while number not in self._verdicts:
            self._receive()
        told = self._verdicts.pop(number)
        limits = self.configuration.spec.limits
        return SandboxVerdict(
            out_of_memory=told["out_of_memory_kills"] > 0,
            memory_limit_bytes=limits.memory_bytes,
            memory_peak_bytes=told["memory_peak_bytes"],
            pids_limit_reached=told["pids_limit_hits"] > 0,
            pids_limit=limits.pids,
            leftover_processes=told["leftover_processes"],
        )

    def drop_sandbox(self, number: int) -> None:
        """See `Sandbox.dispose`."""
        with contextlib.suppress(OSError):
            self._send({"do": "finish", "sandbox": number, "tell": False})

    def _send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        data = json.dumps(message).encode()
        if len(data) > _PACKET:
            raise UsageError("the arguments and variables of the worker are longer than 64 KiB", code="too-long")
        try:
            socket.send_fds(self._control, [data], list(descriptors))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise WorkerLost("the session's container ended: its builder process is gone", code="session-lost") from error

    def _receive(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, _PACKET, 32)
        except ConnectionResetError:  # it ended with a request of ours unread
            data, descriptors = b"", []
        if not data:
            raise WorkerLost("the session's container ended: its builder process is gone", code="session-lost")
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        message = json.loads(data)
        match message["kind"]:
            case "sandbox":
                self._asked -= 1
                self.sandboxes_made += 1
                details = {**self._details, "joins": message["joins"]}
                self._ready.append(Sandbox(number=message["sandbox"], details=details, fds=list(descriptors), _session=self))
            case "worker":
                self._worker = (message["pid"], descriptors[0])
            case "verdict":
                self._verdicts[message["sandbox"]] = message
            case "ended":
                self.ended[message["pid"]] = message["status"]
            case "error":
                raise_failure(json.dumps(message["failure"]).encode(), "the worker")
            case unknown:
                raise InternalError(f"the builder sent an unknown message: {unknown}")

    def close(self) -> None:
        """End every process of the session and remove what it had on this machine; returns when that is done."""
        for sandbox in self._ready:
            sandbox.close_fds()
        self._control.close()
        assert self._keeper.stdin is not None
        with contextlib.suppress(OSError):
            self._keeper.stdin.close()
        try:
            self._keeper.wait(_CLOSING_SECONDS)
        except subprocess.TimeoutExpired:  # stopped, or stuck: what it leaves, the next sweep takes away
            self._keeper.kill()
            self._keeper.wait()
        if self._worker is not None:
            os.close(self._worker[1])


@contextlib.contextmanager
def open_session(
    spec: ContainerSpec, *, scratch_bytes: int, home: HostPath | None = None, on_disk: bool = False
) -> Iterator[Session]:
    """A session whose sandboxes are as ``spec`` says; its program is ignored, each sandbox waits for a process to join.

    ``scratch_bytes``: how much a sandbox may write to its disk, which is kept in memory; ``on_disk``, and on a Linux before 6.6:
    below ``home``, without that bound. Leaving the block leaves nothing behind.
    """
    home = run_home() if home is None else home
    sweep(home)
    verify_identity(spec.identity)
    spec, links = divide_host_root(spec)
    session_id = new_container_id()
    configuration = SessionConfiguration(
        session_id=session_id,
        directory=workspaces(home) / session_id,
        spec=spec,
        etc=(("hosts", render_hosts(spec.hostname, None)), ("hostname", spec.hostname + "\n"), ("resolv.conf", "")),
        hierarchies=probe_hierarchies(),
        scratch_bytes=scratch_bytes,
        scratch_inodes=max(_FEWEST_INODES, scratch_bytes // _BYTES_PER_INODE),
        seccomp=seccomp_program(),
        worker_seccomp=compile_default_policy(allow_setns=True),
        links=links,
        tty_group=has_tty_group(),
        on_disk=on_disk,
    )
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    source = str(Path(contain.__file__).resolve().parents[1])
    start = f"import sys; sys.path.insert(0, {source!r}); from contain.container.session.keeper import main; main()"
    keeper = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", start, str(theirs.fileno())],
        stdin=subprocess.PIPE,
        pass_fds=(theirs.fileno(),),
        start_new_session=True,
        env={
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LC_ALL": "C.UTF-8",
            **{name: os.environ[name] for name in ("CONTAIN_LIMITS",) if name in os.environ},
        },
    )
    theirs.close()
    session = Session(configuration, keeper, control)
    try:
        assert keeper.stdin is not None
        pickle.dump(configuration, keeper.stdin)
        keeper.stdin.flush()
        yield session
    finally:
        session.close()
