"""Expands variables and quotes in a Dockerfile word, and splits text into words.

Pure: the values come from a lookup function. Nothing here knows which variables an instruction may see; that is the build's
decision. The rules are those of BuildKit's Dockerfile frontend (``frontend/dockerfile/shell``), which resemble a POSIX shell's
without being one: ``${x:=w}`` is an error, patterns know ``*`` and ``?`` and no brackets.

One deliberate difference: in ``${x//p/r}`` the replacement is literal text, as in ``${x/p/r}``. BuildKit hands it to Go's
regular expressions, where ``$1`` means a group.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from contain.errors import SourceSpan, UsageError

Lookup = Callable[[str], str | None]
"""The value of a variable, or None where it is unset. A dictionary's ``get`` is one."""

DEFAULT_ESCAPE = "\\"

GO_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
"""What counts as white space: the Unicode property White_Space. ``str.isspace`` would add the separators U+001C to U+001F."""

_SPECIAL_PARAMETERS = frozenset("@*#?-$!0")
"""Names of one character. They are recognised so that a value can never be set for them: they expand to nothing."""

_MAX_NESTING = 64
"""Depth of ``${a:-${b:-...}}``. Deeper text is a mistake or an attack, and would exhaust the interpreter's stack."""


def expand(word: str, lookup: Lookup, *, escape: str = DEFAULT_ESCAPE, span: SourceSpan | None = None) -> str:
    """One word with its variables replaced and its quotes and escapes removed. Blanks in values stay.

    Raises `UsageError` (``bad-expansion``; ``variable-required`` for ``${x:?message}``) that points at ``span``.
    """
    return _Expander(word, lookup, escape=escape, span=span).run()[0]


def split_words(word: str, lookup: Lookup, *, escape: str = DEFAULT_ESCAPE, span: SourceSpan | None = None) -> tuple[str, ...]:
    """As `expand`, then split at blanks outside quotes; blanks that came out of an unquoted variable split too."""
    return _Expander(word, lookup, escape=escape, span=span).run()[1]


def expand_heredoc(body: str, lookup: Lookup, *, span: SourceSpan | None = None) -> str:
    """The body of a heredoc whose word was not quoted: variables are replaced, quotes are ordinary text.

    The escape character is the backslash here, whatever the file's ``escape`` directive says.
    """
    return _Expander(body, lookup, escape=DEFAULT_ESCAPE, span=span, quotes=False).run()[0]


def raw_words(text: str) -> tuple[str, ...]:
    """``text`` split into words that keep their quotes, escapes and variables; ``<< WORD`` stays one word.

    This is how heredoc words are found in a line. Raises `UsageError` for unbalanced quotes.
    """
    return _Expander(
        text, _nothing, escape=DEFAULT_ESCAPE, span=None, keep_quotes=True, keep_escapes=True, keep_unset=True
    ).run()[1]


def unquoted_words(text: str, *, keep_quotes: bool) -> tuple[str, ...]:
    """``text`` split into words, escapes removed and variables untouched; with or without the quotes."""
    return _Expander(text, _nothing, escape=DEFAULT_ESCAPE, span=None, keep_quotes=keep_quotes, keep_unset=True).run()[1]


def _nothing(_name: str) -> str | None:
    return None


