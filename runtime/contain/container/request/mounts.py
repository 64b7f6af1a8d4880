"""What ``-v``, ``--mount``, ``--tmpfs`` and ``--volumes-from`` mean: text to requests, requests to mounts. Pure, but for asking whether
the host path of a bind is there.

Rules and words are Docker's: docker/cli ``opts/mount.go``, moby ``volume/mounts/linux_parser.go`` and ``daemon/volumes.go``. What we
cannot do is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from contain.annotations import Any
from contain.errors import NotSupported, UsageError
from contain.paths import ContainerPath, HostPath
from contain.spec import Bind, Mount, Tmpfs, Volume
from contain.values import dataclass

_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]+"
_LONGEST_NAME = 255  # of a file: the volume is a directory of its name
_DEFAULT_MODE = 0o1777
_KERNEL_PLACES = ("proc", "sys")
_CONSISTENCIES = ("consistent", "cached", "delegated", "default")
_PRIVATE = ("private", "rprivate")
_SHARED = ("shared", "rshared", "slave", "rslave")
_TRUE, _FALSE = ("1", "t", "T", "true", "TRUE", "True"), ("0", "f", "F", "false", "FALSE", "False")


@dataclass(frozen=True, slots=True, kw_only=True)
class MountRequest:
    """One mount as it was asked for. ``kind``: bind, volume or tmpfs. ``source``: a host path, or a volume's name, empty for one
    without a name. ``copy``: an empty volume gets what the image has at the target. ``yields``: gives way to any other mount of the
    target, as the image's own volumes do. ``makes_source``: a host path that is not there becomes a directory."""

    kind: str
    target: ContainerPath
    source: str = ""
    read_only: bool = False
    copy: bool = True
    yields: bool = False
    size_bytes: int = 0
    inodes: int = 0
    mode: int | None = None
    user_id: int = 0
    group_id: int = 0
    executable: bool = False
    makes_source: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumesFrom:
    """``--volumes-from``: a container, and whether its mounts become read-only."""

    container: str
    read_only: bool = False


def check_volume_name(name: str) -> str:
    """A volume's name, or `UsageError` in Docker's words."""
    if len(name) == 1:
        raise UsageError(
            "volume name is too short, names should be at least two alphanumeric characters", code="bad-volume-name"
        )
    if not re.fullmatch(_NAME, name) or len(name) > _LONGEST_NAME:
        raise UsageError(
            f'"{name[:80]}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. '
            "If you intended to pass a host directory, use absolute path",
            code="bad-volume-name",
        )
    return name


def _parse_target(text: str, spec: str) -> ContainerPath:
    def bad(why: str) -> UsageError:
        return UsageError(f"invalid volume specification: {spec!r}: {why}", code="bad-volume")

    if not text.startswith("/"):
        raise bad(f"invalid mount path: {text!r} mount path must be absolute")
    if "\0" in text:
        raise bad("a path cannot hold the character NUL")
    target = ContainerPath("/" + text.lstrip("/"))
    if ".." in target.parts or target == ContainerPath("/"):
        raise bad("invalid specification: destination can't be '/' or hold '..'")
    if target.parts[1] in _KERNEL_PLACES:
        raise bad(f"{target} cannot be mounted because it is inside /{target.parts[1]}")
    return target


def _parse_mode(mode: str, kind: str, spec: str) -> Mapping[str, bool]:
    """The third part of ``-v``: each kind of word once, and only words that fit the kind of mount."""
    found: dict[str, bool] = {}
    for word in mode.split(","):
        match word:
            case "ro" | "rw":
                key, value = "read_only", word == "ro"
            case "nocopy" if kind == "volume":
                key, value = "copy", False
            case "z" | "Z":
                raise NotSupported(f"the volume {spec!r}: labels of SELinux ({word})", code="mount-not-supported")
            case "idmap" | "U":
                raise NotSupported(
                    f"the volume {spec!r}: owners that are translated or changed ({word})",
                    code="mount-not-supported",
                    remedy="a host path stays the host's; take a volume, whose owners are the container's",
                )
            case _ if word in _CONSISTENCIES:
                key, value = "", True  # a hint for Docker's virtual machines; on Linux it has no meaning there either
            case _ if word in _PRIVATE and kind == "bind":
                key, value = "propagation", False
            case _ if word in _SHARED and kind == "bind":
                raise _no_propagation(word)
            case _:
                raise UsageError(f"invalid volume specification: {spec!r}: invalid mode: {mode}", code="bad-volume")
        if key in found:
            raise UsageError(f"invalid volume specification: {spec!r}: invalid mode: {mode}", code="bad-volume")
        found[key] = value
    return {key: value for key, value in found.items() if key in ("read_only", "copy")}


