"""`dataclass`, as the standard library's, without the compiler: for frozen, slotted, keyword-only classes it is several times faster.

The standard library writes the source of six methods for each class and compiles it, 0.4 ms a class, each time that a program
starts. ``contain run`` starts with 70 such classes, ``contain build`` with 150: that was a third of their time. Here the methods are
shared functions that read the class's fields. What they do is the same, and `dataclasses.fields`, ``replace`` and ``asdict`` work;
``tests/unit/test_values.py`` holds both against each other. Type checkers see the standard library's.

Classes of any other shape, and fields with other options than a default, ``repr`` and ``compare``, go to the standard library.
"""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, Field, FrozenInstanceError
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import inspect
    from dataclasses import dataclass

__all__ = ["dataclass"]

_OURS = {"frozen": True, "slots": True, "kw_only": True}
_FIELD: Any = getattr(dataclasses, "_FIELD")  # noqa: B009 - what `dataclasses.fields` looks for


def _assign(self: Any, name: str, _value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r} of {type(self).__qualname__}")


def _delete(self: Any, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r} of {type(self).__qualname__}")


def _compared(self: Any) -> tuple[object, ...]:
    return tuple([getattr(self, name) for name, field in self.__dataclass_fields__.items() if field.compare])


def _equal(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    return _compared(self) == _compared(other)


def _hash(self: Any) -> int:
    return hash(_compared(self))


def _repr(self: Any) -> str:
    shown = [f"{name}={getattr(self, name)!r}" for name, field in self.__dataclass_fields__.items() if field.repr]
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _state(self: Any) -> list[object]:
    return [getattr(self, name) for name in self.__dataclass_fields__]


def _restore(self: Any, state: list[object]) -> None:
    for name, value in zip(self.__dataclass_fields__, state, strict=True):
        object.__setattr__(self, name, value)


class _Signature:
    """What `inspect.signature` shows of a class, made when it is asked for."""

    def __get__(self, instance: object, owner: Any) -> inspect.Signature:
        import inspect

        parameters = []
        for name, field in owner.__dataclass_fields__.items():
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            if field.default_factory is not MISSING:
                default = field.default_factory
            parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=field.type))
        return inspect.Signature(parameters)


def _initialiser(cls: Any, fields: dict[str, Field[Any]]) -> Any:
    setters = [(name, getattr(cls, name).__set__) for name in fields]
    defaults = {name: field.default for name, field in fields.items() if field.default is not MISSING}
    factories = [(name, field.default_factory) for name, field in fields.items() if field.default_factory is not MISSING]
    finish = getattr(cls, "__post_init__", None)
    count = len(fields)

    def __init__(self: Any, /, **given: Any) -> None:  # noqa: N807 - it becomes the class's
        for name, make in factories:
            if name not in given:
                given[name] = make()
        values = {**defaults, **given}
        if len(values) != count or not values.keys() <= fields.keys():
            raise _complaint(cls, fields, values)
        for name, assign in setters:
            assign(self, values[name])
        if finish is not None:
            finish(self)

    return __init__


def _complaint(cls: Any, fields: dict[str, Field[Any]], values: dict[str, Any]) -> TypeError:
    for name in values:
        if name not in fields:
            return TypeError(f"{cls.__qualname__}.__init__() got an unexpected keyword argument {name!r}")
    missing = [repr(name) for name in fields if name not in values]
    return TypeError(f"{cls.__qualname__}.__init__() missing required keyword-only arguments: {', '.join(missing)}")


def _own_fields(cls: Any) -> dict[str, Field[Any]] | None:
    """The fields that a class's own body declares; None if one of them is nothing for us."""
    fields = {}
    for name, annotation in vars(cls).get("__annotations__", {}).items():
        if not isinstance(annotation, str) or "InitVar" in annotation:
            return None
        if annotation.startswith("ClassVar"):
            continue
        default = vars(cls).get(name, MISSING)
        field: Any = default if isinstance(default, Field) else dataclasses.field(default=default)
        if not field.init or field.hash is not None or field.kw_only is False or field.metadata:
            return None
        field.name, field.type, field.kw_only = name, annotation, True
        field._field_type = _FIELD  # noqa: SLF001 - as the standard library leaves it
        fields[name] = field
    return fields


def _make(cls: Any) -> Any:
    own = _own_fields(cls)
    if own is None or any("__dataclass_params__" in vars(base) for base in cls.__mro__[1:]):
        return dataclasses.dataclass(**_OURS)(cls)
    fields: dict[str, Field[Any]] = {}
    for base in reversed(cls.__mro__[1:]):
        fields.update(vars(base).get("__dataclass_fields__", {}))
    slots = tuple(name for name in own if name not in fields)
    fields.update(own)
    body = {name: value for name, value in vars(cls).items() if name not in own and name not in ("__dict__", "__weakref__")}
    body.update(
        __slots__=slots,
        __dataclass_fields__=fields,
        __match_args__=(),
        __setattr__=_assign,
        __delattr__=_delete,
        __getstate__=_state,
        __setstate__=_restore,
        __signature__=_Signature(),
    )
    body.setdefault("__repr__", _repr)
    if body.get("__hash__") is None:
        body["__hash__"] = _hash
    body.setdefault("__eq__", _equal)
    made: Any = type(cls)(cls.__name__, cls.__bases__, body)
    made.__qualname__ = cls.__qualname__
    if "__init__" not in body:
        made.__init__ = _initialiser(made, fields)
    return made


if not TYPE_CHECKING:

    def dataclass(cls=None, /, **options):
        """See `dataclasses.dataclass`."""
        if options == _OURS and cls is None:
            return _make
        return dataclasses.dataclass(cls, **options)
