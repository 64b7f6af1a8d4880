from __future__ import annotations

import sqlite3
from pathlib import Path

from contain.store import StepRecord, Store
from contain.store.database import SCHEMA_VERSION

FIRST_STEPS = """
CREATE TABLE steps (
  key TEXT PRIMARY KEY, position TEXT NOT NULL, ingredients TEXT NOT NULL, diff_id TEXT, size_bytes INTEGER NOT NULL,
  result TEXT NOT NULL, created_seconds INTEGER NOT NULL, used_seconds INTEGER NOT NULL
) WITHOUT ROWID
"""


def test_a_database_of_the_first_version_keeps_its_records_and_gets_what_is_new(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.images()  # makes the database as it is today
    with sqlite3.connect(tmp_path / "state.sqlite3") as database:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        first = {"images", "names", "name_history", "layer_blobs", "steps", "file_digests"}
        for table in set(tables) - first | {"steps"}:
            database.execute(f"DROP TABLE {table}")
        database.execute(FIRST_STEPS)
        database.execute("CREATE INDEX steps_by_position ON steps (position, created_seconds)")
        database.execute("INSERT INTO steps VALUES ('k', 'p', '{}', NULL, 0, '{}', 7, 7)")
        database.execute("PRAGMA user_version = 1")
    database.close()
    with Store.open(tmp_path) as store:
        assert store.cached_step("k") == StepRecord(key="k", position="p", ingredients="{}", diff_id=None, created_seconds=7)
        store.put_listing("d", b"listing")
        assert store.listing("d") == b"listing"
    with sqlite3.connect(tmp_path / "state.sqlite3") as database:
        assert database.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert set(tables) <= {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
    database.close()
