"""Decides which known name a misspelt one most likely means. Never guesses when nothing is near."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_CUTOFF = 0.6
"""difflib's own default: two names with this similarity look alike to a reader."""


def suggest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that ``name`` most likely means, as it was given, or None. Upper and lower case count as equal."""
    by_folded: dict[str, str] = {}
    for candidate in candidates:
        by_folded.setdefault(candidate.casefold(), candidate)
    # difflib's cost grows with the product of the lengths; no name that anybody meant is longer than this.
    close = get_close_matches(name.casefold()[:200], list(by_folded), n=1, cutoff=_CUTOFF)
    return by_folded[close[0]] if close else None
