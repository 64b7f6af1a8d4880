"""Users' system call profiles: what each field means, what is refused, and what is kept on disk of a compiled one."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from contain.errors import NotSupported, UsageError
from contain.linux.capabilities import CAPABILITY_NUMBERS, DEFAULT_CAPABILITIES
from contain.linux.seccomp import compile_default_policy, compile_policy
from contain.linux.seccomp_cache import COMPILER, cache_key, cached_filter
from contain.linux.seccomp_policy import EPERM, ERRNO, KILL_PROCESS, LOG, TRACE, Operator, Policy
from contain.linux.seccomp_profile import parse_kernel, parse_profile
from contain.linux.syscall_table import syscall_table

REFERENCE = Path(__file__).parents[2] / "reference/docker-seccomp-default.json"


def parse(
    profile: dict[str, Any] | str, *, machine: str = "x86_64", caps: tuple[str, ...] = (), kernel: tuple[int, int] = (6, 1)
) -> Policy:
    text = profile if isinstance(profile, str) else json.dumps(profile)
    return parse_profile(text, machine=machine, capabilities=caps, kernel=kernel)


def rule(**fields: Any) -> dict[str, Any]:
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", **fields}]}


def test_actions_and_their_numbers() -> None:
    assert parse({"defaultAction": "SCMP_ACT_ERRNO"}).default == EPERM
    assert parse({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38}).default == ERRNO | 38
    assert parse({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "ENOSYS"}).default == ERRNO | 38
    assert parse({"defaultAction": "SCMP_ACT_LOG"}).default == LOG
    assert parse({"defaultAction": "SCMP_ACT_KILL_PROCESS", "defaultErrnoRet": 3}).default == KILL_PROCESS
    assert parse({"defaultAction": "SCMP_ACT_KILL"}).default == 0
    assert parse(rule(action="SCMP_ACT_TRACE", errnoRet=7)).rules[0].action == TRACE | 7


@pytest.mark.parametrize(
    ("fields", "place", "there"),
    [
        ({"includes": {"caps": ["CAP_SYS_ADMIN"]}}, {"caps": ("SYS_ADMIN",)}, True),
        ({"includes": {"caps": ["CAP_SYS_ADMIN"]}}, {}, False),
        ({"includes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}}, {"caps": ("BPF",)}, False),
        ({"excludes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}}, {"caps": ("BPF",)}, False),
        ({"excludes": {"caps": ["CAP_SYS_ADMIN"]}}, {}, True),
        ({"includes": {"arches": ["amd64", "x32"]}}, {}, True),
        ({"includes": {"arches": ["arm64"]}}, {}, False),
        ({"includes": {"arches": ["arm64"]}}, {"machine": "aarch64"}, True),
        ({"excludes": {"arches": ["amd64"]}}, {}, False),
        ({"includes": {"minKernel": "4.8"}}, {"kernel": (4, 10)}, True),
        ({"includes": {"minKernel": "4.8"}}, {"kernel": (4, 7)}, False),
        ({"excludes": {"minKernel": "4.8"}}, {"kernel": (4, 8)}, False),
        ({"includes": {}, "excludes": None}, {}, True),
    ],
)
def test_a_rule_is_let_in_by_capabilities_architectures_and_kernels(
    fields: dict[str, Any], place: dict[str, Any], there: bool
) -> None:
    assert bool(parse(rule(**fields), **place).rules) is there


def test_conditions_on_one_argument_stand_for_themselves_and_others_hold_together() -> None:
    one = {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}
    other = {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}
    third = {"index": 1, "value": 6, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}
    assert [len(each.conditions) for each in parse(rule(args=[one, other])).rules] == [1, 1]
    both = parse(rule(args=[one, third])).rules
    assert [(each.operator, each.value, each.masked) for each in both[0].conditions] == [
        (Operator.EQUAL, 1, 0),
        (Operator.MASKED_EQUAL, 6, 2),
    ]


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("", "Expecting value"),
        ("[]", "it is not an object"),
        ("{}", "seccomp=unconfined"),
        ({"defaultAction": "SCMP_ACT_ALOW"}, "unknown action 'SCMP_ACT_ALOW'"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "sycalls": []}, "unknown field 'sycalls'"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {}}, "syscalls is not a list"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "archMap": [{}]}, "either"),
        (rule(names=[]), "rule 1 names no system call"),
        (rule(name="write"), "either 'name' or 'names'"),
        (rule(args=[{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]), "from 0 to 5"),
        (rule(args=[{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}]), "from 0 to"),
        (rule(args=[{"index": 0, "value": 1, "op": "EQ"}]), "unknown operator 'EQ'"),
        (rule(action="SCMP_ACT_ERRNO", errnoRet=70000), "errnoRet of rule 1"),
        (rule(includes={"minKernel": "new"}), "minKernel"),
        (rule(includes={"cap": ["CAP_SYS_ADMIN"]}), "unknown field 'cap'"),
        (rule(names="read"), "names of rule 1 is not a list"),
    ],
)
def test_a_profile_that_cannot_be_meant_so_is_refused(profile: dict[str, Any] | str, said: str) -> None:
    with pytest.raises(UsageError, match="Decoding seccomp profile failed") as caught:
        parse(profile)
    assert said in caught.value.message
    assert caught.value.code == "seccomp-profile"


@pytest.mark.parametrize(
    "profile",
    [
        {"defaultAction": "SCMP_ACT_NOTIFY"},
        rule(action="SCMP_ACT_NOTIFY"),
        {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/socket"},
        {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]},
    ],
)
def test_what_a_profile_may_ask_and_is_not_done_is_refused_by_name(profile: dict[str, Any]) -> None:
    with pytest.raises(NotSupported, match=r"SCMP_ACT_NOTIFY|listenerPath|FLAG_LOG") as caught:
        parse(profile)
    assert caught.value.code == "seccomp-profile-part"


def test_a_profile_that_the_kernel_would_not_take_is_refused() -> None:
    arguments = [{"index": index, "value": 1 << 40, "op": "SCMP_CMP_GT"} for index in range(6)]
    names = sorted(syscall_table("x86_64").numbers)[:200]
    rows = [{"names": [name], "action": "SCMP_ACT_ALLOW", "args": arguments} for name in names]
    policy = parse({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rows})
    spread = Policy(
        default=policy.default,
        rules=tuple(
            type(each)(
                names=each.names,
                action=each.action,
                conditions=tuple(type(c)(argument=c.argument, operator=c.operator, value=c.value + n) for c in each.conditions),
            )
            for n, each in enumerate(policy.rules)
        ),
    )
    with pytest.raises(UsageError, match="the kernel takes 4096"):
        compile_policy(spread, syscall_table("x86_64"))


@pytest.mark.parametrize(("release", "kernel"), [("6.18.44-fc-v595", (6, 18)), ("5.10.0-32-amd64", (5, 10)), ("odd", (0, 0))])
def test_the_kernels_version(release: str, kernel: tuple[int, int]) -> None:
    assert parse_kernel(release) == kernel


# -- what is kept on disk ---------------------------------------------------------------------------------------------------------

INPUTS: dict[str, Any] = {"profile": "{}", "machine": "x86_64", "capabilities": ("CHOWN",), "kernel": (6, 1)}


@pytest.mark.parametrize(
    "change",
    [
        {"profile": None},
        {"profile": "{} "},
        {"profile": "default"},
        {"machine": "aarch64"},
        {"capabilities": ()},
        {"capabilities": ("CHOWN", "KILL")},
        {"kernel": (6, 2)},
    ],
)
def test_every_input_changes_the_name_under_which_a_filter_is_kept(change: dict[str, Any]) -> None:
    assert cache_key(**{**INPUTS, **change}) != cache_key(**INPUTS)
    assert cache_key(**{**INPUTS, "capabilities": ["CHOWN"]}) == cache_key(**INPUTS)


def test_the_compilers_version_changes_the_name_too(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache_key(**INPUTS)
    monkeypatch.setattr("contain.linux.seccomp_cache.COMPILER", "another")
    assert cache_key(**INPUTS) != before


def test_a_compiler_that_makes_another_filter_has_another_version() -> None:
    """If this fails, raise COMPILER in seccomp_cache.py, and write the new digest here."""
    digest = hashlib.sha256()
    for machine in ("x86_64", "aarch64"):
        profile = parse_profile(REFERENCE.read_text(), machine=machine, capabilities=DEFAULT_CAPABILITIES, kernel=(6, 1))
        digest.update(compile_policy(profile, syscall_table(machine)))
        for capability in sorted(CAPABILITY_NUMBERS):
            digest.update(compile_default_policy(machine=machine, capabilities=(capability,)))
    assert (COMPILER, digest.hexdigest()[:16]) == ("2", "e15487d19ed13004")


def test_a_filter_is_made_once_and_then_read(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> bytes:
        made.append(1)
        return b"12345678" * 3

    place = str(tmp_path / "seccomp")
    assert [cached_filter(place, "a" * 64, make) for _ in range(3)] == [b"12345678" * 3] * 3
    assert made == [1]
    assert os.stat(place).st_mode & 0o777 == 0o700
    assert [path.name for path in Path(place).iterdir()] == ["a" * 64]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "writable", "link", "another", "directory-writable"])
def test_a_filter_that_is_not_what_was_written_is_not_used(tmp_path: Path, damage: str) -> None:
    place = tmp_path / "seccomp"
    key = "b" * 64
    good, evil = b"goodgood", b"evilevil"
    cached_filter(str(place), key, lambda: good)
    file = place / key
    data = file.read_bytes()
    match damage:
        case "cut":
            file.write_bytes(data[:-8])
        case "flipped":
            file.write_bytes(data[:-1] + b"X")
        case "empty":
            file.write_bytes(b"")
        case "writable":
            file.chmod(0o666)
        case "link":
            file.rename(tmp_path / "elsewhere")
            file.symlink_to(tmp_path / "elsewhere")
        case "another":
            cached_filter(str(place), "c" * 64, lambda: evil)
            file.write_bytes((place / ("c" * 64)).read_bytes())
        case "directory-writable":
            place.chmod(0o777)
    assert cached_filter(str(place), key, lambda: b"newernew") == b"newernew"


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert cached_filter(str(tmp_path / "file"), "d" * 64, lambda: b"12345678") == b"12345678"
    assert cached_filter(str(tmp_path / "file/below"), "d" * 64, lambda: b"12345678") == b"12345678"
