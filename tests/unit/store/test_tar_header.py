from __future__ import annotations

import io
import tarfile

import pytest

from contain.errors import NotSupported
from contain.store.tar_header import END_OF_ARCHIVE, TarEntry, TarKind, padding_bytes, render_entry


def read_back(entry: TarEntry, content: bytes = b"") -> tarfile.TarInfo:
    data = render_entry(entry) + content + bytes(padding_bytes(len(content))) + END_OF_ARCHIVE
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as opened:
        (member,) = opened.getmembers()
    return member


def test_a_plain_entry_is_one_block_with_numeric_owners_and_no_names() -> None:
    data = render_entry(TarEntry(path=b"etc/passwd", kind=TarKind.FILE, mode=0o100644, user_id=1, group_id=2))
    assert len(data) == 512
    assert data[100:108] == b"0000644\0"  # without the bits that say it is a file
    assert data[265:329] == bytes(64)
    assert data[329:345] == b"0000000\x000000000\0"
    assert data[257:265] == b"ustar\x0000"


@pytest.mark.parametrize(
    "path",
    [b"a", b"x" * 100, b"d" * 100 + b"/" + b"f" * 100, b"d" * 155 + b"/" + b"f" * 100],
    ids=["short", "whole-field", "split", "split-full"],
)
def test_a_path_that_fits_ustar_needs_no_pax_header(path: bytes) -> None:
    assert len(render_entry(TarEntry(path=path, kind=TarKind.FILE))) == 512
    assert read_back(TarEntry(path=path, kind=TarKind.FILE)).name == path.decode()


@pytest.mark.parametrize(
    "path",
    [b"x" * 101, b"d" * 156 + b"/f", "été".encode(), b"d/" + b"f" * 101],
    ids=["no-slash", "long-prefix", "not-ascii", "long-name"],
)
def test_any_other_path_is_kept_in_a_pax_record(path: bytes) -> None:
    assert len(render_entry(TarEntry(path=path, kind=TarKind.FILE))) > 512
    assert read_back(TarEntry(path=path, kind=TarKind.FILE)).name == path.decode()


def test_a_name_that_is_no_utf8_survives() -> None:
    assert read_back(TarEntry(path=b"caf\xe9", kind=TarKind.FILE)).name == "caf\udce9"


def test_numbers_beyond_octal_fields_go_to_pax_records() -> None:
    entry = TarEntry(path=b"a", kind=TarKind.FIFO, user_id=1 << 21, group_id=(1 << 32) - 2, mtime_ns=-5 * 1_000_000_000)
    member = read_back(entry)
    assert (member.uid, member.gid, member.mtime) == (1 << 21, (1 << 32) - 2, -5)
    assert set(member.pax_headers) == {"uid", "gid", "mtime"}


def test_the_largest_octal_values_need_no_pax_header() -> None:
    entry = TarEntry(
        path=b"a", kind=TarKind.FIFO, user_id=(1 << 21) - 1, group_id=(1 << 21) - 1, mtime_ns=((1 << 33) - 1) * 10**9
    )
    assert len(render_entry(entry)) == 512


def test_a_size_of_8_gib_goes_to_a_pax_record() -> None:
    data = render_entry(TarEntry(path=b"a", kind=TarKind.FILE, size_bytes=1 << 33))
    assert b" size=8589934592\n" in data


@pytest.mark.parametrize("length", range(80, 110))
def test_a_records_length_counts_its_own_digits(length: int) -> None:
    value = b"v" * length
    member = read_back(TarEntry(path=b"a", kind=TarKind.FILE, xattrs={b"user.k": value}))
    assert member.pax_headers["SCHILY.xattr.user.k"] == value.decode()


def test_attributes_are_sorted_whatever_their_order() -> None:
    one = TarEntry(path=b"a", kind=TarKind.FILE, xattrs={b"user.b": b"1", b"user.a": b"2"})
    two = TarEntry(path=b"a", kind=TarKind.FILE, xattrs={b"user.a": b"2", b"user.b": b"1"})
    assert render_entry(one) == render_entry(two)
    assert render_entry(one).index(b"user.a") < render_entry(one).index(b"user.b")


def test_an_attribute_name_that_pax_cannot_hold_is_refused_by_name() -> None:
    with pytest.raises(NotSupported, match=r"user\.a=b"):
        render_entry(TarEntry(path=b"a", kind=TarKind.FILE, xattrs={b"user.a=b": b""}))


def test_a_long_link_target_is_kept() -> None:
    assert read_back(TarEntry(path=b"a", kind=TarKind.SYMLINK, link=b"t/" * 100 + b"x")).linkname == "t/" * 100 + "x"


def test_a_device_keeps_its_numbers() -> None:
    member = read_back(TarEntry(path=b"null", kind=TarKind.CHARACTER, device=(1, 3)))
    assert (member.ischr(), member.devmajor, member.devminor) == (True, 1, 3)
