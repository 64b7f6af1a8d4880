from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from contain.build.outputs import open_destination
from contain.cli.output import replace_file
from contain.errors import UsageError


def write_output(path: Path, data: bytes) -> None:
    with open_destination(str(path)) as out:
        out.write(data)


@pytest.mark.parametrize("write", [replace_file, write_output])
class TestAFileThatIsWrittenInOneStep:
    def test_leaves_nothing_beside_it(self, write: object, tmp_path: Path) -> None:
        assert callable(write)
        (tmp_path / "x").write_bytes(b"old")
        write(tmp_path / "x", b"new")
        assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"new")]

    def test_does_not_take_the_place_of_a_pipe_or_a_device(self, write: object, tmp_path: Path) -> None:
        assert callable(write)
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        holder = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)  # so that nobody waits for anybody
        write(pipe, b"data")
        assert os.read(holder, 10) == b"data"
        os.close(holder)
        assert stat.S_ISFIFO(pipe.stat().st_mode)

    def test_replaces_what_a_link_leads_to_and_not_the_link(self, write: object, tmp_path: Path) -> None:
        assert callable(write)
        (tmp_path / "link").symlink_to("target")
        write(tmp_path / "link", b"data")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "target").read_bytes() == b"data"


def test_an_output_that_is_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory"):
        write_output(tmp_path, b"")
