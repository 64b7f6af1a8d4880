"""``contain run -t``, ``start -a`` and ``attach``: the caller's streams and signals joined to a container that another process
supervises, so that the caller can let go of it and come back. Decides nothing about the container itself.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence

from contain.container.lifecycle.ended import ExitState
from contain.container.lifecycle.records import ContainerRecord, Records
from contain.container.lifecycle.supervisor import handling_signals, supervise_apart
from contain.container.lifecycle.verbs import signal_container
from contain.container.terminal.attach import AttachEnd, attach, connect
from contain.container.terminal.attachments import open_pair
from contain.container.terminal.joined import Joined
from contain.container.terminal.terminal import window_size
from contain.errors import ContainError, NotFound
from contain.paths import HostPath
from contain.spec import ContainerSpec

_ASKED_IN_EARNEST = 3
_LOST_STATUS = 137


class _Hangup(SystemExit):
    """The caller's terminal has gone."""


@contextlib.contextmanager
def passing_signals(records: Records, container_id: str, *, wanted: bool, waiting: Sequence[int] = ()) -> Iterator[None]:
    """Signals of this process go to the container's first process; SIGHUP also ends the attachment. Who asks three times to end
    means it. ``waiting``: those that came already. Not ``wanted``: they do to this process what they do."""
    if not wanted:
        yield
        return
    asked = 0

    def forward(number: int, _: object) -> None:
        nonlocal asked
        asked += number in (signal.SIGINT, signal.SIGTERM)
        with contextlib.suppress(ContainError, OSError):
            signal_container(records.find(container_id), signal.SIGKILL if asked >= _ASKED_IN_EARNEST else number)
        if number == signal.SIGHUP:
            raise _Hangup(128 + number)

    with handling_signals(forward):
        for number in waiting:
            forward(number, None)
        yield


def run_on_terminal(
    spec: ContainerSpec, records: Records, record: ContainerRecord, held: int, home: HostPath, *, joined: Joined
) -> ExitState | None:
    """Start a container that is held, under a supervisor of its own, with the caller attached from its first byte on. Returns when
    it has ended, None when the caller let go of it."""
    stdin, stdout, stderr = joined.descriptors
    ours, theirs = open_pair()
    waiting: list[int] = []

    def note(number: int, _: object) -> None:
        waiting.append(number)

    with ours:
        with theirs, handling_signals(note) if joined.signals else contextlib.nullcontext():
            size = None if stdout is None else window_size(stdout)
            supervise_apart(spec, records, record, held, home.absolute(), first=theirs, window=size)
        with passing_signals(records, record.container_id, wanted=joined.signals, waiting=waiting):
            end = attach(ours, stdin=stdin, stdout=stdout, stderr=stderr, terminal=spec.terminal, keys=joined.keys)
    return _settle(records, record, end)


def attach_to(records: Records, record: ContainerRecord, *, joined: Joined) -> ExitState | None:
    """``contain attach``: until the container ends, or None when the caller let go of it."""
    stdin, stdout, stderr = joined.descriptors
    records.tell(record, "attach")
    if not record.details.get("interactive"):
        stdin = None
    with (
        connect(records.place(record.container_id)) as connection,
        passing_signals(records, record.container_id, wanted=joined.signals),
    ):
        end = attach(
            connection,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            terminal=bool(record.details.get("terminal")),
            keys=joined.keys,
            redraw=True,
        )
    if end.state is None:
        records.tell(record, "detach")
    return _settle(records, record, end)


def _settle(records: Records, record: ContainerRecord, end: AttachEnd) -> ExitState | None:
    """A connection that broke says nothing: then the record does. `ContainError` where the container goes on without the caller."""
    if end.state is not None or end.detached:
        return end.state
    try:
        latest = records.find(record.container_id)
    except NotFound:
        return ExitState(status=_LOST_STATUS)
    if latest.state == "running":
        raise ContainError(
            f"{record.name} prints faster than this reads: it goes on without you",
            code="attachment-lost",
            remedy=f"contain attach {record.name}, or contain logs -f {record.name}",
        )
    return ExitState(status=_LOST_STATUS if latest.status is None else latest.status, out_of_memory=latest.out_of_memory)
