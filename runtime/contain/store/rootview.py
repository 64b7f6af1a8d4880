"""What a container would see of its image, read without mounting anything: layer trees merged as overlay merges them.

Whiteouts and opaque directories are honoured, links are resolved inside the root with a limit on their number, and every access
goes through directory descriptors: nothing an image holds can lead a reader out of it. Reads only, and only what is asked for.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import PurePosixPath
from types import MappingProxyType, TracebackType

from contain.annotations import BinaryIO
from contain.errors import IntegrityError, NotFound
from contain.paths import HostPath
from contain.store.marks import is_opaque, is_whiteout, read_xattrs
from contain.store.ownership import Ownership
from contain.store.rooted import DirectoryCache, Root, join, list_names, split_path

_HOPS = 40
_DIRECTORIES_REMEMBERED = 4096


class Kind(Enum):
    """What a name in a file system stands for."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    CHARACTER = "character"
    BLOCK = "block"
    FIFO = "fifo"
    SOCKET = "socket"


_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
}


class Entry:
    """One thing in a merged root. Valid as long as its `RootView` is open.

    ``mode`` is without type bits; ``uid`` and ``gid`` are those that a container sees. ``host_stat`` is lstat(2)'s answer on
    this machine, the key of `FileDigests`.
    """

    __slots__ = ("_raw", "_tree", "_view", "gid", "host_stat", "kind", "mode", "uid")

    def __init__(self, view: RootView, tree: int, raw: bytes, found: os.stat_result) -> None:
        self._view, self._tree, self._raw = view, tree, raw
        self.host_stat = found
        self.kind = _KINDS[stat.S_IFMT(found.st_mode)]
        self.mode = stat.S_IMODE(found.st_mode)
        self.uid, self.gid = view.ownership.to_layer(found.st_uid, found.st_gid)

    def __repr__(self) -> str:
        return f"Entry({str(self.path)!r}, {self.kind.value}, {self.mode:04o}, {self.uid}:{self.gid})"

    @property
    def path(self) -> PurePosixPath:
        """Absolute, free of links."""
        return PurePosixPath("/" + os.fsdecode(self._raw))

    @property
    def size(self) -> int:
        """Bytes of a file's content; 0 for other kinds."""
        return self.host_stat.st_size if self.kind is Kind.FILE else 0

    @property
    def mtime_ns(self) -> int:
        """Modification time in nanoseconds."""
        return self.host_stat.st_mtime_ns

    @property
    def device(self) -> tuple[int, int]:
        """Major and minor number of a device node, else 0, 0."""
        if self.kind not in (Kind.CHARACTER, Kind.BLOCK):
            return (0, 0)
        return (os.major(self.host_stat.st_rdev), os.minor(self.host_stat.st_rdev))

    @property
    def link_target(self) -> str:
        """Where a symbolic link points, as written; empty for other kinds."""
        if self.kind is not Kind.SYMLINK:
            return ""
        parent, name = self._view.locate(self._tree, self._raw)
        return os.fsdecode(os.readlink(name, dir_fd=parent))

    @property
    def xattrs(self) -> Mapping[str, bytes]:
        """The extended attributes that are part of an image."""
        parent, name = self._view.locate(self._tree, self._raw)
        return MappingProxyType({os.fsdecode(key): value for key, value in read_xattrs(parent, name).items()})

    @property
    def identity(self) -> tuple[int, int]:
        """Equal for two names of one file (hard links)."""
        return (self.host_stat.st_dev, self.host_stat.st_ino)

    @property
    def host_path(self) -> HostPath:
        """Where it lies on this machine: one tree's, of a directory the topmost."""
        return self._view.trees[-1 - self._tree] / os.fsdecode(self._raw)

    def open(self) -> BinaryIO:
        """A file's content. Raises `NotFound` for anything but a regular file."""
        return os.fdopen(self.open_descriptor(), "rb")

    def open_descriptor(self) -> int:
        """The same as a descriptor, which the caller closes."""
        if self.kind is not Kind.FILE:
            raise NotFound(f"{self.path} is a {self.kind.value}, not a file", code="not-a-file")
        parent, name = self._view.locate(self._tree, self._raw)
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise NotFound(f"{self.path} is not a file any more", code="not-a-file")
        return descriptor


