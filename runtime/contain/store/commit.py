"""Turns an overlay upper directory into a canonical layer tree, in place.

Theory of operation. What overlay leaves in an upper directory depends on how the change came about; a layer must depend only on
what changed. So, comparing with the merged lower layers:
- a copied-up file, link, device or directory that equals what is below (kind, mode, owner, attributes, link target, content;
  not the time) is removed again;
- a whiteout of a name that the lower layers do not have is removed;
- an opaque directory becomes an ordinary one with an explicit whiteout for each lower name that it hid;
- sockets go (a whiteout takes their place where they replaced something);
- overlay's own attributes go; times newer than the epoch become the epoch, others lose their fraction of a second;
- a directory stays if it is new or changed, or if anything below it stays.

`contain.store.tree.canonical_tar` of the result is the layer's archive. Whether the root directory itself has an entry in it is
the one thing that the tree cannot say; it is returned. It has one when its mode, owner or attributes differ from those of the
merged lower root (0755, 0:0, none, if there is no lower layer).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping

from contain.errors import NotSupported
from contain.store.marks import is_opaque, is_overlays, is_stand_in, is_whiteout, make_whiteout, read_xattrs
from contain.store.ownership import Ownership
from contain.store.rooted import DirectoryCache, Root, join, list_names
from contain.store.rootview import Entry, Kind, RootView
from contain.store.tree import iterate_tree
from contain.values import dataclass

_CHUNK_BYTES = 1 << 20
_LONGEST_PATH = 4095


@dataclass(frozen=True, slots=True, kw_only=True)
class Canonical:
    """What `canonicalise` left: whether there is anything at all, and whether the archive begins with an entry for ``/``.
    ``stand_ins``: as of `contain.store.extract.Extracted`."""

    changed: bool
    root_entry: bool
    stand_ins: bool = False


def canonicalise(upper: Root, lower: RootView, *, epoch_seconds: int) -> Canonical:
    """Rework the tree as described above. ``lower`` may be a view of no trees at all."""
    return _Canonicaliser(upper, lower, epoch_seconds).run()


class _Canonicaliser:
    def __init__(self, upper: Root, lower: RootView, epoch_seconds: int) -> None:
        self._upper, self._lower = upper, lower
        self._epoch_ns = epoch_seconds * 1_000_000_000
        self._directories = DirectoryCache(upper, follow=False, size=64)
        self._ownership = Ownership.of_this_process()
        self._links: dict[int, list[bytes]] | None = None  # paths of each file that has several
        self._dropped: dict[int, bool] = {}
        self._stand_ins = False

    def run(self) -> Canonical:
        try:
            root_found = os.fstat(self._upper.descriptor)
            kept = self._tree()
            below = self._lower.lookup("/")
            mode, owner = stat.S_IMODE(root_found.st_mode), self._ownership.to_layer(root_found.st_uid, root_found.st_gid)
            attributes = read_xattrs(self._upper.descriptor, b".")
            if below is None:
                root_entry = (mode, owner, dict(attributes)) != (0o755, (0, 0), {})
            else:
                root_entry = (mode, owner) != (below.mode, (below.uid, below.gid)) or not _same_xattrs(attributes, below)
            return Canonical(changed=kept or root_entry, root_entry=root_entry, stand_ins=self._stand_ins)
        finally:
            self._directories.forget()

    def _tree(self) -> bool:
        """Rework everything, the deepest first: whether a directory stays depends on what is below it."""
        root = _Level(b"", b"", os.fstat(self._upper.descriptor), self._lower.lookup("/"), opaque_above=False)
        self._enter(root)
        waiting = [root]
        while True:
            level = waiting[-1]
            if level.names:
                child = self._name(level, level.names.pop())
                if child is not None:
                    self._enter(child)
                    waiting.append(child)
                continue
            waiting.pop()
            if not waiting:
                self._settle_directory(level)
                return level.kept
            self._leave(waiting[-1], level)

    def _enter(self, level: _Level) -> None:
        if len(level.path) > _LONGEST_PATH:
            raise NotSupported(f"a path of {len(level.path)} bytes in a layer", code="layer-cannot-hold")
        descriptor = self._directories.get(level.path)
        level.opaque = level.opaque_above or is_opaque(descriptor)
        level.names = list_names(descriptor)[::-1]
        if level.opaque and level.lower is not None:
            self._spell_out(level, descriptor)

    def _spell_out(self, level: _Level, descriptor: int) -> None:
        """Explicit whiteouts for what an opaque directory hides."""
        present = set(level.names)
        for text in self._lower.listdir(level.lower.path if level.lower else "/"):
            name = os.fsencode(text)
            if name not in present:
                self._make_whiteout(descriptor, name)
                level.kept = True

    def _make_whiteout(self, directory: int, name: bytes) -> None:
        self._stand_ins = make_whiteout(directory, name) or self._stand_ins
        os.utime(name, ns=(self._epoch_ns, self._epoch_ns), dir_fd=directory, follow_symlinks=False)

    def _below(self, level: _Level, name: bytes) -> Entry | None:
        if level.lower is None:
            return None
        return self._lower.lookup("/" + os.fsdecode(join(level.path, name)), follow=False)

    def _name(self, level: _Level, name: bytes) -> _Level | None:
        """Rework one name; a directory is returned, to be entered."""
        directory = self._directories.get(level.path)
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        below = self._below(level, name)
        if is_whiteout(found):
            if below is None:
                os.unlink(name, dir_fd=directory)
                return None
            self._stand_ins = self._stand_ins or is_stand_in(found)
            os.utime(name, ns=(self._epoch_ns, self._epoch_ns), dir_fd=directory, follow_symlinks=False)
        elif stat.S_ISSOCK(found.st_mode):
            os.unlink(name, dir_fd=directory)
            if below is None:
                return None
            self._make_whiteout(directory, name)
        elif stat.S_ISDIR(found.st_mode):
            lower = below if below is not None and below.kind is Kind.DIRECTORY else None
            return _Level(join(level.path, name), name, found, lower, opaque_above=level.opaque)
        elif self._is_copy(level, name, found, below):
            os.unlink(name, dir_fd=directory)
            return None
        else:
            self._settle(directory, name, found)
        level.kept = True
        return None

    def _leave(self, above: _Level, level: _Level) -> None:
        """All of a directory's names are done: keep it or not."""
        directory = self._directories.get(above.path)
        if (
            not level.kept
            and level.lower is not None
            and self._same_attributes(directory, level.name, level.found, level.lower)
        ):
            self._directories.forget()
            os.rmdir(level.name, dir_fd=self._directories.get(above.path))
            return
        self._settle_directory(level)
        above.kept = True

    def _settle_directory(self, level: _Level) -> None:
        descriptor = self._directories.get(level.path)
        self._drop_overlay_xattrs(b"/proc/self/fd/%d/." % descriptor)
        mtime_ns = self._clamped(level.found)
        os.utime(descriptor, ns=(mtime_ns, mtime_ns))

    def _settle(self, directory: int, name: bytes, found: os.stat_result) -> None:
        self._drop_overlay_xattrs(b"/proc/self/fd/%d/%s" % (directory, name))
        mtime_ns = self._clamped(found)
        if mtime_ns != found.st_mtime_ns:
            os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=directory, follow_symlinks=False)

    def _clamped(self, found: os.stat_result) -> int:
        if found.st_mtime_ns > self._epoch_ns:
            return self._epoch_ns
        return found.st_mtime_ns // 1_000_000_000 * 1_000_000_000

    @staticmethod
    def _drop_overlay_xattrs(path: bytes) -> None:
        try:
            names = os.listxattr(path, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
                return
            raise
        for name in names:
            if is_overlays(os.fsencode(name)):
                os.removexattr(path, name, follow_symlinks=False)

    def _is_copy(self, level: _Level, name: bytes, found: os.stat_result, below: Entry | None) -> bool:
        """Whether the upper's file says nothing that the lower layers do not say."""
        if found.st_nlink == 1:
            return below is not None and self._equals(level.path, name, found, below)
        if self._links is None:
            self._links = self._find_links()
        known = self._dropped.get(found.st_ino)
        if known is None:
            known = self._dropped[found.st_ino] = self._is_copied_group(self._links.get(found.st_ino, []), found)
        return known

    def _find_links(self) -> dict[int, list[bytes]]:
        paths: dict[int, list[bytes]] = {}
        for node in iterate_tree(self._upper):
            if node.found.st_nlink > 1 and not stat.S_ISDIR(node.found.st_mode) and not is_whiteout(node.found):
                paths.setdefault(node.found.st_ino, []).append(node.path)
        return paths

    def _is_copied_group(self, paths: list[bytes], found: os.stat_result) -> bool:
        """Hard links stay or go together, or the names that stay would no longer be one file with the names that went."""
        identities = set()
        for path in paths:
            below = self._lower.lookup("/" + os.fsdecode(path), follow=False)
            directory, _, name = path.rpartition(b"/")
            if below is None or not self._equals(directory, name, found, below):
                return False
            identities.add(below.identity)
        return len(identities) == 1

    def _equals(self, directory: bytes, name: bytes, found: os.stat_result, below: Entry) -> bool:
        if stat.S_IFMT(found.st_mode) != stat.S_IFMT(below.host_stat.st_mode):
            return False
        parent = self._directories.get(directory)
        if stat.S_ISLNK(found.st_mode):
            if os.fsdecode(os.readlink(name, dir_fd=parent)) != below.link_target:
                return False
        elif stat.S_ISREG(found.st_mode):
            if found.st_size != below.size:
                return False
        elif found.st_rdev != below.host_stat.st_rdev:
            return False
        if not self._same_attributes(parent, name, found, below):
            return False
        return not stat.S_ISREG(found.st_mode) or found.st_size == 0 or _same_content(parent, name, below)

    def _same_attributes(self, parent: int, name: bytes, found: os.stat_result, below: Entry) -> bool:
        if self._ownership.to_layer(found.st_uid, found.st_gid) != (below.uid, below.gid):
            return False
        if not stat.S_ISLNK(found.st_mode) and stat.S_IMODE(found.st_mode) != below.mode:
            return False
        return _same_xattrs(read_xattrs(parent, name), below)


class _Level:
    """A directory that is being worked on."""

    __slots__ = ("found", "kept", "lower", "name", "names", "opaque", "opaque_above", "path")

    def __init__(self, path: bytes, name: bytes, found: os.stat_result, lower: Entry | None, *, opaque_above: bool) -> None:
        self.path, self.name, self.found, self.lower, self.opaque_above = path, name, found, lower, opaque_above
        self.names: list[bytes] = []
        self.opaque = False
        self.kept = False


def _same_xattrs(attributes: Mapping[bytes, bytes], below: Entry) -> bool:
    return {os.fsdecode(key): value for key, value in attributes.items()} == dict(below.xattrs)


def _same_content(parent: int, name: bytes, below: Entry) -> bool:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    with os.fdopen(descriptor, "rb", buffering=0) as mine, below.open() as theirs:
        while True:
            data = mine.read(_CHUNK_BYTES)
            if data != theirs.read(len(data) or 1):
                return False
            if not data:
                return True
