"""The conversation with registries: scheme, authentication, redirects, repetition, around single HTTP exchanges.

Theory of operation. `RegistryClient.open` asks one `Endpoint` for one `ApiRequest`. Inside out: `_follow` performs one
exchange and its redirects; `_send` repeats that while `plan_retry` says so; `_authorised` adds what the registry asked for
with 401, once; `open` finds the scheme that the host speaks. What to do is decided in `challenge` and `policy`; here it is
done. Statuses below 400 come back as responses; the others too, save those that repetition did not cure: whoever asked knows
whether 404 is an answer. Knows nothing of images, so that pushing needs no other client.

``Authorization`` goes only to the origin that asked for it, never along a redirect to another.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from urllib.parse import quote, urlencode, urlsplit

from contain.annotations import Protocol
from contain.errors import ContainError, NotFound, RegistryError
from contain.progress import Progress
from contain.registry.challenge import (
    Challenge,
    Credentials,
    basic_authorization,
    choose_challenge,
    parse_challenges,
    parse_token,
    plan_token_requests,
    repository_scope,
    without_scope,
)
from contain.registry.configuration import Endpoint
from contain.registry.policy import (
    REDIRECT_STATUSES,
    RETRIED_STATUSES,
    Failure,
    Trouble,
    origin,
    plan_redirect,
    plan_retry,
)
from contain.registry.transport import HttpRequest, HttpResponse, StreamBody, Transport, TransportFailure
from contain.values import dataclass, field

_LARGEST_ERROR_BYTES = 64 << 10
_LARGEST_TOKEN_BYTES = 1 << 20
_BASIC_LIFE_SECONDS = 24 * 3600.0
USER_AGENT = "contain"


class CredentialSource(Protocol):
    """Who knows our credentials; asked only when a registry wants some."""

    def find(self, *, host: str, repository: str = "") -> Credentials | None:
        """Credentials for a host and repository, or None."""


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRequest:
    """A request of the distribution API: ``/v2/<repository>/<path>``, or ``url`` where a registry's ``Location`` leads.

    ``actions``: what a token must allow there; ``scopes``: what else, as whole scopes. ``repeat``: a failed attempt may be
    repeated as it is; otherwise whoever asks gets the failure (`TransportFailure`, or the answer).
    """

    method: str
    repository: str
    path: str
    actions: tuple[str, ...] = ("pull",)
    headers: Mapping[str, str] = field(default_factory=_nothing)
    query: Mapping[str, str] = field(default_factory=_nothing)
    body: bytes | StreamBody | None = None
    url: str = ""
    scopes: tuple[str, ...] = ()
    repeat: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A small answer, whole. ``media_type`` is what the header says, ``digest`` what the registry claims; "" if nothing.
    ``link``: that header (where a long list goes on), ``url``: where the answer came from."""

    data: bytes
    media_type: str
    digest: str
    link: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Authorization:
    value: str
    expires: float  # on the client's clock

    def __repr__(self) -> str:
        return f"_Authorization(expires={self.expires})"