class RootView:
    """Layer trees, lowest first, as one read-only file system. A context manager; closes itself when it is collected, too."""

    def __init__(self, trees: Sequence[HostPath]) -> None:
        self.ownership = Ownership.of_this_process()
        self._roots: list[Root] = []
        self._paths = tuple(reversed(trees))  # topmost first from here on
        try:
            for tree in self._paths:
                self._roots.append(Root(tree))
        except BaseException:
            self.close()
            raise
        # All descriptors of all trees together stay below the usual limit of 1024.
        share = max(2, min(32, 256 // max(1, len(self._roots))))
        self._directories = [DirectoryCache(root, follow=False, size=share) for root in self._roots]
        self._parts: dict[bytes, tuple[int, ...]] = {b"": self._root_parts()}

    def __enter__(self) -> RootView:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    @property
    def trees(self) -> tuple[HostPath, ...]:
        """The layer trees, lowest first."""
        return tuple(reversed(self._paths))

    def close(self) -> None:
        """Give all descriptors back."""
        for directory in getattr(self, "_directories", ()):
            directory.forget()
        for root in getattr(self, "_roots", ()):
            root.close()

    def locate(self, tree: int, raw: bytes) -> tuple[int, bytes]:
        """The descriptor of the directory of a path in one tree (valid until the next call) and the last name."""
        if not raw:
            return self._roots[tree].descriptor, b"."
        directory, _, name = raw.rpartition(b"/")
        return self._directories[tree].get(directory), name

    def lookup(self, path: PurePosixPath | str, *, follow: bool = True) -> Entry | None:
        """What is at a path, or None. ``follow``: a link at the end is resolved too; links on the way always are, inside the
        root."""
        waiting = deque(split_path(os.fsencode(path)))
        resolved: list[bytes] = []
        hops = 0
        while waiting:
            name = waiting.popleft()
            if name == b"..":
                if resolved:
                    resolved.pop()
                continue
            directory = b"/".join(resolved)
            child = self._child(directory, name)
            if child is None:
                return None
            tree, found = child
            if stat.S_ISLNK(found.st_mode) and (waiting or follow):
                hops += 1
                if hops > _HOPS:
                    return None
                target = os.readlink(name, dir_fd=self._directories[tree].get(directory))
                if target.startswith(b"/"):
                    resolved.clear()
                waiting.extendleft(reversed(split_path(target)))
                continue
            if waiting and not stat.S_ISDIR(found.st_mode):
                return None
            resolved.append(name)
        return self._entry(b"/".join(resolved))

    def listdir(self, path: PurePosixPath | str) -> tuple[str, ...]:
        """The names in a directory, sorted bytewise. Raises `NotFound`."""
        entry = self.lookup(path)
        if entry is None or entry.kind is not Kind.DIRECTORY:
            raise NotFound(f"{path}: no such directory in the image", code="no-such-file")
        return tuple(os.fsdecode(name) for name, _, _ in self._children(os.fsencode(entry.path)[1:]))

    def entries(self, path: PurePosixPath | str) -> tuple[tuple[str, Entry], ...]:
        """What `listdir` names, with what is there. Raises `NotFound`."""
        entry = self.lookup(path)
        if entry is None or entry.kind is not Kind.DIRECTORY:
            raise NotFound(f"{path}: no such directory in the image", code="no-such-file")
        raw = os.fsencode(entry.path)[1:]
        return tuple(
            (os.fsdecode(name), Entry(self, tree, join(raw, name), found)) for name, tree, found in self._children(raw)
        )

    def parts(self, path: PurePosixPath | str) -> tuple[HostPath, ...]:
        """The host directories that make up a directory, topmost first: what an overlay of it alone consists of. A directory on the
        way that is a link is followed; none if it is no directory."""
        entry = self.lookup(path)
        if entry is None or entry.kind is not Kind.DIRECTORY:
            return ()
        raw = os.fsencode(entry.path)[1:]
        return tuple(self._paths[tree] / os.fsdecode(raw) for tree in self._contributors(raw))

    def walk(self, path: PurePosixPath | str = "/") -> Iterator[Entry]:
        """The entry at ``path`` (not following a link) and everything below it: parents first, names sorted bytewise, no
        whiteouts."""
        start = self.lookup(path, follow=False)
        if start is None:
            return
        yield start
        if start.kind is not Kind.DIRECTORY:
            return
        first = os.fsencode(start.path)[1:]
        waiting = [(first, self._children(first)[::-1])]
        while waiting:
            directory, children = waiting[-1]
            if not children:
                waiting.pop()
                continue
            name, tree, found = children.pop()
            raw = join(directory, name)
            yield Entry(self, tree, raw, found)
            if stat.S_ISDIR(found.st_mode):
                waiting.append((raw, self._children(raw)[::-1]))

    def read(self, path: PurePosixPath | str, *, limit_bytes: int) -> bytes:
        """A file's content, links followed. Raises `NotFound`, or `IntegrityError` (``file-too-large``) beyond the limit."""
        entry = self.lookup(path)
        if entry is None:
            raise NotFound(f"{path}: no such file in the image", code="no-such-file")
        with entry.open() as file:
            data = file.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise IntegrityError(f"{path} in the image is larger than {limit_bytes} bytes", code="file-too-large")
        return data

    def _entry(self, raw: bytes) -> Entry | None:
        if not raw:
            if not self._roots:
                return None
            tree = self._root_tree()
            return Entry(self, tree, b"", os.fstat(self._roots[tree].descriptor))
        directory, _, name = raw.rpartition(b"/")
        child = self._child(directory, name)
        return None if child is None else Entry(self, child[0], raw, child[1])

    def _root_tree(self) -> int:
        """The topmost tree that says something about the root directory itself: a layer without an entry for it does not."""
        for index, path in enumerate(self._paths):
            if states_root(path):
                return index
        return len(self._paths) - 1

    def _child(self, directory: bytes, name: bytes) -> tuple[int, os.stat_result] | None:
        """The tree that provides a name, and lstat(2)'s answer there."""
        for tree in self._contributors(directory):
            try:
                found = os.stat(name, dir_fd=self._directories[tree].get(directory), follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                if error.errno == errno.ENAMETOOLONG:
                    return None
                raise
            return None if is_whiteout(found) else (tree, found)
        return None

    def _children(self, directory: bytes) -> list[tuple[bytes, int, os.stat_result]]:
        """Name, tree and status of everything visible in a directory, sorted."""
        merged: dict[bytes, tuple[int, os.stat_result]] = {}
        for tree in self._contributors(directory):
            descriptor = self._directories[tree].get(directory)
            for name in list_names(descriptor):
                if name not in merged:
                    merged[name] = (tree, os.stat(name, dir_fd=descriptor, follow_symlinks=False))
        return sorted((name, tree, found) for name, (tree, found) in merged.items() if not is_whiteout(found))

    def _root_parts(self) -> tuple[int, ...]:
        parts = []
        for index in range(len(self._roots)):
            parts.append(index)
            if is_opaque(self._roots[index].descriptor):
                break
        return tuple(parts)

    def _contributors(self, directory: bytes) -> tuple[int, ...]:
        """Which trees have a part in a merged directory, topmost first; none if it is no directory."""
        known = self._parts.get(directory)
        if known is not None:
            return known
        above, _, name = directory.rpartition(b"/")
        parts = []
        for tree in self._contributors(above):
            try:
                found = os.stat(name, dir_fd=self._directories[tree].get(above), follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if not stat.S_ISDIR(found.st_mode):
                break  # a whiteout or a file: what is below it is hidden
            try:
                opaque = is_opaque(self._directories[tree].get(directory))
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                break  # a mount point, as in the host's own root: what is mounted there is not part of this file system
            parts.append(tree)
            if opaque:
                break
        if len(self._parts) > _DIRECTORIES_REMEMBERED:
            root_parts = self._parts[b""]
            self._parts.clear()
            self._parts[b""] = root_parts
        self._parts[directory] = tuple(parts)
        return tuple(parts)


def states_root(tree: HostPath) -> bool:
    """Whether a tree's own root directory carries the image's attributes of ``/``. True for trees that are not the store's
    layers."""
    return bool(_record(tree).get("root_entry", True))


def has_stand_ins(tree: HostPath) -> bool:
    """Whether a layer has whiteouts that the kernel's overlay does not understand (`contain.store.marks`)."""
    return bool(_record(tree).get("stand_ins", False))


def _record(tree: HostPath) -> Mapping[str, object]:
    try:
        record: Mapping[str, object] = json.loads((tree.parent / "layer.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return record
