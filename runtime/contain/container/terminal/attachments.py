"""Who is attached to a container: the supervisor's side. Each gets what the container prints, and may type.

Theory of operation. The supervisor listens on a Unix socket in the record's directory (mode 0700), and asks the kernel who calls:
the same user or root, in the supervisor's own PID namespace, so that no container gets through. Packets (SOCK_SEQPACKET) begin with
a letter:

    to the supervisor      i BYTES  input        e  end of input       w ROWS COLUMNS  window size      r ROWS COLUMNS  the same, anew
    from the supervisor    1 BYTES  output       2 BYTES  errors       x JSON   it has ended

Everything happens in the loop of `contain.container.terminal.streams`, and nothing here waits. What somebody does not take is
kept for him up to a limit. Who is patient (the terminal in which it was started) then holds up the container, as a full pipe
does; anybody else has two seconds to take something, and is let go of: a connection that ends without a status.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import time
from collections import deque

from contain.annotations import TYPE_CHECKING
from contain.container.terminal.terminal import set_window_size
from contain.paths import HostPath
from contain.values import asdict

if TYPE_CHECKING:
    from contain.container.lifecycle.ended import ExitState

SOCKET_NAME = "attach"
PACKET_BYTES = 32768
_QUEUE_BYTES = 1 << 20
_PATIENCE_SECONDS = 2.0
_MOST_CLIENTS = 64
_INPUT_BYTES = 65536
_CREDENTIALS = struct.Struct("3i")  # unix(7): pid, uid, gid


def open_pair() -> tuple[socket.socket, socket.socket]:
    """Both sides of an attachment between a process and its child."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class _Client:
    __slots__ = ("connection", "patient", "queue", "queued_bytes", "stalled_since")

    def __init__(self, connection: socket.socket, *, patient: bool) -> None:
        connection.setblocking(False)
        self.connection, self.patient = connection, patient
        self.queue: deque[bytes] = deque()
        self.queued_bytes = 0
        self.stalled_since: float | None = None

    def full(self) -> bool:
        return self.queued_bytes > _QUEUE_BYTES


