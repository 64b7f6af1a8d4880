"""The build context as a tree: a host directory, seen through its ``.dockerignore``.

Reads directories lazily, one ``lstat`` per entry. Opens everything relative to directory descriptors and never follows a
symbolic link of the host, so that no path leads out of the context.

Portable (the default): what two checkouts of one commit do not share is not seen at all. Modes are 0644, or 0755 for
directories and for files whose owner may execute them (all that git keeps); the owner is 0:0; there are no extended attributes;
the time is the build's. The strict form keeps the permission bits as they are.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from types import TracebackType
from typing import Protocol

from contain.build.tree import Kind, Node, join, parent_of
from contain.dockerfile.patterns import IgnorePatterns
from contain.errors import Conflict, NotFound
from contain.paths import HostPath

_BLOCK_BYTES = 1 << 20
_RACY_NS = 2_000_000_000

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


class NoIndex:
    """Remembers nothing."""

    def lookup(self, status: os.stat_result) -> str | None:  # noqa: ARG002 - the protocol's shape
        """None."""
        return None

    def remember(self, status: os.stat_result, digest: str) -> None:
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


def _portable(node: Node, *, strict: bool, mtime_ns: int) -> Node:
    mode = node.mode
    if not strict and node.kind is not Kind.SYMLINK:
        mode = 0o755 if node.kind is Kind.DIRECTORY or node.mode & 0o100 else 0o644
    return Node(
        path=node.path,
        kind=node.kind,
        mode=mode,
        size=node.size if node.kind is Kind.FILE else 0,
        mtime_ns=mtime_ns,
        link_target=node.link_target,
        device=node.device,
        hard_link=node.hard_link,
    )


def hash_descriptor(descriptor: int) -> str:
    """``sha256:<hex>`` of all bytes of an open file."""
    digest = hashlib.sha256()
    while block := os.read(descriptor, _BLOCK_BYTES):
        digest.update(block)
    return "sha256:" + digest.hexdigest()


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
        self._listings: dict[str, dict[str, Node]] = {}
        self._status: dict[str, os.stat_result] = {}
        self._digests: dict[str, str] = {}
        try:
            self._root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise NotFound(
                f"the build context {str(directory)!r} is not a readable directory: {error.strerror}", code="context-not-found"
            ) from error

    def __enter__(self) -> ContextTree:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
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

    def _listing(self, path: str) -> dict[str, Node]:
        found = self._listings.get(path)
        if found is not None:
            return found
        found = {}
        descriptor = self._open_directory(path)
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    inner = join(path, entry.name)
                    excluded = bool(self._ignore) and self._ignore.ignores(inner)
                    if excluded and (not entry.is_dir(follow_symlinks=False) or self._ignore.prunes(inner)):
                        continue
                    status = entry.stat(follow_symlinks=False)
                    target = os.readlink(entry.name, dir_fd=descriptor) if stat.S_ISLNK(status.st_mode) else ""
                    node = _portable(node_of(inner, status, target), strict=self._strict, mtime_ns=self._mtime_ns)
                    if excluded and not self._listing(inner):
                        continue
                    found[entry.name] = node
                    self._status[inner] = status
        finally:
            os.close(descriptor)
        self._listings[path] = found
        return found

    def lookup(self, path: str) -> Node | None:
        """The entry at a path without links on the way; None if there is none or it is ignored."""
        if not path:
            return Node(path="", kind=Kind.DIRECTORY, mode=0o755, mtime_ns=self._mtime_ns)
        directory = parent_of(path)
        if directory:
            parent = self.lookup(directory)
            if parent is None or parent.kind is not Kind.DIRECTORY:
                return None
        return self._listing(directory).get(path.rpartition("/")[2])

    def listdir(self, path: str) -> tuple[str, ...]:
        """The names that are not ignored, sorted bytewise."""
        return tuple(sorted(self._listing(path), key=os.fsencode))

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
        directory, _, name = path.rpartition("/")
        try:
            parent = self._open_directory(directory)
            try:
                descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=parent)
            finally:
                os.close(parent)
        except PermissionError as error:
            raise Conflict(f"cannot read {path!r} in the build context: {error.strerror}", code="context-unreadable") from error
        except OSError as error:
            raise _changed(path) from error
        known, now = self._status[path], os.fstat(descriptor)
        if (known.st_dev, known.st_ino, known.st_size, known.st_mtime_ns, known.st_ctime_ns) != (
            now.st_dev,
            now.st_ino,
            now.st_size,
            now.st_mtime_ns,
            now.st_ctime_ns,
        ):
            os.close(descriptor)
            raise _changed(path)
        return descriptor

    def digest(self, path: str) -> str:
        """The file's sha256, from the index where its stat is known."""
        found = self._digests.get(path)
        if found is not None:
            return found
        status = self._status[path]
        found = self._index.lookup(status)
        if found is None:
            descriptor = self.open(path)
            try:
                found = hash_descriptor(descriptor)
            finally:
                os.close(descriptor)
            # A file written within the clock's last ticks can change again without its stat changing: not remembered.
            if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _RACY_NS:
                self._index.remember(status, found)
        self._digests[path] = found
        return found


def _changed(path: str) -> Conflict:
    return Conflict(
        f"the build context changed while it was read: {path!r}", code="context-changed", remedy="start the build again"
    )
