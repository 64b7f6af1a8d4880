"""Trees as a stream of entries with their contents, for ``contain cp``: read from a directory, from or to a tar archive, and made in a
directory. Each name is used against a descriptor of its own directory and never followed, so that somebody who exchanges
directories for links meanwhile gains nothing (CVE-2018-15664).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple  # noqa: TID251 - it makes a class

from contain.beneath import open_beneath
from contain.container.files.copy_root import Owners
from contain.errors import Conflict, IntegrityError, NotSupported
from contain.store.tar_header import END_OF_ARCHIVE, TarEntry, TarKind, padding_bytes, render_entry
from contain.store.tar_reader import TarLimits, TarReader
from contain.values import replace

_CHUNK_BYTES = 1 << 20
_TRIES = 16
_DEEPEST = 400  # each level holds two descriptors, of which a process may have 1024
_CAPABILITY = b"security.capability"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {
    stat.S_IFREG: TarKind.FILE,
    stat.S_IFLNK: TarKind.SYMLINK,
    stat.S_IFCHR: TarKind.CHARACTER,
    stat.S_IFBLK: TarKind.BLOCK,
    stat.S_IFDIR: TarKind.DIRECTORY,
    stat.S_IFIFO: TarKind.FIFO,
}


class Item(NamedTuple):
    """An entry, and a regular file's content: exactly ``entry.size_bytes`` in pieces. To be read before the next item is asked for."""

    entry: TarEntry
    content: Iterator[bytes]


def open_seen(descriptor: int) -> int:
    """Open for reading what an O_PATH descriptor stands for. Only what is known to be a file or a directory: to open a device or a
    pipe does something to it."""
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _content(descriptor: int, size_bytes: int) -> Iterator[bytes]:
    """So many bytes, whatever the file has now; zeros for what it lost meanwhile."""
    left = size_bytes
    while left:
        data = os.read(descriptor, min(left, _CHUNK_BYTES)) or bytes(min(left, _CHUNK_BYTES))
        left -= len(data)
        yield data


def read_tree(seen: int, base: bytes, owners: Owners, *, bare: frozenset[bytes] = frozenset()) -> Iterator[Item]:
    """What an O_PATH descriptor stands for, and all below it, parents first, names sorted. ``base``: its name in the stream; empty
    for a directory of which only the contents count. ``bare``: names directly in it that stay empty where something is mounted.
    Sockets are left out: no archive can hold one."""
    yield from _read(seen, base, owners, {}, bare=bare)


def _read(
    seen: int,
    path: bytes,
    owners: Owners,
    first: dict[tuple[int, int], bytes],
    depth: int = 0,
    *,
    bare: frozenset[bytes] = frozenset(),
    empty_on_other_than: int | None = None,
) -> Iterator[Item]:
    if depth > _DEEPEST:
        raise NotSupported(f"directories more than {_DEEPEST} deep: {os.fsdecode(path[:80])}...", code="copy-too-deep")
    found = os.fstat(seen)
    kind = _KINDS.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        return
    user_id, group_id = owners.inside(found.st_uid, found.st_gid)
    entry = TarEntry(
        path=path,
        kind=kind,
        mode=0o777 if kind is TarKind.SYMLINK else stat.S_IMODE(found.st_mode),
        user_id=user_id,
        group_id=group_id,
        mtime_ns=found.st_mtime_ns,
        link=os.fsencode(os.readlink("", dir_fd=seen)) if kind is TarKind.SYMLINK else b"",
        device=(os.major(found.st_rdev), os.minor(found.st_rdev)) if kind in (TarKind.CHARACTER, TarKind.BLOCK) else (0, 0),
    )
    if kind is TarKind.DIRECTORY:
        if path:
            yield Item(entry, iter(()))
        if empty_on_other_than not in (None, found.st_dev):
            return
        directory = open_seen(seen)
        try:
            for name in sorted(map(os.fsencode, os.listdir(directory))):
                try:
                    child = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
                except FileNotFoundError:
                    continue  # removed meanwhile
                try:
                    mounted = found.st_dev if name in bare else None
                    below = path + b"/" + name if path else name
                    yield from _read(child, below, owners, first, depth + 1, empty_on_other_than=mounted)
                finally:
                    os.close(child)
        finally:
            os.close(directory)
        return
    if found.st_nlink > 1:
        earlier = first.setdefault((found.st_dev, found.st_ino), path)
        if earlier != path:
            yield Item(replace(entry, kind=TarKind.HARD_LINK, link=earlier), iter(()))
            return
    if kind is not TarKind.FILE:
        yield Item(entry, iter(()))
        return
    opened = open_seen(seen)
    try:
        size = os.fstat(opened).st_size
        with contextlib.suppress(OSError):
            entry = replace(entry, xattrs={_CAPABILITY: os.getxattr(opened, _CAPABILITY)})
        yield Item(replace(entry, size_bytes=size), _content(opened, size))
    finally:
        os.close(opened)


