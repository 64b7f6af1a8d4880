from __future__ import annotations

from pathlib import Path

import pytest

from contain.build.request import BuildRequest
from contain.build.sources import find_dockerfile
from contain.errors import NotFound


def refused(context: Path, name: Path) -> NotFound:
    with pytest.raises(NotFound) as caught:
        find_dockerfile(BuildRequest(context=context, dockerfile=name))
    assert caught.value.code == "dockerfile-not-found"
    return caught.value


def test_a_directory_is_not_said_to_be_missing(tmp_path: Path) -> None:
    assert "is a directory, not a Dockerfile" in refused(tmp_path, tmp_path).message


def test_a_dockerfile_named_as_seen_from_the_context_is_pointed_at(tmp_path: Path) -> None:
    (tmp_path / "build.df").write_text("FROM scratch\n")
    assert refused(tmp_path, Path("build.df")).remedy.endswith(f"-f {tmp_path / 'build.df'}")
    assert refused(tmp_path, Path("other.df")).remedy == ""
