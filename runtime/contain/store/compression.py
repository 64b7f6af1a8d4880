"""Turning a compressed layer into its tar stream: gzip, zstd, xz, bzip2, or none.

The format is told by the first bytes, since media types in the field are often wrong; a media type that names a compression
which we do not know is refused. Damage is an `IntegrityError` (code ``bad-layer``). Never writes, never seeks.
"""

from __future__ import annotations

import bz2
import lzma
import queue
import secrets
import threading
import zlib
from contextlib import suppress

from contain.annotations import IO, Any, Protocol, cast
from contain.errors import NotSupported
from contain.store.tar_reader import bad_layer

_IN_BYTES = 256 << 10
_OUT_BYTES = 1 << 20
_ZSTD_WINDOW_BYTES = 128 << 20  # what `zstd --long` needs at most by default; bounds the memory a frame may ask for
_XZ_MEMORY_BYTES = 256 << 20
_SNIFF_BYTES = 6


class ByteSource(Protocol):
    """Whatever can be read from."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes, none only at the end."""


def verify_media_type(media_type: str) -> None:
    """Refuse layers that are not tar archives, or packed in a way that is not known."""
    base, plus, suffix = media_type.partition("+")
    if base.endswith((".tar.gzip", ".tar.zstd")):
        base, plus, suffix = base.rpartition(".")[0], "+", base.rpartition(".")[2]
    if not base.endswith((".tar", "/x-tar", "/tar")) or (plus and suffix not in ("gzip", "zstd")):
        raise NotSupported(f"layers of media type {media_type!r}", code="layer-media-type")


class Decompressed:
    """The uncompressed stream. ``read(n)`` returns exactly ``n`` bytes except at the end. A context manager.

    ``ahead``: decompress in a thread, up to 8 MiB ahead of the reader. The libraries release the interpreter lock, so that
    unpacking and hashing, which do so too, go on meanwhile.
    """

    def __init__(self, source: ByteSource | IO[bytes], *, ahead: bool = False) -> None:
        self._source = source
        head = b""
        while len(head) < _SNIFF_BYTES and (more := source.read(_SNIFF_BYTES - len(head))):
            head += more
        self._decoder: _Decoder = _decoder_for(head, source)
        if ahead and self._decoder.format != "none":
            self._decoder = _Ahead(self._decoder)
        self._buffer, self._at = b"", 0  # what is before the position was given out: headers are small, pieces large
        self._ended = False

    def __enter__(self) -> Decompressed:
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self._decoder, _Ahead):
            self._decoder.stop()

    @property
    def format(self) -> str:
        """``gzip``, ``zstd``, ``xz``, ``bzip2`` or ``none``."""
        return self._decoder.format

    def read(self, size: int, /) -> bytes:
        """Exactly ``size`` bytes, fewer at the end of the stream."""
        data = self._buffer[self._at : self._at + size]
        self._at += len(data)
        if len(data) == size:
            return data
        pieces, have = [data], len(data)
        while have < size and not self._ended:
            self._buffer = self._decoder.more(max(size - have, _IN_BYTES))
            self._at = min(size - have, len(self._buffer))
            self._ended = not self._buffer
            pieces.append(self._buffer[: self._at])
            have += self._at
        return b"".join(pieces)


class _Decoder(Protocol):
    format: str

    def more(self, size: int) -> bytes:
        """Some bytes (about ``size``), none at the end."""


def _decoder_for(head: bytes, source: ByteSource | IO[bytes]) -> _Decoder:
    if head.startswith(b"\x1f\x8b"):
        return _Gzip(head, source)
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[:1] in b"PQRSTUVWXYZ[\\]^_"):
        return _Zstd(head, source)
    if head.startswith(b"\xfd7zXZ\x00"):
        return _Framed("xz", head, source, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES))
    if head.startswith(b"BZh"):
        return _Framed("bzip2", head, source, bz2.BZ2Decompressor)
    return _Plain(head, source)


class _Ahead:
    """Another decoder, run by a thread."""

    def __init__(self, decoder: _Decoder) -> None:
        self.format = decoder.format
        self._decoder = decoder
        self._pieces: queue.Queue[bytes | BaseException] = queue.Queue(maxsize=8)
        self._stopped = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"{self.format} decoder", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                piece = self._decoder.more(_OUT_BYTES)
                self._pieces.put(piece)
                if not piece:
                    return
        except BaseException as error:
            self._pieces.put(error)

    def more(self, size: int) -> bytes:  # noqa: ARG002 -- the thread chose the sizes
        if self._ended:
            return b""
        piece = self._pieces.get()
        if isinstance(piece, BaseException):
            self._ended = True
            raise piece
        self._ended = not piece
        return piece

    def stop(self) -> None:
        """End the thread, whether or not everything was read."""
        self._stopped.set()
        while self._thread.is_alive():
            with suppress(queue.Empty):  # make room, so that a waiting put returns
                self._pieces.get(timeout=0.01)
        self._thread.join()


