"""Where control groups may be made: at the top of a hierarchy by the machine's root, below a delegated group by everybody else.

Delegated is a group that this process is in, or one above it, in which it may make directories (cgroups(7), "cgroups delegation";
systemd: ``Delegate=yes``). Found from ``/proc/self/cgroup`` and tried with access(2); nothing is assumed and nothing is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable


def parse_own_groups(text: str) -> dict[str, str]:
    """From ``/proc/self/cgroup``: controller (``""`` for version 2) to the path of this process's group."""
    found = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for word in controllers.split(","):
            found[word] = path
    return found


def find_delegated(mount: str, root: str, own: str, may_make: Callable[[str], bool]) -> str | None:
    """The topmost directory in which groups may be made, or None.

    ``mount``: of the hierarchy; ``root``: what of the hierarchy that shows (mountinfo's fourth field); ``own``: this process's group.
    """
    if may_make(mount):
        return mount
    if root != "/":
        own = own.removeprefix(root)
    below = own.strip("/")
    if not below or ".." in below.split("/"):
        return None
    best: str | None = None
    while below:
        place = f"{mount}/{below}"
        if not may_make(place):
            break
        best, below = place, below.rpartition("/")[0]
    return best


def may_make_groups(place: str) -> bool:
    """Whether this process may make groups there, and in version 2 hand controllers down."""
    if not os.access(place, os.W_OK | os.X_OK):
        return False
    second = os.path.exists(f"{place}/cgroup.subtree_control")
    return not second or all(os.access(f"{place}/{name}", os.W_OK) for name in ("cgroup.procs", "cgroup.subtree_control"))
