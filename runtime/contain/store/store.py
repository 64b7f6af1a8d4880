"""The store: one façade over blobs, layers, images, cache and locks at one ``$CONTAIN_HOME``.

Each method names the part that does the work. Several processes may use one store at the same time, and any of them may be
killed at any moment: what is visible is always whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType

from contain.annotations import TYPE_CHECKING, BinaryIO
from contain.errors import NotFound
from contain.oci import Descriptor, Image, ImageConfig
from contain.paths import HostPath
from contain.progress import Progress
from contain.reference import Reference
from contain.store.blobs import BlobIngest, Blobs
from contain.store.cache import Cache, FileDigests, StepRecord
from contain.store.collection import CachePruned, CacheUsage, Collector, Evictable
from contain.store.database import Database
from contain.store.images import GRACE_SECONDS, Images, PruneReport, StoredImage
from contain.store.layers import CommittedLayer, Layers
from contain.store.layout import Layout
from contain.store.naming import NameRecord
from contain.store.referrers import StoredReferrer

if TYPE_CHECKING:
    from contain.store.tar_reader import TarLimits

DEFAULT_EPOCH_SECONDS = 946_684_800
"""2000-01-01T00:00:00Z: the time of everything whose true time would differ from machine to machine."""

_CHUNK_BYTES = 1 << 20


class Store:
    """A context manager: ``with Store.open(home) as store``."""

    def __init__(self, layout: Layout, limits: TarLimits | None) -> None:
        self.home = layout.home
        self._layout = layout
        self._database = Database(layout.database)
        self._blobs = Blobs(layout)
        self._layers = Layers(layout, limits)
        self._images = Images(layout, self._database, self._blobs, self._layers)
        self._cache = Cache(self._database, self._layers)
        self._collector = Collector(layout, self._database, self._layers, self._images)

    @staticmethod
    def open(home: HostPath, *, limits: TarLimits | None = None) -> Store:
        """Open the store at ``home``, making it if needed (mode 0700), and remove what dead processes left behind in it.

        Raises `HostError`: ``store-permission``, ``store-read-only``, ``store-full``, ``store-version``.
        """
        layout = Layout(home)
        layout.prepare()
        return Store(layout, limits)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the database. The store can be used again; it opens what it needs."""
        self._database.close()

    # Blobs: `contain.store.blobs`.

    def has_blob(self, digest: str) -> bool:
        """Whether a blob is here, whole."""
        return self._blobs.has(digest)

    def read_blob(self, digest: str, *, limit_bytes: int = 8 << 20) -> bytes:
        """A blob's bytes, verified again. Raises `NotFound`, `IntegrityError`."""
        return self._blobs.read(digest, limit_bytes=limit_bytes)

    def write_blob(self, data: bytes) -> str:
        """Store bytes; returns their digest."""
        return self._blobs.write(data)

    def ingest_blob(self, digest: str, size: int) -> AbstractContextManager[BlobIngest]:
        """Receive a blob of a known digest and size; an interrupted one goes on at ``offset``. Visible after
        `BlobIngest.commit` when the block ends."""
        return self._blobs.ingest(digest, size)

    def adopt_blob(self, path: HostPath, digest: str, *, layer: tuple[str, str] | None = None) -> None:
        """A finished file of ours (in `scratch`), whose digest was computed while it was written, becomes a blob. ``layer``: the
        diff_id that it was packed from, and its media type."""
        self._blobs.adopt(path, digest)
        if layer is not None:
            self._images.record_blob(layer[0], digest, layer[1])

    def open_blob(self, digest: str) -> BinaryIO:
        """A blob's bytes as a file, not verified again. Raises `NotFound`."""
        return self._blobs.open(digest)

    # Layers: `contain.store.layers`.

    def has_layer(self, diff_id: str) -> bool:
        """Whether the extracted layer is here."""
        return self._layers.has(diff_id)

    def layer_tree(self, diff_id: str) -> HostPath:
        """The extracted layer, an overlay lower directory. Never write to it. Raises `NotFound`."""
        return self._layers.tree(diff_id)

    def layer_size(self, diff_id: str) -> int:
        """Bytes of its uncompressed archive. Raises `NotFound`."""
        return int(str(self._layers.record(diff_id)["size_bytes"]))

    def extract_layer(
        self,
        stream: BinaryIO,
        *,
        diff_id: str,
        media_type: str,
        progress: Progress,
        label: str,
        regenerable: bool | None = False,
        blob: str | None = None,
    ) -> None:
        """Decompress and unpack a layer, verify ``diff_id``, make it visible. Raises `IntegrityError`, `HostError`; then
        nothing is visible.

        ``regenerable``: its archive must be what `write_layer_tar` writes from its files (True), may be anything (False), or is
        looked at, and `is_canonical` says then what it is (None). ``blob``: the digest of the stored blob that the stream is, so
        that it need not be unpacked once more to know that it is this layer.
        """
        extracted = self._layers.extract(
            stream, diff_id=diff_id, media_type=media_type, progress=progress, label=label, regenerable=regenerable
        )
        if extracted and blob is not None:
            self._images.record_blob(diff_id, blob, media_type)

    def import_layer(self, stream: BinaryIO, *, progress: Progress, epoch_seconds: int = DEFAULT_EPOCH_SECONDS) -> str:
        """A root file system's archive (tar; plain, gzip, zstd, xz or bzip2) as one canonical layer; returns its diff_id."""
        return self._layers.import_archive(stream, progress=progress, epoch_seconds=epoch_seconds).diff_id

    def commit_layer(self, upper: HostPath, *, lower: Sequence[HostPath], epoch_seconds: int) -> CommittedLayer | None:
        """Make an overlay upper directory over ``lower`` (lowest first) a canonical layer; see `contain.store.commit` for
        the rules.

        ``upper`` is consumed: moved into the store when on its file system, reworked and copied otherwise. None when nothing
        changed.
        """
        return self._layers.commit(upper, lower=lower, epoch_seconds=epoch_seconds)

    def write_layer_tar(self, diff_id: str, out: BinaryIO) -> None:
        """The layer's uncompressed archive, byte for byte what ``diff_id`` is the digest of. Raises `NotFound` when it was
        pulled and its blob is gone."""
        out.writelines(self.layer_pieces(diff_id))

    def layer_pieces(self, diff_id: str) -> Iterator[bytes]:
        """The same, piece by piece. Raises `NotFound` with the first one."""
        if self._layers.record(diff_id)["canonical"]:
            yield from self._layers.archive(diff_id)
            return
        blob = self._images.blob_of_layer(diff_id) or ((diff_id, "") if self.has_blob(diff_id) else None)
        if blob is None:
            raise NotFound(
                f"the archive of layer {diff_id} is not in the store, only its files are", code="layer-blob-not-found"
            )
        from contain.store.compression import Decompressed

        with self.open_blob(blob[0]) as file:
            source = Decompressed(file)
            while data := source.read(_CHUNK_BYTES):
                yield data

    def layer_blobs(self, diff_id: str) -> tuple[tuple[str, str], ...]:
        """Digest and media type of each stored blob that unpacks to this layer."""
        return self._images.blobs_of_layer(diff_id)

    def is_canonical(self, diff_id: str) -> bool:
        """Whether the layer was made here, so that `write_layer_tar` makes its archive from the tree. Raises `NotFound`."""
        return bool(self._layers.record(diff_id)["canonical"])

    def scratch(self, purpose: str) -> AbstractContextManager[HostPath]:
        """A fresh directory on the store's file system, removed afterwards, at the latest when the store is opened after
        this process died."""
        return self._layout.scratch(purpose)

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Only one process, and one thread of it, is in the block of one name at a time."""
        return self._layout.lock(name)

    def try_lock(self, name: str) -> Callable[[], None] | None:
        """The same lock without waiting: what releases it, or None when somebody holds it."""
        return self._layout.try_lock(name)

    def try_lock_key(self, key: str) -> Callable[[], None] | None:
        """Take the lock of a step's key, without waiting and without leaving a file: what releases it, or None."""
        return self._layout.try_lock_key(key)

    def try_hold(self, diff_id: str) -> Callable[[], None] | None:
        """A lease on a layer, if it is here: what ends it, or None. No prune comes between the look and the lease."""
        with self._layout.collection_barrier(collecting=False):
            if not self._layers.has(diff_id):
                return None
            stack = ExitStack()
            stack.enter_context(self._layout.lease((diff_id,)))
        return stack.close

    def lease(self, *digests: str) -> AbstractContextManager[None]:
        """Images and layers that `prune` and `remove_image` must spare while the block runs and this process lives."""
        return self._layout.lease(digests)

    # Images: `contain.store.images`.

    def put_image(self, config: ImageConfig, layers: Sequence[Descriptor], *, source: str = "build") -> Image:
        """Store an image whose layers are here already. Its digest is that of its canonical manifest."""
        return self._images.put(config, layers, source=source)

    def put_manifest(self, manifest: bytes, config: bytes, *, source: str) -> Image:
        """Store an image as somebody else wrote it, so that its digest stays theirs. Its layers are here already."""
        return self._images.put_manifest(manifest, config, source=source)

    def image(self, digest: str) -> Image:
        """Raises `NotFound`."""
        return self._images.get(digest)

    def layer_trees(self, image: Image) -> tuple[HostPath, ...]:
        """The image's layer trees, lowest first."""
        return self._images.trees(image)

    def images(self) -> tuple[StoredImage, ...]:
        """All images, the newest first."""
        return self._images.list()

    def find_image(self, text: str) -> Image:
        """By name, digest, or a digest's beginning of at least 4 digits. Raises `NotFound` ("No such image: …"), `Conflict`
        when several begin so."""
        return self._images.find(text)

    def tag(self, reference: Reference, digest: str, *, source: str) -> None:
        """Give an image a name; ``source`` says where it came from, in words for the user."""
        self._images.tag(reference, digest, source=source)

    def untag(self, reference: Reference) -> str | None:
        """Take a name away; returns the digest that it pointed at, or None."""
        return self._images.untag(reference)

    def name_source(self, reference: Reference) -> tuple[str, str] | None:
        """What a name points at and where that came from, or None."""
        return self._images.name_source(reference)

    def name_history(self, reference: Reference) -> tuple[NameRecord, ...]:
        """What a name pointed at over time, the newest first."""
        return self._images.history(reference)

    def rollback(self, reference: Reference, *, to: str | None = None) -> tuple[str | None, str]:
        """Make a name point at what it pointed at before, or at the image of its history whose digest begins with ``to``.
        Returns the digest of before (None: it had been taken away) and the present one. Raises `NotFound`, `Conflict`."""
        return self._images.rollback(reference, to=to)

    def former_names(self, digest: str) -> tuple[str, ...]:
        """Names that point at another image now, and could be rolled back to this one."""
        return self._images.former_names(digest)

    def remove_image(self, digest: str, *, grace_seconds: float = 0, only_unnamed: bool = False) -> PruneReport:
        """Remove an image and its names (``only_unnamed``: unless it has one), and what only it needed. Layers that the build
        cache knows stay until `prune`."""
        return self._images.remove(digest, grace_seconds=grace_seconds, only_unnamed=only_unnamed)

    def discard(self, *, blobs: Collection[str], layers: Collection[str]) -> None:
        """Take out again what was brought in for an image that did not come about, as far as nothing else needs it."""
        self._images.discard(blobs, layers)

    def prune_unnamed(self, chosen: Collection[str]) -> PruneReport:
        """Remove those of the chosen images that nobody named, at once; see `contain.store.images.Images.prune_unnamed`."""
        return self._images.prune_unnamed(chosen)

    def prune(self, *, keep: Collection[str] = (), grace_seconds: float = GRACE_SECONDS) -> PruneReport:
        """Remove images without names (except ``keep``) and whatever no image needs; see `contain.store.images.Images.prune`."""
        return self._images.prune(keep=keep, grace_seconds=grace_seconds)

    def put_referrer(
        self, subject: str, manifest: bytes, contents: Sequence[bytes], *, artifact_type: str, annotations: Mapping[str, str]
    ) -> str:
        """Keep an artifact (manifest, and the contents of its blobs) with the image that is its subject, as long as the image
        is here. Returns its digest. Raises `NotFound`."""
        return self._images.put_referrer(subject, manifest, contents, artifact_type=artifact_type, annotations=annotations)

    def referrers(self, subject: str) -> tuple[StoredReferrer, ...]:
        """The artifacts that are kept with an image, the newest first."""
        return self._images.referrers(subject)

    def cache_bytes_at_most(self) -> int:
        """At least what the build cache's layers take: quick to find out."""
        return self._collector.upper_bound_bytes()

    def image_bytes(self, *, keep: Collection[str] = ()) -> tuple[int, int]:
        """What all images' layers take, and of that, what only images without a name (except ``keep``) need."""
        return self._images.layer_bytes(keep)

    def shared_bytes(self) -> dict[str, int]:
        """How much of each image's layers other images have, too."""
        return self._images.shared_bytes()

    def cache_entries(self) -> tuple[Evictable, ...]:
        """What the build cache consists of, each layer and cache mount by itself, the last used first."""
        from contain.store.cache_mounts import list_cache_mounts

        return self._collector.entries(list_cache_mounts(self))

    def cache_usage(self) -> CacheUsage:
        """What the build cache consists of, and takes for itself."""
        from contain.store.cache_mounts import list_cache_mounts

        return self._collector.usage(list_cache_mounts(self))

    def prune_cache(
        self, *, keep_bytes: int = 0, unused_for_seconds: float = 0, only_superseded: bool = False, forget: bool = False
    ) -> CachePruned:
        """Remove layers and cache mounts that only the build cache has, the least recently used first, until they take no more than
        ``keep_bytes``. Never what an image, a running build or another living process needs, or what was used in the last
        ``unused_for_seconds``. ``only_superseded``: only what something newer took the place of. ``forget``: also the records of
        steps whose layers images hold."""
        from contain.store.collection import prune_cache

        return prune_cache(
            self,
            self._collector,
            keep_bytes=keep_bytes,
            unused_for_seconds=unused_for_seconds,
            only_superseded=only_superseded,
            forget=forget,
        )

    # Build cache and file digests: `contain.store.cache`.

    def cached_step(self, key: str) -> StepRecord | None:
        """A step carried out before, its layer still here."""
        return self._cache.get(key)

    def record_step(self, record: StepRecord) -> None:
        """Remember a step."""
        self._cache.put(record)

    def nearest_steps(self, position: str) -> tuple[StepRecord, ...]:
        """What was recorded at this place of this Dockerfile, the newest first: the material for "why did it miss"."""
        return self._cache.nearest(position)

    def find_step(self, key: str) -> StepRecord | None:
        """A step carried out before, even if its layer was removed since."""
        return self._cache.find(key)

    def touch_steps(self, keys: Sequence[str]) -> None:
        """These steps were used now."""
        self._cache.touch(keys)

    def alike_steps(self, command: str) -> tuple[StepRecord, ...]:
        """Steps of the same command anywhere, the newest first."""
        return self._cache.alike(command)

    def put_listing(self, digest: str, data: bytes) -> None:
        """Keep what a step's input consisted of, under the input's digest."""
        self._cache.put_listing(digest, data)

    def listing(self, digest: str) -> bytes | None:
        """What was kept under an input's digest, or None."""
        return self._cache.listing(digest)

    def file_digests(self) -> FileDigests:
        """The index of host files' digests, a context manager."""
        return FileDigests(self._database)
