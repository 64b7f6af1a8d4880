"""Builds an image: walks the graph's stages, folds each instruction, and has the steps that make layers carried out.

Theory of operation. For each instruction `fold` gives the next state and a step. A metadata step only adds to the config and
the history. A step with files gets a key from everything that its result depends on (`contain.build.cache.keys`). Under the
key's lock the cache is asked again (`contain.build.cache.steps`); on a miss the step writes into a fresh upper directory,
which the store turns into a layer. A layer is named by its content, so a step that gives the same bytes as before leads to
the same image and to the same later keys. Stages that do not need each other go on side by side (`contain.build.tasks`).

The result depends on the Dockerfile, the context, the bases and the build arguments; never on the clock, the umask, the user, the
working directory, the host's name, the order of directory entries, or which stage was done first.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from contain.annotations import TYPE_CHECKING, TypeVar
from contain.build.bases import BaseFinder, find_base
from contain.build.cache.places import Scope
from contain.build.cache.steps import NotKnownYet
from contain.build.contexts.places import ContextKind
from contain.build.copy.step import perform_copy_step
from contain.build.fold import begin_stage, fold
from contain.build.graph import ContextBase, ImageBase, ScratchBase, StageBase, StagePlan, plan_stage
from contain.build.host_root import HOST_LABEL
from contain.build.request import BaseSource, BuildHost, BuildRequest, BuildResult
from contain.build.run.permissions import refuse_forbidden_runs
from contain.build.run.special_arguments import arguments_without_effect
from contain.build.run.step import perform_run_step
from contain.build.sources import read_build_host, read_sources, resolve_request, with_dockerfile_time
from contain.build.steps import CopyStep, MetadataStep, RunStep, Step, WorkdirStep
from contain.build.tasks import Finished, Job, Loop, Work
from contain.build.workbench import Stage, StageResult, Workbench
from contain.build.workdir_step import perform_workdir
from contain.dockerfile.instructions import Instruction
from contain.dockerfile.parse import parse_trigger
from contain.dockerfile.syntax import CHECK_ARGUMENT
from contain.errors import ContainError, HostError, UsageError
from contain.oci import Descriptor, History, ImageConfig, Platform, digest_of
from contain.oci.image import MEDIA_LAYER, render_config
from contain.progress import Progress
from contain.store import StepRecord
from contain.values import replace

if TYPE_CHECKING:
    from contain.build.cache.explain import StepExplanation
    from contain.oci import Image
    from contain.reference import Reference
    from contain.store import Store

_TITLE_LENGTH = 160
_T = TypeVar("_T")


def default_bases(store: Store, *, refresh: bool = False) -> BaseFinder:
    """Look-up in the store, the registries of the machine's configuration, and the base providers. ``refresh``: the store last."""
    return partial(find_base, store=store, pull=partial(_pull, store=store), refresh=refresh)


def _pull(reference: Reference, platform: Platform, progress: Progress, *, store: Store) -> Image:
    from contain.registry.pull import pull as pull_image  # brings the HTTP library

    return pull_image(reference, store=store, platform=platform, progress=progress)


def build(
    request: BuildRequest,
    *,
    store: Store,
    progress: Progress,
    bases: BaseFinder | None = None,
    host: BuildHost | None = None,
) -> BuildResult:
    """Build the target and give it the request's tags.

    Raises `UsageError` and `NotFound` that point into the Dockerfile, `BuildStepFailed` for a command that failed, `NotSupported` for
    what is understood and cannot be done yet; then nothing was tagged, and the steps that were done stay in the cache.
    """
    return _with_builder(_Builder.run, request, store=store, progress=progress, bases=bases, host=host)


def explain(
    request: BuildRequest, *, store: Store, progress: Progress, bases: BaseFinder | None = None, host: BuildHost | None = None
) -> tuple[StepExplanation, ...]:
    """Of each step with files whether it would be taken from the cache, and if not, why. Carries nothing out, pulls nothing."""
    request = replace(request, cache=replace(request.cache, explain=True, only_explain=True))
    return _with_builder(_Builder.explain, request, store=store, progress=progress, bases=bases, host=host)


