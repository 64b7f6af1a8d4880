"""``contain top`` with options of ps(1): only the container's own processes are shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from contain.cli.processes import _run_ps, select_rows
from contain.errors import UsageError

PRINTED = """  PID USER     COMMAND
    1 root     /sbin/init splash
   42 root     sleep 100
   43 nobody   42 1
"""


def test_only_the_rows_of_these_processes_are_shown() -> None:
    assert select_rows(PRINTED, {42, 99}) == "  PID USER     COMMAND\n   42 root     sleep 100\n"


def test_without_a_column_of_numbers_there_is_nothing_to_choose_by() -> None:
    with pytest.raises(UsageError, match="Couldn't find PID field in ps output"):
        select_rows("USER COMMAND\nroot x\n", {1})


def test_what_ps_objects_to_is_told_as_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ps"
    program.write_text("#!/bin/sh\nprintf 'error: unknown specifier \\042x\\042\\n\\nUsage:\\n' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(UsageError, match=r'^ps: unknown specifier "x"$'):
        _run_ps(["-o", "x"])
