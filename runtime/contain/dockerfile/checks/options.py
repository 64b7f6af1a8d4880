"""Reads ``check=skip=A,B;experimental=C;error=true``: in the directive, above an instruction, in a build argument. Pure.

Source: BuildKit's ``frontend/dockerfile/linter`` (``ParseLintOptions``, ``WithMergedConfigFromComments``).
"""

from __future__ import annotations

import re

from contain.dockerfile.instructions import Instruction
from contain.dockerfile.literals import parse_boolean
from contain.dockerfile.words import GO_SPACE
from contain.errors import SourceSpan, UsageError
from contain.values import dataclass

ALL = "all"
_DIRECTIVE = re.compile(r"check\s*=\s*(\S+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """Which rules are waived, which experimental ones are wanted (`ALL`: every one), and whether a warning fails the build."""

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False

    def waives(self, name: str, *, experimental: bool = False) -> bool:
        """Whether the rule is not wanted. ``skip=all`` leaves the experimental rules alone that were asked for by name."""
        if experimental:
            return ALL not in self.experimental and name not in self.experimental
        return ALL in self.skip or name in self.skip


def parse_check_options(text: str, *, span: SourceSpan | None = None) -> CheckOptions:
    """The value of the directive or of the build argument. Raises `UsageError` (``bad-check``)."""
    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error = False
    for part in text.strip(GO_SPACE).split(";", 2) if text.strip(GO_SPACE) else ():
        key, separator, value = (piece.strip(GO_SPACE) for piece in part.partition("="))
        if not separator or key not in ("skip", "experimental", "error"):
            raise UsageError(
                f"{part.strip(GO_SPACE)!r} is no option of the build checks",
                code="bad-check",
                remedy="write skip=RULE,RULE;error=true, with all for every rule",
                span=span,
            )
        if key == "error":
            try:
                error = parse_boolean(value)
            except UsageError as wrong:
                raise UsageError(
                    f"error={value} is neither true nor false", code="bad-check", remedy="write error=true", span=span
                ) from wrong
        else:
            names = frozenset(name.strip(GO_SPACE) for name in value.split(","))
            skip, experimental = (names, experimental) if key == "skip" else (skip, names)
    return CheckOptions(skip=skip, experimental=experimental, error=error)


def options_above(instruction: Instruction) -> CheckOptions:
    """What the comments right above an instruction waive: the first ``# check=...`` among them, up to a blank.

    A comment that is no good option waives nothing: it may be meant for a reader.
    """
    for comment in instruction.line.comments:
        directive = _DIRECTIVE.match(comment)
        if directive is not None:
            try:
                return parse_check_options(directive.group(1))
            except UsageError:
                return CheckOptions()
    return CheckOptions()
