"""A container in Docker's shape, for ``contain inspect``: scripts that read it need not know that it is not Docker's. Values to values.

What Docker has no place for stands under ``Spec`` (what was asked for, resolved), ``Effective`` (what the kernel says that it got) and
``Contain``. Fields that mean nothing here have Docker's value for "nothing". Source: Docker Engine API 1.45, ``ContainerInspect``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from contain.annotations import TYPE_CHECKING, Any
from contain.container.request.idmapping import render_user_namespace
from contain.linux.capabilities import CAPABILITY_NUMBERS, DEFAULT_CAPABILITIES

if TYPE_CHECKING:
    from contain.container.lifecycle.records import ContainerRecord
    from contain.oci import ImageConfig
    from contain.paths import HostPath

_NEVER = "0001-01-01T00:00:00Z"
_NANO = 1_000_000_000


def render_time(seconds: float | None) -> str:
    """RFC 3339 with nine digits; Go's zero time for what has not happened."""
    if seconds is None:
        return _NEVER
    whole, rest = divmod(round(seconds * 1_000_000), 1_000_000)
    return datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest:06}000Z"


def split_command(arguments: Sequence[str], entrypoint: Sequence[str] | None) -> tuple[list[str] | None, list[str] | None]:
    """``Entrypoint`` and ``Cmd``: what was run, divided where the image's entrypoint ends."""
    given = list(arguments)
    if entrypoint and given[: len(entrypoint)] == list(entrypoint):
        return list(entrypoint), given[len(entrypoint) :] or None
    return None, given


def describe_state(record: ContainerRecord, *, paused: bool) -> dict[str, Any]:
    """``State``, but for ``Health``."""
    status = record.last_status if record.status is None else record.status
    return {
        "Status": "paused" if paused else str(record.state),
        "Running": record.state in ("running", "restarting"),
        "Paused": paused,
        "Restarting": record.state == "restarting",
        "OOMKilled": record.out_of_memory,
        "Dead": record.state == "dead",
        "Pid": record.process_id or 0,
        "ExitCode": (137 if record.state == "dead" else 0) if status is None else status,
        "Error": record.reason if status in (125, 126, 127) else "",
        "StartedAt": render_time(record.started_seconds),
        "FinishedAt": render_time(record.finished_seconds),
    }


