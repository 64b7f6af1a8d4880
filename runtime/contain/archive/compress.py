"""Makes an image ready to be saved: as it is, or with its layers in another compression, which is another manifest and so
another digest. The config, and with it what the layers unpack to, never changes.

Compression depends on nothing but the bytes: gzip without name and time (RFC 1952, system 255
"unknown"), zstd in one thread, at fixed levels.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from typing import BinaryIO, Protocol

from contain.archive.plan import SavedImage
from contain.archive.save import LayerSource
from contain.oci import Descriptor, Image, digest_of, render_manifest
from contain.oci.image import MEDIA_CONFIG, MEDIA_LAYER, MEDIA_LAYER_GZIP, MEDIA_LAYER_ZSTD, MEDIA_MANIFEST
from contain.paths import HostPath
from contain.progress import Progress
from contain.reference import Reference
from contain.store import Store

_GZIP_LEVEL, _ZSTD_LEVEL = 6, 3
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_REPORT_BYTES = 16 << 20


class Compression(Enum):
    """How layers are packed in the file; the values are what ``--compression`` takes."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


_MEDIA_TYPES = {Compression.NONE: MEDIA_LAYER, Compression.GZIP: MEDIA_LAYER_GZIP, Compression.ZSTD: MEDIA_LAYER_ZSTD}


def compression_of(media_type: str) -> Compression:
    """What a layer's media type says (OCI's and Docker's)."""
    if media_type.endswith("gzip"):
        return Compression.GZIP
    return Compression.ZSTD if media_type.endswith("zstd") else Compression.NONE


def prepare(
    image: Image,
    names: Sequence[Reference],
    *,
    compression: Compression | None,
    store: Store,
    scratch: HostPath,
    progress: Progress,
) -> tuple[SavedImage, tuple[LayerSource, ...]]:
    """The image as it will stand in the file, and where its layers' bytes come from. ``compression``: None keeps every layer,
    and so the image's digest."""
    config_data = store.read_blob(image.manifest.config.digest)
    pairs = list(zip(image.manifest.layers, image.config.diff_ids, strict=True))
    if compression is None or all(compression_of(layer.media_type) is compression for layer, _ in pairs):
        manifest, digest, manifest_data = image.manifest, image.digest, store.read_blob(image.digest)
        sources = [LayerSource(layer=layer, diff_id=diff_id) for layer, diff_id in pairs]
    else:
        sources = [
            _repack(layer, diff_id, compression, store=store, scratch=scratch, progress=progress) for layer, diff_id in pairs
        ]
        manifest = replace(
            image.manifest,
            media_type=MEDIA_MANIFEST,
            config=replace(image.manifest.config, media_type=MEDIA_CONFIG),
            layers=tuple(source.layer for source in sources),
        )
        manifest_data = render_manifest(manifest)
        digest = digest_of(manifest_data)
    saved = SavedImage(
        names=tuple(names), digest=digest, manifest=manifest, manifest_data=manifest_data, config_data=config_data
    )
    return saved, tuple(sources)


def _repack(
    layer: Descriptor, diff_id: str, compression: Compression, *, store: Store, scratch: HostPath, progress: Progress
) -> LayerSource:
    media_type = _MEDIA_TYPES[compression]
    if compression_of(layer.media_type) is compression:
        return LayerSource(layer=replace(layer, media_type=media_type), diff_id=diff_id)
    path = scratch / f"{diff_id.removeprefix('sha256:')}.{compression.value}"
    with open(path, "wb") as file:  # written again for a second image of the same layer: the same bytes
        packer = _Packer(file, compression, progress, f"{compression.value} {diff_id[7:19]}")
        store.write_layer_tar(diff_id, packer)  # type: ignore[arg-type]  # it only writes
        packer.finish()
    repacked = Descriptor(media_type=media_type, digest=packer.digest, size=packer.size, annotations=layer.annotations)
    return LayerSource(layer=repacked, diff_id=diff_id, path=path)


class _Packing(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Stored:
    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


class _Gzip:
    """zlib's own header would name the system that wrote it."""

    def __init__(self) -> None:
        self._packing = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._head = _GZIP_HEADER
        self._sum, self._size = 0, 0

    def compress(self, data: bytes) -> bytes:
        self._sum, self._size = zlib.crc32(data, self._sum), self._size + len(data)
        head, self._head = self._head, b""
        return head + self._packing.compress(data)

    def flush(self) -> bytes:
        end = self._sum.to_bytes(4, "little") + (self._size & 0xFFFF_FFFF).to_bytes(4, "little")
        return self._head + self._packing.flush() + end


class _Packer:
    """A stream to be written to: packs, hashes and counts what goes into a file."""

    def __init__(self, file: BinaryIO, compression: Compression, progress: Progress, label: str) -> None:
        self._file, self._progress, self._label = file, progress, label
        self._packing = _packing_for(compression)
        self._hash = hashlib.sha256()
        self._seen = self._reported = 0
        self.size = 0

    @property
    def digest(self) -> str:
        """Of what was written so far."""
        return "sha256:" + self._hash.hexdigest()

    def write(self, data: bytes) -> int:
        """Take uncompressed bytes."""
        self._put(self._packing.compress(data))
        self._seen += len(data)
        if self._seen - self._reported >= _REPORT_BYTES:
            self._reported = self._seen
            self._progress.amount(self._label, self._seen, None)
        return len(data)

    def writelines(self, pieces: Sequence[bytes]) -> None:
        """Take pieces of uncompressed bytes."""
        for piece in pieces:
            self.write(piece)

    def finish(self) -> None:
        """Write what was held back."""
        self._put(self._packing.flush())

    def _put(self, data: bytes) -> None:
        self._hash.update(data)
        self.size += len(data)
        self._file.write(data)


def _packing_for(compression: Compression) -> _Packing:
    match compression:
        case Compression.NONE:
            return _Stored()
        case Compression.GZIP:
            return _Gzip()
        case Compression.ZSTD:
            import zstandard

            return zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).compressobj()
