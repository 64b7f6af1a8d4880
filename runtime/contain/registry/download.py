"""One blob out of a registry: what is missing of it, resumed where a connection breaks. Verifies sizes; whoever takes the bytes
verifies the digest.

Source: OCI distribution-spec 1.1 (blobs, ``Range``), RFC 9110 section 14.
"""

from __future__ import annotations

import threading

from contain.annotations import Protocol
from contain.errors import ContainError, IntegrityError, NotFound, RegistryError
from contain.oci import Descriptor
from contain.progress import Progress
from contain.reference import Reference
from contain.registry.client import ApiRequest, RegistryClient, explain_status
from contain.registry.configuration import Endpoint
from contain.registry.policy import Failure, Trouble, plan_resume
from contain.registry.session import check_stop
from contain.registry.transport import HttpResponse, TransportFailure

PIECE_BYTES = 256 << 10
MOST_RESUMES = 50  # connections that may break in the middle of one blob, each after some progress


class Sink(Protocol):
    """Where a blob goes."""

    @property
    def offset(self) -> int:
        """How much of it is there already."""

    def write(self, data: bytes) -> None:
        """Take the next piece."""


def download_blob(
    client: RegistryClient,
    endpoint: Endpoint,
    reference: Reference,
    blob: Descriptor,
    sink: Sink,
    *,
    progress: Progress,
    stop: threading.Event,
    name: str,
    label: str,
) -> None:
    """Write into ``sink`` what it has not yet of the blob. ``name``: in messages; ``label``: in the progress.

    Raises `RegistryError` (``registry-incomplete`` if the blob is not there, and those of `RegistryClient.open`),
    `IntegrityError` (``blob-size-mismatch``).
    """
    offset = sink.offset
    attempt = resumes = 0
    ranged = True
    while offset < blob.size:
        before, why = offset, ""
        headers = {"Range": f"bytes={offset}-"} if offset and ranged else {}
        request = ApiRequest(method="GET", repository=reference.path, path=f"blobs/{blob.digest}", headers=headers)
        with client.open(endpoint, request) as response:
            if response.status == 416 and ranged:
                ranged = False
                continue
            skip = _skip(response, reference, blob, offset=offset, name=name)
            try:
                while piece := response.read(PIECE_BYTES):
                    check_stop(stop)
                    skip, piece = max(0, skip - len(piece)), piece[skip:]
                    if offset + len(piece) > blob.size:
                        raise IntegrityError(f"{name}: more than its {blob.size} bytes", code="blob-size-mismatch")
                    sink.write(piece)
                    offset += len(piece)
                    progress.amount(label, offset, blob.size)
            except TransportFailure as error:
                why = str(error)
        if offset == blob.size:
            break
        # Broken off, or ended too early: go on where it stopped. Progress earns new patience, within a limit.
        resumes += 1
        attempt = 1 if offset > before and resumes < MOST_RESUMES else attempt + 1
        client.pause_before_retry(
            response.url,
            Failure(trouble=Trouble.BROKEN, answered=True),
            why=why or f"{name} ended after {offset} of {blob.size} bytes",
            attempt=attempt,
        )


def _skip(response: HttpResponse, reference: Reference, blob: Descriptor, *, offset: int, name: str) -> int:
    """How much of the body is here already. Raises for an answer that holds no part of the blob."""
    if response.status not in (200, 206):
        error = explain_status(response, name=f"{name} of {reference.familiar}")
        raise incomplete(error) if isinstance(error, NotFound) else error
    return plan_resume(
        offset=offset,
        size=blob.size,
        status=response.status,
        content_range=response.header("Content-Range"),
        content_length=response.header("Content-Length"),
        label=name,
    )


def incomplete(error: ContainError) -> RegistryError:
    """A manifest without its blobs is the registry's fault, not an image that is not there."""
    return RegistryError(error.message, code="registry-incomplete")
