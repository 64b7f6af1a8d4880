"""Which files a COPY or ADD copies, and where each goes: the decider of the copy, and the digest of what it reads.

Source of the rules: the Dockerfile reference and BuildKit's ``solver/llbsolver/file`` with ``fsutil/copy``:

* a named or wildcard-matched source is followed if it is a symbolic link, inside its tree; links below it are copied as links;
* of a directory the contents are copied; a file goes *into* a destination that is a directory or ends with ``/``;
* the destination's links are followed inside the root; what is missing is created with mode 0755;
* a wildcard may match nothing (the caller warns); a literal source must exist.

Looks up names and hashes contents through a `Tree`; writes nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence

from contain.build.trees.tree import Kind, Lookup, Node, Tree, join, match_paths, parent_of, resolve_path
from contain.dockerfile.patterns import has_wildcard
from contain.dockerfile.suggestion import suggest
from contain.errors import InternalError, NotFound, SourceSpan, UsageError
from contain.values import dataclass

_LARGEST_LISTING_BYTES = 64 << 20
_LISTED_DIGITS = 16
"""So much of a content's digest tells two versions of a file apart, where nobody has a reason to make them look alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """One thing to copy: ``name`` is what it will be called inside a directory, ``node`` what it is after following links."""

    name: str
    node: Node
    was_link: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one or several sources select in one tree. ``unpack``: named files that are archives are to be unpacked."""

    tree: Tree
    selected: tuple[Selected, ...]
    unpack: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """``source`` goes to the canonical path ``target``; a directory's contents go into it."""

    source: Node
    target: str
    was_link: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyPlan:
    """Directories to have (with their parents), then placements in order."""

    directories: tuple[str, ...]
    placements: tuple[Placement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputDigest:
    """What a copy reads, as one digest, with the number of entries."""

    digest: str
    entries: int


def select_sources(
    tree: Tree, sources: Sequence[str], *, place: str, span: SourceSpan | None = None
) -> tuple[tuple[Selected, ...], tuple[str, ...]]:
    """What the written sources name in ``tree``, and the wildcards that match nothing.

    ``place`` names the tree in messages. Raises `NotFound` (code ``copy-source-not-found``).
    """
    selected: list[Selected] = []
    empty: list[str] = []
    for source in sources:
        paths = match_paths(tree, source) if has_wildcard(source) else (_literal(tree, source),)
        if has_wildcard(source) and not paths:
            empty.append(source)
        for path in paths:
            canonical = resolve_path(tree.lookup, path)
            node = tree.lookup(canonical)
            if node is None:
                raise _missing(tree, source, canonical, place=place, span=span)
            selected.append(Selected(name=path.rpartition("/")[2], node=node, was_link=canonical != path))
    return tuple(selected), tuple(empty)


def _literal(tree: Tree, source: str) -> str:
    """The source with ``..`` clamped and links in directories resolved; its own last name kept."""
    return resolve_path(tree.lookup, source.rstrip("/") or "/", follow_last=False)


def _missing(tree: Tree, source: str, path: str, *, place: str, span: SourceSpan | None) -> NotFound:
    remedy = ""
    excluded = getattr(tree, "excluded", None)
    if excluded is not None and excluded(path):
        remedy = "it exists, but .dockerignore excludes it"
    else:
        directory, _, name = path.rpartition("/")
        parent = tree.lookup(directory)
        if parent is not None and parent.kind is Kind.DIRECTORY:
            near = suggest(name, tree.listdir(directory))
            remedy = f"did you mean {join(directory, near)!r}?" if near else ""
    return NotFound(f"{source!r} is not in {place}", code="copy-source-not-found", span=span, remedy=remedy)


def plan_copy(
    selected: Sequence[Selected],
    destination: str,
    lookup: Lookup,
    *,
    into_directory: bool = False,
    span: SourceSpan | None = None,
) -> CopyPlan:
    """Where each selected thing goes. ``destination`` is absolute; a trailing slash (or ``into_directory``) means a directory.

    Raises `UsageError` (codes ``copy-needs-directory``, ``not-a-directory``).
    """
    wants_directory = into_directory or destination.endswith(("/", "/.")) or destination in ("", ".")
    target = resolve_path(lookup, destination)
    there = lookup(target)
    if there is not None and there.kind is not Kind.DIRECTORY and (wants_directory or _any_directory(selected)):
        raise UsageError(f"cannot copy to non-directory: /{target}", code="not-a-directory", span=span)
    is_directory = wants_directory or there is not None
    if there is not None and there.kind is not Kind.DIRECTORY:
        is_directory = False
    if len(selected) > 1 and not is_directory and not all(item.node.kind is Kind.DIRECTORY for item in selected):
        raise UsageError(
            f"several files match, and the destination {destination!r} is not a directory",
            code="copy-needs-directory",
            span=span,
            remedy=f"end it with a slash: {destination}/",
        )
    directories: list[str] = []
    placements: list[Placement] = []
    for item in selected:
        if item.node.kind is Kind.DIRECTORY:
            directories.append(target)
            placements.append(Placement(source=item.node, target=target, was_link=item.was_link))
            continue
        directories.append(target if is_directory else parent_of(target))
        path = join(target, item.name) if is_directory else target
        placements.append(Placement(source=item.node, target=path, was_link=item.was_link))
    if wants_directory and selected:
        directories.append(target)
    return CopyPlan(directories=tuple(dict.fromkeys(directories)), placements=tuple(placements))


def _any_directory(selected: Sequence[Selected]) -> bool:
    return any(item.node.kind is Kind.DIRECTORY for item in selected)


def walk_source(tree: Tree, node: Node, below: str = "") -> Iterator[tuple[str, Node]]:
    """A node and all below it as (path relative to the node, node), parents first, names sorted bytewise."""
    yield below, node
    if node.kind is Kind.DIRECTORY:
        for name in tree.listdir(node.path):
            child = tree.lookup(join(node.path, name))
            if child is None:
                raise InternalError(f"{join(node.path, name)!r} vanished while it was read")
            yield from walk_source(tree, child, join(below, name))


def digest_batches(batches: Sequence[Batch]) -> InputDigest:
    """The identity of everything that a copy reads: that of its one selection, or of all of them in order."""
    found = [digest_selection(batch.tree, batch.selected) for batch in batches]
    if len(found) == 1:
        return found[0]
    total = hashlib.sha256("".join(each.digest for each in found).encode())
    return InputDigest(digest="sha256:" + total.hexdigest(), entries=sum(each.entries for each in found))


def digest_selection(tree: Tree, selected: Sequence[Selected]) -> InputDigest:
    """The identity of everything the selection holds: names, kinds, modes, owners, link targets, attributes, contents, hard links.

    Times are no part of it, except where a tree's entries keep theirs; then they follow from content that is. A directory's digest
    is made from its own entries and from its directories' digests, so that a tree which knows a digest need not be asked again.
    """
    total = hashlib.sha256()
    count = 0
    links: dict[tuple[int, int], str] = {}
    for item in selected:
        name = "" if item.node.kind is Kind.DIRECTORY else item.name
        total.update(os.fsencode(f"{name}{describe_entry(tree, item.node, links, name)}\0"))
        count += 1
        if item.node.kind is Kind.DIRECTORY:
            digest, entries = _digest_directory(tree, item.node.path, links)
            total.update(digest)
            count += entries
    return InputDigest(digest="sha256:" + total.hexdigest(), entries=count)


def _digest_directory(tree: Tree, path: str, links: dict[tuple[int, int], str]) -> tuple[bytes, int]:
    known = getattr(tree, "digest_directory", None)
    if known is not None:
        found: tuple[bytes, int] = known(path, links)
        return found
    return digest_directory_slowly(tree, path, links)


def digest_directory_slowly(tree: Tree, path: str, links: dict[tuple[int, int], str], shown: str = "") -> tuple[bytes, int]:
    """What a directory holds, as one digest, and the number of entries: own entries first, then directory by directory."""
    lines: list[str] = []
    directories: list[str] = []
    for name in tree.listdir(path):
        node = tree.lookup(join(path, name))
        if node is None:
            raise InternalError(f"{join(path, name)!r} vanished while it was read")
        lines.append(f"{name}{describe_entry(tree, node, links, join(shown, name))}\0")
        if node.kind is Kind.DIRECTORY:
            directories.append(name)
    below = []
    count = len(lines)
    for name in directories:
        digest, entries = digest_directory_slowly(tree, join(path, name), links, join(shown, name))
        below.append(digest)
        count += entries
    return combine_digests(hash_lines(lines), below), count


def hash_lines(lines: Sequence[str]) -> bytes:
    """The digest of a directory's own entries."""
    return hashlib.sha256(os.fsencode("".join(lines))).digest()


def combine_digests(own: bytes, below: Sequence[bytes]) -> bytes:
    """The digest of a directory: of its own entries, and of its directories in order."""
    return hashlib.sha256(own + b"".join(below)).digest()


def list_selection(tree: Tree, selected: Sequence[Selected]) -> bytes:
    """Everything that `digest_selection` saw, entry by entry, in little space: for `contain.build.cache.explain`. Never compared as a
    whole: contents are told apart by the beginning of their digests. zlib of ``path NUL description NUL``...
    """
    import zlib

    links: dict[tuple[int, int], str] = {}
    pieces: list[str] = []
    for item in selected:
        base = item.node.path
        for relative, node in walk_source(tree, item.node):
            path = join(base, relative) if relative else base
            pieces += (path or ".", describe_entry(tree, node, links, path, digits=_LISTED_DIGITS))
    return zlib.compress(os.fsencode("\0".join(pieces)), 1)


def list_batches(batches: Sequence[Batch]) -> bytes:
    """`list_selection` of all of them."""
    import zlib

    pieces = [zlib.decompress(list_selection(batch.tree, batch.selected)) for batch in batches if batch.selected]
    return zlib.compress(b"\0".join(pieces), 1)


def read_listing(data: bytes) -> dict[str, str]:
    """What `list_selection` wrote: path to description. File names are bytes; what cannot be text is shown escaped."""
    import zlib

    if not data:
        return {}
    try:
        text = zlib.decompressobj().decompress(data, _LARGEST_LISTING_BYTES)
    except zlib.error:
        return {}  # of another machine's cache, and damaged: nothing depends on it
    pieces = text.decode("utf-8", "backslashreplace").split("\0")
    return dict(zip(pieces[::2], pieces[1::2], strict=False))


def describe_entry(tree: Tree, node: Node, links: dict[tuple[int, int], str], path: str, digits: int = 64) -> str:
    """One entry's identity as text: ``file 644 0:0 <sha256>`` and the like. It holds no NUL."""
    text = f" {node.kind.value} {node.mode:o} {node.user_id}:{node.group_id}"
    if node.hard_link is not None:
        first = links.setdefault(node.hard_link, path)
        if first != path:
            text += f" = {len(os.fsencode(first))}:{first}"
    if node.kind is Kind.FILE:
        text += f" {tree.digest(node.path).removeprefix('sha256:')[:digits]}"
    elif node.kind is Kind.SYMLINK:
        text += f" -> {len(os.fsencode(node.link_target))}:{node.link_target}"
    elif node.kind in (Kind.CHARACTER, Kind.BLOCK):
        text += f" {node.device[0]}:{node.device[1]}"
    for name, value in sorted(node.xattrs.items()):
        text += f" {name}={value.hex()}"
    return text
