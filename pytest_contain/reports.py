"""Reports and warnings that come from inside, as pytest's own objects again; and reports for tests that could not report.

Values to values: nothing here reads or writes anything. Reports are rebuilt by the hook that matches the one they were written
by, with the tuples that JSON made lists of.
"""

from __future__ import annotations

import builtins
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from _pytest._code.code import TerminalRepr
from _pytest._io import TerminalWriter

from pytest_contain.backend import SandboxVerdict, Uneventful

Phase = Literal["setup", "call", "teardown"]

_PHASES: tuple[Phase, ...] = ("setup", "call", "teardown")
_SIZE_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


class TextRepr(TerminalRepr):
    """A failure whose own class knows how to show it, of which only the text came."""

    def __init__(self, text: str, *, red: bool) -> None:
        self.text = text
        self.red = red

    def toterminal(self, out: TerminalWriter) -> None:
        """The text."""
        out.line(self.text, red=self.red)


def rebuild_report(config: pytest.Config, data: dict[str, Any]) -> Any:
    """A report as it was inside. Raises ValueError if it is not one."""
    longrepr = data.get("longrepr")
    if isinstance(longrepr, list):
        data["longrepr"] = tuple(longrepr)  # a skip: file, line, reason
    if isinstance(data.get("location"), list):
        data["location"] = tuple(data["location"])
    data["sections"] = [(str(name), str(content)) for name, content in data.get("sections") or ()]
    if data.get("user_properties") is not None:
        data["user_properties"] = [(str(name), value) for name, value in data["user_properties"]]
    repr_class = data.pop("$contain_repr", None)
    failed_subtests = data.pop("$contain_failed_subtests", 0)
    status = data.pop("$contain_status", None)
    context = data.get("_subtest.context")
    values = dict(context["kwargs"]) if isinstance(context, dict) and isinstance(context.get("kwargs"), dict) else None
    try:
        report = config.hook.pytest_report_from_serializable(config=config, data=data)
    except Exception as error:
        raise ValueError(f"a report that cannot be rebuilt: {type(error).__name__}: {error}") from error
    if report is None:
        raise ValueError(f"a report of an unknown type: {data.get('$report_type') or data.get('_report_type')!r}")
    if status is not None:
        category, letter, word = status
        report._contain_status = (str(category), str(letter), word if isinstance(word, str) else (str(word[0]), dict(word[1])))
    if repr_class is not None and isinstance(report.longrepr, str):
        report.longrepr = TextRepr(report.longrepr, red=repr_class == "CollectErrorRepr")
    if isinstance(failed_subtests, int) and failed_subtests:
        count_failed_subtests(config, report, failed_subtests)
    if values is not None and hasattr(report, "context"):
        object.__setattr__(report.context, "kwargs", values)  # they are reprs already; making the context took reprs of them
    return report


def warning_class(module: str, name: str) -> type[Warning]:
    """The warning's class if this process has it already, otherwise one with its name."""
    found = getattr(builtins, name, None) if module == "builtins" else getattr(sys.modules.get(module), name, None)
    if isinstance(found, type) and issubclass(found, Warning):
        return found
    return type(name, (Warning,), {"__module__": module})


