# ruff: noqa: D103 - the table says what each function checks
"""The checks whose names and conditions are BuildKit's: one pure function each, from a `Subject` to what it objects to.

Source of the conditions: BuildKit's ``frontend/dockerfile/linter/ruleset.go`` and where it is used: ``instructions/parse.go``,
``dockerfile2llb/convert.go``, ``convert_expose.go``, ``validations.go``. Five differences, each in favour of the reader:

* `no_empty_continuation` points at the empty line, BuildKit at the end of the instruction;
* a comment ``# check=skip=...`` above the instruction concerned waives every rule, in BuildKit most of them;
* `invalid_default_arg_in_from` objects only where a variable has a part in the name;
* `undefined_var` is silent where the base image is not at hand: BuildKit always fetches it;
* a stage's name counts as constant text of the platform in any spelling of the architecture.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from contain.dockerfile.checks.rules import Found, Subject, at
from contain.dockerfile.checks.scopes import (
    SCRATCH,
    InstructionScope,
    StageScope,
    expand_with,
    written_as,
    written_keyword,
)
from contain.dockerfile.instructions import (
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    Pair,
    ShellForm,
    Workdir,
)
from contain.dockerfile.patterns import clean_path
from contain.dockerfile.suggestion import suggest
from contain.errors import UsageError
from contain.reference import parse_reference

RESERVED_STAGE_NAMES = frozenset({"context", SCRATCH})

_NAMES_OF_SECRETS = ("apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token")
_NO_SECRETS = ("public", "file", "version")
_SECRET = re.compile(rf"(?:_|^)(?:{'|'.join(_NAMES_OF_SECRETS)})(?:_|$)", re.IGNORECASE)
_HARMLESS = re.compile(rf"(?:_|^)(?:{'|'.join(_NO_SECRETS)})(?:_|$)", re.IGNORECASE)
_PUBLISHED = re.compile(r"(?P<published>.*):[^:]*|[^:]*")
_ARCHITECTURES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm", "armel": "arm", "i386": "386"}
_SYSTEMS = frozenset({"linux", "windows", "darwin", "freebsd", "macos"})


def _instructions(subject: Subject) -> Iterator[Instruction]:
    """Stages and what is in them: not the ARGs before."""
    for stage in subject.dockerfile.stages:
        yield stage.start
        yield from stage.instructions


def _steps(subject: Subject) -> Iterator[tuple[StageScope, InstructionScope]]:
    for scope in subject.scopes:
        for step in scope.steps:
            yield scope, step


def stage_name_casing(subject: Subject) -> Iterator[Found]:
    for stage in subject.dockerfile.stages:
        written = written_as(stage.start)
        if written is not None and written[1] != written[1].lower():
            yield at(stage.start, f"the stage is called {written[1]!r}: only lower case is told apart")


def from_as_casing(subject: Subject) -> Iterator[Found]:
    for stage in subject.dockerfile.stages:
        keyword, written = written_keyword(stage.start), written_as(stage.start)
        if written is None:
            continue
        wanted = written[0].lower() if keyword.islower() else written[0].upper() if keyword.isupper() else written[0]
        if wanted != written[0]:
            yield at(stage.start, f"{written[0]!r} stands behind {keyword!r}")


def no_empty_continuation(subject: Subject) -> Iterator[Found]:
    for instruction in (*subject.dockerfile.global_args, *_instructions(subject)):
        if instruction.line.empty_line is not None:
            message = f"an empty line stands inside {instruction.keyword}"
            yield at(instruction, message, span=instruction.line.empty_line)


def consistent_instruction_casing(subject: Subject) -> Iterator[Found]:
    keywords = [(instruction, written_keyword(instruction)) for instruction in _instructions(subject)]
    lower = sum(keyword.islower() for _, keyword in keywords)
    upper = sum(keyword.isupper() for _, keyword in keywords)
    for instruction, keyword in keywords:
        wanted = keyword.lower() if lower > upper else keyword.upper()
        if keyword != wanted:
            yield at(instruction, f"{keyword!r} would be {wanted!r} like the most of this file")


def duplicate_stage_name(subject: Subject) -> Iterator[Found]:
    first: dict[str, From] = {}
    for stage in subject.dockerfile.stages:
        if stage.name is not None and first.setdefault(stage.name, stage.start) is not stage.start:
            line = first[stage.name].span.line
            yield at(stage.start, f"another stage is called {stage.name!r} already, in line {line}")


def reserved_stage_name(subject: Subject) -> Iterator[Found]:
    for stage in subject.dockerfile.stages:
        if stage.name in RESERVED_STAGE_NAMES:
            yield at(stage.start, f"{stage.name!r} has a meaning of its own, and cannot be referred to as a stage")


def json_args_recommended(subject: Subject) -> Iterator[Found]:
    for scope in subject.scopes:
        has_shell = scope.has_shell
        for step in scope.steps:
            instruction = step.instruction
            has_shell = has_shell or instruction.keyword == "SHELL"
            if isinstance(instruction, Cmd | Entrypoint) and isinstance(instruction.command, ShellForm) and not has_shell:
                yield at(instruction, f"{instruction.keyword} is text for a shell, which receives the signals in its place")


def maintainer_deprecated(subject: Subject) -> Iterator[Found]:
    for instruction in _instructions(subject):
        if isinstance(instruction, Maintainer):
            yield at(instruction, "MAINTAINER has given way to a label")


def undefined_arg_in_from(subject: Subject) -> Iterator[Found]:
    known = subject.global_values
    for stage in subject.dockerfile.stages:
        for text in (stage.base, stage.platform or ""):
            expansion = expand_with(text, known, escape=subject.dockerfile.escape)
            for name in expansion.unset:
                if name not in known:
                    yield at(stage.start, f"FROM uses ${name}, which no ARG above declares{_did_you_mean(name, known)}")


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = suggest(name, known)
    return f" (did you mean ${near}?)" if near else ""


def workdir_relative_path(subject: Subject) -> Iterator[Found]:
    for scope in subject.scopes:
        if scope.has_workdir:
            continue
        for step in scope.steps:
            if isinstance(step.instruction, Workdir):
                path = "".join(step.words)
                if not path.startswith("/"):
                    yield at(step.instruction, f"{path!r} is relative to a directory that the base image sets")
                break


def undefined_var(subject: Subject) -> Iterator[Found]:
    for scope, step in _steps(subject):
        if scope.base_is_known:
            for name in step.unset:
                near = _did_you_mean(name, step.values)
                yield at(step.instruction, f"${name} is not set here, neither by ENV nor by ARG{near}")


def multiple_instructions_disallowed(subject: Subject) -> Iterator[Found]:
    for scope in subject.scopes:
        latest: dict[str, Instruction] = {}
        for step in scope.steps:
            instruction = step.instruction
            if not isinstance(instruction, Cmd | Entrypoint | Healthcheck):
                continue
            earlier = latest.get(instruction.keyword)
            if earlier is not None:
                message = f"this {instruction.keyword} has no effect: line {instruction.span.line} has another"
                yield Found(message=message, span=earlier.span, instructions=(earlier, instruction))
            latest[instruction.keyword] = instruction


def legacy_key_value_format(subject: Subject) -> Iterator[Found]:
    for instruction in _instructions(subject):
        if isinstance(instruction, Env | Label):
            for pair in instruction.pairs:
                if pair.legacy:
                    yield at(
                        instruction,
                        f"the value of {pair.name} goes on to the end of the line: write {_rewritten(instruction.keyword, pair)}",
                    )


def _rewritten(keyword: str, pair: Pair) -> str:
    value = pair.value if re.fullmatch(r"[\w./:@%+,-]*", pair.value) else '"..."'
    return f"{keyword} {pair.name}={value}"


def invalid_base_image_platform(subject: Subject) -> Iterator[Found]:
    for scope in subject.scopes:
        if scope.facts is None:
            continue
        wanted = subject.surroundings.platform
        if scope.stage.platform:
            expansion = expand_with(scope.stage.platform, subject.global_values, escape=subject.dockerfile.escape)
            if expansion.unset:
                continue  # another rule's business
            wanted = "".join(expansion.words) or wanted
        if _parts(wanted) != _parts(scope.facts.platform):
            yield at(scope.stage.start, f"{scope.base} is here for {scope.facts.platform}, and {wanted} is wanted")


def _parts(platform: str) -> tuple[str, str]:
    """Operating system and architecture of a platform's text, which may leave out one of them; "" is anything."""
    first, _, rest = platform.lower().partition("/")
    if not rest and first not in _SYSTEMS:
        first, rest = "linux", first
    architecture = rest.partition("/")[0]
    return first, _ARCHITECTURES.get(architecture, architecture)