def _no_propagation(word: str) -> NotSupported:
    return NotSupported(
        f"the mount propagation {word}",
        code="mount-not-supported",
        remedy="what is mounted on one side is never seen on the other: rprivate",
    )


def _bind_source(text: str, what: str) -> str:
    source = Path(text).expanduser().absolute()
    if not source.exists():
        raise UsageError(f"{what}: bind source path does not exist: {source}", code="bad-volume", remedy="create it first")
    return str(source)


def parse_volume(value: str) -> MountRequest:
    """``-v``: ``/inside``, ``NAME:/inside[:MODE]`` or ``/host/path:/inside[:MODE]``. Raises `UsageError`, `NotSupported`."""
    parts = value.split(":")
    if len(parts) > 3 or "" in parts:
        raise UsageError(
            f"invalid volume specification: {value!r}",
            code="bad-volume",
            remedy="write /inside, NAME:/inside or /host/path:/inside, and :ro behind it",
        )
    if len(parts) == 1:
        return MountRequest(kind="volume", target=_parse_target(value, value), yields=True)
    source, target = parts[0], _parse_target(parts[1], value)
    kind = "bind" if source[0] in "/.~" else "volume"
    mode = _parse_mode(parts[2], kind, value) if len(parts) == 3 else {}
    source = str(Path(source).expanduser().absolute()) if kind == "bind" else check_volume_name(source)
    return MountRequest(kind=kind, target=target, source=source, makes_source=kind == "bind", **mode)


def parse_tmpfs(value: str) -> MountRequest:
    """``--tmpfs /inside[:OPTIONS]``: ``size``, ``mode``, ``uid``, ``gid``, ``nr_inodes``, ``ro``, ``exec`` (tmpfs(5), mount(8))."""
    from contain.declared import parse_size_bytes

    path, _, options = value.partition(":")
    target = _parse_target(path, value)
    given: dict[str, Any] = {}
    for option in filter(None, options.split(",")):
        key, equals, text = option.partition("=")
        match key, text:
            case "size", str() if equals:
                given["size_bytes"] = parse_size_bytes(text, what="--tmpfs size")
            case "mode", str() if re.fullmatch(r"0?[0-7]{1,4}", text):
                given["mode"] = int(text, 8)
            case (("uid" | "gid" | "nr_inodes"), str()) if text.isascii() and text.isdigit() and int(text) < 2**31:
                given[{"uid": "user_id", "gid": "group_id", "nr_inodes": "inodes"}[key]] = int(text)
            case (("ro" | "rw"), ""):
                given["read_only"] = key == "ro"
            case (("exec" | "noexec"), ""):
                given["executable"] = key == "exec"
            case (("nosuid" | "nodev"), ""):
                pass  # always so
            case _ if key in _TMPFS_REFUSED:
                raise NotSupported(f"--tmpfs {value!r}: the option {key}", code="mount-not-supported")
            case _:
                raise UsageError(
                    f'invalid tmpfs option ["{option}"]', code="bad-volume", remedy="for example size=64m,mode=1777"
                )
    return MountRequest(kind="tmpfs", target=target, **given)


_TMPFS_REFUSED = frozenset(
    [
        *("suid", "dev", "sync", "async", "dirsync", "remount", "mand", "nomand", "atime", "noatime", "diratime", "nodiratime"),
        *(
            "relatime",
            "norelatime",
            "strictatime",
            "nostrictatime",
            "bind",
            "rbind",
            "private",
            "rprivate",
            "shared",
            "rshared",
        ),
        *("slave", "rslave", "unbindable", "runbindable", "nr_blocks", "mpol", "huge", "defaults"),
    ]
)


def parse_volumes_from(value: str) -> VolumesFrom:
    """``--volumes-from CONTAINER[:ro|rw]``."""
    container, colon, mode = value.partition(":")
    if not container or (colon and mode not in ("ro", "rw")):
        if mode in ("z", "Z"):
            raise NotSupported("--volumes-from: labels of SELinux", code="mount-not-supported")
        raise UsageError(f"invalid --volumes-from {value!r}: invalid mode: {mode}", code="bad-volume", remedy="CONTAINER[:ro]")
    return VolumesFrom(container=container, read_only=mode == "ro")


_ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
_SWITCHES = ("readonly", "volume-nocopy", "bind-nonrecursive")
_REFUSED_KEYS = ("volume-opt", "volume-label", "volume-subpath", "image-subpath")


