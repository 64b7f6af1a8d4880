"""Go's template language, as far as people write it after ``--format``: text to nodes, nodes and a value to text. Pure.

Actions: pipelines of fields (``.A.B``), variables (``$x``), texts, numbers, ``true``, ``false``, ``nil``, parentheses and functions;
``if``, ``else if``, ``range``, ``with``, ``end``; ``:=`` and ``=``; comments; ``{{-`` and ``-}}``. Not: ``define``, ``template``,
``block``, ``break``, ``continue``, which are refused by name.

Source: Go's package ``text/template``; Docker's own functions: docker/cli ``templates/templates.go``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from contain.annotations import Any
from contain.cli.template_values import Nil, absent, plain, show, typed
from contain.errors import NotSupported, UsageError
from contain.values import dataclass, replace

_REFUSED = ("define", "template", "block", "break", "continue")
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)|(?P<mark>:=|[|()=,])"""
    r"""|(?P<field>(?:\$\w*)?(?:\.\w+)+|\.)|(?P<variable>\$\w*)|(?P<word>\w+))"""
)
_LOOSE = (
    "Labels",
    "Ports",
    "Networks",
    "Options",
    "Volumes",
    "ExposedPorts",
    "PortBindings",
    "Annotations",
    "Sysctls",
    "Config",
)
"""Fields whose own keys are not known before: one that is not there has no value, and is no mistake."""

_OPTIONAL = ("Health", "SizeRw", "SizeRootFs")
"""Fields that are left out where there is nothing to tell."""

_STRUCTURES = ("Config",)
"""Of the loose ones, those whose keys are not a user's: an empty one may be left out, and has a type all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """What stands between actions."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """An action that is replaced by its value."""

    pipeline: Pipeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """``if``, ``range`` or ``with``, and both ways."""

    kind: str
    pipeline: Pipeline
    then: list[Node]
    otherwise: list[Node]


Node = Text | Show | Branch


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Commands, each with the value of the one before as its last argument; variables that get the value."""

    names: tuple[str, ...]
    commands: tuple[tuple[Word, ...], ...]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """An operand: ``kind`` is value, field, name or pipeline. ``path``: fields that are looked up in it."""

    kind: str
    value: Any
    path: tuple[str, ...] = ()


def _bad(why: str) -> UsageError:
    return UsageError(f"template parsing error: {why}", code="bad-template")


