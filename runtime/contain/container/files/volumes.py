"""Volumes on disk: one directory each below the store, with a record and the content, which outlives containers.

Theory of operation. ``volumes/NAME/`` holds ``volume.json``, ``_data`` (what containers see) and ``lock``. A volume appears and
vanishes by one rename; names that begin with a dot are what a killed command left, and the next one removes them. One lock on the
directory of all of them is held while names come and go. Who is about to write a container's record holds a shared lock on the
volume itself, so that it cannot be removed before the record says that it is used.

An empty volume is filled with what the image has at its place: aside, then, flushed, as ``incoming`` by one rename, from which the
names move into ``_data``. A command that is killed before that rename has changed nothing; after it, the next one moves the rest.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from contain.annotations import Any
from contain.container.request.mounts import anonymous_name, check_volume_name, recorded_volumes, volume_data
from contain.errors import Conflict, NotFound, UsageError
from contain.paths import ContainerPath, HostPath
from contain.spec import Volume
from contain.store.durable import explained, fsync_directory, held_lock, remove_tree, sync_file_system
from contain.store.journal import note
from contain.store.rootview import Entry, Kind, RootView
from contain.values import dataclass

ANONYMOUS_LABEL = "com.docker.volume.anonymous"
"""Docker's mark of a volume that nobody gave a name."""

