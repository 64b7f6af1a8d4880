"""A bundle's control groups: found, made, limited, joined, emptied, removed. Versions 1, 2 and both (cgroups(7)).

Where a machine mounts version 1, the container has a group in each of its hierarchies, as with other runtimes; else one of version 2.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import time

from contain.errors import Conflict, HostError
from contain.linux.mountinfo import unescape_mount
from contain.runtime_spec.reading import refused
from contain.runtime_spec.resources import (
    GroupFile,
    Resources,
    any_limits,
    device_rules,
    plan_first_version,
    plan_second_version,
)
from contain.values import dataclass

_CPUSET = ("cpuset.cpus", "cpuset.mems")
_PATIENCE_SECONDS = 10.0
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountedHierarchy:
    """One hierarchy: ``name`` is its controllers, comma separated, or ``name=systemd``; "" for version 2."""

    version: int
    mount: str
    root: str  # which group the mount shows as its top
    name: str

    @property
    def controllers(self) -> tuple[str, ...]:
        """Its controllers' names."""
        return tuple(self.name.split(","))


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """One container's groups: (hierarchy's name, directory), all of one version."""

    version: int
    places: tuple[tuple[str, str], ...]


def parse_mounted(mountinfo: str) -> tuple[MountedHierarchy, ...]:
    """All hierarchies in the text of ``mountinfo`` (proc(5)): those of version 1 if there are any that have controllers."""
    first: dict[str, MountedHierarchy] = {}
    second: MountedHierarchy | None = None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        kind = right.partition(" ")[0]
        if kind not in ("cgroup", "cgroup2"):
            continue
        fields = left.split()
        mount, root = unescape_mount(fields[4]), unescape_mount(fields[3])
        if kind == "cgroup2":
            second = second or MountedHierarchy(version=2, mount=mount, root=root, name="")
            continue
        words = [word for word in right.split(" ", 2)[2].split(" ", 1)[-1].split(",") if word.partition("=")[0] in _NAMES]
        name = ",".join(words)
        if name:
            first.setdefault(name, MountedHierarchy(version=1, mount=mount, root=root, name=name))
    if any(not name.startswith("name=") for name in first):
        return tuple(first.values())
    return (second,) if second is not None else tuple(first.values())


