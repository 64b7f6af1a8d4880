"""Connections that are tried at all addresses of a host at once, within one deadline, in urllib3's shape.

A host with many addresses behind a firewall that drops packets would otherwise cost one timeout for each of them.
Imports urllib3, so it is itself imported only when a connection is wanted. The order of trying follows RFC 8305 loosely.
"""

from __future__ import annotations

import selectors
import socket
from collections import deque
from collections.abc import Callable, Sequence
from errno import EINPROGRESS, ETIMEDOUT
from os import strerror
from time import monotonic

import urllib3
from urllib3 import connection, connectionpool, exceptions

from contain.annotations import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from urllib3._base_connection import BaseHTTPConnection  # not there at run time

_STAGGER_SECONDS = 0.25


def connect(host: str, port: int, *, seconds: float) -> socket.socket:
    """A connected TCP socket within ``seconds``: every address gets its turn `_STAGGER_SECONDS` after the one before, or as
    soon as that one failed. Raises `socket.gaierror`, `TimeoutError`, or the last address's `OSError`."""
    waiting = deque(_interleaved(socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)))
    deadline = monotonic() + seconds
    failure: OSError = TimeoutError(ETIMEDOUT, strerror(ETIMEDOUT))
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or selector.get_map():
                if waiting:
                    family, kind, protocol, _, address = waiting.popleft()
                    try:
                        sock = socket.socket(family, kind, protocol)
                    except OSError as error:  # IPv6 addresses on a kernel without IPv6
                        failure = error
                        continue
                    sock.setblocking(False)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    if (number := sock.connect_ex(address)) not in (0, EINPROGRESS):
                        sock.close()
                        failure = OSError(number, strerror(number))
                        continue
                    selector.register(sock, selectors.EVENT_WRITE)
                left = deadline - monotonic()
                if left <= 0:
                    raise TimeoutError(ETIMEDOUT, strerror(ETIMEDOUT))
                for key, _ in selector.select(min(left, _STAGGER_SECONDS) if waiting else left):
                    done = key.fileobj
                    assert isinstance(done, socket.socket)
                    selector.unregister(done)
                    number = done.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if number == 0:
                        done.settimeout(seconds)
                        return done
                    done.close()
                    failure = OSError(number, strerror(number))
            raise failure
        finally:
            for key in selector.get_map().values():
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.close()


Resolved = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]


def _interleaved(addresses: Sequence[Resolved]) -> list[Resolved]:
    """The resolver's order, but the families take turns."""
    first = addresses[0][0] if addresses else None
    mine = [item for item in addresses if item[0] == first]
    other = [item for item in addresses if item[0] != first]
    turns = [item for pair in zip(mine, other, strict=False) for item in pair]
    return turns + mine[len(other) :] + other[len(mine) :]


def _new_socket(self: connection.HTTPConnection, host: str) -> socket.socket:
    seconds = self.timeout if isinstance(self.timeout, int | float) else 5.0
    try:
        return connect(host, self.port, seconds=seconds)
    except (socket.gaierror, UnicodeError) as error:
        reason = error if isinstance(error, socket.gaierror) else socket.gaierror(socket.EAI_NONAME, "not a host name")
        raise exceptions.NameResolutionError(self.host, self, reason) from error
    except TimeoutError as error:
        raise exceptions.ConnectTimeoutError(self, f"no connection to {self.host} within {seconds:g} s") from error
    except OSError as error:
        raise exceptions.NewConnectionError(self, f"cannot connect to {self.host}: {error.strerror}") from error


def with_own_connections(
    pools: urllib3.PoolManager, *, io_seconds: float, opened: Callable[[socket.socket], None]
) -> urllib3.PoolManager:
    """The same pool manager, its new connections made by `connect` and shown to ``opened``. ``io_seconds``: how long sending
    may stand still; urllib3 would take the time for connecting."""

    def ready(made: connection.HTTPConnection) -> None:
        if made.sock is not None:
            made.sock.settimeout(io_seconds)
            opened(made.sock)

    class PlainConnection(connection.HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _new_socket(self, self._dns_host)

        def connect(self) -> None:
            super().connect()
            ready(self)

    class TlsConnection(connection.HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _new_socket(self, self._dns_host)

        def connect(self) -> None:
            super().connect()
            ready(self)

    class PlainPool(connectionpool.HTTPConnectionPool):
        ConnectionCls = PlainConnection

    class TlsPool(connectionpool.HTTPSConnectionPool):
        ConnectionCls = TlsConnection

        def _validate_conn(self, conn: BaseHTTPConnection) -> None:
            # As urllib3 does, without its warning about a certificate that the user's configuration told us not to verify.
            if conn.is_closed:
                conn.connect()

    pools.pool_classes_by_scheme = {"http": PlainPool, "https": TlsPool}
    return pools
