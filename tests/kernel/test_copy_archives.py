"""ADD of archives: what a root file system holds comes through, and nothing in an archive reaches outside the image."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from contain.build.execute import build
from contain.build.request import BuildHost, BuildRequest
from contain.errors import ContainError, NotSupported, UsageError
from contain.oci import Platform
from contain.progress import Silent
from contain.store import Entry, RootView, Store

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="layers keep owners: needs root")]

HOST = BuildHost(platform=Platform(os="linux", architecture="amd64"))
Added = tuple[tarfile.TarInfo, bytes]


class Warnings(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, text: str) -> None:
        self.lines.append(text)


def entry(name: str, content: bytes = b"", *, kind: bytes = tarfile.REGTYPE, **fields: object) -> Added:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tar_of(*entries: Added) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def added(
    tmp_path: Path, store: Store, *archives: bytes, text: str = "", warnings: Warnings | None = None
) -> dict[str, tuple[Entry, bytes, os.stat_result]]:
    """Each archive ADDed to the root of an empty image, one instruction each; everything in the result."""
    context = tmp_path / "context"
    context.mkdir(exist_ok=True)
    lines = ["FROM scratch"]
    for number, archive in enumerate(archives):
        (context / f"{number}.data").write_bytes(archive)
        lines.append(f"ADD {number}.data /")
    request = BuildRequest(context=context, dockerfile_text=text or "\n".join(lines))
    result = build(request, store=store, progress=warnings or Warnings(), host=HOST)
    found = {}
    with RootView(store.layer_trees(result.image)) as view:
        for each in view.walk():
            content = view.read(each.path, limit_bytes=1 << 20) if each.kind.value == "file" else b""
            if each.kind.value == "file" and (attributes := dict(each.xattrs)):
                content += repr(attributes).encode()
            found[str(each.path)] = (each, content, each.host_stat)
    return found


def zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zstd], ids=["tar", "gz", "bz2", "xz", "zst"]
)
def test_an_archive_is_known_by_its_content(tmp_path: Path, store: Store, pack: Callable[[bytes], bytes]) -> None:
    assert added(tmp_path, store, pack(tar_of(entry("a/b", b"content"))))["/a/b"][1] == b"content"


@pytest.mark.parametrize("data", [b"", b"plain text", gzip.compress(b"packed text"), b"\x1f\x8bbroken", b"\0" * 100])
def test_what_is_no_archive_is_copied(tmp_path: Path, store: Store, data: bytes) -> None:
    assert added(tmp_path, store, data)["/0.data"][1] == data


def test_a_root_file_system_keeps_owners_modes_links_devices_and_attributes(tmp_path: Path, store: Store) -> None:
    data = tar_of(
        entry("./", kind=tarfile.DIRTYPE, mode=0o755),
        entry("./bin", kind=tarfile.SYMTYPE, linkname="usr/bin"),
        entry("./usr/bin/su", b"su", mode=0o4755, uid=0, gid=12, mtime=1),
        entry("./usr/bin/sg", kind=tarfile.LNKTYPE, linkname="./usr/bin/su"),
        entry("./var/mail", kind=tarfile.DIRTYPE, mode=0o2775, uid=8, gid=8),
        entry("./tmp", kind=tarfile.DIRTYPE, mode=0o1777),
        entry("./dev/null", kind=tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3),
        entry("./run/pipe", kind=tarfile.FIFOTYPE, mode=0o600),
        entry("./usr/bin/ping", b"ping", pax_headers={"SCHILY.xattr.user.note": "yes"}),
    )
    found = added(tmp_path, store, gzip.compress(data))
    assert {
        path: (each.kind.value, f"{each.mode:o}", each.uid, each.gid) for path, (each, _, _) in found.items() if path != "/"
    } == {
        "/bin": ("symlink", "777", 0, 0),
        "/dev": ("directory", "755", 0, 0),
        "/dev/null": ("character", "666", 0, 0),
        "/run": ("directory", "755", 0, 0),
        "/run/pipe": ("fifo", "600", 0, 0),
        "/tmp": ("directory", "1777", 0, 0),
        "/usr": ("directory", "755", 0, 0),
        "/usr/bin": ("directory", "755", 0, 0),
        "/usr/bin/ping": ("file", "644", 0, 0),
        "/usr/bin/sg": ("file", "4755", 0, 12),
        "/usr/bin/su": ("file", "4755", 0, 12),
        "/var": ("directory", "755", 0, 0),
        "/var/mail": ("directory", "2775", 8, 8),
    }
    assert found["/usr/bin/su"][2].st_ino == found["/usr/bin/sg"][2].st_ino
    assert found["/usr/bin/su"][2].st_mtime == 1
    assert found["/dev/null"][0].device == (1, 3)
    assert found["/usr/bin/ping"][1] == b"ping{'user.note': b'yes'}"


def test_a_link_to_an_archive_is_copied_as_a_file(tmp_path: Path, store: Store) -> None:
    context = tmp_path / "context"
    context.mkdir()
    data = tar_of(entry("a", b"content"))
    (context / "real.tar").write_bytes(data)
    (context / "link.tar").symlink_to("real.tar")
    assert added(tmp_path, store, text="FROM scratch\nADD link.tar /\n")["/link.tar"][1] == data


def test_an_archive_merges_as_tar_does(tmp_path: Path, store: Store) -> None:
    first = tar_of(
        entry("dir/kept", b"kept"),
        entry("dir/replaced", b"old"),
        entry("was-dir/inside", b"gone"),
        entry("was-file", b"gone"),
        entry("was-link", kind=tarfile.SYMTYPE, linkname="dir"),
        entry("through", kind=tarfile.SYMTYPE, linkname="/dir"),
    )
    second = tar_of(
        entry("dir", kind=tarfile.DIRTYPE, mode=0o700, uid=5),
        entry("dir/replaced", b"new"),
        entry("was-dir", b"file now"),
        entry("was-file", kind=tarfile.DIRTYPE, mode=0o755),
        entry("was-file/inside", b"new"),
        entry("was-link", kind=tarfile.DIRTYPE, mode=0o755),
        entry("was-link/inside", b"new"),
        entry("through/more", b"more"),
    )
    found = added(tmp_path, store, first, second)
    assert {path: content for path, (each, content, _) in found.items() if each.kind.value == "file"} == {
        "/dir/kept": b"kept",
        "/dir/replaced": b"new",
        "/dir/more": b"more",
        "/was-dir": b"file now",
        "/was-file/inside": b"new",
        "/was-link/inside": b"new",
    }
    assert (found["/dir"][0].mode, found["/dir"][0].uid) == (0o700, 5)
    assert found["/was-link"][0].kind.value == "directory"


def test_a_hard_link_to_a_file_of_an_earlier_layer_brings_the_file_along(tmp_path: Path, store: Store) -> None:
    first = tar_of(entry("dir/old", b"content", mode=0o640, uid=7))
    found = added(tmp_path, store, first, tar_of(entry("new", kind=tarfile.LNKTYPE, linkname="dir/old")))
    assert found["/new"][1] == b"content"
    assert (found["/new"][0].mode, found["/new"][0].uid) == (0o640, 7)
    assert found["/new"][2].st_ino == found["/dir/old"][2].st_ino


@pytest.mark.parametrize(
    "entries",
    [
        (entry("../../escaped", b"x"),),
        (entry("a/../../../escaped", b"x"),),
        (entry("/../escaped", b"x"),),
        (entry("link", kind=tarfile.SYMTYPE, linkname="../../../../.."), entry("link/escaped", b"x")),
        (entry("link", kind=tarfile.SYMTYPE, linkname="OUTSIDE"), entry("link/escaped", b"x")),
        (entry("link", kind=tarfile.SYMTYPE, linkname="OUTSIDE/escaped"), entry("link", b"x")),
        (
            entry("link", kind=tarfile.SYMTYPE, linkname="OUTSIDE"),
            entry("link", kind=tarfile.DIRTYPE),
            entry("link/escaped", b"x"),
        ),
        (
            entry("a", kind=tarfile.SYMTYPE, linkname="b"),
            entry("b", kind=tarfile.SYMTYPE, linkname="a"),
            entry("a/escaped", b"x"),
        ),
        (entry("escaped", kind=tarfile.LNKTYPE, linkname="OUTSIDE/secret"),),
        (entry("l", kind=tarfile.SYMTYPE, linkname="OUTSIDE/secret"), entry("escaped", kind=tarfile.LNKTYPE, linkname="l")),
    ],
)
def test_no_archive_reaches_outside_the_image(tmp_path: Path, store: Store, entries: tuple[Added, ...]) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    for info, _ in entries:
        info.linkname = info.linkname.replace("OUTSIDE", str(outside))
    try:
        found = added(tmp_path, store, tar_of(*entries))
    except ContainError:
        found = {}
    assert os.listdir(outside) == ["secret"]
    assert not (tmp_path / "escaped").exists()
    assert not any(content == b"secret" for _, content, _ in found.values())
    assert (outside / "secret").stat().st_nlink == 1


def test_a_device_that_would_hide_a_file_is_left_out_with_a_warning(tmp_path: Path, store: Store) -> None:
    warnings = Warnings()
    first = tar_of(entry("etc/passwd", b"kept"))
    second = tar_of(entry("etc/passwd", kind=tarfile.CHRTYPE, devmajor=0, devminor=0))
    found = added(tmp_path, store, first, second, warnings=warnings)
    assert found["/etc/passwd"][1] == b"kept"
    assert any("/etc/passwd" in line for line in warnings.lines)


def test_attributes_of_overlayfs_are_not_taken_from_an_archive(tmp_path: Path, store: Store) -> None:
    first = tar_of(entry("etc/passwd", b"kept"))
    hiding = {"SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.trusted.overlay.opaque": "y"}
    found = added(tmp_path, store, first, tar_of(entry("etc", kind=tarfile.DIRTYPE, mode=0o755, pax_headers=hiding)))
    assert found["/etc/passwd"][1] == b"kept"


def test_a_name_that_means_something_else_in_a_layer_is_refused(tmp_path: Path, store: Store) -> None:
    first = tar_of(entry("etc/passwd", b"kept"))
    with pytest.raises(NotSupported, match="reserved by the image format"):
        added(tmp_path, store, first, tar_of(entry("etc/.wh.passwd", b"")))


def test_a_hard_link_to_nothing_is_an_error(tmp_path: Path, store: Store) -> None:
    with pytest.raises(UsageError) as caught:
        added(tmp_path, store, tar_of(entry("a", kind=tarfile.LNKTYPE, linkname="b")))
    assert caught.value.code == "bad-hard-link"


def test_a_damaged_archive_is_an_error(tmp_path: Path, store: Store) -> None:
    data = gzip.compress(tar_of(entry("a", os.urandom(100_000)), entry("b", os.urandom(100_000))))
    with pytest.raises(ContainError):
        added(tmp_path, store, data[: len(data) // 2])


def test_without_root_devices_are_left_out_with_a_warning(tmp_path: Path) -> None:
    """In a process without CAP_MKNOD the rest of a root file system is added all the same."""
    data = tar_of(entry("dev/null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3), entry("a", b"content"))
    for directory in (tmp_path, *tmp_path.parents):
        if str(directory).startswith("/tmp/") and directory.stat().st_uid == 0:
            directory.chmod(directory.stat().st_mode | 0o055)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        status = 1
        try:
            os.close(read)
            home = tmp_path / "own"
            home.mkdir()
            os.chown(home, 65534, 65534)
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            warnings = Warnings()
            with Store.open(home / "store") as store:
                found = added(home, store, data, warnings=warnings)
                assert found["/a"][1] == b"content"
                assert "/dev/null" not in found
                assert any("/dev/null" in line for line in warnings.lines)
            status = 0
        except BaseException as error:
            os.write(write, repr(error).encode())
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as report:
        said = report.read().decode()
    _, status = os.waitpid(child, 0)
    assert (os.waitstatus_to_exitcode(status), said) == (0, "")


def test_an_archive_s_directory_mode_is_not_what_stat_calls_a_type(tmp_path: Path, store: Store) -> None:
    found = added(tmp_path, store, tar_of(entry("d", kind=tarfile.DIRTYPE, mode=stat.S_IFDIR | 0o750)))
    assert found["/d"][0].mode == 0o750
