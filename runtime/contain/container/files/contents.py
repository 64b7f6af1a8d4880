"""What a container's root holds: what differs from its image, all of it as an archive, and as a layer of a new image.

Reads the layers and the directory that receives what is written, merged as overlay merges them; nothing is mounted and no name is
resolved from outside of a root. What lies in mounts (/proc, volumes, host paths) is not the container's own, as with Docker.

Source: docker/cli ``docs/reference/commandline/container_{diff,export,commit}.md``, moby ``pkg/archive/changes.go``.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from contain.container.lifecycle.records import ContainerRecord, Records
from contain.container.plan import stub_paths
from contain.container.workspaces import hold_directory, workspaces
from contain.errors import NotSupported
from contain.oci import ImageConfig
from contain.oci.image import History
from contain.paths import HostPath
from contain.store import Store
from contain.store.extract import extract_tree
from contain.store.marks import OPAQUE_XATTR, is_opaque, is_whiteout
from contain.store.ownership import Ownership
from contain.store.root_archive import root_archive
from contain.store.rooted import DirectoryCache, Root
from contain.store.rootview import Entry, Kind, RootView
from contain.store.tar_reader import TarLimits
from contain.store.tree import canonical_tar, iterate_tree
from contain.values import dataclass, replace

_OWN_VARIABLES = ("HOSTNAME", "HOME", "TERM")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trees:
    """The layer trees of a container's image, lowest first, and the directory that receives what it writes. ``copied``: that one is a
    copy of them all. ``stubs``: the mount points in it that are no part of the image; ``aside``: where to work with it meanwhile."""

    layers: tuple[HostPath, ...]
    upper: HostPath
    copied: bool = False
    stubs: tuple[tuple[str, bool], ...] = ()
    aside: HostPath | None = None

    @contextlib.contextmanager
    def open_changes(self) -> Iterator[HostPath]:
        """The upper directory, which does not exist before the first start: the container's own, or one that is made of what differs in
        its copy."""
        if not self.copied or self.aside is None or not self.upper.is_dir():
            yield self.upper
            return
        from contain.store.root_copy import extract_changes

        with hold_directory(workspaces(self.aside) / f"changes-{os.urandom(8).hex()}") as work:
            extract_changes(self.upper, self.layers, work / "upper", stubs=self.stubs, move=False)
            yield work / "upper"


def trees_of(records: Records, record: ContainerRecord) -> Trees:
    """Raises `NotSupported` for a container on this machine's root, which keeps what it writes where nobody else sees it."""
    layers = tuple(Path(layer) for layer in record.details["layers"])
    if Path("/") in layers:
        raise NotSupported(
            f"{record.name} stands on this machine's root: what it writes is in its own memory only", code="container-on-host"
        )
    upper = records.place(record.container_id) / "upper"
    if not record.details.get("copied"):
        return Trees(layers=layers, upper=upper)
    from contain.container.lifecycle.respecify import parse_spec

    stubs = stub_paths(parse_spec(record.details))
    return Trees(layers=layers, upper=upper, copied=True, stubs=stubs, aside=records.directory.parent / "run")


def measure_written(records: Records, record: ContainerRecord, measure: Callable[[HostPath], int]) -> int:
    """What the container wrote, measured by the given function of its upper directory; 0 for one on this machine's root."""
    try:
        trees = trees_of(records, record)
    except NotSupported:
        return 0
    with trees.open_changes() as upper:
        return measure(upper)


def read_changes(trees: Trees) -> list[tuple[str, bytes]]:
    """(``A`` added, ``C`` changed or ``D`` deleted, absolute path), sorted by path.

    A directory has changed if it differs in mode, owner or time, or if anything below it has.
    """
    with trees.open_changes() as upper:
        return _read_changes(upper, trees.layers) if upper.is_dir() else []


def _read_changes(written: HostPath, layers: Sequence[HostPath]) -> list[tuple[str, bytes]]:
    found: dict[bytes, str] = {}
    new: set[bytes] = set()  # directories with nothing of the image below
    with Root(written) as upper, RootView(layers) as lower:
        for node in iterate_tree(upper):
            parent = node.path.rpartition(b"/")[0]
            below = None if parent in new else lower.lookup(os.fsdecode(b"/" + node.path), follow=False)
            if is_whiteout(node.found):
                kind = "D" if below is not None else ""
            elif below is None:
                kind = "A"
            else:
                kind = "C" if _differs(below, node.found) else ""
            if stat.S_ISDIR(node.found.st_mode) and (below is None or below.kind is not Kind.DIRECTORY):
                new.add(node.path)
            elif stat.S_ISDIR(node.found.st_mode) and _hides(node.parent, node.name):
                for name in lower.listdir(os.fsdecode(b"/" + node.path)):
                    found.setdefault(node.path + b"/" + os.fsencode(name), "D")
                new.add(node.path)
            if kind:
                found[node.path] = kind
    for path in tuple(found):
        while path := path.rpartition(b"/")[0]:
            found.setdefault(path, "C")
    return [(kind, b"/" + path) for path, kind in sorted(found.items(), key=lambda item: item[0].split(b"/"))]


