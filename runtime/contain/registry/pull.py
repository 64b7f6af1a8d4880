"""From a registry into the store: one image, every byte verified before it can be seen.

Theory of operation. `pull` asks the endpoints of the reference's domain in turn (mirrors, then the registry) for the manifest,
follows an index to the platform's manifest, reads the config, and pairs layers with diff_ids; deciders in `manifests` and
`platform` judge each document. Then up to `PARALLEL_LAYERS` threads fetch layers into the store's resumable ingest and have
them unpacked; only when all are there do config and manifest enter, and last the name. Memory: one piece of
`PIECE_BYTES` for each thread, besides the unpacking.

Never changes a byte: the image's digest is that of the manifest as served.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, BinaryIO, cast

from contain.errors import ContainError, IntegrityError, NotFound, NotSupported, RegistryError
from contain.oci import Descriptor, Image, ImageConfig, Manifest, Platform, digest_of, parse_config, parse_index, parse_manifest
from contain.progress import Progress, Silent
from contain.reference import Reference
from contain.registry.client import ApiRequest, CredentialSource, RegistryClient, explain_status
from contain.registry.configuration import Endpoint, RegistryConfiguration, is_insecure, plan_endpoints, read_configuration
from contain.registry.credentials import CredentialFile
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
from contain.registry.policy import Failure, Trouble, plan_resume
from contain.registry.transport import HttpResponse, Transport, TransportFailure
from contain.values import dataclass

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from contain.store import Store

PARALLEL_LAYERS = 3
PIECE_BYTES = 256 << 10
MOST_INDEXES = 3  # an index in an index in an index
MOST_RESUMES = 50  # connections that may break in the middle of one layer, each after some progress


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
    stop = threading.Event()
    told = _Shared(progress or Silent())

    def pause(seconds: float) -> None:
        stop.wait(seconds)
        check_stop(stop)

    configuration = read_configuration() if configuration is None else configuration
    transport = Transport()
    client = RegistryClient(
        transport=transport,
        credentials=CredentialFile(progress=told) if credentials is None else credentials,
        progress=told,
        insecure=lambda host: is_insecure(host, configuration),
        pause=pause,
    )
    try:
        endpoints = plan_endpoints(reference.domain, configuration)
        return pull_with(
            client,
            reference,
            endpoints=endpoints,
            store=store,
            platform=platform,
            progress=told,
            stop=stop,
            abort=transport.abort,
        )
    finally:
        transport.close()


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
        _run_all(job, list(layers.values()), stop=stop, abort=abort)
        image = store.put_manifest(resolved.manifest_data, resolved.config_data, source=source)
        store.tag(reference, image.digest, source=source)
    progress.note(f"{name}: {image.digest} from {source}")
    return image


def _run_all(
    job: _LayerJob, layers: Sequence[tuple[Descriptor, str]], *, stop: threading.Event, abort: Callable[[], None]
) -> None:
    executor = ThreadPoolExecutor(max_workers=PARALLEL_LAYERS, thread_name_prefix="pull")
    try:
        finished, _ = wait([executor.submit(job.run, *layer) for layer in layers], return_when=FIRST_EXCEPTION)
        for future in finished:
            future.result()
    except BaseException:
        stop.set()
        abort()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


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
        raise _incomplete(error) from error
    check_bytes(served.data, promised=config.digest, claimed="", size=config.size, name=name)
    return served.data


def _incomplete(error: ContainError) -> RegistryError:
    """A manifest without its blobs is the registry's fault, not an image that is not there."""
    return RegistryError(error.message, code="registry-incomplete")


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
            if self.store.has_layer(diff_id):
                self.progress.amount(label, layer.size, layer.size)
                return
            if not self.store.has_blob(layer.digest):
                self._fetch(layer, label)
            with self.store.open_blob(layer.digest) as blob:
                stream = cast("BinaryIO", io.BufferedReader(_Stoppable(blob, self.stop), PIECE_BYTES))
                self.store.extract_layer(
                    stream, diff_id=diff_id, media_type=layer.media_type, progress=self.progress, label=label
                )

    def _fetch(self, layer: Descriptor, label: str) -> None:
        for endpoint in self.endpoints[:-1]:
            try:
                self._fetch_from(endpoint, layer, label)
            except (RegistryError, IntegrityError) as error:
                self.progress.warn(f"{endpoint.source}: {error.message}; trying the next source")
            else:
                return
        self._fetch_from(self.endpoints[-1], layer, label)

    def _fetch_from(self, endpoint: Endpoint, layer: Descriptor, label: str) -> None:
        try:
            self._ingest(endpoint, layer, label)
        except _WrongAfterResume:
            # The half that an earlier attempt left may be the wrong one: once more, from the start.
            self.progress.warn(f"{label}: what an earlier attempt left does not fit; from the start")
            self._ingest(endpoint, layer, label)

    def _ingest(self, endpoint: Endpoint, layer: Descriptor, label: str) -> None:
        with self.store.ingest_blob(layer.digest, layer.size) as ingest:
            start = offset = ingest.offset
            attempt = resumes = 0
            ranged = True
            while offset < layer.size:
                before = offset
                headers = {"Range": f"bytes={offset}-"} if offset and ranged else {}
                request = ApiRequest(
                    method="GET", repository=self.reference.path, path=f"blobs/{layer.digest}", headers=headers
                )
                with self.client.open(endpoint, request) as response:
                    if response.status == 416 and ranged:
                        ranged = False
                        continue
                    why = ""
                    skip = self._skip(response, layer, offset=offset, label=label)
                    try:
                        while piece := response.read(PIECE_BYTES):
                            check_stop(self.stop)
                            skip, piece = max(0, skip - len(piece)), piece[skip:]
                            if offset + len(piece) > layer.size:
                                raise IntegrityError(
                                    f"layer {label}: more than its {layer.size} bytes", code="blob-size-mismatch"
                                )
                            ingest.write(piece)
                            offset += len(piece)
                            self.progress.amount(label, offset, layer.size)
                    except TransportFailure as error:
                        why = str(error)
                if offset == layer.size:
                    break
                # Broken off, or ended too early: go on where it stopped. Progress earns new patience, within a limit.
                resumes += 1
                attempt = 1 if offset > before and resumes < MOST_RESUMES else attempt + 1
                self.client.pause_before_retry(
                    response.url,
                    Failure(trouble=Trouble.BROKEN, answered=True),
                    why=why or f"layer {label} ended after {offset} of {layer.size} bytes",
                    attempt=attempt,
                )
            try:
                ingest.commit()
            except IntegrityError as error:
                if start:
                    raise _WrongAfterResume from error
                raise

    def _skip(self, response: HttpResponse, layer: Descriptor, *, offset: int, label: str) -> int:
        """How much of the body is here already. Raises for an answer that holds no part of the layer."""
        if response.status not in (200, 206):
            error = explain_status(response, name=f"layer {label} of {self.reference.familiar}")
            raise _incomplete(error) if isinstance(error, NotFound) else error
        return plan_resume(
            offset=offset,
            size=layer.size,
            status=response.status,
            content_range=response.header("Content-Range"),
            content_length=response.header("Content-Length"),
            label=f"layer {label}",
        )


