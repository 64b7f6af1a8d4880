"""Decides which Debian release an image's tag means, and for which architecture. Text to value; asks no archive."""

from __future__ import annotations

import difflib
import re

from contain.errors import NotFound, NotSupported
from contain.reference import DEFAULT_DOMAIN, Reference
from contain.values import dataclass

_REPOSITORY = "library/debian"
_POINT_RELEASE = re.compile(r"^(\d+)\.(\d+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class DebianRelease:
    """What differs between the releases as far as a base image is concerned.

    ``merged_usr``: ``/bin``, ``/lib``, ``/sbin`` are links into ``/usr``. Packages before bookworm work either way, and
    the images that people know as ``debian:bullseye`` are not merged. ``deb822_sources``: the release's own form of apt's sources.
    """

    codename: str
    version: str
    merged_usr: bool
    deb822_sources: bool


RELEASES = {
    release.codename: release
    for release in (
        DebianRelease(codename="trixie", version="13", merged_usr=True, deb822_sources=True),
        DebianRelease(codename="bookworm", version="12", merged_usr=True, deb822_sources=True),
        DebianRelease(codename="bullseye", version="11", merged_usr=False, deb822_sources=False),
    )
}
"""The releases that can be bootstrapped, newest first."""

ALIASES = {"latest": "stable", "stable": "stable", "oldstable": "oldstable", "oldoldstable": "oldoldstable"}
"""Tags whose release the archive itself names (its ``Codename`` field)."""

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedSuite:
    """What a tag asks for: ``suite`` is a directory below ``dists/``; ``point_release`` (``12.11``) is empty if any will do."""

    suite: str
    point_release: str = ""


def resolve_suite(reference: Reference) -> WantedSuite | None:
    """The suite that ``debian:TAG`` means, or None if the reference is not a Debian image of Docker's official set.

    A digest is a registry's promise that no archive can keep: None as well. Raises `NotFound` (code ``no-such-debian``) for a
    Debian tag that is not known here, with the nearest one that is.
    """
    if reference.domain != DEFAULT_DOMAIN or reference.path != _REPOSITORY or reference.digest is not None:
        return None
    assert reference.tag is not None  # a reference without digest has a tag
    tag = reference.tag.removesuffix("-slim")
    if tag in ALIASES:
        return WantedSuite(suite=ALIASES[tag])
    if tag in RELEASES:
        return WantedSuite(suite=tag)
    by_version = {release.version: release.codename for release in RELEASES.values()}
    if tag in by_version:
        return WantedSuite(suite=by_version[tag])
    point = _POINT_RELEASE.match(tag)
    if point and point[1] in by_version:
        return WantedSuite(suite=by_version[point[1]], point_release=tag)
    known = [*RELEASES, *by_version, *ALIASES]
    near = difflib.get_close_matches(tag, known, n=1)
    raise NotFound(
        f"debian:{reference.tag} cannot be bootstrapped from a Debian archive; known are {', '.join(known)}, and each with -slim",
        code="no-such-debian",
        remedy=f"did you mean debian:{near[0]}?" if near else "",
    )


def debian_architecture(machine: str) -> str:
    """Debian's name of the machine that ``uname -m`` calls ``machine``. Raises `NotSupported` (code ``no-such-architecture``)."""
    if machine not in _ARCHITECTURES:
        raise NotSupported(f"a Debian base for the architecture {machine} is not supported yet", code="no-such-architecture")
    return _ARCHITECTURES[machine]
