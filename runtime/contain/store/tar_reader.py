"""Reads a tar archive from a stream, entry by entry: ustar, old tar, GNU long names and base-256 numbers, PAX.

Bytes to values. Writes nothing and never seeks. The archive is hostile until proven otherwise: every number has a limit, every
mismatch is an `IntegrityError` (code ``bad-layer``). Sparse files, multi-volume and other exotic entries are refused by name.

Sources: POSIX.1-2017 pax; GNU tar manual, "Basic Tar Format"; image-spec ``layer.md`` ("no sparse files").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from contain.errors import IntegrityError
from contain.store.tar_header import BLOCK_BYTES, XATTR_RECORD, TarEntry, TarKind, padding_bytes
from contain.values import dataclass

_CHUNK_BYTES = 1 << 20
_LARGEST_ID = 0xFFFF_FFFE  # 2**32 - 1 means "no change" to chown(2)
_LARGEST_SECONDS = 1 << 40
_LARGEST_SIZE = 1 << 60
_NO_XATTRS: Mapping[bytes, bytes] = MappingProxyType({})
_KINDS = {kind.value: kind for kind in TarKind} | {b"\0": TarKind.FILE, b"7": TarKind.FILE}


@dataclass(frozen=True, slots=True, kw_only=True)
class TarLimits:
    """What one archive may hold. The defaults are far above any honest layer and far below what would fill a machine."""

    entries: int = 5_000_000
    directories: int = 1_000_000  # also those that no entry names: one path can ask for as many as it is deep
    extended_header_bytes: int = 1 << 20  # per entry; an xattr has at most 64 KiB, a path 4 KiB
    depth: int = 512
    path_bytes: int = 4095  # PATH_MAX without its zero byte
    total_bytes: int = 64 << 30  # uncompressed, headers included


def bad_layer(why: str) -> IntegrityError:
    """The one error of a damaged or hostile archive."""
    return IntegrityError(f"layer archive: {why}", code="bad-layer")


def shown(raw: bytes) -> str:
    """A path from an archive, safe to print."""
    text = raw[:200].decode("utf-8", "backslashreplace")
    return repr(text) if not text.isprintable() else f"'{text}'"


class TarReader:
    """Iterate to get entries; between two steps, `payload` gives the current entry's bytes (what is not read is skipped).

    ``read(n)`` must return fewer than ``n`` bytes only at the end of the stream. ``saw_end`` tells, after the iteration,
    whether the end-of-archive mark was there. ``outline`` is told all bytes that are no file's content, in order.
    """

    def __init__(
        self, read: Callable[[int], bytes], limits: TarLimits, *, outline: Callable[[bytes], object] | None = None
    ) -> None:
        self._read_raw = read
        self._outline = outline
        self._limits = limits
        self._total = 0
        self._left = 0  # payload bytes of the current entry that were not read yet
        self._padding = 0
        self.saw_end = False

    def _read(self, size: int) -> bytes:
        data = self._read_raw(size)
        self._total += len(data)
        if self._total > self._limits.total_bytes:
            raise bad_layer(f"more than {self._limits.total_bytes} bytes when unpacked")
        return data

    def _read_outline(self, size: int) -> bytes:
        data = self._read(size)
        if self._outline is not None:
            self._outline(data)
        return data

    def _read_exactly(self, size: int) -> bytes:
        data = self._read_outline(size)
        if len(data) != size:
            raise bad_layer("it ends in the middle of an entry")
        return data

    def payload(self) -> Iterator[bytes]:
        """The current entry's content, in pieces of at most 1 MiB."""
        while self._left:
            data = self._read(min(self._left, _CHUNK_BYTES))
            if not data:
                raise bad_layer("it ends in the middle of a file's content")
            self._left -= len(data)
            yield data

    def take_payload(self) -> int:
        """Leave the current entry's content to the caller, who has moved the stream behind it; returns how many bytes of it
        were still to come."""
        taken, self._left = self._left, 0
        return taken

    def drain(self) -> int:
        """Read the stream to its end; returns how many bytes that were not zero stood there."""
        stray = 0
        while data := self._read_outline(_CHUNK_BYTES):
            stray += len(data) - data.count(0)
        return stray

    def __iter__(self) -> Iterator[TarEntry]:
        limits = self._limits
        count = 0
        while True:
            for _ in self.payload():
                pass
            if self._padding:
                self._read_exactly(self._padding)
                self._padding = 0
            entry = self._next_entry()
            if entry is None:
                return
            count += 1
            if count > limits.entries:
                raise bad_layer(f"more than {limits.entries} entries")
            yield entry

    def _next_entry(self) -> TarEntry | None:
        records: dict[bytes, bytes] = {}
        seen_pax = seen_name = seen_link = False
        while True:
            block = self._read_outline(BLOCK_BYTES)
            if not block:
                if records:
                    raise bad_layer("it ends after an extended header")
                return None
            if len(block) != BLOCK_BYTES:
                raise bad_layer("it ends in the middle of a header")
            if not any(block):
                if records:
                    raise bad_layer("an extended header describes no entry")
                self.saw_end = True
                return None
            _verify_checksum(block)
            flag = block[156:157]
            if flag in (b"x", b"g"):
                body = self._extended(block)
                parsed = _parse_pax(body)
                if flag == b"g":
                    _verify_global(parsed)
                    continue
                if seen_pax:
                    raise bad_layer("two PAX headers for one entry")
                seen_pax = True
                records.update(parsed)
            elif flag == b"L":
                if seen_name:
                    raise bad_layer("two GNU long names for one entry")
                seen_name = True
                records.setdefault(b"path", self._extended(block).split(b"\0", 1)[0])
            elif flag == b"K":
                if seen_link:
                    raise bad_layer("two GNU long link names for one entry")
                seen_link = True
                records.setdefault(b"linkpath", self._extended(block).split(b"\0", 1)[0])
            else:
                return self._entry(block, records)

    def _extended(self, block: bytes) -> bytes:
        size = _number(block[124:136], "size")
        if not 0 <= size <= self._limits.extended_header_bytes:
            raise bad_layer(f"an extended header of {size} bytes")
        body = self._read_exactly(size + padding_bytes(size))
        return body[:size]

    def _entry(self, block: bytes, records: dict[bytes, bytes]) -> TarEntry:
        flag = block[156:157]
        kind = _KINDS.get(flag)
        if kind is None:
            raise bad_layer(f"an entry of type {flag!r}, which layers do not have")
        for key in records:
            if key.startswith(b"GNU.sparse."):
                raise bad_layer("a sparse file, which image layers must not hold")
        path = records.get(b"path") or _ustar_name(block)
        link = records.get(b"linkpath") or _text(block[157:257])
        if kind is TarKind.FILE and path.endswith(b"/"):
            kind = TarKind.DIRECTORY  # how tar wrote directories before ustar
        size = _decimal(records[b"size"], "size") if b"size" in records else _number(block[124:136], "size")
        if not 0 <= size <= _LARGEST_SIZE:
            raise bad_layer(f"{shown(path)} claims {size} bytes")
        if kind is not TarKind.FILE:
            # Links and the like have no payload whatever their header claims, with one exception that pax allows and no
            # image tool uses (a hard link with content): refused rather than guessed.
            if size and kind is TarKind.HARD_LINK:
                raise bad_layer(f"hard link {shown(path)} with content")
            size = 0
        user_id = _decimal(records[b"uid"], "uid") if b"uid" in records else _number(block[108:116], "uid")
        group_id = _decimal(records[b"gid"], "gid") if b"gid" in records else _number(block[116:124], "gid")
        for value in (user_id, group_id):
            if not 0 <= value <= _LARGEST_ID:
                raise bad_layer(f"{shown(path)} has the owner {value}")
        mtime_ns = _time_ns(records[b"mtime"]) if b"mtime" in records else _number(block[136:148], "mtime") * 1_000_000_000
        if abs(mtime_ns) > _LARGEST_SECONDS * 1_000_000_000:
            raise bad_layer(f"{shown(path)} has an impossible time")
        device = (0, 0)
        if kind in (TarKind.CHARACTER, TarKind.BLOCK):
            device = (_number(block[329:337], "device"), _number(block[337:345], "device"))
            if not (0 <= device[0] < 1 << 12 and 0 <= device[1] < 1 << 20):
                raise bad_layer(f"{shown(path)} has the device number {device[0]}:{device[1]}")
        if b"\0" in path or b"\0" in link:
            raise bad_layer("a path with a zero byte")
        self._left, self._padding = size, padding_bytes(size)
        prefix = len(XATTR_RECORD)
        xattrs = {key[prefix:]: value for key, value in records.items() if key.startswith(XATTR_RECORD)}
        return TarEntry(
            path=path,
            kind=kind,
            mode=_number(block[100:108], "mode") & 0o7777,
            user_id=user_id,
            group_id=group_id,
            size_bytes=size,
            mtime_ns=mtime_ns,
            link=link,
            device=device,
            xattrs=MappingProxyType(xattrs) if xattrs else _NO_XATTRS,
        )


