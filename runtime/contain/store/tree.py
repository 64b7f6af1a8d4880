"""The canonical tar stream of a layer tree on disk: the same bytes for the same tree, wherever and whenever it is read.

Order: a directory, then its whiteouts, then its other names, each sorted bytewise, depth first; so parents come first and a
whiteout before its siblings. The first path of a hard-linked file in that order is the file, the others are links. Reads only.

Times are written as whole seconds as they are on disk: clamping them is `contain.store.commit`'s work.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from contain.errors import IntegrityError, NotSupported
from contain.store.marks import WHITEOUT_PREFIX, is_whiteout, read_xattrs
from contain.store.ownership import Ownership
from contain.store.rooted import DirectoryCache, Root, join, list_names
from contain.store.tar_header import END_OF_ARCHIVE, TarEntry, TarKind, padding_bytes, render_entry, render_file

_CHUNK_BYTES = 1 << 20
_JOINED_BYTES = 1 << 16  # so much is given out as one piece
_LONGEST_PATH = 4095

_KINDS = {
    stat.S_IFREG: TarKind.FILE,
    stat.S_IFLNK: TarKind.SYMLINK,
    stat.S_IFCHR: TarKind.CHARACTER,
    stat.S_IFBLK: TarKind.BLOCK,
    stat.S_IFDIR: TarKind.DIRECTORY,
    stat.S_IFIFO: TarKind.FIFO,
}


class Node:
    """One name in a tree on disk: its path from the root, a descriptor of its directory (valid until the next step), what
    lstat(2) says."""

    __slots__ = ("found", "name", "parent", "path")

    def __init__(self, path: bytes, parent: int, name: bytes, found: os.stat_result) -> None:
        self.path, self.parent, self.name, self.found = path, parent, name, found


def iterate_tree(root: Root) -> Iterator[Node]:
    """Every name below the root, in layer order. Sockets are left out: no archive can hold one."""
    directories = DirectoryCache(root, follow=False)
    waiting: list[tuple[bytes, list[tuple[bytes, os.stat_result]]]] = []

    def enter(path: bytes) -> None:
        if len(path) > _LONGEST_PATH:
            raise NotSupported(f"a path of {len(path)} bytes in a layer", code="layer-cannot-hold")
        descriptor = directories.get(path)
        found = [(name, os.stat(name, dir_fd=descriptor, follow_symlinks=False)) for name in list_names(descriptor)]
        found.sort(key=lambda item: not is_whiteout(item[1]))  # stable: whiteouts first, each part sorted by name
        found.reverse()
        waiting.append((path, found))

    try:
        enter(b"")
        while waiting:
            directory, names = waiting[-1]
            if not names:
                waiting.pop()
                continue
            name, found = names.pop()
            path = join(directory, name)
            if stat.S_ISSOCK(found.st_mode) and not is_whiteout(found):
                continue
            yield Node(path, directories.get(directory), name, found)
            if stat.S_ISDIR(found.st_mode):
                enter(path)
    finally:
        directories.forget()


def describe(node: Node, ownership: Ownership) -> TarEntry:
    """The archive entry of a node, not yet knowing about hard links."""
    found = node.found
    kind = _KINDS[stat.S_IFMT(found.st_mode)]
    user_id, group_id = ownership.to_layer(found.st_uid, found.st_gid)
    return TarEntry(
        path=node.path,
        kind=kind,
        mode=0o777 if kind is TarKind.SYMLINK else stat.S_IMODE(found.st_mode),
        user_id=user_id,
        group_id=group_id,
        size_bytes=found.st_size if kind is TarKind.FILE else 0,
        mtime_ns=found.st_mtime_ns,
        link=os.readlink(node.name, dir_fd=node.parent) if kind is TarKind.SYMLINK else b"",
        device=(os.major(found.st_rdev), os.minor(found.st_rdev)) if kind in (TarKind.CHARACTER, TarKind.BLOCK) else (0, 0),
        xattrs=read_xattrs(node.parent, node.name),
    )


def canonical_tar(
    root: Root, *, root_entry: bool, ownership: Ownership | None = None, contents: bool = True
) -> Iterator[bytes]:
    """The archive, piece by piece. ``root_entry``: begin with an entry for the root directory itself. ``contents`` False: leave out
    what is in the files, which are not opened then.

    Raises `NotSupported` (code ``layer-cannot-hold``) for what the format has no place for: names that begin with ``.wh.``.
    """
    ownership = ownership or Ownership.of_this_process()
    first_paths: dict[int, bytes] = {}
    if root_entry:
        found = os.fstat(root.descriptor)
        yield render_entry(describe(Node(b".", root.descriptor, b".", found), ownership))
    for node in iterate_tree(root):
        found = node.found
        if is_whiteout(found):
            directory, slash, name = node.path.rpartition(b"/")
            path = directory + slash + WHITEOUT_PREFIX + name
            yield render_entry(TarEntry(path=path, kind=TarKind.FILE, mode=0, mtime_ns=found.st_mtime_ns))
            continue
        if node.name.startswith(WHITEOUT_PREFIX):
            raise NotSupported(
                f"/{os.fsdecode(node.path)}: file names that begin with '.wh.' are reserved by the image format",
                code="layer-cannot-hold",
            )
        if found.st_nlink == 1 and stat.S_ISREG(found.st_mode) and not read_xattrs(node.parent, node.name):
            user_id, group_id = ownership.to_layer(found.st_uid, found.st_gid)
            size = found.st_size
            header = render_file(node.path, stat.S_IMODE(found.st_mode), user_id, group_id, size, found.st_mtime_ns)
            if not contents:
                yield header + bytes(padding_bytes(size))
            elif size > _JOINED_BYTES:
                yield header
                yield from _content(node, size)
                if padding := padding_bytes(size):
                    yield bytes(padding)
            elif size:
                yield b"".join((header, *_content(node, size), bytes(padding_bytes(size))))
            else:
                yield header
            continue
        entry = describe(node, ownership)
        if found.st_nlink > 1 and entry.kind is not TarKind.DIRECTORY:
            first = first_paths.setdefault(found.st_ino, node.path)
            if first != node.path:
                yield render_entry(
                    TarEntry(
                        path=node.path,
                        kind=TarKind.HARD_LINK,
                        mode=entry.mode,
                        user_id=entry.user_id,
                        group_id=entry.group_id,
                        mtime_ns=entry.mtime_ns,
                        link=first,
                    )
                )
                continue
        yield render_entry(entry)
        if entry.kind is TarKind.FILE and entry.size_bytes:
            if contents:
                yield from _content(node, entry.size_bytes)
            if padding := padding_bytes(entry.size_bytes):
                yield bytes(padding)
    yield END_OF_ARCHIVE


def _content(node: Node, size_bytes: int) -> Iterator[bytes]:
    descriptor = os.open(node.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=node.parent)
    try:
        left = size_bytes
        while left:
            data = os.read(descriptor, min(left, _CHUNK_BYTES))
            if not data:
                raise IntegrityError(f"/{os.fsdecode(node.path)} became shorter while it was read", code="tree-changed")
            left -= len(data)
            yield data
    finally:
        os.close(descriptor)
