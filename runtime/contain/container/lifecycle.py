"""``contain run``, ``start``, ``stop``, ``kill``, ``rm`` and the like: what a command does to a container on record.

Nothing here stays with a container: that is `contain.container.supervisor`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from contain.container.joined import Joined
from contain.container.plan import HOST_ROOT
from contain.container.records import ContainerRecord, Records, new_record, open_process
from contain.container.respecify import parse_spec
from contain.container.run import ExitState
from contain.container.supervisor import supervise_apart, supervise_here
from contain.container.workspaces import sweep
from contain.errors import Conflict, NotFound, NotSupported, UsageError
from contain.linux.freezer import probe_freezer, thaw
from contain.paths import HostPath
from contain.spec import ContainerSpec
from contain.values import replace

GRACE_SECONDS = 10.0


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
    record = new_record(spec, remove=remove)
    sweep(home)
    return _in_front(spec, records, record, records.create(record), home, joined)


def _in_front(
    spec: ContainerSpec, records: Records, record: ContainerRecord, held: int, home: HostPath, joined: Joined
) -> ExitState | None:
    """What has a terminal can be let go of, so its supervisor is another process; else this one is it, which is quicker."""
    if spec.terminal:
        from contain.container.foreground import run_on_terminal

        return run_on_terminal(spec, records, record, held, home, joined=joined)
    stdin, stdout, stderr = joined.descriptors
    return supervise_here(spec, records, record, held, home, stdin=stdin, stdout=stdout, stderr=stderr, signals=joined.signals)


def run_detached(spec: ContainerSpec, *, store_home: HostPath, home: HostPath, remove: bool) -> str:
    """``contain run -d``: the container's id once its program has started; a supervisor process stays with it.

    Raises what the start raised.
    """
    home = home.absolute()
    sweep(home)
    records = Records(store_home.absolute())
    record = new_record(spec, remove=remove)
    return supervise_apart(spec, records, record, records.create(record), home)


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
    records: Records, record: ContainerRecord, *, home: HostPath, grace_seconds: float, number: int | None
) -> None:
    """``contain restart``: stop it if it runs, and start it."""
    if record.remove:
        raise NotSupported(
            f"{record.name} was made with --rm and goes with its end: it cannot be restarted", code="restart-with-rm"
        )
    stop_container(records, record, grace_seconds=grace_seconds, number=number)
    start_detached(records, records.find(record.container_id), home=home)


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
