"""The door that an ordinary user goes through first: into a user namespace in which that user is root, and all else is as for root.

Theory of operation. Who is in one user namespace has no power over a process in another one beside it. So all containers of a store
stand in one: who wants in joins the namespace of somebody who is there, and makes one only if nobody is. Everybody who came in is
noted below the run-time state, as ``inside/<process id>-<start time>``; what the note says is believed only if the kernel says, too,
that the namespace belongs to this user. Between the look at the notes and one's own note a lock is held, so that two who come at once
do not make two. Nothing stands there when nobody is inside: no process is left to keep a namespace open.

The mount namespace is everybody's own, made from the machine's mounts of that moment. Sources: user_namespaces(7), ioctl_ns(2).
"""

from __future__ import annotations

import contextlib
import os
import sys

from contain.container.presence import forget, hold_lock, note_myself, present
from contain.errors import HostError
from contain.home import needs_door, remember_caller
from contain.linux.usernamespace import (
    MORE_IDS,
    become_root,
    is_rootless,
    join_as_root,
    open_namespace,
    read_id_maps,
    start_ticks,
)
from contain.paths import HostPath, run_home, store_home
from contain.spec import Identity


def _notes(home: HostPath) -> HostPath:
    return home / "inside"


def _lock(home: HostPath) -> int:
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    _notes(home).mkdir(mode=0o700, exist_ok=True)
    return hold_lock(home / "door")


def _find_inside(home: HostPath) -> int | None:
    """The namespace in which this store's containers are, if anybody is there; notes of who is gone, or elsewhere, are removed."""
    found: int | None = None
    for number, ticks in present(_notes(home)):
        if found is not None:
            continue
        found = open_namespace(number)
        if found is not None and start_ticks(number) != ticks:  # it may be another one's by now
            os.close(found)
            found = None
        if found is None:
            forget(_notes(home), number, ticks)
    return found


def enter_store() -> None:
    """`enter` for the store that the environment names, which stays this user's."""
    if needs_door():
        home = store_home()
        os.environ["CONTAIN_HOME"] = str(home)
        remember_caller()
        enter(run_home())


def enter(home: HostPath) -> None:
    """Become root of the namespace of a store's containers. ``home``: of its run-time state. Nothing for root.

    The process must have one thread. Raises `HostError`, `Conflict`.
    """
    if not needs_door():
        return
    lock = _lock(home)
    try:
        namespace = _find_inside(home)
        joined = False
        if namespace is not None:
            joined = join_as_root(namespace)
            os.close(namespace)
        if not joined:
            become_root()
        note_inside(home)
    finally:
        os.close(lock)


def note_inside(home: HostPath) -> None:
    """Note that this process is inside; for whoever was forked from one that came in and stays. Nothing for the machine's root."""
    if _notes(home).is_dir() and is_rootless():
        note_myself(_notes(home))


def verify_identity(identity: Identity) -> None:
    """Raise `HostError` (code ``id-not-mapped``) if a program's user does not exist in this user namespace."""
    if needs_door():
        raise HostError(
            "this process is an ordinary user's and not inside the user namespace in which containers are made",
            code="not-inside",
            remedy="start it there: contain unshare PROGRAM ..., for example contain unshare pytest",
        )
    users, groups = read_id_maps()
    if users.has(identity.user_id) and groups.has(identity.group_id) and all(map(groups.has, identity.groups)):
        return
    raise HostError(
        f"the program's user is {identity.user_id}:{identity.group_id}, and there is no such id here: this user has "
        f"{users.count} of them",
        code="id-not-mapped",
        remedy=f"run it as root of the container (--user 0), who is nobody but you outside; or {MORE_IDS}",
    )


def has_tty_group() -> bool:
    """Whether terminals can belong to the group ``tty``, which is 5 everywhere."""
    return read_id_maps()[1].has(5)


def warn_of_limits(home: HostPath) -> None:
    """Say once that an ordinary user's containers have no limit of processes, where that is so. Call it while somebody reads what is
    said."""
    if is_rootless():
        from contain.linux.cgroups import can_limit

        if not can_limit("pids"):
            warn_once(
                home, "no-limits", "no control group is delegated to this user: a container may start any number of processes"
            )


def warn_once(home: HostPath, name: str, text: str) -> None:
    """Say on standard error what this user's containers have to do without: once for a store, not at each start."""
    place = home / "said"
    with contextlib.suppress(OSError):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(place / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        sys.stderr.write(f"warning: {text} ({name}: docs/rootless.md; said once)\n")
