"""Carry out the operations of a bundle's container. Like `contain.linux.perform`, which it extends: on the threshold, by descriptors.

A bundle's container may lack a user namespace: its root is then the machine's root, held by capabilities alone. So whatever is written
here is verified first to be what its name says (a kernel file system, the device meant), not only to lie below the root.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import stat
import struct
import termios

from contain.bundle_operations import (
    BundleOperation,
    EnterProfile,
    InstallFilter,
    KeepOnly,
    LeaveHost,
    MakeNode,
    MountEntry,
    OpenConsole,
    SetAffinity,
    SetDomainName,
    SetIoPriority,
    SetLimit,
    SetPersonality,
    SetScheduling,
    TakeIdentity,
    TakeRootDirectory,
    WriteSysctl,
)
from contain.linux import syscalls
from contain.linux.perform import Performer

_HERE = -100  # AT_FDCWD
_SYS_ADMIN = 1 << 21
_X86 = os.uname().machine == "x86_64"
_PRLIMIT, _PERSONALITY, _SETDOMAINNAME = (302, 135, 171) if _X86 else (261, 92, 162)
_SCHED_SETATTR, _IOPRIO_SET, _SECCOMP = (314, 251, 317) if _X86 else (274, 30, 277)
# What may be mounted over inside /proc: plain numbers about the machine, as runc's list has them
_PROC_FILES = frozenset(
    f"/proc/{name}"
    for name in (
        *("cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo"),
        *("sys/kernel/ns_last_pid", "sys/crypto/fips_enabled"),
    )
)
_PLAIN = ("/proc", "/sys")
_COPY_CHUNK_BYTES = 1 << 20


class BundlePerformer(Performer):
    """Performs a bundle's operations in order."""

    def __init__(self) -> None:
        super().__init__()
        self.channel: socket.socket | None = None  # to the process outside, for the main side of a terminal
        self.profile_file = -1  # of this process, in the machine's /proc: `open_profile_file`

    def perform_bundle(self, operation: BundleOperation) -> None:
        """Carry out one operation."""
        match operation:
            case TakeRootDirectory():
                self._take_root(operation)
            case MountEntry():
                try:
                    self._mount_entry(operation)
                except OSError:
                    if not operation.optional:
                        raise
            case MakeNode():
                self._make_node(operation)
            case OpenConsole():
                self._open_console(operation)
            case WriteSysctl(name=name, value=value):
                self._write_sysctl(name, value)
            case LeaveHost():
                self._leave_host(operation)
            case SetDomainName(name=name):
                encoded = name.encode()
                _call("setdomainname", _SETDOMAINNAME, ctypes.c_char_p(encoded), ctypes.c_size_t(len(encoded)))
            case SetLimit():
                _set_limit(operation)
            case SetPersonality(domain=domain):
                _call("personality", _PERSONALITY, ctypes.c_ulong(domain))
            case SetScheduling():
                _set_scheduling(operation)
            case SetIoPriority(value=value):
                _call("ioprio_set", _IOPRIO_SET, ctypes.c_int(1), ctypes.c_int(0), ctypes.c_int(value))
            case SetAffinity(processors=processors):
                os.sched_setaffinity(0, processors)
            case EnterProfile(profile=profile):
                os.write(self.profile_file, f"exec {profile}".encode())
            case InstallFilter(program=program, flags=flags, privileged=privileged):
                _install_filter(program, flags, privileged)
            case KeepOnly():
                _keep_only(operation)
            case TakeIdentity():
                self._take_identity(operation)
            case _:
                self.perform(operation)

    def open_profile_file(self, processes: int | None = None) -> None:
        """Open the file for `EnterProfile`: by the process that is to enter, in the machine's /proc, or in ``processes``, which is a
        descriptor of that (proc(5), "attr")."""
        for name in ("self/attr/apparmor/exec", "self/attr/exec"):
            try:
                if processes is None:
                    self.profile_file = os.open(f"/proc/{name}", os.O_WRONLY | os.O_CLOEXEC)
                else:
                    self.profile_file = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=processes)
            except FileNotFoundError:
                continue
            return
        raise OSError(errno.ENOENT, "this machine has no AppArmor", "/proc/self/attr/apparmor/exec")

    # -- the root ------------------------------------------------------------------------------------------------------------

    def _take_root(self, operation: TakeRootDirectory) -> None:
        shared = 1 << 20
        if operation.detached:
            self._root = syscalls.open_tree(_HERE, operation.path, syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE)
            return
        syscalls.mount("", "/", "", operation.propagation, "")
        if operation.propagation & shared:
            _make_parent_private(operation.path)
        tree = syscalls.open_tree(_HERE, operation.path, syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE)
        target = os.open(operation.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        syscalls.move_mount(tree, target, operation.path)
        os.close(target)
        self._root = tree

    def _leave_host(self, operation: LeaveHost) -> None:
        os.fchdir(self._root)
        if operation.detached:
            os.chroot(".")
        elif operation.move:
            syscalls.mount(".", "/", "", 0x2000, "")  # MS_MOVE
            os.chroot(".")
        else:
            syscalls.pivot_root(".", ".")
            # what is unmounted here must not be unmounted where a peer of the old root is
            syscalls.mount("", ".", "", (1 << 19) | syscalls.MS_REC, "")
            syscalls.umount2(".", syscalls.MNT_DETACH)
        os.chdir("/")
        if operation.propagation and not operation.detached:
            syscalls.mount("", "/", "", operation.propagation, "")
        if operation.read_only:
            syscalls.mount_setattr(self._root, syscalls.MOUNT_ATTR_RDONLY, recursive=False)
        os.close(self._root)
        self._root = -1

    # -- mounts --------------------------------------------------------------------------------------------------------------

    def _refuse_proc(self, target: int, path: str) -> None:
        if path in _PROC_FILES and os.fstat(target).st_dev == self._proc_device:
            return
        super()._refuse_proc(target, path)

    def _mount_entry(self, entry: MountEntry) -> None:
        tree = self._source_tree(entry)
        target = -1
        try:
            directory = stat.S_ISDIR(os.fstat(tree).st_mode)
            if directory and entry.target in _PLAIN:
                target = self._plain_directory_beneath(entry.target)
            else:
                target = self._directory_beneath(entry.target) if directory else self._file_beneath(entry.target)
            self._refuse_proc(target, entry.target)
            if entry.copy_up:
                with contextlib.suppress(FileNotFoundError):
                    original = os.open(f"/proc/self/fd/{target}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    _copy_directory(original, tree)
                    os.close(original)
            if entry.set_attributes or entry.clear_attributes:
                syscalls.mount_setattr(tree, entry.set_attributes, clear=entry.clear_attributes, recursive=False)
            if entry.tree_set or entry.tree_clear:
                syscalls.mount_setattr(tree, entry.tree_set, clear=entry.tree_clear, recursive=True)
            syscalls.move_mount(tree, target, entry.target)
            for flags in entry.propagation:
                syscalls.mount_setattr(tree, 0, propagation=flags & ~syscalls.MS_REC, recursive=bool(flags & syscalls.MS_REC))
            if entry.kind == "proc":
                self._proc_device = os.fstat(tree).st_dev
        finally:
            os.close(tree)
            if target >= 0:
                os.close(target)

    def _source_tree(self, entry: MountEntry) -> int:
        """A detached mount of what the entry shows."""
        if entry.bind:
            recursive = syscalls.AT_RECURSIVE if entry.recursive else 0
            return syscalls.open_tree(_HERE, entry.source, syscalls.OPEN_TREE_CLONE | recursive)
        context = syscalls.fsopen(entry.kind)
        try:
            if entry.source and entry.kind not in ("cgroup", "cgroup2"):
                syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, "source", entry.source)
            for key, value in entry.data:
                if value:
                    syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, key, value)
                else:
                    syscalls.fsconfig(context, syscalls.FSCONFIG_SET_FLAG, key, None)
            syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE, None, None)
            return syscalls.fsmount(context, 0)
        finally:
            os.close(context)

    # -- nodes, terminal, parameters -----------------------------------------------------------------------------------------

    def _make_node(self, node: MakeNode) -> None:
        if node.bind:
            self._bind_node(node)
            return
        parent_path, _, name = node.path.rpartition("/")
        parent = self._directory_beneath(parent_path or "/")
        before = os.umask(0)
        try:
            wanted = os.makedev(node.major, node.minor)
            try:
                os.mknod(name, node.type_bits | node.mode, wanted, dir_fd=parent)
            except FileExistsError:
                found = os.stat(name, dir_fd=parent, follow_symlinks=False)
                same = stat.S_IFMT(found.st_mode) == node.type_bits and (
                    stat.S_ISFIFO(found.st_mode) or found.st_rdev == wanted
                )
                if not same:
                    raise OSError(errno.EEXIST, "there is something else than the device", node.path) from None
            if node.user_id or node.group_id:
                os.chown(name, node.user_id, node.group_id, dir_fd=parent, follow_symlinks=False)
        finally:
            os.umask(before)
            os.close(parent)

    def _bind_node(self, node: MakeNode) -> None:
        source = os.open(node.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        found = os.fstat(source)
        if stat.S_IFMT(found.st_mode) != node.type_bits or found.st_rdev != os.makedev(node.major, node.minor):
            raise OSError(errno.ENODEV, "the machine has no such device there", node.path)
        tree = syscalls.open_tree(source, "", syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH)
        target = self._file_beneath(node.path)
        self._refuse_proc(target, node.path)
        syscalls.move_mount(tree, target, node.path)
        for descriptor in (source, tree, target):
            os.close(descriptor)

    def _open_console(self, console: OpenConsole) -> None:
        """Only descriptors: the other side comes from the pair itself, never from a name (CVE-2025-52565)."""
        assert self.channel is not None
        root = self._root if self._root >= 0 else os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        flags = os.O_RDWR | os.O_NOCTTY
        main = syscalls.openat2(root, "dev/pts/ptmx", flags)
        if os.fstat(main).st_rdev != os.makedev(5, 2):
            raise OSError(errno.ENODEV, "is no terminal multiplexer", "/dev/pts/ptmx")
        number = struct.unpack("I", fcntl.ioctl(main, 0x80045430, b"\0\0\0\0"))[0]  # TIOCGPTN, which only a multiplexer answers
        fcntl.ioctl(main, 0x40045431, struct.pack("i", 0))  # TIOCSPTLCK
        peer = fcntl.ioctl(main, 0x5441, flags)  # TIOCGPTPEER
        if console.height or console.width:
            fcntl.ioctl(main, termios.TIOCSWINSZ, struct.pack("HHHH", console.height, console.width, 0, 0))
        if console.user_id:
            os.fchown(peer, console.user_id, -1)
        if console.node:
            tree = syscalls.open_tree(peer, "", syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH)
            target = self._file_beneath("/dev/console")
            syscalls.move_mount(tree, target, "/dev/console")
            os.close(tree)
            os.close(target)
        socket.send_fds(self.channel, [b"t/dev/pts/%d" % number], [main])
        os.close(main)
        if root != self._root:
            os.close(root)
        fcntl.ioctl(peer, termios.TIOCSCTTY, 0)
        for standard in range(3):
            os.dup2(peer, standard)
        if peer > 2:
            os.close(peer)

    def _write_sysctl(self, name: str, value: str) -> None:
        resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS
        descriptor = syscalls.openat2(self._root, f"proc/sys/{name}", os.O_WRONLY, resolve=resolve)
        try:
            if os.fstat(descriptor).st_dev != self._proc_device:  # a file of the image under that name (CVE-2025-52881)
                raise OSError(errno.EXDEV, "is no kernel parameter", f"/proc/sys/{name}")
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)

    # -- credentials ---------------------------------------------------------------------------------------------------------

    def _take_identity(self, who: TakeIdentity) -> None:
        sets = who.capabilities
        if who.new_keyring:
            with contextlib.suppress(OSError):  # a kernel without keyrings
                syscalls.join_new_session_keyring()
        if sets is not None:
            for number in range(self._last_capability + 1):
                if not sets[0] >> number & 1:
                    syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
            syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
        try:
            os.setgroups(list(who.groups))
        except PermissionError:  # a user namespace of an ordinary user's, where nobody has additional groups to give or take
            if who.groups:
                raise OSError(errno.EPERM, "this user namespace allows no additional groups") from None
        os.setresgid(who.group_id, who.group_id, who.group_id)
        os.setresuid(who.user_id, who.user_id, who.user_id)
        if sets is not None:
            every = (1 << self._last_capability + 1) - 1
            _, effective, inheritable, permitted = (bits & every for bits in sets)
            # Effective is final from here on, so that directories and programs are found with the program's rights; what else is
            # permitted goes with `KeepOnly`, after the filter.
            kept = permitted | (_SYS_ADMIN if who.filter_follows else 0)
            syscalls.capset(effective & permitted, kept, inheritable)
        os.umask(who.umask)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # until execve(2): see `Performer._become`


