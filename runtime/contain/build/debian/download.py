"""Brings an archive's files here: several mirrors, retries, a cache of verified files below the store.

Never gives out bytes that are not what was promised: a cached file is hashed again each time it is used. The cache is a
convenience; what is missing or damaged in it is fetched again.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from urllib.parse import quote, urlsplit

from contain.annotations import TYPE_CHECKING
from contain.errors import IntegrityError, NotFound, RegistryError
from contain.paths import HostPath
from contain.progress import Progress
from contain.registry.policy import choose_proxy

if TYPE_CHECKING:
    import urllib3

CONNECTIONS = 4
_CONNECT_SECONDS, _READ_SECONDS = 10.0, 60.0
_ATTEMPTS = 3
_PIECE_BYTES = 256 << 10
_SMALL_FILE_BYTES = 4 << 20
_UNREACHABLE = "debian-mirror-unreachable"


class Amounts:
    """Adds up what several threads fetched and tells one progress line."""

    def __init__(self, progress: Progress, label: str, total_bytes: int) -> None:
        self._progress, self._label, self._total = progress, label, total_bytes
        self._done, self._lock = 0, threading.Lock()

    def add(self, count_bytes: int) -> None:
        """``count_bytes`` more are here."""
        with self._lock:
            self._done += count_bytes
            self._progress.amount(self._label, self._done, self._total)


class ArchiveClient:
    """Reads one Debian archive through the mirrors that hold it. Threads may share it."""

    def __init__(
        self,
        mirrors: Sequence[str],
        cache: HostPath,
        *,
        environ: Mapping[str, str],
        proxies: Mapping[str, str],
        progress: Progress,
    ) -> None:
        self._mirrors = list(mirrors)
        self._cache = cache
        self._environ, self._proxies = environ, proxies
        self._progress = progress
        self._pools: dict[str, urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    @property
    def mirror(self) -> str:
        """The mirror that answered."""
        return self._mirrors[0]

    def close(self) -> None:
        """Close the kept connections."""
        for pool in self._pools.values():
            pool.clear()

    def read_inrelease(self, suite: str) -> bytes:
        """A suite's ``InRelease``, as yet believed by nobody. The first mirror that has it is used from then on.

        Raises `RegistryError` (code ``debian-mirror-unreachable``) if none answers, `NotFound` (``no-such-debian``) if those
        that do have no such suite.
        """
        missing: NotFound | None = None
        unreachable: RegistryError | None = None
        for index, mirror in enumerate(self._mirrors):
            try:
                data = self._fetch(f"{mirror}/dists/{suite}/InRelease", _SMALL_FILE_BYTES, None)
            except NotFound as error:
                missing = error
            except RegistryError as error:
                unreachable = error
            else:
                self._mirrors = self._mirrors[index:]
                return data
            if index + 1 < len(self._mirrors):
                self._progress.note(f"{mirror} has no {suite} for us, trying {self._mirrors[index + 1]}")
        raise missing or unreachable or NotFound("no Debian mirror is known", code="no-such-debian")

    def promised(self, paths: Sequence[str], *, sha256: str, size_bytes: int, amounts: Amounts | None = None) -> bytes:
        """The file's bytes, from the cache or from the first of ``paths`` (relative to the mirror) that exists.

        Raises `IntegrityError` (code ``debian-digest``) if what came is not what was promised.
        """
        cached = self._cache / sha256
        with suppress(OSError):
            data = cached.read_bytes()
            if len(data) == size_bytes and hashlib.sha256(data).hexdigest() == sha256:
                os.utime(cached)  # last used; what has not been for long may be removed
                if amounts is not None:
                    amounts.add(size_bytes)
                return data
        for index, path in enumerate(paths):
            try:
                data = self._fetch(f"{self.mirror}/{quote(path, safe='/+~:')}", size_bytes, amounts)
                break
            except NotFound:
                if index + 1 == len(paths):
                    raise
        if len(data) != size_bytes or hashlib.sha256(data).hexdigest() != sha256:
            raise IntegrityError(
                f"{paths[0]} from the Debian archive is not what its signed list promises (sha256 {sha256[:12]}…)",
                code="debian-digest",
                remedy="the mirror may be in the middle of an update: try again, or use another one",
            )
        self._keep(cached, data)
        return data

    def _keep(self, cached: HostPath, data: bytes) -> None:
        # Not fsynced: a file that a crash left incomplete is noticed by its digest and fetched again.
        cached.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".new-", dir=cached.parent)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
            os.replace(name, cached)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise

    def _fetch(self, url: str, limit_bytes: int, amounts: Amounts | None) -> bytes:
        """The body of one GET, at most ``limit_bytes`` long. A body that breaks off is asked for again, a few times."""
        import urllib3

        for attempt in range(1, _ATTEMPTS + 1):
            body = bytearray()
            try:
                response = self._pool(url).request("GET", url, preload_content=False, decode_content=False)
                try:
                    if response.status in (404, 410):
                        raise NotFound(f"the Debian archive has no {url}", code="no-such-debian")
                    if response.status != 200:
                        raise RegistryError(
                            f"the Debian archive answered {response.status} to {url}",
                            code="debian-mirror-refused",
                            retryable=response.status >= 500,
                        )
                    while piece := response.read(_PIECE_BYTES):
                        body += piece
                        if len(body) > limit_bytes:
                            raise IntegrityError(f"{url} is longer than the {limit_bytes} bytes promised", code="debian-digest")
                        if amounts is not None:
                            amounts.add(len(piece))
                finally:
                    response.close()
                    response.release_conn()
            except urllib3.exceptions.HTTPError as error:
                if amounts is not None:
                    amounts.add(-len(body))
                if attempt == _ATTEMPTS or not body:  # connecting was tried again by urllib3 already
                    raise RegistryError(
                        f"cannot read {url}: {error}",
                        code=_UNREACHABLE,
                        retryable=True,
                        remedy='name a mirror that this machine reaches in the configuration: [debian] mirror = "http://…"',
                    ) from error
            else:
                return bytes(body)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _pool(self, url: str) -> urllib3.PoolManager:
        import urllib3

        proxy = choose_proxy(url, self._environ) or self._proxies.get(urlsplit(url).scheme, "")
        with self._lock:
            if proxy not in self._pools:
                timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS)
                retries = urllib3.Retry(
                    total=5,
                    connect=2,
                    read=2,
                    status=3,
                    redirect=5,
                    backoff_factor=0.5,
                    status_forcelist=(429, 500, 502, 503, 504),
                    raise_on_status=False,
                )
                self._pools[proxy] = (
                    urllib3.ProxyManager(proxy, maxsize=CONNECTIONS, block=True, timeout=timeout, retries=retries)
                    if proxy
                    else urllib3.PoolManager(maxsize=CONNECTIONS, block=True, timeout=timeout, retries=retries)
                )
            return self._pools[proxy]
