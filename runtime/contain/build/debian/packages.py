"""Decides which packages a minimal system consists of, from an archive's ``Packages`` file. Bytes to value.

The set: everything ``Essential: yes`` or ``Priority: required``, apt, the archive's keyring, and what these depend on.
The file has 60 000 stanzas, of which about 90 are wanted: it is cut with ``bytes`` searches, and only the wanted stanzas are
parsed as control data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from contain.errors import IntegrityError
from contain.values import dataclass

EXTRA_PACKAGES = ("apt", "debian-archive-keyring")
PREFERRED = ("usr-is-merged",)
"""Taken where a dependency leaves the choice. ``usrmerge`` converts an installed system, with Perl; ours begins merged."""

_CODE = "debian-packages"


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One package's promise: where its file is in the archive (``path``), and what its bytes are."""

    name: str
    version: str
    architecture: str
    essential: bool
    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageIndex:
    """A ``Packages`` file, cut: one stanza per name (the highest version), who provides a name, and the base set."""

    stanzas: Mapping[str, bytes]
    providers: Mapping[str, tuple[str, ...]]
    base: tuple[str, ...]
    essential: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What to install, sorted by name, and which of it must be in place before the first maintainer script can run."""

    packages: tuple[Package, ...]
    seed: frozenset[str]


def parse_packages(data: bytes) -> PackageIndex:
    """Cut a ``Packages`` file. Raises `IntegrityError` (code ``debian-packages``) if a stanza does not begin with a package's name."""
    from debian.debian_support import Version

    stanzas: dict[str, bytes] = {}
    providers: dict[str, set[str]] = {}
    for piece in data.split(b"\n\n"):
        stanza = piece.strip(b"\n")
        if not stanza:
            continue
        head, _, _ = stanza.partition(b"\n")
        if not head.startswith(b"Package: "):
            raise IntegrityError(f"the list of packages has a stanza without a name: {head[:80]!r}", code=_CODE)
        name = head[9:].strip().decode("ascii", "replace")
        other = stanzas.get(name)
        if other is not None and Version(_field(other, b"Version")) >= Version(_field(stanza, b"Version")):
            continue
        stanzas[name] = stanza
        if b"\nProvides: " in stanza:
            for provided in _field(stanza, b"Provides").split(","):
                providers.setdefault(provided.partition("(")[0].strip(), set()).add(name)
    essential = frozenset(name for name, stanza in stanzas.items() if b"\nEssential: yes" in stanza)
    required = {name for name, stanza in stanzas.items() if b"\nPriority: required" in stanza}
    return PackageIndex(
        stanzas=MappingProxyType(stanzas),
        providers=MappingProxyType({name: tuple(sorted(who)) for name, who in providers.items()}),
        base=tuple(sorted(essential | required)),
        essential=essential,
    )


def _field(stanza: bytes, name: bytes) -> str:
    """A single-line field's text, without parsing the rest; empty if there is none."""
    start = stanza.find(b"\n" + name + b": ")
    if start < 0:
        return ""
    start += len(name) + 3
    end = stanza.find(b"\n", start)
    return stanza[start : end if end >= 0 else len(stanza)].decode("utf-8", "replace").strip()


def select_packages(index: PackageIndex, *, extra: Sequence[str] = EXTRA_PACKAGES) -> Selection:
    """The base set and ``extra``, closed under ``Pre-Depends`` and ``Depends``.

    Of alternatives the one that is already taken wins, then a preferred one, then the first that exists. Versions are not
    compared: one suite is consistent in itself, and dpkg checks them when it configures. Raises `IntegrityError` (code
    ``debian-packages``) if something needed does not exist.
    """
    wanted = _close(index, (*index.base, *extra), PREFERRED)
    seed = _close(index, sorted(index.essential), sorted(wanted))  # a part of the whole: the same choices
    return Selection(packages=tuple(_package(index, name) for name in sorted(wanted)), seed=frozenset(seed))


def _close(index: PackageIndex, start: Sequence[str], preferred: Sequence[str]) -> set[str]:
    taken = dict.fromkeys(start)  # ordered: the walk must not depend on a set's order
    queue = list(taken)
    while queue:
        name = queue.pop(0)
        for alternatives in _dependencies(index, name):
            if any(option in taken or taken.keys() & set(index.providers.get(option, ())) for option in alternatives):
                continue
            choice = _choose(index, alternatives, preferred)
            if choice is None:
                raise IntegrityError(
                    f"{name} depends on {' | '.join(alternatives)}, which the archive does not have", code=_CODE
                )
            taken[choice] = None
            queue.append(choice)
    return set(taken)


def _dependencies(index: PackageIndex, name: str) -> list[tuple[str, ...]]:
    from debian.deb822 import PkgRelation

    stanza = index.stanzas.get(name)
    if stanza is None:
        raise IntegrityError(f"the archive has no package {name}", code=_CODE)
    rows: list[tuple[str, ...]] = []
    for field in (b"Pre-Depends", b"Depends"):
        text = _field(stanza, field)
        if text:
            rows += [tuple(option["name"] for option in options) for options in PkgRelation.parse_relations(text)]
    return rows


def _choose(index: PackageIndex, alternatives: Sequence[str], preferred: Sequence[str]) -> str | None:
    existing = [option for option in alternatives if option in index.stanzas]
    providing = [name for option in alternatives for name in index.providers.get(option, ())]
    candidates = [*existing, *providing]
    return next((name for name in candidates if name in preferred), candidates[0] if candidates else None)


def _package(index: PackageIndex, name: str) -> Package:
    stanza = index.stanzas[name]
    path, sha256, size = _field(stanza, b"Filename"), _field(stanza, b"SHA256").lower(), _field(stanza, b"Size")
    if not path or path.startswith("/") or ".." in path.split("/") or not size.isdigit() or len(sha256) != 64:
        raise IntegrityError(f"the list of packages promises no file for {name}", code=_CODE)
    return Package(
        name=name,
        version=_field(stanza, b"Version"),
        architecture=_field(stanza, b"Architecture"),
        essential=name in index.essential,
        path=path,
        sha256=sha256,
        size_bytes=int(size),
    )
