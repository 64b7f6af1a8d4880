"""Package managers' own databases, from text to values: what is installed, and which package owns which path.

Decides only; `capture` reads the files. Text comes from inside an image and is not trusted: what cannot be understood is
left out by the parser and never raises.
"""

from __future__ import annotations

import csv
import json
import posixpath
import re
from collections.abc import Iterator, Mapping

from contain.environment.facts import Package


def parse_paragraphs(text: str) -> Iterator[dict[str, str]]:
    """Debian control paragraphs, folded lines joined. Source: deb822(5)."""
    for block in re.split(r"\n(?:[ \t]*\n)+", text.replace("\r\n", "\n")):
        fields: dict[str, str] = {}
        name = ""
        for line in block.split("\n"):
            if line[:1] in {" ", "\t"} and name:
                fields[name] += "\n" + line.strip()
            elif ":" in line and line[:1] != "#":
                name, _, value = line.partition(":")
                fields.setdefault(name, value.strip())
        if fields:
            yield fields


def parse_dpkg_status(text: str) -> dict[str, tuple[Package, ...]]:
    """Installed packages of ``/var/lib/dpkg/status`` (or of one file in ``status.d``, which has no Status field).

    A package that was removed but still has its configuration is not installed. ``place`` is the architecture.
    """
    found: dict[str, list[Package]] = {}
    for fields in parse_paragraphs(text):
        name, version = fields.get("Package"), fields.get("Version")
        if name and version and fields.get("Status", "install ok installed").endswith(" installed"):
            found.setdefault(name, []).append(Package(version=version, place=fields.get("Architecture", "")))
    return {name: tuple(sorted(set(installs))) for name, installs in found.items()}


def parse_dpkg_list(text: str) -> list[str]:
    """The absolute paths of one ``info/*.list``."""
    return [line for line in text.split("\n") if line.startswith("/") and line != "/."]


def parse_md5sums(text: str) -> list[str]:
    """The absolute paths of one ``md5sums`` file (distroless images have no ``.list``)."""
    return ["/" + path.lstrip("./") for _, _, path in (line.partition("  ") for line in text.split("\n")) if path]


def parse_diversions(text: str) -> dict[str, tuple[str, str]]:
    """``/var/lib/dpkg/diversions``: the path in the lists -> (where it really is, the package that diverted it)."""
    lines = text.split("\n")
    return {lines[at]: (lines[at + 1], lines[at + 2]) for at in range(0, len(lines) - 2, 3) if lines[at].startswith("/")}


def parse_apk_installed(text: str) -> tuple[dict[str, tuple[Package, ...]], dict[str, str]]:
    """``/lib/apk/db/installed``: the packages, and path -> package name. Source: apk-tools, ``doc/apk-package.5``."""
    packages: dict[str, tuple[Package, ...]] = {}
    owners: dict[str, str] = {}
    for block in text.split("\n\n"):
        fields: dict[str, str] = {}
        directory = ""
        for line in block.split("\n"):
            key, colon, value = line.partition(":")
            if not colon:
                continue
            if key == "F":
                directory = "/" + value.strip("/")
            elif key == "R" and "P" in fields:
                owners[posixpath.join(directory or "/", value)] = fields["P"]
            else:
                fields.setdefault(key, value)
        if "P" in fields and "V" in fields:
            packages[fields["P"]] = (Package(version=fields["V"], place=fields.get("A", "")),)
    return packages, owners


def normal_python_name(name: str) -> str:
    """The one spelling of a distribution's name. Source: PyPA, "Names and normalization"."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_python_metadata(text: str) -> tuple[str, str] | None:
    """(normal name, version) of a METADATA or PKG-INFO file."""
    head = text.replace("\r\n", "\n").partition("\n\n")[0]
    fields: dict[str, str] = {}
    for line in head.split("\n"):
        key, colon, value = line.partition(":")
        if colon and line[:1] not in {" ", "\t"}:
            fields.setdefault(key.lower(), value.strip())
    if not fields.get("name") or not fields.get("version"):
        return None
    return normal_python_name(fields["name"]), fields["version"]


def parse_record(text: str, directory: str) -> list[str]:
    """The absolute paths of a RECORD whose distribution is installed in ``directory``. Source: PyPA, "Recording installed projects"."""
    try:
        rows = [row[0] for row in csv.reader(text.splitlines()) if row and row[0]]
    except csv.Error:
        return []
    return [posixpath.normpath(posixpath.join(directory, path)) for path in rows]


def parse_direct_url(text: str) -> str:
    """``editable``, ``from a local directory``, ``from <vcs> <commit>`` or ``from <url>``, of a direct_url.json (PEP 610)."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(value, dict):
        return ""
    directory, version_control = value.get("dir_info"), value.get("vcs_info")
    if isinstance(directory, dict):
        return "editable" if directory.get("editable") else "from a local directory"
    if isinstance(version_control, dict):
        return f"from {version_control.get('vcs', 'vcs')} {str(version_control.get('commit_id', ''))[:12]}".strip()
    return "from an archive"


