"""Small contents are read once: for the digest, and kept for the copy."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from contain.build.context import ContextTree
from contain.errors import Conflict
from contain.paths import HostPath


def test_a_copy_gets_what_the_digest_was_made_from_even_if_the_file_changed_since(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "small").write_bytes(b"one")
    with ContextTree(HostPath(tmp_path)) as tree:
        tree.digest_directory("", {})
        (tmp_path / "d" / "small").write_bytes(b"two")
        assert tree.digest("d/small") == "sha256:" + hashlib.sha256(b"one").hexdigest()
        assert tree.take_content("d/small") == b"one"
        assert tree.take_content("d/small") is None  # from here on the file itself is asked
        with pytest.raises(Conflict) as raised:
            tree.open("d/small")
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
    monkeypatch.setattr("contain.build.context._KEPT_BYTES", 5)
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"123")
    with ContextTree(HostPath(tmp_path)) as tree:
        for name in ("a", "b"):
            tree.digest(name)
        assert tree.take_content("b") is None
        assert tree.take_content("a") == b"123"
        tree.digest("c")
        assert tree.take_content("c") == b"123"
