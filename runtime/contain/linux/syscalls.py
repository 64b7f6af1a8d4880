"""The system calls that Python does not offer, by their own names. The only ctypes of the engine, outside of netlink.

Each function is one call: it raises OSError with the errno, the call's name and the path, and decides nothing. Numbers are those
of the generic table, equal on x86-64 and arm64 for every call made by number (all were added after 424, or are listed).
"""

from __future__ import annotations

import ctypes
import errno
import os
from ctypes import c_char_p, c_int, c_long, c_size_t, c_uint, c_ulong, c_void_p

from contain.beneath import open_beneath

libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_NEWTIME = 0x00000080  # for the processes that are forked after it (time_namespaces(7)), since Linux 5.6

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MNT_DETACH = 2

OPEN_TREE_CLONE = 1
AT_EMPTY_PATH, AT_RECURSIVE, AT_SYMLINK_NOFOLLOW = 0x1000, 0x8000, 0x100
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 0x4, 0x40
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_IDMAP = 0x100000
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 0, 1, 6

RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_IN_ROOT = 0x01, 0x02, 0x04, 0x10

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_CAPBSET_DROP = 1, 4, 8, 24
PR_SET_NAME, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 15, 38, 47
PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 2, 4
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2

_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 428, 429, 430, 431, 432, 442
_KEYCTL = 250 if os.uname().machine == "x86_64" else 219
_PIVOT_ROOT = 155 if os.uname().machine == "x86_64" else 41
_CLONE = 56 if os.uname().machine == "x86_64" else 220
_CLONE_PARENT, _SIGCHLD = 0x8000, 17
_RENAMEAT2 = 316 if os.uname().machine == "x86_64" else 276
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2

libc.mount.argtypes = (c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
libc.umount2.argtypes = (c_char_p, c_int)
libc.unshare.argtypes = (c_int,)
libc.setns.argtypes = (c_int, c_int)
libc.sethostname.argtypes = (c_char_p, c_size_t)
libc.setdomainname.argtypes = (c_char_p, c_size_t)
libc.prctl.argtypes = (c_int, c_ulong, c_ulong, c_ulong, c_ulong)
libc.syscall.restype = c_long
_with_lock = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock: the child must have it
_with_lock.syscall.restype = c_long


def _check(result: int, call: str, path: str = "") -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}", path or None)
    return result


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(libc.unshare(flags), f"unshare({flags:#x})")


def fork_beside() -> int:
    """clone(2) with CLONE_PARENT: fork, but the child is one of the caller's parent, which it wants to be told of its end and whose
    end it can ask to be told. From a process with one thread only: the C library does not know of the child."""
    ctypes.pythonapi.PyOS_BeforeFork()
    result: int = _with_lock.syscall(
        c_long(_CLONE), c_ulong(_CLONE_PARENT | _SIGCHLD), c_void_p(None), c_void_p(None), c_void_p(None), c_ulong(0)
    )
    if result == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    number = ctypes.get_errno()
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if result < 0:
        raise OSError(number, f"clone: {os.strerror(number)}")
    return result


def setns(descriptor: int, kind: int) -> None:
    """setns(2)."""
    _check(libc.setns(descriptor, kind), f"setns({kind:#x})")


def mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    """mount(2)."""
    _check(
        libc.mount(os.fsencode(source), os.fsencode(target), kind.encode() or None, flags, os.fsencode(data) or None),
        f"mount {kind}",
        target,
    )


def umount2(target: str, flags: int) -> None:
    """umount2(2)."""
    _check(libc.umount2(os.fsencode(target), flags), "umount2", target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    _check(libc.syscall(c_long(_PIVOT_ROOT), c_char_p(os.fsencode(new_root)), c_char_p(os.fsencode(put_old))), "pivot_root")


def exchange(first: str, second: str) -> None:
    """renameat2(2) with RENAME_EXCHANGE: each name gets the other's file, at once. EINVAL where a file system has no such thing."""
    here = c_int(_AT_FDCWD)
    paths = c_char_p(os.fsencode(first)), c_char_p(os.fsencode(second))
    _check(libc.syscall(c_long(_RENAMEAT2), here, paths[0], here, paths[1], c_uint(_RENAME_EXCHANGE)), "renameat2", second)


def open_tree(directory: int, path: str, flags: int) -> int:
    """open_tree(2): with OPEN_TREE_CLONE, a detached copy of a mount, as a descriptor."""
    cloexec = os.O_CLOEXEC
    result = libc.syscall(c_long(_OPEN_TREE), c_int(directory), c_char_p(os.fsencode(path)), c_uint(flags | cloexec))
    return _check(result, "open_tree", path)


def move_mount(mount_descriptor: int, target_descriptor: int, target: str = "") -> None:
    """move_mount(2): attach a detached mount at an open directory or file."""
    _check(
        libc.syscall(
            c_long(_MOVE_MOUNT),
            c_int(mount_descriptor),
            c_char_p(b""),
            c_int(target_descriptor),
            c_char_p(b""),
            c_uint(MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH),
        ),
        "move_mount",
        target,
    )


def fsopen(kind: str) -> int:
    """fsopen(2): a file system context."""
    return _check(libc.syscall(c_long(_FSOPEN), c_char_p(kind.encode()), c_uint(1)), "fsopen", kind)


def fsconfig(context: int, command: int, key: str | None, value: str | None) -> None:
    """fsconfig(2)."""
    _check(
        libc.syscall(
            c_long(_FSCONFIG),
            c_int(context),
            c_uint(command),
            c_char_p(key.encode() if key is not None else None),
            c_char_p(os.fsencode(value) if value is not None else None),
            c_int(0),
        ),
        "fsconfig",
        f"{key}={value}" if key else "create",
    )


def fsmount(context: int, attributes: int) -> int:
    """fsmount(2): a detached mount of a created context."""
    return _check(libc.syscall(c_long(_FSMOUNT), c_int(context), c_uint(1), c_uint(attributes)), "fsmount")


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns", ctypes.c_uint64),
    )


