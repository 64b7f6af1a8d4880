"""A container's output on disk: written piece by piece by its supervisor, read and followed by everybody. No daemon.

Theory of operation. ``log`` grows to the size that was set, then it is renamed to ``log.1``, ``log.1`` to ``log.2``, and so on; the
oldest goes. A reader holds the file that it reads, so a rename under it loses nothing: at its end it goes on with the file that
was begun after it, which it finds by the numbers. Each line is one JSON object, a piece of one stream with its time. A disk that is
full costs pieces, which the log says as soon as it can; it never costs the container.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator

from contain.container.lifecycle.records import ContainerRecord, Records
from contain.container.terminal.streams import writer_to
from contain.errors import UsageError
from contain.paths import HostPath
from contain.spec import LogSettings

_LOOK_SECONDS = 0.1
_READ_BYTES = 1 << 20
_PIECE_BYTES = 16384  # Docker's, too
_MOST_READS = 1_000_000


def _name(number: int) -> str:
    return f"log.{number}" if number else "log"


class Log:
    """What a supervisor writes to. Nothing here raises for the disk's sake."""

    def __init__(self, place: HostPath, settings: LogSettings | None = None) -> None:
        self._place = place
        self._settings = settings or LogSettings()
        self._descriptor = -1
        self._size = 0
        self._lost = 0
        if self._settings.driver != "none":
            self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        with contextlib.suppress(OSError):
            self._descriptor = os.open(self._place / "log", flags, 0o600)
            self._size = os.fstat(self._descriptor).st_size
            if self._size and not self._ends_with_line():
                self._append(b"\n")  # a supervisor was killed while it wrote

    def _ends_with_line(self) -> bool:
        with open(self._place / "log", "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def write(self, stream: str, data: bytes) -> None:
        """Append a piece. Bytes that are no UTF-8 come back as they were."""
        if self._settings.driver != "none":
            for start in range(0, len(data), _PIECE_BYTES):
                self._write(stream, data[start : start + _PIECE_BYTES])

    def _write(self, stream: str, data: bytes) -> None:
        if self._lost:
            said = f"[{self._lost} bytes of output were lost: they could not be written]\n"
            if not self._append(_row("stderr", said.encode())):
                self._lost += len(data)
                return
            self._lost = 0
        if not self._append(_row(stream, data)):
            self._lost += len(data)

    def _append(self, row: bytes) -> bool:
        if self._settings.max_bytes and self._size and self._size + len(row) > self._settings.max_bytes:
            self._rotate()
        if self._descriptor < 0:
            self._open()
        rest = row
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._size)  # half a line is none
            return False
        self._size += len(row)
        return True

    def _rotate(self) -> None:
        last = self._settings.files - 1
        with contextlib.suppress(OSError):
            if last == 0:
                os.ftruncate(self._descriptor, 0)
                self._size = 0
                return
            for number in range(last - 1, -1, -1):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self._place / _name(number), self._place / _name(number + 1))
            os.close(self._descriptor)
            self._descriptor, self._size = -1, 0
            self._open()

    def writer(self, stream: str, copy_to: int | None) -> Callable[[bytes], None]:
        """What appends a stream's pieces, and copies them to a descriptor where one is given."""
        copy = writer_to(copy_to) if copy_to is not None else None

        def write(data: bytes) -> None:
            self.write(stream, data)
            if copy is not None:
                copy(data)

        return write


def _row(stream: str, data: bytes) -> bytes:
    row = {"stream": stream, "time": time.time(), "log": data.decode("utf-8", "surrogateescape")}
    return json.dumps(row).encode() + b"\n"


def to_bytes(text: str) -> bytes:
    """What a container printed, of the text that the log gives back."""
    return text.encode("utf-8", "surrogateescape")


Piece = tuple[str, float, str]
"""Stream, time in seconds since 1970, text."""


def _parse(line: bytes) -> Piece | None:
    """None for what a supervisor that was killed left half."""
    try:
        row = json.loads(line)
        return row["stream"], row["time"], row["log"]
    except (ValueError, KeyError, TypeError):
        return None


class LogFiles:
    """The files of one log, in the order in which they were written, and where the reader is in them."""

    def __init__(self, place: HostPath, *, from_now: bool) -> None:
        self._place = place
        self._file = -1
        self._rest = b""
        if from_now and (descriptor := self._open(0)) is not None:
            self._file = descriptor
            os.lseek(self._file, 0, os.SEEK_END)  # pieces are appended whole, so this is where one begins

    def _numbers(self) -> list[int]:
        found = []
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._place):
                if name == "log":
                    found.append(0)
                elif re.fullmatch(r"log\.[0-9]{1,4}", name):
                    found.append(int(name[4:]))
        return sorted(found)

    def _open(self, number: int) -> int | None:
        try:
            return os.open(self._place / _name(number), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _find_next(self) -> int | None:
        """A descriptor of the file that was begun after this one, if there is one."""
        numbers = self._numbers()
        if self._file >= 0:
            mine = os.fstat(self._file)
            for number in numbers:
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.stat(self._place / _name(number)), mine):
                        numbers = [other for other in numbers if other < number]
                        break
        if not numbers:  # ours is the last one; else it may have gone, and what is oldest now comes next
            return None
        return self._open(max(numbers))

    def _read_some(self) -> bytes:
        if self._file < 0:
            return b""
        if os.fstat(self._file).st_size < os.lseek(self._file, 0, os.SEEK_CUR):  # the only file, which was emptied
            os.lseek(self._file, 0, os.SEEK_SET)
        return os.read(self._file, _READ_BYTES)

    def read(self) -> Iterator[list[Piece]]:
        """All that is there by now."""
        for _ in range(_MOST_READS):
            data = self._read_some()
            if not data:
                following = self._find_next()
                if following is None:
                    return
                data = self._read_some()  # nobody writes to it any more, but may have since
                if not data:
                    self.close()
                    self._file, self._rest = following, b""
                    continue
                os.close(following)
            *lines, self._rest = (self._rest + data).split(b"\n")
            yield [piece for piece in map(_parse, lines) if piece is not None]


def read_log_batches(
    records: Records,
    record: ContainerRecord,
    *,
    follow: bool = False,
    from_now: bool = False,
    until: Callable[[], bool] | None = None,
) -> Iterator[list[Piece]]:
    """The pieces of a container's output in order: first, as one batch, all that is there (``from_now``: nothing of it), with
    ``follow`` what comes until the container ends (``until``: until that says so), and an empty batch now and then."""
    settings = record.details.get("log") or {}
    if settings.get("driver") == "none":
        raise UsageError("configured logging driver does not support reading", code="log-driver")
    files = LogFiles(records.place(record.container_id), from_now=from_now)
    over = until or (lambda: not records.is_held(record.container_id))
    first = True
    try:
        while True:
            last = not follow or over()
            if first:
                yield [piece for batch in files.read() for piece in batch]
            else:
                yield from files.read()
                yield []
            first = False
            if last:
                return
            time.sleep(_LOOK_SECONDS)
    finally:
        files.close()


def read_log(
    records: Records,
    record: ContainerRecord,
    *,
    follow: bool = False,
    from_now: bool = False,
    until: Callable[[], bool] | None = None,
) -> Iterator[tuple[str, str]]:
    """The same without times and batches: (stream, text)."""
    for batch in read_log_batches(records, record, follow=follow, from_now=from_now, until=until):
        for stream, _, text in batch:
            yield stream, text
