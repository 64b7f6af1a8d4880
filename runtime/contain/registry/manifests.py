"""Judges what a registry served as a manifest: is it what was promised, is it one thing only, can we use it. Pure.

Sources: OCI image-spec 1.1 (``manifest.md``, ``image-index.md``), CVE-2021-41190 (one document read as two kinds).
"""

from __future__ import annotations

import enum

from contain.errors import IntegrityError, NotFound, NotSupported
from contain.oci import Descriptor, ImageConfig, Manifest, Platform, digest_of, parse_json
from contain.oci.image import (
    MEDIA_CONFIG,
    MEDIA_DOCKER_CONFIG,
    MEDIA_DOCKER_INDEX,
    MEDIA_DOCKER_LAYER,
    MEDIA_DOCKER_LAYER_GZIP,
    MEDIA_DOCKER_MANIFEST,
    MEDIA_INDEX,
    MEDIA_LAYER,
    MEDIA_LAYER_GZIP,
    MEDIA_LAYER_ZSTD,
    MEDIA_MANIFEST,
)
from contain.registry.platform import runs_on

MANIFEST_ACCEPT = f"{MEDIA_INDEX}, {MEDIA_DOCKER_INDEX}, {MEDIA_MANIFEST}, {MEDIA_DOCKER_MANIFEST}"
LARGEST_MANIFEST_BYTES = 4 << 20  # the distribution specification's advice
LARGEST_CONFIG_BYTES = 8 << 20
MOST_LAYERS = 500  # overlayfs, OVL_MAX_STACK; Docker makes at most 127
MEDIA_DOCKER_LAYER_ZSTD = MEDIA_DOCKER_LAYER + ".zstd"
_LEGACY_CONFIG = "application/octet-stream"  # what Docker 1.10 pushed
_CONFIGS = frozenset({MEDIA_CONFIG, MEDIA_DOCKER_CONFIG, _LEGACY_CONFIG})
_LAYERS = frozenset(
    {MEDIA_LAYER, MEDIA_LAYER_GZIP, MEDIA_LAYER_ZSTD, MEDIA_DOCKER_LAYER, MEDIA_DOCKER_LAYER_GZIP, MEDIA_DOCKER_LAYER_ZSTD}
)
_SCHEMA_1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)


class Kind(enum.Enum):
    """What a served document is."""

    INDEX = "index"
    MANIFEST = "manifest"


_KINDS = {
    MEDIA_INDEX: Kind.INDEX,
    MEDIA_DOCKER_INDEX: Kind.INDEX,
    MEDIA_MANIFEST: Kind.MANIFEST,
    MEDIA_DOCKER_MANIFEST: Kind.MANIFEST,
}


def check_bytes(data: bytes, *, promised: str | None, claimed: str, size: int | None, name: str) -> str:
    """The digest of a served document, after comparing it with the ``promised`` digest and size (by a reference or an index)
    and with what the registry itself ``claimed`` in a header. Raises `IntegrityError` (code ``digest-mismatch``)."""
    digest = digest_of(data)
    if size is not None and size != len(data):
        raise IntegrityError(f"{name}: should have {size} bytes, the registry served {len(data)}", code="digest-mismatch")
    for wanted in (promised, claimed if claimed.startswith("sha256:") else None):
        if wanted and wanted != digest:
            raise IntegrityError(f"{name}: should be {wanted}, the registry served {digest}", code="digest-mismatch")
    return digest


def check_kind(data: bytes, *, media_type: str, name: str) -> Kind:
    """Whether a document is an index or a manifest, when its own fields, its ``mediaType`` and the header's agree.

    Raises `IntegrityError` (code ``bad-manifest``) if they do not, or if a key stands twice; `NotSupported` for other kinds.
    """

    def bad(why: str) -> IntegrityError:
        return IntegrityError(f"{name}: {why}", code="bad-manifest")

    try:
        value = parse_json(data)
    except (ValueError, RecursionError) as error:
        raise bad(f"the manifest is not JSON that all readers understand alike: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise bad("the manifest is not a JSON object")
    own = value.get("mediaType")
    if own is not None and not isinstance(own, str):
        raise bad("mediaType must be a string")
    if value.get("schemaVersion") == 1 or media_type in _SCHEMA_1 or own in _SCHEMA_1:
        raise NotSupported(
            f"{name}: manifests of schema 1 are not supported", remedy="push the image again with a current tool"
        )
    if own and own not in _KINDS:
        raise NotSupported(f"{name}: is no image: {own[:120]!r}")
    shape = Kind.INDEX if "manifests" in value else Kind.MANIFEST
    if shape is Kind.INDEX and ("layers" in value or "config" in value):
        raise bad("holds both an index's and a manifest's fields")
    for said, by in ((own, "its mediaType"), (media_type, "the registry")):
        kind = _KINDS.get(said or "")
        if kind is not None and kind is not shape:
            raise bad(f"is an {shape.value} by its fields, but {by} says {kind.value}".replace("an manifest", "a manifest"))
    return shape


def check_manifest(manifest: Manifest, *, name: str) -> None:
    """Raises `NotSupported` for artifacts that are no images and for layers of kinds that we do not read."""
    if manifest.config.media_type not in _CONFIGS:
        raise NotSupported(f"{name}: is an artifact, no image: its config is {manifest.config.media_type[:120]!r}")
    for layer in manifest.layers:
        if layer.media_type not in _LAYERS:
            raise NotSupported(f"{name}: layers of type {layer.media_type[:120]!r} are not supported")
    if len(manifest.layers) > MOST_LAYERS:
        raise IntegrityError(
            f"{name}: {len(manifest.layers)} layers, and no kernel stacks more than {MOST_LAYERS}", code="bad-manifest"
        )
    if manifest.config.size > LARGEST_CONFIG_BYTES:
        raise IntegrityError(f"{name}: its config claims {manifest.config.size} bytes", code="bad-manifest")


def pair_layers(manifest: Manifest, config: ImageConfig, *, name: str) -> tuple[tuple[Descriptor, str], ...]:
    """Each layer with the diff_id that it must unpack to, lowest first. Raises `IntegrityError` (code ``bad-config``)."""
    if len(manifest.layers) != len(config.diff_ids):
        raise IntegrityError(
            f"{name}: the manifest has {len(manifest.layers)} layers, its config {len(config.diff_ids)} diff_ids",
            code="bad-config",
        )
    return tuple(zip(manifest.layers, config.diff_ids, strict=True))


def check_platform(config: ImageConfig, *, wanted: Platform, chosen_by_user: bool, name: str) -> str:
    """A warning for an image of another platform, "" if it runs here.

    Raises `NotFound` (code ``platform-not-in-image``) if the user asked for a platform, or if it is not for Linux at all.
    """
    offered = config.platform
    if not offered.architecture or runs_on(offered, wanted):
        return ""
    if chosen_by_user or offered.os not in ("linux", ""):
        raise NotFound(f"{name} is for {offered}, not for {wanted}", code="platform-not-in-image")
    return f"{name} is for {offered}; this machine is {wanted}"
