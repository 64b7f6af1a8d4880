"""The one way to open what lies below a root directory from outside: no link, no ``..`` and no race leads out of it.

`open_beneath` asks the kernel (openat2(2) with RESOLVE_IN_ROOT) or, where the kernel or a filter around us refuses that call, walks:
one component at a time by ``O_PATH | O_NOFOLLOW``, links read from their own descriptor and expanded here, ``..`` answered from the
descriptors that led here and never by the file system, so that whatever is renamed meanwhile, every step starts at a place below the
root. Both give the same answers. Links of the kernel's own (``/proc/PID/root``, ``exe``, ``fd/N``; "magic links") are refused by both.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections import deque
from functools import cache

_SYS_OPENAT2 = 437  # the same number on every architecture: it is younger than their unification
_RESOLVE_NO_XDEV, _RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_IN_ROOT = 0x01, 0x02, 0x04, 0x10
_TRIES = 64
_MOST_LINKS = 40  # the kernel's MAXSYMLINKS
_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
PROC_SUPER_MAGIC, DEVPTS_SUPER_MAGIC = 0x9FA0, 0x1CD1  # statfs(2)
_PROC_ROOT_INODE = 1


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.fstatfs.argtypes = (ctypes.c_int, ctypes.c_void_p)


def _failure(number: int, path: bytes) -> OSError:
    return OSError(number, os.strerror(number), os.fsdecode(path))


def file_system_magic(descriptor: int) -> int:
    """Which kind of file system a descriptor is on: ``f_type`` of fstatfs(2)."""
    answer = ctypes.create_string_buffer(256)  # struct statfs begins with it
    if _libc.fstatfs(descriptor, ctypes.byref(answer)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"fstatfs: {os.strerror(number)}")
    return ctypes.c_long.from_buffer(answer).value


def _openat2(directory: int, path: bytes, flags: int, mode: int, resolve: int) -> int | None:
    """A descriptor; None where the kernel says that a rename came between too often."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    tries = 0
    while True:
        result = int(
            _libc.syscall(
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
        if number == errno.EINTR:
            continue
        if number != errno.EAGAIN:
            raise _failure(number, path)
        tries += 1
        if tries > _TRIES:
            return None


@cache
def openat2_works() -> bool:
    """Whether the kernel and the filters around us let openat2(2) through. Tried once per process."""
    try:
        found = _openat2(-100, b"/", os.O_PATH, 0, _RESOLVE_NO_MAGICLINKS)
    except OSError:
        return False
    if found is not None:
        os.close(found)
    return True


def open_beneath(
    root: int, path: str | bytes, flags: int, mode: int = 0, *, links: bool = True, mounts: bool = True, walker: bool = False
) -> int:
    """open(2) as if the directory ``root`` were ``/``: a descriptor that closes at exec.

    ``path`` is relative to it, with or without a slash before it; ``""`` is the root itself. Without ``links``, any symbolic link on
    the way or at the end is ELOOP; with them they are followed inside, at the end too unless ``flags`` has O_NOFOLLOW. Without
    ``mounts``, what is mounted below the root is EXDEV. ``walker``: do not ask the kernel.

    Raises `OSError`, among them ELOOP for more than 40 links and for the kernel's own.
    """
    raw = os.fsencode(path).lstrip(b"/") or b"."
    if b"\0" in raw:
        raise _failure(errno.EINVAL, raw)
    if not walker and openat2_works():
        resolve = _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS
        resolve |= (0 if links else _RESOLVE_NO_SYMLINKS) | (0 if mounts else _RESOLVE_NO_XDEV)
        found = _openat2(root, raw, flags, mode, resolve)
        if found is not None:
            return found
    return _Walk(root, raw, flags, mode, links=links, mounts=mounts).open()


def _mount_of(descriptor: int) -> tuple[str, int]:
    """What tells one mount from another: its number, or where /proc does not say, the file system's."""
    try:
        with open(f"/proc/self/fdinfo/{descriptor}") as file:
            for line in file:
                if line.startswith("mnt_id:"):
                    return "mount", int(line.split()[1])
    except OSError:
        pass
    return "device", os.fstat(descriptor).st_dev


class _Walk:
    """One resolution without openat2(2). ``above`` holds a descriptor for each level from the root on."""

    def __init__(self, root: int, path: bytes, flags: int, mode: int, *, links: bool, mounts: bool) -> None:
        self.path, self.flags, self.mode = path, flags | os.O_CLOEXEC, mode
        self.links, self.mounts = links, mounts
        self.above = [os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)]
        self.waiting = deque(path.split(b"/"))
        self.hops = 0
        self.home = None if mounts else _mount_of(self.above[0])

    def open(self) -> int:
        try:
            while self.waiting:
                name = self.waiting.popleft()
                if name in (b"", b"."):
                    continue
                if name == b"..":
                    if len(self.above) > 1:
                        os.close(self.above.pop())
                    continue
                if self.waiting:
                    self._step(name)
                elif (found := self._last(name)) is not None:
                    return found
            # it ends in a slash or a dot: the directory itself
            flags = self.flags & ~(os.O_NOFOLLOW | os.O_EXCL)
            if flags & os.O_CREAT:
                raise _failure(errno.EISDIR, self.path)
            return os.open(".", flags, dir_fd=self.above[-1])
        finally:
            for descriptor in self.above:
                os.close(descriptor)

    def _step(self, name: bytes) -> None:
        """Go into a directory, or replace a link by where it points."""
        found = os.open(name, _STEP, dir_fd=self.above[-1])
        try:
            self._verify_mount(found)
            kind = os.fstat(found).st_mode
            if stat.S_ISLNK(kind):
                self._expand(found)
                return
            if not stat.S_ISDIR(kind):
                raise _failure(errno.ENOTDIR, self.path)
            self.above.append(found)
            found = -1
        finally:
            if found >= 0:
                os.close(found)

    def _last(self, name: bytes) -> int | None:
        """Open what the path names; None if that is a link that was replaced by where it points."""
        flags, parent = self.flags, self.above[-1]
        if flags & os.O_CREAT and flags & os.O_EXCL:
            return os.open(name, flags | os.O_NOFOLLOW, self.mode, dir_fd=parent)
        try:
            found = os.open(name, _STEP, dir_fd=parent)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
            return os.open(name, flags | os.O_NOFOLLOW, self.mode, dir_fd=parent)
        try:
            self._verify_mount(found)
            kind = os.fstat(found).st_mode
            if stat.S_ISLNK(kind) and not flags & os.O_NOFOLLOW:
                self._expand(found)
                return None
            if flags & os.O_DIRECTORY and not stat.S_ISDIR(kind):
                raise _failure(errno.ENOTDIR, self.path)
            if stat.S_ISLNK(kind) and not flags & os.O_PATH:
                raise _failure(errno.ELOOP, self.path)
            if flags & os.O_PATH:
                answer, found = found, -1
                return answer
            return self._open_again(name, found)
        finally:
            if found >= 0:
                os.close(found)

    def _open_again(self, name: bytes, seen: int) -> int | None:
        """By its name once more, now with the caller's flags; what has taken its place since then is looked at anew."""
        try:
            opened = os.open(name, self.flags | os.O_NOFOLLOW, self.mode, dir_fd=self.above[-1])
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.ENOENT):
                raise
            opened = -1
        if opened >= 0 and (self.mounts or os.path.samestat(os.fstat(opened), os.fstat(seen))):
            return opened
        if opened >= 0:
            os.close(opened)
        self._count()
        self.waiting.appendleft(name)
        return None

    def _expand(self, link: int) -> None:
        if not self.links or self._is_magic(link):
            raise _failure(errno.ELOOP, self.path)
        self._count()
        target = os.fsencode(os.readlink(b"", dir_fd=link))  # readlinkat(2): of the descriptor itself
        if target.startswith(b"/"):
            while len(self.above) > 1:
                os.close(self.above.pop())
        self.waiting.extendleft(reversed(target.split(b"/")))

    def _count(self) -> None:
        self.hops += 1
        if self.hops > _MOST_LINKS:
            raise _failure(errno.ELOOP, self.path)

    def _is_magic(self, link: int) -> bool:
        """In /proc only the links at its top (``self``, ``mounts``) are texts; all others are jumps of the kernel, or as good as."""
        if file_system_magic(link) != PROC_SUPER_MAGIC:
            return False
        return os.fstat(self.above[-1]).st_ino != _PROC_ROOT_INODE

    def _verify_mount(self, descriptor: int) -> None:
        if self.home is not None and _mount_of(descriptor) != self.home:
            raise _failure(errno.EXDEV, self.path)
