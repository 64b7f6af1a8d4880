"""Manifest and config of one image as frozen values, and their canonical JSON.

``render_*`` gives the exact bytes whose sha256 is the identity: sorted keys, no spaces, UTF-8, empty fields left out.
``parse_*`` takes untrusted bytes and raises `IntegrityError` (code ``bad-manifest`` or ``bad-config``), never anything else. What
other readers could understand in another way is refused: a key that stands twice, a field's name in other upper and lower case
(Go's readers take it for the field), text that no UTF-8 can say, text with a zero byte, which no system call can be given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

from contain.annotations import Any
from contain.errors import IntegrityError
from contain.values import dataclass, field

MEDIA_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MEDIA_INDEX = "application/vnd.oci.image.index.v1+json"
MEDIA_CONFIG = "application/vnd.oci.image.config.v1+json"
MEDIA_LAYER = "application/vnd.oci.image.layer.v1.tar"
MEDIA_LAYER_GZIP = MEDIA_LAYER + "+gzip"
MEDIA_LAYER_ZSTD = MEDIA_LAYER + "+zstd"
MEDIA_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
MEDIA_DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
MEDIA_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
MEDIA_DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
MEDIA_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"

_SMALL_BYTES = 1 << 16
_DIGEST_LENGTH = 71


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


def canonical_json(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def parse_json(data: bytes) -> Any:
    """Untrusted JSON, read in the one way in which all readers agree: UTF-8, no key twice in an object, no NaN or infinity.

    Raises `ValueError`, and `RecursionError` for nesting that is too deep.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands twice in an object")
        return found

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)


def digest_of(data: bytes) -> str:
    """``sha256:<hex>`` of bytes."""
    return "sha256:" + (_small_sha256 if len(data) < _SMALL_BYTES else _large_sha256)(data)


def is_digest(text: str) -> bool:
    """Whether it is ``sha256:`` and 64 small hexadecimal digits."""
    return len(text) == _DIGEST_LENGTH and text.startswith("sha256:") and not text[7:].strip("0123456789abcdef")


def _small_sha256(data: bytes) -> str:
    """Without OpenSSL, which takes 3 ms to load."""
    try:
        from _sha2 import sha256  # type: ignore[import-not-found]
    except ImportError:  # before Python 3.12
        from _sha256 import sha256  # type: ignore[import-not-found]
    return str(sha256(data).hexdigest())


def _large_sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """Operating system and CPU architecture, in Go's names (``linux``, ``amd64``)."""

    os: str = "linux"
    architecture: str = "amd64"
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """These exact bytes: media type, digest and size (image-spec ``descriptor.md``)."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=_nothing)
    platform: Platform | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """An image manifest: its config and its layers, lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = MEDIA_MANIFEST
    annotations: Mapping[str, str] = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Healthcheck:
    """Docker's health check; durations in nanoseconds as in the config file, 0 means inherit or default."""

    test: tuple[str, ...]
    interval_nanoseconds: int = 0
    timeout_nanoseconds: int = 0
    start_period_nanoseconds: int = 0
    start_interval_nanoseconds: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One row of ``docker history``. ``created`` is RFC 3339 text."""

    created: str = ""
    created_by: str = ""
    comment: str = ""
    empty_layer: bool = False
    author: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What a container of this image starts with (image-spec ``config.md`` and Docker's extra fields).

    ``entrypoint``/``command``: None means not set, an empty tuple means set to nothing. ``environment`` keeps its order.
    """

    platform: Platform = field(default_factory=Platform)
    created: str = ""
    author: str = ""
    diff_ids: tuple[str, ...] = ()
    history: tuple[History, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    working_directory: str = ""
    user: str = ""
    labels: Mapping[str, str] = field(default_factory=_nothing)
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    healthcheck: Healthcheck | None = None
    shell: tuple[str, ...] = ()
    on_build: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A verified image: the manifest's digest is the image's identity; ``config.diff_ids`` match ``manifest.layers``."""

    digest: str
    manifest: Manifest
    config: ImageConfig


def _descriptor_json(descriptor: Descriptor) -> dict[str, Any]:
    value: dict[str, Any] = {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}
    if descriptor.annotations:
        value["annotations"] = dict(descriptor.annotations)
    if descriptor.platform is not None:
        value["platform"] = {"os": descriptor.platform.os, "architecture": descriptor.platform.architecture}
        if descriptor.platform.variant:
            value["platform"]["variant"] = descriptor.platform.variant
    return value


def render_manifest(manifest: Manifest) -> bytes:
    """The manifest's canonical bytes."""
    value: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": manifest.media_type,
        "config": _descriptor_json(manifest.config),
        "layers": [_descriptor_json(layer) for layer in manifest.layers],
    }
    if manifest.annotations:
        value["annotations"] = dict(manifest.annotations)
    return canonical_json(value)


