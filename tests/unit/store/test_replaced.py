"""A file of the user's gets its name when it is whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from contain.store.durable import replaced


def test_what_was_there_stays_until_the_new_file_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with replaced(target) as file:
        file.write(b"new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


def test_nothing_is_left_of_a_file_that_did_not_become_whole(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def write_half() -> None:
        with replaced(target) as file:
            file.write(b"half")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        write_half()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_what_a_link_leads_to_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    with replaced(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


def test_a_device_is_written_to_and_not_replaced() -> None:
    before = os.lstat("/dev/null")
    with replaced("/dev/null") as file:
        file.write(b"new")
    assert os.lstat("/dev/null").st_rdev == before.st_rdev


def test_a_mode_is_that_of_a_new_file(tmp_path: Path) -> None:
    with replaced(tmp_path / "file", mode=0o600) as file:
        file.write(b"")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