def _hides(parent: int, name: bytes) -> bool:
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        return is_opaque(descriptor)
    finally:
        os.close(descriptor)


def _differs(below: Entry, found: os.stat_result) -> bool:
    """What overlay copied up without a change of it is no change."""
    before = below.host_stat
    if not stat.S_ISDIR(found.st_mode):
        return True
    return (before.st_mode, before.st_uid, before.st_gid, before.st_mtime_ns) != (
        found.st_mode,
        found.st_uid,
        found.st_gid,
        found.st_mtime_ns,
    )


def export_pieces(trees: Trees) -> Iterator[bytes]:
    """The whole root as a tar archive."""
    with trees.open_changes() as upper, RootView((*trees.layers, *((upper,) if upper.is_dir() else ()))) as view:
        yield from root_archive(view)


class _Pieces:
    """Pieces as ``read(n)``."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size and (data := next(self._pieces, b"")):
            self._rest += data
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def copy_upper(upper: HostPath, target: HostPath) -> None:
    """A copy of an upper directory, overlay's marks included, as `Store.commit_layer` takes it."""
    target.mkdir()
    if not upper.is_dir():
        return
    with Root(upper) as source, Root(target) as made:
        pieces = canonical_tar(source, root_entry=True, ownership=Ownership())
        extract_tree(_Pieces(pieces).read, target, limits=TarLimits(), ownership=Ownership())
        directories = DirectoryCache(made, follow=False)
        try:
            for node in iterate_tree(source):
                if stat.S_ISDIR(node.found.st_mode) and _hides(node.parent, node.name):
                    os.setxattr(directories.get(node.path), OPAQUE_XATTR, b"y")
        finally:
            directories.forget()


def plan_commit(config: ImageConfig, record: ContainerRecord) -> ImageConfig:
    """The image's config with what the container was given: program, variables, directory, labels."""
    details = record.details
    given = tuple(record.arguments)
    entrypoint, command = config.entrypoint, given
    if entrypoint and given[: len(entrypoint)] == entrypoint:
        command = given[len(entrypoint) :]
    elif entrypoint:
        entrypoint = None
    known = dict(config.environment)
    environment = tuple(
        (name, value)
        for name, value in (tuple(pair) for pair in details["environment"])
        if name in known or name not in _OWN_VARIABLES
    )
    return replace(
        config,
        entrypoint=entrypoint,
        command=command,
        environment=environment,
        working_directory=details["working_directory"],
        labels=dict(tuple(pair) for pair in details["labels"]),
    )


def commit_layer(store: Store, trees: Trees, epoch_seconds: int) -> tuple[str, int] | None:
    """What the container wrote as a layer of the store, (diff_id, size in bytes); None if nothing."""
    with store.scratch("commit") as work:
        copy = work / "upper"
        with trees.open_changes() as upper:
            copy_upper(upper, copy)
        committed = store.commit_layer(copy, lower=trees.layers, epoch_seconds=epoch_seconds)
    return None if committed is None else (committed.diff_id, committed.size_bytes)


@contextlib.contextmanager
def held_still(record: ContainerRecord, *, wanted: bool) -> Iterator[None]:
    """The container is paused meanwhile, if it runs, nobody else paused it, and that is wanted."""
    from contain.container.processes import is_paused, pause, unpause

    if not wanted or record.state != "running" or is_paused(record):
        yield
        return
    from contain.linux.freezer import probe_freezer

    if probe_freezer() is None:
        sys.stderr.write(
            "warning: the container goes on meanwhile: no control group is delegated to this user (docs/rootless.md)\n"
        )
        yield
        return
    pause(record)
    try:
        yield
    finally:
        unpause(record)


def history_of(created: str, *, record: ContainerRecord, comment: str, author: str, empty: bool) -> History:
    """The row of ``contain history`` for a commit."""
    return History(created=created, created_by=" ".join(record.arguments), comment=comment, author=author, empty_layer=empty)
