"""``contain build --check`` as a user meets it: what it prints, and how it exits. Needs no root: nothing is carried out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Check = Callable[..., subprocess.CompletedProcess[str]]
CLEAN = 'FROM scratch\nCOPY a /\nCMD ["/a"]\n'


@pytest.fixture
def check(tmp_path: Path) -> Check:
    context = tmp_path / "context"
    context.mkdir()

    def run(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        (context / "Dockerfile").write_text(text)
        return subprocess.run(
            [sys.executable, "-m", "contain.cli.start", "build", "--check", *arguments, str(context)],
            env={**os.environ, "CONTAIN_HOME": str(tmp_path / "home"), "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_nothing_found_is_success(check: Check) -> None:
    done = check(CLEAN)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Check complete: nothing found.\n", "")


def test_a_warning_is_shown_with_its_place_and_makes_the_status_1(check: Check) -> None:
    done = check(CLEAN.replace('["/a"]', "/a"))
    assert done.returncode == 1
    assert "WARNING: JSONArgsRecommended" in done.stdout
    assert "   3 | >>> CMD /a\n" in done.stdout
    assert done.stdout.endswith("Check complete: 1 warning.\n")


def test_a_note_is_shown_and_is_no_failure(check: Check) -> None:
    done = check(CLEAN + "ADD https://example.invalid/x /\n")
    assert done.returncode == 0
    assert "NOTE: UnverifiedAdd" in done.stdout
    assert done.stdout.endswith("Check complete: 1 note.\n")


def test_error_true_changes_nothing_about_notes(check: Check) -> None:
    assert check("# check=error=true\n" + CLEAN + "ADD https://example.invalid/x /\n").returncode == 0
    assert check("# check=error=true\n" + CLEAN + "MAINTAINER a\n").returncode == 1


def test_the_json_is_one_document_on_standard_output(check: Check) -> None:
    done = check(CLEAN + "MAINTAINER a\nADD https://example.invalid/x /\n", "--format", "json")
    assert done.returncode == 1
    value = json.loads(done.stdout)
    assert [warning["ruleName"] for warning in value["warnings"]] == ["MaintainerDeprecated"]
    assert [note["ruleName"] for note in value["notes"]] == ["UnverifiedAdd"]
    assert "buildError" not in value


def test_a_file_that_is_no_dockerfile_is_an_error_in_both_forms(check: Check) -> None:
    done = check(CLEAN + "MAINTAINER a\nBAD\n")
    assert done.returncode == 1
    assert "WARNING: MaintainerDeprecated" in done.stdout
    assert "unknown instruction BAD" in done.stderr
    value = json.loads(check(CLEAN + "BAD\n", "--format", "json").stdout)
    assert value["buildError"]["code"] == "unknown-instruction"


def test_a_base_that_is_not_at_hand_is_said(check: Check) -> None:
    done = check("FROM nowhere.invalid/app@sha256:" + "a" * 64 + "\nCOPY $X /\n")
    assert "not checked: the variables and the platform of nowhere.invalid/app" in done.stdout
    assert done.returncode == 0


def test_a_format_without_a_check_is_refused(check: Check, tmp_path: Path) -> None:
    check(CLEAN)
    done = subprocess.run(
        [sys.executable, "-m", "contain.cli.start", "build", "--format", "json", str(tmp_path / "context")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "--format is for --check and --verify" in done.stderr
