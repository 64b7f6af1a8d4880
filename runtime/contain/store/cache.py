"""The build cache's rows and the index of file digests. Keeps and finds; what a key consists of is the build's decision."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from contain.annotations import cast
from contain.store.database import Database
from contain.store.layers import Layers
from contain.values import dataclass

_BATCH = 500
_WAITING = 20_000  # in a transaction each, every few hundred would wait for the disk, and for what else is on its way to it
_SETTLED_NS = 100_000_000
_SETTLED_COARSE_NS = 2_000_000_000
_USED_AGAIN_SECONDS = 3600
_TOUCH_SECONDS = 24 * 3600
_RECENTLY_SECONDS = 60
_COLUMNS = "key, position, ingredients, diff_id, size_bytes, result, created_seconds, command"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One build step that was carried out.

    ``key`` is the digest of ``ingredients`` (canonical JSON). ``position`` says which step of which Dockerfile it was, to find
    what changed since; ``command`` what it did, in short, to find it at another place. ``diff_id`` is None when the step changed no
    file. ``result``: canonical JSON of whatever else the build wants to know again.
    """

    key: str
    position: str
    ingredients: str
    diff_id: str | None
    size_bytes: int = 0
    result: str = "{}"
    created_seconds: int = 0
    command: str = ""


class Cache:
    """Rows of build steps."""

    def __init__(self, database: Database, layers: Layers) -> None:
        self._database, self._layers = database, layers

    def find(self, key: str) -> StepRecord | None:
        """A step, whether its layer is still here or not."""
        rows = self._database.rows(f"SELECT {_COLUMNS} FROM steps WHERE key = ?", (key,))  # noqa: S608
        return _record(rows[0]) if rows else None

    def get(self, key: str) -> StepRecord | None:
        """A step whose layer is still here. Asking counts as use."""
        rows = self._database.rows(f"SELECT {_COLUMNS}, used_seconds FROM steps WHERE key = ?", (key,))  # noqa: S608
        if not rows:
            return None
        record = _record(rows[0])
        if record.diff_id is not None and not self._layers.has(record.diff_id):
            return None
        now = int(time.time())
        if now - int(str(rows[0][-1])) > _USED_AGAIN_SECONDS:
            with self._database.transaction() as database:
                database.execute("UPDATE steps SET used_seconds = ? WHERE key = ?", (now, key))
        return record

    def put(self, record: StepRecord) -> None:
        """Remember a step; ``created_seconds`` 0 means now."""
        now = int(time.time())
        with self._database.transaction() as database:
            database.execute(
                f"INSERT OR REPLACE INTO steps ({_COLUMNS}, used_seconds) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                (
                    record.key,
                    record.position,
                    record.ingredients,
                    record.diff_id,
                    record.size_bytes,
                    record.result,
                    record.created_seconds or now,
                    record.command,
                    now,
                ),
            )

    def nearest(self, position: str) -> tuple[StepRecord, ...]:
        """Steps recorded at the same place of the same Dockerfile, the newest first, at most 20."""
        rows = self._database.rows(
            f"SELECT {_COLUMNS} FROM steps WHERE position = ? ORDER BY used_seconds DESC, created_seconds DESC LIMIT 20",  # noqa: S608
            (position,),
        )
        return tuple(_record(row) for row in rows)

    def touch(self, keys: Sequence[str]) -> None:
        """These steps were used now; nothing is written for those that were used a moment ago."""
        now = int(time.time())
        with self._database.transaction() as database:
            database.executemany(
                "UPDATE steps SET used_seconds = ? WHERE key = ? AND used_seconds < ?",
                [(now, key, now - _RECENTLY_SECONDS) for key in keys],
            )

    def alike(self, command: str) -> tuple[StepRecord, ...]:
        """Steps of the same command anywhere, the newest first, at most 20."""
        rows = self._database.rows(
            f"SELECT {_COLUMNS} FROM steps WHERE command = ? ORDER BY used_seconds DESC, created_seconds DESC LIMIT 20",  # noqa: S608
            (command,),
        )
        return tuple(_record(row) for row in rows)

    def put_listing(self, digest: str, data: bytes) -> None:
        """Keep what an input consisted of, under the input's digest."""
        with self._database.transaction() as database:
            database.execute("INSERT OR REPLACE INTO listings VALUES (?, ?, ?)", (digest, data, int(time.time())))

    def listing(self, digest: str) -> bytes | None:
        """What was kept under an input's digest."""
        rows = self._database.rows("SELECT data FROM listings WHERE digest = ?", (digest,))
        return bytes(rows[0][0]) if rows else None  # type: ignore[call-overload]


