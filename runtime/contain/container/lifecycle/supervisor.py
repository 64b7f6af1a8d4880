"""The process that stays with a container: starts it, copies its output to the log, and writes down how it ended.

For ``contain run`` that is the command itself (`supervise_here`), for ``contain run -d`` a process that outlives it
(`supervise_apart`). It holds the record's lock as long as it lives, and that is how everybody knows that it does. Killed by SIGKILL,
it takes the container along: nothing runs that nobody watches.

A supervisor apart starts the program again as the restart policy says (`contain.container.lifecycle.restarts` decides).
Commands tell it what they want through the record and wake it (`contain.container.lifecycle.wake`). SIGTERM is the machine
going down: the container is stopped as ``contain stop`` does it, but not noted as stopped, so that ``contain system start``
brings it back.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator

from contain.container.door import note_inside, warn_of_limits
from contain.container.launch import Launched
from contain.container.lifecycle.ended import ExitState
from contain.container.lifecycle.left_behind import leave_behind
from contain.container.lifecycle.logs import Log
from contain.container.lifecycle.loop import Loop
from contain.container.lifecycle.records import ContainerRecord, Records, begun, ended, failed, restart_policy_of, stays_ended
from contain.container.lifecycle.restarts import next_delay, should_restart
from contain.container.lifecycle.states import State
from contain.container.lifecycle.wake import drain, open_wake
from contain.container.network.wiring import warn_of_network
from contain.container.plan import HOST_ROOT, Workspace
from contain.container.run import Running, finish, keep_in_memory, open_workspace, start
from contain.container.terminal.attachments import Attachments
from contain.container.terminal.streams import JoinedStreams
from contain.container.workspaces import memory_takes_attributes
from contain.errors import NotFound
from contain.linux.freezer import probe_freezer, remove_freezer_group, thaw
from contain.paths import HostPath
from contain.spec import ContainerSpec
from contain.values import replace

GRACE_SECONDS = 10.0
_ASKED_IN_EARNEST = 3
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class _NobodyWantsIt(Exception):
    """It was to be started again, and somebody said stop."""


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
    """A container on the host's own root keeps what it writes in memory, where memory can: quicker than on an overlay of the root.
    Not one that is started again, which finds what it wrote. So does one that has no directory to write to."""
    if HOST_ROOT in spec.layers and spec.restart.name == "no" and memory_takes_attributes():
        spec = replace(spec, upper=None)
    return spec, workspace if spec.upper is not None else keep_in_memory(workspace)


@contextlib.contextmanager
def _started(
    spec: ContainerSpec,
    records: Records,
    record: ContainerRecord,
    home: HostPath,
    stdio: tuple[int, int, int],
    window: tuple[int, int] | None,
) -> Iterator[Running]:
    def begin(written: ContainerRecord, process_id: int) -> ContainerRecord:
        if written.stop_asked:
            raise _NobodyWantsIt
        return begun(written, process_id)

    def note(process_id: int) -> None:
        records.update(record.container_id, lambda written: begin(written, process_id))

    with open_workspace(spec, home) as plain:
        # With --rm nothing that it writes is kept: then it need not be flushed to the disk at its end either.
        spec, workspace = _workspace_of(spec, replace(plain, volatile=record.remove))
        try:
            store = records.directory.parent
            with start(spec, workspace, stdio=stdio, home=home, store=store, started=note, window=window) as running:
                yield running
        finally:
            remove_freezer_group(spec.container_id)


def _end(records: Records, record: ContainerRecord, state: ExitState, *, restarts: bool = True) -> str:
    """Write down how it ended; the record's state after that. ``restarts``: its policy may start it again.

    Where it cannot be written (a full disk on a file system that keeps no room, one that became read-only), that is a warning: the
    program has ended all the same, and its status is the caller's. It is not started again then, since nobody could tell.
    """

    def end(written: ContainerRecord) -> ContainerRecord:
        again = restarts and should_restart(
            restart_policy_of(written.details),
            status=state.status,
            restarts=written.restart_count,
            stop_asked=written.stop_asked,
        )
        return ended(written, state, restarts=again and not written.remove)

    found: str = State.EXITED
    try:
        found = records.update(record.container_id, end).state  # with --rm too: who waits holds the file open
    except OSError as error:
        if not record.remove:
            sys.stderr.write(
                f"warning: container {record.name} ended with status {state.status}, which cannot be written down: {error.strerror}; "
                "`contain ps` tells it as dead\n"
            )
    if record.remove:
        records.remove(record.container_id)
    return found


def _supervise(
    spec: ContainerSpec,
    records: Records,
    record: ContainerRecord,
    home: HostPath,
    stdin: int,
    stdout: int | None,
    stderr: int | None,
    started: Callable[[Launched], contextlib.AbstractContextManager[None]],
    *,
    attachments: Attachments,
    fed: bool = False,
    window: tuple[int, int] | None = None,
    beside: Loop | None = None,
) -> ExitState:
    """Run the container with its output going to the log, to whoever is attached and, where given, to the caller. ``fed``: its input
    is what the attached type; ``beside``: what else is to be done while it runs."""
    log = Log(records.place(record.container_id), spec.log)
    sinks = {1: log.writer("stdout", stdout), 2: log.writer("stderr", stderr)}
    with (
        JoinedStreams(stdin, sinks, attachments=attachments, fed=fed) as streams,
        _started(spec, records, record, home, streams.inner, window) as running,
        started(running.launched),
        Loop() if beside is None else contextlib.nullcontext(beside) as loop,
        _watching_health(loop, spec, records, record.container_id),
        _keeping_attendant(loop, running, record.name),
    ):
        streams.copy(running.launched, beside=loop)
        return finish(running)


def _watching_health(
    loop: Loop, spec: ContainerSpec, records: Records, container_id: str
) -> contextlib.AbstractContextManager[object]:
    if spec.health is None:
        return contextlib.nullcontext()
    from contain.container.lifecycle.probing import HealthMonitor

    return HealthMonitor(loop, spec, records, container_id, spec.health)


def _keeping_attendant(loop: Loop, running: Running, name: str) -> contextlib.AbstractContextManager[object]:
    if running.attendant is None:
        return contextlib.nullcontext()
    from contain.container.lifecycle.reviving import Reviver

    return Reviver(loop, running.attendant, name)


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
) -> ExitState:
    """Be the supervisor of a container without a terminal that is held, until it has ended; then let go of it."""
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with Attachments(records.place(record.container_id)) as attachments:
            state = _supervise(
                spec,
                records,
                record,
                home,
                null if stdin is None else stdin,
                stdout,
                stderr,
                _forward_signals,
                attachments=attachments,
            )
            _end(records, record, state, restarts=False)
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
    warn_of_network(spec, home)
    warn_of_limits(home)

    def work(started: Callable[[], None]) -> None:
        try:
            note_inside(home)
            with Loop() as loop:
                keeper = _Keeper(spec, records, record, home, loop)
                null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                keeper.keep(null, started, first=first, window=window)
        except BaseException:
            records.remove(record.container_id) if record.remove else _write_failed(records, record)
            raise

    try:
        leave_behind(work, kept=(held, *(() if first is None else (first.fileno(),))))
    finally:
        os.close(held)
    return spec.container_id


class _Keeper:
    """Runs a container's program, and runs it again, until nobody wants it or its policy is satisfied."""

    def __init__(self, spec: ContainerSpec, records: Records, record: ContainerRecord, home: HostPath, loop: Loop) -> None:
        self._spec, self._records, self._record, self._home, self._loop = spec, records, record, home, loop
        self._launched: Launched | None = None
        self._began_seconds = 0.0
        self._going_down = False
        self._wake = open_wake(records.place(record.container_id))
        loop.watch(self._wake, lambda: drain(self._wake))
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._go_down)

    def _go_down(self, *_: object) -> None:
        if not self._going_down and self._launched is not None:
            self._launched.send_signal(self._spec.stop_signal)
            self._thaw()
            grace = GRACE_SECONDS if self._spec.stop_grace_seconds is None else self._spec.stop_grace_seconds
            if grace >= 0:
                self._loop.call_after(grace, self._kill)
        self._going_down = True

    def _kill(self) -> None:
        if self._launched is not None:
            self._launched.send_signal(signal.SIGKILL)
            self._thaw()

    def _thaw(self) -> None:
        """A paused one would not get the signal."""
        freezer = probe_freezer()
        if freezer is not None:
            thaw(freezer, self._spec.container_id)

    @contextlib.contextmanager
    def _running(self, launched: Launched) -> Iterator[None]:
        self._launched = launched
        self._began_seconds = time.monotonic()
        if self._going_down:
            self._kill()
        elif self._is_unwanted():  # a signal that came before the program was there was nobody's
            launched.send_signal(self._spec.stop_signal)
        try:
            yield
        finally:
            self._launched = None

    def keep(
        self,
        null: int,
        tell_started: Callable[[], None],
        *,
        first: socket.socket | None,
        window: tuple[int, int] | None,
    ) -> None:
        """Until it has ended for good, and that is written down. Raises what a start raised."""

        @contextlib.contextmanager
        def first_run(launched: Launched) -> Iterator[None]:
            tell_started()
            with self._running(launched):
                yield

        state = self._run(null, first_run, first, window)
        delay_seconds = 0.0
        while state == State.RESTARTING:
            delay_seconds = next_delay(delay_seconds, lasted_seconds=time.monotonic() - self._began_seconds)
            try:
                if not self._back_off(delay_seconds):
                    raise _NobodyWantsIt
                from contain.container.lifecycle.respecify import as_recorded

                self._spec = as_recorded(self._spec, self._records.read(self._record.container_id))
                state = self._run(null, self._running, None, None)
            except _NobodyWantsIt:
                self._records.update(self._record.container_id, stays_ended)
                return

    def _run(
        self,
        null: int,
        started: Callable[[Launched], contextlib.AbstractContextManager[None]],
        first: socket.socket | None,
        window: tuple[int, int] | None,
    ) -> str:
        """One run of the program; the record's state after it."""
        spec, records, record = self._spec, self._records, self._record
        with Attachments(records.place(record.container_id), first=first, once=spec.input_once) as attachments:
            state = _supervise(
                *(spec, records, record, self._home),
                null,
                None,
                None,
                started,
                attachments=attachments,
                fed=spec.interactive,
                window=window,
                beside=self._loop,
            )
            found = _end(records, record, state, restarts=not self._going_down)
            attachments.tell_end(state)
        return found

    def _is_unwanted(self) -> bool:
        return self._records.read(self._record.container_id).stop_asked

    def _back_off(self, seconds: float) -> bool:
        """Whether it is to be started after the time; at once False when nobody wants it any more."""
        over = False

        def end() -> None:
            nonlocal over
            over = True

        self._loop.call_after(seconds, end)
        while not over:
            if self._going_down or self._is_unwanted():
                return False
            self._loop.turn()
        return not self._going_down
