"""Read the facts of a root file system that is not running: packages, files, users, locales, image config.

The doer of image facts. It reads through a `RootFiles` view (an image's merged layers, or a plain directory) and never
executes anything of it, never writes, never follows a link out of the root. Facts that it cannot read are recorded as missing.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Literal  # noqa: TID251 - the alias is evaluated

from contain.annotations import BinaryIO, Protocol
from contain.environment import packages as read
from contain.environment.facts import UNREADABLE, Environment, FileFact, Identity, Package, Value, frozen, protect_variable
from contain.environment.plain_directory import DirectoryFiles
from contain.environment.probe import locale_archive_names
from contain.errors import ContainError
from contain.oci import Image, ImageConfig
from contain.values import dataclass, field

FileScope = Literal["all", "packages-only", "none"]

_DATABASE_LIMIT_BYTES = 64 << 20
_METADATA_LIMIT_BYTES = 1 << 20
_RECORD_LIMIT_BYTES = 32 << 20

HOST_SKIPS = ("/proc", "/sys", "/dev", "/run", "/tmp", "/var/run", "/var/tmp", "/mnt", "/media")
"""Directories of a running machine that hold its state and devices, not its environment."""


class FileEntry(Protocol):
    """One path of a root, as `contain.store.RootView` and `DirectoryFiles` give it."""

    @property
    def path(self) -> PurePosixPath | str: ...  # noqa: D102
    @property
    def kind(self) -> object: ...  # noqa: D102 - an enumeration's member or its value
    @property
    def mode(self) -> int: ...  # noqa: D102
    @property
    def uid(self) -> int: ...  # noqa: D102
    @property
    def gid(self) -> int: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def host_stat(self) -> os.stat_result: ...  # noqa: D102
    @property
    def link_target(self) -> str: ...  # noqa: D102
    def open(self) -> BinaryIO: ...  # noqa: D102


class RootFiles(Protocol):
    """A readable root file system."""

    def walk(self) -> Iterator[FileEntry]:
        """Every path, sorted, without whiteouts."""

    def read(self, path: str, *, limit_bytes: int) -> bytes:
        """A file's content; links are followed inside the root. `ContainError` or OSError if there is none."""

    def listdir(self, path: str) -> Sequence[str]:
        """The names in a directory. `ContainError` or OSError if there is none."""


class DigestCache(Protocol):
    """Remembers the sha256 of a file by what ``stat`` says about it (`contain.store` keeps one)."""

    def lookup(self, status: os.stat_result) -> str | None:
        """The digest that this very file had, if it was remembered."""

    def remember(self, status: os.stat_result, digest: str) -> None:
        """Keep it."""


