"""Containers on disk: one directory each, with a record, a log, and what the container wrote. Every command reads these; no daemon.

A record says what its owner last wrote. Whether a container really runs is known from the kernel: its supervisor holds a lock on
the directory (flock(2)), which goes with the supervisor however it dies. A record that says ``running`` without a holder is told as
dead, or as ended with the machine where that was started again since (by its boot id).

Records are written aside and exchanged with the one before, so a reader sees the old one or the new one. Each container has two files
for that with room in them, made when it was made: how it ended can be written down also when the disk is full.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from contain.annotations import Any
from contain.container.lifecycle.ended import ExitState
from contain.container.lifecycle.happenings import Around, around_end, around_start, attributes_of, changes, network_event
from contain.container.lifecycle.states import Event, State, decide
from contain.container.network.predefined import PREDEFINED_IDS
from contain.errors import Conflict, ContainError, NotFound
from contain.linux import syscalls
from contain.paths import HostPath
from contain.spec import ContainerSpec, RestartPolicy
from contain.store.durable import remove_tree
from contain.store.journal import note
from contain.values import asdict, dataclass, replace

_ADJECTIVES = (
    "amber brave calm clever eager fair gentle keen lively lucid merry noble quick quiet ready sharp steady sunny warm wise"
)
_NOUNS = "badger beaver crane falcon finch fox hare heron ibis lark lynx marten otter owl raven robin seal stork swift wren"

_LOOKS = 20
_ROOM_BYTES = 4096
_LONGEST_REASON = 500  # characters, of up to six bytes each in JSON
_LOST_STATUS = 255  # Docker's, for what ended while nobody watched


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerRecord:
    """What is known of a container. Times are seconds since the epoch. ``state``: a `State`, but for ``paused`` and ``removed``.

    ``last_status``: of the program's last end, also once it runs again. ``stop_asked``: somebody wants it not to run, so no policy
    starts it. ``boot_id``: of the machine's start in which it was last started.
    """

    container_id: str
    name: str
    image_name: str
    image_digest: str
    arguments: tuple[str, ...]
    created_seconds: float
    state: str = "created"
    process_id: int | None = None
    started_seconds: float | None = None
    finished_seconds: float | None = None
    status: int | None = None
    signal: int | None = None
    out_of_memory: bool = False
    reason: str = ""
    remove: bool = False
    stop_signal: int = 15
    restart_count: int = 0
    last_status: int | None = None
    stop_asked: bool = False
    boot_id: str = ""
    details: dict[str, Any]


def _any_of(words: list[str]) -> str:
    return words[int.from_bytes(os.urandom(4), "big") % len(words)]


def containers_home(home: HostPath) -> HostPath:
    """Where the records are, below the store."""
    return home / "containers"


def describe_spec(spec: ContainerSpec) -> dict[str, Any]:
    """A spec as JSON values, for ``contain inspect``."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        if isinstance(value, frozenset):
            return sorted(value)
        if value is None or isinstance(value, (str, int, float, bool)):
            return value
        return getattr(value, "value", None) or str(value)

    described: dict[str, Any] = plain(asdict(spec))
    return described


def new_record(spec: ContainerSpec, *, remove: bool) -> ContainerRecord:
    """The record of a container that is about to be made."""
    return ContainerRecord(
        container_id=spec.container_id,
        name=spec.name,
        image_name=spec.image_name,
        image_digest=spec.image_digest,
        arguments=spec.arguments,
        created_seconds=time.time(),
        remove=remove,
        stop_signal=spec.stop_signal,
        details=describe_spec(spec),
    )


def open_process(record: ContainerRecord) -> int:
    """A descriptor of the container's first process (pidfd_open(2)). `Conflict` if it does not run.

    A process id that the kernel has given away again is told by its PID namespace: a container's is never ours.
    """
    if record.state == "running" and record.process_id is not None:
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(record.process_id)
            try:
                if os.readlink(f"/proc/{record.process_id}/ns/pid") != os.readlink("/proc/self/ns/pid"):
                    return descriptor
            except OSError:
                pass
            os.close(descriptor)
    raise Conflict(
        f"Container {record.container_id} is not running", code="not-running", remedy="`contain ps -a` shows how it ended"
    )


