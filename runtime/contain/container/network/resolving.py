"""Answers a container's DNS queries: names of its networks from here, all others from name servers outside.

*Theory of operation.* One object serves one container, on sockets inside the container's network namespace, in a process of its own
(`contain.container.network.attendant`) with one thread and a loop. Everything is bounded: queries under way (the oldest is given up),
client connections, the size and the time of each. Queries for other servers are passed on byte for byte under a number and from a
port that are new each time, and an answer is taken only from the server asked, with the number and the question of the query.

What is not from a container's networks is asked of the machine's own name servers, from the machine's network, so those on its
loopback work too; never for a container whose networks are all internal. Name servers that were given with ``--dns`` are asked
from the container's network instead.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence

from contain.container.lifecycle.loop import Loop
from contain.container.network import domain_messages as messages
from contain.container.network.domain_messages import BadMessage, Query
from contain.container.network.names import LeaseFiles, is_closed, resolve_name, resolve_pointer

MOST_WAITING = 256
MOST_CONNECTIONS = 64
_SERVER_SECONDS = 3.0
_IDLE_SECONDS = 10.0
_DATAGRAM_BYTES = 4096
_ROUNDS = 2
_BURST = 32  # datagrams in a row before others get their turn

Reply = Callable[[bytes], None]


def answer_here(
    data: bytes, query: Query, files: LeaseFiles, container_id: str, *, limit_bytes: int | None = None
) -> bytes | None:
    """The answer from the container's own networks; None if others are to be asked."""
    if not query.is_internet or query.operation != 0 or not query.name:
        return None
    records = files.records()
    if query.kind == messages.POINTER:
        pointed = resolve_pointer(records, container_id, query.name)
        if pointed is None:
            return None
        if not pointed:
            return messages.render_answer(data, query, (), code=messages.NO_SUCH_NAME, limit_bytes=limit_bytes)
        with contextlib.suppress(BadMessage):
            rows = [(messages.POINTER, messages.encode_name(pointed))]
            return messages.render_answer(data, query, rows, limit_bytes=limit_bytes)
        return None
    found = resolve_name(records, container_id, query.name)
    if found is None:
        return None
    addresses = {messages.A: found.addresses, messages.AAAA: found.addresses6}.get(query.kind, ())
    if query.kind == messages.ANY:
        addresses = (*found.addresses, *found.addresses6)
    turned = sorted(addresses, key=lambda _: os.urandom(4))  # who has several of one name gets work on all of them
    return messages.render_answer(data, query, [messages.encode_address(each) for each in turned], limit_bytes=limit_bytes)


class _Waiting:
    """A query that another server is to answer."""

    def __init__(self, data: bytes, query: Query, reply: Reply, *, stream: bool) -> None:
        self.data, self.query, self.reply, self.stream = data, query, reply, stream
        self.attempts = 0
        self.sent = b""
        self.received = b""
        self.timer: int | None = None
        self.socket: socket.socket | None = None


