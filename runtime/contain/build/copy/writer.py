"""Writes into an upper directory as if into the merged root: the doer of COPY, ADD and WORKDIR.

Theory of operation. The root that a Dockerfile's author sees is the layers so far (``lower``) with ``upper`` on top. Names are
resolved in that merged root, so every path given to a ``put_*`` method is canonical: none of its components is a symbolic link.
Then only ``upper`` is touched, below one directory descriptor, each component opened with O_NOFOLLOW. A directory that exists
only below is copied up first (attributes, no contents), as overlayfs would do.

Every mode, owner and time is set explicitly: umask, clock and the caller's identity leave no trace. Directory times are
applied last, by `close`, because writing into a directory changes its time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from types import TracebackType

from contain.annotations import Protocol
from contain.build.trees.context import node_of
from contain.build.trees.tree import Kind, Lookup, Node, parent_of, resolve_path
from contain.errors import HostError, InternalError, NotSupported, UsageError
from contain.paths import HostPath
from contain.values import dataclass

OPAQUE_XATTR = "user.overlay.opaque"
_COPY_BYTES = 1 << 20
_KEPT_DESCRIPTORS = 32
_SMALL_BYTES = 1 << 17
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEVICE_BITS = {Kind.CHARACTER: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK, Kind.FIFO: stat.S_IFIFO}


class ByteSource(Protocol):
    """A stream."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, none at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What a new entry gets besides its content. ``mtime_ns`` None: the build's time."""

    mode: int
    user_id: int = 0
    group_id: int = 0
    mtime_ns: int | None = None
    xattrs: Mapping[str, bytes] | None = None


