"""`dataclass`, as the standard library's, without the compiler: for slotted, keyword-only classes it is several times faster.

The standard library writes the source of six methods for each class and compiles it, 0.4 ms a class, each time that a program
starts. ``contain run`` starts with 70 such classes, ``contain build`` with 150: that was a third of their time. Here the methods are
shared functions that read the class's fields; `field`, `fields`, `replace` and `asdict` go with them, since importing `dataclasses`
takes 5 ms for itself. Those of the standard library work on these classes too, and ``tests/unit/test_values.py`` holds both against
each other. Type checkers see the standard library's.

Classes of any other shape, and fields with other options than a default, ``repr`` and ``compare``, go to the standard library.
"""

from __future__ import annotations

from contain.annotations import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    import inspect
    from dataclasses import asdict, dataclass, field, fields, replace

__all__ = ["asdict", "dataclass", "field", "fields", "is_value_class", "replace"]

_SHAPES = ({"frozen": True, "slots": True, "kw_only": True}, {"slots": True, "kw_only": True})
_ATOMS = (str, int, float, bool, bytes, type(None))


class _Missing:
    """What no default is."""


_MISSING: Any = _Missing()


class _Field:
    """One field of a class. ``default`` and ``default_factory`` are `_MISSING` where there is none."""

    __slots__ = ("compare", "default", "default_factory", "name", "repr", "type")

    def __init__(
        self,
        *,
        default: Any = _MISSING,
        default_factory: Any = _MISSING,
        repr: bool = True,  # noqa: A002 - the standard library's names
        compare: bool = True,
    ) -> None:
        self.name, self.type = "", ""
        self.default, self.default_factory, self.repr, self.compare = default, default_factory, repr, compare


class _StandardFields:
    """What `dataclasses` looks for in a class, made when it is asked for."""

    def __get__(self, instance: object, owner: Any) -> dict[str, Any]:
        import dataclasses

        made: dict[str, Any] = {}
        for name, own in owner.__contain_fields__.items():
            default, factory = own.default, own.default_factory
            options = {} if default is _MISSING else {"default": default}
            options |= {} if factory is _MISSING else {"default_factory": factory}
            each: Any = dataclasses.field(repr=own.repr, compare=own.compare, **options)
            each.name, each.type, each.kw_only = name, own.type, True
            each._field_type = dataclasses._FIELD  # type: ignore[attr-defined]  # noqa: SLF001 - as the standard library leaves it
            made[name] = each
        owner.__dataclass_fields__ = made
        return made


def _assign(self: Any, name: str, _value: object) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot assign to field {name!r} of {type(self).__qualname__}")


def _delete(self: Any, name: str) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot delete field {name!r} of {type(self).__qualname__}")


def _compared(self: Any) -> tuple[object, ...]:
    return tuple([getattr(self, name) for name, field in self.__contain_fields__.items() if field.compare])


def _equal(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    return _compared(self) == _compared(other)


def _hash(self: Any) -> int:
    return hash(_compared(self))


def _repr(self: Any) -> str:
    shown = [f"{name}={getattr(self, name)!r}" for name, field in self.__contain_fields__.items() if field.repr]
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _state(self: Any) -> list[object]:
    return [getattr(self, name) for name in self.__contain_fields__]


def _restore(self: Any, state: list[object]) -> None:
    for name, value in zip(self.__contain_fields__, state, strict=True):
        object.__setattr__(self, name, value)


class _Signature:
    """What `inspect.signature` shows of a class, made when it is asked for."""

    def __get__(self, instance: object, owner: Any) -> inspect.Signature:
        import inspect

        parameters = []
        for name, field in owner.__contain_fields__.items():
            default = inspect.Parameter.empty if field.default is _MISSING else field.default
            if field.default_factory is not _MISSING:
                default = field.default_factory
            parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=field.type))
        return inspect.Signature(parameters)


def _initialiser(fields: dict[str, _Field], made: list[Any]) -> Any:
    """A class's ``__init__``. ``made``: will hold the class. What it needs is looked up when the first instance is made: most
    programs use few of the classes that they import."""
    prepared: Any = None
    count = len(fields)

    def prepare() -> Any:
        own = made[0]
        setters = [(name, getattr(own, name).__set__) for name in fields]
        defaults = {name: field.default for name, field in fields.items() if field.default is not _MISSING}
        factories = [(name, field.default_factory) for name, field in fields.items() if field.default_factory is not _MISSING]
        return setters, defaults, factories, getattr(own, "__post_init__", None)

    def __init__(self: Any, /, **given: Any) -> None:  # noqa: N807 - it becomes the class's
        nonlocal prepared
        if prepared is None:
            prepared = prepare()
        setters, defaults, factories, finish = prepared
        for name, make in factories:
            if name not in given:
                given[name] = make()
        values = {**defaults, **given}
        if len(values) != count or not values.keys() <= fields.keys():
            raise _complaint(made[0], fields, values)
        for name, assign in setters:
            assign(self, values[name])
        if finish is not None:
            finish(self)

    return __init__


