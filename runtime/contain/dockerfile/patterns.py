"""Decides which paths a pattern means: wildcards of COPY sources, and the lines of a ``.dockerignore``.

Pure: paths are strings, relative to the build context, with ``/``. Nothing here lists a directory; who walks one asks
`IgnorePatterns.ignores` for each path and `IgnorePatterns.prunes` before entering a directory.

Two languages share one syntax of ``*``, ``?``, ``[a-z]`` and ``\\``:

* wildcards are Go's ``filepath.Match``, where ``*`` and ``?`` do not cross ``/`` and there is no ``**``;
* ``.dockerignore`` (``moby/patternmatcher``) adds ``**`` for any depth, ``!`` for exceptions, and rules by order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from contain.dockerfile.words import GO_SPACE
from contain.errors import SourceSpan, UsageError
from contain.values import dataclass

_BYTE_ORDER_MARK = "\ufeff"


def has_wildcard(text: str) -> bool:
    """Whether ``text`` names a pattern rather than one path: ``*``, ``?`` or ``[`` that no backslash escapes."""
    return re.search(r"(?<!\\)(?:\\\\)*[*?\[]", text) is not None


def match_wildcard(pattern: str, name: str) -> bool:
    """Whether ``pattern`` matches all of ``name``, as Go's ``filepath.Match`` decides it on Unix.

    Raises `UsageError` (``bad-pattern``) for an unfinished class or a trailing backslash, whatever ``name`` is.
    """
    return _wildcard(pattern).fullmatch(name) is not None


def clean_path(path: str) -> str:
    """The shortest equal path, by text alone: Go's ``path.Clean``. ``.`` for the empty path; a leading ``/`` stays."""
    rooted = path.startswith("/")
    kept: list[str] = []
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part != "..":
            kept.append(part)
        elif kept and kept[-1] != "..":
            kept.pop()
        elif not rooted:
            kept.append(part)
    return ("/" if rooted else "") + "/".join(kept) or "."


def parse_dockerignore(text: str, *, file: str = ".dockerignore") -> IgnorePatterns:
    """The patterns of a ``.dockerignore``: comments start in the first column, blank lines mean nothing, ``/a`` is ``a``.

    Raises `UsageError` (``bad-pattern``) with the line.
    """
    rules = []
    for number, line in enumerate(text.removeprefix(_BYTE_ORDER_MARK).split("\n"), 1):
        pattern = line.strip(GO_SPACE)
        if line.startswith("#") or not pattern:
            continue
        shown = line.rstrip("\r")
        column = shown.index(pattern) + 1
        span = SourceSpan(file=file, line=number, end_line=number, column=column, length=len(pattern), text=shown)
        negated = pattern.startswith("!")
        cleaned = clean_path(pattern.removeprefix("!").strip(GO_SPACE)) if pattern != "!" else ""
        if len(cleaned) > 1:
            cleaned = cleaned.removeprefix("/")
        rules.append(_rule(cleaned, negated, span))
    return IgnorePatterns(rules)


class IgnorePatterns:
    """An ordered list of patterns: the last one that matches a path, or a directory above it, decides.

    The answers are those of a walk from the top (BuildKit's transfer of a context): what a pattern said about a directory
    holds for everything below it.
    """

    __slots__ = ("_any", "_directories", "_rules")

    def __init__(self, rules: Iterable[_Rule] = ()) -> None:
        self._rules = tuple(rules)
        # What each rule said about a directory seen before; a walk asks for many paths with the same parent.
        self._directories: dict[str, tuple[bool, ...]] = {}
        self._any: re.Pattern[str] | None = None

    @classmethod
    def of(cls, patterns: Iterable[str]) -> IgnorePatterns:
        """From single patterns, as ``COPY --exclude`` gives them. Raises `UsageError` (``bad-pattern``)."""
        rules = []
        for text in patterns:
            pattern = text.strip(GO_SPACE)
            negated = pattern.startswith("!")
            body = pattern.removeprefix("!").strip(GO_SPACE)
            if pattern:
                rules.append(_rule(clean_path(body) if body else "", negated, None))
        return cls(rules)

    @property
    def patterns(self) -> tuple[str, ...]:
        """The cleaned patterns in order, exceptions with their ``!``."""
        return tuple(("!" if rule.negated else "") + rule.pattern for rule in self._rules)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IgnorePatterns) and self.patterns == other.patterns

    def __hash__(self) -> int:
        return hash(self.patterns)

    def __repr__(self) -> str:
        return f"IgnorePatterns.of({list(self.patterns)!r})"

    def ignores(self, path: str) -> bool:
        """Whether the file or directory at ``path`` is left out of the context. The context itself never is."""
        parts = clean_path(path.lstrip("/")).split("/")
        if parts == ["."]:
            return False
        return self._outcome(self._said("/".join(parts), self._above(parts[:-1])))

    def ignored_names(self, directory: str, names: Iterable[str]) -> set[str]:
        """`ignores` for all names in a directory at once, for a walk of very many. ``directory`` is clean; empty for the context."""
        lead = f"{directory}/" if directory else ""
        if any(rule.negated for rule in self._rules):
            above = self._above(directory.split("/")) if directory else ()
            return {name for name in names if self._outcome(self._said(lead + name, above))}
        if directory and self.ignores(directory):
            return set(names)
        if self._any is None:  # without exceptions the order of the rules does not matter
            self._any = re.compile("|".join(f"(?:{rule.expression.pattern})" for rule in self._rules), re.DOTALL)
        matches = self._any.fullmatch
        return {name for name in names if matches(lead + name)}

    def _above(self, parts: list[str]) -> tuple[bool, ...]:
        """What each rule said about the directory of these parts or one above it."""
        above: tuple[bool, ...] = ()
        for depth in range(1, len(parts) + 1):
            directory = "/".join(parts[:depth])
            known = self._directories.get(directory)
            if known is None:
                known = self._directories[directory] = self._said(directory, above)
            above = known
        return above

    def prunes(self, directory: str) -> bool:
        """Whether ``directory`` and everything that can be below it is ignored, so that a walk need not enter it."""
        if not self.ignores(directory):
            return False
        parts = clean_path(directory.lstrip("/")).split("/")
        return not any(rule.negated and rule.may_match_below(parts) for rule in self._rules)

    def reaches_below(self, directory: str) -> bool:
        """Whether some pattern can match something below ``directory``. May say yes wrongly, never no."""
        parts = clean_path(directory.lstrip("/")).split("/")
        return any(not rule.negated and rule.may_match_below(parts) for rule in self._rules)

    def _said(self, path: str, above: tuple[bool, ...]) -> tuple[bool, ...]:
        """For each rule, whether it matches ``path`` or has matched a directory above it."""
        matches: list[bool] = []
        ignored = False
        for index, rule in enumerate(self._rules):
            matched = bool(above) and above[index]
            # A rule that could not change the answer is not asked: its silence here is what its children inherit.
            if not matched and rule.negated == ignored:
                matched = rule.matches(path)
            if matched:
                ignored = not rule.negated
            matches.append(matched)
        return tuple(matches)

    def _outcome(self, matches: tuple[bool, ...]) -> bool:
        ignored = False
        for rule, matched in zip(self._rules, matches, strict=True):
            if matched:
                ignored = not rule.negated
        return ignored


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    pattern: str
    negated: bool
    expression: re.Pattern[str]

    def matches(self, path: str) -> bool:
        return self.expression.fullmatch(path) is not None

    def may_match_below(self, parts: list[str]) -> bool:
        """Whether some path below the directory of these ``parts`` can match. May say yes wrongly, never no."""
        segments = self.pattern.split("/")
        for index, part in enumerate(parts):
            if index == len(segments):
                return False  # fewer levels than the directory itself has, and no "**" among them
            segment = segments[index]
            # "**" reaches any depth, and a class or an escape may stand for "/": not decided by segments.
            if "**" in segment or "[" in segment or "\\" in segment:
                return True
            if not _wildcard(segment).fullmatch(part):
                return False
        return len(segments) > len(parts)


