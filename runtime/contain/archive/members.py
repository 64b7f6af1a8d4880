"""The members of an image file: a table of names, and each member's bytes. A tar archive or a directory, hostile until proven
otherwise; nothing is ever unpacked under a name that the file chose.

Decides which names and kinds of members an image file may have. Writes nothing, except that a compressed or streamed archive is
first spooled to a scratch file that the caller gave. Damage is an `IntegrityError` (code ``bad-image-file``).

Source of the one kind of symbolic link that is accepted: ``docker save`` before version 25 and containers/image write
``<id>/layer.tar`` as a link to another member of the same archive when a layer stands in several images.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from contain.annotations import TYPE_CHECKING, BinaryIO, Protocol, cast
from contain.errors import IntegrityError, UsageError
from contain.paths import HostPath
from contain.store.compression import Decompressed
from contain.store.durable import explained
from contain.store.tar_header import BLOCK_BYTES, TarEntry, TarKind
from contain.store.tar_reader import TarLimits, TarReader, bad_layer, shown
from contain.values import dataclass

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MOST_MEMBERS = 100_000
_LONGEST_NAME_BYTES = 1024
_DEEPEST = 8
_CHUNK_BYTES = 1 << 20
_MARKS = ("oci-layout", "index.json", "manifest.json", "repositories")
_TAR_MAGIC_AT, _TAR_MAGIC = 257, b"ustar"


def bad_file(why: str, *, remedy: str = "") -> IntegrityError:
    """The one error of a damaged or hostile image file."""
    return IntegrityError(f"image file: {why}", code="bad-image-file", remedy=remedy)


def member_name(raw: bytes) -> str:
    """A member's name without a leading ``./`` and a trailing ``/``; "" for the top. Refused: absolute names, ``..``, empty
    parts, control characters, what is no UTF-8."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise bad_file(f"the name of a member is no text: {shown(raw)}") from error
    if text.startswith("/"):
        raise bad_file(f"an absolute name: {shown(raw)}")
    parts = text.removesuffix("/").split("/")
    if parts[0] == ".":
        parts = parts[1:]
    if len(raw) > _LONGEST_NAME_BYTES or len(parts) > _DEEPEST:
        raise bad_file(f"a name that is too long or too deep: {shown(raw)}")
    if any(part in ("", ".", "..") or not part.isprintable() for part in parts):
        raise bad_file(f"a name that image files do not have: {shown(raw)}")
    return "/".join(parts)


def link_target(name: str, link: str) -> str:
    """The member that a symbolic link means. Accepted: ``<id>/layer.tar`` to ``../<id>/layer.tar`` or ``../<name>.tar``."""
    parts = link.split("/")
    if (
        len(parts) in (2, 3)
        and parts[0] == ".."
        and all(part not in ("", ".", "..") and part.isprintable() for part in parts[1:])
        and name.count("/") == 1
        and name.endswith("/layer.tar")
    ):
        return "/".join(parts[1:])
    raise bad_file(f"a symbolic link, {name!r} to {link[:200]!r}")


class Members(Protocol):
    """What `layout` and `load` read from."""

    def sizes(self) -> Mapping[str, int]:
        """Every regular member and its size in bytes."""

    def open(self, name: str) -> BinaryIO:
        """A member's bytes, no more than its size. Raises `IntegrityError` if there is no such member."""


def read_member(members: Members, name: str, *, limit_bytes: int) -> bytes:
    """A small member as a whole. Raises `IntegrityError` when it is missing, larger than the limit, or cut short."""
    size = members.sizes().get(name)
    if size is None:
        raise bad_file(f"{name} is missing")
    if size > limit_bytes:
        raise bad_file(f"{name} has {size} bytes; at most {limit_bytes} are allowed")
    with members.open(name) as file:
        data = file.read(size)
    if len(data) != size:
        raise bad_file(f"{name} is cut short")
    return data


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    offset: int
    size: int


