"""Build caches of other machines: writes the records and layers of a build to a registry or directory, and takes steps from there.

Format: an OCI image manifest of the artifact type `ARTIFACT_TYPE`. Its config is a JSON document with one record for each step: the
ingredients of its key, the diff_id of its layer, what makes it understandable. Its layers are the steps' layers. In a directory it lies
in an OCI image layout, under a tag (annotation ``org.opencontainers.image.ref.name``).

What comes from elsewhere is not believed where it can be checked: a record's key is computed from its ingredients, a blob has its
digest, a layer unpacks to its diff_id and is one that contain itself would write; sizes are limited. That a command gives these files
cannot be checked without running it: who may write a cache decides what is built from it, like who may write a base image.

A layer is fetched when a step that needs it hits, never before.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

from contain.annotations import TYPE_CHECKING, Any, BinaryIO
from contain.build.cache.keys import key_of
from contain.build.cache.places import CachePlace
from contain.errors import ContainError, HostError, IntegrityError, NotFound
from contain.oci import Descriptor, Manifest, canonical_json, digest_of, is_digest, parse_manifest
from contain.oci.image import MEDIA_INDEX, MEDIA_MANIFEST
from contain.paths import HostPath
from contain.progress import Progress
from contain.store import StepRecord, Store
from contain.store.durable import replaced
from contain.values import dataclass

if TYPE_CHECKING:
    from contain.reference import Reference
    from contain.registry.session import RegistrySession

ARTIFACT_TYPE = "application/vnd.contain.build-cache.v1"
CONFIG_TYPE = "application/vnd.contain.build-cache.config.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"

_FORMAT = 1
_LARGEST_CONFIG_BYTES = 64 << 20
_LARGEST_MANIFEST_BYTES = 8 << 20
_LARGEST_LAYER_BYTES = 64 << 30
_MOST_RECORDS = 20_000
_LARGEST_LISTING_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'

ReadBlob = Callable[[Descriptor, BinaryIO], None]
"""Writes a blob's bytes, and raises unless they are exactly those that the descriptor promises."""