def _complaint(cls: Any, fields: dict[str, _Field], values: dict[str, Any]) -> TypeError:
    for name in values:
        if name not in fields:
            return TypeError(f"{cls.__qualname__}.__init__() got an unexpected keyword argument {name!r}")
    missing = [repr(name) for name in fields if name not in values]
    return TypeError(f"{cls.__qualname__}.__init__() missing required keyword-only arguments: {', '.join(missing)}")


def _own_fields(cls: Any) -> dict[str, _Field] | None:
    """The fields that a class's own body declares; None if one of them is nothing for us."""
    found: dict[str, _Field] = {}
    for name, annotation in vars(cls).get("__annotations__", {}).items():
        if not isinstance(annotation, str) or "InitVar" in annotation:
            return None
        if annotation.startswith("ClassVar"):
            continue
        default = vars(cls).get(name, _MISSING)
        if type(default).__module__ == "dataclasses":
            return None
        own = default if isinstance(default, _Field) else _Field(default=default)
        own.name, own.type = name, annotation
        found[name] = own
    return found


def _standard(cls: Any, options: dict[str, bool]) -> Any:
    """The standard library's, of a class for which ours does not do."""
    import dataclasses

    for name, value in list(vars(cls).items()):
        if isinstance(value, _Field):
            given = {
                "repr": value.repr,
                "compare": value.compare,
                "default": value.default,
                "default_factory": value.default_factory,
            }
            setattr(cls, name, dataclasses.field(**{key: item for key, item in given.items() if item is not _MISSING}))
    return dataclasses.dataclass(**options)(cls)


_SHARED = {
    "__dataclass_fields__": _StandardFields(),
    "__signature__": _Signature(),
    "__match_args__": (),
    "__repr__": _repr,
    "__eq__": _equal,
}
_FROZEN = {"__setattr__": _assign, "__delattr__": _delete, "__getstate__": _state, "__setstate__": _restore}


def _make(cls: Any, *, frozen: bool) -> Any:
    own = _own_fields(cls)
    if own is None or hasattr(cls, "__dataclass_params__"):
        return _standard(cls, _SHAPES[0 if frozen else 1])
    given = dict(vars(cls))
    for name in ("__dict__", "__weakref__", *own):
        given.pop(name, None)
    fields: dict[str, _Field] = {}
    for base in reversed(cls.__mro__[1:]):
        fields.update(vars(base).get("__contain_fields__", {}))
    made: list[Any] = []
    body = {
        **_SHARED,
        **given,
        "__qualname__": cls.__qualname__,
        "__slots__": tuple([name for name in own if name not in fields]),
        "__contain_fields__": fields,
    }
    fields.update(own)
    if frozen:
        body.update(_FROZEN)
    if body.get("__hash__") is None:
        body["__hash__"] = _hash if frozen else None
    if "__init__" not in body:
        body["__init__"] = _initialiser(fields, made)
    made.append(type(cls)(cls.__name__, cls.__bases__, body))
    return made[0]


def is_value_class(kind: object) -> TypeGuard[type]:
    """Whether it is a class that `dataclass` made here."""
    return isinstance(kind, type) and hasattr(kind, "__contain_fields__")


def _plain(value: Any) -> Any:
    if isinstance(value, _ATOMS):
        return value
    if is_value_class(type(value)):
        return {name: _plain(getattr(value, name)) for name in value.__contain_fields__}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value))
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    return value


if not TYPE_CHECKING:
    field = _Field

    def dataclass(cls=None, /, **options):
        """See `dataclasses.dataclass`."""
        if cls is None and options in _SHAPES:
            return lambda cls: _make(cls, frozen="frozen" in options)
        if cls is None:
            return lambda cls: _standard(cls, options)
        return _standard(cls, {})

    def fields(value, /):
        """See `dataclasses.fields`."""
        if hasattr(value, "__contain_fields__"):
            return tuple(value.__contain_fields__.values())
        import dataclasses

        return dataclasses.fields(value)

    def replace(value, /, **changes):
        """See `dataclasses.replace`."""
        if hasattr(value, "__contain_fields__"):
            return type(value)(**{name: getattr(value, name) for name in value.__contain_fields__} | changes)
        import dataclasses

        return dataclasses.replace(value, **changes)

    def asdict(value, /):
        """See `dataclasses.asdict`. In our classes, what is neither one of them nor a list, tuple or dict stays what it is."""
        if hasattr(value, "__contain_fields__"):
            return _plain(value)
        import dataclasses

        return dataclasses.asdict(value)