class TarMembers:
    """A tar archive in a file that can be read at any position. Indexed once, read in place."""

    def __init__(self, file: BinaryIO, limits: TarLimits) -> None:
        self._file = file
        self._places = _index(file, limits)
        self._sizes = MappingProxyType({name: place.size for name, place in self._places.items()})

    def sizes(self) -> Mapping[str, int]:
        """Every regular member and its size in bytes."""
        return self._sizes

    def open(self, name: str) -> BinaryIO:
        """A member\'s bytes, no more than its size."""
        place = self._places.get(name)
        if place is None:
            raise bad_file(f"{name} is missing")
        window = _Window(self._file.fileno(), place.offset, place.size)
        return cast("BinaryIO", io.BufferedReader(window, _CHUNK_BYTES))


class _Table:
    """What an archive's headers say, one after another. The first objection is kept for the end, when it is known whether this
    is an image file at all: a root file system's archive is full of what image files do not hold, and is a mistake, no attack."""

    def __init__(self, end: int) -> None:
        self._end = end
        self.places: dict[str, _Place] = {}
        self._links: dict[str, str] = {}
        self._kinds: dict[str, TarKind] = {}
        self.objection: IntegrityError | None = None

    def add(self, entry: TarEntry, offset: int) -> None:
        """One member, whose content begins at ``offset``."""
        if offset + entry.size_bytes > self._end:
            raise bad_file(f"{shown(entry.path)} is cut short, or its size is a lie")
        try:
            self._add(entry, offset)
        except IntegrityError as error:
            self.objection = self.objection or error

    def _add(self, entry: TarEntry, offset: int) -> None:
        name = member_name(entry.path)
        if entry.kind is TarKind.DIRECTORY:
            if self._kinds.get(name, entry.kind) is not entry.kind:
                raise bad_file(f"{name} stands there twice")
        elif name in self._kinds or not name:
            raise bad_file(f"{name or 'the top'} stands there twice")
        self._kinds[name] = entry.kind
        match entry.kind:
            case TarKind.FILE:
                self.places[name] = _Place(offset=offset, size=entry.size_bytes)
            case TarKind.SYMLINK:
                self._links[name] = link_target(name, entry.link.decode("utf-8", "backslashreplace"))
            case TarKind.DIRECTORY:
                pass
            case kind:
                raise bad_file(f"{name} is a {kind.name.lower().replace('_', ' ')}")

    def finish(self) -> dict[str, _Place]:
        """The members, links resolved. Raises the first objection, if this is an image file."""
        if self.objection is not None:
            if any(name in _MARKS or name.endswith("/layer.tar") for name in self._kinds):
                raise self.objection
            return {}
        for name in self._kinds:
            parent = name.rpartition("/")[0]
            while parent:
                if self._kinds.get(parent, TarKind.DIRECTORY) is not TarKind.DIRECTORY:
                    raise bad_file(f"{name} stands below {parent}, which is no directory")
                parent = parent.rpartition("/")[0]
        resolved = {}
        for name, target in self._links.items():
            if target not in self.places:
                raise bad_file(f"the link {name} leads to {target}, which is no member")
            resolved[name] = self.places[target]
        return self.places | resolved


def _index(file: BinaryIO, limits: TarLimits) -> dict[str, _Place]:
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    reader = TarReader(file.read, limits)
    table = _Table(end)
    count = 0
    try:
        for count, entry in enumerate(reader, start=1):
            table.add(entry, file.tell())
            file.seek(reader.take_payload(), os.SEEK_CUR)
            if count > MOST_MEMBERS:
                table.objection = table.objection or bad_file(f"more than {MOST_MEMBERS} members")
                break
    except IntegrityError as error:
        if error.code != "bad-layer":
            raise
        why = error.message.removeprefix("layer archive: ") if count else "it is no tar archive"
        raise bad_file(why, remedy="load takes what `save` wrote, as a tar archive or a directory") from error
    return table.finish()


class _Window(io.RawIOBase):
    """Part of a file, read by position: several may be open at once."""

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        super().__init__()
        self._descriptor, self._at, self._end = descriptor, offset, offset + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")[: self._end - self._at]
        count = os.preadv(self._descriptor, [view], self._at) if len(view) else 0
        self._at += count
        return count


