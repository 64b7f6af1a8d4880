"""``contain lock``, and what ``contain build`` has of locks and attestations."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path

from contain.annotations import TYPE_CHECKING
from contain.cli.arguments import Parser
from contain.cli.output import TerminalProgress, replace_file
from contain.errors import HostError, NotFound, NotSupported, UsageError
from contain.values import replace

if TYPE_CHECKING:
    from contain.build.lock.compare import Lock
    from contain.build.request import BuildRequest, BuildResult
    from contain.engine import Engine

_NO = ("false", "0", "no")
_YES = ("", "true", "1", "yes")


_NOT_HERE = ("push", "load", "plan", "check", "iidfile", "metadata_file", "sbom", "provenance", "locked", "lock")


def add_lock_arguments(parser: Parser) -> None:
    """Those of `contain build`, as far as they say what is built; and where the lock goes."""
    from contain.cli.build import add_build_arguments

    add_build_arguments(parser)
    parser.make_optional("context", default=".")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="default: contain.lock beside the Dockerfile; '-': standard output"
    )
    parser.hide(*_NOT_HERE)


def lock(options: argparse.Namespace) -> int:
    """Build, from the cache where possible, and write down what the image is made of."""
    from contain.build.contexts.opening import open_context
    from contain.build.contexts.places import ContextKind, parse_context
    from contain.cli.build import parse_request
    from contain.engine import Engine

    for name in _NOT_HERE:
        if getattr(options, name, None) not in (None, False):
            raise UsageError(f"contain lock takes no --{name.replace('_', '-')}", code="unknown-flag")
    place = parse_context(options.context, is_directory=os.path.isdir(options.context))
    if place.kind is ContextKind.STANDARD_INPUT or options.file == "-":
        raise NotSupported("a lock of what comes from standard input is not supported", code="context")
    request = parse_request(options)
    progress = TerminalProgress(quiet=options.quiet)
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(Engine.open(progress=progress))
        stack.callback(progress.close)
        opened = stack.enter_context(
            open_context(place, standard_input=sys.stdin.buffer, store=engine.store, progress=progress)
        )
        request = replace(
            request,
            context=opened.directory,
            context_name=opened.name,
            context_source=opened.source,
            dockerfile_text=opened.dockerfile_text,
        )
        path = Path(options.output) if options.output else _lock_path(request)
        if options.output != "-":
            _refuse_in_context(path, request)
        text = engine.lock(request)
    if options.output == "-":
        sys.stdout.write(text)
        return 0
    _write_aside(path, text)
    if not options.quiet:
        sys.stderr.write(f"{path}: written; build against it with `contain build --locked`\n")
    return 0


def _lock_path(request: BuildRequest) -> Path:
    """Beside the Dockerfile."""
    from contain.build.record.values import LOCK_NAME
    from contain.build.sources import find_dockerfile

    if request.context_name or request.dockerfile_text is not None:
        return Path(LOCK_NAME)
    return find_dockerfile(request).parent / LOCK_NAME


def _refuse_in_context(path: Path, request: BuildRequest) -> None:
    """A lock that is copied into the image would have to hold its own digest."""
    from contain.build.record.values import LOCK_NAME
    from contain.build.sources import read_sources

    if request.context is None or request.context_name or path.name == LOCK_NAME:
        return
    try:
        inside = path.absolute().resolve().relative_to(request.context.resolve())
    except ValueError:
        return
    if not read_sources(request).ignore.ignores(str(inside)):
        raise UsageError(
            f"{path} is inside the build context, so that it could become part of the image whose digest it holds",
            code="lock-in-context",
            remedy=f"add {inside} to .dockerignore, or call it {LOCK_NAME}, which is never part of a context",
        )


def _write_aside(path: Path, text: str) -> None:
    try:
        replace_file(path, text.encode())
    except OSError as error:
        raise HostError(f"cannot write {path}", path=str(path), errno=error.errno or 0, code="output-io") from error


def add_lock_flags(parser: Parser) -> None:
    """What ``contain build`` has of locks."""
    parser.add_switch(
        "--locked", metavar="FILE", help="give the image that contain.lock (or FILE) pins, or fail and say what moved"
    )
    parser.add_argument("--lock", metavar="FILE", help="the same as --locked=FILE")


def find_lock(options: argparse.Namespace, request: BuildRequest) -> Lock | None:
    """The lock that the flags ask for. Raises `NotFound` (``lock-not-found``), `UsageError` (``bad-lock``)."""
    if options.locked in _NO:
        options.locked = None
    if options.locked is None and options.lock is None:
        return None
    from contain.build.lock.file import LARGEST_BYTES, parse_lock

    named = options.lock or ("" if options.locked in _YES else options.locked)
    path = Path(named) if named else _lock_path(request)
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFound(f"there is no lock at {path}", code="lock-not-found", remedy="make one with `contain lock`") from error
    except OSError as error:
        raise HostError(f"cannot read {path}", path=str(path), errno=error.errno or 0, code="lock-not-found") from error
    if len(data) > LARGEST_BYTES:
        raise UsageError(f"{path} cannot be used as a lock: it is larger than {LARGEST_BYTES >> 20} MiB", code="bad-lock")
    return parse_lock(data, path=str(path))


def parse_attestation(flag: str, value: str | None) -> str | None:
    """None: not wanted; empty: to be attached; else a file to write it to, too. Docker's ``mode=...`` is refused by name."""
    if value is None or value in _NO:
        return None
    if value in _YES:
        return ""
    if value.split(",")[0].partition("=")[0] in ("mode", "type", "generator", "builder-id", "disabled") and "=" in value:
        raise NotSupported(
            f"{flag}={value} is not supported: there is one form of it", code="flag-not-supported", remedy=f"write {flag}"
        )
    return value


def refuse_without_build(options: argparse.Namespace) -> None:
    """Raise `UsageError` for bad values, and for flags about an image where none is built."""
    wanted = {
        name: parse_attestation(name, value) for name, value in (("--sbom", options.sbom), ("--provenance", options.provenance))
    }
    wanted |= {"--locked": options.locked, "--lock": options.lock}
    given = [name for name, value in wanted.items() if value is not None]
    if given and (options.plan or options.check):
        raise UsageError(
            f"{given[0]} is about the image, and --plan and --check build none",
            code="bad-arguments",
            remedy="leave one of them out",
        )
    if options.lock is not None and options.locked not in (None, *_YES):
        raise UsageError("--lock and --locked name two files", code="bad-arguments", remedy="leave one of them out")


def attest(engine: Engine, result: BuildResult, request: BuildRequest, options: argparse.Namespace) -> None:
    """Attach what ``--provenance`` and ``--sbom`` ask for, and write it where a file was named."""
    from contain.cli.attestation import write_document

    provenance = parse_attestation("--provenance", options.provenance)
    if provenance is not None:
        document = engine.attach_provenance(result, request)
        if provenance:
            write_document(document, provenance)
    bill = parse_attestation("--sbom", options.sbom)
    if bill is not None:
        document = engine.sbom(result.digest, attach=True)
        if bill:
            write_document(document, bill)
