"""What the checks found, as text for a terminal and as JSON. Pure.

The text has the form of ``docker build --check``: rule, message, and the lines with those marked that are meant. The JSON has the
keys of BuildKit's lint result (``frontend/subrequests/lint``), so that its readers find ``warnings``, and besides them ``notes``,
and in each finding ``group``, ``severity``, ``remedy`` and ``line``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from contain.annotations import Any
from contain.dockerfile.checks.rules import Finding
from contain.errors import ContainError, SourceSpan

_RULER = "-" * 20
_LINES_AROUND_ONE = 2
_LINES_AROUND_MANY = 1
_SAME_RULE_IN_FULL = 3


def render_finding(finding: Finding, lines: Sequence[str]) -> str:
    """One finding with its place. ``lines``: of the Dockerfile."""
    rule = finding.rule
    title = f"{rule.severity.value.upper()}: {rule.name} - {rule.documentation}"
    return "\n".join([title, finding.message, *excerpt(finding.span, lines), f"hint: {rule.remedy}", ""])


def excerpt(span: SourceSpan, lines: Sequence[str]) -> list[str]:
    """The place, and the lines around it with those marked that are meant."""
    first, last = span.line, min(max(span.end_line, span.line), len(lines))
    around = _LINES_AROUND_ONE if first == last else _LINES_AROUND_MANY
    shown = range(max(1, first - around), min(len(lines), last + around) + 1)
    marked = [f" {number:3} | {'>>>' if first <= number <= last else '   '} {lines[number - 1]}".rstrip() for number in shown]
    return [f"{span.file}:{first}", _RULER, *marked, _RULER]


def render_findings(findings: Iterable[Finding], text: str) -> str:
    """All of them. Of a rule that finds much, the first places are shown in full and the others by their line."""
    lines = [line.rstrip("\r") for line in text.split("\n")]
    count: dict[str, int] = {}
    blocks: list[str] = []
    others: dict[str, list[Finding]] = {}
    for finding in findings:
        name = finding.rule.name
        count[name] = count.get(name, 0) + 1
        if count[name] <= _SAME_RULE_IN_FULL:
            blocks.append(render_finding(finding, lines))
        else:
            others.setdefault(name, []).append(finding)
    for name, rest in others.items():
        places = [f"{finding.span.file}:{finding.span.line}: {finding.message}" for finding in rest]
        blocks.append("\n".join([f"{rest[0].rule.severity.value.upper()}: {name}, {len(rest)} more", *places, ""]))
    return "\n".join(blocks)


def findings_json(
    file: str,
    warnings: Iterable[Finding],
    notes: Iterable[Finding],
    *,
    error: ContainError | None,
    unknown_bases: Iterable[str],
) -> str:
    """The JSON text."""
    value: dict[str, Any] = {
        "warnings": [_finding(finding) for finding in warnings],
        "notes": [_finding(finding) for finding in notes],
        "sources": [{"filename": file, "language": "Dockerfile"}],
        "unknownBases": list(unknown_bases),
    }
    if error is not None:
        value["buildError"] = {"message": error.message, "code": error.code}
        if error.span is not None:
            value["buildError"]["location"] = _location(error.span)
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _finding(finding: Finding) -> dict[str, Any]:
    rule = finding.rule
    return {
        "ruleName": rule.name,
        "description": rule.description,
        "url": rule.documentation,
        "detail": finding.message,
        "location": _location(finding.span),
        "group": rule.group.value,
        "severity": rule.severity.value,
        "remedy": rule.remedy,
        "line": finding.span.line,
    }


def _location(span: SourceSpan) -> dict[str, Any]:
    ends = {"start": {"line": span.line}, "end": {"line": max(span.end_line, span.line)}}
    return {"sourceIndex": 0, "ranges": [ends]}
