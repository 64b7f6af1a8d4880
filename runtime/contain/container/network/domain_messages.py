"""DNS messages: what a query asks, and the bytes of an answer from here. Pure; asks nobody, knows no names.

Only what a resolver of containers needs: one question in, addresses and names out. Everything else of a message is passed on as
it is (`contain.container.network.resolving`). The bytes come from programs that are not trusted, so a reader looks at each byte
once: a name in a question may not be compressed (there is nothing before it that it could point to), and what is cut off is an
error.

Formats: RFC 1035 sections 3 and 4, RFC 3596 (AAAA), RFC 6891 (the size that a client takes).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

from contain.values import dataclass

A, POINTER, AAAA, OPTIONS, ANY = 1, 12, 28, 41, 255
NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NO_SUCH_NAME, NOT_IMPLEMENTED, REFUSED = 0, 1, 2, 3, 4, 5
LONGEST_MESSAGE_BYTES = 65535

_HEADER = struct.Struct(">HHHHHH")  # id, flags, questions, answers, authorities, additional
_FIXED = struct.Struct(">HHIH")  # type, class, time to live, length of what follows
_INTERNET = 1
_RESPONSE, _AUTHORITATIVE, _TRUNCATED, _RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
_OPERATION, _CODE = 0x7800, 0x000F
_QUESTION_NAME = b"\xc0\x0c"  # a pointer to the question, which always stands at the same place
_SMALLEST_LIMIT_BYTES, _LARGEST_LIMIT_BYTES = 512, 4096
_LONGEST_NAME_BYTES, _LONGEST_LABEL_BYTES = 255, 63
_TIME_TO_LIVE_SECONDS = 600


class BadMessage(ValueError):
    """The bytes are no DNS message that could be answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A message with one question. ``name`` is in small letters without the last dot, "" for the root and for what no host is called;
    ``end``: where the question ends. ``limit_bytes``: the longest answer that the client takes in a datagram."""

    identifier: int
    flags: int
    name: str
    kind: int
    is_internet: bool
    end: int
    limit_bytes: int
    has_options: bool

    @property
    def operation(self) -> int:
        """0 for a query proper."""
        return (self.flags & _OPERATION) >> 11


def parse_name(data: bytes, offset: int) -> tuple[tuple[bytes, ...], int]:
    """The labels of an uncompressed name and where it ends. Raises `BadMessage`."""
    labels: list[bytes] = []
    start = offset
    while True:
        if offset >= len(data) or offset - start >= _LONGEST_NAME_BYTES:
            raise BadMessage("a name without an end")
        length = data[offset]
        offset += 1
        if length == 0:
            return tuple(labels), offset
        if length > _LONGEST_LABEL_BYTES or offset + length > len(data):
            raise BadMessage("a label that is no label")
        labels.append(data[offset : offset + length])
        offset += length


def parse_query(data: bytes) -> Query:
    """One question of a client. Raises `BadMessage` for bytes that are none, and for answers."""
    if len(data) < _HEADER.size:
        raise BadMessage("shorter than a header")
    identifier, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if flags & _RESPONSE or questions != 1:
        raise BadMessage("not one question")
    labels, offset = parse_name(data, _HEADER.size)
    if offset + 4 > len(data):
        raise BadMessage("a question without its type")
    kind, kind_class = struct.unpack_from(">HH", data, offset)
    end = offset + 4
    limit, has_options = _SMALLEST_LIMIT_BYTES, False
    if not answers and not authorities and additional and len(data) >= end + 11 and data[end] == 0:
        option, size = struct.unpack_from(">HH", data, end + 1)
        if option == OPTIONS:
            limit, has_options = min(max(size, _SMALLEST_LIMIT_BYTES), _LARGEST_LIMIT_BYTES), True
    return Query(
        identifier=identifier,
        flags=flags,
        name=_text_of(labels),
        kind=kind,
        is_internet=kind_class == _INTERNET,
        end=end,
        limit_bytes=limit,
        has_options=has_options,
    )


def _text_of(labels: Sequence[bytes]) -> str:
    """Small letters and dots; "" if a label holds what would not be the same name as text."""
    if any(b"." in label or not label.isascii() for label in labels):
        return ""
    return b".".join(labels).decode("ascii").lower()


def with_identifier(data: bytes, identifier: int) -> bytes:
    """The same message under another number."""
    return identifier.to_bytes(2, "big") + data[2:]


def is_answer(answer: bytes, query: bytes, end: int) -> bool:
    """Whether ``answer`` has the number and the question of ``query``, whose question ends at ``end``. Some servers leave the question
    out of an error."""
    if len(answer) < _HEADER.size or answer[:2] != query[:2] or not answer[2] & 0x80:
        return False
    questions = int.from_bytes(answer[4:6], "big")
    if questions == 0:
        return int.from_bytes(answer[6:8], "big") == 0
    return answer[_HEADER.size : end].lower() == query[_HEADER.size : end].lower()


def encode_name(name: str) -> bytes:
    """A name as a message holds it. Raises `BadMessage` for one that no message can hold."""
    encoded = b""
    for label in name.rstrip(".").split("."):
        piece = label.encode("ascii", "replace")
        if not 0 < len(piece) <= _LONGEST_LABEL_BYTES:
            raise BadMessage("a label that is no label")
        encoded += bytes((len(piece),)) + piece
    if len(encoded) >= _LONGEST_NAME_BYTES:
        raise BadMessage("a name that is too long")
    return encoded + b"\0"


def encode_address(address: str) -> tuple[int, bytes]:
    """The type of record that holds an address, and its bytes."""
    if ":" in address:
        return AAAA, socket.inet_pton(socket.AF_INET6, address)
    return A, socket.inet_pton(socket.AF_INET, address)


def render_answer(
    data: bytes, query: Query, records: Sequence[tuple[int, bytes]], *, code: int = NO_ERROR, limit_bytes: int | None = None
) -> bytes:
    """The answer to a client's message with these records (type, content) of the name that it asks for.

    What does not fit into ``limit_bytes`` (default: what the client takes in a datagram) is left out, and the answer says that it is
    cut off, so that the client asks by TCP.
    """
    limit = query.limit_bytes if limit_bytes is None else limit_bytes
    options = b"\0" + _FIXED.pack(OPTIONS, _LARGEST_LIMIT_BYTES, 0, 0) if query.has_options else b""
    body = data[_HEADER.size : query.end]
    flags = _RESPONSE | _RECURSION_AVAILABLE | (query.flags & (_OPERATION | _RECURSION_DESIRED)) | (code & _CODE)
    if records:
        flags |= _AUTHORITATIVE
    count = 0
    for kind, content in records:
        row = _QUESTION_NAME + _FIXED.pack(kind, _INTERNET, _TIME_TO_LIVE_SECONDS, len(content)) + content
        if _HEADER.size + len(body) + len(row) + len(options) > limit:
            flags |= _TRUNCATED
            break
        body += row
        count += 1
    return _HEADER.pack(query.identifier, flags, 1, count, 0, int(query.has_options)) + body + options


def render_refusal(data: bytes, code: int) -> bytes:
    """An answer to bytes that could not be read: the number and the code, nothing else. "" if there is not even a number."""
    if len(data) < _HEADER.size or data[2] & 0x80:  # never answer an answer: two servers would go on for ever
        return b""
    return _HEADER.pack(int.from_bytes(data[:2], "big"), _RESPONSE | (code & _CODE), 0, 0, 0, 0)


def render_query(identifier: int, name: str, kind: int) -> bytes:
    """A query, as a client sends it."""
    question = encode_name(name) + struct.pack(">HH", kind, _INTERNET)
    return _HEADER.pack(identifier, _RECURSION_DESIRED, 1, 0, 0, 0) + question