class CacheSource:
    """A cache that was opened. ``name`` is what the user wrote."""

    def __init__(
        self,
        name: str,
        records: Sequence[StepRecord],
        layers: Mapping[str, Descriptor],
        read: ReadBlob,
        listings: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self._listings = listings
        self._records = {record.key: record for record in records}
        self._layers, self._read = layers, read

    def find(self, key: str) -> StepRecord | None:
        """The step of this key, if its layer can be had as well."""
        record = self._records.get(key)
        if record is None or (record.diff_id is not None and record.diff_id not in self._layers):
            return None
        return record

    def alike(self, command: str) -> tuple[StepRecord, ...]:
        """Steps of the same command: the material for "why did it miss"."""
        return tuple(record for record in self._records.values() if record.command == command)

    def listing(self, digest: str) -> bytes:
        """What an input consisted of; empty if it is not told."""
        return self._listings.get(digest, b"")

    def fetch_layer(self, diff_id: str, store: Store, progress: Progress) -> None:
        """Bring a step's layer into the store. Raises `RegistryError`, `IntegrityError`; then nothing of it is there."""
        descriptor = self._layers[diff_id]
        with store.scratch("cache-layer") as work, open(work / "layer", "w+b") as file:
            self._read(descriptor, file)
            file.seek(0)
            label = f"cache {diff_id.removeprefix('sha256:')[:12]}"
            store.extract_layer(
                file, diff_id=diff_id, media_type=descriptor.media_type, progress=progress, label=label, regenerable=True
            )


# -- taking ---------------------------------------------------------------------------------------------------------------------


def open_cache_sources(
    places: Sequence[CachePlace], progress: Progress, cleanup: contextlib.ExitStack
) -> tuple[CacheSource, ...]:
    """The caches that can be read; of each other one a warning says why not. ``cleanup`` closes their connections."""
    opened = []
    for place in places:
        try:
            source = _open_source(place, progress, cleanup)
        except ContainError as error:
            progress.warn(f"--cache-from {place.text}: not used: {error.message}")
        except OSError as error:
            progress.warn(f"--cache-from {place.text}: not used: {error.strerror}")
        else:
            opened.append(source)
    return tuple(opened)


def _open_source(place: CachePlace, progress: Progress, cleanup: contextlib.ExitStack) -> CacheSource:
    read: ReadBlob
    if place.directory is not None:
        directory = place.directory

        def read_file(descriptor: Descriptor, out: BinaryIO) -> None:
            _read_file(directory, descriptor, out)

        read = read_file
        data = _read_small(read, _find_manifest(directory, place.tag), _LARGEST_MANIFEST_BYTES)
    else:
        assert place.reference is not None
        reference = place.reference
        from contain.registry.artifacts import fetch_blob, fetch_manifest
        from contain.registry.session import open_session

        session: RegistrySession = cleanup.enter_context(open_session(reference.domain, progress=progress))

        def read_registry(descriptor: Descriptor, out: BinaryIO) -> None:
            fetch_blob(reference, descriptor, out, session=session)

        read = read_registry
        data = fetch_manifest(reference, session=session).data
    manifest = parse_manifest(data)
    if manifest.config.media_type != CONFIG_TYPE:
        raise IntegrityError("it is no build cache of contain's", code="bad-cache")
    cache = parse_cache(_read_small(read, manifest.config, _LARGEST_CONFIG_BYTES))
    return CacheSource(place.text, cache.records, _layers_of(manifest, cache.blobs), read, cache.listings)


def _layers_of(manifest: Manifest, blobs: Mapping[str, str]) -> dict[str, Descriptor]:
    known = {layer.digest: layer for layer in manifest.layers if layer.size <= _LARGEST_LAYER_BYTES}
    return {diff_id: known[digest] for diff_id, digest in blobs.items() if digest in known}


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheContent:
    """What a cache's config says. ``blobs``: for each diff_id the digest of the packed layer. ``listings``: of inputs, packed."""

    records: tuple[StepRecord, ...]
    blobs: Mapping[str, str]
    listings: Mapping[str, bytes]


def parse_cache(data: bytes) -> CacheContent:
    """Raises `IntegrityError` (code ``bad-cache``)."""
    try:
        value = json.loads(data)
        if not isinstance(value, dict) or value.get("version") != _FORMAT:
            raise _bad("it has a format that this contain does not know")
        rows, layers, listings = value["records"], value["layers"], value["listings"]
        if (
            not isinstance(rows, list)
            or not isinstance(layers, dict)
            or not isinstance(listings, dict)
            or len(rows) > _MOST_RECORDS
        ):
            raise _bad("its records are not what they should be")
        records = tuple(_parse_record(row) for row in rows)
        return CacheContent(
            records=records,
            blobs={_digest(diff_id): _digest(digest) for diff_id, digest in layers.items()},
            listings={_digest(digest): base64.b64decode(text, validate=True) for digest, text in listings.items()},
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _bad("its config cannot be read") from error


def _parse_record(row: Any) -> StepRecord:
    ingredients, details = row["ingredients"], row["details"]
    if not isinstance(ingredients, dict) or not isinstance(details, dict):
        raise _bad("a record is not what it should be")
    created, command = row["created_seconds"], row["command"]
    if type(created) is not int or not 0 <= created < 1 << 40 or not isinstance(command, str) or len(command) > 100:
        raise _bad("a record is not what it should be")
    text = canonical_json(ingredients)
    return StepRecord(
        key=key_of(ingredients),  # whatever it says itself
        position="",
        ingredients=text.decode(),
        diff_id=None if row["diff_id"] is None else _digest(row["diff_id"]),
        result=canonical_json(details).decode(),
        created_seconds=created,
        command=command,
    )


def _digest(text: Any) -> str:
    if not isinstance(text, str) or not is_digest(text):
        raise _bad(f"{str(text)[:80]!r} is no digest")
    return text


def _bad(reason: str) -> IntegrityError:
    return IntegrityError(f"the cache is damaged: {reason}", code="bad-cache")


def _read_small(read: ReadBlob, descriptor: Descriptor, limit_bytes: int) -> bytes:
    if descriptor.size > limit_bytes:
        raise _bad(f"{descriptor.size} bytes are too many")
    out = io.BytesIO()
    read(descriptor, out)
    return out.getvalue()


def _find_manifest(directory: HostPath, tag: str) -> Descriptor:
    for row in _read_index(directory):
        if row.get("annotations", {}).get(REF_NAME) == tag:
            return Descriptor(media_type=str(row["mediaType"]), digest=_digest(row["digest"]), size=int(row["size"]))
    raise NotFound(f"there is no cache {tag!r} in {str(directory)!r}", code="cache-not-found")


def _read_index(directory: HostPath) -> list[dict[str, Any]]:
    try:
        data = (directory / "index.json").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return []
    try:
        rows = json.loads(data)["manifests"]
        if not all(isinstance(row["digest"], str) and isinstance(row.get("annotations", {}), dict) for row in rows):
            raise ValueError(rows)
        return list(rows)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _bad("its index.json cannot be read") from error


def _blob_path(directory: HostPath, digest: str) -> HostPath:
    return directory / "blobs" / "sha256" / _digest(digest).removeprefix("sha256:")


def _read_file(directory: HostPath, descriptor: Descriptor, out: BinaryIO) -> None:
    hashed, size = hashlib.sha256(), 0
    try:
        with open(_blob_path(directory, descriptor.digest), "rb") as file:
            while size <= descriptor.size and (data := file.read(_CHUNK_BYTES)):
                hashed.update(data)
                size += len(data)
                out.write(data)
    except FileNotFoundError as error:
        raise NotFound(f"blob {descriptor.digest} is missing", code="cache-not-found") from error
    if size != descriptor.size or "sha256:" + hashed.hexdigest() != descriptor.digest:
        raise IntegrityError(f"blob {descriptor.digest} has other bytes than its name says", code="blob-digest")


# -- giving ---------------------------------------------------------------------------------------------------------------------


def render_cache(
    records: Sequence[StepRecord], layers: Mapping[str, Descriptor], listings: Mapping[str, bytes] = MappingProxyType({})
) -> tuple[bytes, bytes]:
    """Manifest and config of a cache. ``layers``: for each diff_id its packed layer. ``listings``: of the records' inputs; what is
    large is left out. Pure, and the same for the same records."""
    rows = [
        {
            "ingredients": json.loads(record.ingredients),
            "details": json.loads(record.result),
            "diff_id": record.diff_id,
            "created_seconds": record.created_seconds,
            "command": record.command,
        }
        for record in sorted(records, key=lambda record: record.key)
    ]
    blobs = {diff_id: layer.digest for diff_id, layer in sorted(layers.items())}
    told = {
        digest: base64.b64encode(data).decode()
        for digest, data in sorted(listings.items())
        if len(data) <= _LARGEST_LISTING_BYTES
    }
    config = canonical_json({"version": _FORMAT, "records": rows, "layers": blobs, "listings": told})
    each = {layer.digest: layer for layer in layers.values()}
    manifest = canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "artifactType": ARTIFACT_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
            "layers": [
                {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size} for _, layer in sorted(each.items())
            ],
        }
    )
    return manifest, config