class _Plain:
    format = "none"

    def __init__(self, head: bytes, source: ByteSource | IO[bytes]) -> None:
        self._head, self._source = head, source

    def more(self, size: int) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        return self._source.read(size)


class _Gzip:
    """One or many members (pigz and eStargz write many); zero padding after the last one is allowed, anything else is not."""

    format = "gzip"

    def __init__(self, head: bytes, source: ByteSource | IO[bytes]) -> None:
        self._waiting, self._source = head, source
        self._member: Any = None
        self._source_ended = False

    def _refill(self) -> None:
        if not self._waiting and not self._source_ended:
            self._waiting = self._source.read(_IN_BYTES)
            self._source_ended = not self._waiting

    def more(self, size: int) -> bytes:
        while True:
            self._refill()
            if self._member is None:
                if not self._next_member():
                    return b""
                continue
            if not self._waiting:
                raise bad_layer("the gzip stream is cut short")
            try:
                data: bytes = self._member.decompress(self._waiting, min(size, _OUT_BYTES))
            except zlib.error as error:
                raise bad_layer(f"damaged gzip stream ({error})") from error
            if self._member.eof:
                self._waiting = self._member.unused_data
                self._member = None
            else:
                self._waiting = self._member.unconsumed_tail
            if data:
                return data

    def _next_member(self) -> bool:
        while self._waiting and not self._waiting.strip(b"\0"):
            self._waiting = b""
            self._refill()
        if not self._waiting:
            return False
        self._member = zlib.decompressobj(wbits=31)
        return True


class _Framed:
    """xz and bzip2: streams one after another, each a fresh decoder."""

    def __init__(self, name: str, head: bytes, source: ByteSource | IO[bytes], fresh: Any) -> None:
        self.format = name
        self._waiting, self._source, self._fresh = head, source, fresh
        self._decoder: Any = fresh()

    def more(self, size: int) -> bytes:
        while True:
            if self._decoder.eof:
                rest = self._waiting = (self._waiting or self._source.read(_IN_BYTES)).lstrip(b"\0")
                if not rest:
                    return b""
                self._decoder = self._fresh()
            if self._decoder.needs_input and not self._waiting:
                self._waiting = self._source.read(_IN_BYTES)
                if not self._waiting:
                    raise bad_layer(f"the {self.format} stream is cut short")
            try:
                data: bytes = self._decoder.decompress(self._waiting, min(size, _OUT_BYTES))
            except (lzma.LZMAError, OSError, ValueError) as error:
                raise bad_layer(f"damaged {self.format} stream ({error})") from error
            self._waiting = self._decoder.unused_data if self._decoder.eof else b""
            if data:
                return data


class _Zstd:
    """Frames one after another, skippable ones included (zstd:chunked has them).

    The library's bounded reader ends silently when a frame is cut short. So a last frame of our own with a random mark follows
    the source: only if the mark comes out at the end did every frame before it end properly.
    """

    format = "zstd"

    def __init__(self, head: bytes, source: ByteSource | IO[bytes]) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._mark = secrets.token_bytes(16)
        feed = _Surrounded(head, source, zstandard.ZstdCompressor().compress(self._mark))
        context = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        # The library asks only for `read`, its annotations for a whole file.
        self._reader = context.stream_reader(cast("IO[bytes]", feed), read_size=_IN_BYTES, read_across_frames=True)
        self._held = b""

    def more(self, size: int) -> bytes:
        while True:
            try:
                data = self._reader.read(min(size, _OUT_BYTES))
            except self._error as error:
                raise bad_layer(f"damaged zstd stream ({error})") from error
            if not data:
                if self._held != self._mark:
                    raise bad_layer("the zstd stream is cut short")
                return b""
            data = self._held + data
            cut = max(0, len(data) - len(self._mark))
            self._held = data[cut:]
            if cut:
                return data[:cut]


class _Surrounded:
    """A stream with bytes put before and after it."""

    def __init__(self, head: bytes, source: ByteSource | IO[bytes], tail: bytes) -> None:
        self._head, self._source, self._tail = head, source, tail

    def read(self, size: int = -1) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        data = self._source.read(size)
        if not data:
            data, self._tail = self._tail, b""
        return data
