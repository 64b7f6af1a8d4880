"""What may be asked of a container's surroundings, and how flags spell it: confinement, devices, kernel parameters, limits. Pure.

Names, units, checks and words are Docker's (docker/cli ``cli/command/container/opts.go``, ``opts/*.go``, moby
``daemon/daemon_unix.go``); ``mask=`` and ``unmask=`` are podman's. Nothing is read here but what a caller hands in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch

from contain.errors import NotSupported, UsageError
from contain.linux.capabilities import CAPABILITY_NUMBERS, DEFAULT_CAPABILITIES
from contain.paths import ContainerPath, HostPath
from contain.spec import (
    SECCOMP_BUILTIN,
    SECCOMP_UNCONFINED,
    BlockLimit,
    Confinement,
    Device,
    Limits,
    Sharing,
)
from contain.values import dataclass, replace

SMALLEST_MEMORY_BYTES = 6 << 20
LARGEST_MEMORY_BYTES = 1 << 56
_SYSCTLS = frozenset(
    f"kernel.{name}" for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What was asked of a container beyond its program, mounts and network; the fields are the spec's. ``added_groups``: names or
    numbers of the image's. ``unset``: variables that it does not get, though the image has them; ``unset_all``: none of the image's."""

    confinement: Confinement = Confinement()
    sysctls: tuple[tuple[str, str], ...] = ()
    devices: tuple[Device, ...] = ()
    device_rules: tuple[str, ...] = ()
    ipc: Sharing = Sharing.PRIVATE
    ipc_container: str = ""  # a name, or the beginning of an id
    uts: Sharing = Sharing.PRIVATE
    cgroup_namespace: Sharing = Sharing.PRIVATE
    domain_name: str = ""
    umask: int = 0o022
    out_of_memory_score: int | None = None
    annotations: tuple[tuple[str, str], ...] = ()
    added_groups: tuple[str, ...] = ()
    unset: tuple[str, ...] = ()
    unset_all: bool = False


_LONGEST_NUMBER = 40


def bad_value(value: str, flag: str, why: str, *, code: str = "bad-limit", remedy: str = "") -> UsageError:
    """A flag's value that cannot be read, in Docker's words."""
    return UsageError(f'invalid argument "{value}" for "{flag}" flag: {why}', code=code, remedy=remedy)


def refused(flag: str, why: str, remedy: str = "") -> NotSupported:
    """A flag of Docker's or podman's that is known and not carried out."""
    return NotSupported(f"{flag} is not supported: {why}", code="flag-not-supported", remedy=remedy)


# -- numbers ------------------------------------------------------------------------------------------------------------------------


def parse_bytes(text: str, flag: str) -> int:
    """``512m``, ``1.5g``, ``1024``, ``64MiB``: binary units."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgtp]?)(?:i?b)?", text.strip(), re.IGNORECASE)
    if found is None or len(text) > _LONGEST_NUMBER:
        raise bad_value(text[:_LONGEST_NUMBER], flag, f"invalid size: '{text[:_LONGEST_NUMBER]}'")
    return int(float(found[1]) * (1 << _UNITS[found[2].lower()]))


def parse_integer(text: str, flag: str) -> int:
    """A whole number in decimal, as Go's flags take it."""
    if re.fullmatch(r"[+-]?\d{1,19}", text) is None:
        raise bad_value(text, flag, f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text)


def parse_processors(text: str, available: frozenset[int], *, what: str, flag: str) -> str:
    """A list as cpuset(7) has it, ``0-2,5``, of which each is there. ``what``: ``cpuset cpus`` or ``cpuset mems``."""
    wanted: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        if found is None or (found[2] is not None and int(found[2]) < int(found[1])):
            raise UsageError(f"Invalid value {text} for {what}", code="bad-limit", remedy=f"for example {flag} 0-2,5")
        wanted |= set(range(int(found[1]), int(found[2] or found[1]) + 1))
    if not wanted <= available:
        shown = ",".join(map(str, sorted(available)))
        kind = "CPUs" if what == "cpuset cpus" else "memory nodes"
        raise UsageError(f"Requested {kind} are not available - requested {text}, available: {shown}", code="bad-limit")
    return text


