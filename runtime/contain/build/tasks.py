"""Several stages at once in one thread: generators that say what they wait for, and the loop that carries them on.

A process with threads must not fork, and starting a container forks; so the stages of a build are generators. One that waits for a
container's output, for another stage or for a lock yields a `Wait`; the others go on meanwhile. What fails ends them all: each
generator is closed, so that what it had started is taken down.
"""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Generator
from typing import Generic, TypeVar  # noqa: TID251 - a generic class is one at run time, too

from contain.values import dataclass

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Readable:
    """Wait until the descriptor can be read without blocking, or its other end is closed."""

    descriptor: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds: for what cannot announce itself, such as another process's lock."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Finished:
    """Wait for the end of another job of the same loop."""

    job: Job[object]


Wait = Readable | Pause | Finished
Work = Generator[Wait, None, _T]
"""Work that may wait; its value is what it returns."""


class Job(Generic[_T]):
    """One generator in the loop. ``value`` is what it returned, once it is ``done``."""

    def __init__(self, work: Work[_T]) -> None:
        self.work = work
        self.done = False
        self._value: _T | None = None

    @property
    def value(self) -> _T:
        """Only after the end."""
        assert self.done
        return self._value  # type: ignore[return-value]

    def advance(self) -> Wait | None:
        """Go on until the next wait; None at the end."""
        try:
            return next(self.work)
        except StopIteration as stop:
            self._value = stop.value
            self.done = True
            return None


class Loop:
    """Carries jobs on, those first that were started first."""

    def __init__(self) -> None:
        self._ready: deque[Job[object]] = deque()
        self._reading: dict[int, Job[object]] = {}
        self._paused: list[tuple[float, Job[object]]] = []
        self._waiting: list[tuple[Job[object], Job[object]]] = []  # who waits, for whom

    def start(self, work: Work[_T]) -> Job[_T]:
        """Add a job; it begins when the loop comes to it."""
        job = Job(work)
        self._ready.append(job)  # type: ignore[arg-type]
        return job

    def run(self, target: Job[_T]) -> _T:
        """Carry everything on until ``target`` is done. The first error of any job ends all of them and is raised."""
        try:
            while not target.done:
                while not self._ready:
                    self._poll()
                self._advance(self._ready.popleft())
            return target.value
        finally:
            self._close()

    def _advance(self, job: Job[object]) -> None:
        try:
            wait = job.advance()
        except BaseException:
            job.done = True
            raise
        match wait:
            case None:
                self._ready.extend(waiting for waiting, awaited in self._waiting if awaited is job)
                self._waiting = [pair for pair in self._waiting if pair[1] is not job]
            case Readable(descriptor=descriptor):
                self._reading[descriptor] = job
            case Pause(seconds=seconds):
                self._paused.append((time.monotonic() + seconds, job))
            case Finished(job=awaited):
                if awaited.done:
                    self._ready.append(job)
                else:
                    self._waiting.append((job, awaited))

    def _poll(self) -> None:
        now = time.monotonic()
        timeout = min((when for when, _ in self._paused), default=None)
        if timeout is None and not self._reading:
            raise RuntimeError("every job waits for another one")
        poll = select.poll()
        for descriptor in self._reading:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(None if timeout is None else max(0.0, timeout - now) * 1000):
            self._ready.append(self._reading.pop(descriptor))
        now = time.monotonic()
        self._ready.extend(job for when, job in self._paused if when <= now)
        self._paused = [(when, job) for when, job in self._paused if when > now]

    def _close(self) -> None:
        unfinished = [
            *self._ready,
            *self._reading.values(),
            *(job for _, job in self._paused),
            *(job for job, _ in self._waiting),
        ]
        for job in unfinished:
            if not job.done:
                job.done = True
                job.work.close()