def render_config(config: ImageConfig) -> bytes:
    """The config's canonical bytes."""
    inner: dict[str, Any] = {}
    if config.user:
        inner["User"] = config.user
    if config.exposed_ports:
        inner["ExposedPorts"] = {port: {} for port in config.exposed_ports}
    if config.environment:
        inner["Env"] = [f"{name}={value}" for name, value in config.environment]
    if config.entrypoint is not None:
        inner["Entrypoint"] = list(config.entrypoint)
    if config.command is not None:
        inner["Cmd"] = list(config.command)
    if config.volumes:
        inner["Volumes"] = {volume: {} for volume in config.volumes}
    if config.working_directory:
        inner["WorkingDir"] = config.working_directory
    if config.labels:
        inner["Labels"] = dict(config.labels)
    if config.stop_signal:
        inner["StopSignal"] = config.stop_signal
    if config.shell:
        inner["Shell"] = list(config.shell)
    if config.on_build:
        inner["OnBuild"] = list(config.on_build)
    if config.healthcheck is not None:
        check = config.healthcheck
        numbers = {
            "Interval": check.interval_nanoseconds,
            "Timeout": check.timeout_nanoseconds,
            "StartPeriod": check.start_period_nanoseconds,
            "StartInterval": check.start_interval_nanoseconds,
            "Retries": check.retries,
        }
        inner["Healthcheck"] = {"Test": list(check.test), **{key: number for key, number in numbers.items() if number}}
    value: dict[str, Any] = {
        "architecture": config.platform.architecture,
        "os": config.platform.os,
        "config": inner,
        "rootfs": {"type": "layers", "diff_ids": list(config.diff_ids)},
    }
    if config.platform.variant:
        value["variant"] = config.platform.variant
    if config.created:
        value["created"] = config.created
    if config.author:
        value["author"] = config.author
    if config.history:
        value["history"] = [_history_json(row) for row in config.history]
    return canonical_json(value)


def _history_json(row: History) -> dict[str, Any]:
    value: dict[str, Any] = {}
    if row.created:
        value["created"] = row.created
    if row.created_by:
        value["created_by"] = row.created_by
    if row.comment:
        value["comment"] = row.comment
    if row.author:
        value["author"] = row.author
    if row.empty_layer:
        value["empty_layer"] = True
    return value


_DOCUMENT_FIELDS = frozenset({"schemaVersion", "mediaType", "config", "layers", "manifests"})
_DESCRIPTOR_FIELDS = frozenset({"mediaType", "digest", "size", "platform", "annotations"})
_CONFIG_FIELDS = frozenset({"architecture", "os", "variant", "config", "rootfs", "history", "created", "author"})


class _Reader:
    """Typed look-ups in untrusted JSON; every mismatch is an `IntegrityError` that names the field."""

    def __init__(self, what: str, code: str) -> None:
        self.what, self.code = what, code

    def fail(self, why: str) -> IntegrityError:
        return IntegrityError(f"{self.what}: {why}", code=self.code)

    def load(self, data: bytes, fields: frozenset[str]) -> dict[str, Any]:
        """The document. ``fields``: names that no key may have in another spelling."""
        try:
            value = parse_json(data)
        except (ValueError, RecursionError) as error:
            raise self.fail(f"not JSON: {error}") from error
        found = self.mapping(value, "document")
        self.spelling(found, fields)
        return found

    def spelling(self, found: dict[str, Any], fields: frozenset[str]) -> None:
        folded = {name.lower(): name for name in fields}
        for key in found:
            if key not in fields and key.lower() in folded:
                raise self.fail(f"{key!r} is not how {folded[key.lower()]} is written")

    def mapping(self, value: Any, name: str) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.fail(f"{name} must be an object")
        return value

    def text(self, value: Any, name: str) -> str:
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.fail(f"{name} must be a string")
        return self.plain(value, name)

    def plain(self, value: str, name: str) -> str:
        if "\0" in value or (not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value)):
            raise self.fail(f"{name} holds what no text can hold")
        return value

    def number(self, value: Any, name: str) -> int:
        if value is None:
            return 0
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
            raise self.fail(f"{name} must be a number of at least 0, and below 2**63")
        return value

    def texts(self, value: Any, name: str) -> tuple[str, ...]:
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.fail(f"{name} must be a list of strings")
        return tuple(self.plain(item, name) for item in value)

    def text_map(self, value: Any, name: str) -> Mapping[str, str]:
        found = self.mapping(value, name)
        if not all(isinstance(item, str) for item in found.values()):
            raise self.fail(f"{name} must hold strings")
        return MappingProxyType({self.plain(key, name): self.plain(item, name) for key, item in found.items()})

    def digest(self, value: Any, name: str) -> str:
        digest = self.text(value, name)
        if not is_digest(digest):
            raise self.fail(f"{name} is not a sha256 digest: {digest[:80]!r}")
        return digest

    def descriptor(self, value: Any, name: str) -> Descriptor:
        found = self.mapping(value, name)
        self.spelling(found, _DESCRIPTOR_FIELDS)
        if "size" not in found:
            raise self.fail(f"{name} has no size")
        platform = found.get("platform")
        return Descriptor(
            media_type=self.text(found.get("mediaType"), f"{name}.mediaType"),
            digest=self.digest(found.get("digest"), f"{name}.digest"),
            size=self.number(found["size"], f"{name}.size"),
            annotations=self.text_map(found.get("annotations"), f"{name}.annotations"),
            platform=None if platform is None else self.platform(self.mapping(platform, f"{name}.platform")),
        )

    def platform(self, found: dict[str, Any]) -> Platform:
        return Platform(
            os=self.text(found.get("os"), "os"),
            architecture=self.text(found.get("architecture"), "architecture"),
            variant=self.text(found.get("variant"), "variant"),
        )