def mount_setattr(
    descriptor: int, set_attributes: int, *, recursive: bool, clear: int = 0, propagation: int = 0, user_namespace: int = 0
) -> None:
    """mount_setattr(2) on an open mount. ``user_namespace``: a descriptor of it, with MOUNT_ATTR_IDMAP."""
    attributes = _MountAttributes(set_attributes, clear, propagation, user_namespace)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _check(
        libc.syscall(
            c_long(_MOUNT_SETATTR),
            c_int(descriptor),
            c_char_p(b""),
            c_uint(flags),
            ctypes.byref(attributes),
            c_size_t(ctypes.sizeof(attributes)),
        ),
        "mount_setattr",
    )


def openat2(
    directory: int, path: str, flags: int, mode: int = 0, resolve: int = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
) -> int:
    """`contain.beneath.open_beneath` with the words of openat2(2). RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS hold always."""
    links, mounts = not resolve & RESOLVE_NO_SYMLINKS, not resolve & RESOLVE_NO_XDEV
    return open_beneath(directory, path, flags, mode, links=links, mounts=mounts)


def sethostname(name: str) -> None:
    """sethostname(2)."""
    encoded = name.encode()
    _check(libc.sethostname(encoded, len(encoded)), "sethostname", name)


def setdomainname(name: str) -> None:
    """setdomainname(2)."""
    encoded = name.encode()
    _check(libc.setdomainname(encoded, len(encoded)), "setdomainname", name)


def prctl(option: int, first: int = 0, second: int = 0) -> None:
    """prctl(2)."""
    _check(libc.prctl(option, first, second, 0, 0), f"prctl({option})")


def set_process_name(name: str) -> None:
    """prctl(PR_SET_NAME): at most 15 bytes are kept; execve(2) replaces it."""
    buffer = ctypes.create_string_buffer(name.encode())
    prctl(PR_SET_NAME, ctypes.addressof(buffer))


def set_file_ids(user_id: int, group_id: int) -> None:
    """setfsuid(2) and setfsgid(2), of this thread; they tell the value before, never an error, so it is looked at afterwards."""
    for call, number in (("setfsgid", group_id), ("setfsuid", user_id)):
        set_id = getattr(libc, call)
        set_id.argtypes, set_id.restype = (c_uint,), c_uint
        set_id(number)
        if set_id(0xFFFFFFFF) != number:
            raise OSError(errno.EPERM, f"{call}: {os.strerror(errno.EPERM)}")


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def capset(effective: int, permitted: int, inheritable: int = 0) -> None:
    """capset(2), version 3: 64-bit masks of this thread."""
    header = _CapabilityHeader(0x20080522, 0)
    data = (_CapabilityData * 2)()
    for index in (0, 1):
        shift = 32 * index
        data[index].effective = effective >> shift & 0xFFFFFFFF
        data[index].permitted = permitted >> shift & 0xFFFFFFFF
        data[index].inheritable = inheritable >> shift & 0xFFFFFFFF
    _check(libc.capset(ctypes.byref(header), ctypes.byref(data)), "capset")


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", c_void_p))


def install_seccomp_filter(program: bytes) -> None:
    """prctl(PR_SET_SECCOMP): needs no_new_privs or CAP_SYS_ADMIN."""
    buffer = ctypes.create_string_buffer(program, len(program))
    descriptor = _FilterProgram(len(program) // 8, ctypes.cast(buffer, c_void_p))
    _check(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(descriptor), 0, 0), "prctl(PR_SET_SECCOMP)")


def join_new_session_keyring() -> None:
    """keyctl(KEYCTL_JOIN_SESSION_KEYRING): a keyring of its own, so that none of the host's keys is reachable."""
    _check(libc.syscall(c_long(_KEYCTL), c_int(1), c_void_p(None)), "keyctl")
