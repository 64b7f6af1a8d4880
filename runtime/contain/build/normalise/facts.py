"""What a rewriter may know of a file beside its bytes. Values only."""

from __future__ import annotations

from collections.abc import Callable

from contain.values import dataclass

_LARGEST_OFFSET = 14 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFacts:
    """The step that made the files. Times are seconds since 1970.

    ``identity``: what the step stands on, the same on every machine. ``text``: everything that the author wrote for this step:
    a random-looking value that stands there is not random. A time is noise only if it lies between ``started_seconds`` and
    ``ended_seconds``: all others were chosen by somebody.
    """

    epoch_seconds: int
    started_seconds: int
    ended_seconds: int
    identity: str
    text: str = ""

    def is_now(self, seconds: int) -> bool:
        """Whether a time is that of the step itself, and newer than what times are clamped to."""
        return self.started_seconds <= seconds <= self.ended_seconds and seconds > self.epoch_seconds

    def is_now_somewhere(self, seconds: int) -> bool:
        """The same for a time that was written as that of an unknown time zone."""
        return self.started_seconds - _LARGEST_OFFSET <= seconds <= self.ended_seconds + _LARGEST_OFFSET


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file that another one was made from: its time now, and its time in the finished layer, whole seconds; its size."""

    mtime_seconds: int
    final_mtime_seconds: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """One file. ``previous``: the lower layers' content of the same path, if there is such a file. ``find_source``: another file
    by its path from the root, as the step left it.
    """

    path: str
    step: StepFacts
    previous: Callable[[], bytes | None]
    find_source: Callable[[str], Source | None]
