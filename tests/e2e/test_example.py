"""The example, as the README tells to run it. It uses the store that a user would use, so that a second run is quick."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/works-in-ci"

pytestmark = [
    pytest.mark.root,
    pytest.mark.network,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A copy."""
    shutil.copytree(EXAMPLE, tmp_path / "works-in-ci", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return tmp_path / "works-in-ci"


def tell(example: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, example / "tell.py"],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )


def test_the_story_goes_as_told(example: Path) -> None:
    done = tell(example)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "30 items" in done.stdout
    assert "15 containers" in done.stdout
    assert "As told:" in done.stdout


def test_a_story_that_goes_otherwise_is_not_told_as_if_it_had_not(example: Path) -> None:
    dockerfile = example / "Dockerfile"
    text = dockerfile.read_text()
    dockerfile.write_text(text.replace("ENV PORT=8000", "ENV PORT=8000 TZ=Europe/Berlin"))
    assert dockerfile.read_text() != text
    done = tell(example)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "alone should fail in deployment; failed: none" in done.stdout
    assert "As told" not in done.stdout
