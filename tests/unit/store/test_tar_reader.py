from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from contain.errors import IntegrityError
from contain.store.tar_header import END_OF_ARCHIVE, TarEntry, TarKind, render_entry
from contain.store.tar_reader import TarLimits, TarReader


def read_all(data: bytes, **limits: int) -> list[tuple[TarEntry, bytes]]:
    reader = TarReader(io.BytesIO(data).read, TarLimits(**limits))
    found = [(entry, b"".join(reader.payload())) for entry in reader]
    reader.drain()
    return found


def damaged(data: bytes, **limits: int) -> str:
    with pytest.raises(IntegrityError) as caught:
        read_all(data, **limits)
    assert caught.value.code == "bad-layer"
    return str(caught.value)


def resummed(block: bytes) -> bytes:
    block = block[:148] + b"        " + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def with_field(start: int, value: bytes, **changes: Any) -> bytes:
    """A header in which the field at ``start`` holds something else; the checksum is right."""
    block = render_entry(replace(TarEntry(path=b"a", kind=TarKind.FILE), **changes))
    return resummed(block[:start] + value + block[start + len(value) :])


def pax(body: bytes, following: bytes | None = None) -> bytes:
    header = with_field(156, b"x", path=b"pax", size_bytes=len(body))
    after = render_entry(TarEntry(path=b"a", kind=TarKind.FILE)) if following is None else following
    return header + body + bytes(-len(body) % 512) + after + END_OF_ARCHIVE


@pytest.mark.parametrize("dialect", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_other_writers_are_read_alike(dialect: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=dialect) as writer:
        directory = tarfile.TarInfo("d" * 60)
        directory.type, directory.mode, directory.mtime = tarfile.DIRTYPE, 0o2755, 12345
        writer.addfile(directory)
        file = tarfile.TarInfo("d" * 60 + "/" + "f" * 90)
        file.size, file.uid, file.gid = 5, 1000, 1001
        writer.addfile(file, io.BytesIO(b"hello"))
        link = tarfile.TarInfo("l")
        link.type, link.linkname = tarfile.SYMTYPE, "t" * (100 if dialect == tarfile.USTAR_FORMAT else 300)
        writer.addfile(link)
    (first, _), (second, content), (third, _) = read_all(out.getvalue())
    assert (first.path.rstrip(b"/"), first.kind, first.mode, first.mtime_ns) == (
        b"d" * 60,
        TarKind.DIRECTORY,
        0o2755,
        12345 * 10**9,
    )
    assert (second.path, second.user_id, second.group_id, content) == (b"d" * 60 + b"/" + b"f" * 90, 1000, 1001, b"hello")
    assert third.link == b"t" * (100 if dialect == tarfile.USTAR_FORMAT else 300)


def test_what_is_written_is_read_back() -> None:
    entry = TarEntry(
        path="é".encode() * 80,
        kind=TarKind.FILE,
        mode=0o4755,
        user_id=3_000_000,
        group_id=7,
        size_bytes=3,
        mtime_ns=-7 * 10**9,
        xattrs={b"user.x": b"\0\n=binary\xff"},
    )
    ((found, content),) = read_all(render_entry(entry) + b"abc" + bytes(509) + END_OF_ARCHIVE)
    assert (found, content) == (entry, b"abc")


def test_gnu_base_256_numbers_are_read() -> None:
    ((entry, _),) = read_all(with_field(108, b"\x80\0\0\0\0\x40\0\0") + END_OF_ARCHIVE)
    assert entry.user_id == 0x400000
    ((entry, _),) = read_all(with_field(136, b"\xff" * 11 + b"\xfe") + END_OF_ARCHIVE)
    assert entry.mtime_ns == -2 * 10**9


def test_fractions_of_a_second_are_kept() -> None:
    ((entry, _),) = read_all(pax(b"23 mtime=1234567890.25\n"))
    assert entry.mtime_ns == 1234567890_250000000


def test_an_old_tars_directory_is_known_by_its_slash() -> None:
    ((entry, _),) = read_all(with_field(156, b"\0", path=b"dir/") + END_OF_ARCHIVE)
    assert entry.kind is TarKind.DIRECTORY


def test_unread_content_is_skipped() -> None:
    one = render_entry(TarEntry(path=b"a", kind=TarKind.FILE, size_bytes=600)) + bytes(1024)
    two = render_entry(TarEntry(path=b"b", kind=TarKind.FILE))
    reader = TarReader(io.BytesIO(one + two + END_OF_ARCHIVE).read, TarLimits())
    assert [entry.path for entry in reader] == [b"a", b"b"]


HEADER = render_entry(TarEntry(path=b"a", kind=TarKind.FILE, size_bytes=1000))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"this is no archive".ljust(512, b"!"), "checksum|number"),
        (HEADER[:100], "middle of a header"),
        (HEADER + b"x" * 999, "middle of a file's content"),
        (HEADER + b"x" * 1000, "middle of an entry"),
        (with_field(156, b"S"), "type b'S'"),
        (with_field(156, b"M"), "type b'M'"),
        (with_field(124, b"zzzzzzzzzzz\0"), "not a number"),
        (with_field(124, b"\xff" * 12), "claims -1 bytes"),
        (with_field(108, b"\x80\x00\x00\x01\x00\x00\x00\x00"), "owner 4294967296"),
        (with_field(108, b"\xff" * 8), "owner -1"),
        (with_field(136, b"\x80" + b"\x7f" * 11), "impossible time"),
        (with_field(124, b"00000001000\0", kind=TarKind.HARD_LINK, link=b"b"), "with content"),
        (with_field(329, b"7777777\0", kind=TarKind.BLOCK), "device number"),
        (pax(b"0 path=b\n"), "length"),
        (pax(b"9 path=b"), "length"),
        (pax(b"99 path=b\n"), "length"),
        (pax(b"-9 path=b\n"), "length"),
        (pax(b"99999999999999999999999 path=b\n"), "length"),
        (pax(b"7 path\n"), "key"),
        (pax(b"5 =b\n"), "key"),
        (pax(b"11 size=-1\n"), "claims -1"),
        (pax(b"12 size=0x1\n"), "not a number"),
        (pax(b"29 size=99999999999999999999\n"), "claims 9999"),
        (pax(b"13 path=b\0cd\n"), "zero byte"),
        (pax(b"26 GNU.sparse.name=abcdef\n"), "sparse"),
        (pax(b"10 path=b\n", following=b"")[:-1024], "after an extended header"),
        (pax(b"10 path=b\n", following=b""), "describes no entry"),
        (pax(b"10 path=b\n", following=pax(b"10 path=c\n")), "two PAX headers"),
    ],
)
def test_damage_is_an_integrity_error_that_says_what_is_wrong(data: bytes, why: str) -> None:
    with pytest.raises(IntegrityError, match=why):
        read_all(data)


