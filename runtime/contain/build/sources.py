"""Reads what a build starts from: the Dockerfile, its ignore file, and the machine's part (`BuildHost`). Decides where they are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType

from contain.build.graph import PROXY_NAMES, BuildGraph, resolve_build, resolve_global_arguments
from contain.build.request import DEFAULT_EPOCH_SECONDS, BuildHost, BuildRequest
from contain.build.run.perform import find_ca_bundle
from contain.build.trees.context import ContextTree
from contain.dockerfile.instructions import Dockerfile
from contain.dockerfile.parse import parse_dockerfile
from contain.dockerfile.patterns import IgnorePatterns, parse_dockerignore
from contain.errors import HostError, NotFound, SourceSpan, UsageError
from contain.oci import digest_of
from contain.paths import HostPath
from contain.registry.platform import host_platform
from contain.values import dataclass, replace

EPOCH_NAME = "SOURCE_DATE_EPOCH"
_LARGEST_FILE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSources:
    """A parsed Dockerfile, what the context leaves out, and the name that its cached steps are filed under.

    ``name``: its path inside the context, or its file name; the same on every machine. ``digest``: of its text. ``texts``: the files
    that were read, None for one that is not there.
    """

    dockerfile: Dockerfile
    ignore: IgnorePatterns
    position: str
    name: str
    digest: str
    texts: Mapping[HostPath, bytes | None]


def resolve_request(dockerfile: Dockerfile, request: BuildRequest, host: BuildHost) -> BuildGraph:
    """What a request needs of a Dockerfile on this machine: `contain.build.graph.resolve_build`."""
    return resolve_build(
        dockerfile,
        target=request.target,
        build_args=request.build_args,
        platform=request.platform or host.platform,
        host_platform=host.platform,
        contexts=request.contexts,
        epoch_seconds=host.epoch_seconds,
    )


def read_sources(request: BuildRequest) -> BuildSources:
    """Raises `NotFound` (``dockerfile-not-found``, ``context-not-found``), `UsageError` for what is wrong in the files."""
    if request.context is not None and not request.context.is_dir():
        raise NotFound(f"the build context {str(request.context)!r} is not a directory", code="context-not-found")
    text = read_dockerfile_text(request)
    texts = {} if request.context_name else read_ignore_files(text.path, request.context)
    return BuildSources(
        dockerfile=parse_dockerfile(text.text, file=text.name),
        ignore=parse_ignore_files(texts),
        texts=MappingProxyType(texts if text.path is None else {**texts, text.path: text.text.encode()}),
        position=text.position,
        name=_portable_name(text, request.context),
        digest=digest_of(text.text.encode()),
    )


def _portable_name(text: DockerfileText, context: HostPath | None) -> str:
    if text.path is None:
        return text.name
    try:
        return str(text.path.resolve().relative_to((context or text.path.parent).resolve()))
    except ValueError:
        return text.path.name


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerfileText:
    """A Dockerfile before it is parsed: its text, its name in messages, where it lies if it is a file of the user's."""

    text: str
    name: str
    position: str
    path: HostPath | None = None


def read_dockerfile_text(request: BuildRequest) -> DockerfileText:
    """The text that was given, or that of the file, inside the context where somebody else made that."""
    if request.dockerfile_text is not None:
        name = str(request.dockerfile or "Dockerfile")
        position = f"{request.context_name or request.context or ''}|{name}"
        return DockerfileText(text=request.dockerfile_text, name=name, position=position)
    if request.context_name and request.context is not None:
        name = str(request.dockerfile or "Dockerfile")
        text = _read_text(_find_inside(request.context, name, request.context_name))
        return DockerfileText(text=text, name=name, position=f"{request.context_name}|{name}")
    path = find_dockerfile(request)
    return DockerfileText(text=_read_text(path), name=_shown(path), position=str(path.absolute()), path=path)


def _find_inside(context: HostPath, name: str, context_name: str) -> HostPath:
    """A Dockerfile of a context that somebody else made: links in it lead nowhere else."""
    from contain.build.trees.tree import Kind, resolve_path

    with ContextTree(context) as tree:
        for candidate in dict.fromkeys((name, "dockerfile" if name == "Dockerfile" else name)):
            path = resolve_path(tree.lookup, candidate)
            node = tree.lookup(path)
            if node is not None and node.kind is Kind.FILE:
                return context / path
    raise NotFound(
        f"there is no Dockerfile {name!r} in the context from {context_name if context_name != '-' else 'standard input'}",
        code="dockerfile-not-found",
        remedy="name it with -f PATH, a path inside that context",
    )


