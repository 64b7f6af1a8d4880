"""One HTTP exchange: a request out, a status, headers and a body to read. The only place that touches the network.

Decides nothing: follows no redirect, repeats nothing, knows no credentials. Connections are kept and shared by threads.
TLS uses the system's authorities through `ssl.create_default_context`, so ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` work.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import MappingProxyType
from urllib.parse import urlsplit

from contain.annotations import TYPE_CHECKING
from contain.errors import HostError, NotSupported
from contain.registry.policy import Trouble, choose_proxy
from contain.values import dataclass, field

if TYPE_CHECKING:
    import urllib3

CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0


# What OpenSSL says when the other side speaks something else, or closes on hearing TLS.
_NOT_TLS_REASONS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"})


def _no_headers() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamBody:
    """A body too large for memory: ``pieces`` gives its ``size_bytes`` bytes from the beginning, each time it is called."""

    size_bytes: int
    pieces: Callable[[], Iterable[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """What to send. ``verify``: the server's certificate must be valid."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=_no_headers)
    body: bytes | StreamBody | None = None
    verify: bool = True


class TransportFailure(Exception):
    """No answer, or one that broke off; never leaves the package. ``trouble`` says how."""

    def __init__(self, trouble: Trouble, message: str) -> None:
        super().__init__(message)
        self.trouble = trouble


@contextmanager
def _translated() -> Iterator[None]:
    """urllib3's and the socket's exceptions as `TransportFailure`."""
    from urllib3 import exceptions

    try:
        yield
    except exceptions.ProxyError as error:
        raise TransportFailure(Trouble.UNREACHABLE, f"no way through the proxy: {_plain(error.original_error)}") from error
    except exceptions.NameResolutionError as error:
        raise TransportFailure(Trouble.UNREACHABLE, "its name is not known") from error
    except (exceptions.NewConnectionError, exceptions.ConnectTimeoutError) as error:
        raise TransportFailure(Trouble.UNREACHABLE, _plain(error)) from error
    except (exceptions.SSLError, ssl.SSLError) as error:
        raise _tls_failure(error) from error
    except exceptions.ReadTimeoutError as error:
        raise TransportFailure(Trouble.BROKEN, "no more data came in time") from error
    except (exceptions.HTTPError, OSError) as error:
        raise TransportFailure(Trouble.BROKEN, _plain(error)) from error


def _plain(error: BaseException) -> str:
    """An exception's text without the connection's repr that urllib3 puts before it."""
    return re.sub(r"^(<[^>]*>|\w*Connection\([^)]*\)( at 0x[0-9a-f]+>)?): ", "", str(error))[:300]


def _tls_failure(error: Exception) -> TransportFailure:
    cause: object = error
    while isinstance(cause, Exception) and not isinstance(cause, ssl.SSLError) and cause.args:
        cause = cause.args[0]
    if isinstance(cause, ssl.SSLCertVerificationError):
        return TransportFailure(Trouble.CERTIFICATE, cause.verify_message)
    reason = cause.reason if isinstance(cause, ssl.SSLError) else None
    if reason in _NOT_TLS_REASONS:
        return TransportFailure(Trouble.NOT_TLS, "the answer is not TLS")
    return TransportFailure(Trouble.BROKEN, f"TLS: {reason or error}"[:300])


