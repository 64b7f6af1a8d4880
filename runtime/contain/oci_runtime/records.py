"""What is kept of a container: one directory ``ROOT/ID`` (0700) with a record, the configuration it was made of, a lock, a socket.

The record says which process it is, by id and start time; whether that lives, the kernel says. Reads and writes files; starts nothing.

    record.json   `Record`           config.json  the bundle's, as it was read (later changes must not matter: runtime.md, "Create")
    lock          flock(2), held by who changes the container        start.sock   where ``start`` reaches the waiting process
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from contain.errors import Conflict, HostError, NotFound, UsageError
from contain.runtime_spec.configuration import Configuration, Hook, parse_configuration
from contain.runtime_spec.document import parse_json, render_json
from contain.values import asdict, dataclass

CREATING, CREATED, RUNNING, PAUSED, STOPPED = "creating", "created", "running", "paused", "stopped"
WAITING_NAME = "contain-created"  # of a process that waits for its start; 15 bytes (prctl(2), PR_SET_NAME)
START_SOCKET = "start.sock"
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")
_LONGEST_NAME = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One container. ``groups``: (controllers as mounted, directory). ``process_id`` 0: not made yet."""

    container_id: str
    version: str
    bundle: str
    root: str
    process_id: int = 0
    start_time: int = 0  # clock ticks after boot (proc(5), stat, field 22)
    created: str = ""
    owner: int = 0
    annotations: tuple[tuple[str, str], ...] = ()
    groups: tuple[tuple[str, str], ...] = ()
    group_version: int = 1
    own_process_namespace: bool = True


def check_container_id(name: str) -> str:
    """A name that is safe as a file's name. Raises `UsageError`."""
    if not name or len(name) > _LONGEST_NAME or name[0] == "." or not set(name) <= _LETTERS:
        raise UsageError(
            f"invalid container id {name!r}: letters, digits, _ + - and, not in front, dots; at most {_LONGEST_NAME}",
            code="bundle-id",
        )
    return name


def read_start_time(process_id: int) -> int:
    """When a process began, in clock ticks after boot; 0 if it is gone or a zombie."""
    try:
        with open(f"/proc/{process_id}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return 0
    fields = text[text.rindex(b")") + 2 :].split()
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def is_alive(record: Record) -> bool:
    """Whether the container's first process is still that one."""
    return record.process_id > 0 and read_start_time(record.process_id) == record.start_time != 0


class Place:
    """The directory of one container."""

    __slots__ = ("directory", "name")

    def __init__(self, root: str, name: str) -> None:
        self.name = check_container_id(name)
        self.directory = f"{root}/{name}"

    def path(self, name: str) -> str:
        """A file in it."""
        return f"{self.directory}/{name}"

    def make(self) -> None:
        """Take the name: `Conflict` if it is taken."""
        root = os.path.dirname(self.directory)
        try:
            os.makedirs(root, mode=0o711, exist_ok=True)
            os.mkdir(self.directory, 0o700)
        except FileExistsError:
            raise Conflict(f"container with id exists: {self.name}", code="bundle-exists") from None
        except OSError as error:
            raise HostError(
                "the runtime's state cannot be written",
                call="mkdir",
                path=str(error.filename or root),
                errno=error.errno or 0,
                remedy="name a directory of your own with --root",
                code="bundle-state",
            ) from error

    def lock(self, *, wait: bool = True) -> int:
        """A descriptor that holds the container; close it to let go. -1 without ``wait`` where somebody else has it."""
        try:
            descriptor = os.open(self.path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise self.missing() from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return -1
        return descriptor

    def missing(self) -> NotFound:
        """The error for a container that is not there."""
        return NotFound(f"container {self.name!r} does not exist", code="bundle-not-found")

    def write(self, name: str, data: bytes) -> None:
        """A whole file or none."""
        aside = self.path(f".{name}")
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)
        os.rename(aside, self.path(name))

    def write_record(self, record: Record) -> None:
        """Replace the record."""
        self.write("record.json", render_json(asdict(record)).encode())

    def read_record(self) -> Record:
        """The record. Raises `NotFound`."""
        try:
            with open(self.path("record.json"), "rb") as file:
                members = parse_json(file.read())
        except FileNotFoundError:
            raise self.missing() from None
        for name in ("annotations", "groups"):
            members[name] = tuple(tuple(pair) for pair in members[name])
        return Record(**members)

    def read_configuration(self) -> Configuration:
        """What the container was made of."""
        with open(self.path("config.json"), "rb") as file:
            return parse_configuration(file.read())

    def read_hooks(self, name: str) -> tuple[Hook, ...]:
        """The hooks of one point; most containers have none, which takes no parsing to see."""
        try:
            with open(self.path("config.json"), "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return ()
        return parse_configuration(data).hooks_of(name) if f'"{name}"'.encode() in data else ()

    def read_status(self, record: Record) -> str:
        """One of the statuses of the specification, or paused, from what the kernel says now."""
        if not record.process_id:
            descriptor = self.lock(wait=False)
            if descriptor < 0:
                return CREATING
            os.close(descriptor)
            return STOPPED  # whoever made it has died
        if not is_alive(record):
            return STOPPED
        if os.path.exists(self.path(START_SOCKET)) and _name_of(record.process_id) == WAITING_NAME:
            return CREATED
        return PAUSED if is_paused(record) else RUNNING

    def remove(self) -> None:
        """Forget the container."""
        for name in os.listdir(self.directory):
            os.unlink(self.path(name))
        os.rmdir(self.directory)


def _name_of(process_id: int) -> str:
    try:
        with open(f"/proc/{process_id}/comm") as file:
            return file.read().strip()
    except OSError:
        return ""


def is_paused(record: Record) -> bool:
    """Whether its group is frozen (cgroups(7))."""
    for controllers, directory in record.groups:
        name = "cgroup.freeze" if record.group_version == 2 else "freezer.state" if controllers == "freezer" else ""
        if name:
            try:
                with open(f"{directory}/{name}") as file:
                    return file.read().strip() in ("1", "FROZEN", "FREEZING")
            except OSError:
                return False
    return False


def list_names(root: str) -> list[str]:
    """All containers below a root, sorted."""
    try:
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return []


def check_root(path: str) -> None:
    """A state directory that others may write would let them name processes for us to signal. Raises `HostError`."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise HostError("--root cannot be read", call="stat", path=path, errno=error.errno or 0, code="bundle-state") from error
    if not stat.S_ISDIR(found.st_mode):
        raise HostError("--root is no directory", path=path, errno=errno.ENOTDIR, code="bundle-state")
    if found.st_mode & 0o002 and not found.st_mode & stat.S_ISVTX:
        raise HostError("--root can be written by everybody", path=path, remedy=f"chmod 0711 {path}", code="bundle-state")
