"""Compiled system call filters on disk, found by everything that they were made from, and verified before they are used.

A file is used only if it and its directory belong to this process's user and nobody else may write to them, and if it is whole: a
checksum of its name and its filter stands before the filter. Otherwise the filter is made anew. Who could forge the checksum is the
user, and needs no forgery. A cache that cannot be written is no error.
"""

from __future__ import annotations

import binascii
import contextlib
import os
import stat
from collections.abc import Callable, Collection

from contain.linux.capabilities import mask_of

COMPILER = "2"
"""Changes whenever a filter for the same inputs would. A test holds it to that."""

_CHECKSUM_BYTES = 8  # a multiple of an instruction
_MOST_BYTES = 4096 * 8  # BPF_MAXINSNS


def cache_key(*, profile: str | None, machine: str, capabilities: Collection[str], kernel: tuple[int, int]) -> str:
    """The name of the file for these inputs: all of what a filter depends on. ``profile`` None: the default policy."""
    parts = [COMPILER, machine, f"{mask_of(capabilities):x}", *map(str, kernel)]
    if profile is None:
        return "-".join(("default", *parts))
    from hashlib import sha256  # takes as long to import as all else here

    return "-".join(("profile", *parts, sha256(profile.encode("utf-8", "surrogatepass")).hexdigest()))


def _checksum(key: str, program: bytes) -> bytes:
    return binascii.crc32(program, binascii.crc32(key.encode())).to_bytes(_CHECKSUM_BYTES, "little")


def _is_ours(descriptor: int, kind: Callable[[int], bool]) -> bool:
    state = os.fstat(descriptor)
    return kind(state.st_mode) and state.st_uid == os.geteuid() and not state.st_mode & 0o022


def _read(directory: int, key: str) -> bytes | None:
    try:
        descriptor = os.open(key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return None
    try:
        if not _is_ours(descriptor, stat.S_ISREG):
            return None
        data = os.read(descriptor, _CHECKSUM_BYTES + _MOST_BYTES + 1)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    program = data[_CHECKSUM_BYTES:]
    if not program or len(program) % 8 or len(program) > _MOST_BYTES:
        return None
    return program if _checksum(key, program) == data[:_CHECKSUM_BYTES] else None


def _write(directory: int, key: str, program: bytes) -> None:
    aside = f"{key}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        descriptor = os.open(aside, flags, 0o600, dir_fd=directory)
        try:
            os.write(descriptor, _checksum(key, program) + program)
        finally:
            os.close(descriptor)
        os.rename(aside, key, src_dir_fd=directory, dst_dir_fd=directory)


def cached_filter(place: str, key: str, make: Callable[[], bytes]) -> bytes:
    """The filter that is kept under ``key`` in the directory ``place``, or the one that ``make`` makes, which is kept then."""
    try:
        os.makedirs(place, mode=0o700, exist_ok=True)
        directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return make()
    try:
        if not _is_ours(directory, stat.S_ISDIR):
            return make()
        found = _read(directory, key)
        if found is None:
            found = make()
            _write(directory, key, found)
        return found
    finally:
        os.close(directory)
