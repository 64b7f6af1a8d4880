"""Notes of living processes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from contain.container.presence import forget, note_myself, present
from contain.linux.usernamespace import start_ticks


def test_who_noted_itself_is_present_until_it_is_forgotten(tmp_path: Path) -> None:
    note_myself(tmp_path)
    ticks = start_ticks(os.getpid())
    assert ticks is not None
    assert list(present(tmp_path)) == [(os.getpid(), ticks)]
    forget(tmp_path, os.getpid(), ticks)
    assert list(present(tmp_path)) == []


def test_a_later_process_with_the_number_of_an_earlier_one_is_nobody(tmp_path: Path) -> None:
    (tmp_path / f"{os.getpid()}-1").touch()
    (tmp_path / "something else").touch()
    assert list(present(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def test_who_has_ended_and_is_not_yet_waited_for_is_nobody(tmp_path: Path) -> None:
    """It has no namespaces any more, and its end has been told."""
    with subprocess.Popen(["true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert start_ticks(ended.pid) is None


def test_nobody_is_where_no_notes_are(tmp_path: Path) -> None:
    assert list(present(tmp_path / "nothing")) == []
