"""A root of one's own where no overlay can be written: layers copied together into one directory, and what was changed in it since.

Theory of operation. `copy_root` makes what an overlay of the layers would show, as plain files. `extract_changes` compares such a copy
with its layers and makes the directory that an overlay would have written to: changed files, whiteouts for names that are gone. All
that reads upper directories reads that one.

Nothing is missed: a file counts as unchanged if kind, mode, owner, size, time of change, attributes and, last, every byte are as in the
layers. Times of the kernel (ctime) are not asked: clocks are set back, and memory file systems do not note what is written through a
memory map.

Two names of one file in a layer (hard links) are two files in the copy. So they are after the first write to one of them in an
overlay, too (kernel, ``overlayfs.rst``, "Non-standard behavior"): a step that changes the owner of both leaves the same layer
either way. What has two names in a copy was linked by the container.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Mapping, Sequence

from contain.paths import HostPath
from contain.store.durable import explained
from contain.store.marks import is_whiteout, make_whiteout, read_xattrs
from contain.store.ownership import Ownership, explain_unmakeable
from contain.store.rooted import DirectoryCache, Root, join
from contain.store.rootview import Entry, Kind, RootView

_CHUNK_BYTES = 1 << 20
_CLONE = 0x40049409  # FICLONE, ioctl_ficlonerange(2)
_NODES = {Kind.CHARACTER: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK, Kind.FIFO: stat.S_IFIFO}
_MOST_LOOKS = 100
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.ETXTBSY, errno.EPERM)
Stubs = Sequence[tuple[str, bool]]
"""Mount points that are no part of an image: (path, whether it is a directory), parents first."""


def copy_root(trees: Sequence[HostPath], target: HostPath, *, stubs: Stubs = (), path: str = "/", devices: bool = True) -> None:
    """Fill ``target``, an empty directory of the caller's, with what layers (lowest first) show. ``stubs`` are made where nothing is.
    ``path``: the directory that is wanted of it; ``devices`` False: without the nodes of devices.

    Raises `HostError`: a full disk, owners or devices that this user may not make, attributes that the file system does not hold.
    """
    with explained(target), RootView(trees) as view, Root(target) as root:
        _Copier(root, path, devices=devices).copy(view, stubs)


def extract_changes(copy: HostPath, trees: Sequence[HostPath], upper: HostPath, *, stubs: Stubs = (), move: bool) -> None:
    """Make ``upper``, an empty directory, or none yet, the upper directory that an overlay would have: what in ``copy`` is not as in
    its layers.

    ``stubs``: as given to `copy_root`; what of them is as it was made is no change. ``move``: the files are taken out of the copy,
    which is of no use afterwards (both are on one file system); otherwise it stays as it is, and may be written to meanwhile.
    """
    upper.mkdir(exist_ok=True)
    with explained(upper), RootView(trees) as view, Root(copy) as source, Root(upper) as target:
        _Changes(source, target, view, stubs, move=move).extract()


class _Copier:
    def __init__(self, root: Root, path: str, *, devices: bool) -> None:
        self._root, self._path = root, path
        self._left_out = (Kind.SOCKET,) if devices else (Kind.SOCKET, Kind.CHARACTER, Kind.BLOCK)
        self._directories = DirectoryCache(root, follow=False)
        self._ownership = Ownership.of_this_process()

    def copy(self, view: RootView, stubs: Stubs) -> None:
        directories: list[tuple[bytes, Entry]] = []
        top = view.lookup(self._path)
        if top is None:  # no layers
            os.fchmod(self._root.descriptor, 0o755)
        start = "" if top is None else str(top.path)
        try:
            for entry in view.walk(start) if top is not None else ():
                raw = os.fsencode(entry.path)[len(os.fsencode(start)) :].lstrip(b"/")
                try:
                    if entry.kind is Kind.DIRECTORY:
                        if raw:
                            above, name = self._place(raw)
                            os.mkdir(name, 0o700, dir_fd=above)
                        directories.append((raw, entry))
                    elif entry.kind not in self._left_out:
                        self._copy(entry, *self._place(raw))
                except OSError as error:
                    raise explain_unmakeable(error, str(entry.path), "image") or error from error
            _make_stubs(self._root, stubs)
            for raw, entry in reversed(directories):
                try:
                    self._settle_file(entry, self._directories.get(raw))
                except OSError as error:
                    raise explain_unmakeable(error, str(entry.path), "image") or error from error
        finally:
            self._directories.forget()

    def _place(self, raw: bytes) -> tuple[int, bytes]:
        above, _, name = raw.rpartition(b"/")
        return self._directories.get(above), name

    def _copy(self, entry: Entry, above: int, name: bytes) -> None:
        match entry.kind:
            case Kind.FILE:
                descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=above)
                try:
                    if entry.size:
                        opened = entry.open_descriptor()
                        try:
                            _copy_bytes(opened, descriptor)
                        finally:
                            os.close(opened)
                    self._settle_file(entry, descriptor)
                finally:
                    os.close(descriptor)
                return
            case Kind.SYMLINK:
                os.symlink(os.fsencode(entry.link_target), name, dir_fd=above)
            case kind:
                os.mknod(name, _NODES[kind] | 0o600, os.makedev(*entry.device), dir_fd=above)
        owner = self._ownership.to_disk(entry.uid, entry.gid, name)
        if owner is not None:
            os.chown(name, *owner, dir_fd=above, follow_symlinks=False)
        if entry.kind is not Kind.SYMLINK:
            os.chmod(name, entry.mode, dir_fd=above)  # made here, so it is no link
        for key, value in entry.xattrs.items():
            os.setxattr(b"/proc/self/fd/%d/%s" % (above, name), key, value, follow_symlinks=False)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=above, follow_symlinks=False)

    def _settle_file(self, entry: Entry, descriptor: int) -> None:
        owner = self._ownership.to_disk(entry.uid, entry.gid, os.fsencode(entry.path))
        if owner is not None:
            os.fchown(descriptor, *owner)
        os.fchmod(descriptor, entry.mode)  # after the owner: its change takes the setuid bits away
        for key, value in entry.xattrs.items():  # and capabilities
            os.setxattr(descriptor, key, value)
        os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))


def _make_stubs(root: Root, stubs: Stubs) -> None:
    """Where a link or a file is in the way, the image has its own opinion, and whoever mounts there follows it."""
    for path, is_directory in stubs:
        above, _, name = os.fsencode(path)[1:].rpartition(b"/")
        try:
            parent = root.open_directory(above, follow=False)
        except OSError:
            continue
        try:
            with contextlib.suppress(FileExistsError):
                if is_directory:
                    os.mkdir(name, 0o755, dir_fd=parent)
                    os.chmod(name, 0o755, dir_fd=parent)  # noqa: S103 -- whatever the umask; it stands inside directories of mode 0700
                else:
                    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=parent)
                    os.fchmod(descriptor, 0o644)
                    os.close(descriptor)
        finally:
            os.close(parent)


def _copy_bytes(source: int, target: int) -> None:
    """All of a file: shared blocks where the file system can (ioctl_ficlone(2)), else its data, with holes where it has holes."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(target, _CLONE, source)
        return
    found = os.fstat(source)
    if found.st_blocks * 512 >= found.st_size:
        _copy_range(source, target, 0, found.st_size)
        return
    os.ftruncate(target, found.st_size)
    end = 0
    while end < found.st_size:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no more data (lseek(2))
                return
            raise
        end = os.lseek(source, start, os.SEEK_HOLE)
        _copy_range(source, target, start, end)


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    """Within the kernel, or by hand."""
    try:
        while start < end and (done := os.copy_file_range(source, target, end - start, start, start)):
            start += done
    except OSError as error:
        if error.errno not in _NO_COPY:
            raise
    # Some file systems say "nothing left" where they cannot (copy_file_range(2), BUGS): what is left is copied by hand.
    while start < end and (data := os.pread(source, min(end - start, _CHUNK_BYTES), start)):
        start += os.pwrite(target, data, start)


