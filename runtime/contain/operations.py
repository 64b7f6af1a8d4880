"""Everything that contain asks of a kernel to set up a container, as plain values.

A launch plan is a tuple of these, in order; `contain.linux.perform` carries them out, one `match` for all. Nothing here does
anything. Paths named ``target`` are inside the new root and are resolved beneath it, by descriptors; ``source``, ``lower``,
``upper`` and ``work`` are host paths.
"""

from __future__ import annotations

from contain.values import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeMountsPrivate:
    """Stop mount events from travelling to or from the host (mount_namespaces(7))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountScratch:
    """A memory file system at a host path, seen only in this mount namespace, that holds upper and work directories."""

    path: str
    size_bytes: int
    inodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeHostDirectory:
    """A directory at a host path; it may exist."""

    path: str
    mode: int = 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class BindHostDirectory:
    """A host directory once more at another host path, without what is mounted below it, seen only in this mount namespace.

    For overlay layers: a user namespace may not take a directory apart from the mounts below it (mount_namespaces(7), locked mounts),
    so this is done before it is entered. ``optional``: where it has gone meanwhile, an empty directory is there. ``no_devices``: device
    nodes in it cannot be opened; done here, nobody in the namespace can undo it.
    """

    source: str
    path: str
    optional: bool = False
    no_devices: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StageHostPath:
    """A host file or directory once more at a host path, seen only in this mount namespace. ``translated``: owners are seen through
    the container's user namespace (mount_setattr(2), MOUNT_ATTR_IDMAP), so that 0:0 on disk is root inside; else with what is mounted
    below it, and its owners are nobody inside. ``beneath``: as for `MountBind`; ``no_devices``: as for `BindHostDirectory`.

    For containers whose root is nobody outside: what that root could not reach by name is put where it can.
    """

    source: str
    path: str
    translated: bool
    beneath: str | None = None
    no_devices: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StageDevice:
    """A device node at a host path that only this mount namespace sees: the device of ``source``, with its mode, owned by ``owner_id``.
    The owners of the machine's own nodes cannot be translated."""

    source: str
    path: str
    owner_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EnterStage:
    """The container's own directory becomes the working directory, with translated owners: from there on, names in it are relative.
    Its root, who is nobody outside, has no way through the directories above."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareMount:
    """What is mounted at ``source`` in the mount namespace of another process once more at a host path, seen only in this one."""

    process_id: int
    source: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MountLayers:
    """Host directories, one over the other (highest first), read-only at a host path, seen only in this mount namespace.

    For the host's root below layers that lie in it: overlay refuses lower directories that overlap, but not a mounted overlay of
    one of them.
    """

    lower: tuple[str, ...]
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteHostFile:
    """A small text file at a host path, 0644."""

    path: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteMemoryFile:
    """A file of the given bytes, mode and owner at a host path that only this mount namespace sees: below a `MountScratch`."""

    path: str
    data: bytes
    mode: int
    user_id: int
    group_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MountRoot:
    """The container's root: an overlay. ``lower`` is highest first. ``volatile``: what is written need not survive a crash.
    ``no_devices``: device nodes in it cannot be opened, which a user namespace sees to itself."""

    lower: tuple[str, ...]
    upper: str
    work: str
    volatile: bool
    no_devices: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MountCopiedRoot:
    """The container's root: a directory of its own, which holds all of it. ``no_devices``: as for `MountRoot`; for whom that must hold,
    `BindHostDirectory` or `StageHostPath` says it before."""

    path: str
    no_devices: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MountCopyOnWrite:
    """A host directory at a place inside, writes going to ``upper``. ``lower`` is highest first."""

    lower: tuple[str, ...]
    upper: str
    work: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MountFilesystem:
    """A new instance of a kernel file system (proc, sysfs, tmpfs, devpts, mqueue, cgroup) inside the root.

    ``options`` are the file system's own; ``attributes`` are among nosuid, noexec, nodev, ro, strictatime.
    ``optional``: where the kernel refuses it, leave it out.
    """

    kind: str
    target: str
    options: tuple[tuple[str, str], ...] = ()
    attributes: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MountBind:
    """A host file or directory, with what is mounted below it, at a place inside. ``no_devices``: device nodes in it cannot be
    opened. ``beneath``: a directory above the source; no link between the two is followed."""

    source: str
    target: str
    read_only: bool
    optional: bool = False
    no_devices: bool = False
    beneath: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeSymlink:
    """A symbolic link inside the root, made beneath its resolved parent."""

    target: str
    points_to: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskPath:
    """Hide a path: an empty read-only directory over a directory, /dev/null over a file. Absent paths stay absent."""

    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSysctl:
    """A namespaced kernel parameter, by its path below /proc/sys; where the kernel refuses it, it stays as it is, unless it is
    ``required``."""

    name: str
    value: str
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MakePathReadOnly:
    """Make a path and what is below it read-only. Absent paths stay absent."""

    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeDirectory:
    """A directory inside the root with all its parents (0755), owned by the given ids where it is new."""

    target: str
    user_id: int = 0
    group_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EnterRoot:
    """pivot_root(2) into the new root and let go of the old one."""

    read_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SetHostname:
    """sethostname(2) in the container's UTS namespace."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetDomainName:
    """setdomainname(2) in the container's UTS namespace."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartKeyring:
    """A session keyring of the container's own (session-keyring(7)), before a filter forbids to ask for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUmask:
    """umask(2) for the program."""

    mask: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UseAppArmor:
    """The AppArmor profile that holds from the next execve(2) on (``/proc/self/attr/apparmor/exec``)."""

    profile: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BringLoopbackUp:
    """The interface lo with 127.0.0.1 and ::1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigureInterface:
    """Address, default route and up for an interface that was placed in this network namespace."""

    interface: str
    address: str
    prefix: int
    gateway: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeDirectory:
    """The working directory, checked to lie below the root (runtime CVE-2024-21626)."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BecomeUser:
    """Final credentials: capabilities, user, groups, no_new_privs (capabilities(7), credentials(7)).

    ``bounding`` and ``effective`` are capability bit masks; a user other than root keeps none effective. ``held`` survives the
    program's execve(2) although outside the bounding set, for a program that joins other namespaces later.
    """

    user_id: int
    group_id: int
    groups: tuple[int, ...]
    bounding: int
    effective: int
    held: int = 0
    no_new_privileges: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallSeccomp:
    """A compiled filter (seccomp(2)): the bytes of an array of ``struct sock_filter``."""

    program: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StartSession:
    """setsid(2). With ``terminal``: a new pseudo terminal of the container's own devpts becomes the controlling terminal and the
    descriptors 0 to 2, and its other side is handed to the parent. ``console``: it is /dev/console too."""

    terminal: bool
    console: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StayAsInit:
    """fork(2): what follows is done by the child. This process stays as the namespace's first one, reaps, and passes signals on.
    ``confinement``: what gives up its own permissions."""

    confinement: tuple[Operation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetResourceLimit:
    """setrlimit(2), by its name there in small letters, without ``rlimit_``; -1 is no limit."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Execute:
    """Replace this process by a program found on the PATH of ``environment``, as execvpe(3)."""

    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]


Operation = (
    MakeMountsPrivate
    | MountScratch
    | MakeHostDirectory
    | BindHostDirectory
    | StageHostPath
    | StageDevice
    | EnterStage
    | ShareMount
    | MountLayers
    | WriteHostFile
    | WriteMemoryFile
    | MountRoot
    | MountCopiedRoot
    | MountCopyOnWrite
    | MountFilesystem
    | MountBind
    | MakeSymlink
    | MaskPath
    | SetSysctl
    | MakePathReadOnly
    | MakeDirectory
    | EnterRoot
    | SetHostname
    | SetDomainName
    | StartKeyring
    | SetUmask
    | UseAppArmor
    | BringLoopbackUp
    | ConfigureInterface
    | ChangeDirectory
    | BecomeUser
    | InstallSeccomp
    | StartSession
    | StayAsInit
    | SetResourceLimit
    | Execute
)


def render_operation(operation: Operation) -> str:
    """One line for ``--plan`` and the golden tests. Filters are shown by their length, environments by their names' count."""
    shown = []
    for field in fields(operation):
        value = getattr(operation, field.name)
        match field.name, value:
            case "program", bytes():
                value = f"<{len(value) // 8} instructions>"
            case "data", bytes():
                value = f"<{len(value)} bytes>"
            case "confinement", tuple():
                value = [type(each).__name__ for each in value]
            case "environment", _:
                value = [name for name, _ in value]
            case (("bounding" | "effective" | "held"), int()):
                value = f"{value:#x}"
            case (("mode" | "mask"), int()):
                value = f"{value:o}"
            case _, tuple():
                value = list(value)
            case _:
                pass
        if value not in ((), [], False, None):
            shown.append(f"{field.name}={value}")
    return " ".join([type(operation).__name__, *shown])
