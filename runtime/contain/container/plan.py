"""From a container's spec to its launch plan: which operations, in which order. Pure; performs nothing.

The order is the security argument: everything is mounted while the process still holds its user namespace's capabilities, below a
descriptor of the new root; then the root is entered, the host's mounts are dropped, credentials are given up, and the filter is last.
Defaults are Docker's (moby ``daemon/pkg/oci/defaults.go``); no_new_privs, the process limit and the user namespace are stricter.
"""

from __future__ import annotations

from collections.abc import Iterable

from contain.annotations import TYPE_CHECKING
from contain.linux.capabilities import mask_of
from contain.linux.cgroups import Hierarchy
from contain.operations import (
    BecomeUser,
    BindHostDirectory,
    BringLoopbackUp,
    ChangeDirectory,
    EnterRoot,
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
    StartKeyring,
    StartSession,
    StayAsInit,
    UseAppArmor,
    WriteHostFile,
    WriteMemoryFile,
)
from contain.paths import ContainerPath, HostPath
from contain.spec import (
    MASKED_PATHS,
    READ_ONLY_PATHS,
    SECCOMP_UNCONFINED,
    Bind,
    Confinement,
    ContainerSpec,
    CopyOnWrite,
    Identity,
    IdMapping,
    MemoryFile,
    Mount,
    Network,
    Sharing,
    Tmpfs,
    Volume,
)
from contain.values import dataclass, replace