def parse_list(text: str) -> frozenset[int]:
    """What a file such as ``cpuset.cpus.effective`` says: ``0-1,4``."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)


def parse_block_limit(kind: str, text: str, flag: str) -> BlockLimit:
    """``/dev/sda:1mb`` for a rate, ``/dev/sda:1000`` for operations or a weight."""
    device, colon, value = text.partition(":")
    if not colon or not value or ":" in value:
        raise bad_value(text, flag, f"bad format: {text}")
    if not device.startswith("/dev/"):
        raise bad_value(text, flag, f"bad format for device path: {text}")
    if kind == "weight":
        if not value.isascii() or not value.isdigit() or not (int(value) == 0 or 10 <= int(value) <= 1000):
            raise bad_value(text, flag, f"invalid weight for device: {text}")
        return BlockLimit(kind=kind, device=HostPath(device), value=int(value))
    if kind.endswith("iops"):
        if not value.isascii() or not value.isdigit():
            form = "The correct format is <device-path>:<number>. Number must be a positive integer"
            raise bad_value(text, flag, f"invalid rate for device: {text}. {form}")
        return BlockLimit(kind=kind, device=HostPath(device), value=int(value))
    try:
        rate = parse_bytes(value, flag)
    except UsageError:
        form = (
            "The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be "
            "kb, mb, or gb"
        )
        raise bad_value(text, flag, f"invalid rate for device: {text}. {form}") from None
    return BlockLimit(kind=kind, device=HostPath(device), value=rate)


def verify_limits(limits: Limits, *, processors: int) -> Limits:
    """The limits, if they go together. ``processors``: how many there are. Raises `UsageError` in Docker's words."""

    def wrong(message: str) -> UsageError:
        return UsageError(message, code="bad-limit")

    memory, both, kept = limits.memory_bytes, limits.memory_swap_bytes, limits.memory_reservation_bytes
    if memory is not None and memory > LARGEST_MEMORY_BYTES:
        raise wrong("--memory: that is more than any machine has")
    if memory is not None and memory < SMALLEST_MEMORY_BYTES:
        raise wrong("Minimum memory limit allowed is 6MB")
    if both is not None and both > 0 and memory is None:
        raise wrong("You should always set the Memory limit when using Memoryswap limit, see usage")
    if both is not None and both > 0 and memory is not None and both < memory:
        raise wrong("Minimum memoryswap limit should be larger than memory limit, see usage")
    if limits.memory_swappiness is not None and not 0 <= limits.memory_swappiness <= 100:
        raise wrong(f"Invalid value: {limits.memory_swappiness}, valid memory swappiness range is 0-100")
    if kept is not None and kept < SMALLEST_MEMORY_BYTES:
        raise wrong("Minimum memory reservation allowed is 6MB")
    if kept is not None and memory is not None and memory < kept:
        raise wrong("Minimum memory limit can not be less than memory reservation limit, see usage")
    if limits.cpus is not None and limits.cpu_period_microseconds is not None:
        raise wrong("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if limits.cpus is not None and limits.cpu_quota_microseconds is not None:
        raise wrong("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    if limits.cpus is not None and not 0.01 <= limits.cpus <= processors:
        raise wrong(f"Range of CPUs is from 0.01 to {processors}.00, as there are only {processors} CPUs available")
    if limits.cpu_shares is not None and not 2 <= limits.cpu_shares <= 262_144:
        raise wrong(f"Invalid CPU shares ({limits.cpu_shares}): they range from 2 to 262144")
    period, quota = limits.cpu_period_microseconds, limits.cpu_quota_microseconds
    if period is not None and not 1000 <= period <= 1_000_000:
        raise wrong("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if quota is not None and 0 < quota < 1000:
        raise wrong("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if limits.block_weight is not None and not 10 <= limits.block_weight <= 1000:
        raise wrong("Range of blkio weight is from 10 to 1000")
    return limits


def verify_out_of_memory_score(score: int) -> int:
    """-1000 to 1000."""
    if not -1000 <= score <= 1000:
        raise UsageError(f"Invalid value {score}, range for oom score adj is [-1000, 1000]", code="bad-limit")
    return score


# -- privileges ---------------------------------------------------------------------------------------------------------------------


def _capability(text: str, way: str) -> str:
    name = text.upper().removeprefix("CAP_")
    if name != "ALL" and name not in CAPABILITY_NUMBERS:
        raise UsageError(
            f'invalid {way}: unknown capability: "{text}"',
            code="bad-capability",
            remedy="see capabilities(7); for example NET_ADMIN",
        )
    return name


def parse_capabilities(added: Iterable[str], dropped: Iterable[str], *, privileged: bool = False) -> frozenset[str]:
    """What the program may have, without ``CAP_``. Docker's rule: ``ALL`` added is all but those dropped; ``ALL`` dropped is those
    added; else the default ones without the dropped and with the added. Privileged is all."""
    add, drop = {_capability(text, "CapAdd") for text in added}, {_capability(text, "CapDrop") for text in dropped}
    if privileged:
        return frozenset(CAPABILITY_NUMBERS)
    if "ALL" in add:
        return frozenset(CAPABILITY_NUMBERS) - drop
    return (frozenset() if "ALL" in drop else DEFAULT_CAPABILITIES - drop) | add


def _boolean(value: str, option: str) -> bool:
    if value.lower() in ("true", "1", "t", ""):
        return True
    if value.lower() in ("false", "0", "f"):
        return False
    raise UsageError(f'invalid --security-opt 2: "{option}"', code="bad-security-option")


def parse_security_options(
    options: Iterable[str], *, profiles: Mapping[str, str] | None = None, privileged: bool = False
) -> Confinement:
    """``--security-opt``: ``seccomp=``, ``apparmor=``, ``label=``, ``no-new-privileges``, ``systempaths=``, ``mask=``, ``unmask=``.
    ``profiles``: texts of the seccomp files that are named. ``privileged``: where it begins."""
    if privileged:
        held = Confinement(
            seccomp=SECCOMP_UNCONFINED, no_new_privileges=False, masked_paths=(), read_only_paths=(), privileged=True
        )
    else:
        held = Confinement()
    for option in options:
        name, separator, value = option.partition("=")
        if not separator and name != "no-new-privileges":
            name, separator, value = option.partition(":")
        if (not separator or not value) and name != "no-new-privileges":
            raise UsageError(f'Invalid --security-opt: "{option}"', code="bad-security-option")
        match name:
            case "no-new-privileges":
                held = replace(held, no_new_privileges=_boolean(value, option))
            case "seccomp":
                plain = value in (SECCOMP_BUILTIN, SECCOMP_UNCONFINED)
                held = replace(held, seccomp=value if plain or profiles is None else profiles[value])
            case "apparmor":
                held = replace(held, apparmor="" if value == "unconfined" else value)
            case "label":
                if value != "disable":
                    raise refused(
                        f"--security-opt label={value}", "no SELinux labels are set", "label=disable is what there is"
                    )
            case "systempaths":
                if value != "unconfined":
                    raise UsageError(f'invalid --security-opt 2: "{option}"', code="bad-security-option")
                held = replace(held, masked_paths=(), read_only_paths=())
            case "mask":
                paths = _paths(value, option)
                held = replace(
                    held, masked_paths=(*held.masked_paths, *(path for path in paths if path not in held.masked_paths))
                )
            case "unmask":
                if value.upper() == "ALL":
                    held = replace(held, masked_paths=(), read_only_paths=())
                else:
                    shown = _paths(value, option)
                    held = replace(
                        held,
                        masked_paths=tuple(path for path in held.masked_paths if not _matches(path, shown)),
                        read_only_paths=tuple(path for path in held.read_only_paths if not _matches(path, shown)),
                    )
            case "proc-opts" | "filter":
                raise refused(f"--security-opt {name}", "/proc is mounted as every container has it")
            case _:
                raise UsageError(f'invalid --security-opt 2: "{option}"', code="bad-security-option")
    return held


def _paths(value: str, option: str) -> tuple[str, ...]:
    paths = tuple(value.split(":"))
    if not all(path.startswith("/") and ".." not in path.split("/") for path in paths):
        raise UsageError(f'invalid --security-opt 2: "{option}"', code="bad-security-option", remedy="paths are absolute")
    return paths


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


# -- devices, parameters, namespaces ------------------------------------------------------------------------------------------------


def parse_device(text: str) -> Device:
    """``HOST[:INSIDE][:ACCESS]``, or ``HOST:ACCESS``; access is of ``r``, ``w`` and ``m``."""
    parts = text.split(":")
    source, target, access = parts[0], parts[0], "rwm"
    if len(parts) == 2:
        if _is_access(parts[1]):
            access = parts[1]
        else:
            target = parts[1]
    elif len(parts) == 3:
        target, access = parts[1], parts[2]
    if len(parts) > 3 or not source:
        raise UsageError(f"invalid device specification: {text}", code="bad-device", remedy="HOST[:INSIDE][:rwm]")
    if not _is_access(access):
        raise UsageError(f"invalid device mode: {access}", code="bad-device", remedy="some of r, w and m")
    if not target.startswith("/") or ".." in target.split("/"):
        raise UsageError(f"{target} is not an absolute path", code="bad-device")
    if "=" in source and not source.startswith("/"):
        raise refused(f"--device {text}", "the Container Device Interface is not built")
    return Device(source=HostPath(source), target=ContainerPath(target), access=access)


def _is_access(text: str) -> bool:
    return bool(text) and set(text) <= set("rwm") and len(set(text)) == len(text)


def parse_sysctl(text: str, *, host_network: bool, host_ipc: bool) -> tuple[str, str]:
    """``NAME=VALUE`` of a parameter that is a namespace's own; all others are the machine's, and refused."""
    name, equals, value = text.partition("=")
    name = name.strip().replace("/", ".") if "/" in name and "." not in name else name.strip()
    own = name in _SYSCTLS or name.startswith(("net.", "fs.mqueue."))
    if not equals or not own or not re.fullmatch(r"[a-zA-Z0-9_./*:@-]+", name) or ".." in name:
        raise bad_value(
            text,
            "--sysctl",
            f"sysctl '{text}' is not allowed",
            code="sysctl-refused",
            remedy="net.*, fs.mqueue.*, kernel.msg*, kernel.shm*, kernel.sem",
        )
    if name.startswith("net.") and host_network:
        raise UsageError(f"sysctl '{name}' is not allowed in the hosts network namespace", code="sysctl-refused")
    if not name.startswith("net.") and host_ipc:
        raise UsageError(f"sysctl '{name}' is not allowed in the hosts ipc namespace", code="sysctl-refused")
    return name, value


def parse_sharing(text: str, flag: str, allowed: Iterable[Sharing]) -> Sharing:
    """``--ipc``, ``--uts``, ``--cgroupns``: whose namespace. Raises `UsageError`; `NotSupported` for another container's."""
    kind = {"--ipc": "IPC", "--uts": "UTS", "--cgroupns": "cgroup", "--pid": "PID"}[flag]
    name = text.removeprefix("container:")
    if name != text and name and Sharing.CONTAINER in allowed:
        return Sharing.CONTAINER
    if text.startswith("ns:") or (name != text and Sharing.CONTAINER not in allowed):
        raise refused(
            f"{flag} {text}",
            "each container has a user namespace of its own, which another one's namespaces do not belong to",
        )
    found = next((each for each in allowed if each.value == (text or "private") and each is not Sharing.CONTAINER), None)
    if found is None:
        raise UsageError(f"--{flag.lstrip('-')}: invalid {kind} mode", code="bad-namespace")
    return found


def parse_umask(text: str) -> int:
    """Octal, as in podman: ``0022``."""
    if re.fullmatch(r"[0-7]{1,4}", text) is None:
        raise UsageError(f"invalid umask {text}", code="bad-umask", remedy="octal digits, for example 0022")
    return int(text, 8)
