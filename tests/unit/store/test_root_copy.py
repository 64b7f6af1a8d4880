"""Copies of merged layers and what differs in them. As root and as an ordinary user; owners and devices are in tests/kernel."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from contain.store import RootView, Store
from contain.store.marks import is_stand_in, is_whiteout
from contain.store.root_copy import copy_root, extract_changes

EPOCH = 946_684_800
STUBS = (("/proc", True), ("/etc", True), ("/etc/hosts", False), ("/link/x", True), ("/run", True))


def describe(*trees: Path) -> list[tuple[str, str, int, int, int, str]]:
    with RootView(trees) as view:
        return [
            (
                str(each.path),
                each.kind.value,
                each.mode,
                each.mtime_ns,
                each.size,
                each.link_target or dict(each.xattrs).__repr__(),
            )
            for each in view.walk()
        ]


@pytest.fixture
def layers(tmp_path: Path) -> tuple[Path, Path]:
    low, high = tmp_path / "low", tmp_path / "high"
    (low / "etc/deep").mkdir(parents=True)
    (low / "etc/passwd").write_text("root")
    (low / "etc/deep/file").write_text("deep")
    (low / "usr").mkdir(mode=0o711)
    (low / "usr/program").write_bytes(bytes(range(256)) * 5000)
    (low / "usr/program").chmod(0o4755)
    os.setxattr(low / "usr/program", "user.note", b"here")
    (low / "link").symlink_to("etc")
    (low / "gone").write_text("gone")
    os.mkfifo(low / "pipe")
    (high / "etc/deep").mkdir(parents=True)
    os.setxattr(high / "etc/deep", "user.overlay.opaque", b"y")
    (high / "etc/passwd").write_text("user")
    os.mknod(high / "gone", stat.S_IFCHR, 0)
    for number, path in enumerate([*low.rglob("*"), *high.rglob("*"), low, high]):
        os.utime(path, ns=(0, 900_000_000_123_456_789 + number), follow_symlinks=False)
    return low, high


@pytest.fixture
def copy(tmp_path: Path, layers: tuple[Path, Path]) -> Path:
    made = tmp_path / "copy"
    made.mkdir()
    copy_root(layers, made)
    return made


def changes(tmp_path: Path, copy: Path, layers: tuple[Path, Path], *, move: bool = False) -> list[str]:
    upper = tmp_path / f"upper{move}"
    extract_changes(copy, layers, upper, move=move)
    return sorted(str(path.relative_to(upper)) + ("!" if is_whiteout(path.lstat()) else "") for path in upper.rglob("*"))


def test_a_copy_shows_what_the_layers_show(copy: Path, layers: tuple[Path, Path]) -> None:
    assert describe(copy) == describe(*layers)


def test_a_root_of_no_layers_is_one_that_everybody_may_enter(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    copy_root([], tmp_path, stubs=STUBS)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert sorted(os.listdir(tmp_path)) == ["etc", "proc", "run"]


def test_holes_stay_holes(tmp_path: Path) -> None:
    layer, copy = tmp_path / "layer", tmp_path / "copy"
    layer.mkdir()
    copy.mkdir()
    with open(layer / "sparse", "wb") as file:
        for place in (0, 3 << 20, 9 << 20):
            file.seek(place)
            file.write(b"data")
        file.truncate(64 << 20)
    (layer / "empty").write_bytes(b"")
    os.truncate(layer / "empty", 64 << 20)
    copy_root([layer], copy)
    for name in ("sparse", "empty"):
        assert (copy / name).read_bytes() == (layer / name).read_bytes()
        assert (copy / name).stat().st_blocks <= (layer / name).stat().st_blocks + 64
    assert changes(tmp_path, copy, (layer, layer)) == []


def test_a_part_can_be_copied_alone(tmp_path: Path, layers: tuple[Path, Path]) -> None:
    part = tmp_path / "part"
    part.mkdir()
    copy_root(layers, part, path="/link")
    assert sorted(os.listdir(part)) == ["deep", "passwd"]
    assert (part / "passwd").read_text() == "user"


@pytest.mark.parametrize("move", [False, True])
def test_nothing_that_was_not_changed_is_a_change(tmp_path: Path, copy: Path, layers: tuple[Path, Path], *, move: bool) -> None:
    assert changes(tmp_path, copy, layers, move=move) == []


def test_content_counts_where_all_that_is_said_about_it_is_equal(tmp_path: Path, copy: Path, layers: tuple[Path, Path]) -> None:
    before = (copy / "etc/passwd").stat()
    (copy / "etc/passwd").write_text("USER")
    os.utime(copy / "etc/passwd", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert changes(tmp_path, copy, layers) == ["etc", "etc/passwd"]


def test_a_nanosecond_counts(tmp_path: Path, copy: Path, layers: tuple[Path, Path]) -> None:
    before = (copy / "etc/passwd").stat()
    os.utime(copy / "etc/passwd", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    directory = (copy / "usr").stat()
    os.utime(copy / "usr", ns=(directory.st_atime_ns, directory.st_mtime_ns - 1))
    assert changes(tmp_path, copy, layers) == ["etc", "etc/passwd", "usr"]


def test_what_is_gone_is_whited_out(tmp_path: Path, copy: Path, layers: tuple[Path, Path]) -> None:
    (copy / "pipe").unlink()
    (copy / "etc/deep").rmdir()
    assert changes(tmp_path, copy, layers) == ["etc", "etc/deep!", "pipe!"]


def test_changes_upon_the_layers_show_what_the_copy_shows(tmp_path: Path, copy: Path, layers: tuple[Path, Path]) -> None:
    (copy / "etc/passwd").unlink()
    (copy / "etc/passwd").mkdir()
    (copy / "etc/passwd/inner").write_text("x")
    (copy / "usr/program").chmod(0o755)
    os.removexattr(copy / "usr/program", "user.note")
    (copy / "link").unlink()
    (copy / "link").write_text("no link")
    os.link(copy / "link", copy / "same")
    copy.chmod(0o700)
    seen = describe(copy)
    extract_changes(copy, layers, tmp_path / "upper", move=False)
    assert describe(*layers, tmp_path / "upper") == seen == describe(copy)
    assert (tmp_path / "upper/link").stat().st_ino == (tmp_path / "upper/same").stat().st_ino


def test_mount_points_are_no_change_until_something_is_in_them(tmp_path: Path, layers: tuple[Path, Path]) -> None:
    copy, upper = tmp_path / "copy", tmp_path / "upper"
    copy.mkdir()
    copy_root(layers, copy, stubs=STUBS)
    assert (copy / "proc").is_dir()
    assert (copy / "etc/hosts").read_bytes() == b""
    assert not (copy / "etc/x").exists()  # behind a link: whoever mounts there follows it
    assert [each for each in describe(copy) if each[0] not in ("/proc", "/etc/hosts", "/run")] == describe(*layers)
    (copy / "run/pid").write_text("1")
    extract_changes(copy, layers, upper, stubs=STUBS, move=False)
    assert sorted(str(path.relative_to(upper)) for path in upper.rglob("*")) == ["run", "run/pid"]


def test_a_link_out_of_the_copy_leads_nowhere(tmp_path: Path, copy: Path, layers: tuple[Path, Path]) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (copy / "usr/program").unlink()
    (copy / "usr").rmdir()
    (copy / "usr").symlink_to(outside)
    extract_changes(copy, layers, tmp_path / "upper", move=False)
    assert (tmp_path / "upper/usr").is_symlink()
    assert os.listdir(outside) == ["secret"]


def test_what_stands_in_for_a_whiteout_is_one_and_is_on_record(tmp_path: Path, store: Store, layers: tuple[Path, Path]) -> None:
    upper = tmp_path / "upper"
    (upper / "etc").mkdir(parents=True)
    upper.chmod(0o755)
    os.mknod(upper / "etc/passwd", stat.S_IFSOCK | 0)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(upper / "etc/real"))
        assert not is_whiteout((upper / "etc/real").lstat())
    assert is_stand_in((upper / "etc/passwd").lstat())
    committed = store.commit_layer(upper, lower=layers, epoch_seconds=EPOCH)
    assert committed is not None
    tree = store.layer_tree(committed.diff_id)
    with RootView([*layers, tree]) as view:
        assert view.listdir("/etc") == ("deep",)
    plain = tmp_path / "plain"
    (plain / "etc").mkdir(parents=True)
    plain.chmod(0o755)
    (plain / "etc").chmod(stat.S_IMODE((tree / "etc").stat().st_mode))
    os.mknod(plain / "etc/passwd", stat.S_IFCHR, 0)
    same = store.commit_layer(plain, lower=layers, epoch_seconds=EPOCH)
    assert same == committed
