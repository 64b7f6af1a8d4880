"""An `EnvironmentDiff` for readers: a terminal page of at most 40 lines, or versioned JSON with everything.

Values in, text out. Every count on the page adds up; what is not shown is counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from contain.annotations import Any
from contain.environment.causes import LikelyCause
from contain.environment.difference import (
    ADDED,
    CHANGED,
    GRADES,
    REMOVED,
    Difference,
    EnvironmentDiff,
    FileDifference,
    FileGroup,
    Side,
)
from contain.environment.facts import DIMENSIONS, FileFact, Value
from contain.values import dataclass

JSON_SCHEMA = 1
PAGE_LINES = 40

_BOLD, _RED, _GREEN, _YELLOW, _DIM, _RESET = "\033[1m", "\033[31m", "\033[32m", "\033[33m", "\033[2m", "\033[0m"
_ABSENT = "(none)"
_HINT = "more: --all shows every line, --format json every value"


@dataclass(slots=True)
class _Section:
    title: str
    lines: list[str]
    count: int


class _Page:
    """Fits text into the width and paints it, or not."""

    def __init__(self, width: int, *, color: bool) -> None:
        self.width = max(60, width)
        self.color = color

    def paint(self, text: str, *codes: str) -> str:
        return "".join(codes) + text + _RESET if self.color and text else text

    def fit(self, text: str) -> str:
        return elide(text, self.width)

    def columns(self, rows: Sequence[tuple[str, str, str, str, str]], *, indent: str = "  ") -> list[str]:
        """Rows of (label, key, before, after, tail) as aligned lines."""
        if not rows:
            return []
        room = self.width - len(indent)
        label_width = min(max(len(row[0]) for row in rows), 14)
        key_width = min(max(len(row[1]) for row in rows), max(14, room // 3))
        value_room = room - label_width - key_width - 4
        lines = []
        before_width = min(max((len(row[2]) for row in rows), default=0), value_room // 2 - 2)
        for label, key, before, after, tail in rows:
            head = f"{indent}{_padded(label, label_width)}  {_padded(key, key_width)}  "
            if not (before or after):
                lines.append(self.fit(head + tail))
                continue
            tail_text = f"   {tail}" if tail else ""
            tail_text = elide(tail_text, max(0, value_room // 2)) if tail_text else ""
            left = _padded(before, before_width)
            right_room = self.width - len(head) - len(left) - 4 - len(tail_text)
            if right_room < min(len(after), 16):  # the values matter more than the remark
                tail_text = ""
                right_room = self.width - len(head) - len(left) - 4
            lines.append(f"{head}{left} -> {elide(after, right_room)}{self.paint(tail_text, _DIM)}".rstrip())
        return lines


def _padded(text: str, width: int) -> str:
    return elide(text, width).ljust(width)


def _printable(text: str) -> str:
    """Text from inside a place must not steer the reader's terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text)


def elide(text: str, width: int) -> str:
    """At most ``width`` characters; what is cut is marked. Control and unprintable characters are escaped."""
    text = _printable(text)
    if len(text) <= width:
        return text
    return text[: max(0, width - 1)] + "…" if width > 0 else ""


def _plural(number: int, noun: str) -> str:
    if number == 1 or not noun:
        return f"{number} {noun}".rstrip()
    head, space, tail = noun.partition(" outside ")
    plural = head + "s"
    return f"{number} {plural}{space}{tail}"


def render_terminal(
    diff: EnvironmentDiff,
    *,
    width: int,
    color: bool = False,
    all: bool = False,  # noqa: A002 - the name of the command line's option
    causes: Sequence[LikelyCause] = (),
    test: str = "",
) -> str:
    """The report for a terminal: verdict, likely causes, then the sections. At most 40 lines unless ``all``.

    ``test``: the failing test that ``causes`` explain. The text ends with a newline.
    """
    page = _Page(width, color=color)
    head = _verdict(diff, page)
    head += _causes(causes, test, page, all_of_them=all)
    sections = [section for build in SECTIONS for section in build(diff, page, all)]
    foot = _foot(diff, page, all_of_them=all)
    if all:
        body = [line for section in sections for line in (*_title(section, page), *section.lines)]
        return "\n".join([*head, *body, *foot]) + "\n"
    room = PAGE_LINES - len(head) - len(foot) - 1
    body, cut = _fitted(sections, room, page)
    if cut or _shortened(diff):
        foot.append(page.paint(_HINT, _DIM))
    return "\n".join([*head, *body, *foot]) + "\n"


