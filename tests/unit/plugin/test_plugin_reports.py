from __future__ import annotations

import json
import signal
import types
from typing import Any

import pytest

from pytest_contain.backend import Uneventful
from pytest_contain.reports import (
    Death,
    explain_death,
    explain_leftovers,
    explain_verdict,
    next_phase,
    rebuild_report,
    rebuild_warning,
    render_size,
)


def over_the_wire(config: pytest.Config, report: Any) -> Any:
    data = config.hook.pytest_report_to_serializable(config=config, report=report)
    return rebuild_report(config, json.loads(json.dumps(data, default=repr)))


def test_a_skip_keeps_its_tuple(pytestconfig: pytest.Config) -> None:
    report = pytest.TestReport(
        "a.py::t", ("a.py", 1, "t"), {}, "skipped", ("a.py", 2, "why"), "setup", [("s", "x")], user_properties=[("k", 1)]
    )
    back = over_the_wire(pytestconfig, report)
    assert back.longrepr == ("a.py", 2, "why")
    assert back.location == ("a.py", 1, "t")
    assert back.sections == [("s", "x")]
    assert back.user_properties == [("k", 1)]


def test_what_is_no_report_is_a_value_error(pytestconfig: pytest.Config) -> None:
    for data in ({}, {"$report_type": "TestReport"}, {"$report_type": "Strange", "longrepr": None}):
        with pytest.raises(ValueError, match="report"):
            rebuild_report(pytestconfig, dict(data))


@pytest.mark.parametrize(
    ("death", "text"),
    [
        (Death(wait_status=3 << 8), "the test's process called exit with status 3"),
        (Death(wait_status=int(signal.SIGSEGV)), "killed by SIGSEGV"),
        (Death(wait_status=int(signal.SIGSEGV) | 0x80), "killed by SIGSEGV"),
        (Death(wait_status=None), "the test's process ended"),
        (
            Death(wait_status=9, verdict=Uneventful(out_of_memory=True, memory_limit_bytes=512 << 20)),
            "killed by SIGKILL: memory limit 512 MiB reached",
        ),
        (
            Death(wait_status=None, reason="timeout: too long", verdict=Uneventful(pids_limit_reached=True, pids_limit=100)),
            "timeout: too long; processes limit 100 reached",
        ),
    ],
)
def test_a_death_is_told_in_words(death: Death, text: str) -> None:
    assert explain_death(death) == text


def test_verdicts_and_leftovers_in_words() -> None:
    assert explain_verdict(Uneventful()) == ""
    assert "1.5 GiB" in explain_verdict(Uneventful(out_of_memory=True, memory_limit_bytes=3 << 29))
    assert explain_leftovers(1, []) == "left 1 process behind in its container"
    assert explain_leftovers(3, ["sleep 1", "x", "x"]) == "left 3 processes behind in its container: sleep 1, x (2x)"
    assert [render_size(size) for size in (100, 1 << 10, 300 << 20)] == ["100 bytes", "1 KiB", "300 MiB"]


def phase(when: str, outcome: str = "passed") -> Any:
    return types.SimpleNamespace(when=when, passed=outcome == "passed")


def test_the_phase_of_a_death_follows_from_what_was_reported() -> None:
    assert next_phase([]) == "setup"
    assert next_phase([phase("setup")]) == "call"
    assert next_phase([phase("setup"), phase("call", "failed")]) == "teardown"
    assert next_phase([phase("setup", "failed")]) == "teardown"
    part = phase("call")
    part.context = "a subtest"
    assert next_phase([phase("setup"), part]) == "call"


def test_a_warning_whose_class_is_not_here_keeps_its_name() -> None:
    data = {
        "text": "old",
        "module": "not.here",
        "category": "TheirWarning",
        "file": "f.py",
        "line_number": 3,
        "when": "runtest",
        "nodeid": "n",
    }
    record = rebuild_warning(data)["warning_message"]
    assert record.category.__name__ == "TheirWarning"
    assert str(record.message) == "old"
    known = rebuild_warning(data | {"module": "builtins", "category": "DeprecationWarning"})["warning_message"]
    assert known.category is DeprecationWarning
    difficult = rebuild_warning(data | {"module": "builtins", "category": "BytesWarning"})["warning_message"]
    assert str(difficult.message) == "old"
