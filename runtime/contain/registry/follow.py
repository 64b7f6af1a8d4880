"""A blob that is unpacked while it still arrives: the same bytes for a reader in another thread, as soon as they are on disk.

Theory of operation. The thread that downloads writes through `Follower` into the store's ingest; the one that unpacks reads what
the ingest has so far (`Follower.readinto`, by position, so that neither moves the other) and waits for more. The reader is told that
the blob has ended only after `complete`: after its digest was found to be right and it is in the store. So nothing is made
visible from bytes that nobody has verified. When bytes that were given out turn out to be void (another source, another attempt), the
follower is `broken` for good: what was unpacked is thrown away, and the caller unpacks the finished blob.

Decides nothing about where bytes come from, and never changes them.
"""

from __future__ import annotations

import os
import threading

from contain.annotations import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from contain.store.blobs import BlobIngest


class NotFollowed(Exception):
    """The blob did not arrive, or not in one go. Never leaves the package."""


class Follower:
    """A sink for one thread (`follow`, `write`, then `complete` or `give_up`), a source of bytes for another (`readinto`)."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._ingest: BlobIngest | None = None
        self._descriptor = -1
        self._there = self._at = 0
        self._complete = False
        self.broken = False

    # The writer's side.

    def follow(self, ingest: BlobIngest) -> None:
        """Bytes go into this ingest from now on; what it has already is there for the reader."""
        descriptor = ingest.open_beside()
        with self._changed:
            self._ingest = ingest
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._descriptor, self._there = descriptor, ingest.offset
            if self._at or descriptor < 0:  # given out already, or brought by another process: nothing to read along
                self.broken = True
            self._changed.notify()

    @property
    def offset(self) -> int:
        """How much of the blob is there."""
        assert self._ingest is not None
        return self._ingest.offset

    def write(self, data: bytes) -> None:
        """Take the next piece."""
        assert self._ingest is not None
        self._ingest.write(data)
        with self._changed:
            self._there = self._ingest.offset
            self._changed.notify()

    def complete(self) -> None:
        """All of it is there and right: the reader may find the end."""
        with self._changed:
            self._complete = True
            self._changed.notify()

    def give_up(self) -> None:
        """No more will come: a reader that waits fails."""
        with self._changed:
            self.broken = True
            self._changed.notify()

    # The reader's side.

    def readinto(self, buffer: WriteableBuffer) -> int:
        """What is there, at least one byte except at the end. Raises `NotFollowed`."""
        view = memoryview(buffer).cast("B")
        with self._changed:
            self._changed.wait_for(lambda: self.broken or self._complete or self._at < self._there)
            if self.broken:
                raise NotFollowed
            at, count = self._at, min(len(view), self._there - self._at)
            self._at += count
        return os.preadv(self._descriptor, [view[:count]], at) if count else 0

    def close(self) -> None:
        """After both sides have ended."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
