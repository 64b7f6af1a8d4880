"""The store's directories: making them, scratch space that a dead process cannot leave behind for ever, and locks between
processes.

``$CONTAIN_HOME/``: ``oci-layout``, ``blobs/sha256/<hex>``, ``layers/<hex>/{layer.json,tree/}``, ``state.sqlite3``, ``locks/``,
``leases/``, ``ingest/`` (downloads that are not complete), ``tmp/``. A scratch directory is ``tmp/<purpose>.<random>/``, with a
file ``lock`` that its owner holds with flock(2) and a directory ``work`` that is handed out. Whoever opens the store removes
those whose lock is free: the kernel frees it when the owner dies, however it dies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

from contain.errors import HostError, InternalError
from contain.oci import is_digest
from contain.paths import HostPath
from contain.store.durable import explained, held_lock, remove_tree, spread_apart, try_lock, write_aside

_LAYOUT_FILE = b'{"imageLayoutVersion":"1.0.0"}'
_WRITE_SECONDS = 600
_KEY_DIGITS = 15
_PLAIN_NAME = r"[a-z0-9][a-z0-9._-]{0,80}"


def hex_of(digest: str) -> str:
    """The hexadecimal part of a digest, the only part that may become a file name."""
    if not is_digest(digest):
        raise InternalError(f"not a sha256 digest: {digest[:100]!r}", code="bad-digest")
    return digest.removeprefix("sha256:")


class Layout:
    """Paths below the store's home."""

    def __init__(self, home: HostPath) -> None:
        self.home = home
        self.blobs = home / "blobs" / "sha256"
        self.layers = home / "layers"
        self.locks = home / "locks"
        self.leases = home / "leases"
        self.temporary = home / "tmp"
        self.ingest = home / "ingest"
        self.database = home / "state.sqlite3"

    def blob(self, digest: str) -> HostPath:
        """Where a blob is, or would be."""
        return self.blobs / hex_of(digest)

    def layer(self, diff_id: str) -> HostPath:
        """Where a layer's directory is, or would be."""
        return self.layers / hex_of(diff_id)

    def prepare(self) -> None:
        """Make what is missing, private to this user, and sweep what dead processes left."""
        try:
            with explained(self.home):
                self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
                for directory in (
                    self.blobs.parent,
                    self.blobs,
                    self.layers,
                    self.locks,
                    self.leases,
                    self.temporary,
                    self.ingest,
                ):
                    directory.mkdir(mode=0o700, exist_ok=True)
                spread_apart(self.temporary)
                if os.stat(self.home).st_mode & 0o7777 != 0o700:
                    os.chmod(self.home, 0o700)
                if not (self.home / "oci-layout").exists():
                    write_aside(self.home / "oci-layout", _LAYOUT_FILE, aside=self.temporary)
        except PermissionError as error:
            raise HostError(
                "the store's directory cannot be used by this user",
                path=str(self.home),
                errno=error.errno or 0,
                remedy="run as the user who owns it, or set CONTAIN_HOME to a directory of your own",
                code="store-permission",
            ) from error
        self.sweep()

    def sweep(self) -> int:
        """Remove the scratch directories of dead processes. Returns how many. Skipped when another process is at it."""
        guard = try_lock(self.locks / "scratch")
        if guard is None:
            return 0
        removed = 0
        try:
            for name in os.listdir(self.temporary):
                path = self.temporary / name
                lock = None
                with suppress(FileNotFoundError):
                    if not path.is_dir() and time.time() - path.stat().st_mtime < _WRITE_SECONDS:
                        continue  # a small file on its way to its place has no lock; it takes milliseconds
                    if path.is_dir() and (path / "lock").exists():
                        lock = try_lock(path / "lock", create=False)
                        if lock is None:
                            continue  # its owner lives
                try:
                    remove_tree(path)
                    removed += 1
                except OSError:
                    pass  # for example a mount point of another namespace; the next sweep tries again
                finally:
                    if lock is not None:
                        os.close(lock)
        finally:
            os.close(guard)
        return removed

    @contextmanager
    def scratch(self, purpose: str) -> Iterator[HostPath]:
        """A fresh directory (mode 0755, inside private ones) on the store's file system; removed afterwards with all it holds."""
        path = self.temporary / f"{_plain(purpose)}.{os.urandom(8).hex()}"
        with ExitStack() as stack:
            with explained(path), held_lock(self.locks / "scratch", shared=True):
                # A sweeper holds this lock exclusively, so it never sees a directory whose own lock is not held yet.
                path.mkdir(mode=0o700)
                lock = try_lock(path / "lock")
                assert lock is not None
                stack.callback(os.close, lock)
                work = path / "work"
                work.mkdir()
                os.chmod(work, 0o755)  # noqa: S103 -- whatever the umask: it may become a container's root directory
            try:
                yield work
            finally:
                with suppress(OSError):  # what cannot be removed now is swept later; it never hides the block's own error
                    remove_tree(path)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Wait until no other process or thread holds the lock of this name, and hold it in the block."""
        from filelock import FileLock

        with FileLock(self.locks / f"{_plain(name)}.lock", poll_interval=0.02):
            yield

    def try_lock(self, name: str) -> Callable[[], None] | None:
        """Take the lock of this name if nobody holds it; returns what releases it, or None."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.locks / f"{_plain(name)}.lock", blocking=False)
        try:
            lock.acquire()
        except Timeout:
            return None
        return lock.release

    def try_lock_key(self, key: str) -> Callable[[], None] | None:
        """Take the lock of a step's key if nobody holds it; returns what releases it, or None.

        All keys share one file, in which each locks a byte of its own (fcntl(2), open file description locks): no two keys wait
        for each other, and no file is left for each.
        """
        descriptor = os.open(self.locks / "steps", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        place = int(hex_of(key)[:_KEY_DIGITS], 16)
        # struct flock: l_type, l_whence, l_start, l_len, l_pid
        wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return None
            raise
        return partial(os.close, descriptor)

    @contextmanager
    def collection_barrier(self, *, collecting: bool) -> Iterator[None]:
        """Held shared while something new is published or named, exclusively while unreachable things are removed."""
        with held_lock(self.locks / "collect", shared=not collecting):
            yield

    @contextmanager
    def lease(self, digests: Iterator[str] | tuple[str, ...]) -> Iterator[None]:
        """Keep images and layers from being pruned while the block runs, or until this process dies."""
        path = self.leases / os.urandom(12).hex()
        with held_lock(self.locks / "lease", shared=True):
            descriptor = try_lock(path)
            assert descriptor is not None
            os.write(descriptor, "\n".join(digests).encode())
        try:
            yield
        finally:
            with suppress(FileNotFoundError):
                path.unlink()
            os.close(descriptor)

    def leased(self) -> set[str]:
        """What living processes hold leases on. Removes the leases of dead ones."""
        found: set[str] = set()
        with held_lock(self.locks / "lease"):
            for path in self.leases.iterdir():
                descriptor = None
                with suppress(FileNotFoundError):
                    descriptor = try_lock(path, create=False)
                    if descriptor is not None:
                        path.unlink()
                        os.close(descriptor)
                    else:
                        found.update(path.read_text().split())
        return found


def _plain(name: str) -> str:
    """A file name for any text: itself when harmless, else a hash of it."""
    if re.fullmatch(_PLAIN_NAME, name):
        return name
    import hashlib

    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:40]