def _host_config(details: Mapping[str, Any], record: ContainerRecord) -> dict[str, Any]:
    limits, networking = details.get("limits") or {}, details.get("networking") or {}
    confinement, restart = details.get("confinement") or {}, details.get("restart") or {}
    log = details.get("log") or {}
    mounts = details.get("mounts", ())
    blocks = limits.get("block") or ()

    def block(kind: str) -> list[dict[str, Any]]:
        name = "Weight" if kind == "weight" else "Rate"
        return [{"Path": row["device"], name: row["value"]} for row in blocks if row["kind"] == kind]

    capabilities = frozenset(details.get("capabilities", DEFAULT_CAPABILITIES))
    options = [] if confinement.get("seccomp", "builtin") == "builtin" else [f"seccomp={confinement['seccomp']}"]
    if confinement.get("no_new_privileges"):
        options.append("no-new-privileges")
    sharing = {"private": "private", "none": "none", "host": "host"}
    shared = networking.get("container", "")
    return {
        "Binds": _binds(mounts) or None,
        "ContainerIDFile": "",
        "LogConfig": {
            "Type": log.get("driver", "json-file"),
            "Config": {"max-size": str(log.get("max_bytes", 0)), "max-file": str(log.get("files", 1))},
        },
        "NetworkMode": f"container:{shared}" if shared else _network_mode(details),
        "PortBindings": _port_bindings(details.get("ports", ())),
        "RestartPolicy": {"Name": restart.get("name", "no"), "MaximumRetryCount": restart.get("retries", 0)},
        "AutoRemove": record.remove,
        "VolumeDriver": "",
        "VolumesFrom": None,
        "ConsoleSize": [0, 0],
        "CapAdd": None if confinement.get("privileged") else _added(capabilities),
        "CapDrop": ["ALL"]
        if not capabilities
        else sorted(f"CAP_{name}" for name in DEFAULT_CAPABILITIES - capabilities) or None,
        "CgroupnsMode": details.get("cgroup_namespace", "private"),
        "Dns": list(details.get("name_servers", ())),
        "DnsOptions": list(networking.get("options") or ()),
        "DnsSearch": list(networking.get("search") or ()),
        "ExtraHosts": [f"{name}:{address}" for name, address in details.get("extra_hosts", ())] or None,
        "GroupAdd": None,
        "IpcMode": sharing.get(details.get("ipc", "private"), "private"),
        "Cgroup": "",
        "Links": _links(networking, record.name) or None,
        "OomScoreAdj": details.get("out_of_memory_score") or 0,
        "PidMode": "",
        "Privileged": bool(confinement.get("privileged")),
        "PublishAllPorts": False,
        "ReadonlyRootfs": bool(details.get("read_only")),
        "SecurityOpt": options or None,
        "Sysctls": dict(details.get("sysctls", ())) or None,
        "Tmpfs": {row["target"]: f"size={row['size_bytes']}" for row in mounts if "size_bytes" in row} or None,
        "UTSMode": "host" if details.get("uts") == "host" else "",
        "UsernsMode": render_user_namespace(details),
        "ShmSize": details.get("shared_memory_bytes", 0),
        "Runtime": "contain",
        "Isolation": "",
        "Init": bool(details.get("init")),
        "Memory": limits.get("memory_bytes") or 0,
        "MemoryReservation": limits.get("memory_reservation_bytes") or 0,
        "MemorySwap": limits.get("memory_swap_bytes") or 0,
        "MemorySwappiness": limits.get("memory_swappiness"),
        "NanoCpus": int((limits.get("cpus") or 0) * _NANO),
        "CpuShares": limits.get("cpu_shares") or 0,
        "CpuPeriod": limits.get("cpu_period_microseconds") or 0,
        "CpuQuota": limits.get("cpu_quota_microseconds") or 0,
        "CpusetCpus": limits.get("processors", ""),
        "CpusetMems": limits.get("memory_nodes", ""),
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "CgroupParent": "",
        "BlkioWeight": limits.get("block_weight") or 0,
        "BlkioWeightDevice": block("weight"),
        "BlkioDeviceReadBps": block("read_bps"),
        "BlkioDeviceWriteBps": block("write_bps"),
        "BlkioDeviceReadIOps": block("read_iops"),
        "BlkioDeviceWriteIOps": block("write_iops"),
        "Devices": [
            {"PathOnHost": row["source"], "PathInContainer": row["target"], "CgroupPermissions": row["access"]}
            for row in details.get("devices", ())
        ],
        "DeviceCgroupRules": list(details.get("device_rules", ())) or None,
        "DeviceRequests": None,
        "OomKillDisable": not limits.get("out_of_memory_kill", True),
        "PidsLimit": limits.get("pids"),
        "Ulimits": [
            {"Name": row["name"], "Soft": row["soft"], "Hard": row["hard"]} for row in details.get("resource_limits", ())
        ],
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
        "MaskedPaths": list(confinement.get("masked_paths", ())),
        "ReadonlyPaths": list(confinement.get("read_only_paths", ())),
        "Annotations": dict(details.get("annotations", ())) or None,
    }


def _added(capabilities: frozenset[str]) -> list[str] | None:
    """What it has beyond the default, in ``--cap-add``'s words."""
    if capabilities >= frozenset(CAPABILITY_NUMBERS):
        return ["ALL"]
    return sorted(f"CAP_{name}" for name in capabilities - DEFAULT_CAPABILITIES) or None


def _links(networking: Mapping[str, Any], name: str) -> list[str]:
    """``--link`` on the default network, as Docker writes it; those on other networks stand with the network."""
    return [
        f"/{target}:/{name}/{alias}"
        for endpoint in networking.get("endpoints") or ()
        if endpoint["network"] == "bridge"
        for target, alias in endpoint.get("links", ())
    ]


def _network_mode(details: Mapping[str, Any]) -> str:
    endpoints = (details.get("networking") or {}).get("endpoints") or ()
    network = str(details.get("network", ""))
    return str(endpoints[0]["network"]) if network == "bridge" and endpoints else network


def _binds(mounts: Sequence[Mapping[str, Any]]) -> list[str]:
    found = []
    for row in mounts:
        if "source" not in row or (row.get("anonymous")):
            continue
        source = row["name"] if "anonymous" in row else row["source"]
        found.append(f"{source}:{row['target']}" + (":ro" if row.get("read_only") else ""))
    return found


