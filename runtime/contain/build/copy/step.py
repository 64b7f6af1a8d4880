"""Carries out COPY and ADD: what is selected, here or elsewhere, goes into a fresh upper directory, the layer.

``--link``: the layer is made as if it stood on nothing, so that neither it nor its cache key depends on what it stands on. Names of
``--chown`` are still looked up in the image; then the numbers are in the key.
"""

from __future__ import annotations

import contextlib
import os

from contain.build.cache.keys import base_chain, copy_ingredients
from contain.build.cache.steps import cached_layer
from contain.build.copy.archives import is_archive, unpack_archive
from contain.build.copy.owners import parse_owner
from contain.build.copy.perform import CREATED_DIRECTORY_MODE, CopyOptions, perform_copy
from contain.build.copy.selection import Batch, Selected, digest_batches, list_batches, plan_copy
from contain.build.copy.sources import open_batches, pointing_at
from contain.build.copy.writer import Attributes, UpperWriter
from contain.build.steps import CopyStep
from contain.build.tasks import Work
from contain.build.trees.tree import Kind, Tree, join, parent_of
from contain.build.trees.view import ViewTree
from contain.build.workbench import Stage, Workbench
from contain.paths import HostPath
from contain.store import RootView, StepRecord
from contain.store.layers import CommittedLayer


def perform_copy_step(bench: Workbench, stage: Stage, step: CopyStep, number: int) -> Work[StepRecord]:
    """The layer's record. Raises `NotFound` and `UsageError` that point at the source or destination."""
    below = bench.stage_trees(stage)
    trees = () if step.link else below
    with contextlib.ExitStack() as stack:
        batches = yield from open_batches(bench, stage, step, stack)
        inputs = digest_batches(batches)
        owner = _owner(step, below) if step.link else None
        base = base_chain(()) if step.link else stage.chain
        ingredients = copy_ingredients(step, base=base, inputs=inputs, epoch_seconds=bench.epoch_seconds, owner=owner)
        lower = ViewTree(stack.enter_context(RootView(trees)))

        def execute() -> Work[CommittedLayer | None]:
            options = CopyOptions(owner=owner if step.link else _owner(step, below), mode=step.mode)
            with bench.upper(trees) as (_, upper):
                with (
                    UpperWriter(
                        upper,
                        lower=lower.lookup,
                        epoch_seconds=bench.epoch_seconds,
                        open_lower=lower.open,
                        warn=stage.progress.warn,
                    ) as writer,
                    pointing_at(step),
                ):  # what is fetched only now may fail
                    _perform(bench, stage, step, batches, writer, options)
                return bench.commit(upper, trees)
            yield from ()

        return (
            yield from cached_layer(
                bench, stage, number, ingredients, execute, listings={inputs.digest: lambda: list_batches(batches)}
            )
        )


def _perform(
    bench: Workbench,
    stage: Stage,
    step: CopyStep,
    batches: tuple[Batch, ...],
    writer: UpperWriter,
    options: CopyOptions,
) -> None:
    archives: list[tuple[Tree, Selected]] = []
    others: list[tuple[Tree, Selected]] = []
    for batch in batches:
        for item in batch.selected:
            unpacked = batch.unpack and item.node.kind is Kind.FILE and not item.was_link and _is_archive(batch.tree, item)
            (archives if unpacked else others).append((batch.tree, item))
    plan = plan_copy(
        [item for _, item in others],
        step.destination,
        writer.lookup,
        into_directory=bool(step.documents) and len(others) + len(archives) + len(step.documents) > 1,
        span=step.instruction.span,
    )
    if archives:
        _unpack(bench, stage, step, archives, writer, options)
    perform_copy(plan, [Batch(tree=tree, selected=(item,)) for tree, item in others], writer, options, warn=stage.progress.warn)
    _write_documents(step, writer, options)


def _is_archive(tree: Tree, item: Selected) -> bool:
    with os.fdopen(tree.open(item.node.path), "rb") as stream:
        return is_archive(stream)


def _unpack(
    bench: Workbench,
    stage: Stage,
    step: CopyStep,
    archives: list[tuple[Tree, Selected]],
    writer: UpperWriter,
    options: CopyOptions,
) -> None:
    """What the archives hold goes below the destination, which is a directory then."""
    target = writer.resolve(step.destination)
    user_id, group_id = options.owner or (0, 0)
    writer.ensure_directory(target, Attributes(mode=CREATED_DIRECTORY_MODE, user_id=user_id, group_id=group_id))
    for tree, item in archives:
        if step.mode is not None:
            stage.progress.warn(f"--chmod={step.chmod} is not for what is in the archive {item.node.path!r}")
        with os.fdopen(tree.open(item.node.path), "rb") as stream:
            unpack_archive(
                stream, target, writer, epoch_seconds=bench.epoch_seconds, owner=options.owner, warn=stage.progress.warn
            )


def _write_documents(step: CopyStep, writer: UpperWriter, options: CopyOptions) -> None:
    """Heredocs: files named after their word, mode 0644."""
    user_id, group_id = options.owner or (0, 0)
    for name, content in step.documents:
        target = writer.resolve(step.destination)
        there = writer.lookup(target)
        if step.destination.endswith("/") or (there is not None and there.kind is Kind.DIRECTORY):
            target = join(target, name)
        writer.ensure_directory(parent_of(target), options.created_directory)
        mode = 0o644 if options.mode is None else options.mode.apply(0o644, is_directory=False)
        writer.put_file(target, content.encode(), Attributes(mode=mode, user_id=user_id, group_id=group_id))


def _owner(step: CopyStep, trees: tuple[HostPath, ...]) -> tuple[int, int] | None:
    if step.chown is None:
        return None
    from contain.container.request.identity import read_account_files

    return parse_owner(step.chown, *read_account_files(trees), span=step.instruction.span_of("--chown"))
