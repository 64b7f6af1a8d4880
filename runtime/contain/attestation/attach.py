"""Documents about an image, kept with it: an artifact manifest whose ``subject`` is the image, in the store.

Which artifacts an image has is a table of the store; there they live and die with it. A registry takes them as referrers. Talks to
nobody. Source: https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md, "Guidelines for Artifact Usage".
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from contain.annotations import TYPE_CHECKING, Any
from contain.errors import NotFound
from contain.oci import Descriptor, canonical_json, digest_of
from contain.oci.image import MEDIA_MANIFEST
from contain.values import dataclass, field

if TYPE_CHECKING:
    from contain.store import Store

ARTIFACT_SBOM = "application/vnd.cyclonedx+json"
ARTIFACT_PROVENANCE = "application/vnd.in-toto+json"
MEDIA_EMPTY = "application/vnd.oci.empty.v1+json"
EMPTY_CONFIG = b"{}"
PREDICATE_ANNOTATION = "in-toto.io/predicate-type"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """A document about an image. ``digest`` is its artifact manifest's; ``blobs``: those of the config and of the document."""

    digest: str
    artifact_type: str
    manifest: bytes
    blobs: tuple[str, ...]
    document: bytes
    annotations: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def render_artifact_manifest(
    subject: Descriptor, document: bytes, *, artifact_type: str, annotations: Mapping[str, str] | None = None
) -> bytes:
    """The canonical manifest of an artifact with one document about ``subject``."""
    value: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MEDIA_MANIFEST,
        "artifactType": artifact_type,
        "config": {"mediaType": MEDIA_EMPTY, "digest": digest_of(EMPTY_CONFIG), "size": len(EMPTY_CONFIG)},
        "layers": [{"mediaType": artifact_type, "digest": digest_of(document), "size": len(document)}],
        "subject": {"mediaType": subject.media_type, "digest": subject.digest, "size": subject.size},
    }
    if annotations:
        value["annotations"] = dict(annotations)
    return canonical_json(value)


def attach(
    store: Store, image_digest: str, document: bytes, *, artifact_type: str, annotations: Mapping[str, str] | None = None
) -> Attestation:
    """Keep a document with an image of the store. Attaching the same one again changes nothing. Raises `NotFound`."""
    image = store.image(image_digest)
    size = len(store.read_blob(image.digest))
    subject = Descriptor(media_type=image.manifest.media_type, digest=image.digest, size=size)
    manifest = render_artifact_manifest(subject, document, artifact_type=artifact_type, annotations=annotations)
    digest = store.put_referrer(
        image.digest, manifest, (EMPTY_CONFIG, document), artifact_type=artifact_type, annotations=annotations or {}
    )
    return Attestation(
        digest=digest,
        artifact_type=artifact_type,
        manifest=manifest,
        blobs=(digest_of(EMPTY_CONFIG), digest_of(document)),
        document=document,
        annotations=MappingProxyType(dict(annotations or {})),
    )


def attestations_of(store: Store, image_digest: str, *, artifact_type: str = "") -> tuple[Attestation, ...]:
    """What is kept about an image, the newest first. ``artifact_type``: only that kind."""
    found = []
    for row in store.referrers(image_digest):
        if artifact_type and row.artifact_type != artifact_type:
            continue
        try:
            manifest = store.read_blob(row.digest)
            document = store.read_blob(row.blobs[-1], limit_bytes=256 << 20)
        except NotFound:
            continue  # removed by hand, or by a contain that does not know referrers: as good as not attached
        found.append(
            Attestation(
                digest=row.digest,
                artifact_type=row.artifact_type,
                manifest=manifest,
                blobs=row.blobs,
                document=document,
                annotations=row.annotations,
            )
        )
    return tuple(found)