def find_dockerfile(request: BuildRequest) -> HostPath:
    """The path given, else ``Dockerfile``, else ``dockerfile`` in the context."""
    if request.dockerfile is not None:
        if request.dockerfile.is_file():
            return request.dockerfile
        raise _no_dockerfile_at(request.dockerfile, request.context)
    if request.context is None:
        raise UsageError("a build needs a context or the text of a Dockerfile", code="nothing-to-build")
    for name in ("Dockerfile", "dockerfile"):
        if (request.context / name).is_file():
            return request.context / name
    raise NotFound(
        f"there is no Dockerfile in {str(request.context)!r}", code="dockerfile-not-found", remedy="name it with -f PATH"
    )


def _no_dockerfile_at(path: HostPath, context: HostPath | None) -> NotFound:
    remedy = ""
    if context is not None and (context / path).is_file():
        remedy = f"-f is seen from the present directory, not from the context: -f {context / path}"
    if path.is_dir():
        return NotFound(f"{str(path)!r} is a directory, not a Dockerfile", code="dockerfile-not-found", remedy=remedy)
    if path.exists():
        return NotFound(f"{str(path)!r} is not a file", code="dockerfile-not-found", remedy=remedy)
    return NotFound(f"there is no Dockerfile at {str(path)!r}", code="dockerfile-not-found", remedy=remedy)


def _shown(path: HostPath) -> str:
    """A path as a reader here would write it."""
    try:
        return str(path.absolute().relative_to(HostPath.cwd()))
    except (ValueError, FileNotFoundError):
        return str(path)


def read_ignore_files(dockerfile: HostPath | None, context: HostPath | None) -> dict[HostPath, bytes | None]:
    """Where a context's ignore file may be, the first that exists counts: ``NAME.dockerignore`` beside the Dockerfile, and the
    context's own ``.dockerignore``."""
    places = [] if dockerfile is None else [dockerfile.with_name(dockerfile.name + ".dockerignore")]
    if context is not None:
        places.append(context / ".dockerignore")
    return {place: _read_text(place).encode() if place.is_file() else None for place in places}


def parse_ignore_files(texts: Mapping[HostPath, bytes | None]) -> IgnorePatterns:
    """What the context leaves out."""
    for place, text in texts.items():
        if text is not None:
            return parse_dockerignore(text.decode(), file=_shown(place))
    return IgnorePatterns()


def _read_text(path: HostPath) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise HostError(f"cannot read {path}", call="open", path=str(path), errno=error.errno or 0) from error
    if len(data) > _LARGEST_FILE_BYTES:
        raise UsageError(f"{_shown(path)} is larger than {_LARGEST_FILE_BYTES >> 20} MiB", code="file-too-large")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{_shown(path)} is not UTF-8: {error}", code="not-utf-8") from error


def read_build_host(environ: Mapping[str, str] | None = None, *, build_args: Mapping[str, str] | None = None) -> BuildHost:
    """This machine's part in a build. ``SOURCE_DATE_EPOCH``: the build argument, else the variable, else the default.

    Raises `UsageError` (code ``bad-epoch``).
    """
    environ = os.environ if environ is None else environ
    asked = (build_args or {}).get(EPOCH_NAME) or environ.get(EPOCH_NAME)
    return BuildHost(
        platform=host_platform(),
        proxies=MappingProxyType({name: environ[name] for name in sorted(PROXY_NAMES) if environ.get(name)}),
        ca_bundle=find_ca_bundle(environ),
        epoch_seconds=_parse_epoch(asked) if asked else DEFAULT_EPOCH_SECONDS,
        epoch_asked=bool(asked),
    )


def with_dockerfile_time(host: BuildHost, dockerfile: Dockerfile, request: BuildRequest) -> BuildHost:
    """The machine's part with the time of ``ARG SOURCE_DATE_EPOCH=…`` before the first FROM, unless the caller asked for one.

    Raises `UsageError` (code ``bad-epoch``).
    """
    found = [each for each in dockerfile.global_args for declared in each.declarations if declared.name == EPOCH_NAME]
    if host.epoch_asked or not found:
        return host
    values = resolve_global_arguments(
        dockerfile,
        build_args=request.build_args,
        platform=request.platform or host.platform,
        host_platform=host.platform,
        target=request.target,
    )
    text = values.get(EPOCH_NAME)
    return replace(host, epoch_seconds=_parse_epoch(text, found[-1].span)) if text else host


def _parse_epoch(text: str, span: SourceSpan | None = None) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise UsageError(
            f"{EPOCH_NAME}={text!r} is not a time",
            code="bad-epoch",
            remedy="give the seconds since 1970, a whole number",
            span=span,
        )
    return int(text)
