"""An image that a test may spoil, and a place of the machine that must stay as it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Ground


@pytest.fixture
def image(ground: Ground) -> Path:
    """A copy of the small image that the test may spoil."""
    tree = ground.directory / "image"
    shutil.copytree(ground.tree, tree, symlinks=True)
    return tree


@pytest.fixture
def outside(ground: Ground) -> Path:
    """A directory of the host with one file in it, which must stay as it is."""
    directory = ground.directory / "outside"
    directory.mkdir()
    (directory / "canary").write_text("alive")
    return directory
