"""A user's system call profile, in Docker's JSON form, as a policy. Pure: text in, policy out.

Source: moby/profiles ``seccomp/seccomp.go`` and runc ``libcontainer/seccomp`` for what the fields mean. Names that this
architecture does not have are left out, as there: one profile serves all. Everything else that cannot be carried out is an error.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Collection

from contain.annotations import Any
from contain.errors import NotSupported, UsageError
from contain.linux.seccomp_policy import (
    ACTIONS,
    ERRNO,
    TRACE,
    Condition,
    Operator,
    Policy,
    Rule,
)

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # Go's names, which includes and excludes use
_TOP = {"defaultAction", "defaultErrnoRet", "defaultErrno", "archMap", "architectures", "syscalls", "flags", "comment"}
_ROW = {"names", "name", "action", "errnoRet", "errno", "args", "includes", "excludes", "comment"}
_FILTER = {"caps", "arches", "minKernel"}
_ARGUMENT = {"index", "value", "valueTwo", "op"}
_LARGEST = (1 << 64) - 1


def _refuse(what: str) -> UsageError:
    return UsageError(
        f"Decoding seccomp profile failed: {what}",
        code="seccomp-profile",
        remedy="the form is that of Docker's default profile",
    )


def _object(value: Any, what: str, keys: Collection[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refuse(f"{what} is not an object")
    unknown = sorted(set(value) - set(keys))
    if unknown:
        if unknown[0] in ("listenerPath", "listenerMetadata"):
            raise NotSupported(
                f"a seccomp profile's {unknown[0]} is not supported: nobody would answer", code="seccomp-profile-part"
            )
        raise _refuse(f"{what} has an unknown field {unknown[0]!r}")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _refuse(f"{what} is not a list")
    return value


def _names(value: Any, what: str) -> list[str]:
    found = _list(value, what)
    if not all(isinstance(each, str) for each in found):
        raise _refuse(f"{what} is not a list of names")
    return found


def _number(value: Any, what: str, largest: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
        raise _refuse(f"{what} is not a number from 0 to {largest}")
    return value


def _action(name: Any, number: Any, text: Any, what: str) -> int:
    if name == "SCMP_ACT_NOTIFY":
        raise NotSupported(
            "the seccomp action SCMP_ACT_NOTIFY is not supported: nobody would answer", code="seccomp-profile-part"
        )
    if not isinstance(name, str) or name not in ACTIONS:
        raise _refuse(f"{what} has the unknown action {name!r}")
    action = ACTIONS[name]
    if action not in (ERRNO, TRACE):
        return action
    if number is None and text is not None:  # podman's profiles say it by name as well
        number = getattr(errno, text, None) if isinstance(text, str) else None
        if number is None:
            raise _refuse(f"{what} has the unknown error {text!r}")
    return action | (errno.EPERM if number is None else _number(number, f"errnoRet of {what}", 0xFFFF))


def _kernel(text: Any, what: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)\.(\d+)", text) if isinstance(text, str) else None
    if found is None:
        raise _refuse(f"minKernel of {what} is not of the form 4.8")
    return int(found[1]), int(found[2])


def _holds(row: dict[str, Any], what: str, machine: str, capabilities: frozenset[str], kernel: tuple[int, int]) -> bool:
    """Whether ``includes`` and ``excludes`` let a rule in. All capabilities of ``includes`` must be there; any of ``excludes``
    suffices."""

    def parts(key: str) -> tuple[list[str], list[str], tuple[int, int] | None]:
        value = _object(row.get(key) or {}, f"{key} of {what}", _FILTER)
        caps = [name.upper().removeprefix("CAP_") for name in _names(value.get("caps"), f"caps of {what}")]
        least = None if not value.get("minKernel") else _kernel(value["minKernel"], what)
        return _names(value.get("arches"), f"arches of {what}"), caps, least

    architecture = _ARCHITECTURES.get(machine, machine)
    arches, caps, least = parts("excludes")
    if architecture in arches or capabilities.intersection(caps) or (least is not None and kernel >= least):
        return False
    arches, caps, least = parts("includes")
    return (not arches or architecture in arches) and capabilities.issuperset(caps) and (least is None or kernel >= least)


def _condition(value: Any, what: str) -> Condition:
    value = _object(value, f"an argument of {what}", _ARGUMENT)
    try:
        operator = Operator(value.get("op"))
    except ValueError:
        raise _refuse(f"an argument of {what} has the unknown operator {value.get('op')!r}") from None
    return Condition(
        argument=_number(value.get("index"), f"the index of an argument of {what}", 5),
        operator=operator,
        value=_number(value.get("value", 0), f"the value of an argument of {what}", _LARGEST),
        masked=_number(value.get("valueTwo", 0), f"the valueTwo of an argument of {what}", _LARGEST),
    )


def _rules(row: dict[str, Any], what: str) -> list[Rule]:
    names = _names(row.get("names"), f"names of {what}")
    if row.get("name"):
        if names:
            raise _refuse("both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'")
        names = _names([row["name"]], what)
    if not names:
        raise _refuse(f"{what} names no system call")
    action = _action(row.get("action"), row.get("errnoRet"), row.get("errno"), what)
    conditions = tuple(_condition(value, what) for value in _list(row.get("args"), f"args of {what}"))
    if len({condition.argument for condition in conditions}) < len(conditions):  # then each stands for itself, as in runc
        return [Rule(names=tuple(names), action=action, conditions=(condition,)) for condition in conditions]
    return [Rule(names=tuple(names), action=action, conditions=conditions)]


def parse_profile(text: str, *, machine: str, capabilities: Collection[str], kernel: tuple[int, int]) -> Policy:
    """The policy of a profile for a container with these capabilities (without ``CAP_``) on this kernel.

    ``archMap`` and ``architectures`` are read and let no other architecture in. Raises `UsageError` (code ``seccomp-profile``),
    `NotSupported` (``seccomp-profile-part``).
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refuse(str(error)) from None
    profile = _object(value, "it", _TOP)
    rows = _list(profile.get("syscalls"), "syscalls")
    if not profile.get("defaultAction"):
        raise _refuse("it has no defaultAction" + ("" if rows else "; for no filter at all there is seccomp=unconfined"))
    if profile.get("architectures") and profile.get("archMap"):
        raise _refuse(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, use either 'architectures' or 'archMap'"
        )
    flags = [flag for flag in _names(profile.get("flags"), "flags") if flag != "SECCOMP_FILTER_FLAG_TSYNC"]
    if flags:
        raise NotSupported(f"the seccomp flag {flags[0]} is not supported", code="seccomp-profile-part")
    rules: list[Rule] = []
    held = frozenset(capabilities)
    for number, each in enumerate(rows, 1):
        what = f"rule {number}"
        row = _object(each, what, _ROW)
        made = _rules(row, what)  # what does not hold here must be well-formed too
        if _holds(row, what, machine, held, kernel):
            rules += made
    default = _action(profile["defaultAction"], profile.get("defaultErrnoRet"), profile.get("defaultErrno"), "the default")
    return Policy(default=default, rules=tuple(rules))


def parse_kernel(release: str) -> tuple[int, int]:
    """The version that uname(2) tells: ``6.18.44-fc`` is (6, 18)."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)