def _keep_only(rights: KeepOnly) -> None:
    """The last rights of the set-up go. Few calls: a filter may be in force."""
    if rights.capabilities is not None:
        effective, inheritable, permitted, ambient = rights.capabilities
        syscalls.capset(effective & permitted, permitted, inheritable)
        for number in range(64):
            if ambient >> number & 1:
                syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, number)
    if rights.no_new_privileges:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)


def _call(name: str, number: int, *arguments: object) -> int:
    result = int(syscalls.libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def _install_filter(program: bytes, flags: int, privileged: tuple[int, int, int] | None) -> None:
    if privileged is not None:
        effective, permitted, inheritable = privileged
        syscalls.capset(effective & permitted | _SYS_ADMIN, permitted | _SYS_ADMIN, inheritable)
    if not flags:
        syscalls.install_seccomp_filter(program)
        return
    buffer = ctypes.create_string_buffer(program, len(program))
    described = _FilterProgram(len(program) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    _call("seccomp", _SECCOMP, ctypes.c_uint(1), ctypes.c_uint(flags), ctypes.byref(described))


def _set_limit(limit: SetLimit) -> None:
    pair = struct.pack("=QQ", limit.soft, limit.hard)
    try:
        _call("prlimit", _PRLIMIT, ctypes.c_int(0), ctypes.c_int(limit.number), ctypes.c_char_p(pair), ctypes.c_void_p(None))
    except OSError as error:
        why = f"the limit {limit.name} cannot be {limit.soft}:{limit.hard}"
        if error.errno == errno.EPERM:
            why += ": raising it needs CAP_SYS_RESOURCE, which this runtime was not given"
        raise OSError(error.errno, why) from None


def _set_scheduling(wanted: SetScheduling) -> None:
    attributes = struct.pack(
        "=IIQiIQQQ",
        48,
        wanted.policy,
        wanted.flags,
        wanted.nice,
        wanted.priority,
        wanted.runtime,
        wanted.deadline,
        wanted.period,
    )
    _call("sched_setattr", _SCHED_SETATTR, ctypes.c_int(0), ctypes.c_char_p(attributes), ctypes.c_uint(0))


def _make_parent_private(path: str) -> None:
    """The mount that a path lies on, so that what is mounted there next stays here. Up to its mount point: mount(2) wants that."""
    while True:
        try:
            syscalls.mount("", path, "", syscalls.MS_PRIVATE, "")
        except OSError as error:
            if error.errno != errno.EINVAL or path == "/":
                raise
            path = os.path.dirname(path)
        else:
            return


def _copy_directory(source: int, target: int) -> None:
    """Copy what is below one directory into another, empty one; both by descriptor, links as links."""
    with os.scandir(source) as entries:
        names = [entry.name for entry in entries]
    found = os.fstat(source)
    os.fchown(
        opened := os.open(f"/proc/self/fd/{target}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), found.st_uid, found.st_gid
    )
    os.fchmod(opened, stat.S_IMODE(found.st_mode))
    for name in names:
        _copy_entry(source, opened, name)
    os.close(opened)


def _copy_entry(source: int, target: int, name: str) -> None:
    found = os.stat(name, dir_fd=source, follow_symlinks=False)
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISDIR(found.st_mode):
        os.mkdir(name, 0o700, dir_fd=target)
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        copy = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
        _copy_directory(inner, copy)
        os.close(inner)
        os.close(copy)
    elif stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
    elif stat.S_ISREG(found.st_mode):
        inner = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        copy = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        while os.sendfile(copy, inner, None, _COPY_CHUNK_BYTES):
            pass
        os.fchown(copy, found.st_uid, found.st_gid)
        os.fchmod(copy, mode)
        os.close(inner)
        os.close(copy)
    else:
        before = os.umask(0)
        os.mknod(name, found.st_mode, found.st_rdev, dir_fd=target)
        os.umask(before)
        os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
