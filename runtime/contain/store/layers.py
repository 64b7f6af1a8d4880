"""Extracted layers: ``layers/<hex of diff_id>/tree`` is usable as an overlay lower directory, ``layer.json`` beside it says
how to make its archive again.

A layer appears by one rename of a finished directory. Two processes that make the same layer do no harm: the second one's work
is thrown away.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from contain.annotations import TYPE_CHECKING, BinaryIO, Protocol
from contain.errors import IntegrityError
from contain.oci import canonical_json
from contain.paths import HostPath
from contain.progress import Progress
from contain.store.durable import explained, fsync_directory, fsync_file, remove_tree, sync_file_system, syncing_file_system
from contain.store.layout import Layout
from contain.store.lookup import is_there, layer_tree
from contain.store.rooted import Root
from contain.store.rootview import RootView
from contain.store.tree import canonical_tar
from contain.values import dataclass

if TYPE_CHECKING:
    from contain.store.compression import Decompressed
    from contain.store.extract import Extracted
    from contain.store.tar_reader import TarLimits

# What makes layers (`commit`, `compression`, `extract`) is imported where it is used: most commands only read.

_REPORT_BYTES = 4 << 20
_HEAD_BYTES = 4096
_SYNCED_EARLY_BYTES = 2 << 20  # less is on the disk as soon as it is read


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedLayer:
    """A layer made here: its digest, and the size of its (uncompressed) archive."""

    diff_id: str
    size_bytes: int


class Publish(Protocol):
    """Makes a finished directory a layer. ``synced``: its tree is on the disk already."""

    def __call__(
        self, diff_id: str, size_bytes: int, canonical: bool, root_entry: bool, stand_ins: bool, synced: bool = False, /
    ) -> None:
        """Do it."""


class Layers:
    """The directory ``layers``."""

    def __init__(self, layout: Layout, limits: TarLimits | None) -> None:
        self._layout, self._limits = layout, limits

    def path(self, diff_id: str) -> HostPath:
        """Where a layer's directory is, or would be."""
        return self._layout.layer(diff_id)

    def has(self, diff_id: str) -> bool:
        """Whether it is here. Asking counts as use: it will not be pruned within the next hour."""
        return is_there(self.path(diff_id) / "layer.json")

    def tree(self, diff_id: str) -> HostPath:
        """Its tree. Raises `NotFound`."""
        return layer_tree(self._layout, diff_id)

    def record(self, diff_id: str) -> dict[str, object]:
        """What ``layer.json`` says: diff_id, size_bytes, canonical, root_entry, and stand_ins where there are some."""
        self.tree(diff_id)
        return dict(json.loads((self.path(diff_id) / "layer.json").read_bytes()))

    @contextmanager
    def _new(self) -> Iterator[tuple[HostPath, Publish]]:
        """A directory that becomes a layer when the second value is called."""
        with self._layout.scratch("layer") as work, explained(self._layout.layers):

            def publish(
                diff_id: str, size_bytes: int, canonical: bool, root_entry: bool, stand_ins: bool, synced: bool = False
            ) -> None:
                with self._layout.collection_barrier(collecting=False):
                    if self.has(diff_id):
                        return  # the same content by its digest: what was made here need not even reach the disk
                record = {"diff_id": diff_id, "size_bytes": size_bytes, "canonical": canonical, "root_entry": root_entry}
                if stand_ins:
                    record["stand_ins"] = True
                (work / "layer.json").write_bytes(canonical_json(record))
                os.chmod(work, 0o700)
                if synced:
                    fsync_file(work / "layer.json")
                    fsync_directory(work)
                else:
                    sync_file_system(work)
                with self._layout.collection_barrier(collecting=False):
                    try:
                        os.rename(work, self.path(diff_id))
                    except OSError as error:
                        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                            raise
                        self.has(diff_id)  # somebody else was faster; the same content by its digest
                        return
                    fsync_directory(self._layout.layers)

            yield work, publish

    def extract(
        self,
        stream: BinaryIO,
        *,
        diff_id: str,
        media_type: str,
        progress: Progress,
        label: str,
        regenerable: bool | None = False,
    ) -> bool:
        """Unpack a layer whose uncompressed archive must have the digest ``diff_id``; nothing is visible unless all of it
        was right. ``regenerable``: the archive must be the one that is written from its tree, so that it need not be kept; None:
        find out whether it is.
        False when the layer is here and the stream was not read."""
        from contain.store.compression import Decompressed, verify_media_type

        verify_media_type(media_type)
        if self.has(diff_id):
            return False
        with Decompressed(stream, ahead=True) as unpacked, self._new() as (work, publish):
            source = _Measured(unpacked, progress, label)
            outline = None if regenerable is False else _Outline()
            extracted = self._extract(source.read, work, outline=outline)
            actual = "sha256:" + source.hash.hexdigest()
            if actual != diff_id:
                raise IntegrityError(
                    f"the layer's content has the digest {actual}, and {diff_id} was promised", code="layer-digest"
                )
            again = outline is not None and _is_regenerated(work / "tree", extracted.root_entry, outline)
            if regenerable and not again:
                raise IntegrityError(f"the layer {diff_id} is not written as contain writes layers", code="layer-digest")
            publish(diff_id, source.size_bytes, again, extracted.root_entry, extracted.stand_ins)
        return True

    def import_archive(self, stream: BinaryIO, *, progress: Progress, epoch_seconds: int) -> CommittedLayer:
        """A root file system's archive, plain or compressed, as one canonical layer."""
        from contain.store.compression import Decompressed
        from contain.store.tar_reader import bad_layer

        with Decompressed(stream, ahead=True) as unpacked, self._new() as (work, publish):
            source = _Measured(unpacked, progress, "unpack")
            found = self._extract(source.read, work, require_end=True)
            if not found.entries and source.size_bytes == 0:
                raise bad_layer("it is empty")
            committed = self._canonical(work, (), epoch_seconds, publish)
            assert committed is not None
            return committed

    def commit(self, upper: HostPath, *, lower: Sequence[HostPath], epoch_seconds: int) -> CommittedLayer | None:
        """See `contain.store.Store.commit_layer`."""
        with self._new() as (work, publish):
            try:
                os.rename(upper, work / "tree")
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                return self._commit_from_elsewhere(upper, work, lower, epoch_seconds, publish)
            return self._canonical(work, lower, epoch_seconds, publish, empty_is_none=True)

    def _extract(
        self,
        read: Callable[[int], bytes],
        work: HostPath,
        *,
        require_end: bool = False,
        outline: _Outline | None = None,
    ) -> Extracted:
        """Unpack into ``work/tree``. A layer that says nothing about the root directory leaves it as every root directory is."""
        from contain.store.extract import extract_tree
        from contain.store.tar_reader import TarLimits

        tree = work / "tree"
        tree.mkdir()
        extracted = extract_tree(
            read,
            tree,
            limits=self._limits or TarLimits(),
            require_end=require_end,
            outline=None if outline is None else outline.add,
        )
        if not extracted.root_entry:
            os.chmod(tree, 0o755)  # noqa: S103 -- it stands inside directories of mode 0700
            os.utime(tree, (0, 0))
        return extracted

    def _canonical(
        self,
        work: HostPath,
        lower: Sequence[HostPath],
        epoch_seconds: int,
        publish: Publish,
        *,
        empty_is_none: bool = False,
    ) -> CommittedLayer | None:
        from contain.store.commit import canonicalise

        with Root(work / "tree") as root, RootView(lower) as below:
            result = canonicalise(root, below, epoch_seconds=epoch_seconds)
            if empty_is_none and not result.changed:
                return None
            digest, size_bytes = hashlib.sha256(), 0
            with contextlib.ExitStack() as stack:
                syncing = False
                for data in canonical_tar(root, root_entry=result.root_entry):
                    digest.update(data)
                    size_bytes += len(data)
                    if size_bytes > _SYNCED_EARLY_BYTES and not syncing:
                        stack.enter_context(syncing_file_system(work))  # only reading is left to do with the tree
                        syncing = True
        committed = CommittedLayer(diff_id="sha256:" + digest.hexdigest(), size_bytes=size_bytes)
        publish(committed.diff_id, size_bytes, True, result.root_entry, result.stand_ins, syncing)
        return committed

    def _commit_from_elsewhere(
        self,
        upper: HostPath,
        work: HostPath,
        lower: Sequence[HostPath],
        epoch_seconds: int,
        publish: Publish,
    ) -> CommittedLayer | None:
        """An upper directory on another file system: rework it there, and unpack its archive here."""
        from contain.store.commit import canonicalise

        with Root(upper) as root, RootView(lower) as below:
            result = canonicalise(root, below, epoch_seconds=epoch_seconds)
            if result.changed:
                digest = hashlib.sha256()
                source = _Joined(canonical_tar(root, root_entry=result.root_entry), digest.update)
                extracted = self._extract(source.read, work)
        remove_tree(upper)
        if not result.changed:
            return None
        committed = CommittedLayer(diff_id="sha256:" + digest.hexdigest(), size_bytes=source.size_bytes)
        publish(committed.diff_id, committed.size_bytes, True, result.root_entry, extracted.stand_ins)
        return committed

    def archive(self, diff_id: str) -> Iterator[bytes]:
        """The archive of a canonical layer, made again from its tree."""
        record = self.record(diff_id)
        with Root(self.tree(diff_id)) as root:
            yield from canonical_tar(root, root_entry=bool(record["root_entry"]))