def test_a_global_header_may_hold_a_comment_only() -> None:
    comment = with_field(156, b"g", path=b"pax", size_bytes=13) + b"13 comment=x\n".ljust(512, b"\0")
    assert len(read_all(comment + render_entry(TarEntry(path=b"a", kind=TarKind.FILE)) + END_OF_ARCHIVE)) == 1
    other = with_field(156, b"g", path=b"pax", size_bytes=10) + b"10 path=b\n".ljust(512, b"\0")
    assert "global" in damaged(other + END_OF_ARCHIVE)


def test_a_header_that_claims_gigabytes_is_refused_before_they_are_read() -> None:
    class Endless:
        given = 0

        def read(self, size: int) -> bytes:
            data = with_field(156, b"x", size_bytes=1 << 33 - 1) if self.given == 0 else bytes(size)
            self.given += len(data)
            return data

    source = Endless()
    with pytest.raises(IntegrityError, match="extended header of"):
        list(TarReader(source.read, TarLimits()))
    assert source.given <= 1024


def test_the_number_of_entries_is_limited() -> None:
    data = render_entry(TarEntry(path=b"a", kind=TarKind.FILE)) * 11 + END_OF_ARCHIVE
    assert len(read_all(data, entries=11)) == 11
    assert "more than 10 entries" in damaged(data, entries=10)


def test_the_bytes_after_unpacking_are_limited_even_behind_the_end_mark() -> None:
    data = END_OF_ARCHIVE + bytes(1 << 20)
    assert "more than 4096 bytes" in damaged(data, total_bytes=4096)


@pytest.mark.parametrize("position", range(0, 512, 7))
def test_no_flipped_byte_of_a_header_goes_unnoticed(position: int, archive: Callable[..., bytes]) -> None:
    data = bytearray(archive((TarEntry(path=b"name", kind=TarKind.FILE, size_bytes=4), b"text")))
    data[position] ^= 0x41
    with pytest.raises(IntegrityError):
        read_all(bytes(data))


@pytest.mark.parametrize("claimed", [b"0", b"3", b"5000", b"100000000"])
def test_a_pax_size_that_lies_never_shows_other_bytes_as_a_file(claimed: bytes, archive: Callable[..., bytes]) -> None:
    honest = archive((TarEntry(path=b"f", kind=TarKind.FILE, size_bytes=600), b"x" * 600), end=b"")
    length = next(number for number in range(8, 30) if len(b"%d size=%s\n" % (number, claimed)) == number)
    record = b"%d size=%s\n" % (length, claimed)
    with pytest.raises(IntegrityError):
        read_all(pax(record, following=honest))
