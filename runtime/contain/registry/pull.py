"""From a registry into the store: one image, every byte verified before it can be seen.

Theory of operation. `pull` asks the endpoints of the reference's domain in turn (mirrors, then the registry) for the manifest,
follows an index to the platform's manifest, reads the config, and pairs layers with diff_ids; deciders in `manifests` and
`platform` judge each document. Then a few threads (`session.PARALLEL_LAYERS`) fetch layers into the store's resumable ingest,
and beside each another one unpacks what has arrived (`follow`); only when all are there and right do config and manifest enter,
and last the name. Memory: one piece of `PIECE_BYTES` for each thread, besides the unpacking.

Never changes a byte: the image's digest is that of the manifest as served.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from contain.annotations import TYPE_CHECKING, BinaryIO, Protocol, cast
from contain.errors import IntegrityError, NotFound, NotSupported, RegistryError
from contain.oci import Descriptor, Image, ImageConfig, Manifest, Platform, digest_of, parse_config, parse_index, parse_manifest
from contain.progress import Progress, Silent
from contain.reference import Reference
from contain.registry.client import ApiRequest, CredentialSource, RegistryClient
from contain.registry.configuration import Endpoint, RegistryConfiguration
from contain.registry.download import PIECE_BYTES, download_blob, incomplete
from contain.registry.follow import Follower
from contain.registry.manifests import (
    LARGEST_MANIFEST_BYTES,
    MANIFEST_ACCEPT,
    Kind,
    check_bytes,
    check_kind,
    check_manifest,
    check_platform,
    pair_layers,
)
from contain.registry.platform import choose_platform, host_platform
from contain.registry.session import check_stop, open_session, run_parallel
from contain.values import dataclass

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from contain.store import Store

MOST_INDEXES = 3  # an index in an index in an index


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What a reference means at one endpoint, all of it verified."""

    endpoint: Endpoint
    manifest: Manifest
    manifest_data: bytes
    config: ImageConfig
    config_data: bytes


def pull(
    reference: Reference,
    *,
    store: Store,
    platform: Platform | None = None,
    configuration: RegistryConfiguration | None = None,
    progress: Progress | None = None,
    credentials: CredentialSource | None = None,
) -> Image:
    """Bring an image into the store and name it there. Defaults: this machine's platform and configuration.

    Raises `RegistryError` (``registry-unreachable`` if nobody could be connected to, see `RegistryClient.open` for more;
    ``registry-incomplete`` if a layer is missing there), `NotFound` (``image-not-in-registry``, ``platform-not-in-image``),
    `IntegrityError` for bytes that are not what was promised, `NotSupported` for what is no image.
    """
    with open_session(reference.domain, configuration=configuration, progress=progress, credentials=credentials) as session:
        return pull_with(
            session.client,
            reference,
            endpoints=session.endpoints,
            store=store,
            platform=platform,
            progress=session.progress,
            stop=session.stop,
            abort=session.abort,
        )


def fetch_layer(
    reference: Reference,
    layer: Descriptor,
    *,
    store: Store,
    configuration: RegistryConfiguration | None = None,
    progress: Progress | None = None,
    credentials: CredentialSource | None = None,
) -> None:
    """Bring one layer's blob into the store, without unpacking it. Raises as `pull` does."""
    with open_session(reference.domain, configuration=configuration, progress=progress, credentials=credentials) as session:
        job = _LayerJob(
            client=session.client,
            reference=reference,
            endpoints=session.endpoints,
            store=store,
            progress=session.progress,
            stop=session.stop,
        )
        job.download(layer, layer.digest.removeprefix("sha256:")[:12])


