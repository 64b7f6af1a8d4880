"""The keys that let go of a container's terminal and leave it running. Pure: text to bytes, bytes to bytes.

Source: docker/cli ``docs/reference/commandline/container_attach.md`` ("Override the detach sequence").
"""

from __future__ import annotations

from contain.errors import UsageError

DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"
_CONTROL = "@abcdefghijklmnopqrstuvwxyz[\\]^_"
_DELETE = b"\x7f"


def parse_detach_keys(text: str) -> bytes:
    """``a``, or ``ctrl-`` and one of ``@``, ``a`` to ``z``, ``[``, ``\\``, ``]``, ``^``, ``_``; several with commas between them.
    Empty text is the default. Raises `UsageError` (code ``bad-detach-keys``)."""
    found = b""
    for key in (text or DEFAULT_DETACH_KEYS).split(","):
        name = key.strip() or key
        if len(name) == 1 and name.isascii():
            found += name.encode()
        elif name == "DEL":
            found += _DELETE
        elif name.lower().startswith("ctrl-") and len(name) == 6 and name[5].lower() in _CONTROL:
            found += bytes([_CONTROL.index(name[5].lower())])
        else:
            raise UsageError(
                f"invalid detach keys ({text}) provided: Unknown character: '{key}'",
                code="bad-detach-keys",
                remedy="for example ctrl-p,ctrl-q or ctrl-@ or a,b,c",
            )
    return found


class KeyWatch:
    """Looks for the keys in what is typed. What may be their beginning is held back until it is decided."""

    def __init__(self, keys: bytes) -> None:
        self._keys, self._held = keys, b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What is to be passed on, and whether the keys were there: then all after them is dropped."""
        text = self._held + data
        place = text.find(self._keys)
        if place >= 0:
            self._held = b""
            return text[:place], True
        kept = next((n for n in range(min(len(self._keys) - 1, len(text)), 0, -1) if text.endswith(self._keys[:n])), 0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept], False
