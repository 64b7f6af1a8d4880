"""How large the build cache may become: ``[build] cache_limit`` of the configuration file; and keeping it so after a build."""

from __future__ import annotations

from collections.abc import Mapping

from contain.annotations import Any
from contain.configuration import read_tables
from contain.declared import parse_size_bytes
from contain.errors import ContainError, UsageError
from contain.progress import Progress
from contain.store import Store

DEFAULT_LIMIT_BYTES = 20 << 30
_KEYS = ("cache_limit",)


def parse_cache_limit(table: Mapping[str, Any]) -> int | None:
    """Bytes, or None for no limit (``"none"``). Raises `UsageError` (code ``bad-configuration``)."""
    for name in table:
        if name not in _KEYS:
            raise UsageError(
                f"unknown setting build.{name}", code="bad-configuration", remedy=f"known settings: {', '.join(_KEYS)}"
            )
    value = table.get("cache_limit", DEFAULT_LIMIT_BYTES)
    if value == "none":
        return None
    try:
        return parse_size_bytes(value, what="build.cache_limit")
    except UsageError as error:
        raise UsageError(error.message, code="bad-configuration", remedy='write "20GB", or "none"') from error


def keep_limit(store: Store, progress: Progress) -> None:
    """Evict what was used least recently, if the cache has outgrown its limit. Nearly free where it has not."""
    try:
        limit = parse_cache_limit(read_tables().get("build", {}))
    except ContainError as error:  # the build is done, and good
        progress.warn(f"the build cache is not kept small: {error.message}")
        return
    if limit is None:
        return
    from contain.store.cache_mounts import list_cache_mounts

    at_most = store.cache_bytes_at_most() + sum(mount.size_bytes for mount in list_cache_mounts(store))
    if at_most <= limit:
        return
    pruned = store.prune_cache(keep_bytes=limit)
    if pruned.freed_bytes:
        megabytes = pruned.freed_bytes / 1e6
        progress.note(f"the build cache was over its limit: {megabytes:.1f} MB of what was used least recently were removed")
