"""JSON without the standard library's module, whose import takes as long as a third of ``create``: it compiles regular expressions.

The work is done by the same C code (``_json``); where an interpreter has none, or another one, the standard library takes over. Pure.
"""

from __future__ import annotations

from contain.annotations import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_BLANKS = " \t\n\r"


def _constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON value")


class _Settings:
    """What the C scanner asks for."""

    strict = True
    object_hook = object_pairs_hook = array_hook = None
    parse_float, parse_int, parse_constant = float, int, staticmethod(_constant)
    memo: dict[str, str]


def _fast() -> tuple[Callable[[str, int], tuple[object, int]], Callable[[str], str]] | None:
    try:
        import _json

        settings: Any = _Settings()
        scan = _json.make_scanner(settings)
        if scan('{"a": [1, 2.5, null]}', 0) == ({"a": [1, 2.5, None]}, 21):
            return scan, _json.encode_basestring_ascii
    except (ImportError, AttributeError, TypeError):
        pass
    return None


_FAST = _fast()


def parse_json(data: str | bytes) -> Any:
    """The value of a document. Raises ValueError with the place."""
    text = data.decode("utf-8") if isinstance(data, bytes) else data
    if _FAST is None:
        import json

        return json.loads(text, parse_constant=_constant)
    start = len(text) - len(text.lstrip(_BLANKS))
    try:
        value, end = _FAST[0](text, start)
    except StopIteration as stop:
        raise ValueError(f"expecting a value at line {text.count(chr(10), 0, stop.value) + 1}") from None
    if text[end:].strip(_BLANKS):
        raise ValueError(f"extra data at line {text.count(chr(10), 0, end) + 1}")
    return value


def render_json(value: object) -> str:
    """A value of dictionaries with strings as keys, lists, tuples, strings, whole numbers, truth values and None, on one line."""
    if _FAST is None:
        import json

        return json.dumps(value)
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return _FAST[1](value)
        case dict():
            return "{" + ", ".join(f"{_FAST[1](key)}: {render_json(inner)}" for key, inner in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(render_json, value)) + "]"
    raise TypeError(f"{type(value).__name__} is nothing for JSON")