def redundant_target_platform(subject: Subject) -> Iterator[Found]:
    for stage in subject.dockerfile.stages:
        if stage.platform in ("$TARGETPLATFORM", "${TARGETPLATFORM}"):
            yield at(stage.start, f"--platform={stage.platform} is what a build does anyway")


def secrets_used_in_arg_or_env(subject: Subject) -> Iterator[Found]:
    for instruction in _instructions(subject):
        names: tuple[str, ...] = ()
        if isinstance(instruction, Arg):
            names = tuple(declaration.name for declaration in instruction.declarations)
        elif isinstance(instruction, Env):
            names = tuple(pair.name for pair in instruction.pairs)
        for name in names:
            if _SECRET.search(name) and not _HARMLESS.search(name):
                yield at(instruction, f"{instruction.keyword} {name} stays readable in the image for everyone who has it")


def invalid_default_arg_in_from(subject: Subject) -> Iterator[Found]:
    for stage in subject.dockerfile.stages:
        if "$" not in stage.base:
            continue
        name = "".join(expand_with(stage.base, subject.default_values, escape=subject.dockerfile.escape).words)
        try:
            parse_reference(name)
        except UsageError:
            yield at(stage.start, f"without build arguments {stage.base} is {name!r}, which names no image")


def from_platform_flag_const_disallowed(subject: Subject) -> Iterator[Found]:
    for stage in subject.dockerfile.stages:
        platform = stage.platform
        if platform is None or "$" in platform:
            continue
        parts = [part for part in _parts(platform) if part]
        written = [part for part in platform.lower().split("/")[:2] if part]
        if not any(part in (stage.name or "") for part in (*parts, *written)):
            yield at(stage.start, f"--platform is always {platform}, whatever the build is for")


