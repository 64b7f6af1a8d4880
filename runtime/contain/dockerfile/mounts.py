"""Reads the values of ``RUN --mount``: a line of comma-separated ``key=value`` fields, to a typed mount.

In two steps, because the values may contain variables: `parse_mount` cuts the flag up when the Dockerfile is read,
`resolve_mount` gives the fields their meaning when the variables are known. Decides nothing about what can be carried out.
Source: BuildKit's ``instructions/commands_runmount.go``.
"""

from __future__ import annotations

import csv
import posixpath
import re
from enum import Enum

from contain.annotations import TypeVar
from contain.dockerfile.literals import parse_boolean, parse_size_bytes
from contain.dockerfile.suggestion import suggest
from contain.dockerfile.words import DEFAULT_ESCAPE, Lookup, expand
from contain.errors import SourceSpan, UsageError
from contain.values import dataclass

_Choice = TypeVar("_Choice", bound=Enum)


class MountKind(Enum):
    """What is mounted for the time of one ``RUN``."""

    BIND = "bind"
    CACHE = "cache"
    TMPFS = "tmpfs"
    SECRET = "secret"  # noqa: S105 - the name of a mount type
    SSH = "ssh"


class Sharing(Enum):
    """How builds at the same time use one cache directory."""

    SHARED = "shared"
    PRIVATE = "private"
    LOCKED = "locked"


@dataclass(frozen=True, slots=True, kw_only=True)
class MountFlag:
    """One ``--mount`` as written: its fields with keys in lower case, values unexpanded, None where there is no ``=``."""

    text: str
    fields: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMount:
    """One ``--mount`` with its meaning. Fields that the kind has not are None or empty."""

    kind: MountKind
    target: str
    source: str = ""
    from_stage: str = ""  # a stage, an image, or empty for the build context
    read_only: bool = False
    id: str = ""  # of a cache, secret or ssh agent
    sharing: Sharing | None = None
    required: bool = False
    env: str | None = None  # the variable that receives a secret; the file is then made only if a target is given
    size_bytes: int | None = None
    mode: int | None = None
    user_id: int | None = None
    group_id: int | None = None


_ALIASES = {
    "src": "source",
    "dst": "target",
    "destination": "target",
    "ro": "readonly",
    "rw": "readwrite",
}
_KEYS = (
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "readwrite",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
)
_VALUELESS = frozenset({"readonly", "readwrite", "required"})
_ONLY_FOR = {
    "size": (MountKind.TMPFS,),
    "sharing": (MountKind.CACHE,),
    "required": (MountKind.SECRET, MountKind.SSH),
    "env": (MountKind.SECRET,),
    "mode": (MountKind.CACHE, MountKind.SECRET, MountKind.SSH),
    "uid": (MountKind.CACHE, MountKind.SECRET, MountKind.SSH),
    "gid": (MountKind.CACHE, MountKind.SECRET, MountKind.SSH),
}


def _bad(message: str, span: SourceSpan | None, remedy: str = "") -> UsageError:
    return UsageError(message, code="bad-mount", remedy=remedy, span=span)


def parse_mount(text: str, *, span: SourceSpan | None = None) -> MountFlag:
    """Cut up the value of ``--mount``. Raises `UsageError` (``bad-mount``) for what no value of a variable can mend."""
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise _bad(f"cannot read the mount {text!r}: {error}", span) from error
    fields: list[tuple[str, str | None]] = []
    for field in rows[0] if rows else ():
        key, separator, value = field.partition("=")
        key = key.lower()
        key = _ALIASES.get(key, key)
        if key not in _KEYS:
            near = suggest(key, (*_KEYS, *_ALIASES))
            raise _bad(f"a mount has no field {key!r}", span, f"did you mean {near}?" if near else "")
        if not separator and key not in _VALUELESS:
            raise _bad(f"the mount's field {key!r} needs a value", span, f"write {key}=VALUE")
        if key == "from" and "$" in value[:-1]:
            raise _bad(
                "'from' is not expanded", span, "give the image a stage of its own, FROM $IMAGE AS name, and write from=name"
            )
        fields.append((key, value if separator else None))
    flag = MountFlag(text=text, fields=tuple(fields))
    if "$" not in text:
        resolve_mount(flag, lambda _name: None, span=span)
    return flag