_COPY_BYTES = 1 << 26
Users = Callable[[], Mapping[str, Sequence[str]]]
"""Which containers, by id, use which volume, by name: asked while no name can come or go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeRecord:
    """What is known of a volume. ``created_seconds`` since the epoch."""

    name: str
    data: HostPath
    created_seconds: float
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def anonymous(self) -> bool:
        """Whether nobody gave it a name."""
        return any(name == ANONYMOUS_LABEL for name, _ in self.labels)


class Volumes:
    """The directory of volumes."""

    def __init__(self, home: HostPath) -> None:
        self.home = home
        self.directory = home / "volumes"

    def place(self, name: str) -> HostPath:
        """A volume's own directory."""
        return self.directory / name

    # -- reading -------------------------------------------------------------------------------------------------------------

    def _load(self, name: str) -> VolumeRecord | None:
        try:
            value = json.loads((self.place(name) / "volume.json").read_text())
            return VolumeRecord(
                name=name,
                data=volume_data(self.home, name),
                created_seconds=float(value["created_seconds"]),
                labels=tuple((str(key), str(text)) for key, text in value["labels"].items()),
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def all(self) -> tuple[VolumeRecord, ...]:
        """Every volume, sorted by name."""
        try:
            names = sorted(name for name in os.listdir(self.directory) if not name.startswith("."))
        except FileNotFoundError:
            return ()
        return tuple(record for record in map(self._load, names) if record is not None)

    def find(self, name: str) -> VolumeRecord:
        """By name. `NotFound` in Docker's words."""
        record = None if name.startswith(".") or "/" in name or "\0" in name else self._load(name)
        if record is None:
            raise NotFound(f"get {name}: no such volume", code="no-such-volume", remedy="`contain volume ls` lists them")
        return record

    def size_bytes(self, name: str) -> int:
        """What its files hold, each file once."""
        seen: set[int] = set()
        total = 0
        for _, _, names, directory in os.fwalk(volume_data(self.home, name)):  # by descriptors: a container may write meanwhile
            for each in names:
                with contextlib.suppress(OSError):
                    found = os.stat(each, dir_fd=directory, follow_symlinks=False)
                    if found.st_ino not in seen:
                        seen.add(found.st_ino)
                        total += found.st_size
        return total

    # -- coming and going ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        with explained(self.directory):
            self.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
            with held_lock(self.directory / ".lock"):
                for name in os.listdir(self.directory):
                    if name.startswith((".new-", ".gone-")):
                        _sweep(self.directory / name)
                yield

    def _make(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether it is new. Within `_naming`."""
        if self._load(name) is not None:
            return False
        aside = self.directory / f".new-{os.urandom(8).hex()}"
        aside.mkdir(mode=0o700)
        (aside / "_data").mkdir(mode=0o755)
        with open(aside / "volume.json", "w", encoding="utf-8") as file:
            json.dump({"name": name, "created_seconds": time.time(), "labels": dict(labels)}, file)
            file.flush()
            os.fsync(file.fileno())
        fsync_directory(aside)
        os.rename(aside, self.place(name))
        fsync_directory(self.directory)
        return True

    def create(self, name: str = "", *, labels: Sequence[tuple[str, str]] = ()) -> VolumeRecord:
        """``contain volume create``: one that is there already stays as it is."""
        own = dict(labels)
        if not name:
            name = anonymous_name(os.urandom(32).hex(), ContainerPath("/"))
            own[ANONYMOUS_LABEL] = ""
        check_volume_name(name)
        with self._naming():
            made = self._make(name, own)
        if made:
            note(self.directory.parent, "volume", "create", name, {"driver": "local"})
        return self.find(name)

    def remove(self, name: str, users: Users) -> None:
        """``contain volume rm``. `Conflict` in Docker's words while a container has it, running or not."""
        with contextlib.ExitStack() as held:
            gone = self._take_away(name, users, held)
            remove_tree(gone)
        note(self.directory.parent, "volume", "destroy", name, {"driver": "local"})

    def _take_away(self, name: str, users: Users, held: contextlib.ExitStack) -> HostPath:
        """Its new name, which nobody looks up; held, so that no other command removes it too."""
        with self._naming():
            self.find(name)
            using = list(users().get(name, ()))
            descriptor = os.open(self.place(name), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            held.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                using = using or ["a container that is being made"]
            if using:
                raise Conflict(
                    f"remove {name}: volume is in use - [{', '.join(using)}]",
                    code="volume-in-use",
                    remedy="remove the container first: contain rm",
                )
            gone = self.directory / f".gone-{os.urandom(8).hex()}"
            os.rename(self.place(name), gone)
            fsync_directory(self.directory)
        return gone

    def remove_anonymous(self, details: Mapping[str, Any], users: Users) -> list[str]:
        """Remove the volumes without a name that a removed container had, and no other has; their names."""
        removed = []
        for volume in recorded_volumes(details):
            if volume.anonymous:
                with contextlib.suppress(NotFound, Conflict):
                    self.remove(volume.name, users)
                    removed.append(volume.name)
        return removed

    def prune(self, users: Users, *, everything: bool, wanted: Callable[[VolumeRecord], bool]) -> tuple[list[str], int]:
        """``contain volume prune``: names, and bytes set free. ``everything``: those with names too."""
        removed, freed = [], 0
        for record in self.all():
            if (everything or record.anonymous) and wanted(record):
                size = self.size_bytes(record.name)
                with contextlib.suppress(NotFound, Conflict):
                    self.remove(record.name, users)
                    removed.append(record.name)
                    freed += size
        return removed, freed

    # -- for a container -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def hold(self, details: Mapping[str, Any]) -> Iterator[None]:
        """Make and fill the volumes of a container whose record is about to be written, and keep them from being removed in the
        block. When the block fails, those without a name that were made for it go again."""
        made: list[Volume] = []
        with contextlib.ExitStack() as held:
            try:
                for volume in recorded_volumes(details):
                    with self._naming():
                        if self._make(volume.name, {ANONYMOUS_LABEL: ""} if volume.anonymous else {}):
                            made.append(volume)
                            note(self.directory.parent, "volume", "create", volume.name, {"driver": "local"})
                        descriptor = os.open(self.place(volume.name), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                        held.callback(os.close, descriptor)
                        fcntl.flock(descriptor, fcntl.LOCK_SH)
                    self._fill(volume, [Path(layer) for layer in details["layers"]])
                yield
            except BaseException:
                held.close()
                for volume in made:
                    if volume.anonymous:
                        with contextlib.suppress(NotFound, Conflict):
                            self.remove(volume.name, dict)
                raise

    def _fill(self, volume: Volume, layers: Sequence[HostPath]) -> None:
        place, data = self.place(volume.name), volume_data(self.home, volume.name)
        with explained(place), held_lock(place / "lock"):
            _settle(place)
            if not volume.copy or os.listdir(data):
                return
            with RootView(layers) as view:
                start = view.lookup(volume.target)
                if start is None:
                    return
                if start.kind is not Kind.DIRECTORY:
                    raise UsageError(
                        f"cannot mount volume over existing file, file exists {volume.target}",
                        code="bad-volume",
                        remedy="mount it at a directory",
                    )
                staging = place / "staging"
                remove_tree(staging)
                copy_tree(view, start, staging)
            sync_file_system(staging)
            os.rename(staging, place / "incoming")
            fsync_directory(place)
            _settle(place)


def _sweep(path: HostPath) -> None:
    """Remove what a killed command left; not what a living one is removing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_tree(path)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)


def _settle(place: HostPath) -> None:
    """Move what has arrived into the volume: the end of `Volumes._fill`, or what a killed one did not come to. What is there under
    a name stays: somebody wrote it."""
    incoming, data = place / "incoming", place / "_data"
    if not incoming.exists():
        return
    found = incoming.stat()
    _copy_attributes(incoming, data)
    for name in os.listdir(os.fsencode(incoming)):
        source, target = os.path.join(os.fsencode(incoming), name), os.path.join(os.fsencode(data), name)
        if os.path.lexists(target):
            remove_tree(source)
        else:
            os.rename(source, target)
    os.utime(data, ns=(found.st_mtime_ns, found.st_mtime_ns))
    fsync_directory(data)
    os.rmdir(incoming)
    fsync_directory(place)


def _copy_attributes(source: HostPath, target: HostPath) -> None:
    found = source.stat()
    os.chown(target, found.st_uid, found.st_gid)
    os.chmod(target, stat.S_IMODE(found.st_mode))
    for name in os.listxattr(source):
        if not name.startswith("security."):  # the machine's own labels
            os.setxattr(target, name, os.getxattr(source, name))


def _copy_content(entry: Entry, target: HostPath) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with entry.open() as source:
            while os.sendfile(descriptor, source.fileno(), None, _COPY_BYTES):
                pass
    finally:
        os.close(descriptor)


def copy_tree(view: RootView, start: Entry, target: HostPath) -> None:
    """A directory of an image with all that is in it as a new directory: content, owners, modes, times, links, attributes.

    Without device nodes: an image is nobody's permission to reach the host's devices.
    """
    copied: dict[tuple[int, int], HostPath] = {}
    directories: list[tuple[HostPath, Entry]] = []
    for entry in view.walk(start.path):
        place = target / entry.path.relative_to(start.path)
        found = entry.host_stat
        match entry.kind:
            case Kind.SOCKET | Kind.CHARACTER | Kind.BLOCK:
                continue
            case Kind.DIRECTORY:
                place.mkdir(mode=0o700)
                directories.append((place, entry))
            case _ if entry.identity in copied:
                os.link(copied[entry.identity], place, follow_symlinks=False)
                continue
            case Kind.SYMLINK:
                os.symlink(entry.link_target, place)
            case Kind.FILE:
                _copy_content(entry, place)
            case Kind.FIFO:
                os.mkfifo(place, 0o600)
        if entry.kind is not Kind.DIRECTORY and found.st_nlink > 1:
            copied[entry.identity] = place
        os.chown(place, found.st_uid, found.st_gid, follow_symlinks=False)
        if entry.kind not in (Kind.SYMLINK, Kind.DIRECTORY):
            os.chmod(place, entry.mode)
        for name, value in entry.xattrs.items():
            os.setxattr(place, name, value, follow_symlinks=False)
        if entry.kind is not Kind.DIRECTORY:
            os.utime(place, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)
    for place, entry in reversed(directories):
        os.chmod(place, entry.mode)
        os.utime(place, ns=(entry.mtime_ns, entry.mtime_ns))


def volume_users(records: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, list[str]]:
    """Which containers have which volume, from pairs of id and details."""
    users: dict[str, list[str]] = {}
    for container_id, details in records:
        for volume in recorded_volumes(details):
            if container_id not in users.setdefault(volume.name, []):
                users[volume.name].append(container_id)
    return users
