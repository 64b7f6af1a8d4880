"""The functions that the rules name: a file's bytes to the bytes that it would have anywhere and at any time. Pure.

Each returns None where it does not know the file's form, or where there is nothing to change: then the file stays as it is.
"""

from __future__ import annotations

import calendar
import hashlib
import re
import struct
import time
from collections.abc import Callable
from types import MappingProxyType

from contain.build.normalise.facts import FileFacts
from contain.build.normalise.git import rewrite_git_index, rewrite_git_reflog
from contain.build.normalise.node import rewrite_npm_cache_entry
from contain.build.normalise.python import rewrite_pyc

_DAY_SECONDS = 86_400
_TAR_BLOCK = 512
_JKS_MAGIC = 0xFEEDFEED
_JKS_CERTIFICATE = 2

Rewriter = Callable[[bytes, FileFacts], bytes | None]


def rewrite_previous_content(data: bytes, facts: FileFacts) -> bytes | None:
    """What the lower layers have there, or nothing at all."""
    previous = facts.previous() or b""
    return None if data == previous else previous


def rewrite_machine_id(data: bytes, facts: FileFacts) -> bytes | None:
    """An identifier that depends on what the step stands on (machine-id(5): 32 hexadecimal digits).

    Not an empty file: D-Bus refuses to work with one. An identifier that the author wrote down stays.
    """
    found = re.fullmatch(rb"([0-9a-f]{32})\n?", data)
    if found is None or found[1].decode() in facts.step.text:
        return None
    previous = facts.previous()
    if previous is not None and re.fullmatch(rb"[0-9a-f]{32}\n?", previous):
        return previous
    wanted = hashlib.sha256(b"machine-id " + facts.step.identity.encode()).hexdigest()[:32]
    return wanted.encode() + data[32:]


def rewrite_shadow_day(data: bytes, facts: FileFacts) -> bytes | None:
    """shadow(5): the third field is the day of the last change. Today becomes the day of the epoch; lines of before stay."""
    first, last = facts.step.started_seconds // _DAY_SECONDS, facts.step.ended_seconds // _DAY_SECONDS
    wanted = str(facts.step.epoch_seconds // _DAY_SECONDS).encode()
    before = set((facts.previous() or b"").split(b"\n"))
    lines = data.split(b"\n")
    for index, line in enumerate(lines):
        fields = line.split(b":")
        if line in before or len(fields) < 9 or not fields[2].isdigit() or not first <= int(fields[2]) <= last:
            continue
        fields[2] = wanted
        lines[index] = b":".join(fields)
    return _changed(data, b"\n".join(lines))


def rewrite_tar_times(data: bytes, facts: FileFacts) -> bytes | None:
    """An uncompressed tar archive (POSIX ustar): its entries' times, if they are the step's, become the epoch."""
    result, offset = bytearray(data), 0
    while offset + _TAR_BLOCK <= len(data):
        header = bytearray(data[offset : offset + _TAR_BLOCK])
        if not any(header):
            break
        size, mtime = _octal(header[124:136]), _octal(header[136:148])
        if size is None or mtime is None or header[257:262] != b"ustar":
            return None
        if facts.step.is_now(mtime):
            header[136:148] = b"%011o\0" % facts.step.epoch_seconds
            header[148:156] = b" " * 8
            header[148:156] = b"%06o\0 " % sum(header)
            result[offset : offset + _TAR_BLOCK] = header
        offset += _TAR_BLOCK + -(-size // _TAR_BLOCK) * _TAR_BLOCK
    return _changed(data, bytes(result))


def _octal(field: bytes | bytearray) -> int | None:
    text = bytes(field).strip(b" \0")
    try:
        return int(text or b"0", 8)
    except ValueError:
        return None


def rewrite_info_dir(data: bytes, facts: FileFacts) -> bytes | None:
    """The menu of the Info system: sections by their titles, entries by their text.

    ``update-info-dir`` adds manuals in the order in which find(1) lists them. After ``* Menu:``, sections are separated by empty lines;
    an entry begins with ``* `` and goes on in indented lines (Texinfo manual, "Installing Dir Entries").
    """
    del facts
    start = re.search(rb"^\* Menu:.*\n+", data, re.MULTILINE)
    if start is None:
        return None
    body = data[start.end() :]
    inner = body.rstrip(b"\n")
    sections = []
    for block in re.split(rb"\n{2,}", inner):
        title, *entries = re.split(rb"\n(?=\* )", block)
        if title.startswith(b"* "):
            return None
        sections.append(b"\n".join([title, *sorted(entries)]))
    return _changed(data, data[: start.end()] + b"\n\n".join(sorted(sections)) + body[len(inner) :])


def rewrite_conda_history(data: bytes, facts: FileFacts) -> bytes | None:
    """``==> 2024-01-01 12:00:00 <==`` opens each transaction; those of this step get the epoch's time."""
    wanted = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(facts.step.epoch_seconds)).encode()

    def replace(match: re.Match[bytes]) -> bytes:
        try:
            seconds = calendar.timegm(time.strptime(match[1].decode(), "%Y-%m-%d %H:%M:%S"))
        except ValueError:
            return match[0]
        return b"==> " + wanted + b" <==" if facts.step.is_now_somewhere(seconds) else match[0]

    return _changed(data, re.sub(rb"==> (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) <==", replace, data))


def rewrite_java_keystore(data: bytes, facts: FileFacts) -> bytes | None:
    """The times of a keystore that holds certificates only (form JKS, password ``changeit``, as distributions make it).

    Source: the layout that ``java.security.KeyStore`` of type JKS writes: magic, version, count; for each certificate a tag, a name,
    a time in milliseconds, a type and the bytes; then SHA-1 over password, a fixed phrase and all that.
    """
    if len(data) < 32 or data[-20:] != _jks_digest(data[:-20]):
        return None
    magic, version, count = struct.unpack_from(">III", data)
    if magic != _JKS_MAGIC or version != 2:
        return None
    body, offset = bytearray(data[:-20]), 12
    try:
        for _ in range(count):
            (tag,) = struct.unpack_from(">I", body, offset)
            if tag != _JKS_CERTIFICATE:
                return None
            offset += 4
            offset += 2 + struct.unpack_from(">H", body, offset)[0]
            (milliseconds,) = struct.unpack_from(">Q", body, offset)
            if facts.step.is_now(milliseconds // 1000):
                struct.pack_into(">Q", body, offset, facts.step.epoch_seconds * 1000)
            offset += 8
            offset += 2 + struct.unpack_from(">H", body, offset)[0]
            offset += 4 + struct.unpack_from(">I", body, offset)[0]
    except struct.error:
        return None
    return _changed(data, bytes(body) + _jks_digest(bytes(body)))


def _jks_digest(body: bytes) -> bytes:
    return hashlib.sha1("changeit".encode("utf-16-be") + b"Mighty Aphrodite" + body, usedforsecurity=False).digest()


def _changed(data: bytes, wanted: bytes) -> bytes | None:
    return None if data == wanted else wanted


REWRITERS: MappingProxyType[str, Rewriter] = MappingProxyType(
    {
        "previous-content": rewrite_previous_content,
        "machine-id": rewrite_machine_id,
        "shadow-day": rewrite_shadow_day,
        "tar-times": rewrite_tar_times,
        "info-dir-order": rewrite_info_dir,
        "conda-history-times": rewrite_conda_history,
        "java-keystore-times": rewrite_java_keystore,
        "pyc-source-time": rewrite_pyc,
        "npm-cache-entry": rewrite_npm_cache_entry,
        "git-index": rewrite_git_index,
        "git-reflog": rewrite_git_reflog,
    }
)
