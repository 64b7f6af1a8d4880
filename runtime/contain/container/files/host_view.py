"""The machine's own root as the ground of an ordinary user's containers: directory by directory, because as a whole it cannot be had.

What is mounted on the machine is locked together in a user namespace's mounts (mount_namespaces(7), "locked"): ``/`` without the mounts
below it would show what they cover, so the kernel refuses it. A directory without a mount below it can be had. So the root becomes an
overlay of mount points and links, with a copy-on-write view of each directory of ``/`` in it; a directory that has mounts below it is
made of its own directories in the same way. What is a mount point itself shows empty, as it does for root.

Decided here from the names of mounts and the entries of directories; performed by the launch plan as any other copy-on-write mount.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from contain.container.plan import HOST_ROOT, STUBS
from contain.errors import HostError
from contain.linux import syscalls
from contain.linux.cgroups import unescape_mount
from contain.paths import ContainerPath, HostPath
from contain.spec import Bind, ContainerSpec, CopyOnWrite, Mount, Tmpfs
from contain.values import dataclass, replace

_MOST_PARTS = 100  # of one directory
_TEMPORARY = {"/tmp": 0o1777, "/var/tmp": 0o1777, "/run": 0o755}
_APART = ("/var/tmp",)  # writable for all in a directory of root's: an overlay could not copy that one, whose owner is nobody
_OPAQUE = "user.overlay.opaque"

Entry = tuple[str, int]
"""A name in a directory and its mode, as lstat(2) tells it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """What takes the place of ``/``: mounts, and symbolic links as (path, where it points)."""

    mounts: tuple[Mount, ...]
    links: tuple[tuple[str, str], ...]


def plan_host_view(
    mount_points: frozenset[str],
    list_directory: Callable[[str], list[Entry]],
    read_link: Callable[[str], str],
    layers: Callable[[str], tuple[HostPath, ...] | None],
    may_enter: Callable[[str], bool] = lambda _: True,
) -> HostView:
    """The view of a machine with these mount points. Pure but for what the given functions look at.

    ``layers``: the directories of an image's layers that lie over a path, highest first; None where the machine's own does not show,
    since a layer has taken or replaced it.
    """
    mounts: list[Mount] = []
    links: list[tuple[str, str]] = []

    def divide(place: str) -> None:
        before = len(mounts)
        for name, mode in list_directory(place or "/"):
            path = f"{place}/{name}"
            if path[1:] in STUBS and path != "/etc":
                continue
            above = layers(path)
            if above is None:
                continue
            if stat.S_ISLNK(mode):
                if not above:
                    links.append((path, read_link(path)))
            elif path in mount_points:
                if stat.S_ISDIR(mode):
                    mounts.append(Tmpfs(target=ContainerPath(path), mode=0o755))
            elif stat.S_ISDIR(mode):
                if not may_enter(path):  # an empty one, which is root's of the container: its home directory, most likely
                    mounts.append(Tmpfs(target=ContainerPath(path), mode=stat.S_IMODE(mode) & 0o1777, executable=True))
                elif any(each.startswith(f"{path}/") for each in (*mount_points, *_APART)):
                    divide(path)
                else:
                    mounts.append(CopyOnWrite(sources=(*above, HostPath(path)), target=ContainerPath(path), optional=True))
            elif stat.S_ISREG(mode) and not above:
                mounts.append(Bind(source=HostPath(path), target=ContainerPath(path), read_only=True, optional=True))
            if (
                place and len(mounts) - before > _MOST_PARTS
            ):  # for temporary files, most likely, with something mounted deep inside
                del mounts[before:]
                target = ContainerPath(place)
                if place in _TEMPORARY:
                    mounts.append(Tmpfs(target=target, mode=_TEMPORARY[place], executable=True))
                else:
                    mounts.append(Bind(source=HostPath(place), target=target, read_only=True))
                return

    divide("")
    return HostView(mounts=tuple(mounts), links=tuple(links))


def host_root_is_whole() -> bool:
    """Whether ``/`` can be had without what is mounted below it."""
    try:
        os.close(syscalls.open_tree(-100, "/", syscalls.OPEN_TREE_CLONE))
    except OSError:
        return False
    return True


def verify_root_can_be_written(spec: ContainerSpec) -> None:
    """Raise `HostError` (code ``host-run-needs-root``) where what is written to the machine's own root would be no layer."""
    if HOST_ROOT in spec.layers and not host_root_is_whole():
        raise HostError(
            "RUN on this machine's own root (FROM host) needs root: an ordinary user has it in pieces only, and those make no layer",
            code="host-run-needs-root",
            remedy="build it as root, or on another base",
        )


def _list_directory(place: str) -> list[Entry]:
    try:
        with os.scandir(place) as entries:
            return sorted((entry.name, entry.stat(follow_symlinks=False).st_mode) for entry in entries)
    except OSError:
        return []  # not this user's to look into


def _may_enter(path: str) -> bool:
    return os.access(path, os.X_OK, effective_ids=True)


def _over(trees: tuple[HostPath, ...]) -> Callable[[str], tuple[HostPath, ...] | None]:
    def find(path: str) -> tuple[HostPath, ...] | None:
        found = []
        for tree in reversed(trees):
            place = Path(str(tree) + path)
            try:
                mode = place.lstat().st_mode
            except OSError:
                continue
            if not stat.S_ISDIR(mode):
                return None  # a whiteout, or a file or link in its place
            found.append(place)
            if _OPAQUE in os.listxattr(place):
                return None
        return tuple(found)

    return find


def divide_host_root(spec: ContainerSpec) -> tuple[ContainerSpec, tuple[tuple[str, str], ...]]:
    """A spec without ``/`` as a layer, and the links that its skeleton needs. The same spec where ``/`` can be had as a whole."""
    if HOST_ROOT not in spec.layers or host_root_is_whole():
        return spec, ()
    if spec.layers[0] != HOST_ROOT:
        raise HostError("this machine's root must be the lowest layer", code="host-not-lowest")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = frozenset(unescape_mount(line.split()[4]) for line in file) - {"/"}
    view = plan_host_view(points, _list_directory, os.readlink, _over(spec.layers[1:]), _may_enter)
    return replace(spec, layers=spec.layers[1:], mounts=(*view.mounts, *spec.mounts)), view.links


def make_links(skeleton: HostPath, links: tuple[tuple[str, str], ...]) -> None:
    """Put the links into a skeleton."""
    for path, points_to in links:
        place = str(skeleton) + path
        os.makedirs(os.path.dirname(place), mode=0o755, exist_ok=True)
        if not os.path.lexists(place):
            os.symlink(points_to, place)
