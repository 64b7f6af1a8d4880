"""A build is answered from its record only while everything that it looked at is as it was."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contain.build.cache import replay as replaying
from contain.build.cache.replay import keep, replay
from contain.build.trees.context import ContextTree

ARGUMENTS = ["-t", "app", "."]
LONG_AGO = 1_600_000_000


class Kept:
    """A record of a build of ``context``, whose files changed long ago."""

    def __init__(self, place: Path) -> None:
        self.home = place / "store"
        self.context = place / "context"
        self.dockerfile = self.context / "Dockerfile"
        (self.context / "src").mkdir(parents=True)
        (self.context / "src/a.py").write_text("a = 1\n")
        self.dockerfile.write_text("FROM base\n")
        (self.home / "layers/11").mkdir(parents=True)
        (self.home / "layers/11/layer.json").touch()
        self.database = sqlite3.connect(self.home / "state.sqlite3", isolation_level=None)
        self.database.execute("CREATE TABLE names (name TEXT, digest TEXT)")
        self.database.execute("CREATE TABLE images (digest TEXT)")
        self.database.executemany("INSERT INTO names VALUES (?, ?)", [("base", "sha256:b"), ("app", "sha256:a")])
        self.database.execute("INSERT INTO images VALUES ('sha256:a')")

    def keep(self) -> bool:
        with ContextTree(self.context) as tree:
            tree.lookup("src/a.py")
            return keep(
                ARGUMENTS,
                home=str(self.home),
                texts={str(self.dockerfile): b"FROM base\n", str(self.context / ".dockerignore"): None},
                trees=[(str(self.context), list(tree.observed()))],
                names={"base": "sha256:b", "app": "sha256:a"},
                files=["layers/11/layer.json"],
                digest="sha256:a",
                shown="[1/1] FROM base\n",
            )


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    made = Kept(tmp_path)
    monkeypatch.setenv("CONTAIN_HOME", str(made.home))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    monkeypatch.chdir(made.context)
    monkeypatch.setattr(replaying, "_SETTLED_NS", -(10**12))  # the files of this test are young
    assert made.keep()
    return made


def test_the_same_build_is_answered_with_what_it_said(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(ARGUMENTS)
    assert capsys.readouterr() == ("sha256:a\n", "[1/1] FROM base\n")


def _edit(kept: Kept) -> None:
    (kept.context / "src/a.py").write_text("a = 2\n")


def _edit_with_the_old_time(kept: Kept) -> None:
    path = kept.context / "src/a.py"
    before = path.stat()
    path.write_text("a = 2\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Kept], object]] = {
    "a file has other content": _edit,
    "a file has other content and its old time": _edit_with_the_old_time,
    "a file has another mode": lambda kept: (kept.context / "src/a.py").chmod(0o600),
    "a file is new": lambda kept: (kept.context / "src/b.py").touch(),
    "a file is gone": lambda kept: (kept.context / "src/a.py").unlink(),
    "a directory is gone": lambda kept: shutil.rmtree(kept.context / "src"),
    "the Dockerfile differs": lambda kept: kept.dockerfile.write_text("FROM base\nRUN x\n"),
    "the Dockerfile is gone": lambda kept: kept.dockerfile.unlink(),
    "there is an ignore file now": lambda kept: (kept.context / ".dockerignore").write_text("src\n"),
    "the base's name points elsewhere": lambda kept: kept.database.execute(
        "UPDATE names SET digest = 'sha256:c' WHERE name = 'base'"
    ),
    "the result's name points elsewhere": lambda kept: kept.database.execute("DELETE FROM names WHERE name = 'app'"),
    "the image is gone": lambda kept: kept.database.execute("DELETE FROM images"),
    "a layer is gone": lambda kept: (kept.home / "layers/11/layer.json").unlink(),
    "the store is gone": lambda kept: (kept.home / "state.sqlite3").unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_build_is_built_when(kept: Kept, change: Callable[[Kept], object], capsys: pytest.CaptureFixture[str]) -> None:
    change(kept)
    assert not replay(ARGUMENTS)
    assert capsys.readouterr() == ("", "")


def test_other_arguments_another_directory_and_another_epoch_are_other_builds(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not replay([*ARGUMENTS, "--no-cache"])
    with monkeypatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1")
        assert not replay(ARGUMENTS)
    with monkeypatch.context() as patch:
        patch.chdir(kept.home)
        assert not replay(ARGUMENTS)
    assert replay(ARGUMENTS)


def test_another_version_of_the_program_builds(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "_code_state", lambda: [("build/execute.py", 1, 1)])
    assert not replay(ARGUMENTS)


def test_a_record_counts_for_an_hour(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    assert not replay(ARGUMENTS)
    monkeypatch.setattr(time, "time", lambda: now - 60)  # the clock was set back: how old it is cannot be told
    assert not replay(ARGUMENTS)


def test_what_changed_a_moment_ago_is_not_written_down(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "_SETTLED_NS", 10**15)
    assert not kept.keep()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xe9\xff\xff\xff\xff", b"{"])
def test_a_damaged_record_is_none(kept: Kept, content: bytes) -> None:
    (record,) = (kept.home / "replays").iterdir()
    record.write_bytes(content)
    assert not replay(ARGUMENTS)


def test_records_are_few(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "_KEPT_RECORDS", 3)
    for number in range(10):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(number))
        assert kept.keep()
    assert len(list((kept.home / "replays").iterdir())) <= 4
