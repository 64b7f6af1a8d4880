"""Turns Dockerfile text into one `Node` per instruction: keyword, flags, arguments, heredocs, and where each of them stands.

Decides what the text says, not whether it makes sense: any flag and any number of arguments passes here. `contain.dockerfile.parse`
makes typed instructions of the nodes. Never reads files, never expands variables.

Theory of operation. A file is physical lines; an instruction is one *logical line*, physical lines joined where the escape
character ends one, without the comment lines between them. A logical line remembers for every character which physical line
it came from (`LogicalLine.span`), so that each later error can point at it. How the text behind the keyword is cut up depends
on the keyword (`_SHAPES`), as does whether heredoc bodies follow. The rules, with their oddities, are those of BuildKit's
``frontend/dockerfile/parser``, whose golden files are the test.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from enum import Enum

from contain.dockerfile.heredocs import Heredoc, heredoc_word
from contain.dockerfile.suggestion import suggest
from contain.dockerfile.words import DEFAULT_ESCAPE, GO_SPACE, raw_words
from contain.errors import SourceSpan, UsageError
from contain.values import dataclass, field

_BLANKS = re.compile(r"[\t\v\f\r ]+")
_DIRECTIVES = ("syntax", "escape", "check")
_CONTINUATIONS = {escape: re.compile(rf"(?<!{re.escape(escape)}){re.escape(escape)}[ \t]*\Z") for escape in ("\\", "`")}
_BYTE_ORDER_MARK = "\ufeff"


class Shape(Enum):
    """How the text behind a keyword and its flags is cut into arguments."""

    JSON_OR_TEXT = "a JSON array of strings, or else the whole text as one argument"
    JSON_OR_LIST = "a JSON array of strings, or else separated by blanks"
    LIST = "separated by blanks"
    TEXT = "the whole text as one argument"
    WORDS = "separated by blanks outside quotes; quotes and escapes are kept"
    PAIRS = "name=value words, or else one name and the rest of the line; three arguments each: name, value, separator"
    HEALTH = "a word, then JSON_OR_TEXT"
    INSTRUCTION = "another instruction"


_SHAPES = {
    "ADD": Shape.JSON_OR_LIST,
    "ARG": Shape.WORDS,
    "CMD": Shape.JSON_OR_TEXT,
    "COPY": Shape.JSON_OR_LIST,
    "ENTRYPOINT": Shape.JSON_OR_TEXT,
    "ENV": Shape.PAIRS,
    "EXPOSE": Shape.LIST,
    "FROM": Shape.LIST,
    "HEALTHCHECK": Shape.HEALTH,
    "LABEL": Shape.PAIRS,
    "MAINTAINER": Shape.TEXT,
    "ONBUILD": Shape.INSTRUCTION,
    "RUN": Shape.JSON_OR_TEXT,
    "SHELL": Shape.JSON_OR_TEXT,
    "STOPSIGNAL": Shape.TEXT,
    "USER": Shape.TEXT,
    "VOLUME": Shape.JSON_OR_LIST,
    "WORKDIR": Shape.TEXT,
}
KEYWORDS = tuple(_SHAPES)
"""Every instruction there is."""

_WITH_HEREDOCS = frozenset({"ADD", "COPY", "RUN"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """Where a run of a logical line's characters comes from: ``start`` in the logical line, ``column`` (from 0) in the physical one."""

    start: int
    line: int
    column: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalLine:
    """The text of one instruction with its continuation lines joined, and the way back to the file."""

    file: str
    text: str
    pieces: tuple[_Piece, ...]
    end_line: int  # the last physical line, heredoc bodies included
    comments: tuple[str, ...] = ()  # the comment lines above it, without their "#"; an empty comment forgets those before it
    empty_line: SourceSpan | None = None  # the first empty line inside it

    def span(self, start: int, end: int) -> SourceSpan:
        """The place of ``text[start:end]``, to be shown by the physical line on which it begins."""
        index = max(0, bisect_right([piece.start for piece in self.pieces], start) - 1)
        piece = self.pieces[index]
        following = self.pieces[index + 1].start if index + 1 < len(self.pieces) else len(self.text)
        last = self.pieces[max(0, bisect_right([each.start for each in self.pieces], max(start, end - 1)) - 1)]
        return SourceSpan(
            file=self.file,
            line=piece.line,
            end_line=last.line,
            column=piece.column + (start - piece.start) + 1,
            length=max(1, min(end, following) - start),
            text=piece.source,
        )

    def whole(self) -> SourceSpan:
        """The instruction with its heredoc bodies; the caret covers the text on its first line."""
        first = self.span(0, len(self.text))
        shown = len(first.text.rstrip(GO_SPACE)) - first.column + 1
        return SourceSpan(
            file=self.file, line=first.line, end_line=self.end_line, column=first.column, length=max(1, shown), text=first.text
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A flag or an argument, and which characters of the logical line it was made from."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One instruction as written, cut up but not judged. ``keyword`` is in upper case."""

    keyword: str
    flags: tuple[Word, ...]
    arguments: tuple[Word, ...]
    line: LogicalLine
    is_json: bool = False
    child: Node | None = None  # of ONBUILD
    heredocs: tuple[Heredoc, ...] = ()
    start: int = 0  # where the keyword stands in the logical line: behind "ONBUILD " for a child
    keyword_end: int = 0

    @property
    def text(self) -> str:
        """The instruction as written, continuation lines joined, without heredoc bodies."""
        return self.line.text[self.start :]

    @property
    def span(self) -> SourceSpan:
        """Of the whole instruction."""
        return self.line.whole()

    def fail(self, message: str, *, at: Word | None = None, remedy: str = "", code: str = "bad-instruction") -> UsageError:
        """An error that points at ``at``, or else at the keyword."""
        start, end = (at.start, at.end) if at else (self.start, self.keyword_end)
        return UsageError(message, code=code, remedy=remedy, span=self.line.span(start, end))


CHECK_ARGUMENT = "BUILDKIT_DOCKERFILE_CHECK"
"""The build argument that takes the place of the directive ``check``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Directives:
    """The ``# name=value`` lines at the top. ``syntax`` is only recorded: this parser is the frontend."""

    syntax: str | None = None
    escape: str = DEFAULT_ESCAPE
    check: str | None = None


@dataclass(slots=True)
class _Reader:
    """The physical lines, read once from the top. Lines keep their line ends; numbers are 1-based."""

    file: str
    lines: list[str]
    number: int = 0
    directives: dict[str, str] = field(default_factory=dict)
    directives_possible: bool = True
    comments: list[str] = field(default_factory=list)

    def next(self) -> str | None:
        if self.number >= len(self.lines):
            return None
        self.number += 1
        return self.lines[self.number - 1]

    def place(self, column: int = 1, length: int | None = None) -> SourceSpan:
        text = self.lines[self.number - 1].rstrip("\r\n") if self.number else ""
        return SourceSpan(
            file=self.file,
            line=max(1, self.number),
            end_line=max(1, self.number),
            column=column,
            length=max(1, len(text)) if length is None else length,
            text=text,
        )


class Lexer:
    """Reads nodes one after the other, so that the first error of a file is the one that is reported.

    ``directives`` is complete after `nodes` is exhausted.
    """

    def __init__(self, text: str, *, file: str) -> None:
        lines = text.removeprefix(_BYTE_ORDER_MARK).split("\n")
        ended = [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
        self._reader = _Reader(file=file, lines=ended)

    @property
    def directives(self) -> Directives:
        """What the directives read so far say."""
        found = self._reader.directives
        return Directives(syntax=found.get("syntax"), escape=found.get("escape", DEFAULT_ESCAPE), check=found.get("check"))

    def nodes(self) -> Iterator[Node]:
        """Every instruction. Raises `UsageError`; ``empty-dockerfile`` if there is none."""
        count = 0
        while (line := self._logical_line()) is not None:
            if not line.text:
                continue
            node = _node(line, 0, self.directives.escape)
            if _may_have_heredocs(node):
                node = self._with_heredocs(node)
            count += 1
            yield node
        if not count:
            raise UsageError(
                f"{self._reader.file} has no instructions",
                code="empty-dockerfile",
                remedy="a Dockerfile begins with FROM and the name of an image",
                span=SourceSpan(file=self._reader.file, line=1, end_line=max(1, len(self._reader.lines))),
            )

    def _logical_line(self) -> LogicalLine | None:
        reader = self._reader
        raw = reader.next()
        if raw is None:
            return None
        source = raw.rstrip("\r\n")
        content = source.lstrip(GO_SPACE)
        is_directive = reader.directives_possible and self._directive(content)
        if content.startswith("#"):
            comment = content[1:].strip(GO_SPACE)
            if not comment:
                reader.comments.clear()
            elif not is_directive:
                reader.comments.append(comment)
            content = ""
        continuation = _CONTINUATIONS[self.directives.escape]
        pieces = [_Piece(start=0, line=reader.number, column=len(source) - len(source.lstrip(GO_SPACE)), source=source)]
        text, continued = _cut_continuation(content, continuation)
        empty_line: SourceSpan | None = None
        while continued:
            raw = reader.next()
            if raw is None:
                break  # an escape character at the end of the file continues nothing
            source = raw.rstrip("\r\n")
            if source.lstrip(GO_SPACE).startswith("#"):
                continue
            if not source.strip(GO_SPACE):
                empty_line = empty_line or reader.place()
                continue
            content, continued = _cut_continuation(source, continuation)
            pieces.append(_Piece(start=len(text), line=reader.number, column=0, source=source))
            text += content
        line = LogicalLine(
            file=reader.file,
            text=text,
            pieces=tuple(pieces),
            end_line=reader.number,
            comments=tuple(reader.comments),
            empty_line=empty_line,
        )
        if text.strip(GO_SPACE):
            reader.comments.clear()
        return _stripped(line)

    def _directive(self, content: str) -> bool:
        """Records the directive on this line, or ends the zone in which there may be one. Whether there was one."""
        reader = self._reader
        name, _, value = content[1:].partition("=") if content.startswith("#") else ("", "", "")
        name, value = name.strip(GO_SPACE).lower(), value.strip(GO_SPACE)
        if name not in _DIRECTIVES or not value:
            reader.directives_possible = False
            return False
        if name in reader.directives:
            raise UsageError(f"the directive {name!r} is given twice", code="bad-directive", span=reader.place())
        if name == "escape" and value not in _CONTINUATIONS:
            raise UsageError(
                f"the escape character cannot be {value!r}",
                code="bad-directive",
                remedy="it is either \\ or `",
                span=reader.place(),
            )
        reader.directives[name] = value
        return True

    def _with_heredocs(self, node: Node) -> Node:
        reader = self._reader
        found = []
        for word in _heredoc_words(node):
            content: list[str] = []
            while (raw := reader.next()) is not None:
                candidate = raw.rstrip("\r\n")
                if (candidate.lstrip("\t") if word.strip_tabs else candidate) == word.name:
                    break
                content.append(raw)
            else:
                raise node.fail(
                    f"the heredoc {word.name!r} does not end",
                    code="unterminated-heredoc",
                    remedy=f"end it with a line that is exactly {word.name}",
                    at=_find(node.line, "<<"),
                )
            found.append(
                Heredoc(
                    name=word.name,
                    content="".join(content),
                    expand=word.expand,
                    strip_tabs=word.strip_tabs,
                    descriptor=word.descriptor,
                )
            )
        if not found:
            return node
        line = _line_with(node.line, end_line=reader.number)
        child = node.child and _replaced(node.child, line, tuple(found))
        return _replaced(node, line, () if child else tuple(found), child)


def _find(line: LogicalLine, text: str) -> Word | None:
    start = line.text.find(text)
    return None if start < 0 else Word(text=text, start=start, end=start + len(text))


def _replaced(node: Node, line: LogicalLine, heredocs: tuple[Heredoc, ...], child: Node | None = None) -> Node:
    return Node(
        keyword=node.keyword,
        flags=node.flags,
        arguments=node.arguments,
        line=line,
        is_json=node.is_json,
        child=child,
        heredocs=heredocs,
        start=node.start,
        keyword_end=node.keyword_end,
    )


def _may_have_heredocs(node: Node) -> bool:
    inner = node.child or node
    return inner.keyword in _WITH_HEREDOCS and not inner.is_json and "<<" in inner.text


def _heredoc_words(node: Node) -> list[Heredoc]:
    try:
        words = raw_words(node.line.text)
    except UsageError:
        return []  # quotes that do not balance: the shell's business, and BuildKit looks no further either
    try:
        return [heredoc for word in words if (heredoc := heredoc_word(word)) is not None]
    except UsageError as error:
        raise node.fail(error.message, code="bad-heredoc", remedy=error.remedy, at=_find(node.line, "<<")) from error


def _cut_continuation(content: str, continuation: re.Pattern[str]) -> tuple[str, bool]:
    match = continuation.search(content)
    return (content[: match.start()], True) if match else (content, False)


def _stripped(line: LogicalLine) -> LogicalLine:
    """Without blanks at both ends; the way back to the file stays right."""
    shift = len(line.text) - len(line.text.lstrip(GO_SPACE))
    pieces = line.pieces
    if shift:
        kept = [piece for index, piece in enumerate(pieces) if index + 1 == len(pieces) or pieces[index + 1].start > shift]
        pieces = tuple(
            _Piece(
                start=max(0, piece.start - shift),
                line=piece.line,
                column=piece.column + max(0, shift - piece.start),
                source=piece.source,
            )
            for piece in kept
        )
    return _line_with(line, text=line.text.strip(GO_SPACE), pieces=pieces)


def _line_with(
    line: LogicalLine, *, text: str | None = None, pieces: tuple[_Piece, ...] | None = None, end_line: int | None = None
) -> LogicalLine:
    return LogicalLine(
        file=line.file,
        text=line.text if text is None else text,
        pieces=line.pieces if pieces is None else pieces,
        end_line=line.end_line if end_line is None else end_line,
        comments=line.comments,
        empty_line=line.empty_line,
    )


# -- one logical line -------------------------------------------------------------------------------------------------------


def _node(line: LogicalLine, start: int, escape: str) -> Node:
    """The instruction that begins at ``start`` of the line."""
    blanks = _BLANKS.search(line.text, start)
    keyword_end = blanks.start() if blanks else len(line.text)
    written = line.text[start:keyword_end]
    keyword = written.upper()
    if keyword not in _SHAPES:
        near = suggest(keyword, KEYWORDS)
        raise UsageError(
            f"unknown instruction {written if len(written) <= 60 else written[:57] + '...'}",
            code="unknown-instruction",
            remedy=f"did you mean {near}?"
            if near
            else "a line that continues the one above needs the escape character at that line's end",
            span=line.span(start, keyword_end),
        )
    flags, rest = _flags(line.text, blanks.end() if blanks else len(line.text), escape)
    end = len(line.text)
    bare = Node(keyword=keyword, flags=flags, arguments=(), line=line, start=start, keyword_end=keyword_end)
    shape = _SHAPES[keyword]
    if rest == end:
        return bare
    if shape is Shape.INSTRUCTION:
        if start:
            raise bare.fail("ONBUILD cannot be the trigger of ONBUILD", code="bad-onbuild")
        return _with_arguments(bare, (), child=_node(line, rest, escape))
    if shape is Shape.HEALTH:
        type_end = next((index for index in range(rest, end) if line.text[index] in GO_SPACE), end)
        after = next((index for index in range(type_end, end) if line.text[index] not in GO_SPACE), end)
        tail, is_json = _json_or_text(bare, after, end)
        return _with_arguments(bare, (Word(text=line.text[rest:type_end], start=rest, end=type_end), *tail), is_json=is_json)
    if shape in (Shape.JSON_OR_TEXT, Shape.JSON_OR_LIST):
        arguments, is_json = _json_or_text(bare, rest, end)
        if shape is Shape.JSON_OR_LIST and not is_json:
            arguments = _list(line.text, rest)
        return _with_arguments(bare, arguments, is_json=is_json)
    if shape is Shape.LIST:
        return _with_arguments(bare, _list(line.text, rest))
    if shape is Shape.WORDS:
        return _with_arguments(bare, _quoted_words(line.text, rest, escape))
    if shape is Shape.PAIRS:
        return _with_arguments(bare, _pairs(bare, rest, escape))
    return _with_arguments(bare, (Word(text=line.text[rest:], start=rest, end=end),))


def _with_arguments(node: Node, arguments: tuple[Word, ...], *, is_json: bool = False, child: Node | None = None) -> Node:
    return Node(
        keyword=node.keyword,
        flags=node.flags,
        arguments=arguments,
        line=node.line,
        is_json=is_json,
        child=child,
        start=node.start,
        keyword_end=node.keyword_end,
    )


def _flags(text: str, position: int, escape: str) -> tuple[tuple[Word, ...], int]:
    """The words that begin with ``--``, quotes and escapes removed, and where the arguments begin. ``--`` alone ends the flags."""
    flags: list[Word] = []
    while True:
        while position < len(text) and text[position] in GO_SPACE:
            position += 1
        if not text.startswith("--", position):
            return tuple(flags), position
        start = position
        word, position = _flag_word(text, position, escape)
        if word != "--":
            flags.append(Word(text=word, start=start, end=position))
            continue
        while position < len(text) and text[position] in GO_SPACE:
            position += 1
        return tuple(flags), position


def _flag_word(text: str, position: int, escape: str) -> tuple[str, int]:
    word: list[str] = []
    quote = ""
    while position < len(text):
        character = text[position]
        if not quote and character in GO_SPACE:
            break
        position += 1
        if character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
        elif character == escape:
            word.append(text[position : position + 1])
            position += 1
        else:
            word.append(character)
    return "".join(word), min(position, len(text))


def _json_or_text(node: Node, start: int, end: int) -> tuple[tuple[Word, ...], bool]:
    """A JSON array of strings if it is one; text that merely looks like one is text (a shell's ``[`` begins the same way)."""
    text = node.line.text[start:end]
    if not text:
        return (), False
    whole = Word(text=text, start=start, end=end)
    if not text.startswith("["):
        return (whole,), False
    try:
        values = json.loads(text, parse_constant=_not_json)
    except (ValueError, RecursionError):
        return (whole,), False
    strings = [value for value in values if isinstance(value, str)]
    if len(strings) != len(values):
        raise node.fail(
            "a JSON array here must contain only strings",
            at=whole,
            code="bad-json-form",
            remedy="put every element in double quotes",
        )
    return tuple(Word(text=_without_surrogates(value), start=start, end=end) for value in strings), True


def _not_json(name: str) -> object:
    raise ValueError(name)  # NaN and Infinity are Python's idea


def _without_surrogates(text: str) -> str:
    # A lone \ud800 in JSON is no character and could never be written to a file; Go replaces it the same way.
    return re.sub(r"[\ud800-\udfff]", "\ufffd", text)


def _list(text: str, start: int) -> tuple[Word, ...]:
    return tuple(
        Word(text=match[0], start=match.start(), end=match.end())
        for match in re.compile(r"[^\t\v\f\r ]+").finditer(text, start)
    )


def _quoted_words(text: str, position: int, escape: str) -> tuple[Word, ...]:
    """Words separated by blanks outside quotes. Quotes and escapes stay, for the expansion to remove."""
    words: list[Word] = []
    while True:
        while position < len(text) and text[position] in GO_SPACE:
            position += 1
        if position >= len(text):
            return tuple(words)
        start = position
        word: list[str] = []
        quote = ""
        while position < len(text):
            character = text[position]
            if not quote and character in GO_SPACE:
                break
            position += 1
            if character == escape and quote != "'":
                if position == len(text):
                    break  # an escape character at the very end is dropped
                word.append(character + text[position])
                position += 1
                continue
            if character == quote:
                quote = ""
            elif not quote and character in "'\"":
                quote = character
            word.append(character)
        if word:
            words.append(Word(text="".join(word), start=start, end=position))


def _pairs(node: Node, start: int, escape: str) -> tuple[Word, ...]:
    text = node.line.text
    words = _quoted_words(text, start, escape)
    if not words:
        return ()
    if "=" not in words[0].text:
        blanks = _BLANKS.search(text, start)
        if blanks is None:
            raise node.fail(
                f"{node.keyword} needs a value for {words[0].text}", at=words[0], remedy=f"write {words[0].text}=value"
            )
        return (
            Word(text=text[start : blanks.start()], start=start, end=blanks.start()),
            Word(text=text[blanks.end() :], start=blanks.end(), end=len(text)),
            Word(text="", start=start, end=len(text)),
        )
    arguments: list[Word] = []
    for word in words:
        name, separator, value = word.text.partition("=")
        if not separator:
            raise node.fail(
                f"{node.keyword} expects name=value, and {word.text!r} has no '='",
                at=word,
                remedy="put a value that contains blanks in double quotes",
            )
        arguments += [Word(text=part, start=word.start, end=word.end) for part in (name, value, separator)]
    return tuple(arguments)
