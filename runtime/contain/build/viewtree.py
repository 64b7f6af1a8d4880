"""An image's merged root as a `Tree` to copy from, and as the lower side of an `UpperWriter`. Reads only."""

from __future__ import annotations

import os

from contain.build.context import DigestIndex, NoIndex, hash_descriptor
from contain.build.tree import Kind, Node
from contain.errors import NotFound
from contain.store import Entry, RootView


class ViewTree:
    """A `Tree` over a `RootView`, which the caller keeps open and closes."""

    def __init__(self, view: RootView, *, index: DigestIndex | None = None) -> None:
        self.view = view
        self._index: DigestIndex = index or NoIndex()

    def _entry(self, path: str) -> Entry | None:
        return self.view.lookup("/" + path, follow=False)

    def lookup(self, path: str) -> Node | None:
        """The entry at a path without links on the way, or None."""
        entry = self._entry(path)
        if entry is None:
            # A root of no layers is a directory all the same.
            return None if path else Node(path="", kind=Kind.DIRECTORY, mode=0o755)
        kind = Kind(entry.kind.value)
        return Node(
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

    def listdir(self, path: str) -> tuple[str, ...]:
        """The names in a directory, sorted bytewise."""
        if self._entry(path) is None and not path:
            return ()
        return self.view.listdir("/" + path)

    def open(self, path: str) -> int:
        """A descriptor on a regular file."""
        entry = self._entry(path)
        if entry is None:
            raise NotFound(f"/{path}: no such file in the image", code="no-such-file")
        with entry.open() as file:
            return os.dup(file.fileno())

    def digest(self, path: str) -> str:
        """The file's sha256, from the index where its stat is known."""
        entry = self._entry(path)
        if entry is None:
            raise NotFound(f"/{path}: no such file in the image", code="no-such-file")
        found = self._index.lookup(entry.host_stat)
        if found is None:
            with entry.open() as file:
                found = hash_descriptor(file.fileno())
            self._index.remember(entry.host_stat, found)
        return found
