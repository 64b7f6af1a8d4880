"""What one container is, with nothing left open: the value between "what was asked" and "what is done".

A `ContainerSpec` has no defaults that depend on the machine or the image: `contain.container.request.resolve` filled them in.
"""

from __future__ import annotations

from enum import Enum

from contain.paths import ContainerPath, HostPath
from contain.values import dataclass, field

DEFAULT_PIDS_LIMIT = 2048
"""Processes per container unless asked otherwise; Docker sets none, podman 2048. A fork bomb must end inside its container."""

SHARED_MEMORY_BYTES = 64 << 20
"""The size of /dev/shm unless asked otherwise: Docker's."""


class Network(Enum):
    """What a container can reach."""

    NONE = "none"  # its own namespace with loopback only
    HOST = "host"  # the host's namespace, shared
    BRIDGE = "bridge"  # its own namespace, a veth to each bridge of contain's that it is on, outbound through NAT
    CONTAINER = "container"  # another container's namespace, shared


DEFAULT_NETWORK = "bridge"
"""The network of containers that name none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A container's place on one network, by the network's name. ``aliases``: what others on it may call the container; ``links``: (its
    id, name) of others that it calls by names of its own. Addresses "" are chosen when it starts."""

    network: str = DEFAULT_NETWORK
    aliases: tuple[str, ...] = ()
    address: str = ""
    address6: str = ""
    hardware_address: str = ""
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Networking:
    """What a container is to have of networks, besides the kind. ``endpoints``: none means one on the default network; ``container``:
    whose namespace is shared. ``search`` and ``options`` of resolv.conf(5): None means this machine's. ``exposed``: ports that its
    image or its maker names, as ``80/tcp``. ``disconnected``: it was taken off all networks."""

    endpoints: tuple[Endpoint, ...] = ()
    container: str = ""
    search: tuple[str, ...] | None = None
    options: tuple[str, ...] | None = None
    exposed: tuple[str, ...] = ()
    disconnected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """A host file or directory at a container path. ``beneath``: a directory above the source whose content others may change at any
    moment; then no link between the two is followed. ``optional``: the source may have gone meanwhile."""

    source: HostPath
    target: ContainerPath
    read_only: bool = False
    beneath: HostPath | None = None
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOnWrite:
    """Host directories, one over the other (highest first), at a container path: readable there, and what is written is kept in
    the container and thrown away with it. ``read_only``: nothing can be written. ``optional``: sources may have gone meanwhile."""

    sources: tuple[HostPath, ...]
    target: ContainerPath
    read_only: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A directory of the store's that outlives containers, at a container path. ``copy``: while it is empty, it gets what the image
    has there. ``anonymous``: nobody gave it a name, it goes with the container when that is asked for."""

    name: str
    source: HostPath
    target: ContainerPath
    read_only: bool = False
    copy: bool = True
    anonymous: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tmpfs:
    """A fresh memory file system at a container path. ``size_bytes`` and ``inodes`` 0: the kernel's default. ``executable``:
    programs in it can be started. ``user_id`` and ``group_id``: of its own directory."""

    target: ContainerPath
    size_bytes: int = 0
    mode: int = 0o1777
    executable: bool = False
    read_only: bool = False
    inodes: int = 0
    user_id: int = 0
    group_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFile:
    """A read-only file at a container path that exists in this container's memory only: a secret. Its content is never shown."""

    target: ContainerPath
    content: bytes = field(repr=False)
    mode: int = 0o400
    user_id: int = 0
    group_id: int = 0


Mount = Bind | CopyOnWrite | Volume | Tmpfs | MemoryFile


@dataclass(frozen=True, slots=True, kw_only=True)
class PortRequest:
    """One port of a container that is to be reachable at this machine: at the first free port of a range, or with the range 0 to 0
    at any free one. ``host_address`` "": at all of this machine's addresses; 0.0.0.0 or ``::``: at all of one IP version."""

    container_port: int
    protocol: str = "tcp"
    host_address: str = "0.0.0.0"  # noqa: S104 - Docker's default, documented
    first_host_port: int = 0
    last_host_port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceLimit:
    """One of setrlimit(2)'s, by its name there in small letters, without ``rlimit_``. -1: no limit."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLimit:
    """A limit for one block device: ``kind`` is ``weight``, ``read_bps``, ``write_bps``, ``read_iops`` or ``write_iops``."""

    kind: str
    device: HostPath
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a container may use. None or empty: no limit of its own. Docker's meanings and units.

    ``memory_swap_bytes``: memory and swap together, -1 for no limit; None: no swap where memory is limited. ``cpu_shares`` and
    ``block_weight``: relative to other groups (1024, 500). ``processors`` and ``memory_nodes``: lists as cpuset(7) has them.
    """

    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = DEFAULT_PIDS_LIMIT
    memory_swap_bytes: int | None = None
    memory_reservation_bytes: int | None = None
    memory_swappiness: int | None = None
    out_of_memory_kill: bool = True
    cpu_shares: int | None = None
    cpu_period_microseconds: int | None = None
    cpu_quota_microseconds: int | None = None
    processors: str = ""
    memory_nodes: str = ""
    block_weight: int | None = None
    block: tuple[BlockLimit, ...] = ()


MASKED_PATHS = (
    *(
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
    ),
    *("/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware", "/sys/devices/virtual/powercap"),
    "/sys/devices/system/cpu/cpu*/thermal_throttle",
)
READ_ONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

