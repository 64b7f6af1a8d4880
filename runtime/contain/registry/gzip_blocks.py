"""gzip made by several threads, with the same bytes however many there are.

Theory of operation. The input is cut into blocks of `BLOCK_BYTES`, wherever its pieces begin and end. Each becomes deflate data of
its own (`deflate_block`, a pure function of the block and the 32 KiB before it), ended on a byte boundary; put one after another
they are one gzip member, without a time or a name in its header. So neither threads, processors nor the sizes of reads can be
seen in the result. What does not shrink (a sample tells) is stored as it is.

zlib lets go of the interpreter lock, so blocks are deflated side by side. Memory: about 2 MiB for each thread, and as much for
each block that waits. The threads end in `GzipBlocks.close`.

Sources: RFC 1951 (deflate: 3.2.4 stored blocks, 3.2.6 fixed codes), RFC 1952 (gzip).
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

BLOCK_BYTES = 1 << 20
LEVEL = 4  # Debian's root file system: 2.4 % larger than at level 6, in half of its time; skopeo's is larger by another 2.4 %
MOST_THREADS = 8  # for each of a few layers: bounds the memory, and a disk is the limit long before
_WINDOW_BYTES = 32 << 10
_STORED_BYTES = 0xFFFF  # the longest stored block
_SAMPLE_BYTES, _SAMPLES = 1 << 10, 16
_WORTH_IT = 0.97

_HEADER = b"\x1f\x8b\x08\x00" + bytes(4) + b"\x00\xff"  # deflate, no flags, no time, no hint, system unknown (255)
_LAST_BLOCK = b"\x03\x00"  # an empty one with fixed codes, marked as the last


def deflate_block(block: bytes, before: bytes) -> bytes:
    """Deflate data of a block, not marked as the last, ended on a byte boundary. ``before``: what came before it in the stream, as
    much as deflate looks back."""
    if not _shrinks(block):
        return _stored(block)
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_DEFAULT_STRATEGY, before)
    return packer.compress(block) + packer.flush(zlib.Z_SYNC_FLUSH)


def _shrinks(block: bytes) -> bool:
    """Whether deflating is worth it, judged by slices from all over the block. What is compressed already costs as much time as
    anything else and gains nothing."""
    stride = len(block) // _SAMPLES
    if stride <= _SAMPLE_BYTES:
        return True
    sample = b"".join(block[at : at + _SAMPLE_BYTES] for at in range(0, stride * _SAMPLES, stride))
    return len(zlib.compress(sample, 1)) < _WORTH_IT * len(sample)


def _stored(block: bytes) -> bytes:
    parts = []
    for at in range(0, len(block), _STORED_BYTES):
        length = min(_STORED_BYTES, len(block) - at)
        parts += [b"\0", length.to_bytes(2, "little"), (length ^ 0xFFFF).to_bytes(2, "little"), block[at : at + length]]
    return b"".join(parts)


class GzipBlocks:
    """A compressor. ``threads``: how many deflate (default: as many as this process has processors); 1: none but the caller's."""

    def __init__(self, threads: int = 0) -> None:
        count = min(threads or len(os.sched_getaffinity(0)), MOST_THREADS)
        self._pool = ThreadPoolExecutor(max_workers=count, thread_name_prefix="gzip") if count > 1 else None
        self._most_waiting = count + 2
        self._waiting: deque[Future[bytes]] = deque()
        self._parts: list[bytes] = []
        self._held = 0  # bytes in _parts, less than a block
        self._before = b""
        self._crc = self._size = 0
        self._begun = False

    def compress(self, data: bytes, /) -> bytes:
        """Take a piece; returns what is ready, in order."""
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        done = self._begin()
        at = 0
        while self._held + len(data) - at >= BLOCK_BYTES:
            end = at + BLOCK_BYTES - self._held
            block = data if not self._held and len(data) == BLOCK_BYTES else b"".join((*self._parts, data[at:end]))
            self._parts, self._held, at = [], 0, end
            done.append(self._put(block))
        if at < len(data):
            self._parts.append(data[at:])
            self._held += len(data) - at
        return b"".join(done) if len(done) != 1 else done[0]

    def flush(self) -> bytes:
        """The rest."""
        done = self._begin()
        if self._held:
            done.append(self._put(b"".join(self._parts)))
            self._parts, self._held = [], 0
        done += [future.result() for future in self._waiting]
        self._waiting.clear()
        done += [_LAST_BLOCK, self._crc.to_bytes(4, "little"), (self._size & 0xFFFF_FFFF).to_bytes(4, "little")]
        return b"".join(done)

    def close(self) -> None:
        """End the threads, whether or not everything was taken."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self) -> list[bytes]:
        if self._begun:
            return []
        self._begun = True
        return [_HEADER]

    def _put(self, block: bytes) -> bytes:
        before, self._before = self._before, block[-_WINDOW_BYTES:]
        if self._pool is None:
            return deflate_block(block, before)
        self._waiting.append(self._pool.submit(deflate_block, block, before))
        return self._waiting.popleft().result() if len(self._waiting) > self._most_waiting else b""
