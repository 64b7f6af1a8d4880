"""Carries out a `CopyPlan`: reads from trees, writes through an `UpperWriter`. Decides nothing about names.

From the build context entries arrive as the context shows them (owner 0:0, portable modes, the build's time). From a stage or an
image they keep owner, mode, time and attributes, as every builder does, whatever the reference manual says about 0:0.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache

from contain.build.copy.filtering import FilteredTree
from contain.build.copy.selection import Batch, CopyPlan
from contain.build.copy.writer import Attributes, UpperWriter
from contain.build.trees.tree import Kind, Node, Tree, join
from contain.dockerfile.literals import ModeChange
from contain.errors import Conflict
from contain.values import dataclass

CREATED_DIRECTORY_MODE = 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions:
    """``owner`` and ``mode`` replace what the sources have; None keeps it."""

    owner: tuple[int, int] | None = None
    mode: ModeChange | None = None

    @property
    def created_directory(self) -> Attributes:
        """What a directory gets that only exists because the destination names it. A mode in octal is for it, too."""
        user_id, group_id = self.owner or (0, 0)
        mode = None if self.mode is None else self.mode.absolute
        return Attributes(mode=CREATED_DIRECTORY_MODE if mode is None else mode, user_id=user_id, group_id=group_id)


def perform_copy(
    plan: CopyPlan,
    batches: Sequence[Batch],
    writer: UpperWriter,
    options: CopyOptions,
    *,
    warn: Callable[[str], None],
) -> None:
    """Everything the plan names; its placements are those of the batches, in order."""
    for directory in plan.directories:
        writer.ensure_directory(directory, options.created_directory)
    links: dict[tuple[int, int], str] = {}
    trees = [batch.tree for batch in batches for _ in batch.selected]
    for placement, tree in zip(plan.placements, trees, strict=True):
        _copy_node(placement.source, placement.target, tree, writer, options, links, warn, top=True)


def _attributes(node: Node, options: CopyOptions) -> Attributes:
    if node.xattrs:
        return _own_attributes(node, options)
    return _shared_attributes(options, node.kind, node.mode, node.user_id, node.group_id, node.mtime_ns)


@lru_cache(maxsize=256)
def _shared_attributes(options: CopyOptions, kind: Kind, mode: int, user_id: int, group_id: int, mtime_ns: int) -> Attributes:
    """Most files of a copy have the same: made once."""
    node = Node(path="", kind=kind, mode=mode, user_id=user_id, group_id=group_id, mtime_ns=mtime_ns)
    return _own_attributes(node, options)


def _own_attributes(node: Node, options: CopyOptions) -> Attributes:
    user_id, group_id = options.owner or (node.user_id, node.group_id)
    mode = node.mode
    if options.mode is not None and node.kind is not Kind.SYMLINK:
        mode = options.mode.apply(mode, is_directory=node.kind is Kind.DIRECTORY)
    return Attributes(mode=mode, user_id=user_id, group_id=group_id, mtime_ns=node.mtime_ns, xattrs=node.xattrs)


def _copy_directory(node: Node, target: str, tree: Tree, writer: UpperWriter, options: CopyOptions) -> None:
    """A directory below the named one. One that is only on the way to what is wanted changes nothing but the mode of what is there."""
    if isinstance(tree, FilteredTree) and tree.only_on_the_way(node.path):
        there = writer.lookup(target)
        if there is not None and there.kind is Kind.DIRECTORY:
            kept = Attributes(mode=node.mode, user_id=there.user_id, group_id=there.group_id, xattrs=there.xattrs)
            writer.put_directory(target, kept)
            return
    writer.put_directory(target, _attributes(node, options))


def _copy_file(node: Node, target: str, tree: Tree, writer: UpperWriter, attributes: Attributes) -> None:
    take = getattr(tree, "take_content", None)
    content: bytes | None = None if take is None else take(node.path)
    if content is not None:
        writer.put_file(target, content, attributes)
        return
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
    if node.kind is Kind.DIRECTORY:
        if not top:  # the named directory's own attributes stay behind: its contents are copied
            _copy_directory(node, target, tree, writer, options)
        for name in tree.listdir(node.path):
            child = tree.lookup(join(node.path, name))
            if child is not None:
                _copy_node(child, join(target, name), tree, writer, options, links, warn)
        return
    attributes = _attributes(node, options)
    if node.hard_link is not None and node.hard_link in links:
        writer.put_hard_link(target, links[node.hard_link])
        return
    if node.kind is Kind.SOCKET:
        warn(f"the socket {node.path!r} becomes an empty file: a layer cannot hold sockets")
        writer.put_file(target, b"", attributes)
    elif node.kind is Kind.FILE:
        _copy_file(node, target, tree, writer, attributes)
    elif node.kind is Kind.SYMLINK:
        writer.put_symlink(target, node.link_target, attributes)
    else:
        writer.put_special(target, node.kind, node.device, attributes)
    if node.hard_link is not None:
        links[node.hard_link] = target
