"""The build context as a tree: a host directory, seen through its ``.dockerignore``.

Reads directories lazily, one ``lstat`` per entry. Opens everything relative to directory descriptors and never follows a
symbolic link of the host, so that no path leads out of the context.

Portable (the default): what two checkouts of one commit do not share is not seen at all. Modes are 0644, or 0755 for
directories and for files whose owner may execute them (all that git keeps); the owner is 0:0; there are no extended attributes;
the time is the build's. The strict form keeps the permission bits as they are.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import stat
import time
from collections.abc import Iterator, Sequence
from types import TracebackType

from contain.annotations import Protocol
from contain.build.copy.selection import combine_digests, describe_entry, hash_lines
from contain.build.record.values import LOCK_NAME
from contain.build.trees.tree import Kind, Node, join, parent_of
from contain.dockerfile.patterns import IgnorePatterns
from contain.errors import Conflict, NotFound
from contain.paths import HostPath

_BLOCK_BYTES = 1 << 20
_SMALL_BYTES = 1 << 16
_KEPT_BYTES = 48 << 20
_FINE_NS, _COARSE_NS = 100_000_000, 2_000_000_000
_FORMAT, _DIRECTORY, _FILE = 0o170000, stat.S_IFDIR, stat.S_IFREG
_ALGORITHM = len("sha256:")
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFSOCK: Kind.SOCKET,
}


class DigestIndex(Protocol):
    """Digests remembered by a file's stat: the store's file digest index."""

    def lookup(self, status: os.stat_result) -> str | None:
        """The digest of the unchanged file, or None."""

    def remember(self, status: os.stat_result, digest: str) -> None:
        """Keep a digest for later builds."""

    def lookup_directories(self, states: Sequence[bytes]) -> dict[bytes, bytes]:
        """The digests of directories in these states, as far as they are known."""

    def remember_directory(self, state: bytes, digest: bytes) -> None:
        """Keep the digest of a directory in this state."""


class NoIndex:
    """Remembers nothing."""

    def lookup(self, status: os.stat_result) -> str | None:  # noqa: ARG002 - the protocol's shape
        """None."""
        return None

    def remember(self, status: os.stat_result, digest: str) -> None:
        """Nothing."""

    def lookup_directories(self, states: Sequence[bytes]) -> dict[bytes, bytes]:  # noqa: ARG002 - the protocol's shape
        """None."""
        return {}

    def remember_directory(self, state: bytes, digest: bytes) -> None:
        """Nothing."""


def node_of(path: str, status: os.stat_result, link_target: str) -> Node:
    """A tree's entry from what ``lstat`` says."""
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    device = (os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in (Kind.CHARACTER, Kind.BLOCK) else (0, 0)
    linked = kind is not Kind.DIRECTORY and status.st_nlink > 1
    return Node(
        path=path,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        user_id=status.st_uid,
        group_id=status.st_gid,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        link_target=link_target,
        device=device,
        hard_link=(status.st_dev, status.st_ino) if linked else None,
    )


def _portable_node(path: str, status: os.stat_result, link_target: str, *, strict: bool, mtime_ns: int) -> Node:
    """As `node_of`, without what two checkouts of one commit do not share."""
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    mode = stat.S_IMODE(status.st_mode)
    if not strict and kind is not Kind.SYMLINK:
        mode = 0o755 if kind is Kind.DIRECTORY or mode & 0o100 else 0o644
    device = (os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in (Kind.CHARACTER, Kind.BLOCK) else (0, 0)
    linked = kind is not Kind.DIRECTORY and status.st_nlink > 1
    return Node(
        path=path,
        kind=kind,
        mode=mode,
        size=status.st_size if kind is Kind.FILE else 0,
        mtime_ns=mtime_ns,
        link_target=link_target,
        device=device,
        hard_link=(status.st_dev, status.st_ino) if linked else None,
    )


def hash_descriptor(descriptor: int) -> str:
    """``sha256:<hex>`` of all bytes of an open file."""
    digest = hashlib.sha256()
    while block := os.read(descriptor, _BLOCK_BYTES):
        digest.update(block)
    return "sha256:" + digest.hexdigest()


class KeptContents:
    """What small files held when they were hashed, for the copy that follows; up to a limit."""

    def __init__(self) -> None:
        self._contents: dict[str, bytes] = {}
        self._left = _KEPT_BYTES

    def take(self, path: str) -> bytes | None:
        """A file's content, once."""
        content = self._contents.pop(path, None)
        if content is not None:
            self._left += len(content)
        return content

    def hash(self, path: str, descriptor: int, size: int) -> str:
        """`hash_descriptor` of a newly opened file that should have ``size`` bytes."""
        if size > _SMALL_BYTES:
            return hash_descriptor(descriptor)
        content = os.read(descriptor, size + 1)
        if len(content) != size:  # it was cut or grows, or this file system gives less than there is
            os.lseek(descriptor, 0, os.SEEK_SET)
            return hash_descriptor(descriptor)
        if size <= self._left:
            self._left -= size
            self._contents[path] = content
        return "sha256:" + hashlib.sha256(content).hexdigest()


class ContextTree:
    """A `Tree` over a host directory. A context manager: it holds a descriptor on the directory.

    An excluded directory is looked into where a later ``!`` pattern can bring back something below it.
    """

    def __init__(
        self,
        directory: HostPath,
        *,
        ignore: IgnorePatterns | None = None,
        strict: bool = False,
        epoch_seconds: int = 0,
        index: DigestIndex | None = None,
    ) -> None:
        self.directory = directory
        self._ignore = ignore or IgnorePatterns()
        self._strict = strict
        self._mtime_ns = epoch_seconds * 1_000_000_000
        self._index: DigestIndex = index or NoIndex()
        self._opened_ns = time.time_ns()
        self._state_kind = b"strict" if strict else b"portable"
        self._listings: dict[str, dict[str, os.stat_result]] = {}
        self._directories: dict[str, os.stat_result] = {}
        self._nodes: dict[str, Node] = {}
        self._borrowed: tuple[str, int] | None = None
        self._digests: dict[str, str] = {}
        self._contents = KeptContents()
        try:
            self._root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise NotFound(
                f"the build context {str(directory)!r} is not a readable directory: {error.strerror}", code="context-not-found"
            ) from error

    def __enter__(self) -> ContextTree:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._borrowed is not None:
            os.close(self._borrowed[1])
        os.close(self._root)

    def _open_directory(self, path: str) -> int:
        descriptor = os.dup(self._root)
        for part in filter(None, path.split("/")):
            try:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = inner
        return descriptor

    def _borrow_directory(self, path: str) -> int:
        """A descriptor that stays ours, valid until the next call: files are mostly asked for directory by directory."""
        if self._borrowed is None or self._borrowed[0] != path:
            descriptor = self._open_directory(path)
            if self._borrowed is not None:
                os.close(self._borrowed[1])
            self._borrowed = (path, descriptor)
        return self._borrowed[1]

    def _listing(self, path: str) -> dict[str, os.stat_result]:
        """What is in a directory and not ignored, sorted bytewise."""
        found = self._listings.get(path)
        if found is None:
            descriptor = self._open_directory(path)
            try:
                found = self._read(path, descriptor)
            finally:
                os.close(descriptor)
        return found

    def _read(self, path: str, descriptor: int) -> dict[str, os.stat_result]:
        ignore = self._ignore or None
        self._directories[path] = os.fstat(descriptor)
        found: dict[str, os.stat_result] = {}
        with os.scandir(descriptor) as entries:
            if ignore is None:
                for entry in entries:
                    found[entry.name] = entry.stat(follow_symlinks=False)
            else:
                every = list(entries)
                ignored = ignore.ignored_names(path, [entry.name for entry in every])
                for entry in every:
                    excluded = entry.name in ignored
                    inner = join(path, entry.name)
                    if excluded and (not entry.is_dir(follow_symlinks=False) or ignore.prunes(inner)):
                        continue
                    status = entry.stat(follow_symlinks=False)
                    if excluded and not self._listing(inner):
                        continue
                    found[entry.name] = status
        found.pop(LOCK_NAME, None)  # it holds the digest of the image that it would become a part of
        names = sorted(found) if "".join(found).isascii() else sorted(found, key=os.fsencode)
        found = {name: found[name] for name in names}
        self._listings[path] = found
        return found

    def observed(self) -> Iterator[tuple[str, os.stat_result]]:
        """Everything that was looked at, as it was then: directories whose names were read, and what they hold."""
        for directory, status in self._directories.items():
            yield directory, status
            for name, inner in self._listings[directory].items():
                if not stat.S_ISDIR(inner.st_mode):
                    yield join(directory, name), inner

    def _node(self, path: str, status: os.stat_result) -> Node:
        node = self._nodes.get(path)
        if node is None:
            target = self._link_target(path) if stat.S_ISLNK(status.st_mode) else ""
            node = _portable_node(path, status, target, strict=self._strict, mtime_ns=self._mtime_ns)
            self._nodes[path] = node
        return node

    def _link_target(self, path: str) -> str:
        directory, _, name = path.rpartition("/")
        try:
            return os.readlink(name, dir_fd=self._borrow_directory(directory))
        except OSError as error:
            raise _changed(path) from error

    def _status(self, path: str) -> os.stat_result:
        directory, _, name = path.rpartition("/")
        return self._listing(directory)[name]

    def lookup(self, path: str) -> Node | None:
        """The entry at a path without links on the way; None if there is none or it is ignored."""
        if not path:
            return Node(path="", kind=Kind.DIRECTORY, mode=0o755, mtime_ns=self._mtime_ns)
        directory, _, name = path.rpartition("/")
        if directory and directory not in self._listings:  # what was listed is a directory
            parent = self.lookup(directory)
            if parent is None or parent.kind is not Kind.DIRECTORY:
                return None
        status = self._listing(directory).get(name)
        return None if status is None else self._node(path, status)

    def listdir(self, path: str) -> tuple[str, ...]:
        """The names that are not ignored, sorted bytewise."""
        return tuple(self._listing(path))

    def digest_directory(self, path: str, links: dict[tuple[int, int], str]) -> tuple[bytes, int]:
        """What `contain.build.copy.selection.digest_directory_slowly` says of a directory, without looking at what is known.

        One ``lstat`` for each entry. A directory in which no entry's state has changed keeps the digest of its entries: the index knows
        it by a hash of all those states, so nothing is asked of it file by file.
        """
        descriptor = self._open_directory(path)
        try:
            walked: list[_Walked] = []
            self._walk(path, "", descriptor, walked)
        finally:
            os.close(descriptor)
        known = self._index.lookup_directories([each.state for each in walked if each.state])
        for each in walked:
            own = known.get(each.state)
            if own is None:
                own = self._digest_own(each, links)
            each.digest = own
        for each in reversed(walked):  # what is below comes later
            each.digest = combine_digests(each.digest, [inner.digest for inner in each.below])
        return walked[0].digest, sum(len(each.entries) for each in walked)

    def _walk(self, path: str, shown: str, descriptor: int, walked: list[_Walked]) -> _Walked:
        entries = self._listings.get(path)
        if entries is None:
            entries = self._read(path, descriptor)
        directories: list[str] = []
        states: list[tuple[str | int, ...]] = []
        linked = False
        newest_ns = 0
        for name, status in entries.items():
            mode = status.st_mode
            if mode & _FORMAT == _DIRECTORY:
                directories.append(name)
                states.append((name, mode))
                continue
            changed_ns = status.st_ctime_ns
            if changed_ns > newest_ns:
                newest_ns = changed_ns
            if status.st_nlink > 1:
                linked = True
            states.append((name, mode, status.st_size, status.st_mtime_ns, changed_ns, status.st_ino, status.st_dev))
        # A file with several names can be told only together with its other names. Version 2 of marshal has no references, so
        # that equal values are equal bytes.
        state = b"" if linked else hashlib.sha256(self._state_kind + marshal.dumps(states, 2)).digest()
        mine = _Walked(path, shown, entries, state, newest_ns)
        walked.append(mine)
        for name in directories:
            try:
                inner = os.open(name, _DIRECTORY_FLAGS, dir_fd=descriptor)
            except PermissionError as error:
                raise _unreadable(join(path, name), error) from error
            except OSError as error:
                raise _changed(join(path, name)) from error
            try:
                mine.below.append(self._walk(join(path, name), join(shown, name), inner, walked))
            finally:
                os.close(inner)
        return mine

    def _digest_own(self, walked: _Walked, links: dict[tuple[int, int], str]) -> bytes:
        lines = []
        for name, status in walked.entries.items():
            path = join(walked.path, name)
            mode = status.st_mode
            if mode & _FORMAT == _FILE and status.st_nlink == 1:  # as `describe_entry` would say it
                bits = mode & 0o7777 if self._strict else 0o755 if mode & 0o100 else 0o644
                lines.append(f"{name} file {bits:o} 0:0 {self._digest(path, status)[_ALGORITHM:]}\0")
                continue
            lines.append(f"{name}{describe_entry(self, self._node(path, status), links, join(walked.shown, name))}\0")
        digest = hash_lines(lines)
        if walked.state and self._settled(walked.newest_ns):
            self._index.remember_directory(walked.state, digest)
        return digest

    def excluded(self, path: str) -> bool:
        """Whether something is there on disk and only ``.dockerignore`` hides it: for error messages."""
        try:
            descriptor = self._open_directory(parent_of(path))
        except OSError:
            return False
        try:
            os.lstat(path.rpartition("/")[2], dir_fd=descriptor)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return self.lookup(path) is None

    def open(self, path: str) -> int:
        """A descriptor on a file, unchanged since it was listed; raises `Conflict` (code ``context-changed``) otherwise."""
        return self._open_file(path, self._status(path))

    def _open_file(self, path: str, known: os.stat_result) -> int:
        directory, _, name = path.rpartition("/")
        try:
            parent = self._borrow_directory(directory)
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=parent)
        except PermissionError as error:
            raise _unreadable(path, error) from error
        except OSError as error:
            raise _changed(path) from error
        if not _same_state(known, os.fstat(descriptor)):
            os.close(descriptor)
            raise _changed(path)
        return descriptor

    def take_content(self, path: str) -> bytes | None:
        """What a small file holds. Once, what it held when its digest was made: a copy of exactly what the cache key speaks of, without
        reading it again. None of a large file. Raises `Conflict` (code ``context-changed``) where it is not as it was listed."""
        content = self._contents.take(path)
        if content is not None:
            return content
        status = self._status(path)
        if status.st_size > _SMALL_BYTES:
            return None
        descriptor = self._open_file(path, status)
        try:
            content = os.read(descriptor, status.st_size + 1)
            same = _same_state(status, os.fstat(descriptor))
        finally:
            os.close(descriptor)
        if not same:
            raise _changed(path)
        return content if len(content) == status.st_size else None

    def _settled(self, newest_ns: int) -> bool:
        """Whether a change after the look would have given another time. What was written within the clock's last ticks before the
        look can change again, also while it is being read, and look the same: its digest is not remembered."""
        margin_ns = _COARSE_NS if newest_ns % 1_000_000_000 == 0 else _FINE_NS
        return self._opened_ns - newest_ns >= margin_ns

    def digest(self, path: str) -> str:
        """The file's sha256, from the index where its stat is known."""
        found = self._digests.get(path)
        return self._digest(path, self._status(path)) if found is None else found

    def _digest(self, path: str, status: os.stat_result) -> str:
        found = self._digests.get(path) or self._index.lookup(status)
        if found is None:
            descriptor = self._open_file(path, status)
            try:
                found = self._contents.hash(path, descriptor, status.st_size)
            finally:
                os.close(descriptor)
            if self._settled(max(status.st_mtime_ns, status.st_ctime_ns)):
                self._index.remember(status, found)
        self._digests[path] = found
        return found


def _same_state(known: os.stat_result, now: os.stat_result) -> bool:
    return (
        known.st_ino == now.st_ino
        and known.st_ctime_ns == now.st_ctime_ns
        and known.st_mtime_ns == now.st_mtime_ns
        and known.st_size == now.st_size
        and known.st_dev == now.st_dev
    )


class _Walked:
    """One directory of a walk. ``state``: a hash of all that ``lstat`` says, or empty if that cannot name the content."""

    __slots__ = ("below", "digest", "entries", "newest_ns", "path", "shown", "state")

    def __init__(self, path: str, shown: str, entries: dict[str, os.stat_result], state: bytes, newest_ns: int) -> None:
        self.path, self.shown, self.entries, self.state, self.newest_ns = path, shown, entries, state, newest_ns
        self.below: list[_Walked] = []
        self.digest = b""


def _unreadable(path: str, error: OSError) -> Conflict:
    return Conflict(
        f"cannot read {path!r} in the build context: {error.strerror}",
        code="context-unreadable",
        remedy="make it readable, or leave it out of the context: a line in .dockerignore",
    )


def _changed(path: str) -> Conflict:
    return Conflict(
        f"the build context changed while it was read: {path!r}", code="context-changed", remedy="start the build again"
    )
