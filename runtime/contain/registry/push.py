"""From the store into a registry: one image, its manifest last, so that a tag never names what is not all there.

Theory of operation. `push` takes the image as it is, or (``compression``) the same one with its layers compressed by `packing`.
Up to `PARALLEL_LAYERS` threads bring the layers, `upload` each; then the config; then the manifest's exact bytes, under the
tag; the registry must name the digest that we know. A layer's bytes are looked for only if they must be sent: the stored blob,
the archive made again from its tree, the same archive compressed again as it was, or the registry that the image came from.

Never changes the image: without ``compression`` its digest in the registry is that in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from contain.annotations import TYPE_CHECKING
from contain.errors import ContainError, IntegrityError, NotFound, RegistryError, UsageError
from contain.oci import Descriptor, Image
from contain.progress import Progress
from contain.reference import Reference, parse_reference
from contain.registry.client import ApiRequest, CredentialSource
from contain.registry.configuration import RegistryConfiguration
from contain.registry.manifests import LARGEST_MANIFEST_BYTES
from contain.registry.packing import COMPRESSIONS, compression_of, pack_image, pack_layer, parse_compression
from contain.registry.session import RegistrySession, open_session, run_parallel
from contain.registry.upload import PIECE_BYTES, PUSH, BlobSource, Delivery, explain_refusal, upload_blob
from contain.values import dataclass

if TYPE_CHECKING:
    from contain.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What a push did. ``digest`` is what the registry has now; it is the image's own unless a compression was asked for."""

    reference: Reference
    digest: str
    manifest_bytes: int
    layers: tuple[tuple[Descriptor, Delivery], ...]


def push(
    reference: Reference,
    *,
    store: Store,
    image: Image | None = None,
    compression: str = "",
    chunk_bytes: int = 0,
    configuration: RegistryConfiguration | None = None,
    progress: Progress | None = None,
    credentials: CredentialSource | None = None,
) -> Pushed:
    """Bring an image (default: what the reference names in the store) to the reference's registry, under its tag.

    ``compression``: gzip, zstd or none for all layers, which may make another image; "" for the image as it is.
    ``chunk_bytes``: upload in chunks of that size; 0: in one piece where that works.
    Raises `NotFound` (``no-such-image``, ``layer-blob-not-found``), `UsageError` (``push-by-digest``), `RegistryError`
    (``registry-denied``, ``registry-upload`` and those of `RegistryClient.open`), `IntegrityError`.
    """
    if compression:
        parse_compression(compression)
    with open_session(reference.domain, configuration=configuration, progress=progress, credentials=credentials) as session:
        return push_with(
            session,
            reference,
            store=store,
            image=image,
            compression=compression,
            chunk_bytes=chunk_bytes,
            fetch=_Fetcher(store=store, configuration=configuration, credentials=credentials),
        )


def push_with(
    session: RegistrySession,
    reference: Reference,
    *,
    store: Store,
    image: Image | None = None,
    compression: str = "",
    chunk_bytes: int = 0,
    fetch: Callable[[Image, Descriptor, Progress], bool] = lambda *_: False,
) -> Pushed:
    """`push` within a session. ``fetch``: bring a missing blob of an image into the store, if somebody has it."""
    if reference.digest is not None or reference.tag is None:
        raise UsageError(
            f"cannot push {reference.familiar}: a digest is what a push results in",
            code="push-by-digest",
            remedy="name a tag",
        )
    original = store.find_image(str(reference)) if image is None else image
    with store.lease(original.digest, *original.config.diff_ids):
        image = original
        if compression:
            image = pack_image(
                original,
                parse_compression(compression),
                store=store,
                progress=session.progress,
                stop=session.stop,
                abort=session.abort,
            )
        with store.lease(image.digest):
            return _push(session, reference, image, store=store, chunk_bytes=chunk_bytes, fetch=fetch)


def _push(
    session: RegistrySession,
    reference: Reference,
    image: Image,
    *,
    store: Store,
    chunk_bytes: int,
    fetch: Callable[[Image, Descriptor, Progress], bool],
) -> Pushed:
    neighbours = find_neighbours(image, reference, store)
    layers = {
        layer.digest: (layer, diff_id) for layer, diff_id in zip(image.manifest.layers, image.config.diff_ids, strict=True)
    }

    def bring(pair: tuple[Descriptor, str]) -> tuple[Descriptor, Delivery]:
        layer, diff_id = pair
        source = BlobSource(
            descriptor=layer,
            pieces=lambda: layer_bytes(image, layer, diff_id, store=store, session=session, fetch=fetch),
            mount_from=neighbours.get(layer.digest, ""),
        )
        label = layer.digest.removeprefix("sha256:")[:12]
        delivery = upload_blob(session, reference.path, source, label=label, chunk_bytes=chunk_bytes)
        said = f"{delivery.value} {source.mount_from}" if delivery is Delivery.MOUNTED else delivery.value
        session.progress.note(f"{label}: {said}")
        return layer, delivery

    delivered = run_parallel(bring, list(layers.values()), stop=session.stop, abort=session.abort, name="push")
    config = store.read_blob(image.manifest.config.digest)
    config_source = BlobSource(descriptor=image.manifest.config, pieces=lambda: (config,))
    upload_blob(session, reference.path, config_source, label="config")
    manifest = store.read_blob(image.digest)
    put_manifest(session, reference, manifest, media_type=image.manifest.media_type, digest=image.digest)
    return Pushed(reference=reference, digest=image.digest, manifest_bytes=len(manifest), layers=tuple(delivered))


