"""A plain directory, or this machine's own root, read as a root file system: every path beneath one descriptor.

Links are resolved inside the root, whoever changes what meanwhile (`contain.beneath`). Reads only.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from contain.annotations import BinaryIO
from contain.beneath import open_beneath
from contain.values import dataclass

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READING = os.O_RDONLY | os.O_NONBLOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryEntry:
    """One path below a plain directory."""

    path: str
    kind: str
    mode: int
    uid: int
    gid: int
    host_stat: os.stat_result
    link_target: str
    device: tuple[int, int] | None
    xattrs: Mapping[str, bytes]
    root: _Root

    @property
    def size(self) -> int:
        """Bytes of content."""
        return self.host_stat.st_size

    def open(self) -> BinaryIO:
        """The content, without following a link that appeared meanwhile and without blocking on a FIFO."""
        return os.fdopen(open_beneath(self.root.descriptor, self.path, _READING, links=False), "rb")


class _Root:
    """The descriptor of a directory, closed with the last who knows it."""

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


_STAT_KINDS = {0o10: "file", 0o4: "directory", 0o12: "symlink", 0o2: "char", 0o6: "block", 0o1: "fifo", 0o14: "socket"}


class DirectoryFiles:
    """A plain directory (or this machine's ``/``) as a `RootFiles`. ``skips``: absolute paths inside it that are left out."""

    def __init__(self, root: str, *, skips: Sequence[str] = ()) -> None:
        self.root = os.path.realpath(root)
        self.skips = frozenset(skips)
        self._root = _Root(root)

    def read(self, path: str, *, limit_bytes: int) -> bytes:
        """The content of a regular file of at most ``limit_bytes``; OSError otherwise."""
        with os.fdopen(open_beneath(self._root.descriptor, path, _READING), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", path)
            data = stream.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise OSError(errno.EFBIG, "file is larger than expected", path)
        return data

    def listdir(self, path: str) -> Sequence[str]:
        """The names in a directory."""
        descriptor = open_beneath(self._root.descriptor, path, _DIRECTORY)
        try:
            return sorted(os.listdir(descriptor))
        finally:
            os.close(descriptor)

    def walk(self) -> Iterator[DirectoryEntry]:
        """Every path below the root, sorted within its directory, skipped directories left out. What vanishes is passed over."""
        yield self._entry("/", self._root.descriptor, ".", os.fstat(self._root.descriptor))
        pending = [""]
        while pending:
            directory = pending.pop()
            try:
                descriptor = open_beneath(self._root.descriptor, directory, _DIRECTORY, links=False)
            except OSError:
                continue
            below = []
            try:
                for name in sorted(os.listdir(descriptor), key=os.fsencode):
                    path = f"{directory}/{name}"
                    if path in self.skips:
                        continue
                    try:
                        found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                        entry = self._entry(path, descriptor, name, found)
                    except OSError:
                        continue
                    yield entry
                    if entry.kind == "directory":
                        below.append(path)
            except OSError:
                continue
            finally:
                os.close(descriptor)
            pending.extend(reversed(below))

    def _entry(self, path: str, parent: int, name: str, status: os.stat_result) -> DirectoryEntry:
        kind = _STAT_KINDS[status.st_mode >> 12]
        attributes: dict[str, bytes] = {}
        if kind == "file" and status.st_mode & 0o111:  # capabilities matter only on what can be executed
            with suppress(OSError):  # none, or a file system without them
                place = f"/proc/self/fd/{parent}/{name}"
                attributes["security.capability"] = os.getxattr(place, "security.capability", follow_symlinks=False)
        return DirectoryEntry(
            path=path,
            kind=kind,
            mode=status.st_mode & 0o7777,
            uid=status.st_uid,
            gid=status.st_gid,
            host_stat=status,
            link_target=os.readlink(name, dir_fd=parent) if kind == "symlink" else "",
            device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in {"char", "block"} else None,
            xattrs=attributes,
            root=self._root,
        )
