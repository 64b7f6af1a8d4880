"""How a command wakes a container's supervisor: a byte into a named pipe in the record's directory (fifo(7)).

It says nothing but "look": what is wanted stands in the record, and a supervisor that is woken reads it. Without a supervisor nobody is
woken, and nothing waits.
"""

from __future__ import annotations

import contextlib
import os

from contain.paths import HostPath

_NAME = "wake"


def open_wake(place: HostPath) -> int:
    """The supervisor's side: readable when somebody called. Also what signal handlers write to (`signal.set_wakeup_fd`)."""
    path = place / _NAME
    with contextlib.suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    # Both sides are ours, so that it never is at its end.
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)


def drain(descriptor: int) -> None:
    """Take what was written."""
    with contextlib.suppress(BlockingIOError):
        while len(os.read(descriptor, 4096)) == 4096:
            pass


def wake(place: HostPath) -> None:
    """The command's side. Nothing where nobody listens."""
    try:
        descriptor = os.open(place / _NAME, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        with contextlib.suppress(OSError):
            os.write(descriptor, b"!")
    finally:
        os.close(descriptor)