def put_manifest(session: RegistrySession, reference: Reference, data: bytes, *, media_type: str, digest: str) -> str:
    """Put a manifest's exact bytes under the reference's tag, else under its ``digest``; the registry must confirm the digest.
    Returns the ``OCI-Subject`` header's value.

    Raises `RegistryError` (``registry-denied``, ``registry-refused``), `IntegrityError` (``digest-mismatch``).
    """
    name, host = reference.familiar, session.endpoint.host
    path = f"manifests/{reference.tag or digest}"
    if len(data) > LARGEST_MANIFEST_BYTES:
        raise UsageError(f"{name}: a manifest of {len(data)} bytes; registries take at most 4 MiB", code="bad-manifest")
    session.check_stop()
    request = ApiRequest(
        method="PUT",
        repository=reference.path,
        path=path,
        actions=PUSH,
        headers={"Content-Type": media_type},
        body=data,
    )
    with session.client.open(session.endpoint, request) as response:
        if response.status not in (201, 200, 202, 204):
            raise explain_refusal(response, host=host, name=f"{host}/{reference.path}", what="the manifest")
        confirmed, subject = response.header("Docker-Content-Digest").strip(), response.header("OCI-Subject").strip()
    if not confirmed:  # then it must say so when asked
        head = ApiRequest(method="HEAD", repository=reference.path, path=path, actions=PUSH, headers={"Accept": media_type})
        with session.client.open(session.endpoint, head) as response:
            confirmed = response.header("Docker-Content-Digest").strip()
    if confirmed.startswith("sha256:") and confirmed != digest:
        raise IntegrityError(f"{name}: pushed {digest}, the registry stored {confirmed}", code="digest-mismatch")
    return subject


def find_neighbours(image: Image, reference: Reference, store: Store) -> dict[str, str]:
    """For each layer that another image of the same registry has by our names: that image's repository. Names that came from
    that registry first, since those are certainly there."""
    wanted = {layer.digest for layer in image.manifest.layers}
    found: dict[str, tuple[bool, str]] = {}
    for row in store.images():
        names = []
        for name in row.names:
            with suppress(ContainError):
                other = parse_reference(name)
                if other.domain == reference.domain and other.path != reference.path:
                    known = store.name_source(other)
                    names.append((known is not None and known[1].startswith("registry "), other.path))
        if not names:
            continue
        with suppress(ContainError):
            for layer in store.image(row.digest).manifest.layers:
                if layer.digest in wanted:
                    found[layer.digest] = max(found.get(layer.digest, (False, "")), *names)
    return {digest: path for digest, (_, path) in found.items()}


def layer_bytes(
    image: Image,
    layer: Descriptor,
    diff_id: str,
    *,
    store: Store,
    session: RegistrySession,
    fetch: Callable[[Image, Descriptor, Progress], bool] = lambda *_: False,
) -> Iterator[bytes]:
    """A layer's bytes as its manifest means them. Raises `NotFound` (code ``layer-blob-not-found``)."""
    if not store.has_blob(layer.digest):
        compression = compression_of(layer.media_type)
        archive = store.has_layer(diff_id) and (store.is_canonical(diff_id) or bool(store.layer_blobs(diff_id)))
        if archive and compression == "none" and layer.digest == diff_id:
            return store.layer_pieces(diff_id)
        again = None
        if archive and compression in COMPRESSIONS and compression != "none" and store.is_canonical(diff_id):
            # Perhaps we compressed it ourselves, and the blob was pruned since.
            again = pack_layer(diff_id, compression, store=store, progress=session.progress, stop=session.stop)
        if (again is None or again.digest != layer.digest) and not fetch(image, layer, session.progress):
            raise NotFound(
                f"the archive of layer {layer.digest} is not in the store, only its files are, and they do not give it again",
                code="layer-blob-not-found",
                remedy="pull the image again, or push it with --compression gzip",
            )
    return _blob_pieces(store, layer.digest)


def _blob_pieces(store: Store, digest: str) -> Iterator[bytes]:
    with store.open_blob(digest) as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fetcher:
    """Brings a missing blob from a registry that the image was pulled from, by the image's names."""

    store: Store
    configuration: RegistryConfiguration | None
    credentials: CredentialSource | None

    def __call__(self, image: Image, layer: Descriptor, progress: Progress) -> bool:
        from contain.registry.pull import fetch_layer

        for row in self.store.images():
            if row.digest != image.digest:
                continue
            for name in row.names:
                try:
                    reference = parse_reference(name)
                    known = self.store.name_source(reference)
                    if known is not None and known[1].startswith("registry "):
                        fetch_layer(
                            reference,
                            layer,
                            store=self.store,
                            configuration=self.configuration,
                            progress=progress,
                            credentials=self.credentials,
                        )
                        return True
                except (RegistryError, NotFound, IntegrityError) as error:
                    progress.warn(f"{name}: {error.message}")
        return False