def _split(template: str) -> Iterator[tuple[bool, str]]:
    """Pieces of text (False) and of actions (True)."""
    place, trim = 0, False
    while True:
        start = template.find("{{", place)
        text = template[place:] if start < 0 else template[place:start]
        text = text.lstrip() if trim else text
        if start < 0:
            if "}}" in text:
                raise _bad(f"{template!r}: unexpected }}}}")
            yield False, text
            return
        end = start + 2
        while True:  # a text inside of an action may hold braces
            match = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`|\}\}|/\*.*?\*/', re.DOTALL).search(template, end)
            if match is None:
                raise _bad(f"{template!r}: unclosed action")
            end = match.end()
            if match[0] == "}}":
                break
        inner = template[start + 2 : end - 2]
        if inner.startswith("- "):
            text, inner = text.rstrip(), inner[1:]
        trim = inner.endswith(" -") or inner == "-"
        inner = inner[:-1] if trim else inner
        yield False, text
        yield True, inner.strip()
        place = end


def parse_template(template: str) -> list[Node]:
    """Raises `UsageError` (code ``bad-template``), `NotSupported` (code ``template-not-supported``)."""
    root: list[Node] = []
    lists: list[list[Node]] = [root]
    branches: list[tuple[Branch, bool]] = []  # and whether its ``end`` ends the one before, too (``else if``)
    for is_action, text in _split(template):
        if not is_action:
            if text:
                lists[-1].append(Text(text=text))
            continue
        keyword, _, rest = text.partition(" ")
        if not text:
            raise _bad(f"{template!r}: missing value for command")
        if text.startswith("/*"):
            continue
        if keyword in _REFUSED:
            raise NotSupported(f"{{{{{text}}}}} in a template", code="template-not-supported")
        if keyword in ("if", "range", "with"):
            branch = Branch(kind=keyword, pipeline=_parse_pipeline(rest), then=[], otherwise=[])
            lists[-1].append(branch)
            branches.append((branch, False))
            lists.append(branch.then)
        elif keyword == "else":
            if not branches or lists[-1] is branches[-1][0].otherwise:
                raise _bad(f"{template!r}: unexpected {{{{else}}}}")
            lists[-1] = branches[-1][0].otherwise
            if rest:
                kind, _, condition = rest.strip().partition(" ")
                if kind not in ("if", "with"):
                    raise _bad(f"{template!r}: unexpected {{{{{text}}}}}")
                inner = Branch(kind=kind, pipeline=_parse_pipeline(condition), then=[], otherwise=[])
                lists[-1].append(inner)
                branches.append((inner, True))
                lists.append(inner.then)
        elif text == "end":
            if not branches:
                raise _bad(f"{template!r}: unexpected {{{{end}}}}")
            chained = True
            while chained:
                _, chained = branches.pop()
                lists.pop()
        else:
            lists[-1].append(Show(pipeline=_parse_pipeline(text)))
    if branches:
        raise _bad(f"{template!r}: unexpected EOF")
    return root


def _tokens(text: str) -> list[tuple[str, str]]:
    found, place = [], 0
    text = text.rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise _bad(f'unexpected "{text[place:].lstrip()[:1]}" in {{{{{text}}}}}')
        found.append((str(match.lastgroup), match[str(match.lastgroup)]))
        place = match.end()
    return found


def _parse_pipeline(text: str) -> Pipeline:
    tokens = _tokens(text)
    names: list[str] = []
    for place, (_, mark) in enumerate(tokens):
        if mark in (":=", "="):
            names = [word for kind, word in tokens[:place] if kind == "variable"]
            if len(names) != len([word for _, word in tokens[:place] if word != ","]) or not 1 <= len(names) <= 2:
                raise _bad(f"bad declaration in {{{{{text}}}}}")
            tokens = tokens[place + 1 :]
            break
    commands, place = _parse_commands(tokens, 0, text)
    if place != len(tokens):
        raise _bad(f"unexpected {tokens[place][1]!r} in {{{{{text}}}}}")
    return Pipeline(names=tuple(names), commands=commands, text=text)


def _parse_commands(tokens: list[tuple[str, str]], place: int, text: str) -> tuple[tuple[tuple[Word, ...], ...], int]:
    commands: list[tuple[Word, ...]] = []
    words: list[Word] = []
    while place < len(tokens) and tokens[place][1] != ")":
        kind, written = tokens[place]
        place += 1
        if kind == "mark" and written == "|":
            if not words:
                raise _bad(f"missing value for command in {{{{{text}}}}}")
            commands.append(tuple(words))
            words = []
        elif kind == "mark" and written == "(":
            inner, place = _parse_commands(tokens, place, text)
            if place >= len(tokens):
                raise _bad(f"unclosed left paren in {{{{{text}}}}}")
            place += 1
            path: tuple[str, ...] = ()
            if (
                place < len(tokens)
                and tokens[place][0] == "field"
                and tokens[place][1].startswith(".")
                and tokens[place][1] != "."
            ):
                path = tuple(tokens[place][1][1:].split("."))
                place += 1
            words.append(Word(kind="pipeline", value=Pipeline(names=(), commands=inner, text=text), path=path))
        elif kind == "mark":
            raise _bad(f"unexpected {written!r} in {{{{{text}}}}}")
        else:
            words.append(_parse_word(kind, written))
    if not words:
        raise _bad(f"missing value for command in {{{{{text}}}}}")
    return (*commands, tuple(words)), place


def _parse_word(kind: str, token: str) -> Word:
    if kind == "string":
        if token.startswith("`"):
            return Word(kind="value", value=token[1:-1])
        try:
            return Word(kind="value", value=json.loads(token.replace("\t", "\\t").replace("\n", "\\n")))
        except ValueError as error:
            raise _bad(f"bad text {token}") from error
    if kind == "number":
        return Word(kind="value", value=float(token) if "." in token else int(token))
    if kind == "field":
        head, _, rest = token.partition(".")
        return Word(kind="field", value=head, path=tuple(rest.split(".")) if rest else ())
    if kind == "variable":
        return Word(kind="field", value=token)
    if token in ("true", "false", "nil"):
        return Word(kind="value", value={"true": True, "false": False, "nil": None}[token])
    return Word(kind="name", value=token)


def first_fields(nodes: Sequence[Node], title: Callable[[str], str]) -> str:
    """The text with, in place of each action, the title of the first field that it shows."""
    parts = []
    for node in nodes:
        match node:
            case Text(text=text):
                parts.append(text)
            case Show(pipeline=pipeline):
                parts.append(next(map(title, _fields(pipeline)), ""))
            case Branch(then=then):
                parts.append(first_fields(then, title))
    return "".join(parts)


