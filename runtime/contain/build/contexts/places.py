"""What ``CONTEXT`` and ``--build-context NAME=VALUE`` mean: where files come from that COPY, ADD and FROM may use. Pure.

Source of the rules: ``docker buildx build --help`` ("Set the build context", "Additional build contexts"), and BuildKit's
``frontend/dockerui/{context,namedcontext}.go``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from types import MappingProxyType

from contain.build.fetch.git_reference import parse_git_reference
from contain.errors import UsageError
from contain.reference import parse_reference
from contain.values import dataclass

IMAGE_SCHEME = "docker-image://"
LAYOUT_SCHEME = "oci-layout://"
_LAYOUT_REFERENCE = re.compile(r"(?P<path>.*?)(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?", re.ASCII)
_RESERVED = frozenset({"context", "scratch"})


class ContextKind(Enum):
    """Where a context is."""

    DIRECTORY = "directory"
    STANDARD_INPUT = "standard input"
    URL = "url"
    GIT = "git"
    IMAGE = "image"
    LAYOUT = "oci-layout"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextPlace:
    """``value``: a path, an address, an image's name; without the scheme that only says which of them it is."""

    kind: ContextKind
    value: str


def parse_context(text: str, *, is_directory: bool = False) -> ContextPlace:
    """The ``CONTEXT`` of a build: a directory, ``-``, the address of an archive or a Dockerfile, or a git repository.

    ``is_directory``: there is a directory of that name, which then is meant.
    """
    if is_directory:
        return ContextPlace(kind=ContextKind.DIRECTORY, value=text)
    if text == "-":
        return ContextPlace(kind=ContextKind.STANDARD_INPUT, value=text)
    if not text:
        raise UsageError("the build context is empty", code="context", remedy="name a directory, often '.'")
    return _remote(text) or ContextPlace(kind=ContextKind.DIRECTORY, value=text)


def _remote(text: str) -> ContextPlace | None:
    if parse_git_reference(text) is not None:
        return ContextPlace(kind=ContextKind.GIT, value=text)
    if text.startswith(("http://", "https://")):
        return ContextPlace(kind=ContextKind.URL, value=text)
    return None


def parse_named_contexts(texts: Iterable[str]) -> Mapping[str, ContextPlace]:
    """The values of ``--build-context``, by `context_key`; the last of one name counts.

    Raises `UsageError` (code ``bad-build-context``).
    """
    found: dict[str, ContextPlace] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UsageError(
                f"invalid --build-context {text!r}",
                code="bad-build-context",
                remedy="write NAME=DIRECTORY, NAME=docker-image://IMAGE, NAME=oci-layout://PATH, or NAME=URL",
            )
        if name in _RESERVED:
            raise UsageError(f"--build-context cannot replace {name!r}", code="bad-build-context", remedy="choose another name")
        found[context_key(name)] = _named_place(value)
    return MappingProxyType(found)


def _named_place(value: str) -> ContextPlace:
    if value.startswith(IMAGE_SCHEME):
        parse_reference(value.removeprefix(IMAGE_SCHEME))
        return ContextPlace(kind=ContextKind.IMAGE, value=value.removeprefix(IMAGE_SCHEME))
    if value.startswith(LAYOUT_SCHEME):
        return ContextPlace(kind=ContextKind.LAYOUT, value=value.removeprefix(LAYOUT_SCHEME))
    remote = _remote(value)
    if remote is None and "://" in value:
        raise UsageError(
            f"--build-context does not know the address {value!r}",
            code="bad-build-context",
            remedy="it may be a directory, docker-image://, oci-layout://, https:// or a git repository",
        )
    return remote or ContextPlace(kind=ContextKind.DIRECTORY, value=value)


def context_key(name: str) -> str:
    """What a name in the Dockerfile and one on the command line have in common: ``alpine`` and ``docker.io/library/alpine:latest``."""
    try:
        return parse_reference(name).familiar.removesuffix(":latest")
    except UsageError:
        return name.lower()


def parse_layout(text: str) -> tuple[str, str, str]:
    """``PATH[:TAG][@DIGEST]`` of an OCI layout: its three parts, empty where not written."""
    found = _LAYOUT_REFERENCE.fullmatch(text)
    assert found is not None
    return found["path"], found["tag"] or "", found["digest"] or ""
