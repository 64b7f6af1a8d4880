from __future__ import annotations

from pathlib import Path

import pytest

from contain.errors import UsageError
from pytest_contain.lending import lend_pytest, refuse_unsupported_python, supports


@pytest.mark.parametrize(
    ("requires", "python", "admitted"),
    [
        (">=3.10", (3, 10, 0), True),
        (">=3.10", (3, 9, 18), False),
        (">=3.8,<3.12", (3, 12, 1), False),
        (">=3.8,<3.12", (3, 11, 9), True),
        ("!=3.9.*,>=3.8", (3, 9, 1), False),
        ("~=3.8", (3, 13, 0), True),
        ("~=3.8", (4, 0, 0), False),
        ("==3.11.*", (3, 11, 7), True),
        ("<=3.11", (3, 11, 7), True),
        (">3.10", (3, 10, 5), False),
        (None, (3, 8, 0), True),
        ("what", (3, 8, 0), True),
    ],
)
def test_requires_python(requires: str | None, python: tuple[int, ...], admitted: bool) -> None:
    assert supports(requires, python) is admitted


def test_a_python_that_is_too_old_is_refused_with_both_versions() -> None:
    with pytest.raises(UsageError, match=r"needs Python .* the environment has 3\.6\.1") as caught:
        refuse_unsupported_python((3, 6, 1), environment="old")
    assert caught.value.code == "python-unsupported"


def test_what_is_lent_is_pure_and_made_once(tmp_path: Path) -> None:
    place = lend_pytest(tmp_path / "cache")
    assert {"pytest", "_pytest", "pluggy", "iniconfig", "packaging"} <= {path.name for path in place.iterdir()}
    assert [path for path in place.rglob("*") if path.suffix in (".so", ".pyc")] == []
    before = place.stat().st_ino
    assert lend_pytest(tmp_path / "cache").stat().st_ino == before
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [place.name]