def _title(section: _Section, page: _Page) -> list[str]:
    return [page.paint(f"{section.title} ({section.count})", _BOLD)]


def _fitted(sections: Sequence[_Section], room: int, page: _Page) -> tuple[list[str], bool]:
    """Sections cut to the lines that there are: each gets a fair share, the first ones get what the small ones leave."""
    if not sections:
        return [], False
    allowed = [0] * len(sections)
    left = room - len(sections)  # a title each
    for share in (2, 4, 1000):
        for index, section in enumerate(sections):
            want = min(len(section.lines), share) - allowed[index]
            give = max(0, min(want, left))
            allowed[index] += give
            left -= give
    lines: list[str] = []
    cut = False
    for section, number in zip(sections, allowed, strict=True):
        if number >= len(section.lines):
            lines += [*_title(section, page), *section.lines]
            continue
        cut = True
        shown = section.lines[: max(0, number - 1)]
        hidden = len(section.lines) - len(shown)
        if number == 0:  # no line left below the title: the title itself says how many there are
            lines.append(page.paint(f"{section.title} ({section.count}): not shown", _BOLD))
        else:
            lines += [*_title(section, page), *shown, f"  … {hidden} more"]
    return lines, cut


def _verdict(diff: EnvironmentDiff, page: _Page) -> list[str]:
    pair = f"{diff.a.name} and {diff.b.name}"
    counts = diff.counts()
    total = sum(number for _, number in counts)
    noise = sum(len(group.keys) for group in diff.noise)
    grade = f"grade {diff.grade}: {GRADES[diff.grade]}" if diff.grade else "grade: none"
    reason = f" ({diff.grade_reason})" if diff.grade_reason else ""
    runtime = {
        "same": "; running: same facts (G4)",
        "different": "; running: facts differ (not G4)",
        "partly": "; running: equal as far as it could be compared (not G4)",
        "not captured": "",
    }[diff.runtime]
    if diff.is_different:
        word, color = "DIFFERENT", _RED
        parts = " + ".join(_plural(number, noun) for noun, number in counts)
        amount = f": {_plural(total, 'difference')}" + (f" = {parts}" if len(counts) > 1 else f" ({parts})")
    elif diff.not_comparable:
        word, color, amount = "NOT FULLY COMPARABLE", _YELLOW, ": no difference found in what could be compared"
    else:
        word, color, amount = "IDENTICAL", _GREEN, ""
    apart = f"; {noise} of known noise" if noise else ""
    lines = _wrapped(f"{pair}{amount}{apart}", page.width - len(word) - 2)
    head = [page.paint(word, _BOLD, color) + "  " + lines[0], *("  " + line for line in lines[1:])]
    head += ["  " + line for line in _wrapped(grade + reason + runtime, page.width - 2)]
    for label, side in (("", diff.a), ("", diff.b)):
        described = _described(side)
        if described != side.name:
            head.append(page.fit(f"  {label}{side.name}: {described}"))
    return head


def _described(side: Side) -> str:
    parts = [side.kind]
    if side.identity.manifest_digest:
        parts.append(side.identity.manifest_digest[:19] + "…")
    if side.identity.source:
        parts.append(f"from {side.identity.source}")
    return ", ".join(parts)


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(_printable(text), max(30, width), break_on_hyphens=False) or [""]


def _causes(causes: Sequence[LikelyCause], test: str, page: _Page, *, all_of_them: bool) -> list[str]:
    if not causes:
        return []
    shown = causes if all_of_them else causes[:3]
    evident = causes[0].evident
    what = "Most likely causes" if evident else "Nothing in the failure points to a difference; those that matter most often"
    lines = [page.paint(page.fit(f"{what}{f' of {test}' if test else ''}"), _BOLD)]
    rows = [
        (f"{index}.", cause.title, cause.before, cause.after, _and_more(cause)) for index, cause in enumerate(shown, start=1)
    ]
    for row, cause in zip(page.columns(rows), shown, strict=True):
        lines.append(row)
        if evident:
            lines.append(page.paint(page.fit(f"      why: {cause.why}"), _DIM))
    if len(causes) > len(shown):
        lines.append(f"  … {len(causes) - len(shown)} more")
    return lines


def _and_more(cause: LikelyCause) -> str:
    others = len(cause.differences) - 1
    return f"(with {_plural(others, 'related fact')})" if others else ""


# Sections


