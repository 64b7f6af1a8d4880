"""A process that stays when the command that made it has ended, and says whether what it was made for has started."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence

from contain.annotations import NoReturn
from contain.errors import ContainError


class StartFailed(ContainError):
    """What was to stay behind did not start: what it said, with its exit status."""

    code = "container-set-up"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.exit_status = status


def keep_only(*kept: int) -> None:
    """Let go of what the caller had open, and of its directory: somebody may wait for the end of a pipe, or want to unmount."""
    os.chdir("/")
    first = 3
    for descriptor in sorted(kept):
        os.closerange(first, descriptor)
        first = max(first, descriptor + 1)
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def leave_behind(work: Callable[[Callable[[], None]], None], *, kept: Sequence[int] = ()) -> None:
    """Do ``work`` in a process that belongs to nobody, with ``kept`` and the null device open; it calls what it is given once that is
    well under way, and then this returns. Raises `StartFailed` with what it raised before."""
    ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        _stay(work, ready_write, kept)
    os.close(ready_write)
    os.waitpid(child, 0)
    with os.fdopen(ready_read, "rb") as file:
        told = file.read()
    if told != b"started":
        failure: dict[str, str] = json.loads(told) if told else {"message": "the process that was to stay behind ended"}
        raise StartFailed(failure["message"], int(failure.get("status", 125)))


def _stay(work: Callable[[Callable[[], None]], None], ready: int, kept: Sequence[int]) -> NoReturn:
    try:
        keep_only(ready, *kept)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for number in range(3):
            os.dup2(null, number)

        def started() -> None:
            os.write(ready, b"started")
            os.close(ready)

        work(started)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(ready, json.dumps({"message": str(error), "status": getattr(error, "exit_status", 125)}).encode())
    finally:
        os._exit(0)
