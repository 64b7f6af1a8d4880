"""Checked access to a JSON document: every wrong type or value becomes an error that names the member. Pure."""

from __future__ import annotations

from contain.annotations import TYPE_CHECKING, Any
from contain.errors import NotSupported, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

ID_LIMIT = 2**32 - 2  # -1 means "leave it" to chown(2) and setresuid(2)


def wrong(where: str, why: str) -> UsageError:
    """The error for a member that breaks the specification."""
    return UsageError(f"{where}: {why}", code="bundle-configuration")


def refused(where: str, why: str = "is not supported") -> NotSupported:
    """The error for a member that is valid and that we cannot carry out."""
    return NotSupported(f"{where} {why}", code="bundle-not-supported")


class Table:
    """One JSON object and where it stands in the document."""

    __slots__ = ("members", "where")

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise wrong(where, "must be an object")
        self.members: dict[str, Any] = value
        self.where = where

    def place(self, name: str) -> str:
        """The member's full name, for messages."""
        return f"{self.where}.{name}" if self.where else name

    def has(self, name: str) -> bool:
        """Whether the member is there and not null."""
        return self.members.get(name) is not None

    def raw(self, name: str) -> Any:
        """The member as it is."""
        return self.members.get(name)

    def text(self, name: str, default: str | None = None) -> str:
        """A string without NUL; required where there is no default."""
        value = self.members.get(name)
        if value is None:
            if default is None:
                raise wrong(self.place(name), "is required")
            return default
        return _text(value, self.place(name))

    def choice(self, name: str, allowed: Mapping[str, int], default: str | None = None) -> str:
        """A string among the given ones."""
        value = self.text(name, default)
        if value not in allowed and value != default:
            raise wrong(self.place(name), f"{value!r} is none of {', '.join(allowed)}")
        return value

    def absolute(self, name: str, default: str | None = None) -> str:
        """A path that begins with a slash."""
        value = self.text(name, default)
        if not value.startswith("/") and value != default:
            raise wrong(self.place(name), f"must be an absolute path, not {value!r}")
        return value

    def number(self, name: str, default: int | None = None, *, low: int = -(2**63), high: int = 2**64 - 1) -> int:
        """A whole number in a range."""
        value = self.members.get(name)
        if value is None:
            if default is None:
                raise wrong(self.place(name), "is required")
            return default
        return _number(value, self.place(name), low, high)

    def optional_number(self, name: str, *, low: int = -(2**63), high: int = 2**64 - 1) -> int | None:
        """`number`, or None where it is absent."""
        value = self.members.get(name)
        return None if value is None else _number(value, self.place(name), low, high)

    def flag(self, name: str, default: bool | None = False) -> bool:
        """true or false."""
        value = self.members.get(name)
        if value is None:
            if default is None:
                raise wrong(self.place(name), "is required")
            return default
        if not isinstance(value, bool):
            raise wrong(self.place(name), "must be true or false")
        return value

    def optional_flag(self, name: str) -> bool | None:
        """`flag`, or None where it is absent."""
        return self.flag(name) if self.has(name) else None

    def array(self, name: str) -> list[Any]:
        """An array; empty where it is absent."""
        value = self.members.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise wrong(self.place(name), "must be an array")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """An array of strings."""
        return tuple(_text(value, f"{self.place(name)}[{number}]") for number, value in enumerate(self.array(name)))

    def numbers(self, name: str, *, low: int, high: int) -> tuple[int, ...]:
        """An array of whole numbers."""
        return tuple(
            _number(value, f"{self.place(name)}[{number}]", low, high) for number, value in enumerate(self.array(name))
        )

    def table(self, name: str) -> Table | None:
        """A nested object, or None."""
        value = self.members.get(name)
        return None if value is None else Table(value, self.place(name))

    def tables(self, name: str) -> list[Table]:
        """An array of objects."""
        return [Table(value, f"{self.place(name)}[{number}]") for number, value in enumerate(self.array(name))]

    def text_map(self, name: str) -> tuple[tuple[str, str], ...]:
        """An object of strings, in its order."""
        inner = self.table(name)
        if inner is None:
            return ()
        return tuple((_text(key, inner.where), _text(value, inner.place(key))) for key, value in inner.members.items())

    def table_map(self, name: str) -> list[tuple[str, Table]]:
        """An object of objects, in its order."""
        inner = self.table(name)
        return [] if inner is None else [(key, Table(value, inner.place(key))) for key, value in inner.members.items()]

    def refuse(self, *names: str) -> None:
        """Refuse members that we know and cannot carry out."""
        for name in names:
            if self.members.get(name) not in (None, "", [], {}, False):
                raise refused(self.place(name))


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise wrong(where, "must be a string")
    if "\0" in value:
        raise wrong(where, "must not hold a NUL character")
    return value


def _number(value: object, where: str, low: int, high: int) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong(where, "must be a whole number")
    if not low <= value <= high:
        raise wrong(where, f"{value} is not between {low} and {high}")
    return value
