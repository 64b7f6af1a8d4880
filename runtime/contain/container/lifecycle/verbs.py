"""``contain run``, ``start``, ``stop``, ``kill``, ``rm`` and the like: what a command does to a container on record.

Nothing here stays with a container: that is `contain.container.lifecycle.supervisor`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

from contain.container.lifecycle.ended import ExitState
from contain.container.lifecycle.records import (
    ContainerRecord,
    Records,
    boot_id,
    lost,
    new_record,
    open_process,
    restart_policy_of,
)
from contain.container.lifecycle.restarts import should_come_back
from contain.container.lifecycle.states import Action, Event, State, Step, decide
from contain.container.lifecycle.supervisor import GRACE_SECONDS, supervise_apart, supervise_here
from contain.container.lifecycle.wake import wake
from contain.container.plan import HOST_ROOT
from contain.container.processes import decide_for
from contain.container.storage import Storage, fill_root, storage_for
from contain.container.terminal.joined import Joined
from contain.container.workspaces import sweep
from contain.errors import Conflict, ContainError, NotFound, NotSupported, UsageError
from contain.linux.freezer import probe_freezer, thaw
from contain.paths import HostPath
from contain.spec import ContainerSpec
from contain.values import replace

_PATIENCE_SECONDS = 10.0
_LOOK_SECONDS = 0.02
_LOST_STATUS = 137


def run_foreground(
    spec: ContainerSpec,
    *,
    store_home: HostPath,
    home: HostPath,
    remove: bool,
    joined: Joined,
) -> ExitState | None:
    """``contain run``: the caller's standard descriptors are the container's. Returns when it has ended, or None when the caller let
    go of it with the detach keys."""
    records = Records(store_home.absolute())
    spec = _with_storage(spec, records, remove=remove)
    record = new_record(spec, remove=remove)
    sweep(home)
    return _in_front(spec, records, record, _create(spec, records, record), home, joined)


def _in_front(
    spec: ContainerSpec, records: Records, record: ContainerRecord, held: int, home: HostPath, joined: Joined
) -> ExitState | None:
    """What has a terminal can be let go of, what is started again goes on without the caller, and so does what does not get his
    signals: then its supervisor is another process; else this one is it, which is quicker."""
    if spec.terminal or spec.restart.name != "no" or not joined.signals:
        from contain.container.terminal.foreground import run_on_terminal

        return run_on_terminal(spec, records, record, held, home, joined=joined)
    stdin, stdout, stderr = joined.descriptors
    return supervise_here(spec, records, record, held, home, stdin=stdin, stdout=stdout, stderr=stderr)


def run_detached(spec: ContainerSpec, *, store_home: HostPath, home: HostPath, remove: bool) -> str:
    """``contain run -d``: the container's id once its program has started; a supervisor process stays with it.

    Raises what the start raised.
    """
    home = home.absolute()
    sweep(home)
    records = Records(store_home.absolute())
    spec = _with_storage(spec, records, remove=remove)
    record = new_record(spec, remove=remove)
    return supervise_apart(spec, records, record, _create(spec, records, record), home)


def create_container(spec: ContainerSpec, *, store_home: HostPath, remove: bool) -> str:
    """``contain create``: a container on record that nobody has started yet; its id."""
    records = Records(store_home)
    spec = _with_storage(spec, records, remove=remove)
    record = new_record(spec, remove=remove)
    os.close(_create(spec, records, record))
    return record.container_id


def _with_storage(spec: ContainerSpec, records: Records, *, remove: bool) -> ContainerSpec:
    """The spec of a container that is to be on record, with what becomes of its writing on this machine. Raises `UsageError`,
    `HostError`."""
    found = storage_for(spec.layers, records.directory.parent, thrown_away=remove)
    if found is Storage.MEMORY:
        return replace(spec, upper=None)
    return replace(spec, copied=found is Storage.COPY)


def _create(spec: ContainerSpec, records: Records, record: ContainerRecord) -> int:
    """`Records.create`, with the container's copy of its image where it has one."""
    if not spec.copied:
        return records.create(record)
    return records.create(record, fill=lambda: fill_root(spec, lasting=not record.remove))


def _fresh(written: ContainerRecord) -> ContainerRecord:
    """The record of a container that is held, for a start: what lost its supervisor is written down as that."""
    if written.state in (State.RUNNING, State.RESTARTING):
        written = lost(written, boot_id())
    return replace(written, stop_asked=False, restart_count=0)


