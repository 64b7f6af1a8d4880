"""Which devices a container without a user namespace may open: the rules, and the program that says so."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contain.errors import HostError, UsageError
from contain.linux.devices import (
    ALL_DEVICES,
    DEFAULT_DEVICE_RULES,
    DeviceRule,
    compile_device_program,
    is_allowed,
    parse_device_rule,
    restrict_devices,
)

_KINDS, _BITS = {"b": 1, "c": 2}, {"m": 1, "r": 2, "w": 4}


def _run(program: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """What the kernel's interpreter does with the few instructions that there are."""
    code = [struct.unpack_from("<BBhi", program, place) for place in range(0, len(program), 8)]
    context = {0: sum(_BITS[each] for each in set(access)) << 16 | _KINDS[kind], 4: major, 8: minor}
    registers = {1: 0}
    place = 0
    while True:
        operation, pair, offset, value = code[place]
        target, source = pair & 15, pair >> 4
        place += 1
        match operation:
            case 0x61:
                assert registers.get(source) == 0, "the context is read before its register is used otherwise"
                registers[target] = context[offset]
            case 0xBC:
                registers[target] = registers[source]
            case 0xB4:
                registers[target] = value
            case 0x54:
                registers[target] &= value & 0xFFFFFFFF
            case 0x74:
                registers[target] >>= value
            case 0x15:
                place += offset if registers[target] == value else 0
            case 0x55:
                place += offset if registers[target] != value else 0
            case 0x95:
                return bool(registers[0])
            case _:
                raise AssertionError(f"unknown instruction {operation:#x}")


_NUMBERS = st.sampled_from([None, 0, 1, 3, 136])
_ACCESS = st.lists(st.sampled_from("rwm"), min_size=1, max_size=3, unique=True).map("".join)
_RULES = st.builds(DeviceRule, allow=st.booleans(), kind=st.sampled_from("abc"), major=_NUMBERS, minor=_NUMBERS, access=_ACCESS)


@given(
    rules=st.lists(_RULES, max_size=6),
    kind=st.sampled_from("bc"),
    major=st.sampled_from([0, 1, 3, 136, 255]),
    minor=st.sampled_from([0, 1, 3, 136]),
    access=_ACCESS,
)
def test_the_program_says_what_the_rules_say(
    rules: Sequence[DeviceRule], kind: str, major: int, minor: int, access: str
) -> None:
    assert _run(compile_device_program(rules), kind, major, minor, access) == is_allowed(rules, kind, major, minor, access)


@pytest.mark.parametrize(
    ("kind", "major", "minor", "access", "allowed"),
    [
        ("c", 1, 3, "rw", True),
        ("c", 5, 2, "rw", True),
        ("c", 136, 7, "rw", True),
        ("c", 1, 1, "r", False),  # mem
        ("c", 10, 229, "rw", False),  # fuse
        ("c", 1, 11, "w", False),  # kmsg
        ("b", 8, 0, "r", False),
        ("b", 254, 0, "w", False),
        ("b", 8, 0, "m", True),
        ("b", 8, 0, "rm", False),
    ],
)
def test_the_default_is_dockers(kind: str, major: int, minor: int, access: str, allowed: bool) -> None:
    assert is_allowed(DEFAULT_DEVICE_RULES, kind, major, minor, access) is allowed


def test_without_a_rule_the_answer_is_no_and_the_last_one_wins() -> None:
    everything = DeviceRule()
    assert not is_allowed((), "c", 1, 3, "r")
    assert is_allowed((DeviceRule(allow=False), everything), "b", 8, 0, "rwm")
    assert not is_allowed((everything, DeviceRule(allow=False, kind="b")), "b", 8, 0, "r")
    assert is_allowed((everything, DeviceRule(allow=False, kind="b", access="w")), "b", 8, 0, "r")


def test_nothing_stands_behind_a_rule_for_everything() -> None:
    """The kernel takes no program with instructions that are never reached."""
    assert len(compile_device_program((parse_device_rule("c 1:3 rwm"), DeviceRule()))) // 8 == 8
    assert len(compile_device_program(())) // 8 == 8


def test_rules_are_read_as_dockers_flag_writes_them() -> None:
    rule = parse_device_rule("c 13:* rw")
    assert (rule.kind, rule.major, rule.minor, rule.access, rule.allow) == ("c", 13, None, "rw", True)
    assert rule.render() == "c 13:* rw"
    assert parse_device_rule("a *:* rwm") == DeviceRule()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "c",
        "c 1:3",
        "d 1:3 r",
        "c 1 r",
        "c 1:3 x",
        "c 1:3 rr",
        "c -1:3 r",
        "c 1:3: r",
        "c  1:3 r",
        "c 99999999:1 r",
        "c 1:3 ",
    ],
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_device_rule(text)
    assert caught.value.code == "bad-device-rule"


def test_where_nothing_can_hold_the_rules_there_is_no_container() -> None:
    with pytest.raises(HostError) as caught:
        restrict_devices([(1, "/nowhere", False)], DEFAULT_DEVICE_RULES)
    assert caught.value.code == "device-rules-refused"
    with pytest.raises(HostError):
        restrict_devices([(1, "/nowhere", True)], DEFAULT_DEVICE_RULES)
    restrict_devices([], ALL_DEVICES)
