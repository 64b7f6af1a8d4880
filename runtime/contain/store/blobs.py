"""Content-addressed blobs: manifests, configs, and layers as they were pulled.

A blob is visible under its digest only when all of it is there and right. An interrupted download keeps its bytes aside, under
the digest that they are meant to have, so that the next attempt goes on where it stopped.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from contain.annotations import BinaryIO
from contain.errors import IntegrityError, NotFound
from contain.oci import digest_of
from contain.paths import HostPath
from contain.store.durable import explained, fsync_directory, write_aside
from contain.store.layout import Layout, hex_of
from contain.store.lookup import is_there, read_blob

_CHUNK_BYTES = 1 << 20


class BlobIngest:
    """A blob on its way in. Write from ``offset`` on; `commit` makes it visible.

    When another process brought it in the meantime, ``offset`` is the whole size from the beginning.
    """

    def __init__(self, digest: str, size_bytes: int, descriptor: int | None) -> None:
        self.digest, self.size_bytes = digest, size_bytes
        self.offset = size_bytes
        self.committed = False
        self._descriptor = descriptor
        self._hash = hashlib.sha256()
        if descriptor is None:
            return
        self.offset = 0
        while data := os.read(descriptor, _CHUNK_BYTES):
            self._hash.update(data)
            self.offset += len(data)
        if self.offset > size_bytes:
            self.restart()

    def write(self, data: bytes) -> None:
        """Append. Raises `IntegrityError` as soon as there is more than the promised size."""
        if self.offset + len(data) > self.size_bytes:
            self.restart()
            raise IntegrityError(
                f"{self.digest} is larger than the {self.size_bytes} bytes that were promised", code="blob-size"
            )
        if self._descriptor is None:
            return
        with explained(self.digest):
            view = memoryview(data)
            while view:
                written = os.write(self._descriptor, view)
                self._hash.update(view[:written])
                self.offset += written
                view = view[written:]

    def open_beside(self) -> int:
        """A descriptor of what is there so far, to be read by position and closed by the caller; it stays good when the ingest has
        ended. -1 when another process brought the blob."""
        if self._descriptor is None:
            return -1
        # Opened anew: a duplicate would hold the lock on the file.
        return os.open(f"/proc/self/fd/{self._descriptor}", os.O_RDONLY | os.O_CLOEXEC)

    def restart(self) -> None:
        """Throw away what is there: the server cannot resume, or sent wrong bytes."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            self._hash = hashlib.sha256()
            self.offset = 0

    def commit(self) -> None:
        """Verify size and digest, and publish when the block ends. Wrong bytes are thrown away; too few stay for the next
        attempt."""
        if self._descriptor is None:
            return
        if self.offset != self.size_bytes:
            raise IntegrityError(f"{self.digest} has {self.offset} bytes instead of {self.size_bytes}", code="blob-size")
        actual = "sha256:" + self._hash.hexdigest()
        if actual != self.digest:
            self.restart()
            raise IntegrityError(f"content of {self.digest} has the digest {actual}", code="blob-digest")
        with explained(self.digest):
            os.fsync(self._descriptor)
        self.committed = True


class Blobs:
    """The directory ``blobs/sha256``."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def path(self, digest: str) -> HostPath:
        """Where a blob is, or would be."""
        return self._layout.blob(digest)

    def has(self, digest: str) -> bool:
        """Whether all of it is here. Asking counts as use: it will not be pruned within the next hour."""
        return is_there(self.path(digest))

    def open(self, digest: str) -> BinaryIO:
        """Its content, not verified again."""
        try:
            return open(self.path(digest), "rb")
        except FileNotFoundError as error:
            raise NotFound(f"blob {digest} is not in the store", code="blob-not-found") from error

    def read(self, digest: str, *, limit_bytes: int) -> bytes:
        """Its content, verified again."""
        return read_blob(self._layout, digest, limit_bytes=limit_bytes)

    def write(self, data: bytes) -> str:
        """Store bytes; returns their digest."""
        digest = digest_of(data)
        if not self.has(digest):
            write_aside(self.path(digest), data, aside=self._layout.temporary)
        return digest

    def adopt(self, path: HostPath, digest: str) -> None:
        """Make a file on the store's file system the blob ``digest``, which it is known to hold."""
        with explained(digest):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
                os.fchmod(descriptor, 0o644)
            finally:
                os.close(descriptor)
            os.rename(path, self.path(digest))
            fsync_directory(self._layout.blobs)

    @contextmanager
    def ingest(self, digest: str, size_bytes: int) -> Iterator[BlobIngest]:
        """Receive a blob piece by piece. One process at a time does so for one digest; others wait."""
        path = self._layout.ingest / hex_of(digest)
        descriptor = self._open_partial(path)
        try:
            if self.has(digest):
                with suppress(FileNotFoundError):
                    path.unlink()
                yield BlobIngest(digest, size_bytes, None)
                return
            incoming = BlobIngest(digest, size_bytes, descriptor)
            try:
                yield incoming
                if incoming.committed:
                    os.fchmod(descriptor, 0o644)
                    os.rename(path, self.path(digest))
                    fsync_directory(self._layout.blobs)
            finally:
                if not incoming.committed and incoming.offset == 0:
                    with suppress(FileNotFoundError):
                        path.unlink()
        finally:
            os.close(descriptor)

    @staticmethod
    def _open_partial(path: HostPath) -> int:
        """The partial file, locked. It may be renamed or removed while we wait for the lock: then the next one is ours."""
        while True:
            with explained(path):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                with suppress(FileNotFoundError):
                    if os.fstat(descriptor).st_ino == path.stat().st_ino:
                        return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
