"""Documents that refer to an image (OCI ``subject``): which ones, and what they consist of. Rows and blobs; reads no document.

A referrer lives as long as its image: `contain.store.images` asks here which blobs it must keep, and drops the rows of images
that are gone. Source: image-spec 1.1, ``manifest.md`` (``subject``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from contain.store.blobs import Blobs
from contain.store.database import Database
from contain.values import dataclass, field

# Made where it is missing, not by the schema's version: a store without it is a store without referrers.
_TABLE = """
CREATE TABLE IF NOT EXISTS referrers (
  subject TEXT NOT NULL,
  digest TEXT NOT NULL,
  artifact_type TEXT NOT NULL,
  blobs TEXT NOT NULL,
  annotations TEXT NOT NULL,
  added_ns INTEGER NOT NULL,
  PRIMARY KEY (subject, digest)
) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReferrer:
    """An artifact whose subject is an image. ``digest`` is its manifest's, ``blobs`` those of its config and its documents."""

    subject: str
    digest: str
    artifact_type: str
    blobs: tuple[str, ...]
    annotations: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


class Referrers:
    """The referrers of one store's images."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database, self._blobs = database, blobs

    def put(
        self, subject: str, manifest: bytes, contents: Sequence[bytes], *, artifact_type: str, annotations: Mapping[str, str]
    ) -> str:
        """Write an artifact and remember whose it is. Under the collection barrier; the subject was checked. Returns its digest."""
        blobs = [self._blobs.write(data) for data in contents]
        digest = self._blobs.write(manifest)
        with self._database.transaction() as database:
            database.execute(_TABLE)
            database.execute(
                "INSERT OR REPLACE INTO referrers VALUES (?, ?, ?, ?, ?, ?)",
                (subject, digest, artifact_type, json.dumps(blobs), json.dumps(dict(annotations)), time.time_ns()),
            )
        return digest

    def of(self, subject: str) -> tuple[StoredReferrer, ...]:
        """Those of one image, the newest first."""
        return tuple(_row(row) for row in self._rows("WHERE subject = ? ORDER BY added_ns DESC, digest", (subject,)))

    def blobs_of(self, subjects: Collection[str]) -> set[str]:
        """Everything that the referrers of these images consist of."""
        found: set[str] = set()
        for row in map(_row, self._rows("", ())):
            if row.subject in subjects:
                found |= {row.digest, *row.blobs}
        return found

    def forget(self, subjects: Collection[str]) -> None:
        """Drop the rows of images that are gone."""
        if self._exists():
            with self._database.transaction() as database:
                database.executemany("DELETE FROM referrers WHERE subject = ?", [(subject,) for subject in subjects])

    def _exists(self) -> bool:
        return bool(self._database.rows("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'referrers'"))

    def _rows(self, condition: str, values: tuple[object, ...]) -> list[tuple[object, ...]]:
        if not self._exists():
            return []
        return self._database.rows(
            f"SELECT subject, digest, artifact_type, blobs, annotations FROM referrers {condition}",  # noqa: S608 - a constant
            values,
        )


def _row(row: tuple[object, ...]) -> StoredReferrer:
    subject, digest, artifact_type, blobs, annotations = map(str, row)
    return StoredReferrer(
        subject=subject,
        digest=digest,
        artifact_type=artifact_type,
        blobs=tuple(json.loads(blobs)),
        annotations=MappingProxyType(json.loads(annotations)),
    )
