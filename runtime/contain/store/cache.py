"""The build cache's rows and the index of file digests. Keeps and finds; what a key consists of is the build's decision."""

from __future__ import annotations

import os
import time

from contain.store.database import Database
from contain.store.layers import Layers
from contain.values import dataclass

_BATCH = 500
_SETTLED_NS = 100_000_000
_SETTLED_COARSE_NS = 2_000_000_000
_USED_AGAIN_SECONDS = 3600
_COLUMNS = "key, position, ingredients, diff_id, size_bytes, result, created_seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One build step that was carried out.

    ``key`` is the digest of ``ingredients`` (canonical JSON). ``position`` says which step of which Dockerfile it was, to find
    what changed since. ``diff_id`` is None when the step changed no file. ``result``: canonical JSON of whatever else the build
    wants to know again.
    """

    key: str
    position: str
    ingredients: str
    diff_id: str | None
    size_bytes: int = 0
    result: str = "{}"
    created_seconds: int = 0


class Cache:
    """Rows of build steps."""

    def __init__(self, database: Database, layers: Layers) -> None:
        self._database, self._layers = database, layers

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
                f"INSERT OR REPLACE INTO steps ({_COLUMNS}, used_seconds) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                (
                    record.key,
                    record.position,
                    record.ingredients,
                    record.diff_id,
                    record.size_bytes,
                    record.result,
                    record.created_seconds or now,
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


def _record(row: tuple[object, ...]) -> StepRecord:
    key, position, ingredients, diff_id, size_bytes, result, created = row[:7]
    return StepRecord(
        key=str(key),
        position=str(position),
        ingredients=str(ingredients),
        diff_id=None if diff_id is None else str(diff_id),
        size_bytes=int(str(size_bytes)),
        result=str(result),
        created_seconds=int(str(created)),
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
        if len(self._new) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        if not self._new:
            return
        now = int(time.time())
        with self._database.transaction() as database:
            database.executemany(
                "INSERT OR REPLACE INTO file_digests VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(_signed(device), _signed(inode), *row[:3], row[3], now) for (device, inode), row in self._new.items()],
            )
        if self._known is not None:
            self._known.update(self._new)
        self._new.clear()

    def _load(self) -> dict[tuple[int, int], tuple[int, int, int, str]]:
        """All rows at once: a build asks for nearly all of them, and one query for each would cost more."""
        if self._known is None:
            self._known = {
                (int(str(row[0])) % (1 << 64), int(str(row[1])) % (1 << 64)): (
                    int(str(row[2])),
                    int(str(row[3])),
                    int(str(row[4])),
                    str(row[5]),
                )
                for row in self._database.rows("SELECT device, inode, ctime_ns, mtime_ns, size, digest FROM file_digests")
            }
        return self._known


def _signed(number: int) -> int:
    """SQLite's integers are signed; inode numbers are not."""
    return number - (1 << 64) if number >= 1 << 63 else number
