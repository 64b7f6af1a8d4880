"""Carries out a `CopyPlan`: reads from a `Tree`, writes through an `UpperWriter`. Decides nothing about names.

From the build context entries arrive as the context shows them (owner 0:0, portable modes, the build's time). From a stage or an
image they keep owner, mode, time and attributes, as every builder does, whatever the reference manual says about 0:0.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from contain.build.selection import CopyPlan, Placement
from contain.build.tree import Kind, Node, Tree, join
from contain.build.writer import Attributes, UpperWriter
from contain.dockerfile.literals import ModeChange
from contain.errors import Conflict
from contain.values import dataclass

CREATED_DIRECTORY_MODE = 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions:
    """``owner`` and ``mode`` replace what the sources have; None keeps it."""

    owner: tuple[int, int] | None = None
    mode: ModeChange | None = None


def perform_copy(
    plan: CopyPlan,
    tree: Tree,
    writer: UpperWriter,
    options: CopyOptions,
    *,
    warn: Callable[[str], None],
    unpack: Unpack | None = None,
) -> None:
    """Everything the plan names. ``unpack`` is asked first for each named regular file; it answers whether it took it."""
    user_id, group_id = options.owner or (0, 0)
    for directory in plan.directories:
        writer.ensure_directory(directory, Attributes(mode=CREATED_DIRECTORY_MODE, user_id=user_id, group_id=group_id))
    links: dict[tuple[int, int], str] = {}
    for placement in plan.placements:
        if unpack is not None and placement.source.kind is Kind.FILE and not placement.was_link and unpack(placement):
            continue
        _copy_node(placement.source, placement.target, tree, writer, options, links, warn, top=True)


Unpack = Callable[[Placement], bool]


def _attributes(node: Node, options: CopyOptions) -> Attributes:
    user_id, group_id = options.owner or (node.user_id, node.group_id)
    mode = node.mode
    if options.mode is not None and node.kind is not Kind.SYMLINK:
        mode = options.mode.apply(mode, is_directory=node.kind is Kind.DIRECTORY)
    return Attributes(mode=mode, user_id=user_id, group_id=group_id, mtime_ns=node.mtime_ns, xattrs=node.xattrs)


def _copy_node(
    node: Node,
    target: str,
    tree: Tree,
    writer: UpperWriter,
    options: CopyOptions,
    links: dict[tuple[int, int], str],
    warn: Callable[[str], None],
    *,
    top: bool = False,
) -> None:
    attributes = _attributes(node, options)
    if node.kind is Kind.DIRECTORY:
        if not top:  # the named directory's own attributes stay behind: its contents are copied
            writer.put_directory(target, attributes)
        for name in tree.listdir(node.path):
            child = tree.lookup(join(node.path, name))
            if child is not None:
                _copy_node(child, join(target, name), tree, writer, options, links, warn)
        return
    if node.hard_link is not None and node.hard_link in links:
        writer.put_hard_link(target, links[node.hard_link])
        return
    if node.kind is Kind.SOCKET:
        warn(f"socket {node.path!r} is not copied: a layer cannot hold sockets")
        return
    if node.kind is Kind.FILE:
        descriptor = tree.open(node.path)
        try:
            before = os.fstat(descriptor)
            writer.put_file(target, descriptor, attributes)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if (before.st_size, before.st_mtime_ns, before.st_ctime_ns) != (after.st_size, after.st_mtime_ns, after.st_ctime_ns):
            # What was copied may be half old, half new, and not what the cache key was made from.
            raise Conflict(f"{node.path!r} changed while it was copied", code="context-changed", remedy="start the build again")
    elif node.kind is Kind.SYMLINK:
        writer.put_symlink(target, node.link_target, attributes)
    else:
        writer.put_special(target, node.kind, node.device, attributes)
    if node.hard_link is not None:
        links[node.hard_link] = target
