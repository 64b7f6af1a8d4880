"""What all steps of one build share: the request, the store, the bases found so far, the context; how a layer begins and ends."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType

from contain.annotations import TYPE_CHECKING, Any
from contain.build.bases import BaseFinder, FoundBase
from contain.build.cache.keys import base_chain
from contain.build.cache.steps import NotKnownYet
from contain.build.contexts.places import ContextKind, ContextPlace
from contain.build.graph import BuildGraph, StagePlan
from contain.build.host_root import HOST_NAME
from contain.build.record.tracing import Trace, layout_source
from contain.build.request import BuildHost, BuildInputs, BuildRequest
from contain.build.run.memory import open_memory_directory
from contain.build.run.special_arguments import keeps_git_directory
from contain.build.sources import BuildSources, parse_ignore_files, read_ignore_files
from contain.build.state import StageState
from contain.build.steps import Step
from contain.build.tasks import Work
from contain.build.trees.context import ContextTree
from contain.dockerfile.suggestion import suggest
from contain.errors import ContainError, NotFound, SourceSpan, UsageError
from contain.oci import Descriptor, Image, ImageConfig, Platform
from contain.paths import HostPath, run_home
from contain.progress import Progress
from contain.reference import Reference
from contain.store import FileDigests, RootView, StepRecord, Store
from contain.store.layers import CommittedLayer
from contain.values import dataclass, field

if TYPE_CHECKING:
    from contain.build.cache.exchange import CacheSource
    from contain.build.cache.explain import Outcome, StepExplanation


def rfc3339(epoch_seconds: int) -> str:
    """``2000-01-01T00:00:00Z``."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch_seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """A finished stage: its last state and its layers. ``fingerprint``: of the machine's root below them, or empty."""

    state: StageState
    layers: tuple[Descriptor, ...]
    fingerprint: str
    pending: str = ""


@dataclass(slots=True)
class Stage:
    """A stage that is being built. ``progress`` names the stage where several are built. ``step``: the one that is at it now.

    ``pending``: while nothing is carried out, the first step that would be; what follows is not known yet. ``outcome``: what the step
    that is carried out wants to have in its record beside the layer, as JSON.
    """

    plan: StagePlan
    state: StageState
    layers: tuple[Descriptor, ...]
    fingerprint: str
    progress: Progress
    step: Step | None = None
    pending: str = ""
    outcome: dict[str, Any] = field(default_factory=dict)

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """The layers so far."""
        return self.state.config.diff_ids

    @property
    def chain(self) -> str:
        """One name for everything that the next step stands on."""
        return base_chain(self.diff_ids, self.fingerprint)


NeedStage = Callable[["Stage", int], Work[StageResult]]
"""Called by a stage that needs another one: waits for it, and gives its result."""


