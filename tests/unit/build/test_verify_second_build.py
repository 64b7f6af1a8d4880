from __future__ import annotations

import os
from pathlib import Path

import pytest

from contain.build.request import BuildRequest
from contain.build.verify import second_build
from contain.build.verify.second_build import prepare


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    (directory / "dir").mkdir(parents=True)
    (directory / "Dockerfile").write_text("FROM scratch\n")
    (directory / "dir" / "tool").write_text("x")
    (directory / "dir" / "tool").chmod(0o755)
    (directory / "link").symlink_to("dir/tool")
    return directory


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def test_the_second_build_has_the_same_files_with_other_modes_and_times(context: Path, place: Path) -> None:
    os.utime(context / "Dockerfile", (1, 1))
    conditions = prepare(BuildRequest(context=context), place, place)
    assert conditions.context is not None
    names = sorted(str(path.relative_to(conditions.context)) for path in conditions.context.rglob("*"))
    assert names == ["Dockerfile", "dir", "dir/tool", "link"]
    assert (conditions.context / "Dockerfile").read_text() == "FROM scratch\n"
    assert (conditions.context / "Dockerfile").stat().st_mtime != 1
    assert (conditions.context / "dir/tool").stat().st_mode & 0o777 == 0o700
    assert os.readlink(conditions.context / "link") == "dir/tool"


def test_modes_that_count_are_kept(context: Path, place: Path) -> None:
    conditions = prepare(BuildRequest(context=context, strict_modes=True), place, place)
    assert conditions.context is not None
    assert (conditions.context / "dir/tool").stat().st_mode & 0o777 == 0o755


def test_a_context_that_is_too_large_to_copy_is_named(context: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_build, "_CONTEXT_LIMIT_FILES", 2)
    conditions = prepare(BuildRequest(context=context), place, place)
    assert conditions.context is None
    assert any(each.startswith("the context: more than") for each in conditions.same)


def test_a_context_with_a_file_that_cannot_be_copied_is_not_called_too_large(
    context: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied", str(source))

    monkeypatch.setattr("shutil.copyfile", refuse)
    conditions = prepare(BuildRequest(context=context), place, place)
    assert conditions.context is None
    assert [each for each in conditions.same if each.startswith("the context: ") and each.endswith("Permission denied")]


def test_what_could_not_be_varied_is_said(context: Path, place: Path) -> None:
    conditions = prepare(BuildRequest(context=None), place, place)
    assert {"the context", "the kernel, the processor, the mirror and what it offers today"} <= set(conditions.same)
    assert any("file system" in each for each in conditions.same)
    assert not any(each.what.startswith("context") for each in conditions.varied)
