"""The caller's standard streams attached to a container whose supervisor is another process. Copies bytes; keeps nothing.

The other side, and the packets, are `contain.container.terminal.attachments`'s. Ends with the container, with the detach keys,
or when the caller is told to end (SIGTERM, SIGHUP), which the container is told too. The terminal is as it was before, each
time.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
from collections.abc import Iterator

from contain.container.lifecycle.ended import ExitState
from contain.container.terminal.attachments import PACKET_BYTES, SOCKET_NAME
from contain.container.terminal.detach_keys import KeyWatch
from contain.container.terminal.terminal import raw_mode, window_size, write_all
from contain.errors import Conflict
from contain.paths import HostPath
from contain.values import dataclass

_MOST_WAITING_BYTES = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachEnd:
    """How an attachment ended. ``state``: how the container did; None: it goes on, or nobody knows. ``detached``: with the detach
    keys."""

    state: ExitState | None
    detached: bool = False


def connect(place: HostPath) -> socket.socket:
    """Attach to a running container by its record's directory. `Conflict` (code ``cannot-attach``) if its supervisor does not
    listen."""
    directory = -1
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        directory = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        connection.connect(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
    except OSError as error:
        connection.close()
        raise Conflict(
            f"container {place.name[:12]} has just ended, or is supervised by an older contain: nobody can attach to it",
            code="cannot-attach",
            remedy=f"contain logs -f {place.name[:12]}",
        ) from error
    finally:
        if directory >= 0:
            os.close(directory)
    return connection


class _Sender:
    """Packets to the supervisor, none of which is waited for."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._waiting: list[bytes] = []

    def send(self, packet: bytes) -> None:
        self._waiting.append(packet)
        self.flush()

    def flush(self) -> None:
        while self._waiting:
            try:
                self._connection.send(self._waiting[0], socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:  # it has ended; that is read, too
                self._waiting.clear()
                return
            del self._waiting[0]

    def waits(self) -> bool:
        return bool(self._waiting)

    def is_full(self) -> bool:
        return sum(map(len, self._waiting)) > _MOST_WAITING_BYTES


@contextlib.contextmanager
def _following_window(stdin: int | None) -> Iterator[int]:
    """Raw mode, if there is an input. Readable when the window's size has changed (``w``) or all is to be drawn anew (``r``): a
    handler of a signal may come at any moment, so it does nothing but say so."""
    told, teller = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def tell(letter: bytes) -> None:
        with contextlib.suppress(OSError):  # full: it is said already
            os.write(teller, letter)

    before = signal.signal(signal.SIGWINCH, lambda *_: tell(b"w"))
    try:
        with raw_mode(stdin, lambda: tell(b"r")) if stdin is not None else contextlib.nullcontext():
            yield told
    finally:
        signal.signal(signal.SIGWINCH, before)
        os.close(told)
        os.close(teller)


def attach(
    connection: socket.socket,
    *,
    stdin: int | None,
    stdout: int | None,
    stderr: int | None,
    terminal: bool,
    keys: bytes = b"",
    redraw: bool = False,
) -> AttachEnd:
    """Copy until the end. ``terminal``: the container has one; ``keys`` (none: no keys) are looked for then. ``redraw``: it has run
    before, so its program is asked to draw again."""
    sender = _Sender(connection)
    watch = KeyWatch(keys) if keys and terminal else None
    screen = 1 if stdout is None else stdout

    def tell_size(letter: bytes) -> None:
        size = window_size(screen)
        if size is not None:
            sender.send(letter + b"%d %d" % size)

    with contextlib.ExitStack() as cleanup:
        window = -1
        if terminal:
            window = cleanup.enter_context(_following_window(stdin))
            tell_size(b"r" if redraw else b"w")
        outputs = {ord("1"): stdout, ord("2"): stderr}
        source = stdin
        while True:
            reads = [connection.fileno(), *((window,) if window >= 0 else ())]
            if source is not None and not sender.is_full():
                reads.append(source)
            ready, _, _ = select.select(reads, [connection.fileno()] if sender.waits() else [], [])
            sender.flush()
            if window in ready:
                tell_size(b"r" if b"r" in os.read(window, 4096) else b"w")
            if source is not None and source in ready:
                try:
                    data = os.read(source, PACKET_BYTES)
                except OSError:
                    data = b""  # EIO: the terminal was closed
                typed, detached = watch.feed(data) if watch is not None else (data, False)
                if typed:
                    sender.send(b"i" + typed)
                if detached:
                    return AttachEnd(state=None, detached=True)
                if not data:
                    sender.send(b"e")
                    source = None
            if connection.fileno() in ready:
                try:
                    packet = connection.recv(PACKET_BYTES + 1)
                except ConnectionError:
                    packet = b""
                if not packet:
                    return AttachEnd(state=None)
                if packet.startswith(b"x"):
                    return AttachEnd(state=ExitState(**json.loads(packet[1:])))
                descriptor = outputs.get(packet[0])
                if descriptor is not None:
                    try:
                        write_all(descriptor, packet[1:])
                    except OSError:
                        outputs[packet[0]] = None  # whoever read it went away; the container is not disturbed
