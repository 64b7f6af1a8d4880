"""Progress is a delegate: whoever works tells it what happens; the command line, pytest and tests render it as they like.

Never prints by itself, except through an implementation that the caller chose.
"""

from __future__ import annotations

from contain.annotations import Protocol


class Progress(Protocol):
    """What long work reports. All methods return at once and never raise."""

    def step(self, title: str) -> None:
        """A new step begins, for example ``[2/5] RUN apt-get update``."""

    def log(self, text: str) -> None:
        """A piece of the running step's own output, as it came (may hold several lines or part of one)."""

    def note(self, text: str) -> None:
        """One line for the reader: where a base came from, a cache hit."""

    def warn(self, text: str) -> None:
        """Something that may surprise the reader later."""

    def amount(self, label: str, done: int, total: int | None) -> None:
        """``done`` of ``total`` bytes of the thing called ``label``; ``total`` is None when unknown. Called often."""


class Silent:
    """Reports nothing."""

    def step(self, title: str) -> None:
        """Nothing."""

    def log(self, text: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""

    def amount(self, label: str, done: int, total: int | None) -> None:
        """Nothing."""
