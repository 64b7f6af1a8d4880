"""Builds an image: walks the graph's stages, folds each instruction, and carries out the steps that make layers.

Theory of operation. For each instruction `fold` gives the next state and a step. A metadata step only adds to the config and
the history. A step with files gets a key from everything that its result depends on (`contain.build.keys`). Under the key's lock the
cache is asked again; on a miss the step writes into a fresh upper directory, which the store turns into a layer. A layer is
named by its content, so a step that gives the same bytes as before leads to the same image and to the same later keys.

The result depends on the Dockerfile, the context, the bases and the build arguments; never on the clock, the umask, the user, the
working directory, the host's name or the order of directory entries.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from contain.build.archives import is_archive, unpack_archive
from contain.build.bases import BaseFinder, FoundBase, find_base
from contain.build.context import ContextTree
from contain.build.copying import CREATED_DIRECTORY_MODE, CopyOptions, perform_copy
from contain.build.fold import StageState, begin_stage, fold
from contain.build.graph import (
    PROXY_NAMES,
    BuildGraph,
    ImageBase,
    ScratchBase,
    StageBase,
    StagePlan,
    find_source_stage,
    plan_stage,
    resolve_build,
)
from contain.build.host_root import HOST_LABEL
from contain.build.keys import (
    Ingredients,
    base_chain,
    copy_ingredients,
    key_of,
    run_ingredients,
    workdir_ingredients,
)
from contain.build.memory import open_memory_directory
from contain.build.owners import parse_owner
from contain.build.request import BaseSource, BuildHost, BuildRequest, BuildResult
from contain.build.running import (
    OutputLog,
    can_execute,
    loopback_proxies,
    perform_run,
    plan_run,
    run_environment,
    write_run_files,
)
from contain.build.selection import CopyPlan, Placement, digest_selection, plan_copy, select_sources
from contain.build.sources import BuildSources, read_build_host, read_sources
from contain.build.steps import CopyStep, MetadataStep, RunStep, Step, WorkdirStep
from contain.build.tree import Kind, Tree, join, parent_of
from contain.build.viewtree import ViewTree
from contain.build.writer import Attributes, UpperWriter
from contain.dockerfile.instructions import Instruction
from contain.dockerfile.parse import parse_trigger
from contain.dockerfile.suggestion import suggest
from contain.errors import ContainError, HostError, NotFound, NotSupported, SourceSpan, UsageError
from contain.oci import Descriptor, History, ImageConfig, Platform, canonical_json
from contain.oci.image import MEDIA_LAYER
from contain.paths import HostPath
from contain.progress import Progress
from contain.reference import parse_reference
from contain.store import FileDigests, RootView, StepRecord
from contain.values import dataclass

if TYPE_CHECKING:
    from contain.oci import Image
    from contain.reference import Reference
    from contain.store import Store

_TITLE_LENGTH = 160
_CACHED = "cached"


def rfc3339(epoch_seconds: int) -> str:
    """``2000-01-01T00:00:00Z``."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch_seconds))


def default_bases(store: Store) -> BaseFinder:
    """Look-up in the store, the registries of the machine's configuration, and the base providers."""

    def pull(reference: Reference, platform: Platform, progress: Progress) -> Image:
        from contain.registry.pull import pull as pull_image  # brings the HTTP library

        return pull_image(reference, store=store, platform=platform, progress=progress)

    return partial(find_base, store=store, pull=pull)


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
    host = read_build_host(build_args=request.build_args) if host is None else host
    sources = read_sources(request)
    graph = resolve_build(
        sources.dockerfile,
        target=request.target,
        build_args=request.build_args,
        platform=request.platform or host.platform,
        host_platform=host.platform,
    )
    with contextlib.ExitStack() as cleanup:
        index = cleanup.enter_context(store.file_digests())
        builder = _Builder(request, sources, graph, store, progress, bases or default_bases(store), host, index, cleanup)
        return builder.run()


@dataclass(frozen=True, slots=True, kw_only=True)
class _StageResult:
    """A finished stage: its last state and its layers. ``fingerprint``: of the machine's root below them, or empty."""

    state: StageState
    layers: tuple[Descriptor, ...]
    fingerprint: str


@dataclass(slots=True)
class _Stage:
    """A stage that is being built."""

    plan: StagePlan
    state: StageState
    layers: tuple[Descriptor, ...]
    fingerprint: str

    @property
    def diff_ids(self) -> tuple[str, ...]:
        return self.state.config.diff_ids

    @property
    def chain(self) -> str:
        return base_chain(self.diff_ids, self.fingerprint)


