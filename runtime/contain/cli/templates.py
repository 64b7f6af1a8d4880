"""``--format``: Docker's Go templates, the part of them that people type. Text and values to text; no I/O.

Supported: ``{{.Field}}`` and ``{{.Field.Inner}}``; ``json``, ``upper``, ``lower``, ``len``, ``index X KEY...`` and ``join X SEP``
before values; ``json`` alone; ``table TEMPLATE``; ``\\t`` and ``\\n`` in the text. Pipes, ``range`` and ``if`` are refused by name.

Source: docker/cli ``docs/reference/formatting``, and for how values look Go's package ``fmt``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from contain.cli.output import render_table
from contain.errors import NotSupported, UsageError

_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s"]+')
_FUNCTIONS = ("json", "upper", "lower", "len", "index", "join")


def render_rows(template: str, rows: Sequence[Mapping[str, object]], *, headings: Mapping[str, str]) -> str:
    """Each row by the template, a line each; with ``table`` before the template, below a line of headings.

    Raises `UsageError` (code ``bad-template``), `NotSupported` (code ``template-not-supported``).
    """
    if template == "json":
        return "".join(json.dumps(dict(row), separators=(",", ":"), ensure_ascii=False) + "\n" for row in rows)
    is_table = template == "table" or template.startswith("table ")
    text = _unescape(template.removeprefix("table").strip() if is_table else template)
    if is_table and not text:
        text = "\t".join(f"{{{{.{field}}}}}" for field in headings)
    lines = [render_template(text, row) for row in rows]
    if not is_table:
        return "".join(line + "\n" for line in lines)
    # A heading stands for its field; functions do not apply to it.
    titles = _ACTION.sub(lambda match: _heading(match[1], headings), text).split("\t")
    cells = [line.split("\t") for line in lines]
    width = max(len(row) for row in [titles, *cells])
    return render_table([*titles, *[""] * (width - len(titles))], [[*row, *[""] * (width - len(row))] for row in cells])


def _heading(action: str, headings: Mapping[str, str]) -> str:
    fields = [word[1:] for word in action.split() if word.startswith(".")]
    return headings.get(fields[0], fields[0].upper()) if fields and fields[0] else ""


def _unescape(text: str) -> str:
    return text.replace("\\t", "\t").replace("\\n", "\n")


def render_template(template: str, value: Mapping[str, object]) -> str:
    """One value by a template."""
    rest = _ACTION.sub("", template)
    if "{{" in rest or "}}" in rest:
        raise UsageError(f"template parsing error: {template!r}: unclosed action", code="bad-template")
    return _ACTION.sub(lambda match: _show(_evaluate(match[1], value, template)), template)


def _evaluate(action: str, value: Mapping[str, object], template: str) -> object:
    words = _WORD.findall(action)
    if not words:
        raise UsageError(f"template parsing error: {template!r}: empty action", code="bad-template")
    if words[0].startswith("."):
        if len(words) > 1:
            raise NotSupported(f"{{{{{action}}}}} in a template", code="template-not-supported")
        return _look_up(words[0], value)
    function, arguments = words[0], [_argument(word, value, template) for word in words[1:]]
    if function not in _FUNCTIONS or not arguments:
        raise NotSupported(
            f"{{{{{action}}}}} in a template",
            code="template-not-supported",
            remedy=f"there are {{{{.Field}}}} and {', '.join(_FUNCTIONS)}; --format json is for programs",
        )
    return _call(function, arguments, template)


def _argument(word: str, value: Mapping[str, object], template: str) -> object:
    if word.startswith("."):
        return _look_up(word, value)
    if word.startswith('"'):
        try:
            return json.loads(word)
        except ValueError as error:
            raise UsageError(f"template parsing error: {template!r}: bad text {word}", code="bad-template") from error
    if re.fullmatch(r"-?\d{1,9}", word):
        return int(word)
    raise NotSupported(f"{word} in a template", code="template-not-supported")


def _look_up(path: str, value: object) -> object:
    for name in path.split(".")[1:] if path != "." else ():
        if not isinstance(value, Mapping) or name not in value:
            known = ", ".join(f".{key}" for key in value) if isinstance(value, Mapping) else "nothing"
            raise UsageError(f"template: no field {path}", code="bad-template", remedy=f"there is {known[:300]}")
        value = value[name]
    return value


def _call(function: str, arguments: Sequence[object], template: str) -> object:
    first, *others = arguments
    match function:
        case "json":
            return json.dumps(first, separators=(",", ":"), ensure_ascii=False)
        case "upper" | "lower":
            return _show(first).upper() if function == "upper" else _show(first).lower()
        case "len" if isinstance(first, (str, Sequence, Mapping)):
            return len(first)
        case "join" if isinstance(first, Sequence) and len(others) == 1:
            return str(others[0]).join(_show(item) for item in first)
        case "index":
            for key in others:
                if isinstance(first, Mapping):
                    first = first.get(str(key), "")
                elif isinstance(first, Sequence) and isinstance(key, int) and 0 <= key < len(first):
                    first = first[key]
                else:
                    raise UsageError(f"template: {template!r}: no element {key!r}", code="bad-template")
            return first
    raise UsageError(f"template: {template!r}: {function} cannot take {_show(first)[:80]!r}", code="bad-template")


def _show(value: object) -> str:
    """As Go's ``fmt`` prints it."""
    match value:
        case None:
            return "<no value>"
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case Mapping():
            return "map[" + " ".join(f"{_show(key)}:{_show(value[key])}" for key in sorted(value)) + "]"
        case Sequence():
            return "[" + " ".join(_show(item) for item in value) + "]"
    return str(value)
