"""A read-only tree of files as a build sees it, and the path rules on it: symbolic links inside the root, wildcards.

Decides which files a name means; never reads contents and never leaves the tree: an absolute link starts again at the tree's
root, ``..`` stops there. Paths in a tree are relative text without a leading slash; the root is ``""``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType

from contain.annotations import Protocol
from contain.dockerfile.patterns import has_wildcard, match_wildcard
from contain.errors import UsageError
from contain.values import dataclass, field

_LONGEST_LINK_CHAIN = 255


class Kind(Enum):
    """What a directory entry is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    FIFO = "fifo"
    CHARACTER = "character"
    BLOCK = "block"
    SOCKET = "socket"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One entry of a tree. ``mode`` holds the permission bits only. ``hard_link``: the same value for names of one file."""

    path: str
    kind: Kind
    mode: int
    user_id: int = 0
    group_id: int = 0
    size: int = 0
    mtime_ns: int = 0
    link_target: str = ""
    device: tuple[int, int] = (0, 0)
    hard_link: tuple[int, int] | None = None
    xattrs: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))


class Tree(Protocol):
    """Where a copy reads from."""

    def lookup(self, path: str) -> Node | None:
        """The entry at a path none of whose components is a symbolic link, except perhaps the last; None if there is none."""

    def listdir(self, path: str) -> tuple[str, ...]:
        """The names in a directory, sorted bytewise."""

    def open(self, path: str) -> int:
        """A new read-only file descriptor on a regular file; the caller closes it."""

    def digest(self, path: str) -> str:
        """``sha256:<hex>`` of a regular file's bytes."""


Lookup = Callable[[str], Node | None]


def join(directory: str, name: str) -> str:
    """A path in a tree."""
    return f"{directory}/{name}" if directory else name


def parent_of(path: str) -> str:
    """The directory that holds ``path``; the root's is the root."""
    return path.rpartition("/")[0]


def resolve_path(lookup: Lookup, path: str, *, follow_last: bool = True) -> str:
    """``path`` with every symbolic link on the way resolved inside the tree. What does not exist stays as written.

    Raises `UsageError` (code ``symlink-loop``).
    """
    rest = deque(path.split("/"))
    resolved: list[str] = []
    links = 0
    while rest:
        part = rest.popleft()
        if part in ("", "."):
            continue
        if part == "..":
            if resolved:
                resolved.pop()
            continue
        candidate = "/".join([*resolved, part])
        node = lookup(candidate)
        if node is not None and node.kind is Kind.SYMLINK and (rest or follow_last):
            links += 1
            if links > _LONGEST_LINK_CHAIN:
                raise UsageError(f"too many levels of symbolic links: /{path.strip('/')}", code="symlink-loop")
            if node.link_target.startswith("/"):
                resolved = []
            rest.extendleft(reversed(node.link_target.split("/")))
            continue
        resolved.append(part)
    return "/".join(resolved)


def match_paths(tree: Tree, pattern: str) -> tuple[str, ...]:
    """The paths that a source with wildcards names, sorted bytewise; links in directories on the way are followed."""
    found = [""]
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        following: list[str] = []
        if part == "..":
            found = [parent_of(path) for path in found]
            continue
        wild = has_wildcard(part)
        for directory in found:
            node = tree.lookup(directory)
            if node is None or node.kind is not Kind.DIRECTORY:
                continue
            names = tuple(name for name in tree.listdir(directory) if match_wildcard(part, name)) if wild else (part,)
            for name in names:
                path = join(directory, name)
                path = path if last else resolve_path(tree.lookup, path)
                if tree.lookup(path) is not None:
                    following.append(path)
        found = following
    return tuple(sorted(set(found), key=str.encode))
