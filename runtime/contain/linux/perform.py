"""Carry out operations, in the process that is to become the container. One `match`, one small function per operation.

Runs on the threshold: in a forked or freshly executed process with one thread, after all imports. Every path below the new root is
resolved by the kernel beneath a descriptor of that root (openat2 with RESOLVE_IN_ROOT), and everything is mounted onto descriptors,
so that no link in an image leads outside. What goes wrong raises OSError, or `ProgramNotStarted` from the last step.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import socket
import stat
import struct
import sys
import termios
from collections.abc import Callable

from contain.beneath import DEVPTS_SUPER_MAGIC, PROC_SUPER_MAGIC, file_system_magic, open_beneath
from contain.linux import idmap, syscalls
from contain.linux.reaper import stay_as_init
from contain.linux.springboard import open_springboard
from contain.operations import (
    BecomeUser,
    BindHostDirectory,
    BringLoopbackUp,
    ChangeDirectory,
    ConfigureInterface,
    EnterRoot,
    EnterStage,
    Execute,
    InstallSeccomp,
    MakeDirectory,
    MakeHostDirectory,
    MakeMountsPrivate,
    MakePathReadOnly,
    MakeSymlink,
    MaskPath,
    MountBind,
    MountCopiedRoot,
    MountCopyOnWrite,
    MountFilesystem,
    MountLayers,
    MountRoot,
    MountScratch,
    Operation,
    SetDomainName,
    SetHostname,
    SetResourceLimit,
    SetSysctl,
    SetUmask,
    ShareMount,
    StageDevice,
    StageHostPath,
    StartKeyring,
    StartSession,
    StayAsInit,
    UseAppArmor,
    WriteHostFile,
    WriteMemoryFile,
)

_ATTRIBUTES = {
    "ro": syscalls.MOUNT_ATTR_RDONLY,
    "nosuid": syscalls.MOUNT_ATTR_NOSUID,
    "nodev": syscalls.MOUNT_ATTR_NODEV,
    "noexec": syscalls.MOUNT_ATTR_NOEXEC,
    "strictatime": syscalls.MOUNT_ATTR_STRICTATIME,
}
_PLAIN = ("/proc", "/sys", "/dev")
_ABSENT = (FileNotFoundError, NotADirectoryError, PermissionError)  # what root cannot reach, nobody inside can
_MOST_LINKS = 40
_OWN_PROGRAMS = ("/proc/self/exe", "/proc/thread-self/exe")
_MOST_INTERPRETERS = 5  # execve(2): scripts whose interpreters are scripts
GOING = b"going"
"""The last word over the channel before a program is executed: all that may come after it is the springboard's four bytes, since from
then on processes in the container can reach who has the channel."""
_TMPFS_MAGIC = 0x01021994  # linux/magic.h
_NOBODY = 65534  # how an owner shows that has no id in this user namespace (user_namespaces(7))
_LAST_CAPABILITY = "/proc/sys/kernel/cap_last_cap"


class ProgramNotStarted(OSError):
    """execve(2) failed: ENOENT means that there is no such program, all else that it cannot be run."""


class Performer:
    """Performs operations in order; holds the descriptor of the new root between them."""

    def __init__(self) -> None:
        # Docker's: neither what is made here nor what the program makes may depend on the caller's umask. Made in a process of
        # the container only, never in the caller's.
        os.umask(0o022)
        self._root = self._proc = self._proc_device = -1
        self.translation = -1  # the user namespace through which staged mounts are seen
        self.terminal_socket: socket.socket | None = None  # where the main side of a terminal is sent
        self.configure_interface: Callable[[str, str, int, str], None] | None = None
        with open(_LAST_CAPABILITY) as file:
            self._last_capability = int(file.read())

    def prepare_springboard(self, channel: int) -> None:
        """Make what `Execute` needs, while no filter can forbid it. ``channel``: where the springboard writes why execve(2) failed; it
        closes when it did not."""
        self._springboard, self._channel = open_springboard(channel), channel

    def perform(self, operation: Operation) -> None:
        """Carry out one operation."""
        match operation:
            case MakeMountsPrivate():
                syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE, "")
            case MountScratch(path=path, size_bytes=size, inodes=inodes):
                syscalls.mount("contain", path, "tmpfs", syscalls.MS_NOSUID, f"size={size},nr_inodes={inodes},mode=755")
            case MakeHostDirectory(path=path, mode=mode):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(path, mode)
            case BindHostDirectory(no_devices=True):
                _attach(_clone_without_devices(operation.source), operation.path)
            case BindHostDirectory(source=source, path=path):
                os.makedirs(path, exist_ok=True)
                try:
                    syscalls.mount(source, path, "", syscalls.MS_BIND, "")
                except FileNotFoundError:
                    if not operation.optional:
                        raise
            case StageHostPath():
                self._stage(operation)
            case StageDevice():
                _make_device(operation)
            case EnterStage(path=path):
                tree = idmap.clone_mapped(path, self.translation, recursive=True)
                _attach(tree, path)
                os.chdir(path)
            case ShareMount(process_id=process_id, source=source, path=path):
                _share_mount(process_id, source, path)
            case MountLayers(lower=lower, path=path):
                os.makedirs(path, exist_ok=True)
                syscalls.mount("overlay", path, "overlay", syscalls.MS_RDONLY, f"lowerdir={':'.join(lower)}")
            case WriteHostFile(path=path, text=text):
                with open(path, "w", encoding="utf-8") as file:
                    file.write(text)
            case WriteMemoryFile():
                _write_memory_file(operation)
            case MountRoot():
                self._mount_root(operation)
            case MountCopiedRoot(path=path, no_devices=no_devices):
                tree = _clone_without_devices(path) if no_devices else _clone_source(path, None)
                _attach(tree, path)
                self._root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            case MountCopyOnWrite():
                target = self._directory_beneath(operation.target)
                self._refuse_proc(target, operation.target)
                shown = os.stat(operation.lower[0])  # an overlay's own directory has its upper directory's owner and mode
                with contextlib.suppress(OSError):  # its owner may be nobody here: then it stays with root
                    os.chown(operation.upper, *(-1 if each == _NOBODY else each for each in (shown.st_uid, shown.st_gid)))
                os.chmod(operation.upper, stat.S_IMODE(shown.st_mode))
                self._overlay(operation.lower, operation.upper, operation.work, f"/proc/self/fd/{target}", volatile=True)
                os.close(target)
            case MountFilesystem():
                self._mount_filesystem(operation)
            case MountBind():
                self._bind(operation)
            case MakeSymlink(target=target, points_to=points_to):
                parent = self._directory_beneath(os.path.dirname(target))
                with contextlib.suppress(FileExistsError):
                    os.symlink(points_to, os.path.basename(target), dir_fd=parent)
                os.close(parent)
            case MaskPath(target=target):
                for path in self._matches(target):
                    self._mask(path)
            case SetSysctl(name=name, value=value, required=required):
                with contextlib.nullcontext() if required else contextlib.suppress(OSError):
                    self._write_sysctl(name, value)
            case MakePathReadOnly(target=target):
                self._make_read_only(target)
            case MakeDirectory(target=target, user_id=user_id, group_id=group_id):
                os.close(self._directory_beneath(target, user_id, group_id))
            case EnterRoot(read_only=read_only):
                self._enter_root(read_only=read_only)
            case SetHostname(name=name):
                syscalls.sethostname(name)
            case SetDomainName(name=name):
                syscalls.setdomainname(name)
            case StartKeyring():
                with contextlib.suppress(OSError):  # a kernel without keyrings
                    syscalls.join_new_session_keyring()
            case SetUmask(mask=mask):
                os.umask(mask)
            case UseAppArmor(profile=profile):
                _use_apparmor(profile)
            case BringLoopbackUp():
                _bring_loopback_up()
            case ConfigureInterface():
                assert (
                    self.configure_interface is not None
                )  # imported by the caller: an import here would read the image's files
                self.configure_interface(operation.interface, operation.address, operation.prefix, operation.gateway)
            case ChangeDirectory(path=path):
                os.chdir(path)
                if not os.getcwd().startswith("/"):  # getcwd(2) says "(unreachable)" for a place outside the root
                    raise OSError(errno.EINVAL, "the working directory lies outside the root", path)
            case BecomeUser():
                self._become(operation)
            case InstallSeccomp(program=program):
                syscalls.install_seccomp_filter(program)
            case StayAsInit(confinement=confinement):
                stay_as_init(lambda: self._perform_all(confinement), self.terminal_socket)
            case StartSession(terminal=terminal, console=console):
                os.setsid()
                if terminal:
                    self._open_terminal(console=console)
                else:
                    _replace_null_devices()
            case SetResourceLimit(name=name, soft=soft, hard=hard):
                try:
                    resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (soft, hard))
                except ValueError as error:  # so Python says EPERM
                    raise OSError(errno.EPERM, str(error)) from error
            case Execute(arguments=arguments, environment=environment):
                _execute(arguments, environment, self._springboard, self._channel)

    # -- below the root ------------------------------------------------------------------------------------------------------

    def _perform_all(self, operations: tuple[Operation, ...]) -> None:
        for operation in operations:
            self.perform(operation)

    def _open_beneath(self, path: str) -> int:
        return syscalls.openat2(self._root, path.lstrip("/") or ".", os.O_PATH)

    def _link_beneath(self, parent: int, place: str, name: str) -> str | None:
        """Where a symbolic link that leads nowhere yet points, as a path below the root; None if it is no link."""
        try:
            points_to = os.readlink(name, dir_fd=parent)
        except OSError:
            return None
        return points_to if points_to.startswith("/") else f"{place}/{points_to}"

    def _directory_beneath(self, path: str, user_id: int = 0, group_id: int = 0, *, links: int = 0) -> int:
        """A descriptor of a directory, made with its parents where it is missing, at the end of links that lead nowhere too."""
        try:
            return self._open_beneath(path)
        except FileNotFoundError:
            pass
        place, _, name = path.rstrip("/").rpartition("/")
        parent = self._directory_beneath(place or "/", user_id, group_id, links=links)
        try:
            points_to = self._link_beneath(parent, place, name)
            if points_to is not None and links < _MOST_LINKS:
                return self._directory_beneath(points_to, user_id, group_id, links=links + 1)
            os.mkdir(name, 0o755, dir_fd=parent)
            if user_id or group_id:
                os.chown(name, user_id, group_id, dir_fd=parent, follow_symlinks=False)
            return os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        finally:
            os.close(parent)

    def _file_beneath(self, path: str, *, links: int = 0) -> int:
        """A descriptor of a file, made empty where it is missing, at the end of links that lead nowhere too."""
        try:
            return self._open_beneath(path)
        except FileNotFoundError:
            pass
        place, _, name = path.rpartition("/")
        parent = self._directory_beneath(place or "/")
        try:
            points_to = self._link_beneath(parent, place, name)
            if points_to is not None and links < _MOST_LINKS:
                return self._file_beneath(points_to, links=links + 1)
            # mounted onto by this descriptor: by its name something else might be there by now
            return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=parent)
        finally:
            os.close(parent)

    def _plain_directory_beneath(self, path: str) -> int:
        """A directory of the root itself, made where it is missing; whatever else is there in an image is refused, as runc does."""
        name = path.lstrip("/")
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=self._root)
        resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS
        try:
            return syscalls.openat2(self._root, name, os.O_PATH | os.O_DIRECTORY, resolve=resolve)
        except OSError as error:
            raise OSError(errno.ENOTDIR, f"{path} of the image is not an ordinary directory", path) from error

    def _refuse_proc(self, target: int, path: str) -> None:
        """Nothing is mounted inside /proc, whatever links lead there: what is written to it must reach the kernel (CVE-2019-19921).
        Links do not lead into /sys either; only a plan that says so."""
        if os.fstat(target).st_dev == self._proc_device:
            raise OSError(errno.EPERM, f"{path} cannot be mounted because it is inside /proc", path)
        found, root = (os.readlink(f"/proc/self/fd/{descriptor}") for descriptor in (target, self._root))
        if f"{found.removeprefix(root)}/".startswith("/sys/") and not f"{path}/".startswith("/sys/"):
            raise OSError(errno.EPERM, f"{path} cannot be mounted because it is inside /sys", path)

    # -- mounts --------------------------------------------------------------------------------------------------------------

    def _overlay(self, lower: tuple[str, ...], upper: str, work: str, target: str, *, volatile: bool, flags: int = 0) -> None:
        # mount(2) takes one page of options, so the directories go in as short descriptor paths
        opened = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in (*lower, upper, work)]
        try:
            names = [f"/proc/self/fd/{descriptor}" for descriptor in opened]
            data = f"lowerdir={':'.join(names[:-2])},upperdir={names[-2]},workdir={names[-1]},userxattr"
            syscalls.mount("overlay", target, "overlay", flags, data + (",volatile" if volatile else ""))
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def _mount_root(self, operation: MountRoot) -> None:
        # the overlay covers its own upper directory: any directory of this container's would do as the mount point
        flags = syscalls.MS_NODEV if operation.no_devices else 0
        layers = (operation.lower, operation.upper, operation.work)
        self._overlay(*layers, operation.upper, volatile=operation.volatile, flags=flags)
        self._root = os.open(operation.upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def _mount_filesystem(self, operation: MountFilesystem) -> None:
        plain = operation.target in _PLAIN
        target = self._plain_directory_beneath(operation.target) if plain else self._directory_beneath(operation.target)
        context = mounted = -1
        try:
            self._refuse_proc(target, operation.target)
            context = syscalls.fsopen(operation.kind)
            for key, value in operation.options:
                if value:
                    syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, key, value)
                else:
                    syscalls.fsconfig(context, syscalls.FSCONFIG_SET_FLAG, key, None)
            syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE, None, None)
            mounted = syscalls.fsmount(context, sum(_ATTRIBUTES[name] for name in operation.attributes))
            syscalls.move_mount(mounted, target, operation.target)
            if operation.kind == "proc":
                self._proc, self._proc_device = fcntl.fcntl(mounted, fcntl.F_DUPFD_CLOEXEC, 0), os.fstat(mounted).st_dev
        except OSError:
            if not operation.optional:
                raise
        finally:
            for descriptor in (context, mounted, target):
                if descriptor >= 0:
                    os.close(descriptor)

    def _bind(self, operation: MountBind) -> None:
        try:
            tree = _clone_source(operation.source, operation.beneath)
        except OSError:
            if operation.optional:
                return
            raise
        directory = stat.S_ISDIR(os.fstat(tree).st_mode)
        if directory and operation.target in _PLAIN:
            target = self._plain_directory_beneath(operation.target)
        else:
            target = self._directory_beneath(operation.target) if directory else self._file_beneath(operation.target)
        self._refuse_proc(target, operation.target)
        attributes = (syscalls.MOUNT_ATTR_RDONLY if operation.read_only else 0) | (
            syscalls.MOUNT_ATTR_NODEV if operation.no_devices else 0
        )
        if attributes:
            syscalls.mount_setattr(tree, attributes, recursive=True)
        syscalls.move_mount(tree, target, operation.target)
        os.close(tree)
        os.close(target)

    def _stage(self, operation: StageHostPath) -> None:
        path = operation.path
        if operation.translated:
            tree = idmap.clone_mapped(operation.source, self.translation)
        else:
            tree = _clone_source(operation.source, operation.beneath)
        if operation.no_devices:
            syscalls.mount_setattr(tree, syscalls.MOUNT_ATTR_NODEV, recursive=False)
        if stat.S_ISDIR(os.fstat(tree).st_mode):
            os.makedirs(path, exist_ok=True)
        else:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        _attach(tree, path)

    def _matches(self, pattern: str) -> list[str]:
        """Paths for a pattern with one starred component; the path itself where there is none."""
        if "*" not in pattern:
            return [pattern]
        before, _, after = pattern.partition("*")
        place, _, prefix = before.rpartition("/")
        try:
            directory = syscalls.openat2(self._root, place.lstrip("/"), os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return []
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries if entry.name.startswith(prefix))
        os.close(directory)
        return [f"{place}/{name}{after}" for name in names]

    def _mask(self, path: str) -> None:
        try:
            target = self._open_beneath(path)
        except _ABSENT:
            return
        if stat.S_ISDIR(os.fstat(target).st_mode):
            context = syscalls.fsopen("tmpfs")
            syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, "nr_inodes", "2")
            syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE, None, None)
            tree = syscalls.fsmount(context, _ATTRIBUTES["ro"])
            os.close(context)
        else:
            null = os.open("/dev/null", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)  # still the host's /dev
            if not _is_null_device(null):  # CVE-2025-31133
                raise OSError(errno.EINVAL, "the host's /dev/null is not the null device", "/dev/null")
            tree = syscalls.open_tree(null, "", syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH)
            os.close(null)
            syscalls.mount_setattr(tree, syscalls.MOUNT_ATTR_RDONLY, recursive=False)  # its mode and owner are the host's
        syscalls.move_mount(tree, target, path)
        os.close(tree)
        os.close(target)

    def _make_read_only(self, path: str) -> None:
        try:
            target = self._open_beneath(path)
        except _ABSENT:
            return
        tree = syscalls.open_tree(target, "", syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH | syscalls.AT_RECURSIVE)
        syscalls.mount_setattr(tree, syscalls.MOUNT_ATTR_RDONLY, recursive=True)
        syscalls.move_mount(tree, target, path)
        os.close(tree)
        os.close(target)

    def _enter_root(self, *, read_only: bool) -> None:
        os.fchdir(self._root)
        syscalls.pivot_root(".", ".")  # the old root now covers the new one at the same place ...
        syscalls.umount2(".", syscalls.MNT_DETACH)  # ... and this uncovers it: pivot_root(2), NOTES
        os.chdir("/")
        if read_only:
            syscalls.mount_setattr(self._root, syscalls.MOUNT_ATTR_RDONLY, recursive=False)
        os.close(self._root)
        if self._proc >= 0:
            os.close(self._proc)
        self._root = self._proc = -1

    def _write_sysctl(self, name: str, value: str) -> None:
        """Beneath the descriptor of the very /proc that was made for the container: whatever an image or a volume shows as ``/proc``
        is never written to (CVE-2019-19921, CVE-2025-52881)."""
        descriptor = open_beneath(self._proc, f"sys/{name}", os.O_WRONLY, links=False, mounts=False)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)

    def _open_terminal(self, *, console: bool) -> None:
        """The pseudo terminal comes from inside, the peer by descriptor (CVE-2025-52565), never by a path."""
        assert self.terminal_socket is not None
        terminals = _open_verified("/dev/pts", DEVPTS_SUPER_MAGIC)
        main = os.open("ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=terminals)
        os.close(terminals)
        fcntl.ioctl(main, 0x40045431, struct.pack("i", 0))  # TIOCSPTLCK
        peer = fcntl.ioctl(main, 0x5441, os.O_RDWR | os.O_NOCTTY)  # TIOCGPTPEER, ioctl_tty(2)
        socket.send_fds(self.terminal_socket, [b"t"], [main])
        os.close(main)
        fcntl.ioctl(peer, termios.TIOCSCTTY, 0)
        if console:
            _show_console(peer)
        for number in range(3):
            os.dup2(peer, number)
        if peer > 2:
            os.close(peer)

    # -- credentials ---------------------------------------------------------------------------------------------------------

    def _become(self, who: BecomeUser) -> None:
        if who.held:  # while it is in the bounding set: later it cannot become inheritable
            every = (1 << self._last_capability + 1) - 1
            syscalls.capset(every, every, who.held)
        for number in range(self._last_capability + 1):
            if not who.bounding >> number & 1:
                syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
        with contextlib.suppress(OSError):  # a kernel without keyrings
            syscalls.join_new_session_keyring()
        if who.held:
            syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
        try:
            os.setgroups(list(who.groups))
        except PermissionError:  # with one id only, nobody may: the user's own groups stay, which nothing inside can name
            if _may_set_groups():
                raise
        os.setresgid(who.group_id, who.group_id, who.group_id)
        os.setresuid(who.user_id, who.user_id, who.user_id)
        effective = who.effective if who.user_id == 0 else 0
        syscalls.capset(effective | who.held, effective | who.held, who.held)
        syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
        for number in range(self._last_capability + 1):
            if who.held >> number & 1:  # ambient is what survives execve(2) beyond the bounding set
                syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, number)
        if who.no_new_privileges:
            syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        # Until execve(2), which sets it back, nobody inside may trace this process or reach its program file, which is the host's
        # (CVE-2016-9962, CVE-2019-5736).
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def _may_set_groups() -> bool:
    with open("/proc/self/setgroups") as file:
        return file.read().strip() != "deny"


def _show_console(terminal: int) -> None:
    """Mount the terminal at /dev/console, by descriptors; whatever is there already, the user's, stays."""
    devices = _open_verified("/dev", _TMPFS_MAGIC)
    try:
        node = os.open("console", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=devices)
    except FileExistsError:
        return
    finally:
        os.close(devices)
    tree = syscalls.open_tree(terminal, "", syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH)
    syscalls.move_mount(tree, node, "/dev/console")
    os.close(tree)
    os.close(node)


