"""The same image with its layers compressed (or not) in one named way: another manifest, with another digest, kept in the store.

Deterministic: gzip is the standard library's zlib at one level, in blocks of a fixed size (`gzip_blocks`); zstd one level, one
thread. Still another version of either library may write other bytes, which is why nothing is compressed unless asked for, and
why a layer that was compressed once is found again (`Store.layer_blobs`) and not compressed twice. Memory: a few pieces for each
thread.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import closing

from contain.annotations import TYPE_CHECKING, Protocol
from contain.errors import UsageError
from contain.oci import Descriptor, Image, Manifest, render_manifest
from contain.oci.image import (
    MEDIA_CONFIG,
    MEDIA_DOCKER_LAYER,
    MEDIA_DOCKER_LAYER_GZIP,
    MEDIA_LAYER,
    MEDIA_LAYER_GZIP,
    MEDIA_LAYER_ZSTD,
    MEDIA_MANIFEST,
)
from contain.progress import Progress
from contain.registry.gzip_blocks import GzipBlocks
from contain.registry.manifests import LARGEST_CONFIG_BYTES
from contain.registry.session import run_parallel
from contain.values import replace

if TYPE_CHECKING:
    import threading

    from contain.store import Store

COMPRESSIONS = {"gzip": MEDIA_LAYER_GZIP, "zstd": MEDIA_LAYER_ZSTD, "none": MEDIA_LAYER}
ZSTD_LEVEL = 3  # its program's own default
_DOCKER_KINDS = {
    MEDIA_DOCKER_LAYER: MEDIA_LAYER,
    MEDIA_DOCKER_LAYER_GZIP: MEDIA_LAYER_GZIP,
    MEDIA_DOCKER_LAYER + ".zstd": MEDIA_LAYER_ZSTD,
}


class Compressor(Protocol):
    """Pieces in, pieces out."""

    def compress(self, data: bytes, /) -> bytes:
        """Some compressed bytes, maybe none yet."""

    def flush(self) -> bytes:
        """The rest."""

    def close(self) -> None:
        """End its threads, if it has any."""


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""

    def close(self) -> None:
        pass


class _Zstd:
    """One thread: what several write is the same for any number of them, but other bytes than one writes."""

    def __init__(self) -> None:
        import zstandard

        packer = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj()
        self.compress, self.flush = packer.compress, packer.flush

    def close(self) -> None:
        pass


def open_compressor(compression: str) -> Compressor:
    """A fresh compressor: gzip, zstd or none."""
    if compression == "gzip":
        return GzipBlocks()
    return _Zstd() if compression == "zstd" else _Plain()


def parse_compression(text: str) -> str:
    """Raises `UsageError` (code ``bad-arguments``)."""
    if text not in COMPRESSIONS:
        raise UsageError(
            f"{text!r} is not a compression of layers", code="bad-arguments", remedy=f"use {', '.join(COMPRESSIONS)}"
        )
    return text


def compression_of(media_type: str) -> str:
    """``gzip``, ``zstd``, ``none``, by a layer's media type; "" for others."""
    kind = _DOCKER_KINDS.get(media_type, media_type)
    return next((name for name, known in COMPRESSIONS.items() if known == kind), "")


def pack_image(
    image: Image,
    compression: str,
    *,
    store: Store,
    progress: Progress,
    stop: threading.Event,
    abort: Callable[[], None] = lambda: None,
) -> Image:
    """The image with every layer in ``compression``; the very same image if that is so already. Layers that are so already
    keep their digests. The new one has no name in the store: `prune` may take it, and it can be made again.

    Raises `NotFound` (code ``layer-blob-not-found``) for a pulled layer whose archive is gone.
    """
    pairs = list(zip(image.manifest.layers, image.config.diff_ids, strict=True))

    def pack(pair: tuple[Descriptor, str]) -> Descriptor:
        layer, diff_id = pair
        if compression_of(layer.media_type) == compression:
            return layer
        with store.lock(f"pack-{compression}-{diff_id.removeprefix('sha256:')}"):
            return pack_layer(diff_id, compression, store=store, progress=progress, stop=stop)

    layers = run_parallel(pack, pairs, stop=stop, abort=abort, name="pack")
    if layers == list(image.manifest.layers):
        return image
    manifest = Manifest(
        media_type=MEDIA_MANIFEST,
        config=replace(image.manifest.config, media_type=MEDIA_CONFIG),
        layers=tuple(replace(layer, media_type=_DOCKER_KINDS.get(layer.media_type, layer.media_type)) for layer in layers),
        annotations=image.manifest.annotations,
    )
    config = store.read_blob(image.manifest.config.digest, limit_bytes=LARGEST_CONFIG_BYTES)
    return store.put_manifest(render_manifest(manifest), config, source=f"{compression} of {image.digest}")


def pack_layer(diff_id: str, compression: str, *, store: Store, progress: Progress, stop: threading.Event) -> Descriptor:
    """One layer in one compression, from the store if it was made or pulled before; else made, and stored as a blob."""
    from contain.registry.session import check_stop

    media_type = COMPRESSIONS[compression]
    if compression == "none" and store.is_canonical(diff_id):
        return Descriptor(media_type=media_type, digest=diff_id, size=store.layer_size(diff_id))
    for digest, known in store.layer_blobs(diff_id):
        if compression_of(known) == compression:
            with store.open_blob(digest) as blob:
                return Descriptor(media_type=media_type, digest=digest, size=os.fstat(blob.fileno()).st_size)
    label = f"{compression} {diff_id.removeprefix('sha256:')[:12]}"
    hashed, total = hashlib.sha256(), store.layer_size(diff_id)
    size = done = 0
    with store.scratch("pack") as work, closing(open_compressor(compression)) as compressor:
        path = work / "layer"
        with open(path, "wb", buffering=1 << 20) as file:
            for piece in store.layer_pieces(diff_id):
                check_stop(stop)
                packed = compressor.compress(piece)
                hashed.update(packed)
                size += file.write(packed)
                done += len(piece)
                progress.amount(label, done, total)
            packed = compressor.flush()
            hashed.update(packed)
            size += file.write(packed)
        digest = "sha256:" + hashed.hexdigest()
        store.adopt_blob(path, digest, layer=(diff_id, media_type))
    return Descriptor(media_type=media_type, digest=digest, size=size)