_NAMES = frozenset(
    (
        *("name", "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "net_cls", "net_prio", "blkio"),
        *("perf_event", "hugetlb", "pids", "rdma", "misc"),
    )
)


def probe_mounted() -> tuple[MountedHierarchy, ...]:
    """This machine's, as this process sees them."""
    with open("/proc/self/mountinfo") as file:
        return parse_mounted(file.read())


def parse_own_groups(text: str) -> dict[str, str]:
    """The text of /proc/self/cgroup: hierarchy's name ("" for version 2) to path."""
    found = {}
    for line in text.splitlines():
        _, name, path = line.split(":", 2)
        found[name] = path
    return found


def place_group(hierarchy: MountedHierarchy, wanted: str, own: dict[str, str], container_id: str) -> str:
    """The directory of a container's group. An absolute path is taken from the hierarchy's top; a relative one, or none, from the
    runtime's own group."""
    if ":" in wanted and not wanted.startswith("/"):
        raise refused("--systemd-cgroup and a cgroupsPath for it", "are not supported; use the cgroupfs manager")
    if any(part == ".." for part in wanted.split("/")):
        raise refused(f"linux.cgroupsPath {wanted!r}", "leads upwards: refused")
    if wanted.startswith("/"):
        path = wanted
    else:
        base = own.get(hierarchy.name, "/")
        if hierarchy.root != "/" and base.startswith(hierarchy.root):
            base = base[len(hierarchy.root) :]
        if hierarchy.version == 2:
            base = os.path.dirname(base)  # our own group holds processes, so it hands no controllers down
        path = f"{base}/{wanted or container_id}"
    return os.path.normpath(f"{hierarchy.mount}/{path}")


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _write(path: str, value: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def place_groups(wanted: str, container_id: str) -> Groups:
    """Where the groups are to be. Raises `Conflict` if one of them has processes: they would be taken for the container's."""
    hierarchies = probe_mounted()
    own = parse_own_groups(_read("/proc/self/cgroup"))
    groups = Groups(
        version=hierarchies[0].version if hierarchies else 1,
        places=tuple((each.name, place_group(each, wanted, own, container_id)) for each in hierarchies),
    )
    strangers = processes_in(groups)
    if strangers:
        raise Conflict(
            f"linux.cgroupsPath: the control group {groups.places[0][1]} holds processes of others, such as {strangers[0]}",
            code="bundle-state-conflict",
        )
    return groups


def make_groups(groups: Groups, resources: Resources, *, required: bool) -> Groups:
    """Make the groups and write the limits. Raises `HostError`. Where groups are not ours to make, and nobody ``required`` them, there
    are none, said on standard error."""
    mounts = {each.name: each for each in probe_mounted()}
    try:
        for name, directory in groups.places:
            _make_group(mounts[name], directory)
            if not os.access(f"{directory}/{_join_file(groups)}", os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), directory)
        limit_groups(groups, resources)
        if resources.kernel_memory_bytes is not None:
            sys.stderr.write("warning: memory.kernel has no effect: no Linux has had such a limit since 5.16\n")
        if groups.version == 2 and resources.devices:
            from contain.linux.devices import attach_device_program

            attach_device_program(groups.places[0][1], device_rules(resources))
    except OSError as error:
        if error.errno in _FORBIDDEN and not required and not any_limits(resources):
            sys.stderr.write("warning: no control group can be made here: the container has no limits, and cannot be paused\n")
            return Groups(version=groups.version, places=())
        raise HostError(
            "the control group cannot be set up",
            call="write" if error.filename and os.path.isfile(error.filename) else "mkdir",
            path=str(error.filename or ""),
            errno=error.errno or 0,
            remedy="run as root, or in a delegated control group",
            code="cgroup-refused",
        ) from error
    return groups


def _make_group(hierarchy: MountedHierarchy, directory: str) -> None:
    missing = []
    while not os.path.isdir(directory):
        missing.append(directory)
        directory = os.path.dirname(directory)
    if hierarchy.version == 2:
        _hand_down(hierarchy.mount, directory if not missing else os.path.dirname(missing[0]))
    for place in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(place, 0o755)
        if hierarchy.version == 2 and place != missing[0]:
            _hand_down(place, place)
        if hierarchy.name == "cpuset":
            _inherit_cpuset(place)


def _hand_down(top: str, bottom: str) -> None:
    """Version 2: every controller that is there, to the groups below each directory from ``top`` to ``bottom``."""
    place, rest = top, [part for part in bottom.removeprefix(top).split("/") if part]
    while True:
        if not os.path.isdir(place):
            return
        have = set(_read(f"{place}/cgroup.subtree_control").split())
        for controller in _read(f"{place}/cgroup.controllers").split():
            if controller not in have:
                with contextlib.suppress(
                    OSError
                ):  # each one by itself: one that cannot (rt, EBUSY) must not hold back the others
                    _write(f"{place}/cgroup.subtree_control", f"+{controller}")
        if not rest:
            return
        place = f"{place}/{rest.pop(0)}"


def _inherit_cpuset(directory: str) -> None:
    """Version 1: an empty set takes no process, so it begins as its parent's."""
    for name in _CPUSET:
        if not _read(f"{directory}/{name}").strip():
            value = _read(f"{os.path.dirname(directory)}/{name}").strip()
            if value:
                _write(f"{directory}/{name}", value)


def limit_groups(groups: Groups, resources: Resources) -> None:
    """Write the limits. Raises OSError with the file's name, `HostError` where a controller is missing, `NotSupported`."""
    files = plan_first_version(resources) if groups.version == 1 else plan_second_version(resources)
    pending = list(files)
    while pending:
        file = pending.pop(0)
        directory = _directory_of(groups, file)
        if directory is None:
            continue
        path = f"{directory}/{file.name}"
        try:
            _write(path, file.value)
        except OSError as error:
            later = [each for each in pending if each.controller == "memory" and "limit_in_bytes" in each.name]
            if file.name == "memory.limit_in_bytes" and error.errno == errno.EINVAL and later:
                for each in later:  # above the old limit of memory and swap together: that one first
                    pending.remove(each)
                    _write(f"{directory}/{each.name}", each.value)
                _write(path, file.value)
            elif not (
                file.optional and error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL, errno.EACCES, errno.EPERM)
            ):
                raise OSError(error.errno, error.strerror, path) from None


