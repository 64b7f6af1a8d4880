"""Carries out WORKDIR: makes the directory, unless it is there."""

from __future__ import annotations

from contain.build.cache.keys import workdir_ingredients
from contain.build.cache.steps import cached_layer
from contain.build.copy.perform import CREATED_DIRECTORY_MODE
from contain.build.copy.writer import Attributes, UpperWriter
from contain.build.steps import WorkdirStep
from contain.build.tasks import Work
from contain.build.trees.tree import Kind
from contain.build.trees.view import ViewTree
from contain.build.workbench import Stage, Workbench
from contain.errors import UsageError
from contain.paths import HostPath
from contain.store import RootView, StepRecord
from contain.store.layers import CommittedLayer


def perform_workdir(bench: Workbench, stage: Stage, step: WorkdirStep, number: int) -> Work[StepRecord | None]:
    """The layer's record, or None where the directory is there already."""
    trees = bench.stage_trees(stage)
    with RootView(trees) as view:
        entry = view.lookup(step.path)
        lower = ViewTree(view)
        if entry is not None or step.path == "/":
            if entry is not None and entry.kind.value != Kind.DIRECTORY.value:
                raise UsageError(f"{step.path} is not a directory", code="not-a-directory", span=step.instruction.span)
            return None
        ingredients = workdir_ingredients(step, base=stage.chain, epoch_seconds=bench.epoch_seconds)

        def execute() -> Work[CommittedLayer | None]:
            user_id, group_id = _owner(step.user, trees)
            with bench.upper(trees) as (_, upper):
                with UpperWriter(upper, lower=lower.lookup, epoch_seconds=bench.epoch_seconds) as writer:
                    attributes = Attributes(mode=CREATED_DIRECTORY_MODE, user_id=user_id, group_id=group_id)
                    writer.ensure_directory(writer.resolve(step.path), attributes)
                return bench.commit(upper, trees)
            yield from ()

        return (yield from cached_layer(bench, stage, number, ingredients, execute))


def _owner(user: str, trees: tuple[HostPath, ...]) -> tuple[int, int]:
    if not user:
        return 0, 0
    from contain.container.request.identity import parse_identity, read_account_files

    identity = parse_identity(user, *read_account_files(trees))
    return identity.user_id, identity.group_id