class Workbench:
    """Handed to every step. ``cleanup`` is closed at the end of the build: leases and open directories belong there."""

    need_stage: NeedStage
    depends_on_more: bool
    """Whether a step used what is neither a file of a context nor an image of the store."""

    def __init__(
        self,
        *,
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
        self.request, self.sources, self.graph, self.store = request, sources, graph, store
        self.progress, self.host, self.index, self.cleanup = progress, host, index, cleanup
        self.created = rfc3339(host.epoch_seconds)
        self.found: dict[tuple[str, str], FoundBase] = {}
        self.cached_steps = self.executed_steps = 0
        self.records: list[tuple[int, StepRecord]] = []  # of which stage
        self.used_keys: list[str] = []
        self.explanations: list[StepExplanation] = []
        self._caches: tuple[CacheSource, ...] | None = None
        self.replaced: list[tuple[StepRecord, StepRecord]] = []  # what the cache had, what was made in its place
        self.trace = Trace(graph, network=request.run.network)
        self.depends_on_more = False
        self._bases = bases
        self._holds_network = False
        self._skeletons: HostPath | None = None
        self._context: ContextTree | None = None
        self._named: dict[ContextPlace, ContextTree] = {}
        self._layouts: dict[ContextPlace, Image] = {}
        self._texts = dict(sources.texts)

    @property
    def epoch_seconds(self) -> int:
        """The time of everything that the build makes."""
        return self.host.epoch_seconds

    def hold(self, diff_id: str | None) -> bool:
        """Keep a layer until the end of the build, if it is here; a step without a layer needs none."""
        if diff_id is None:
            return True
        release = self.store.try_hold(diff_id)
        if release is not None:
            self.cleanup.callback(release)
        return release is not None

    def cache_sources(self) -> tuple[CacheSource, ...]:
        """The caches of ``--cache-from``, opened once; one that cannot be read is a warning."""
        if self._caches is None:
            self._caches = ()
            if self.request.cache.sources:
                from contain.build.cache.exchange import open_cache_sources

                self._caches = open_cache_sources(self.request.cache.sources, self.progress, self.cleanup)
        return self._caches

    def explain(self, stage: Stage, outcome: Outcome, reasons: tuple[str, ...]) -> None:
        """Say why a step was or was not taken from the cache."""
        from contain.build.cache.explain import StepExplanation

        if stage.step is None:
            return
        instruction = stage.step.instruction
        explanation = StepExplanation(
            outcome=outcome,
            stage=stage.plan.title,
            text=" ".join(instruction.text.split()),
            place=f"{instruction.span.file}:{instruction.span.line}",
            reasons=reasons,
        )
        self.explanations.append(explanation)
        if not self.request.cache.only_explain:
            stage.progress.note(str(explanation))

    def refuse_network(self, address: str) -> None:
        """Where nothing is carried out, nothing is fetched either. Raises `NotKnownYet`."""
        if self.request.cache.only_explain:
            raise NotKnownYet(f"what {address} holds would be looked at")

    def explain_open(self, stage: Stage, reason: str) -> None:
        """Whether the step would be taken from the cache is not known yet."""
        from contain.build.cache.explain import Outcome

        self.explain(stage, Outcome.OPEN, (reason,))

    def base(self, reference: Reference, platform: Platform, span: SourceSpan) -> FoundBase:
        """The image of that name, looked up once per build. An error points at ``span``, where the name is written."""
        key = (str(reference), str(platform))
        if key not in self.found:
            here = reference.name == HOST_NAME or self.store.name_source(reference) is not None
            if self.request.cache.only_explain and not here:
                raise NotKnownYet(f"the image {reference.familiar} is not here yet")
            try:
                found = self._bases(reference, platform, self.progress)
            except ContainError as error:
                error.span = error.span or span
                stage = suggest(reference.familiar.removesuffix(":latest"), self.graph.dockerfile.stage_names)
                if isinstance(error, NotFound) and stage is not None:
                    error.remedy = f"did you mean the stage {stage!r}?"
                raise
            self.cleanup.enter_context(self.store.lease(found.image.digest))
            self.found[key] = found
        return self.found[key]

    def layout_image(self, place: ContextPlace, platform: Platform) -> Image:
        """The image of a named context that is an OCI layout, brought into the store once."""
        from contain.archive.load import load_one
        from contain.build.contexts.places import parse_layout

        self.depends_on_more = True
        if place not in self._layouts:
            path, tag, digest = parse_layout(place.value)
            image = load_one(
                HostPath(path), tag=tag, digest=digest, store=self.store, progress=self.progress, platform=platform
            )
            self.cleanup.enter_context(self.store.lease(image.digest))
            self._layouts[place] = image
            names = sorted(name for name, named in self.graph.contexts.items() if named == place)
            self.trace.remotes += [layout_source(name, image.digest) for name in names]
        return self._layouts[place]

    def hold_network(self) -> None:
        """Keep the bridge of the containers from now to the end of the build: making and removing it for each step takes longer than
        most steps."""
        from contain.linux.network import hold
        from contain.linux.usernamespace import owns_network

        if not self._holds_network and owns_network():
            self._holds_network = True
            self.cleanup.enter_context(hold(run_home=run_home()))

    def skeletons(self) -> HostPath:
        """A directory for the mount points that the build's containers share."""
        if self._skeletons is None:  # the first container of this build: what killed ones left goes now
            from contain.container.workspaces import sweep

            sweep(run_home())
            self._skeletons = self.cleanup.enter_context(self.store.scratch("skeletons"))
        return self._skeletons

    def context_tree(self) -> ContextTree | None:
        """The build context, opened once; None when the build has none."""
        if self._context is None and self.request.context is not None:
            tree = ContextTree(
                self.request.context,
                ignore=self.sources.ignore,
                strict=self.request.strict_modes,
                epoch_seconds=self.epoch_seconds,
                index=self.index,
            )
            self._context = self.cleanup.enter_context(tree)
        return self._context

    def named_context_tree(self, place: ContextPlace) -> ContextTree:
        """The files of a named context, opened once. Raises `NotFound`, `NotSupported`."""
        from contain.build.contexts.opening import open_context

        self.depends_on_more |= place.kind is not ContextKind.DIRECTORY
        if place not in self._named:
            opened = self.cleanup.enter_context(
                open_context(
                    place,
                    standard_input=io.BytesIO(),
                    store=self.store,
                    progress=self.progress,
                    keep_git=keeps_git_directory(self.request.build_args),
                )
            )
            if opened.directory is None:
                raise UsageError(f"the context {place.value!r} holds no files", code="context")
            if opened.source is not None:
                self.trace.remotes.append(opened.source)
            texts = {} if opened.name else read_ignore_files(None, opened.directory)
            self._texts.update(texts)
            tree = ContextTree(
                opened.directory,
                ignore=parse_ignore_files(texts),
                strict=self.request.strict_modes,
                epoch_seconds=self.epoch_seconds,
                index=self.index,
            )
            self._named[place] = self.cleanup.enter_context(tree)
        return self._named[place]

    def inputs(self) -> BuildInputs | None:
        """What the build looked at, so far; None where that is not all."""
        trees = [self._context, *self._named.values()]
        if self.depends_on_more or self.request.context_name or not all(found.source.local for found in self.found.values()):
            return None
        return BuildInputs(
            trees=tuple((tree.directory, tuple(tree.observed())) for tree in trees if tree is not None),
            names=MappingProxyType({name: found.image.digest for (name, _), found in self.found.items()}),
            texts=MappingProxyType(self._texts),
        )

    def trees(self, config: ImageConfig, fingerprint: str) -> tuple[HostPath, ...]:
        """The layer trees of an image in the making, the lowest first."""
        trees = tuple(self.store.layer_tree(diff_id) for diff_id in config.diff_ids)
        return (Path("/"), *trees) if fingerprint else trees

    def stage_trees(self, stage: Stage) -> tuple[HostPath, ...]:
        """What a stage's next step stands on."""
        return self.trees(stage.state.config, stage.fingerprint)

    @contextlib.contextmanager
    def upper(self, trees: tuple[HostPath, ...], *, away_from_root: bool = False) -> Iterator[tuple[HostPath, HostPath]]:
        """A scratch directory and in it an upper directory that has the merged root's own attributes.

        ``away_from_root``: not on the machine's root's own file system, where memory can take its place.
        """
        from contain.container.workspaces import memory_takes_attributes

        with contextlib.ExitStack() as stack:
            if away_from_root and memory_takes_attributes():
                scratch = stack.enter_context(open_memory_directory())
            else:
                scratch = stack.enter_context(self.store.scratch("build-step"))
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

    def copies(self, stage: Stage, trees: tuple[HostPath, ...]) -> bool:
        """Whether what is to be written upon these layers is written to a copy of them, since no overlay is to be had."""
        from contain.container.storage import Storage, storage_for

        return storage_for(trees, self.store.home, thrown_away=False, say=stage.progress.warn) is Storage.COPY

    def normalise(self, stage: Stage, upper: HostPath, trees: tuple[HostPath, ...], *, started_seconds: int, text: str) -> None:
        """Take the noise out of what a RUN wrote, if that is wanted, and say so. ``text``: what the author wrote for the step."""
        if not self.request.reproducible:
            return
        from contain.build.normalise import StepFacts, normalise

        step = StepFacts(
            epoch_seconds=self.epoch_seconds,
            started_seconds=started_seconds,
            ended_seconds=int(time.time()),
            identity=stage.chain,
            text=text,
        )
        found = normalise(upper, trees, step)
        if found.counts:
            stage.outcome["normalised"] = dict(found.counts)
            stage.progress.note(found.render())

    def note_replaced(self, record: StepRecord) -> None:
        """A step that is in the cache was carried out again: what the cache had stays here until the build's end."""
        replaced = self.store.find_step(record.key)
        if replaced is not None and self.hold(replaced.diff_id):
            self.replaced.append((replaced, record))

    def commit(self, upper: HostPath, trees: tuple[HostPath, ...]) -> CommittedLayer | None:
        """Make a layer of what a step wrote; None when it changed nothing."""
        if _is_untouched(upper, trees):
            return None
        return self.store.commit_layer(upper, lower=trees, epoch_seconds=self.epoch_seconds)


def _is_untouched(upper: HostPath, trees: tuple[HostPath, ...]) -> bool:
    """Whether an upper directory is as `Workbench.upper` made it: seen at a glance, without the store's long look."""
    with os.scandir(upper) as entries:
        if next(entries, None) is not None:
            return False
    found = upper.stat()
    names = {name for name in os.listxattr(upper) if not name.startswith(("user.overlay.", "trusted.overlay."))}
    with RootView(trees) as view:
        root = view.lookup("/")
        if root is None:
            return False
        owner = (root.uid, root.gid) if os.geteuid() == 0 else (found.st_uid, found.st_gid)
        return (
            stat.S_IMODE(found.st_mode) == root.mode
            and (found.st_uid, found.st_gid) == owner
            and {name: os.getxattr(upper, name) for name in names} == dict(root.xattrs)
        )
