from __future__ import annotations

import types
from typing import Any

import pytest

from pytest_contain.comparison import Comparison, evidence_of, outcome_word, render_table


def report(nodeid: str, when: str, outcome: str, **rest: Any) -> Any:
    return types.SimpleNamespace(
        nodeid=nodeid, when=when, passed=outcome == "passed", failed=outcome == "failed", skipped=outcome == "skipped", **rest
    )


def recorded(*reports: Any) -> Comparison:
    comparison = Comparison(("ci", "deployment"))
    for one in reports:
        comparison.record(one)
    return comparison


def test_the_same_outcomes_do_not_differ() -> None:
    comparison = recorded(
        *(report(f"t{env}", when, "passed") for env in ("@ci", "@deployment") for when in ("setup", "call", "teardown"))
    )
    assert comparison.differing() == []
    assert list(comparison.outcomes) == ["t"]


def test_a_failure_in_one_environment_differs_and_the_worst_phase_counts() -> None:
    comparison = recorded(
        report("t@ci", "call", "passed"),
        report("t@deployment", "call", "passed"),
        report("t@deployment", "teardown", "failed"),
        report("u@ci", "call", "passed"),
    )
    assert comparison.differing() == [("t", ("passed", "error")), ("u", ("passed", "not run"))]


def test_ids_that_hold_the_sign_themselves_are_cut_at_the_last_one() -> None:
    assert list(recorded(report("t[a@b]@ci", "call", "passed")).outcomes) == ["t[a@b]"]
    assert recorded(report("t[a@b]", "call", "passed")).outcomes == {}


@pytest.mark.parametrize(
    ("one", "word"),
    [
        (report("t", "setup", "failed"), "error"),
        (report("t", "call", "failed"), "failed"),
        (report("t", "setup", "skipped"), "skipped"),
        (report("t", "call", "skipped", wasxfail=""), "xfailed"),
        (report("t", "call", "passed", wasxfail=""), "xpassed"),
        (report("t", "setup", "passed"), ""),
        (report("t", "call", "passed", context="part"), ""),
    ],
)
def test_the_word_of_a_report(one: Any, word: str) -> None:
    assert outcome_word(one) == word


def test_the_table_has_a_column_for_each_environment() -> None:
    assert render_table(("ci", "deployment"), [("a.py::t", ("passed", "failed"))]) == [
        "ci      deployment  test",
        "passed  failed      a.py::t",
    ]


def test_the_evidence_names_the_exception_and_the_files() -> None:
    entry = types.SimpleNamespace(reprfileloc=types.SimpleNamespace(path="/x/a.py"))
    longrepr = types.SimpleNamespace(
        reprcrash=types.SimpleNamespace(message="UnicodeDecodeError: 'ascii' codec"),
        reprtraceback=types.SimpleNamespace(reprentries=[entry, types.SimpleNamespace()]),
    )
    evidence = evidence_of("t", types.SimpleNamespace(longrepr=longrepr, longreprtext="text"), ["app"])
    assert (evidence.exception, evidence.message, evidence.traceback_paths) == (
        "UnicodeDecodeError",
        "'ascii' codec",
        ("/x/a.py",),
    )
    assert (evidence.test, evidence.modules) == ("t", ("app",))
    plain = evidence_of("t", types.SimpleNamespace(longrepr="killed by SIGKILL: x", longreprtext="killed"))
    assert plain.exception == ""
