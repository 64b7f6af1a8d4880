from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from pytest_contain import hookspecs
from pytest_contain.loop import plan_groups


def test_importing_the_plugin_imports_nothing_of_the_engine() -> None:
    program = (
        "import sys, pytest; before = set(sys.modules); import pytest_contain.plugin;"
        "new = {name for name in set(sys.modules) - before if not name.startswith('pytest_contain')};"
        "assert not [name for name in new if name.split('.')[0] in ('contain', 'pyroute2', 'rich', 'urllib3', 'zstandard')], new"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_inside_declares_the_same_hooks_with_the_same_arguments() -> None:
    from pytest_contain.inside import session

    def names(place: object) -> dict[str, list[str]]:
        return {
            name: [argument for argument in inspect.signature(function).parameters if argument != "self"]
            for name, function in vars(place).items()
            if name.startswith("pytest_contain_")
        }

    assert names(session.ControllerHooks) == names(hookspecs)


def test_the_files_inside_import_nothing_of_ours() -> None:
    import ast
    from pathlib import Path

    import pytest_contain.inside

    for path in Path(pytest_contain.inside.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 8))
        for node in ast.walk(tree):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert not [name for name in names if name.split(".")[0] in ("contain", "pytest_contain")], path


@pytest.mark.parametrize(("isolation", "sizes"), [("test", [1, 1, 1, 1]), ("module", [2, 1, 1]), ("session", [4])])
def test_groups_are_neighbours_that_share_what_the_isolation_says(isolation: str, sizes: list[int]) -> None:
    import types

    collection = types.SimpleNamespace(environment="e")
    items = [types.SimpleNamespace(collection=collection, path=path) for path in ("a", "a", "b", "a")]
    groups = plan_groups(items, {"e": None}, isolation)  # type: ignore[arg-type,dict-item]
    assert [len(group.items) for group in groups] == sizes