class _WrongAfterResume(Exception):
    """A resumed layer has the wrong digest."""


class _Stopped(Exception):
    """This thread ends because another one failed."""


def check_stop(stop: threading.Event) -> None:
    """End this thread if the pull has failed elsewhere."""
    if stop.is_set():
        raise _Stopped


class _Stoppable(io.RawIOBase):
    """A stream that ends its reader's thread when the pull has failed elsewhere: unpacking may take long."""

    def __init__(self, stream: BinaryIO, stop: threading.Event) -> None:
        super().__init__()
        self._stream, self._stop = stream, stop

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        check_stop(self._stop)
        view = memoryview(buffer).cast("B")
        data = self._stream.read(len(view))
        view[: len(data)] = data
        return len(data)


class _Shared:
    """A progress delegate that threads may share."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._lock = progress, threading.Lock()

    def step(self, title: str) -> None:
        with self._lock:
            self._progress.step(title)

    def log(self, text: str) -> None:
        with self._lock:
            self._progress.log(text)

    def note(self, text: str) -> None:
        with self._lock:
            self._progress.note(text)

    def warn(self, text: str) -> None:
        with self._lock:
            self._progress.warn(text)

    def amount(self, label: str, done: int, total: int | None) -> None:
        with self._lock:
            self._progress.amount(label, done, total)
