"""What a build would do, as text: `contain build --plan`. Executes nothing and reaches no network.

Bases that are in the local store are looked at; others are assumed to set nothing, and the text says so. A step's key is shown as
long as everything before it is known: in the cache, or without files.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from contain.annotations import TYPE_CHECKING
from contain.build.cache.keys import base_chain, key_of
from contain.build.copy.fold import is_remote
from contain.build.fetch.git_reference import hide_password
from contain.build.fold import begin_stage, fold
from contain.build.graph import BuildGraph, ContextBase, ImageBase, ScratchBase, StageBase, StagePlan
from contain.build.host_root import HOST_LABEL, HOST_NAME, host_config
from contain.build.request import BuildHost, BuildRequest
from contain.build.run.key import ingredients_of_run, settle_network
from contain.build.run.permissions import refuse_forbidden_runs
from contain.build.run.special_arguments import arguments_without_effect
from contain.build.sources import read_build_host, read_sources, resolve_request, with_dockerfile_time
from contain.build.steps import CopyStep, MetadataStep, RunStep, Step, WorkdirStep
from contain.dockerfile.mounts import MountKind
from contain.dockerfile.parse import parse_trigger
from contain.oci import ImageConfig
from contain.reference import Reference
from contain.registry.platform import runs_on
from contain.values import dataclass

if TYPE_CHECKING:
    from contain.build.state import StageState
    from contain.store import Store

_KEY_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What a step stands on, where that is known: layers, and perhaps the machine's root below them."""

    diff_ids: tuple[str, ...] = ()
    fingerprint: str = ""


def plan(request: BuildRequest, *, store: Store | None = None, host: BuildHost | None = None) -> str:
    """The stages and steps of a build. Raises what `contain.build.build` would raise before its first step."""
    host = read_build_host(build_args=request.build_args) if host is None else host
    sources = read_sources(request)
    host = with_dockerfile_time(host, sources.dockerfile, request)
    graph = resolve_request(sources.dockerfile, request, host)
    refuse_forbidden_runs(graph, request.run)
    return render_plan(graph, request, store=store, host=host)


def render_plan(graph: BuildGraph, request: BuildRequest, *, store: Store | None, host: BuildHost) -> str:
    """The text of a build graph."""
    lines = [f"warning: the build argument {name} is not used: no ARG declares it" for name in graph.unused_arguments]
    lines += [f"warning: {text}" for text in arguments_without_effect(request.build_args)]
    states: dict[int, tuple[StageState, Stack | None]] = {}
    for stage in graph.stages:
        lines += _render_stage(graph, request, stage, states, store=store, host=host)
    for index in graph.skipped:
        skipped = graph.dockerfile.stages[index]
        lines.append(f"not needed: stage {index}{f' {skipped.name}' if skipped.name else ''} (FROM {skipped.base})")
    return "\n".join(lines) + "\n"


def _render_stage(
    graph: BuildGraph,
    request: BuildRequest,
    stage: StagePlan,
    states: dict[int, tuple[StageState, Stack | None]],
    *,
    store: Store | None,
    host: BuildHost,
) -> list[str]:
    title = f"stage {stage.index}{f' {stage.stage.name}' if stage.stage.name else ''}: FROM "
    arguments: Mapping[str, str | None] = MappingProxyType({})
    known: Stack | None = None
    match stage.base:
        case ScratchBase():
            config, title = ImageConfig(platform=stage.platform, working_directory="/"), title + "scratch"
            known = Stack()
        case StageBase(index=index):
            state, known = states[index]
            config, arguments, title = state.config, state.arguments, f"{title}stage {index}"
        case ContextBase(name=name, place=place):
            config, title = ImageConfig(platform=stage.platform), f"{title}the context {name} ({place.value})"
        case ImageBase(reference=reference) if reference.name == HOST_NAME:
            config, title = host_config(), f"{title}{reference.familiar}, this machine's root"
            known = Stack(fingerprint=config.labels[HOST_LABEL])
        case ImageBase(reference=reference):
            found = _stored_config(reference, stage, store)
            config = ImageConfig(platform=stage.platform) if found is None else found
            title += f"{reference} for {stage.platform}"
            if found is None:
                title += "\n    not in the local store: its variables and triggers are not known yet"
            else:
                known = Stack(diff_ids=found.diff_ids, fingerprint=found.labels.get(HOST_LABEL, ""))
    lines = [title]
    state = begin_stage(
        config,
        given=graph.given,
        global_arguments=graph.global_arguments,
        arguments=arguments,
        escape=graph.dockerfile.escape,
    )
    triggers = [parse_trigger(text, file=f"ONBUILD of {stage.stage.base}") for text in config.on_build]
    for instruction in [*triggers, *stage.stage.instructions]:
        state, step = fold(state, instruction)
        text, known = _render_step(step, state, known, request, store=store, host=host)
        lines += [f"  {line}" for line in text]
    states[stage.index] = (state, known)
    return lines


