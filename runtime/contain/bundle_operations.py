"""What a bundle's container needs of the kernel beyond `contain.operations`: its own mounts, nodes, rights and priorities. Values only.

A bundle says each of these itself, where a container of this engine has one fixed way. Performed by `contain.linux.perform_bundle`.
"""

from __future__ import annotations

from contain.operations import Operation
from contain.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeRootDirectory:
    """A host directory becomes the root, mounted onto itself. ``propagation``: MS_* flags for all mounts of this namespace, first.

    ``detached``: for a process in a mount namespace that is not its own. The root is then a tree of mounts that no namespace shows
    and that goes with its last process (open_tree(2)); mounting into one takes Linux 6.15.
    """

    path: str
    propagation: int
    detached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MountEntry:
    """One mount below the root. Attributes are MOUNT_ATTR_* bits; ``tree_...`` are for the mounts below it too.

    ``bind``: ``source`` is a host path; else a new file system of ``kind``. ``optional``: left out where the kernel
    refuses it.
    """

    kind: str
    target: str
    source: str = ""
    bind: bool = False
    recursive: bool = False
    set_attributes: int = 0
    clear_attributes: int = 0
    tree_set: int = 0
    tree_clear: int = 0
    propagation: tuple[int, ...] = ()
    data: tuple[tuple[str, str], ...] = ()
    copy_up: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeNode:
    """A device or a pipe inside. ``bind``: the host's own node, where mknod(2) is not ours (user namespaces)."""

    path: str
    type_bits: int
    major: int
    minor: int
    mode: int
    user_id: int
    group_id: int
    bind: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenConsole:
    """A pseudo terminal of the container's devpts as descriptors 0 to 2 and as /dev/console; its other side goes to the parent."""

    height: int = 0
    width: int = 0
    user_id: int = 0
    node: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteSysctl:
    """A kernel parameter by its path below /proc/sys; refused where the kernel refuses."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveHost:
    """Enter the new root and let go of the old one; ``move``: without pivot_root(2), for roots on a ramdisk; ``detached``: with
    chroot(2) alone, where the old root is everybody's."""

    move: bool
    detached: bool = False
    read_only: bool
    propagation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetDomainName:
    """setdomainname(2)."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLimit:
    """prlimit(2) of this process, by number; the largest 64-bit number is no limit."""

    name: str
    number: int
    soft: int
    hard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPersonality:
    """personality(2)."""

    domain: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetScheduling:
    """sched_setattr(2); see `contain.runtime_spec.process.Scheduler`."""

    policy: int
    nice: int
    priority: int
    flags: int
    runtime: int
    deadline: int
    period: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetIoPriority:
    """ioprio_set(2)."""

    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAffinity:
    """sched_setaffinity(2)."""

    processors: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallFilter:
    """A compiled filter with SECCOMP_FILTER_FLAG_* bits (seccomp(2)). ``privileged``: without no_new_privs, by CAP_SYS_ADMIN, made
    effective beside the given effective, permitted and inheritable sets."""

    program: bytes
    flags: int = 0
    privileged: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepOnly:
    """Capabilities (effective, inheritable, permitted, ambient) as they stay, and no_new_privs."""

    capabilities: tuple[int, int, int, int] | None
    no_new_privileges: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EnterProfile:
    """From the next execve(2) on, an AppArmor profile."""

    profile: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeIdentity:
    """User, groups, umask and capabilities (bounding, effective, inheritable, permitted); None: what the kernel leaves.

    ``filter_follows``: CAP_SYS_ADMIN stays permitted for the filter; `KeepOnly` ends that.
    """

    user_id: int
    group_id: int
    groups: tuple[int, ...]
    umask: int
    capabilities: tuple[int, int, int, int] | None
    new_keyring: bool
    filter_follows: bool


BundleOperation = (
    Operation
    | TakeRootDirectory
    | MountEntry
    | MakeNode
    | OpenConsole
    | WriteSysctl
    | LeaveHost
    | SetDomainName
    | SetLimit
    | SetPersonality
    | SetScheduling
    | SetIoPriority
    | SetAffinity
    | EnterProfile
    | InstallFilter
    | KeepOnly
    | TakeIdentity
)