def _hold_to_start(records: Records, record: ContainerRecord) -> tuple[ContainerSpec, int] | None:
    """The spec of a container that does not run and a descriptor that holds it; None if it runs."""
    if Action.LAUNCH not in decide_for(record, Event.START).actions:
        return None
    from contain.container.lifecycle.respecify import parse_spec

    spec = parse_spec(record.details)
    if HOST_ROOT in spec.layers and record.started_seconds is not None and spec.restart.name == "no":
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
        if latest.state in (State.RUNNING, State.RESTARTING):
            return None
        raise Conflict(f"container {record.name} is being started or removed by somebody else", code="container-busy")
    try:
        records.update(record.container_id, _fresh)
    except BaseException:
        os.close(held)
        raise
    return replace(spec, name=record.name), held


def start_detached(records: Records, record: ContainerRecord, *, home: HostPath) -> None:
    """``contain start``: the container runs again with what it wrote before and all its settings. Nothing if it runs.

    Raises what the start raised, `Conflict`, `NotSupported` for a container on the host's root.
    """
    home = home.absolute()
    sweep(home)
    taken = _hold_to_start(records, record)
    if taken is not None:
        supervise_apart(taken[0], records, record, taken[1], home)


def start_foreground(records: Records, record: ContainerRecord, *, home: HostPath, joined: Joined) -> ExitState | None:
    """``contain start -a``: the same on the caller's standard descriptors, until it has ended; None if they were let go of."""
    sweep(home)
    taken = _hold_to_start(records, record)
    if taken is None:
        raise UsageError(
            f"container {record.name} runs already", code="container-running", remedy=f"contain attach {record.name}"
        )
    return _in_front(taken[0], records, record, taken[1], home, joined)


def restart_container(
    records: Records, record: ContainerRecord, *, home: HostPath, grace_seconds: float | None, number: int | None
) -> None:
    """``contain restart``: stop it if it runs, and start it."""
    if record.remove:
        raise NotSupported(
            f"{record.name} was made with --rm and goes with its end: it cannot be restarted", code="restart-with-rm"
        )
    step = decide_for(record, Event.RESTART)
    _perform(step, records, record, number=number, grace_seconds=grace_seconds)
    if Action.LAUNCH in step.actions:
        start_detached(records, records.find(record.container_id), home=home)
    records.tell(record, "restart")


def _send(record: ContainerRecord, number: int, records: Records | None = None) -> None:
    """A signal to the first process, noted in the journal of ``records``. `Conflict` if it has none."""
    process = open_process(record)
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, number)
    finally:
        os.close(process)
    if records is not None:
        records.tell(record, "kill", {"signal": str(number)})


def _note_stop(records: Records, record: ContainerRecord) -> ContainerRecord:
    """The record as it is now. A start that is on either stands in it, or will see the note: none slips through."""
    with contextlib.suppress(NotFound):
        record = records.update(record.container_id, lambda written: replace(written, stop_asked=True))
        wake(records.place(record.container_id))
    return record


def _let_go_on(record: ContainerRecord) -> None:
    freezer = probe_freezer()
    if freezer is not None:
        thaw(freezer, record.container_id)


def _await_grace(records: Records, record: ContainerRecord, seconds: float) -> None:
    if wait_until_ended(records, record, seconds if seconds >= 0 else None):
        return
    with contextlib.suppress(Conflict, NotFound):
        _send(records.find(record.container_id), signal.SIGKILL, records)


def _perform(
    step: Step, records: Records, record: ContainerRecord, *, number: int | None = None, grace_seconds: float | None = None
) -> None:
    """Do what the table says, but for what stays with the caller: starting, joining, deleting. ``number``: the signal that was
    named; ``grace_seconds``: the time that was, below 0 without end."""
    fatal = number is None or number in (signal.SIGKILL, record.stop_signal)
    for action in step.actions:
        match action:
            case Action.NOTE_STOP:
                record = _note_stop(records, record)
            case Action.NOTE_STOP_IF_FATAL:
                if fatal:
                    record = _note_stop(records, record)
            case Action.SEND_STOP_SIGNAL:
                with contextlib.suppress(Conflict):  # it may end at this very moment
                    _send(record, record.stop_signal if number is None else number, records)
            case Action.SEND_SIGNAL:
                _send(record, signal.SIGKILL if number is None else number, records)
            case Action.SEND_KILL:
                with contextlib.suppress(Conflict):
                    _send(record, signal.SIGKILL, records)
            case Action.THAW:
                _let_go_on(record)
            case Action.THAW_IF_FATAL:
                if fatal:
                    _let_go_on(record)
            case Action.AWAIT_GRACE:
                _await_grace(records, record, grace_of(record) if grace_seconds is None else grace_seconds)
            case Action.AWAIT_END:
                wait_until_ended(records, record, _PATIENCE_SECONDS)
            case Action.LAUNCH | Action.JOIN | Action.DELETE | Action.FREEZE:
                pass