def _packages(diff: EnvironmentDiff, page: _Page, _everything: bool) -> list[_Section]:
    files = {group.owner: len(group.differences) for group in diff.file_groups if group.explained}
    rows = []
    for difference in diff.differences:
        if DIMENSIONS[difference.dimension].section == "Packages":
            number = files.get(f"{difference.dimension}:{difference.key}", 0)
            tail = _plural(number, "file") if number else difference.note
            rows.append((difference.dimension, difference.key, *_values(difference), tail))
    rows.sort(key=lambda row: (row[2] == _ABSENT or row[3] == _ABSENT, row[0], row[1]))  # changed versions first
    return [_Section("Packages", page.columns(rows), len(rows))] if rows else []


def _facts(title: str) -> Callable[[EnvironmentDiff, _Page, bool], list[_Section]]:
    def build(diff: EnvironmentDiff, page: _Page, _everything: bool) -> list[_Section]:
        found = [difference for difference in diff.differences if DIMENSIONS[difference.dimension].section == title]
        one_label = {difference.dimension for difference in found} == {"image-config"}
        rows = [
            (
                "" if one_label else _LABELS.get(difference.dimension, difference.dimension),
                difference.key,
                *_values(difference),
                _also(difference),
            )
            for difference in found
        ]
        return [_Section(title, page.columns(rows), len(rows))] if rows else []

    return build


_LABELS = {"image-environment": "image", "environment": "process"}


def _also(difference: Difference) -> str:
    return f"also in {', '.join(_LABELS.get(name, name) for name in difference.also)}" if difference.also else difference.note


def _values(difference: Difference) -> tuple[str, str]:
    """Both values as text; of two lists only what is not in the other."""
    before, after = difference.before, difference.after
    if isinstance(before, str) and isinstance(after, str) and difference.key.endswith("PATH") and ":" in before + after:
        before, after = tuple(before.split(":")), tuple(after.split(":"))
    if isinstance(before, tuple) and isinstance(after, tuple):
        only_before = [item for item in before if item not in after]
        only_after = [item for item in after if item not in before]
        if sorted(before) != sorted(after) and not only_before and not only_after:
            return ", ".join(before), ", ".join(after)  # the same entries, some more than once
        if not only_before and not only_after:
            return ", ".join(before), f"{', '.join(after)} (another order)"
        same = len(before) - len(only_before)
        rest = f"{same} same" if same else ""
        return _listed(only_before, rest), _listed(only_after, rest)
    if difference.dimension in {"limits", "ulimits"}:
        return _limit_text(before), _limit_text(after)
    return _hidden(before), _hidden(after)


def _listed(items: Iterable[str], rest: str) -> str:
    return " + ".join(part for part in (", ".join(items), rest) if part) or "(nothing)"


def _hidden(value: Value | None) -> str:
    text = _ABSENT if value is None else value if isinstance(value, str) else ", ".join(value)
    if text.startswith("hmac-sha256:"):
        return f"(secret, hash {text.rpartition(':')[2][:8]})"
    return text or '""'


def _limit_text(value: Value | None) -> str:
    """A limit in units that people read: sizes of at least 1 MiB that are whole MiB."""
    text = _hidden(value)
    return re.sub(r"\d{7,}", lambda match: _mebibytes(int(match.group())), text)


def _mebibytes(number: int) -> str:
    return f"{number >> 20} MiB" if number % (1 << 20) == 0 else str(number)


_SIGNS = {ADDED: "+", REMOVED: "-", CHANGED: "~"}


def _files(diff: EnvironmentDiff, page: _Page, everything: bool) -> list[_Section]:
    total = diff.differing_paths
    if not total:
        return []
    lines = ["  " + line for line in _wrapped(account(diff), page.width - 2)]
    for group in diff.changed_groups:
        aspects = sorted({aspect for found in group.differences for aspect in found.aspects or (found.change,)})
        detail = f"{_plural(len(group.differences), 'file')} of the same version differ: {', '.join(aspects)}"
        if len(group.differences) == 1:
            detail = f"{group.differences[0].path}: {_file_values(group.differences[0], diff)} (same version)"
        lines.append(page.fit(f"  ~ {group.owner}  {detail}"))
        if everything and len(group.differences) > 1:
            lines += [page.fit("      " + _file_line(found, diff)) for found in group.differences]
    lines += [page.fit("  " + _file_line(found, diff)) for found in sorted(diff.loose_files, key=_suspicion)]
    if everything:
        lines += [page.fit(f"  {_file_line(found, diff)} (shown above as facts)") for found in diff.covered_files]
        for group in diff.file_groups:
            if group.explained:
                lines += [page.fit(f"  {_file_line(found, diff)}  {group.owner}") for found in group.differences]
    return [_Section("Files", lines, total)]


