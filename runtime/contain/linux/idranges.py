"""Ranges of this machine's ids for containers that want some of their own (``--userns=auto``): which is free, and who has which.

Decides (pure) which range a container gets; keeps the decision in ``id-ranges.json``, one file for all stores of a machine, under a
lock. A range belongs to whoever holds the lock on the container's workspace (flock(2)): when that goes, however it goes, the range is
free again, and the next allocation forgets it. Ranges of other programs' containers are seen in ``/proc/PID/uid_map``.

Sources: subuid(5); systemd's "Users, Groups, UIDs and GIDs on systemd Systems" for what nobody else uses; podman-run(1) for the user
``containers``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from contain.errors import HostError
from contain.linux.usernamespace import is_rootless
from contain.paths import HostPath
from contain.values import dataclass

POOL_USER = "containers"
"""Whose lines in /etc/subuid and /etc/subgid are ours to give out: podman's name for it too."""

DEFAULT_FIRST, DEFAULT_LAST = 0x7000_0000, 0x7FFD_FFFF
"""Where ranges come from without such lines: above systemd-nspawn's, below systemd's own range for foreign images."""

_FILE = "id-ranges.json"
_LARGEST_ID = 2**32 - 2
_PATIENCE_SECONDS = 20.0
_PAUSE_SECONDS = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class IdRange:
    """So many ids of this machine from ``first`` on, users and groups alike; inside they are 0 and up."""

    first: int
    size: int

    @property
    def end(self) -> int:
        """The first id that is not in it."""
        return self.first + self.size

    def overlaps(self, other: IdRange) -> bool:
        """Whether they share an id."""
        return self.first < other.end and other.first < self.end


def parse_pool(text: str) -> tuple[IdRange, ...]:
    """The ranges of `POOL_USER` in the text of /etc/subuid or /etc/subgid."""
    found = []
    for line in text.splitlines():
        fields = line.strip().split(":")
        if len(fields) == 3 and fields[0] == POOL_USER and fields[1].isdigit() and fields[2].isdigit() and int(fields[2]):
            found.append(IdRange(first=int(fields[1]), size=int(fields[2])))
    return tuple(found)


def shared_by(users: Iterable[IdRange], groups: Sequence[IdRange]) -> tuple[IdRange, ...]:
    """What is in both: a container gets the same numbers for users and groups."""
    return tuple(
        IdRange(first=max(one.first, other.first), size=min(one.end, other.end) - max(one.first, other.first))
        for one in users
        for other in groups
        if one.overlaps(other)
    )


def parse_claims(subordinate: str, accounts: str) -> tuple[IdRange, ...]:
    """Ids that belong to somebody: everybody's lines in the text of /etc/subuid or /etc/subgid, and the third field of each line of
    /etc/passwd or /etc/group."""
    found = []
    for line in subordinate.splitlines():
        fields = line.strip().split(":")
        if len(fields) == 3 and fields[0] != POOL_USER and fields[1].isdigit() and fields[2].isdigit() and int(fields[2]):
            found.append(IdRange(first=int(fields[1]), size=int(fields[2])))
    for line in accounts.splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[2].isdigit():
            found.append(IdRange(first=int(fields[2]), size=1))
    return tuple(found)


def choose_range(pools: Sequence[IdRange], taken: Sequence[IdRange], size: int) -> IdRange | None:
    """The first range of ``size`` ids in a pool that shares none with ``taken``."""
    for pool in pools:
        candidate = IdRange(first=pool.first, size=size)
        while candidate.end <= min(pool.end, _LARGEST_ID + 1):
            clash = [other.end for other in taken if candidate.overlaps(other)]
            if not clash:
                return candidate
            candidate = IdRange(first=max(clash), size=size)
    return None