def _with_builder(
    act: Callable[[_Builder], _T],
    request: BuildRequest,
    *,
    store: Store,
    progress: Progress,
    bases: BaseFinder | None,
    host: BuildHost | None,
) -> _T:
    host = read_build_host(build_args=request.build_args) if host is None else host
    bases = default_bases(store, refresh=request.cache.refresh_bases) if bases is None else bases
    sources = read_sources(request)
    host = with_dockerfile_time(host, sources.dockerfile, request)
    if request.lock is not None:
        from contain.build.lock.bases import locked_bases
        from contain.build.lock.capture import locked_host

        host = locked_host(host, request.lock, build_args=request.build_args, environ=os.environ)
        bases = locked_bases(request.lock, bases, store=store, pull=partial(_pull, store=store))
    graph = resolve_request(sources.dockerfile, request, host)
    refuse_forbidden_runs(graph, request.run)
    if sources.dockerfile.directives.check is not None or CHECK_ARGUMENT in request.build_args:
        from contain.build.checking import refuse_warnings

        refuse_warnings(sources, request, store=store, host=host)
    with contextlib.ExitStack() as cleanup:
        index = cleanup.enter_context(store.file_digests())
        bench = Workbench(
            request=request,
            sources=sources,
            graph=graph,
            store=store,
            progress=progress,
            bases=bases,
            host=host,
            index=index,
            cleanup=cleanup,
        )
        return act(_Builder(bench))