def _fields(pipeline: Pipeline) -> Iterator[str]:
    for command in pipeline.commands:
        for word in command:
            if word.kind == "pipeline":
                yield from _fields(word.value)
            if word.kind == "field" and word.path:
                yield word.path[0]


class _Scope:
    """What ``.`` and the variables mean at a place."""

    def __init__(self, root: object) -> None:
        self.root = root
        self.variables: dict[str, object] = {"$": root}


def render_nodes(nodes: Sequence[Node], value: object) -> str:
    """Raises `UsageError` for fields that are not there and functions that cannot take what they get."""
    return _render(nodes, value, _Scope(value))


def _render(nodes: Sequence[Node], dot: object, scope: _Scope) -> str:
    parts: list[str] = []
    for node in nodes:
        match node:
            case Text(text=text):
                parts.append(text)
            case Show(pipeline=pipeline):
                found = _evaluate(pipeline, dot, scope)
                if pipeline.names:
                    scope.variables[pipeline.names[0]] = found
                else:
                    parts.append(show(found))
            case Branch():
                parts.append(_render_branch(node, dot, scope))
    return "".join(parts)


def _render_branch(node: Branch, dot: object, scope: _Scope) -> str:
    found = _evaluate(node.pipeline, dot, scope)
    names = node.pipeline.names
    if node.kind == "range":
        items: list[tuple[object, object]]
        if isinstance(found, Mapping):
            items = [(key, found[key]) for key in sorted(found)]
        elif found is None or isinstance(found, Nil):
            items = []
        elif isinstance(found, Sequence) and not isinstance(found, str):
            items = list(enumerate(found))
        else:
            raise UsageError(f"template: range can't iterate over {show(found)[:80]}", code="bad-template")
        parts = []
        for key, item in items:
            for name, part in zip(names, (item,) if len(names) == 1 else (key, item), strict=False):
                scope.variables[name] = part
            parts.append(_render(node.then, item, scope))
        return "".join(parts) if items else _render(node.otherwise, dot, scope)
    if names:
        scope.variables[names[0]] = found
    if not _truth(found):
        return _render(node.otherwise, dot, scope)
    return _render(node.then, found if node.kind == "with" else dot, scope)


def _truth(value: object) -> bool:
    return bool(value)


def _evaluate(pipeline: Pipeline, dot: object, scope: _Scope) -> object:
    found: object = None
    for number, command in enumerate(pipeline.commands):
        found = _run(command, dot, scope, *((found,) if number else ()))
    return found


def _run(command: tuple[Word, ...], dot: object, scope: _Scope, *piped: object) -> object:
    first, *rest = command
    if first.kind == "name":
        function = FUNCTIONS.get(first.value)
        if function is None:
            raise UsageError(
                f'template parsing error: function "{first.value}" not defined',
                code="bad-template",
                remedy=f"there are {', '.join(sorted(FUNCTIONS))}",
            )
        arguments = [_operand(word, dot, scope) for word in rest]
        try:
            return function(*arguments, *piped)
        except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            shown = ", ".join(show(argument)[:40] for argument in (*arguments, *piped))
            raise UsageError(f"template: {first.value} cannot take ({shown})", code="bad-template") from error
    if first.kind == "field" and first.path[-1:] == ("Label",) and len(rest) + len(piped) == 1:
        labels = _look_up(_operand(replace(first, path=first.path[:-1]), dot, scope), ("Labels",))
        return _label_of(labels, *(_operand(word, dot, scope) for word in rest), *piped)
    if rest or piped:
        raise UsageError("template: can't give argument to non-function", code="bad-template")
    return _operand(first, dot, scope)


def _label_of(labels: object, name: object) -> object:
    """Docker's ``.Label "x"``: of labels, or of their list as a row shows it."""
    if isinstance(labels, Mapping):
        return labels.get(str(name), "")
    pairs = (text.partition("=") for text in str(labels or "").split(","))
    return next((value for key, _, value in pairs if key == name), "")


def _operand(word: Word, dot: object, scope: _Scope) -> object:
    match word.kind:
        case "value":
            return word.value
        case "pipeline":
            return _look_up(_evaluate(word.value, dot, scope), word.path)
        case "name":
            return _run((word,), dot, scope)
    if word.value:
        if word.value not in scope.variables:
            raise _bad(f'undefined variable "{word.value}"')
        return _look_up(scope.variables[word.value], word.path)
    return _look_up(dot, word.path)