def _stored_config(reference: Reference, stage: StagePlan, store: Store | None) -> ImageConfig | None:
    if store is None:
        return None
    found = store.name_source(reference)
    if found is None:
        return None
    config = store.image(found[0]).config
    return config if runs_on(config.platform, stage.platform) else None


def _render_step(
    step: Step, state: StageState, known: Stack | None, request: BuildRequest, *, store: Store | None, host: BuildHost
) -> tuple[list[str], Stack | None]:
    """A step's lines, and the name of the layers after it, if that is known."""
    first, *rest = step.created_by.rstrip("\n").split("\n")
    match step:
        case MetadataStep():
            return [f"config  {first}", *(f"        {line}" for line in rest)], known
        case WorkdirStep():
            return [f"workdir {step.path}{f' for {step.user}' if step.user else ''}"], None
        case CopyStep():
            return _render_copy(step), None
        case RunStep():
            lines = [f"run     {first.removeprefix('RUN ')}", *(f"        {line}" for line in rest)]
            step = settle_network(step, request)
            lines += [f"        mount {mount.kind.value} at {mount.target or mount.env}" for mount in step.mounts]
            where = f"        in {step.working_directory} as {step.user or '0'}, network {step.network}"
            if known is None or any(mount.kind is MountKind.BIND for mount in step.mounts):
                return [*lines, where], None
            below = base_chain(known.diff_ids, known.fingerprint)
            ingredients = ingredients_of_run(
                request, step, base=below, platform=state.config.platform, epoch_seconds=host.epoch_seconds
            )
            key = key_of(ingredients)
            record = None if store is None else store.cached_step(key)
            shown = key.removeprefix("sha256:")[:_KEY_DIGITS]
            lines += [where, f"        key {shown}{'' if store is None else ', cached' if record else ', to be executed'}"]
            if record is None:
                return lines, None
            added = () if record.diff_id is None else (record.diff_id,)
            return lines, Stack(diff_ids=known.diff_ids + added, fingerprint=known.fingerprint)


def _render_copy(step: CopyStep) -> list[str]:
    place = "the context" if step.source_name is None else step.source_name
    elsewhere = [hide_password(source) for source in step.sources if step.add and is_remote(source)]
    here = [source for source in step.sources if not (step.add and is_remote(source))]
    what = [f"{' '.join(here)} from {place}"] if here else []
    what += elsewhere
    what += [f"{' '.join(name for name, _ in step.documents)} from the Dockerfile"] if step.documents else []
    line = f"{'add ' if step.add else 'copy'}    {', '.join(what)} to {step.destination}"
    options = [f"{name} {value}" for name, value in (("owner", step.chown), ("mode", step.chmod)) if value is not None]
    options += [f"without {' '.join(step.exclude)}"] * bool(step.exclude) + ["with parents"] * step.parents
    options += ["standing on nothing"] * step.link + [f"checksum {step.checksum}"] * bool(step.checksum)
    return [line, *([f"        {', '.join(options)}"] if options else [])]
