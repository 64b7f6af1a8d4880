"""Our filters against libseccomp's, call by call: Docker's default profile, our own policy, and profiles made at random.

Both filters are run by an interpreter of classic BPF over every number and over arguments at the edges of what the rules compare.
Where they differ on purpose is written down here and explained in docs/security.md. Needs libseccomp.so.2; else skipped.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import itertools
import json
import os
import random
import struct
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from contain.linux.capabilities import CAPABILITY_NUMBERS, DEFAULT_CAPABILITIES
from contain.linux.seccomp import compile_default_policy, compile_policy
from contain.linux.seccomp_policy import ALLOW, ENOSYS, EPERM, ERRNO, KILL_PROCESS, LOG, Condition, Operator, Policy, Rule
from contain.linux.seccomp_profile import parse_profile
from contain.linux.syscall_table import syscall_table

PROFILE = (Path(__file__).parents[2] / "reference/docker-seccomp-default.json").read_text()
KERNEL = (6, 18)
OPERATORS = {operator: number for number, operator in enumerate(Operator, 1)}  # enum scmp_compare of seccomp.h, in our order
TOKENS = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000
_LITTLE = struct.Struct("<IIQ6Q")

# Not in the libseccomp that distributions have: it leaves such names out of a filter.
pytestmark = pytest.mark.skipif(ctypes.util.find_library("seccomp") is None, reason="libseccomp is not installed")


class _Comparison(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


@cache
def library() -> ctypes.CDLL:
    found = ctypes.CDLL("libseccomp.so.2")
    found.seccomp_init.restype = ctypes.c_void_p
    found.seccomp_init.argtypes = (ctypes.c_uint32,)
    found.seccomp_release.argtypes = (ctypes.c_void_p,)
    found.seccomp_arch_add.argtypes = found.seccomp_arch_remove.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    found.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    found.seccomp_rule_add_array.argtypes = (
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Comparison)),
    )
    found.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    found.seccomp_syscall_resolve_name_arch.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
    return found


def resolved(name: str, machine: str) -> int:
    """The number by which libseccomp knows a name; negative where it does not."""
    return int(library().seccomp_syscall_resolve_name_arch(TOKENS[machine], name.encode()))


def reference(policy: Policy, machine: str) -> bytes:
    """What libseccomp makes of a policy, rule by rule as runc gives them to it."""
    seccomp = library()
    context = seccomp.seccomp_init(policy.default)
    try:
        if machine != os.uname().machine:
            assert seccomp.seccomp_arch_remove(context, 0) == 0
            assert seccomp.seccomp_arch_add(context, TOKENS[machine]) == 0
        assert seccomp.seccomp_attr_set(context, 2, KILL_PROCESS) == 0  # SCMP_FLTATR_ACT_BADARCH
        for rule in policy.rules:
            if rule.action == policy.default:
                continue
            compared = (_Comparison * 6)(
                *(_Comparison(each.argument, OPERATORS[each.operator], each.value, each.masked) for each in rule.conditions)
            )
            for name in rule.names:
                if resolved(name, machine) >= 0:
                    number = seccomp.seccomp_syscall_resolve_name(name.encode())  # it wants this machine's, and translates
                    result = seccomp.seccomp_rule_add_array(context, rule.action, number, len(rule.conditions), compared)
                    assert result in (0, -errno.EEXIST), (name, os.strerror(-result))
        with tempfile.TemporaryFile() as file:
            assert seccomp.seccomp_export_bpf(context, file.fileno()) == 0
            file.seek(0)
            return file.read()
    finally:
        seccomp.seccomp_release(context)


def interpreter(program: bytes) -> Callable[[bytes], int]:
    """The filter as a function of struct seccomp_data."""
    instructions = list(struct.iter_unpack("<HBBI", program))

    def run(data: bytes) -> int:
        accumulator = position = 0
        memory = [0] * 16
        while True:
            code, if_true, if_false, value = instructions[position]
            position += 1
            if code == 0x20:
                accumulator = struct.unpack_from("<I", data, value)[0]
            elif code == 0x15:
                position += if_true if accumulator == value else if_false
            elif code == 0x25:
                position += if_true if accumulator > value else if_false
            elif code == 0x35:
                position += if_true if accumulator >= value else if_false
            elif code == 0x45:
                position += if_true if accumulator & value else if_false
            elif code == 0x05:
                position += value
            elif code == 0x06:
                return int(value)
            elif code == 0x54:
                accumulator &= value
            elif code == 0x02:
                memory[value] = accumulator
            elif code == 0x60:
                accumulator = memory[value]
            else:
                raise AssertionError(f"an instruction that the kernel would not take: {code:#x}")

    return run


def differences(
    ours: bytes, theirs: bytes, machine: str, calls: Iterator[tuple[int, tuple[int, ...]]]
) -> dict[tuple[int, tuple[int, ...]], tuple[int, int]]:
    """Calls that the two filters treat differently: what ours says, and what theirs."""
    one, two = interpreter(ours), interpreter(theirs)
    found = {}
    for number, arguments in calls:
        data = _LITTLE.pack(number, TOKENS[machine], 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
        pair = (one(data), two(data))
        if pair[0] != pair[1]:
            found[number, arguments] = pair
    return found


EDGES = sorted(
    {
        *(0, 1, 7, 8, 9, 17, 37, 38, 39, 40, 41, 0x5411, 0x5412, 0x5413, 0x541C, 0x1FFFF, 0x20000, 0x20008, 0x20009),
        *(1 << bit for bit in range(0, 64, 3)),
        *(0x7E020000, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 32, (1 << 64) - 1, 38 | 1 << 32, 40 | 1 << 40),
    }
)
BY_ARGUMENTS = ("clone", "socket", "personality", "ioctl")


def every_call(machine: str) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Every number that there is or may be one day, and arguments for the calls where they count."""
    for number in (*range(700), 0x3FFFFFFF, 0x7FFFFFFF):
        yield number, ()
    numbers = syscall_table(machine).numbers
    for name in BY_ARGUMENTS:
        for first in EDGES:
            for second in (0, 0x5412, 0x5413, 0x541C, 0x5412 | 1 << 32) if name == "ioctl" else (0,):
                yield numbers[name], (first, second)


