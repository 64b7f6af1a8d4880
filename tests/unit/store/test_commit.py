"""What becomes of an overlay upper directory. As root and as an ordinary user; owners and devices are in tests/kernel."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tarfile
from pathlib import Path

import pytest

from contain.errors import NotSupported
from contain.progress import Silent
from contain.store import RootView, Store

EPOCH = 946_684_800


def whiteout(path: Path) -> None:
    os.mknod(path, 0o020000, 0)


def base(store: Store, tmp_path: Path) -> Path:
    """A lower layer with some of everything."""
    tree = tmp_path / "base"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/passwd").write_text("root")
    (tree / "etc/hosts").write_text("localhost")
    (tree / "usr/lib").mkdir(parents=True)
    (tree / "usr/lib/a.so").write_bytes(b"\x7fELF" * 1000)
    os.link(tree / "usr/lib/a.so", tree / "usr/lib/b.so")
    (tree / "lib").symlink_to("usr/lib")
    tree.chmod(0o755)
    committed = store.commit_layer(tree, lower=(), epoch_seconds=EPOCH)
    assert committed is not None
    assert not tree.exists()
    return store.layer_tree(committed.diff_id)


def archive_of(store: Store, diff_id: str) -> list[tarfile.TarInfo]:
    out = io.BytesIO()
    store.write_layer_tar(diff_id, out)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as opened:
        return opened.getmembers()


def commit(store: Store, upper: Path, *lower: Path, epoch: int = EPOCH) -> list[tarfile.TarInfo]:
    committed = store.commit_layer(upper, lower=lower, epoch_seconds=epoch)
    return [] if committed is None else archive_of(store, committed.diff_id)


def names(members: list[tarfile.TarInfo]) -> list[str]:
    return [member.name for member in members]


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    path = tmp_path / "upper"
    path.mkdir()
    path.chmod(0o755)
    return path


def test_an_upper_directory_without_a_change_makes_no_layer(store: Store, tmp_path: Path, upper: Path) -> None:
    assert store.commit_layer(upper, lower=[base(store, tmp_path)], epoch_seconds=EPOCH) is None
    assert not upper.exists()


def test_copies_of_lower_files_are_not_changes(store: Store, tmp_path: Path, upper: Path) -> None:
    lower = base(store, tmp_path)
    (upper / "etc").mkdir()
    (upper / "etc/passwd").write_text("root")
    (upper / "lib").symlink_to("usr/lib")
    (upper / "usr/lib").mkdir(parents=True)
    (upper / "usr/lib/a.so").write_bytes(b"\x7fELF" * 1000)
    assert commit(store, upper, lower) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_text("toor"),
        lambda path: path.write_text("root\n"),
        lambda path: path.chmod(0o600),
        lambda path: os.setxattr(path, "user.k", b"v"),
        lambda path: (path.unlink(), path.symlink_to("hosts")),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), subprocess.run(["mkfifo", "-m", "644", path], check=True)),
    ],
    ids=["same-size", "size", "mode", "attribute", "link", "directory", "pipe"],
)
def test_every_kind_of_change_is_one_and_brings_its_parents(store: Store, tmp_path: Path, upper: Path, change: object) -> None:
    lower = base(store, tmp_path)
    (upper / "etc").mkdir()
    (upper / "etc/passwd").write_text("root")
    change(upper / "etc/passwd")  # type: ignore[operator]
    assert names(commit(store, upper, lower)) == ["etc", "etc/passwd"]


def test_a_new_time_alone_is_not_a_change(store: Store, tmp_path: Path, upper: Path) -> None:
    lower = base(store, tmp_path)
    (upper / "etc").mkdir()
    (upper / "etc/passwd").write_text("root")
    os.utime(upper / "etc/passwd", (1, 1))
    assert commit(store, upper, lower) == []


def test_a_directorys_changed_mode_is_a_change(store: Store, tmp_path: Path, upper: Path) -> None:
    lower = base(store, tmp_path)
    (upper / "etc").mkdir(mode=0o700)
    (member,) = commit(store, upper, lower)
    assert (member.name, member.mode, member.isdir()) == ("etc", 0o700, True)


def test_a_deleted_file_is_an_explicit_whiteout_before_its_siblings(store: Store, tmp_path: Path, upper: Path) -> None:
    lower = base(store, tmp_path)
    (upper / "etc").mkdir()
    whiteout(upper / "etc/passwd")
    (upper / "etc/!first").touch()
    whiteout(upper / "usr")
    members = commit(store, upper, lower)
    assert names(members) == [".wh.usr", "etc", "etc/.wh.passwd", "etc/!first"]
    assert {member.mtime for member in members} == {EPOCH}


def test_a_whiteout_of_nothing_is_nothing(store: Store, tmp_path: Path, upper: Path) -> None:
    lower = base(store, tmp_path)
    (upper / "etc").mkdir()
    whiteout(upper / "etc/never-was")
    whiteout(upper / "never-was")
    assert commit(store, upper, lower) == []


@pytest.mark.parametrize("attribute", ["user.overlay.opaque", "trusted.overlay.opaque"])
def test_an_opaque_directory_becomes_explicit_whiteouts(store: Store, tmp_path: Path, upper: Path, attribute: str) -> None:
    lower = base(store, tmp_path)
    (upper / "etc").mkdir()
    (upper / "etc/hosts").write_text("localhost")
    (upper / "etc/new").touch()
    try:
        os.setxattr(upper / "etc", attribute, b"y")
    except PermissionError:
        pytest.skip("trusted attributes need root")
    # hosts is as it was below: the opaque directory was a way to say "passwd is gone, new is new"
    committed = store.commit_layer(upper, lower=[lower], epoch_seconds=EPOCH)
    assert committed is not None
    assert names(archive_of(store, committed.diff_id)) == ["etc", "etc/.wh.passwd", "etc/new"]
    assert os.listxattr(store.layer_tree(committed.diff_id) / "etc") == []


def test_directories_inside_an_opaque_one_are_opaque_too(store: Store, tmp_path: Path, upper: Path) -> None:
    lower = base(store, tmp_path)
    (upper / "usr/lib").mkdir(parents=True)
    (upper / "usr/lib/c.so").touch()
    os.setxattr(upper / "usr", "user.overlay.opaque", b"y")
    assert names(commit(store, upper, lower)) == ["usr", "usr/lib", "usr/lib/.wh.a.so", "usr/lib/.wh.b.so", "usr/lib/c.so"]


def test_opaque_over_nothing_is_an_ordinary_directory(store: Store, tmp_path: Path, upper: Path) -> None:
    lower = base(store, tmp_path)
    (upper / "new").mkdir()
    os.setxattr(upper / "new", "user.overlay.opaque", b"y")
    (upper / "lib").mkdir()  # over a link
    os.setxattr(upper / "lib", "user.overlay.opaque", b"y")
    assert names(commit(store, upper, lower)) == ["lib", "new"]


def test_a_directory_replaced_by_its_equal_is_no_change(store: Store, tmp_path: Path, upper: Path) -> None:
    lower = base(store, tmp_path)
    (upper / "etc").mkdir()
    os.setxattr(upper / "etc", "user.overlay.opaque", b"y")
    (upper / "etc/passwd").write_text("root")
    (upper / "etc/hosts").write_text("localhost")
    assert commit(store, upper, lower) == []


def test_sockets_are_dropped_and_what_they_replaced_is_gone(
    store: Store, tmp_path: Path, upper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower = base(store, tmp_path)
    monkeypatch.chdir(upper)
    (upper / "etc").mkdir()
    for name in ("new", "etc/passwd"):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(name)
    assert names(commit(store, upper, lower)) == ["etc", "etc/.wh.passwd"]


def test_hard_links_stay_hard_links_and_the_first_path_is_the_file(store: Store, upper: Path) -> None:
    (upper / "z").write_text("content")
    (upper / "m").mkdir()
    os.link(upper / "z", upper / "m/link")
    os.link(upper / "z", upper / "a")
    members = commit(store, upper)
    assert [(member.name, member.type, member.linkname) for member in members] == [
        ("a", tarfile.REGTYPE, ""),
        ("m", tarfile.DIRTYPE, ""),
        ("m/link", tarfile.LNKTYPE, "a"),
        ("z", tarfile.LNKTYPE, "a"),
    ]


def test_a_new_link_to_an_old_file_keeps_both_names_together(store: Store, tmp_path: Path, upper: Path) -> None:
    lower = base(store, tmp_path)
    (upper / "etc").mkdir()
    (upper / "etc/passwd").write_text("root")
    os.link(upper / "etc/passwd", upper / "etc/passwd-")
    assert names(commit(store, upper, lower)) == ["etc", "etc/passwd", "etc/passwd-"]


def test_old_links_copied_up_together_are_no_change(store: Store, tmp_path: Path, upper: Path) -> None:
    lower = base(store, tmp_path)
    (upper / "usr/lib").mkdir(parents=True)
    (upper / "usr/lib/a.so").write_bytes(b"\x7fELF" * 1000)
    os.link(upper / "usr/lib/a.so", upper / "usr/lib/b.so")
    assert commit(store, upper, lower) == []


def test_times_are_clamped_only_when_newer_and_lose_their_fractions(store: Store, upper: Path) -> None:
    for name, seconds in (("new", EPOCH + 10.5), ("old", EPOCH - 10.5), ("ancient", -5.5)):
        (upper / name).touch()
        os.utime(upper / name, ns=(0, int(seconds * 10**9)))
    (upper / "d").mkdir()
    os.utime(upper / "d", (0, 100))
    committed = store.commit_layer(upper, lower=(), epoch_seconds=EPOCH)
    assert committed is not None
    expected = {"ancient": -6, "d": 100, "new": EPOCH, "old": EPOCH - 11}
    assert {member.name: member.mtime for member in archive_of(store, committed.diff_id)} == expected
    tree = store.layer_tree(committed.diff_id)
    assert {name: (tree / name).stat().st_mtime_ns for name in expected} == {
        name: value * 10**9 for name, value in expected.items()
    }


def test_removing_copies_does_not_change_a_directorys_time(store: Store, tmp_path: Path, upper: Path) -> None:
    lower = base(store, tmp_path)
    (upper / "etc").mkdir()
    (upper / "etc/passwd").write_text("root")
    (upper / "etc/new").touch()
    os.utime(upper / "etc", (0, 4000))
    assert [member.mtime for member in commit(store, upper, lower) if member.name == "etc"] == [4000]


def test_the_root_directory_has_an_entry_only_when_it_changed(store: Store, tmp_path: Path, upper: Path) -> None:
    lower = base(store, tmp_path)
    upper.chmod(0o711)
    (upper / "f").touch()
    committed = store.commit_layer(upper, lower=[lower], epoch_seconds=EPOCH)
    assert committed is not None
    assert [(member.name, member.mode) for member in archive_of(store, committed.diff_id)] == [(".", 0o711), ("f", 0o644)]
    again = tmp_path / "again"
    again.mkdir()
    again.chmod(0o711)
    (again / "g").touch()
    assert names(commit(store, again, lower, store.layer_tree(committed.diff_id))) == ["g"]


def test_a_name_that_the_format_reserves_is_refused_by_name(store: Store, upper: Path) -> None:
    (upper / "d").mkdir()
    (upper / "d/.wh.mine").touch()
    with pytest.raises(NotSupported, match=r"/d/\.wh\.mine"):
        store.commit_layer(upper, lower=(), epoch_seconds=EPOCH)


def test_overlays_own_attributes_are_removed(store: Store, upper: Path) -> None:
    (upper / "d").mkdir()
    (upper / "d/f").touch()
    for path in (upper / "d", upper / "d/f"):
        os.setxattr(path, "user.overlay.origin", b"x")
        os.setxattr(path, "user.kept", b"x")
    committed = store.commit_layer(upper, lower=(), epoch_seconds=EPOCH)
    assert committed is not None
    for name in ("d", "d/f"):
        assert os.listxattr(store.layer_tree(committed.diff_id) / name) == ["user.kept"]


def test_the_same_content_has_the_same_digest_in_another_store_order_and_umask(store: Store, tmp_path: Path) -> None:
    def make(top: Path, order: list[str]) -> Path:
        top.mkdir()
        top.chmod(0o755)
        for name in order:
            path = top / name
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text(name)
            path.chmod(0o640)
        for directory in top.rglob("*"):
            if directory.is_dir():
                directory.chmod(0o750)
        return top

    order = ["b/x", "a", "b/y", "c/d/e", "Z"]
    first = store.commit_layer(make(tmp_path / "one", order), lower=(), epoch_seconds=EPOCH)
    before = os.umask(0o077)
    try:
        with Store.open(tmp_path / "other" / "place") as other:
            second = other.commit_layer(make(tmp_path / "two", order[::-1]), lower=(), epoch_seconds=EPOCH)
    finally:
        os.umask(before)
    assert first == second


def test_an_imported_archive_becomes_a_canonical_layer_whatever_its_order_and_packing(store: Store) -> None:
    def pack(mode: str, order: list[str], mtime: int) -> io.BytesIO:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=mode) as writer:  # type: ignore[call-overload]
            for name in order:
                member = tarfile.TarInfo(name)
                member.mtime = mtime
                if name.endswith("/"):
                    member.type, member.mode = tarfile.DIRTYPE, 0o755
                    writer.addfile(member)
                else:
                    member.size = 4
                    writer.addfile(member, io.BytesIO(b"text"))
        out.seek(0)
        return out

    first = store.import_layer(
        pack("w:gz", ["./", "./bin/", "./bin/sh", "./etc/", "./etc/x"], 2_000_000_000), progress=Silent()
    )
    second = store.import_layer(pack("w:xz", ["etc/", "etc/x", "bin/", "bin/sh"], 1_500_000_000), progress=Silent())
    assert first == second
    assert names(archive_of(store, first)) == ["bin", "bin/sh", "etc", "etc/x"]


def test_nothing_stays_when_a_commit_fails(store: Store, upper: Path) -> None:
    (upper / ".wh.bad").touch()
    with pytest.raises(NotSupported):
        store.commit_layer(upper, lower=(), epoch_seconds=EPOCH)
    assert os.listdir(store.home / "layers") == []
    assert os.listdir(store.home / "tmp") == []


def test_a_merged_view_is_the_same_before_and_after(store: Store, tmp_path: Path, upper: Path) -> None:
    lower = base(store, tmp_path)
    (upper / "etc").mkdir(mode=0o700)
    os.setxattr(upper / "etc", "user.overlay.opaque", b"y")
    (upper / "etc/hosts").write_text("localhost")
    whiteout(upper / "lib")
    with RootView([lower, upper]) as view:
        before = [(str(entry.path), entry.kind, entry.mode, entry.size) for entry in view.walk()]
    committed = store.commit_layer(upper, lower=[lower], epoch_seconds=EPOCH)
    assert committed is not None
    with RootView([lower, store.layer_tree(committed.diff_id)]) as view:
        assert [(str(entry.path), entry.kind, entry.mode, entry.size) for entry in view.walk()] == before


def test_two_equal_files_made_one_are_a_change(store: Store, tmp_path: Path, upper: Path) -> None:
    lower = tmp_path / "two"
    lower.mkdir()
    for name in ("a", "b"):
        (lower / name).write_text("same")
    (upper / "a").write_text("same")
    os.link(upper / "a", upper / "b")
    assert names(commit(store, upper, lower)) == ["a", "b"]
