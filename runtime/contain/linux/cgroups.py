"""Control groups: where they are on this machine, one group per container, its limits, and what its counters say afterwards.

Found from ``/proc/self/mountinfo`` and ``/proc/self/cgroup``, never assumed; v1, v2 and hybrid machines alike (cgroups(7)).
A container's groups are ``<mount>/contain/<id>`` in each hierarchy that is used; ``contain`` itself goes with the last one.
Joining is done by the process itself, by writing ``0`` to an open descriptor, which works in every namespace. On v1 that is
``tasks``: a thread that moves itself need not wait, as ``cgroup.procs`` does, until no process of the machine forks (5 to 15 ms).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import time
from pathlib import Path

from contain.annotations import TYPE_CHECKING
from contain.errors import HostError, UsageError
from contain.linux.delegation import find_delegated, may_make_groups, parse_own_groups
from contain.linux.limits import needed_controllers, plan_limits
from contain.linux.usernamespace import is_rootless
from contain.spec import Limits
from contain.values import dataclass, replace

if TYPE_CHECKING:
    from contain.linux.devices import DeviceRule

PARENT = "contain"
DEVICES = "devices"
_USED = ("memory", "pids", "cpu")
EVERY = frozenset(("memory", "pids", "cpu", "cpuset", "blkio", "io"))
"""All controllers that a limit may need. Groups of those that are not in `_USED` are made for who asks for them only: each group of
version 1 that is joined costs a third of a millisecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """A mounted hierarchy and the controllers of ours that live in it."""

    version: int
    mount: str
    controllers: frozenset[str]
    mounted_with: tuple[str, ...] = ()  # v1: all controllers of the hierarchy, to mount it again inside
    withheld: frozenset[str] = frozenset()  # v2: there, but not for groups below, since the topmost group has processes

    @property
    def only_devices(self) -> bool:
        """Whether it is there for containers without a user namespace only."""
        return self.controllers == {DEVICES}

    @property
    def join_file(self) -> str:
        """The file of a group to which a process of one thread writes ``0`` to join (cgroups(7))."""
        return "tasks" if self.version == 1 else "cgroup.procs"


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupCounters:
    """What happened in a container's groups. Peak None where the kernel does not say."""

    out_of_memory_kills: int = 0
    memory_peak_bytes: int | None = None
    pids_limit_hits: int = 0