def _look_up(value: object, path: Sequence[str]) -> object:
    above = ""
    for name in path:
        if isinstance(value, Mapping) and name in value:
            value, above = typed(name, value[name]), name
            continue
        if isinstance(value, Nil) and value.shown == "map[]":
            value, above = None, name
            continue
        if isinstance(value, Mapping) and name == "ID" and "Id" in value:  # Go's name of the field
            value, above = value["Id"], name
            continue
        if isinstance(value, Mapping) and (above in _LOOSE or name in _OPTIONAL):
            value, above = absent(name) if above in _STRUCTURES or name in _OPTIONAL else None, name
            continue
        known = ", ".join(f".{key}" for key in value) if isinstance(value, Mapping) else "nothing"
        raise UsageError(f"template: no field .{'.'.join(path)}", code="bad-template", remedy=f"there is {known[:300]}")
    return value


# -- functions -----------------------------------------------------------------------------------------------------------------


def _index(value: Any, *keys: Any) -> object:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(str(key), "")
        elif isinstance(value, Nil) and value.shown == "map[]":
            value = ""
        elif value is None or isinstance(value, Nil):
            raise IndexError
        else:
            if isinstance(key, bool) or not isinstance(key, int) or key < 0:
                raise TypeError
            value = value[key]
    return value


def _and(*values: object) -> object:
    return next((value for value in values if not _truth(value)), values[-1])


def _or(*values: object) -> object:
    return next((value for value in values if _truth(value)), values[-1])


def _print(*values: object) -> str:
    parts: list[str] = []
    for number, value in enumerate(values):
        # Go's fmt.Print: a blank between two operands of which none is a text
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            parts.append(" ")
        parts.append(show(value))
    return "".join(parts)


def _printf(form: str, *values: object) -> str:
    waiting = list(values)

    def replace(match: re.Match[str]) -> str:
        flags, verb = match[1], match[2]
        if verb == "%":
            return "%"
        if not waiting:
            return f"%!{verb}(MISSING)"
        value = waiting.pop(0)
        match verb:
            case "d" | "x" | "X" | "o" | "b" | "c" if isinstance(value, int):
                return format(value, "b") if verb == "b" else f"%{flags}{verb}" % value
            case "f" | "e" | "g" if isinstance(value, (int, float)):
                return f"%{flags}{verb}" % value
            case "q":
                return json.dumps(show(value), ensure_ascii=False)
        return f"%{flags}s" % show(value)

    text = re.sub(r"%([-+ 0#]*\d*(?:\.\d+)?)([a-zA-Z%])", replace, form)
    return text + (f"%!(EXTRA {', '.join(map(show, waiting))})" if waiting else "")


def _compare(test: Callable[[Any, Any], bool]) -> Callable[[object, object], bool]:
    def compare(one: Any, other: Any) -> bool:
        if isinstance(one, (int, float)) != isinstance(other, (int, float)):
            raise TypeError
        return test(one, other)

    return compare


def _pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


def _slice(value: Any, *places: int) -> object:
    first, last = (places[0] if places else 0), (places[1] if len(places) > 1 else len(value))
    if not 0 <= first <= last <= len(value):
        raise IndexError
    return value[first:last]


def _eq(one: object, *others: object) -> bool:
    one, others = plain(one), tuple(map(plain, others))
    return any(one == other and isinstance(one, bool) == isinstance(other, bool) for other in others)


FUNCTIONS: Mapping[str, Callable[..., object]] = {
    "json": lambda value: json.dumps(plain(value), separators=(",", ":"), ensure_ascii=False),
    "upper": lambda value: show(value).upper(),
    "lower": lambda value: show(value).lower(),
    "title": lambda value: re.sub(r"(?<!\S)\S", lambda match: match[0].upper(), show(value)),
    "split": lambda value, separator: list(value) if separator == "" else value.split(separator),
    "join": lambda value, separator: separator.join(map(show, value or ())),
    "pad": _pad,
    "truncate": lambda value, length: value[:length],
    "println": lambda *values: " ".join(map(show, values)) + "\n",
    "print": _print,
    "printf": _printf,
    "len": lambda value: 0 if plain(value) is None else len(value),
    "index": _index,
    "slice": _slice,
    "and": _and,
    "or": _or,
    "not": lambda value: not _truth(value),
    "eq": _eq,
    "ne": lambda one, other: not _eq(one, other),
    "lt": _compare(lambda one, other: one < other),
    "le": _compare(lambda one, other: one <= other),
    "gt": _compare(lambda one, other: one > other),
    "ge": _compare(lambda one, other: one >= other),
}
