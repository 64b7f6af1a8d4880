"""Unpacks one layer's tar archive into a directory, beneath that directory's descriptor only.

What ends on disk is an overlay lower directory: ``.wh.x`` becomes the character device 0:0 called ``x`` (or what stands in for it,
`contain.store.marks`), ``.wh..wh..opq`` the attribute ``user.overlay.opaque=y`` on its directory. Never follows a link out of the
tree, never uses a path of the archive in another way than through `Root`. Deciding what the result is called, and removing it when
something was wrong, is the caller's.

Rules (image-spec ``layer.md``, and what Docker and containerd do where it is silent):
- A leading ``/`` means the tree's root; a ``..`` anywhere is refused.
- A parent that is a link of the same layer is followed inside the tree; a missing parent is made (0755, owner 0:0).
- A later entry replaces an earlier one of the same path; a directory on a directory only changes its attributes.
- A hard link's target must be in the same layer and must not be a directory or a whiteout.
- Overlay's own attributes (``user.overlay.*``, ``trusted.overlay.*``) and ``security.*`` except ``security.capability`` are
  left out: they describe another machine's mounts and policies. A device 0:0 is refused, for it would be a whiteout in
  disguise.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from contain.store.durable import remove_tree
from contain.store.marks import OPAQUE_MARK, OPAQUE_XATTR, WHITEOUT_PREFIX, is_whiteout, keeps_xattr, make_whiteout
from contain.store.ownership import Ownership, explain_unmakeable
from contain.store.rooted import DIRECTORY_FLAGS, DirectoryCache, Root, split_path
from contain.store.tar_header import TarEntry, TarKind
from contain.store.tar_reader import TarLimits, TarReader, bad_layer, shown
from contain.values import dataclass

_AUFS_PREFIX = b".wh..wh."  # .wh..wh.plnk, .wh..wh.aufs: metadata of a file system of the past
_LONGEST_NAME = 255
_NODE_KINDS = {TarKind.CHARACTER: stat.S_IFCHR, TarKind.BLOCK: stat.S_IFBLK, TarKind.FIFO: stat.S_IFIFO}


@dataclass(slots=True)
class _Directory:
    path: bytes
    entry: TarEntry | None  # None: made because something below it needed it


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """What was in the archive: number of entries, payload bytes, and whether it says something about the root directory itself.
    ``stand_ins``: some of its whiteouts are such that the kernel does not understand them (`contain.store.marks`)."""

    entries: int
    content_bytes: int
    root_entry: bool
    stand_ins: bool = False


def extract_tree(
    read: Callable[[int], bytes],
    tree: str | os.PathLike[str] | int,
    *,
    limits: TarLimits,
    whiteouts: bool = True,
    require_end: bool = False,
    walker: bool = False,
    ownership: Ownership | None = None,
    outline: Callable[[bytes], object] | None = None,
) -> Extracted:
    """Unpack the tar stream ``read`` into the directory ``tree`` and read the stream to its end.

    ``whiteouts`` False: names that begin with ``.wh.`` are ordinary files (an archive that is not a layer). ``require_end``: an
    archive without its end mark is refused (use it when no digest covers the stream). ``outline``: see `TarReader`.
    Raises `IntegrityError`, or `HostError` when this machine may not make what the archive asks for.
    """
    with Root(tree, walker=walker) as root:
        extractor = _Extractor(root, whiteouts=whiteouts, ownership=ownership or Ownership.of_this_process(), limits=limits)
        try:
            reader = TarReader(read, limits, outline=outline)
            for entry in reader:
                extractor.add(entry, reader)
            if require_end and not reader.saw_end:
                raise bad_layer("it ends without an end mark: cut short, or not a tar archive")
            reader.drain()
            extractor.finish()
        finally:
            extractor.parents.forget()
        return Extracted(
            entries=extractor.entries,
            content_bytes=extractor.content_bytes,
            root_entry=extractor.root_entry,
            stand_ins=extractor.stand_ins,
        )


class _Extractor:
    def __init__(self, root: Root, *, whiteouts: bool, ownership: Ownership, limits: TarLimits) -> None:
        self.root = root
        self.parents = DirectoryCache(root, follow=True)
        self.entries = 0
        self.content_bytes = 0
        self.root_entry = False
        self.stand_ins = False
        self._whiteouts = whiteouts
        self._ownership = ownership
        self._limits = limits
        # By inode, since two paths may reach one directory through a link. Attributes are set at the end: the content changes
        # a directory's time, and an ordinary user could not fill a directory of mode 0555.
        self._directories: dict[int, _Directory] = {}
        self._stale = False

    def add(self, entry: TarEntry, reader: TarReader) -> None:
        """Make one entry."""
        self.entries += 1
        if self._stale:
            self.parents.forget()
            self._stale = False
        parts = self._components(entry.path)
        if not parts:
            if entry.kind is not TarKind.DIRECTORY:
                raise bad_layer(f"the root directory as a {entry.kind.name.lower()}")
            self.root_entry = True
            self._note_directory(self.root.descriptor, b"", entry)
            return
        name = parts[-1]
        parent_path = b"/".join(parts[:-1])
        whiteout = self._whiteouts and name.startswith(WHITEOUT_PREFIX)
        parent = self._parent(parent_path)
        try:
            if whiteout:
                self._whiteout(parent, name, entry)
            elif entry.kind is TarKind.DIRECTORY:
                self._directory(parent, name, b"/".join(parts), entry)
            else:
                self._replaceable(parent, name, entry, reader)
        except OSError as error:
            raise self._explain(error, entry) from error

    def _components(self, path: bytes) -> list[bytes]:
        if len(path) > self._limits.path_bytes:
            raise bad_layer(f"a path of {len(path)} bytes")
        parts = split_path(path)
        if len(parts) > self._limits.depth:
            raise bad_layer(f"{shown(path)} is {len(parts)} directories deep")
        for part in parts:
            if part == b"..":
                raise bad_layer(f"{shown(path)} leads out of its directory")
            if len(part) > _LONGEST_NAME:
                raise bad_layer(f"{shown(path)} has a name of {len(part)} bytes")
        return parts

    def _parent(self, path: bytes) -> int:
        try:
            return self.parents.get(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._explain_path(error, path) from error
        above, _, name = path.rpartition(b"/")
        directory = self._parent(above)
        try:
            os.mkdir(name, 0o700, dir_fd=directory)
        except FileExistsError as error:
            # The name is there and yet the path does not exist: a dangling link. A loop through it cannot be made whole.
            raise bad_layer(f"{shown(path)} is a link that leads nowhere, and something is to be put below it") from error
        except OSError as error:
            raise self._explain_path(error, path) from error
        descriptor = os.open(name, DIRECTORY_FLAGS, dir_fd=directory)
        try:
            self._note_directory(descriptor, path, None)
        finally:
            os.close(descriptor)
        return self.parents.get(path)

    def _note_directory(self, descriptor: int, path: bytes, entry: TarEntry | None) -> None:
        self._directories[os.fstat(descriptor).st_ino] = _Directory(path, entry)
        if len(self._directories) > self._limits.directories:
            raise bad_layer(f"more than {self._limits.directories} directories")

    def _whiteout(self, parent: int, name: bytes, entry: TarEntry) -> None:
        if entry.kind is not TarKind.FILE:
            raise bad_layer(f"{shown(entry.path)} is a whiteout that is not a file")
        if name == OPAQUE_MARK:
            os.setxattr(parent, OPAQUE_XATTR, b"y")
            return
        if name.startswith(_AUFS_PREFIX):
            return
        hidden = name[len(WHITEOUT_PREFIX) :]
        if hidden in (b"", b".", b".."):
            raise bad_layer(f"{shown(entry.path)} is not a valid whiteout")
        # A whiteout hides what lower layers have. What this very layer has under the name stays, whichever comes first.
        try:
            self.stand_ins = make_whiteout(parent, hidden) or self.stand_ins
        except FileExistsError:
            if stat.S_ISDIR(os.stat(hidden, dir_fd=parent, follow_symlinks=False).st_mode):
                self._make_opaque(parent, hidden)
            return
        os.utime(hidden, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _directory(self, parent: int, name: bytes, path: bytes, entry: TarEntry) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                was_whiteout = is_whiteout(found)
                self._remove(parent, name)
                os.mkdir(name, 0o700, dir_fd=parent)
                if was_whiteout:
                    self._make_opaque(parent, name)
        descriptor = os.open(name, DIRECTORY_FLAGS, dir_fd=parent)
        try:
            self._note_directory(descriptor, path, entry)
        finally:
            os.close(descriptor)

    def _make_opaque(self, parent: int, name: bytes) -> None:
        """``.wh.x`` followed by a directory ``x``: everything that lower layers have below ``x`` is gone."""
        descriptor = os.open(name, DIRECTORY_FLAGS, dir_fd=parent)
        try:
            os.setxattr(descriptor, OPAQUE_XATTR, b"y")
        finally:
            os.close(descriptor)

    def _replaceable(self, parent: int, name: bytes, entry: TarEntry, reader: TarReader) -> None:
        try:
            self._make(parent, name, entry, reader)
        except FileExistsError:
            if entry.kind is TarKind.HARD_LINK and self._is_same(parent, name, entry):
                return
            self._remove(parent, name)
            self._make(parent, name, entry, reader)

    def _make(self, parent: int, name: bytes, entry: TarEntry, reader: TarReader) -> None:
        kind = entry.kind
        if kind is TarKind.FILE:
            self._file(parent, name, entry, reader)
            return
        if kind is TarKind.HARD_LINK:
            self._hard_link(parent, name, entry)
            return
        if kind is TarKind.SYMLINK:
            if not entry.link or len(entry.link) > self._limits.path_bytes:
                raise bad_layer(f"{shown(entry.path)} links to a path of {len(entry.link)} bytes")
            os.symlink(entry.link, name, dir_fd=parent)
        else:
            if kind is TarKind.CHARACTER and entry.device == (0, 0):
                raise bad_layer(f"{shown(entry.path)} is the device 0:0, which would hide files as a whiteout does")
            os.mknod(name, _NODE_KINDS[kind] | 0o600, os.makedev(*entry.device), dir_fd=parent)
        owner = self._owner(entry)
        if owner is not None:
            os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)
        if kind is not TarKind.SYMLINK:
            os.chmod(name, entry.mode, dir_fd=parent)  # the node was made here with O_EXCL semantics: it is no link
        if entry.xattrs:
            self._set_xattrs(f"/proc/self/fd/{parent}/".encode() + name, entry, follow=False)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _file(self, parent: int, name: bytes, entry: TarEntry, reader: TarReader) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            for data in reader.payload():
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
            self.content_bytes += entry.size_bytes
            owner = self._owner(entry)
            if owner is not None:
                os.fchown(descriptor, *owner)
            os.fchmod(descriptor, entry.mode)  # after chown, which takes the setuid bits away
            if entry.xattrs:
                self._set_xattrs(descriptor, entry, follow=True)
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(descriptor)

    def _link_target(self, entry: TarEntry) -> tuple[int, bytes]:
        """A descriptor (to be closed) of the directory of a hard link's target, and the target's name in it."""
        parts = self._components(entry.link)
        if not parts or (self._whiteouts and parts[-1].startswith(WHITEOUT_PREFIX)):
            raise bad_layer(f"{shown(entry.path)} is a hard link to {shown(entry.link)}")
        directory = self.root.open_directory(b"/".join(parts[:-1]), follow=True)
        return directory, parts[-1]

    def _hard_link(self, parent: int, name: bytes, entry: TarEntry) -> None:
        try:
            directory, target = self._link_target(entry)
        except OSError as error:
            raise self._no_target(entry) from error
        try:
            try:
                found = os.stat(target, dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError as error:
                raise self._no_target(entry) from error
            if stat.S_ISDIR(found.st_mode) or is_whiteout(found):
                raise self._no_target(entry)
            os.link(target, name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(directory)

    def _no_target(self, entry: TarEntry) -> Exception:
        return bad_layer(f"{shown(entry.path)} is a hard link to {shown(entry.link)}, which is no file of this layer")

    def _is_same(self, parent: int, name: bytes, entry: TarEntry) -> bool:
        """A hard link to the file that it already is. Replacing it would remove the file."""
        try:
            directory, target = self._link_target(entry)
        except OSError:
            return False
        try:
            first = os.stat(target, dir_fd=directory, follow_symlinks=False)
            second = os.stat(name, dir_fd=parent, follow_symlinks=False)
            return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)
        except FileNotFoundError:
            return False
        finally:
            os.close(directory)

    def _remove(self, parent: int, name: bytes) -> None:
        """Remove an entry of this layer that a later one replaces. Only what is beneath ``parent`` is touched."""
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            remove_tree(name, directory=parent)
        else:
            os.unlink(name, dir_fd=parent)
        # A path through what is gone may mean something else from the next entry on; this entry still needs ``parent``.
        self._stale = self._stale or stat.S_ISDIR(found.st_mode) or stat.S_ISLNK(found.st_mode)

    def _owner(self, entry: TarEntry) -> tuple[int, int] | None:
        return self._ownership.to_disk(entry.user_id, entry.group_id, entry.path)

    def _set_xattrs(self, target: int | bytes, entry: TarEntry, *, follow: bool) -> None:
        for name, value in entry.xattrs.items():
            if not keeps_xattr(name):
                continue
            try:
                if isinstance(target, int):
                    os.setxattr(target, name, value)
                else:
                    os.setxattr(target, name, value, follow_symlinks=follow)
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.ERANGE, errno.E2BIG, errno.ENAMETOOLONG):
                    raise bad_layer(f"{shown(entry.path)} has the impossible attribute {shown(name)}") from error
                if (
                    error.errno == errno.EPERM
                    and name.startswith(b"user.")
                    and entry.kind not in (TarKind.FILE, TarKind.DIRECTORY)
                ):
                    raise bad_layer(
                        f"{shown(entry.path)} has {shown(name)}, which only files and directories can have"
                    ) from error
                raise

    def finish(self) -> None:
        """Give the directories their attributes, the deepest first so that none locks us out of the next."""
        self.parents.forget()
        for inode, directory in sorted(self._directories.items(), key=lambda item: -item[1].path.count(b"/")):
            try:
                descriptor = self.root.open_directory(directory.path, follow=True)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue  # replaced by a later entry: nothing, something else, a link that leads round in a circle
                raise self._explain_path(error, directory.path) from error
            try:
                if os.fstat(descriptor).st_ino != inode:
                    continue
                entry = directory.entry or TarEntry(path=directory.path, kind=TarKind.DIRECTORY, mode=0o755)
                try:
                    self._apply(descriptor, entry)
                except OSError as error:
                    raise self._explain(error, entry) from error
            finally:
                os.close(descriptor)

    def _apply(self, descriptor: int, entry: TarEntry) -> None:
        owner = self._owner(entry)
        if owner is not None:
            os.fchown(descriptor, *owner)
        if entry.xattrs:
            self._set_xattrs(descriptor, entry, follow=True)
        os.fchmod(descriptor, entry.mode)
        os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))

    def _explain(self, error: OSError, entry: TarEntry) -> Exception:
        return self._explain_path(error, entry.path)

    def _explain_path(self, error: OSError, path: bytes) -> Exception:
        if error.errno in (
            errno.ELOOP,
            errno.ENOTDIR,
            errno.EEXIST,
            errno.EISDIR,
            errno.ENAMETOOLONG,
            errno.EMLINK,
            errno.EXDEV,
        ):
            return bad_layer(f"{shown(path)} cannot be where the archive puts it ({os.strerror(error.errno)})")
        return explain_unmakeable(error, shown(path), "layer") or error