def _mount_fields(value: str) -> dict[str, str]:
    """``--mount``'s list of ``key=value`` under the keys' first names (docker/cli ``opts/mount.go``)."""
    import csv

    fields: dict[str, str] = {}
    for field in next(csv.reader([value]), []):
        key, equals, text = field.partition("=")
        key = key.lower()
        key = _ALIASES.get(key, key)
        if not equals and key not in _SWITCHES:
            raise _bad_mount(value, f"invalid field '{field}' must be a key=value pair")
        if key in _SWITCHES and equals and text not in (*_TRUE, *_FALSE):
            raise _bad_mount(value, f"invalid value for {key}: {text}")
        if key in _REFUSED_KEYS:
            raise NotSupported(f"--mount: the key {key}", code="mount-not-supported")
        if key not in _KEYS:
            raise _bad_mount(value, f"unexpected key '{key}' in '{field}'")
        fields[key] = text if equals else "true"
    return fields


_KEYS = {
    "type": ("bind", "volume", "tmpfs"),
    "source": ("bind", "volume"),
    "target": ("bind", "volume", "tmpfs"),
    "readonly": ("bind", "volume", "tmpfs"),
    "consistency": ("bind", "volume", "tmpfs"),
    "bind-propagation": ("bind",),
    "bind-nonrecursive": ("bind",),
    "bind-recursive": ("bind",),
    "volume-nocopy": ("volume",),
    "volume-driver": ("volume",),
    "tmpfs-size": ("tmpfs",),
    "tmpfs-mode": ("tmpfs",),
}


def _bad_mount(value: str, why: str) -> UsageError:
    return UsageError(f'invalid argument "{value}" for "--mount" flag: {why}', code="bad-volume")


def parse_mount(value: str) -> MountRequest:
    """``--mount type=volume|bind|tmpfs,...``. Raises `UsageError`, `NotSupported`."""
    from contain.declared import parse_size_bytes

    fields = _mount_fields(value)
    kind = fields.get("type", "volume").lower()
    if kind in ("image", "npipe", "cluster"):
        raise NotSupported(f"--mount: the type {kind}", code="mount-not-supported")
    if kind not in _KEYS["type"]:
        raise _bad_mount(value, f"mount type unknown: {kind!r}: there are bind, volume and tmpfs")
    for key in fields:
        if kind not in _KEYS[key]:
            if key == "source":
                raise _bad_mount(value, "field Source must not be specified for type tmpfs")
            raise _bad_mount(value, f"cannot mix '{key.partition('-')[0]}-*' options with mount type '{kind}'")
    if not fields.get("target"):
        raise _bad_mount(value, "target is required")
    target = _parse_target(fields["target"], value)
    source = fields.get("source", "")
    if fields.get("bind-nonrecursive") in _TRUE or fields.get("bind-recursive", "enabled") != "enabled":
        raise NotSupported("--mount: a bind without what is mounted below its source", code="mount-not-supported")
    if fields.get("bind-propagation", "rprivate") not in _PRIVATE:
        raise _no_propagation(fields["bind-propagation"])
    if fields.get("consistency", "default") not in _CONSISTENCIES:
        raise _bad_mount(value, f"invalid value for consistency: {fields['consistency']}")
    check_driver(fields.get("volume-driver", "local"))
    if kind == "bind":
        if not source:
            raise _bad_mount(value, 'invalid mount config for type "bind": field Source must not be empty')
        source = _bind_source(source, 'invalid mount config for type "bind"')
    elif source:
        check_volume_name(source)
    mode = fields.get("tmpfs-mode")
    if mode is not None and not re.fullmatch(r"0?[0-7]{1,4}", mode):
        raise _bad_mount(value, f"invalid value for tmpfs-mode: {mode}")
    return MountRequest(
        kind=kind,
        target=target,
        source=source,
        read_only=fields.get("readonly") in _TRUE,
        copy=fields.get("volume-nocopy") not in _TRUE,
        size_bytes=parse_size_bytes(fields["tmpfs-size"], what="tmpfs-size") if "tmpfs-size" in fields else 0,
        mode=None if mode is None else int(mode, 8),
        executable=kind == "tmpfs",  # Docker's: only --tmpfs forbids to start programs
    )


def check_driver(name: str) -> None:
    """`NotFound` in Docker's words for any driver but ``local``."""
    if name != "local":
        raise NotSupported(
            f'error looking up volume plugin {name}: plugin "{name}" not found',
            code="volume-driver-not-supported",
            remedy="there is the driver local",
        )


def anonymous_name(container_id: str, target: ContainerPath) -> str:
    """The name of a volume that was given none: of its container and place, so that nobody else has it."""
    import hashlib

    return hashlib.sha256(f"{container_id}:{target}".encode()).hexdigest()


