"""One thread that waits for many things: a function to call for each descriptor, and timers (epoll(7)). Decides nothing.

Functions are called one at a time and must not block. A loop is itself a descriptor that another one can wait for: that is how what a
supervisor has to do stands beside the copying of its container's output.
"""

from __future__ import annotations

import heapq
import itertools
import select
import time
from collections.abc import Callable

_LONGEST_SECONDS = 3600.0


class Loop:
    """Descriptors and timers; each `turn` waits for the next thing that happens. A context manager."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int]] = []
        self._functions: dict[int, Callable[[], None]] = {}  # of the timers that are neither over nor cancelled
        self._numbers = itertools.count()

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *_: object) -> None:
        self._poll.close()

    def fileno(self) -> int:
        """Readable when a descriptor that is watched is; a timer does not make it so."""
        return self._poll.fileno()

    def watch(self, descriptor: int, ready: Callable[[], None], *, writing: bool = False) -> None:
        """Call ``ready`` whenever the descriptor can be read (``writing``: written), or its other side is closed."""
        self._callbacks[descriptor] = ready
        self._poll.register(descriptor, select.EPOLLOUT if writing else select.EPOLLIN)

    def forget(self, descriptor: int) -> None:
        """Watch it no more; nothing if nobody did. To be called before it is closed."""
        if self._callbacks.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def call_after(self, seconds: float, function: Callable[[], None]) -> int:
        """Call a function once, so many seconds from now; a number for `cancel`."""
        number = next(self._numbers)
        heapq.heappush(self._timers, (time.monotonic() + seconds, number))
        self._functions[number] = function
        return number

    def cancel(self, number: int) -> None:
        """Do not call that function any more; nothing if it was called."""
        self._functions.pop(number, None)

    def seconds_left(self) -> float | None:
        """Until the next timer; None without one."""
        while self._timers and self._timers[0][1] not in self._functions:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def turn(self, longest_seconds: float | None = None) -> None:
        """Wait for the next thing, at most so long, and call what waits for it. 0: only what is there already."""
        wait = self.seconds_left()
        if longest_seconds is not None:
            wait = longest_seconds if wait is None else min(wait, longest_seconds)
        for descriptor, _ in self._poll.poll(None if wait is None else min(wait, _LONGEST_SECONDS)):
            ready = self._callbacks.get(descriptor)
            if ready is not None:  # one that was called just now may have let go of it
                ready()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            function = self._functions.pop(heapq.heappop(self._timers)[1], None)
            if function is not None:
                function()