def _record(row: tuple[object, ...]) -> StepRecord:
    key, position, ingredients, diff_id, size_bytes, result, created, command = row[:8]
    return StepRecord(
        key=str(key),
        position=str(position),
        ingredients=str(ingredients),
        diff_id=None if diff_id is None else str(diff_id),
        size_bytes=int(str(size_bytes)),
        result=str(result),
        created_seconds=int(str(created)),
        command=str(command),
    )


class FileDigests:
    """Digests of host files by (device, inode, ctime, mtime, size), so that an unchanged file is not read again.

    A context manager: what was remembered is written in batches and when the block ends. A file that was changed a moment ago
    is not remembered: another change within the clock's granularity would leave the same times.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[tuple[int, int], tuple[int, int, int, str]] | None = None
        self._new: dict[tuple[int, int], tuple[int, int, int, str]] = {}
        self._directories: dict[bytes, bytes] = {}

    def __enter__(self) -> FileDigests:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def lookup(self, found: os.stat_result) -> str | None:
        """The digest of a file in exactly this state, or None."""
        key = (found.st_dev, found.st_ino)
        row = self._new.get(key) or self._load().get(key)
        if row is None or row[:3] != (found.st_ctime_ns, found.st_mtime_ns, found.st_size):
            return None
        return row[3]

    def remember(self, found: os.stat_result, digest: str) -> None:
        """``found`` must have been taken before the file was read."""
        newest = max(found.st_ctime_ns, found.st_mtime_ns)
        coarse = found.st_ctime_ns % 1_000_000_000 == 0
        if time.time_ns() - newest < (_SETTLED_COARSE_NS if coarse else _SETTLED_NS):
            return
        self._new[(found.st_dev, found.st_ino)] = (found.st_ctime_ns, found.st_mtime_ns, found.st_size, digest)
        if len(self._new) >= _WAITING:
            self.flush()

    def lookup_directories(self, states: Sequence[bytes]) -> dict[bytes, bytes]:
        """The digests kept for these states of directories."""
        found: dict[bytes, bytes] = {}
        for start in range(0, len(states), _BATCH):
            part = tuple(states[start : start + _BATCH])
            marks = ",".join("?" * len(part))
            query = f"SELECT state, digest, used_seconds FROM directory_digests WHERE state IN ({marks})"  # noqa: S608
            now = time.time()
            for state, digest, used in self._database.rows(query, part):
                found[bytes(state)] = bytes(digest)  # type: ignore[call-overload]
                if now - int(str(used)) > _TOUCH_SECONDS:
                    self._directories[bytes(state)] = bytes(digest)  # type: ignore[call-overload]
        return found

    def remember_directory(self, state: bytes, digest: bytes) -> None:
        """Keep the digest of a directory in this state; the caller knows that it is not too new."""
        self._directories[state] = digest

    def flush(self) -> None:
        """Write what is waiting."""
        if not self._new and not self._directories:
            return
        now = int(time.time())
        with self._database.transaction() as database:
            database.executemany(
                "INSERT OR REPLACE INTO directory_digests VALUES (?, ?, ?)",
                [(state, digest, now) for state, digest in self._directories.items()],
            )
            database.executemany(
                "INSERT OR REPLACE INTO file_digests VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(_signed(device), _signed(inode), *row[:3], row[3], now) for (device, inode), row in self._new.items()],
            )
        if self._known is not None:
            self._known.update(self._new)
        self._new.clear()
        self._directories.clear()

    def _load(self) -> dict[tuple[int, int], tuple[int, int, int, str]]:
        """All rows at once: a build asks for nearly all of them, and one query for each would cost more."""
        if self._known is None:
            self._known = {
                (device % (1 << 64), inode % (1 << 64)): (ctime_ns, mtime_ns, size, digest)
                for device, inode, ctime_ns, mtime_ns, size, digest in cast(
                    "list[tuple[int, int, int, int, int, str]]",
                    self._database.rows("SELECT device, inode, ctime_ns, mtime_ns, size, digest FROM file_digests"),
                )
            }
        return self._known


def _signed(number: int) -> int:
    """SQLite's integers are signed; inode numbers are not."""
    return number - (1 << 64) if number >= 1 << 63 else number