def account(diff: EnvironmentDiff) -> str:
    """One sentence in which every differing path is accounted for."""
    explained = [group for group in diff.file_groups if group.explained]
    altered = diff.changed_groups
    noise = sum(len(group.keys) for group in diff.noise if group.keys[0].startswith("/"))
    parts = []
    if explained:
        number = sum(len(group.differences) for group in explained)
        parts.append(f"{number} in {_plural(len(explained), 'package')} listed above")
    if altered:
        number = sum(len(group.differences) for group in altered)
        parts.append(f"{number} altered in {_plural(len(altered), 'equal package')}")
    if diff.loose_files:
        parts.append(f"{sum(found.paths for found in diff.loose_files)} outside packages")
    if diff.covered_files:
        parts.append(f"{len(diff.covered_files)} shown above as facts")
    if noise:
        parts.append(f"{noise} known noise")
    return f"{_plural(diff.differing_paths, 'path')} differ{'s' if diff.differing_paths == 1 else ''}: {', '.join(parts)}"


def _suspicion(found: FileDifference) -> tuple[int, str]:
    """Unmanaged programs and libraries first: the field's experience with rebuilt environments."""
    first = found.path.startswith(("/usr/local/", "/opt/", "/srv/", "/app/", "/etc/"))
    return (0 if first else 1, found.path)


def _file_line(found: FileDifference, diff: EnvironmentDiff) -> str:
    return f"{_SIGNS[found.change]} {found.path}{'/' if _is_directory(found) else ''}  {_file_values(found, diff)}".rstrip()


def _is_directory(found: FileDifference) -> bool:
    fact = found.before or found.after
    return fact is not None and fact.kind == "directory"


def _file_values(found: FileDifference, diff: EnvironmentDiff) -> str:
    before, after = found.before, found.after
    if before is None or after is None:
        side = diff.b.name if before is None else diff.a.name
        more = f", with {_plural(found.below, 'path')} in it" if found.below else ""
        return f"only in {side}{more}"
    return ", ".join(ASPECTS[aspect](before, after) for aspect in found.aspects)


ASPECTS: Mapping[str, Callable[[FileFact, FileFact], str]] = {
    "kind": lambda a, b: f"{a.kind} -> {b.kind}",
    "content": lambda a, b: "content" + (f" ({a.size_bytes} -> {b.size_bytes} bytes)" if a.size_bytes != b.size_bytes else ""),
    "mode": lambda a, b: f"mode {a.mode:04o} -> {b.mode:04o}",
    "owner": lambda a, b: f"owner {a.uid}:{a.gid} -> {b.uid}:{b.gid}",
    "target": lambda a, b: f"link to {a.target} -> {b.target}",
    "device": lambda a, b: f"device {a.device} -> {b.device}",
    "capabilities": lambda a, b: f"capabilities {a.capabilities or 'none'} -> {b.capabilities or 'none'}",
}

SECTIONS: tuple[Callable[[EnvironmentDiff, _Page, bool], list[_Section]], ...] = (
    _packages,
    _facts("Image config"),
    _facts("Environment variables"),
    _facts("Runtime"),
    _facts("System"),
    _files,
)
"""The parts of a page, in order."""


def _foot(diff: EnvironmentDiff, page: _Page, *, all_of_them: bool) -> list[str]:
    lines = []
    if diff.noise:
        if all_of_them:
            lines.append(page.paint(f"Noise ({sum(len(group.keys) for group in diff.noise)})", _BOLD))
            for group in diff.noise:
                lines.append(page.fit(f"  {group.name} {len(group.keys)}: {group.reason}"))
                lines += [page.fit(f"      {key}") for key in group.keys]
        else:
            named = ", ".join(f"{group.name} {len(group.keys)}" for group in diff.noise)
            lines.append(page.fit(f"Noise: {named}"))
    gaps = _gaps(diff, everything=all_of_them)
    shown = gaps if all_of_them else gaps[:3]
    for gap in shown:
        wrapped = _wrapped(f"Not compared: {gap}", page.width - 2)
        lines += [wrapped[0], *("  " + line for line in (wrapped if all_of_them else wrapped[:2])[1:])]
    if len(gaps) > len(shown):
        lines.append(f"Not compared: {len(gaps) - len(shown)} more")
    lines += [page.fit(f"Note: {note}") for note in diff.notes]
    return lines


