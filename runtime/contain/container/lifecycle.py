"""Containers that are kept on record: started in the foreground or detached, stopped, removed; their logs.

The process that starts a container is its supervisor: for ``contain run`` the command itself, for ``contain run -d`` a process forked
from it that outlives it. The supervisor holds the record's lock, copies output to the log, and writes down how it ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from contain.container.launch import Launched
from contain.container.plan import HOST_ROOT, Workspace
from contain.container.records import ContainerRecord, Records, begun, ended, failed, new_record, open_process
from contain.container.respecify import parse_spec
from contain.container.run import ExitState, Running, finish, open_workspace, start
from contain.container.streams import JoinedStreams, writer_to
from contain.container.terminal import raw_mode, relay, write_all
from contain.container.workspaces import memory_takes_attributes, sweep
from contain.errors import Conflict, ContainError, NotFound, NotSupported, UsageError
from contain.linux.freezer import probe_freezer, remove_freezer_group, thaw
from contain.paths import HostPath
from contain.spec import ContainerSpec

GRACE_SECONDS = 10.0
_ASKED_IN_EARNEST = 3
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_HOST_SCRATCH_BYTES = 2 << 30


class StartFailed(ContainError):
    """A detached container did not start: what its supervisor said, with its exit status."""

    code = "container-set-up"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.exit_status = status


class Log:
    """A container's output on disk: one JSON object per piece, with its stream and time."""

    def __init__(self, place: HostPath) -> None:
        self._descriptor = os.open(place / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, stream: str, data: bytes) -> None:
        """Append a piece."""
        row = {"stream": stream, "time": time.time(), "log": data.decode("utf-8", "backslashreplace")}
        write_all(self._descriptor, json.dumps(row).encode() + b"\n")

    def writer(self, stream: str, copy_to: int | None) -> Callable[[bytes], None]:
        """What appends a stream's pieces, and copies them to a descriptor where one is given."""
        copy = writer_to(copy_to) if copy_to is not None else None

        def write(data: bytes) -> None:
            self.write(stream, data)
            if copy is not None:
                copy(data)

        return write


def read_log_batches(
    records: Records, record: ContainerRecord, *, follow: bool = False, from_now: bool = False
) -> Iterator[list[tuple[str, float, str]]]:
    """The pieces of a container's output as (stream, time, text), in order: first all that is there (``from_now``: nothing of it),
    with ``follow`` what comes until the container ends, and an empty batch now and then."""
    path = records.place(record.container_id) / "log"
    position, rest = 0, ""
    if from_now:
        with contextlib.suppress(FileNotFoundError):
            position = path.stat().st_size  # pieces are appended whole, so this is where one begins
    while True:
        alive = follow and records.is_held(record.container_id)
        try:
            with open(path, encoding="utf-8") as file:
                file.seek(position)
                text = file.read()
                position = file.tell()
        except FileNotFoundError:
            text = ""
        rest += text
        *lines, rest = rest.split("\n")
        rows = map(json.loads, lines)
        yield [(row["stream"], row["time"], row["log"]) for row in rows]
        if not alive:
            return
        time.sleep(0.1)


def read_log(
    records: Records, record: ContainerRecord, *, follow: bool = False, from_now: bool = False
) -> Iterator[tuple[str, str]]:
    """The same without times and batches: (stream, text)."""
    for batch in read_log_batches(records, record, follow=follow, from_now=from_now):
        for stream, _, text in batch:
            yield stream, text


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
    spec: ContainerSpec, records: Records, record: ContainerRecord, home: HostPath, stdio: tuple[int, int, int]
) -> Iterator[Running]:
    def note(process_id: int) -> None:
        records.update(record.container_id, lambda written: begun(written, process_id))

    with open_workspace(spec, home) as plain:
        # With --rm nothing that it writes is kept: then it need not be flushed to the disk at its end either.
        spec, workspace = _workspace_of(spec, replace(plain, volatile=record.remove))
        try:
            with start(spec, workspace, stdio=stdio, home=home, started=note) as running:
                yield running
        finally:
            remove_freezer_group(spec.container_id)


def _end(records: Records, record: ContainerRecord, state: ExitState) -> None:
    if record.remove:
        records.remove(record.container_id)
    else:
        records.update(record.container_id, lambda written: ended(written, state))


@contextlib.contextmanager
def _forward_signals(launched: Launched) -> Iterator[None]:
    asked = 0

    def forward(number: int, _: object) -> None:
        nonlocal asked
        asked += number in (signal.SIGINT, signal.SIGTERM)
        # A first process without a handler ignores them (pid_namespaces(7)): who asks three times, as with Docker, means it.
        launched.send_signal(signal.SIGKILL if asked >= _ASKED_IN_EARNEST else number)

    with _handling(forward):
        yield