def _verify_checksum(block: bytes) -> None:
    stored = _number(block[148:156], "checksum")
    rest = block[:148] + b"        " + block[156:]
    if stored == sum(rest):
        return
    # Some historic writers summed signed characters.
    if stored != sum(byte - 256 if byte > 127 else byte for byte in rest):
        raise bad_layer("not a tar archive, or a damaged header (checksum)")


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _ustar_name(block: bytes) -> bytes:
    name = _text(block[0:100])
    # Only POSIX ustar has a prefix; GNU's magic ("ustar  \0") puts other things there.
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _number(field: bytes, what: str) -> int:
    """Octal text, or GNU's base-256 when the first bit is set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=False)
        bits = 8 * len(field)
        if field[0] & 0x40:
            return value - (1 << bits)
        return value - (1 << (bits - 1))
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if not digits:
        return 0
    if not all(0x30 <= digit <= 0x37 for digit in digits):
        raise bad_layer(f"a header's {what} is not a number")
    return int(digits, 8)


def _decimal(text: bytes, what: str) -> int:
    digits = text.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > 20:
        raise bad_layer(f"a PAX header's {what} is not a number")
    return -int(digits) if text.startswith(b"-") else int(digits)


def _time_ns(text: bytes) -> int:
    """PAX time: decimal seconds with an optional fraction; a negative time's fraction counts away from zero."""
    whole, _, fraction = text.partition(b".")
    if fraction and not fraction.isdigit():
        raise bad_layer("a PAX header's mtime is not a number")
    seconds = _decimal(whole or b"0", "mtime")
    nanoseconds = int((fraction[:9] or b"0").ljust(9, b"0"))
    return seconds * 1_000_000_000 - nanoseconds if text.startswith(b"-") else seconds * 1_000_000_000 + nanoseconds


def _parse_pax(body: bytes) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(body):
        space = body.find(b" ", position, position + 20)
        digits = body[position:space]
        if space < 0 or not digits.isdigit():
            raise bad_layer("a PAX record without a length")
        end = position + int(digits)
        if not space < end <= len(body) or body[end - 1 : end] != b"\n":
            raise bad_layer("a PAX record whose length is wrong")
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        if not equals or not key or b"\0" in key:
            raise bad_layer("a PAX record without a key")
        records[key] = value
        position = end
    return records


def _verify_global(records: dict[bytes, bytes]) -> None:
    """Global headers apply to all later entries. Only comments are harmless (git archive writes one)."""
    for key in records:
        if key != b"comment":
            raise bad_layer(f"a global PAX header sets {shown(key)}")
