from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from collections.abc import Callable

import pytest
import zstandard

from contain.build.debian.debfile import decompress, merged_directories, parse_ar, plain_deb, read_deb, write_seed
from contain.errors import IntegrityError, NotSupported


def ar(*members: tuple[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, content in members:
        out += f"{name:<16}{1700000000:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content
        out += b"\n" if len(content) % 2 else b""
    return out


def tar(*entries: tuple[str, str], mode: int = 0o644) -> bytes:
    """Entries as (name, what): a directory ends in a slash, ``-> x`` is a link, ``= x`` a hard link, else content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:", format=tarfile.GNU_FORMAT) as archive:
        for name, what in entries:
            entry = tarfile.TarInfo(name.rstrip("/"))
            entry.mtime, entry.mode = 1600000000, mode
            if name.endswith("/"):
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            elif what.startswith("-> "):
                entry.type, entry.linkname = tarfile.SYMTYPE, what[3:]
                archive.addfile(entry)
            elif what.startswith("= "):
                entry.type, entry.linkname = tarfile.LNKTYPE, what[2:]
                archive.addfile(entry)
            else:
                entry.size = len(what)
                archive.addfile(entry, io.BytesIO(what.encode()))
    return out.getvalue()


CONTROL, DATA = tar(("./control", "Package: x\n")), tar(("./usr/", ""), ("./usr/x", "odd"))

COMPRESSORS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("", bytes),
    (".xz", lzma.compress),
    (".gz", gzip.compress),
    (".zst", lambda data: zstandard.ZstdCompressor().compress(data)),
]


@pytest.mark.parametrize(("suffix", "compress"), COMPRESSORS)
def test_every_compression_of_a_package_is_read(suffix: str, compress: Callable[[bytes], bytes]) -> None:
    deb = ar(("debian-binary", b"2.0\n"), (f"control.tar{suffix}", compress(CONTROL)), (f"data.tar{suffix}", compress(DATA)))
    contents = read_deb(deb)
    assert (contents.control, contents.data) == (CONTROL, DATA)


def test_a_zstandard_stream_that_does_not_tell_its_size_is_read() -> None:
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    assert decompress("data.tar.zst", compressor.compress(DATA) + compressor.flush()) == DATA


def test_the_plain_package_holds_the_same_tars() -> None:
    deb = ar(("debian-binary", b"2.0\n"), ("control.tar.xz", lzma.compress(CONTROL)), ("data.tar.xz", lzma.compress(DATA)))
    plain = b"".join(plain_deb(read_deb(deb)))
    assert parse_ar(plain) == {"debian-binary": b"2.0\n", "control.tar": CONTROL, "data.tar": DATA}
    assert len(plain) % 2 == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an archive",
        ar(("debian-binary", b"2.0\n"), ("data.tar.xz", lzma.compress(DATA))),
        ar(("debian-binary", b"3.0\n"), ("control.tar", CONTROL), ("data.tar", DATA)),
        ar(("debian-binary", b"2.0\n"), ("control.tar", CONTROL), ("data.tar.xz", b"broken")),
        ar(("debian-binary", b"2.0\n"), ("control.tar", CONTROL), ("data.tar", DATA))[:-600],
        ar(("debian-binary", b"2.0\n")) + b"x" * 60,
    ],
)
def test_a_damaged_package_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        read_deb(data)


def test_an_old_compression_is_refused_by_name() -> None:
    with pytest.raises(NotSupported, match=r"data\.tar\.bz2"):
        read_deb(ar(("debian-binary", b"2.0\n"), ("control.tar", CONTROL), ("data.tar.bz2", b"")))


def seed(*packages: bytes, merged: tuple[str, ...] = ()) -> dict[str, tarfile.TarInfo]:
    out = io.BytesIO()
    write_seed(packages, merged, out)
    out.seek(0)
    with tarfile.open(fileobj=out) as archive:
        members = archive.getmembers()
    assert len({member.name for member in members}) == len(members)
    return {member.name: member for member in members}


def test_in_a_merged_system_the_top_directories_are_links_and_their_files_are_below_usr() -> None:
    names = seed(
        tar(("./", ""), ("./bin/", ""), ("./bin/sh", "-> dash"), ("./bin/dash", "x"), ("./bin/hard", "= ./bin/dash")),
        tar(("./lib64/", ""), ("./lib64/ld.so", "x"), ("./library/", ""), ("./usr/bin/", ""), ("./usr/bin/env", "x")),
        merged=merged_directories("amd64"),
    )
    assert set(names) == {
        *("bin", "lib", "lib64", "sbin", "usr", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin", "library"),
        *("usr/bin/sh", "usr/bin/dash", "usr/bin/hard", "usr/lib64/ld.so", "usr/bin/env"),
    }
    assert names["bin"].issym()
    assert names["bin"].linkname == "usr/bin"
    assert (names["usr/bin/sh"].linkname, names["usr/bin/hard"].linkname) == ("dash", "usr/bin/dash")


def test_a_release_that_ships_the_links_itself_gets_them_once() -> None:
    names = seed(tar(("./bin", "-> usr/bin"), ("./usr/bin/", "")), merged=("bin",))
    assert names["bin"].issym()


def test_an_unmerged_system_stays_as_its_packages_are() -> None:
    assert set(seed(tar(("./bin/", ""), ("./bin/dash", "x")))) == {"bin", "bin/dash"}


def test_the_first_package_decides_about_a_directory() -> None:
    first, second = tar(("./tmp/", "")), tar(("./tmp/", ""), ("./tmp/x", "y"))
    names = seed(first, second)
    assert set(names) == {"tmp", "tmp/x"}
    assert names["tmp"].mtime == 1600000000