@contextlib.contextmanager
def _handling(forward: Callable[[int, object], None]) -> Iterator[None]:
    """Signals go to ``forward`` in the block, and where they went before afterwards."""
    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _supervise(
    spec: ContainerSpec,
    records: Records,
    record: ContainerRecord,
    home: HostPath,
    stdin: int,
    stdout: int | None,
    stderr: int | None,
    started: Callable[[], None],
) -> ExitState:
    """Run the container with its output going to the log and, where given, to the caller."""
    log = Log(records.place(record.container_id))
    with (
        JoinedStreams(stdin, {1: log.writer("stdout", stdout), 2: log.writer("stderr", stderr)}) as streams,
        _started(spec, records, record, home, streams.inner) as running,
        _forward_signals(running.launched),
    ):
        started()
        streams.copy(running.launched)
        return finish(running)


def run_foreground(spec: ContainerSpec, *, store_home: HostPath, home: HostPath, remove: bool, interactive: bool) -> ExitState:
    """``contain run``: the caller's standard descriptors are the container's. Returns when it has ended."""
    records = Records(store_home)
    record = new_record(spec, remove=remove)
    sweep(home)
    return _foreground(spec, records, record, records.create(record), home, stdin=0 if interactive else None)


def _foreground(
    spec: ContainerSpec,
    records: Records,
    record: ContainerRecord,
    held: int,
    home: HostPath,
    *,
    stdin: int | None,
) -> ExitState:
    """Be the supervisor of a container that is held, until it has ended; then let go of it."""
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if spec.terminal:
            with _started(spec, records, record, home, (null, null, null)) as running:
                launched = running.launched
                assert launched.terminal is not None
                with raw_mode(stdin) if stdin is not None else contextlib.nullcontext():
                    relay(
                        launched.terminal,
                        stdin=stdin,
                        stdout=1,
                        ended=lambda: True,
                        watch=launched.fileno(),
                    )
                state = finish(running)
        else:
            state = _supervise(spec, records, record, home, null if stdin is None else stdin, 1, 2, lambda: None)
        _end(records, record, state)
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


def run_detached(spec: ContainerSpec, *, store_home: HostPath, home: HostPath, remove: bool) -> str:
    """``contain run -d``: the container's id once its program has started; a supervisor process stays with it.

    Raises what the start raised.
    """
    home = home.absolute()
    sweep(home)
    records = Records(store_home.absolute())
    record = new_record(spec, remove=remove)
    return _detached(spec, records, record, records.create(record), home)


def _detached(spec: ContainerSpec, records: Records, record: ContainerRecord, held: int, home: HostPath) -> str:
    """Leave a supervisor behind for a container that is held."""
    ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        _keep_only(held, ready_write)
        _supervise_detached(spec, records, record, home, ready_write)
    os.close(ready_write)
    os.close(held)
    os.waitpid(child, 0)
    with os.fdopen(ready_read, "rb") as file:
        told = file.read()
    if told != b"started":
        failure: dict[str, str] = json.loads(told) if told else {"message": "the container's supervisor ended"}
        raise StartFailed(failure["message"], int(failure.get("status", 125)))
    return spec.container_id


def _supervise_detached(spec: ContainerSpec, records: Records, record: ContainerRecord, home: HostPath, ready: int) -> None:
    try:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for number in range(3):
            os.dup2(null, number)

        def started() -> None:
            os.write(ready, b"started")
            os.close(ready)

        state = _supervise(spec, records, record, home, null, None, None, started)
        _end(records, record, state)
    except BaseException as error:
        if record.remove:
            records.remove(record.container_id)
        else:
            _write_failed(records, record)
        with contextlib.suppress(OSError):
            os.write(ready, json.dumps({"message": str(error), "status": getattr(error, "exit_status", 125)}).encode())
    finally:
        os._exit(0)


def create_container(spec: ContainerSpec, *, store_home: HostPath, remove: bool) -> str:
    """``contain create``: a container on record that nobody has started yet; its id."""
    records = Records(store_home)
    record = new_record(spec, remove=remove)
    os.close(records.create(record))
    return record.container_id


def _hold_to_start(records: Records, record: ContainerRecord) -> tuple[ContainerSpec, int] | None:
    """The spec of a container that does not run and a descriptor that holds it; None if it runs."""
    if record.state == "running":
        return None
    spec = parse_spec(record.details)
    if HOST_ROOT in spec.layers and record.state != "created":
        raise NotSupported(
            f"{record.name} stands on this machine's root: what it wrote went with its end, so it cannot be started again",
            code="container-on-host",
            remedy="make a new one with `contain run`",
        )
    gone = [layer for layer in spec.layers if not layer.is_dir()]
    if gone:
        raise NotFound(
            f"the image of {record.name} ({record.image_name}) is not in the store any more",
            code="layer-not-found",
            remedy="make a new container of a new image",
        )
    held = records.hold(record.container_id)
    if held is None:
        latest = records.find(record.container_id)
        if latest.state == "running":
            return None
        raise Conflict(f"container {record.name} is being started or removed by somebody else", code="container-busy")
    return replace(spec, name=record.name), held


