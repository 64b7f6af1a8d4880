"""One blob into a registry: ask whether it is there, mount it from another repository, else send it.

Theory of operation. A blob is sent in one piece (POST for a session, PUT of everything). If that breaks, is refused as too
large (413), or the caller wants it so, it is sent in chunks (PATCH), of which a broken connection costs one only: the session
is asked what it holds (GET, also after 416), and sending goes on there. Each answer's ``Location`` is where to send next; it
may be relative and carries state. The bytes are hashed on their way out: a source that gives others than its descriptor says
is an error before the registry could take them for good. `upload_plan` decides; manifests are none of its business.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from urllib.parse import urlsplit

from contain.errors import ContainError, HostError, IntegrityError, RegistryError
from contain.oci import Descriptor
from contain.paths import HostPath
from contain.registry.challenge import repository_scope
from contain.registry.client import ApiRequest, error_detail
from contain.registry.policy import RETRIED_STATUSES, Failure, Trouble, plan_redirect
from contain.registry.session import RegistrySession
from contain.registry.transport import HttpResponse, StreamBody, TransportFailure
from contain.registry.upload_plan import (
    CHUNK_BYTES,
    LARGEST_HELD_BYTES,
    content_range,
    parse_minimum,
    parse_received,
    plan_chunk,
    smaller_chunk,
    with_query,
)
from contain.values import dataclass

PUSH = ("pull", "push")
PIECE_BYTES = 1 << 20  # as the store gives archives out: nothing is cut and copied on the way
MOST_SESSIONS = 20  # uploads begun for one blob; each further one only after progress, or with the patience of `plan_retry`
_BINARY = "application/octet-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobSource:
    """A blob to be pushed: what it is, and a function that gives its bytes from the beginning, piece by piece, each time that
    it is called (a broken connection makes it be called again). ``mount_from``: another repository of the same registry that
    probably has it."""

    descriptor: Descriptor
    pieces: Callable[[], Iterable[bytes]]
    mount_from: str = ""


class Delivery(enum.Enum):
    """How a blob came to be in the repository; the values are Docker's words."""

    EXISTED = "Layer already exists"
    MOUNTED = "Mounted from"
    SENT = "Pushed"


def file_pieces(path: HostPath) -> Iterator[bytes]:
    """A file's content."""
    with open(path, "rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def upload_blob(
    session: RegistrySession,
    repository: str,
    source: BlobSource,
    *,
    label: str = "",
    chunk_bytes: int = 0,
) -> Delivery:
    """Make sure that the repository has the blob; its ``pieces`` are asked for only if they must be sent. ``label``: its name
    in the progress. ``chunk_bytes``: send in chunks of that size, 0: in one piece if that works.

    Raises `RegistryError` (``registry-denied``, ``registry-refused``, ``registry-upload`` and those of `RegistryClient.open`),
    `IntegrityError` (``blob-digest``, ``blob-size``: the source gives other bytes).
    """
    descriptor, mount_from = source.descriptor, source.mount_from
    label = label or descriptor.digest.removeprefix("sha256:")[:12]
    upload = _Upload(session, repository, descriptor, label, chunk_bytes)
    if upload.exists():
        session.progress.amount(label, descriptor.size, descriptor.size)
        return Delivery.EXISTED
    if mount_from and mount_from != repository and upload.begin(mount_from):
        session.progress.amount(label, descriptor.size, descriptor.size)
        return Delivery.MOUNTED
    upload.send(source.pieces)
    return Delivery.SENT


