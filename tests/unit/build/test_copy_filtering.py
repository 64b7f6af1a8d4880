from __future__ import annotations

import pytest

from contain.build.copy.filtering import FilteredTree
from contain.build.copy.selection import walk_source
from contain.build.trees.tree import Kind, Node
from contain.dockerfile.patterns import IgnorePatterns

FILES = ("a/one.py", "a/one.txt", "a/b/two.py", "a/b/skip/three.py", "c/empty/", "top.py")


class Names:
    """A tree of names. ``asked``: the directories whose names were wanted."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self.nodes = {"": Node(path="", kind=Kind.DIRECTORY, mode=0o755)}
        self.asked: list[str] = []
        for path in paths:
            parts = path.rstrip("/").split("/")
            for depth in range(1, len(parts) + 1):
                name = "/".join(parts[:depth])
                is_file = depth == len(parts) and not path.endswith("/")
                self.nodes[name] = Node(path=name, kind=Kind.FILE if is_file else Kind.DIRECTORY, mode=0o755)

    def lookup(self, path: str) -> Node | None:
        return self.nodes.get(path)

    def listdir(self, path: str) -> tuple[str, ...]:
        self.asked.append(path)
        below = [name for name in self.nodes if name and name.rpartition("/")[0] == path]
        return tuple(sorted(name.rpartition("/")[2] for name in below))

    def open(self, path: str) -> int:
        raise AssertionError(path)

    def digest(self, path: str) -> str:
        raise AssertionError(path)


def shown(tree: FilteredTree, root: str = "") -> list[str]:
    node = tree.lookup(root)
    assert node is not None
    return [relative + ("/" if found.kind is Kind.DIRECTORY else "") for relative, found in walk_source(tree, node) if relative]


def patterns(*texts: str) -> IgnorePatterns | None:
    return IgnorePatterns.of(texts) if texts else None


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (
            (),
            (),
            ["a/", "a/b/", "a/b/skip/", "a/b/skip/three.py", "a/b/two.py", "a/one.py", "a/one.txt", "c/", "c/empty/", "top.py"],
        ),
        ((), ("**/*.py",), ["a/", "a/b/", "a/b/skip/", "a/one.txt", "c/", "c/empty/"]),
        ((), ("a",), ["c/", "c/empty/", "top.py"]),
        ((), ("a", "!a/b/two.py"), ["a/", "a/b/", "a/b/two.py", "c/", "c/empty/", "top.py"]),
        ((), ("*",), []),
        (("a/b",), (), ["a/", "a/b/", "a/b/skip/", "a/b/skip/three.py", "a/b/two.py"]),
        (("**/*.py",), (), ["a/", "a/b/", "a/b/skip/", "a/b/skip/three.py", "a/b/two.py", "a/one.py", "top.py"]),
        (("**/*.py",), ("**/skip",), ["a/", "a/b/", "a/b/two.py", "a/one.py", "top.py"]),
        (("a/*.txt",), (), ["a/", "a/one.txt"]),
        (("nothing",), (), []),
    ],
)
def test_a_directory_is_shown_if_it_is_wanted_or_holds_what_is(
    include: tuple[str, ...], exclude: tuple[str, ...], expected: list[str]
) -> None:
    assert shown(FilteredTree(Names(FILES), "", include=patterns(*include), exclude=patterns(*exclude))) == expected


def test_patterns_are_relative_to_the_directory_that_is_copied() -> None:
    assert shown(FilteredTree(Names(FILES), "a", exclude=patterns("b")), "a") == ["one.py", "one.txt"]
    assert shown(FilteredTree(Names(FILES), "a", include=patterns("b/*.py")), "a") == ["b/", "b/two.py"]


def test_a_directory_that_is_only_on_the_way_is_known() -> None:
    tree = FilteredTree(Names(FILES), "", include=patterns("a/b"))
    assert [tree.only_on_the_way(path) for path in ("", "a", "a/b", "a/b/skip")] == [False, True, False, False]


def test_directories_that_cannot_hold_what_is_wanted_are_not_read() -> None:
    names = Names((*FILES, "big/x/y"))
    assert shown(FilteredTree(names, "", include=patterns("a/b/two.py"))) == ["a/", "a/b/", "a/b/two.py"]
    assert not any(path.startswith(("big", "c", "a/b/skip")) for path in names.asked)
    names = Names((*FILES, "big/x/y"))
    shown(FilteredTree(names, "", exclude=patterns("big")))
    assert "big" not in names.asked
