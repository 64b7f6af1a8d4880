"""``linux.seccomp`` as a policy of ours. Pure; `contain.linux.seccomp` compiles it.

Source: config-linux.md "Seccomp". Several conditions on one argument are alternatives, as runc has it: profiles count on that.
"""

from __future__ import annotations

import errno
from collections import Counter

from contain.linux.seccomp_policy import (
    ACTIONS,
    ERRNO,
    TRACE,
    Condition,
    Operator,
    Policy,
    Rule,
)
from contain.runtime_spec.reading import Table, refused

OPERATORS = {operator.value: operator for operator in Operator}
FLAGS = {"SECCOMP_FILTER_FLAG_TSYNC": 1, "SECCOMP_FILTER_FLAG_LOG": 2, "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4}
ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_WITH_ERRNO = (ERRNO, TRACE)


def _action(table: Table, name: str, number: str) -> int:
    word = table.text(name)
    if word == "SCMP_ACT_NOTIFY":
        raise refused(f"{table.place(name)}: {word}")
    action = ACTIONS[table.choice(name, ACTIONS)]
    value = table.number(number, errno.EPERM, low=0, high=4095)
    return action | value if action in _WITH_ERRNO else action


def _condition(table: Table) -> Condition:
    operator = OPERATORS[table.choice("op", dict.fromkeys(OPERATORS, 0))]
    value, second = (table.number(name, 0, low=0) for name in ("value", "valueTwo"))
    return Condition(argument=table.number("index", low=0, high=5), operator=operator, value=value, masked=second)


def parse_filter(section: object) -> tuple[Policy, int]:
    """The policy, and the flags for seccomp(2). Raises `UsageError`, `NotSupported`."""
    table = Table(section, "linux.seccomp")
    table.refuse("listenerPath", "listenerMetadata")
    default = _action(table, "defaultAction", "defaultErrnoRet")
    flags = 0
    for flag in table.texts("flags"):
        if flag not in FLAGS:
            raise refused(f"linux.seccomp.flags: {flag}")
        flags |= FLAGS[flag]
    rules: list[Rule] = []
    for each in table.tables("syscalls"):
        names = each.texts("names")
        action = _action(each, "action", "errnoRet")
        conditions = tuple(_condition(argument) for argument in each.tables("args"))
        if action == default:
            continue
        if conditions and max(Counter(condition.argument for condition in conditions).values()) > 1:
            rules += [Rule(names=names, action=action, conditions=(condition,)) for condition in conditions]
        else:
            rules.append(Rule(names=names, action=action, conditions=conditions))
    return Policy(default=default, rules=tuple(rules)), flags