class RegistryClient:
    """Asks registries. Threads may share one; it lives as long as one pull. ``pause`` waits that many seconds (it may raise
    to give up), ``clock`` is monotonic seconds, ``jitter`` a random number in 0..1."""

    def __init__(
        self,
        *,
        transport: Transport,
        credentials: CredentialSource,
        progress: Progress,
        insecure: Callable[[str], bool] = lambda _host: False,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._transport, self._credentials, self._progress = transport, credentials, progress
        self._insecure, self._pause, self._clock, self._jitter = insecure, pause, clock, jitter
        self._lock = threading.Lock()
        self._login = threading.Lock()  # one thread gets a token, the others find it
        self._schemes: dict[str, str] = {}
        self._answered: set[tuple[str, str, int | None]] = set()
        self._authorizations: dict[tuple[str, tuple[str, ...]], _Authorization] = {}
        self._challenges: dict[str, tuple[Challenge, ...]] = {}  # what each origin asked for last

    def open(self, endpoint: Endpoint, request: ApiRequest) -> HttpResponse:
        """The answer to a request, redirects followed, its body unread. Use it as a context manager.

        Raises `RegistryError`: ``registry-unreachable`` (never any connection), ``registry-certificate``,
        ``registry-not-tls``, ``registry-broken-connection``, ``registry-rate-limited``, ``registry-failed``,
        ``registry-bad-redirect``, ``registry-bad-challenge``, ``registry-bad-token``.
        """
        known = self._schemes.get(endpoint.host)
        schemes = (known,) if known else endpoint.schemes
        for scheme in schemes[:-1]:
            try:
                response = self._authorised(endpoint, scheme, request)
            except _Unanswered as failure:
                # Only who may be asked over plain HTTP has a second scheme; a bad certificate is no reason to use it.
                if failure.trouble is Trouble.CERTIFICATE:
                    raise failure.error from failure
                continue
            self._schemes[endpoint.host] = scheme
            return response
        try:
            response = self._authorised(endpoint, schemes[-1], request)
        except _Unanswered as failure:
            raise failure.error from failure
        self._schemes[endpoint.host] = schemes[-1]
        return response

    def _authorised(self, endpoint: Endpoint, scheme: str, request: ApiRequest) -> HttpResponse:
        base = f"{scheme}://{endpoint.host}"
        repository = endpoint.repository(request.repository)
        plain = HttpRequest(
            method=request.method,
            url=request.url or _api_url(base, endpoint, repository, request),
            headers=request.headers,
            body=request.body,
        )
        if origin(urlsplit(plain.url)) != origin(urlsplit(base)):  # a Location elsewhere: our credentials are not for it
            response = self._send(endpoint, plain, repeat=request.repeat)
            response.same_origin = False
            return response
        own = (repository_scope(repository, *request.actions),) if request.actions else ()
        key = (base, (*own, *request.scopes))
        used = self._authorization(key)
        if used is None and isinstance(request.body, StreamBody) and (known := self._challenges.get(base)):
            with self._login:  # to send a large body only to hear 401 would be a waste
                used = self._authorization(key) or self._log_in(endpoint, base, repository, key, known)
        response = self._send(endpoint, _authorising(plain, used), repeat=request.repeat)
        if response.status != 401 or not response.same_origin:
            return response
        with self._login:
            answer = self._authorization(key)
            if answer is None or answer is used:
                challenges = parse_challenges(response.header_lines("WWW-Authenticate"))
                self._challenges[base] = tuple(without_scope(challenge) for challenge in challenges)
                answer = self._log_in(endpoint, base, repository, key, challenges)
        if answer is None or answer is used:
            return response
        response.close()
        return self._send(endpoint, _authorising(plain, answer), repeat=request.repeat)

    def _authorization(self, key: tuple[str, tuple[str, ...]]) -> _Authorization | None:
        with self._lock:
            found = self._authorizations.get(key)
            return found if found is not None and self._clock() < found.expires else None

    def _log_in(
        self,
        endpoint: Endpoint,
        base: str,
        repository: str,
        key: tuple[str, tuple[str, ...]],
        challenges: tuple[Challenge, ...],
    ) -> _Authorization | None:
        """What to answer to a 401; None if there is nothing that we could say."""
        credentials = self._credentials.find(host=endpoint.host, repository=repository)
        now = self._clock()
        answer: _Authorization | None = None
        if credentials is not None and credentials.registry_token:
            answer = _Authorization(value=f"Bearer {credentials.registry_token}", expires=now + _BASIC_LIFE_SECONDS)
        elif (challenge := choose_challenge(challenges, credentials)) is None:
            return None
        elif challenge.scheme == "basic":
            assert credentials is not None
            answer = _Authorization(value=basic_authorization(credentials), expires=now + _BASIC_LIFE_SECONDS)
        else:
            for wanted in plan_token_requests(challenge, scopes=key[1], credentials=credentials, registry_url=base):
                method = "GET" if wanted.form is None else "POST"
                request = HttpRequest(method=method, url=wanted.url, headers=wanted.headers, body=wanted.form)
                with self._ask_token_server(endpoint, request) as reply:
                    if reply.status == 200:
                        try:
                            token = parse_token(read_limited(reply, _LARGEST_TOKEN_BYTES))
                        except TransportFailure as error:
                            raise explain_failure(
                                urlsplit(wanted.url).netloc, Failure(trouble=error.trouble, answered=True), why=str(error)
                            ) from error
                        answer = _Authorization(value=f"Bearer {token.text}", expires=now + token.life_seconds)
                        break
                    if reply.status not in (404, 405):
                        who = (
                            f"the credentials of {credentials.username or 'the stored token'}"
                            if credentials
                            else "us, nameless,"
                        )
                        self._progress.warn(
                            f"{urlsplit(wanted.url).netloc} did not accept {who} for {endpoint.host} (status {reply.status})"
                        )
                        return None
        if answer is not None:
            with self._lock:
                self._authorizations[key] = answer
        return answer

    def _ask_token_server(self, endpoint: Endpoint, request: HttpRequest) -> HttpResponse:
        try:
            return self._send(endpoint, request)
        except _Unanswered as failure:  # the registry did answer, so its other scheme is not wanted
            raise failure.error from failure

    def _send(self, endpoint: Endpoint, request: HttpRequest, *, repeat: bool = True) -> HttpResponse:
        """One request with its redirects, repeated while that may help."""
        if not repeat:
            return self._follow(endpoint, request)
        attempt = 0
        while True:
            attempt += 1
            retry_after, status, why = "", 0, ""
            try:
                response = self._follow(endpoint, request)
            except TransportFailure as error:
                trouble, why = error.trouble, str(error)
            else:
                if response.status not in RETRIED_STATUSES:
                    return response
                with response:
                    trouble, status, retry_after = Trouble.STATUS, response.status, response.header("Retry-After")
                    why = f"status {status}{error_detail(response)}"
            answered = origin(urlsplit(request.url)) in self._answered
            failure = Failure(trouble=trouble, answered=answered, retry_after=retry_after, status=status)
            try:
                self.pause_before_retry(request.url, failure, why=why, attempt=attempt)
            except RegistryError as problem:
                if answered:
                    raise
                raise _Unanswered(trouble, problem) from problem

    def pause_before_retry(self, url: str, failure: Failure, *, why: str, attempt: int) -> None:
        """Wait as `plan_retry` says after ``attempt`` failures. Raises the `RegistryError` for the failure if it says no."""
        host = urlsplit(url).netloc
        delay = plan_retry(failure, attempt=attempt, jitter=self._jitter(), now=datetime.now(UTC))
        if delay is None:
            raise explain_failure(host, failure, why=why)
        self._progress.note(f"{host}: {why}; again in {delay:.1f} s")
        self._pause(delay)

    def read(self, endpoint: Endpoint, request: ApiRequest, *, limit_bytes: int, name: str) -> Document:
        """The whole answer to a GET, asked again if its body breaks off. ``name``: what is asked for, in messages.

        Raises as `open` does, `NotFound` (code ``image-not-in-registry``) and `RegistryError` (``registry-refused``,
        ``registry-answer-too-large``).
        """
        attempt = 0
        while True:
            attempt += 1
            with self.open(endpoint, request) as response:
                if response.status != 200:
                    raise explain_status(response, name=name)
                try:
                    return Document(
                        data=read_limited(response, limit_bytes),
                        media_type=response.header("Content-Type").partition(";")[0].strip().lower(),
                        digest=response.header("Docker-Content-Digest").strip(),
                        link=response.header("Link"),
                        url=response.url,
                    )
                except TransportFailure as error:
                    failure, why = Failure(trouble=error.trouble, answered=True), str(error)
            self.pause_before_retry(response.url, failure, why=why, attempt=attempt)

    def _follow(self, endpoint: Endpoint, request: HttpRequest) -> HttpResponse:
        """One exchange, and those that its redirects lead to. A POST or PUT is not redirected: its answer comes back."""
        url, crossed, hops = request.url, False, 0
        while True:
            headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **request.headers}
            if crossed:
                headers.pop("Authorization", None)
            host = urlsplit(url).netloc
            hop = HttpRequest(
                method=request.method, url=url, headers=headers, body=request.body, verify=not self._insecure(host)
            )
            try:
                response = self._transport.open(hop)
            except TransportFailure as error:
                if not hops:
                    raise
                raise TransportFailure(error.trouble, f"redirected to {host}: {error}") from error
            self._answered.add(origin(urlsplit(url)))
            response.same_origin = not crossed
            if response.status not in REDIRECT_STATUSES or request.method not in ("GET", "HEAD"):
                return response
            with response:
                target = plan_redirect(
                    first_url=request.url,
                    url=url,
                    location=response.header("Location"),
                    hops=hops,
                    insecure="http" in endpoint.schemes,
                    crossed=crossed,
                )
            url, crossed, hops = target.url, not target.same_origin, hops + 1


