"""What ``contain cp`` means by its two paths: which is the container's, and under which name what is copied appears. Pure.

Source: docker/cli ``docs/reference/commandline/container_cp.md``; the cases and words of moby ``pkg/archive/copy.go``.
"""

from __future__ import annotations

import posixpath

from contain.errors import Conflict, NotSupported, UsageError
from contain.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One argument of ``cp``. ``container`` None: a path of this machine, or ``-``."""

    container: str | None
    path: str


def parse_address(text: str) -> Address:
    """``CONTAINER:PATH``, or a path; one with a colon is written with ``/`` or ``./`` before it."""
    container, colon, path = text.partition(":")
    if text.startswith("/") or not colon or container.startswith("."):
        return Address(container=None, path=text)
    return Address(container=container, path=path)


def check_addresses(source: Address, target: Address) -> None:
    """Raises `UsageError`, `NotSupported`."""
    if not source.path and source.container is None:
        raise UsageError("source can not be empty", code="bad-arguments")
    if not target.path and target.container is None:
        raise UsageError("destination can not be empty", code="bad-arguments")
    if source.container is not None and target.container is not None:
        raise NotSupported("copying between containers is not supported", code="copy-between-containers")
    if source.container is None and target.container is None:
        raise UsageError(
            "must specify at least one container source", code="bad-arguments", remedy="contain cp CONTAINER:PATH PATH"
        )


def asks_for_directory(path: str) -> bool:
    """A path that can only be a directory's: it ends with ``/`` or ``/.``."""
    return path.endswith("/") or posixpath.basename(path) in (".", "..")


def is_contents_only(path: str) -> bool:
    """Whether not the directory is meant but what is in it: ``DIR/.``, and the root, which has no name."""
    return posixpath.basename(path) == "." or posixpath.normpath(f"/{path}") in ("/", "//")


def base_name(path: str) -> bytes:
    """The name under which a source appears in a directory; empty for contents only."""
    if is_contents_only(path):
        return b""
    cleaned = posixpath.normpath(path)
    return posixpath.basename(cleaned).encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a target's path leads to at the moment."""

    path: str
    exists: bool
    is_directory: bool = False


def plan_name(source: str, *, is_directory: bool, target: Found) -> tuple[bool, bytes]:
    """Whether it goes into the target, which is a directory, or beside it; and the name of what is made (empty: the contents go into
    the target itself). Raises `Conflict`."""
    if target.exists and target.is_directory:
        return True, base_name(source)
    if target.exists and is_directory:
        raise Conflict("cannot copy directory", code="copy-onto-file", remedy="the target is a file")
    if not target.exists and not is_directory and asks_for_directory(target.path):
        raise Conflict("no such directory", code="copy-no-directory", remedy="make it first, or leave out the slash")
    cleaned = posixpath.normpath(f"/{target.path}" if not target.path.startswith("/") else target.path)
    return False, posixpath.basename(cleaned).encode("utf-8", "surrogateescape")
