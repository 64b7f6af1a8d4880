"""The build cache's size: what of it nothing else needs, and removing the least recently used of that.

To the cache alone belong the layers of recorded steps that are in no image, and the directories of cache mounts. What an image
holds, or a living process has a lease on (a running build on every layer that it came across), is never removed: so a build goes on
while another process evicts. Decided by `plan_eviction`, which is pure; done by `Collector` under the store's collection barrier.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from contain.annotations import TYPE_CHECKING
from contain.store.database import Database
from contain.store.images import Images
from contain.store.layers import Layers
from contain.store.layout import Layout
from contain.values import dataclass

if TYPE_CHECKING:
    from contain.store.cache_mounts import CacheMount
    from contain.store.store import Store

_BLOB_GRACE_SECONDS = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Evictable:
    """A layer (``name`` is its diff_id) or a cache mount (its directory) that takes space for the cache alone.

    ``superseded``: at every place where it was made, something newer was made since. ``description``: a
    cache mount's id.
    """

    name: str
    size_bytes: int
    used_seconds: float
    in_use: bool = False
    superseded: bool = False
    is_mount: bool = False
    created_seconds: float = 0
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUsage:
    """``total_bytes``: what the cache alone needs; ``reclaimable_bytes``: of that, what nobody is using now."""

    steps: int
    layers: int
    mounts: int
    total_bytes: int
    reclaimable_bytes: int
    active: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePruned:
    """What was removed."""

    layers: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    steps: int = 0
    freed_bytes: int = 0


def plan_eviction(
    things: Iterable[Evictable], *, keep_bytes: int, used_before: float, only_superseded: bool = False
) -> tuple[Evictable, ...]:
    """What is to go, the least recently used first, until the rest takes at most ``keep_bytes``.

    Never what is in use, or was used at ``used_before`` (seconds since 1970) or later. Pure.
    """
    ordered = sorted(things, key=lambda each: (each.used_seconds, each.name))
    total = sum(each.size_bytes for each in ordered)
    going = []
    for each in ordered:
        if total <= keep_bytes:
            break
        if each.in_use or each.used_seconds >= used_before or (only_superseded and not each.superseded):
            continue
        going.append(each)
        total -= each.size_bytes
    return tuple(going)


class Collector:
    """The cache of one store."""

    def __init__(self, layout: Layout, database: Database, layers: Layers, images: Images) -> None:
        self._layout, self._database, self._layers, self._images = layout, database, layers, images

    def upper_bound_bytes(self) -> int:
        """At least what the cache's layers take: one query, for "is there anything to do"."""
        rows = self._database.rows(
            "SELECT COALESCE(SUM(size_bytes), 0) FROM (SELECT DISTINCT diff_id, size_bytes FROM steps WHERE diff_id IS NOT NULL)"
        )
        return int(str(rows[0][0]))

    def entries(self, mounts: Sequence[CacheMount]) -> tuple[Evictable, ...]:
        """Everything that takes space for the cache alone, the last used first."""
        things = self._things(self._layout.leased()) + [_of_mount(mount) for mount in mounts]
        return tuple(sorted(things, key=lambda each: (-each.used_seconds, each.name)))

    def usage(self, mounts: Sequence[CacheMount]) -> CacheUsage:
        """What there is."""
        things = self._things(self._layout.leased()) + [_of_mount(mount) for mount in mounts]
        steps = int(str(self._database.rows("SELECT COUNT(*) FROM steps")[0][0]))
        return CacheUsage(
            steps=steps,
            layers=len(things) - len(mounts),
            mounts=len(mounts),
            total_bytes=sum(each.size_bytes for each in things),
            reclaimable_bytes=sum(each.size_bytes for each in things if not each.in_use),
            active=sum(each.in_use for each in things),
        )

    def _things(self, leased: set[str]) -> list[Evictable]:
        """The layers that only the cache has, with what is known of their use."""
        in_images = self._images.reachable_layers(leased)
        newest: dict[str, int] = {}
        rows = []
        for diff_id, position, used, size, created in self._database.rows(
            "SELECT diff_id, position, used_seconds, size_bytes, created_seconds FROM steps ORDER BY used_seconds"
        ):
            newest[str(position)] = int(str(used))
            if diff_id is not None:
                rows.append((str(diff_id), str(position), int(str(used)), int(str(size)), int(str(created))))
        found: dict[str, Evictable] = {}
        for diff_id, position, used, size, created in rows:
            if diff_id in in_images or not self._layers.path(diff_id).is_dir():
                continue
            before = found.get(diff_id)
            found[diff_id] = Evictable(
                name=diff_id,
                size_bytes=size,
                used_seconds=used,
                in_use=diff_id in leased,
                superseded=newest[position] > used and (before is None or before.superseded),
                created_seconds=created if before is None else min(created, before.created_seconds),
            )
        return list(found.values())

    def prune(
        self,
        mounts: Sequence[CacheMount],
        *,
        keep_bytes: int,
        unused_for_seconds: float,
        only_superseded: bool,
        forget: bool,
        remove_mounts: Callable[[int], tuple[tuple[str, ...], int]],
    ) -> CachePruned:
        """See `contain.store.Store.prune_cache`. ``remove_mounts`` is given how many bytes of mounts may stay."""
        used_before = time.time() - unused_for_seconds
        if unused_for_seconds <= 0:
            used_before = float("inf")  # whatever the clock says
        with self._layout.collection_barrier(collecting=True):
            leased = self._layout.leased()
            things = self._things(leased) + [_of_mount(mount) for mount in mounts]
            going = plan_eviction(things, keep_bytes=keep_bytes, used_before=used_before, only_superseded=only_superseded)
            layers = {each.name for each in going if not each.is_mount}
            with self._database.transaction() as database:
                rows = 0
                for diff_id in sorted(layers):
                    rows += database.execute("DELETE FROM steps WHERE diff_id = ?", (diff_id,)).rowcount
                if forget:
                    rows += self._forget_steps(
                        database.execute, used_before, {each.name for each in things if each not in going}
                    )
                    for table in ("file_digests", "directory_digests", "listings"):
                        database.execute(f"DELETE FROM {table} WHERE used_seconds < ?", (min(used_before, 1 << 60),))  # noqa: S608
                rows += self._forget_lost(database.execute)
            report = self._images.delete_layers(layers, blob_grace_seconds=_BLOB_GRACE_SECONDS)
        mounts_going = [each for each in going if each.is_mount]
        removed: tuple[str, ...] = ()
        freed = 0
        if mounts_going:
            removed, freed = remove_mounts(sum(m.size_bytes for m in mounts) - sum(m.size_bytes for m in mounts_going))
        return CachePruned(layers=report.layers, mounts=removed, steps=rows, freed_bytes=report.freed_bytes + freed)

    def _forget_steps(self, execute: Callable[..., object], used_before: float, staying: set[str]) -> int:
        """The records of old steps, except those of layers that stay for the cache alone: without one nobody would remove them."""
        forgotten = 0
        for key, diff_id, used in self._database.rows("SELECT key, diff_id, used_seconds FROM steps"):
            if int(str(used)) < used_before and diff_id not in staying:
                execute("DELETE FROM steps WHERE key = ?", (key,))
                forgotten += 1
        return forgotten

    def _forget_lost(self, execute: Callable[..., object]) -> int:
        """Rows whose layer was removed by other means are of no use."""
        lost = 0
        for (diff_id,) in self._database.rows("SELECT DISTINCT diff_id FROM steps WHERE diff_id IS NOT NULL"):
            if not self._layers.path(str(diff_id)).is_dir():
                execute("DELETE FROM steps WHERE diff_id = ?", (diff_id,))
                lost += 1
        return lost


def _of_mount(mount: CacheMount) -> Evictable:
    return Evictable(
        name=str(mount.directory),
        size_bytes=mount.size_bytes,
        used_seconds=mount.used_seconds,
        in_use=mount.in_use,
        is_mount=True,
        created_seconds=mount.created_seconds,
        description=mount.id,
    )


def prune_cache(
    store: Store,
    collector: Collector,
    *,
    keep_bytes: int,
    unused_for_seconds: float,
    only_superseded: bool,
    forget: bool,
) -> CachePruned:
    """`Collector.prune` with the store's cache mounts."""
    from contain.store.cache_mounts import list_cache_mounts, prune_cache_mounts

    def remove_mounts(stay_bytes: int) -> tuple[tuple[str, ...], int]:
        found = prune_cache_mounts(store, keep_bytes=max(0, stay_bytes), unused_for_seconds=unused_for_seconds)
        return tuple(mount.id for mount in found.removed), found.freed_bytes

    return collector.prune(
        list_cache_mounts(store),
        keep_bytes=keep_bytes,
        unused_for_seconds=unused_for_seconds,
        only_superseded=only_superseded,
        forget=forget,
        remove_mounts=remove_mounts,
    )