def rebuild_warning(data: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``pytest_warning_recorded``."""
    category = warning_class(str(data["module"]), str(data["category"]))
    try:
        message = category(data["text"])
    except Exception:  # a class that wants other arguments
        category = type(category.__name__, (Warning,), {"__module__": category.__module__})
        message = category(data["text"])
    record = warnings.WarningMessage(
        message=message, category=category, filename=str(data["file"]), lineno=int(data["line_number"]), line=data.get("line")
    )
    location = data.get("location")
    return {
        "warning_message": record,
        "when": data["when"],
        "nodeid": data["nodeid"],
        "location": tuple(location) if location else None,
    }


def render_size(size_bytes: int) -> str:
    """``512 MiB``, ``1.5 GiB``, ``100 bytes``."""
    for unit, name in _SIZE_UNITS:
        if size_bytes >= unit:
            return f"{size_bytes / unit:.4g} {name}"
    return f"{size_bytes} bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """How a child ended before its test was done."""

    wait_status: int | None  # as of ``os.waitpid``; None or negative: unknown
    reason: str = ""  # what the controller knows better: a timeout, a flood
    verdict: SandboxVerdict = field(default_factory=Uneventful)


def explain_death(death: Death) -> str:
    """One line: ``killed by SIGKILL: memory limit 512 MiB reached``."""
    verdict = death.verdict
    causes = []
    if verdict.out_of_memory:
        limit = f" {render_size(verdict.memory_limit_bytes)}" if verdict.memory_limit_bytes else ""
        causes.append(f"memory limit{limit} reached")
    if verdict.pids_limit_reached:
        limit = f" {verdict.pids_limit}" if verdict.pids_limit else ""
        causes.append(f"processes limit{limit} reached")
    if death.reason:
        return "; ".join([death.reason, *causes])
    status = death.wait_status
    if status is None or status < 0:
        what = "the test's process ended"
    elif status & 0x7F:
        number = status & 0x7F
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        what = f"killed by {name}"
    else:
        what = f"the test's process called exit with status {status >> 8 & 0xFF}"
    return f"{what}: {', '.join(causes)}" if causes else what


def explain_verdict(verdict: SandboxVerdict) -> str:
    """What a container says after a test that did finish, or nothing."""
    lines = []
    if verdict.out_of_memory:
        limit = f" {render_size(verdict.memory_limit_bytes)}" if verdict.memory_limit_bytes else ""
        lines.append(f"memory limit{limit} reached: the kernel killed a process of this test")
    if verdict.pids_limit_reached:
        limit = f" {verdict.pids_limit}" if verdict.pids_limit else ""
        lines.append(f"processes limit{limit} reached: a fork was refused")
    return "\n".join(lines)


def explain_leftovers(count: int, names: Sequence[str], shown: int = 5) -> str:
    """``left 3 processes behind in its container: sleep 1000, a fork of the test (2x)``. ``names`` may be fewer than ``count``."""
    noun = "process" if count == 1 else "processes"
    text = f"left {count} {noun} behind in its container"
    if not names:
        return text
    each = [f"{name} ({number}x)" if number > 1 else name for name, number in Counter(names).items()]
    return f"{text}: {', '.join(each[:shown])}{', …' if len(each) > shown else ''}"


def next_phase(seen: Sequence[Any]) -> Phase:
    """The phase that a test was in after these reports of its own."""
    done = -1
    for report in seen:
        if report.when in _PHASES and not is_subtest(report):
            done = max(done, _PHASES.index(report.when))
            if report.when == "setup" and not report.passed:
                done = 1
    return _PHASES[min(done + 1, 2)]


def is_subtest(report: Any) -> bool:
    """Whether this is a part of a test: pytest's own subtests, or pytest-subtests'."""
    return hasattr(report, "context")


def failed_report(
    item: pytest.Item,
    when: Phase,
    text: str,
    *,
    sections: Sequence[tuple[str, str]] = (),
    start: float = 0.0,
    stop: float = 0.0,
) -> pytest.TestReport:
    """A report for a phase that did not report itself."""
    return pytest.TestReport(
        item.nodeid,
        item.location,
        dict.fromkeys(item.keywords, 1),
        "failed",
        text,
        when,
        sections,
        stop - start,
        start,
        stop,
    )


def passed_report(item: pytest.Item, when: Phase, at: float) -> pytest.TestReport:
    """A phase of which nothing is known but that it must be accounted for."""
    return pytest.TestReport(item.nodeid, item.location, dict.fromkeys(item.keywords, 1), "passed", None, when, (), 0.0, at, at)


def crash_report(item: pytest.Item, when: Phase, text: str, **rest: Any) -> pytest.TestReport:
    """The report of a test whose process died in ``when``. An unconditional xfail without ``raises`` expects that too."""
    report = failed_report(item, when, text, **rest)
    mark = item.get_closest_marker("xfail")
    if mark is not None and when != "teardown" and "raises" not in mark.kwargs:
        conditions = [*mark.args, *([mark.kwargs["condition"]] if "condition" in mark.kwargs else [])]
        if not conditions or any(condition is True for condition in conditions):
            report.outcome = "skipped"
            report.wasxfail = f"{mark.kwargs.get('reason', '')} ({text})".strip()
    return report


def count_failed_subtests(config: pytest.Config, report: Any, count: int) -> None:
    """pytest fails a test at its end if parts of it failed; it counted those where they happened, which was inside."""
    try:
        from _pytest import subtests
    except ImportError:  # pytest < 9
        return
    counts: Any = config.stash.get(subtests.failed_subtests_key, None)
    if counts is not None:
        counts[getattr(report, "id", report.nodeid)] = count
