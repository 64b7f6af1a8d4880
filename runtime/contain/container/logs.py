"""A container's output on disk: written piece by piece by its supervisor, read and followed by everybody. No daemon."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator

from contain.container.records import ContainerRecord, Records
from contain.container.streams import writer_to
from contain.container.terminal import write_all
from contain.paths import HostPath


class Log:
    """A container's output on disk: one JSON object per piece, with its stream and time."""

    def __init__(self, place: HostPath) -> None:
        self._descriptor = os.open(place / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, stream: str, data: bytes) -> None:
        """Append a piece."""
        row = {"stream": stream, "time": time.time(), "log": data.decode("utf-8", "backslashreplace")}
        write_all(self._descriptor, json.dumps(row).encode() + b"\n")

    def writer(self, stream: str, copy_to: int | None) -> Callable[[bytes], None]:
        """What appends a stream's pieces, and copies them to a descriptor where one is given."""
        copy = writer_to(copy_to) if copy_to is not None else None

        def write(data: bytes) -> None:
            self.write(stream, data)
            if copy is not None:
                copy(data)

        return write


def read_log_batches(
    records: Records, record: ContainerRecord, *, follow: bool = False, from_now: bool = False
) -> Iterator[list[tuple[str, float, str]]]:
    """The pieces of a container's output as (stream, time, text), in order: first all that is there (``from_now``: nothing of it),
    with ``follow`` what comes until the container ends, and an empty batch now and then."""
    path = records.place(record.container_id) / "log"
    position, rest = 0, ""
    if from_now:
        with contextlib.suppress(FileNotFoundError):
            position = path.stat().st_size  # pieces are appended whole, so this is where one begins
    while True:
        alive = follow and records.is_held(record.container_id)
        try:
            with open(path, encoding="utf-8") as file:
                file.seek(position)
                text = file.read()
                position = file.tell()
        except FileNotFoundError:
            text = ""
        rest += text
        *lines, rest = rest.split("\n")
        rows = map(json.loads, lines)
        yield [(row["stream"], row["time"], row["log"]) for row in rows]
        if not alive:
            return
        time.sleep(0.1)


def read_log(
    records: Records, record: ContainerRecord, *, follow: bool = False, from_now: bool = False
) -> Iterator[tuple[str, str]]:
    """The same without times and batches: (stream, text)."""
    for batch in read_log_batches(records, record, follow=follow, from_now=from_now):
        for stream, _, text in batch:
            yield stream, text