def boot_id() -> str:
    """A text that each start of the machine has its own of (random(4))."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _advance(record: ContainerRecord, event: Event) -> State:
    return decide(State(record.state), event, name=record.name, container_id=record.container_id).state


def ended(record: ContainerRecord, state: ExitState, *, restarts: bool = False) -> ContainerRecord:
    """The record after its program's end. ``restarts``: it will be started again."""
    return replace(
        record,
        state=_advance(record, Event.PROGRAM_ENDED_TO_RESTART if restarts else Event.PROGRAM_ENDED).value,
        process_id=None,
        finished_seconds=time.time(),
        status=state.status,
        last_status=state.status,
        signal=state.signal,
        out_of_memory=state.out_of_memory,
        reason=state.describe() if state.signal is not None or state.out_of_memory else "",
    )


def stays_ended(record: ContainerRecord) -> ContainerRecord:
    """The record of a container that was to be started again, and will not be."""
    return replace(record, state=_advance(record, Event.PROGRAM_ENDED).value)


def lost(record: ContainerRecord, now_boot_id: str) -> ContainerRecord:
    """The record of a container that says it lives, and has no supervisor."""
    if record.boot_id and now_boot_id and record.boot_id != now_boot_id:
        return replace(
            record,
            state=_advance(record, Event.MACHINE_RESTARTED).value,
            process_id=None,
            status=record.status if record.state == State.RESTARTING else _LOST_STATUS,
            last_status=record.status if record.state == State.RESTARTING else _LOST_STATUS,
            finished_seconds=record.finished_seconds or boot_seconds(),
            reason="the machine was started again",
        )
    return replace(
        record, state=_advance(record, Event.SUPERVISOR_LOST).value, process_id=None, reason="its supervisor is gone"
    )


def restart_policy_of(details: Mapping[str, Any]) -> RestartPolicy:
    """A container's policy as its record has it now."""
    return RestartPolicy(**(details.get("restart") or {}))


def boot_seconds() -> float:
    """When this machine was started (proc_stat(5), ``btime``)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/stat").read_text().splitlines():
            if line.startswith("btime "):
                return float(line.split()[1])
    return time.time()


def no_such_container(text: str) -> NotFound:
    """In Docker's words."""
    return NotFound(f"No such container: {text}", code="no-such-container", remedy="`contain ps -a` lists them")


def begun(record: ContainerRecord, process_id: int) -> ContainerRecord:
    """The record once its first process is there; nothing is left of a run before."""
    return replace(
        record,
        state=_advance(record, Event.PROGRAM_STARTED).value,
        process_id=process_id,
        started_seconds=time.time(),
        finished_seconds=None,
        status=None,
        signal=None,
        out_of_memory=False,
        reason="",
        restart_count=record.restart_count + (record.state == State.RESTARTING),
        boot_id=boot_id(),
    )


def failed(record: ContainerRecord, status: int, reason: str) -> ContainerRecord:
    """The record of a container whose program could not be started."""
    return replace(
        record,
        state=_advance(record, Event.START_FAILED).value,
        process_id=None,
        status=status,
        last_status=status,
        finished_seconds=time.time(),
        reason=reason[:_LONGEST_REASON],  # there is room for it on a full disk, too
    )


def _parse(data: bytes) -> ContainerRecord | None:
    try:
        value = json.loads(data)
        return ContainerRecord(**{**value, "arguments": tuple(value["arguments"])})
    except (ValueError, TypeError, KeyError):
        return None


def _read_whole(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _write_at_start(descriptor: int, data: bytes) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], done)


