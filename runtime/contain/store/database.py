"""The store's SQLite database: names, images, build cache, file digests. Schema and connection only; the queries are where
they are used.

WAL, so that readers never wait for a writer; a busy timeout, so that writers wait for each other; every change in one
transaction, so that a process killed at any moment leaves the state before or after it. A connection is never carried over a
fork.
"""

from __future__ import annotations

import os
import sqlite3
from _thread import RLock  # `threading`'s own, without the millisecond that importing it takes
from collections.abc import Iterator
from contextlib import contextmanager

from contain.errors import HostError, IntegrityError
from contain.paths import HostPath

SCHEMA_VERSION = 2
_BUSY_SECONDS = 30.0

_SCHEMA = """
CREATE TABLE images (
  digest TEXT PRIMARY KEY,
  source TEXT NOT NULL,
  added_seconds INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE names (
  name TEXT PRIMARY KEY,
  digest TEXT NOT NULL REFERENCES images (digest),
  source TEXT NOT NULL,
  set_seconds INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE name_history (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL,
  digest TEXT,
  source TEXT NOT NULL,
  set_seconds INTEGER NOT NULL
);
CREATE TABLE layer_blobs (
  diff_id TEXT NOT NULL,
  digest TEXT NOT NULL,
  media_type TEXT NOT NULL,
  PRIMARY KEY (diff_id, digest)
) WITHOUT ROWID;
CREATE TABLE steps (
  key TEXT PRIMARY KEY,
  position TEXT NOT NULL,
  ingredients TEXT NOT NULL,
  diff_id TEXT,
  size_bytes INTEGER NOT NULL,
  result TEXT NOT NULL,
  created_seconds INTEGER NOT NULL,
  used_seconds INTEGER NOT NULL,
  command TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX steps_by_position ON steps (position, created_seconds);
CREATE INDEX steps_by_command ON steps (command, created_seconds);
CREATE TABLE listings (
  digest TEXT PRIMARY KEY,
  data BLOB NOT NULL,
  used_seconds INTEGER NOT NULL
);
CREATE TABLE directory_digests (
  state BLOB PRIMARY KEY,
  digest BLOB NOT NULL,
  used_seconds INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE file_digests (
  device INTEGER NOT NULL,
  inode INTEGER NOT NULL,
  ctime_ns INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL,
  size INTEGER NOT NULL,
  digest TEXT NOT NULL,
  used_seconds INTEGER NOT NULL,
  PRIMARY KEY (device, inode)
) WITHOUT ROWID;
"""

_UPGRADES = {
    1: """
ALTER TABLE steps ADD COLUMN command TEXT NOT NULL DEFAULT '';
CREATE INDEX steps_by_command ON steps (command, created_seconds);
CREATE TABLE listings (
  digest TEXT PRIMARY KEY,
  data BLOB NOT NULL,
  used_seconds INTEGER NOT NULL
);
CREATE TABLE directory_digests (
  state BLOB PRIMARY KEY,
  digest BLOB NOT NULL,
  used_seconds INTEGER NOT NULL
) WITHOUT ROWID;
""",
}
"""From the version of the key to the next one."""


class Database:
    """Opens its connection when it is first needed; one per process, shared by its threads under a lock."""

    def __init__(self, path: HostPath) -> None:
        self.path = path
        self._lock = RLock()
        self._connection: sqlite3.Connection | None = None
        self._process = 0

    def close(self) -> None:
        """Close the connection, if this process opened one."""
        with self._lock:
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
            self._connection = None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All changes in the block happen, or none. Writers wait for each other at its beginning."""
        with self._lock, self._explained():
            connection = self._connect()
            if connection.in_transaction:  # nested: part of the outer one
                yield connection
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def rows(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
        """The rows of a query, all at once."""
        with self._lock, self._explained():
            return self._connect().execute(query, values).fetchall()

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None or self._process != os.getpid():
            # After a fork the inherited connection is left alone, not even closed: its locks are the parent's.
            self._connection = self._open()
            self._process = os.getpid()
        return self._connection

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA synchronous = FULL")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                version = self._create(connection)
            if version in _UPGRADES:
                version = self._upgrade(connection)
            if version != SCHEMA_VERSION:
                raise HostError(
                    f"the store's database has schema version {version}; this contain knows version {SCHEMA_VERSION}",
                    path=str(self.path),
                    remedy="use the contain that wrote it, or another CONTAIN_HOME",
                    code="store-version",
                )
        except BaseException:
            connection.close()
            raise
        return connection

    @staticmethod
    def _create(connection: sqlite3.Connection) -> int:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if version == 0:  # nobody else was faster
                for statement in _SCHEMA.split(";"):
                    if statement.strip():
                        connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                version = SCHEMA_VERSION
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        return version

    @staticmethod
    def _upgrade(connection: sqlite3.Connection) -> int:
        connection.execute("BEGIN IMMEDIATE")
        try:
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            while version in _UPGRADES:  # perhaps somebody else was faster
                for statement in _UPGRADES[version].split(";"):
                    if statement.strip():
                        connection.execute(statement)
                version += 1
                connection.execute(f"PRAGMA user_version = {version}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        return version

    def _has_no_room(self) -> bool:
        """SQLite calls it an I/O error if its shared memory or journal cannot grow."""
        try:
            return os.statvfs(self.path.parent).f_bavail == 0
        except OSError:
            return False

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "full" in str(error) or ("I/O error" in str(error) and self._has_no_room()):
                raise HostError(
                    "the disk of the store is full; nothing was changed",
                    path=str(self.path),
                    remedy="free space there, or set CONTAIN_HOME to a larger disk",
                    code="store-full",
                ) from error
            raise HostError(f"the store's database: {error}", path=str(self.path), code="store-database") from error
        except sqlite3.DatabaseError as error:
            raise IntegrityError(
                f"the store's database is damaged: {error} [{self.path}]",
                remedy="move the file away; images are found again when they are built or pulled",
                code="store-database",
            ) from error