class _Upload:
    """One blob on its way to one repository."""

    def __init__(self, session: RegistrySession, repository: str, descriptor: Descriptor, label: str, chunk_bytes: int) -> None:
        self._session, self._repository, self._descriptor, self._label = session, repository, descriptor, label
        self._client, self._endpoint = session.client, session.endpoint
        self._chunk_bytes = chunk_bytes  # 0: all in one piece
        self._scopes: tuple[str, ...] = ()
        self._location, self._minimum = "", 0

    def _ask(
        self,
        method: str,
        path: str,
        *,
        url: str = "",
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        body: bytes | StreamBody | None = None,
        repeat: bool = True,
    ) -> HttpResponse:
        self._session.check_stop()
        request = ApiRequest(
            method=method,
            repository=self._repository,
            path=path,
            url=url,
            actions=PUSH,
            scopes=self._scopes,
            query=query or {},
            headers=headers or {},
            body=body,
            repeat=repeat,
        )
        return self._client.open(self._endpoint, request)

    def exists(self) -> bool:
        """Whether the repository has it. A registry that does not answer HEAD, or says something odd, counts as not having it:
        sending it once more does no harm."""
        with self._ask("HEAD", f"blobs/{self._descriptor.digest}") as response:
            claimed, length = response.header("Docker-Content-Digest"), response.header("Content-Length")
            return (
                response.status == 200
                and claimed in ("", self._descriptor.digest)
                and length in ("", str(self._descriptor.size))
            )

    def begin(self, mount_from: str = "") -> bool:
        """Open a session; True if that was not needed, because the registry mounted the blob from another repository."""
        query = {}
        if mount_from:
            self._scopes = (repository_scope(mount_from, "pull"),)
            query = {"mount": self._descriptor.digest, "from": mount_from}
        with self._ask("POST", "blobs/uploads/", query=query, body=b"", headers={"Content-Length": "0"}) as response:
            if mount_from and response.status == 201:
                return True
            if response.status != 202:
                raise self._refused(response)
            self._minimum = parse_minimum(response.header("OCI-Chunk-Min-Length"))
            self._follow(response, required=True)
        return False

    def _follow(self, response: HttpResponse, *, required: bool = False) -> None:
        """Note where to send next."""
        location = response.header("Location")
        if location:
            self._location = plan_redirect(
                first_url=response.url,
                url=response.url,
                location=location,
                hops=0,
                insecure="http" in self._endpoint.schemes,
            ).url
        elif required:
            raise RegistryError(
                f"{self._host()} opened an upload of {self._label} without saying where (no Location)", code="registry-upload"
            )

    def _host(self) -> str:
        return self._endpoint.host

    def _refused(self, response: HttpResponse) -> ContainError:
        return explain_refusal(response, host=self._host(), name=f"{self._host()}/{self._repository}", what=self._label)

    def send(self, pieces: Callable[[], Iterable[bytes]]) -> None:
        """All of it, by whatever way works."""
        size = self._descriptor.size
        attempt = sessions = 0
        while True:
            if not self._location:
                self.begin()
            sessions += 1
            try:
                received = self._send_chunks(pieces) if self._chunk_bytes else self._send_whole(pieces)
            except _TooLarge as error:
                chunk = smaller_chunk(self._chunk_bytes, minimum=self._minimum) if self._chunk_bytes else min(CHUNK_BYTES, size)
                if chunk is None:
                    raise error.problem from None
                self._chunk_bytes, self._location = chunk, ""
                continue
            except _BrokenUpload as broken:
                attempt = 1 if broken.progress and sessions < MOST_SESSIONS else attempt + 1
                self._client.pause_before_retry(broken.url, broken.failure, why=broken.why, attempt=attempt)
                self._location = ""
                if self.exists():  # only the answer was lost
                    received = size
                else:
                    # A large one in pieces from now on, so that the next break costs less.
                    self._chunk_bytes = self._chunk_bytes or (CHUNK_BYTES if size > CHUNK_BYTES else 0)
                    continue
            assert received == size
            self._session.progress.amount(self._label, size, size)
            return

    def _send_whole(self, pieces: Callable[[], Iterable[bytes]]) -> int:
        """PUT everything into the session."""
        checked = _Checked(pieces, self._descriptor, self._sent)
        url = with_query(self._location, digest=self._descriptor.digest)
        body = StreamBody(size_bytes=self._descriptor.size, pieces=lambda: checked.read(0))
        with closing(checked):
            try:
                response = self._ask("PUT", "", url=url, headers={"Content-Type": _BINARY}, body=body, repeat=False)
            except TransportFailure as error:
                raise _BrokenUpload(self._location, error) from error
            with response:
                self._check_end(response)
        return self._descriptor.size

    def _sent(self, done: int) -> None:
        self._session.check_stop()
        self._session.progress.amount(self._label, done, self._descriptor.size)

    def _check_end(self, response: HttpResponse) -> None:
        """The answer to the request that should have completed the upload."""
        self._check_progress(response)
        if response.status not in (201, 204):  # 204: an older registry
            raise self._refused(response)
        claimed = response.header("Docker-Content-Digest")
        if claimed.startswith("sha256:") and claimed != self._descriptor.digest:
            raise IntegrityError(f"{self._host()} stored {claimed} for {self._descriptor.digest}", code="digest-mismatch")

    def _check_progress(self, response: HttpResponse, *, progress: bool = False) -> None:
        """Raise for the answers after which there is another way."""
        if response.status == 413:
            raise _TooLarge(self._refused(response))
        if response.status in RETRIED_STATUSES or response.status == 404:  # 404: the session is gone
            failure = Failure(
                trouble=Trouble.STATUS,
                answered=True,
                status=response.status,
                retry_after=response.header("Retry-After"),
            )
            raise _BrokenUpload(response.url, f"status {response.status}{error_detail(response)}", failure, progress=progress)

    def _send_chunks(self, pieces: Callable[[], Iterable[bytes]]) -> int:
        """PATCH chunk by chunk, then PUT without a body."""
        size, offset, start = self._descriptor.size, 0, 0
        checked = _Checked(pieces, self._descriptor, self._sent)
        attempt = strays = 0
        with closing(checked):
            while offset < size:
                length = plan_chunk(offset=offset, size=size, wanted=self._chunk_bytes, minimum=self._minimum)
                before, elsewhere, why = offset, False, ""
                failure = Failure(trouble=Trouble.BROKEN, answered=True)
                try:
                    with self._patch(checked, offset, length) as response:
                        if response.status == 416:
                            elsewhere = True
                        elif response.status in RETRIED_STATUSES:
                            why = f"status {response.status}{error_detail(response)}"
                            failure = Failure(
                                trouble=Trouble.STATUS,
                                answered=True,
                                status=response.status,
                                retry_after=response.header("Retry-After"),
                            )
                        else:
                            self._check_progress(response, progress=offset > start)
                            if response.status not in (202, 201, 204):
                                raise self._refused(response)
                            self._follow(response)
                            received = parse_received(response.header("Range"))
                            offset = offset + length if received is None else received
                except TransportFailure as error:
                    why = str(error)
                if why:
                    attempt += 1
                    self._client.pause_before_retry(self._location, failure, why=why, attempt=attempt)
                if why or elsewhere:
                    offset = self._held(progress=offset > start)
                if offset > before:
                    attempt = strays = 0
                else:
                    strays += 1
                if strays > 5 or not 0 <= offset <= size:
                    raise RegistryError(
                        f"{self._host()} takes the upload of {self._label} no further: it claims to hold {offset} of {size} "
                        "bytes",
                        code="registry-upload",
                        retryable=True,
                    )
            checked.finish()
        url = with_query(self._location, digest=self._descriptor.digest)
        try:
            response = self._ask("PUT", "", url=url, headers={"Content-Length": "0"}, body=b"", repeat=False)
        except TransportFailure as error:
            raise _BrokenUpload(self._location, error, progress=True) from error
        with response:
            self._check_end(response)
        return size

    def _patch(self, checked: _Checked, offset: int, length: int) -> HttpResponse:
        headers = {"Content-Type": _BINARY, "Content-Range": content_range(offset, length)}
        body: bytes | StreamBody
        if length <= LARGEST_HELD_BYTES:
            body = checked.chunk(offset, length)
            headers["Content-Length"] = str(length)
        else:
            body = StreamBody(size_bytes=length, pieces=lambda: checked.read(offset, length))
        return self._ask("PATCH", "", url=self._location, headers=headers, body=body, repeat=False)

    def _held(self, *, progress: bool) -> int:
        """Ask the session how much it has."""
        with self._ask("GET", "", url=self._location) as response:
            self._check_progress(response, progress=progress)
            received = parse_received(response.header("Range"))
            if response.status not in (200, 202, 204) or received is None:
                failure = Failure(trouble=Trouble.BROKEN, answered=True)
                raise _BrokenUpload(self._location, "the upload's session cannot be asked", failure, progress=progress)
            self._follow(response)
            return received


