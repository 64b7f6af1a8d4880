"""Where else a build cache is: the values of ``--cache-from`` and ``--cache-to``. Decides what was meant; reads nothing.

The syntax is buildx's: ``type=registry,ref=NAME``, ``type=local,src=DIRECTORY`` (``dest=`` for ``--cache-to``), or a name alone.
"""

from __future__ import annotations

import csv
from enum import Enum

from contain.errors import NotSupported, UsageError
from contain.paths import HostPath
from contain.reference import Reference, parse_reference
from contain.values import dataclass

_ELSEWHERE = ("inline", "gha", "s3", "azblob")
_COMPRESSIONS = ("zstd", "gzip", "uncompressed")
_DEFAULT_TAG = "latest"


class Scope(Enum):
    """Of which steps the layers go into an exported cache."""

    RESULT = "min"
    ALL_STAGES = "max"


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePlace:
    """A registry's ``reference`` or a ``directory`` (an OCI image layout, in which the cache is called ``tag``).

    ``text`` is what the user wrote. The rest is for ``--cache-to``; ``ignore_errors``: a cache that cannot be written is a warning.
    """

    text: str
    reference: Reference | None = None
    directory: HostPath | None = None
    tag: str = _DEFAULT_TAG
    scope: Scope = Scope.RESULT
    compression: str = "zstd"
    ignore_errors: bool = False


def parse_cache_from(text: str) -> CachePlace:
    """One ``--cache-from``. Raises `UsageError` (code ``bad-cache-place``), `NotSupported` (``cache-type``)."""
    if "=" not in text and "," not in text:
        return CachePlace(text=text, reference=parse_reference(text))
    values = _values(text, flag="--cache-from", known=("type", "ref", "src", "tag"))
    return _place(text, values, flag="--cache-from", directory_key="src")


def parse_cache_to(text: str) -> CachePlace:
    """One ``--cache-to``. Raises as `parse_cache_from`."""
    flag = "--cache-to"
    if "=" not in text and "," not in text:
        if text == "inline":
            raise _elsewhere(flag, text)
        return CachePlace(text=text, reference=parse_reference(text))
    values = _values(text, flag=flag, known=("type", "ref", "dest", "tag", "mode", "compression", "ignore-error"))
    place = _place(text, values, flag=flag, directory_key="dest")
    mode = values.get("mode", Scope.RESULT.value)
    if mode not in ("min", "max"):
        raise _bad(flag, text, f"mode={mode}", "mode is min (the result's layers) or max (all stages')")
    compression = values.get("compression", "zstd")
    if compression not in _COMPRESSIONS:
        raise _bad(flag, text, f"compression={compression}", f"compression is one of {', '.join(_COMPRESSIONS)}")
    ignore = values.get("ignore-error", "false")
    if ignore not in ("true", "false"):
        raise _bad(flag, text, f"ignore-error={ignore}", "ignore-error is true or false")
    return CachePlace(
        text=text,
        reference=place.reference,
        directory=place.directory,
        tag=place.tag,
        scope=Scope(mode),
        compression=compression,
        ignore_errors=ignore == "true",
    )


def _place(text: str, values: dict[str, str], *, flag: str, directory_key: str) -> CachePlace:
    kind = values.get("type", "registry" if "ref" in values else "")
    if kind in _ELSEWHERE:
        raise _elsewhere(flag, kind)
    wanted = {"registry": "ref", "local": directory_key}.get(kind)
    if wanted is None:
        raise _bad(flag, text, f"type={kind}" if kind else "no type", f"type is registry (ref=) or local ({directory_key}=)")
    if not values.get(wanted):
        raise _bad(flag, text, f"type={kind} needs {wanted}=", f"write {flag} type={kind},{wanted}=...")
    for other in {"ref", directory_key, "tag"} - {wanted, "tag" if kind == "local" else ""}:
        if other in values:
            raise _bad(flag, text, f"{other}= has no meaning with type={kind}", f"leave {other}= out")
    if kind == "registry":
        return CachePlace(text=text, reference=parse_reference(values["ref"]))
    return CachePlace(
        text=text, directory=HostPath(values["src" if "src" in values else "dest"]), tag=values.get("tag", _DEFAULT_TAG)
    )


def _values(text: str, *, flag: str, known: tuple[str, ...]) -> dict[str, str]:
    """The pairs of a line of comma-separated values; a value with a comma stands in double quotes, as in buildx."""
    values: dict[str, str] = {}
    for field in next(csv.reader([text]), []):
        name, equals, value = field.partition("=")
        name = name.strip().lower()
        if not equals or not name or name in values:
            raise _bad(flag, text, f"{field!r}", "write NAME=VALUE pairs with commas between them, each name once")
        if name not in known and values.get("type") not in _ELSEWHERE:
            raise _bad(flag, text, f"{name}= is not known", f"there are {', '.join(known)}")
        values[name] = value
    return values


def _elsewhere(flag: str, kind: str) -> NotSupported:
    return NotSupported(
        f"{flag} type={kind} is not supported",
        code="cache-type",
        remedy="use type=registry,ref=NAME or type=local with a directory",
    )


def _bad(flag: str, text: str, problem: str, remedy: str) -> UsageError:
    return UsageError(f"{flag} {text}: {problem}", code="bad-cache-place", remedy=remedy)