def _share_mount(process_id: int, source: str, path: str) -> None:
    os.mkdir(path)
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    other = os.open(f"/proc/{process_id}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    tree = -1
    try:
        syscalls.setns(other, syscalls.CLONE_NEWNS)
        try:
            place = _open_verified(source, _TMPFS_MAGIC)
            tree = syscalls.open_tree(place, "", syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH)
            os.close(place)
        finally:
            syscalls.setns(own, syscalls.CLONE_NEWNS)
        target = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        syscalls.move_mount(tree, target, path)
        os.close(target)
    finally:
        for descriptor in (own, other, tree):
            if descriptor >= 0:
                os.close(descriptor)


def _use_apparmor(profile: str) -> None:
    proc = _open_verified("/proc", PROC_SUPER_MAGIC)
    descriptor = -1
    try:
        descriptor = open_beneath(proc, f"{os.getpid()}/attr/apparmor/exec", os.O_WRONLY, links=False, mounts=False)
        os.write(descriptor, f"exec {profile}".encode())
    finally:
        for opened in (descriptor, proc):
            if opened >= 0:
                os.close(opened)


def _open_verified(path: str, magic: int) -> int:
    """A kernel file system's directory inside the container, which is refused if it is anything else: a container with the right to
    mount could have covered it."""
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if file_system_magic(descriptor) != magic:
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{path} of the container is not the kernel's", path)
    return descriptor


def _clone_source(source: str, beneath: str | None) -> int:
    """A detached copy of the mount at a place of the machine; with ``beneath``, no link below that directory leads to it: the name may
    be given to a link by others while we look (CVE-2024-23651)."""
    flags = syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE
    if beneath is None:
        return syscalls.open_tree(-100, source, flags)
    top = os.open(beneath, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS
        found = syscalls.openat2(top, os.path.relpath(source, beneath), os.O_PATH, resolve=resolve)
    finally:
        os.close(top)
    try:
        return syscalls.open_tree(found, "", flags | syscalls.AT_EMPTY_PATH)
    finally:
        os.close(found)


def _write_memory_file(operation: WriteMemoryFile) -> None:
    descriptor = os.open(operation.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        data = memoryview(operation.data)
        while data:
            data = data[os.write(descriptor, data) :]
        os.fchown(descriptor, operation.user_id, operation.group_id)
        os.fchmod(descriptor, operation.mode)
    finally:
        os.close(descriptor)


def _make_device(operation: StageDevice) -> None:
    found = os.stat(operation.source)
    if not stat.S_ISCHR(found.st_mode) and not stat.S_ISBLK(found.st_mode):
        raise OSError(errno.ENODEV, "not a device node", operation.source)
    os.mknod(operation.path, found.st_mode, found.st_rdev)
    os.chown(operation.path, operation.owner_id, operation.owner_id)
    os.chmod(operation.path, stat.S_IMODE(found.st_mode))


def _clone_without_devices(source: str) -> int:
    """A detached copy of the mount at a place of the machine, in which no device node can be opened."""
    tree = _clone_source(source, None)
    syscalls.mount_setattr(tree, syscalls.MOUNT_ATTR_NODEV, recursive=True)
    return tree


def _attach(tree: int, path: str) -> None:
    """Mount a detached tree at a host path of ours, and let go of it."""
    target = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    syscalls.move_mount(tree, target, path)
    os.close(tree)
    os.close(target)


def _is_null_device(descriptor: int) -> bool:
    state = os.fstat(descriptor)
    return stat.S_ISCHR(state.st_mode) and state.st_rdev == os.makedev(1, 3)


def _replace_null_devices() -> None:
    """Where a standard descriptor is the host's /dev/null, the container's own takes its place: fchmod(2) on the host's would reach
    the host."""
    for number in range(3):
        with contextlib.suppress(OSError):
            if _is_null_device(number):
                inner = os.open("/dev/null", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                if _is_null_device(inner):
                    os.dup2(inner, number)
                os.close(inner)


def _bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        request = struct.pack("16sH14x", b"lo", 0x41)  # struct ifreq: IFF_UP | IFF_RUNNING
        fcntl.ioctl(control, 0x8914, request)  # SIOCSIFFLAGS, netdevice(7)


def _execute(arguments: tuple[str, ...], environment: tuple[tuple[str, str], ...], springboard: int, channel: int) -> None:
    """Become the program, over the springboard: whatever the image calls ``/proc/self/exe`` or names as an interpreter, the machine's
    Python is it no longer (CVE-2019-5736). What execve(2) says comes from the springboard, over the channel."""
    variables = dict(environment)
    program = arguments[0]
    if "/" in program:
        candidates = [program]
    else:
        places = variables.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").split(":")
        candidates = [f"{place or '.'}/{program}" for place in places]
    refused: ProgramNotStarted | None = None
    for candidate in candidates:
        try:
            mode = os.stat(candidate).st_mode
            if stat.S_ISDIR(mode) or not mode & 0o111:
                why = "is a directory" if stat.S_ISDIR(mode) else "permission denied"
                refused = refused or ProgramNotStarted(errno.EACCES, why)
                continue
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            refused = refused or ProgramNotStarted(error.errno, _in_lower_case(os.strerror(error.errno or 0)))
            continue
        if _leads_to_us(candidate):
            raise ProgramNotStarted(errno.EACCES, f"{candidate} is this engine's own program")
        os.set_inheritable(channel, True)  # the springboard closes it
        os.write(channel, GOING)
        words = (candidate, *arguments)
        try:
            os.execve(springboard, words, variables)
        except OSError as error:
            with contextlib.suppress(OSError):
                if error.errno == errno.EPERM:  # a profile that knows execve(2) and not execveat(2)
                    os.execve(f"/proc/self/fd/{springboard}", words, variables)
            os.write(channel, (error.errno or errno.EIO).to_bytes(4, sys.byteorder))
            os._exit(127)
    if refused is not None:
        raise refused
    if "/" in program:
        raise ProgramNotStarted(errno.ENOENT, f"stat {program}: no such file or directory")
    raise ProgramNotStarted(errno.ENOENT, "executable file not found in $PATH")


def _leads_to_us(path: str) -> bool:
    """Whether a program or its interpreter is ``/proc/self/exe``: now the machine's Python, the springboard when it is executed.
    For a clear answer; it is the springboard that keeps the Python out of reach."""
    with contextlib.suppress(OSError):
        for _ in range(_MOST_INTERPRETERS):
            for _ in range(_MOST_LINKS):
                if os.path.normpath(path) in _OWN_PROGRAMS:
                    return True
                if not os.path.islink(path):
                    break
                path = os.path.join(os.path.dirname(path), os.readlink(path))
            if not stat.S_ISREG(os.stat(path).st_mode):
                break
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            start = os.read(descriptor, 256)
            os.close(descriptor)
            words = start[2:].split(b"\n")[0].split()
            if not start.startswith(b"#!") or not words:
                break
            path = os.fsdecode(words[0])
    return False


def not_executed(data: bytes) -> ProgramNotStarted | None:
    """The error that the springboard wrote; None for anything else that came over the channel."""
    if len(data) != 4:
        return None
    number = int.from_bytes(data[:4], sys.byteorder)
    why = "its interpreter is missing" if number == errno.ENOENT else _in_lower_case(os.strerror(number))
    return ProgramNotStarted(number, why)


def _in_lower_case(text: str) -> str:
    """As Docker writes the kernel's messages."""
    return text[:1].lower() + text[1:]
