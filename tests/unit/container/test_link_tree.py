"""What the worker of a session wrote is repeated by links for its tests: files, never what a link of it points to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from contain.container.session.keeper import link_tree


def test_links_are_repeated_and_never_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    source = tmp_path / "upper"
    (source / "a/b").mkdir(parents=True, mode=0o750)
    (source / "a/b/file").write_text("content")
    (source / "a/out").symlink_to(tmp_path / "outside")
    (source / "a").chmod(0o701)
    os.setxattr(source / "a", "user.overlay.opaque", b"y")
    target = tmp_path / "frozen"
    assert link_tree(source, target)
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*")) == ["a", "a/b", "a/b/file", "a/out"]
    assert os.readlink(target / "a/out") == str(tmp_path / "outside")
    assert (target / "a/b/file").samefile(source / "a/b/file")
    assert (target / "a").stat().st_mode & 0o7777 == 0o701
    assert os.getxattr(target / "a", "user.overlay.opaque") == b"y"


def test_a_directory_that_became_a_link_meanwhile_is_not_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker lives while its tree is repeated."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    source, target = tmp_path / "upper", tmp_path / "frozen"
    (source / "a").mkdir(parents=True)
    made = os.mkdir

    def mkdir(path: str | Path, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        made(path, mode, dir_fd=dir_fd)
        if path == "a":
            (source / "a").rmdir()
            (source / "a").symlink_to(tmp_path / "outside")

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(OSError, match="a"):
        link_tree(source, target)
    assert [path.name for path in target.rglob("*")] == ["a"]


def test_an_empty_tree_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "upper").mkdir()
    assert not link_tree(tmp_path / "upper", tmp_path / "frozen")
    assert not link_tree(tmp_path / "missing", tmp_path / "frozen")
    assert not (tmp_path / "frozen").exists()