class _Checked:
    """A source's bytes from any offset, hashed once on their way. Going back, or ahead, reads the source again."""

    def __init__(self, pieces: Callable[[], Iterable[bytes]], descriptor: Descriptor, sent: Callable[[int], None]) -> None:
        self._open, self._descriptor, self._tell = pieces, descriptor, sent
        self._restart()
        self._held: tuple[int, bytes] = (-1, b"")

    def _restart(self) -> None:
        self._pieces = iter(self._open())
        self._hash, self._at, self._waiting = hashlib.sha256(), 0, b""

    def close(self) -> None:
        """Close the source."""
        if isinstance(self._pieces, Generator):
            self._pieces.close()

    def _next(self, limit: int) -> bytes:
        """The next piece, at most ``limit`` bytes."""
        while not self._waiting:
            try:
                found = next(self._pieces, None)
            except OSError as error:  # not the network's, as it would seem further out
                raise HostError(
                    "cannot read what is to be pushed", path=str(error.filename or ""), errno=error.errno or 0
                ) from error
            if found is None:
                raise IntegrityError(
                    f"{self._descriptor.digest} has {self._at} bytes instead of {self._descriptor.size}", code="blob-size"
                )
            self._waiting = found
        if len(self._waiting) <= limit:
            piece, self._waiting = self._waiting, b""
        else:
            piece, self._waiting = self._waiting[:limit], self._waiting[limit:]
        self._hash.update(piece)
        self._at += len(piece)
        return piece

    def read(self, offset: int, length: int | None = None) -> Iterator[bytes]:
        """``length`` bytes (default: all) from ``offset``. What ends the blob is given out only after the digest was found to
        be right."""
        if offset < self._at or (offset == 0 and self._at):
            self.close()
            self._restart()
        while self._at < offset:
            self._next(min(PIECE_BYTES, offset - self._at))
        end = self._descriptor.size if length is None else offset + length
        while self._at < end:
            piece = self._next(min(PIECE_BYTES, end - self._at))
            if self._at == self._descriptor.size:
                self.finish()
            yield piece
            self._tell(self._at)

    def chunk(self, offset: int, length: int) -> bytes:
        """The same in one piece; the last one is kept for another try."""
        if self._held[0] != offset or len(self._held[1]) != length:
            self._held = (-1, b"")
            self._held = (offset, b"".join(self.read(offset, length)))
        return self._held[1]

    def finish(self) -> None:
        """Everything was read: is it what was promised?"""
        if self._at != self._descriptor.size:
            for _ in self.read(self._at):
                pass
        actual = "sha256:" + self._hash.hexdigest()
        if actual != self._descriptor.digest:
            raise IntegrityError(
                f"what was to be pushed as {self._descriptor.digest} has the digest {actual}",
                remedy="the files of the layer in the store were changed; remove the image and build it again",
                code="blob-digest",
            )