class _StageProgress:
    """Where several stages are built side by side, every line says whose it is."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress, self._title, self._partial = progress, title, ""

    def step(self, title: str) -> None:
        self._progress.step(title)

    def log(self, text: str) -> None:
        *complete, self._partial = (self._partial + text).split("\n")
        for line in complete:
            self._progress.log(f"{self._title} | {line}\n")

    def note(self, text: str) -> None:
        self._progress.note(f"{self._title}: {text}")

    def warn(self, text: str) -> None:
        self._progress.warn(f"{self._title}: {text}")

    def amount(self, label: str, done: int, total: int | None) -> None:
        self._progress.amount(label, done, total)


class _Builder:
    def __init__(self, bench: Workbench) -> None:
        self._bench, self._graph = bench, bench.graph
        self._loop = Loop()
        self._stages: dict[int, Job[StageResult]] = {}
        self._waits: dict[int, int] = {}  # which stage waits for which one now
        self._begun = 0
        self._total = sum(len(plan.stage.instructions) + 1 for plan in self._graph.stages)
        bench.need_stage = self._need_stage

    def run(self) -> BuildResult:
        bench = self._bench
        for name in self._graph.unused_arguments:
            bench.progress.warn(f"the build argument {name} is not used: no ARG declares it")
        for text in arguments_without_effect(bench.request.build_args):
            bench.progress.warn(text)
        for plan in self._graph.stages:
            self._stage(plan.index)
        try:
            result = self._loop.run(self._stage(self._graph.target))
        except ContainError:
            self._tell_warnings()
            raise
        config = result.state.config
        labels = MappingProxyType({**config.labels, **bench.request.labels})
        config = replace(config, created=bench.created, labels=labels)
        if bench.executed_steps or not bench.store.has_blob(digest_of(render_config(config))):
            self._tell_warnings()
        image = bench.store.put_image(config, result.layers)
        bench.cleanup.enter_context(bench.store.lease(image.digest))  # until it has its name
        bench.store.touch_steps(bench.used_keys)
        self._export_cache()
        if bench.executed_steps:
            from contain.build.cache.limit import keep_limit

            keep_limit(bench.store, bench.progress)
        record = bench.trace.record(
            bench.request,
            dockerfile=bench.sources.name,
            dockerfile_digest=bench.sources.digest,
            epoch_seconds=bench.epoch_seconds,
            found=bench.found,
        )
        if bench.request.lock is not None:
            from contain.build.lock.capture import check_lock

            check_lock(bench.request.lock, record, image, bench.store)
        for reference in bench.request.tags:
            bench.store.tag(reference, image.digest, source="build")
        return BuildResult(
            image=image,
            sources=tuple({found.source.name: found.source for found in bench.found.values()}.values()),
            cached_steps=bench.cached_steps,
            executed_steps=bench.executed_steps,
            explanations=tuple(bench.explanations),
            record=record,
            inputs=None if bench.executed_steps else bench.inputs(),
            replaced=tuple(bench.replaced),
        )

    def explain(self) -> tuple[StepExplanation, ...]:
        """Go through the steps without carrying one out."""
        for plan in self._graph.stages:
            self._stage(plan.index)
        self._loop.run(self._stage(self._graph.target))
        return tuple(self._bench.explanations)

    def _export_cache(self) -> None:
        destinations = self._bench.request.cache.destinations
        if not destinations:
            return
        from contain.build.cache.exchange import export_cache

        result = {self._graph.target}
        plan = plan_stage(self._graph, self._graph.target)
        while isinstance(plan.base, StageBase):
            plan = plan_stage(self._graph, plan.base.index)
            result.add(plan.index)
        for place in destinations:
            records = [record for stage, record in self._bench.records if place.scope is Scope.ALL_STAGES or stage in result]
            export_cache(place, records, store=self._bench.store, progress=self._bench.progress)

    def _tell_warnings(self) -> None:
        """What the build checks object to. Not for an image that was there: its build takes hardly longer than the checks."""
        from contain.build.checking import warnings_of

        bench = self._bench
        for finding in warnings_of(bench.sources, bench.request, store=bench.store, host=bench.host):
            bench.progress.warn(f"{finding.span.file}:{finding.span.line}: {finding.message} ({finding.rule.name})")

    # -- stages -----------------------------------------------------------------------------------------------------------------

    def _stage(self, index: int) -> Job[StageResult]:
        if index not in self._stages:
            self._stages[index] = self._loop.start(self._build_stage(plan_stage(self._graph, index)))
        return self._stages[index]

    def _need_stage(self, stage: Stage, index: int) -> Work[StageResult]:
        return self._known((yield from self._await_stage(stage.plan, index)), plan_stage(self._graph, index).title)

    def _await_stage(self, plan: StagePlan, index: int) -> Work[StageResult]:
        """Wait for another stage. Only an ONBUILD trigger can make a circle: the graph has none."""
        awaited: int | None = index
        while awaited is not None:
            if awaited == plan.index:
                raise UsageError(
                    f"the stage {plan.title} needs itself through a trigger", code="circular-stages", span=plan.stage.span
                )
            awaited = self._waits.get(awaited)
        job = self._stage(index)
        if not job.done:
            self._waits[plan.index] = index
            yield Finished(job)  # type: ignore[arg-type]
            del self._waits[plan.index]
        return job.value

    def _known(self, below: StageResult, what: str) -> StageResult:
        if below.pending:
            raise NotKnownYet(f"depends on {what}, in which {below.pending} would be carried out")
        return below

    def _build_stage(self, plan: StagePlan) -> Work[StageResult]:
        self._title(plan, plan.stage.start)
        stage, triggers = yield from self._begin(plan)
        self._total += len(triggers)
        for number, instruction in enumerate([*triggers, *plan.stage.instructions], 1):
            self._title(plan, instruction)
            try:
                stage.state, step = fold(stage.state, instruction)
                record = yield from self._perform(stage, step, number)
            except NotKnownYet as reason:
                self._bench.explain_open(stage, str(reason))
                stage.pending = stage.pending or f"{instruction.keyword} in line {instruction.span.line}"
                record = None
            except ContainError as error:
                if error.span is None and isinstance(error, UsageError):
                    error.span = instruction.span
                raise
            except OSError as error:
                raise HostError(
                    f"{instruction.keyword} in line {instruction.span.line} of {instruction.span.file} cannot be carried out",
                    path=os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "",
                    errno=error.errno or 0,
                    code="build-io",
                ) from error
            self._finish(stage, step, record)
        return StageResult(state=stage.state, layers=stage.layers, fingerprint=stage.fingerprint, pending=stage.pending)

    def _title(self, plan: StagePlan, instruction: Instruction) -> None:
        self._begun += 1
        stage = f" {plan.title}" if len(self._graph.stages) > 1 else ""
        text = " ".join(instruction.text.split())
        text = text if len(text) <= _TITLE_LENGTH else text[: _TITLE_LENGTH - 3] + "..."
        self._bench.progress.step(f"[{self._begun}/{self._total}{stage}] {text}")

    def _begin(self, plan: StagePlan) -> Work[tuple[Stage, list[Instruction]]]:
        arguments: Mapping[str, str | None] = MappingProxyType({})
        layers: tuple[Descriptor, ...] = ()
        pending = ""
        match plan.base:
            case ScratchBase():
                config = ImageConfig(platform=plan.platform, working_directory="/")
            case StageBase(index=index):
                below = yield from self._await_stage(plan, index)
                config, layers, arguments = below.state.config, below.layers, below.state.arguments
                pending = below.pending
            case ImageBase(reference=reference):
                try:
                    found = self._bench.base(reference, plan.platform, plan.stage.start.span_of(plan.stage.base))
                    config, layers = found.image.config, found.image.manifest.layers
                    config = replace(config, history=complete_history(config, len(layers), self._bench.created))
                except NotKnownYet:
                    config = ImageConfig(platform=plan.platform, working_directory="/")
                    pending = f"getting the base {reference.familiar}"
            case ContextBase(place=place) if place.kind is ContextKind.LAYOUT:
                image = self._bench.layout_image(place, plan.platform)
                config, layers = image.config, image.manifest.layers
                config = replace(config, history=complete_history(config, len(layers), self._bench.created))
            case ContextBase():
                config = ImageConfig(platform=plan.platform, working_directory="/")
        triggers = [parse_trigger(text, file=f"ONBUILD of {plan.stage.base}") for text in config.on_build]
        state = begin_stage(
            config,
            given=self._graph.given,
            global_arguments=self._graph.global_arguments,
            arguments=arguments,
            escape=self._graph.dockerfile.escape,
        )
        fingerprint = config.labels.get(HOST_LABEL, "")
        self._bench.depends_on_more |= bool(fingerprint)
        progress: Progress = self._bench.progress
        if len(self._graph.stages) > 1:
            progress = _StageProgress(progress, plan.title)
        stage = Stage(plan=plan, state=state, layers=layers, fingerprint=fingerprint, progress=progress, pending=pending)
        self._bench.trace.begin(plan)
        if isinstance(plan.base, ContextBase) and plan.base.place.kind is not ContextKind.LAYOUT:
            step = _copy_of_everything(plan.stage.start, plan.base.name)
            self._finish(stage, step, (yield from self._perform(stage, step, 0)))
        return stage, triggers

    def _finish(self, stage: Stage, step: Step, record: StepRecord | None) -> None:
        _append(stage, step, record, created=self._bench.created)
        self._bench.trace.add(stage.plan, step, record)

    def _perform(self, stage: Stage, step: Step, number: int) -> Work[StepRecord | None]:
        """The record of the step's layer; None for a step that makes none."""
        stage.step = step
        match step:
            case MetadataStep():
                return None
            case WorkdirStep():
                return (yield from perform_workdir(self._bench, stage, step, number))
            case RunStep():
                return (yield from perform_run_step(self._bench, stage, step, number))
            case CopyStep():
                return (yield from perform_copy_step(self._bench, stage, step, number))


