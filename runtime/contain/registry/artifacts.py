"""Anything that is no runnable image but lives in a registry: build caches, SBOMs, provenance, fingerprints of environments.

Manifests and blobs are written and read as they are; `push_artifact` and `list_referrers` attach documents to an image. Every
byte that comes back was verified. Only the registry itself is asked, never a mirror. Knows nothing of the store.

Sources: OCI image-spec 1.1 ``manifest.md`` (artifact guidance), distribution-spec 1.1 (referrers API and its tag schema).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from types import MappingProxyType
from typing import BinaryIO

from contain.errors import NotSupported
from contain.oci import Descriptor
from contain.paths import HostPath
from contain.reference import Reference
from contain.registry.session import RegistrySession
from contain.values import dataclass


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobSource:
    """A blob to be pushed: what it is, and a function that gives its bytes from the beginning, piece by piece, each time that
    it is called (a broken connection makes it be called again). ``mount_from``: another repository of the same registry that
    probably has it."""

    descriptor: Descriptor
    pieces: Callable[[], Iterable[bytes]]
    mount_from: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedManifest:
    """A manifest or index as the registry serves it, its digest recomputed. ``media_type`` is what the document itself says,
    else what the header says."""

    data: bytes
    media_type: str
    digest: str

    @property
    def descriptor(self) -> Descriptor:
        """What points at it."""
        return Descriptor(media_type=self.media_type, digest=self.digest, size=len(self.data))


@dataclass(frozen=True, slots=True, kw_only=True)
class Referrer:
    """A manifest that refers to another one by its ``subject``."""

    descriptor: Descriptor
    artifact_type: str
    annotations: Mapping[str, str] = field(default_factory=_nothing)


def bytes_blob(media_type: str, data: bytes, *, annotations: Mapping[str, str] | None = None) -> BlobSource:
    """A small blob that is in memory."""
    raise NotSupported("not built yet")


def file_blob(media_type: str, path: HostPath, *, annotations: Mapping[str, str] | None = None) -> BlobSource:
    """A file's content; it is read once for its digest, and again when it is sent."""
    raise NotSupported("not built yet")


def push_manifest(
    reference: Reference, manifest: bytes, blobs: Sequence[BlobSource], *, session: RegistrySession | None = None
) -> Descriptor:
    """Upload the blobs that the registry does not have, in parallel, then the manifest (or index), byte for byte, under the
    reference's tag or digest. Its media type is the document's ``mediaType`` (required).

    ``session``: from `contain.registry.session.open_session`, for several calls in a row; default: one of its own.
    Raises `RegistryError`, `NotFound`, `IntegrityError` (a blob source gives other bytes than its descriptor says, or the
    registry stored something else), `UsageError` (code ``bad-manifest``).
    """
    raise NotSupported("not built yet")


def fetch_manifest(reference: Reference, *, session: RegistrySession | None = None) -> ServedManifest:
    """The manifest or index under a tag or digest, of whatever artifact type. Raises `NotFound`, `RegistryError`,
    `IntegrityError`."""
    raise NotSupported("not built yet")


def fetch_blob(reference: Reference, descriptor: Descriptor, out: BinaryIO, *, session: RegistrySession | None = None) -> None:
    """A blob's bytes into ``out``, resumed where a connection breaks. Raises `IntegrityError` if they are not what the
    descriptor says: then what ``out`` has got must be thrown away. (Into the store instead: `Store.ingest_blob`.)"""
    raise NotSupported("not built yet")


def push_artifact(
    reference: Reference,
    subject: str,
    *,
    artifact_type: str,
    blob: BlobSource,
    annotations: Mapping[str, str] | None = None,
    session: RegistrySession | None = None,
) -> Descriptor:
    """Attach a document to the manifest with the digest ``subject`` in the reference's repository (its tag does not matter).

    Without a working referrers API the subject's tag ``sha256-<hex>`` is kept up to date. Pushing the same document twice
    makes nothing new. Returns the artifact manifest's descriptor. Raises as `push_manifest`; `NotFound` without the subject.
    """
    raise NotSupported("not built yet")


def list_referrers(
    reference: Reference, digest: str, *, artifact_type: str = "", session: RegistrySession | None = None
) -> tuple[Referrer, ...]:
    """What refers to a manifest, from the referrers API or the tag schema; of one artifact type if given. Empty if nothing."""
    raise NotSupported("not built yet")