class _Builder:
    def __init__(
        self,
        request: BuildRequest,
        sources: BuildSources,
        graph: BuildGraph,
        store: Store,
        progress: Progress,
        bases: BaseFinder,
        host: BuildHost,
        index: FileDigests,
        cleanup: contextlib.ExitStack,
    ) -> None:
        self._request, self._sources, self._graph, self._store = request, sources, graph, store
        self._progress, self._bases, self._host, self._index, self._cleanup = progress, bases, host, index, cleanup
        self._created = rfc3339(host.epoch_seconds)
        self._stages: dict[int, _StageResult] = {}
        self._active: list[int] = []
        self._found: dict[tuple[str, str], FoundBase] = {}
        self._context: ContextTree | None = None
        self._done = self._cached = self._executed = 0
        self._total = sum(len(plan.stage.instructions) + 1 for plan in graph.stages)

    def run(self) -> BuildResult:
        for name in self._graph.unused_arguments:
            self._progress.warn(f"the build argument {name} is not used: no ARG declares it")
        for finding in self._graph.dockerfile.findings:
            self._progress.warn(f"{finding.span.file}:{finding.span.line}: {finding.message} ({finding.rule})")
        result = self._build_stage(self._graph.target)
        config = replace(result.state.config, created=self._created)
        image = self._store.put_image(config, result.layers)
        for reference in self._request.tags:
            self._store.tag(reference, image.digest, source="build")
        return BuildResult(
            image=image,
            sources=tuple({found.source.name: found.source for found in self._found.values()}.values()),
            cached_steps=self._cached,
            executed_steps=self._executed,
        )

    # -- stages -----------------------------------------------------------------------------------------------------------------

    def _build_stage(self, index: int) -> _StageResult:
        known = self._stages.get(index)
        if known is not None:
            return known
        plan = plan_stage(self._graph, index)
        if index in self._active:
            raise UsageError(
                f"the stage {plan.title} needs itself through a trigger", code="circular-stages", span=plan.stage.span
            )
        self._active.append(index)
        for needed in plan.dependencies:
            self._build_stage(needed)
        self._title(plan, plan.stage.start)
        stage, triggers = self._begin(plan)
        self._total += len(triggers)
        for number, instruction in enumerate([*triggers, *plan.stage.instructions], 1):
            self._title(plan, instruction)
            try:
                stage.state, step = fold(stage.state, instruction)
                self._perform(stage, step, number)
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
        self._active.pop()
        result = _StageResult(state=stage.state, layers=stage.layers, fingerprint=stage.fingerprint)
        self._stages[index] = result
        return result

    def _title(self, plan: StagePlan, instruction: Instruction) -> None:
        self._done += 1
        stage = f" {plan.title}" if len(self._graph.stages) > 1 else ""
        text = " ".join(instruction.text.split())
        text = text if len(text) <= _TITLE_LENGTH else text[: _TITLE_LENGTH - 3] + "..."
        self._progress.step(f"[{self._done}/{self._total}{stage}] {text}")

    def _begin(self, plan: StagePlan) -> tuple[_Stage, list[Instruction]]:
        arguments: Mapping[str, str | None] = MappingProxyType({})
        layers: tuple[Descriptor, ...] = ()
        match plan.base:
            case ScratchBase():
                config = ImageConfig(platform=plan.platform, working_directory="/")
            case StageBase(index=index):
                below = self._build_stage(index)
                config, layers, arguments = below.state.config, below.layers, below.state.arguments
            case ImageBase(reference=reference):
                found = self._base(reference, plan.platform, plan.stage.start.span_of(plan.stage.base))
                config, layers = found.image.config, found.image.manifest.layers
                config = replace(config, history=complete_history(config, len(layers), self._created))
        triggers = [parse_trigger(text, file=f"ONBUILD of {plan.stage.base}") for text in config.on_build]
        state = begin_stage(
            config,
            given=self._graph.given,
            global_arguments=self._graph.global_arguments,
            arguments=arguments,
            escape=self._graph.dockerfile.escape,
        )
        fingerprint = config.labels.get(HOST_LABEL, "")
        return _Stage(plan=plan, state=state, layers=layers, fingerprint=fingerprint), triggers

    def _base(self, reference: Reference, platform: Platform, span: SourceSpan) -> FoundBase:
        """The image of that name, looked up once per build. An error points at ``span``, where the name is written."""
        key = (str(reference), str(platform))
        if key not in self._found:
            try:
                found = self._bases(reference, platform, self._progress)
            except ContainError as error:
                error.span = error.span or span
                stage = suggest(reference.familiar.removesuffix(":latest"), self._graph.dockerfile.stage_names)
                if isinstance(error, NotFound) and stage is not None:
                    error.remedy = f"did you mean the stage {stage!r}?"
                raise
            self._cleanup.enter_context(self._store.lease(found.image.digest))
            self._found[key] = found
        return self._found[key]

    def _trees(self, config: ImageConfig, fingerprint: str) -> tuple[HostPath, ...]:
        trees = tuple(self._store.layer_tree(diff_id) for diff_id in config.diff_ids)
        return (Path("/"), *trees) if fingerprint else trees

    # -- steps ------------------------------------------------------------------------------------------------------------------

    def _perform(self, stage: _Stage, step: Step, number: int) -> None:
        match step:
            case MetadataStep():
                self._add_history(stage, step.created_by, empty=True)
            case WorkdirStep():
                self._workdir(stage, step, number)
            case RunStep():
                self._run(stage, step, number)
            case CopyStep():
                self._copy(stage, step, number)

    def _add_history(self, stage: _Stage, created_by: str, *, empty: bool) -> None:
        row = History(created=self._created, created_by=created_by, empty_layer=empty)
        config = stage.state.config
        stage.state = replace(stage.state, config=replace(config, history=(*config.history, row)))

    def _layer(
        self,
        stage: _Stage,
        step: Step,
        number: int,
        ingredients: Ingredients,
        execute: Callable[[], StepRecord | None],
    ) -> None:
        """Take a step's layer from the cache, or make it with ``execute`` (which returns the record without its key)."""
        key = key_of(ingredients)
        record = None if self._request.no_cache else self._store.cached_step(key)
        if record is None:
            with self._store.lock(f"step-{key.removeprefix('sha256:')[:3]}"):
                # Another build may have done it while this one waited.
                record = None if self._request.no_cache else self._store.cached_step(key)
                if record is None:
                    made = execute()
                    self._executed += 1
                    record = StepRecord(
                        key=key,
                        position=f"{self._sources.position}|{stage.plan.title}|{number}",
                        ingredients=canonical_json(ingredients).decode(),
                        diff_id=None if made is None else made.diff_id,
                        size_bytes=0 if made is None else made.size_bytes,
                    )
                    self._store.record_step(record)
                    self._append(stage, step, record)
                    return
        self._cached += 1
        self._progress.note(_CACHED)
        self._append(stage, step, record)

    def _append(self, stage: _Stage, step: Step, record: StepRecord) -> None:
        if record.diff_id is not None:
            self._cleanup.enter_context(self._store.lease(record.diff_id))
            config = stage.state.config
            stage.state = replace(stage.state, config=replace(config, diff_ids=(*config.diff_ids, record.diff_id)))
            descriptor = Descriptor(media_type=MEDIA_LAYER, digest=record.diff_id, size=record.size_bytes)
            stage.layers = (*stage.layers, descriptor)
        self._add_history(stage, step.created_by, empty=record.diff_id is None)

    @contextlib.contextmanager
    def _upper(self, trees: tuple[HostPath, ...], *, away_from_root: bool = False) -> Iterator[tuple[HostPath, HostPath]]:
        """A scratch directory and in it an upper directory that has the merged root's own attributes.

        ``away_from_root``: not on the machine's root's own file system, where memory can take its place.
        """
        from contain.container.workspaces import memory_takes_attributes

        with contextlib.ExitStack() as stack:
            if away_from_root and memory_takes_attributes():
                scratch = stack.enter_context(open_memory_directory())
            else:
                scratch = stack.enter_context(self._store.scratch("build-step"))
            upper = scratch / "upper"
            upper.mkdir()
            with RootView(trees) as view:
                root = view.lookup("/")
                upper.chmod(0o755 if root is None else root.mode)
                if root is not None and os.geteuid() == 0:
                    os.chown(upper, root.uid, root.gid)
                    for name, value in root.xattrs.items():
                        os.setxattr(upper, name, value)
            yield scratch, upper

    def _commit(self, upper: HostPath, trees: tuple[HostPath, ...]) -> StepRecord | None:
        committed = self._store.commit_layer(upper, lower=trees, epoch_seconds=self._host.epoch_seconds)
        if committed is None:
            return None
        return StepRecord(key="", position="", ingredients="", diff_id=committed.diff_id, size_bytes=committed.size_bytes)

    def _workdir(self, stage: _Stage, step: WorkdirStep, number: int) -> None:
        trees = self._trees(stage.state.config, stage.fingerprint)
        with RootView(trees) as view:
            entry = view.lookup(step.path)
            lower = ViewTree(view)
            if entry is not None or step.path == "/":
                if entry is not None and entry.kind.value != Kind.DIRECTORY.value:
                    raise UsageError(f"{step.path} is not a directory", code="not-a-directory", span=step.instruction.span)
                self._add_history(stage, step.created_by, empty=True)
                return
            ingredients = workdir_ingredients(step, base=stage.chain, epoch_seconds=self._host.epoch_seconds)

            def execute() -> StepRecord | None:
                identity = _identity(step.user, trees)
                with self._upper(trees) as (_, upper):
                    with UpperWriter(upper, lower=lower.lookup, epoch_seconds=self._host.epoch_seconds) as writer:
                        attributes = Attributes(mode=CREATED_DIRECTORY_MODE, user_id=identity[0], group_id=identity[1])
                        writer.ensure_directory(writer.resolve(step.path), attributes)
                    return self._commit(upper, trees)

            self._layer(stage, step, number, ingredients, execute)

    # -- COPY and ADD -----------------------------------------------------------------------------------------------------------

    def _copy(self, stage: _Stage, step: CopyStep, number: int) -> None:
        trees = self._trees(stage.state.config, stage.fingerprint)
        span = step.instruction.span
        with contextlib.ExitStack() as stack:
            tree, place = self._source_tree(stage, step, stack)
            selected, empty = select_sources(tree, step.sources, place=place, span=span)
            for pattern in empty:
                self._progress.warn(f"{step.instruction.keyword}: nothing in {place} matches {pattern!r}")
            inputs = digest_selection(tree, selected)
            ingredients = copy_ingredients(step, base=stage.chain, inputs=inputs, epoch_seconds=self._host.epoch_seconds)
            lower = ViewTree(stack.enter_context(RootView(trees)))

            def execute() -> StepRecord | None:
                owner = None if step.chown is None else self._owner(step, trees)
                options = CopyOptions(owner=owner, mode=step.mode)
                with self._upper(trees) as (_, upper):
                    with UpperWriter(upper, lower=lower.lookup, epoch_seconds=self._host.epoch_seconds) as writer:
                        plan = plan_copy(
                            selected,
                            step.destination,
                            writer.lookup,
                            into_directory=len(selected) + len(step.documents) > 1 and bool(step.documents),
                            span=span,
                        )
                        self._perform_copy(step, plan, tree, writer, options)
                    return self._commit(upper, trees)

            self._layer(stage, step, number, ingredients, execute)

    def _perform_copy(self, step: CopyStep, plan: CopyPlan, tree: Tree, writer: UpperWriter, options: CopyOptions) -> None:
        def unpack(placement: Placement) -> bool:
            """Take a named file that is an archive: its contents go below the destination, which is a directory then."""
            with os.fdopen(tree.open(placement.source.path), "rb") as stream:
                if not is_archive(stream):
                    return False
                target = writer.resolve(step.destination)
                user_id, group_id = options.owner or (0, 0)
                attributes = Attributes(mode=CREATED_DIRECTORY_MODE, user_id=user_id, group_id=group_id)
                writer.ensure_directory(target, attributes)
                unpack_archive(
                    stream,
                    target,
                    writer,
                    epoch_seconds=self._host.epoch_seconds,
                    owner=options.owner,
                    mode=options.mode,
                    warn=self._progress.warn,
                )
                return True

        perform_copy(plan, tree, writer, options, warn=self._progress.warn, unpack=unpack if step.unpack else None)
        self._write_documents(step, writer, options)

    def _write_documents(self, step: CopyStep, writer: UpperWriter, options: CopyOptions) -> None:
        """Heredocs: files named after their word, mode 0644."""
        user_id, group_id = options.owner or (0, 0)
        directory_attributes = Attributes(mode=CREATED_DIRECTORY_MODE, user_id=user_id, group_id=group_id)
        for name, content in step.documents:
            target = writer.resolve(step.destination)
            there = writer.lookup(target)
            if step.destination.endswith("/") or (there is not None and there.kind is Kind.DIRECTORY):
                target = join(target, name)
            writer.ensure_directory(parent_of(target), directory_attributes)
            mode = 0o644 if options.mode is None else options.mode.apply(0o644, is_directory=False)
            writer.put_file(target, content.encode(), Attributes(mode=mode, user_id=user_id, group_id=group_id))

    def _owner(self, step: CopyStep, trees: tuple[HostPath, ...]) -> tuple[int, int]:
        from contain.container.identity import read_account_files

        span = step.instruction.span_of("--chown")
        return parse_owner(step.chown or "", *read_account_files(trees), span=span)

    def _source_tree(self, stage: _Stage, step: CopyStep, stack: contextlib.ExitStack) -> tuple[Tree, str]:
        if step.source_name is None:
            return self._context_tree(step), "the build context"
        span = step.instruction.span_of(step.source_name)
        index = find_source_stage(self._graph.dockerfile, stage.plan.index, step.source_name, span=span)
        if index is not None:
            result = self._build_stage(index)
            trees = self._trees(result.state.config, result.fingerprint)
            place = f"the stage {step.source_name}"
        else:
            found = self._base(parse_reference(step.source_name), stage.plan.platform, span)
            trees, place = found.trees, f"the image {step.source_name}"
        return ViewTree(stack.enter_context(RootView(trees)), index=self._index), place

    def _context_tree(self, step: CopyStep) -> Tree:
        if self._context is None:
            if self._request.context is None:
                if step.sources:
                    raise UsageError(
                        f"{step.instruction.keyword} needs a build context, and this build has none",
                        code="no-context",
                        span=step.instruction.span,
                    )
                return ViewTree(RootView(()))
            tree = ContextTree(
                self._request.context,
                ignore=self._sources.ignore,
                strict=self._request.strict_modes,
                epoch_seconds=self._host.epoch_seconds,
                index=self._index,
            )
            self._context = self._cleanup.enter_context(tree)
        return self._context

    # -- RUN --------------------------------------------------------------------------------------------------------------------

    def _run(self, stage: _Stage, step: RunStep, number: int) -> None:
        platform = stage.state.config.platform
        if not can_execute(platform, self._host):
            raise NotSupported(
                f"RUN for {platform} on a machine that is {self._host.platform} is not supported",
                code="foreign-platform",
                span=step.instruction.span,
                remedy="build for this machine's platform",
            )
        ingredients = run_ingredients(step, base=stage.chain, platform=platform, epoch_seconds=self._host.epoch_seconds)
        self._layer(stage, step, number, ingredients, lambda: self._execute_run(stage, step))

    def _execute_run(self, stage: _Stage, step: RunStep) -> StepRecord | None:
        from contain.container import new_container_id
        from contain.container.identity import home_of, parse_identity, read_account_files
        from contain.linux.capabilities import DEFAULT_CAPABILITIES

        trees = self._trees(stage.state.config, stage.fingerprint)
        passwd, group = read_account_files(trees)
        identity = parse_identity(step.user, passwd, group)
        declared = set(stage.state.arguments)
        given = {name: value for name, value in self._graph.given.items() if name in PROXY_NAMES and name not in declared}
        environment = run_environment(step, self._host, proxies_given=given, home=home_of(identity, passwd))
        if step.network == "default":
            for name in loopback_proxies(environment):
                self._progress.warn(f"{name} names this machine's loopback address, which RUN cannot reach; try --network=host")
        with self._upper(trees, away_from_root=bool(stage.fingerprint)) as (scratch, upper):
            spec = plan_run(
                step,
                self._host,
                container_id=new_container_id(),
                layers=trees,
                upper=upper,
                environment=environment,
                identity=identity,
                files=write_run_files(step, self._host, scratch),
                capabilities=DEFAULT_CAPABILITIES,
            )
            perform_run(spec, step, OutputLog(self._progress.log))
            return self._commit(upper, trees)


def _identity(user: str, trees: tuple[HostPath, ...]) -> tuple[int, int]:
    if not user:
        return 0, 0
    from contain.container.identity import parse_identity, read_account_files

    identity = parse_identity(user, *read_account_files(trees))
    return identity.user_id, identity.group_id


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
