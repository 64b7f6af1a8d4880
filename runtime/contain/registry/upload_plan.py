"""What to do in an upload: where to send, how much at once, where to go on. Values in, values out; sends nothing.

Source: OCI distribution-spec 1.1, "Pushing a blob monolithically" and "Pushing a blob in chunks".
"""

from __future__ import annotations

import re
from urllib.parse import urlencode, urlsplit, urlunsplit

CHUNK_BYTES = 8 << 20
SMALLEST_CHUNK_BYTES = 512 << 10  # below that, what a registry or its proxy refuses as too large it will always refuse
LARGEST_HELD_BYTES = 64 << 20  # a chunk is kept in memory for another try up to this size


def parse_minimum(text: str) -> int:
    """Bytes from an ``OCI-Chunk-Min-Length`` header; 0 if there is none or it is no number."""
    return int(text) if re.match(r"^\d{1,12}$", text.strip()) else 0


def parse_received(text: str) -> int | None:
    """How many bytes a session holds, from its ``Range`` header (``0-1023``: 1024 bytes); None if it does not say.

    ``0-0`` is what servers send for an empty session, though by the letter it is one byte.
    """
    match = re.match(r"^(?:bytes[ =])?0-(\d{1,15})$", text.strip())
    if match is None:
        return None
    last = int(match[1])
    return last + 1 if last else 0


def plan_chunk(*, offset: int, size: int, wanted: int, minimum: int) -> int:
    """How many bytes to send next: ``wanted`` ones, not fewer than the server's ``minimum``; never so many that what is left
    over would be less than nothing. Only the last chunk may be smaller."""
    return min(size - offset, max(wanted, minimum))


def smaller_chunk(current: int, *, minimum: int) -> int | None:
    """What to try after "too large" (413); None if there is nothing smaller to try."""
    smaller = max(current // 4, SMALLEST_CHUNK_BYTES, minimum)
    return smaller if smaller < current else None


def content_range(offset: int, length: int) -> str:
    """The ``Content-Range`` of a chunk: inclusive, without a unit, as the distribution specification has it."""
    return f"{offset}-{offset + length - 1}"


def with_query(url: str, **values: str) -> str:
    """``url`` with more query parameters, its own ones untouched: they hold the session's state."""
    parts = urlsplit(url)
    query = "&".join(part for part in (parts.query, urlencode(values, safe=":")) if part)
    return urlunsplit(parts._replace(query=query, fragment=""))