def volume_data(home: HostPath, name: str) -> HostPath:
    """Where a volume's content lies, below the store."""
    return home / "volumes" / name / "_data"


def _place(request: MountRequest, *, container_id: str, home: HostPath) -> Mount:
    match request.kind:
        case "bind":
            return Bind(source=HostPath(request.source), target=request.target, read_only=request.read_only)
        case "volume":
            name = request.source or anonymous_name(container_id, request.target)
            return Volume(
                name=name,
                source=volume_data(home, name),
                target=request.target,
                read_only=request.read_only,
                copy=request.copy,
                anonymous=not request.source,
            )
        case _:
            return Tmpfs(
                target=request.target,
                size_bytes=request.size_bytes,
                mode=_DEFAULT_MODE if request.mode is None else request.mode,
                executable=request.executable,
                read_only=request.read_only,
                inodes=request.inodes,
                user_id=request.user_id,
                group_id=request.group_id,
            )


def resolve_mounts(
    requests: Sequence[MountRequest | Mount],
    *,
    declared: Sequence[str] = (),
    inherited: Sequence[Mount] = (),
    container_id: str,
    home: HostPath,
) -> tuple[Mount, ...]:
    """The mounts of one container. ``declared``: the image's volumes, data that nobody vouches for; ``inherited``: what
    ``--volumes-from`` brings, over which a request goes. Two requests for one target: `UsageError` (code ``bad-volume``)."""
    found: dict[ContainerPath, Mount] = {mount.target: mount for mount in inherited}
    asked: set[ContainerPath] = set()
    for request in requests:
        if isinstance(request, MountRequest) and request.yields:
            continue
        if request.target in asked:
            raise UsageError(f"Duplicate mount point: {request.target}", code="bad-volume")
        asked.add(request.target)
        placed = request
        if isinstance(placed, MountRequest):
            placed = _place(placed, container_id=container_id, home=home)
        found.pop(request.target, None)
        found[request.target] = placed
    own = [request for request in requests if isinstance(request, MountRequest) and request.yields]
    own += [MountRequest(kind="volume", target=_parse_target(path, path)) for path in declared]
    for request in own:
        if request.target not in found:
            found[request.target] = _place(request, container_id=container_id, home=home)
    return tuple(found.values())


def recorded_volumes(details: Mapping[str, Any]) -> tuple[Volume, ...]:
    """The volumes in a record's details (`contain.container.lifecycle.records.describe_spec`)."""
    return tuple(
        Volume(
            name=mount["name"],
            source=HostPath(mount["source"]),
            target=ContainerPath(mount["target"]),
            read_only=mount["read_only"],
            copy=mount["copy"],
            anonymous=mount["anonymous"],
        )
        for mount in details.get("mounts", ())
        if "anonymous" in mount
    )


def inherit_mounts(details: Mapping[str, Any], *, read_only: bool) -> tuple[Mount, ...]:
    """What another container has for ``--volumes-from``: its volumes and host paths, not its memory file systems. Nothing is copied
    into them."""
    binds = [
        Bind(
            source=HostPath(mount["source"]),
            target=ContainerPath(mount["target"]),
            read_only=read_only or mount["read_only"],
            beneath=HostPath(mount["beneath"]) if mount.get("beneath") else None,
        )
        for mount in details.get("mounts", ())
        if _is_bind(mount)
    ]
    volumes = [
        Volume(
            name=volume.name,
            source=volume.source,
            target=volume.target,
            read_only=read_only or volume.read_only,
            copy=False,
            anonymous=volume.anonymous,
        )
        for volume in recorded_volumes(details)
    ]
    return (*binds, *volumes)


def _is_bind(mount: Mapping[str, Any]) -> bool:
    return isinstance(mount.get("source"), str) and "anonymous" not in mount


def describe_mounts(details: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``Mounts`` of ``contain inspect``, under Docker's keys."""
    rows: list[dict[str, Any]] = []
    for mount in details.get("mounts", ()):
        row: dict[str, Any] = {"Type": "bind"}
        if "anonymous" in mount:
            row = {"Type": "volume", "Name": mount["name"]}
        elif "size_bytes" in mount:
            row = {"Type": "tmpfs"}
        elif not _is_bind(mount):
            continue
        row |= {"Source": mount.get("source", ""), "Destination": mount["target"]}
        if row["Type"] == "volume":
            row["Driver"] = "local"
        mode = "ro" if mount["read_only"] else ""
        propagation = "rprivate" if row["Type"] == "bind" else ""
        rows.append({**row, "Mode": mode, "RW": not mount["read_only"], "Propagation": propagation})
    return rows
