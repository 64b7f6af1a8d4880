"""Messages between the controller and the inside: a 4-byte big-endian length, then that many bytes of JSON.

File descriptors travel with the first bytes of a message whose ``fds`` says how many. Standard library only, Python >= 3.8.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

_LENGTH = struct.Struct(">I")
_PIECE_BYTES = 1 << 16
_MOST_FDS = 64


def plain(value: Any) -> Any:
    """``value`` with everything that JSON does not know replaced by its repr; used only when plain dumping failed."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, dict):
        return {key if isinstance(key, str) else describe(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return describe(value)


def describe(value: Any) -> str:
    """``repr(value)``, or what is wrong with it."""
    try:
        return repr(value)
    except Exception as error:
        return f"<unrepresentable {type(value).__name__}: {type(error).__name__}>"


def encode(message: dict[str, Any]) -> bytes:
    """One message as bytes, with its length in front."""
    try:
        body = json.dumps(message, default=describe, separators=(",", ":")).encode("ascii")
    except (TypeError, ValueError, RecursionError):
        body = json.dumps(plain(message), separators=(",", ":")).encode("ascii")
    return _LENGTH.pack(len(body)) + body


class Channel:
    """The inside's end of a Unix stream socket. Blocking."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.owner_pid = os.getpid()
        self._buffer = b""
        self._fds: list[int] = []

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send all of it. A process that was forked off by a test says nothing: the channel is not its own."""
        if os.getpid() != self.owner_pid:
            return
        if fds:
            message = dict(message, fds=len(fds))
        data = memoryview(encode(message))
        if fds:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
            data = data[self.connection.sendmsg([data], ancillary) :]
        while data:
            data = data[self.connection.send(data) :]

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next message and its descriptors, or None when the other end is closed."""
        while True:
            if len(self._buffer) >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._buffer)
                end = _LENGTH.size + length
                if len(self._buffer) >= end:
                    message = json.loads(self._buffer[_LENGTH.size : end].decode("ascii"))
                    self._buffer = self._buffer[end:]
                    count = message.get("fds", 0)
                    fds, self._fds = self._fds[:count], self._fds[count:]
                    return message, fds
            room = socket.CMSG_SPACE(_MOST_FDS * array.array("i").itemsize)
            data, ancillary, _flags, _address = self.connection.recvmsg(_PIECE_BYTES, room)
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    numbers = array.array("i")
                    numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
                    for number in numbers:
                        os.set_inheritable(number, False)
                    self._fds.extend(numbers)
            if not data:
                return None
            self._buffer += data

    def has_more(self) -> bool:
        """Whether a whole message is already here, so that waiting for the socket would miss it."""
        if len(self._buffer) < _LENGTH.size:
            return False
        return len(self._buffer) >= _LENGTH.size + int(_LENGTH.unpack_from(self._buffer)[0])