def unknown_to_the_library(machine: str) -> set[int]:
    return {number for name, number in syscall_table(machine).numbers.items() if resolved(name, machine) < 0}


@pytest.mark.parametrize("machine", TOKENS)
@pytest.mark.parametrize("extra", ["", *sorted(set(CAPABILITY_NUMBERS) - DEFAULT_CAPABILITIES)])
def test_the_default_policy_is_dockers_but_for_what_is_written_down(machine: str, extra: str) -> None:
    """The promise of docs/security.md: over all numbers, with the default capabilities and with each further one."""
    held = DEFAULT_CAPABILITIES | ({extra} if extra else set())
    docker = parse_profile(PROFILE, machine=machine, capabilities=held, kernel=KERNEL)
    ours = compile_default_policy(machine=machine, capabilities=held)
    numbers = syscall_table(machine).numbers
    newest = numbers["removexattrat"]
    left: dict[tuple[int, tuple[int, ...]], tuple[int, int]] = {}
    found = differences(ours, reference(docker, machine), machine, every_call(machine))
    stricter = [(numbers["socket"], (38 | 1 << 32, 0)), (numbers["socket"], (40 | 1 << 40, 0)), (numbers["ioctl"], (0, 0x541C))]
    assert [found.get(call) for call in stricter] == [(EPERM, ALLOW)] * 3
    for (number, arguments), pair in found.items():
        if number in numbers.values() and number <= newest:
            if number in unknown_to_the_library(machine):
                continue  # a libseccomp older than the kernel: it leaves the name out, so the call gets the default
            if number == numbers["ioctl"] and arguments[1] & 0xFFFFFFFF in (0x5412, 0x541C):
                assert pair == (EPERM, ALLOW)
                continue  # stricter: nobody types into a terminal
            if number == numbers["socket"] and arguments[0] >> 32 and arguments[0] & 0xFFFFFFFF in (38, 40):
                assert pair == (EPERM, ALLOW)
                continue  # stricter: the kernel looks at the low half of the family, and so do we
        elif pair == ((ENOSYS, KILL_PROCESS) if number & X32_BIT and machine == "x86_64" else (ENOSYS, EPERM)):
            continue  # numbers of the x32 convention are not there; for the others runc patches this in after libseccomp
        left[number, arguments] = pair
    assert left == {}


@pytest.mark.parametrize("machine", TOKENS)
def test_dockers_profile_as_a_users_is_dockers(machine: str) -> None:
    policy = parse_profile(PROFILE, machine=machine, capabilities=DEFAULT_CAPABILITIES, kernel=KERNEL)
    ours = compile_policy(policy, syscall_table(machine))
    known = syscall_table(machine).numbers.values()
    newest = syscall_table(machine).numbers["removexattrat"]
    for (number, _), pair in differences(ours, reference(policy, machine), machine, every_call(machine)).items():
        if number in unknown_to_the_library(machine) and number <= newest:
            assert pair[1] == EPERM
        else:  # what is beyond the newest call that a profile names is not there: runc patches that in, after libseccomp
            assert pair[0] == ENOSYS
            assert number not in known or number > newest