class HttpResponse:
    """A status, headers, and a body that is read once, in pieces. Use as a context manager; leaving it gives the connection
    back if the body was read to its end, else closes it."""

    def __init__(self, response: urllib3.BaseHTTPResponse, url: str) -> None:
        self._response = response
        self.url = url
        self.status = response.status
        self.same_origin = True  # whether it came from the origin that was asked; the client's redirects set it

    def header(self, name: str) -> str:
        """A header's value, "" if there is none; several are joined by commas."""
        return self._response.headers.get(name) or ""

    def header_lines(self, name: str) -> tuple[str, ...]:
        """A header's values, one for each line of it."""
        return tuple(self._response.headers.getlist(name))

    def read(self, limit_bytes: int) -> bytes:
        """The next piece of the body as it came over the wire (content coding included), at most ``limit_bytes``; b"" at the
        end. Raises `TransportFailure` if the body breaks off or falls silent."""
        with _translated():
            return self._response.read(limit_bytes, decode_content=False)

    def abort(self) -> None:
        """Make a read that waits in another thread fail at once."""
        with suppress(Exception):
            self._response.shutdown()

    def close(self) -> None:
        """Give the connection back, or close it if there is more to read."""
        with suppress(Exception):
            # Not drained: what is left may be large, and a new connection costs less.
            self._response.close()
            self._response.release_conn()

    def __enter__(self) -> HttpResponse:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Transport:
    """Sends requests over kept connections, through the environment's proxies. Threads may share it."""

    def __init__(
        self,
        *,
        environ: Mapping[str, str] | None = None,
        connect_seconds: float = CONNECT_SECONDS,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self._connect_seconds, self._read_seconds = connect_seconds, read_seconds
        self._lock = threading.Lock()
        self._pools: dict[tuple[str, bool], urllib3.PoolManager] = {}
        self._open: weakref.WeakSet[HttpResponse] = weakref.WeakSet()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._aborted = False

    def open(self, request: HttpRequest) -> HttpResponse:
        """Send a request, return the answer with its body unread. Raises `TransportFailure`, and what a `StreamBody` raises."""
        pool = self._pool(choose_proxy(request.url, self._environ), request.verify)
        headers, body = dict(request.headers), request.body
        if isinstance(body, StreamBody):
            headers["Content-Length"] = str(body.size_bytes)
        with _translated():
            response = pool.urlopen(
                request.method,
                request.url,
                headers=headers,
                body=iter(body.pieces()) if isinstance(body, StreamBody) else body,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
            )
        answer = HttpResponse(response, request.url)
        with self._lock:
            self._open.add(answer)
            too_late = self._aborted
        if too_late:  # it was on its way when everything was to stop
            answer.abort()
        return answer

    def _pool(self, proxy: str, verify: bool) -> urllib3.PoolManager:
        import urllib3

        from contain.registry.connection import with_own_connections

        with self._lock:
            pool = self._pools.get((proxy, verify))
            if pool is None:
                context = self._context(verify)
                timeout = urllib3.Timeout(connect=self._connect_seconds, read=self._read_seconds)
                if not proxy:
                    plain = urllib3.PoolManager(num_pools=8, maxsize=4, timeout=timeout, ssl_context=context)
                else:
                    plain = self._proxied(proxy, timeout, context)
                pool = with_own_connections(plain, io_seconds=self._read_seconds, opened=self._remember)
                self._pools[proxy, verify] = pool
            return pool

    def _proxied(self, proxy: str, timeout: urllib3.Timeout, context: ssl.SSLContext) -> urllib3.PoolManager:
        import urllib3

        parts = urlsplit(proxy)
        if parts.scheme not in ("http", "https"):
            raise NotSupported(f"proxies of the kind {parts.scheme}:// are not supported", remedy="use an http:// proxy")
        headers = urllib3.make_headers(proxy_basic_auth=urllib3.util.parse_url(proxy).auth) if parts.username else {}
        return urllib3.ProxyManager(
            proxy,
            num_pools=8,
            maxsize=4,
            timeout=timeout,
            ssl_context=context,
            proxy_ssl_context=context,
            proxy_headers=headers,
        )

    def _context(self, verify: bool) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context()
        except OSError as error:
            raise HostError("cannot load the certificate authorities", errno=error.errno or 0) from error
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _remember(self, opened: socket.socket) -> None:
        with self._lock:
            self._sockets.add(opened)
            too_late = self._aborted
        if too_late:
            _shut(opened)

    def abort(self) -> None:
        """Make everything that waits for the network in some thread, or begins to from now on, fail at once."""
        with self._lock:
            self._aborted = True
            waiting, sockets = list(self._open), list(self._sockets)
        for response in waiting:
            response.abort()
        for opened in sockets:
            _shut(opened)

    def close(self) -> None:
        """Close the kept connections."""
        with self._lock:
            for pool in self._pools.values():
                pool.clear()
            self._pools.clear()


def _shut(opened: socket.socket) -> None:
    """End a connection that another thread may be sending on or waiting for; the thread closes it."""
    with suppress(OSError):
        socket.socket.shutdown(opened, socket.SHUT_RDWR)  # not TLS's own: that takes its state from under the other thread
