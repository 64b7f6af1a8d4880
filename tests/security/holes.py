"""The table of known holes as values: reads ``holes.toml``, and writes the part of ``docs/security.md`` that is made from it.

A *mutation* is a change of the source that takes a mitigation out. It names texts that must stand in a file exactly once, so that it
cannot silently stop to mean anything when the source changes; ``mutate.py`` shows that the tests of the hole then fail.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).resolve().parent / "holes.toml"
BEGIN, END = "<!-- holes: begin -->", "<!-- holes: end -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One replacement in a file below the project's root; ``old`` stands there exactly once. ``mode``: what the file gets, octal."""

    file: str
    old: str
    new: str
    mode: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """Mitigations of one hole, all of those that stand one behind the other, taken out. ``red``: the tests that must fail then.

    ``aids`` make a race likely that the attack has to win. They are no part of what is taken out: with them alone the tests pass.
    """

    name: str
    changes: tuple[Change, ...]
    aids: tuple[Change, ...]
    red: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hole:
    """A hole that other engines had. ``reason``: why it is none here, if it needs no test."""

    name: str
    title: str
    known_as: tuple[str, ...]
    reason: str
    tests: tuple[str, ...]
    mutations: tuple[Mutation, ...]


def _changes(rows: list[Mapping[str, str]]) -> tuple[Change, ...]:
    return tuple(Change(file=row["file"], old=row["old"], new=row["new"], mode=row.get("mode", "")) for row in rows)


def _mutation(row: Mapping[str, Any], tests: tuple[str, ...]) -> Mutation:
    unknown = set(row) - {"name", "change", "aid", "red"}
    if unknown:
        raise ValueError(f"{row.get('name')}: not known: {', '.join(sorted(unknown))}")
    return Mutation(
        name=row["name"],
        changes=_changes(row["change"]),
        aids=_changes(row.get("aid", [])),
        red=tuple(row.get("red", tests)),
    )


def parse_holes(text: str) -> tuple[Hole, ...]:
    """The table. Raises ValueError or KeyError for what it does not understand."""
    holes = []
    for row in tomllib.loads(text)["hole"]:
        unknown = set(row) - {"name", "title", "known_as", "reason", "tests", "mutation"}
        if unknown:
            raise ValueError(f"{row.get('name')}: not known: {', '.join(sorted(unknown))}")
        tests = tuple(row.get("tests", ()))
        holes.append(
            Hole(
                name=row["name"],
                title=row["title"],
                known_as=tuple(row.get("known_as", ())),
                reason=row.get("reason", ""),
                tests=tests,
                mutations=tuple(_mutation(each, tests) for each in row.get("mutation", ())),
            )
        )
    return tuple(holes)


def read_holes() -> tuple[Hole, ...]:
    """The table of this project."""
    return parse_holes(TABLE.read_text(encoding="utf-8"))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def render_table(holes: tuple[Hole, ...]) -> str:
    """The table for people: the hole, where it is tested, what is taken out to see the tests fail."""
    lines = ["| | hole | known as | tested by | fails without |", "|---|---|---|---|---|"]
    for hole in holes:
        tests = "<br>".join(f"`{test.rpartition('/')[2].replace('::', '` `')}`" for test in hole.tests) or _cell(hole.reason)
        without = "<br>".join(_cell(mutation.name) for mutation in hole.mutations)
        number = hole.name.partition(" ")[0]
        lines.append(f"| {number} | {_cell(hole.title)} | {_cell(', '.join(hole.known_as))} | {tests} | {without} |")
    return "\n".join(lines) + "\n"


def replace_table(document: str, table: str) -> str:
    """The document with the table between its two marks. Raises ValueError where they are missing."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table}{END}{after}"