def unescape_mount(path: str) -> str:
    """``\\040`` and the like, as proc(5) writes blanks, tabs, line ends and backslashes in paths."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def parse_hierarchies(
    mountinfo: str,
    controllers_of_v2: frozenset[str],
    withheld: frozenset[str] = frozenset(),
    used: frozenset[str] = frozenset(_USED),
) -> tuple[Hierarchy, ...]:
    """The hierarchies of the ``used`` controllers from the text of ``mountinfo`` (proc(5)); v1 wins where a controller is on v1.

    Version 2 is used without any controller of ours where there is no version 1: its groups still tell whose a process is.
    """
    found: list[Hierarchy] = []
    second: str | None = None
    taken: set[str] = set()
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        if not right:
            continue
        mount = unescape_mount(left.split()[4])
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup2":
            second = mount
        elif kind == "cgroup":
            words = [word for word in options.split(" ", 1)[-1].split(",") if word not in ("rw", "ro")]
            controllers = frozenset(words) & used - taken
            if controllers:
                taken |= controllers
                found.append(Hierarchy(version=1, mount=mount, controllers=controllers, mounted_with=tuple(words)))
    if "blkio" in taken:
        taken.add("io")
    rest = (controllers_of_v2 & used) - taken
    withheld = (withheld & used) - taken
    if second is not None and (rest or withheld or not found or used == EVERY):
        found.append(Hierarchy(version=2, mount=second, controllers=rest - withheld, withheld=withheld))
    return tuple(found)


def parse_devices_hierarchy(mountinfo: str) -> Hierarchy | None:
    """Version 1's ``devices`` from the text of ``mountinfo`` (proc(5)), where it is a hierarchy of its own. It limits nothing: only
    containers without a user namespace get a group there."""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        if right.startswith("cgroup "):
            words = tuple(word for word in right.split(" ", 2)[2].split(",") if word not in ("rw", "ro"))
            if DEVICES in words and not set(words) & set(_USED):
                controllers = frozenset((DEVICES,))
                return Hierarchy(version=1, mount=unescape_mount(left.split()[4]), controllers=controllers, mounted_with=words)
    return None


def used_controllers(limits: Limits) -> frozenset[str]:
    """The controllers of a container with these limits."""
    needed = needed_controllers(limits)
    return frozenset((*_USED, *needed, *(("io",) if "blkio" in needed else ())))


def probe_hierarchies(used: frozenset[str] = frozenset(_USED)) -> tuple[Hierarchy, ...]:
    """The hierarchies of the ``used`` controllers in which this process may make groups; ``mount``: below which directory. Empty where
    there are none."""
    mountinfo = Path("/proc/self/mountinfo").read_text()
    places = delegated_places(mountinfo)
    controllers: frozenset[str] = frozenset()
    withheld: frozenset[str] = frozenset()
    for line in mountinfo.splitlines():
        if " - cgroup2 " in line:
            place = places.get(unescape_mount(line.split()[4]))
            with contextlib.suppress(OSError):
                controllers = _words(f"{place}/cgroup.controllers")
                withheld = controllers - _words(f"{place}/cgroup.subtree_control") if _is_busy(str(place)) else frozenset()
    devices = parse_devices_hierarchy(mountinfo)
    found = (*parse_hierarchies(mountinfo, controllers, withheld, used), *(() if devices is None else (devices,)))
    return tuple(replace(each, mount=place) for each in found if (place := places.get(each.mount)) is not None)


def can_limit(controller: str) -> bool:
    """Whether a container of this process can have a limit of this kind: ``memory``, ``pids`` or ``cpu``."""
    return any(controller in each.controllers for each in probe_hierarchies())


def delegated_places(mountinfo: str) -> dict[str, str]:
    """Where this process may make groups, for each mounted hierarchy where it may: see `contain.linux.delegation`."""
    own: dict[str, str] = {}
    with contextlib.suppress(OSError):
        own = parse_own_groups(Path("/proc/self/cgroup").read_text())
    found = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        if right.startswith(("cgroup ", "cgroup2 ")):
            root, mount = map(unescape_mount, left.split()[3:5])
            words = [""] if right.startswith("cgroup2 ") else right.split(" ", 2)[2].split(",")
            group = next((own[word] for word in words if word in own), "/")
            place = find_delegated(mount, root, group, may_make_groups)
            if place is not None:
                found[mount] = place
    return found


def _words(path: str) -> frozenset[str]:
    return frozenset(Path(path).read_text().split())


def _is_busy(place: str) -> bool:
    """Whether a v2 group has processes and therefore hands no controllers down (cgroups(7), no internal processes).

    The machine's topmost group may, and has no ``cgroup.type``; that of a container's control group namespace may not.
    """
    return os.path.exists(f"{place}/cgroup.type") and bool(_words(f"{place}/cgroup.procs"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroup:
    """The groups of one container: (hierarchy, directory) pairs."""

    places: tuple[tuple[Hierarchy, str], ...]

    def open_joins(self) -> list[int]:
        """Descriptors to which a process of one thread writes ``0`` to join; close them afterwards. Inheritable never."""
        return [
            os.open(f"{directory}/{hierarchy.join_file}", os.O_WRONLY | os.O_CLOEXEC) for hierarchy, directory in self.places
        ]

    def paths(self) -> tuple[str, ...]:
        """The directories."""
        return tuple(directory for _, directory in self.places)


def _write(path: str, value: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def _make_directory(hierarchy: Hierarchy, name: str) -> str:
    directory = f"{hierarchy.mount}/{PARENT}/{name}"
    for _ in range(20):  # somebody else's last container may remove the parent between our two calls
        try:
            os.makedirs(directory, exist_ok=True)
        except FileNotFoundError:
            continue
        return directory
    raise HostError("the control group's parent keeps vanishing", call="mkdir", path=directory)


def _enable(hierarchy: Hierarchy, name: str) -> None:
    """v2 only: hand the controllers down to the group's parent directories."""
    wanted = " ".join(f"+{controller}" for controller in sorted(hierarchy.controllers))
    place = hierarchy.mount
    for part in ("", *f"{PARENT}/{name}".split("/")[:-1]):
        place = f"{place}/{part}" if part else place
        have = Path(place, "cgroup.subtree_control").read_text().split()
        if not hierarchy.controllers <= set(have):
            _write(f"{place}/cgroup.subtree_control", wanted)


