"""Anything that is no runnable image but lives in a registry: build caches, SBOMs, provenance, fingerprints of environments.

Manifests and blobs are written and read as they are; `push_artifact` and `list_referrers` attach documents to an image. Every
byte that comes back was verified. Only the registry itself is asked, never a mirror. Knows nothing of the store.

Sources: OCI image-spec 1.1 ``manifest.md`` (artifact guidance), distribution-spec 1.1 (referrers API and its tag schema).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from contain.annotations import Any, BinaryIO
from contain.errors import IntegrityError, NotFound, NotSupported, RegistryError, UsageError
from contain.oci import Descriptor, canonical_json, digest_of, is_digest, parse_index
from contain.oci.image import MEDIA_DOCKER_INDEX, MEDIA_INDEX, MEDIA_MANIFEST
from contain.paths import HostPath
from contain.reference import Reference
from contain.registry.client import ApiRequest
from contain.registry.download import download_blob
from contain.registry.manifests import LARGEST_MANIFEST_BYTES, MANIFEST_ACCEPT, check_bytes, check_kind
from contain.registry.pages import next_page
from contain.registry.push import put_manifest
from contain.registry.session import RegistrySession, open_session, run_parallel
from contain.registry.upload import BlobSource, file_pieces, upload_blob
from contain.values import dataclass, field, replace

MEDIA_EMPTY = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"
MOST_ATTEMPTS = 5  # to write a tag that somebody else writes at the same time
_INDEXES = (MEDIA_INDEX, MEDIA_DOCKER_INDEX)

__all__ = [
    "BlobSource",
    "Referrer",
    "ServedManifest",
    "bytes_blob",
    "fetch_blob",
    "fetch_manifest",
    "file_blob",
    "list_referrers",
    "push_artifact",
    "push_manifest",
]


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


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
    descriptor = Descriptor(
        media_type=media_type, digest=digest_of(data), size=len(data), annotations=MappingProxyType(dict(annotations or {}))
    )
    return BlobSource(descriptor=descriptor, pieces=lambda: (data,))


def file_blob(media_type: str, path: HostPath, *, annotations: Mapping[str, str] | None = None) -> BlobSource:
    """A file's content; it is read once for its digest, and again when it is sent."""
    digest, size = hashlib.sha256(), 0
    for piece in file_pieces(path):
        digest.update(piece)
        size += len(piece)
    descriptor = Descriptor(
        media_type=media_type,
        digest="sha256:" + digest.hexdigest(),
        size=size,
        annotations=MappingProxyType(dict(annotations or {})),
    )
    return BlobSource(descriptor=descriptor, pieces=lambda: file_pieces(path))


@contextlib.contextmanager
def _within(reference: Reference, session: RegistrySession | None) -> Iterator[RegistrySession]:
    if session is not None:
        if session.stop.is_set():
            raise RegistryError("an earlier failure ended this session; open another one", code="registry-session-over")
        yield session
        return
    with open_session(reference.domain) as opened:
        yield opened


def push_manifest(
    reference: Reference, manifest: bytes, blobs: Sequence[BlobSource], *, session: RegistrySession | None = None
) -> Descriptor:
    """Upload the blobs that the registry does not have, in parallel, then the manifest (or index), byte for byte, under the
    reference's tag or digest. Its media type is the document's ``mediaType`` (required).

    ``session``: from `contain.registry.session.open_session`, for several calls in a row; default: one of its own.
    Raises `RegistryError`, `NotFound`, `IntegrityError` (a blob source gives other bytes than its descriptor says, or the
    registry stored something else), `UsageError` (code ``bad-manifest``).
    """
    return _push_manifest(reference, manifest, blobs, session)[0]


