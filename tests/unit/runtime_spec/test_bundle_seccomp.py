"""``linux.seccomp`` of a bundle as a policy."""

from __future__ import annotations

import errno

import pytest

from contain.errors import NotSupported, UsageError
from contain.linux.seccomp import compile_policy
from contain.linux.seccomp_policy import ALLOW, ERRNO, Condition, Operator
from contain.linux.syscall_table import syscall_table
from contain.runtime_spec.seccomp import parse_filter


def test_actions_arguments_and_flags() -> None:
    policy, flags = parse_filter(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
                {
                    "names": ["clone"],
                    "action": "SCMP_ACT_ALLOW",
                    "args": [{"index": 0, "value": 0x7E020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
                },
                {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            ],
        }
    )
    assert policy.default == ERRNO | errno.ENOSYS
    assert flags == 2
    assert [(rule.names, rule.action) for rule in policy.rules] == [
        (("read",), ALLOW),
        (("clone",), ALLOW),
    ]  # mount is the default
    assert policy.rules[1].conditions == (Condition(argument=0, operator=Operator.MASKED_EQUAL, value=0x7E020000, masked=0),)
    assert compile_policy(policy, syscall_table("x86_64"))


def test_several_conditions_on_one_argument_are_alternatives() -> None:
    arguments = [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in (1, 2)]
    policy, _ = parse_filter(
        {"defaultAction": "SCMP_ACT_KILL", "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": arguments}]}
    )
    assert [len(rule.conditions) for rule in policy.rules] == [1, 1]


def test_a_listener_and_unknown_words_are_refused() -> None:
    with pytest.raises(NotSupported, match="NOTIFY"):
        parse_filter({"defaultAction": "SCMP_ACT_NOTIFY"})
    with pytest.raises(NotSupported, match="listenerPath"):
        parse_filter({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"})
    with pytest.raises(NotSupported, match="WAIT_KILLABLE"):
        parse_filter({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]})
    with pytest.raises(UsageError, match="defaultAction"):
        parse_filter({"defaultAction": "SCMP_ACT_PERHAPS"})
