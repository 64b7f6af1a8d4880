"""What the instructions of each stage see: variables, the base, the settings made before. Pure.

This follows a stage as a build does, as far as the text goes, and goes on where a build would stop: an expansion that fails
counts as empty, because the build itself reports it. Variables of a base image that is not at hand are unknown, which
`StageScope.base_is_known` says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from contain.dockerfile.checks.rules import BaseFacts, Surroundings
from contain.dockerfile.instructions import (
    Add,
    Arg,
    Copy,
    Dockerfile,
    Env,
    Expose,
    From,
    Instruction,
    Label,
    Run,
    Stage,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from contain.dockerfile.words import expand, expand_heredoc, split_words
from contain.errors import UsageError
from contain.values import dataclass

SCRATCH = "scratch"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NOT_IN_THE_ENVIRONMENT = frozenset({"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """Words with their variables replaced, and the names that had no value."""

    words: tuple[str, ...]
    unset: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionScope:
    """One instruction, the values of variables before it, and its own words with them."""

    instruction: Instruction
    values: Mapping[str, str]
    declared: frozenset[str]
    """ARGs up to here, with a value or without."""
    unset: tuple[str, ...]
    """Names that the instruction uses, and that are neither set nor declared."""
    words: tuple[str, ...]
    """What the rules need expanded: the sources of COPY and ADD, the ports of EXPOSE, the path of WORKDIR."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageScope:
    """One stage. ``base``: the expanded name. ``parent``: the stage that it names, if it names one."""

    index: int
    stage: Stage
    base: str
    parent: int | None
    facts: BaseFacts | None
    base_is_known: bool
    """Whether all variables of what it stands on are known: scratch, a known image, or a stage for which that is so."""
    has_shell: bool
    """Whether a SHELL was set by what it stands on."""
    has_workdir: bool
    """Whether a WORKDIR of this file was carried out in what it stands on."""
    steps: tuple[InstructionScope, ...]
    values: Mapping[str, str]
    """Of the variables at the end."""
    declared: frozenset[str]


def expand_with(text: str, values: Mapping[str, str | None], *, escape: str, split: bool = False) -> Expansion:
    """``text`` with its variables replaced; what cannot be expanded is empty. Names in ``unset`` stand once each, in order."""
    unset: dict[str, None] = {}

    def lookup(name: str) -> str | None:
        value = values.get(name)
        if value is None:
            unset[name] = None
        return value

    try:
        words = split_words(text, lookup, escape=escape) if split else (expand(text, lookup, escape=escape),)
    except UsageError:
        words = ()
    return Expansion(words=words, unset=tuple(unset))


def predefined_values(surroundings: Surroundings) -> dict[str, str | None]:
    """The arguments that describe the platforms; FROM sees them, and a stage that declares them."""
    values: dict[str, str | None] = {}
    for prefix, platform in (("BUILD", surroundings.build_platform), ("TARGET", surroundings.platform)):
        system, architecture, variant = (*platform.split("/"), "", "")[:3]
        values |= {f"{prefix}PLATFORM": platform, f"{prefix}OS": system, f"{prefix}OSVERSION": ""}
        values |= {f"{prefix}ARCH": architecture, f"{prefix}VARIANT": variant}
    values["TARGETSTAGE"] = surroundings.target or "default"
    return {name: surroundings.build_args.get(name, value) for name, value in values.items()}


def resolve_globals(
    dockerfile: Dockerfile, surroundings: Surroundings, *, build_args: Mapping[str, str]
) -> Mapping[str, str | None]:
    """The ARGs before the first FROM over the predefined ones. None: declared, and without a value."""
    values = predefined_values(surroundings)
    for instruction in dockerfile.global_args:
        for declaration in instruction.declarations:
            if declaration.name in build_args:
                values[declaration.name] = build_args[declaration.name]
            elif declaration.default is not None:
                expansion = expand_with(declaration.default, values, escape=dockerfile.escape)
                values[declaration.name] = "".join(expansion.words)
            else:
                values.setdefault(declaration.name, None)
    return MappingProxyType(values)