class _Level:
    """A directory of the copy that is being compared. ``below``: the layers' directory, or None where there is none; ``made``: there
    is one in the upper directory; ``seen``: which of its names have been compared."""

    __slots__ = ("again", "below", "found", "lower", "made", "name", "names", "path", "seen")

    def __init__(self, path: bytes, name: bytes, found: os.stat_result, below: Entry | None) -> None:
        self.path, self.name, self.found, self.below = path, name, found, below
        self.names: list[bytes] = []
        self.lower: dict[bytes, Entry] = {}
        self.seen: set[bytes] = set()
        self.made = False
        self.again = 0


class _Changes:
    def __init__(self, source: Root, target: Root, view: RootView, stubs: Stubs, *, move: bool) -> None:
        self._view, self._move = view, move
        self._source = DirectoryCache(source, follow=False)
        self._target = DirectoryCache(target, follow=False)
        self._stubs = {os.fsencode(path)[1:] for path, _ in stubs}
        self._top = os.fstat(source.descriptor)
        self._copied: dict[int, bytes] = {}  # the first path of each file that has several
        self._ownership = Ownership.of_this_process()

    def extract(self) -> None:
        """Level by level, each directory of the upper one made when something in it, or it itself, turns out to differ."""
        top = _Level(b"", b"", self._top, self._view.lookup("/"))
        top.made = True
        try:
            self._enter(top)
            waiting = [top]
            while waiting:
                level = waiting[-1]
                if level.names:
                    child = self._try_name(waiting, level.names.pop())
                    if child is not None:
                        waiting.append(child)
                    continue
                self._leave(waiting)
                waiting.pop()
        finally:
            self._source.forget()
            self._target.forget()

    def _try_name(self, waiting: list[_Level], name: bytes) -> _Level | None:
        """`_name`, and the directory that it may be entered. A container that runs may remove or replace it meanwhile: what is gone is
        gone, and what is another thing now is looked at again."""
        level = waiting[-1]
        try:
            child = self._name(waiting, name)
            if child is not None:
                self._enter(child)
        except OSError as error:
            if self._move or error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            level.seen.discard(name)
            if self._is_there(join(level.path, name)):
                level.again += 1
                if level.again > _MOST_LOOKS:
                    raise
                level.names.append(name)
                if level.made:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=self._target.get(level.path))
            return None
        return child

    def _is_there(self, path: bytes) -> bool:
        above, _, name = path.rpartition(b"/")
        self._source.forget()
        try:
            os.stat(name, dir_fd=self._source.get(above), follow_symlinks=False)
        except OSError:
            return False
        return True

    def _enter(self, level: _Level) -> None:
        if level.below is not None:
            level.lower = {os.fsencode(name): entry for name, entry in self._view.entries(level.below.path)}
        with os.scandir(self._source.get(level.path)) as entries:
            level.names = sorted((os.fsencode(entry.name) for entry in entries), reverse=True)

    def _name(self, waiting: list[_Level], name: bytes) -> _Level | None:
        """Compare one name; a directory is returned, to be entered."""
        level = waiting[-1]
        path = join(level.path, name)
        parent = self._source.get(level.path)
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if is_whiteout(found):
            return None  # nothing is there: as a name that is missing
        level.seen.add(name)
        below = level.lower.get(name)
        if stat.S_ISDIR(found.st_mode):
            return _Level(path, name, found, below if below is not None and below.kind is Kind.DIRECTORY else None)
        if below is None and path in self._stubs and stat.S_ISREG(found.st_mode) and found.st_size == 0:
            return None
        if below is None or not self._is_same(parent, name, found, below):
            self._make_all(waiting)
            self._take(level.path, name, found)
        return None

    def _leave(self, waiting: list[_Level]) -> None:
        """All that is in a directory has been seen; what is left of its lower names is gone."""
        level = waiting[-1]
        for name in level.lower:
            if name not in level.seen:
                self._make_all(waiting)
                make_whiteout(self._target.get(level.path), name)
        if not level.made and not self._is_same_directory(level):
            self._make_all(waiting)
        if level.made:
            self._settle_directory(level)

    def _make_all(self, waiting: list[_Level]) -> None:
        """The directory and those above it, in the upper one."""
        for level in waiting:
            if not level.made:
                above, _, name = level.path.rpartition(b"/")
                os.mkdir(name, 0o700, dir_fd=self._target.get(above))
                level.made = True

    def _is_same(self, parent: int, name: bytes, found: os.stat_result, below: Entry) -> bool:
        before = below.host_stat
        if found.st_nlink > 1 or (found.st_mode, found.st_mtime_ns) != (before.st_mode, before.st_mtime_ns):
            return False
        if (found.st_uid, found.st_gid, found.st_rdev) != (before.st_uid, before.st_gid, before.st_rdev):
            return False
        if found.st_size != before.st_size or _attributes(parent, name) != dict(below.xattrs):
            return False
        if stat.S_ISLNK(found.st_mode):
            return os.fsdecode(os.readlink(name, dir_fd=parent)) == below.link_target
        return not stat.S_ISREG(found.st_mode) or not found.st_size or _same_content(parent, name, below)

    def _is_same_directory(self, level: _Level) -> bool:
        attributes = self._attributes_of(level)
        if level.below is None:
            plain = (level.found.st_mode & 0o7777, level.found.st_uid, level.found.st_gid) == (
                0o755,
                os.geteuid(),
                os.getegid(),
            )
            return level.path in self._stubs and plain and not attributes
        before, found = level.below.host_stat, level.found
        return (
            (found.st_mode, found.st_uid, found.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
            and found.st_mtime_ns == before.st_mtime_ns
            and attributes == dict(level.below.xattrs)
        )

    def _take(self, directory: bytes, name: bytes, found: os.stat_result) -> None:
        """A file, link or node, into the upper directory as it is."""
        source, target = self._source.get(directory), self._target.get(directory)
        if self._move:
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
            return
        if found.st_nlink > 1:
            first = self._copied.setdefault(found.st_ino, join(directory, name))
            if first != join(directory, name):
                above, _, first_name = first.rpartition(b"/")
                os.link(
                    first_name,
                    name,
                    src_dir_fd=self._target.get(above),
                    dst_dir_fd=self._target.get(directory),
                    follow_symlinks=False,
                )
                return
        attributes = _attributes(source, name)
        if stat.S_ISREG(found.st_mode):
            self._copy_file(source, target, name)
        elif stat.S_ISLNK(found.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        else:
            os.mknod(name, stat.S_IFMT(found.st_mode) | 0o600, found.st_rdev, dir_fd=target)
        os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
        if not stat.S_ISLNK(found.st_mode):
            os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=target)
        place = b"/proc/self/fd/%d/%s" % (target, name)
        for key, value in attributes.items():
            os.setxattr(place, key, value, follow_symlinks=False)
        os.utime(name, ns=(found.st_mtime_ns, found.st_mtime_ns), dir_fd=target, follow_symlinks=False)

    def _copy_file(self, source: int, target: int, name: bytes) -> None:
        opened = os.open(name, _READ, dir_fd=source)
        try:
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                raise FileNotFoundError(errno.ENOENT, "it is no file any more", os.fsdecode(name))
            made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
            try:
                _copy_bytes(opened, made)
            finally:
                os.close(made)
        finally:
            os.close(opened)

    def _attributes_of(self, level: _Level) -> Mapping[str, bytes]:
        """Of a directory; none if a container that runs has removed it since it was entered."""
        try:
            return _attributes(self._source.get(level.path), b".")
        except OSError as error:
            if self._move or error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            return {}

    def _settle_directory(self, level: _Level) -> None:
        attributes = self._attributes_of(level)
        descriptor = self._target.get(level.path)
        found = level.found
        os.fchown(descriptor, found.st_uid, found.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(found.st_mode))
        for key, value in attributes.items():
            os.setxattr(descriptor, key, value)
        os.utime(descriptor, ns=(found.st_mtime_ns, found.st_mtime_ns))


def _attributes(parent: int, name: bytes) -> Mapping[str, bytes]:
    return {os.fsdecode(key): value for key, value in read_xattrs(parent, name).items()}


def _same_content(parent: int, name: bytes, below: Entry) -> bool:
    mine = os.open(name, _READ, dir_fd=parent)
    try:
        theirs = below.open_descriptor()
        try:
            while True:
                data = os.read(mine, _CHUNK_BYTES)
                if data != _read_exactly(theirs, len(data) or 1):
                    return False
                if not data:
                    return True
        finally:
            os.close(theirs)
    finally:
        os.close(mine)


def _read_exactly(descriptor: int, size: int) -> bytes:
    pieces: list[bytes] = []
    while size and (data := os.read(descriptor, size)):
        pieces.append(data)
        size -= len(data)
    return b"".join(pieces)
