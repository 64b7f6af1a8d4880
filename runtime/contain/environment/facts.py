"""What is known about one place: the `Environment` value and the table of its dimensions.

Values only: nothing here reads a file or a kernel. Collectors (`capture`, `probe`) make these values, `codec` writes and
reads them, `compare` sets two of them side by side.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from types import MappingProxyType

from contain.annotations import TypeVar
from contain.values import dataclass, field, replace

Value = str | tuple[str, ...]
"""One fact: a text, or a list of texts whose order means something."""

T = TypeVar("T")

IMAGE = "image"
RUNTIME = "runtime"
PACKAGES = "packages"
FILES = "files"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One kind of fact. ``scope``: read from files alone (image) or only inside a running place (runtime)."""

    name: str
    scope: str
    section: str  # the part of a report it stands in
    noun: str  # one difference of it, in a sentence
    prior: float  # how often such a difference explains a failing test, 0 to 1 (judgement)


_TABLE = (
    Dimension(name="dpkg", scope=IMAGE, section="Packages", noun="package", prior=0.30),
    Dimension(name="apk", scope=IMAGE, section="Packages", noun="package", prior=0.30),
    Dimension(name="rpm", scope=IMAGE, section="Packages", noun="package", prior=0.30),
    Dimension(name="python", scope=IMAGE, section="Packages", noun="package", prior=0.50),
    Dimension(name="npm", scope=IMAGE, section="Packages", noun="package", prior=0.30),
    Dimension(name="os-release", scope=IMAGE, section="System", noun="system fact", prior=0.15),
    Dimension(name="libc", scope=IMAGE, section="System", noun="system fact", prior=0.30),
    Dimension(name="locales", scope=IMAGE, section="System", noun="system fact", prior=0.30),
    Dimension(name="users", scope=IMAGE, section="System", noun="system fact", prior=0.20),
    Dimension(name="groups", scope=IMAGE, section="System", noun="system fact", prior=0.10),
    Dimension(name="image-config", scope=IMAGE, section="Image config", noun="config field", prior=0.25),
    Dimension(name="image-environment", scope=IMAGE, section="Environment variables", noun="variable", prior=0.35),
    Dimension(name="environment", scope=RUNTIME, section="Environment variables", noun="variable", prior=0.35),
    Dimension(name="locale", scope=RUNTIME, section="Runtime", noun="runtime fact", prior=0.40),
    Dimension(name="time-zone", scope=RUNTIME, section="Runtime", noun="runtime fact", prior=0.40),
    Dimension(name="interpreter", scope=RUNTIME, section="Runtime", noun="runtime fact", prior=0.40),
    Dimension(name="sys-path", scope=RUNTIME, section="Runtime", noun="runtime fact", prior=0.30),
    Dimension(name="importable", scope=RUNTIME, section="Runtime", noun="runtime fact", prior=0.50),
    Dimension(name="process", scope=RUNTIME, section="Runtime", noun="runtime fact", prior=0.25),
    Dimension(name="limits", scope=RUNTIME, section="Runtime", noun="runtime fact", prior=0.20),
    Dimension(name="ulimits", scope=RUNTIME, section="Runtime", noun="runtime fact", prior=0.15),
    Dimension(name="cpu", scope=RUNTIME, section="Runtime", noun="runtime fact", prior=0.15),
    Dimension(name="kernel", scope=RUNTIME, section="Runtime", noun="runtime fact", prior=0.10),
    Dimension(name="mounts", scope=RUNTIME, section="Runtime", noun="runtime fact", prior=0.10),
    Dimension(name="dns", scope=RUNTIME, section="Runtime", noun="runtime fact", prior=0.10),
    Dimension(name=FILES, scope=IMAGE, section="Files", noun="file", prior=0.25),
)
DIMENSIONS: Mapping[str, Dimension] = MappingProxyType({dimension.name: dimension for dimension in _TABLE})
MANAGERS = ("dpkg", "apk", "rpm", "python", "npm")
FACT_DIMENSIONS = tuple(name for name in DIMENSIONS if name not in MANAGERS and name != FILES)
RUNTIME_DIMENSIONS = tuple(name for name, dimension in DIMENSIONS.items() if dimension.scope == RUNTIME)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Package:
    """One installed version. ``place``: a directory, or the architecture for dpkg and apk; ``note``: "editable" or empty."""

    version: str
    place: str = ""
    note: str = ""


UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFact:
    """One path of the flattened root. Modification times are left out on purpose: they say when, not what.

    ``kind``: file, directory, symlink, char, block, fifo or socket. ``digest``: ``sha256:...`` of a file's content, or
    `UNREADABLE`. ``package``: ``dpkg:libc6`` when a package manager's list names the path. ``capabilities``: the hex of the
    extended attribute ``security.capability``.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    size_bytes: int = 0
    digest: str = ""
    target: str = ""
    device: str = ""
    capabilities: str = ""
    package: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What names the whole image, where there is one. Empty text means: this place has no such thing."""

    manifest_digest: str = ""
    config_digest: str = ""
    layer_digests: tuple[str, ...] = ()
    diff_ids: tuple[str, ...] = ()
    source: str = ""  # where the image came from, as the store recorded it


