"""From a container's record back to its spec, so that a stopped container starts again exactly as it was made. Pure.

The record holds the spec as JSON values (`contain.container.lifecycle.records.describe_spec`); the types of the spec's own
fields say how each is read. What is kept in memory only, the content of a secret, is not on record: such a container cannot be
started again.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from enum import Enum
from functools import cache
from pathlib import PurePath

from contain.annotations import TYPE_CHECKING, Any
from contain.errors import Conflict
from contain.spec import Confinement, ContainerSpec
from contain.values import fields, is_value_class, replace

if TYPE_CHECKING:
    from contain.container.lifecycle.records import ContainerRecord


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    """The types of a value class's fields."""
    names = vars(sys.modules[kind.__module__])
    return {each.name: eval(str(each.type), names) for each in fields(kind)}  # noqa: S307 - our own source


def _read(kind: Any, value: Any) -> Any:
    if isinstance(kind, types.UnionType):
        return _read_one_of(kind.__args__, value)
    origin: Any = getattr(kind, "__origin__", None)
    inner: Any = getattr(kind, "__args__", ())
    if origin is tuple:
        if inner[1:] == (...,):
            return tuple(_read(inner[0], item) for item in value)
        return tuple(_read(each, item) for each, item in zip(inner, value, strict=True))
    if origin is frozenset:
        return frozenset(_read(inner[0], item) for item in value)
    if origin is not None and issubclass(origin, Mapping):
        return {_read(inner[0], key): _read(inner[1], item) for key, item in value.items()}
    if is_value_class(kind):
        hints = _hints(kind)
        return kind(**{name: _read(hints[name], item) for name, item in value.items()})
    if isinstance(kind, type) and issubclass(kind, (Enum, PurePath, float)):
        return kind(value)
    if kind is bytes or not isinstance(value, kind):
        raise TypeError(f"{kind} cannot be read from a record")
    return value


def _read_one_of(kinds: tuple[Any, ...], value: Any) -> Any:
    """One of several types: None, a plain value, or the data class that has just these fields."""
    if value is None and type(None) in kinds:
        return None
    rest = [kind for kind in kinds if kind is not type(None)]
    if isinstance(value, dict):
        rest = [kind for kind in rest if is_value_class(kind) and {field.name for field in fields(kind)} == value.keys()]
    if len(rest) != 1:
        raise TypeError(f"none of {kinds} can be read from a record")
    return _read(rest[0], value)


def parse_confinement(details: Mapping[str, Any]) -> Confinement:
    """What holds the programs of a container on record. A record of before there was a choice holds the default."""
    found: Confinement = _read(Confinement, details.get("confinement", {}))
    return found


def parse_spec(details: Mapping[str, Any]) -> ContainerSpec:
    """The spec that `describe_spec` described. Raises `Conflict` (code ``cannot-start-again``)."""
    try:
        spec: ContainerSpec = _read(ContainerSpec, details)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise Conflict(
            "this container cannot be started again: its record does not hold all that it was made with",
            code="cannot-start-again",
            remedy="make a new one with `contain run`",
        ) from error
    return spec


def as_recorded(spec: ContainerSpec, record: ContainerRecord) -> ContainerSpec:
    """The spec with what may have changed since the container was started: its name and its networks."""
    return replace(spec, name=record.name, networking=parse_spec(record.details).networking)
