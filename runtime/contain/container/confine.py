"""What a container's confinement needs of this machine: its compiled filter, its devices, its score when memory runs out.

The filter comes from the cache of compiled ones below the run-time state where it can; the compiler is imported only where not.
"""

from __future__ import annotations

import contextlib
import os
import resource
import stat
from collections.abc import Collection, Iterator

from contain.annotations import TYPE_CHECKING
from contain.errors import Conflict, HostError, NotSupported, UsageError
from contain.linux.seccomp_cache import cache_key, cached_filter
from contain.paths import ContainerPath, HostPath
from contain.spec import SECCOMP_BUILTIN, SECCOMP_UNCONFINED, ContainerSpec, Device, IdMapping, Sharing
from contain.values import replace

if TYPE_CHECKING:
    from contain.linux.devices import DeviceRule

_NOT_DEVICES = ("pts", "shm", "mqueue", "fd", "hugepages")
_MADE_INSIDE = ("console", "ptmx", "tty", "null", "zero", "full", "random", "urandom")


def filter_of(spec: ContainerSpec, run_home: HostPath | None) -> bytes:
    """The system call filter of a container on this machine; empty where it has none. Raises `HostError`, `UsageError`."""
    return filter_for(spec.confinement.seccomp, spec.capabilities, run_home) if spec.confined else b""


def filter_for(seccomp: str, capabilities: Collection[str], run_home: HostPath | None) -> bytes:
    """The same from its parts, of a spec or of a record."""
    profile = None if seccomp == SECCOMP_BUILTIN else seccomp
    if profile == SECCOMP_UNCONFINED:
        return b""
    system = os.uname()
    release, _, rest = system.release.partition(".")
    kernel = (int(release), int(rest.split(".")[0].split("-")[0])) if release.isdigit() and rest[:1].isdigit() else (0, 0)

    def make() -> bytes:
        from contain.linux.seccomp import compile_default_policy, compile_policy
        from contain.linux.seccomp_profile import parse_profile
        from contain.linux.syscall_table import syscall_table

        try:
            table = syscall_table(system.machine)
        except KeyError:
            raise HostError(
                f"there is no system call policy for the architecture {system.machine!r} yet", code="architecture"
            ) from None
        if profile is None:
            return compile_default_policy(capabilities=capabilities)
        policy = parse_profile(profile, machine=system.machine, capabilities=capabilities, kernel=kernel)
        return compile_policy(policy, table)

    if run_home is None:
        return make()
    key = cache_key(profile=profile, machine=system.machine, capabilities=capabilities, kernel=kernel)
    return cached_filter(str(run_home / "seccomp"), key, make)


def find_devices(place: str = "/dev") -> Iterator[Device]:
    """The device nodes of this machine, as ``--privileged`` gives them: without terminals and what every container has of its own."""
    for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
        if place == "/dev" and entry.name in (*_NOT_DEVICES, *_MADE_INSIDE):
            continue
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            yield from find_devices(entry.path)
        elif (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)) and os.stat(entry.path).st_rdev:
            yield Device(source=HostPath(entry.path), target=ContainerPath(entry.path))


def own_capabilities() -> frozenset[str]:
    """What this process could give to a container without a user namespace: its bounding set."""
    from contain.linux.capabilities import CAPABILITY_NUMBERS

    with open("/proc/self/status") as file:
        mask = next((int(line.split()[1], 16) for line in file if line.startswith("CapBnd:")), 0)
    return frozenset(name for name, number in CAPABILITY_NUMBERS.items() if mask >> number & 1)


def verify_apparmor(profile: str) -> None:
    """Raise `HostError` where the kernel would not use an AppArmor profile."""
    try:
        with open("/sys/module/apparmor/parameters/enabled") as file:
            enabled = file.read().strip() == "Y"
    except OSError:
        enabled = False
    if not enabled:
        raise HostError(
            f"the AppArmor profile {profile!r} cannot be used: this kernel has no AppArmor, or it is switched off",
            code="apparmor-missing",
            remedy="leave it out, or --security-opt apparmor=unconfined",
        )


