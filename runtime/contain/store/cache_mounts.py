"""Directories of ``RUN --mount=type=cache``: they outlive builds, are no part of any image, and go when nobody has used them for long.

Theory of operation. ``cache-mounts/<name>.<slot>/`` holds ``lock``, ``about.json`` and ``tree/``, which is what is mounted. The name is
a hash of what the Dockerfile says (`CacheIdentity`). A user holds flock(2) on ``lock``: shared or exclusive; the kernel lets go of it
when its holder dies, however it dies, and what was written stays. Slot 0 is everybody's; ``private`` users take the first slot that
nobody holds, and make another one if there is none. Nobody waits in here: who cannot have a directory now is told so. When a
directory was last used is the lock file's time.

A new directory is filled aside and renamed into place; a removed one is renamed away first, under its lock. So it is there whole or
not at all, and who got hold of the lock of a directory that has just gone notices and begins again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Literal  # noqa: TID251 - the alias is evaluated

from contain.annotations import TYPE_CHECKING
from contain.errors import HostError
from contain.paths import HostPath
from contain.store.durable import explained, try_lock
from contain.values import dataclass

if TYPE_CHECKING:
    from contain.store.store import Store

Sharing = Literal["shared", "private", "locked"]

_DIRECTORY = "cache-mounts"
_MOST_SLOTS = 1000
_MOST_ATTEMPTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheIdentity:
    """What tells one cache directory from another: its id, the name space that a build may set, and what it began with.

    ``origin``: the digest of its first content, empty for none. Owner and mode are those of the directory itself.
    """

    id: str
    namespace: str = ""
    origin: str = ""
    user_id: int = 0
    group_id: int = 0
    mode: int = 0o755

    @property
    def name(self) -> str:
        """A file name."""
        fields = [self.id, self.namespace, self.origin, self.user_id, self.group_id, self.mode]
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:40]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMount:
    """One cache directory on disk. ``used_seconds``: since 1970. ``in_use``: a build that runs now has it mounted."""

    directory: HostPath
    id: str
    namespace: str
    size_bytes: int
    created_seconds: int
    used_seconds: float
    in_use: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMountsPruned:
    """What `prune_cache_mounts` removed."""

    removed: tuple[CacheMount, ...]
    freed_bytes: int


class HeldCacheMount:
    """A cache directory that cannot vanish until `release`."""

    def __init__(self, directory: HostPath, descriptor: int) -> None:
        self.tree = directory / "tree"
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go of it; twice is the same as once."""
        if self._descriptor >= 0:
            os.utime(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


def try_hold_cache_mount(
    store: Store, identity: CacheIdentity, sharing: Sharing, *, fill: Callable[[HostPath], None] | None = None
) -> HeldCacheMount | None:
    """The directory, made if it is not there yet; None while somebody else holds it in a way that excludes this one.

    ``fill`` puts the first content into the empty directory that it is given. Raises `HostError` (``store-full``).
    """
    top = store.home / _DIRECTORY
    with explained(top):
        top.mkdir(mode=0o700, exist_ok=True)
        for slot in range(_MOST_SLOTS if sharing == "private" else 1):
            directory = top / f"{identity.name}.{slot}"
            descriptor = _lock(store, directory, identity, shared=sharing == "shared", fill=fill)
            if descriptor is not None:
                os.utime(descriptor)
                return HeldCacheMount(directory, descriptor)
    return None


def _lock(
    store: Store, directory: HostPath, identity: CacheIdentity, *, shared: bool, fill: Callable[[HostPath], None] | None
) -> int | None:
    for _ in range(_MOST_ATTEMPTS):
        try:
            descriptor = try_lock(directory / "lock", shared=shared, create=False)
        except FileNotFoundError:
            _make(store, directory, identity, fill)
            continue
        if descriptor is None or _is(descriptor, directory / "lock"):
            return descriptor
        os.close(descriptor)  # removed meanwhile
    raise HostError("a cache directory keeps being removed", path=str(directory), code="cache-mount-unstable")


def _is(descriptor: int, path: HostPath) -> bool:
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)