def follow_stages(
    dockerfile: Dockerfile, surroundings: Surroundings, global_values: Mapping[str, str | None]
) -> tuple[StageScope, ...]:
    """Every stage, also those that no target needs."""
    scopes: list[StageScope] = []
    for index, stage in enumerate(dockerfile.stages):
        base = "".join(expand_with(stage.base, global_values, escape=dockerfile.escape).words)
        parent = dockerfile.index_of_stage(base, before=index, numbers=False) if base and base != SCRATCH else None
        below = None if parent is None else scopes[parent]
        facts = surroundings.find_base(base) if below is None and base not in ("", SCRATCH) else None
        values: dict[str, str | None] = {"PATH": DEFAULT_PATH}
        declared: set[str] = set()
        if below is not None:
            values |= below.values
            declared |= below.declared
        elif facts is not None:
            values |= facts.environment
        steps = tuple(_follow(dockerfile, surroundings, global_values, stage, values, declared))
        scopes.append(
            StageScope(
                index=index,
                stage=stage,
                base=base,
                parent=parent,
                facts=facts,
                base_is_known=below.base_is_known if below is not None else facts is not None or base in ("", SCRATCH),
                has_shell=_sets_shell(below) if below is not None else facts is not None and bool(facts.shell),
                has_workdir=below is not None and _sets_workdir(below),
                steps=steps,
                values=MappingProxyType({name: value for name, value in values.items() if value is not None}),
                declared=frozenset(declared),
            )
        )
    return tuple(scopes)


def _sets_shell(scope: StageScope) -> bool:
    return scope.has_shell or any(step.instruction.keyword == "SHELL" for step in scope.steps)


def _sets_workdir(scope: StageScope) -> bool:
    return scope.has_workdir or any(isinstance(step.instruction, Workdir) for step in scope.steps)


def _follow(
    dockerfile: Dockerfile,
    surroundings: Surroundings,
    global_values: Mapping[str, str | None],
    stage: Stage,
    values: dict[str, str | None],
    declared: set[str],
) -> Iterator[InstructionScope]:
    for instruction in stage.instructions:
        before = MappingProxyType({name: value for name, value in values.items() if value is not None})
        unset: dict[str, None] = {}
        words: list[str] = []
        if isinstance(instruction, Arg):
            for each in instruction.declarations:
                name = each.name
                value = surroundings.build_args.get(name)
                if value is None and each.default is not None:
                    expansion = expand_with(each.default, values, escape=dockerfile.escape)
                    value = "".join(expansion.words)
                    unset |= dict.fromkeys(missing for missing in expansion.unset if missing not in declared)
                elif value is None:
                    value = global_values.get(name)
                if value is not None and name not in _NOT_IN_THE_ENVIRONMENT:
                    values[name] = value
                declared.add(name)
        else:
            for text, kept, split in _texts(instruction):
                expansion = expand_with(text, before, escape=dockerfile.escape, split=split)
                unset |= dict.fromkeys(expansion.unset)
                words += expansion.words if kept else ()
            unset |= _unset_in_heredocs(instruction, before)
        yield InstructionScope(
            instruction=instruction,
            values=before,
            declared=frozenset(declared),
            unset=tuple(name for name in unset if name not in declared),
            words=tuple(words),
        )
        if isinstance(instruction, Env):
            for pair in instruction.pairs:
                key, value = (
                    "".join(expand_with(text, before, escape=dockerfile.escape).words) for text in (pair.name, pair.value)
                )
                values[key] = value


def _texts(instruction: Instruction) -> Iterator[tuple[str, bool, bool]]:
    """What is expanded in an instruction: the text, whether a rule needs it, whether blanks in it make several words."""
    match instruction:
        case Env() | Label():
            for pair in instruction.pairs:
                yield pair.name, False, False
                yield pair.value, False, False
        case Copy() | Add():
            yield from ((text, True, False) for text in instruction.sources)
            checksum = instruction.checksum if isinstance(instruction, Add) else None
            yield from (
                (text, False, False) for text in (instruction.destination, instruction.chown, instruction.chmod) if text
            )
            if checksum:
                yield checksum, False, False
        case Expose():
            yield from ((text, True, True) for text in instruction.ports)
        case Workdir():
            yield instruction.path, True, False
        case User():
            yield instruction.user, False, False
        case StopSignal():
            yield instruction.signal, False, False
        case Volume():
            yield from ((text, False, False) for text in instruction.paths)
        case Run():
            for mount in instruction.mounts:
                yield from ((value, False, False) for key, value in mount.fields if value and key != "from")


def _unset_in_heredocs(instruction: Instruction, values: Mapping[str, str]) -> dict[str, None]:
    unset: dict[str, None] = {}
    if isinstance(instruction, Copy | Add):
        for heredoc in instruction.heredocs:
            if not heredoc.expand:
                continue

            def lookup(name: str) -> str | None:
                if name not in values:
                    unset[name] = None
                return values.get(name)

            try:
                expand_heredoc(heredoc.body, lookup)
            except UsageError:
                continue
    return unset


def written_keyword(instruction: Instruction) -> str:
    """The keyword in its own upper and lower case."""
    return instruction.text[: len(instruction.keyword)]


def written_as(start: From) -> tuple[str, str] | None:
    """The word AS and the stage's name, in their own upper and lower case."""
    if start.name is None:
        return None
    words = start.text.split()
    return words[-2], words[-1]
