"""Decides whether an archive's ``InRelease`` file is to be believed, and what it says. Bytes to value; fetches nothing.

Everything else of the archive is believed because its sha256 stands here. Only the bytes that the signature covers are
parsed: text around the signed part is dropped with the armour. Source: https://wiki.debian.org/DebianRepository/Format
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from types import MappingProxyType

from contain.annotations import Any
from contain.errors import IntegrityError, NotFound
from contain.oci import digest_of
from contain.paths import HostPath
from contain.values import dataclass

HOST_KEYRING = HostPath("/usr/share/keyrings/debian-archive-keyring.gpg")
_SIGNATURE = "debian-signature"
_RELEASE = "debian-release"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveFile:
    """A file of the archive as the signed Release file promises it. ``path`` is relative to the suite's directory."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One state of one suite. ``digest`` is of the signed text: it names the state."""

    suite: str
    codename: str
    version: str
    date_seconds: int
    valid_until_seconds: int | None
    acquire_by_hash: bool
    digest: str
    files: Mapping[str, ArchiveFile]


def shipped_keys() -> tuple[bytes, ...]:
    """The archive keys that come with contain, one OpenPGP certificate each."""
    place = importlib.resources.files("contain.build.debian") / "keys"
    return tuple(
        entry.read_bytes() for entry in sorted(place.iterdir(), key=lambda item: item.name) if entry.name.endswith(".pgp")
    )


def read_host_keyring(path: HostPath = HOST_KEYRING) -> tuple[bytes, ...]:
    """The host's own archive keyring, or nothing if it has none."""
    try:
        return (path.read_bytes(),)
    except OSError:
        return ()


def verify_inrelease(data: bytes, keyrings: Iterable[bytes]) -> bytes:
    """The signed text of an ``InRelease`` file, if a key of ``keyrings`` signed it.

    Raises `IntegrityError` (code ``debian-signature``) for everything else: no signature, an unknown, expired or revoked key,
    changed text.
    """
    import pysequoia

    certificates: list[pysequoia.Cert] = []
    for keyring in keyrings:
        try:
            certificates += pysequoia.Cert.split_bytes(keyring)
        except Exception as error:  # the library raises several unrelated types
            raise IntegrityError(f"an archive keyring cannot be read: {_first_line(error)}", code=_SIGNATURE) from error
    known = {certificate.fingerprint: certificate for certificate in certificates}

    def store(_key_ids: Sequence[str]) -> list[pysequoia.Cert]:
        return list(known.values())

    try:
        verified = pysequoia.verify(data, store)
    except Exception as error:
        raise IntegrityError(
            f"the Debian archive's Release file is not signed by a known archive key: {_first_line(error)}",
            code=_SIGNATURE,
            remedy="the mirror is broken or not a Debian archive; name another one, or update contain if Debian has new keys",
        ) from error
    if not verified.valid_sigs or verified.bytes is None:
        raise IntegrityError("the Debian archive's Release file has no valid signature", code=_SIGNATURE)
    return bytes(verified.bytes)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def parse_release(signed: bytes) -> Release:
    """The signed text of a Release file. Raises `IntegrityError` (code ``debian-release``) if a field that is needed is missing."""
    from debian import deb822

    def bad(why: str) -> IntegrityError:
        return IntegrityError(f"the Debian archive's Release file {why}", code=_RELEASE)

    fields: Any = deb822.Release(signed)
    files = {}
    try:
        for row in fields.get("SHA256", ()):
            file = ArchiveFile(path=row["name"], sha256=row["sha256"].lower(), size_bytes=int(row["size"]))
            files[file.path] = file
    except (KeyError, ValueError, TypeError) as error:
        raise bad(f"has a list of files that cannot be read: {error}") from error
    if not files:
        raise bad("promises no sha256 of any file")
    valid_until = fields.get("Valid-Until")
    return Release(
        suite=fields.get("Suite", ""),
        codename=fields.get("Codename", ""),
        version=fields.get("Version", ""),
        date_seconds=_seconds(fields.get("Date", ""), bad),
        valid_until_seconds=None if valid_until is None else _seconds(valid_until, bad),
        acquire_by_hash=fields.get("Acquire-By-Hash", "no") == "yes",
        digest=digest_of(signed),
        files=MappingProxyType(files),
    )


def _seconds(text: str, bad: Any) -> int:
    try:
        return int(parsedate_to_datetime(text).timestamp())
    except (TypeError, ValueError) as error:
        raise bad(f"has a date that cannot be read: {text!r}") from error


def check_release(release: Release, *, suite: str, point_release: str, now_seconds: float) -> None:
    """Is this the state that was asked for, and not too old?

    A mirror could hand out another suite's properly signed file, so the suite's name is part of what is checked. Raises
    `IntegrityError` (codes ``debian-wrong-suite``, ``debian-release-expired``), `NotFound` (``no-such-debian``) for a point
    release that the archive does not hold now.
    """
    if suite not in (release.codename, release.suite):
        raise IntegrityError(
            f"asked the Debian archive for {suite}, got {release.codename or release.suite or 'an unnamed suite'}",
            code="debian-wrong-suite",
        )
    if release.valid_until_seconds is not None and release.valid_until_seconds < now_seconds:
        raise IntegrityError(
            f"the Debian archive's Release file of {release.codename} has expired",
            code="debian-release-expired",
            remedy="the mirror is out of date, or this machine's clock is wrong",
        )
    if point_release and release.version != point_release:
        raise NotFound(
            f"debian:{point_release} is not in the archive, which holds {release.version} now",
            code="no-such-debian",
            remedy=f"write debian:{release.version}, or debian:{release.codename} for whatever the archive holds",
        )


def find_package_index(release: Release, architecture: str) -> ArchiveFile:
    """The promised list of the main component's packages. Raises `IntegrityError` (code ``debian-release``) if there is none."""
    for compression in ("xz", "gz"):
        found = release.files.get(f"main/binary-{architecture}/Packages.{compression}")
        if found is not None:
            return found
    raise IntegrityError(f"the Debian archive has no packages of {release.codename} for {architecture}", code=_RELEASE)