class Resolver:
    """The name server of one container."""

    def __init__(
        self,
        loop: Loop,
        *,
        files: LeaseFiles,
        container_id: str,
        servers: Sequence[str],
        datagrams: socket.socket,
        streams: socket.socket,
        server_port: int = 53,
    ) -> None:
        self._loop, self._files, self._container_id = loop, files, container_id
        self._servers, self._server_port = tuple(servers), server_port
        self._datagrams, self._streams = datagrams, streams
        self._waiting: OrderedDict[int, _Waiting] = OrderedDict()
        self._connections: OrderedDict[int, _Connection] = OrderedDict()
        for each in (datagrams, streams):
            each.setblocking(False)
        loop.watch(datagrams.fileno(), self._take_datagrams)
        loop.watch(streams.fileno(), self._accept)

    def _take_datagrams(self) -> None:
        for _ in range(_BURST):
            try:
                data, client = self._datagrams.recvfrom(_DATAGRAM_BYTES)
            except OSError:
                return

            def reply(answer: bytes, client: tuple[str, int] = client) -> None:
                with contextlib.suppress(OSError):
                    self._datagrams.sendto(answer, client)

            self.ask(data, reply, stream=False)

    def _accept(self) -> None:
        try:
            connection, _ = self._streams.accept()
        except OSError:
            return
        while len(self._connections) >= MOST_CONNECTIONS:
            self._connections.popitem(last=False)[1].close()
        made = _Connection(connection, self._loop, self, lambda number: self._connections.pop(number, None))
        self._connections[made.number] = made

    def ask(self, data: bytes, reply: Reply, *, stream: bool) -> None:
        """Answer a client's message, now or later, by ``reply``."""
        try:
            query = messages.parse_query(data)
        except BadMessage:
            refusal = messages.render_refusal(data, messages.FORMAT_ERROR)
            if refusal:
                reply(refusal)
            return
        limit = messages.LONGEST_MESSAGE_BYTES if stream else None
        answer = answer_here(data, query, self._files, self._container_id, limit_bytes=limit)
        if answer is not None:
            reply(answer)
        elif not self._servers or is_closed(self._files.records(), self._container_id):
            reply(messages.render_answer(data, query, (), code=messages.SERVER_FAILURE))
        else:
            self._pass_on(_Waiting(data, query, reply, stream=stream))

    def close(self) -> None:
        """Let go of whoever waits."""
        for waiting in list(self._waiting.values()):
            self._drop(waiting)
        for connection in list(self._connections.values()):
            connection.close()
        for each in (self._datagrams, self._streams):
            self._loop.forget(each.fileno())

    # -- other servers -------------------------------------------------------------------------------------------------------

    def _pass_on(self, waiting: _Waiting) -> None:
        """Ask the next server, or say that none answered."""
        while waiting.attempts < _ROUNDS * len(self._servers):
            server = self._servers[waiting.attempts % len(self._servers)]
            waiting.attempts += 1
            if self._send(waiting, server):
                return
        waiting.reply(messages.render_answer(waiting.data, waiting.query, (), code=messages.SERVER_FAILURE))

    def _send(self, waiting: _Waiting, server: str) -> bool:
        """Whether a query is on its way."""
        waiting.sent = messages.with_identifier(waiting.data, int.from_bytes(os.urandom(2), "big"))
        waiting.received = b""
        kind = socket.SOCK_STREAM if waiting.stream else socket.SOCK_DGRAM
        asking: socket.socket | None = None
        try:
            family, _, _, _, place = socket.getaddrinfo(server, self._server_port, type=kind, flags=socket.AI_NUMERICHOST)[0]
            asking = socket.socket(family, kind)
            asking.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                asking.connect(place)
            if not waiting.stream:
                asking.send(waiting.sent)
        except OSError:
            if asking is not None:
                asking.close()
            return False
        while len(self._waiting) >= MOST_WAITING:
            self._drop(next(iter(self._waiting.values())))
        waiting.socket = asking
        self._waiting[asking.fileno()] = waiting
        waiting.timer = self._loop.call_after(_SERVER_SECONDS, lambda: self._retry(waiting, in_time=False))
        if waiting.stream:
            self._loop.watch(asking.fileno(), lambda: self._send_stream(waiting), writing=True)
        else:
            self._loop.watch(asking.fileno(), lambda: self._receive(waiting))
        return True

    def _send_stream(self, waiting: _Waiting) -> None:
        asking = waiting.socket
        assert asking is not None
        self._loop.forget(asking.fileno())
        try:
            framed = len(waiting.sent).to_bytes(2, "big") + waiting.sent
            if asking.send(framed) != len(framed):
                raise OSError("a query that the socket does not take at once")
        except OSError:
            self._retry(waiting)
            return
        self._loop.watch(asking.fileno(), lambda: self._receive(waiting))

    def _receive(self, waiting: _Waiting) -> None:
        asking = waiting.socket
        assert asking is not None
        try:
            data = asking.recv(messages.LONGEST_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._retry(waiting)
            return
        if waiting.stream:
            waiting.received += data
            if not data:
                self._retry(waiting)
                return
            length = int.from_bytes(waiting.received[:2], "big")
            if len(waiting.received) < 2 or len(waiting.received) < 2 + length:
                return
            data = waiting.received[2 : 2 + length]
        if not messages.is_answer(data, waiting.sent, waiting.query.end):
            if waiting.stream:
                self._retry(waiting)
            return  # somebody guessed wrong; the true answer may still come
        self._drop(waiting)
        waiting.reply(messages.with_identifier(data, waiting.query.identifier))

    def _retry(self, waiting: _Waiting, *, in_time: bool = True) -> None:
        if not in_time:
            waiting.timer = None
        self._drop(waiting)
        self._pass_on(waiting)

    def _drop(self, waiting: _Waiting) -> None:
        if waiting.timer is not None:
            self._loop.cancel(waiting.timer)
            waiting.timer = None
        if waiting.socket is not None:
            self._waiting.pop(waiting.socket.fileno(), None)
            self._loop.forget(waiting.socket.fileno())
            waiting.socket.close()
            waiting.socket = None


class _Connection:
    """A client that asks by TCP, one query after another (RFC 7766)."""

    def __init__(self, connection: socket.socket, loop: Loop, resolver: Resolver, gone: Callable[[int], object]) -> None:
        self._socket, self._loop, self._resolver, self._gone = connection, loop, resolver, gone
        self.number = connection.fileno()
        self._read = b""
        self._unsent = b""
        connection.setblocking(False)
        loop.watch(self.number, self._take)
        self._timer: int | None = loop.call_after(_IDLE_SECONDS, self._too_late)

    def _too_late(self) -> None:
        self._timer = None
        self.close()

    def _take(self) -> None:
        try:
            data = self._socket.recv(messages.LONGEST_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._read += data
        length = int.from_bytes(self._read[:2], "big")
        if len(self._read) < 2 or len(self._read) < 2 + length:
            return
        query, self._read = self._read[2 : 2 + length], self._read[2 + length :]
        self._loop.forget(self.number)  # the next query when this one is answered
        self._resolver.ask(query, self._reply, stream=True)

    def _reply(self, answer: bytes) -> None:
        if self._socket.fileno() < 0:
            return
        self._unsent = len(answer).to_bytes(2, "big") + answer
        self._loop.watch(self.number, self._send, writing=True)

    def _send(self) -> None:
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if self._unsent:
            return
        self._loop.forget(self.number)
        if self._read:  # what came with the one before
            self._loop.watch(self.number, self._again, writing=True)
        else:
            self._loop.watch(self.number, self._take)

    def _again(self) -> None:
        self._loop.forget(self.number)
        length = int.from_bytes(self._read[:2], "big")
        if len(self._read) < 2 + length:
            self._loop.watch(self.number, self._take)
            return
        query, self._read = self._read[2 : 2 + length], self._read[2 + length :]
        self._resolver.ask(query, self._reply, stream=True)

    def close(self) -> None:
        """Let go of the client."""
        if self._timer is not None:
            self._loop.cancel(self._timer)
            self._timer = None
        if self._socket.fileno() >= 0:
            self._loop.forget(self.number)
            self._socket.close()
            self._gone(self.number)
