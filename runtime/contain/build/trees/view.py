"""An image's merged root as a `Tree` to copy from, and as the lower side of an `UpperWriter`. Reads only."""

from __future__ import annotations

import os

from contain.build.trees.context import DigestIndex, KeptContents, NoIndex
from contain.build.trees.tree import Kind, Node, join
from contain.errors import NotFound
from contain.store import Entry, RootView
from contain.store.rootview import Kind as EntryKind

_REMEMBERED = 50_000
_KINDS = {kind: Kind(kind.value) for kind in EntryKind}


class ViewTree:
    """A `Tree` over a `RootView`, which the caller keeps open and closes."""

    def __init__(self, view: RootView, *, index: DigestIndex | None = None) -> None:
        self.view = view
        self._index: DigestIndex = index or NoIndex()
        self._listings: dict[str, tuple[str, ...]] = {}
        self._entries: dict[str, Entry] = {}  # of what was listed
        self._nodes: dict[str, Node] = {}
        self._contents = KeptContents()

    def _entry(self, path: str) -> Entry | None:
        return self._entries.get(path) or self.view.lookup("/" + path, follow=False)

    def lookup(self, path: str) -> Node | None:
        """The entry at a path without links on the way, or None."""
        node = self._nodes.get(path)
        if node is not None:
            return node
        entry = self._entry(path)
        if entry is None:
            # A root of no layers is a directory all the same.
            return None if path else Node(path="", kind=Kind.DIRECTORY, mode=0o755)
        kind = _KINDS[entry.kind]
        node = Node(
            path=path,
            kind=kind,
            mode=entry.mode,
            user_id=entry.uid,
            group_id=entry.gid,
            size=entry.size,
            mtime_ns=entry.mtime_ns,
            link_target=entry.link_target,
            device=entry.device,
            hard_link=entry.identity if kind is not Kind.DIRECTORY and entry.host_stat.st_nlink > 1 else None,
            xattrs=entry.xattrs,
        )
        if path in self._entries:
            self._nodes[path] = node
        return node

    def listdir(self, path: str) -> tuple[str, ...]:
        """The names in a directory, sorted bytewise."""
        names = self._listings.get(path)
        if names is None:
            if not path and self._entry(path) is None:
                return ()
            found = self.view.entries("/" + path)
            if len(self._entries) > _REMEMBERED:
                for cache in (self._listings, self._entries, self._nodes):
                    cache.clear()
            self._entries.update((join(path, name), entry) for name, entry in found)
            names = self._listings[path] = tuple(name for name, _ in found)
        return names

    def open(self, path: str) -> int:
        """A descriptor on a regular file."""
        return self._file(path).open_descriptor()

    def _file(self, path: str) -> Entry:
        entry = self._entry(path)
        if entry is None:
            raise NotFound(f"/{path}: no such file in the image", code="no-such-file")
        return entry

    def take_content(self, path: str) -> bytes | None:
        """What a small file held when its digest was made, once; None where it is not at hand."""
        return self._contents.take(path)

    def digest(self, path: str) -> str:
        """The file's sha256, from the index where its stat is known."""
        entry = self._file(path)
        found = self._index.lookup(entry.host_stat)
        if found is None:
            descriptor = entry.open_descriptor()
            try:
                found = self._contents.hash(path, descriptor, entry.size)
            finally:
                os.close(descriptor)
            self._index.remember(entry.host_stat, found)
        return found