class Attachments:
    """Those who are attached to one container while it runs. A context manager.

    ``place``: the record's directory, or None where nobody can come later. ``first``: somebody who is attached from the beginning,
    patient. ``once``: when the first one's input ends, so does the container's.
    """

    def __init__(self, place: HostPath | None, *, first: socket.socket | None = None, once: bool = False) -> None:
        self._clients: dict[int, _Client] = {}
        self._listener: socket.socket | None = None
        self._directory = -1
        self._once = once
        self.input = b""
        self.input_over = False
        self.terminal: int | None = None
        if first is not None:
            self._add(first, patient=True)
        if place is not None:
            self._listen(place)

    def _listen(self, place: HostPath) -> None:
        self._directory = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(SOCKET_NAME, dir_fd=self._directory)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            # A path in such an address has at most 107 bytes (unix(7)); the store may be deeper.
            listener.bind(f"/proc/self/fd/{self._directory}/{SOCKET_NAME}")
            os.chmod(SOCKET_NAME, 0o600, dir_fd=self._directory)
            listener.listen(16)
            listener.setblocking(False)
        except OSError:
            listener.close()  # without it the container still runs; only nobody can attach
            return
        self._listener = listener

    def __enter__(self) -> Attachments:
        return self

    def __exit__(self, *_: object) -> None:
        for client in tuple(self._clients.values()):
            self._drop(client)
        if self._listener is not None:
            self._listener.close()
            with contextlib.suppress(OSError):
                os.unlink(SOCKET_NAME, dir_fd=self._directory)
            self._listener = None
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    # -- what the loop asks --------------------------------------------------------------------------------------------------

    def reads(self) -> list[int]:
        """Descriptors to be watched for reading. Nobody is listened to while what was typed is not taken."""
        found = [] if self._listener is None else [self._listener.fileno()]
        return found if len(self.input) >= _INPUT_BYTES else [*found, *self._clients]

    def writes(self) -> list[int]:
        """Descriptors to be watched for writing."""
        return [number for number, client in self._clients.items() if client.queue]

    def holds_up(self) -> bool:
        """Whether somebody has to take what is queued before more of the container's output is read. Lets go of who is too slow."""
        held = False
        for client in tuple(self._clients.values()):
            if not client.full():
                continue
            now = time.monotonic()
            client.stalled_since = client.stalled_since or now
            if client.patient or now - client.stalled_since < _PATIENCE_SECONDS:
                held = True
            else:
                self._drop(client)
        return held

    def handle(self, descriptor: int) -> bool:
        """Something is to be read or can be written; False if the descriptor is nobody's here."""
        if self._listener is not None and descriptor == self._listener.fileno():
            self._accept()
            return True
        client = self._clients.get(descriptor)
        if client is None:
            return False
        self._flush(client)
        if descriptor in self._clients:
            self._receive(client)
        return True

    def output(self, number: int, data: bytes) -> None:
        """The container printed this."""
        for start in range(0, len(data), PACKET_BYTES):
            packet = b"%d" % number + data[start : start + PACKET_BYTES]
            for client in tuple(self._clients.values()):
                client.queue.append(packet)
                client.queued_bytes += len(packet)
                self._flush(client)

    def tell_end(self, state: ExitState) -> None:
        """It has ended: everybody gets what is left, and how. Waits for the patient, and a moment for the others."""
        said = b"x" + json.dumps(asdict(state)).encode()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                while True:
                    self._accept(strict=True)
        for client in tuple(self._clients.values()):
            client.queue.append(said)
            self._flush(client)
            if not client.queue:
                self._drop(client)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self._clients:
            patient = any(client.patient for client in self._clients.values())
            left = None if patient else max(0.0, deadline - time.monotonic())
            readable, writable, _ = select.select(list(self._clients), self.writes(), [], left)
            if not readable and not writable:
                break
            for descriptor in {*readable, *writable}:
                self.handle(descriptor)
                self.input = b""  # nobody is there to read it
                left_over = self._clients.get(descriptor)
                if left_over is not None and not left_over.queue:
                    self._drop(left_over)

    # -- one client ----------------------------------------------------------------------------------------------------------

    def _add(self, connection: socket.socket, *, patient: bool) -> None:
        self._clients[connection.fileno()] = _Client(connection, patient=patient)

    def _accept(self, *, strict: bool = False) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except OSError:
            if strict:
                raise
            return
        if len(self._clients) < _MOST_CLIENTS and _may_attach(connection):
            self._add(connection, patient=False)
        else:
            connection.close()

    def _drop(self, client: _Client) -> None:
        if self._clients.pop(client.connection.fileno(), None) is not None:
            client.connection.close()

    def _flush(self, client: _Client) -> None:
        try:
            while client.queue:
                client.connection.send(client.queue[0], socket.MSG_NOSIGNAL)
                client.queued_bytes -= len(client.queue.popleft())
                client.stalled_since = None
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)

    def _receive(self, client: _Client) -> None:
        try:
            packet = client.connection.recv(PACKET_BYTES + 1)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        match packet[:1]:
            case b"":
                if client.patient and self._once and self.terminal is None:
                    self.input_over = True
                self._drop(client)
            case b"i":
                self.input += packet[1:]
            case b"e":
                self.input_over = self.input_over or (client.patient and self._once)
            case b"w" | b"r":
                self._resize(packet)

    def _resize(self, packet: bytes) -> None:
        words = packet[1:].split()
        if self.terminal is None or len(words) != 2 or not all(word.isdigit() and int(word) < 65536 for word in words):
            return
        rows, columns = map(int, words)
        if packet[:1] == b"r":  # the same size as before would tell nobody to draw again
            set_window_size(self.terminal, rows + 1, columns + 1)
        set_window_size(self.terminal, rows, columns)


def _may_attach(connection: socket.socket) -> bool:
    process, user, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if user not in (0, os.geteuid()):
        return False
    try:
        return os.readlink(f"/proc/{process}/ns/pid") == os.readlink("/proc/self/ns/pid")
    except OSError:
        return False
