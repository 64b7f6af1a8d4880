from __future__ import annotations

import gzip
import hashlib
import os
import random
import subprocess
import threading
import zlib
from contextlib import closing

import pytest

from contain.registry import gzip_blocks
from contain.registry.gzip_blocks import BLOCK_BYTES, GzipBlocks, deflate_block

_RANDOM = random.Random(1)
NOISE = _RANDOM.randbytes(BLOCK_BYTES)
WORDS = b" ".join(b"%x" % _RANDOM.randrange(1 << 20) for _ in range(BLOCK_BYTES // 6 + 1000))[:BLOCK_BYTES]

CONTENTS = {
    "nothing": b"",
    "one byte": b"x",
    "less than a block": WORDS[:70_000],
    "a block": WORDS,
    "a block and a byte": WORDS + b"x",
    "words, noise, zeros, words": WORDS + NOISE + bytes(2 * BLOCK_BYTES + 5) + WORDS[::-1],
    "noise": NOISE * 2 + NOISE[:1000],
}


def pack(data: bytes, *, threads: int, piece_bytes: int = BLOCK_BYTES) -> bytes:
    with closing(GzipBlocks(threads)) as packer:
        packed = [packer.compress(data[at : at + piece_bytes]) for at in range(0, len(data), piece_bytes)]
        return b"".join(packed) + packer.flush()


@pytest.mark.parametrize("name", CONTENTS)
def test_any_gzip_reads_what_was_packed(name: str) -> None:
    packed = pack(CONTENTS[name], threads=2)
    assert gzip.decompress(packed) == CONTENTS[name]
    assert subprocess.run(["gzip", "-dc"], input=packed, capture_output=True, check=True).stdout == CONTENTS[name]
    member = zlib.decompressobj(31)  # one member, and nothing behind it
    member.decompress(packed)
    assert member.eof
    assert not member.unused_data


@pytest.mark.parametrize("name", CONTENTS)
def test_the_bytes_are_the_same_for_every_number_of_threads_and_size_of_pieces(name: str) -> None:
    found = {
        hashlib.sha256(pack(CONTENTS[name], threads=threads, piece_bytes=piece_bytes)).hexdigest()
        for threads, piece_bytes in ((1, BLOCK_BYTES), (1, 99_991), (2, 1_500_000), (3, BLOCK_BYTES), (8, 99_991))
    }
    assert len(found) == 1


def test_the_order_in_which_threads_finish_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first block is held back until all that may run beside it are done."""
    data = CONTENTS["words, noise, zeros, words"]
    alone = pack(data, threads=1)
    others = threading.Semaphore(0)

    def late(block: bytes, before: bytes) -> bytes:
        packed = deflate_block(block, before)
        if before:
            others.release()
        else:
            for _ in range(3):
                assert others.acquire(timeout=30)
        return packed

    monkeypatch.setattr(gzip_blocks, "deflate_block", late)
    assert pack(data, threads=2) == alone


def test_the_header_tells_no_time_no_name_no_system() -> None:
    assert pack(b"x", threads=1)[:10].hex() == "1f8b08000000000000ff"


def test_what_does_not_shrink_is_stored_and_grows_by_a_thousandth_at_most() -> None:
    packed = pack(NOISE * 4, threads=2)
    assert len(packed) < 4 * BLOCK_BYTES * 1.001
    assert NOISE[:1000] in packed


def test_a_block_is_packed_with_the_help_of_the_one_before() -> None:
    again, rest = NOISE[:30_000], WORDS[:20_000]
    assert len(deflate_block(again + rest, again)) + 25_000 < len(deflate_block(again + rest, b""))


@pytest.mark.parametrize("end", ["flushed", "given up"])
def test_no_thread_outlives_the_packing(end: str) -> None:
    before = set(threading.enumerate())
    with closing(GzipBlocks(4)) as packer:
        packer.compress(os.urandom(BLOCK_BYTES) * 6)
        assert set(threading.enumerate()) > before
        if end == "flushed":
            packer.flush()
    assert set(threading.enumerate()) <= before
