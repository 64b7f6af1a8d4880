"""Small contents are read once: for the digest, and kept for the copy."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from contain.build.trees.context import ContextTree, KeptContents
from contain.errors import Conflict
from contain.paths import HostPath


def test_a_copy_gets_what_the_digest_was_made_from_even_if_the_file_changed_since(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "small").write_bytes(b"one")
    with ContextTree(HostPath(tmp_path)) as tree:
        tree.digest_directory("", {})
        (tmp_path / "d" / "small").write_bytes(b"two!")
        assert tree.digest("d/small") == "sha256:" + hashlib.sha256(b"one").hexdigest()
        assert tree.take_content("d/small") == b"one"
        for ask in (tree.take_content, tree.open):  # from here on the file itself is asked
            with pytest.raises(Conflict) as raised:
                ask("d/small")
            assert raised.value.code == "context-changed"


def test_a_small_content_is_read_where_it_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"one")
    with ContextTree(HostPath(tmp_path)) as tree:
        assert tree.take_content("small") == b"one"


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small").write_bytes(b"one")
    read = os.read

    def changing(descriptor: int, size: int) -> bytes:
        (tmp_path / "small").write_bytes(b"four")
        return read(descriptor, size)

    with ContextTree(HostPath(tmp_path)) as tree:
        assert tree.lookup("small") is not None
        monkeypatch.setattr(os, "read", changing)
        with pytest.raises(Conflict) as raised:
            tree.take_content("small")
    assert raised.value.code == "context-changed"


def test_large_contents_are_not_kept(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(1 << 20))
    (tmp_path / "empty").touch()
    with ContextTree(HostPath(tmp_path)) as tree:
        assert tree.digest("large") == "sha256:" + hashlib.sha256(bytes(1 << 20)).hexdigest()
        assert tree.digest("empty") == "sha256:" + hashlib.sha256().hexdigest()
        assert tree.take_content("large") is None
        assert tree.take_content("empty") == b""


def test_what_is_kept_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contain.build.trees.context._KEPT_BYTES", 5)
    kept = KeptContents()
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"123")
        with (tmp_path / name).open("rb") as file:
            assert kept.hash(name, file.fileno(), 3) == "sha256:" + hashlib.sha256(b"123").hexdigest()
    assert (kept.take("b"), kept.take("a"), kept.take("a")) == (None, b"123", None)
    with (tmp_path / "b").open("rb") as file:
        kept.hash("b", file.fileno(), 3)
    assert kept.take("b") == b"123"


def test_a_file_that_grew_is_hashed_whole_and_not_kept(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    kept = KeptContents()
    with (tmp_path / "a").open("rb") as file:
        assert kept.hash("a", file.fileno(), 3) == "sha256:" + hashlib.sha256(b"12345").hexdigest()
    assert kept.take("a") is None
