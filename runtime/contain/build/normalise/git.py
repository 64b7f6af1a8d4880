"""Git's index without what it remembers of files, and its log of movements without the time. Pure.

Source: git's ``Documentation/gitformat-index.txt``. An entry whose times are zero is compared by content by the next ``git status``;
it would be anyway: the inode numbers of another machine are others, and the layer's times are clamped.
"""

from __future__ import annotations

import hashlib
import re
import struct

from contain.build.normalise.facts import FileFacts

_STAT_BYTES = 40
_EXTENDED = 0x4000
_NAME_MASK = 0xFFF


def rewrite_git_index(data: bytes, facts: FileFacts) -> bytes | None:
    """Versions 2 to 4, with either hash. Mode, size and object of each entry stay."""
    del facts
    if len(data) < 32 or data[:4] != b"DIRC":
        return None
    version, count = struct.unpack_from(">II", data, 4)
    algorithm = next((name for name in ("sha1", "sha256") if _checksum(name, data)), None)
    if version not in (2, 3, 4) or algorithm is None:
        return None
    hash_bytes = hashlib.new(algorithm, usedforsecurity=False).digest_size
    body, offset = bytearray(data[:-hash_bytes]), 12
    for _ in range(count):
        flags_at = offset + _STAT_BYTES + hash_bytes
        if flags_at + 2 > len(body):
            return None
        # ctime, mtime (seconds, nanoseconds each), device, inode; then mode, user, group, size
        body[offset : offset + 24] = bytes(24)
        body[offset + 28 : offset + 36] = bytes(8)
        (flags,) = struct.unpack_from(">H", body, flags_at)
        name_at = flags_at + 2 + (2 if flags & _EXTENDED and version >= 3 else 0)
        if version == 4:
            while name_at < len(body) and body[name_at] & 0x80:
                name_at += 1
            name_at += 1
        end = body.find(b"\0", name_at)
        if end < 0 or (version < 4 and flags & _NAME_MASK < _NAME_MASK and end - name_at != flags & _NAME_MASK):
            return None
        offset = end + 1 if version == 4 else offset + ((end - offset) // 8 + 1) * 8
    wanted = bytes(body) + hashlib.new(algorithm, bytes(body), usedforsecurity=False).digest()
    return None if wanted == data else wanted


def _checksum(algorithm: str, data: bytes) -> bool:
    size = hashlib.new(algorithm, usedforsecurity=False).digest_size
    return hashlib.new(algorithm, data[:-size], usedforsecurity=False).digest() == data[-size:]


def rewrite_git_reflog(data: bytes, facts: FileFacts) -> bytes | None:
    """``old new Name <address> SECONDS ZONE<tab>message``: seconds of this step become the epoch."""

    def replace(match: re.Match[bytes]) -> bytes:
        return match[1] + (b"%d" % facts.step.epoch_seconds if facts.step.is_now(int(match[2])) else match[2]) + match[3]

    wanted = re.sub(rb"(?m)^([0-9a-f]{40,64} [0-9a-f]{40,64} [^\n\t]*> )(\d{1,12})( [+-]\d{4}(?:\t|$))", replace, data)
    return None if wanted == data else wanted
