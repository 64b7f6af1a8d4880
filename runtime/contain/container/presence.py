"""Who is somewhere: notes of living processes in a directory, and a lock for those who look and then decide.

A process is noted as ``<process id>-<start time>``, so that a later one with the same number is not taken for it. The note alone proves
nothing: whoever reads it asks the kernel whether that process is where the note says. Notes of who is gone are removed by who looks.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from contain.errors import Conflict
from contain.linux.usernamespace import start_ticks
from contain.paths import HostPath

_PATIENCE_SECONDS = 20.0
_PAUSE_SECONDS = 0.005


def hold_lock(path: HostPath) -> int:
    """A descriptor that holds the lock of a file, which is made. Raises `Conflict` if somebody else does not let go of it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise Conflict(
                    f"somebody else holds {path}, and does not let go of it",
                    code="door-busy",
                    remedy="another contain command is stopped or stuck in it: end that one",
                ) from None
            time.sleep(_PAUSE_SECONDS)
        else:
            return descriptor


def present(notes: HostPath) -> Iterator[tuple[int, int]]:
    """The processes that are noted and alive, as (number, start time); other notes are removed. Nobody where there is no such
    directory."""
    try:
        names = sorted(os.listdir(notes))
    except FileNotFoundError:
        return
    for name in names:
        number, _, ticks = name.partition("-")
        if number.isdigit() and ticks.isdigit() and start_ticks(int(number)) == int(ticks):
            yield int(number), int(ticks)
        else:
            _remove(notes / name)


def forget(notes: HostPath, number: int, ticks: int) -> None:
    """Remove a note: that process is not where the note says."""
    _remove(notes / f"{number}-{ticks}")


def _remove(note: HostPath) -> None:
    with contextlib.suppress(OSError):
        os.unlink(note)


def note_myself(notes: HostPath) -> None:
    """Note the calling process."""
    process_id = os.getpid()
    ticks = start_ticks(process_id)
    if ticks is not None:
        Path(notes, f"{process_id}-{ticks}").touch(mode=0o600)