def random_policy(chance: random.Random, machine: str) -> Policy:
    names = sorted(name for name in syscall_table(machine).numbers if resolved(name, machine) >= 0)
    actions = [ALLOW, LOG, EPERM, ERRNO | 13, 0x00030000, 0]
    default = chance.choice([EPERM, ALLOW, ERRNO | 38, 0])
    actions.remove(default) if default in actions else None
    rules = [Rule(names=tuple(chance.sample(names, 40)), action=chance.choice(actions))]
    for name in chance.sample(names, 8):
        conditions = tuple(
            Condition(
                argument=index,
                operator=(operator := chance.choice([*Operator])),
                value=(value := chance.choice(EDGES)),
                masked=value & chance.choice(EDGES) if operator is Operator.MASKED_EQUAL else 0,
            )
            for index in sorted(chance.sample(range(6), chance.randint(1, 3)))
        )
        rules.append(Rule(names=(name,), action=chance.choice(actions), conditions=conditions))
    return Policy(default=default, rules=tuple(rules), newest=10_000)


@pytest.mark.parametrize("seed", range(60))
def test_any_policy_means_what_it_means_to_libseccomp(seed: int) -> None:
    chance = random.Random(seed)
    machine = "x86_64" if seed % 3 else "aarch64"
    policy = random_policy(chance, machine)
    table = syscall_table(machine)
    values = [*EDGES, *(value + step for value in EDGES for step in (-1, 1) if 0 <= value + step < 1 << 64)]

    def calls() -> Iterator[tuple[int, tuple[int, ...]]]:
        for number in table.numbers.values():
            yield number, ()
        for rule in policy.rules[1:]:
            for _ in range(60):
                yield table.numbers[rule.names[0]], tuple(chance.choice(values) for _ in range(6))
            for _ in range(20):  # what holds, but perhaps for one
                arguments = [chance.choice(values) for _ in range(6)]
                for condition in rule.conditions:
                    arguments[condition.argument] = condition.value
                yield table.numbers[rule.names[0]], tuple(arguments)

    found = differences(compile_policy(policy, table), reference(policy, machine), machine, calls())
    assert found == {}, json.dumps([(number, [hex(a) for a in args], pair) for (number, args), pair in found.items()][:3])


def holds(condition: Condition, argument: int) -> bool:
    """seccomp_rule_add(3), in Python."""
    match condition.operator:
        case Operator.NOT_EQUAL:
            return argument != condition.value
        case Operator.LESS:
            return argument < condition.value
        case Operator.LESS_OR_EQUAL:
            return argument <= condition.value
        case Operator.EQUAL:
            return argument == condition.value
        case Operator.GREATER_OR_EQUAL:
            return argument >= condition.value
        case Operator.GREATER:
            return argument > condition.value
        case Operator.MASKED_EQUAL:
            return argument & condition.value == condition.masked


@pytest.mark.parametrize("seed", range(40))
def test_several_rules_for_one_call_mean_that_one_of_them_holds(seed: int) -> None:
    """Not compared with libseccomp: where the conditions of two rules overlap, it merges them into one tree and may lose one."""
    chance = random.Random(seed)
    rules = []
    for _ in range(chance.randint(1, 5)):
        conditions = []
        for index in sorted(chance.sample(range(3), chance.randint(1, 2))):
            operator, value = chance.choice([*Operator]), chance.choice([0, 5, 1 << 33, (1 << 33) + 5, (1 << 64) - 1])
            masked = value & 5 if operator is Operator.MASKED_EQUAL else 0
            conditions.append(Condition(argument=index, operator=operator, value=value, masked=masked))
        rules.append(Rule(names=("read",), action=chance.choice([ALLOW, ERRNO | 7, LOG]), conditions=tuple(conditions)))
    run = interpreter(compile_policy(Policy(default=EPERM, rules=tuple(rules)), syscall_table("x86_64")))
    values = [0, 1, 4, 5, 6, 1 << 32, (1 << 33) - 1, 1 << 33, (1 << 33) + 5, (1 << 33) + 6, 1 << 34, (1 << 64) - 1]
    for arguments in itertools.product(values, repeat=3):
        met = [rule.action for rule in rules if all(holds(each, arguments[each.argument]) for each in rule.conditions)]
        data = _LITTLE.pack(0, TOKENS["x86_64"], 0, *arguments, 0, 0, 0)
        assert run(data) == (met[0] if met else EPERM), arguments
