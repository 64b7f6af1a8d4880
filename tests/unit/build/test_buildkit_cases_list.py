"""``tests/kernel/buildkit_cases.toml``: what it says of BuildKit's tests of its Dockerfile frontend is true of the tests here."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
LIST: dict[str, Any] = tomllib.loads((ROOT / "tests/kernel/buildkit_cases.toml").read_text())
ROWS: dict[str, dict[str, Any]] = {name: row for rows in LIST["tests"].values() for name, row in rows.items()}


def test_every_test_of_buildkit_is_covered_or_there_is_a_reason() -> None:
    for name, row in ROWS.items():
        assert set(row) <= {"by", "differs"} if "by" in row else set(row) == {"not"}, name
        assert row.get("by") or row["not"] in LIST["reasons"], name
    assert set(LIST["reasons"]) == {row["not"] for row in ROWS.values() if "not" in row}


@pytest.mark.parametrize("place", sorted({place for row in ROWS.values() for place in row.get("by", ())}))
def test_each_named_test_exists(place: str) -> None:
    file, name = place.split("::")
    text = (ROOT / file).read_text()
    assert re.search(rf"^def {name}\(|[\"']{name}[\"'/]", text, re.MULTILINE)


def test_the_list_is_whole(request: pytest.FixtureRequest) -> None:
    corpus = request.config.getoption("--buildkit-corpus")
    files = sorted(Path(corpus).glob("frontend/dockerfile/*_test.go")) if corpus else []
    if not files:
        pytest.skip("no --buildkit-corpus PATH (or CONTAIN_BUILDKIT_CORPUS) with frontend/dockerfile/*_test.go given")
    found = {
        file.stem: set(re.findall(r"^func (test\w+)\(t \*testing\.T, sb integration\.Sandbox", file.read_text(), re.MULTILINE))
        for file in files
    }
    assert {name: names for name, names in found.items() if names} == {name: set(rows) for name, rows in LIST["tests"].items()}