class _Words:
    """Collects characters into words. ``add`` splits at blanks, ``add_raw`` does not."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self._current: list[str] = []

    def add(self, text: str) -> None:
        for character in text:
            if character not in GO_SPACE:
                self._current.append(character)
            elif self._current:
                self._finish()

    def add_raw(self, text: str) -> None:
        if text:
            self._current.append(text)

    def finish(self) -> tuple[str, ...]:
        if self._current:
            self._finish()
        return tuple(self.done)

    def _finish(self) -> None:
        self.done.append("".join(self._current))
        self._current.clear()


class _Expander:
    """One pass over one text. ``keep_*`` leave quotes, escapes and unset variables as they are written."""

    def __init__(
        self,
        text: str,
        lookup: Lookup,
        *,
        escape: str,
        span: SourceSpan | None,
        quotes: bool = True,
        keep_quotes: bool = False,
        keep_escapes: bool = False,
        keep_unset: bool = False,
    ) -> None:
        self._text = text
        self._position = 0
        self._lookup = lookup
        self._escape = escape
        self._span = span
        self._quotes = quotes
        self._keep_quotes = keep_quotes
        self._keep_escapes = keep_escapes
        self._keep_unset = keep_unset
        self._depth = 0

    def run(self) -> tuple[str, tuple[str, ...]]:
        return self._until("", self._keep_escapes)

    # -- reading ------------------------------------------------------------------------------------------------------------

    def _peek(self) -> str:
        """The next character, or "" at the end."""
        return self._text[self._position : self._position + 1]

    def _next(self) -> str:
        character = self._peek()
        self._position += len(character)
        return character

    def _fail(self, reason: str, *, code: str = "bad-expansion", remedy: str = "") -> UsageError:
        shown = self._text if len(self._text) <= 120 else self._text[:117] + "..."
        return UsageError(f"cannot expand {shown!r}: {reason}", code=code, remedy=remedy, span=self._span)

    # -- text ---------------------------------------------------------------------------------------------------------------

    def _until(self, stop: str, keep_escapes: bool) -> tuple[str, tuple[str, ...]]:
        """Everything up to ``stop`` (consumed), or to the end of the text if ``stop`` is empty."""
        result: list[str] = []
        words = _Words()
        outer_keep_escapes, self._keep_escapes = self._keep_escapes, keep_escapes
        try:
            while character := self._peek():
                if character == stop:
                    self._next()
                    return "".join(result), words.finish()
                if character == "$":
                    value = self._dollar()
                    result.append(value)
                    words.add(value)
                elif character == "<":
                    value = self._angle()
                    result.append(value)
                    words.add_raw(value)
                elif self._quotes and character in "'\"":
                    value = self._single_quoted() if character == "'" else self._double_quoted()
                    result.append(value)
                    words.add_raw(value)
                elif character == self._escape:
                    self._next()
                    # An escape character that ends the text escapes nothing and is dropped.
                    escaped = (character if self._keep_escapes else "") + self._next()
                    result.append(escaped)
                    words.add_raw(escaped)
                else:
                    self._next()
                    result.append(character)
                    words.add(character)
        finally:
            self._keep_escapes = outer_keep_escapes
        if stop:
            raise self._fail(f"missing {stop!r}")
        return "".join(result), words.finish()

    def _angle(self) -> str:
        """``<<`` with the blanks behind it, kept together so that ``<< WORD`` is one word; any other ``<`` alone."""
        self._next()
        if self._peek() != "<":
            return "<"
        start = self._position
        self._next()
        while self._peek() and self._peek() in "\t\r ":
            self._next()
        return "<" + self._text[start : self._position]

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._position + 1)
        if end < 0:
            raise self._fail("a single quote is not closed", remedy="write \\' for the character itself")
        start, self._position = self._position, end + 1
        return self._text[start : end + 1] if self._keep_quotes else self._text[start + 1 : end]

    def _double_quoted(self) -> str:
        opening = self._next()
        quote = opening if self._keep_quotes else ""
        result = [quote]
        while character := self._peek():
            if character == '"':
                self._next()
                return "".join(result) + quote
            if character == "$":
                result.append(self._dollar())
                continue
            self._next()
            if character == self._escape:
                following = self._peek()
                if not following:
                    break
                # Inside double quotes only these can be escaped; before anything else the escape character is text.
                if following in ('"', "$", self._escape):
                    result.append((character if self._keep_escapes else "") + self._next())
                    continue
                if self._keep_escapes:
                    result.append(character)
            result.append(character)
        raise self._fail("a double quote is not closed", remedy='write \\" for the character itself')

    # -- variables ----------------------------------------------------------------------------------------------------------

    def _dollar(self) -> str:
        self._depth += 1
        if self._depth > _MAX_NESTING:
            raise self._fail(f"more than {_MAX_NESTING} substitutions inside each other")
        try:
            self._next()
            if self._peek() == "{":
                self._next()
                return self._braces()
            name = self._name()
            if not name:
                return "$"
            value = self._lookup(name)
            if value is None:
                return "$" + name if self._keep_unset else ""
            return value
        finally:
            self._depth -= 1

    def _name(self) -> str:
        start = self._position
        first = self._peek()
        if first.isdecimal():
            while self._peek().isdecimal():
                self._next()
        elif first and first in _SPECIAL_PARAMETERS:
            self._next()
        else:
            while self._peek().isalpha() or self._peek().isdecimal() or self._peek() == "_":
                self._next()
        return self._text[start : self._position]

    def _braces(self) -> str:
        """The rest of a substitution whose ``${`` has been read."""
        if not self._peek():
            raise self._fail("missing '}'")
        if self._peek() in "{}:":
            raise self._fail("a variable's name must follow '${'", remedy="write \\${ for the characters themselves")
        name = self._name()
        modifier = self._next()
        if modifier == "}":
            value = self._lookup(name)
            if value is None:
                return "${" + name + "}" if self._keep_unset else ""
            return value
        if modifier == "/":
            return self._replacement(name)
        empty_is_unset = modifier == ":"
        if empty_is_unset:
            modifier = self._next()
        if modifier not in (("+", "-", "?") if empty_is_unset else ("+", "-", "?", "#", "%")):
            shown = (":" if empty_is_unset else "") + modifier
            if not shown:
                raise self._fail("missing '}'")
            raise self._fail(
                f"{shown!r} is not a modifier",
                remedy="known are :- - :+ + :? ? # ## % %% / //" if name else "a variable's name must follow '${'",
            )
        word = self._until("}", modifier in "#%")[0]
        value = self._lookup(name)
        if value is None and self._keep_unset:
            return "${" + name + (":" if empty_is_unset else "") + modifier + word + "}"
        missing = value is None or (empty_is_unset and not value)
        if modifier == "-":
            return word if missing else value or ""
        if modifier == "+":
            return "" if missing else word
        if modifier == "?":
            if missing:
                reason = word or f"is not allowed to be {'unset' if value is None else 'empty'}"
                raise self._fail(f"{name}: {reason}", code="variable-required")
            return value or ""
        longest = word.startswith(modifier)
        return self._trimmed(value or "", word[1:] if longest else word, suffix=modifier == "%", longest=longest)

    def _replacement(self, name: str) -> str:
        """``${name/pattern/text}`` or, with a second slash, everywhere. The first slash has been read."""
        everywhere = self._peek() == "/"
        if everywhere:
            self._next()
        pattern = self._until("/", True)[0]
        replacement = self._until("}", True)[0]
        value = self._lookup(name)
        if value is None and self._keep_unset:
            return "${" + name + ("//" if everywhere else "/") + pattern + "/" + replacement + "}"
        return self._pattern(pattern).sub(lambda _match: replacement, value or "", count=0 if everywhere else 1)

    def _trimmed(self, value: str, pattern: str, *, suffix: bool, longest: bool) -> str:
        """``value`` without the shortest or longest prefix or suffix that ``pattern`` matches whole."""
        expression = self._pattern(pattern)
        lengths = range(len(value), -1, -1) if longest else range(len(value) + 1)
        for length in lengths:
            cut = len(value) - length if suffix else length
            if expression.fullmatch(value[cut:] if suffix else value[:cut]):
                return value[:cut] if suffix else value[cut:]
        return value

    def _pattern(self, pattern: str) -> re.Pattern[str]:
        """A shell pattern as a regular expression: ``*`` and ``?`` are wild, a backslash takes their meaning away."""
        parts: list[str] = []
        position = 0
        while position < len(pattern):
            character = pattern[position]
            position += 1
            if character == "*":
                if parts[-1:] != [".*"]:  # two stars in a row mean one, and would only cost backtracking
                    parts.append(".*")
            elif character == "?":
                parts.append(".")
            elif character == "\\":
                following = pattern[position : position + 1]
                position += 1
                # "}" and "/" are escaped for the substitution's own sake: the backslash is no part of the pattern.
                if not following or following not in "}/*?\\":
                    raise self._fail(f"invalid pattern {pattern!r}: a backslash may stand before * ? \\ / and }} only")
                parts.append(re.escape(following))
            else:
                parts.append(re.escape(character))
        return re.compile("".join(parts), re.DOTALL)