class _Unanswered(Exception):
    """No answer from a host that never gave one; ``error`` is what to tell the user. Never leaves this module."""

    def __init__(self, trouble: Trouble, error: RegistryError) -> None:
        super().__init__(str(error))
        self.trouble, self.error = trouble, error


def _api_url(base: str, endpoint: Endpoint, repository: str, request: ApiRequest) -> str:
    query = dict(request.query) | ({"ns": endpoint.mirror_of} if endpoint.mirror_of else {})
    # Not urllib's default of leaving out more: digests have colons, which are fine in a path.
    path = "/".join(part for part in (quote(repository, safe="/"), quote(request.path, safe="/:")) if part)
    url = f"{base}/v2/{path}"
    return f"{url}?{urlencode(query)}" if query else url


def _authorising(request: HttpRequest, authorization: _Authorization | None) -> HttpRequest:
    if authorization is None:
        return request
    return HttpRequest(
        method=request.method,
        url=request.url,
        headers={**request.headers, "Authorization": authorization.value},
        body=request.body,
    )


def explain_failure(host: str, failure: Failure, *, why: str) -> RegistryError:
    """The error for a failure that repetition did not cure. Without any answer ever, the host counts as unreachable."""
    match failure.trouble:
        case Trouble.CERTIFICATE:
            return RegistryError(
                f"{host}: its certificate is not trusted: {why}",
                code="registry-certificate",
                remedy="add its authority to the system's (or name a bundle in SSL_CERT_FILE); for a registry of your own: "
                f'[registries."{host}"] insecure = true',
            )
        case Trouble.NOT_TLS:
            return RegistryError(
                f"{host} does not speak TLS",
                code="registry-not-tls",
                remedy=f'if it is meant to speak plain HTTP: [registries."{host}"] insecure = true',
            )
        case Trouble.STATUS if failure.status == 429:
            asked = f" (asks to wait: {failure.retry_after[:40]})" if failure.retry_after else ""
            return RegistryError(
                f"{host} limits how often we may ask{asked}",
                code="registry-rate-limited",
                retryable=True,
                remedy="log in, wait, or configure a mirror",
            )
        case Trouble.STATUS:
            return RegistryError(f"{host} failed: {why}", code="registry-failed", retryable=True)
        case Trouble.BROKEN | Trouble.UNREACHABLE if failure.answered:
            return RegistryError(f"the connection to {host} broke: {why}", code="registry-broken-connection", retryable=True)
        case _:
            return RegistryError(f"cannot reach {host}: {why}", code="registry-unreachable", retryable=True)


