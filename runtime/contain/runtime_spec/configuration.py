"""A bundle's ``config.json`` as one frozen value, checked from end to end before anything is done. Pure.

Source: runtime-spec 1.2 config.md and config-linux.md. `parse_configuration` refuses what would otherwise be left out silently.
"""

from __future__ import annotations

from contain.runtime_spec.document import parse_json
from contain.runtime_spec.mounts import PROPAGATIONS, BundleMount, IdMap, parse_id_maps, parse_mount
from contain.runtime_spec.process import Process, parse_process, refuse_labels
from contain.runtime_spec.reading import ID_LIMIT, Table, refused, wrong
from contain.runtime_spec.resources import Resources, parse_resources
from contain.values import dataclass

NEWEST_VERSION = "1.2.1"
OLDEST_VERSION = "1.0.0"
NAMESPACES = {  # CLONE_NEW* of linux/sched.h
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "network": 0x40000000,
    "time": 0x00000080,
}
NAMESPACE_FILES = {"mount": "mnt", "network": "net"}
"""Names below /proc/PID/ns where they are not the specification's."""

HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_PERSONALITIES = {"LINUX": 0x0000, "LINUX32": 0x0008}
_DEVICE_KINDS = {"c": 0o020000, "u": 0o020000, "b": 0o060000, "p": 0o010000}
# Parameters that belong to a namespace, and to which (namespaces(7), sysctl documentation of the kernel)
_SYSCTLS_OF_IPC = frozenset(
    [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ]
)
_SYSCTLS_OF_UTS = {"kernel.hostname": "hostname", "kernel.domainname": "domainname"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """A program to start at a point of the container's life."""

    path: str
    arguments: tuple[str, ...] = ()
    environment: tuple[str, ...] | None = None  # None: the runtime's own
    timeout_seconds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A node to make. ``mode`` holds the permission bits alone."""

    path: str
    type_bits: int
    major: int = 0
    minor: int = 0
    mode: int = 0o666
    user_id: int = 0
    group_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Everything about one container of a bundle."""

    version: str
    root: str
    root_read_only: bool = False
    process: Process | None = None
    hostname: str = ""
    domain_name: str = ""
    mounts: tuple[BundleMount, ...] = ()
    hooks: tuple[tuple[str, tuple[Hook, ...]], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    namespaces: tuple[tuple[str, str], ...] = ()  # kind, path of the one to join or ""
    user_map: tuple[IdMap, ...] = ()
    group_map: tuple[IdMap, ...] = ()
    time_offsets: tuple[tuple[str, int, int], ...] = ()
    devices: tuple[Device, ...] = ()
    cgroups_path: str = ""
    resources: Resources
    root_propagation: str = ""
    masked: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    personality: int | None = None
    seccomp: dict[str, object] | None = None

    def hooks_of(self, name: str) -> tuple[Hook, ...]:
        """The hooks of one point, in their order."""
        return dict(self.hooks).get(name, ())

    def makes(self, kind: str) -> bool:
        """Whether a namespace of this kind is made anew."""
        return (kind, "") in self.namespaces

    def has(self, kind: str) -> bool:
        """Whether the container has a namespace of its own of this kind, made or joined."""
        return any(name == kind for name, _ in self.namespaces)


def check_version(version: str, where: str = "ociVersion") -> str:
    """Every 1.x is accepted: minor versions only add (spec.md "Versioning"). Raises `UsageError`, `NotSupported`."""
    parts = version.partition("-")[0].split(".")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise wrong(where, f"{version!r} is no version such as {NEWEST_VERSION}")
    if parts[0] != "1":
        raise refused(where, f"{version!r} is not supported; this runtime knows {OLDEST_VERSION} to {NEWEST_VERSION}")
    return version


def parse_document(text: str | bytes, where: str) -> Table:
    """JSON text as a table. Raises `UsageError` that names the line."""
    try:
        return Table(parse_json(text), "")
    except (ValueError, RecursionError) as error:
        raise wrong(where, f"is no JSON document: {error}") from None


def _hook(table: Table) -> Hook:
    return Hook(
        path=table.absolute("path"),
        arguments=table.texts("args"),
        environment=table.texts("env") if table.has("env") else None,
        timeout_seconds=table.number("timeout", low=1, high=2**31) if table.has("timeout") else None,
    )


def _device(table: Table) -> Device:
    kind = table.choice("type", _DEVICE_KINDS)
    numbered = kind != "p"
    return Device(
        path=table.absolute("path"),
        type_bits=_DEVICE_KINDS[kind],
        major=table.number("major", low=0, high=2**32 - 1) if numbered else 0,
        minor=table.number("minor", low=0, high=2**32 - 1) if numbered else 0,
        mode=table.number("fileMode", 0o666, low=0, high=2**32 - 1) & 0o7777,
        user_id=table.number("uid", 0, low=0, high=ID_LIMIT),
        group_id=table.number("gid", 0, low=0, high=ID_LIMIT),
    )


def _namespaces(linux: Table) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for each in linux.tables("namespaces"):
        kind = each.choice("type", NAMESPACES)
        if kind in found:
            raise wrong(each.place("type"), f"a second {kind} namespace")
        found[kind] = each.absolute("path", "")
    return tuple(found.items())


def _check_sysctl(name: str, found: Configuration) -> None:
    where = f"linux.sysctl.{name}"
    name = name.replace("/", ".")
    if any(part in ("", "..") for part in name.split(".")):
        raise wrong(where, "is no kernel parameter")
    if name in _SYSCTLS_OF_IPC or name.startswith("fs.mqueue."):
        if not found.has("ipc"):
            raise wrong(where, "belongs to the IPC namespace, and the container has none of its own")
    elif name.startswith("net."):
        if not found.has("network"):
            raise wrong(where, "belongs to the network namespace, and the container has none of its own")
    elif name in _SYSCTLS_OF_UTS:
        if not found.has("uts"):
            raise wrong(where, "belongs to the UTS namespace, and the container has none of its own")
        if name == "kernel.hostname" and found.hostname:
            raise wrong(where, "is what `hostname` sets")
    elif not name.startswith("user.") or not found.has("user"):
        raise wrong(where, "is not the container's own: it would change the whole machine")


def _time_offsets(linux: Table) -> tuple[tuple[str, int, int], ...]:
    found = []
    for clock, table in linux.table_map("timeOffsets"):
        if clock not in ("monotonic", "boottime"):
            raise wrong(table.where, "there are monotonic and boottime")
        found.append(
            (clock, table.number("secs", 0, low=-(2**63), high=2**63 - 1), table.number("nanosecs", 0, low=0, high=10**9 - 1))
        )
    return tuple(found)


def _personality(linux: Table) -> int | None:
    table = linux.table("personality")
    if table is None:
        return None
    table.refuse("flags")
    return _PERSONALITIES[table.choice("domain", _PERSONALITIES)]


def parse_configuration(text: str | bytes) -> Configuration:
    """The whole of a ``config.json``. Raises `UsageError` for what breaks the specification, `NotSupported` for what we cannot do."""
    top = parse_document(text, "config.json")
    version = check_version(top.text("ociVersion"))
    for platform in ("solaris", "windows", "vm", "zos", "freebsd"):
        top.refuse(platform)
    root = top.table("root")
    if root is None:
        raise wrong("root", "is required")
    linux = top.table("linux") or Table({}, "linux")
    linux.refuse("intelRdt", "mountLabel", "memoryPolicy", "netDevices")
    process = top.table("process")
    hooks = top.table("hooks")
    propagation = linux.text("rootfsPropagation", "")
    if propagation and propagation not in PROPAGATIONS:
        raise wrong("linux.rootfsPropagation", f"{propagation!r} is none of {', '.join(PROPAGATIONS)}")
    seccomp = linux.table("seccomp")
    found = Configuration(
        version=version,
        root=root.text("path"),
        root_read_only=root.flag("readonly"),
        process=parse_process(process) if process is not None else None,
        hostname=top.text("hostname", ""),
        domain_name=top.text("domainname", ""),
        mounts=tuple(parse_mount(each) for each in top.tables("mounts")),
        hooks=tuple((name, tuple(_hook(each) for each in hooks.tables(name))) for name in HOOKS if hooks.has(name))
        if hooks
        else (),
        annotations=top.text_map("annotations"),
        namespaces=_namespaces(linux),
        user_map=parse_id_maps(linux.tables("uidMappings")),
        group_map=parse_id_maps(linux.tables("gidMappings")),
        time_offsets=_time_offsets(linux),
        devices=tuple(_device(each) for each in linux.tables("devices")),
        cgroups_path=linux.text("cgroupsPath", ""),
        resources=parse_resources(linux.table("resources")),
        root_propagation=propagation,
        masked=linux.texts("maskedPaths"),
        read_only=linux.texts("readonlyPaths"),
        sysctls=linux.text_map("sysctl"),
        personality=_personality(linux),
        seccomp=linux.raw("seccomp") if seccomp is not None else None,
    )
    _check_together(found)
    return found


def _check_together(found: Configuration) -> None:
    for member, value in (("hostname", found.hostname), ("domainname", found.domain_name)):
        if value and not found.has("uts"):
            raise wrong(member, "needs a UTS namespace: without one it would rename the machine")
    if found.makes("user") and not (found.user_map and found.group_map):
        raise wrong("linux.uidMappings", "a new user namespace needs uidMappings and gidMappings")
    if (found.user_map or found.group_map) and not found.has("user"):
        raise wrong("linux.uidMappings", "needs a user namespace in linux.namespaces")
    if found.time_offsets and not found.makes("time"):
        raise wrong("linux.timeOffsets", "needs a new time namespace in linux.namespaces")
    if found.process is not None:
        refuse_labels(found.process)
    for name, _ in found.sysctls:
        _check_sysctl(name, found)
