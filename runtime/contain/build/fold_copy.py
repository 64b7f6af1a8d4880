"""What a COPY or ADD comes to, once the variables are known: a `CopyStep`. Pure."""

from __future__ import annotations

from contain.build.state import StageState, absolute_path, expand_word, not_supported
from contain.build.steps import CopyStep, Step
from contain.dockerfile.instructions import Add, Copy
from contain.dockerfile.literals import parse_chmod
from contain.dockerfile.words import expand_heredoc
from contain.errors import NotSupported, UsageError


def refuse_copy(instruction: Copy | Add) -> None:
    """Raise `NotSupported` for what COPY and ADD may say and is not carried out."""
    if instruction.exclude:
        raise not_supported(instruction, "--exclude", "--exclude", "name what is to be copied, or use .dockerignore")
    if isinstance(instruction, Copy) and instruction.parents:
        raise not_supported(instruction, "--parents", "--parents", "copy the directories one by one")
    if isinstance(instruction, Add):
        if instruction.checksum is not None:
            raise not_supported(instruction, "--checksum", "--checksum")
        if instruction.keep_git_dir is not None:
            raise not_supported(instruction, "--keep-git-dir", "--keep-git-dir")
        if instruction.unpack is not None:
            raise not_supported(instruction, "--unpack", "--unpack")
        for source in instruction.sources:
            _refuse_remote(instruction, source, source)


def _refuse_remote(instruction: Add, source: str, part: str) -> None:
    remote = source.startswith(("http://", "https://", "ftp://", "git://", "ssh://", "git@"))
    if remote:
        raise NotSupported(
            f"ADD of a URL or a git repository is not supported yet: {source}",
            code="not-supported",
            span=instruction.span_of(part),
            remedy="fetch it in a RUN, or before the build",
        )


def fold_copy(state: StageState, instruction: Copy | Add) -> tuple[StageState, Step]:
    """Sources, documents and destination with their variables, and how history tells them."""
    sources = tuple(expand_word(state, instruction, source) for source in instruction.sources)
    if isinstance(instruction, Add):
        for source, written in zip(sources, instruction.sources, strict=True):
            _refuse_remote(instruction, source, written)
    destination = absolute_path(state.working_directory, expand_word(state, instruction, instruction.destination))
    if len(sources) + len(instruction.heredocs) > 1 and not destination.endswith("/"):
        raise UsageError(
            f"{instruction.keyword} with more than one source needs a directory as destination",
            code="copy-needs-directory",
            span=instruction.span_of(instruction.destination),
            remedy=f"end it with a slash: {instruction.destination}/",
        )
    chown = None if instruction.chown is None else expand_word(state, instruction, instruction.chown)
    chmod = None if instruction.chmod is None else expand_word(state, instruction, instruction.chmod)
    documents = tuple(
        (each.name, expand_heredoc(each.body, state.lookup, span=instruction.span) if each.expand else each.body)
        for each in instruction.heredocs
    )
    flags = [
        f"--{name}={value}"
        for name, value in (
            ("from", instruction.from_stage if isinstance(instruction, Copy) else None),
            ("chown", chown),
            ("chmod", chmod),
        )
        if value
    ]
    words = [*flags, *sources, *(f"<<{name}" for name, _ in documents), destination]
    return state, CopyStep(
        instruction=instruction,
        created_by=f"{instruction.keyword} {' '.join(words)}",
        sources=sources,
        documents=documents,
        destination=destination,
        source_name=instruction.from_stage if isinstance(instruction, Copy) else None,
        chown=chown,
        chmod=chmod,
        mode=None if chmod is None else parse_chmod(chmod, span=instruction.span_of("--chmod")),
        unpack=isinstance(instruction, Add),
    )
