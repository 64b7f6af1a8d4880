from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from typing import Any, ClassVar

import pytest

from contain import values


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StandardPoint:
    """Two numbers."""

    kind: ClassVar[str] = "point"
    x: int
    y: int = 2
    names: tuple[str, ...] = dataclasses.field(default_factory=tuple)
    line: str = dataclasses.field(default="", compare=False, repr=False)

    @property
    def total(self) -> int:
        return self.x + self.y


@values.dataclass(frozen=True, slots=True, kw_only=True)
class OurPoint:
    """Two numbers."""

    kind: ClassVar[str] = "point"
    x: int
    y: int = 2
    names: tuple[str, ...] = values.field(default_factory=tuple)
    line: str = values.field(default="", compare=False, repr=False)

    @property
    def total(self) -> int:
        return self.x + self.y


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StandardDeep(StandardPoint):
    z: int = 3
    y: int = 7


@values.dataclass(frozen=True, slots=True, kw_only=True)
class OurDeep(OurPoint):
    z: int = 3
    y: int = 7


PAIRS = [(StandardPoint, OurPoint), (StandardDeep, OurDeep)]

pair = pytest.mark.parametrize(("standard", "ours"), PAIRS)


def outcome(call: Any) -> Any:
    """What a call gives, or which error it raises."""
    try:
        return call()
    except Exception as error:
        return type(error)


@pair
@pytest.mark.parametrize(
    "given", [{"x": 1}, {"x": 1, "y": 5, "names": ("a",), "line": "l"}, {}, {"y": 1}, {"x": 1, "q": 2}, {"q": 2}]
)
def test_the_same_values_and_the_same_refusals(standard: Any, ours: Any, given: dict[str, Any]) -> None:
    def show(cls: Any) -> Any:
        return outcome(lambda: (dataclasses.asdict(cls(**given)), cls(**given).total, cls.kind))

    assert show(ours) == show(standard)


@pair
def test_a_positional_argument_is_refused(standard: Any, ours: Any) -> None:
    with pytest.raises(TypeError):
        standard(1)
    with pytest.raises(TypeError):
        ours(1)


@pair
def test_text_without_the_fields_that_are_not_to_be_shown(standard: Any, ours: Any) -> None:
    def text(cls: Any) -> str:
        return repr(cls(x=1, line="hidden")).replace("Standard", "Our")

    assert text(ours) == text(standard)


@pair
def test_equality_and_hash_leave_out_what_is_not_compared(standard: Any, ours: Any) -> None:
    for cls in (standard, ours):
        assert cls(x=1, line="a") == cls(x=1, line="b")
        assert hash(cls(x=1, line="a")) == hash(cls(x=1, line="b"))
        assert cls(x=1) != cls(x=2)
    assert hash(ours(x=1)) == hash(standard(x=1))
    assert ours(x=1) != standard(x=1)
    assert OurDeep(x=1, y=2) != OurPoint(x=1)


@pair
def test_nothing_can_be_assigned_deleted_or_added(standard: Any, ours: Any) -> None:
    for cls in (standard, ours):
        made = cls(x=1)
        with pytest.raises(dataclasses.FrozenInstanceError):
            made.x = 2
        with pytest.raises(dataclasses.FrozenInstanceError):
            del made.x
        with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
            made.other = 2
        assert not hasattr(made, "__dict__")


@pair
def test_fields_and_replace(standard: Any, ours: Any) -> None:
    def told(cls: Any) -> list[tuple[Any, ...]]:
        return [(field.name, field.type, field.default, field.compare, field.kw_only) for field in dataclasses.fields(cls)]

    assert told(ours) == told(standard)
    assert dataclasses.replace(ours(x=1), y=9) == ours(x=1, y=9)
    with pytest.raises(TypeError):
        dataclasses.replace(ours(x=1), q=9)


@pytest.mark.parametrize("ours", [OurPoint, OurDeep])
def test_copies_are_equal(ours: Any) -> None:
    made = ours(x=1, names=("a", "b"), line="l")
    for copied in (pickle.loads(pickle.dumps(made)), copy.copy(made), copy.deepcopy(made)):
        assert copied == made
        assert copied.line == "l"


@pair
def test_the_same_signature(standard: Any, ours: Any) -> None:
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(standard).parameters)
    assert {p.kind for p in inspect.signature(ours).parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}


def test_each_class_keeps_its_own_methods_and_name() -> None:
    @values.dataclass(frozen=True, slots=True, kw_only=True)
    class Own:
        a: int

        def __post_init__(self) -> None:
            if self.a < 0:
                raise ValueError

        def __repr__(self) -> str:
            return "own"

        def __eq__(self, other: object) -> bool:
            return True

    assert repr(Own(a=1)) == "own"
    assert Own(a=1) == 3
    assert Own.__name__ == "Own"
    assert Own.__module__ == __name__
    with pytest.raises(ValueError, match=r"^$"):
        Own(a=-1)


def test_other_shapes_go_to_the_standard_library() -> None:
    @values.dataclass(slots=True)
    class Mutable:
        a: int

    @values.dataclass(frozen=True, slots=True, kw_only=True)
    class Computed:
        a: int
        b: int = dataclasses.field(init=False, default=4)

    made = Mutable(1)
    made.a = 2
    assert made == Mutable(2)
    assert Computed(a=1).b == 4
    assert "__dataclass_params__" in vars(Computed)
    assert "__dataclass_params__" not in vars(OurPoint)


def test_fields_can_be_matched() -> None:
    match OurPoint(x=1):
        case OurPoint(x=1, y=found):
            assert found == 2
        case _:
            pytest.fail("not matched")