def export_cache(place: CachePlace, records: Sequence[StepRecord], *, store: Store, progress: Progress) -> None:
    """Write the records and their layers to a registry or directory. The caller holds the layers.

    Raises `RegistryError`, `HostError`; with ``ignore-error=true`` that is a warning.
    """
    try:
        _export(place, list({record.key: record for record in records}.values()), store=store, progress=progress)
    except ContainError as error:
        if not place.ignore_errors:
            raise
        progress.warn(f"--cache-to {place.text}: not written: {error.message}")


def _export(place: CachePlace, records: Sequence[StepRecord], *, store: Store, progress: Progress) -> None:
    from contain.registry.packing import pack_layer

    compression = "none" if place.compression == "uncompressed" else place.compression
    stop = threading.Event()
    layers = {
        diff_id: pack_layer(diff_id, compression, store=store, progress=progress, stop=stop)
        for diff_id in sorted({record.diff_id for record in records if record.diff_id is not None})
    }
    # A record that was made in this build does not know its time yet.
    known = [store.find_step(record.key) or record for record in records]
    inputs = {str(json.loads(record.ingredients).get("input", "")) for record in known} - {""}
    listings = {digest: data for digest in inputs if (data := store.listing(digest)) is not None}
    manifest, config = render_cache(known, layers, listings)
    if place.directory is not None:
        _write_directory(place.directory, place.tag, manifest, config, layers, store)
    elif place.reference is not None:
        _push(place.reference, manifest, config, layers, store, progress)
    progress.note(f"cache of {len(known)} steps with {len(layers)} layers written to {place.text}")


