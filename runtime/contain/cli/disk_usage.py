"""``contain system df``: what takes how much of the store. Reads only; rows are made by pure functions.

Sizes are of what the layers, volumes and upper directories hold, not of the blocks that a file system gives them. Words and columns:
docker/cli ``docs/reference/commandline/system_df.md``, ``cli/command/formatter/disk_usage.go``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence

from contain.annotations import TYPE_CHECKING, Any
from contain.cli.output import render_age, render_size, render_table
from contain.values import dataclass

if TYPE_CHECKING:
    from contain.container.files.volumes import VolumeRecord
    from contain.engine import Engine
    from contain.store import StoredImage
    from contain.store.collection import CacheUsage, Evictable

_HEADINGS = {"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE"}
_IMAGES = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "Size": "SIZE",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
    "Containers": "CONTAINERS",
}
_CONTAINERS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "LocalVolumes": "LOCAL VOLUMES",
    "Size": "SIZE",
    "RunningFor": "CREATED",
    "Status": "STATUS",
    "Names": "NAMES",
}
_VOLUMES = {"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"}
_CACHE = {
    "ID": "CACHE ID",
    "CacheType": "CACHE TYPE",
    "Size": "SIZE",
    "CreatedSince": "CREATED",
    "LastUsedSince": "LAST USED",
    "Shared": "SHARED",
}
_SHORT = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of thing. ``reclaimable_bytes``: of ``size_bytes``, what could be had back; ``is_shared``: Docker tells no part."""

    name: str
    total: int
    active: int
    size_bytes: int
    reclaimable_bytes: int
    is_shared: bool = False


def add_df_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-v", "--verbose", action="store_true", help="each image, container, volume and piece of build cache")
    parser.add_argument(
        "--format", metavar="TEMPLATE", help="json, table TEMPLATE, or a template such as '{{.Type}} {{.Size}}'"
    )


def kind_row(kind: Kind) -> dict[str, object]:
    """The fields of one row of the short table."""
    free = render_size(kind.reclaimable_bytes)
    if kind.size_bytes > 0 and not kind.is_shared:
        free += f" ({kind.reclaimable_bytes * 100 // kind.size_bytes}%)"
    return {
        "Active": str(kind.active),
        "Reclaimable": free,
        "Size": render_size(kind.size_bytes),
        "TotalCount": str(kind.total),
        "Type": kind.name,
    }


def image_usage(row: Mapping[str, object], size_bytes: int, shared_bytes: int, containers: int) -> dict[str, object]:
    """A row of ``contain images``, and what of its size other images share."""
    return {
        **row,
        "Containers": str(containers),
        "SharedSize": render_size(shared_bytes),
        "UniqueSize": render_size(size_bytes - shared_bytes),
        "VirtualSize": render_size(size_bytes),
    }


def cache_row(entry: Evictable, *, now: float, whole: bool) -> dict[str, object]:
    """A layer or a cache mount that only the build cache has. How often it was used, nobody counts."""
    identity = entry.name.rpartition("/")[2].removeprefix("sha256:")
    return {
        "CacheType": "exec.cachemount" if entry.is_mount else "regular",
        "CreatedAt": _time_text(entry.created_seconds),
        "CreatedSince": f"{render_age(now - entry.created_seconds)} ago",
        "Description": entry.description,
        "ID": identity if whole else identity[:_SHORT],
        "InUse": entry.in_use,
        "LastUsedAt": _time_text(entry.used_seconds),
        "LastUsedSince": f"{render_age(now - entry.used_seconds)} ago",
        "Shared": False,
        "Size": render_size(entry.size_bytes),
    }


