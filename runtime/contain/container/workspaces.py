"""Directories of running containers and test sessions below the run-time state, each held by its owner's lock.

The lock is flock(2) on the directory itself: the kernel lets go of it when its owner dies, however it dies. A directory that nobody
holds is stale; `sweep` removes it with its control groups. So whatever a SIGKILL leaves, the next command takes away.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from contain.linux.cgroups import EVERY, PARENT, Hierarchy, probe_hierarchies, remove_directory
from contain.linux.freezer import remove_freezer_group
from contain.paths import HostPath
from contain.store.durable import remove_tree


def _take(path: HostPath, *, wait: bool) -> int | None:
    """A descriptor that holds the directory's lock, or None: held by somebody else, or gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def make_held_directory(path: HostPath) -> int:
    """Make a directory and hold its lock; the descriptor that holds it. A sweep that comes between is outlasted."""
    for _ in range(100):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = _take(path, wait=True)
        if descriptor is not None:
            return descriptor
    raise OSError(f"{path} keeps being removed")


def remove_held_directory(path: HostPath, descriptor: int) -> None:
    """Remove the directory, then let go. While control groups of its name are left, because a process of theirs takes long to
    die, its empty self stays, for a later `sweep`."""
    with contextlib.suppress(OSError):
        remove_tree(path)
    if any(os.path.exists(f"{hierarchy.mount}/{PARENT}/{path.name}") for hierarchy in probe_hierarchies(EVERY)):
        path.mkdir(mode=0o700, exist_ok=True)
    os.close(descriptor)


@contextlib.contextmanager
def hold_directory(path: HostPath) -> Iterator[HostPath]:
    """A directory that is removed on leaving, or by somebody's `sweep` if this process dies."""
    descriptor = make_held_directory(path)
    try:
        yield path
    finally:
        remove_held_directory(path, descriptor)


def memory_takes_attributes() -> bool:
    """Whether memory file systems keep ``user.`` attributes, which overlay in a user namespace needs of the place where it writes.

    They do since Linux 6.6. Asked of a file without a name, which lies on the kernel's own memory file system (memfd_create(2)).
    """
    descriptor = os.memfd_create("contain", os.MFD_CLOEXEC)
    try:
        os.setxattr(descriptor, "user.contain", b"")
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def workspaces(home: HostPath) -> HostPath:
    """The directory of all of them."""
    return home / "work"


def remove_groups(name: str, hierarchies: tuple[Hierarchy, ...]) -> None:
    """Remove the control groups of one container or session, in all hierarchies, and let go what a pause holds."""
    remove_freezer_group(name)
    for hierarchy in hierarchies:
        remove_directory(f"{hierarchy.mount}/{PARENT}/{name}")


def sweep(home: HostPath) -> list[str]:
    """Remove what dead owners left; the names of what was removed. Costs one directory listing when there is nothing."""
    removed: list[str] = []
    try:
        names = os.listdir(workspaces(home))
    except FileNotFoundError:
        return removed
    hierarchies: tuple[Hierarchy, ...] | None = None
    alive = []
    for name in names:
        path = workspaces(home) / name
        descriptor = _take(path, wait=False)
        if descriptor is None:
            alive.append(name)
            continue
        hierarchies = probe_hierarchies(EVERY) if hierarchies is None else hierarchies
        remove_groups(name, hierarchies)
        remove_held_directory(path, descriptor)
        removed.append(name)
    if os.path.exists(home / "network.json") or os.path.exists(home / "networks"):
        from contain.linux.usernamespace import owns_network

        if owns_network():
            from contain.linux import network

            network.sweep_all(alive, run_home=home)
        else:
            from contain.container.network import enclave

            enclave.sweep(alive, home=home)
    return removed


def sweep_groups_without_owner(*, older_than_seconds: float = 60.0) -> list[str]:
    """Remove control groups of ours that hold no process and whose workspace nobody can find any more, because its store was deleted
    by hand; the names of what was removed. Young ones are spared: their container may be about to start."""
    removed: list[str] = []
    for hierarchy in probe_hierarchies(EVERY):
        parent = f"{hierarchy.mount}/{PARENT}"
        with contextlib.suppress(FileNotFoundError):
            for entry in list(os.scandir(parent)):
                if not entry.is_dir() or time.time() - entry.stat().st_mtime < older_than_seconds:
                    continue
                if not _has_processes(entry.path) and remove_directory(entry.path, patience_seconds=0):
                    removed.append(entry.name)
    return sorted(set(removed))


def _has_processes(directory: str) -> bool:
    for place, _, _ in os.walk(directory):
        with contextlib.suppress(OSError), open(f"{place}/cgroup.procs") as file:
            if file.read(1):
                return True
    return False
