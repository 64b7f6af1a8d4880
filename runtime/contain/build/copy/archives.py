"""ADD of an archive: is a file one, and its entries into an upper directory.

An archive is recognised by content: a tar, plain or packed with gzip, bzip2, xz or zstd, whose first entry parses. Entries keep
owner, mode and time, as with ``tar -x``; a directory merges with one that is there, anything else replaces what is there.
Names are resolved in the merged root, which no link leads out of; ``..`` in a name is refused.

Source of the rules: Dockerfile reference, "Adding local tar archives"; BuildKit's ``solver/llbsolver/file/unpack.go``.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from contain.annotations import BinaryIO
from contain.build.copy.perform import CREATED_DIRECTORY_MODE
from contain.build.copy.writer import Attributes, UpperWriter
from contain.build.trees.tree import Kind, join, parent_of
from contain.dockerfile.literals import ModeChange
from contain.errors import HostError, IntegrityError, NotSupported, UsageError
from contain.store.compression import Decompressed
from contain.store.tar_header import TarEntry, TarKind
from contain.store.tar_reader import TarLimits, TarReader

_SPECIAL = {TarKind.FIFO: Kind.FIFO, TarKind.CHARACTER: Kind.CHARACTER, TarKind.BLOCK: Kind.BLOCK}


def is_archive(stream: BinaryIO) -> bool:
    """Whether the stream is an archive with a readable first entry, or an empty archive. Leaves the stream at its start."""
    try:
        reader = TarReader(Decompressed(stream).read, TarLimits())
        first = next(iter(reader), None)
        return first is not None or reader.saw_end
    except (IntegrityError, NotSupported, EOFError, OSError):
        return False
    finally:
        stream.seek(0)


def unpack_archive(
    stream: BinaryIO,
    target: str,
    writer: UpperWriter,
    *,
    epoch_seconds: int,
    owner: tuple[int, int] | None = None,
    mode: ModeChange | None = None,
    warn: Callable[[str], None],
) -> None:
    """All entries of an archive below the canonical path ``target``. Raises `IntegrityError` for a damaged archive."""
    reader = TarReader(Decompressed(stream).read, TarLimits())
    latest_ns = epoch_seconds * 1_000_000_000
    for entry in reader:
        path = _place(writer, target, entry.path)
        if path is None:
            continue
        is_directory = entry.kind is TarKind.DIRECTORY
        user_id, group_id = owner or (entry.user_id, entry.group_id)
        attributes = Attributes(
            mode=entry.mode if mode is None else mode.apply(entry.mode, is_directory=is_directory),
            user_id=user_id,
            group_id=group_id,
            mtime_ns=min(entry.mtime_ns, latest_ns),
            xattrs={os.fsdecode(name): value for name, value in entry.xattrs.items()},
        )
        writer.ensure_directory(parent_of(path), Attributes(mode=CREATED_DIRECTORY_MODE))
        _put(writer, target, path, entry, attributes, reader, warn)
    stray = reader.drain()
    if stray:
        warn(f"the archive for /{target} has {stray} bytes after its end")


def _place(writer: UpperWriter, target: str, name: bytes) -> str | None:
    """Where an entry goes: below ``target``, links on the way resolved in the merged root. None for the archive's own root."""
    parts: list[str] = []
    for part in os.fsdecode(name).split("/"):
        if part == "..":
            raise UsageError(f"the archive has an entry with '..' in its name: {os.fsdecode(name)!r}", code="bad-archive")
        if part not in ("", "."):
            parts.append(part)
    if not parts:
        return None
    directory = writer.resolve("/".join([target, *parts[:-1]]))
    return join(directory, parts[-1])


def _put(
    writer: UpperWriter,
    target: str,
    path: str,
    entry: TarEntry,
    attributes: Attributes,
    reader: TarReader,
    warn: Callable[[str], None],
) -> None:
    if entry.kind is TarKind.CHARACTER and entry.device == (0, 0):
        # In a layer's tree this device says that a file is gone.
        warn(f"the device /{path} is left out: its number 0:0 cannot be part of an image")
        return
    there = writer.lookup(path)
    if entry.kind is TarKind.DIRECTORY:
        if there is not None and there.kind is not Kind.DIRECTORY:
            writer.remove(path)
        writer.put_directory(path, attributes)
        return
    if there is not None and there.kind is Kind.DIRECTORY:
        writer.remove(path)
    if entry.kind is TarKind.FILE:
        writer.put_file(path, _Payload(reader), attributes)
    elif entry.kind is TarKind.SYMLINK:
        writer.put_symlink(path, os.fsdecode(entry.link), attributes)
    elif entry.kind is TarKind.HARD_LINK:
        existing = _place(writer, target, entry.link)
        if existing is None:
            raise UsageError(f"the archive has a hard link to its own root: /{path}", code="bad-archive")
        writer.put_hard_link(path, existing)
    else:
        try:
            writer.put_special(path, _SPECIAL[entry.kind], entry.device, attributes)
        except HostError as error:
            if error.code != "device-needs-root":
                raise
            warn(f"the device /{path} is left out: only root can make devices")


class _Payload:
    """The current entry's content as something that can be read."""

    def __init__(self, reader: TarReader) -> None:
        self._pieces = reader.payload()

    def read(self, size: int, /) -> bytes:  # noqa: ARG002 - pieces are small
        """The next piece; empty at the end."""
        return next(self._pieces, b"")