def _time_text(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC")


def render_usage(usage: Mapping[str, Any], cache_bytes: int) -> str:
    """The long form: four tables."""
    return (
        f"Images space usage:\n\n{_table(_IMAGES, usage['Images'])}"
        f"\nContainers space usage:\n\n{_table(_CONTAINERS, usage['Containers'])}"
        f"\nLocal Volumes space usage:\n\n{_table(_VOLUMES, usage['Volumes'])}"
        f"\nBuild cache usage: {render_size(cache_bytes)}\n\n{_table(_CACHE, usage['BuildCache'])}"
    )


def _table(headings: Mapping[str, str], rows: Sequence[Mapping[str, object]]) -> str:
    def cell(value: object) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    return render_table([*headings.values()], [[cell(row[field]) for field in headings] for row in rows])


def df(options: argparse.Namespace) -> int:
    """Docker's table, or with ``-v`` its tables."""
    from contain.cli.templates import check_template, render_rows
    from contain.engine import Engine

    check_template(options.format)
    short = options.format in (None, "table")
    with Engine.open() as engine:
        measured = _measure(engine)
        rows = [measured.document(whole=not short)] if options.verbose else [kind_row(kind) for kind in measured.kinds()]
    if not short:
        sys.stdout.write(render_rows(options.format, rows, headings=_HEADINGS))
    elif options.verbose:
        sys.stdout.write(render_usage(rows[0], measured.cache.total_bytes))
    else:
        sys.stdout.write(_table(_HEADINGS, rows))
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """All that was found in the store. Sizes in bytes: ``written`` by container's id, ``held`` by volume's name, ``shared`` by image's
    digest."""

    images: Sequence[StoredImage]
    image_bytes: tuple[int, int]
    shared: Mapping[str, int]
    containers: Sequence[Any]  # `contain.cli.container_listing.Seen`
    written: Mapping[str, int]
    volumes: Sequence[VolumeRecord]
    held: Mapping[str, int]
    users: Mapping[str, Sequence[str]]
    cache: CacheUsage
    entries: Sequence[Evictable]

    def kinds(self) -> tuple[Kind, ...]:
        """The rows of the short table."""
        records = [each.record for each in self.containers]
        used = {record.image_digest for record in records}
        resting = {record.container_id for record in records if record.state in ("created", "exited", "dead")}
        return (
            Kind(
                name="Images",
                total=len(self.images),
                active=sum(image.digest in used for image in self.images),
                size_bytes=self.image_bytes[0],
                reclaimable_bytes=self.image_bytes[1],
            ),
            Kind(
                name="Containers",
                total=len(records),
                active=len(records) - len(resting),
                size_bytes=sum(self.written.values()),
                reclaimable_bytes=sum(size for each, size in self.written.items() if each in resting),
            ),
            Kind(
                name="Local Volumes",
                total=len(self.volumes),
                active=sum(bool(self.users.get(name)) for name in self.held),
                size_bytes=sum(self.held.values()),
                reclaimable_bytes=sum(size for name, size in self.held.items() if not self.users.get(name)),
            ),
            Kind(
                name="Build Cache",
                total=self.cache.layers + self.cache.mounts,
                active=self.cache.active,
                size_bytes=self.cache.total_bytes,
                reclaimable_bytes=self.cache.reclaimable_bytes,
                is_shared=True,
            ),
        )

    def document(self, *, whole: bool) -> dict[str, Any]:
        """The rows of the long form. ``whole``: ids with all their digits, as templates get them."""
        from contain.cli.container_listing import container_row
        from contain.cli.listing import image_row
        from contain.cli.volumes import volume_row
        from contain.reference import parse_reference

        now = time.time()
        users = [each.record.image_digest for each in self.containers]
        images = []
        for image in self.images:  # each once, by its first name
            row = image_row(image, parse_reference(image.names[0]) if image.names else None, now=now, whole=whole)
            shared = self.shared.get(image.digest, 0)
            images.append(image_usage(row, image.size_bytes, shared, users.count(image.digest)))
        containers = []
        for each in self.containers:
            row = container_row(each, now=now, whole=whole)
            containers.append({**row, "Size": render_size(self.written[each.record.container_id])})
        volumes = [
            {**volume_row(volume, len(self.users.get(volume.name, ()))), "Size": render_size(self.held[volume.name])}
            for volume in self.volumes
        ]
        cache = [cache_row(entry, now=now, whole=whole) for entry in self.entries]
        return {"Images": images, "Containers": containers, "Volumes": volumes, "BuildCache": cache}


def _measure(engine: Engine) -> _Measured:
    from contain.cli.container_listing import Seen
    from contain.cli.inspecting import tree_bytes
    from contain.cli.ports import network_names
    from contain.container.processes import is_paused
    from contain.container.request.mounts import volume_data

    records, volumes = engine.records.all(), engine.volumes.all()
    return _Measured(
        images=engine.store.images(),
        image_bytes=engine.store.image_bytes(keep={record.image_digest for record in records}),
        shared=engine.store.shared_bytes(),
        containers=[Seen(record=record, paused=is_paused(record), networks=network_names(record)) for record in records],
        written={record.container_id: tree_bytes(engine.records.place(record.container_id) / "upper") for record in records},
        volumes=volumes,
        held={volume.name: tree_bytes(volume_data(engine.home, volume.name)) for volume in volumes},
        users=engine.volume_users(),
        cache=engine.store.cache_usage(),
        entries=engine.store.cache_entries(),
    )
