"""``contain build`` of the same once more: answered from its record, and right whatever happened to the images meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CONTEXT = Path(__file__).resolve().parents[2] / "examples" / "works-in-ci"  # files that did not change a moment ago
Contain = Callable[..., str]


@pytest.fixture
def contain(tmp_path: Path) -> Contain:
    def call(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "contain.cli.start", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env={**os.environ, "CONTAIN_HOME": str(tmp_path / "home")},
        )
        return done.stdout + done.stderr

    return call


@pytest.fixture
def build(contain: Contain, tmp_path: Path) -> Callable[[], str]:
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM scratch\nCOPY tell.py /\n")

    def once() -> str:
        return contain("build", "-t", "app", "-f", str(dockerfile), str(CONTEXT))

    once()
    cached = once()
    assert len(list((tmp_path / "home/replays").iterdir())) == 1
    assert once() == cached
    return once


def test_a_name_that_was_moved_is_moved_back(contain: Contain, build: Callable[[], str], tmp_path: Path) -> None:
    built = build().splitlines()[0]
    other = tmp_path / "other"
    other.mkdir()
    (other / "Dockerfile").write_text("FROM scratch\nLABEL other=1\n")
    contain("build", "-t", "app", str(other))
    assert contain("images", "-q", "--no-trunc", "app").strip() != built
    assert build().splitlines()[0] == built
    assert contain("images", "-q", "--no-trunc", "app").strip() == built


def test_an_image_that_was_removed_is_made_again(contain: Contain, build: Callable[[], str]) -> None:
    contain("rmi", "-f", "app")
    assert build().splitlines()[0] == contain("images", "-q", "--no-trunc", "app").strip()


def test_a_layer_that_was_pruned_is_made_again(contain: Contain, build: Callable[[], str], tmp_path: Path) -> None:
    before = build()
    contain("rmi", "-f", "app")
    contain("builder", "prune", "-a", "-f")
    assert build().splitlines()[0] == before.splitlines()[0]
    target = tmp_path / "saved.tar"
    contain("save", "-o", str(target), "app")
    assert target.stat().st_size > 0
