"""A part of a tree, chosen by patterns: what ``--exclude`` leaves of a source, and what ``--parents`` takes of it. Reads only names.

Patterns are relative to the source's directory and follow the rules of ``.dockerignore``: one that matches a directory holds for
everything below it. A directory that is not wanted itself is there all the same where something wanted is below it.

Source of the rules: BuildKit's ``fsutil/copy`` (IncludePatterns, ExcludePatterns).
"""

from __future__ import annotations

from contain.build.trees.tree import Kind, Node, Tree, join
from contain.dockerfile.patterns import IgnorePatterns


class FilteredTree:
    """A `Tree` that shows of the directory ``root`` only what ``include`` (None: everything) matches and ``exclude`` does not."""

    def __init__(
        self, tree: Tree, root: str, *, include: IgnorePatterns | None = None, exclude: IgnorePatterns | None = None
    ) -> None:
        self._tree, self._root = tree, root
        self._include, self._exclude = include, exclude
        self._shown: dict[str, bool] = {}

    def _relative(self, path: str) -> str:
        return path.removeprefix(self._root).lstrip("/")

    def _wanted(self, relative: str) -> bool:
        if self._include is not None and not self._include.ignores(relative):
            return False
        return self._exclude is None or not self._exclude.ignores(relative)

    def only_on_the_way(self, path: str) -> bool:
        """Whether a directory is shown only for what is below it."""
        relative = self._relative(path)
        return bool(relative) and not self._wanted(relative)

    def _shows(self, node: Node) -> bool:
        relative = self._relative(node.path)
        known = self._shown.get(relative)
        if known is None:
            known = self._wanted(relative) or (
                node.kind is Kind.DIRECTORY and self._may_hold(relative) and bool(self.listdir(node.path))
            )
            self._shown[relative] = known
        return known

    def _may_hold(self, relative: str) -> bool:
        """Whether a directory that is not wanted can hold something that is. May say yes wrongly, never no."""
        if self._exclude is not None and self._exclude.prunes(relative):
            return False
        return self._include is None or self._include.ignores(relative) or self._include.reaches_below(relative)

    def lookup(self, path: str) -> Node | None:
        """The entry at a path, if it is shown."""
        node = self._tree.lookup(path)
        if node is None or path == self._root:
            return node
        return node if self._shows(node) else None

    def listdir(self, path: str) -> tuple[str, ...]:
        """The names that are shown, sorted bytewise."""
        names = []
        for name in self._tree.listdir(path):
            node = self._tree.lookup(join(path, name))
            if node is not None and self._shows(node):
                names.append(name)
        return tuple(names)

    def open(self, path: str) -> int:
        """A descriptor on a file."""
        return self._tree.open(path)

    def digest(self, path: str) -> str:
        """A file's digest."""
        return self._tree.digest(path)
