"""``contain top`` with options of ps(1): only the container's own processes are shown."""

from __future__ import annotations

import pytest

from contain.cli.processes import select_rows
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
