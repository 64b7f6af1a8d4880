"""Images from the store into a file, a directory or a stream: performs what `contain.archive.plan` lists.

Every byte is verified on its way out: what is damaged on disk does not travel. A file appears under its name only when all of
it is there. Memory: one piece at a time.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

from contain.annotations import BinaryIO
from contain.archive.plan import FileFormat, PlannedMember, SavedImage, plan_members
from contain.errors import ContainError, HostError, IntegrityError, NotFound, UsageError
from contain.oci import Descriptor, Image
from contain.paths import HostPath
from contain.progress import Progress
from contain.reference import Reference
from contain.store import DEFAULT_EPOCH_SECONDS, Store
from contain.store.durable import remove_tree, replaced
from contain.store.images import GRACE_SECONDS
from contain.store.tar_header import END_OF_ARCHIVE, TarEntry, TarKind, padding_bytes, render_entry

_PIECE_BYTES = 1 << 20
_REPORT_BYTES = 16 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


def save_images(
    asked: Sequence[tuple[Image, tuple[Reference, ...]]],
    *,
    compression: str | None,
    form: FileFormat,
    output: HostPath | BinaryIO,
    store: Store,
    progress: Progress,
) -> tuple[SavedImage, ...]:
    """Write images under names, with the layers that they have, or repacked as `contain push` repacks them. Raises what `save`
    raises."""
    known = {row.digest for row in store.images()}
    images: list[SavedImage] = []
    with ExitStack() as stack:
        stack.callback(lambda: _forget({saved.digest for saved in images} - known, store))
        held = {digest for image, _ in asked for digest in (image.digest, *image.config.diff_ids)}
        stack.enter_context(store.lease(*sorted(held)))
        for image, references in asked:
            packed = image if compression is None else _repack(image, compression, store, progress)
            stack.enter_context(store.lease(packed.digest))
            images.append(
                SavedImage(
                    names=references,
                    image=packed,
                    manifest_data=store.read_blob(packed.digest),
                    config_data=store.read_blob(packed.manifest.config.digest),
                )
            )
        save(images, form=form, output=output, store=store, progress=progress)
    return tuple(images)


def _repack(image: Image, compression: str, store: Store, progress: Progress) -> Image:
    from contain.registry.packing import pack_image, parse_compression

    packed = pack_image(image, parse_compression(compression), store=store, progress=progress, stop=threading.Event())
    if packed.digest != image.digest:
        progress.note(f"{image.digest[:19]} is {packed.digest} in this compression")
    return packed


def _forget(digests: Collection[str], store: Store) -> None:
    """Images that came about for a file only are no images of this store. Their layers stay for a while, so that the next file
    is made faster."""
    for digest in sorted(digests):
        with suppress(NotFound):
            store.remove_image(digest, grace_seconds=GRACE_SECONDS, only_unnamed=True)


def save(
    images: Sequence[SavedImage],
    *,
    form: FileFormat,
    output: HostPath | BinaryIO,
    store: Store,
    progress: Progress,
) -> None:
    """Write images to a file, a directory (`FileFormat.OCI_DIRECTORY`) or a stream.

    Raises `NotFound` (code ``layer-blob-not-found``), `IntegrityError` for a layer that is damaged in the store, `HostError` (code
    ``output-full``) and `ContainError` (code ``cannot-write``); then a named file is as it was.
    """
    members = plan_members(images, form)
    layers = {
        layer.digest: (layer, diff_id)
        for image in images
        for layer, diff_id in zip(image.manifest.layers, image.image.config.diff_ids, strict=True)
    }
    writing = _Writing(layers, store, progress)
    if not isinstance(output, HostPath):
        with _explained("standard output"):
            writing.archive(members, output)
    elif form is FileFormat.OCI_DIRECTORY:
        with _explained(str(output)):
            writing.directory(members, output)
    else:
        _refuse_directory(output)
        # Private, as Docker's: an image may hold what only its owner may read.
        with _explained(str(output)), replaced(output, mode=0o600) as file:
            writing.archive(members, file)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Errors of the output. A reader that went away is the caller's to judge."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise HostError(
                "the disk is full; nothing is left of the unfinished file",
                call="write",
                path=name,
                errno=error.errno,
                remedy="free space, or write it elsewhere",
                code="output-full",
            ) from error
        raise ContainError(f"cannot write {name}: {error.strerror}", code="cannot-write") from error


def _refuse_directory(path: HostPath) -> None:
    if path.is_dir():
        raise UsageError(f"{path} is a directory", code="bad-output", remedy="name a file, or use --format oci-dir")


class _Writing:
    def __init__(self, layers: Mapping[str, tuple[Descriptor, str]], store: Store, progress: Progress) -> None:
        self._layers, self._store, self._progress = layers, store, progress

    def archive(self, members: Sequence[PlannedMember], out: BinaryIO) -> None:
        """One tar archive."""
        for member in members:
            is_directory = member.data is None and member.layer is None
            entry = TarEntry(
                path=member.name.encode(),
                kind=TarKind.DIRECTORY if is_directory else TarKind.FILE,
                mode=0o755 if is_directory else 0o644,
                size_bytes=member.size,
                mtime_ns=DEFAULT_EPOCH_SECONDS * 1_000_000_000,
            )
            out.write(render_entry(entry))
            self._content(member, out.write)
            out.write(bytes(padding_bytes(member.size)))
        out.write(END_OF_ARCHIVE)
        out.flush()

    def directory(self, members: Sequence[PlannedMember], path: HostPath) -> None:
        """A directory, made beside its place and renamed into it. A place that is taken, other than by an empty directory, is
        refused."""
        path = HostPath(os.path.realpath(path))
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UsageError(f"{path} exists", code="bad-output", remedy="name a new directory, or an empty one")
        aside = path.parent / f".{path.name[:100]}.{os.urandom(6).hex()}"
        try:
            aside.mkdir()
            for member in members:
                if member.data is None and member.layer is None:
                    (aside / member.name).mkdir()
                    continue
                with open(aside / member.name, "xb") as file:
                    self._content(member, file.write)
            os.rename(aside, path)
        except BaseException:
            with suppress(OSError):
                remove_tree(aside)
            raise

    def _content(self, member: PlannedMember, write: Callable[[bytes], object]) -> None:
        if member.data is not None:
            write(member.data)
        elif member.layer is not None:
            layer, diff_id = self._layers[member.layer]
            checked = _Checked(write, layer, self._progress)
            for piece in _layer_pieces(layer, diff_id, self._store):
                checked.write(piece)
            checked.finish()


def _layer_pieces(layer: Descriptor, diff_id: str, store: Store) -> Iterator[bytes]:
    """A layer's bytes as its manifest means them: a blob as it was pulled, or the archive made again from the layer's tree."""
    if layer.digest == diff_id and not store.has_blob(layer.digest):
        yield from store.layer_pieces(diff_id)
        return
    try:
        file = store.open_blob(layer.digest)
    except NotFound as error:
        raise NotFound(
            f"the archive of layer {layer.digest} is not in the store, only its files are",
            code="layer-blob-not-found",
            remedy="pull the image again, or save it with --compression gzip",
        ) from error
    with file:
        while data := file.read(_PIECE_BYTES):
            yield data


class _Checked:
    """Passes bytes on, as many as were promised and with the promised digest."""

    def __init__(self, write: Callable[[bytes], object], layer: Descriptor, progress: Progress) -> None:
        self._write, self._layer, self._progress = write, layer, progress
        self._hash = hashlib.sha256()
        self._size = self._reported = 0
        self._label = f"save {layer.digest[7:19]}"

    def write(self, data: bytes) -> None:
        """Pass a piece on. Raises `IntegrityError` when there is more than was promised."""
        self._size += len(data)
        if self._size > self._layer.size:
            raise self._damaged()
        self._hash.update(data)
        self._write(data)
        if self._size - self._reported >= _REPORT_BYTES:
            self._reported = self._size
            self._progress.amount(self._label, self._size, self._layer.size)

    def finish(self) -> None:
        """Raises `IntegrityError` when it was not what was promised."""
        if self._size != self._layer.size or "sha256:" + self._hash.hexdigest() != self._layer.digest:
            raise self._damaged()
        self._progress.amount(self._label, self._size, self._layer.size)

    def _damaged(self) -> IntegrityError:
        return IntegrityError(
            f"layer {self._layer.digest} was changed or damaged in the store",
            code="blob-digest",
            remedy="pull or build the image again",
        )
