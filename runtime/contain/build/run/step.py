"""Carries out RUN: the step's container over a fresh upper directory, whose changes become the layer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from contain.build.cache.steps import cached_layer
from contain.build.copy.selection import Selected, list_selection
from contain.build.graph import PROXY_NAMES
from contain.build.lock.constraints import NO_CONSTRAINTS, Constraints, constraints_of
from contain.build.record.tracing import step_text
from contain.build.run.emulation import can_execute, read_interpreters
from contain.build.run.key import ingredients_of_run, settle_network
from contain.build.run.mounts import missing_paths, refuse_unreachable, settle_targets
from contain.build.run.open_mounts import MountSource, open_mounts, read_mount_sources, remove_stubs
from contain.build.run.perform import (
    HOSTNAME,
    OutputLog,
    loopback_proxies,
    perform_run,
    plan_run,
    run_environment,
    write_run_files,
)
from contain.build.run.permissions import refuse_forbidden
from contain.build.run.special_arguments import SANDBOX_HOSTNAME
from contain.build.steps import RunStep
from contain.build.tasks import Work
from contain.build.trees.tree import Kind, join
from contain.build.trees.view import ViewTree
from contain.build.workbench import Stage, Workbench
from contain.dockerfile.mounts import MountKind, RunMount
from contain.errors import BuildStepFailed, IntegrityError, NotFound, NotSupported, UsageError
from contain.paths import HostPath
from contain.store import RootView, StepRecord
from contain.store.layers import CommittedLayer
from contain.values import replace


def perform_run_step(bench: Workbench, stage: Stage, step: RunStep, number: int) -> Work[StepRecord]:
    """The layer's record. Raises `BuildStepFailed`."""
    platform = stage.state.config.platform
    step = settle_network(step, bench.request)
    refuse_forbidden(step.instruction, network=step.network, security=step.security, allowed=bench.request.run.allowed)
    if not can_execute(platform, bench.host.platform) and not can_execute(platform, bench.host.platform, read_interpreters()):
        raise NotSupported(
            f"RUN for {platform} on a machine that is {bench.host.platform} is not supported",
            code="foreign-platform",
            span=step.instruction.span,
            remedy="build for this machine's platform, or register an interpreter with the kernel: Debian's qemu-user-static and "
            "binfmt-support do that",
        )
    with contextlib.ExitStack() as stack:
        sources = yield from read_mount_sources(bench, stage, step, stack)
        contents = _contents(step.mounts, sources)
        ingredients = ingredients_of_run(
            bench.request, step, base=stage.chain, platform=platform, epoch_seconds=bench.epoch_seconds, contents=contents
        )
        return (
            yield from cached_layer(
                bench,
                stage,
                number,
                ingredients,
                lambda: _execute(bench, stage, step, sources),
                listings=_listings(contents, sources),
            )
        )


def _contents(mounts: Sequence[RunMount], sources: Sequence[MountSource | None]) -> tuple[str, ...]:
    return tuple(
        source.digest() if source is not None and mount.kind is MountKind.BIND else ""
        for mount, source in zip(mounts, sources, strict=True)
    )


def _listings(contents: Sequence[str], sources: Sequence[MountSource | None]) -> Mapping[str, Callable[[], bytes]]:
    """For an explanation of a miss: what each bind mount showed. Whole images are not listed."""
    found: dict[str, Callable[[], bytes]] = {}
    for content, source in zip(contents, sources, strict=True):
        if content and source is not None and (source.view is None or source.node.path):
            selected = [Selected(name="", node=source.node)]
            found[content] = lambda tree=source.tree, selected=selected: list_selection(tree, selected)  # type: ignore[misc]
    return MappingProxyType(found)


def _execute(
    bench: Workbench, stage: Stage, step: RunStep, sources: Sequence[MountSource | None]
) -> Work[CommittedLayer | None]:
    """With a lock, first with its versions; if these cannot be had, without, so that the lock's check can say what moved."""
    constraints = _constraints(bench, stage, step)
    if constraints:
        try:
            return (yield from _attempt(bench, stage, step, sources, constraints))
        except BuildStepFailed as error:
            stage.progress.warn(f"{error.message} with the locked versions; trying without them, to see what moved")
    return (yield from _attempt(bench, stage, step, sources, NO_CONSTRAINTS))


def _constraints(bench: Workbench, stage: Stage, step: RunStep) -> Constraints:
    lock = bench.request.lock
    locked = None if lock is None else lock.step(stage.plan.title, step_text(step.instruction))
    return NO_CONSTRAINTS if locked is None else constraints_of(locked)


