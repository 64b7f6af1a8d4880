"""Carries out COPY and ADD: what is selected in the context, a stage or an image goes into a fresh upper directory, the layer."""

from __future__ import annotations

import contextlib
import os

from contain.build.archives import is_archive, unpack_archive
from contain.build.caching import cached_layer
from contain.build.copying import CREATED_DIRECTORY_MODE, CopyOptions, perform_copy
from contain.build.keys import copy_ingredients
from contain.build.owners import parse_owner
from contain.build.selection import CopyPlan, Placement, digest_selection, plan_copy, select_sources
from contain.build.source_trees import open_source
from contain.build.steps import CopyStep
from contain.build.tasks import Work
from contain.build.tree import Kind, Tree, join, parent_of
from contain.build.viewtree import ViewTree
from contain.build.workbench import Stage, Workbench
from contain.build.writer import Attributes, UpperWriter
from contain.paths import HostPath
from contain.store import RootView, StepRecord
from contain.store.layers import CommittedLayer


def perform_copy_step(bench: Workbench, stage: Stage, step: CopyStep, number: int) -> Work[StepRecord]:
    """The layer's record. Raises `NotFound` and `UsageError` that point at the source or destination."""
    trees = bench.stage_trees(stage)
    span = step.instruction.span
    with contextlib.ExitStack() as stack:
        tree, place = yield from _source_tree(bench, stage, step, stack)
        selected, empty = select_sources(tree, step.sources, place=place, span=span)
        for pattern in empty:
            stage.progress.warn(f"{step.instruction.keyword}: nothing in {place} matches {pattern!r}")
        inputs = digest_selection(tree, selected)
        ingredients = copy_ingredients(step, base=stage.chain, inputs=inputs, epoch_seconds=bench.epoch_seconds)
        lower = ViewTree(stack.enter_context(RootView(trees)))

        def execute() -> Work[CommittedLayer | None]:
            options = CopyOptions(owner=_owner(step, trees), mode=step.mode)
            with bench.upper(trees) as (_, upper):
                with UpperWriter(upper, lower=lower.lookup, epoch_seconds=bench.epoch_seconds) as writer:
                    plan = plan_copy(
                        selected,
                        step.destination,
                        writer.lookup,
                        into_directory=len(selected) + len(step.documents) > 1 and bool(step.documents),
                        span=span,
                    )
                    _perform(bench, stage, step, plan, tree, writer, options)
                return bench.commit(upper, trees)
            yield from ()

        return (yield from cached_layer(bench, stage, number, ingredients, execute))


def _perform(
    bench: Workbench, stage: Stage, step: CopyStep, plan: CopyPlan, tree: Tree, writer: UpperWriter, options: CopyOptions
) -> None:
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
                epoch_seconds=bench.epoch_seconds,
                owner=options.owner,
                mode=options.mode,
                warn=stage.progress.warn,
            )
            return True

    perform_copy(plan, tree, writer, options, warn=stage.progress.warn, unpack=unpack if step.unpack else None)
    _write_documents(step, writer, options)


def _write_documents(step: CopyStep, writer: UpperWriter, options: CopyOptions) -> None:
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


def _owner(step: CopyStep, trees: tuple[HostPath, ...]) -> tuple[int, int] | None:
    if step.chown is None:
        return None
    from contain.container.identity import read_account_files

    return parse_owner(step.chown, *read_account_files(trees), span=step.instruction.span_of("--chown"))


def _source_tree(bench: Workbench, stage: Stage, step: CopyStep, stack: contextlib.ExitStack) -> Work[tuple[Tree, str]]:
    """The tree that the sources are looked up in, and its name for messages."""
    if not step.sources and step.source_name is None:  # heredocs only
        return ViewTree(RootView(())), "the Dockerfile"
    return (yield from open_source(bench, stage, step.source_name or "", instruction=step.instruction, stack=stack))