def resolve_mount(flag: MountFlag, lookup: Lookup, *, escape: str = DEFAULT_ESCAPE, span: SourceSpan | None = None) -> RunMount:
    """The mount with variables expanded and defaults filled in.

    Raises `UsageError` (``bad-mount``, ``bad-value``, ``bad-expansion``).
    """
    values: dict[str, str] = {}
    for key, value in flag.fields:
        values[key] = "true" if value is None else value if key == "from" else expand(value, lookup, escape=escape, span=span)
    kind = _one_of(MountKind, values.get("type", "bind"), "type", span)
    for key in values:
        if key in _ONLY_FOR and kind not in _ONLY_FOR[key]:
            kinds = " and ".join(allowed.value for allowed in _ONLY_FOR[key])
            raise _bad(f"{key!r} is not a field of a {kind.value} mount", span, f"only {kinds} mounts have it")
    if kind is MountKind.SECRET:
        _check_secret(values, span)
    name = values.get("id", "")
    target = values.get("target", "")
    if not target and kind in (MountKind.BIND, MountKind.CACHE, MountKind.TMPFS):
        target = "."  # the working directory, to which every relative target belongs
    if kind is MountKind.SECRET:
        name = name or values.get("source", "") or posixpath.basename(target)
        if not target and "env" not in values:
            target = "/run/secrets/" + posixpath.basename(name)
    elif kind is MountKind.CACHE:
        name = name or target
    elif kind is MountKind.SSH:
        name = name or "default"
    return RunMount(
        kind=kind,
        target=target,
        source=values.get("source", ""),
        from_stage=values.get("from", ""),
        read_only=_read_only(values, kind, span),
        id=name,
        sharing=_one_of(Sharing, values.get("sharing", "shared"), "sharing", span) if kind is MountKind.CACHE else None,
        required=parse_boolean(values["required"], span=span) if "required" in values else False,
        env=values.get("env"),
        size_bytes=parse_size_bytes(values["size"], span=span) if "size" in values else None,
        mode=_number(values, "mode", 8, span, default={MountKind.SECRET: 0o400, MountKind.SSH: 0o600}.get(kind)),
        user_id=_number(values, "uid", 10, span),
        group_id=_number(values, "gid", 10, span),
    )


def _check_secret(values: dict[str, str], span: SourceSpan | None) -> None:
    if values.get("from"):
        raise _bad("a secret mount has no 'from'", span)
    if values.get("source") and values.get("id"):
        raise _bad("a secret mount has either 'id' or 'source', which mean the same", span)
    if not (values.get("source") or values.get("target") or values.get("id")):
        raise _bad("a secret mount needs to say which secret", span, "write id=NAME")


def _read_only(values: dict[str, str], kind: MountKind, span: SourceSpan | None) -> bool:
    if "readwrite" in values and "readonly" in values:
        raise _bad("a mount is either 'readonly' or 'readwrite'", span)
    if "readwrite" in values:
        return not parse_boolean(values["readwrite"], span=span)
    if "readonly" in values:
        return parse_boolean(values["readonly"], span=span)
    return kind not in (MountKind.CACHE, MountKind.TMPFS)


def _one_of(choices: type[_Choice], text: str, key: str, span: SourceSpan | None) -> _Choice:
    for choice in choices:
        if choice.value == text.lower():
            return choice
    near = suggest(text, (str(choice.value) for choice in choices))
    known = ", ".join(str(choice.value) for choice in choices)
    raise _bad(f"a mount's {key!r} cannot be {text!r}", span, f"did you mean {near}?" if near else f"known are {known}")


def _number(values: dict[str, str], key: str, base: int, span: SourceSpan | None, default: int | None = None) -> int | None:
    if key not in values:
        return default
    text = values[key]
    if not re.fullmatch(r"[0-7]{1,11}" if base == 8 else r"[0-9]{1,10}", text) or int(text, base) >= 2**32:
        raise _bad(f"the mount's {key!r} cannot be {text!r}", span, "write a number" + (" in octal" if base == 8 else ""))
    return int(text, base)