def frozen(mapping: Mapping[str, T]) -> Mapping[str, T]:
    """A read-only copy, keys in sorted order."""
    return MappingProxyType({key: mapping[key] for key in sorted(mapping)})


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Sorted facts about one place.

    A dimension that is in none of ``packages``, ``facts`` and ``missing`` was not asked for. ``missing`` names what was asked
    for and could not be read, ``dimension``, ``dimension/key``, ``dimension/*`` (all keys that are not there) or ``runtime`` (the
    place did not run), with the reason: such a fact is never taken for equal.
    ``file_scope``: ``all``; ``packages-only`` (paths owned by a package); ``none``.
    """

    name: str
    kind: str  # image, host, container, directory
    identity: Identity = field(default_factory=Identity)
    packages: Mapping[str, Mapping[str, tuple[Package, ...]]] = field(default_factory=lambda: MappingProxyType({}))
    facts: Mapping[str, Mapping[str, Value]] = field(default_factory=lambda: MappingProxyType({}))
    files: Mapping[str, FileFact] = field(default_factory=lambda: MappingProxyType({}))
    file_scope: str = "none"
    file_skips: tuple[str, ...] = ()  # absolute directories that were left out of ``files``
    missing: Mapping[str, str] = field(default_factory=_nothing)

    @property
    def has_runtime(self) -> bool:
        """Whether anything was asked inside the running place."""
        return any(name in self.facts for name in RUNTIME_DIMENSIONS)


def with_runtime(
    environment: Environment, facts: Mapping[str, Mapping[str, Value]], missing: Mapping[str, str], *, kind: str = ""
) -> Environment:
    """The same place with what a probe inside it said."""
    return replace(
        environment,
        kind=kind or environment.kind,
        facts=frozen({**environment.facts, **{name: frozen(found) for name, found in facts.items()}}),
        missing=frozen({**environment.missing, **missing}),
    )


# Values that must not leave the machine. The words are whole words of a variable's name; the stems match anywhere in it.
_SECRET_WORDS = frozenset(
    {
        *("AUTH", "COOKIE", "CRED", "CREDS", "CREDENTIAL", "CREDENTIALS", "DSN", "KEY", "KEYS", "PASS", "PASSWD", "PASSWORD"),
        *("PASSPHRASE", "PAT", "PIN", "PW", "PWORD", "SECRET", "SECRETS", "SIGNATURE", "TOKEN", "TOKENS"),
    }
)
_SECRET_STEMS = ("PASSW", "PASSPHRASE", "SECRET", "TOKEN", "APIKEY", "ACCESSKEY", "PRIVATEKEY", "CREDENTIAL")
_NOT_SECRET = frozenset({"SSH_AUTH_SOCK", "GPG_KEY"})  # a socket's path; the public fingerprint in Docker's Python images
_SECRET_PREFIX = "hmac-sha256:"  # noqa: S105 - a label
_URL_CREDENTIALS = re.compile(r"(?<=://)([^/@\s:]*:[^/@\s]*|[^/@\s:]{16,})(?=@)")


def looks_secret(name: str) -> bool:
    """Whether a variable of this name probably holds a secret (TOKEN, SECRET, KEY, PASS and the like)."""
    if name in _NOT_SECRET:
        return False
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper()
    words = re.split(r"[^A-Z0-9]+", spaced)
    joined = "".join(words)
    return not _SECRET_WORDS.isdisjoint(words) or any(stem in joined for stem in _SECRET_STEMS)


def key_identity(key: bytes) -> str:
    """A short public name of a key: hashes made with two different keys cannot be compared."""
    return hashlib.sha256(b"contain fingerprint key\0" + key).hexdigest()[:8]


def hide_secret(value: str, key: bytes) -> str:
    """The keyed hash that stands for a secret value: ``hmac-sha256:<key's name>:<hex>``."""
    return f"{_SECRET_PREFIX}{key_identity(key)}:{hmac.new(key, value.encode(errors='surrogateescape'), 'sha256').hexdigest()}"


def hidden_key(value: Value | None) -> str | None:
    """The name of the key of a hidden value; None for an open value."""
    if isinstance(value, str) and value.startswith(_SECRET_PREFIX):
        return value[len(_SECRET_PREFIX) :].partition(":")[0]
    return None


def protect_variable(name: str, value: str, key: bytes) -> str:
    """A variable's value as it may be stored: hidden if its name looks secret; credentials inside URLs hidden always."""
    if hidden_key(value) is not None:
        return value
    if looks_secret(name) and value:
        return hide_secret(value, key)
    return _URL_CREDENTIALS.sub(lambda match: hide_secret(match.group(), key)[: len(_SECRET_PREFIX) + 21], value)
