"""Carries out RUN: the step's container over a fresh upper directory, whose changes become the layer."""

from __future__ import annotations

from contain.build.caching import cached_layer
from contain.build.graph import PROXY_NAMES
from contain.build.keys import run_ingredients
from contain.build.running import (
    OutputLog,
    can_execute,
    loopback_proxies,
    perform_run,
    plan_run,
    run_environment,
    write_run_files,
)
from contain.build.steps import RunStep
from contain.build.tasks import Work
from contain.build.workbench import Stage, Workbench
from contain.errors import NotSupported
from contain.store import StepRecord
from contain.store.layers import CommittedLayer


def perform_run_step(bench: Workbench, stage: Stage, step: RunStep, number: int) -> Work[StepRecord]:
    """The layer's record. Raises `BuildStepFailed`."""
    platform = stage.state.config.platform
    if not can_execute(platform, bench.host):
        raise NotSupported(
            f"RUN for {platform} on a machine that is {bench.host.platform} is not supported",
            code="foreign-platform",
            span=step.instruction.span,
            remedy="build for this machine's platform",
        )
    ingredients = run_ingredients(step, base=stage.chain, platform=platform, epoch_seconds=bench.epoch_seconds)
    return (yield from cached_layer(bench, stage, number, ingredients, lambda: _execute(bench, stage, step)))


def _execute(bench: Workbench, stage: Stage, step: RunStep) -> Work[CommittedLayer | None]:
    from contain.container import new_container_id
    from contain.container.identity import home_of, parse_identity, read_account_files
    from contain.linux.capabilities import DEFAULT_CAPABILITIES

    trees = bench.stage_trees(stage)
    passwd, group = read_account_files(trees)
    identity = parse_identity(step.user, passwd, group)
    declared = set(stage.state.arguments)
    given = {name: value for name, value in bench.graph.given.items() if name in PROXY_NAMES and name not in declared}
    environment = run_environment(step, bench.host, proxies_given=given, home=home_of(identity, passwd))
    if step.network == "default":
        for name in loopback_proxies(environment):
            stage.progress.warn(f"{name} names this machine's loopback address, which RUN cannot reach; try --network=host")
    with bench.upper(trees, away_from_root=bool(stage.fingerprint)) as (scratch, upper):
        spec = plan_run(
            step,
            bench.host,
            container_id=new_container_id(),
            layers=trees,
            upper=upper,
            environment=environment,
            identity=identity,
            files=write_run_files(step, bench.host, scratch),
            capabilities=DEFAULT_CAPABILITIES,
        )
        yield from perform_run(spec, step, OutputLog(stage.progress.log))
        return bench.commit(upper, trees)
