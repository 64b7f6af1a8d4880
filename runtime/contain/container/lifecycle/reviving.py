"""The process beside a container that answers names and carries ports (`contain.container.network.attendant`), started again by the
container's supervisor when it has ended before the container, however that came about.

Decided by `next_revival`: at once-ish first, then after ever longer waits, and not for ever: what ends again and again has a cause
that a new start does not take away. Until it serves again, names are not resolved; connections that it carried are lost.
"""

from __future__ import annotations

import sys
import time

from contain.annotations import TYPE_CHECKING
from contain.container.lifecycle.restarts import next_delay
from contain.errors import ContainError

if TYPE_CHECKING:
    from contain.container.lifecycle.loop import Loop
    from contain.container.network.attendant import Attendant

MOST_IN_A_ROW = 10
_LASTED_SECONDS = 60.0


def next_revival(in_a_row: int, previous_seconds: float, *, lasted_seconds: float) -> tuple[int, float] | None:
    """Which new start in a row the next one is, and how many seconds to wait before it; None: no more. ``in_a_row``,
    ``previous_seconds``: of the one before; ``lasted_seconds``: how long it served. Pure."""
    if lasted_seconds >= _LASTED_SECONDS:
        in_a_row, previous_seconds = 0, 0.0
    if in_a_row >= MOST_IN_A_ROW:
        return None
    return in_a_row + 1, next_delay(previous_seconds, lasted_seconds=0.0)


class Reviver:
    """Watches an attendant while the container runs. A context manager around its life."""

    def __init__(self, loop: Loop, attendant: Attendant, name: str) -> None:
        self._loop, self._attendant, self._name = loop, attendant, name
        self._in_a_row, self._delay_seconds, self._began = 0, 0.0, time.monotonic()
        self._watched = self._timer = -1

    def __enter__(self) -> Reviver:
        self._watch()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.cancel(self._timer)
        self._forget()

    def _watch(self) -> None:
        self._began = time.monotonic()
        if self._attendant.descriptor >= 0:
            self._watched = self._attendant.descriptor
            self._loop.watch(self._watched, self._gone)

    def _forget(self) -> None:
        if self._watched >= 0:
            self._loop.forget(self._watched)
            self._watched = -1

    def _gone(self) -> None:
        self._forget()
        self._attendant.close()
        self._schedule(lasted_seconds=time.monotonic() - self._began)

    def _schedule(self, *, lasted_seconds: float) -> None:
        following = next_revival(self._in_a_row, self._delay_seconds, lasted_seconds=lasted_seconds)
        if following is None:
            sys.stderr.write(
                f"warning: the process that answers names for container {self._name} has ended {MOST_IN_A_ROW} times in a row: it is "
                "not started again\n"
            )
            return
        self._in_a_row, self._delay_seconds = following
        self._timer = self._loop.call_after(self._delay_seconds, self._revive)

    def _revive(self) -> None:
        try:
            self._attendant.revive()
        except (ContainError, OSError):
            self._schedule(lasted_seconds=0.0)
        else:
            self._watch()
