"""Which stages a build needs and what each stands on: from a parsed Dockerfile to a `BuildGraph`. Pure.

What is only known when a base has been found (its config, its ONBUILD triggers) is not decided here but by `contain.build.fold`,
stage by stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from contain.build.contexts.places import ContextKind, ContextPlace, context_key
from contain.build.fold import declare_argument, refuse_unsupported
from contain.build.run.mounts import source_names
from contain.build.run.special_arguments import SPECIAL
from contain.dockerfile.instructions import Arg, Copy, Dockerfile, Instruction, OnBuild, Stage
from contain.dockerfile.suggestion import suggest
from contain.dockerfile.words import expand
from contain.errors import NotFound, SourceSpan, UsageError
from contain.oci import Platform
from contain.reference import Reference, parse_reference
from contain.registry.platform import parse_platform
from contain.values import dataclass

PROXY_NAMES = frozenset(
    spelling
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for spelling in (name, name.lower())
)
"""Build arguments that need no ARG, and are outside the cache key and the history unless one declares them."""

PREDEFINED = PROXY_NAMES | SPECIAL
_DEFAULT_STAGE = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchBase:
    """``FROM scratch``: nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageBase:
    """``FROM`` an earlier stage."""

    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBase:
    """``FROM`` an image."""

    reference: Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextBase:
    """``FROM`` a named context that holds files: a root file system without a configuration."""

    name: str
    place: ContextPlace


Base = ScratchBase | StageBase | ImageBase | ContextBase


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """One stage that is needed. ``dependencies``: stages that must be built before it, in the order in which they are met."""

    index: int
    stage: Stage
    base: Base
    platform: Platform
    dependencies: tuple[int, ...]

    @property
    def title(self) -> str:
        """The stage's name, or one made of its number."""
        return self.stage.name or f"stage-{self.index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildGraph:
    """``stages``: those that the target needs, each after what it depends on; the target is last. ``skipped``: the others."""

    dockerfile: Dockerfile
    stages: tuple[StagePlan, ...]
    target: int
    platform: Platform
    skipped: tuple[int, ...]
    given: Mapping[str, str]
    global_arguments: Mapping[str, str | None]
    unused_arguments: tuple[str, ...]
    contexts: Mapping[str, ContextPlace]

    def find_context(self, name: str) -> ContextPlace | None:
        """The named context that stands in for a stage or an image of this name."""
        return self.contexts.get(context_key(name))


def resolve_build(
    dockerfile: Dockerfile,
    *,
    target: str | None,
    build_args: Mapping[str, str],
    platform: Platform,
    host_platform: Platform,
    contexts: Mapping[str, ContextPlace] = MappingProxyType({}),
    epoch_seconds: int | None = None,
) -> BuildGraph:
    """What must be built. ``epoch_seconds``: the value of an ``ARG SOURCE_DATE_EPOCH`` that has no other.

    Raises `NotFound` (``stage-not-found``), `UsageError`, and `NotSupported` for what cannot be carried out.
    """
    target_index = find_target(dockerfile, target)
    global_arguments = resolve_global_arguments(
        dockerfile,
        build_args=build_args,
        platform=platform,
        host_platform=host_platform,
        target=target,
        epoch_seconds=epoch_seconds,
    )
    plans: dict[int, StagePlan] = {}
    _visit(dockerfile, target_index, global_arguments, platform, contexts, plans, ())
    return BuildGraph(
        dockerfile=dockerfile,
        stages=tuple(plans.values()),
        target=target_index,
        platform=platform,
        skipped=tuple(index for index in range(len(dockerfile.stages)) if index not in plans),
        given=MappingProxyType(dict(build_args)),
        global_arguments=global_arguments,
        unused_arguments=_unused(dockerfile, build_args, global_arguments),
        contexts=contexts,
    )


def plan_stage(graph: BuildGraph, index: int) -> StagePlan:
    """The plan of any stage: also of one that only a base's ONBUILD trigger turned out to need."""
    for plan in graph.stages:
        if plan.index == index:
            return plan
    plans: dict[int, StagePlan] = {}
    _visit(graph.dockerfile, index, graph.global_arguments, graph.platform, graph.contexts, plans, ())
    return plans[index]


def find_target(dockerfile: Dockerfile, target: str | None) -> int:
    """The stage that ``--target`` names; the last one by default."""
    if target is None:
        return len(dockerfile.stages) - 1
    index = dockerfile.index_of_stage(target)
    if index is None:
        near = suggest(target, dockerfile.stage_names)
        known = ", ".join(dockerfile.stage_names)
        raise NotFound(
            f"{dockerfile.file} has no stage {target!r}",
            code="stage-not-found",
            remedy=f"did you mean {near!r}?" if near else f"its stages are: {known}" if known else "it names no stage",
        )
    return index


def resolve_global_arguments(
    dockerfile: Dockerfile,
    *,
    build_args: Mapping[str, str],
    platform: Platform,
    host_platform: Platform,
    target: str | None,
    epoch_seconds: int | None = None,
) -> Mapping[str, str | None]:
    """The ARGs before the first FROM and those that describe the platforms: what FROM sees and stages can import."""
    values: dict[str, str | None] = {
        "TARGETPLATFORM": str(platform),
        "TARGETOS": platform.os,
        "TARGETARCH": platform.architecture,
        "TARGETVARIANT": platform.variant,
        "BUILDPLATFORM": str(host_platform),
        "BUILDOS": host_platform.os,
        "BUILDARCH": host_platform.architecture,
        "BUILDVARIANT": host_platform.variant,
        "TARGETSTAGE": target or dockerfile.stages[-1].name or _DEFAULT_STAGE,
    }
    if epoch_seconds is not None:
        values["SOURCE_DATE_EPOCH"] = str(epoch_seconds)
    for instruction in dockerfile.global_args:
        for declaration in instruction.declarations:
            default = declaration.default
            if default is not None and declaration.name not in build_args:
                default = expand(default, values.get, escape=dockerfile.escape, span=instruction.span_of(default))
            if declaration.name == "SOURCE_DATE_EPOCH" and epoch_seconds is not None:
                default = None  # the build's time is known by now, perhaps from the caller's variable
            values[declaration.name] = declare_argument(
                declaration.name, default, given=build_args, inherited={}, before=values.get(declaration.name)
            )
    return MappingProxyType(values)