@dataclass(slots=True)
class _Gathered:
    """What the walk collects before the value is frozen."""

    files: dict[str, FileFact] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    python_metadata: list[tuple[str, str]] = field(default_factory=list)
    node_packages: list[tuple[str, str, str]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def _sha256(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return "sha256:" + digest.hexdigest()


def file_digest(entry: FileEntry, cache: DigestCache | None) -> str:
    """``sha256:<hex>`` of an entry's content, `UNREADABLE` if it cannot be read."""
    try:
        known = cache.lookup(entry.host_stat) if cache is not None else None
        # The cache is shared with others, who may keep digests of another kind in it.
        if known is not None and known.startswith("sha256:"):
            return known
        with entry.open() as stream:
            digest = _sha256(stream)
    except (OSError, ContainError):
        return UNREADABLE
    if cache is not None:
        cache.remember(entry.host_stat, digest)
    return digest


def capture_image(
    image: Image,
    view: RootFiles,
    *,
    name: str,
    secret_key: bytes,
    source: str = "",
    digests: DigestCache | None = None,
    files: FileScope = "all",
) -> Environment:
    """The facts of an image: ``view`` is the merged view of its layers, ``source`` where its store says it came from."""
    identity = Identity(
        manifest_digest=image.digest,
        config_digest=image.manifest.config.digest,
        layer_digests=tuple(layer.digest for layer in image.manifest.layers),
        diff_ids=image.config.diff_ids,
        source=source,
    )
    return capture_root(
        view,
        name=name,
        kind="image",
        identity=identity,
        config=image.config,
        secret_key=secret_key,
        digests=digests,
        files=files,
    )


def capture_host(
    *,
    name: str = "host",
    secret_key: bytes,
    root: str = "/",
    skip: Sequence[str] = (),
    digests: DigestCache | None = None,
    files: FileScope = "packages-only",
) -> Environment:
    """The facts of this machine's own root. ``skip``: more directories to leave out, such as the store's."""
    skips = tuple(sorted({*HOST_SKIPS, *skip}))
    view = DirectoryFiles(root, skips=skips)
    return capture_root(view, name=name, kind="host", secret_key=secret_key, digests=digests, files=files, skips=skips)


def capture_root(
    view: RootFiles,
    *,
    name: str,
    kind: str,
    secret_key: bytes,
    identity: Identity | None = None,
    config: ImageConfig | None = None,
    digests: DigestCache | None = None,
    files: FileScope = "all",
    skips: Sequence[str] = (),
) -> Environment:
    """The facts of any root file system; with ``config`` also those of an image's config."""
    gathered = _Gathered()
    contents: dict[str, FileEntry] = {}
    for entry in view.walk():
        _gather(entry, gathered, contents)
    packages, owners = _read_packages(view, gathered)
    owners = read.owners_through_links(owners, gathered.links)
    _own_alternatives(owners, gathered.links)
    for path in sorted(gathered.files):
        fact = gathered.files[path]
        owner = owners.get(path, "") or _module_owner(path, gathered.node_packages)
        if files == "none" or (files == "packages-only" and not owner):
            del gathered.files[path]
            continue
        digest = file_digest(contents[path], digests) if path in contents else ""
        if owner or digest:
            gathered.files[path] = FileFact(
                kind=fact.kind,
                mode=fact.mode,
                uid=fact.uid,
                gid=fact.gid,
                size_bytes=fact.size_bytes,
                digest=digest,
                target=fact.target,
                device=fact.device,
                capabilities=fact.capabilities,
                package=owner,
            )
    facts: dict[str, Mapping[str, Value]] = {dimension: frozen(collect(view)) for dimension, collect in ROOT_COLLECTORS.items()}
    if config is not None:
        facts["image-config"] = frozen(config_facts(config, secret_key))
        facts["image-environment"] = frozen(
            {variable: protect_variable(variable, value, secret_key) for variable, value in config.environment}
        )
    return Environment(
        name=name,
        kind=kind,
        identity=identity or Identity(),
        packages=frozen({manager: frozen(found) for manager, found in packages.items()}),
        facts=frozen(facts),
        files=frozen(gathered.files),
        file_scope=files,
        file_skips=tuple(skips),
        missing=frozen(gathered.missing),
    )


def _gather(entry: FileEntry, gathered: _Gathered, contents: dict[str, FileEntry]) -> None:
    path = "/" + str(entry.path).strip("/")
    kind = str(getattr(entry.kind, "value", entry.kind))
    kind = "char" if kind == "character" else kind
    regular, link = kind == "file", kind == "symlink"
    attributes: Mapping[str, bytes] = getattr(entry, "xattrs", {})
    device = getattr(entry, "device", None)
    gathered.files[path] = FileFact(
        kind=kind,
        mode=0o777 if link else entry.mode & 0o7777,  # a link's own mode means nothing on Linux: symlink(7)
        uid=entry.uid,
        gid=entry.gid,
        size_bytes=entry.size if regular else 0,
        target=str(entry.link_target) if link else "",
        device=_device_text(device) if kind in {"char", "block"} else "",
        capabilities=attributes["security.capability"].hex() if "security.capability" in attributes else "",
    )
    if link:
        gathered.links[path] = str(entry.link_target)
    if not regular:
        return
    contents[path] = entry
    if (place := read.python_metadata_place(path)) is not None:
        gathered.python_metadata.append((path, place))
    elif (node := read.node_package_place(path)) is not None:
        gathered.node_packages.append((path, *node))


def _device_text(device: object) -> str:
    if isinstance(device, tuple) and len(device) == 2:
        return f"{device[0]}:{device[1]}"
    return f"{os.major(device)}:{os.minor(device)}" if isinstance(device, int) else ""


def read_text(view: RootFiles, path: str, limit_bytes: int = _METADATA_LIMIT_BYTES) -> str | None:
    """A file's text, whatever bytes it has; None where it cannot be read."""
    try:
        return view.read(path, limit_bytes=limit_bytes).decode("utf-8", "replace")
    except (OSError, ContainError):
        return None


def list_names(view: RootFiles, path: str) -> list[str]:
    """The names in a directory, sorted; none where it cannot be read."""
    try:
        return sorted(str(name) for name in view.listdir(path))
    except (OSError, ContainError):
        return []


_Packages = dict[str, dict[str, tuple[Package, ...]]]
_Owners = dict[str, str]


def _read_packages(view: RootFiles, gathered: _Gathered) -> tuple[_Packages, _Owners]:
    """Every package manager's set, and path -> ``manager:name``. The system's manager wins over a language's."""
    packages: _Packages = {}
    owners: _Owners = {}
    for manager, collect in PACKAGE_COLLECTORS.items():
        found, owned = collect(view, gathered)
        packages[manager] = found
        for path, name in owned.items():
            owners.setdefault(path, f"{manager}:{name}")
    for place in ("/var/lib/rpm", "/usr/lib/sysimage/rpm", "/usr/share/rpm"):
        if any(name.lower().startswith(("packages", "rpmdb.sqlite")) for name in list_names(view, place)):
            gathered.missing["rpm"] = f"the RPM database in {place} is not read yet"
    return packages, owners


def _dpkg(view: RootFiles, gathered: _Gathered) -> tuple[dict[str, tuple[Package, ...]], _Owners]:
    found: dict[str, tuple[Package, ...]] = {}
    owners: _Owners = {}
    text = read_text(view, "/var/lib/dpkg/status", _DATABASE_LIMIT_BYTES)
    if text is None and "/var/lib/dpkg/status" in gathered.files:
        gathered.missing["dpkg"] = "/var/lib/dpkg/status cannot be read"
    found.update(read.parse_dpkg_status(text or ""))
    for name in list_names(view, "/var/lib/dpkg/status.d"):  # distroless images: one file per package
        text = read_text(view, f"/var/lib/dpkg/status.d/{name}", _RECORD_LIMIT_BYTES) or ""
        if name.endswith(".md5sums"):
            owners.update(dict.fromkeys(read.parse_md5sums(text), name.removesuffix(".md5sums")))
        else:
            found.update(read.parse_dpkg_status(text))
    directories = {path for path, fact in gathered.files.items() if fact.kind == "directory"}
    for name in list_names(view, "/var/lib/dpkg/info"):
        package = name.partition(".list")[0].partition(":")[0]
        if name.endswith(".list") and package in found:
            for path in read.parse_dpkg_list(read_text(view, f"/var/lib/dpkg/info/{name}", _RECORD_LIMIT_BYTES) or ""):
                if path not in directories:  # a directory belongs to everybody who puts something into it
                    owners.setdefault(path, package)
    diversions = read.parse_diversions(read_text(view, "/var/lib/dpkg/diversions") or "")
    for path, (moved, by_package) in diversions.items():
        if path in owners and owners[path] != by_package:
            owners[moved] = owners[path]
    for path in [path for path in owners if f"{path}.dpkg-new" in gathered.files]:
        owners[f"{path}.dpkg-new"] = owners[path]
    return found, owners


def _apk(view: RootFiles, gathered: _Gathered) -> tuple[dict[str, tuple[Package, ...]], _Owners]:
    text = read_text(view, "/lib/apk/db/installed", _DATABASE_LIMIT_BYTES)
    text = read_text(view, "/usr/lib/apk/db/installed", _DATABASE_LIMIT_BYTES) if text is None else text
    if text is None and "/lib/apk/db/installed" in gathered.files:
        gathered.missing["apk"] = "/lib/apk/db/installed cannot be read"
    return read.parse_apk_installed(text or "")


def _python(view: RootFiles, gathered: _Gathered) -> tuple[dict[str, tuple[Package, ...]], _Owners]:
    found: dict[str, set[Package]] = {}
    owners: _Owners = {}
    for path, place in gathered.python_metadata:
        text = read_text(view, path)
        if text is None:
            gathered.missing["python"] = f"{path} cannot be read"
            continue
        parsed = read.parse_python_metadata(text)
        if parsed is None:
            continue
        name, version = parsed
        directory = posixpath.dirname(path)
        note = ""
        if directory.endswith(".dist-info"):
            note = read.parse_direct_url(read_text(view, f"{directory}/direct_url.json") or "")
            record = read_text(view, f"{directory}/RECORD", _RECORD_LIMIT_BYTES) or ""
            for owned in read.parse_record(record, place):
                owners.setdefault(owned, name)
        found.setdefault(name, set()).add(Package(version=version, place=place, note=note))
    return {name: tuple(sorted(installs)) for name, installs in found.items()}, owners


def _npm(view: RootFiles, gathered: _Gathered) -> tuple[dict[str, tuple[Package, ...]], _Owners]:
    found: dict[str, set[Package]] = {}
    for path, place, name in gathered.node_packages:
        version = read.parse_package_json(read_text(view, path) or "")
        if version is not None:
            found.setdefault(name, set()).add(Package(version=version, place=place))
    return {name: tuple(sorted(installs)) for name, installs in found.items()}, {}


PACKAGE_COLLECTORS: Mapping[str, Callable[[RootFiles, _Gathered], tuple[dict[str, tuple[Package, ...]], _Owners]]] = {
    "dpkg": _dpkg,
    "apk": _apk,
    "python": _python,
    "npm": _npm,
}


def _module_owner(path: str, node_packages: Sequence[tuple[str, str, str]]) -> str:
    """npm keeps no list: what lies in a global module's directory is its own."""
    if "/node_modules/" in path:
        for _, place, name in node_packages:
            if path.startswith(f"{place}/{name}/"):
                return f"npm:{name}"
    return ""


def _own_alternatives(owners: _Owners, links: Mapping[str, str]) -> None:
    """Links which update-alternatives(1) made belong to the package they lead to, though no list names them."""
    for prefix in ("/etc/alternatives/", "/"):
        for path, target in links.items():
            if path in owners or not path.startswith(prefix) or (prefix == "/" and not target.startswith("/etc/alternatives/")):
                continue
            owner = owners.get(posixpath.normpath(posixpath.join(posixpath.dirname(path), target)))
            if owner:
                owners[path] = owner


def _os_release(view: RootFiles) -> dict[str, Value]:
    text = read_text(view, "/etc/os-release") or read_text(view, "/usr/lib/os-release") or ""
    found: dict[str, Value] = {
        key: value for key, value in read.parse_os_release(text).items() if not key.endswith("_URL") and key != "BUILD_ID"
    }
    for name, path in (("debian_version", "/etc/debian_version"), ("alpine-release", "/etc/alpine-release")):
        text_found = read_text(view, path)
        if text_found:
            found[name] = text_found.strip()
    return found


def _libc(view: RootFiles) -> dict[str, Value]:
    flavours = set()
    for place in ("/lib", "/lib64", "/usr/lib", "/usr/lib64"):
        for name in list_names(view, place):
            if name.startswith("ld-musl-"):
                flavours.add("musl")
            elif re.match(r"ld-linux|ld64\.so", name):
                flavours.add("glibc")
    return {"flavour": " and ".join(sorted(flavours)) or "none found"}


def _locales(view: RootFiles) -> dict[str, Value]:
    """The locales that setlocale(3) would find: directories, and the entries of glibc's locale archive."""
    names = {name for name in list_names(view, "/usr/lib/locale") if name != "locale-archive"}
    with suppress(OSError, ContainError):  # no archive: nothing compiled into it
        names.update(locale_archive_names(view.read("/usr/lib/locale/locale-archive", limit_bytes=512 << 20)))
    return {"installed": tuple(sorted(names))}


def _users(view: RootFiles) -> dict[str, Value]:
    return dict(read.parse_accounts(read_text(view, "/etc/passwd") or "", fields=(2, 3, 5, 6)))


def _groups(view: RootFiles) -> dict[str, Value]:
    return dict(read.parse_accounts(read_text(view, "/etc/group") or "", fields=(2, 3)))


ROOT_COLLECTORS: Mapping[str, Callable[[RootFiles], dict[str, Value]]] = {
    "os-release": _os_release,
    "libc": _libc,
    "locales": _locales,
    "users": _users,
    "groups": _groups,
}
"""Fact collectors of a root file system, by dimension."""


def config_facts(config: ImageConfig, secret_key: bytes) -> dict[str, Value]:
    """The fields of an image's config that a container starts with; what is not set is left out. History is not a fact."""
    found: dict[str, Value] = {"platform": str(config.platform)}
    lists: tuple[tuple[str, tuple[str, ...] | None], ...] = (
        ("entrypoint", config.entrypoint),
        ("command", config.command),
        ("shell", config.shell or None),
        ("exposed ports", tuple(sorted(config.exposed_ports)) or None),
        ("volumes", tuple(sorted(config.volumes)) or None),
        ("on build", config.on_build or None),
        ("health check", config.healthcheck.test if config.healthcheck else None),
    )
    found.update({name: value for name, value in lists if value is not None})
    texts = (("user", config.user), ("working directory", config.working_directory), ("stop signal", config.stop_signal))
    found.update({name: value for name, value in texts if value})
    if config.healthcheck is not None:
        check = config.healthcheck
        found["health check timing"] = (
            f"interval {check.interval_nanoseconds} ns, timeout {check.timeout_nanoseconds} ns, "
            f"start {check.start_period_nanoseconds}/{check.start_interval_nanoseconds} ns, retries {check.retries}"
        )
    found.update({f"label {name}": protect_variable(name, value, secret_key) for name, value in config.labels.items()})
    return found