def _pieces(diff_id: str, layer: Descriptor, store: Store) -> Iterator[bytes]:
    if layer.digest == diff_id and not store.has_blob(diff_id):
        yield from store.layer_pieces(diff_id)
        return
    with store.open_blob(layer.digest) as file:
        while data := file.read(_CHUNK_BYTES):
            yield data


def _push(
    reference: Reference, manifest: bytes, config: bytes, layers: Mapping[str, Descriptor], store: Store, progress: Progress
) -> None:
    from contain.registry.artifacts import BlobSource, bytes_blob, push_manifest
    from contain.registry.session import open_session

    def source(diff_id: str, layer: Descriptor) -> BlobSource:
        return BlobSource(descriptor=layer, pieces=lambda: _pieces(diff_id, layer, store))

    blobs = [bytes_blob(CONFIG_TYPE, config), *(source(diff_id, layer) for diff_id, layer in layers.items())]
    with open_session(reference.domain, progress=progress) as session:
        push_manifest(reference, manifest, blobs, session=session)


def _write_directory(
    directory: HostPath, tag: str, manifest: bytes, config: bytes, layers: Mapping[str, Descriptor], store: Store
) -> None:
    """An image layout; what else is in it stays. What only the cache of this tag needed before is removed."""
    try:
        (directory / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        with open(directory / ".lock", "a", encoding="utf-8") as lock:  # not removed: another process may wait for it
            fcntl.flock(lock, fcntl.LOCK_EX)
            rows = _read_index(directory)
            for diff_id, layer in layers.items():
                _write_blob(directory, layer.digest, _pieces(diff_id, layer, store))
            _write_blob(directory, digest_of(config), [config])
            _write_blob(directory, digest_of(manifest), [manifest])
            row = {
                "mediaType": MEDIA_MANIFEST,
                "artifactType": ARTIFACT_TYPE,
                "digest": digest_of(manifest),
                "size": len(manifest),
                "annotations": {REF_NAME: tag},
            }
            replaced = [old for old in rows if old.get("annotations", {}).get(REF_NAME) == tag]
            kept = [old for old in rows if old not in replaced]
            index = {"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": [*kept, row]}
            _write_whole(directory / "oci-layout", [_LAYOUT])
            _write_whole(directory / "index.json", [canonical_json(index)])
            _remove_unused(directory, replaced, [*kept, row])
    except OSError as error:
        raise HostError(
            f"the cache cannot be written to {str(directory)!r}", path=str(directory), errno=error.errno or 0, code="cache-io"
        ) from error


def _write_blob(directory: HostPath, digest: str, pieces: Iterator[bytes] | Sequence[bytes]) -> None:
    path = _blob_path(directory, digest)
    if not path.exists():
        _write_whole(path, pieces)


def _write_whole(path: HostPath, pieces: Iterator[bytes] | Sequence[bytes]) -> None:
    with replaced(path) as file:
        file.writelines(pieces)


def _remove_unused(directory: HostPath, replaced: Sequence[Mapping[str, Any]], kept: Sequence[Mapping[str, Any]]) -> None:
    """The blobs of caches that were replaced, and of which no other manifest of the layout has need."""
    gone: set[str] = set()
    for row in replaced:
        with contextlib.suppress(ContainError, OSError):
            gone |= _blobs_of(directory, str(row["digest"]))
    for row in kept:
        if not gone:
            return
        try:
            gone -= _blobs_of(directory, str(row["digest"]))
        except (ContainError, OSError):
            return  # what it needs is not known: nothing is removed
    for digest in gone:
        with contextlib.suppress(OSError):
            _blob_path(directory, digest).unlink()


def _blobs_of(directory: HostPath, digest: str) -> set[str]:
    manifest = parse_manifest(_blob_path(directory, digest).read_bytes())
    return {digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)}