def _copy_of_everything(instruction: Instruction, context: str) -> CopyStep:
    """``FROM`` a context with files: as if they were copied into an empty image."""
    return CopyStep(
        instruction=instruction,
        created_by=f"COPY --from={context} / /",
        sources=("/",),
        documents=(),
        destination="/",
        source_name=context,
        chown=None,
        chmod=None,
        mode=None,
        unpack=False,
    )


def _append(stage: Stage, step: Step, record: StepRecord | None, *, created: str) -> None:
    """Add a step's layer, if it made one, and its row of history."""
    config = stage.state.config
    has_layer = record is not None and record.diff_id is not None
    row = History(created=created, created_by=step.created_by, empty_layer=not has_layer)
    config = replace(config, history=(*config.history, row))
    if record is not None and record.diff_id is not None:
        config = replace(config, diff_ids=(*config.diff_ids, record.diff_id))
        descriptor = Descriptor(media_type=MEDIA_LAYER, digest=record.diff_id, size=record.size_bytes)
        stage.layers = (*stage.layers, descriptor)
    stage.state = replace(stage.state, config=config)


def complete_history(config: ImageConfig, layers: int, created: str) -> tuple[History, ...]:
    """A base's history with a row for each layer: images that were imported or squashed often have fewer."""
    rows = config.history
    missing = layers - sum(not row.empty_layer for row in rows)
    return rows + tuple(History(created=created, comment="a layer without history") for _ in range(missing))


def source_lines(sources: tuple[BaseSource, ...]) -> tuple[str, ...]:
    """Where each base came from, one line each, for people."""
    return tuple(
        f"{source.name} from {'the local store, ' if source.local else ''}{source.source} ({source.digest})"
        for source in sources
    )
