"""From an image file into the store: all images of the file, every byte verified before it can be seen, or none.

Theory of operation. `layout` says what the file holds. Each layer's bytes go through the store's ingest, which verifies their
digest, and from there through its extractor, which verifies the diff_id; those that are not compressed are unpacked from the
file itself, and kept as a blob only if their archive could not be written again. Only when all layers of all images are there do
manifests enter, and last the names. When anything fails, what this load brought in is taken out again, except for what somebody
else has come to need meanwhile.

Memory: one piece of `_PIECE_BYTES` besides the unpacking.
"""

from __future__ import annotations

import hashlib

from contain.annotations import BinaryIO
from contain.archive.layout import FileImage, FileLayer, layer_media_type, read_contents
from contain.archive.members import Members, bad_file, open_members
from contain.errors import IntegrityError, NotFound
from contain.oci import Descriptor, Image, Manifest, Platform, digest_of, render_manifest
from contain.oci.image import MEDIA_CONFIG, MEDIA_LAYER
from contain.paths import HostPath
from contain.progress import Progress
from contain.reference import Reference
from contain.store import Store
from contain.store.compression import Decompressed
from contain.values import dataclass, replace

LOADED = "loaded"
"""The source of names and images that came from a file."""

_PIECE_BYTES = 1 << 20
_REPORT_BYTES = 16 << 20
_SNIFF_BYTES = 6
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00", b"BZh")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedImage:
    """An image that is in the store now, and the names that the file gave it. ``replaced``: the names that pointed at another
    image before, with that image's digest."""

    image: Image
    names: tuple[Reference, ...]
    replaced: tuple[tuple[Reference, str], ...] = ()


def load(
    source: HostPath | BinaryIO, *, store: Store, progress: Progress, platform: Platform | None = None
) -> tuple[LoadedImage, ...]:
    """Bring every image of a file, directory or stream into the store and name them there.

    Raises `IntegrityError` for bytes that are not what was promised, and what `open_members` and `read_contents` raise. Then the
    store is as it was.
    """
    with store.scratch("load") as scratch, open_members(source, scratch=scratch) as members:
        contents = read_contents(members, platform=platform)
        for note in contents.notes:
            progress.note(note)
        for warning in contents.warnings:
            progress.warn(warning)
        loading = _Loading(members, store, progress)
        try:
            return loading.perform(contents.images)
        except BaseException:
            loading.take_back()
            raise


def load_one(
    source: HostPath, *, tag: str, digest: str, store: Store, progress: Progress, platform: Platform | None = None
) -> Image:
    """Bring one image of a file or directory into the store, without naming it there. ``tag`` and ``digest``: which one, where it has
    several; empty for any.

    Raises `NotFound` (code ``image-not-in-file``) and what `load` raises.
    """
    with store.scratch("load") as scratch, open_members(source, scratch=scratch) as members:
        images = read_contents(members, platform=platform).images
        fitting = [image for image in images if not digest or (image.manifest and digest_of(image.manifest) == digest)]
        if not digest and (tag or len(fitting) > 1):
            fitting = [image for image in fitting if any(name.tag == (tag or "latest") for name in image.names)]
        if not fitting:
            raise NotFound(
                f"{source} has no image {digest or tag or 'latest'}",
                code="image-not-in-file",
                remedy="name one of: "
                + (", ".join(str(name.tag) for image in images for name in image.names) or "none has a name"),
            )
        loading = _Loading(members, store, progress)
        try:
            return loading.perform((replace(fitting[0], names=()),))[0].image
        except BaseException:
            loading.take_back()
            raise