class _TooLarge(Exception):
    """The registry, or a proxy before it, takes no request of this size."""

    def __init__(self, problem: ContainError) -> None:
        super().__init__(str(problem))
        self.problem = problem


class _BrokenUpload(Exception):
    """This upload came to nothing; a new one may work. ``progress``: it got further than none."""

    def __init__(self, url: str, why: object, failure: Failure | None = None, *, progress: bool = False) -> None:
        super().__init__(str(why))
        trouble = why.trouble if isinstance(why, TransportFailure) else Trouble.BROKEN
        self.url, self.why, self.progress = url, str(why), progress
        self.failure = failure or Failure(trouble=trouble, answered=True)


def explain_refusal(response: HttpResponse, *, host: str, name: str, what: str) -> ContainError:
    """The error for an answer of 400 or more to a push."""
    detail = error_detail(response)
    if response.status in (401, 403):
        return RegistryError(
            f"denied: pushing to {name} is not allowed (status {response.status}{detail})",
            code="registry-denied",
            remedy=f"log in: contain login {host}",
        )
    where = urlsplit(response.url).netloc or host
    return RegistryError(
        f"{where} refused {what} for {name}: status {response.status}{detail}",
        code="registry-refused",
        retryable=response.status in RETRIED_STATUSES,
    )