def _enabled(hierarchy: Hierarchy, name: str, limits: Limits) -> Hierarchy:
    """v2 only: `_enable`; where the machine refuses, the hierarchy without controllers, if nobody asked for what it would limit.

    A group that has processes hands nothing down (cgroups(7), no internal processes); that is so at the top of a container.
    """
    try:
        _enable(hierarchy, name)
    except OSError as error:
        if not needed_controllers(limits) or limits_are_optional():
            return replace(hierarchy, controllers=frozenset())
        raise HostError(
            "the control group controllers cannot be handed down to containers, so that limit cannot be set",
            call="write",
            path=str(error.filename or ""),
            errno=error.errno or 0,
            remedy="leave the limit out, or run on the host or in a delegated control group without processes of its own",
            code="cgroup-refused",
        ) from error
    return hierarchy


_left_out: set[str] = set()  # what was said of in this process


def limits_are_optional() -> bool:
    """Whether the user said that limits are left out where they cannot be set: ``CONTAIN_LIMITS=if-possible``. Raises `UsageError`."""
    asked = os.environ.get("CONTAIN_LIMITS", "")
    if asked in ("", "required"):
        return False
    if asked != "if-possible":
        raise UsageError(f"CONTAIN_LIMITS: {asked!r} is neither 'required' nor 'if-possible'", code="bad-setting")
    return True


def _verify_available(hierarchies: tuple[Hierarchy, ...], limits: Limits) -> None:
    """Raise HostError when a limit was asked for whose controller is not here."""
    available = {name for hierarchy in hierarchies for name in hierarchy.controllers}
    withheld = {controller: hierarchy.mount for hierarchy in hierarchies for controller in hierarchy.withheld}
    for controller, option in needed_controllers(limits).items():
        names = ("blkio", "io") if controller == "blkio" else (controller,)
        if available.intersection(names):
            continue
        if limits_are_optional():
            if option not in _left_out:
                _left_out.add(option)
                sys.stderr.write(
                    f"warning: limits-left-out: {option} is not set: no control group with {controller!r} can be made\n"
                )
            continue
        top = next((withheld[name] for name in names if name in withheld), None)
        if top is not None:
            raise HostError(
                f"the topmost control group has processes and therefore hands {names[-1]!r} to no group below (cgroups(7), no "
                "internal processes), so that limit cannot be set",
                path=top,
                code="cgroup-refused",
                remedy=f"leave {option} out; or move those processes, as the outer container's first command: "
                f"mkdir {top}/init && xargs -rn1 <{top}/cgroup.procs >{top}/init/cgroup.procs",
            )
        if is_rootless():
            raise HostError(
                f"no control group with {controller!r} is delegated to this user, so that limit cannot be set",
                code="cgroup-missing",
                remedy=f"leave {option} out, or say CONTAIN_LIMITS=if-possible to do without; or have a group delegated: systemd-run "
                "--user --scope -p Delegate=yes contain ..., or see docs/rootless.md",
            )
        raise HostError(
            f"this machine has no {controller!r} control group controller that can be written, so that limit cannot be set",
            code="cgroup-missing",
            remedy=f"leave {option} out, or mount the controller (see `contain doctor`)",
        )