class Records:
    """The directory of containers."""

    def __init__(self, home: HostPath) -> None:
        self.directory = containers_home(home)

    def place(self, container_id: str) -> HostPath:
        """A container's own directory."""
        return self.directory / container_id

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def create(self, record: ContainerRecord, *, fill: Callable[[], None] | None = None) -> int:
        """Claim the name and make the directory, and the container's volumes; a descriptor that holds it. `Conflict` if the name is
        taken. ``fill``: puts into the directory what takes long, before anybody sees a container there."""
        self.sweep()
        place = self.place(record.container_id)
        descriptor = -1
        try:
            if fill is not None:
                with self._naming():
                    self._verify_free(record.name)
                    descriptor = self._make_held(place)
                fill()  # if this process dies now, the directory holds no record, and the next sweep removes it
            with self._volumes(record), self._naming():
                self._verify_free(record.name)
                if fill is None:
                    descriptor = self._make_held(place)
                self.write(record)
        except BaseException:
            if fill is not None and descriptor >= 0:
                remove_tree(place)
            if descriptor >= 0:
                os.close(descriptor)
            raise
        self.tell(record, "create")
        return descriptor

    @staticmethod
    def _make_held(place: Path) -> int:
        place.mkdir(mode=0o700)
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    @contextlib.contextmanager
    def _volumes(self, record: ContainerRecord) -> Iterator[None]:
        """The record's volumes are there, filled, and stay until it says that they are used."""
        if not any("anonymous" in mount for mount in record.details.get("mounts", ())):
            yield
            return
        from contain.container.files.volumes import Volumes

        with Volumes(self.directory.parent).hold(record.details):
            yield

    def _remove_volumes(self, record: ContainerRecord) -> None:
        """With ``--rm``, volumes without a name go with the container, unless another one has them."""
        if not any(mount.get("anonymous") for mount in record.details.get("mounts", ())):
            return
        from contain.container.files.volumes import Volumes, volume_users

        def users() -> dict[str, list[str]]:
            return volume_users([(other.container_id, other.details) for other in self.all()])

        Volumes(self.directory.parent).remove_anonymous(record.details, users)

    def new_name(self) -> str:
        """A free name like ``quiet_otter``."""
        taken = {record.name for record in self.all()}
        for attempt in range(1000):
            name = f"{_any_of(_ADJECTIVES.split())}_{_any_of(_NOUNS.split())}"
            name += str(attempt) if attempt > 20 else ""
            if name not in taken:
                return name
        raise Conflict("no free container name was found", code="name-in-use", remedy="give one with --name")

    def write(self, record: ContainerRecord) -> None:
        """Replace the record."""
        place = self.place(record.container_id)
        text = json.dumps(asdict(record)).encode()
        path, spare = str(place / "record.json"), str(place / "record.spare")
        first = not os.path.exists(path)
        # White space at the end is no part of the JSON, and keeps the blocks.
        room = (len(text) + 2 * _ROOM_BYTES - 1) // _ROOM_BYTES * _ROOM_BYTES
        descriptor = os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            room = max(room, os.fstat(descriptor).st_size)
            _write_at_start(descriptor, text.ljust(room))
            if not record.remove:  # what goes with the container anyway need not outlive the machine
                os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        if not first:
            try:
                syscalls.exchange(spare, path)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS):
                    raise
            else:
                return
        os.rename(spare, path)
        descriptor = os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with contextlib.suppress(OSError):
            os.posix_fallocate(descriptor, 0, room)
        os.close(descriptor)

    def is_held(self, container_id: str) -> bool:
        """Whether a supervisor lives."""
        try:
            descriptor = os.open(self.place(container_id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def hold(self, container_id: str) -> int | None:
        """Become the container's supervisor: a descriptor that holds it, or None where somebody else is. Raises `NotFound`."""
        for attempt in range(_LOOKS):  # who only looks holds it for a moment, too
            try:
                descriptor = os.open(self.place(container_id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise no_such_container(container_id) from None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), os.stat(self.place(container_id))):
                    return descriptor
            except (BlockingIOError, FileNotFoundError):
                pass
            os.close(descriptor)
            time.sleep(0.001 * attempt)
        return None

    def read(self, container_id: str) -> ContainerRecord:
        """What is written of a container. Raises `NotFound`."""
        record = self._read(self.place(container_id))
        if record is None:
            raise no_such_container(container_id)
        return record

    @contextlib.contextmanager
    def open_end(self, container_id: str) -> Iterator[Callable[[], ContainerRecord]]:
        """What reads a container's record, also after its removal: then as it was at the end. The two files that take turns in being
        the record are held open for that. Raises `NotFound`."""
        files: list[int] = []
        try:
            for name in ("record.json", "record.spare"):
                with contextlib.suppress(FileNotFoundError):
                    files.append(os.open(self.place(container_id) / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))

            def read() -> ContainerRecord:
                with contextlib.suppress(NotFound):
                    return self.read(container_id)
                found = [record for record in map(_parse, map(_read_whole, files)) if record is not None]
                if not found:
                    raise no_such_container(container_id)
                return max(found, key=lambda record: (record.finished_seconds is not None, record.started_seconds or 0))

            yield read
        finally:
            for descriptor in files:
                os.close(descriptor)

    def update(self, container_id: str, change: Callable[[ContainerRecord], ContainerRecord]) -> ContainerRecord:
        """Change what is written of a container, as it is at this moment; nobody else writes meanwhile. Raises `NotFound`."""
        place = self.place(container_id)
        try:
            descriptor = os.open(place / "writing", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            raise no_such_container(container_id) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            written = self._read(place)
            if written is None:
                raise no_such_container(container_id)
            changed = change(written)
            try:
                self.write(changed)
            except FileNotFoundError:  # it was removed at this moment
                raise no_such_container(container_id) from None
        finally:
            os.close(descriptor)
        for action, more in changes(written, changed):
            if action == "start":
                self._tell_around(around_start(changed, self._network_id))
            self.tell(changed, action, more)
            if action == "die":
                self._tell_around(around_end(changed, self._network_id))
        return changed

    def _tell_around(self, rows: Iterable[Around]) -> None:
        for each in rows:
            note(self.directory.parent, each.kind, each.action, each.identity, each.attributes)

    def _network_id(self, name: str) -> str:
        if name in PREDEFINED_IDS:
            return PREDEFINED_IDS[name]
        from contain.container.network.networks import Networks

        try:
            return Networks(self.directory.parent).find(name).network_id
        except ContainError:
            return ""

    def tell_of_network(self, record: ContainerRecord, action: str, name: str) -> None:
        """Note in the journal that a container that runs has come onto a network, or has left it."""
        self._tell_around((network_event(action, name, self._network_id(name), record.container_id),))

    def tell(self, record: ContainerRecord, action: str, more: Mapping[str, str] | None = None) -> None:
        """Note in the journal what has happened to a container."""
        note(self.directory.parent, "container", action, record.container_id, attributes_of(record, more))

    def rename(self, record: ContainerRecord, name: str) -> None:
        """Give a container another name. `Conflict` if that is taken, also by itself."""
        with self._naming():
            self._verify_free(name)
            self.update(record.container_id, lambda written: replace(written, name=name))

    def _verify_free(self, name: str) -> None:
        for other in self.all():
            if other.name == name:
                raise Conflict(
                    f'Conflict. The container name "/{name}" is already in use by container "{other.container_id}".',
                    code="name-in-use",
                    remedy=f"remove it (contain rm {name}) or use another name",
                )

    @staticmethod
    def _read(path: Path) -> ContainerRecord | None:
        try:
            return _parse((path / "record.json").read_bytes())
        except OSError:
            return None

    def _load(self, path: Path) -> ContainerRecord | None:
        record = self._read(path)
        if record is None:
            return None
        if record.state in (State.RUNNING, State.RESTARTING) and not self.is_held(record.container_id):
            latest = self._read(path) or record  # it may have ended between the two looks
            return lost(latest, boot_id()) if latest.state in (State.RUNNING, State.RESTARTING) else latest
        return record

    def all(self) -> tuple[ContainerRecord, ...]:
        """Every readable record, newest first."""
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return ()
        places = [self.directory / name for name in names if "." not in name]  # another one is being made, or removed
        found = [record for record in map(self._load, places) if record is not None]
        return tuple(sorted(found, key=lambda record: -record.created_seconds))

    def find(self, text: str) -> ContainerRecord:
        """By name, id, or unique beginning of an id. `NotFound` in Docker's words."""
        records = self.all()
        for record in records:
            if text in (record.name, record.container_id):
                return record
        found = [record for record in records if text and record.container_id.startswith(text)]
        if len(found) > 1:
            raise Conflict(
                f"several containers have an id that begins with {text}", code="ambiguous-id", remedy="write more of it"
            )
        if not found:
            raise no_such_container(text)
        return found[0]

    def remove(self, container_id: str) -> None:
        """Remove the directory with all it holds."""
        place = self.place(container_id)
        aside = place.with_name(f"{container_id}.removed")
        with contextlib.suppress(FileNotFoundError):
            os.rename(place, aside)
        self._finish_removal(aside)

    def _finish_removal(self, aside: Path) -> None:
        record = self._read(aside)
        if record is not None and record.remove:
            self._remove_volumes(record)
        with contextlib.suppress(OSError):
            remove_tree(aside)
        if record is not None:
            self.tell(record, "destroy")

    def sweep(self) -> None:
        """Finish what the dead began: removals, containers that were just being made, and those with ``--rm`` that lost their
        supervisor. Costs a look at each record, which is not parsed."""
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return
        for name in names:
            path = self.directory / name
            if name.endswith(".removed"):
                self._finish_removal(path)
                continue
            try:
                data = (path / "record.json").read_bytes()
            except FileNotFoundError:
                with self._naming():  # a container is made under this lock
                    if path.is_dir() and not (path / "record.json").exists() and not self.is_held(name):
                        remove_tree(path)
            except OSError:
                pass
            else:
                if b'"remove": true' in data and not self.is_held(name):
                    self._sweep_one(name)

    def _sweep_one(self, container_id: str) -> None:
        record = self._load(self.place(container_id))
        if record is None or not record.remove or record.state == State.CREATED:
            return
        with contextlib.suppress(NotFound):
            held = self.hold(container_id)
            if held is not None:
                self.remove(container_id)
                os.close(held)
