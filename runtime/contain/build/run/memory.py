"""A scratch directory in memory: where RUN writes when its image stands on the machine's own root.

Overlayfs refuses an upper directory inside its lower one, and everything on the root's file system lies inside ``/``. The directory
is locked while it is used; those of processes that were killed are removed when the next one is made.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator

from contain.errors import NotSupported
from contain.paths import HostPath

PLACE = HostPath("/dev/shm")
_PREFIX = "contain-build."
_YOUNG_SECONDS = 60


@contextlib.contextmanager
def open_memory_directory(place: HostPath = PLACE) -> Iterator[HostPath]:
    """A fresh directory on another file system than ``/``, removed afterwards.

    Raises `NotSupported` (code ``host-base-needs-tmpfs``) where there is none.
    """
    if not place.is_dir() or place.stat().st_dev == os.stat("/").st_dev:
        raise NotSupported(
            f"RUN on the base 'host' needs a memory file system at {place}",
            code="host-base-needs-tmpfs",
            remedy="mount a tmpfs there, or begin FROM an image instead",
        )
    sweep(place)
    directory = HostPath(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        directory.chmod(0o755)  # it holds a container's root directory
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def sweep(place: HostPath, *, now_seconds: float | None = None) -> None:
    """Remove the directories whose owners are gone. One that was made a moment ago may not be locked yet, and is left."""
    now_seconds = time.time() if now_seconds is None else now_seconds
    for directory in place.glob(_PREFIX + "*"):
        with contextlib.suppress(OSError):
            found = directory.lstat()
            if found.st_uid != os.geteuid() or now_seconds - found.st_mtime < _YOUNG_SECONDS:
                continue
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(lock)
