"""The table of known holes is whole: each has a test and a mutation that can be applied, and the documentation shows it."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load() -> ModuleType:
    specification = importlib.util.spec_from_file_location("known_holes", ROOT / "tests/security/holes.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["known_holes"] = module
    specification.loader.exec_module(module)
    return module


holes_of = load()
HOLES = holes_of.read_holes()
BY_NAME = pytest.mark.parametrize("hole", HOLES, ids=lambda hole: str(hole.name))


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_no_number_is_missing_and_none_stands_twice() -> None:
    assert [int(hole.name.partition(" ")[0]) for hole in sorted(HOLES, key=lambda hole: int(hole.name.split()[0]))] == [
        *range(1, 33)
    ]


@BY_NAME
def test_a_hole_has_tests_and_a_mutation_or_says_why_not(hole: Any) -> None:
    if hole.reason:
        assert not hole.tests
        assert not hole.mutations
    else:
        assert hole.tests
        assert hole.mutations
        assert len({mutation.name for mutation in hole.mutations}) == len(hole.mutations)


@BY_NAME
def test_every_test_of_a_hole_exists_and_turns_red_by_some_mutation(hole: Any) -> None:
    for test in hole.tests:
        path, _, name = test.partition("[")[0].partition("::")
        assert name in functions(ROOT / path), test
    red = {test.partition("[")[0] for mutation in hole.mutations for test in mutation.red}
    assert red == {test.partition("[")[0] for test in hole.tests}


@BY_NAME
def test_every_change_can_be_applied(hole: Any) -> None:
    for mutation in hole.mutations:
        for change in (*mutation.changes, *mutation.aids):
            text = (ROOT / change.file).read_text(encoding="utf-8")
            assert text.count(change.old) == 1, f"{hole.name}: {mutation.name}: {change.file} has not once: {change.old}"
            assert change.old != change.new or change.mode
            if change.file.endswith(".py"):
                ast.parse(text.replace(change.old, change.new))


def test_the_documentation_shows_the_table() -> None:
    document = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    shown = holes_of.replace_table(document, holes_of.render_table(HOLES))
    assert shown == document, "bring it up to date: python tests/security/mutate.py --write-docs"


@pytest.mark.parametrize("row", ['[[hole]]\nname = "1"\ntitle = "t"\ntest = []', '[[hole]]\nname = "1"'])
def test_a_row_that_is_not_understood_is_an_error(row: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        holes_of.parse_holes(row)