def make_cgroup(
    hierarchies: tuple[Hierarchy, ...], name: str, limits: Limits, *, devices: tuple[DeviceRule, ...] | None = None
) -> Cgroup:
    """Make a container's groups, with its limits written. ``name`` may have several parts. ``devices``: which it may open; None: a
    user namespace forbids it all others anyway.

    Raises HostError when a limit was asked for whose controller is missing, or the kernel refuses.
    """
    _verify_available(hierarchies, limits)
    needed = needed_controllers(limits)
    places: list[tuple[Hierarchy, str]] = []
    try:
        for found in hierarchies:
            if not _is_joined(found, needed):
                continue
            if found.only_devices and devices is None:
                continue
            places.append((found, _make_directory(found, name)))
            used = _enabled(found, name, limits) if found.version == 2 else found
            places[-1] = (used, _make_directory(used, name))
            if used.version == 1 and "cpuset" in used.controllers:
                _fill_processors(used, places[-1][1])
            _write_limits(used, places[-1][1], limits)
        if devices is not None:
            from contain.linux.devices import restrict_devices

            restrict_devices([(each.version, place, DEVICES in each.mounted_with) for each, place in places], devices)
    except HostError:
        remove_cgroup(Cgroup(places=tuple(places)))
        raise
    except OSError as error:
        remove_cgroup(Cgroup(places=tuple(places)))
        raise HostError(
            "the control group cannot be set up",
            call="write",
            path=str(error.filename or ""),
            errno=error.errno or 0,
            remedy="run as root, or in a delegated control group",
            code="cgroup-refused",
        ) from error
    return Cgroup(places=tuple(places))


def _is_joined(hierarchy: Hierarchy, needed: dict[str, str]) -> bool:
    """Version 1: whether it always is, or somebody asks for what it limits; joining costs a third of a millisecond."""
    return (
        hierarchy.version == 2
        or hierarchy.only_devices
        or bool(hierarchy.controllers & {"memory", "pids"})
        or not hierarchy.controllers.isdisjoint(needed)
    )


def _write_limits(hierarchy: Hierarchy, directory: str, limits: Limits) -> None:
    def present(name: str) -> bool:
        return os.path.exists(f"{directory}/{name}")

    for name, value in plan_limits(hierarchy.version, hierarchy.controllers, limits, present):
        _write(f"{directory}/{name}", value)


def _fill_processors(hierarchy: Hierarchy, directory: str) -> None:
    """Version 1's cpuset: a new group has no processors and no memory, and nobody can join it; it gets what its parent has."""
    place = hierarchy.mount
    for part in directory.removeprefix(f"{hierarchy.mount}/").split("/"):
        above, place = place, f"{place}/{part}"
        for name in ("cpuset.cpus", "cpuset.mems"):
            if not Path(place, name).read_text().strip():
                _write(f"{place}/{name}", Path(above, name).read_text().strip())


def update_limits(container_id: str, limits: Limits) -> None:
    """Write limits to the groups of a living container. None and empty: stays as it is; for no limit: -1.

    A group of a controller that it did not need so far is made, and its processes are moved there. Raises `HostError` as
    `make_cgroup`; what was written before stays written.
    """
    hierarchies = probe_hierarchies(used_controllers(limits))
    _verify_available(hierarchies, limits)
    needed = needed_controllers(limits)
    members: set[str] = set()
    for hierarchy in hierarchies:
        with contextlib.suppress(OSError):
            members |= _words(f"{hierarchy.mount}/{PARENT}/{container_id}/cgroup.procs")
    try:
        for hierarchy in hierarchies:
            if not _is_joined(hierarchy, needed) or hierarchy.only_devices:
                continue
            directory = f"{hierarchy.mount}/{PARENT}/{container_id}"
            if hierarchy.version == 2:
                _enable(hierarchy, container_id)
            elif not os.path.isdir(directory):
                _make_directory(hierarchy, container_id)
                if "cpuset" in hierarchy.controllers:
                    _fill_processors(hierarchy, directory)
                for member in members:
                    with contextlib.suppress(ProcessLookupError):
                        _write(f"{directory}/cgroup.procs", member)
            _make_room(hierarchy, directory, limits)
            _write_limits(hierarchy, directory, limits)
    except OSError as error:
        raise HostError(
            "the limit cannot be set",
            call="write",
            path=str(error.filename or ""),
            errno=error.errno or 0,
            remedy="less than what is in use is refused",
            code="cgroup-refused",
        ) from error