def _push_manifest(
    reference: Reference, manifest: bytes, blobs: Sequence[BlobSource], session: RegistrySession | None
) -> tuple[Descriptor, str]:
    """Also what the registry said in ``OCI-Subject``."""
    media_type = _own_media_type(manifest)
    digest = digest_of(manifest)
    if reference.digest not in (None, digest):
        raise UsageError(f"the manifest is {digest}, not {reference.digest}", code="bad-manifest")
    each = {blob.descriptor.digest: blob for blob in blobs}
    with _within(reference, session) as opened:
        run_parallel(
            lambda blob: upload_blob(opened, reference.path, blob),
            list(each.values()),
            stop=opened.stop,
            abort=opened.abort,
            name="push",
        )
        target = replace(reference, tag=None) if reference.digest is not None else reference
        subject = put_manifest(opened, target, manifest, media_type=media_type, digest=digest)
    return Descriptor(media_type=media_type, digest=digest, size=len(manifest)), subject


def _own_media_type(manifest: bytes) -> str:
    try:
        media_type = json.loads(manifest)["mediaType"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError("a manifest to be pushed must be JSON with a mediaType", code="bad-manifest") from error
    if not isinstance(media_type, str) or not media_type:
        raise UsageError("a manifest's mediaType must be a string", code="bad-manifest")
    return media_type


def fetch_manifest(reference: Reference, *, session: RegistrySession | None = None) -> ServedManifest:
    """The manifest or index under a tag or digest, of whatever artifact type. Raises `NotFound`, `RegistryError`,
    `IntegrityError`."""
    name = reference.familiar
    with _within(reference, session) as opened:
        request = ApiRequest(
            method="GET",
            repository=reference.path,
            path=f"manifests/{reference.digest or reference.tag}",
            headers={"Accept": MANIFEST_ACCEPT},
        )
        served = opened.client.read(opened.endpoint, request, limit_bytes=LARGEST_MANIFEST_BYTES, name=name)
    digest = check_bytes(served.data, promised=reference.digest, claimed=served.digest, size=None, name=name)
    check_kind(served.data, media_type=served.media_type, name=name)
    own = json.loads(served.data).get("mediaType")
    return ServedManifest(data=served.data, media_type=own or served.media_type or MEDIA_MANIFEST, digest=digest)


def fetch_blob(reference: Reference, descriptor: Descriptor, out: BinaryIO, *, session: RegistrySession | None = None) -> None:
    """A blob's bytes into ``out``, resumed where a connection breaks. Raises `IntegrityError` if they are not what the
    descriptor says: then what ``out`` has got must be thrown away. (Into the store instead: `Store.ingest_blob` and
    `contain.registry.download.download_blob`.)"""
    name = f"blob {descriptor.digest}"
    sink = _HashedSink(out)
    with _within(reference, session) as opened:
        download_blob(
            opened.client,
            opened.endpoint,
            reference,
            descriptor,
            sink,
            progress=opened.progress,
            stop=opened.stop,
            name=name,
            label=descriptor.digest.removeprefix("sha256:")[:12],
        )
    actual = "sha256:" + sink.hash.hexdigest()
    if actual != descriptor.digest:
        raise IntegrityError(f"{name} of {reference.familiar}: the registry served {actual}", code="blob-digest")


class _HashedSink:
    def __init__(self, out: BinaryIO) -> None:
        self._out, self.hash, self.offset = out, hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        self._out.write(data)
        self.hash.update(data)


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
    with _within(reference, session) as opened:
        about = fetch_manifest(_at(reference, subject), session=opened).descriptor
        empty = bytes_blob(MEDIA_EMPTY, EMPTY)
        value: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "artifactType": artifact_type,
            "config": _plain(empty.descriptor),
            "layers": [_plain(blob.descriptor)],
            "subject": _plain(about),
        }
        if annotations:
            value["annotations"] = dict(annotations)
        manifest = canonical_json(value)
        digest = digest_of(manifest)
        pushed, understood = _push_manifest(_at(reference, digest), manifest, [empty, blob], opened)
        # A registry that says in a header that it understood the subject may still not list it: it is asked.
        listed = understood == subject and any(
            found.descriptor.digest == digest for found in _ask_referrers(opened, reference, subject) or ()
        )
        if not listed:
            entry = {
                **_plain(pushed),
                "artifactType": artifact_type,
                **({"annotations": dict(annotations)} if annotations else {}),
            }
            _add_to_tag(opened, reference, subject, entry)
        return pushed