def read_limited(response: HttpResponse, limit_bytes: int) -> bytes:
    """The whole body. Raises `RegistryError` (code ``registry-answer-too-large``) and `TransportFailure`."""
    pieces, total = [], 0
    while piece := response.read(64 << 10):
        total += len(piece)
        if total > limit_bytes:
            raise RegistryError(
                f"{urlsplit(response.url).netloc} answers with more than {limit_bytes} bytes", code="registry-answer-too-large"
            )
        pieces.append(piece)
    return b"".join(pieces)


def error_detail(response: HttpResponse) -> str:
    """What a registry's error document says, as ``: CODE message``; "" if it has none. Reads at most 64 KiB, never fails."""
    try:
        value = json.loads(response.read(_LARGEST_ERROR_BYTES))
        rows = [f"{row.get('code', '')} {row.get('message', '')}".strip() for row in value["errors"]]
    except (TransportFailure, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return ""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", "; ".join(rows))
    return f": {text[:200]}" if text else ""


def explain_status(response: HttpResponse, *, name: str) -> ContainError:
    """The error for an answer of 400 or more to a request for ``name``. Registries answer 401 and 403 for what is not there
    as well as for what is not ours to see, so those are one error: `NotFound` (code ``image-not-in-registry``)."""
    host, detail = urlsplit(response.url).netloc, error_detail(response)
    if response.status in (401, 403, 404):
        return NotFound(
            f"{name}: not found at {host}, or not allowed (status {response.status}{detail})",
            code="image-not-in-registry",
            remedy="check the name; a private image needs credentials in ~/.docker/config.json"
            if response.status != 404
            else "check the name and the tag",
        )
    return RegistryError(f"{host} refused {name}: status {response.status}{detail}", code="registry-refused")