def _visit(
    dockerfile: Dockerfile,
    index: int,
    global_arguments: Mapping[str, str | None],
    platform: Platform,
    contexts: Mapping[str, ContextPlace],
    plans: dict[int, StagePlan],
    waiting: tuple[int, ...],
) -> None:
    """Plan a stage after everything that it needs."""
    if index in plans:
        return
    stage = dockerfile.stages[index]
    if index in waiting:
        names = " -> ".join(dockerfile.stages[each].name or str(each) for each in (*waiting[waiting.index(index) :], index))
        raise UsageError(f"stages need each other in a circle: {names}", code="circular-stages", span=stage.span)
    base = _resolve_base(dockerfile, index, global_arguments, contexts)
    own_platform = _resolve_platform(dockerfile, stage, global_arguments, platform)
    dependencies = [base.index] if isinstance(base, StageBase) else []
    for instruction in stage.instructions:
        refuse_unsupported(instruction)
        for needed in _source_stages(dockerfile, index, instruction, contexts):
            if needed not in dependencies:
                dependencies.append(needed)
    for each in dependencies:
        _visit(dockerfile, each, global_arguments, platform, contexts, plans, (*waiting, index))
    plans[index] = StagePlan(index=index, stage=stage, base=base, platform=own_platform, dependencies=tuple(dependencies))


def _resolve_base(
    dockerfile: Dockerfile, index: int, global_arguments: Mapping[str, str | None], contexts: Mapping[str, ContextPlace]
) -> Base:
    stage = dockerfile.stages[index]
    span = stage.start.span_of(stage.base)
    name = expand(stage.base, global_arguments.get, escape=dockerfile.escape, span=span)
    if not name:
        raise UsageError(
            f"the image name {stage.base!r} is empty when its variables are put in",
            code="blank-base",
            span=span,
            remedy="declare the variable with a default before the first FROM, or pass it with --build-arg",
        )
    if name == "scratch":
        return ScratchBase()
    context = contexts.get(context_key(name))
    if context is not None:
        if context.kind is ContextKind.IMAGE and context.value == "scratch":
            return ScratchBase()
        if context.kind is ContextKind.IMAGE:
            return ImageBase(reference=parse_reference(context.value))
        return ContextBase(name=name, place=context)
    found = dockerfile.index_of_stage(name, before=index, numbers=False)
    if found is not None:
        return StageBase(index=found)
    try:
        return ImageBase(reference=parse_reference(name))
    except UsageError as error:
        error.span = error.span or span
        raise


def _resolve_platform(
    dockerfile: Dockerfile, stage: Stage, global_arguments: Mapping[str, str | None], default: Platform
) -> Platform:
    if stage.platform is None:
        return default
    span = stage.start.span_of("--platform")
    text = expand(stage.platform, global_arguments.get, escape=dockerfile.escape, span=span)
    if not text:
        return default
    try:
        return parse_platform(text)
    except UsageError as error:
        error.span = error.span or span
        raise


def _source_stages(
    dockerfile: Dockerfile, index: int, instruction: Instruction, contexts: Mapping[str, ContextPlace]
) -> Iterator[int]:
    """The stages that an instruction takes files from."""
    names = source_names(instruction)
    if isinstance(instruction, Copy) and instruction.from_stage is not None:
        names = iter((instruction.from_stage,))
    for name in names:
        if context_key(name) not in contexts:
            found = find_source_stage(dockerfile, index, name, span=instruction.span_of(name))
            if found is not None:
                yield found


def find_source_stage(dockerfile: Dockerfile, index: int, name: str, *, span: SourceSpan | None) -> int | None:
    """The stage before stage ``index`` that ``--from=name`` means there, or None if it must be an image.

    Raises `UsageError` (code ``stage-order``) for a later stage, `NotFound` (code ``stage-not-found``) for a number without one.
    """
    found = dockerfile.index_of_stage(name, before=index)
    if found is None and dockerfile.index_of_stage(name) is not None:
        raise UsageError(
            f"cannot copy from stage {name!r}: it needs to be defined before the stage that copies from it",
            code="stage-order",
            span=span,
            remedy="move its FROM up",
        )
    if found is None and name.isascii() and name.isdigit():
        raise NotFound(
            f"--from={name}: the Dockerfile has no such stage",
            code="stage-not-found",
            span=span,
            remedy=f"stages are numbered from 0 to {len(dockerfile.stages) - 1}",
        )
    return found


def _unused(
    dockerfile: Dockerfile, build_args: Mapping[str, str], global_arguments: Mapping[str, str | None]
) -> tuple[str, ...]:
    declared = set(PREDEFINED) | set(global_arguments)
    for stage in dockerfile.stages:
        for instruction in stage.instructions:
            inner = instruction.instruction if isinstance(instruction, OnBuild) else instruction
            if isinstance(inner, Arg):
                declared.update(declaration.name for declaration in inner.declarations)
    return tuple(sorted(set(build_args) - declared))