def pull_with(
    client: RegistryClient,
    reference: Reference,
    *,
    endpoints: Sequence[Endpoint],
    store: Store,
    platform: Platform | None,
    progress: Progress,
    stop: threading.Event,
    abort: Callable[[], None],
) -> Image:
    """`pull` with its parts given: ``stop`` makes all threads end, ``abort`` wakes those that wait for bytes."""
    resolved = resolve(client, reference, endpoints=endpoints, platform=platform, progress=progress)
    name = reference.familiar
    pairs = pair_layers(resolved.manifest, resolved.config, name=name)
    layers = {(layer.digest, diff_id): (layer, diff_id) for layer, diff_id in pairs}  # one that stands twice is fetched once
    # Where the manifest came from is asked first; a mirror that lost a layer is helped out by the others.
    order = (resolved.endpoint, *(endpoint for endpoint in endpoints if endpoint != resolved.endpoint))
    job = _LayerJob(client=client, reference=reference, endpoints=order, store=store, progress=progress, stop=stop)
    digest, source = digest_of(resolved.manifest_data), f"registry {resolved.endpoint.source}"
    with store.lease(digest, *resolved.config.diff_ids):
        run_parallel(lambda layer: job.run(*layer), list(layers.values()), stop=stop, abort=abort, name="pull")
        image = store.put_manifest(resolved.manifest_data, resolved.config_data, source=source)
        store.tag(reference, image.digest, source=source)
    progress.note(f"{name}: {image.digest} from {source}")
    return image


def resolve(
    client: RegistryClient,
    reference: Reference,
    *,
    endpoints: Sequence[Endpoint],
    platform: Platform | None,
    progress: Progress,
) -> Resolved:
    """The manifest and config that a reference means for a platform (default: this machine's), from the first endpoint that
    has them. A mirror's failure is a warning; the registry's own is raised."""
    for endpoint in endpoints[:-1]:
        try:
            return _resolve_at(client, reference, endpoint=endpoint, platform=platform, progress=progress)
        except NotFound as error:
            progress.note(f"mirror {endpoint.host}: {error.message}")
        except (RegistryError, IntegrityError, NotSupported) as error:
            progress.warn(f"mirror {endpoint.host}: {error.message}")
    return _resolve_at(client, reference, endpoint=endpoints[-1], platform=platform, progress=progress)


def _resolve_at(
    client: RegistryClient, reference: Reference, *, endpoint: Endpoint, platform: Platform | None, progress: Progress
) -> Resolved:
    name, wanted = reference.familiar, platform or host_platform()
    target, promised, size = reference.digest or reference.tag or "", reference.digest, None
    for _ in range(MOST_INDEXES + 1):
        request = ApiRequest(
            method="GET", repository=reference.path, path=f"manifests/{target}", headers={"Accept": MANIFEST_ACCEPT}
        )
        served = client.read(endpoint, request, limit_bytes=LARGEST_MANIFEST_BYTES, name=name)
        check_bytes(served.data, promised=promised, claimed=served.digest, size=size, name=name)
        if check_kind(served.data, media_type=served.media_type, name=name) is Kind.MANIFEST:
            break
        chosen = choose_platform(parse_index(served.data), wanted, name=name)
        target, promised, size = chosen.digest, chosen.digest, chosen.size
    else:
        raise IntegrityError(f"{name}: more than {MOST_INDEXES} indexes, one within the other", code="bad-manifest")
    manifest = parse_manifest(served.data)
    check_manifest(manifest, name=name)
    config_data = _read_config(client, reference, manifest.config, endpoint=endpoint)
    config = parse_config(config_data)
    if warning := check_platform(config, wanted=wanted, chosen_by_user=platform is not None, name=name):
        progress.warn(warning)
    return Resolved(endpoint=endpoint, manifest=manifest, manifest_data=served.data, config=config, config_data=config_data)


def _read_config(client: RegistryClient, reference: Reference, config: Descriptor, *, endpoint: Endpoint) -> bytes:
    name = f"the config of {reference.familiar}"
    request = ApiRequest(method="GET", repository=reference.path, path=f"blobs/{config.digest}")
    try:
        served = client.read(endpoint, request, limit_bytes=config.size, name=name)
    except NotFound as error:
        raise incomplete(error) from error
    check_bytes(served.data, promised=config.digest, claimed="", size=config.size, name=name)
    return served.data