def grace_of(record: ContainerRecord) -> float:
    """How long a container gets between its stop signal and SIGKILL, in seconds; below 0: for ever."""
    seconds = record.details.get("stop_grace_seconds")
    return GRACE_SECONDS if seconds is None else float(seconds)


def signal_container(record: ContainerRecord, number: int, records: Records | None = None) -> None:
    """``contain kill``. `Conflict` if it does not run. ``records``: of the store; with them, SIGKILL and the stop signal end also
    the restarts."""
    step = decide_for(record, Event.KILL)
    try:
        if records is not None:
            _perform(step, records, record, number=number)
        else:
            _send(record, number)
            if number in (signal.SIGKILL, record.stop_signal):
                _let_go_on(record)  # so that a paused one gets it
    except Conflict:
        decide(State.EXITED, Event.KILL, name=record.name, container_id=record.container_id)


def stop_container(
    records: Records, record: ContainerRecord, *, grace_seconds: float | None = None, number: int | None = None
) -> None:
    """``contain stop``: the container's stop signal or another one, then SIGKILL after the grace time (below 0: never; None: the
    container's own). Nothing if it does not run."""
    step = decide_for(record, Event.STOP)
    _perform(step, records, record, number=number, grace_seconds=grace_seconds)
    if step.actions:
        records.tell(record, "stop")


def _is_wanted_again(records: Records, record: ContainerRecord) -> bool:
    try:
        return not records.read(record.container_id).stop_asked
    except NotFound:
        return False


def wait_until_ended(records: Records, record: ContainerRecord, seconds: float | None) -> bool:
    """Whether the container's supervisor was done within the time; None waits for ever. It was, too, if the container was told to
    stop (``record`` says so) and somebody has started it again."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while records.is_held(record.container_id):
        if record.stop_asked and _is_wanted_again(records, record):
            return True
        if deadline is not None and time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


@contextlib.contextmanager
def wait_for_status(records: Records, record: ContainerRecord) -> Iterator[Callable[[], int]]:
    """``contain wait``: what blocks until the run that is on now has ended, also if another one follows, and gives its exit status;
    of a container that has ended, at once.

    0 before the first start, 137 of a container that went with its supervisor.
    """
    with records.open_end(record.container_id) as read_end:

        def read() -> int:
            while True:
                alive = records.is_held(record.container_id)
                latest = read_end()
                if latest.restart_count > record.restart_count or latest.state == State.RESTARTING or not alive:
                    break
                time.sleep(_LOOK_SECONDS)
            if latest.state in (State.RUNNING, State.RESTARTING) and not alive:
                latest = lost(latest, boot_id())
                return _LOST_STATUS if latest.status is None else latest.status
            return latest.last_status or 0

        yield read


def remove_container(records: Records, record: ContainerRecord, *, force: bool) -> None:
    """``contain rm``. `Conflict` if it runs and ``force`` is not given."""
    _perform(decide_for(record, Event.REMOVE_FORCE if force else Event.REMOVE), records, record)
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


def come_back(records: Records, *, home: HostPath) -> Iterator[tuple[str, ContainError | None]]:
    """``contain system start``: start each container that is to run after the machine was started, oldest first; each name, with
    what its start raised."""
    records.sweep()
    for record in reversed(records.all()):
        if record.state in (State.RUNNING, State.RESTARTING) or not should_come_back(
            restart_policy_of(record.details), started=record.started_seconds is not None, stop_asked=record.stop_asked
        ):
            continue
        try:
            start_detached(records, record, home=home)
        except ContainError as error:
            yield record.name, error
        else:
            yield record.name, None
