"""Layers made to break out, to hide, to lie and to exhaust. Each is unpacked by the store as a pulled layer would be.

The digest of every one of them is right: who makes a layer can make its digest. So each must either be *refused* as bad, and then
nothing of it stays in the store, or *tamed*, and then what it did can be looked at inside its own tree. In both cases what lies
around the tree is as it was. The cases: containerd's ``pkg/archive/tar_test.go`` (``TestBreakouts``), moby/go-archive's tests,
CVE-2014-9356, CVE-2014-9358, CVE-2021-32760, CVE-2025-47290, CVE-2007-4559, CVE-2025-4517, CVE-2021-20291, CVE-2023-25153.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import resource
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from contain.errors import ContainError, HostError, IntegrityError
from contain.oci.image import MEDIA_LAYER
from contain.progress import Silent
from contain.store import Store, TarLimits
from contain.values import dataclass

END = bytes(1024)
LIMITS = TarLimits(entries=2000, directories=1500, total_bytes=48 << 20)
GIB = 1 << 30


def octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def entry(
    name: str | bytes,
    content: bytes = b"",
    *,
    flag: bytes = b"0",
    link: str | bytes = b"",
    mode: int = 0o644,
    size: bytes | None = None,
    uid: bytes | None = None,
    mtime: bytes | None = None,
    device: tuple[bytes, bytes] = (bytes(8), bytes(8)),
    magic: bytes = b"ustar\00000",
    prefix: bytes = b"",
    checksum: bytes | None = None,
) -> bytes:
    """One entry, header field by header field, with whatever is asked for in them."""
    raw_name = name.encode() if isinstance(name, str) else name
    raw_link = link.encode() if isinstance(link, str) else link
    head = raw_name[:100].ljust(100, b"\0") + octal(mode, 8) + (uid or octal(0, 8)) + octal(0, 8)
    head += (size or octal(len(content), 12)) + (mtime or octal(1_000_000_000, 12)) + b" " * 8 + flag
    head += raw_link[:100].ljust(100, b"\0") + magic + bytes(64) + device[0] + device[1] + prefix.ljust(155, b"\0")
    head = head.ljust(512, b"\0")
    total = octal(sum(head), 7) + b" " if checksum is None else checksum
    return head[:148] + total + head[156:] + content + bytes(-len(content) % 512)


def directory(name: str, mode: int = 0o755) -> bytes:
    return entry(name, flag=b"5", mode=mode)


def symlink(target: str, name: str) -> bytes:
    return entry(name, flag=b"2", link=target)


def link(target: str, name: str) -> bytes:
    return entry(name, flag=b"1", link=target)


def pax(*records: tuple[bytes, bytes], flag: bytes = b"x") -> bytes:
    body = b""
    for key, value in records:
        length = len(key) + len(value) + 3
        while length != len(b"%d" % length) + len(key) + len(value) + 3:
            length = len(b"%d" % length) + len(key) + len(value) + 3
        body += b"%d %s=%s\n" % (length, key, value)
    return entry("PaxHeaders/x", body, flag=flag)


PASSWD = directory("etc") + entry("etc/passwd", b"inside")


@dataclass(frozen=True, slots=True, kw_only=True)
class Jail:
    """A store with things around its layers that must stay as they are."""

    top: Path
    store: Store

    def unpack(self, data: bytes, *, diff_id: str | None = None, packed: bytes | None = None) -> Path:
        diff_id = diff_id or "sha256:" + hashlib.sha256(data).hexdigest()
        stream = io.BytesIO(data if packed is None else packed)
        self.store.extract_layer(stream, diff_id=diff_id, media_type=MEDIA_LAYER, progress=Silent(), label="layer")
        return self.store.layer_tree(diff_id)

    def refuse(self, data: bytes, *, packed: bytes | None = None, error: type[ContainError] = IntegrityError) -> ContainError:
        """The error; and that nothing of the layer stayed."""
        with pytest.raises(error) as caught:
            self.unpack(data, packed=packed)
        assert not self.store.has_layer("sha256:" + hashlib.sha256(data).hexdigest())
        assert self.left_behind() == []
        return caught.value

    def left_behind(self) -> list[Path]:
        home = self.top / "home"
        return [
            path for name in ("tmp", "layers") for path in (home / name).rglob("*") if path.is_file() and path.suffix != ".lock"
        ]

    def outside(self) -> list[tuple[str, int, int, int, bytes]]:
        found = []
        for name in ("etc", "dummy", "victim", "passwd"):
            for path in [self.top / name, *sorted((self.top / name).rglob("*"))]:
                status = path.lstat()
                content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
                found.append((str(path), status.st_mode, status.st_uid, status.st_nlink, content))
        return found


@pytest.fixture
def jail(tmp_path: Path) -> Iterator[Jail]:
    for name in ("etc/passwd", "dummy/file", "victim/data", "passwd"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"outside")
        path.chmod(0o400)
    machine = Path("/etc/passwd").stat()
    before_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 28, before_limit[1]))  # so that a bomb that bursts fills no disk
    with Store.open(tmp_path / "home", limits=LIMITS) as store:
        made = Jail(top=tmp_path, store=store)
        before = made.outside()
        yield made
        resource.setrlimit(resource.RLIMIT_FSIZE, before_limit)
        assert made.outside() == before, "something outside of the layer was changed"
    after = Path("/etc/passwd").stat()
    assert (after.st_mode, after.st_nlink, after.st_mtime_ns) == (machine.st_mode, machine.st_nlink, machine.st_mtime_ns)


def _content(path: str, expected: bytes) -> Callable[[Path], bool]:
    return lambda tree: (tree / path).read_bytes() == expected


def _same(first: str, second: str) -> Callable[[Path], bool]:
    return lambda tree: (tree / first).lstat().st_ino == (tree / second).lstat().st_ino


def _both(*checks: Callable[[Path], bool]) -> Callable[[Path], bool]:
    return lambda tree: all(check(tree) for check in checks)


TAMED: dict[str, tuple[bytes, Callable[[Path], bool]]] = {
    "absolute-name": (entry("/etc/x", b"1"), _content("etc/x", b"1")),
    "name-of-many-slashes": (entry("///etc//./x", b"1"), _content("etc/x", b"1")),
    "symlink-absolute": (
        directory("etc") + symlink("/etc", "localetc") + entry("/localetc/unbroken", b"1"),
        _content("etc/unbroken", b"1"),
    ),
    "symlink-up-and-out": (
        directory("etc") + directory("dummy") + symlink("/dummy/../etc", "localetc") + entry("localetc/unbroken", b"1"),
        _content("etc/unbroken", b"1"),
    ),
    "symlink-far-up": (directory("etc") + symlink("../" * 30 + "etc", "l") + entry("l/x", b"1"), _content("etc/x", b"1")),
    "symlink-multiple-absolute": (
        directory("etc")
        + directory("dummy")
        + symlink("/etc", "/dummy/etc")
        + symlink("/dummy/etc", "localetc")
        + entry("/localetc/unbroken", b"1"),
        _content("etc/unbroken", b"1"),
    ),
    "symlink-multiple-relative": (
        directory("etc")
        + directory("dummy")
        + symlink("/etc", "/dummy/etc")
        + symlink("./dummy/etc", "localetc")
        + entry("/localetc/unbroken", b"1"),
        _content("etc/unbroken", b"1"),
    ),
    "symlink-empties-a-file": (
        directory("etc") + entry("etc/emptied", b"not") + symlink("/etc", "localetc") + entry("/localetc/emptied"),
        _content("etc/emptied", b""),
    ),
    "symlink-is-replaced-not-written-through": (
        symlink("/etc/passwd", "x") + entry("x", b"new"),
        _content("x", b"new"),
    ),
    "symlink-override-path": (
        directory("foo")
        + directory("foo/tmp")
        + entry("foo/tmp/b", b"0")
        + symlink("/", "foo")
        + entry("foo/tmp/b", b"3")
        + directory("foo")
        + directory("foo/tmp")
        + entry("foo/tmp/b", b"6"),
        _both(_content("foo/tmp/b", b"6"), _content("tmp/b", b"3"), lambda tree: not (tree / "foo").is_symlink()),
    ),
    "symlink-to-the-machines-proc": (
        directory("proc") + directory("proc/self") + symlink("/proc/self", "p") + entry("p/x", b"1"),
        _content("proc/self/x", b"1"),
    ),
    "hardlink-relative": (
        PASSWD + directory("breakouts") + symlink("../../etc", "breakouts/d1") + link("/breakouts/d1/passwd", "breakouts/mine"),
        _same("breakouts/mine", "etc/passwd"),
    ),
    "hardlink-down-and-out": (
        PASSWD
        + directory("breakouts")
        + directory("downandout")
        + symlink("../downandout/../../etc", "breakouts/d1")
        + link("/breakouts/d1/passwd", "breakouts/mine"),
        _same("breakouts/mine", "etc/passwd"),
    ),
    "hardlink-absolute": (PASSWD + symlink("/etc", "localetc") + link("/localetc/passwd", "mine"), _same("mine", "etc/passwd")),
    "hardlink-relative-long": (
        PASSWD + symlink("../../../../../../../etc", "localetc") + link("/localetc/passwd", "mine"),
        _same("mine", "etc/passwd"),
    ),
    "hardlink-direct-absolute": (PASSWD + link("/etc/passwd", "mine"), _same("mine", "etc/passwd")),
    "hardlink-into-a-directory-that-ends-in-a-slash": (
        PASSWD + directory("localetc/") + link("/etc/passwd", "/localetc/mine"),
        _same("localetc/mine", "etc/passwd"),
    ),
    "hardlink-to-a-symlink-is-that-symlink": (
        PASSWD + symlink("../../../../../etc/passwd", "l") + link("/l", "mine"),
        _both(_same("mine", "l"), lambda tree: (tree / "mine").is_symlink()),
    ),
    "hardlink-to-an-absolute-symlink-is-that-symlink": (
        PASSWD + symlink("/etc/passwd", "l") + link("/l", "mine"),
        _both(_same("mine", "l"), lambda tree: os.readlink(tree / "mine") == "/etc/passwd"),
    ),
    "hardlink-to-a-symlink-before-its-target": (
        directory("etc") + symlink("/etc/passwd", "l") + link("l", "mine") + entry("/etc/passwd", b"after"),
        lambda tree: (tree / "mine").is_symlink(),
    ),
    "hardlink-then-written-through": (
        PASSWD + link("etc/passwd", "mine") + entry("mine", b"new"),
        _both(_content("etc/passwd", b"inside"), _content("mine", b"new")),
    ),
    "hardlink-to-itself": (entry("a", b"1") + link("a", "a"), _content("a", b"1")),
    "directory-over-symlink": (
        PASSWD + symlink("/etc", "localetc") + directory("/localetc/") + entry("/localetc/passwd", b"different"),
        _both(_content("etc/passwd", b"inside"), _content("localetc/passwd", b"different")),
    ),
    "symlink-over-directory": (
        PASSWD + directory("localetc") + symlink("/etc", "localetc") + link("/etc/passwd", "/localetc/mine"),
        _same("etc/mine", "etc/passwd"),
    ),
    "mode-of-a-hardlinked-symlink": (
        symlink("/etc/passwd", "l") + entry("l2", flag=b"1", link="l", mode=0o4777),
        lambda tree: (tree / "l2").is_symlink(),
    ),
    "duplicate-members-the-last-wins": (entry("a", b"1") + entry("a", b"2"), _content("a", b"2")),
    "directory-becomes-a-file": (
        directory("a") + entry("a/b", b"1") + entry("a", b"2"),
        _content("a", b"2"),
    ),
    "directory-becomes-a-link-to-itself": (
        directory("a") + symlink("a", "a"),
        lambda tree: os.readlink(tree / "a") == "a",
    ),
    "directory-becomes-a-circle-of-links": (
        directory("a") + directory("b") + symlink("b", "a") + symlink("a", "b"),
        lambda tree: os.readlink(tree / "b") == "a",
    ),
    "file-becomes-a-directory": (entry("a", b"1") + directory("a") + entry("a/b", b"2"), _content("a/b", b"2")),
    "symlink-with-a-payload-it-must-not-have": (
        entry("l", flag=b"2", link="t", size=octal(512, 12)) + entry("after", b"1"),
        _content("after", b"1"),
    ),
    "whiteout-of-a-symlink": (
        PASSWD + symlink("/etc", "localetc") + entry(".wh.localetc"),
        _content("etc/passwd", b"inside"),
    ),
    "whiteout-through-a-symlink": (
        PASSWD + symlink("/etc", "localetc") + entry("localetc/.wh.whitedout"),
        _both(_content("etc/passwd", b"inside"), lambda tree: stat.S_ISCHR((tree / "etc/whitedout").lstat().st_mode)),
    ),
    "opaque-mark-in-the-root": (entry(".wh..wh..opq") + entry("a", b"1"), _content("a", b"1")),
    "opaque-mark-through-a-symlink": (
        directory("etc") + symlink("/etc", "localetc") + entry("localetc/.wh..wh..opq"),
        lambda tree: os.getxattr(tree / "etc", "user.overlay.opaque") == b"y",
    ),
    "aufs-metadata": (entry(".wh..wh.aufs") + entry(".wh..wh.plnk") + entry("a", b"1"), lambda tree: os.listdir(tree) == ["a"]),
    "overlay-attributes-are-left-out": (
        pax((b"SCHILY.xattr.user.overlay.redirect", b"/etc"), (b"SCHILY.xattr.trusted.overlay.opaque", b"y")) + directory("a"),
        lambda tree: os.listxattr(tree / "a") == [],
    ),
    "security-attributes-are-left-out": (
        pax((b"SCHILY.xattr.security.selinux", b"x"), (b"SCHILY.xattr.security.ima", b"x")) + entry("a"),
        lambda tree: os.listxattr(tree / "a") == [],
    ),
    "gnu-long-name": (
        entry("././@LongLink", b"/etc/" + b"n" * 200 + b"\0", flag=b"L") + entry("short", b"1"),
        _content("etc/" + "n" * 200, b"1"),
    ),
    "pax-path-wins-over-the-header": (pax((b"path", b"/etc/x")) + entry("../../y", b"1"), _content("etc/x", b"1")),
    "pax-path-wins-over-a-gnu-name": (
        entry("././@LongLink", b"gnu\0", flag=b"L") + pax((b"path", b"pax")) + entry("short", b"1"),
        _content("pax", b"1"),
    ),
    "pax-global-comment": (pax((b"comment", b"x"), flag=b"g") + entry("a", b"1"), _content("a", b"1")),
    "gnu-magic-has-no-prefix": (entry("a", b"1", magic=b"ustar  \0", prefix=b"../../.."), _content("a", b"1")),
    "setuid-file-keeps-its-mode-inside-only": (
        entry("sudo", b"1", mode=0o4755),
        lambda tree: stat.S_IMODE((tree / "sudo").stat().st_mode) == 0o4755,
    ),
    "old-directory-by-its-slash": (entry("a/", flag=b"\0", mode=0o755) + entry("a/b", b"1", flag=b"\0"), _content("a/b", b"1")),
    "time-before-1970": (pax((b"mtime", b"-1.5")) + entry("a"), lambda tree: (tree / "a").stat().st_mtime == -1.5),
    "newline-and-escape-in-a-name": (entry(b"a\n\x1b[2J", b"1"), lambda tree: b"a\n\x1b[2J" in os.listdir(os.fsencode(tree))),
    "empty-layer": (b"", lambda tree: os.listdir(tree) == []),
}

REFUSED: dict[str, bytes] = {
    # names
    "parent": entry("../x"),
    "parent-alone": entry(".."),
    "parent-directory": directory(".."),
    "parent-inside": entry("a/../x"),
    "parent-behind-absolute": entry("/../x"),
    "parent-many": entry("../" * 30 + "etc/x"),
    "parent-in-the-prefix": entry("x", prefix=b"../.."),
    "parent-in-a-gnu-name": entry("././@LongLink", b"../../x\0", flag=b"L") + entry("a"),
    "parent-in-a-pax-path": pax((b"path", b"../../x")) + entry("a"),
    "sibling-with-a-common-prefix": entry("../tree2/x"),
    "symlink-called-parent": PASSWD + symlink("/etc/", ".."),
    "symlink-called-parent-inside": PASSWD + symlink("/etc/", "localetc/sub/.."),
    "symlink-called-root": PASSWD + symlink("/etc/", "/"),
    "symlink-without-a-name": symlink("/etc", ""),
    "symlink-to-nothing": symlink("", "a"),
    "file-called-root": entry("."),
    "zero-byte-in-a-pax-path": pax((b"path", b"a\0b")) + entry("a"),
    "name-too-long": pax((b"path", b"n" * 256)) + entry("a"),
    "path-too-long": pax((b"path", b"n/" * 2100)) + entry("a"),
    "too-deep": pax((b"path", b"d/" * 513 + b"x")) + entry("a"),
    # links
    "parent-is-a-link-to-nowhere": symlink("/nowhere", "a") + entry("a/b"),
    "parent-is-a-circle": symlink("b", "a") + symlink("a", "b") + entry("a/c"),
    "parent-is-a-file": entry("a") + entry("a/b"),
    "parent-is-a-fifo": entry("a", flag=b"6") + entry("a/b"),
    "hardlink-to-a-relative-parent": PASSWD + link("../../../../../etc/passwd", "mine"),
    "hardlink-to-the-machines-file": link("/etc/passwd", "mine"),
    "hardlink-through-a-link-out": symlink("/etc", "localetc") + link("localetc/passwd", "mine"),
    "hardlink-to-a-directory": PASSWD + link("etc", "mine"),
    "hardlink-to-the-root": link("/", "mine"),
    "hardlink-to-what-comes-later": link("b", "a") + entry("b"),
    "hardlink-to-a-whiteout": entry(".wh.b") + link("b", "a"),
    "hardlink-to-a-whiteouts-mark": entry(".wh.b") + link(".wh.b", "a"),
    "hardlink-with-content": entry("a", b"1") + entry("b", b"22", flag=b"1", link="a"),
    # whiteouts
    "whiteout-bare": entry(".wh."),
    "whiteout-bare-inside": entry("etc/.wh."),
    "whiteout-of-the-root": entry(".wh.."),
    "whiteout-of-the-roots-parent": entry(".wh..."),
    "whiteout-of-a-directory-itself": entry("etc/.wh.."),
    "whiteout-of-a-parent": entry("etc/.wh..."),
    "whiteout-behind-a-parent": entry("dne/../.wh.etc"),
    "whiteout-that-is-a-directory": directory(".wh.a"),
    "whiteout-that-is-a-symlink": symlink("/etc", ".wh.a"),
    "whiteout-that-is-a-hardlink": entry("a") + link("a", ".wh.b"),
    "opaque-mark-that-is-a-symlink": symlink("/etc", ".wh..wh..opq"),
    "opaque-mark-that-is-a-directory": directory("a") + directory("a/.wh..wh..opq"),
    "whiteout-in-disguise": entry("etc", flag=b"3", device=(octal(0, 8), octal(0, 8))),
    "whiteout-below-a-link-to-nowhere": symlink("/dne", "localetc") + entry("localetc/.wh.etc"),
    # numbers
    "size-negative": entry("a", size=b"\xff" * 12),
    "size-of-an-exabyte": entry("a", size=b"\x80" + (1 << 61).to_bytes(11, "big")),
    "size-in-words": entry("a", size=b"lots of it\0\0"),
    "size-negative-in-octal": entry("a", size=b"-0000000001\0"),
    "size-larger-than-the-archive": entry("a", b"1", size=octal(4096, 12)),
    "size-of-pax-negative": pax((b"size", b"-1")) + entry("a"),
    "size-of-pax-too-large": pax((b"size", b"9" * 25)) + entry("a"),
    "size-of-pax-in-hexadecimal": pax((b"size", b"0x10")) + entry("a"),
    "size-of-pax-with-a-sign": pax((b"size", b"+1")) + entry("a"),
    "size-of-pax-in-other-digits": pax((b"size", "٣".encode())) + entry("a"),
    "size-of-a-pax-header": entry("x", flag=b"x", size=octal(1 << 30, 12)),
    "size-of-a-gnu-name": entry("x", flag=b"L", size=octal(1 << 30, 12)),
    "size-of-a-gnu-name-negative": entry("x", flag=b"L", size=b"\xff" * 12),
    "owner-negative": entry("a", uid=b"\xff" * 8),
    "owner-that-means-no-change": entry("a", uid=b"\x80" + (2**32 - 1).to_bytes(7, "big")),
    "owner-too-large": pax((b"uid", b"4294967296")) + entry("a"),
    "time-after-the-end-of-all-days": entry("a", mtime=b"\x80" + (1 << 60).to_bytes(11, "big")),
    "time-that-is-none": pax((b"mtime", b"nan")) + entry("a"),
    "device-out-of-range": entry("a", flag=b"3", device=(b"\x80" + (1 << 40).to_bytes(7, "big"), octal(1, 8))),
    # headers
    "checksum-wrong": entry("a", checksum=b"0000001\0"),
    "no-archive-at-all": b"#!/bin/sh\nexit 0\n".ljust(512, b" "),
    "pax-record-that-runs-over": entry("x", b"99 path=b\n", flag=b"x") + entry("a"),
    "pax-record-that-runs-back": entry("x", b"1 path=b\n", flag=b"x") + entry("a"),
    "pax-record-without-an-end": entry("x", b"9 path=bb", flag=b"x") + entry("a"),
    "pax-record-with-a-huge-length": entry("x", b"9" * 30 + b" path=b\n", flag=b"x") + entry("a"),
    "pax-header-twice": pax((b"path", b"a")) + pax((b"path", b"b")) + entry("c"),
    "pax-header-without-an-entry": pax((b"path", b"a")),
    "gnu-name-twice": entry("x", b"a\0", flag=b"L") * 2 + entry("c"),
    "gnu-link-twice": entry("x", b"a\0", flag=b"K") * 2 + entry("c", flag=b"2"),
    "pax-global-path": pax((b"path", b"a"), flag=b"g") + entry("c"),
    "pax-global-size": pax((b"size", b"0"), flag=b"g") + entry("c", b"1"),
    "pax-global-link": pax((b"linkpath", b"/etc"), flag=b"g") + symlink("x", "c"),
    "sparse-of-gnu": entry("a", flag=b"S", size=octal(0, 12)),
    "sparse-of-pax-0": pax((b"GNU.sparse.size", b"99999999999"), (b"GNU.sparse.numblocks", b"0")) + entry("a"),
    "sparse-of-pax-1": pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"99999999999")) + entry("a"),
    "multi-volume": entry("a", flag=b"M"),
    "volume-label": entry("a", flag=b"V"),
    "type-that-nobody-knows": entry("a", flag=b"\xff"),
    "attribute-that-is-too-large": pax((b"SCHILY.xattr.user.a", b"x" * 70_000)) + entry("a"),
    "attribute-with-a-name-that-is-too-long": pax((b"SCHILY.xattr.user." + b"n" * 300, b"x")) + entry("a"),
    "root-as-a-symlink": symlink("/etc", "./"),
}


CUT_SHORT: dict[str, bytes] = {
    "header": entry("a")[:300],
    "content": entry("a", b"x" * 1000)[:900],
    "padding": entry("a", b"x" * 10)[:522],
    "extended-header": pax((b"path", b"a"))[:600],
    "behind-an-extended-header": pax((b"path", b"a")),
    "behind-a-gnu-name": entry("x", b"a\0", flag=b"L"),
}


@pytest.mark.parametrize("name", TAMED)
def test_a_layer_is_tamed(jail: Jail, name: str) -> None:
    data, holds = TAMED[name]
    tree = jail.unpack(data + END)
    assert holds(tree)


@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_is_refused(jail: Jail, name: str) -> None:
    error = jail.refuse(entry("first", b"1") + REFUSED[name] + END)
    assert error.code == "bad-layer"
    assert str(error).isprintable() or "\n" in str(error)


@pytest.mark.parametrize("name", CUT_SHORT)
def test_a_layer_that_is_cut_short_is_refused(jail: Jail, name: str) -> None:
    assert jail.refuse(entry("first", b"1") + CUT_SHORT[name]).code == "bad-layer"


def test_a_device_is_made_by_root_and_said_to_need_root_by_others(jail: Jail) -> None:
    data = entry("null", flag=b"3", device=(octal(1, 8), octal(3, 8))) + END
    if os.geteuid() != 0:
        jail.refuse(data, error=HostError)
        return
    status = (jail.unpack(data) / "null").lstat()
    assert stat.S_ISCHR(status.st_mode)
    # Nobody else can open it there: the trees lie below a directory that only root may enter.
    assert stat.S_IMODE((jail.top / "home").stat().st_mode) == 0o700


def test_a_layer_with_another_digest_is_refused_whole(jail: Jail) -> None:
    promised = "sha256:" + "0" * 64
    with pytest.raises(IntegrityError) as caught:
        jail.unpack(entry("a", b"1") + END, diff_id=promised)
    assert caught.value.code == "layer-digest"
    assert not jail.store.has_layer(promised)
    assert jail.left_behind() == []


def test_bytes_behind_the_end_mark_belong_to_the_digest(jail: Jail) -> None:
    shown = entry("a", b"1") + END
    with pytest.raises(IntegrityError):
        jail.unpack(shown, packed=gzip.compress(shown + b"more"))
    tree = jail.unpack(shown + entry("b", b"2"))
    assert os.listdir(tree) == ["a"], "what stands behind the end is not unpacked"


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


def _rss_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz"])
def test_a_bomb_of_one_huge_file_is_stopped_at_the_limit(jail: Jail, name: str) -> None:
    pack = PACKERS[name]
    head = entry("bomb", size=b"\x80" + (4 * GIB).to_bytes(11, "big"))
    packed = pack(head) + pack(bytes(1 << 20)) * 4096  # 4 GiB of zeros, in members one after another
    assert len(packed) < 8 << 20
    before = _rss_bytes()
    with pytest.raises(IntegrityError, match=f"more than {LIMITS.total_bytes} bytes"):
        jail.unpack(b"", packed=packed, diff_id="sha256:" + "1" * 64)
    assert _rss_bytes() - before < 128 << 20
    assert jail.left_behind() == []


def test_a_bomb_behind_the_end_of_the_archive_is_stopped_at_the_limit(jail: Jail) -> None:
    packed = gzip.compress(entry("a") + END) + gzip.compress(bytes(1 << 20)) * 512
    with pytest.raises(IntegrityError, match="bytes when unpacked"):
        jail.unpack(b"", packed=packed, diff_id="sha256:" + "1" * 64)


def test_a_bomb_of_entries_is_stopped_at_the_limit(jail: Jail) -> None:
    data = b"".join(entry(f"f{number}") for number in range(LIMITS.entries + 1))
    error = jail.refuse(data + END)
    assert f"more than {LIMITS.entries} entries" in str(error)


def test_a_bomb_of_directories_that_no_entry_names_is_stopped_at_the_limit(jail: Jail) -> None:
    data = b"".join(entry(f"{number}/" + "d/" * 45 + "x") for number in range(40))
    error = jail.refuse(data + END)
    assert f"more than {LIMITS.directories} directories" in str(error)


def test_a_bomb_of_nameless_headers_is_stopped_at_the_limit(jail: Jail) -> None:
    """Headers that describe no entry count too, by their bytes."""
    packed = gzip.compress(pax((b"comment", b"x"), flag=b"g") * 1000) * 100
    with pytest.raises(IntegrityError, match="bytes when unpacked"):
        jail.unpack(b"", packed=packed, diff_id="sha256:" + "1" * 64)


def test_a_bomb_of_pax_records_is_stopped_before_it_is_read(jail: Jail) -> None:
    packed = gzip.compress(entry("x", flag=b"x", size=octal((8 << 30) - 1, 12))) + gzip.compress(bytes(1 << 20)) * 64
    before = _rss_bytes()
    with pytest.raises(IntegrityError, match="extended header of"):
        jail.unpack(b"", packed=packed, diff_id="sha256:" + "1" * 64)
    assert _rss_bytes() - before < 64 << 20


def test_a_zstd_frame_that_asks_for_gigabytes_of_memory_is_refused(jail: Jail) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = compressor.compress(entry("a", b"1") + END) + compressor.flush()
    before = _rss_bytes()
    with pytest.raises(IntegrityError, match="zstd"):
        jail.unpack(b"", packed=packed, diff_id="sha256:" + "1" * 64)
    assert _rss_bytes() - before < 256 << 20


@pytest.mark.parametrize("name", PACKERS)
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.9])
def test_a_packed_layer_that_is_cut_short_is_refused(jail: Jail, name: str, keep: float) -> None:
    data = entry("a", os.urandom(5000)) + END
    packed = PACKERS[name](data)
    jail.refuse(data, packed=packed[: max(7, int(len(packed) * keep))])


def test_a_deep_tree_is_removed_again_when_its_layer_is_refused(jail: Jail) -> None:
    deep = b"".join(pax((b"path", b"d/" * depth)) + directory("x") for depth in range(1, 400, 20))
    jail.refuse(deep + entry("../x") + END)


def test_a_directory_nobody_may_enter_is_removed_again_when_its_layer_is_refused(jail: Jail) -> None:
    jail.refuse(directory("a", 0o000) + entry("a/b", b"1") + directory("a", 0o000) + entry("../x") + END)


def test_many_links_to_one_file_are_one_file(jail: Jail) -> None:
    data = entry("a", b"1") + b"".join(link("a", f"l{number}") for number in range(1000)) + END
    assert (jail.unpack(data) / "a").stat().st_nlink == 1001


def test_a_layer_cannot_reach_into_another_layer(jail: Jail) -> None:
    first = jail.unpack(entry("secret", b"1") + END)
    name = first.parent.name
    second = jail.unpack(
        symlink(f"../../{name}/tree", "way")
        + directory(f"{name}")
        + directory(f"{name}/tree")
        + entry("way/secret", b"2")
        + END
    )
    assert (first / "secret").read_bytes() == b"1"
    assert (second / name / "tree/secret").read_bytes() == b"2"
