"""Names that type checkers need and running programs do not: those of `typing`, which takes as long to import as a tenth of a
container's start.

Annotations are never evaluated here (``from __future__ import annotations``), so that these names may stand for anything while the
program runs. Type checkers see `typing`'s own. What is used at run time (``NamedTuple``, ``Literal``, ``get_type_hints``) comes from
`typing`.
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import IO, Any, BinaryIO, ClassVar, NoReturn, Protocol, Self, TextIO, TypeGuard, TypeVar, cast  # noqa: TID251 - here it is
else:
    IO = Any = BinaryIO = ClassVar = NoReturn = Protocol = Self = TextIO = TypeGuard = object

    def TypeVar(name, *_constraints, **_options):  # noqa: N802 - typing's name
        """See `typing.TypeVar`."""
        return name

    def cast(_kind, value):
        """See `typing.cast`."""
        return value


__all__ = [
    "IO",
    "TYPE_CHECKING",
    "Any",
    "BinaryIO",
    "ClassVar",
    "NoReturn",
    "Protocol",
    "Self",
    "TextIO",
    "TypeGuard",
    "TypeVar",
    "cast",
]