def copy_ignored_file(subject: Subject) -> Iterator[Found]:
    ignore = subject.surroundings.ignore
    patterns = ignore.patterns
    # A directory may be left out and a file below it be kept: with exceptions the text alone does not tell.
    if not patterns or any(pattern.startswith("!") for pattern in patterns):
        return
    whole_context = any(pattern in ("*", "**", "**/*") for pattern in patterns)
    for _, step in _steps(subject):
        instruction = step.instruction
        if not isinstance(instruction, Copy | Add) or (isinstance(instruction, Copy) and instruction.from_stage is not None):
            continue
        for source in step.words:
            if "://" in source or source.startswith("git@"):
                continue
            path = clean_path(source)
            if whole_context if path in (".", "/") else ignore.ignores(path):
                yield at(instruction, f"{path} is left out of the context by .dockerignore")


def invalid_definition_description(subject: Subject) -> Iterator[Found]:
    for instruction in (*subject.dockerfile.global_args, *_instructions(subject)):
        names: tuple[str, ...] = ()
        if isinstance(instruction, Arg):
            names = tuple(declaration.name for declaration in instruction.declarations)
        elif isinstance(instruction, From) and instruction.name is not None:
            names = (instruction.name,)
        comments = instruction.line.comments
        if names and comments and comments[-1].split(" ")[0] not in names:
            wanted = names[0] if len(names) == 1 else "NAME"
            yield at(instruction, f"the comment above does not begin with the name that it describes: # {wanted} ...")


def _ports(subject: Subject) -> Iterator[tuple[Instruction, str]]:
    for _, step in _steps(subject):
        if isinstance(step.instruction, Expose):
            yield from ((step.instruction, word) for word in step.words)


def expose_proto_casing(subject: Subject) -> Iterator[Found]:
    for instruction, port in _ports(subject):
        protocol = port.rpartition(":")[2].partition("/")[2]
        if protocol != protocol.lower():
            yield at(instruction, f"the protocol of {port} is not in lower case")


def expose_invalid_format(subject: Subject) -> Iterator[Found]:
    for instruction, port in _ports(subject):
        match = _PUBLISHED.fullmatch(port)
        if match is not None and match["published"]:
            yield at(instruction, f"{port} names an address or a port of the host, which EXPOSE cannot open")
