"""From a bundle's configuration to what its first process does, in order. Pure.

The order is the security argument, as in `contain.container.plan`: mounts below a descriptor of the root; hooks of the outside; then
parameters, masks and the change of root; then rights are given up; the filter is last, or, where it takes a right to install it, first.
"""

from __future__ import annotations

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
from contain.oci_runtime.groups import Groups
from contain.operations import (
    BringLoopbackUp,
    ChangeDirectory,
    MakeDirectory,
    MakePathReadOnly,
    MakeSymlink,
    MaskPath,
    SetHostname,
)
from contain.runtime_spec.configuration import Configuration, Device
from contain.runtime_spec.mounts import PROPAGATIONS, RECURSIVE, BundleMount
from contain.runtime_spec.process import Process
from contain.values import dataclass

_CHARACTER = 0o020000
DEFAULT_DEVICES = tuple(
    Device(path=f"/dev/{name}", type_bits=_CHARACTER, major=major, minor=minor)
    for name, major, minor in (
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    )
)
"""config-linux.md "Default Devices"; ``console`` and ``ptmx`` are made apart."""

_LINKS = (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2"))
_SLAVE = PROPAGATIONS["rslave"]
_UNBINDABLE = PROPAGATIONS["unbindable"]
_READ_ONLY, _SAFE = 0x1, 0x2 | 0x4 | 0x8


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityPlan:
    """What makes a process the program's, in three parts.

    ``become``: all but the last rights; after it, the program is looked up. ``drop``: these, before the process waits for its start.
    ``last``: after the word to start.
    """

    become: tuple[BundleOperation, ...] = ()
    drop: tuple[BundleOperation, ...] = ()
    last: tuple[BundleOperation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BundlePlan:
    """What the first process does: before the hooks of the outside, after them, and to become the program's user."""

    root: tuple[BundleOperation, ...]
    enter: tuple[BundleOperation, ...]
    identity: IdentityPlan


def _plan_mount(mount: BundleMount, bundle: str) -> MountEntry:
    source = mount.source
    if mount.bind and not source.startswith("/"):
        source = f"{bundle}/{source}"
    return MountEntry(
        kind=mount.kind,
        target=mount.target,
        source=source,
        bind=mount.bind,
        recursive=mount.recursive,
        set_attributes=mount.set_attributes,
        clear_attributes=mount.clear_attributes,
        tree_set=mount.tree_set,
        tree_clear=mount.tree_clear,
        propagation=mount.propagation,
        data=mount.data,
        copy_up=mount.copy_up,
        optional=mount.kind == "mqueue",
    )


def _plan_groups(mount: BundleMount, groups: Groups, *, own_namespace: bool) -> list[BundleOperation]:
    """The container's groups at a place inside: of version 2 one file system, of version 1 one for each hierarchy."""
    attributes = mount.set_attributes or _SAFE
    if groups.version == 2:
        return [MountEntry(kind="cgroup2", target=mount.target, propagation=mount.propagation, set_attributes=attributes)]
    operations: list[BundleOperation] = [
        MountEntry(kind="tmpfs", target=mount.target, source="tmpfs", set_attributes=_SAFE, data=(("mode", "755"),))
    ]
    for name, directory in groups.places:
        words = name.split(",")
        shown = name.removeprefix("name=")
        target = f"{mount.target}/{shown}"
        if own_namespace:
            data = (("none", ""), ("name", shown)) if name.startswith("name=") else tuple((word, "") for word in words)
            operations.append(MountEntry(kind="cgroup", target=target, data=data, set_attributes=attributes))
        else:
            operations.append(MountEntry(kind="bind", bind=True, source=directory, target=target, set_attributes=attributes))
        if len(words) > 1:
            operations += [MakeSymlink(target=f"{mount.target}/{word}", points_to=shown) for word in words]
    if mount.set_attributes & _READ_ONLY:
        operations.append(MakePathReadOnly(target=mount.target))
    return operations


def _plan_devices(config: Configuration) -> list[BundleOperation]:
    if any(mount.target.rstrip("/") == "/dev" and mount.bind for mount in config.mounts):
        return []  # a /dev that somebody else filled
    bind = config.has("user")
    devices = {device.path: device for device in (*DEFAULT_DEVICES, *config.devices)}
    return [
        *(
            MakeNode(
                path=device.path,
                type_bits=device.type_bits,
                major=device.major,
                minor=device.minor,
                mode=device.mode,
                user_id=device.user_id,
                group_id=device.group_id,
                bind=bind and device.type_bits != 0o010000,
            )
            for device in devices.values()
        ),
        *(MakeSymlink(target=f"/dev/{name}", points_to=to) for name, to in _LINKS),
        MakeSymlink(target="/dev/ptmx", points_to="pts/ptmx"),
    ]


def plan_identity(process: Process, *, new_keyring: bool, filter_program: bytes | None, filter_flags: int = 0) -> IdentityPlan:
    """See `IdentityPlan`. Without no_new_privs a filter takes CAP_SYS_ADMIN, so it comes before the rights go, as late as possible:
    it may refuse what looking up a program takes."""
    sets = process.capabilities
    early = filter_program is not None and not process.no_new_privileges
    privileged = (sets.effective, sets.permitted, sets.inheritable) if early and sets is not None else None
    install = (
        () if filter_program is None else (InstallFilter(program=filter_program, flags=filter_flags, privileged=privileged),)
    )
    scheduler = process.scheduler
    become: tuple[BundleOperation, ...] = (
        *(SetLimit(name=each.name, number=each.number, soft=each.soft, hard=each.hard) for each in process.limits),
        *((SetIoPriority(value=process.io_priority),) if process.io_priority is not None else ()),
        *(
            (
                SetScheduling(
                    policy=scheduler.policy,
                    nice=scheduler.nice,
                    priority=scheduler.priority,
                    flags=scheduler.flags,
                    runtime=scheduler.runtime,
                    deadline=scheduler.deadline,
                    period=scheduler.period,
                ),
            )
            if scheduler is not None
            else ()
        ),
        TakeIdentity(
            user_id=process.user_id,
            group_id=process.group_id,
            groups=process.groups,
            umask=0o022 if process.umask is None else process.umask,
            capabilities=None if sets is None else (sets.bounding, sets.effective, sets.inheritable, sets.permitted),
            new_keyring=new_keyring,
            filter_follows=early,
        ),
        ChangeDirectory(path=process.directory),
    )
    keep = KeepOnly(
        capabilities=None if sets is None else (sets.effective, sets.inheritable, sets.permitted, sets.ambient),
        no_new_privileges=process.no_new_privileges,
    )
    profile = (EnterProfile(profile=process.apparmor_profile),) if process.apparmor_profile else ()
    return IdentityPlan(become=become, drop=(*(install if early else ()), keep), last=(*profile, *(() if early else install)))


def plan_bundle(
    config: Configuration,
    *,
    bundle: str,
    root: str,
    groups: Groups,
    filter_program: bytes | None = None,
    filter_flags: int = 0,
    no_pivot: bool = False,
    new_keyring: bool = True,
) -> BundlePlan:
    """The whole plan of a bundle's first process. ``bundle`` and ``root`` are absolute host paths."""
    process = config.process
    mounts: list[BundleOperation] = []
    for mount in config.mounts:
        if mount.kind in ("cgroup", "cgroup2") and not mount.bind:
            mounts += _plan_groups(mount, groups, own_namespace=config.makes("cgroup"))
        else:
            mounts.append(_plan_mount(mount, bundle))
    propagation = PROPAGATIONS[config.root_propagation] if config.root_propagation else 0
    detached = not config.makes("mount")
    # an unbindable mount could not become the root, so that comes with the entry alone
    first = (propagation | RECURSIVE) if propagation and not propagation & _UNBINDABLE else _SLAVE
    identity = IdentityPlan()
    console: tuple[BundleOperation, ...] = ()
    directory: tuple[BundleOperation, ...] = ()
    if process is not None:
        identity = plan_identity(process, new_keyring=new_keyring, filter_program=filter_program, filter_flags=filter_flags)
        directory = (MakeDirectory(target=process.directory),)
        if process.terminal:
            height, width = process.console_size or (0, 0)
            console = (OpenConsole(height=height, width=width, user_id=process.user_id),)
    return BundlePlan(
        root=(
            TakeRootDirectory(path=root, propagation=first, detached=detached),
            *mounts,
            *_plan_devices(config),
        ),
        enter=(
            *directory,
            *((BringLoopbackUp(),) if config.makes("network") else ()),
            *((SetHostname(name=config.hostname),) if config.hostname else ()),
            *((SetDomainName(name=config.domain_name),) if config.domain_name else ()),
            *(WriteSysctl(name=_sysctl_path(name), value=value) for name, value in config.sysctls),
            *console,
            *(MaskPath(target=path) for path in config.masked),
            *(MakePathReadOnly(target=path) for path in config.read_only),
            LeaveHost(move=no_pivot, detached=detached, read_only=config.root_read_only, propagation=propagation),
            *((SetPersonality(domain=config.personality),) if config.personality is not None else ()),
        ),
        identity=identity,
    )


def _sysctl_path(name: str) -> str:
    """``net.ipv4.conf.eth0/1.forwarding`` as ``net/ipv4/conf/eth0.1/forwarding`` (sysctl(8)); names with slashes first stay."""
    dot, slash = name.find("."), name.find("/")
    if slash >= 0 and (dot < 0 or slash < dot):
        return name
    return name.translate(str.maketrans("./", "/."))


def plan_affinity(processors: tuple[int, ...] | None) -> tuple[BundleOperation, ...]:
    """Which processors a process of ``exec`` may use."""
    return (SetAffinity(processors=processors),) if processors else ()