class UpperWriter:
    """A context manager over one upper directory; leaving it normally sets the directories' times.

    ``open_lower`` opens a file of ``lower``: for hard links to files that only ``lower`` has. ``warn``: told of extended attributes
    that cannot be set here; without it they are an error.
    """

    def __init__(
        self,
        upper: HostPath,
        *,
        lower: Lookup,
        epoch_seconds: int,
        open_lower: Callable[[str], int] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self._lower, self._open_lower, self._warn = lower, open_lower, warn
        self._epoch_ns = epoch_seconds * 1_000_000_000
        self._root = os.open(upper, _DIRECTORY)
        self._descriptors: dict[str, int] = {}
        self._directory_times: dict[str, int] = {}
        self._only_upper: set[str] = set()
        self._may_own = os.geteuid() == 0
        self._group_id = os.getegid()
        self._plain: set[str] = set()  # directories in which a new file belongs to us and to our group, whatever their mode
        self._note_group("", os.fstat(self._root).st_gid)

    def __enter__(self) -> UpperWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                for path in sorted(self._directory_times, key=lambda path: path.count("/"), reverse=True):
                    time_ns = self._directory_times[path]
                    os.utime(self._open(path) if path else self._root, ns=(time_ns, time_ns))
        finally:
            self._forget()
            os.close(self._root)

    # -- the merged view ----------------------------------------------------------------------------------------------------

    def lookup(self, path: str) -> Node | None:
        """The entry of the merged root at a canonical path."""
        if path:
            directory, _, name = path.rpartition("/")
            descriptor = self._open_if_there(directory)
            if descriptor is not None:
                try:
                    status = os.lstat(name, dir_fd=descriptor)
                except FileNotFoundError:
                    pass
                else:
                    target = os.readlink(name, dir_fd=descriptor) if stat.S_ISLNK(status.st_mode) else ""
                    return node_of(path, status, target)
            if self._hidden(directory) or self._hidden(path):
                return None
        node = self._lower(path)
        return Node(path="", kind=Kind.DIRECTORY, mode=0o755) if node is None and not path else node

    def resolve(self, path: str, *, follow_last: bool = True) -> str:
        """A path as the Dockerfile writes it, made canonical in the merged root."""
        return resolve_path(self.lookup, path, follow_last=follow_last)

    def _hidden(self, path: str) -> bool:
        """Whether upper alone decides what is at ``path``: it or a parent was made here where lower has no directory."""
        while path:
            if path in self._only_upper:
                return True
            path = parent_of(path)
        return False

    # -- descriptors --------------------------------------------------------------------------------------------------------

    def _open_if_there(self, path: str) -> int | None:
        try:
            return self._open(path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _open(self, path: str) -> int:
        """A directory of upper. The descriptor stays ours and is valid until the next call."""
        if not path:
            return self._root
        found = self._descriptors.pop(path, None)
        if found is None:
            directory, _, name = path.rpartition("/")
            found = os.open(name, _DIRECTORY, dir_fd=self._open(directory))
            self._note_group(path, os.fstat(found).st_gid)
            if len(self._descriptors) >= _KEPT_DESCRIPTORS:
                os.close(self._descriptors.pop(next(iter(self._descriptors))))
        self._descriptors[path] = found
        return found

    def _note_group(self, path: str, group_id: int) -> None:
        """A new file gets our group, or its directory's: by set-group-ID, or by how the file system is mounted."""
        if group_id == self._group_id:
            self._plain.add(path)
        else:
            self._plain.discard(path)

    def _forget(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def _own(self, descriptor: int, attributes: Attributes, *, name: str | None = None) -> None:
        if not self._may_own:
            # Without root there is one owner, which stands for root inside.
            if (attributes.user_id, attributes.group_id) != (0, 0):
                raise HostError(
                    f"only root can give files to the owner {attributes.user_id}:{attributes.group_id}",
                    call="chown",
                    code="owner-needs-root",
                    remedy="build as root",
                )
            return
        if name is None:
            os.fchown(descriptor, attributes.user_id, attributes.group_id)
        else:
            os.chown(name, attributes.user_id, attributes.group_id, dir_fd=descriptor, follow_symlinks=False)

    # -- directories --------------------------------------------------------------------------------------------------------

    def ensure_directory(self, path: str, attributes: Attributes) -> None:
        """``path`` and its parents as directories of the merged root; those that are missing get ``attributes``.

        Raises `UsageError` (code ``not-a-directory``) if something else is there.
        """
        node = self.lookup(path)
        if node is not None:
            if node.kind is not Kind.DIRECTORY:
                raise UsageError(f"/{path} is not a directory", code="not-a-directory")
            return
        self.ensure_directory(parent_of(path), attributes)
        self._make_directory(path, attributes)

    def put_directory(self, path: str, attributes: Attributes) -> None:
        """A directory with exactly these attributes, new or already there; its contents stay.

        Raises `UsageError` (code ``not-a-directory``) if something else is there.
        """
        node = self.lookup(path)
        if node is None:
            self._make_directory(path, attributes)
            return
        if node.kind is not Kind.DIRECTORY:
            raise UsageError(f"cannot copy to non-directory: /{path}", code="not-a-directory")
        self._copy_up(path)
        self._describe_directory(path, attributes)

    def _make_directory(self, path: str, attributes: Attributes) -> None:
        directory, _, name = path.rpartition("/")
        os.mkdir(name, 0o700, dir_fd=self._enter(directory))
        below = None if self._hidden(directory) else self._lower(path)
        if below is not None and below.kind is Kind.DIRECTORY:
            os.setxattr(self._open(path), OPAQUE_XATTR, b"y")  # replaced earlier in this step: what lower holds is gone
        self._only_upper.add(path)
        self._describe_directory(path, attributes)

    def _describe_directory(self, path: str, attributes: Attributes) -> None:
        descriptor = self._open(path)
        self._own(descriptor, attributes)
        self._note_group(path, attributes.group_id if self._may_own else os.fstat(descriptor).st_gid)
        os.fchmod(descriptor, attributes.mode)
        self._set_xattrs(path, descriptor, attributes.xattrs)
        self._directory_times[path] = self._epoch_ns if attributes.mtime_ns is None else attributes.mtime_ns

    def _copy_up(self, path: str) -> None:
        """``path``, a directory of the merged root, present in upper."""
        if self._open_if_there(path) is not None:
            return
        node = self._lower(path)
        if node is None or node.kind is not Kind.DIRECTORY:
            raise InternalError(f"copy-up of /{path}, which is no directory")
        directory, _, name = path.rpartition("/")
        self._copy_up(directory)
        os.mkdir(name, 0o700, dir_fd=self._open(directory))
        self._describe_directory(
            path, Attributes(mode=node.mode, user_id=node.user_id, group_id=node.group_id, xattrs=node.xattrs)
        )

    def _enter(self, directory: str) -> int:
        """A descriptor of an existing directory of the merged root, about to be written into."""
        if directory not in self._descriptors or directory not in self._directory_times:
            self._copy_up(directory)
            if directory:
                self._directory_times.setdefault(directory, self._epoch_ns)
        return self._open(directory)

    # -- everything else ----------------------------------------------------------------------------------------------------

    def _clear(self, path: str) -> tuple[int, str]:
        """The parent's descriptor and the name, with nothing of upper at the name any more."""
        directory, _, name = path.rpartition("/")
        node = self.lookup(path)
        if node is not None and node.kind is Kind.DIRECTORY:
            raise UsageError(f"cannot replace directory /{path} with a file", code="is-a-directory")
        descriptor = self._enter(directory)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=descriptor)
        return descriptor, name

    def remove(self, path: str) -> None:
        """Take away what is at a canonical path, a directory with all it holds. The caller puts something else there at once."""
        if self.lookup(path) is None:
            return
        directory, _, name = path.rpartition("/")
        self._enter(directory)
        self._forget_below(path)
        if self._open_if_there(path) is not None:
            self._forget()
            shutil.rmtree(name, dir_fd=self._open(directory))
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._open(directory))
        self._only_upper.add(path)

    def _forget_below(self, path: str) -> None:
        prefix = path + "/"
        self._directory_times = {
            key: value for key, value in self._directory_times.items() if key != path and not key.startswith(prefix)
        }

    def put_file(self, path: str, source: int | ByteSource | bytes, attributes: Attributes) -> None:
        """A regular file. ``source``: a descriptor read from its offset to its end, a stream, or the bytes."""
        target = self._create(path)
        try:
            if isinstance(source, bytes):
                _write_all(target, source)
            elif isinstance(source, int):
                _copy_bytes(source, target)
            else:
                while block := source.read(_COPY_BYTES):
                    _write_all(target, block)
            if not self._owned_when_made(path, attributes):
                self._own(target, attributes)
            os.fchmod(target, attributes.mode)  # after chown, which clears set-id bits
            if attributes.xattrs:
                self._set_xattrs(path, target, attributes.xattrs)
            time_ns = self._epoch_ns if attributes.mtime_ns is None else attributes.mtime_ns
            os.utime(target, ns=(time_ns, time_ns))
        finally:
            os.close(target)

    def _owned_when_made(self, path: str, attributes: Attributes) -> bool:
        """Whether a new file has its owner already: chown(2) for each of thousands would say what is so."""
        if not self._may_own or attributes.user_id != 0 or attributes.group_id != self._group_id:
            return False
        return path.rpartition("/")[0] in self._plain

    def _create(self, path: str) -> int:
        """A new empty file in upper, open for writing."""
        directory, _, name = path.rpartition("/")
        if self._hidden(directory):
            # Only upper matters there, and mostly nothing stands at the name yet: no need to look first.
            try:
                return os.open(name, _NEW_FILE, 0o600, dir_fd=self._enter(directory))
            except FileExistsError:
                pass
        descriptor, name = self._clear(path)
        return os.open(name, _NEW_FILE, 0o600, dir_fd=descriptor)

    def put_symlink(self, path: str, target: str, attributes: Attributes) -> None:
        """A symbolic link."""
        descriptor, name = self._clear(path)
        os.symlink(target, name, dir_fd=descriptor)
        self._own(descriptor, attributes, name=name)
        self._set_time(descriptor, name, attributes)

    def put_special(self, path: str, kind: Kind, device: tuple[int, int], attributes: Attributes) -> None:
        """A device or a named pipe. Raises `HostError` (code ``device-needs-root``)."""
        descriptor, name = self._clear(path)
        try:
            os.mknod(name, _DEVICE_BITS[kind] | 0o600, os.makedev(*device), dir_fd=descriptor)
        except PermissionError as error:
            raise HostError(
                "only root can make devices",
                call="mknod",
                path=f"/{path}",
                errno=error.errno or 0,
                remedy="build as root",
                code="device-needs-root",
            ) from error
        self._own(descriptor, attributes, name=name)
        # Safe by name: nothing else writes into upper, and the entry is no symbolic link.
        os.chmod(name, attributes.mode, dir_fd=descriptor)
        self._set_time(descriptor, name, attributes)

    def put_hard_link(self, path: str, existing: str) -> None:
        """Another name of a file. One that only ``lower`` has is copied up first, as overlayfs would do."""
        if path == existing:
            return
        node = self.lookup(existing)
        if node is None or node.kind is Kind.DIRECTORY:
            raise UsageError(f"hard link /{path} to /{existing}, which is not a file", code="bad-hard-link")
        self._copy_up_file(existing, node)
        descriptor, name = self._clear(path)
        target = os.dup(descriptor)
        try:
            source = self._open(parent_of(existing))
            os.link(existing.rpartition("/")[2], name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        except FileNotFoundError as error:
            raise NotSupported(
                f"a hard link /{path} to /{existing}, which an earlier layer holds, is not supported",
                code="hard-link-across-layers",
            ) from error
        finally:
            os.close(target)

    def _copy_up_file(self, path: str, node: Node) -> None:
        directory = self._open_if_there(parent_of(path))
        if self._open_lower is None or node.kind is not Kind.FILE:
            return
        if directory is not None:
            with contextlib.suppress(FileNotFoundError):
                os.lstat(path.rpartition("/")[2], dir_fd=directory)
                return
        content = self._open_lower(path)
        try:
            attributes = Attributes(
                mode=node.mode, user_id=node.user_id, group_id=node.group_id, mtime_ns=node.mtime_ns, xattrs=node.xattrs
            )
            self.put_file(path, content, attributes)
        finally:
            os.close(content)

    def _set_xattrs(self, path: str, descriptor: int, xattrs: Mapping[str, bytes] | None) -> None:
        for name, value in sorted((xattrs or {}).items()):
            if name.startswith(("user.overlay.", "trusted.overlay.")):
                continue
            try:
                os.setxattr(descriptor, name, value)
            except OSError as error:
                if self._warn is None:
                    raise HostError(f"cannot set the attribute {name}", call="setxattr", errno=error.errno or 0) from error
                self._warn(f"/{path} goes without its attribute {name}: {error.strerror}")

    def _set_time(self, descriptor: int, name: str, attributes: Attributes) -> None:
        time_ns = self._epoch_ns if attributes.mtime_ns is None else attributes.mtime_ns
        os.utime(name, ns=(time_ns, time_ns), dir_fd=descriptor, follow_symlinks=False)


def _write_all(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


def _copy_bytes(source: int, target: int) -> None:
    """Everything from the source's offset on: by the kernel where both ends allow it (then even shared blocks), the rest by hand.

    Some file systems answer 0 before the end, so that only an empty read says that all was copied.
    """
    if os.fstat(source).st_size < _SMALL_BYTES:
        while block := os.read(source, _SMALL_BYTES):
            _write_all(target, block)
            if len(block) < _SMALL_BYTES:
                return
    with contextlib.suppress(OSError):
        while os.copy_file_range(source, target, 1 << 30):
            pass
    while block := os.read(source, _COPY_BYTES):
        _write_all(target, block)