def _port_bindings(ports: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for row in ports:
        first, last = row["first_host_port"], row["last_host_port"]
        outer = "" if not last else str(first) if first == last else f"{first}-{last}"
        address = "" if row["host_address"] == "0.0.0.0" else row["host_address"]  # noqa: S104
        found.setdefault(f"{row['container_port']}/{row['protocol']}", []).append({"HostIp": address, "HostPort": outer})
    return found


def _config(record: ContainerRecord, image: ImageConfig | None) -> dict[str, Any]:
    details = record.details
    entrypoint, command = split_command(record.arguments, None if image is None else image.entrypoint)
    who = details.get("identity") or {}
    exposed: dict[str, dict[str, Any]] = {f"{row['container_port']}/{row['protocol']}": {} for row in details.get("ports", ())}
    exposed |= {str(name): {} for name in (details.get("networking") or {}).get("exposed", ())}
    user = f"{who.get('user_id', 0)}:{who.get('group_id', 0)}"
    attached = not details.get("interactive") or bool(details.get("input_once"))
    config: dict[str, Any] = {
        "Hostname": details.get("hostname", ""),
        "Domainname": details.get("domain_name", ""),
        "User": "" if user == "0:0" else user,
        "AttachStdin": bool(details.get("input_once")),
        "AttachStdout": attached,
        "AttachStderr": attached,
        **({"ExposedPorts": exposed} if exposed else {}),
        "Tty": bool(details.get("terminal")),
        "OpenStdin": bool(details.get("interactive")),
        "StdinOnce": bool(details.get("input_once")),
        "Env": [f"{name}={value}" for name, value in details.get("environment", ())],
        "Cmd": command,
        "Image": record.image_name,
        "Volumes": {row["target"]: {} for row in details.get("mounts", ()) if row.get("anonymous")} or None,
        "WorkingDir": details.get("working_directory", "/"),
        "Entrypoint": entrypoint,
        "OnBuild": None,
        "Labels": {str(name): str(value) for name, value in details.get("labels", ())},
        "StopSignal": _signal_name(record.stop_signal),
    }
    grace = details.get("stop_grace_seconds")
    if grace is not None:
        config["StopTimeout"] = int(grace)
    check = details.get("health")
    if check:
        config["Healthcheck"] = {
            "Test": ["CMD", *check["command"]],
            "Interval": int(check["interval_seconds"] * _NANO),
            "Timeout": int(check["timeout_seconds"] * _NANO),
            "StartPeriod": int(check["start_period_seconds"] * _NANO),
            "StartInterval": int(check["start_interval_seconds"] * _NANO),
            "Retries": check["retries"],
        }
    return config


def _signal_name(number: int) -> str:
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _graph_driver(layers: Sequence[str], upper: str, *, copied: bool) -> dict[str, Any]:
    """How its root is made: an overlay of directories, or a directory of its own."""
    if copied:
        return {"Name": "copy", "Data": {"LowerDir": ":".join(layers), "RootDir": upper}}
    return {
        "Name": "overlay",
        "Data": {
            "LowerDir": ":".join(layers),
            "UpperDir": upper,
            "WorkDir": f"{upper}.work" if upper else "",
            "MergedDir": "",
        },
    }


def container_document(
    record: ContainerRecord,
    place: HostPath,
    *,
    paused: bool,
    health: Mapping[str, object] | None,
    image: ImageConfig | None,
    network: Mapping[str, Any],
    mounts: Sequence[Mapping[str, Any]],
    effective: Mapping[str, Any] | None,
    sizes: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """All that is known of a container. ``place``: its record's directory; ``sizes``: bytes that it wrote, and of its whole root."""
    details = record.details
    layers = [str(layer) for layer in reversed(details.get("layers", ()))]
    upper = str(details.get("upper") or "")
    return {
        "Id": record.container_id,
        "Created": render_time(record.created_seconds),
        "Path": record.arguments[0] if record.arguments else "",
        "Args": list(record.arguments[1:]),
        "State": {**describe_state(record, paused=paused), **({"Health": dict(health)} if health is not None else {})},
        "Image": record.image_digest,
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": str(place / "log"),
        "Name": f"/{record.name}",
        "RestartCount": record.restart_count,
        "Driver": "copy" if details.get("copied") else "overlay",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": (details.get("confinement") or {}).get("apparmor", ""),
        "ExecIDs": None,
        "HostConfig": _host_config(details, record),
        "GraphDriver": _graph_driver(layers, upper, copied=bool(details.get("copied"))),
        **({} if sizes is None else {"SizeRw": sizes[0], "SizeRootFs": sizes[1]}),
        "Mounts": list(mounts),
        "Config": _config(record, image),
        "NetworkSettings": dict(network),
        "ImageName": record.image_name,
        "Contain": {"Signal": record.signal, "Reason": record.reason, "StopAsked": record.stop_asked},
        "Spec": details,
        "Effective": effective,
    }