def _directory_of(groups: Groups, file: GroupFile) -> str | None:
    if groups.version == 2:
        return groups.places[0][1]
    for name, directory in groups.places:
        if file.controller in name.split(","):
            return directory
    if file.optional:
        return None
    raise HostError(
        f"this machine has no {file.controller!r} control group controller, so that limit cannot be set",
        code="cgroup-missing",
        remedy="leave the limit out, or mount the controller (see `contain doctor`)",
    )


def _join_file(groups: Groups) -> str:
    return "tasks" if groups.version == 1 else "cgroup.procs"  # on v1, a thread that moves itself waits for nobody


def open_joins(groups: Groups) -> list[int]:
    """Descriptors to which a process of one thread writes ``0`` to join."""
    return [os.open(f"{directory}/{_join_file(groups)}", os.O_WRONLY | os.O_CLOEXEC) for _, directory in groups.places]


def processes_in(groups: Groups) -> list[int]:
    """Ids of all processes in the container's group and below, sorted."""
    found: set[int] = set()
    for _, top in groups.places[-1:] if groups.version == 2 else _for_processes(groups):
        for place, _, _ in os.walk(top):
            with contextlib.suppress(OSError):
                found.update(int(line) for line in _read(f"{place}/cgroup.procs").split())
    return sorted(found - {0})


def _for_processes(groups: Groups) -> tuple[tuple[str, str], ...]:
    """Version 1: one hierarchy tells; the freezer's if there is one."""
    return tuple(place for place in groups.places if place[0] == "freezer") or groups.places[:1]


def freeze(groups: Groups, *, held: bool) -> None:
    """Hold all processes, or let them go on; returns when it is so. Raises `HostError`."""
    for name, directory in groups.places:
        if groups.version == 2:
            file, value = "cgroup.freeze", "1" if held else "0"
        elif name == "freezer":
            file, value = "freezer.state", "FROZEN" if held else "THAWED"
        else:
            continue
        deadline = time.monotonic() + _PATIENCE_SECONDS
        try:
            while True:
                _write(f"{directory}/{file}", value)
                if groups.version == 2:
                    state = f"frozen {value}" in _read(f"{directory}/cgroup.events").splitlines()
                else:
                    state = _read(f"{directory}/freezer.state").strip() == value
                if state:
                    return
                if time.monotonic() > deadline:
                    _write(f"{directory}/{file}", "0" if groups.version == 2 else "THAWED")
                    raise HostError("a process of the container cannot be held: it waits for a device", path=directory)
                time.sleep(0.002)
        except OSError as error:
            raise HostError(
                "the container's control group cannot be frozen",
                call="write",
                path=directory,
                errno=error.errno or 0,
                code="cgroup-refused",
            ) from error
    raise HostError("this machine has no freezer among its control groups", code="cgroup-missing")


def kill_all(groups: Groups, number: int) -> None:
    """Send a signal to every process of the container."""
    if groups.version == 2 and number == signal.SIGKILL and groups.places:
        with contextlib.suppress(OSError):
            _write(f"{groups.places[0][1]}/cgroup.kill", "1")
            return
    for process in processes_in(groups):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def remove_groups(groups: Groups, *, patience_seconds: float = _PATIENCE_SECONDS) -> bool:
    """Remove the groups and those below them. True when all are gone; dying processes are waited for."""
    gone = True
    deadline = time.monotonic() + patience_seconds
    for _, directory in groups.places:
        while True:
            busy = False
            for place, _, _ in os.walk(directory, topdown=False):
                try:
                    os.rmdir(place)
                except FileNotFoundError:
                    pass
                except OSError as error:
                    busy = busy or error.errno == errno.EBUSY
            if not busy:
                break
            if time.monotonic() > deadline:
                gone = False
                break
            time.sleep(0.002)
    return gone