def _gaps(diff: EnvironmentDiff, *, everything: bool) -> list[str]:
    """What could not be compared, one line for each reason."""
    reasons: dict[str, list[str]] = {}
    for gap in diff.not_comparable:
        reasons.setdefault(gap.reason, []).append(gap.what)
    lines = []
    for reason, whats in reasons.items():
        # Of many, the dimensions only.
        named = whats if everything or len(whats) <= 2 else [what.partition(" ")[0] for what in whats]
        lines.append(f"{', '.join(dict.fromkeys(named))}: {reason}")
    return lines


def _shortened(diff: EnvironmentDiff) -> bool:
    """Whether the page leaves something out even if every line fits."""
    return bool(diff.file_groups or diff.noise or diff.covered_files or len(diff.not_comparable) > 3)


# JSON


def render_json(diff: EnvironmentDiff, *, causes: Sequence[LikelyCause] = (), test: str = "") -> str:
    """Everything in the diff as JSON, schema 1: both values of each difference, nothing shortened. Ends with a newline."""
    value: dict[str, Any] = {
        "format": "contain-diff",
        "schema": JSON_SCHEMA,
        "a": _side_json(diff.a),
        "b": _side_json(diff.b),
        "exit_status": diff.exit_status,
        "grade": diff.grade,
        "grade_reason": diff.grade_reason,
        "runtime": diff.runtime,
        "counts": dict(diff.counts()),
        "differing_paths": diff.differing_paths,
        "differences": [_difference_json(difference) for difference in diff.differences],
        "packages_files": [
            {
                "package": group.owner,
                "package_differs": group.explained,
                "files": [_file_json(found) for found in group.differences],
            }
            for group in diff.file_groups
        ],
        "files": [_file_json(found) for found in diff.loose_files],
        "covered_files": [_file_json(found) for found in diff.covered_files],
        "noise": [{"name": group.name, "reason": group.reason, "keys": list(group.keys)} for group in diff.noise],
        "not_comparable": [{"what": gap.what, "reason": gap.reason} for gap in diff.not_comparable],
        "notes": list(diff.notes),
        "test": test,
        "causes": [
            {
                "title": cause.title,
                "before": cause.before,
                "after": cause.after,
                "why": cause.why,
                "score": round(cause.score, 3),
                "evident": cause.evident,
                "differences": [_any_json(item) for item in cause.differences],
            }
            for cause in causes
        ],
    }
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def _side_json(side: Side) -> dict[str, Any]:
    return {
        "name": side.name,
        "kind": side.kind,
        "manifest_digest": side.identity.manifest_digest,
        "config_digest": side.identity.config_digest,
        "source": side.identity.source,
    }


def _plain(value: Value | None) -> str | list[str] | None:
    return list(value) if isinstance(value, tuple) else value


def _difference_json(difference: Difference) -> dict[str, Any]:
    return {
        "dimension": difference.dimension,
        "key": difference.key,
        "change": difference.change,
        "before": _plain(difference.before),
        "after": _plain(difference.after),
        "note": difference.note,
        "also": list(difference.also),
    }


def _fact_json(fact: FileFact | None) -> dict[str, Any] | None:
    if fact is None:
        return None
    return {
        "kind": fact.kind,
        "mode": f"{fact.mode:04o}",
        "uid": fact.uid,
        "gid": fact.gid,
        "size": fact.size_bytes,
        "digest": fact.digest,
        "target": fact.target,
        "device": fact.device,
        "capabilities": fact.capabilities,
        "package": fact.package,
    }


def _file_json(found: FileDifference) -> dict[str, Any]:
    return {
        "path": found.path,
        "change": found.change,
        "aspects": list(found.aspects),
        "below": found.below,
        "before": _fact_json(found.before),
        "after": _fact_json(found.after),
    }


def _any_json(item: Difference | FileDifference | FileGroup) -> dict[str, Any]:
    if isinstance(item, Difference):
        return {"dimension": item.dimension, "key": item.key}
    if isinstance(item, FileGroup):
        return {"package": item.owner}
    return {"path": item.path}


RENDERERS: Mapping[str, Callable[[EnvironmentDiff], str]] = {
    "terminal": lambda diff: render_terminal(diff, width=100),
    "json": render_json,
}
"""Report formats by name, with their defaults."""