def _make(store: Store, directory: HostPath, identity: CacheIdentity, fill: Callable[[HostPath], None] | None) -> None:
    """Make a directory aside and rename it into place; another one that was quicker is as good."""
    with store.scratch("cache-mount") as scratch:
        fresh = scratch / "entry"
        fresh.mkdir(mode=0o700)
        tree = fresh / "tree"
        tree.mkdir()
        if fill is not None:
            fill(tree)
        os.chown(tree, identity.user_id, identity.group_id)
        os.chmod(tree, identity.mode)
        about = {"id": identity.id, "namespace": identity.namespace, "created_seconds": int(time.time())}
        (fresh / "about.json").write_text(json.dumps(about))
        os.close(os.open(fresh / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        try:
            os.rename(fresh, directory)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def list_cache_mounts(store: Store) -> tuple[CacheMount, ...]:
    """All cache directories, the one used last first. Sizes are what they take on disk; one that was not used since it was
    measured is not measured again."""
    found = [_read(directory) for directory in _directories(store)]
    return tuple(sorted((each for each in found if each is not None), key=lambda each: each.used_seconds, reverse=True))


def prune_cache_mounts(store: Store, *, keep_bytes: int = 0, unused_for_seconds: float = 0) -> CacheMountsPruned:
    """Remove cache directories, the least recently used first, until all together take no more than ``keep_bytes``.

    Spared is what is in use, and what was used in the last ``unused_for_seconds``. With neither: all that is not in use goes.
    """
    mounts = list_cache_mounts(store)
    total = sum(mount.size_bytes for mount in mounts)
    removed: list[CacheMount] = []
    for mount in reversed(mounts):
        if keep_bytes and total <= keep_bytes:
            break
        if mount.in_use or time.time() - mount.used_seconds < unused_for_seconds:
            continue
        if _remove(store, mount):
            total -= mount.size_bytes
            removed.append(mount)
    return CacheMountsPruned(removed=tuple(removed), freed_bytes=sum(mount.size_bytes for mount in removed))


def _directories(store: Store) -> Iterator[HostPath]:
    top = store.home / _DIRECTORY
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(top)):
            yield top / name


def _read(directory: HostPath) -> CacheMount | None:
    try:
        about = json.loads((directory / "about.json").read_text())
        used_ns = (directory / "lock").stat().st_mtime_ns
        descriptor = try_lock(directory / "lock", create=False)
    except (FileNotFoundError, ValueError):
        return None  # removed meanwhile, or not ours
    try:
        size_bytes = _size_bytes(directory, used_ns, settled=descriptor is not None)
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return CacheMount(
        directory=directory,
        id=str(about.get("id", "")),
        namespace=str(about.get("namespace", "")),
        size_bytes=size_bytes,
        created_seconds=int(about.get("created_seconds", 0)),
        used_seconds=used_ns / 1e9,
        in_use=descriptor is None,
    )


def _size_bytes(directory: HostPath, used_ns: int, *, settled: bool) -> int:
    note = directory / "size.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        measured_ns, size_bytes = json.loads(note.read_text())
        if settled and measured_ns == used_ns:
            return int(size_bytes)
    size_bytes = _measure_bytes(directory / "tree")
    if settled:
        with contextlib.suppress(OSError):
            aside = note.with_name(f"size.{os.getpid()}")
            aside.write_text(json.dumps([used_ns, size_bytes]))
            aside.rename(note)
    return size_bytes


def _measure_bytes(tree: HostPath) -> int:
    """What a tree takes on disk; a file of several names counts once."""
    total, seen = 0, set()
    for _, directories, files, place in os.fwalk(tree):  # by descriptors: a build may write meanwhile
        for name in (*directories, *files):
            with contextlib.suppress(OSError):
                found = os.stat(name, dir_fd=place, follow_symlinks=False)
                if found.st_nlink > 1 and name in files:
                    if (found.st_dev, found.st_ino) in seen:
                        continue
                    seen.add((found.st_dev, found.st_ino))
                total += found.st_blocks * 512
    return total


def _remove(store: Store, mount: CacheMount) -> bool:
    """Remove a directory that nobody holds; whether it was removed."""
    try:
        descriptor = try_lock(mount.directory / "lock", create=False)
    except FileNotFoundError:
        return False
    if descriptor is None:
        return False
    try:
        with store.scratch("cache-mount-removed") as scratch:
            try:
                os.rename(mount.directory, scratch / "entry")
            except FileNotFoundError:
                return False
        return True
    finally:
        os.close(descriptor)