def read_archive(read: Callable[[int], bytes]) -> Iterator[Item]:
    """The entries of a tar archive. Raises `IntegrityError` for a damaged one, and for names that lead out of it."""
    reader = TarReader(read, TarLimits())
    for entry in reader:
        link = _inner(entry.link) if entry.kind is TarKind.HARD_LINK else entry.link
        yield Item(replace(entry, path=_inner(entry.path), link=link), reader.payload())


def _inner(path: bytes) -> bytes:
    """A path of an archive, or of what a hard link in it stands for, without empty parts. Raises `IntegrityError`."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise IntegrityError(f"the archive holds the path {os.fsdecode(path)!r}, which leads out of it", code="bad-archive")
    return b"/".join(parts)


def archive_pieces(items: Iterable[Item]) -> Iterator[bytes]:
    """A tar archive of the items."""
    for entry, content in items:
        yield render_entry(entry)
        yield from content
        if padding := padding_bytes(entry.size_bytes):
            yield bytes(padding)
    yield END_OF_ARCHIVE


class Writer:
    """Makes items below a directory.

    ``owner_of``: the owner that an entry gets on this machine, or None to leave it its maker's. ``root`` and ``place``: for an archive,
    whose parents may be links of the container's own: they are followed inside the root, from the place in it. ``host``: the target
    is this machine's: no devices are made there and no set-id bits set, both of which a container's files could misuse.
    """

    def __init__(
        self,
        directory: int,
        *,
        owner_of: Callable[[TarEntry], tuple[int, int] | None],
        host: bool,
        keep_set_id: bool = False,
        root: int | None = None,
        place: str = "",
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._directory, self._owner_of, self._host, self._keep_set_id = directory, owner_of, host, keep_set_id
        self._root, self._place, self._warn = root, place, warn
        self._open: list[tuple[bytes, int]] = []  # from the directory down to the parent that was used last
        self._times: list[tuple[bytes, TarEntry]] = []
        self.size_bytes = 0

    def write(self, items: Iterable[Item]) -> None:
        """Make them all, and then give directories their times. Raises `Conflict` (code ``copy-onto-directory``,
        ``copy-onto-file``), `OSError`."""
        try:
            for entry, content in items:
                if not entry.path:
                    continue
                self._make(entry, content)
            for path, entry in reversed(self._times):
                with contextlib.suppress(OSError):
                    parent, name = self._parent(path)
                    os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)
        finally:
            self._forget(0)

    def _forget(self, kept: int) -> None:
        while len(self._open) > kept:
            os.close(self._open.pop()[1])

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        *above, name = path.split(b"/")
        depth = 0
        while depth < min(len(above), len(self._open)) and self._open[depth][0] == above[depth]:
            depth += 1
        self._forget(depth)
        for level in range(depth, len(above)):
            here = self._open[-1][1] if self._open else self._directory
            self._open.append((above[level], self._enter(here, above[: level + 1])))
        return (self._open[-1][1] if self._open else self._directory), name

    def _enter(self, here: int, path: list[bytes]) -> int:
        for _ in range(_TRIES):
            try:
                return os.open(path[-1], _DIRECTORY, dir_fd=here)
            except FileNotFoundError:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(path[-1], 0o755, dir_fd=here)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR) or self._root is None:
                    raise
                whole = os.fsencode(self._place) + b"/" + b"/".join(path)
                return open_beneath(self._root, whole, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        raise OSError(errno.EAGAIN, "somebody keeps removing it", os.fsdecode(path[-1]))

    def _make(self, entry: TarEntry, content: Iterator[bytes]) -> None:
        parent, name = self._parent(entry.path)
        is_directory = entry.kind is TarKind.DIRECTORY
        for _ in range(_TRIES):
            try:
                found: os.stat_result | None = os.stat(name, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                found = None
            shown = os.fsdecode(entry.path)
            if found is not None and stat.S_ISDIR(found.st_mode) and not is_directory:
                raise Conflict(
                    f'cannot overwrite directory "/{shown}" with non-directory "{os.fsdecode(name)}"',
                    code="copy-onto-directory",
                )
            if found is not None and not stat.S_ISDIR(found.st_mode) and is_directory:
                raise Conflict(
                    f'cannot overwrite non-directory "/{shown}" with directory "{os.fsdecode(name)}"', code="copy-onto-file"
                )
            try:
                if found is not None and not is_directory:
                    os.unlink(name, dir_fd=parent)
                if not (found is not None and is_directory):
                    if not self._create(parent, name, entry, content):
                        return
                elif is_directory:
                    self._settle_directory(parent, name, entry)
            except (FileExistsError, FileNotFoundError):
                continue  # somebody was quicker: look again
            return
        raise OSError(errno.EAGAIN, "somebody keeps changing it", os.fsdecode(name))

    def _create(self, parent: int, name: bytes, entry: TarEntry, content: Iterator[bytes]) -> bool:
        match entry.kind:
            case TarKind.DIRECTORY:
                os.mkdir(name, 0o700, dir_fd=parent)
                self._settle_directory(parent, name, entry)
            case TarKind.FILE:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                self._fill(os.open(name, flags, 0o600, dir_fd=parent), entry, content)
            case TarKind.SYMLINK:
                os.symlink(entry.link, name, dir_fd=parent)
                owner = self._owner_of(entry)
                if owner is not None:
                    os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)
                os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)
            case TarKind.HARD_LINK:
                # a copy of the descriptor: looking for the first name may close the one that is used
                kept = os.dup(parent)
                try:
                    source, first = self._parent(entry.link.lstrip(b"/"))
                    os.link(first, name, src_dir_fd=source, dst_dir_fd=kept, follow_symlinks=False)
                finally:
                    os.close(kept)
            case _ if self._host and entry.kind is not TarKind.FIFO:
                self._warn(f"/{os.fsdecode(entry.path)} is a device: it is left out")
                return False
            case _:
                kind = {TarKind.FIFO: stat.S_IFIFO, TarKind.CHARACTER: stat.S_IFCHR, TarKind.BLOCK: stat.S_IFBLK}[entry.kind]
                os.mknod(name, kind | 0o600, os.makedev(*entry.device), dir_fd=parent)
                seen = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
                try:
                    owner = self._owner_of(entry)
                    if owner is not None:
                        os.chown(f"/proc/self/fd/{seen}", *owner)
                    os.chmod(f"/proc/self/fd/{seen}", self._mode(entry))
                finally:
                    os.close(seen)
        return True

    def _mode(self, entry: TarEntry) -> int:
        return entry.mode & (0o7777 if not self._host or self._keep_set_id else 0o1777)

    def _fill(self, descriptor: int, entry: TarEntry, content: Iterator[bytes]) -> None:
        try:
            for piece in content:
                view = memoryview(piece)
                while view:
                    view = view[os.write(descriptor, view) :]
                self.size_bytes += len(piece)
            owner = self._owner_of(entry)
            if owner is not None:
                os.fchown(descriptor, *owner)
            os.fchmod(descriptor, self._mode(entry))
            if not self._host and _CAPABILITY in entry.xattrs:
                with contextlib.suppress(OSError):
                    os.setxattr(descriptor, _CAPABILITY, entry.xattrs[_CAPABILITY])
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(descriptor)

    def _settle_directory(self, parent: int, name: bytes, entry: TarEntry) -> None:
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            owner = self._owner_of(entry)
            if owner is not None:
                os.fchown(descriptor, *owner)
            os.fchmod(descriptor, self._mode(entry))
        finally:
            os.close(descriptor)
        self._times.append((entry.path, entry))