def _is_2(version: Any) -> bool:
    return isinstance(version, int) and version == 2  # 2.0 is a number that not every reader takes for one


def parse_manifest(data: bytes) -> Manifest:
    """An image manifest (not an index) from its bytes."""
    read = _Reader("image manifest", "bad-manifest")
    value = read.load(data, _DOCUMENT_FIELDS)
    if "manifests" in value:
        raise read.fail("holds both an index's and a manifest's fields, or is an index")
    layers = value.get("layers")
    if not _is_2(value.get("schemaVersion")) or not isinstance(layers, list) or "config" not in value:
        raise read.fail("needs schemaVersion 2, config and layers")
    return Manifest(
        media_type=read.text(value.get("mediaType"), "mediaType") or MEDIA_MANIFEST,
        config=read.descriptor(value["config"], "config"),
        layers=tuple(read.descriptor(layer, f"layers[{index}]") for index, layer in enumerate(layers)),
        annotations=read.text_map(value.get("annotations"), "annotations"),
    )


def parse_index(data: bytes) -> tuple[Descriptor, ...]:
    """The descriptors of an image index (manifest list), in their order."""
    read = _Reader("image index", "bad-manifest")
    value = read.load(data, _DOCUMENT_FIELDS)
    manifests = value.get("manifests")
    if not _is_2(value.get("schemaVersion")) or not isinstance(manifests, list) or "layers" in value or "config" in value:
        raise read.fail("needs schemaVersion 2 and manifests, and nothing of a manifest")
    return tuple(read.descriptor(item, f"manifests[{index}]") for index, item in enumerate(manifests))


def parse_config(data: bytes) -> ImageConfig:
    """An image config from its bytes."""
    read = _Reader("image config", "bad-config")
    value = read.load(data, _CONFIG_FIELDS)
    inner = read.mapping(value.get("config"), "config")
    rootfs = read.mapping(value.get("rootfs"), "rootfs")
    history = [] if value.get("history") is None else value["history"]
    if not isinstance(history, list):
        raise read.fail("history must be a list")
    rows = [read.mapping(row, "history row") for row in history]
    check = inner.get("Healthcheck")

    def command(name: str) -> tuple[str, ...] | None:
        return None if inner.get(name) is None else read.texts(inner[name], name)

    def names(name: str) -> tuple[str, ...]:
        return tuple(read.plain(key, name) for key in sorted(read.mapping(inner.get(name), name)))

    return ImageConfig(
        platform=read.platform(value),
        created=read.text(value.get("created"), "created"),
        author=read.text(value.get("author"), "author"),
        diff_ids=tuple(read.digest(item, "diff_id") for item in read.texts(rootfs.get("diff_ids"), "diff_ids")),
        history=tuple(
            History(
                created=read.text(row.get("created"), "created"),
                created_by=read.text(row.get("created_by"), "created_by"),
                comment=read.text(row.get("comment"), "comment"),
                author=read.text(row.get("author"), "author"),
                empty_layer=bool(row.get("empty_layer")),
            )
            for row in rows
        ),
        environment=tuple(
            (name, text) for name, _, text in (item.partition("=") for item in read.texts(inner.get("Env"), "Env"))
        ),
        entrypoint=command("Entrypoint"),
        command=command("Cmd"),
        working_directory=read.text(inner.get("WorkingDir"), "WorkingDir"),
        user=read.text(inner.get("User"), "User"),
        labels=read.text_map(inner.get("Labels"), "Labels"),
        exposed_ports=names("ExposedPorts"),
        volumes=names("Volumes"),
        stop_signal=read.text(inner.get("StopSignal"), "StopSignal"),
        healthcheck=None if check is None else _parse_healthcheck(read, read.mapping(check, "Healthcheck")),
        shell=read.texts(inner.get("Shell"), "Shell"),
        on_build=read.texts(inner.get("OnBuild"), "OnBuild"),
    )


def _parse_healthcheck(read: _Reader, found: dict[str, Any]) -> Healthcheck:
    return Healthcheck(
        test=read.texts(found.get("Test"), "Test"),
        interval_nanoseconds=read.number(found.get("Interval"), "Interval"),
        timeout_nanoseconds=read.number(found.get("Timeout"), "Timeout"),
        start_period_nanoseconds=read.number(found.get("StartPeriod"), "StartPeriod"),
        start_interval_nanoseconds=read.number(found.get("StartInterval"), "StartInterval"),
        retries=read.number(found.get("Retries"), "Retries"),
    )