def _apt_preferences(trees: tuple[HostPath, ...]) -> str:
    """The image's own file, which ours takes the place of. Those in ``preferences.d`` stay where they are."""
    with RootView(trees) as view:
        try:
            return view.read("/etc/apt/preferences", limit_bytes=1 << 20).decode("utf-8", "surrogateescape")
        except (NotFound, IntegrityError):
            return ""


def _attempt(
    bench: Workbench,
    stage: Stage,
    step: RunStep,
    sources: Sequence[MountSource | None],
    constraints: Constraints,
) -> Work[CommittedLayer | None]:
    from contain.container.plan import stub_paths
    from contain.container.request.identity import home_of, parse_identity, read_account_files
    from contain.container.run import new_container_id
    from contain.container.storage import fill_root
    from contain.linux.capabilities import CAPABILITY_NUMBERS, DEFAULT_CAPABILITIES
    from contain.store.durable import remove_tree
    from contain.store.root_copy import extract_changes

    trees = bench.stage_trees(stage)
    passwd, group = read_account_files(trees)
    identity = parse_identity(step.user, passwd, group)
    mounts, stubs = _settle(step, sources, trees)
    declared = set(stage.state.arguments)
    given = {name: value for name, value in bench.graph.given.items() if name in PROXY_NAMES and name not in declared}
    with contextlib.ExitStack() as stack:
        scratch, upper = stack.enter_context(bench.upper(trees, away_from_root=bool(stage.fingerprint)))
        opened = yield from open_mounts(bench, stage, step, mounts, sources, scratch=scratch, stack=stack)
        environment = run_environment(
            step,
            bench.host,
            proxies_given=given,
            home=home_of(identity, passwd),
            opened=opened.environment,
            constraints=constraints,
        )
        if step.network == "default":
            for name in loopback_proxies(environment):
                stage.progress.warn(
                    f"{name} names this machine's loopback address, which RUN cannot reach; try contain build --network=host"
                )
        spec = plan_run(
            step,
            bench.host,
            container_id=new_container_id(),
            layers=trees,
            upper=upper,
            environment=environment,
            identity=identity,
            files=write_run_files(
                step,
                bench.host,
                scratch,
                constraints=constraints,
                preferences=_apt_preferences(trees) if constraints.apt else "",
            ),
            capabilities=frozenset(CAPABILITY_NUMBERS) if step.security == "insecure" else DEFAULT_CAPABILITIES,
            hostname=bench.request.build_args.get(SANDBOX_HOSTNAME) or HOSTNAME,
            opened=opened.mounts,
            options=bench.request.run,
        )
        if step.network == "default":
            bench.hold_network()
        if bench.copies(stage, trees):
            spec = replace(spec, upper=scratch / "root", copied=True)
            fill_root(spec, lasting=False)
        started_seconds = int(time.time())
        yield from perform_run(spec, step, OutputLog(stage.progress.log, secrets=opened.secrets), skeletons=bench.skeletons())
        if spec.copied:
            extract_changes(scratch / "root", trees, upper, stubs=stub_paths(spec), move=True)
            remove_tree(scratch / "root")  # or all of it would be flushed to the disk together with the layer
        remove_stubs(upper, stubs)
        bench.normalise(stage, upper, trees, started_seconds=started_seconds, text=_written(step))
        return bench.commit(upper, trees)


def _settle(
    step: RunStep, sources: Sequence[MountSource | None], trees: tuple[HostPath, ...]
) -> tuple[tuple[RunMount, ...], tuple[str, ...]]:
    """The mounts with the image's links resolved, and the names that mounting may leave in the layer."""
    if not step.mounts:
        return (), ()
    directories = [
        mount.kind in (MountKind.CACHE, MountKind.TMPFS) or (source is not None and source.node.kind is Kind.DIRECTORY)
        for mount, source in zip(step.mounts, sources, strict=True)
    ]

    def shows(number: int, path: str) -> bool:
        source = sources[number]
        return source is not None and source.tree.lookup(join(source.node.path, path)) is not None

    with RootView(trees) as view:
        lookup = ViewTree(view).lookup
        try:
            mounts = settle_targets(step.mounts, lookup, directories)
            refuse_unreachable(mounts, shows)
        except UsageError as error:
            error.span = error.span or step.instruction.span_of("--mount")
            raise
        return mounts, missing_paths(mounts, lookup)


def _written(step: RunStep) -> str:
    """What the author wrote for the step: command, script, the values of variables."""
    script = step.script.body if step.script is not None else ""
    return "\n".join((*step.arguments, script, *(value for _, value in step.environment)))
