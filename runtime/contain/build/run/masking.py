"""Keeps the values of secrets out of what a step prints: each is replaced by ``****``. Pure.

A line of a secret counts as a secret, too: what a key file holds is often printed line by line. Values of fewer than four characters
are left: they occur everywhere. This saves from accidents; a command that wants to tell a secret can spell it otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable

MASK = "****"
_SHORTEST = 4
_SHORTEST_LINE = 8


def texts_to_mask(secrets: Iterable[bytes]) -> tuple[str, ...]:
    """What to look for, the longest first."""
    found: set[str] = set()
    for secret in secrets:
        text = secret.decode("utf-8", "replace").strip()
        if len(text) >= _SHORTEST:
            found.add(text)
        found.update(line for each in text.splitlines() if len(line := each.strip()) >= _SHORTEST_LINE)
    return tuple(sorted(found, key=lambda text: (-len(text), text)))


class Mask:
    """Text comes in pieces; what may be the beginning of a secret waits for the next piece."""

    def __init__(self, secrets: Iterable[bytes] = ()) -> None:
        self._texts = texts_to_mask(secrets)
        self._waiting = ""

    def feed(self, text: str, *, final: bool = False) -> str:
        """The text that can be shown now."""
        if not self._texts:
            return text
        text = self._waiting + text
        self._waiting = ""
        for secret in self._texts:
            text = text.replace(secret, MASK)
        if final:
            return text
        kept = max((_overlap(text, secret) for secret in self._texts), default=0)
        if kept:
            text, self._waiting = text[:-kept], text[-kept:]
        return text


def _overlap(text: str, secret: str) -> int:
    """How many of the last characters of ``text`` are a beginning of ``secret``."""
    for count in range(min(len(text), len(secret) - 1), 0, -1):
        if text.endswith(secret[:count]):
            return count
    return 0
