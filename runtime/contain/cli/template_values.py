"""How Go prints what a template finds: values as its ``fmt`` shows them, and the empty ones of Docker's typed structures. Pure.

JSON has one ``null``; Go has nil slices (``[]``), nil maps (``map[]``) and nil pointers (``<nil>``), and tells them from a key that is
not in a map (``<no value>``). Which of Docker's fields is which is known by its name. Source: moby ``api/types/container`` and
``api/types/network``, Go's packages ``fmt`` and ``text/template``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from contain.values import dataclass

_SLICES = (
    "Aliases Args BlkioDeviceReadBps BlkioDeviceReadIOps BlkioDeviceWriteBps BlkioDeviceWriteIOps BlkioWeightDevice Binds CapAdd "
    "CapDrop Cmd DNSNames DeviceCgroupRules DeviceRequests Devices Dns DnsOptions DnsSearch Entrypoint Env ExecIDs ExtraHosts "
    "GroupAdd Layers Links MaskedPaths Mounts OnBuild ReadonlyPaths RepoDigests RepoTags SecondaryIPAddresses "
    "SecondaryIPv6Addresses SecurityOpt Shell Test Ulimits VolumesFrom"
)
_MAPS = "Annotations Config DriverOpts ExposedPorts Labels Networks Options PortBindings Ports Status StorageOpt Sysctls Tmpfs Volumes"
_POINTERS = (
    "GraphDriver Health Healthcheck IPAMConfig Init MemorySwappiness OomKillDisable PidsLimit SizeRootFs SizeRw StopTimeout"
)
_TEXTS = ("Domainname", "Hostname", "MacAddress", "StopSignal", "User", "WorkingDir")
_SWITCHES = ("ArgsEscaped", "AttachStderr", "AttachStdin", "AttachStdout", "NetworkDisabled", "OpenStdin", "StdinOnce", "Tty")
_STRUCTURES = (
    ("HostIp", "HostPort"),
    ("Name", "MaximumRetryCount"),
    ("Type", "Config"),
    ("Type", "Name", "Source", "Destination", "Driver", "Mode", "RW", "Propagation"),
    ("Type", "Source", "Destination", "Mode", "RW", "Propagation"),
)
_BY_FIELDS = {frozenset(fields): fields for fields in _STRUCTURES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Nil:
    """A typed nothing: false, without elements, ``null`` in JSON; ``shown`` is how Go prints it."""

    shown: str

    def __bool__(self) -> bool:
        return False


_NILS = {
    **dict.fromkeys(_SLICES.split(), Nil(shown="[]")),
    **dict.fromkeys(_MAPS.split(), Nil(shown="map[]")),
    **dict.fromkeys(_POINTERS.split(), Nil(shown="<nil>")),
}


def typed(name: str, value: object) -> object:
    """The value of a field; for None, what Docker's type of that name has for it."""
    return _NILS.get(name) if value is None else value


def absent(name: str) -> object:
    """What a field of a structure has that is left out of its JSON because it is empty; None for one that no structure has."""
    if name in _TEXTS:
        return ""
    return False if name in _SWITCHES else _NILS.get(name)


def plain(value: object) -> object:
    """Without types, as JSON has it."""
    return None if isinstance(value, Nil) else value


def show(value: object) -> str:
    """As Go's ``fmt`` prints it."""
    match value:
        case None:
            return "<no value>"
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case Nil(shown=shown):
            return shown
        case Mapping():
            fields = _BY_FIELDS.get(frozenset(value))
            if fields is not None:
                return "{" + " ".join(show(typed(field, value[field])) for field in fields) + "}"
            return "map[" + " ".join(f"{show(key)}:{_show_element(str(key), value[key])}" for key in sorted(value)) + "]"
        case Sequence():
            return "[" + " ".join(show(item) for item in value) + "]"
    return str(value)


def _show_element(key: str, value: object) -> str:
    if value is None and "/" in key:
        return "[]"  # a port that is not published
    if value == {} and "/" in key:
        return "{}"  # sets are maps to empty structures: volumes and ports
    return show(typed(key, value))
