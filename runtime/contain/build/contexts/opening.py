"""Opens a context that is no directory here: an archive or a Dockerfile from standard input or an address, or a git repository.

What arrives is put into a scratch directory of the store and is gone when the block ends. An archive is recognised by its content, and
unpacked so that no name or link in it leads out of the directory.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

from contain.annotations import TYPE_CHECKING, BinaryIO
from contain.build.contexts.places import ContextKind, ContextPlace
from contain.build.record.values import RemoteSource
from contain.errors import HostError, IntegrityError, UsageError
from contain.paths import HostPath
from contain.progress import Progress
from contain.values import dataclass, replace

if TYPE_CHECKING:
    from contain.store import Store

_LARGEST_DOCKERFILE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedContext:
    """``directory``: None where there is only ``dockerfile_text``. ``name``: what it is called; empty for a directory here.

    ``source``: which bytes or which commit came from an address.
    """

    directory: HostPath | None
    dockerfile_text: str | None = None
    name: str = ""
    source: RemoteSource | None = None


@contextlib.contextmanager
def open_context(
    place: ContextPlace, *, standard_input: BinaryIO, store: Store, progress: Progress, keep_git: bool = False
) -> Iterator[OpenedContext]:
    """The context of a build. ``keep_git``: with the ``.git`` of a repository, also if its address does not say so.

    Raises `UsageError`, `NotFound`, `RegistryError`, `IntegrityError` for what cannot be had.
    """
    if place.kind is ContextKind.DIRECTORY:
        directory = HostPath(place.value)
        if not directory.is_dir():
            raise UsageError(
                f"the build context {place.value!r} is not a directory", code="context", remedy="name a directory, often '.'"
            )
        yield OpenedContext(directory=directory)
        return
    with store.scratch("context") as scratch:
        if place.kind is ContextKind.GIT:
            directory, commit = _clone(place.value, scratch, progress, keep_git=keep_git)
            yield OpenedContext(directory=directory, name=place.value, source=commit)
            return
        received = scratch / "received"
        source: RemoteSource | None = None
        if place.kind is ContextKind.STANDARD_INPUT:
            with received.open("wb") as out:
                shutil.copyfileobj(standard_input, out, 1 << 20)
        else:
            progress.step(f"[context] {place.value}")
            source = _download(place.value, received, store, progress)
        yield replace(_open_received(received, scratch, name=place.value, progress=progress), source=source)


def _open_received(received: HostPath, scratch: HostPath, *, name: str, progress: Progress) -> OpenedContext:
    from contain.build.copy.archives import is_archive

    with received.open("rb") as stream:
        if is_archive(stream):
            directory = scratch / "files"
            directory.mkdir()
            unpack_context(stream, directory, progress)
            return OpenedContext(directory=directory, name=name)
        data = stream.read(_LARGEST_DOCKERFILE_BYTES + 1)
    if not data.strip():
        raise UsageError(
            f"nothing came from {name if name != '-' else 'standard input'}",
            code="context",
            remedy="send a Dockerfile, or a context as a tar archive",
        )
    if len(data) > _LARGEST_DOCKERFILE_BYTES or b"\0" in data:
        raise UsageError(
            f"what came from {name if name != '-' else 'standard input'} is neither a tar archive nor a Dockerfile",
            code="context",
        )
    try:
        return OpenedContext(directory=None, dockerfile_text=data.decode("utf-8"), name=name)
    except UnicodeDecodeError as error:
        raise UsageError(f"the Dockerfile is not UTF-8: {error}", code="not-utf-8") from error


def unpack_context(stream: BinaryIO, directory: HostPath, progress: Progress) -> None:
    """The archive's files below ``directory``."""
    from contain.build.copy.archives import unpack_archive
    from contain.build.copy.writer import UpperWriter

    try:
        with UpperWriter(directory, lower=lambda _path: None, epoch_seconds=0) as writer:
            unpack_archive(stream, "", writer, epoch_seconds=1 << 40, owner=(0, 0), warn=progress.warn)
    except IntegrityError as error:
        raise UsageError(f"the context's archive is damaged: {error.message}", code="bad-archive") from error
    except OSError as error:
        raise HostError(
            "the context cannot be unpacked", path=str(directory), errno=error.errno or 0, code="build-io"
        ) from error


def _download(address: str, received: HostPath, store: Store, progress: Progress) -> RemoteSource:
    from contain.build.fetch.url import fetch_url
    from contain.build.record.tracing import public_address

    fetched = fetch_url(address, store=store, progress=progress)
    with store.open_blob(fetched.digest) as source, received.open("wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
    return RemoteSource(uri=public_address(address), digest=fetched.digest)


def _clone(address: str, scratch: HostPath, progress: Progress, *, keep_git: bool) -> tuple[HostPath, RemoteSource]:
    from contain.build.fetch.git import fetch_git, resolve_git
    from contain.build.fetch.git_reference import parse_git_reference
    from contain.build.record.tracing import git_source

    reference = parse_git_reference(address)
    assert reference is not None
    revision = resolve_git(reference)
    progress.step(f"[context] {reference.shown} at {revision.commit}")
    return fetch_git(reference, revision, scratch, keep_git_dir=keep_git or None), git_source(reference, revision)