def parse_maps_in_use(text: str) -> tuple[IdRange, ...]:
    """The outer ranges of a ``uid_map`` (user_namespaces(7)), but for one that has all ids."""
    rows = [line.split() for line in text.splitlines()]
    return tuple(
        IdRange(first=int(row[1]), size=int(row[2]))
        for row in rows
        if len(row) == 3 and int(row[2]) < _LARGEST_ID and int(row[2])
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _maps_of_processes() -> set[IdRange]:
    found: set[IdRange] = set()
    for name in os.listdir("/proc"):
        if name.isdigit() and (users := parse_maps_in_use(_read(f"/proc/{name}/uid_map"))):
            found.update(users, parse_maps_in_use(_read(f"/proc/{name}/gid_map")))
    return found


def _pools() -> tuple[IdRange, ...]:
    users, groups = parse_pool(_read("/etc/subuid")), parse_pool(_read("/etc/subgid"))
    return shared_by(users, groups) or (IdRange(first=DEFAULT_FIRST, size=DEFAULT_LAST + 1 - DEFAULT_FIRST),)


def registry_home(run_home: HostPath) -> HostPath:
    """Where the file is: one place for all of a machine's stores where that can be had, else the store's own run-time state."""
    common = Path("/run/contain")
    try:
        common.mkdir(mode=0o700, exist_ok=True)
        return common if os.access(common, os.W_OK) else run_home
    except OSError:
        return run_home


def _is_held(workspace: str) -> bool:
    try:
        descriptor = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _lock(descriptor: int) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise HostError(
                    "somebody has held the list of ids for containers for too long",
                    code="no-free-ids",
                    remedy="look for a stopped `contain` process",
                ) from None
        time.sleep(_PAUSE_SECONDS)


@contextlib.contextmanager
def _registry(home: HostPath) -> Iterator[dict[str, IdRange]]:
    """Workspace to range of all that live, under the lock; what is in it at the end is written."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = home / _FILE
    descriptor = os.open(home / f"{_FILE}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _lock(descriptor)
        try:
            rows = json.loads(path.read_text())
            known = {str(name): IdRange(first=int(first), size=int(size)) for name, (first, size) in rows.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            known = {}  # who lives is seen in /proc
        found = {name: held for name, held in known.items() if _is_held(name)}
        yield found
        aside = home / f"{_FILE}.{os.getpid()}"
        aside.write_text(json.dumps({name: [held.first, held.size] for name, held in found.items()}))
        os.rename(aside, path)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def hold_range(workspace: HostPath, size: int, *, run_home: HostPath, pools: Sequence[IdRange] = ()) -> Iterator[IdRange]:
    """A range that no other container has, for the owner of a workspace that is locked. Raises `HostError`."""
    if is_rootless():
        raise HostError(
            "--userns=auto needs root: only root may mount files with translated owners (mount_setattr(2))",
            code="idmap-not-supported",
            remedy="leave it out: an ordinary user's containers have a user namespace of their own anyway",
        )
    home, name = registry_home(run_home), str(workspace.absolute())
    claims = [
        *parse_claims(_read("/etc/subuid"), _read("/etc/passwd")),
        *parse_claims(_read("/etc/subgid"), _read("/etc/group")),
    ]
    pools = pools or _pools()
    with _registry(home) as known:
        taken = [*known.values(), *claims, *_maps_of_processes()]
        chosen = choose_range(pools, taken, size)
        if chosen is None:
            shown = ", ".join(f"{pool.first}:{pool.size}" for pool in pools)
            raise HostError(
                f"no {size} ids are free for a container of its own range (of {shown}, {len(known)} containers have some)",
                code="no-free-ids",
                remedy=f"end a container that has --userns=auto, ask for fewer (auto:size=N), or give the user {POOL_USER!r} more in "
                "/etc/subuid and /etc/subgid",
            )
        known[name] = chosen
    try:
        yield chosen
    finally:
        with contextlib.suppress(OSError, HostError), _registry(home) as known:  # or the next one sees that its owner is gone
            known.pop(name, None)