def expand_device(asked: Device) -> Iterator[Device]:
    """A device that was asked for; of a directory, each that is in it. Raises `UsageError` where there is none, in Docker's words."""
    try:
        mode = os.stat(asked.source).st_mode
    except OSError as error:
        raise _no_device(asked, (error.strerror or "").lower()) from None
    if stat.S_ISDIR(mode):
        for found in find_devices(str(asked.source)):
            yield replace(found, target=asked.target / found.source.relative_to(asked.source), access=asked.access)
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        yield asked
    else:
        raise _no_device(asked, "not a device node")


def _no_device(asked: Device, why: str) -> UsageError:
    return UsageError(
        f'error gathering device information while adding custom device "{asked.source}": {why}', code="bad-device"
    )


def rules_for(spec: ContainerSpec, default: tuple[DeviceRule, ...]) -> tuple[DeviceRule, ...]:
    """The rules of the device control group: the default ones, then the container's devices, then what was asked for by number."""
    from contain.linux.devices import ALL_DEVICES, DeviceRule, parse_device_rule

    if spec.confinement.privileged:
        return ALL_DEVICES
    rules = list(default)
    for device in spec.devices:
        state = os.stat(device.source)
        kind = "b" if stat.S_ISBLK(state.st_mode) else "c"
        rules.append(DeviceRule(kind=kind, major=os.major(state.st_rdev), minor=os.minor(state.st_rdev), access=device.access))
    return (*rules, *map(parse_device_rule, spec.device_rules))


def find_shared_ipc(spec: ContainerSpec, store: HostPath | None) -> int:
    """The first process of the container whose IPC namespace is to be shared. Raises `Conflict`, in Docker's words, `NotSupported`."""
    from contain.container.lifecycle.records import Records

    if spec.user_namespace.mapping is IdMapping.AUTO or store is None:
        raise NotSupported("--ipc container: with --userns=auto is not supported: ids differ", code="flag-not-supported")
    record = Records(store).find(spec.ipc_container)
    if record.details.get("ipc") not in (Sharing.SHAREABLE.value, Sharing.CONTAINER.value):
        raise Conflict(
            f"cannot join IPC of container {record.name}: non-shareable IPC",
            code="ipc-not-shareable",
            remedy="make that one with --ipc shareable",
        )
    if record.state != "running" or record.process_id is None:
        raise Conflict(f"cannot join IPC of a non running container: {record.container_id}", code="not-running")
    return record.process_id


def raise_hard_limits(process_id: int, spec: ContainerSpec) -> None:
    """Raise hard limits of the first process, from outside, to what was asked: within a user namespace nobody may (setrlimit(2)). The
    process itself sets what was asked afterwards, and tells if it cannot."""
    for each in spec.resource_limits:
        number = getattr(resource, f"RLIMIT_{each.name.upper()}")
        soft, hard = resource.prlimit(process_id, number)
        if hard != -1 and (each.hard == -1 or each.hard > hard):
            with contextlib.suppress(OSError, ValueError):
                resource.prlimit(process_id, number, (soft, each.hard))


def set_out_of_memory_score(process_id: int, spec: ContainerSpec) -> None:
    """Write the score of the first process, from outside: 0 unless asked otherwise, as Docker (proc_pid_oom_score_adj(5)).

    Raises `HostError` where one that was asked for is refused: less than what this process has needs CAP_SYS_RESOURCE.
    """
    try:
        with open(f"/proc/{process_id}/oom_score_adj", "wb", buffering=0) as file:
            file.write(str(spec.out_of_memory_score or 0).encode())
    except OSError as error:
        if spec.out_of_memory_score is None:
            return
        raise HostError(
            f"--oom-score-adj {spec.out_of_memory_score} is refused",
            call="write",
            path=str(error.filename or ""),
            errno=error.errno or 0,
            remedy="only a process with CAP_SYS_RESOURCE may give less than its own",
            code="oom-score-refused",
        ) from error