class _Outline:
    """What an archive holds besides the files' contents: its headers and what fills its blocks."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.head = b""

    def add(self, data: bytes) -> None:
        """The next bytes."""
        self.hash.update(data)
        if len(self.head) < _HEAD_BYTES:
            self.head += data[:_HEAD_BYTES]


def _is_regenerated(tree: HostPath, root_entry: bool, outline: _Outline) -> bool:
    """Whether the archive that is written from a tree is the one that was unpacked into it. The files need not be read again: if
    the headers are the same, in the same order, then each path stood there once, and its file holds what followed its header.
    Others' archives differ in their first headers already."""
    again, position, head = hashlib.sha256(), 0, outline.head
    with Root(tree) as root:
        for data in canonical_tar(root, root_entry=root_entry, contents=False):
            if position < len(head) and not head.startswith(data[: len(head) - position], position):
                return False
            position += len(data)
            again.update(data)
    return again.digest() == outline.hash.digest()


class _Measured:
    """Hashes and counts what passes through, and reports it now and then."""

    def __init__(self, source: Decompressed, progress: Progress, label: str) -> None:
        self._source, self._progress, self._label = source, progress, label
        self.hash = hashlib.sha256()
        self.size_bytes = 0
        self._reported = 0

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self.hash.update(data)
        self.size_bytes += len(data)
        if self.size_bytes - self._reported >= _REPORT_BYTES or not data:
            self._reported = self.size_bytes
            self._progress.amount(self._label, self.size_bytes, None)
        return data


class _Joined:
    """Pieces as a stream: ``read(n)`` gives exactly ``n`` bytes except at the end."""

    def __init__(self, pieces: Iterator[bytes], seen: Callable[[bytes], None]) -> None:
        self._pieces, self._seen = pieces, seen
        self._buffer = b""
        self.size_bytes = 0

    def read(self, size: int) -> bytes:
        parts, have = [self._buffer[:size]], min(len(self._buffer), size)
        self._buffer = self._buffer[size:]
        while have < size and (data := next(self._pieces, b"")):
            self._seen(data)
            self.size_bytes += len(data)
            parts.append(data[: size - have])
            self._buffer = data[size - have :]
            have += len(parts[-1])
        return b"".join(parts)
