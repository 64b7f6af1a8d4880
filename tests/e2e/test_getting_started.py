"""Docker's first steps with `contain`: the page ``docs/getting-started.md``, carried out line by line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs/getting-started.md"

pytestmark = [
    pytest.mark.root,
    pytest.mark.network,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="no curl"),
]


def steps() -> list[tuple[str, str]]:
    """(command, what it prints) in the page's order."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"^```console\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for line in block.splitlines(keepends=True):
            if line.startswith("$ "):
                found.append((line[2:].rstrip("\n"), ""))
            else:
                found[-1] = (found[-1][0], found[-1][1] + line)
    return found


def matches(shown: str, promised: str) -> bool:
    """Whether it is what was promised, where ``...`` stands for anything, and the width of a table's columns does not count."""
    pattern = re.escape(re.sub(r" {2,}", "  ", promised)).replace(r"\.\.\.", ".*")
    return re.fullmatch(pattern, re.sub(r" {2,}", "  ", shown), re.DOTALL) is not None


def test_every_command_of_the_page_prints_what_it_says(tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "examples/todo", tmp_path / "examples/todo")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "contain").write_text(f'#!/bin/sh\nexec {sys.executable} -m contain.cli.start "$@"\n', encoding="utf-8")
    (programs / "contain").chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "CONTAIN_HOME": str(tmp_path / "home")}
    directory = tmp_path
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        environment.pop(name, None)  # curl asks this machine
    try:
        for command, promised in steps():
            if command.startswith("cd "):
                directory = directory / command[3:]
                continue
            done = subprocess.run(
                ["sh", "-c", command],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=120,
                check=False,
            )
            seen = f"$ {command}\n{done.stdout}\n-- promised --\n{promised}"
            assert bool(done.returncode) == promised.startswith("Error: "), seen
            assert matches(done.stdout, promised), seen
    finally:
        for command in ("contain rm -f todo store", "contain network rm todo-app", "contain volume rm todo-db"):
            subprocess.run(["sh", "-c", command], env=environment, capture_output=True, timeout=60, check=False)