def _at(reference: Reference, digest: str) -> Reference:
    if not is_digest(digest):
        raise UsageError(
            f"{digest[:80]!r} is not a digest", code="bad-digest", remedy="write sha256: and 64 hexadecimal digits"
        )
    return replace(reference, tag=None, digest=digest)


def _plain(descriptor: Descriptor) -> dict[str, Any]:
    value: dict[str, Any] = {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}
    if descriptor.annotations:
        value["annotations"] = dict(descriptor.annotations)
    return value


def list_referrers(
    reference: Reference, digest: str, *, artifact_type: str = "", session: RegistrySession | None = None
) -> tuple[Referrer, ...]:
    """What refers to a manifest, from the referrers API or the tag schema; of one artifact type if given. Empty if nothing."""
    _at(reference, digest)
    with _within(reference, session) as opened:
        found = _ask_referrers(opened, reference, digest)
        if not found:  # no such API, or one that knows nothing: then somebody may have kept the tag
            tagged = _read_tag(opened, reference, digest)
            found = () if tagged is None else _parse_referrers(tagged.data)
    return tuple(row for row in found if not artifact_type or row.artifact_type == artifact_type)


def _ask_referrers(session: RegistrySession, reference: Reference, digest: str) -> tuple[Referrer, ...] | None:
    """What the referrers API says; None if there is none, or what answers is no such thing. Never filtered by the server: not
    all do it, and a wrong filter would hide what is there."""
    found: list[Referrer] = []
    request = ApiRequest(method="GET", repository=reference.path, path=f"referrers/{digest}", headers={"Accept": MEDIA_INDEX})
    for _ in range(100):
        try:
            served = session.client.read(
                session.endpoint, request, limit_bytes=LARGEST_MANIFEST_BYTES, name=f"referrers of {digest}"
            )
            found += _parse_referrers(served.data)
        except (NotFound, IntegrityError, NotSupported):
            return None
        except RegistryError as error:
            if error.code == "registry-refused":  # 400, 405: not known there
                return None
            raise
        following = next_page(served.link, served.url, session.endpoint)
        if not following:
            break
        request = replace(request, url=following)
    return tuple(found)


def _parse_referrers(data: bytes) -> tuple[Referrer, ...]:
    """Raises `IntegrityError` for what is no index."""
    descriptors = parse_index(data)
    rows = json.loads(data)["manifests"]
    return tuple(
        Referrer(
            descriptor=descriptor,
            artifact_type=row["artifactType"] if isinstance(row.get("artifactType"), str) else "",
            annotations=descriptor.annotations,
        )
        for descriptor, row in zip(descriptors, rows, strict=True)
    )


def _tag_of(digest: str) -> str:
    """The tag schema's name for what refers to a manifest."""
    return digest.replace(":", "-", 1)


def _read_tag(session: RegistrySession, reference: Reference, digest: str) -> ServedManifest | None:
    """The index under the subject's tag; None if there is none, or if the tag holds something else."""
    try:
        served = fetch_manifest(replace(reference, tag=_tag_of(digest), digest=None), session=session)
    except NotFound:
        return None
    return served if served.media_type in _INDEXES else None


def _add_to_tag(session: RegistrySession, reference: Reference, subject: str, entry: dict[str, Any]) -> None:
    """Put one more entry into the index under the subject's tag. Registries have no "only if unchanged", so it is read again
    afterwards: who was overwritten by another writer writes once more."""
    target = replace(reference, tag=_tag_of(subject), digest=None)
    for _ in range(MOST_ATTEMPTS):
        served = _read_tag(session, reference, subject)
        rows: list[Any] = [] if served is None else json.loads(served.data)["manifests"]
        if any(row["digest"] == entry["digest"] for row in rows):
            return
        value = {"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": [*rows, entry]}
        data = canonical_json(value)
        put_manifest(session, target, data, media_type=MEDIA_INDEX, digest=digest_of(data))
    served = _read_tag(session, reference, subject)
    if served is None or not any(row["digest"] == entry["digest"] for row in json.loads(served.data)["manifests"]):
        raise RegistryError(
            f"{target.familiar}: others change it all the time", code="registry-busy", retryable=True, remedy="try again"
        )