def _make_room(hierarchy: Hierarchy, directory: str, limits: Limits) -> None:
    """Version 1 wants the limit of memory and swap never below that of memory, at every moment: who raises both raises it first."""
    both = f"{directory}/memory.memsw.limit_in_bytes"
    now = _number(both) if hierarchy.version == 1 and "memory" in hierarchy.controllers else None
    if now is not None and limits.memory_bytes is not None and (limits.memory_bytes > now or limits.memory_bytes < 0):
        _write(both, str(limits.memory_swap_bytes or limits.memory_bytes))


def _keyed(path: str) -> dict[str, int]:
    try:
        with open(path) as file:
            rows = [line.split() for line in file]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def _number(path: str) -> int | None:
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def read_counters(cgroup: Cgroup) -> CgroupCounters:
    """Read what happened; call it before `remove_cgroup`."""
    kills, peak, hits = 0, None, 0
    for hierarchy, directory in cgroup.places:
        if "memory" in hierarchy.controllers:
            events = "memory.oom_control" if hierarchy.version == 1 else "memory.events"
            kills = _keyed(f"{directory}/{events}").get("oom_kill", 0)
            peak = _number(f"{directory}/{'memory.max_usage_in_bytes' if hierarchy.version == 1 else 'memory.peak'}")
        if "pids" in hierarchy.controllers:
            hits = _keyed(f"{directory}/pids.events").get("max", 0)
    return CgroupCounters(out_of_memory_kills=kills, memory_peak_bytes=peak, pids_limit_hits=hits)


def processes_in(cgroup: Cgroup) -> tuple[int, ...]:
    """Ids of the processes in the first group, as this process's namespace numbers them."""
    for _, directory in cgroup.places:
        with contextlib.suppress(OSError), open(f"{directory}/cgroup.procs") as file:
            return tuple(int(line) for line in file)
    return ()


def remove_cgroup(cgroup: Cgroup, *, patience_seconds: float = 10.0) -> bool:
    """Remove the groups and their then empty parents. True when all are gone; dying processes are waited for."""
    gone = [remove_directory(directory, patience_seconds=patience_seconds) for directory in cgroup.paths()]  # each one is tried
    return all(gone)


def select_hierarchies(found: tuple[Hierarchy, ...], used: frozenset[str]) -> tuple[Hierarchy, ...]:
    """Of the hierarchies of all controllers those that `probe_hierarchies` finds for the ``used`` ones."""
    narrowed = [
        each if each.only_devices else replace(each, controllers=each.controllers & used, withheld=each.withheld & used)
        for each in found
    ]
    kept = [each for each in narrowed if each.controllers or each.withheld]
    alone = not any(each.version == 1 and not each.only_devices for each in kept)
    return tuple(each for each in narrowed if each in kept or (each.version == 2 and alone))


def remove_later_groups(hierarchies: tuple[Hierarchy, ...], container_id: str) -> None:
    """Remove the groups that `update_limits` made while the container lived."""
    for hierarchy in hierarchies:
        directory = f"{hierarchy.mount}/{PARENT}/{container_id}"
        if os.path.isdir(directory):
            remove_directory(directory)


def remove_directory(directory: str, *, patience_seconds: float = 10.0) -> bool:
    """Remove one group with the groups below it, then its parents up to and with ``contain`` as far as they are empty."""
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            for place, _, _ in os.walk(directory, topdown=False):
                os.rmdir(place)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                return False
            time.sleep(0.002)
            continue
        if not os.path.exists(directory):
            break
    parent = os.path.dirname(directory)
    while PARENT in parent.split("/"):
        try:
            os.rmdir(parent)
        except OSError:
            break
        parent = os.path.dirname(parent)
    return True
