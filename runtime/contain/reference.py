"""Which image is meant: names as people write them, normalised.

Grammar: https://github.com/distribution/reference (``reference.go``, ``normalize.go``). Text to value; looks nothing up.
"""

from __future__ import annotations

import re

from contain.errors import UsageError
from contain.values import dataclass

# Texts, compiled when they are first wanted: that takes longer than all else that is done with a name.
_DOMAIN_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_TAG = r"\w[\w.-]{0,127}"
_DIGEST = r"sha256:[a-f0-9]{64}"
_LONGEST_NAME = 255

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A normalised image name: ``domain/path[:tag][@digest]``. With neither tag nor digest written, the tag is ``latest``."""

    domain: str
    path: str
    tag: str | None
    digest: str | None = None

    @property
    def name(self) -> str:
        """Domain and path, the repository's full name."""
        return f"{self.domain}/{self.path}"

    def __str__(self) -> str:
        text = self.name
        if self.tag is not None:
            text += f":{self.tag}"
        if self.digest is not None:
            text += f"@{self.digest}"
        return text

    @property
    def familiar(self) -> str:
        """The short form that people type: without ``docker.io`` and ``library/``."""
        text = str(self)
        if self.domain == DEFAULT_DOMAIN:
            text = text.removeprefix(f"{DEFAULT_DOMAIN}/").removeprefix("library/")
        return text


def is_tag(text: str) -> bool:
    """Whether a registry can have it as a tag."""
    return re.fullmatch(_TAG, text, re.ASCII) is not None


def _is_path(text: str) -> bool:
    return all(re.fullmatch(_COMPONENT, part) for part in text.split("/"))


def parse_reference(text: str) -> Reference:
    """Parse ``python``, ``python:3.12-slim``, ``localhost:5000/app@sha256:…``.

    Raises `UsageError` naming what is wrong (code ``bad-reference``).
    """

    def bad(why: str, remedy: str = "") -> UsageError:
        return UsageError(f"invalid reference format: {text!r}: {why}", code="bad-reference", remedy=remedy)

    if not text:
        raise bad("an image name is empty")
    rest, digest = text, None
    if "@" in rest:
        rest, digest = rest.split("@", 1)
        if not re.fullmatch(_DIGEST, digest):
            raise bad("the digest must be sha256: and 64 hexadecimal digits")
    head, slash, tail = rest.partition("/")
    if slash and ("." in head or ":" in head or head == "localhost" or head.lower() != head):
        domain, remainder = head, tail
    else:
        domain, remainder = DEFAULT_DOMAIN, rest
    if domain in ("index.docker.io", "registry-1.docker.io"):
        domain = DEFAULT_DOMAIN
    tag: str | None = None
    if ":" in remainder:
        remainder, tag = remainder.rsplit(":", 1)
        if not is_tag(tag):
            raise bad(f"{tag!r} is not a tag", "a tag has letters, digits, '_', '.', '-', at most 128 of them")
    if domain != DEFAULT_DOMAIN and not re.fullmatch(_DOMAIN, domain):
        raise bad(f"{domain!r} is not a registry host")
    if remainder != remainder.lower() and _is_path(remainder.lower()):
        raise bad("repository name must be lowercase", f"write {text.lower()!r}")
    if not _is_path(remainder):
        raise bad(f"{remainder!r} is not a repository name")
    if domain == DEFAULT_DOMAIN and "/" not in remainder:
        remainder = f"library/{remainder}"
    if len(domain) + 1 + len(remainder) > _LONGEST_NAME:
        raise bad(f"the name is longer than {_LONGEST_NAME} characters")
    if tag is None and digest is None:
        tag = DEFAULT_TAG
    return Reference(domain=domain, path=remainder, tag=tag, digest=digest)
