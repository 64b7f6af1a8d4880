"""What a build is told about its cache: which steps may be taken from it, for how long, and where else caches are. Values only."""

from __future__ import annotations

from contain.build.cache.places import CachePlace
from contain.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """``explain``: say of each step why it was or was not taken from the cache. ``only_explain``: and do nothing else.

    ``refused_stages``: ``--no-cache-filter``. ``lifetime_seconds``: older records do not count; None: no limit. ``refresh_bases``:
    ``--pull``. ``sources`` and ``destinations``: ``--cache-from`` and ``--cache-to``.
    """

    explain: bool = False
    only_explain: bool = False
    refused_stages: tuple[str, ...] = ()
    lifetime_seconds: float | None = None
    refresh_bases: bool = False
    sources: tuple[CachePlace, ...] = ()
    destinations: tuple[CachePlace, ...] = ()
