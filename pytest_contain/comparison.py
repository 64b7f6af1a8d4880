"""Several environments in one run: outcomes side by side, and for each test that differs what most likely makes it so.

Decides what is shown, from reports and from an `EnvironmentDiff`; captures nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_contain.reports import is_subtest

if TYPE_CHECKING:
    from contain.environment import EnvironmentDiff, FailureEvidence, LikelyCause

MOST_CAUSES = 3
NOT_RUN = "not run"
_RANK = {"passed": 0, "xfailed": 1, "skipped": 2, "xpassed": 3, "failed": 4, "error": 5}


@dataclass(slots=True)
class Outcome:
    """One test in one environment. ``report``: the one that decided."""

    word: str
    report: Any = None


@dataclass(slots=True)
class Comparison:
    """Outcomes by test (its id without the environment) and environment."""

    environments: tuple[str, ...]
    outcomes: dict[str, dict[str, Outcome]] = field(default_factory=dict)

    def record(self, report: Any) -> None:
        """One phase of one test."""
        test, separator, environment = report.nodeid.rpartition("@")
        if not separator or environment not in self.environments:
            return
        word = outcome_word(report)
        known = self.outcomes.setdefault(test, {}).get(environment)
        if word and (known is None or _RANK[word] > _RANK[known.word]):
            self.outcomes[test][environment] = Outcome(word, report)

    def differing(self) -> list[tuple[str, tuple[str, ...]]]:
        """Tests whose outcome is not the same everywhere, each with its outcomes in the environments' order."""
        found = []
        for test, by_environment in self.outcomes.items():
            words = tuple(by_environment[name].word if name in by_environment else NOT_RUN for name in self.environments)
            if len(set(words)) > 1:
                found.append((test, words))
        return found


def outcome_word(report: Any) -> str:
    """What one report says of its test; nothing for a phase that only passed."""
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "xpassed" if report.passed else "failed"
    if report.failed:
        return "failed" if report.when == "call" else "error"
    if report.skipped:
        return "skipped"
    return "passed" if report.when == "call" and not is_subtest(report) else ""


def evidence_of(test: str, report: Any, modules: Sequence[str] = ()) -> FailureEvidence:
    """What a failing report says, for `contain.environment.explain`."""
    from contain.environment import FailureEvidence

    crash = getattr(report.longrepr, "reprcrash", None)
    message = getattr(crash, "message", "") or ""
    exception, _, rest = message.partition(":")
    paths = []
    for entry in getattr(getattr(report.longrepr, "reprtraceback", None), "reprentries", ()):
        location = getattr(entry, "reprfileloc", None)
        if location is not None:
            paths.append(str(location.path))
    return FailureEvidence(
        exception=exception.strip() if exception.strip().isidentifier() else "",
        message=rest.strip() if exception.strip().isidentifier() else message,
        traceback_paths=tuple(paths),
        text=report.longreprtext,
        test=test,
        modules=tuple(modules),
    )


def render_table(environments: Sequence[str], differing: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """A column for each environment, a row for each test that differs."""
    widths = [max(len(name), *(len(words[column]) for _, words in differing)) for column, name in enumerate(environments)]
    rows = ["  ".join(name.ljust(width) for name, width in zip(environments, widths, strict=True)) + "  test"]
    for test, words in differing:
        rows.append("  ".join(word.ljust(width) for word, width in zip(words, widths, strict=True)) + f"  {test}")
    return rows


def render_cause(cause: LikelyCause, before: str, after: str) -> list[str]:
    """Two lines: what differs, and why it is thought to matter."""
    return [f"{cause.title}: {before} has {cause.before}, {after} has {cause.after}", f"  {cause.why}"]


def render_causes(
    comparison: Comparison,
    differing: Sequence[tuple[str, Sequence[str]]],
    diff_of: Callable[[str, str], EnvironmentDiff],
    modules: Mapping[str, Sequence[str]],
) -> list[str]:
    """For each test that fails in one environment and not in another: the differences that most likely explain it."""
    from contain.environment import explain

    lines: list[str] = []
    for test, words in differing:
        by_environment = comparison.outcomes[test]
        bad = [
            name for name, word in zip(comparison.environments, words, strict=True) if word in ("failed", "error", "xpassed")
        ]
        good = [name for name, word in zip(comparison.environments, words, strict=True) if word in ("passed", "xfailed")]
        if not bad or not good:
            continue
        report = by_environment[bad[0]].report
        causes = explain(diff_of(good[0], bad[0]), evidence_of(test, report, modules.get(report.nodeid, ())), limit=MOST_CAUSES)
        lines.append(f"{test} {words[comparison.environments.index(bad[0])]} in {bad[0]}:")
        if not causes:
            lines.append("  the two environments are the same, as far as is known: the test may depend on time or chance")
        for cause in causes:
            lines.extend(f"  {line}" for line in render_cause(cause, good[0], bad[0]))
    return lines
