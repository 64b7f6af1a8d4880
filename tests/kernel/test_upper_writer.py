"""Owners of what is written into an upper directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from contain.build.copy.writer import Attributes, UpperWriter
from contain.build.trees.tree import Node
from contain.paths import HostPath

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="gives files to others: needs root")]
EPOCH = 946_684_800


def nothing_below(_path: str) -> Node | None:
    return None


def owners(tree: Path) -> dict[str, tuple[int, int]]:
    return {str(path.relative_to(tree)): (path.lstat().st_uid, path.lstat().st_gid) for path in tree.rglob("*")}


def test_a_file_in_a_set_group_id_directory_keeps_the_group_it_is_given(tmp_path: Path) -> None:
    with UpperWriter(HostPath(tmp_path), lower=nothing_below, epoch_seconds=EPOCH) as writer:
        writer.put_directory("d", Attributes(mode=0o2755, group_id=7))
        writer.put_file("d/f", b"x", Attributes(mode=0o644))
        writer.put_directory("d", Attributes(mode=0o755))
        writer.put_file("d/g", b"x", Attributes(mode=0o2755, group_id=7))
        writer.put_file("d/h", b"x", Attributes(mode=0o644, user_id=5))
    assert owners(tmp_path) == {"d": (0, 0), "d/f": (0, 0), "d/g": (0, 7), "d/h": (5, 0)}
    assert stat.S_IMODE((tmp_path / "d" / "g").stat().st_mode) == 0o2755


def test_a_file_in_an_upper_directory_of_another_group_keeps_the_group_it_is_given(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    (upper / "old").mkdir(parents=True)
    for directory in (upper, upper / "old"):
        os.chown(directory, 0, 7)
        directory.chmod(0o2755)
    with UpperWriter(HostPath(upper), lower=nothing_below, epoch_seconds=EPOCH) as writer:
        writer.put_file("f", b"x", Attributes(mode=0o644))
        writer.put_file("old/f", b"x", Attributes(mode=0o644))
    assert owners(upper) == {"f": (0, 0), "old": (0, 7), "old/f": (0, 0)}