def _rule(pattern: str, negated: bool, span: SourceSpan | None) -> _Rule:
    if not pattern:
        raise UsageError(
            '"!" alone excepts nothing', code="bad-pattern", remedy="name what to re-include: !README.md", span=span
        )
    try:
        return _Rule(pattern=pattern, negated=negated, expression=_ignore_expression(pattern))
    except UsageError as error:
        raise UsageError(error.message, code="bad-pattern", remedy=error.remedy, span=span) from error


# -- the shared syntax ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    """``star`` is 1 for ``*`` and 2 for ``**``; otherwise ``expression`` matches exactly one character."""

    star: int = 0
    expression: str = ""
    literal: str = ""  # the character, where it stands for itself without an escape


def _tokens(pattern: str, *, ordered: bool = False) -> Iterator[_Token]:
    """The pattern's pieces. Raises `UsageError` (``bad-pattern``) exactly where Go's ``filepath.Match`` has ErrBadPattern.

    ``ordered``: also for a range the wrong way round, as a ``.dockerignore`` does, whose patterns become Go's regular expressions.
    """
    position = 0
    while position < len(pattern):
        character = pattern[position]
        if character == "*":
            deep = pattern.startswith("**", position)
            position += 2 if deep else 1
            yield _Token(star=2 if deep else 1)
            continue
        position += 1
        if character == "?":
            yield _Token(expression="[^/]")
        elif character == "[":
            expression, position = _class(pattern, position, ordered=ordered)
            yield _Token(expression=expression)
        elif character == "\\":
            if position == len(pattern):
                raise _bad(pattern, "a backslash at the end escapes nothing")
            yield _Token(expression=re.escape(pattern[position]))
            position += 1
        else:
            yield _Token(expression=re.escape(character), literal=character)