SECCOMP_BUILTIN, SECCOMP_UNCONFINED = "builtin", "unconfined"


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What holds a program besides namespaces and capabilities. ``seccomp``: the default policy (`SECCOMP_BUILTIN`), none
    (`SECCOMP_UNCONFINED`), or the text of a profile. ``apparmor``: a profile's name, empty for none. ``privileged``: all of this
    machine's devices, and /sys can be written, as far as the user namespace lets it."""

    seccomp: str = SECCOMP_BUILTIN
    no_new_privileges: bool = True
    masked_paths: tuple[str, ...] = MASKED_PATHS
    read_only_paths: tuple[str, ...] = READ_ONLY_PATHS
    apparmor: str = ""
    privileged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device node of the host at a path inside; ``access`` is made of ``r``, ``w`` and ``m``, for the device control group."""

    source: HostPath
    target: ContainerPath
    access: str = "rwm"


class Sharing(Enum):
    """Whose namespace of a kind a container is in."""

    PRIVATE = "private"  # its own
    NONE = "none"  # its own, and without /dev/shm (IPC only)
    HOST = "host"  # this machine's
    SHAREABLE = "shareable"  # its own, which others may be in (IPC only)
    CONTAINER = "container"  # another container's (IPC only)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """What follows the program's end: nothing (``no``), or a new start: ``on-failure`` (at most ``retries`` times, 0: without end),
    ``always``, ``unless-stopped``."""

    name: str = "no"
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """A program that is run in the container now and then; its exit status 0 means that the container does its work.

    ``retries``: after so many failures in a row it is unhealthy. In the first ``start_period_seconds`` failures do not count, and the
    program runs every ``start_interval_seconds``.
    """

    command: tuple[str, ...]
    interval_seconds: float = 30.0
    timeout_seconds: float = 30.0
    retries: int = 3
    start_period_seconds: float = 0.0
    start_interval_seconds: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What is kept of the output: nothing with the driver ``none``; else ``files`` files of ``max_bytes`` each, the oldest goes first.
    ``max_bytes`` 0: one file without end."""

    driver: str = "json-file"
    max_bytes: int = 20 << 20
    files: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Numeric user, group and supplementary groups, as seen inside."""

    user_id: int = 0
    group_id: int = 0
    groups: tuple[int, ...] = ()


class IdMapping(Enum):
    """Which of this machine's ids a container's ids are."""

    PRIVATE = "private"  # a user namespace of its own, ids mapped to themselves
    AUTO = "auto"  # a user namespace of its own, ids that no other container and nobody else has
    HOST = "host"  # no user namespace


DEFAULT_ID_COUNT = 65536
"""How many ids a container of its own range has unless asked otherwise; podman's most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserNamespace:
    """``--userns``. ``size``: with `IdMapping.AUTO`, how many ids there are inside, from 0 on."""

    mapping: IdMapping = IdMapping.PRIVATE
    size: int = DEFAULT_ID_COUNT


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """Everything about one container.

    ``layers``: extracted layer trees, lowest first, that make its root. ``upper``: a directory of the caller's that receives
    what is written (a build step's layer), or None for one that is thrown away with the container. ``copied``: no
    overlay; ``upper`` is a full copy of the layers, and the root itself. ``confined``: system calls are filtered, parts of /proc and
    /sys hidden, privileges never gained; what the user namespace forbids stays forbidden without it.
    ``extra_hosts``: (name, address) for /etc/hosts; the address ``host-gateway`` is this machine, seen from the container.
    ``name_servers``: addresses for /etc/resolv.conf instead of the host's.
    """

    container_id: str  # 64 hexadecimal digits
    name: str
    image_digest: str
    image_name: str
    layers: tuple[HostPath, ...]
    upper: HostPath | None
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    working_directory: ContainerPath
    identity: Identity
    hostname: str
    mounts: tuple[Mount, ...]
    network: Network
    limits: Limits
    read_only: bool
    terminal: bool
    stop_signal: int
    capabilities: frozenset[str]
    labels: tuple[tuple[str, str], ...] = ()
    copied: bool = False
    confined: bool = True
    extra_hosts: tuple[tuple[str, str], ...] = ()
    shared_memory_bytes: int = SHARED_MEMORY_BYTES
    resource_limits: tuple[ResourceLimit, ...] = ()
    ports: tuple[PortRequest, ...] = ()
    name_servers: tuple[str, ...] = ()
    networking: Networking = Networking()
    interactive: bool = False  # its input is kept open, for whoever attaches
    input_once: bool = False  # ... and ends with the input of the first one
    restart: RestartPolicy = RestartPolicy()
    health: HealthCheck | None = None
    log: LogSettings = LogSettings()
    stop_grace_seconds: float | None = None  # None: as whoever stops it says, else ten
    init: bool = False  # a first process of ours that reaps and passes signals on
    user_namespace: UserNamespace = UserNamespace()
    confinement: Confinement = Confinement()  # where ``confined``
    sysctls: tuple[tuple[str, str], ...] = ()  # names with dots
    devices: tuple[Device, ...] = ()
    device_rules: tuple[str, ...] = ()  # of the device control group: type, major:minor, access
    ipc: Sharing = Sharing.PRIVATE
    ipc_container: str = ""  # with CONTAINER: whose, by id
    uts: Sharing = Sharing.PRIVATE
    cgroup_namespace: Sharing = Sharing.PRIVATE
    domain_name: str = ""
    umask: int = 0o022
    out_of_memory_score: int | None = None  # None: 0 where that may be written
    annotations: tuple[tuple[str, str], ...] = ()
