"""Putting things on disk so that a crash leaves either the old state or the new one: write aside, flush, rename; removal of
whole trees; advisory locks.

Decides nothing. A full disk becomes a `HostError` (code ``store-full``) here, in one place.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from contain.annotations import BinaryIO
from contain.errors import HostError
from contain.paths import HostPath
from contain.store.rooted import DIRECTORY_FLAGS

_FULL = (errno.ENOSPC, errno.EDQUOT)
_libc = ctypes.CDLL(None, use_errno=True)
_TOP_OF_HIERARCHIES = 0x00020000  # FS_TOPDIR_FL
_GET_FLAGS = 2 << 30 | struct.calcsize("l") << 16 | ord("f") << 8 | 1
_SET_FLAGS = 1 << 30 | struct.calcsize("l") << 16 | ord("f") << 8 | 2


@contextmanager
def explained(path: HostPath | str) -> Iterator[None]:
    """Turn the errors of a full or read-only disk into ones that say so; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise HostError(
                "the disk of the store is full; nothing was changed",
                call="write",
                path=str(path),
                errno=error.errno,
                remedy="free space (contain system prune), or set CONTAIN_HOME to a larger disk",
                code="store-full",
            ) from error
        if error.errno == errno.EROFS:
            raise HostError(
                "the store is on a read-only file system",
                path=str(path),
                errno=error.errno,
                remedy="set CONTAIN_HOME to a directory that can be written",
                code="store-read-only",
            ) from error
        raise


def fsync_directory(path: HostPath | str) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: HostPath | str) -> None:
    """Make a file's content durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(path: HostPath | str) -> None:
    """syncfs(2): everything written to this file system so far is durable. One call instead of an fsync for each of
    thousands of files."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(ctypes.c_int(descriptor)) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


@contextmanager
def syncing_file_system(path: HostPath | str) -> Iterator[None]:
    """`sync_file_system` of all that was written before the block, while the block runs; done when it is left, and so is its thread.
    Its error is raised then."""
    failed: list[OSError] = []

    def sync() -> None:
        try:
            sync_file_system(path)
        except OSError as error:
            failed.append(error)

    import threading

    thread = threading.Thread(target=sync, name="syncfs")
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failed:
        raise failed[0]


def spread_apart(path: HostPath | str) -> None:
    """Tell the file system that the subdirectories of this one have nothing to do with each other (chattr(1), the attribute T).

    For scratch directories. ext4 does not give out an inode again for minutes after it was freed, and looks for a free one from the
    beginning of the group each time: where a large tree was just removed, each new file costs 20 times as much. With this each
    scratch directory is in a group of its own. A hint: elsewhere nothing happens.
    """
    with suppress(OSError):
        descriptor = os.open(path, DIRECTORY_FLAGS)
        try:
            (flags,) = struct.unpack("l", fcntl.ioctl(descriptor, _GET_FLAGS, bytes(struct.calcsize("l"))))
            if not flags & _TOP_OF_HIERARCHIES:
                fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("l", flags | _TOP_OF_HIERARCHIES))
        finally:
            os.close(descriptor)


def write_aside(target: HostPath, data: bytes, *, aside: HostPath) -> None:
    """Write ``data`` to a new file in ``aside`` (same file system), flush it, rename it to ``target``."""
    temporary = aside / f"write.{os.urandom(8).hex()}"
    with explained(target):
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, target)
            fsync_directory(target.parent)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise


@contextmanager
def replaced(path: HostPath | str, *, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file of the user's to write, which takes the name ``path`` when the block ends well; until then, and if it does not, what
    was there stays. What a link leads to is replaced, and what is no regular file (a pipe, a device) is written to.

    ``mode``: of a new file, before the umask. Raises `OSError`.
    """
    target = os.path.realpath(path)
    if os.path.exists(target) and not os.path.isfile(target):
        with open(target, "wb") as file:
            yield file
        return
    directory, name = os.path.split(target)
    aside = os.path.join(directory, f".{name[:100]}.{os.urandom(6).hex()}")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.rename(aside, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(aside)
        raise


def try_lock(path: HostPath | str, *, shared: bool = False, create: bool = True) -> int | None:
    """A descriptor that holds flock(2) on ``path``, or None when another process holds it. Closing it releases the lock."""
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    descriptor = os.open(path, flags, 0o600)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def held_lock(path: HostPath | str, *, shared: bool = False) -> Iterator[None]:
    """Wait for flock(2) on ``path`` and hold it in the block. The file stays: unlinking a lock file lets two holders in."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove_tree(path: HostPath | str | bytes, *, directory: int | None = None) -> None:
    """Remove whatever is at ``path`` (below the descriptor ``directory``, if given), of any depth, following no link and
    entering no mount point. What is not there is fine.

    Nested directories are first moved up into the top one, so that neither recursion nor path length limits the depth.
    """
    try:
        found = os.stat(path, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(path, dir_fd=directory)
        return
    top = _open_to_empty(path, directory)
    try:
        waiting: list[bytes] = []
        _empty(top, top, waiting)
        while waiting:
            name = waiting.pop()
            inner = _open_to_empty(name, top)
            try:
                _empty(inner, top, waiting)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(path, dir_fd=directory)


def _open_to_empty(path: HostPath | str | bytes, directory: int | None) -> int:
    """Open a directory of ours whose mode may forbid even us, as overlay's work directory (mode 000) does."""
    try:
        descriptor = os.open(path, DIRECTORY_FLAGS, dir_fd=directory)
    except PermissionError:
        os.chmod(path, 0o700, dir_fd=directory)
        return os.open(path, DIRECTORY_FLAGS, dir_fd=directory)
    if os.geteuid() != 0:
        with suppress(PermissionError):
            os.fchmod(descriptor, 0o700)
    return descriptor


def _empty(directory: int, top: int, waiting: list[bytes]) -> None:
    """Unlink the files of ``directory``, and leave its subdirectories in ``top`` under the names put on ``waiting``."""
    with os.scandir(directory) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for text, is_directory in found:
        name = os.fsencode(text)
        if not is_directory:
            os.unlink(name, dir_fd=directory)
            continue
        try:
            os.rmdir(name, dir_fd=directory)
            continue
        except OSError as error:  # EBUSY: a mount point, whose content is not ours to remove
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES):
                raise
        if directory == top:
            waiting.append(name)
            continue
        moved = b"%s.%s" % (name[:32], os.urandom(8).hex().encode())
        if os.geteuid() != 0:
            with suppress(PermissionError):
                os.chmod(name, 0o700, dir_fd=directory)  # renaming a directory to a new parent rewrites its ".."
        os.rename(name, moved, src_dir_fd=directory, dst_dir_fd=top)
        waiting.append(moved)