class _Loading:
    def __init__(self, members: Members, store: Store, progress: Progress) -> None:
        self._members, self._store, self._progress = members, store, progress
        self._blobs: list[str] = []
        self._layers: list[str] = []

    def perform(self, images: tuple[FileImage, ...]) -> tuple[LoadedImage, ...]:
        """Layers, then manifests, then names."""
        needed = {digest for image in images for layer in image.layers for digest in (layer.diff_id, layer.digest) if digest}
        needed |= {digest_of(image.manifest) for image in images if image.manifest is not None}
        needed |= {digest_of(image.config_data) for image in images}
        with self._store.lease(*sorted(needed)):
            manifests = [self._bring(image) for image in images]
            return tuple(self._publish(image, manifest) for image, manifest in zip(images, manifests, strict=True))

    def take_back(self) -> None:
        """Remove what this load brought in and nobody needs."""
        self._store.discard(blobs=self._blobs, layers=self._layers)

    def _bring(self, image: FileImage) -> bytes:
        """The image's layers into the store; its manifest."""
        layers = [self._layer(layer) for layer in image.layers]
        if image.manifest is not None:
            return image.manifest
        config = Descriptor(media_type=MEDIA_CONFIG, digest=digest_of(image.config_data), size=len(image.config_data))
        return render_manifest(Manifest(config=config, layers=tuple(layers)))

    def _publish(self, image: FileImage, manifest: bytes) -> LoadedImage:
        for data in (image.config_data, manifest):
            if not self._store.has_blob(digest_of(data)):
                self._blobs.append(digest_of(data))
        stored = self._store.put_manifest(manifest, image.config_data, source=LOADED)
        replaced = []
        for name in image.names:
            before = self._store.name_source(name)
            if before is not None and before[0] != stored.digest:
                replaced.append((name, before[0]))
            self._store.tag(name, stored.digest, source=LOADED)
        return LoadedImage(image=stored, names=image.names, replaced=tuple(replaced))

    def _layer(self, layer: FileLayer) -> Descriptor:
        store = self._store
        size = self._members.sizes()[layer.member]
        media_type = layer.media_type
        digest = layer.digest
        if digest is None:
            digest, media_type = self._identify(layer)
        with store.lock(f"pull-{digest.removeprefix('sha256:')}"):
            if digest == layer.diff_id and store.has_layer(layer.diff_id):
                return Descriptor(media_type=media_type, digest=digest, size=size)
            if digest == layer.diff_id and self._unpack_in_place(layer):
                return Descriptor(media_type=media_type, digest=digest, size=size)
            if not store.has_blob(digest):
                self._blobs.append(digest)
                self._ingest(layer, digest, size)
            if store.has_layer(layer.diff_id):
                if digest != layer.diff_id:
                    self._verify(digest, layer)  # its files are here, but from another blob
            else:
                self._layers.append(layer.diff_id)
                with store.open_blob(digest) as blob:
                    label = f"unpack {digest[7:19]}"
                    store.extract_layer(
                        blob,
                        diff_id=layer.diff_id,
                        media_type=media_type,
                        progress=self._progress,
                        label=label,
                        blob=digest,
                    )
        return Descriptor(media_type=media_type, digest=digest, size=size)

    def _unpack_in_place(self, layer: FileLayer) -> bool:
        """Unpack a layer that is not compressed straight from the file. True when its archive can be written again from what
        was unpacked, as that of every layer that was made by contain, so that it need not be kept."""
        with self._members.open(layer.member) as file:
            if file.read(_SNIFF_BYTES).startswith(_COMPRESSED):
                return False
        self._layers.append(layer.diff_id)
        try:
            with self._members.open(layer.member) as file:
                self._store.extract_layer(
                    file,
                    diff_id=layer.diff_id,
                    media_type=MEDIA_LAYER,
                    progress=self._progress,
                    label=f"load {layer.diff_id[7:19]}",
                    regenerable=None,
                )
        except IntegrityError as error:
            raise bad_file(f"{layer.member}: {error.message}") from error
        return self._store.is_canonical(layer.diff_id)

    def _identify(self, layer: FileLayer) -> tuple[str, str]:
        """Digest and media type of a layer that the file only gives a diff_id."""
        with self._members.open(layer.member) as file:
            head = file.read(_SNIFF_BYTES)
            if not head.startswith(_COMPRESSED):
                return layer.diff_id, layer.media_type
            if head.startswith(_COMPRESSED[2:]):
                raise bad_file(f"{layer.member} is compressed in a way that layers are not")
            found = hashlib.sha256(head)
            while data := file.read(_PIECE_BYTES):
                found.update(data)
        return "sha256:" + found.hexdigest(), layer_media_type(head)

    def _ingest(self, layer: FileLayer, digest: str, size: int) -> None:
        label, reported = f"load {digest[7:19]}", 0
        with self._store.ingest_blob(digest, size) as ingest, self._members.open(layer.member) as file:
            try:
                ingest.restart()  # what an interrupted pull left may be wrong, and the file is near
                # At its full size after that: somebody else brought the blob in meanwhile.
                while ingest.offset < size and (data := file.read(_PIECE_BYTES)):
                    ingest.write(data)
                    if ingest.offset - reported >= _REPORT_BYTES:
                        reported = ingest.offset
                        self._progress.amount(label, reported, size)
                ingest.commit()
            except BaseException as error:
                ingest.restart()
                if isinstance(error, IntegrityError):
                    raise bad_file(f"{layer.member}: {error.message}") from error
                raise
        self._progress.amount(label, size, size)

    def _verify(self, digest: str, layer: FileLayer) -> None:
        """That a blob unpacks to the layer that the config names: otherwise it would stand for that layer later."""
        found = hashlib.sha256()
        with self._store.open_blob(digest) as blob, Decompressed(blob, ahead=True) as plain:
            while data := plain.read(_PIECE_BYTES):
                found.update(data)
        if "sha256:" + found.hexdigest() != layer.diff_id:
            raise bad_file(f"{layer.member} unpacks to sha256:{found.hexdigest()}, and {layer.diff_id} was promised")
