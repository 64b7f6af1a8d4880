"""From a system call policy to classic BPF, the form in which the kernel takes it. Pure.

Layout of a filter: another architecture ends the process; then a balanced tree over ranges of numbers with equal treatment, whose
leaves return or jump to the tests of a call's arguments. Numbers that the policy's author could not know are told ENOSYS, so that a
libc falls back, unless the policy lets unknown calls pass. Source: seccomp(2), linux/seccomp.h, linux/filter.h.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection
from functools import lru_cache

from contain.errors import UsageError
from contain.linux.capabilities import DEFAULT_CAPABILITIES
from contain.linux.seccomp_policy import ENOSYS, KILL_PROCESS, PERMISSIVE, Condition, Operator, Policy, Rule, default_policy
from contain.linux.syscall_table import SyscallTable, syscall_table

_LOAD, _JUMP_EQUAL, _JUMP_ABOVE, _JUMP_AT_LEAST, _AND, _RETURN, _JUMP = 0x20, 0x15, 0x25, 0x35, 0x54, 0x06, 0x05
_NUMBER, _ARCHITECTURE, _ARGUMENT = 0, 4, 16
_X32 = 0x40000000  # numbers of x86-64's other calling convention
_MOST_INSTRUCTIONS = 4096  # BPF_MAXINSNS
_FAR = 255  # instructions that a conditional jump reaches

# One instruction, (code, value, if true, if false); a target is a distance, or 0 for the next, or one of these two.
_PASS, _FAIL = -1, -2
_Instruction = tuple[int, int, int, int]


def _test(condition: Condition) -> list[_Instruction]:
    """Instructions that go to `_PASS` (what follows them) or `_FAIL` (the next rule)."""
    low = _ARGUMENT + 8 * condition.argument
    low_value, high_value = condition.value & 0xFFFFFFFF, condition.value >> 32
    load_low, load_high = (_LOAD, low, 0, 0), (_LOAD, low + 4, 0, 0)
    wide = condition.bits == 64
    match condition.operator:
        case Operator.EQUAL:
            high = [load_high, (_JUMP_EQUAL, high_value, 0, _FAIL)]
            rest = [(_JUMP_EQUAL, low_value, _PASS, _FAIL)]
        case Operator.NOT_EQUAL:
            high = [load_high, (_JUMP_EQUAL, high_value, 0, _PASS)]
            rest = [(_JUMP_EQUAL, low_value, _FAIL, _PASS)]
        case Operator.GREATER | Operator.GREATER_OR_EQUAL:
            high = [load_high, (_JUMP_ABOVE, high_value, _PASS, 0), (_JUMP_EQUAL, high_value, 0, _FAIL)]
            code = _JUMP_ABOVE if condition.operator is Operator.GREATER else _JUMP_AT_LEAST
            rest = [(code, low_value, _PASS, _FAIL)]
        case Operator.LESS | Operator.LESS_OR_EQUAL:
            high = [load_high, (_JUMP_ABOVE, high_value, _FAIL, 0), (_JUMP_EQUAL, high_value, 0, _PASS)]
            code = _JUMP_AT_LEAST if condition.operator is Operator.LESS else _JUMP_ABOVE
            rest = [(code, low_value, _FAIL, _PASS)]
        case Operator.MASKED_EQUAL:
            masked = condition.masked & condition.value
            high = [load_high, (_AND, high_value, 0, 0), (_JUMP_EQUAL, masked >> 32, 0, _FAIL)]
            rest = [(_AND, low_value, 0, 0), (_JUMP_EQUAL, masked & 0xFFFFFFFF, _PASS, _FAIL)]
    return [*(high if wide else []), load_low, *rest]


def _resolve(block: list[_Instruction], target: int, distance: int) -> list[_Instruction]:
    """The block with jumps to ``target`` made into distances to the place ``distance`` instructions after its end."""
    end = len(block) + distance
    return [
        (code, value, *(end - place - 1 if to == target else to for to in (if_true, if_false)))  # type: ignore[misc]
        for place, (code, value, if_true, if_false) in enumerate(block)
    ]


def _rule_block(rule: Rule) -> list[_Instruction]:
    """The tests of a rule and its action; what does not hold goes to what follows."""
    block: list[_Instruction] = []
    for condition in rule.conditions:
        block += _resolve(_test(condition), _PASS, 0)
    block.append((_RETURN, rule.action, 0, 0))
    return _resolve(block, _FAIL, 0)


def _call_block(rules: tuple[Rule, ...], default: int) -> list[_Instruction]:
    block: list[_Instruction] = []
    for rule in rules:
        block += _rule_block(rule)
    return [*block, (_RETURN, default, 0, 0)]


_Treatment = int | tuple[Rule, ...]


def _treatments(policy: Policy, table: SyscallTable) -> dict[int, _Treatment]:
    """What is done with each number that the policy knows."""
    by_number: dict[int, list[Rule]] = {}
    newest = -1
    for rule in policy.rules:
        for name in rule.names:
            number = table.numbers.get(name)
            if number is not None:
                newest = max(newest, number)
                if rule.action != policy.default:
                    by_number.setdefault(number, []).append(rule)
    newest = newest if policy.newest is None else policy.newest
    found: dict[int, _Treatment] = {}
    for number in table.numbers.values():
        rules = by_number.get(number)
        if rules is None:
            if number <= newest or policy.default in PERMISSIVE:
                found[number] = policy.default
            continue
        plain = [rule.action for rule in rules if not rule.conditions]
        found[number] = plain[0] if plain else tuple(rules)
    return found


def _tree(ranges: list[tuple[int, _Treatment]], labels: dict[tuple[Rule, ...], int]) -> list[_Instruction]:
    """Instructions that return what is done in the range in which the accumulator lies, or jump to a label: (`_JUMP`, -1 - label)."""
    if len(ranges) == 1:
        what = ranges[0][1]
        return [(_RETURN, what, 0, 0)] if isinstance(what, int) else [(_JUMP, -1 - labels[what], 0, 0)]
    middle = len(ranges) // 2
    low, high = _tree(ranges[:middle], labels), _tree(ranges[middle:], labels)
    if len(low) > _FAR:
        return [(_JUMP_AT_LEAST, ranges[middle][0], 0, 1), (_JUMP, len(low), 0, 0), *low, *high]
    return [(_JUMP_AT_LEAST, ranges[middle][0], len(low), 0), *low, *high]


def compile_policy(policy: Policy, table: SyscallTable) -> bytes:
    """The filter's bytes: an array of ``struct sock_filter``. Raises `UsageError` for one that the kernel would not take."""
    treatments = _treatments(policy, table)
    unknown = policy.default if policy.default in PERMISSIVE else ENOSYS
    ranges: list[tuple[int, _Treatment]] = []
    for number in range(max(table.numbers.values()) + 2):
        what = treatments.get(number, unknown)
        if not ranges or ranges[-1][1] != what:
            ranges.append((number, what))
    if table.machine == "x86_64" and unknown != ENOSYS:
        ranges.append((_X32, ENOSYS))
    labels: dict[tuple[Rule, ...], int] = {}
    blocks: list[_Instruction] = []
    for _, what in ranges:
        if not isinstance(what, int) and what not in labels:
            labels[what] = len(blocks)
            blocks += _call_block(what, policy.default)
    tree = _tree(ranges, labels)
    program = [
        *[
            (_LOAD, _ARCHITECTURE, 0, 0),
            (_JUMP_EQUAL, table.audit, 1, 0),
            (_RETURN, KILL_PROCESS, 0, 0),
            (_LOAD, _NUMBER, 0, 0),
        ],
        *(
            (_JUMP, len(tree) - place - 1 + (-1 - value), 0, 0) if code == _JUMP and value < 0 else (code, value, *jumps)
            for place, (code, value, *jumps) in enumerate(tree)
        ),
        *blocks,
    ]
    if len(program) > _MOST_INSTRUCTIONS:
        raise UsageError(
            f"the system call profile comes to {len(program)} instructions; the kernel takes {_MOST_INSTRUCTIONS}",
            code="seccomp-profile",
            remedy="compare fewer arguments",
        )
    return b"".join(struct.pack("=HBBI", code, if_true, if_false, value) for code, value, if_true, if_false in program)


@lru_cache
def _compiled(machine: str, setns: bool, capabilities: frozenset[str]) -> bytes:
    table = syscall_table(machine)
    return compile_policy(default_policy(table, capabilities, setns=setns), table)


def compile_default_policy(
    *, machine: str = "", allow_setns: bool = False, capabilities: Collection[str] = DEFAULT_CAPABILITIES
) -> bytes:
    """The default filter's bytes for this machine's architecture (or ``machine``, as uname(2) says it).

    ``allow_setns`` is for the test worker only, whose children join the containers that were prepared for them.
    Raises KeyError for an architecture without a table.
    """
    return _compiled(machine or os.uname().machine, allow_setns, frozenset(capabilities))
