"""Holding every process of a container still, and letting them go on (cgroups(7); kernel ``cgroup-v2.rst``, ``cgroup.freeze``).

Version 2 freezes any group; on a machine with versions 1 and 2 the container gets a group of version 2 for it at the first pause.
With version 1 alone it is the ``freezer`` hierarchy. There a frozen process takes no SIGKILL before it goes on, so whoever removes
such a group thaws it first.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from contain.errors import HostError
from contain.linux.cgroups import PARENT, Hierarchy, delegated_places, remove_directory, unescape_mount
from contain.values import dataclass, replace

_ROUNDS = 100
_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Freezer:
    """Where groups can be frozen: a mount of version 2, or of version 1's ``freezer``."""

    version: int
    mount: str

    def place(self, name: str) -> str:
        """A container's group."""
        return f"{self.mount}/{PARENT}/{name}"


def parse_freezer(mountinfo: str) -> Freezer | None:
    """From the text of ``mountinfo`` (proc(5)); version 2 wins."""
    first: Freezer | None = None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        words = right.split(" ", 2)
        if words[0] == "cgroup2":
            return Freezer(version=2, mount=unescape_mount(left.split()[4]))
        if words[0] == "cgroup" and "freezer" in words[2].split(" ", 1)[-1].split(","):
            first = Freezer(version=1, mount=unescape_mount(left.split()[4]))
    return first


def probe_freezer() -> Freezer | None:
    """Where this process may make groups that can be frozen; None if nowhere."""
    mountinfo = Path("/proc/self/mountinfo").read_text()
    places = delegated_places(mountinfo)
    for kinds in (" - cgroup2 ", " - cgroup "):  # version 2 wins, if this process may make groups in it
        found = parse_freezer("\n".join(line for line in mountinfo.splitlines() if kinds in line))
        if found is not None and (place := places.get(found.mount)) is not None:
            return replace(found, mount=place)
    return None


def is_frozen(freezer: Freezer, name: str) -> bool:
    """Whether somebody holds the container."""
    try:
        if freezer.version == 2:
            return Path(freezer.place(name), "cgroup.freeze").read_text().strip() == "1"
        return Path(freezer.place(name), "freezer.state").read_text().strip() != "THAWED"
    except OSError:
        return False


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _processes(directory: str) -> set[str]:
    """Of a group and the groups below it."""
    found: set[str] = set()
    for place, _, _ in os.walk(directory):
        with contextlib.suppress(OSError):
            found.update(Path(place, "cgroup.procs").read_text().split())
    return found


def _gather(freezer: Freezer, name: str, hierarchies: tuple[Hierarchy, ...]) -> None:
    """All processes of the container into its group, also those that are started meanwhile."""
    place = freezer.place(name)
    if any(hierarchy.mount == freezer.mount for hierarchy in hierarchies):
        return  # it has always been theirs
    os.makedirs(place, exist_ok=True)
    others = [f"{hierarchy.mount}/{PARENT}/{name}" for hierarchy in hierarchies]
    for _ in range(_ROUNDS):
        missing = set().union(*map(_processes, others)) - _processes(place)
        if not missing:
            return
        for process in missing:
            with contextlib.suppress(ProcessLookupError):
                _write(f"{place}/cgroup.procs", process)
    raise HostError("the container starts processes faster than they can be gathered", call="write", path=place)


def freeze(freezer: Freezer, name: str, hierarchies: tuple[Hierarchy, ...]) -> None:
    """Hold the container's processes; returns when all are held. Raises `HostError`, and then none is."""
    place = freezer.place(name)
    try:
        _gather(freezer, name, hierarchies)
        _write(*((f"{place}/cgroup.freeze", "1") if freezer.version == 2 else (f"{place}/freezer.state", "FROZEN")))
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not _all_frozen(freezer, place):
            if time.monotonic() > deadline:
                thaw(freezer, name)
                raise HostError("a process of the container cannot be held: it waits for a device", path=place)
            time.sleep(0.002)
    except OSError as error:
        raise HostError(
            "the container's control group cannot be frozen",
            call="write",
            path=str(error.filename or place),
            errno=error.errno or 0,
            code="cgroup-refused",
            remedy="run as root, or in a delegated control group",
        ) from error


def _all_frozen(freezer: Freezer, place: str) -> bool:
    if freezer.version == 2:
        return "frozen 1" in Path(place, "cgroup.events").read_text().splitlines()
    return Path(place, "freezer.state").read_text().strip() == "FROZEN"


def thaw(freezer: Freezer, name: str) -> None:
    """Let the container go on; nothing if it does."""
    place = freezer.place(name)
    with contextlib.suppress(FileNotFoundError):
        _write(*((f"{place}/cgroup.freeze", "0") if freezer.version == 2 else (f"{place}/freezer.state", "THAWED")))


def remove_freezer_group(name: str) -> None:
    """Take away what a pause made, if there was one. Call it when the container has ended."""
    freezer = probe_freezer()
    if freezer is None or not os.path.exists(freezer.place(name)):
        return
    with contextlib.suppress(OSError):
        thaw(freezer, name)
    remove_directory(freezer.place(name))
