"""Promises of the project as a whole: documents say what the code does, and starting costs little."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contain.cli.arguments import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [*sorted((ROOT / "runtime/contain").rglob("*.py")), *sorted((ROOT / "pytest_contain").rglob("*.py"))]
KEBAB = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
HEAVY = ("rich", "urllib3", "pyroute2", "zstandard", "sqlite3", "debian", "pysequoia", "asyncio")


def constants(node: ast.AST) -> Iterator[str]:
    """The strings that an expression may have as its value."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from constants(node.body)
        yield from constants(node.orelse)


def error_codes(tree: ast.Module) -> Iterator[str]:
    """The codes of errors that a module raises: values of ``code=``, defaults of ``code``, attributes of classes."""
    named = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg == "code":
                    value = named.get(keyword.value.id) if isinstance(keyword.value, ast.Name) else keyword.value
                    if value is not None:
                        yield from constants(value)
        elif isinstance(node, ast.ClassDef):
            for line in node.body:
                if isinstance(line, ast.Assign) and any(
                    isinstance(name, ast.Name) and name.id == "code" for name in line.targets
                ):
                    yield from constants(line.value)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
                if argument.arg == "code" and default is not None:
                    yield from constants(default)


def test_every_error_code_has_one_heading_and_every_heading_is_a_code() -> None:
    used = {code for source in SOURCES for code in error_codes(ast.parse(source.read_text(encoding="utf-8")))}
    headings = re.findall(r"^### `(.+)`$", (ROOT / "docs/errors.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(used) > 100  # the search itself works
    assert all(KEBAB.fullmatch(code) for code in used)
    assert sorted(used - set(headings)) == []
    assert sorted(set(headings) - used) == []
    assert len(headings) == len(set(headings))


def sh_blocks() -> list[str]:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```(?:sh|bash|shell)\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)


def test_the_readme_has_exactly_two_commands_to_run_each_on_one_line() -> None:
    assert [len(block.splitlines()) for block in sh_blocks()] == [1, 1]


def test_every_command_is_documented() -> None:
    headings = re.findall(r"^### `contain ([\w ]+)`", (ROOT / "docs/commands.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(headings) == sorted(COMMANDS)


def test_every_relative_link_in_the_documents_leads_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    links = [
        (document, target)
        for document in documents
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
        if "://" not in target
    ]
    assert links
    assert [(document.name, target) for document, target in links if not (document.parent / target).exists()] == []


def imported_by(program: str) -> set[str]:
    """The modules that a program has imported in the end."""
    code = f"import sys\n{program}\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", [["--version"], ["--help"]])
def test_the_command_line_answers_without_importing_what_is_heavy(arguments: list[str]) -> None:
    modules = imported_by(f"from contain.cli.main import run_command\nrun_command({arguments!r})")
    assert "contain.cli.main" in modules
    assert modules.isdisjoint(HEAVY)


def test_what_is_answered_at_once_needs_next_to_nothing() -> None:
    before = imported_by("")
    for arguments in (["--version"], ["build", "."]):
        program = f"from contain.cli import start\nstart._answer_at_once({arguments!r})"
        modules = imported_by(program) - before
        assert modules <= {
            *("contain", "contain.annotations", "contain.cli", "contain.cli.start", "contain.home", "gc", "__future__"),
            *(
                "contain.build",
                "contain.build.cache",
                "contain.build.cache.replay",
                "xxhash",
                "xxhash._xxhash",
                "xxhash.version",
            ),
        }


def test_the_plugin_costs_nothing_where_it_is_not_used() -> None:
    modules = imported_by("import pytest_contain.plugin")
    assert "pytest_contain.plugin" in modules
    assert not {name for name in modules if name.partition(".")[0] == "contain"}
    assert modules.isdisjoint({"rich", "urllib3", "pyroute2", "zstandard", "sqlite3"})


def defined_names(source: Path) -> set[str]:
    """Functions and classes of a module, methods as ``Class.method``."""
    names = set()
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names.update(f"{node.name}.{line.name}" for line in node.body if isinstance(line, ast.FunctionDef))
    return names


def test_every_function_that_the_walkthrough_names_is_there() -> None:
    text = (ROOT / "docs/walkthrough.md").read_text(encoding="utf-8")
    named = re.findall(r"\[`([\w.]+)`\]\(\.\./([\w/.]+\.py)\)", text)
    assert len(named) > 30
    assert [(name, path) for name, path in named if name not in defined_names(ROOT / path)] == []


def test_every_difference_from_other_builders_is_documented() -> None:
    text = (ROOT / "docs/compatibility.md").read_text(encoding="utf-8")
    reasons = {row.reason for row in runpy.run_path(str(ROOT / "tests/peers/explained.py"))["EXPLAINED"]}
    assert reasons
    assert [reason for reason in reasons if reason not in text] == []
