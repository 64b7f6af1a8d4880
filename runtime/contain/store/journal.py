"""What happened to containers, images, volumes and networks: one line of JSON each, written by whoever does it, read by everybody.

Two files of bounded size, the present one and the one before. A line is appended in one write(2) under a lock (flock(2)), so that two
writers at once never mix. Nothing here ever fails because of it: an event that cannot be written down is lost, what happened has
happened. Words: docker/cli ``docs/reference/commandline/system_events.md``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping

from contain.annotations import Any
from contain.paths import HostPath
from contain.values import dataclass, field

_FILE_BYTES = 4 << 20
_LINE_BYTES = 1 << 16
_TRIES = 10
_LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """``kind``: container, image, volume or network. ``identity``: its id, or name. ``time_ns``: since 1970."""

    time_ns: int
    kind: str
    action: str
    identity: str
    attributes: Mapping[str, str] = field(default_factory=dict)


def journal_home(home: HostPath) -> HostPath:
    """Where the files are, below the store."""
    return home / "events"


def note(home: HostPath, kind: str, action: str, identity: str, attributes: Mapping[str, str] | None = None) -> None:
    """Write down that something has happened just now."""
    row = {"time": time.time_ns(), "kind": kind, "action": action, "id": identity, "attributes": dict(attributes or {})}
    line = json.dumps(row).encode() + b"\n"
    if len(line) > _LINE_BYTES:
        line = json.dumps({**row, "attributes": {"name": str(row["id"])[:256]}}).encode() + b"\n"
    with contextlib.suppress(OSError):
        descriptor = _open_to_write(journal_home(home))
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


def _open_to_write(place: HostPath) -> int:
    """The present file, held, with room in it."""
    path, before = place / "journal", place / "journal.1"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    for _ in range(_TRIES):
        try:
            descriptor = os.open(path, flags, 0o600)
        except FileNotFoundError:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            found = os.fstat(descriptor)
            if found.st_nlink and os.path.samestat(found, os.stat(path)):
                if found.st_size < _FILE_BYTES:
                    return descriptor
                os.rename(path, before)
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise OSError("the journal is replaced again and again")


def _parse(line: bytes) -> Happening | None:
    try:
        row: dict[str, Any] = json.loads(line)
        return Happening(
            time_ns=int(row["time"]),
            kind=str(row["kind"]),
            action=str(row["action"]),
            identity=str(row["id"]),
            attributes={str(name): str(value) for name, value in row["attributes"].items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # a machine that went down in the middle of a line


class _Reader:
    """Reads on in the present file, also when it has become the one before."""

    def __init__(self, place: HostPath) -> None:
        self._place = place
        self._descriptor = -1
        self._rest = b""

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _lines(self) -> Iterator[bytes]:
        while data := os.read(self._descriptor, 1 << 20):
            *lines, self._rest = (self._rest + data).split(b"\n")
            yield from lines

    def read(self) -> Iterator[Happening]:
        """All that has come since the last time."""
        for _ in range(_TRIES):
            if self._descriptor < 0:
                try:
                    self._descriptor = os.open(self._place / "journal", os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    return
                self._rest = b""
            yield from filter(None, map(_parse, self._lines()))
            try:
                current = os.stat(self._place / "journal")
            except FileNotFoundError:
                current = None
            if current is not None and os.path.samestat(current, os.fstat(self._descriptor)):
                return
            yield from filter(None, map(_parse, self._lines()))  # the last that came before it was put aside
            self.close()
            if current is None:
                return

    def skip(self) -> None:
        """Begin at the end of what is there."""
        for _ in self.read():
            pass


def read_journal(home: HostPath, *, past: bool, follow: bool) -> Iterator[Happening | None]:
    """What has happened, in order: all that is still known (``past``), and with ``follow`` what comes, without end, and None now and
    then."""
    place = journal_home(home)
    reader = _Reader(place)
    try:
        if past:
            with contextlib.suppress(FileNotFoundError), open(place / "journal.1", "rb") as file:
                yield from filter(None, map(_parse, file))
            yield from reader.read()
        else:
            reader.skip()
        while follow:
            yield from reader.read()
            yield None
            time.sleep(_LOOK_SECONDS)
    finally:
        reader.close()
