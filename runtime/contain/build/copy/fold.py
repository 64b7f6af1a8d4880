"""What a COPY or ADD comes to, once the variables are known: a `CopyStep`. Pure."""

from __future__ import annotations

import re

from contain.build.fetch.git_reference import check_checksum, hide_password, parse_git_reference
from contain.build.fetch.url import check_digest, is_url
from contain.build.state import StageState, absolute_path, expand_word
from contain.build.steps import CopyStep, Step
from contain.dockerfile.instructions import Add, Copy
from contain.dockerfile.literals import parse_chmod
from contain.dockerfile.patterns import IgnorePatterns
from contain.dockerfile.words import expand_heredoc
from contain.errors import UsageError


def refuse_copy(instruction: Copy | Add) -> None:
    """Raise `NotSupported` for what COPY and ADD may say and is not carried out: nothing, now."""


def is_remote(source: str) -> bool:
    """Whether a source of ADD is a URL or a git repository. Raises `UsageError` (code ``bad-git-reference``)."""
    reference = parse_git_reference(source)
    return is_url(source) or (reference is not None and not reference.like_a_path)


def fold_copy(state: StageState, instruction: Copy | Add) -> tuple[StageState, Step]:
    """Sources, documents and destination with their variables, and how history tells them."""
    sources = tuple(expand_word(state, instruction, source) for source in instruction.sources)
    destination = absolute_path(state.working_directory, expand_word(state, instruction, instruction.destination))
    if len(sources) + len(instruction.heredocs) > 1 and not destination.endswith("/"):
        raise UsageError(
            f"{instruction.keyword} with more than one source needs a directory as destination",
            code="copy-needs-directory",
            span=instruction.span_of(instruction.destination),
            remedy=f"end it with a slash: {instruction.destination}/",
        )
    for source, written in zip(sources, instruction.sources, strict=True):
        _check_source(instruction, source, written)
    checksum = _checksum(state, instruction, sources)
    chown = None if instruction.chown is None else expand_word(state, instruction, instruction.chown)
    chmod = None if instruction.chmod is None else expand_word(state, instruction, instruction.chmod)
    exclude = tuple(expand_word(state, instruction, pattern) for pattern in instruction.exclude)
    try:
        IgnorePatterns.of(exclude)
    except UsageError as error:
        error.span = error.span or instruction.span_of("--exclude")
        raise
    documents = tuple(
        (each.name, expand_heredoc(each.body, state.lookup, span=instruction.span) if each.expand else each.body)
        for each in instruction.heredocs
    )
    parents = isinstance(instruction, Copy) and instruction.parents
    from_stage = instruction.from_stage if isinstance(instruction, Copy) else None
    flags = [f"--{name}={value}" for name, value in (("from", from_stage), ("chown", chown), ("chmod", chmod)) if value]
    flags += [f"--exclude={pattern}" for pattern in exclude]
    flags += ["--parents"] * parents + ["--link"] * instruction.link
    shown = [hide_password(source) if isinstance(instruction, Add) else source for source in sources]
    words = [*flags, *shown, *(f"<<{name}" for name, _ in documents), destination]
    add = instruction if isinstance(instruction, Add) else None
    return state, CopyStep(
        instruction=instruction,
        created_by=f"{instruction.keyword} {' '.join(words)}",
        sources=sources,
        documents=documents,
        destination=destination,
        source_name=from_stage,
        chown=chown,
        chmod=chmod,
        mode=None if chmod is None else parse_chmod(chmod, span=instruction.span_of("--chmod")),
        unpack=add is not None and add.unpack is not False,
        unpack_remote=add is not None and add.unpack is True,
        add=add is not None,
        exclude=exclude,
        parents=parents,
        link=instruction.link,
        checksum=checksum,
        keep_git_dir=None if add is None else add.keep_git_dir,
    )


def _check_source(instruction: Copy | Add, source: str, written: str) -> None:
    """Raise `UsageError` (``copy-from-elsewhere``, ``bad-git-reference``) for an address that means nothing here."""
    span = instruction.span_of(written)
    reference = parse_git_reference(source, span=span)
    is_git = reference is not None and not reference.like_a_path
    if isinstance(instruction, Add) and re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", source) and not (is_git or is_url(source)):
        raise UsageError(
            f"ADD knows no address like {hide_password(source)}",
            code="bad-url",
            span=span,
            remedy="it may be http://, https://, or a git repository (https://host/name.git, git://, ssh://, user@host:path)",
        )
    if isinstance(instruction, Copy) and (is_git or is_url(source)):
        what = "a git repository" if is_git else "a URL"
        raise UsageError(
            f"source can't be {what} for COPY: {hide_password(source)}",
            code="copy-from-elsewhere",
            span=span,
            remedy="write ADD",
        )


def _checksum(state: StageState, instruction: Copy | Add, sources: tuple[str, ...]) -> str:
    """``--checksum`` as one source's digest or commit. Raises `UsageError` (code ``bad-checksum``)."""
    if not isinstance(instruction, Add) or not instruction.checksum:
        return ""
    span = instruction.span_of("--checksum")
    text = expand_word(state, instruction, instruction.checksum)
    if len(sources) + len(instruction.heredocs) != 1:
        raise UsageError("checksum can't be specified for multiple sources", code="bad-checksum", span=span)
    if not sources or not is_remote(sources[0]):
        raise UsageError("checksum requires HTTP(S) or Git sources", code="bad-checksum", span=span)
    if parse_git_reference(sources[0]) is not None:
        check_checksum(text, span=span)
        return text
    return check_digest(text, span=span)