if TYPE_CHECKING:
    from contain.linux.idranges import IdRange

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
DEVICE_LINKS = (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"), ("ptmx", "pts/ptmx"))
MASKED, READ_ONLY = MASKED_PATHS, READ_ONLY_PATHS
DEFAULT_UMASK = 0o022
ETC_FILES = ("hosts", "hostname", "resolv.conf")
STUBS = ("proc", "sys", "dev", "etc")
_MEMORY_FILES_BYTES = 16 << 20
_TTY_GROUP = "5"
_SAFE = ("nosuid", "noexec", "nodev")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """Host directories of one container. ``skeleton`` holds mount points only and lies below all layers, so that they need not be
    made in the image; ``etc`` holds the files that are mounted over /etc. ``scratch_bytes``: keep what is written in memory, at
    most so much, at ``scratch``; None: on disk. ``volatile``: what is written need not survive a crash of the machine."""

    directory: HostPath
    skeleton: HostPath
    scratch: HostPath | None = None
    scratch_bytes: int = 0
    scratch_inodes: int = 0
    volatile: bool = False
    ids: IdRange | None = None

    @property
    def writes(self) -> HostPath:
        """Where upper and work directories lie."""
        return self.directory if self.scratch is None else self.scratch

    @property
    def memory(self) -> HostPath:
        """Where files that exist in memory only are kept."""
        return self.directory / "memory"

    @property
    def shared_memory(self) -> HostPath:
        """Where another container's /dev/shm is mounted, on its way in."""
        return self.directory / "shm"

    @property
    def etc(self) -> HostPath:
        """Where hosts, hostname and resolv.conf are prepared."""
        return self.directory / "etc"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPlan:
    """What is performed: ``outside`` before the user namespace is entered, ``root`` up to having entered the container's root,
    ``start`` up to the program. ``ids``: this machine's ids that are the container's, with `IdMapping.AUTO`."""

    outside: tuple[Operation, ...]
    root: tuple[Operation, ...]
    start: tuple[Operation, ...]
    shared: frozenset[str] = frozenset()
    mapping: IdMapping = IdMapping.PRIVATE
    ids: IdRange | None = None


def stub_paths(spec: ContainerSpec) -> tuple[tuple[str, bool], ...]:
    """What a skeleton holds: (path, whether it is a directory), parents first."""
    found: dict[str, bool] = {f"/{name}": True for name in STUBS} | {f"/etc/{name}": False for name in ETC_FILES}
    for mount in spec.mounts:
        if ".." in mount.target.parts or mount.target == mount.target.parent:
            continue
        found |= {str(parent): True for parent in reversed(mount.target.parents[:-1])}
        found[str(mount.target)] = mount.source.is_dir() if isinstance(mount, Bind) else not isinstance(mount, MemoryFile)
    return tuple(found.items())


HOST_ROOT = HostPath("/")


def plan_outside(spec: ContainerSpec, workspace: Workspace) -> tuple[ContainerSpec, list[Operation]]:
    """What must be mounted while still outside the user namespace, and the spec that then holds.

    Needed where the host's own root is a layer, and for copy-on-write directories. The host's root and a skeleton on the same file
    system would overlap, which overlay refuses: then the skeleton is a memory file system, and what lies in the host's root, be it
    layers above it or the directory for what is written, stands on an overlay of it. What is written to disk is hidden from the
    container at its place in the host's root: who copies ``/`` would never come to an end.
    """
    operations: list[Operation] = []
    layers = spec.layers
    if HOST_ROOT in layers:
        if workspace.scratch is None:
            places = {workspace.directory.parent, *(() if spec.upper is None else (spec.upper.parent,))}
            hidden = tuple(
                Tmpfs(target=ContainerPath(path), mode=0o700) for path in sorted(places) if path.parts[1] not in STUBS
            )
            spec = replace(spec, mounts=(*spec.mounts, *hidden))
        view = workspace.directory / "host"
        layers = tuple(view if layer == HOST_ROOT else layer for layer in layers)
        operations += [
            BindHostDirectory(source="/", path=str(view)),
            MountScratch(path=str(workspace.skeleton), size_bytes=1 << 20, inodes=4096),
        ]
        for path, directory in stub_paths(spec):
            place = str(workspace.skeleton) + path
            operations.append(MakeHostDirectory(path=place) if directory else WriteHostFile(path=place, text=""))
        if len(layers) > 1 or workspace.scratch is None:
            covered = workspace.directory / "covered"
            operations.append(MountLayers(lower=(str(view), str(workspace.skeleton)), path=str(covered)))
            layers = tuple(covered if layer == view else layer for layer in layers)
    mounts: list[Mount] = []
    for mount in spec.mounts:
        if isinstance(mount, CopyOnWrite):
            views = []
            for source in mount.sources:
                view = workspace.directory / f"source{len(operations)}"
                operations.append(BindHostDirectory(source=str(source), path=str(view), optional=mount.optional))
                views.append(view)
            mounts.append(replace(mount, sources=tuple(views)))
        else:
            mounts.append(mount)
    if spec.copied and spec.user_namespace.mapping is IdMapping.PRIVATE:
        # An overlay that a user namespace mounts has no devices; a directory of the machine's would have, could this be undone inside.
        operations.append(BindHostDirectory(source=str(spec.upper), path=str(spec.upper), no_devices=True))
    if operations:
        operations.insert(0, MakeMountsPrivate())
    return replace(spec, layers=layers, mounts=tuple(mounts)), operations


UNCONFINED = Confinement(seccomp=SECCOMP_UNCONFINED, no_new_privileges=False, masked_paths=(), read_only_paths=())


def confinement_of(spec: ContainerSpec) -> Confinement:
    """What holds its program."""
    return spec.confinement if spec.confined else UNCONFINED


def shared_namespaces(spec: ContainerSpec) -> frozenset[str]:
    """The kinds of namespace that a container does not have of its own, by their names below /proc/PID/ns."""
    kinds = (("ipc", spec.ipc), ("uts", spec.uts), ("cgroup", spec.cgroup_namespace))
    return frozenset(kind for kind, sharing in kinds if sharing in (Sharing.HOST, Sharing.CONTAINER))


def _plan_shared_memory(spec: ContainerSpec, workspace: Workspace) -> list[Operation]:
    """/dev/shm and the message queues."""
    if spec.ipc is Sharing.CONTAINER:  # the queues belong to the other one's user namespace: they cannot be mounted here
        return [MountBind(source=str(workspace.shared_memory), target="/dev/shm", read_only=False)]
    if spec.ipc is Sharing.HOST:
        return [
            MountBind(source="/dev/shm", target="/dev/shm", read_only=False, optional=True),
            MountBind(source="/dev/mqueue", target="/dev/mqueue", read_only=False, optional=True),
        ]
    size = (("mode", "1777"), ("size", str(spec.shared_memory_bytes)))
    shared = [MountFilesystem(kind="tmpfs", target="/dev/shm", options=size, attributes=_SAFE)]
    queues = MountFilesystem(kind="mqueue", target="/dev/mqueue", attributes=_SAFE, optional=True)
    return [*(shared if spec.ipc is not Sharing.NONE else ()), queues]


def _plan_devices(spec: ContainerSpec, workspace: Workspace, *, tty_group: bool) -> list[Operation]:
    tty: tuple[tuple[str, str], ...] = (("gid", _TTY_GROUP),) if tty_group else ()
    return [
        MountFilesystem(
            kind="tmpfs", target="/dev", options=(("mode", "755"), ("size", "65536k")), attributes=("nosuid", "strictatime")
        ),
        # Read-only: the device itself can still be written, but not its mode and owner, which are the host's.
        *(MountBind(source=f"/dev/{name}", target=f"/dev/{name}", read_only=True) for name in DEVICES),
        *(MakeSymlink(target=f"/dev/{name}", points_to=to) for name, to in DEVICE_LINKS),
        MountFilesystem(
            kind="devpts",
            target="/dev/pts",
            options=(("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), *tty),
            attributes=("nosuid", "noexec"),
        ),
        *_plan_shared_memory(spec, workspace),
        *(MountBind(source=str(each.source), target=str(each.target), read_only=True) for each in spec.devices),
    ]


def _plan_sys(spec: ContainerSpec, hierarchies: tuple[Hierarchy, ...]) -> list[Operation]:
    privileged = spec.confinement.privileged
    if spec.network is Network.HOST:  # a new sysfs would need the network namespace to be ours (sysfs(5))
        return [MountBind(source="/sys", target="/sys", read_only=not privileged)]
    read_only = () if privileged else ("ro",)
    operations: list[Operation] = [MountFilesystem(kind="sysfs", target="/sys", attributes=(*read_only, *_SAFE))]
    if spec.cgroup_namespace is Sharing.HOST:  # what is mounted anew shows the groups of its own namespace only
        bound = MountBind(source="/sys/fs/cgroup", target="/sys/fs/cgroup", read_only=not privileged, optional=True)
        return [*operations, bound]
    first = [hierarchy for hierarchy in hierarchies if hierarchy.version == 1 and not hierarchy.only_devices]
    second = [hierarchy for hierarchy in hierarchies if hierarchy.version == 2]
    place = "/sys/fs/cgroup"
    if second and not first:
        operations.append(MountFilesystem(kind="cgroup2", target=place, attributes=(*read_only, *_SAFE), optional=True))
    if first:
        operations.append(MountFilesystem(kind="tmpfs", target=place, options=(("mode", "755"),), attributes=_SAFE))
        operations += [
            MountFilesystem(
                kind="cgroup",
                target=f"{place}/{','.join(hierarchy.mounted_with)}",
                options=tuple((word, "") for word in hierarchy.mounted_with),
                attributes=(*read_only, *_SAFE),
                optional=True,
            )
            for hierarchy in first
        ]
        if second:  # where systemd has it on such machines
            operations.append(
                MountFilesystem(kind="cgroup2", target=f"{place}/unified", attributes=(*read_only, *_SAFE), optional=True)
            )
        if not privileged:
            operations.append(MakePathReadOnly(target=place))
    return operations


def _plan_mount(number: int, mount: Mount, workspace: Workspace) -> list[Operation]:
    match mount:
        case Bind(source=source, target=target, read_only=read_only, beneath=beneath, optional=optional):
            within = None if beneath is None else str(beneath)
            return [MountBind(source=str(source), target=str(target), read_only=read_only, beneath=within, optional=optional)]
        case Volume(source=source, target=target, read_only=read_only):
            # The image's nodes are not copied either: outside an overlay of ours they would be the host's devices.
            return [MountBind(source=str(source), target=str(target), read_only=read_only, no_devices=True)]
        case Tmpfs(target=target, size_bytes=size, mode=mode, executable=executable, read_only=read_only):
            options: tuple[tuple[str, str], ...] = (("mode", f"{mode:o}"),)
            if size:
                options += (("size", str(size)),)
            numbers = (("nr_inodes", mount.inodes), ("uid", mount.user_id), ("gid", mount.group_id))
            options += tuple((name, str(number)) for name, number in numbers if number)
            attributes = ("nosuid",) if executable else _SAFE
            if read_only:
                attributes = ("ro", *attributes)
            return [MountFilesystem(kind="tmpfs", target=str(target), options=options, attributes=attributes)]
        case MemoryFile(target=target, content=content, mode=mode, user_id=user_id, group_id=group_id):
            place = str(workspace.memory / str(number))
            return [
                WriteMemoryFile(path=place, data=content, mode=mode, user_id=user_id, group_id=group_id),
                MountBind(source=place, target=str(target), read_only=True),
            ]
        case CopyOnWrite(sources=sources, target=target, read_only=read_only):
            upper, work = str(workspace.writes / f"upper{number}"), str(workspace.writes / f"work{number}")
            return [
                MakeHostDirectory(path=upper),
                MakeHostDirectory(path=work),
                MountCopyOnWrite(lower=tuple(str(path) for path in sources), upper=upper, work=work, target=str(target)),
                *([MakePathReadOnly(target=str(target))] if read_only else []),
            ]


def _has_id(spec: ContainerSpec, number: int) -> bool:
    return spec.user_namespace.mapping is not IdMapping.AUTO or number < spec.user_namespace.size


def _last_group(spec: ContainerSpec) -> int:
    """The largest that net.ipv4.ping_group_range takes: a group that there is (icmp(7))."""
    return spec.user_namespace.size - 1 if spec.user_namespace.mapping is IdMapping.AUTO else 2**31 - 1


def plan_root(
    spec: ContainerSpec, workspace: Workspace, hierarchies: tuple[Hierarchy, ...], *, tty_group: bool = True
) -> list[Operation]:
    """The operations that make the container's root and enter it."""
    upper = spec.upper if spec.upper is not None else workspace.writes / "upper"
    work = upper.with_name(upper.name + ".work")
    operations: list[Operation] = [MakeMountsPrivate()]
    if workspace.scratch is not None:
        operations.append(
            MountScratch(path=str(workspace.scratch), size_bytes=workspace.scratch_bytes, inodes=workspace.scratch_inodes)
        )
    on_host = spec.user_namespace.mapping is IdMapping.HOST
    if spec.copied:
        operations.append(MountCopiedRoot(path=str(upper), no_devices=not (on_host and spec.confinement.privileged)))
    else:
        operations += [
            MakeHostDirectory(path=str(upper)),
            MakeHostDirectory(path=str(work)),
            MountRoot(
                lower=(*(str(layer) for layer in reversed(spec.layers)), str(workspace.skeleton)),
                upper=str(upper),
                work=str(work),
                volatile=workspace.scratch is not None or workspace.volatile,
                no_devices=on_host and not spec.confinement.privileged,
            ),
        ]
    operations += [
        MountFilesystem(kind="proc", target="/proc", attributes=_SAFE),
        *_plan_devices(spec, workspace, tty_group=tty_group and _has_id(spec, int(_TTY_GROUP))),
        *_plan_sys(spec, hierarchies),
    ]
    if any(isinstance(mount, MemoryFile) for mount in spec.mounts):
        operations += [
            MakeHostDirectory(path=str(workspace.memory), mode=0o700),
            MountScratch(path=str(workspace.memory), size_bytes=_MEMORY_FILES_BYTES, inodes=4096),
        ]
    for number, mount in enumerate(sorted(spec.mounts, key=lambda mount: len(mount.target.parts))):
        operations += _plan_mount(number, mount, workspace)
    taken = {str(mount.target) for mount in spec.mounts}
    operations += [
        MountBind(source=str(workspace.etc / name), target=f"/etc/{name}", read_only=False)
        for name in ETC_FILES
        if f"/etc/{name}" not in taken
    ]
    if spec.network is not Network.HOST:
        operations += [
            SetSysctl(name="net/ipv4/ip_unprivileged_port_start", value="0"),
            SetSysctl(name="net/ipv4/ping_group_range", value=f"0 {_last_group(spec)}"),
        ]
    confinement = confinement_of(spec)
    return [
        *operations,
        *(SetSysctl(name=name.replace(".", "/"), value=value, required=True) for name, value in spec.sysctls),
        *(MaskPath(target=path) for path in confinement.masked_paths),
        *(MakePathReadOnly(target=path) for path in confinement.read_only_paths),
        MakeDirectory(target=str(spec.working_directory), user_id=spec.identity.user_id, group_id=spec.identity.group_id),
        EnterRoot(read_only=spec.read_only),
        *(() if spec.uts is Sharing.HOST else (SetHostname(name=spec.hostname),)),
        *((SetDomainName(name=spec.domain_name),) if spec.domain_name else ()),
        *(() if spec.network is Network.HOST else (BringLoopbackUp(),)),
    ]


def plan_credentials(spec: ContainerSpec, seccomp: bytes, *, held: tuple[str, ...] = ()) -> list[Operation]:
    """The operations with which a container's own program gives up what the set-up needed."""
    return plan_giving_up(spec.identity, spec.capabilities, confinement_of(spec), seccomp, held=held)


def plan_giving_up(
    who: Identity, capabilities: Iterable[str], confinement: Confinement, seccomp: bytes, *, held: tuple[str, ...] = ()
) -> list[Operation]:
    """The operations that leave these capabilities. The filter comes last; but where privileges may be gained later, only who still
    has CAP_SYS_ADMIN may install it (seccomp(2))."""
    mask = mask_of(capabilities)
    become = BecomeUser(
        user_id=who.user_id,
        group_id=who.group_id,
        groups=who.groups,
        bounding=mask,
        effective=mask,
        held=mask_of(held),
        no_new_privileges=confinement.no_new_privileges,
    )
    profile: list[Operation] = [UseAppArmor(profile=confinement.apparmor)] if confinement.apparmor else []
    if confinement.seccomp == SECCOMP_UNCONFINED:
        return [*profile, become]
    install = InstallSeccomp(program=seccomp)
    return [*profile, become, install] if confinement.no_new_privileges else [*profile, StartKeyring(), install, become]


def plan_launch(
    spec: ContainerSpec, workspace: Workspace, hierarchies: tuple[Hierarchy, ...], seccomp: bytes, *, tty_group: bool = True
) -> LaunchPlan:
    """The whole plan of one container that runs one program."""
    spec, outside = plan_outside(spec, workspace)
    staged = tuple(outside)
    if spec.user_namespace.mapping is IdMapping.AUTO:
        from contain.container.files.staging import plan_staging

        spec, workspace, staged = plan_staging(spec, workspace, outside)
    return LaunchPlan(
        mapping=spec.user_namespace.mapping,
        ids=workspace.ids,
        shared=shared_namespaces(spec),
        outside=staged,
        root=tuple(plan_root(spec, workspace, hierarchies, tty_group=tty_group)),
        start=(
            *((StayAsInit(confinement=tuple(plan_credentials(spec, seccomp))),) if spec.init else ()),
            StartSession(terminal=spec.terminal, console=spec.terminal),
            ChangeDirectory(path=str(spec.working_directory)),
            *(SetResourceLimit(name=each.name, soft=each.soft, hard=each.hard) for each in spec.resource_limits),
            *((SetUmask(mask=spec.umask),) if spec.umask != DEFAULT_UMASK else ()),
            *plan_credentials(spec, seccomp),
            Execute(arguments=spec.arguments, environment=spec.environment),
        ),
    )