def _class(pattern: str, position: int, *, ordered: bool) -> tuple[str, int]:
    """A character class whose ``[`` has been read: its regular expression, and where the text goes on."""
    negated = pattern[position : position + 1] == "^"
    position += negated
    ranges: list[str] = []
    count = 0
    while not (count and pattern[position : position + 1] == "]"):
        low, position = _class_member(pattern, position)
        high = low
        if pattern[position] == "-":
            high, position = _class_member(pattern, position + 1)
        count += 1
        if ordered and low > high:
            raise _bad(pattern, f"the range {low}-{high} is the wrong way round")
        if low <= high:  # a range the wrong way round matches nothing
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
    if ranges:
        return f"[{'^' if negated else ''}{''.join(ranges)}]", position + 1
    return ("." if negated else "(?!)."), position + 1


def _class_member(pattern: str, position: int) -> tuple[str, int]:
    character = pattern[position : position + 1]
    if not character or character in "-]":
        raise _bad(pattern, "a character class is not finished")
    if character == "\\":
        position += 1
        character = pattern[position : position + 1]
    if position + 1 >= len(pattern):
        raise _bad(pattern, "a character class is not finished")
    return character, position + 1


def _bad(pattern: str, reason: str) -> UsageError:
    return UsageError(
        f"invalid pattern {pattern!r}: {reason}", code="bad-pattern", remedy="write \\[ and \\\\ for the characters themselves"
    )


@lru_cache(maxsize=512)
def _wildcard(pattern: str) -> re.Pattern[str]:
    # Each run between stars is matched at the first place that fits and never elsewhere, as Go does: hence atomic groups,
    # which also keep the time linear in what a user may write.
    chunks: list[list[str]] = [[]]
    for token in _tokens(pattern):
        if token.star:
            chunks.append([])
        else:
            chunks[-1].append(token.expression)
    parts = ["".join(chunks[0])]
    parts += [f"(?>[^/]*?{''.join(chunk)})" for chunk in chunks[1:-1]]
    if len(chunks) > 1:
        parts.append(f"[^/]*{''.join(chunks[-1])}")
    return re.compile("".join(parts), re.DOTALL)


def _ignore_expression(pattern: str) -> re.Pattern[str]:
    """The regular expression of one ``.dockerignore`` pattern, already cleaned."""
    parts: list[str] = []
    tokens = list(_tokens(pattern, ordered=True))
    position = 0
    while position < len(tokens):
        token = tokens[position]
        position += 1
        if token.star < 2:
            parts.append(token.expression or "[^/]*")
            continue
        # "**", and "**/" as one: a slash after the stars is part of them.
        at_start = position == 1
        if position < len(tokens) and tokens[position].literal == "/":
            position += 1
        rest = tokens[position:]
        if not rest:
            parts.append(".*")
        elif at_start and all(following.literal for following in rest):
            # "**/x" and "**x" with nothing wild behind are suffixes: "**x" also matches "yx", "**/x" whole names only.
            parts.append("(?:.*/)?" if tokens[1].literal == "/" else ".*")
        elif parts[-1:] != ["(?:.*/)?"]:
            parts.append("(?:.*/)?")
    return re.compile("".join(parts), re.DOTALL)
