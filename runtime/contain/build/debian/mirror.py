"""Decides which Debian mirrors to try: the configured one, else those of the host's apt sources and then the default.

Text to value, and one doer that reads the host's apt files. Never decides by asking a network.
Source: sources.list(5), both of its formats.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping

from contain.annotations import Any
from contain.errors import UsageError
from contain.paths import HostPath
from contain.values import dataclass

DEFAULT_MIRROR = "http://deb.debian.org/debian"
DEFAULT_SNAPSHOTS = "https://snapshot.debian.org/archive/debian"
APT_DIRECTORY = HostPath("/etc/apt")

_SUITES = frozenset(
    {"trixie", "bookworm", "bullseye", "forky", "sid", "stable", "oldstable", "oldoldstable", "testing", "unstable"}
)
# The last part of a main archive's address. Other archives use Debian's suite names too; they do not call themselves debian.
_ARCHIVE_PATH = re.compile(r"/(?:debian|archive/debian/\d{8}T\d{6}Z)$")
_ONE_LINE = re.compile(r"^deb\s+(?:\[[^\]]*\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class AptSource:
    """One enabled binary source: an archive's address, one suite of it, and the components."""

    uri: str
    suite: str
    components: tuple[str, ...]


def parse_one_line_sources(text: str) -> tuple[AptSource, ...]:
    """The ``deb`` lines of a ``sources.list``. Lines that are not understood are passed over, as they are not ours to judge."""
    found = []
    for line in text.splitlines():
        match = _ONE_LINE.match(line.partition("#")[0].strip())
        if match:
            found.append(AptSource(uri=match["uri"], suite=match["suite"], components=tuple(match["components"].split())))
    return tuple(found)


def parse_deb822_sources(text: str) -> tuple[AptSource, ...]:
    """The enabled ``deb`` stanzas of a ``*.sources`` file, one value for each address and suite."""
    from debian import deb822

    found = []
    for stanza in deb822.Deb822.iter_paragraphs(text, use_apt_pkg=False):
        if stanza.get("Enabled", "yes").strip().lower() in ("no", "false", "0", "off", "without", "disable"):
            continue
        if "deb" not in stanza.get("Types", "").split():
            continue
        components = tuple(stanza.get("Components", "").split())
        for uri in stanza.get("URIs", "").split():
            found += [AptSource(uri=uri, suite=suite, components=components) for suite in stanza.get("Suites", "").split()]
    return tuple(found)


def parse_apt_proxies(text: str) -> dict[str, str]:
    """``Acquire::http::Proxy "…";`` lines of an ``apt.conf``: scheme to proxy, without ``DIRECT``. Source: apt-transport-http(1)."""
    rows = re.findall(r'^\s*Acquire::(https?)::Proxy\s+"([^"]*)"\s*;', text, re.MULTILINE | re.IGNORECASE)
    return {scheme.lower(): address for scheme, address in rows if address and address.upper() != "DIRECT"}


def choose_mirrors(configured: str | None, sources: Iterable[AptSource]) -> tuple[str, ...]:
    """Addresses to try in order, without a slash at the end.

    A configured mirror is the only one: who names one wants no other. Of the host's sources only those count that are a
    Debian archive's main component over HTTP. Raises `UsageError` (code ``bad-mirror``) if the configured one is no HTTP address.
    """
    if configured:
        address = configured.rstrip("/")
        if not re.match(r"^https?://[^/\s]+(/\S*)?$", address):
            raise UsageError(f"the Debian mirror {configured!r} is not an http or https address", code="bad-mirror")
        return (address,)
    mirrors = []
    for source in sources:
        address = source.uri.rstrip("/")
        suite = source.suite.removesuffix("-updates")
        if (
            address.startswith(("http://", "https://"))
            and _ARCHIVE_PATH.search(address)
            and suite in _SUITES
            and "main" in source.components
        ):
            mirrors.append(address)
    return tuple(dict.fromkeys([*mirrors, DEFAULT_MIRROR]))


def _read(path: HostPath) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _names(directory: HostPath) -> tuple[HostPath, ...]:
    try:
        return tuple(sorted(directory.iterdir()))
    except OSError:
        return ()


def read_host_sources(apt: HostPath = APT_DIRECTORY) -> tuple[AptSource, ...]:
    """The host's own apt sources; nothing on a host without apt."""
    found = [*parse_one_line_sources(_read(apt / "sources.list"))]
    for path in _names(apt / "sources.list.d"):
        if path.suffix == ".list":
            found += parse_one_line_sources(_read(path))
        elif path.suffix == ".sources":
            found += parse_deb822_sources(_read(path))
    return tuple(found)


def read_host_proxies(apt: HostPath = APT_DIRECTORY) -> dict[str, str]:
    """Scheme to proxy, as the host's apt is told. The environment's proxies come before these."""
    found: dict[str, str] = {}
    for path in (*_names(apt / "apt.conf.d"), apt / "apt.conf"):
        found.update(parse_apt_proxies(_read(path)))
    return found


def parse_debian_table(table: Mapping[str, Any]) -> str | None:
    """``mirror`` of the configuration file's ``[debian]`` table. Raises `UsageError` (code ``bad-configuration``)."""
    unknown = sorted(set(table) - {"mirror", "snapshots"})
    if unknown:
        raise UsageError(
            f"[debian] has an unknown setting {unknown[0]!r}", code="bad-configuration", remedy="known: mirror, snapshots"
        )
    mirror = table.get("mirror")
    if mirror is not None and not isinstance(mirror, str):
        raise UsageError("[debian] mirror must be a string", code="bad-configuration")
    return mirror


def parse_debian_snapshots(table: Mapping[str, Any]) -> str:
    """``snapshots`` of the ``[debian]`` table: where an archive's earlier states are; empty: nowhere. Raises `UsageError`."""
    address = table.get("snapshots", DEFAULT_SNAPSHOTS)
    if not isinstance(address, str) or (address and not re.match(r"^https?://[^/\s]+(/\S*)?$", address)):
        raise UsageError("[debian] snapshots must be an http or https address, or empty", code="bad-configuration")
    return address.rstrip("/")


def snapshot_mirrors(address: str, date_seconds: int) -> tuple[str, ...]:
    """Mirrors as they were soon after a Release file's date, the likeliest first.

    A state is published some hours after the date in its Release file. A stable suite then stays as it is for weeks. Source:
    https://snapshot.debian.org/: any time stands for the last state before it.
    """
    if not address:
        return ()
    times = (time.gmtime(date_seconds + hours * 3600) for hours in (24, 6, 2))
    return tuple(f"{address}/{time.strftime('%Y%m%dT%H%M%SZ', each)}" for each in times)
