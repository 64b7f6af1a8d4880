"""Fetches what a URL names, for ADD and for contexts: HTTP and HTTPS, with the machine's authorities and proxies.

For whoever needs the content::

    fetched = fetch_url("https://host/file.tar.gz", store=store, progress=progress)
    with store.open_blob(fetched.digest) as stream: ...

The content becomes a blob of the store, and what the server said about it (ETag, Last-Modified) is remembered beside it, so that the
next request asks only whether it changed. With a checksum, what is known already is not asked about at all. Memory stays small: the
body goes to the disk in pieces. Nothing is kept of a download that broke off or is not what was promised.

Source of the rules: RFC 9110 sections 8.8 (validators) and 13.1 (conditional requests); BuildKit's ``source/http``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from contain.annotations import TYPE_CHECKING
from contain.errors import IntegrityError, NotFound, RegistryError, SourceSpan, UsageError
from contain.oci import canonical_json, digest_of
from contain.progress import Progress
from contain.values import dataclass

if TYPE_CHECKING:
    from contain.registry.transport import HttpResponse, Transport
    from contain.store import Store

UNNAMED = "__unnamed__"
"""What a file is called whose URL has no name at its end. BuildKit's choice."""

_PIECE_BYTES = 1 << 20
_REPORT_BYTES = 4 << 20
_DIGEST = re.compile(r"^sha256:[0-9a-f]{64}\Z")
_GONE = frozenset({404, 410})
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedUrl:
    """``name``: the last part of the URL's path. ``modified_seconds``: Last-Modified, since 1970; None where the server says nothing.

    ``fresh``: it was downloaded now.
    """

    url: str
    name: str
    digest: str
    size_bytes: int
    modified_seconds: int | None
    fresh: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is remembered of an earlier answer."""

    digest: str
    size_bytes: int
    etag: str = ""
    modified: str = ""


def is_url(text: str) -> bool:
    """Whether it is fetched over HTTP; what names a git repository is asked first (`parse_git_reference`)."""
    return text.lower().startswith(("http://", "https://"))


def name_of_url(url: str) -> str:
    """The file name that a URL gives: the last part of its path, or `UNNAMED`."""
    try:
        path = urlsplit(url).path
    except ValueError as error:
        raise UsageError(f"{url!r} is no web address: {error}", code="bad-url") from error
    name = unquote(path.rstrip("/").rpartition("/")[2])
    return UNNAMED if name in ("", ".", "..") or "/" in name or "\0" in name else name


def check_digest(text: str, *, span: SourceSpan | None = None) -> str:
    """A ``--checksum`` for a URL. Raises `UsageError` (code ``bad-checksum``)."""
    algorithm, colon, value = text.partition(":")
    if not colon:
        raise UsageError(
            f"invalid checksum digest format: {text!r}",
            code="bad-checksum",
            span=span,
            remedy="write sha256:<64 hexadecimal digits>",
        )
    if algorithm != "sha256":
        raise UsageError(
            f"unsupported digest algorithm: {algorithm!r}",
            code="bad-checksum",
            span=span,
            remedy="sha256 is the one that is supported",
        )
    if not _DIGEST.match(f"{algorithm}:{value.lower()}"):
        raise UsageError(f"invalid checksum digest length: {text!r}", code="bad-checksum", span=span)
    return f"{algorithm}:{value.lower()}"


def plan_conditions(known: Known | None) -> Mapping[str, str]:
    """The headers that ask whether what is known is still so."""
    headers = {}
    if known is not None and known.etag:
        headers["If-None-Match"] = known.etag
    if known is not None and known.modified:
        headers["If-Modified-Since"] = known.modified
    return headers


def fetch_url(
    url: str,
    *,
    store: Store,
    progress: Progress,
    checksum: str = "",
    content: bool = True,
    environ: Mapping[str, str] | None = None,
    transport: Transport | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> FetchedUrl:
    """Fetch ``url``, or find that what is here is still right. ``content`` False: the digest alone is enough, the blob may be missing.

    Raises `NotFound` (``url-not-found``), `RegistryError` (``url-failed``, ``url-unreachable``, ``registry-bad-redirect``),
    `IntegrityError` (``checksum-mismatch``, ``url-broken-off``), `UsageError` (``bad-url``, ``bad-checksum``).
    """
    address, authorization = _split(url)
    checksum = check_digest(checksum) if checksum else ""
    known = _remembered(store, address, checksum) or _remembered(store, address, "")
    if known is not None and content and not store.has_blob(known.digest):
        known = None
    if known is not None and checksum and known.digest == checksum:
        return _fetched(address, known)
    fetcher = _Fetcher(transport=transport, environ=environ, pause=pause, progress=progress, insecure=bool(checksum))
    with fetcher.open(address, {**authorization, **plan_conditions(known)}) as response:
        if response.status == 304 and known is not None:
            if checksum and known.digest != checksum:
                raise _mismatch(address, checksum, known.digest)
            _remember(store, address, "", known)
            return _fetched(address, known)
        if response.status != 200:
            raise _refused(address, response.status)
        digest, size_bytes = _receive(response, address, checksum, store, progress)
        found = Known(
            digest=digest, size_bytes=size_bytes, etag=response.header("ETag"), modified=response.header("Last-Modified")
        )
    _remember(store, address, "", found)
    if checksum:
        _remember(store, address, checksum, found)
    return _fetched(address, found, fresh=True)


# -- addresses ------------------------------------------------------------------------------------------------------------------


def _split(url: str) -> tuple[str, Mapping[str, str]]:
    """The URL as it is asked for, without fragment and password, and the header that takes the password's place."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{url!r} is no web address: {error}", code="bad-url") from error
    if not parts.hostname or any(ord(character) <= 32 for character in url):
        raise UsageError(f"{url!r} is no web address", code="bad-url", remedy="write https://host/path")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    address = urlunsplit(
        SplitResult(parts.scheme.lower(), host + (f":{port}" if port is not None else ""), parts.path or "/", parts.query, "")
    )
    if parts.username is None:
        return address, {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return address, {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


def _mismatch(address: str, checksum: str, digest: str) -> IntegrityError:
    return IntegrityError(
        f"digest mismatch of {address}: it has {digest}, and {checksum} was promised",
        code="checksum-mismatch",
        remedy=f"if the file was meant to change, write --checksum={digest}",
    )


def _refused(address: str, status: int) -> NotFound | RegistryError:
    if status in _GONE:
        return NotFound(f"{address} does not exist: the server answers {status}", code="url-not-found")
    remedy = "its server wants to know who asks" if status in (401, 403) else ""
    return RegistryError(
        f"{address} cannot be fetched: the server answers {status}", code="url-failed", remedy=remedy, retryable=status >= 500
    )


# -- the exchange ---------------------------------------------------------------------------------------------------------------


class _Fetcher:
    """A request with its redirects and its repetitions."""

    def __init__(
        self,
        *,
        transport: Transport | None,
        environ: Mapping[str, str] | None,
        pause: Callable[[float], None],
        progress: Progress,
        insecure: bool,
    ) -> None:
        from contain.registry.transport import Transport as RealTransport

        self._transport = transport or RealTransport(environ=environ)
        self._owned = transport is None
        self._pause, self._progress, self._insecure = pause, progress, insecure

    @contextmanager
    def open(self, address: str, headers: Mapping[str, str]) -> Iterator[HttpResponse]:
        """The last answer, whatever its status."""
        try:
            with self._ask(address, headers) as response:
                yield response
        finally:
            if self._owned:
                self._transport.close()

    def _ask(self, address: str, headers: Mapping[str, str]) -> HttpResponse:
        from contain.registry.policy import Failure, Trouble, plan_retry
        from contain.registry.transport import TransportFailure

        answered, attempt = False, 0
        while True:
            attempt += 1
            try:
                response = self._follow(address, headers)
            except TransportFailure as error:
                failure, why = Failure(trouble=error.trouble, answered=answered), str(error)
            else:
                if response.status not in _RETRIED:
                    return response
                answered = True
                failure = Failure(
                    trouble=Trouble.STATUS, answered=True, retry_after=response.header("Retry-After"), status=response.status
                )
                why = f"the server answers {response.status}"
            wait = plan_retry(failure, attempt=attempt, jitter=random.random(), now=datetime.now(UTC))  # noqa: S311
            if wait is None:
                if failure.trouble is Trouble.STATUS:
                    return response
                raise RegistryError(f"{address} cannot be reached: {why}", code="url-unreachable", retryable=True)
            if failure.trouble is Trouble.STATUS:
                response.close()
            self._progress.note(f"{address}: {why}; again in {wait:.1f} s")
            self._pause(wait)

    def _follow(self, address: str, headers: Mapping[str, str]) -> HttpResponse:
        from contain.registry.policy import REDIRECT_STATUSES, plan_redirect
        from contain.registry.transport import HttpRequest

        url, crossed, hops = address, False, 0
        plain = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "contain"}
        while True:
            own = {name: value for name, value in headers.items() if not crossed or name != "Authorization"}
            response = self._transport.open(HttpRequest(method="GET", url=url, headers={**plain, **own}))
            if response.status not in REDIRECT_STATUSES:
                return response
            with response:
                target = plan_redirect(
                    first_url=address,
                    url=url,
                    location=response.header("Location"),
                    hops=hops,
                    insecure=self._insecure,  # what arrives is verified by its digest then
                    crossed=crossed,
                )
            url, crossed, hops = target.url.partition("#")[0], not target.same_origin, hops + 1


def _receive(response: HttpResponse, address: str, checksum: str, store: Store, progress: Progress) -> tuple[str, int]:
    """The body as a blob of the store."""
    from contain.registry.transport import TransportFailure

    length = response.header("Content-Length")
    total = int(length) if re.match(r"^\d{1,18}\Z", length) else None
    digest, size_bytes, reported = hashlib.sha256(), 0, 0
    label = name_of_url(address)
    with store.scratch("download") as scratch:
        path = scratch / "content"
        with path.open("wb") as out:
            try:
                while piece := response.read(_PIECE_BYTES):
                    digest.update(piece)
                    out.write(piece)
                    size_bytes += len(piece)
                    if size_bytes - reported >= _REPORT_BYTES:
                        progress.amount(label, size_bytes, total)
                        reported = size_bytes
            except TransportFailure as error:
                raise IntegrityError(
                    f"{address} broke off after {size_bytes} bytes: {error}",
                    code="url-broken-off",
                    remedy="start the build again",
                ) from error
        progress.amount(label, size_bytes, total)
        if total is not None and size_bytes != total:
            raise IntegrityError(
                f"{address} broke off: {size_bytes} bytes came, and {total} were announced",
                code="url-broken-off",
                remedy="start the build again",
            )
        name = "sha256:" + digest.hexdigest()
        if checksum and name != checksum:
            raise _mismatch(address, checksum, name)
        with store.ingest_blob(name, size_bytes) as ingest, path.open("rb") as source:
            source.seek(ingest.offset)
            while data := source.read(_PIECE_BYTES):
                ingest.write(data)
            ingest.commit()
    return name, size_bytes


# -- what is remembered -----------------------------------------------------------------------------------------------------------


def _record_key(address: str, checksum: str) -> str:
    return digest_of(canonical_json({"kind": "url", "url": address, "checksum": checksum}))


def _remembered(store: Store, address: str, checksum: str) -> Known | None:
    record = store.cached_step(_record_key(address, checksum))
    if record is None:
        return None
    values = json.loads(record.result)
    return Known(digest=values["digest"], size_bytes=values["size_bytes"], etag=values["etag"], modified=values["modified"])


def _remember(store: Store, address: str, checksum: str, known: Known) -> None:
    from contain.store import StepRecord

    values = {"digest": known.digest, "size_bytes": known.size_bytes, "etag": known.etag, "modified": known.modified}
    store.record_step(
        StepRecord(
            key=_record_key(address, checksum),
            position=f"url|{address}",
            ingredients=canonical_json({"kind": "url", "url": address, "checksum": checksum}).decode(),
            diff_id=None,
            size_bytes=known.size_bytes,
            result=canonical_json(values).decode(),
        )
    )


def _fetched(address: str, known: Known, *, fresh: bool = False) -> FetchedUrl:
    return FetchedUrl(
        url=address,
        name=name_of_url(address),
        digest=known.digest,
        size_bytes=known.size_bytes,
        modified_seconds=parse_http_time(known.modified),
        fresh=fresh,
    )


def parse_http_time(text: str) -> int | None:
    """Seconds since 1970 of an HTTP date (RFC 9110 section 5.6.7), or None."""
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())
