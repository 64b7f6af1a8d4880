"""One entry of a layer's tar archive, and its exact bytes: the dialect in which every canonical layer is written.

Value to bytes; opens nothing, sorts nothing. ustar fields where a value fits, one PAX header with only the records that are
needed where it does not. Owners are numeric, user and group names empty, device numbers zero except for devices, modes without
file-type bits, no access and change times.

Sources: POSIX.1-2017 pax (``pax Interchange Format``); image-spec ``layer.md``; xattrs as ``SCHILY.xattr.*`` (star(1)).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from contain.errors import NotSupported
from contain.values import dataclass, field

BLOCK_BYTES = 512
END_OF_ARCHIVE = bytes(2 * BLOCK_BYTES)
XATTR_RECORD = b"SCHILY.xattr."

_PLAIN_FILE = (
    b"%b%07o\0%07o\0%07o\0%011o\0%011o\0        0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
)
_PAX_NAME = b"././@PaxHeader"
_LARGEST_OCTAL_7 = 0o7777777
_LARGEST_OCTAL_11 = 0o77777777777
_NAME_BYTES, _PREFIX_BYTES, _LINK_BYTES = 100, 155, 100


class TarKind(Enum):
    """What an entry is; the value is the ustar type flag."""

    FILE = b"0"
    HARD_LINK = b"1"
    SYMLINK = b"2"
    CHARACTER = b"3"
    BLOCK = b"4"
    DIRECTORY = b"5"
    FIFO = b"6"


@dataclass(frozen=True, slots=True, kw_only=True)
class TarEntry:
    """One entry. ``path`` and ``link`` are raw bytes as in the archive, a directory's path without its trailing slash.

    ``mtime_ns`` may be negative (before 1970). ``size_bytes`` is that of the payload which follows.
    """

    path: bytes
    kind: TarKind
    mode: int = 0o644
    user_id: int = 0
    group_id: int = 0
    size_bytes: int = 0
    mtime_ns: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[bytes, bytes] = field(default_factory=lambda: MappingProxyType({}))


def padding_bytes(size_bytes: int) -> int:
    """How many zero bytes follow a payload of this size, to the next block."""
    return -size_bytes % BLOCK_BYTES


def render_entry(entry: TarEntry) -> bytes:
    """The header block or blocks of an entry. Times are whole seconds: callers clamp and truncate first."""
    records: dict[bytes, bytes] = {}
    name = entry.path + (b"/" if entry.kind is TarKind.DIRECTORY else b"")
    prefix, short_name = _split_name(name)
    if not short_name:
        records[b"path"] = name
        short_name = _stand_in(name, _NAME_BYTES)
    link = entry.link
    if len(link) > _LINK_BYTES or not link.isascii():
        records[b"linkpath"] = link
        link = _stand_in(link, _LINK_BYTES)
    numbers = {}
    seconds = entry.mtime_ns // 1_000_000_000
    for key, value, largest in (
        (b"uid", entry.user_id, _LARGEST_OCTAL_7),
        (b"gid", entry.group_id, _LARGEST_OCTAL_7),
        (b"size", entry.size_bytes, _LARGEST_OCTAL_11),
        (b"mtime", seconds, _LARGEST_OCTAL_11),
    ):
        fits = 0 <= value <= largest
        if not fits:
            records[key] = b"%d" % value
        numbers[key] = value if fits else 0
    for xattr in entry.xattrs:
        if b"=" in xattr:
            raise NotSupported(
                f"{_shown(entry.path)}: an extended attribute whose name holds '=' cannot be written to a layer: {_shown(xattr)}",
                code="layer-cannot-hold",
            )
        records[XATTR_RECORD + xattr] = entry.xattrs[xattr]
    header = _block(
        name=short_name,
        prefix=prefix,
        link=link,
        mode=entry.mode & 0o7777,
        numbers=numbers,
        flag=entry.kind.value,
        device=entry.device,
    )
    if not records:
        return header
    body = b"".join(_record(key, records[key]) for key in sorted(records))
    plain = {b"uid": 0, b"gid": 0, b"size": len(body), b"mtime": 0}
    extended = _block(name=_PAX_NAME, prefix=b"", link=b"", mode=0o644, numbers=plain, flag=b"x", device=(0, 0))
    return extended + body + bytes(padding_bytes(len(body))) + header


def render_file(path: bytes, mode: int, user_id: int, group_id: int, size_bytes: int, mtime_ns: int) -> bytes:
    """`render_entry` of a regular file without extended attributes: what nearly every entry of a large layer is."""
    seconds = mtime_ns // 1_000_000_000
    if (
        len(path) <= _NAME_BYTES
        and path.isascii()
        and user_id <= _LARGEST_OCTAL_7
        and group_id <= _LARGEST_OCTAL_7
        and size_bytes <= _LARGEST_OCTAL_11
        and 0 <= seconds <= _LARGEST_OCTAL_11
    ):
        fields = (path.ljust(_NAME_BYTES, b"\0"), mode & 0o7777, user_id, group_id, size_bytes, seconds)
        return _with_checksum(_PLAIN_FILE % fields)
    return render_entry(
        TarEntry(
            path=path,
            kind=TarKind.FILE,
            mode=mode,
            user_id=user_id,
            group_id=group_id,
            size_bytes=size_bytes,
            mtime_ns=mtime_ns,
        )
    )


def _split_name(name: bytes) -> tuple[bytes, bytes]:
    """The ustar prefix and name, or two empty strings when only a PAX record can hold the name."""
    if not name.isascii():
        return b"", b""
    if len(name) <= _NAME_BYTES:
        return b"", name
    cut = name.rfind(b"/", 0, min(_PREFIX_BYTES + 1, len(name) - 1))
    if cut <= 0 or len(name) - cut - 1 > _NAME_BYTES:
        return b"", b""
    return name[:cut], name[cut + 1 :]


def _stand_in(text: bytes, limit: int) -> bytes:
    """What old readers see in the short field when the true value is in a PAX record."""
    return bytes(byte for byte in text if byte < 0x80)[:limit]


def _record(key: bytes, value: bytes) -> bytes:
    """``LENGTH KEY=VALUE\\n``, where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) + rest != length:
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _block(
    *, name: bytes, prefix: bytes, link: bytes, mode: int, numbers: Mapping[bytes, int], flag: bytes, device: tuple[int, int]
) -> bytes:
    block = b"".join(
        (
            name.ljust(_NAME_BYTES, b"\0"),
            b"%07o\0%07o\0%07o\0" % (mode, numbers[b"uid"], numbers[b"gid"]),
            b"%011o\0%011o\0" % (numbers[b"size"], numbers[b"mtime"]),
            b"        ",
            flag,
            link.ljust(_LINK_BYTES, b"\0"),
            b"ustar\x0000",
            bytes(64),  # user and group names
            b"%07o\0%07o\0" % device,
            prefix.ljust(_PREFIX_BYTES, b"\0"),
            bytes(12),
        )
    )
    return _with_checksum(block)


def _with_checksum(block: bytes) -> bytes:
    """A header whose checksum field holds blanks, finished. The checksum is the sum of all bytes, which the lower half of Adler-32
    counts from 1, modulo 65521: 512 bytes of ASCII never come so far."""
    return block[:148] + b"%06o\0 " % ((zlib.adler32(block) & 0xFFFF) - 1) + block[156:]


def _shown(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
