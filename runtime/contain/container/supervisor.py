"""The process that stays with a container: starts it, copies its output to the log, and writes down how it ended.

For ``contain run`` that is the command itself (`supervise_here`), for ``contain run -d`` a process that outlives it
(`supervise_apart`). It holds the record's lock as long as it lives, and that is how everybody knows that it does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator

from contain.container.attachments import Attachments
from contain.container.door import note_inside
from contain.container.launch import Launched
from contain.container.logs import Log
from contain.container.plan import HOST_ROOT, Workspace
from contain.container.records import ContainerRecord, Records, begun, ended, failed
from contain.container.run import ExitState, Running, finish, open_workspace, start
from contain.container.streams import JoinedStreams
from contain.container.workspaces import memory_takes_attributes
from contain.errors import ContainError, NotFound
from contain.linux.freezer import remove_freezer_group
from contain.paths import HostPath
from contain.spec import ContainerSpec
from contain.values import replace

_ASKED_IN_EARNEST = 3
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_HOST_SCRATCH_BYTES = 2 << 30


class StartFailed(ContainError):
    """A detached container did not start: what its supervisor said, with its exit status."""

    code = "container-set-up"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.exit_status = status


@contextlib.contextmanager
def handling_signals(forward: Callable[[int, object], None]) -> Iterator[None]:
    """Signals go to ``forward`` in the block, and where they went before afterwards."""
    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _forward_signals(launched: Launched) -> Iterator[None]:
    asked = 0

    def forward(number: int, _: object) -> None:
        nonlocal asked
        asked += number in (signal.SIGINT, signal.SIGTERM)
        # A first process without a handler ignores them (pid_namespaces(7)): who asks three times, as with Docker, means it.
        launched.send_signal(signal.SIGKILL if asked >= _ASKED_IN_EARNEST else number)

    with handling_signals(forward):
        yield


def _workspace_of(spec: ContainerSpec, workspace: Workspace) -> tuple[ContainerSpec, Workspace]:
    """A container on the host's own root keeps what it writes in memory, where memory can: quicker than on an overlay of the root."""
    if HOST_ROOT in spec.layers and memory_takes_attributes():
        scratch = workspace.directory / "scratch"
        scratch.mkdir()
        workspace = replace(workspace, scratch=scratch, scratch_bytes=_HOST_SCRATCH_BYTES, scratch_inodes=1_000_000)
        return replace(spec, upper=None), workspace
    return spec, workspace


@contextlib.contextmanager
def _started(
    spec: ContainerSpec,
    records: Records,
    record: ContainerRecord,
    home: HostPath,
    stdio: tuple[int, int, int],
    window: tuple[int, int] | None,
) -> Iterator[Running]:
    def note(process_id: int) -> None:
        records.update(record.container_id, lambda written: begun(written, process_id))

    with open_workspace(spec, home) as plain:
        # With --rm nothing that it writes is kept: then it need not be flushed to the disk at its end either.
        spec, workspace = _workspace_of(spec, replace(plain, volatile=record.remove))
        try:
            with start(spec, workspace, stdio=stdio, home=home, started=note, window=window) as running:
                yield running
        finally:
            remove_freezer_group(spec.container_id)


def _end(records: Records, record: ContainerRecord, state: ExitState) -> None:
    if record.remove:
        records.remove(record.container_id)
    else:
        records.update(record.container_id, lambda written: ended(written, state))


def _supervise(
    spec: ContainerSpec,
    records: Records,
    record: ContainerRecord,
    home: HostPath,
    stdin: int,
    stdout: int | None,
    stderr: int | None,
    started: Callable[[], None],
    *,
    attachments: Attachments,
    fed: bool = False,
    window: tuple[int, int] | None = None,
    signals: bool = True,
) -> ExitState:
    """Run the container with its output going to the log, to who is attached, and where given to the caller. ``signals``: those of
    this process are the container's."""
    log = Log(records.place(record.container_id))
    sinks = {1: log.writer("stdout", stdout), 2: log.writer("stderr", stderr)}
    with (
        JoinedStreams(stdin, sinks, attachments=attachments, fed=fed) as streams,
        _started(spec, records, record, home, streams.inner, window) as running,
        _forward_signals(running.launched) if signals else contextlib.nullcontext(),
    ):
        started()
        streams.copy(running.launched)
        return finish(running)


def supervise_here(
    spec: ContainerSpec,
    records: Records,
    record: ContainerRecord,
    held: int,
    home: HostPath,
    *,
    stdin: int | None,
    stdout: int | None = 1,
    stderr: int | None = 2,
    signals: bool = True,
) -> ExitState:
    """Be the supervisor of a container without a terminal that is held, until it has ended; then let go of it."""
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with Attachments(records.place(record.container_id)) as attachments:
            state = _supervise(
                *(spec, records, record, home, null if stdin is None else stdin, stdout, stderr, lambda: None),
                attachments=attachments,
                signals=signals,
            )
            _end(records, record, state)
            attachments.tell_end(state)
    except BaseException:
        records.remove(record.container_id) if record.remove else _write_failed(records, record)
        raise
    finally:
        os.close(null)
        os.close(held)
    return state


def _write_failed(records: Records, record: ContainerRecord) -> None:
    error = sys.exc_info()[1]
    status = getattr(error, "exit_status", 125)
    with contextlib.suppress(OSError, NotFound):
        records.update(record.container_id, lambda written: failed(written, status, str(error).split("\n", 1)[0]))


def _keep_only(*kept: int) -> None:
    """Let go of what the caller had open, and of its directory: somebody may wait for the end of a pipe, or want to unmount."""
    os.chdir("/")
    first = 3
    for descriptor in sorted(kept):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def supervise_apart(
    spec: ContainerSpec,
    records: Records,
    record: ContainerRecord,
    held: int,
    home: HostPath,
    *,
    first: socket.socket | None = None,
    window: tuple[int, int] | None = None,
) -> str:
    """Leave a supervisor behind for a container that is held. ``first``: who is attached from the beginning; ``window``: rows and
    columns of his terminal."""
    ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        _keep_only(held, ready_write, *(() if first is None else (first.fileno(),)))
        _supervise_detached(spec, records, record, home, ready_write, first, window)
    os.close(ready_write)
    os.close(held)
    os.waitpid(child, 0)
    with os.fdopen(ready_read, "rb") as file:
        told = file.read()
    if told != b"started":
        failure: dict[str, str] = json.loads(told) if told else {"message": "the container's supervisor ended"}
        raise StartFailed(failure["message"], int(failure.get("status", 125)))
    return spec.container_id


def _supervise_detached(
    spec: ContainerSpec,
    records: Records,
    record: ContainerRecord,
    home: HostPath,
    ready: int,
    first: socket.socket | None,
    window: tuple[int, int] | None,
) -> None:
    try:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for number in range(3):
            os.dup2(null, number)
        note_inside(home)

        def started() -> None:
            os.write(ready, b"started")
            os.close(ready)

        with Attachments(records.place(record.container_id), first=first, once=spec.input_once) as attachments:
            state = _supervise(
                *(spec, records, record, home, null, None, None, started),
                attachments=attachments,
                fed=spec.interactive,
                window=window,
            )
            _end(records, record, state)
            attachments.tell_end(state)
    except BaseException as error:
        if record.remove:
            records.remove(record.container_id)
        else:
            _write_failed(records, record)
        with contextlib.suppress(OSError):
            os.write(ready, json.dumps({"message": str(error), "status": getattr(error, "exit_status", 125)}).encode())
    finally:
        os._exit(0)
