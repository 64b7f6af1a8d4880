"""Opens what ``--from`` names, for COPY, ADD and the mounts of RUN: a named context, a stage, or an image; or the build context."""

from __future__ import annotations

import contextlib

from contain.build.contexts.places import ContextKind
from contain.build.graph import find_source_stage
from contain.build.tasks import Work
from contain.build.trees.tree import Tree
from contain.build.trees.view import ViewTree
from contain.build.workbench import Stage, Workbench
from contain.dockerfile.instructions import Instruction
from contain.errors import UsageError
from contain.reference import parse_reference
from contain.store import RootView


def open_source(
    bench: Workbench, stage: Stage, name: str, *, instruction: Instruction, stack: contextlib.ExitStack
) -> Work[tuple[Tree, str]]:
    """The tree that ``name`` stands for, and what messages call it. An empty name is the build context. Waits for a stage.

    Raises `UsageError` (``no-context``), `NotFound`; they point at the name.
    """
    if not name:
        context = bench.context_tree()
        if context is None:
            raise UsageError(
                f"{instruction.keyword} needs a build context, and this build has none",
                code="no-context",
                span=instruction.span,
            )
        return context, "the build context"
    span = instruction.span_of(name)
    named = bench.graph.find_context(name)
    if named is not None and named.kind is ContextKind.LAYOUT:
        trees = bench.store.layer_trees(bench.layout_image(named, stage.plan.platform))
        return ViewTree(stack.enter_context(RootView(trees)), index=bench.index), f"the context {name}"
    if named is not None and named.kind is not ContextKind.IMAGE:
        return bench.named_context_tree(named), f"the context {name}"
    if named is not None:
        found = bench.base(parse_reference(named.value), stage.plan.platform, span)
        return ViewTree(stack.enter_context(RootView(found.trees)), index=bench.index), f"the image {named.value}"
    index = find_source_stage(bench.graph.dockerfile, stage.plan.index, name, span=span)
    if index is not None:
        result = yield from bench.need_stage(stage, index)
        trees = bench.trees(result.state.config, result.fingerprint)
        place = f"the stage {name}"
    else:
        found = bench.base(parse_reference(name), stage.plan.platform, span)
        trees, place = found.trees, f"the image {name}"
    return ViewTree(stack.enter_context(RootView(trees)), index=bench.index), place
