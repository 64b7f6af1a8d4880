from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import threading
import tracemalloc
import zlib

import pytest
import zstandard

from contain.errors import IntegrityError, NotSupported
from contain.store.compression import Decompressed, verify_media_type

TEXT = os.urandom(1000) * 700 + b"end"
SKIPPABLE = b"\x50\x2a\x4d\x18" + (50).to_bytes(4, "little") + bytes(50)

PACKED = {
    "none": TEXT,
    "gzip": gzip.compress(TEXT),
    "gzip-members": gzip.compress(TEXT[:100]) + gzip.compress(b"") + gzip.compress(TEXT[100:]),
    "gzip-padded": gzip.compress(TEXT) + bytes(1000),
    "zstd": zstandard.ZstdCompressor().compress(TEXT),
    "zstd-frames": zstandard.ZstdCompressor().compress(TEXT[:7])
    + SKIPPABLE
    + zstandard.ZstdCompressor().compress(TEXT[7:])
    + SKIPPABLE,
    "zstd-skippable-first": SKIPPABLE + zstandard.ZstdCompressor().compress(TEXT),
    "xz": lzma.compress(TEXT),
    "xz-streams": lzma.compress(TEXT[:9]) + bytes(4) + lzma.compress(TEXT[9:]),
    "bzip2": bz2.compress(TEXT),
    "bzip2-streams": bz2.compress(TEXT[:9]) + bz2.compress(TEXT[9:]),
}


class Dribble:
    """A source that gives a few bytes at a time, as sockets do."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    def read(self, size: int, /) -> bytes:
        return self.file.read(min(size, 997))


def unpack(data: bytes) -> bytes:
    """With and without a thread; both give the same bytes or the same error."""
    found = []
    for ahead in (False, True):
        before = set(threading.enumerate())
        with Decompressed(io.BytesIO(data), ahead=ahead) as source:
            out = b""
            try:
                while piece := source.read(1 << 20):
                    out += piece
                found.append(out)
            except IntegrityError as error:
                failure = error
        assert set(threading.enumerate()) <= before
    assert len(found) in (0, 2)
    if not found:
        raise failure
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize("name", PACKED)
def test_every_packing_gives_the_same_bytes(name: str) -> None:
    source = Decompressed(Dribble(PACKED[name]))
    assert source.format == name.split("-", maxsplit=1)[0]
    assert unpack(PACKED[name]) == TEXT


@pytest.mark.parametrize("name", PACKED)
def test_reads_give_exactly_what_was_asked_for_until_the_end(name: str) -> None:
    source = Decompressed(Dribble(PACKED[name]))
    sizes = []
    while piece := source.read(512):
        sizes.append(len(piece))
    assert set(sizes[:-1]) == {512}
    assert sum(sizes) == len(TEXT)


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz", "bzip2"])
@pytest.mark.parametrize("missing", [1, 5, 1000])
def test_a_stream_that_is_cut_short_is_refused(name: str, missing: int) -> None:
    with pytest.raises(IntegrityError):
        unpack(PACKED[name][:-missing])


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz", "bzip2"])
def test_bytes_behind_the_end_are_refused(name: str) -> None:
    with pytest.raises(IntegrityError):
        unpack(PACKED[name] + b"garbage behind the end")


@pytest.mark.parametrize("name", ["gzip", "xz", "bzip2"])
def test_a_flipped_bit_is_refused(name: str) -> None:
    data = bytearray(PACKED[name])
    data[len(data) // 2] ^= 0x10
    with pytest.raises(IntegrityError):
        unpack(bytes(data))


def test_a_reader_that_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    data = gzip.compress(os.urandom(1 << 20) * 40, 1)
    with Decompressed(io.BytesIO(data), ahead=True) as source:
        source.read(10)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_a_bomb_is_never_held_in_memory() -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    zstd_bomb = zstandard.ZstdCompressor(level=19).compress(bytes(64 << 20))
    for data in (bomb, zstd_bomb):
        tracemalloc.start()
        try:
            total = 0
            source = Decompressed(io.BytesIO(data), ahead=True)
            while piece := source.read(1 << 20):
                total += len(piece)
            assert total == 64 << 20
            assert tracemalloc.get_traced_memory()[1] < 24 << 20
        finally:
            tracemalloc.stop()


def test_the_commands_that_people_use_are_understood() -> None:
    for command in (["gzip", "-c"], ["zstd", "-c", "--long=27"], ["xz", "-c"], ["bzip2", "-c"]):
        try:
            packed = subprocess.run(command, input=TEXT, capture_output=True, check=True).stdout
        except FileNotFoundError:
            continue
        assert unpack(packed) == TEXT


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ],
)
def test_the_media_types_of_layers_are_accepted(media_type: str) -> None:
    verify_media_type(media_type)


@pytest.mark.parametrize(
    "media_type", ["", "application/json", "application/vnd.oci.image.layer.v1.tar+encrypted", "application/vnd.in-toto+json"]
)
def test_other_media_types_are_refused_by_name(media_type: str) -> None:
    with pytest.raises(NotSupported, match="media type"):
        verify_media_type(media_type)
