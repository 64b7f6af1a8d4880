"""Carries what comes to a container's ports at IPv6 addresses of this machine to the container, which is asked at its IPv4 address;
of an ordinary user's container on networks of one's own, also what comes at IPv4 addresses.

*Why a process, when IPv4 needs none.* The kernel translates addresses, but not one IP version into the other, and it never sends
a packet to ``::1`` out of the machine; and a server that listens on IPv4 only is to be reached at both, as with Docker. An ordinary
user has no say in the machine's firewall at all. So the sockets that reserve these ports listen, and what arrives is copied both
ways, in the container's attendant process. The container sees this machine as its client. Decides nothing. Buffers, connections
and datagram clients are bounded; who is too many waits, or the oldest goes.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import OrderedDict
from collections.abc import Callable

from contain.container.lifecycle.loop import Loop

_BUFFER_BYTES = 1 << 17
_MOST_CONNECTIONS = 4096
DESCRIPTORS_PER_CONNECTION = 4
_MOST_CLIENTS = 512
_CLIENT_IDLE_SECONDS = 90.0
_BURST = 32
_DATAGRAM_BYTES = 65535
_IP_PKTINFO = 8  # ip(7); the socket module has no name for it
_CONNECT_SECONDS = 30.0

Client = tuple[str, int] | tuple[str, int, int, int]
Target = Callable[[], tuple[str, int] | None]
"""Where the container is at this moment; None: nowhere."""


class StreamRelay:
    """One published TCP port."""

    def __init__(self, loop: Loop, listening: socket.socket, target: Target, most: int = _MOST_CONNECTIONS) -> None:
        self._loop, self._listening, self._target = loop, listening, target
        self._open, self._most = 0, most
        listening.setblocking(False)
        loop.watch(listening.fileno(), self._accept)

    def close(self) -> None:
        """Take no more connections; those that are open go on."""
        self._loop.forget(self._listening.fileno())

    def _accept(self) -> None:
        try:
            client, _ = self._listening.accept()
        except OSError:
            return
        self._open += 1
        if self._open >= self._most:  # the others wait in the kernel's queue
            self._loop.forget(self._listening.fileno())
        _Pair(self._loop, client, self._target, self._closed)

    def _closed(self) -> None:
        self._open -= 1
        if self._open == self._most - 1:
            self._loop.watch(self._listening.fileno(), self._accept)


class _Direction:
    """What one side sends and the other is to get. At each moment one of the two descriptors is watched: the one that it waits
    for."""

    def __init__(self, loop: Loop, source: socket.socket, target: socket.socket, over: Callable[[], None]) -> None:
        self._loop, self._source, self._target, self._over = loop, source, target, over
        self._buffer = b""
        self._writing = os.dup(target.fileno())  # the target's own number may be watched by the other direction
        self.is_over = False
        loop.watch(source.fileno(), self._read)

    def _read(self) -> None:
        try:
            data = self._source.recv(_BUFFER_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.forget(self._source.fileno())
            with contextlib.suppress(OSError):
                self._target.shutdown(socket.SHUT_WR)
            self.is_over = True
            self._over()
            return
        self._buffer = data
        self._loop.forget(self._source.fileno())
        self._loop.watch(self._writing, self._write, writing=True)

    def _write(self) -> None:
        try:
            sent = self._target.send(self._buffer)
        except BlockingIOError:
            return
        except OSError:  # nobody reads any more: what is to come is of no use
            self._loop.forget(self._writing)
            with contextlib.suppress(OSError):
                self._source.shutdown(socket.SHUT_RD)
            self._buffer = b""
            self.is_over = True
            self._over()
            return
        self._buffer = self._buffer[sent:]
        if not self._buffer:
            self._loop.forget(self._writing)
            self._loop.watch(self._source.fileno(), self._read)

    def close(self) -> None:
        """Let go of what it watches."""
        self._loop.forget(self._source.fileno())
        self._loop.forget(self._writing)
        os.close(self._writing)


class _Pair:
    """A client's connection and the one to the container."""

    def __init__(self, loop: Loop, client: socket.socket, target: Target, closed: Callable[[], None]) -> None:
        self._loop, self._client, self._closed = loop, client, closed
        self._directions: tuple[_Direction, ...] = ()
        try:
            self._server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        except OSError:
            client.close()
            closed()
            return
        client.setblocking(False)
        self._server.setblocking(False)
        self._timer: int | None = None
        try:
            place = target()
            if place is None:
                raise ConnectionRefusedError
            with contextlib.suppress(BlockingIOError):
                self._server.connect(place)
        except OSError:
            self._close(reset=True)
            return
        self._timer = loop.call_after(_CONNECT_SECONDS, self._too_late)
        loop.watch(self._server.fileno(), self._connected, writing=True)

    def _too_late(self) -> None:
        self._timer = None
        self._close(reset=True)

    def _connected(self) -> None:
        self._loop.forget(self._server.fileno())
        if self._timer is not None:
            self._loop.cancel(self._timer)
            self._timer = None
        if self._server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._close(reset=True)
            return
        for each in (self._client, self._server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._directions = (
            _Direction(self._loop, self._client, self._server, self._one_is_over),
            _Direction(self._loop, self._server, self._client, self._one_is_over),
        )

    def _one_is_over(self) -> None:
        if all(direction.is_over for direction in self._directions):
            self._close()

    def _close(self, *, reset: bool = False) -> None:
        """``reset``: the client is to see that nobody is there, not an empty answer."""
        for direction in self._directions:
            direction.close()
        self._loop.forget(self._server.fileno())
        self._server.close()
        if reset:
            with contextlib.suppress(OSError):
                self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._client.close()
        self._closed()


class DatagramRelay:
    """One published UDP port. Each client gets a socket of its own towards the container, so that answers find their way back."""

    def __init__(self, loop: Loop, listening: socket.socket, target: Target, most: int = _MOST_CLIENTS) -> None:
        self._loop, self._listening, self._target, self._most = loop, listening, target, most
        self._clients: OrderedDict[object, tuple[socket.socket, int]] = OrderedDict()
        listening.setblocking(False)
        if listening.family == socket.AF_INET6:  # to answer from the address that was asked
            self._asked = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            self._asked = (socket.IPPROTO_IP, _IP_PKTINFO)
            listening.setsockopt(*self._asked, 1)
        loop.watch(listening.fileno(), self._take)

    def _take(self) -> None:
        for _ in range(_BURST):
            try:
                data, ancillary, _, client = self._listening.recvmsg(_DATAGRAM_BYTES, 256)
            except OSError:
                return
            asked = [row for row in ancillary if row[:2] == self._asked]
            server = self._server_of(client, asked)
            if server is not None:
                with contextlib.suppress(OSError):
                    server.send(data)

    def _server_of(self, client: Client, asked: list[tuple[int, int, bytes]]) -> socket.socket | None:
        key = (client, *(row[2] for row in asked))
        if key in self._clients:
            server, timer = self._clients.pop(key)
            self._loop.cancel(timer)
        else:
            while len(self._clients) >= self._most:
                self._drop(next(iter(self._clients)), cancel=True)
            try:
                server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            except OSError:
                return None
            server.setblocking(False)
            try:
                place = self._target()
                if place is None:
                    raise ConnectionRefusedError
                server.connect(place)
            except OSError:
                server.close()
                return None
            self._loop.watch(server.fileno(), lambda: self._give_back(server, client, asked))
        timer = self._loop.call_after(_CLIENT_IDLE_SECONDS, lambda: self._drop(key, cancel=False))
        self._clients[key] = (server, timer)
        return server

    def _give_back(self, server: socket.socket, client: Client, asked: list[tuple[int, int, bytes]]) -> None:
        with contextlib.suppress(OSError):
            self._listening.sendmsg([server.recv(_DATAGRAM_BYTES)], asked, 0, client)

    def close(self) -> None:
        """Let go of all clients."""
        for key in list(self._clients):
            self._drop(key, cancel=True)
        self._loop.forget(self._listening.fileno())

    def _drop(self, key: object, *, cancel: bool) -> None:
        server, timer = self._clients.pop(key)
        if cancel:
            self._loop.cancel(timer)
        self._loop.forget(server.fileno())
        server.close()


def open_relay(loop: Loop, listening: socket.socket, target: Target, *, most_descriptors: int) -> StreamRelay | DatagramRelay:
    """Carry what comes to a bound socket to ``target`` from now on, with at most so many descriptors."""
    if listening.type == socket.SOCK_STREAM:
        return StreamRelay(loop, listening, target, min(_MOST_CONNECTIONS, most_descriptors // DESCRIPTORS_PER_CONNECTION))
    return DatagramRelay(loop, listening, target, min(_MOST_CLIENTS, most_descriptors))