@dataclass(frozen=True, slots=True, kw_only=True)
class _LayerJob:
    """Fetches and unpacks layers; one value serves all threads."""

    client: RegistryClient
    reference: Reference
    endpoints: tuple[Endpoint, ...]
    store: Store
    progress: Progress
    stop: threading.Event

    def run(self, layer: Descriptor, diff_id: str) -> None:
        label = layer.digest.removeprefix("sha256:")[:12]
        # Two pulls of one layer at once: the second finds it done.
        with self.store.lock(f"pull-{layer.digest.removeprefix('sha256:')}"):
            unpacked = self.store.has_layer(diff_id)
            # The blob too, though the layer is here already: without it the image could not be pushed or saved as it is. An
            # archive that the layer's files give again needs no blob.
            if not self.store.has_blob(layer.digest) and not (
                unpacked and layer.digest == diff_id and self.store.is_canonical(diff_id)
            ):
                if unpacked:
                    self.download(layer, label)
                else:
                    unpacked = self._download_and_unpack(layer, diff_id, label)
            if unpacked:
                self.progress.amount(label, layer.size, layer.size)
                return
            with self.store.open_blob(layer.digest) as blob:
                self._unpack(cast("io.BufferedReader", blob), layer, diff_id, label, self.progress)

    def _download_and_unpack(self, layer: Descriptor, diff_id: str, label: str) -> bool:
        """Both at once. False: the blob is here, but not in one go, and is still to be unpacked."""
        arrived = threading.Event()
        with closing(Follower()) as follower:
            with ThreadPoolExecutor(1, thread_name_prefix="unpack") as beside:
                quiet = _After(arrived, self.progress)
                unpacking = beside.submit(self._unpack, follower, layer, diff_id, label, quiet)
                try:
                    self.download(layer, label, follower)
                    arrived.set()
                    follower.complete()
                except BaseException:
                    follower.give_up()
                    raise
            if follower.broken:  # then whatever the unpacking found fault with may not be in the blob
                return False
            unpacking.result()
            return True

    def _unpack(self, blob: _Source, layer: Descriptor, diff_id: str, label: str, progress: Progress) -> None:
        self.store.extract_layer(
            cast(BinaryIO, io.BufferedReader(_Stoppable(blob, self.stop), PIECE_BYTES)),
            diff_id=diff_id,
            media_type=layer.media_type,
            progress=progress,
            label=label,
            blob=layer.digest,
        )

    def download(self, layer: Descriptor, label: str, follower: Follower | None = None) -> None:
        """Bring the blob from the first endpoint that has it. ``follower``: reads along."""
        for endpoint in self.endpoints[:-1]:
            try:
                self._download_from(endpoint, layer, label, follower)
            except (RegistryError, IntegrityError) as error:
                self.progress.warn(f"{endpoint.source}: {error.message}; trying the next source")
            else:
                return
        self._download_from(self.endpoints[-1], layer, label, follower)

    def _download_from(self, endpoint: Endpoint, layer: Descriptor, label: str, follower: Follower | None) -> None:
        for again in (False, True):
            with self.store.ingest_blob(layer.digest, layer.size) as ingest:
                resumed = ingest.offset
                if follower is not None:
                    follower.follow(ingest)
                download_blob(
                    self.client,
                    endpoint,
                    self.reference,
                    layer,
                    ingest if follower is None else follower,
                    progress=self.progress,
                    stop=self.stop,
                    name=f"layer {label}",
                    label=label,
                )
                try:
                    ingest.commit()
                except IntegrityError:
                    if again or not resumed:
                        raise
                    # The half that an earlier attempt left may be the wrong one: once more, from the start.
                    self.progress.warn(f"{label}: what an earlier attempt left does not fit; from the start")
                    continue
            return


class _After(Silent):
    """Amounts, from an event on: two things at once are not told under one label."""

    def __init__(self, event: threading.Event, progress: Progress) -> None:
        self._event, self._progress = event, progress

    def amount(self, label: str, done: int, total: int | None) -> None:
        """Passed on after the event."""
        if self._event.is_set():
            self._progress.amount(label, done, total)


class _Source(Protocol):
    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Some bytes, none only at the end."""


class _Stoppable(io.RawIOBase):
    """A stream that ends its reader's thread when the pull has failed elsewhere: unpacking may take long."""

    def __init__(self, stream: _Source, stop: threading.Event) -> None:
        super().__init__()
        self._stream, self._stop = stream, stop

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        check_stop(self._stop)
        return self._stream.readinto(buffer)
