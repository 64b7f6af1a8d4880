"""The controller's side of the wire: bytes from the inside become messages, within limits.

The inside is not trusted: a message that is too large, is not JSON, or does not have the shape of a message is an error that
ends that child, never more. See ``inside/wire.py`` for the format.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from contain.errors import IntegrityError

_LENGTH = struct.Struct(">I")
_PIECE_BYTES = 1 << 18
_MOST_FDS = 16

LARGEST_MESSAGE_BYTES = 64 << 20
MOST_BYTES = 512 << 20
"""What one test may send in all: a suite's longest test with its subtests sends a hundredth of it."""

Message = dict[str, Any]


class Decoder:
    """Cuts a stream into messages. Pure: bytes in, messages out."""

    def __init__(self, largest_message_bytes: int = LARGEST_MESSAGE_BYTES) -> None:
        self.largest_message_bytes = largest_message_bytes
        self.error: IntegrityError | None = None  # why nothing more can be understood
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete now. Sets ``error`` once the stream makes no sense."""
        if self.error is not None:
            return []
        self._buffer += data
        messages: list[Message] = []
        position = 0
        while len(self._buffer) - position >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, position)
            if length > self.largest_message_bytes:
                text = f"a message of {length} bytes, over the limit of {self.largest_message_bytes}"
                self.error = IntegrityError(text, code="message-too-large")
                break
            end = position + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            try:
                messages.append(self._decode(bytes(self._buffer[position + _LENGTH.size : end])))
            except IntegrityError as error:
                self.error = error
                break
            position = end
        del self._buffer[:position]
        return messages

    @staticmethod
    def _decode(body: bytes) -> Message:
        try:
            message = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"a message that is not JSON: {error}", code="bad-message") from error
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            raise IntegrityError("a message without a type", code="bad-message")
        return message


class Channel:
    """A Unix stream socket to the inside. Reading never blocks; what is sent is small."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._decoder = Decoder()
        self._allowance_bytes: int | None = None  # None: no limit
        self._fds: list[int] = []
        self.at_end = False

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """The controller's end, and the end to give away."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(ours), theirs

    @property
    def error(self) -> IntegrityError | None:
        """Why nothing more of what the other end sends can be understood."""
        return self._decoder.error

    def allow(self, most_bytes: int) -> None:
        """From now on, so many bytes and no more."""
        self._allowance_bytes = most_bytes

    def fileno(self) -> int:
        """For selectors."""
        return self.connection.fileno()

    def send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> bool:
        """Send one message. Returns False if the other end is gone."""
        if fds:
            message = {**message, "fds": len(fds)}
        body = json.dumps(message, separators=(",", ":")).encode("ascii")
        data = memoryview(_LENGTH.pack(len(body)) + body)
        try:
            if fds:
                sent = self.connection.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
                data = data[sent:]
            self.connection.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def receive_ready(self) -> list[Message]:
        """Every message that is here now, without waiting. Sets ``at_end`` when the other end is closed."""
        messages: list[Message] = []
        room = socket.CMSG_SPACE(_MOST_FDS * array.array("i").itemsize)
        while not self.at_end:
            try:
                data, ancillary, _flags, _address = self.connection.recvmsg(_PIECE_BYTES, room, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except (ConnectionResetError, OSError):
                self.at_end = True
                break
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    numbers = array.array("i")
                    numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
                    for number in numbers:
                        os.set_inheritable(number, False)
                    self._fds.extend(numbers)
            if len(self._fds) > _MOST_FDS:  # whoever sends them without end would take all that this process may have
                self._close_fds()
                self._decoder.error = IntegrityError("more descriptors than belong to a message", code="bad-message")
                break
            if not data:
                self.at_end = True
                break
            if self._allowance_bytes is not None:
                self._allowance_bytes -= len(data)
                if self._allowance_bytes < 0:
                    self._decoder.error = IntegrityError("more than a test may send", code="too-much-sent")
                    break
            messages.extend(self._decoder.feed(data))
            if self._decoder.error is not None:
                break
        return messages

    def take_fds(self, count: int) -> list[int]:
        """The descriptors that came with a message, for the caller to close."""
        taken, self._fds = self._fds[:count], self._fds[count:]
        return taken

    def close(self) -> None:
        """Close it and every descriptor that nobody took."""
        self._close_fds()
        self.connection.close()

    def _close_fds(self) -> None:
        for number in self._fds:
            with contextlib.suppress(OSError):
                os.close(number)
        self._fds = []