def parse_package_json(text: str) -> str | None:
    """The version in a package.json; None if there is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    version = value.get("version") if isinstance(value, dict) else None
    return version if isinstance(version, str) else None


def parse_os_release(text: str) -> dict[str, str]:
    """``NAME="value"`` lines, quotes removed. Source: os-release(5)."""
    found = {}
    for line in text.split("\n"):
        name, equals, value = line.strip().partition("=")
        if equals and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
                value = value[1:-1]
            found[name] = re.sub(r"\\(.)", r"\1", value)
    return found


def parse_accounts(text: str, *, fields: tuple[int, ...]) -> dict[str, str]:
    """``/etc/passwd`` or ``/etc/group``: name -> the chosen colon-separated fields joined again. Never the password field."""
    found = {}
    for line in text.split("\n"):
        parts = line.split(":")
        if len(parts) > max(fields) and parts[0] and not line.startswith("#"):
            found[parts[0]] = ":".join(parts[index] for index in fields)
    return found


_IMPORT_DIRECTORY = re.compile(r"/(?:site-packages|dist-packages)$")
_PYTHON_METADATA = re.compile(r"^(?P<place>/.*)/(?P<info>[^/]+\.(?:dist-info/METADATA|egg-info/PKG-INFO|egg-info))$")
_NODE_PACKAGE = re.compile(r"^(?P<place>/(?:(?!node_modules/).)*lib/node_modules)/(?P<name>(?:@[^/]+/)?[^/]+)/package\.json$")


def python_metadata_place(path: str) -> str | None:
    """The import directory if ``path`` is the metadata of a distribution which can be imported; vendored copies are not."""
    if not path.endswith(("/METADATA", "/PKG-INFO", ".egg-info")):
        return None
    match = _PYTHON_METADATA.match(path)
    return match["place"] if match and _IMPORT_DIRECTORY.search(match["place"]) else None


def node_package_place(path: str) -> tuple[str, str] | None:
    """(directory of global modules, package name) if ``path`` is the package.json of a globally installed npm package."""
    if not path.endswith("/package.json"):
        return None
    match = _NODE_PACKAGE.match(path)
    return (match["place"], match["name"]) if match else None


_DEEPEST = 200  # directories; a deeper path in a package's list is an attack on the recursion below, not a package


def owners_through_links(owners: Mapping[str, str], links: Mapping[str, str]) -> dict[str, str]:
    """Owners by the path at which the file really is: package lists say ``/bin/ls`` where ``/bin`` is a link to ``usr/bin``.

    ``links``: every symbolic link of the root with its target. Only directories are followed, at most 16 links each.
    """
    resolved: dict[str, str] = {"/": "/"}

    def real(directory: str, depth: int) -> str:
        directory = directory[1:] if directory.startswith("//") else directory
        known = resolved.get(directory)
        if known is not None:
            return known
        if depth > 16 or directory.count("/") > _DEEPEST:
            return directory
        parent = real(posixpath.dirname(directory), depth)
        path = posixpath.join(parent, posixpath.basename(directory))
        target = links.get(path)
        if target is not None:
            path = real(posixpath.normpath(posixpath.join(parent, target)), depth + 1)
        resolved[directory] = path
        return path

    found: dict[str, str] = {}
    for path, owner in owners.items():
        if not path.startswith("/") or path.count("/") > _DEEPEST:
            continue
        found.setdefault(posixpath.join(real(posixpath.dirname(path), 0), posixpath.basename(path)), owner)
    return found
