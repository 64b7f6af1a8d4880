"""Opening things below a root directory without ever leaving it, whatever symbolic links the tree holds.

Every path is resolved against a directory descriptor, by ``openat2(RESOLVE_IN_ROOT)`` or, where the kernel or an outer seccomp
filter refuses that call, by a walker that opens one component at a time with ``O_NOFOLLOW`` and reads links itself. Both give
the same answers.

A path here is bytes, relative to the root, without empty, ``.`` and ``..`` components (see `split_path`); ``b""`` is the root
itself.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections import deque
from collections.abc import Sequence
from functools import cache
from types import TracebackType

_SYS_OPENAT2 = 437  # the same number on every architecture: it is younger than their unification
_RESOLVE_NO_XDEV, _RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_IN_ROOT = 0x01, 0x02, 0x04, 0x10
_HOPS = 40  # the kernel's MAXSYMLINKS
DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def _openat2(directory: int, path: bytes, flags: int, resolve: int) -> int:
    how = _OpenHow(flags, 0, resolve)
    while True:
        result = int(
            _syscall(
                ctypes.c_long(_SYS_OPENAT2),
                ctypes.c_int(directory),
                ctypes.c_char_p(path),
                ctypes.byref(how),
                ctypes.c_size_t(ctypes.sizeof(how)),
            )
        )
        if result >= 0:
            return result
        number = ctypes.get_errno()
        if number in (errno.EINTR, errno.EAGAIN):  # EAGAIN: a rename elsewhere raced with ".."; the manual says try again
            continue
        raise OSError(number, os.strerror(number), os.fsdecode(path))


@cache
def openat2_works() -> bool:
    """Whether the kernel and the seccomp filter around us let `openat2` through. Tried once per process."""
    try:
        os.close(_openat2(-100, b"/", os.O_PATH | os.O_CLOEXEC, _RESOLVE_NO_MAGICLINKS))
    except OSError:
        return False
    return True


def split_path(path: bytes) -> list[bytes]:
    """Components of an archive's or a user's path. A leading slash means the root; ``..`` is kept for the caller to judge."""
    return [part for part in path.split(b"/") if part not in (b"", b".")]


class Root:
    """A directory that is the whole world. A context manager; owns its descriptor.

    ``walker``: never use `openat2` (tests force the fallback with it).
    """

    def __init__(self, directory: str | os.PathLike[str] | int, *, walker: bool = False) -> None:
        if isinstance(directory, int):
            self.descriptor = os.open(".", DIRECTORY_FLAGS, dir_fd=directory)
        else:
            self.descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._walker = walker or not openat2_works()

    def __enter__(self) -> Root:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def open_directory(self, path: bytes, *, follow: bool) -> int:
        """A descriptor of the directory at ``path``. With ``follow``, links on the way are resolved inside the root;
        without, any link is ELOOP or ENOTDIR.

        Raises `OSError`: ENOENT, ENOTDIR, ELOOP, EXDEV (a mount point in the way).
        """
        if not path:
            return os.open(".", DIRECTORY_FLAGS, dir_fd=self.descriptor)
        if not self._walker:
            resolve = _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_XDEV
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            if not follow:
                resolve |= _RESOLVE_NO_SYMLINKS
            return _openat2(self.descriptor, path, flags, resolve)
        return self._walk(path.split(b"/"), follow=follow)

    def _walk(self, components: Sequence[bytes], *, follow: bool) -> int:
        """The fallback. ``above`` holds a descriptor per level, so that ``..`` needs no look-up that could race."""
        device = os.fstat(self.descriptor).st_dev
        above = [os.open(".", DIRECTORY_FLAGS, dir_fd=self.descriptor)]
        waiting = deque(components)
        hops = 0
        try:
            while waiting:
                name = waiting.popleft()
                if name in (b"", b"."):
                    continue
                if name == b"..":
                    if len(above) > 1:
                        os.close(above.pop())
                    continue
                found = os.stat(name, dir_fd=above[-1], follow_symlinks=False)
                if stat.S_ISLNK(found.st_mode):
                    hops += 1
                    if not follow or hops > _HOPS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(name))
                    target = os.readlink(name, dir_fd=above[-1])
                    if target.startswith(b"/"):
                        while len(above) > 1:
                            os.close(above.pop())
                    waiting.extendleft(reversed(target.split(b"/")))
                    continue
                if found.st_dev != device:
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), os.fsdecode(name))
                above.append(os.open(name, DIRECTORY_FLAGS, dir_fd=above[-1]))
            return above.pop()
        finally:
            for descriptor in above:
                os.close(descriptor)


class DirectoryCache:
    """Descriptors of recently used directories of one root, so that neighbours in an archive cost one resolution.

    Call `forget` whenever a directory or a link was removed or replaced: a path may mean something else now.
    """

    def __init__(self, root: Root, *, follow: bool, size: int = 32) -> None:
        self._root, self._follow, self._size = root, follow, size
        self._open: dict[bytes, int] = {}

    def get(self, path: bytes) -> int:
        """A descriptor that stays owned by the cache and valid until the next call of `get` or `forget`."""
        found = self._open.pop(path, None)
        if found is None:
            found = self._root.open_directory(path, follow=self._follow)
            if len(self._open) >= self._size:
                os.close(self._open.pop(next(iter(self._open))))
        self._open[path] = found
        return found

    def forget(self) -> None:
        """Close all."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


def join(directory: bytes, name: bytes) -> bytes:
    """A path below a directory, where ``b""`` is the root."""
    return directory + b"/" + name if directory else name


def list_names(descriptor: int) -> list[bytes]:
    """The names in a directory, sorted bytewise."""
    with os.scandir(descriptor) as entries:
        return sorted(os.fsencode(entry.name) for entry in entries)