def start_detached(records: Records, record: ContainerRecord, *, home: HostPath) -> None:
    """``contain start``: the container runs again with what it wrote before and all its settings. Nothing if it runs.

    Raises what the start raised, `Conflict`, `NotSupported` for a container on the host's root.
    """
    home = home.absolute()
    sweep(home)
    taken = _hold_to_start(records, record)
    if taken is not None:
        _detached(taken[0], records, record, taken[1], home)


def start_foreground(records: Records, record: ContainerRecord, *, home: HostPath, interactive: bool) -> ExitState:
    """``contain start -a``: the same on the caller's standard descriptors, until it has ended."""
    sweep(home)
    taken = _hold_to_start(records, record)
    if taken is None:
        raise UsageError(
            f"container {record.name} runs already", code="container-running", remedy=f"contain attach --no-stdin {record.name}"
        )
    return _foreground(taken[0], records, record, taken[1], home, stdin=0 if interactive else None)


def restart_container(
    records: Records, record: ContainerRecord, *, home: HostPath, grace_seconds: float, number: int | None
) -> None:
    """``contain restart``: stop it if it runs, and start it."""
    if record.remove:
        raise NotSupported(
            f"{record.name} was made with --rm and goes with its end: it cannot be restarted", code="restart-with-rm"
        )
    stop_container(records, record, grace_seconds=grace_seconds, number=number)
    start_detached(records, records.find(record.container_id), home=home)


def follow_output(records: Records, record: ContainerRecord, show: Callable[[str, str], None], *, signals: bool) -> int:
    """``contain attach --no-stdin``: show what a running container prints from now on; its exit status. ``signals``: those that
    this process gets are passed on."""
    with open_forwarding(record) if signals else contextlib.nullcontext():
        for stream, text in read_log(records, record, follow=True, from_now=True):
            show(stream, text)
    with contextlib.suppress(NotFound):
        return records.find(record.container_id).status or 0
    return 0  # it was made with --rm, and its status is gone


@contextlib.contextmanager
def open_forwarding(record: ContainerRecord) -> Iterator[None]:
    """Pass signals of this process on to a container's first process."""

    def forward(number: int, _: object) -> None:
        with contextlib.suppress(Conflict):
            signal_container(record, number)

    with _handling(forward):
        yield


def signal_container(record: ContainerRecord, number: int) -> None:
    """``contain kill``. `Conflict` if it does not run."""
    try:
        process = open_process(record)
    except Conflict as error:
        raise Conflict(
            f"cannot kill container: {record.name}: container {record.container_id} is not running", code="not-running"
        ) from error
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, number)
        if number in (signal.SIGKILL, record.stop_signal) and (freezer := probe_freezer()) is not None:
            thaw(freezer, record.container_id)  # so that a paused one gets it
    finally:
        os.close(process)


def stop_container(
    records: Records, record: ContainerRecord, *, grace_seconds: float = GRACE_SECONDS, number: int | None = None
) -> None:
    """``contain stop``: the container's stop signal or another one, then SIGKILL after the grace time (below 0: never). Nothing if
    it does not run."""
    if record.state != "running":
        return
    with contextlib.suppress(Conflict):  # it may end at this very moment
        signal_container(record, record.stop_signal if number is None else number)
    if wait_until_ended(records, record, grace_seconds if grace_seconds >= 0 else None):
        return
    with contextlib.suppress(Conflict):
        signal_container(record, signal.SIGKILL)
    wait_until_ended(records, record, GRACE_SECONDS)


def wait_until_ended(records: Records, record: ContainerRecord, seconds: float | None) -> bool:
    """Whether the container's supervisor was done within the time; None waits for ever."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while records.is_held(record.container_id):
        if deadline is not None and time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def remove_container(records: Records, record: ContainerRecord, *, force: bool) -> None:
    """``contain rm``. `Conflict` if it runs and ``force`` is not given."""
    if record.state == "running":
        if not force:
            raise Conflict(
                f'cannot remove container "/{record.name}": container is running: stop the container before removing or force remove',
                code="container-running",
                remedy=f"contain rm -f {record.name}",
            )
        with contextlib.suppress(Conflict):
            signal_container(record, signal.SIGKILL)
        wait_until_ended(records, record, GRACE_SECONDS)
    try:
        held = records.hold(record.container_id)
    except NotFound:
        return  # made with --rm, or removed by somebody else
    if held is None:
        raise Conflict(
            f'cannot remove container "/{record.name}": it is being started or removed by somebody else', code="container-busy"
        )
    try:
        records.remove(record.container_id)
    finally:
        os.close(held)
