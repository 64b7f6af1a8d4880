"""Reads what is installed in a root file system, with what a bill of materials wants to know of it: licences, checksums, places.

The package databases are those that `contain.environment` knows, and on top of them the modules of Node.js applications, which
have no global place. Reads through a `RootFiles` view, executes nothing, follows no link out of the root. A database that is there and
cannot be read is named in ``unread``: an incomplete list must say that it is one.
"""

from __future__ import annotations

import base64
import binascii
import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from contain.attestation.licences import Licences, parse_debian_copyright, parse_expression, parse_python_licence
from contain.attestation.purl import package_url
from contain.environment.capture import RootFiles, list_names, read_text
from contain.environment.packages import (
    parse_os_release,
    parse_paragraphs,
    parse_python_metadata,
    python_metadata_place,
)
from contain.values import dataclass, field

_DATABASE_LIMIT_BYTES = 64 << 20
_NODE_PACKAGE = re.compile(r"^(?P<place>/(?:.*/)?node_modules)/(?P<name>(?:@[^/]+/)?[^/@.][^/]*)/package\.json\Z")
_RPM_PLACES = ("/var/lib/rpm", "/usr/lib/sysimage/rpm", "/usr/share/rpm")
_ALGORITHMS = {"sha1": 40, "sha256": 64, "sha384": 96, "sha512": 128}


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One installed package. ``manager`` as in `contain.environment` (dpkg, apk, python, npm).

    ``places``: directories, for what may be installed more than once. ``checksums``: of the archive that it was installed from, by
    algorithm, where the image says so. ``architecture`` and ``source`` (the source package's name): dpkg and apk.
    ``local``: installed from a directory, an archive or a repository, so that no index knows it; says which.
    """

    manager: str
    name: str
    version: str
    purl: str
    architecture: str = ""
    source: str = ""
    places: tuple[str, ...] = ()
    licences: Licences = field(default_factory=Licences)
    checksums: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    local: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingSystem:
    """Of os-release(5): ``identity`` is ID, ``version`` VERSION_ID."""

    identity: str
    version: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """Everything that is installed, sorted by manager, name and version. ``unread``: what is there and is not read, with the reason."""

    components: tuple[Component, ...]
    system: OperatingSystem | None = None
    unread: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def versions(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """manager -> name -> versions, all sorted."""
        found: dict[str, dict[str, set[str]]] = {}
        for component in self.components:
            found.setdefault(component.manager, {}).setdefault(component.name, set()).add(component.version)
        return {
            manager: {name: tuple(sorted(versions)) for name, versions in sorted(names.items())}
            for manager, names in sorted(found.items())
        }


def take_inventory(view: RootFiles, *, details: bool = True) -> Inventory:
    """What is installed in a root. ``details``: read licences and checksums too, which costs a file for each package."""
    unread: dict[str, str] = {}
    python, node = [], []
    for entry in view.walk():
        if str(getattr(entry.kind, "value", entry.kind)) != "file":
            continue
        path = "/" + str(entry.path).strip("/")
        if (place := python_metadata_place(path)) is not None:
            python.append((path, place))
        elif path.endswith("/package.json") and (match := _NODE_PACKAGE.match(path)) is not None:
            node.append((path, match["place"], match["name"]))
    system = _system(view)
    found = [*_dpkg(view, system, unread, details), *_apk(view, system, unread)]
    found += _python(view, python, unread, details)
    found += _npm(view, node, unread, details)
    for place in _RPM_PLACES:
        if any(name.lower().startswith(("packages", "rpmdb.sqlite")) for name in list_names(view, place)):
            unread["rpm"] = f"the RPM database in {place} is not read yet"
    return Inventory(
        components=tuple(sorted(_merged(found), key=lambda each: (each.manager, each.name, each.version, each.purl))),
        system=system,
        unread=MappingProxyType(dict(sorted(unread.items()))),
    )


def _merged(found: list[Component]) -> Iterator[Component]:
    """One component for each package URL, with all places at which it is installed."""
    from contain.values import replace

    groups: dict[tuple[str, str], list[Component]] = {}
    for component in found:
        groups.setdefault((component.purl, component.local), []).append(component)
    for group in groups.values():
        places = tuple(sorted({place for component in group for place in component.places}))
        best = max(group, key=lambda each: (len(each.checksums), each.places))
        yield replace(best, places=places)


def _system(view: RootFiles) -> OperatingSystem | None:
    text = read_text(view, "/etc/os-release")
    fields = parse_os_release(text if text is not None else read_text(view, "/usr/lib/os-release") or "")
    if not fields.get("ID"):
        return None
    title = fields.get("PRETTY_NAME") or fields.get("NAME") or fields["ID"]
    return OperatingSystem(identity=fields["ID"], version=fields.get("VERSION_ID", ""), title=title)


def _distribution(system: OperatingSystem | None) -> tuple[str, str]:
    """The namespace and the ``distro`` qualifier of a system's packages."""
    if system is None:
        return "", ""
    return system.identity, f"{system.identity}-{system.version}" if system.version else system.identity


def _dpkg(view: RootFiles, system: OperatingSystem | None, unread: dict[str, str], details: bool) -> Iterator[Component]:
    texts = []
    if "status" in list_names(view, "/var/lib/dpkg"):
        text = read_text(view, "/var/lib/dpkg/status", _DATABASE_LIMIT_BYTES)
        if text is None:
            unread["dpkg"] = "/var/lib/dpkg/status cannot be read"
        texts.append(text or "")
    records = [name for name in list_names(view, "/var/lib/dpkg/status.d") if not name.endswith(".md5sums")]
    texts.extend(read_text(view, f"/var/lib/dpkg/status.d/{name}") or "" for name in records)
    namespace, distribution = _distribution(system)
    for database in texts:
        for fields in parse_paragraphs(database):
            name, version = fields.get("Package"), fields.get("Version")
            if not name or not version or not fields.get("Status", "install ok installed").endswith(" installed"):
                continue
            architecture = fields.get("Architecture", "")
            source = fields.get("Source", "").partition(" ")[0]
            licences = Licences()
            if details:
                licences = parse_debian_copyright(read_text(view, f"/usr/share/doc/{name}/copyright") or "")
            yield Component(
                manager="dpkg",
                name=name,
                version=version,
                architecture=architecture,
                source=source,
                licences=licences,
                purl=package_url(
                    "deb",
                    name,
                    version,
                    namespace=namespace or "debian",
                    qualifiers={"arch": architecture, "distro": distribution},
                ),
            )


def _apk(view: RootFiles, system: OperatingSystem | None, unread: dict[str, str]) -> Iterator[Component]:
    namespace, distribution = _distribution(system)
    for directory in ("/lib/apk/db", "/usr/lib/apk/db"):
        if "installed" not in list_names(view, directory):
            continue
        text = read_text(view, f"{directory}/installed", _DATABASE_LIMIT_BYTES)
        if text is None:
            unread["apk"] = f"{directory}/installed cannot be read"
            continue
        for block in text.split("\n\n"):
            fields = dict(line.split(":", 1) for line in reversed(block.split("\n")) if line[1:2] == ":")
            name, version = fields.get("P"), fields.get("V")
            if not name or not version:
                continue
            architecture = fields.get("A", "")
            yield Component(
                manager="apk",
                name=name,
                version=version,
                architecture=architecture,
                source=fields.get("o", ""),
                licences=parse_expression(fields.get("L", "")),
                purl=package_url(
                    "apk",
                    name,
                    version,
                    namespace=namespace or "alpine",
                    qualifiers={"arch": architecture, "distro": distribution},
                ),
            )
        return


def _python(view: RootFiles, metadata: list[tuple[str, str]], unread: dict[str, str], details: bool) -> Iterator[Component]:
    for path, place in metadata:
        text = read_text(view, path)
        parsed = None if text is None else parse_python_metadata(text)
        if text is None or parsed is None:
            unread["python"] = f"{path} cannot be read"
            continue
        name, version = parsed
        checksums, local = _direct_url(read_text(view, f"{posixpath.dirname(path)}/direct_url.json") or "")
        yield Component(
            manager="python",
            name=name,
            version=version,
            places=(place,),
            licences=parse_python_licence(text) if details else Licences(),
            checksums=checksums,
            local=local,
            purl=package_url("pypi", name, version),
        )


def _direct_url(text: str) -> tuple[Mapping[str, str], str]:
    """Checksums and origin of a distribution that came from no index. Source: PyPA, "Recording the Direct URL Origin"."""
    value = _json(text)
    if not value:
        return MappingProxyType({}), ""
    archive, repository = value.get("archive_info"), value.get("vcs_info")
    if isinstance(archive, dict):
        hashes = archive.get("hashes")
        rows = dict(hashes) if isinstance(hashes, dict) else {}
        algorithm, equals, digest = str(archive.get("hash", "")).partition("=")
        if equals:
            rows.setdefault(algorithm, digest)
        return _checksums(rows), "an archive"
    if isinstance(repository, dict):
        return MappingProxyType({}), f"{repository.get('vcs', 'vcs')} {repository.get('commit_id', '')}".strip()
    return MappingProxyType({}), "a directory"


def _npm(view: RootFiles, packages: list[tuple[str, str, str]], unread: dict[str, str], details: bool) -> Iterator[Component]:
    locked: dict[str, Mapping[str, str]] = {}
    if details:
        for place in sorted({place for _, place, _ in packages}):
            locked.update(_hidden_lock(read_text(view, f"{place}/.package-lock.json", _DATABASE_LIMIT_BYTES) or "", place))
    for path, place, name in packages:
        value = _json(read_text(view, path) or "")
        version = value.get("version")
        if not isinstance(version, str) or not version:
            if not value:
                unread["npm"] = f"{path} cannot be read"
            continue  # a package.json that only marks a directory's kind of modules
        scope, slash, bare = name.rpartition("/")
        licence = value.get("license")
        if isinstance(licence, dict):
            licence = licence.get("type")
        yield Component(
            manager="npm",
            name=name,
            version=version,
            places=(place,),
            licences=parse_expression(licence) if details and isinstance(licence, str) else Licences(),
            checksums=locked.get(posixpath.dirname(path), MappingProxyType({})),
            purl=package_url("npm", bare if slash else name, version, namespace=scope),
        )


def _hidden_lock(text: str, place: str) -> dict[str, Mapping[str, str]]:
    """Directory -> checksums, of the lock that npm keeps in ``node_modules``. Source: npm, package-lock.json, "Hidden Lockfiles"."""
    rows = _json(text).get("packages")
    found = {}
    for where, row in (rows if isinstance(rows, dict) else {}).items():
        integrity = row.get("integrity") if isinstance(row, dict) else None
        if isinstance(integrity, str):
            sums = {}
            for word in integrity.split():
                algorithm, _, encoded = word.partition("-")
                try:
                    sums[algorithm] = base64.b64decode(encoded.partition("?")[0], validate=True).hex()
                except (binascii.Error, ValueError):
                    continue
            found[posixpath.join(posixpath.dirname(place), str(where))] = _checksums(sums)
    return found


def _checksums(rows: Mapping[str, object]) -> Mapping[str, str]:
    """Those that are well-formed and of a known algorithm."""
    return MappingProxyType(
        {
            algorithm: digest.lower()
            for algorithm, digest in sorted(rows.items())
            if isinstance(digest, str) and re.fullmatch(f"[0-9a-fA-F]{{{_ALGORITHMS.get(algorithm, 0)}}}", digest) and digest
        }
    )


def _json(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
