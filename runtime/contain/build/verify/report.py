"""What ``contain build --verify`` found: values, and how they are shown, as text and as JSON. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from contain.annotations import Any
from contain.build.normalise.causes import CAUSES
from contain.build.verify.differences import PathDifference
from contain.values import dataclass

SCHEMA = 1
_ROWS = 20
_TEXT_LENGTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDifferences:
    """One step whose layers differ. ``line`` is 0 for an ONBUILD trigger. ``against``: what with, if not the second build."""

    stage: str
    file: str
    line: int
    text: str
    against: str
    differences: tuple[PathDifference, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Varied:
    """A condition and what it was in either build."""

    what: str
    first: str
    second: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """A file that is equal in both builds and holds today's date: it may be another one tomorrow."""

    file: str
    line: int
    path: str
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """``digests``: of the first and the second build. ``cached_steps``: how many steps could be compared with the cache, too.

    ``same``: conditions that could not be varied, in words.
    """

    digests: tuple[str, str]
    steps: tuple[StepDifferences, ...]
    varied: tuple[Varied, ...]
    same: tuple[str, ...]
    cached_steps: int = 0
    suspicions: tuple[Suspicion, ...] = ()

    @property
    def reproducible(self) -> bool:
        """Whether everything that was compared is equal."""
        return self.digests[0] == self.digests[1] and not self.steps


def render_verification(found: Verification) -> str:
    """For people: the verdict, each difference with its line and cause, each cause with its remedy, what was varied."""
    first, second = found.digests
    lines = []
    if found.reproducible:
        lines.append(f"REPRODUCIBLE {first}")
    else:
        lines.append(f"DIFFERS {first}" + (f" {second}" if second != first else ""))
        for step in found.steps:
            lines += ["", *_step_lines(step)]
        if not found.steps:
            lines += ["", "all layers are equal; the image's configuration differs"]
        lines += ["", "Causes:", *_cause_lines(found.steps)]
    if found.suspicions:
        lines += ["", "Equal today, and they hold today's date, so they may differ tomorrow:"]
        lines += [f"  {each.file}:{each.line}  {each.path}  {each.found}" for each in found.suspicions[:_ROWS]]
        lines += _more(len(found.suspicions) - _ROWS)
    lines += ["", "Varied:", *_columns([(each.what, f"{each.first} / {each.second}") for each in found.varied])]
    if found.cached_steps:
        lines.append(f"  compared with the cache, too: {found.cached_steps} step{'' if found.cached_steps == 1 else 's'}")
    if found.same:
        lines += ["Not varied:", *(f"  {each}" for each in found.same)]
    return "\n".join(lines) + "\n"


def _step_lines(step: StepDifferences) -> list[str]:
    place = f"{step.file}:{step.line}" if step.line else f"{step.file} (a trigger)"
    text = step.text if len(step.text) <= _TEXT_LENGTH else step.text[: _TEXT_LENGTH - 3] + "..."
    title = f"{place}  {text}"
    if step.against:
        title += f"\n  compared with {step.against}"
    rows = [(each.path, each.cause, _what(each)) for each in step.differences[:_ROWS]]
    return [title, *_columns(rows), *_more(len(step.differences) - _ROWS)]


def _what(difference: PathDifference) -> str:
    what = difference.change.value
    if what == "content" and difference.hint:
        return difference.hint
    return f"{what}: {difference.hint}" if difference.hint else what


def _more(count: int) -> list[str]:
    return [f"  ... and {count} more"] if count > 0 else []


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    if not rows:
        return []
    widths = [min(60, max(len(row[index]) for row in rows)) for index in range(len(rows[0]) - 1)]
    return ["  " + "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows]


def _cause_lines(steps: Sequence[StepDifferences]) -> list[str]:
    counts = Counter(each.cause for step in steps for each in step.differences)
    lines = []
    for identifier, count in sorted(counts.items(), key=lambda item: (item[0] == "unknown", -item[1], item[0])):
        cause = CAUSES[identifier]
        lines += [f"  {identifier} ({count}): {cause.title}", f"    {cause.remedy}"]
    return lines


def render_verification_json(found: Verification) -> str:
    """For programs; ``version`` grows when a field changes its meaning."""
    value: dict[str, Any] = {
        "version": SCHEMA,
        "reproducible": found.reproducible,
        "digests": list(found.digests),
        "steps": [
            {
                "stage": step.stage,
                "file": step.file,
                "line": step.line,
                "instruction": step.text,
                "against": step.against or "second build",
                "differences": [
                    {
                        "path": each.path,
                        "change": each.change.value,
                        "cause": each.cause,
                        "title": CAUSES[each.cause].title,
                        "remedy": CAUSES[each.cause].remedy,
                        "hint": each.hint,
                    }
                    for each in step.differences
                ],
            }
            for step in found.steps
        ],
        "suspicions": [
            {"file": each.file, "line": each.line, "path": each.path, "found": each.found} for each in found.suspicions
        ],
        "varied": [{"what": each.what, "first": each.first, "second": each.second} for each in found.varied],
        "not_varied": list(found.same),
        "cached_steps": found.cached_steps,
    }
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
