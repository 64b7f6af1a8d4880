"""Whatever stands in a bundle's configuration: it is read, or refused with a reason; nothing else happens."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from contain.errors import ContainError
from contain.linux.seccomp import compile_policy
from contain.linux.syscall_table import syscall_table
from contain.oci_runtime.example import render_example
from contain.oci_runtime.groups import Groups
from contain.oci_runtime.plan import plan_bundle
from contain.runtime_spec.configuration import parse_configuration
from contain.runtime_spec.resources import plan_first_version, plan_second_version
from contain.runtime_spec.seccomp import parse_filter

FULL: dict[str, Any] = json.loads(render_example(rootless=True, user_id=1, group_id=1))
FULL["process"].update(
    rlimits=[{"type": "RLIMIT_CPU", "soft": 1, "hard": 2}],
    scheduler={"policy": "SCHED_OTHER", "nice": 1},
    ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 1},
    execCPUAffinity={"initial": "0-1"},
    consoleSize={"height": 1, "width": 2},
)
FULL["hooks"] = {"prestart": [{"path": "/x", "args": ["a"], "env": ["A=b"], "timeout": 5}]}
FULL["annotations"] = {"a": "b"}
FULL["linux"].update(
    sysctl={"kernel.shmmax": "5"},
    devices=[{"path": "/dev/x", "type": "c", "major": 1, "minor": 2, "fileMode": 438}],
    resources={
        "memory": {"limit": 5, "swap": 9},
        "cpu": {"shares": 5, "quota": 7, "cpus": "0"},
        "pids": {"limit": 3},
        "blockIO": {"weight": 10, "throttleReadBpsDevice": [{"major": 1, "minor": 2, "rate": 3}]},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 5}],
        "devices": [{"allow": False, "access": "rwm"}],
        "unified": {"a.b": "c"},
    },
    seccomp={
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}],
    },
    rootfsPropagation="rslave",
    timeOffsets={},
    personality={"domain": "LINUX"},
)


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a document."""
    found = [way] if way else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        found += places(each, (*way, key))
    return found


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["", "/", "..", "/../x", "\0", "rbind", "tmpfs", "CAP_CHOWN", "a=b", "1.2.0", "-1", "0-9999999999"]),
    st.just([]),
    st.just({}),
    st.lists(st.integers() | st.text(max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=3),
)


@given(st.lists(st.tuples(st.sampled_from(places(FULL)), ANYTHING), min_size=1, max_size=3))
def test_a_configuration_is_planned_or_refused(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    document = copy.deepcopy(FULL)
    for way, value in changes:
        target: Any = document
        for key in way[:-1]:
            try:
                target = target[key]
            except (KeyError, IndexError, TypeError):
                break
        else:
            if isinstance(target, dict) or (isinstance(target, list) and isinstance(way[-1], int) and way[-1] < len(target)):
                target[way[-1]] = value
    try:
        config = parse_configuration(json.dumps(document))
        plan_bundle(config, bundle="/b", root="/b/r", groups=Groups(version=1, places=(("cpu", "/cg"),)), filter_program=b"x")
        if config.seccomp is not None:
            compile_policy(parse_filter(config.seccomp)[0], syscall_table("x86_64"))
        for plan in (plan_first_version, plan_second_version):
            with contextlib.suppress(ContainError):
                assert all("/" not in file.name for file in plan(config.resources))
    except ContainError as error:
        assert str(error)  # noqa: PT017 - of any of the steps
