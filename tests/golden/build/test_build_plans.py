"""Each directory holds a Dockerfile and what ``contain build --plan`` says about it: the plan, or the error.

To write ``expected.txt`` anew after a wanted change: run with CONTAIN_WRITE_GOLDEN=1 and read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from contain.build.plan import plan
from contain.build.request import BuildHost, BuildRequest
from contain.errors import ContainError
from contain.oci import Platform

CASES = sorted(path.parent for path in Path(__file__).parent.glob("*/Dockerfile"))
HOST = BuildHost(platform=Platform(os="linux", architecture="amd64"))


def planned(directory: Path) -> str:
    text = (directory / "Dockerfile").read_text()
    request = BuildRequest(
        context=None, dockerfile_text=text, build_args={"FORGOTTEN": "1"} if "variables" in directory.name else {}
    )
    try:
        return plan(request, host=HOST)
    except ContainError as error:
        return f"{type(error).__name__} {error.code}\n{error}\n"


@pytest.mark.parametrize("directory", CASES, ids=lambda path: path.name)
def test_a_plan_is_what_was_agreed(directory: Path) -> None:
    found = planned(directory)
    expected = directory / "expected.txt"
    if os.environ.get("CONTAIN_WRITE_GOLDEN"):
        expected.write_text(found)
    assert found == expected.read_text()


def test_there_are_cases_that_must_fail_and_cases_that_must_not() -> None:
    failing = [path.name for path in CASES if path.name.startswith("error-")]
    assert failing
    assert len(failing) < len(CASES)
    for directory in CASES:
        assert ("Error " in planned(directory).splitlines()[0] or "Not" in planned(directory).split()[0]) == (
            directory.name in failing
        )