class DirectoryMembers:
    """An OCI layout as a directory: the files in it, and those of ``blobs/<algorithm>/``. Only regular files are members; links
    and other things in these places are refused. Nothing else is looked at, so that a wrong directory is found out at once."""

    def __init__(self, path: HostPath) -> None:
        self._path = path
        self._sizes: dict[str, int] = {}
        self._enter("")
        if any(name in self._sizes for name in _MARKS) and (path / "blobs").is_dir():
            with os.scandir(path / "blobs") as entries:
                algorithms = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            for name in algorithms:
                self._enter(f"blobs/{name}")

    def _enter(self, inner: str) -> None:
        with os.scandir(self._path / inner) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    continue
                name = f"{inner}/{entry.name}" if inner else entry.name
                if entry.is_file(follow_symlinks=False):
                    self._sizes[member_name(os.fsencode(name))] = entry.stat(follow_symlinks=False).st_size
                elif inner or name in _MARKS:
                    raise bad_file(f"{name} is no regular file")
                if len(self._sizes) > MOST_MEMBERS:
                    raise bad_file(f"more than {MOST_MEMBERS} members")

    def sizes(self) -> Mapping[str, int]:
        """Every regular member and its size in bytes."""
        return self._sizes

    def open(self, name: str) -> BinaryIO:
        """A member\'s bytes, no more than its size."""
        size = self._sizes.get(name)
        if size is None:
            raise bad_file(f"{name} is missing")
        descriptor = self._descend(name)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise bad_file(f"{name} is no regular file")
            window = _OwnWindow(descriptor, 0, size)
        except BaseException:
            os.close(descriptor)
            raise
        return cast("BinaryIO", io.BufferedReader(window, _CHUNK_BYTES))

    def _descend(self, name: str) -> int:
        """Open component by component, following no link: the directory may be changed while we read."""
        directory = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        *parents, last = name.split("/")
        try:
            for part in parents:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
                os.close(directory)
                directory = inner
            return os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        finally:
            os.close(directory)


class _OwnWindow(_Window):
    """A window that closes its descriptor."""

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


@contextmanager
def open_members(source: HostPath | BinaryIO, *, scratch: HostPath, limits: TarLimits | None = None) -> Iterator[Members]:
    """The members of a file, a directory or a stream. What is compressed, or cannot be read at any position, is first written
    to ``scratch``.

    Raises `UsageError` (code ``image-file-not-found``) for a path that cannot be read, `IntegrityError` for what is no image file.
    """
    limits = limits or TarLimits()
    if not isinstance(source, HostPath):
        with _spooled(source, scratch, limits) as file:
            yield TarMembers(file, limits)
        return
    try:
        if source.is_dir():
            yield DirectoryMembers(source)
            return
        opened = open(source, "rb")  # noqa: SIM115 -- closed below, outside this handler
    except OSError as error:
        raise UsageError(f"open {source}: {error.strerror}", code="image-file-not-found") from error
    with opened as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode) and _is_plain_tar(file):
            yield TarMembers(file, limits)
            return
        with _spooled(file, scratch, limits) as spooled:
            yield TarMembers(spooled, limits)


def _is_plain_tar(file: BinaryIO) -> bool:
    head = file.read(512)
    file.seek(0)
    return head[_TAR_MAGIC_AT : _TAR_MAGIC_AT + len(_TAR_MAGIC)] == _TAR_MAGIC


@contextmanager
def _spooled(stream: BinaryIO, scratch: HostPath, limits: TarLimits) -> Iterator[BinaryIO]:
    """The stream, decompressed, as a file without a name."""
    path = scratch / "image.tar"
    with explained(path), open(path, "x+b") as file:
        path.unlink()
        try:
            with Decompressed(stream, ahead=True) as plain:
                total = 0
                while data := plain.read(_CHUNK_BYTES):
                    if not total and not _is_header(data[:BLOCK_BYTES]):
                        raise bad_file("it is no tar archive")
                    total += len(data)
                    if total > limits.total_bytes:
                        raise bad_layer(f"more than {limits.total_bytes} bytes when unpacked")
                    file.write(data)
        except IntegrityError as error:
            if error.code == "bad-image-file":
                raise
            raise bad_file(error.message.removeprefix("layer archive: ")) from error
        if total == 0:
            raise bad_file("it is empty")
        file.flush()
        yield file


def _is_header(block: bytes) -> bool:
    """Whether a tar header's checksum is right: told before gigabytes of something else are written down."""
    try:
        return int(block[148:156].strip(b" \0"), 8) == sum(block[:148]) + 8 * ord(" ") + sum(block[156:])
    except ValueError:
        return False
