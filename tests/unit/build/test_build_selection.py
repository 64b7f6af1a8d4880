from __future__ import annotations

import hashlib

import pytest

from contain.build.copy.selection import CopyPlan, digest_selection, list_selection, plan_copy, read_listing, select_sources
from contain.build.trees.tree import Kind, Node, resolve_path
from contain.errors import NotFound, UsageError


class FakeTree:
    """``{"dir/file": "content", "link": ("-> target",), "dir": None}``; parents are made."""

    def __init__(self, files: dict[str, str | tuple[str] | None], modes: dict[str, int] | None = None) -> None:
        self.nodes = {"": Node(path="", kind=Kind.DIRECTORY, mode=0o755)}
        self.contents: dict[str, str] = {}
        for path, what in files.items():
            parts = path.split("/")
            for depth in range(1, len(parts)):
                parent = "/".join(parts[:depth])
                self.nodes.setdefault(parent, Node(path=parent, kind=Kind.DIRECTORY, mode=0o755))
            if what is None:
                self.nodes[path] = Node(path=path, kind=Kind.DIRECTORY, mode=0o755)
            elif isinstance(what, tuple):
                self.nodes[path] = Node(path=path, kind=Kind.SYMLINK, mode=0o777, link_target=what[0])
            else:
                mode = (modes or {}).get(path, 0o644)
                self.nodes[path] = Node(path=path, kind=Kind.FILE, mode=mode, size=len(what))
                self.contents[path] = what

    def lookup(self, path: str) -> Node | None:
        return self.nodes.get(path)

    def listdir(self, path: str) -> tuple[str, ...]:
        prefix = path + "/" if path else ""
        return tuple(sorted(n[len(prefix) :] for n in self.nodes if n.startswith(prefix) and n and "/" not in n[len(prefix) :]))

    def open(self, path: str) -> int:
        raise AssertionError(path)

    def digest(self, path: str) -> str:
        return "sha256:" + hashlib.sha256(self.contents[path].encode()).hexdigest()


def planned(source: FakeTree, sources: list[str], destination: str, image: FakeTree | None = None) -> CopyPlan:
    selected, _ = select_sources(source, sources, place="the context")
    return plan_copy(selected, destination, (image or FakeTree({})).lookup)


def targets(plan: CopyPlan) -> list[tuple[str, str]]:
    return [(placement.source.path, placement.target) for placement in plan.placements]


TREE = FakeTree({"a.txt": "a", "b.txt": "b", "d/x": "x", "l": ("d",), "f": ("a.txt",), "d/up": ("../a.txt",)})


@pytest.mark.parametrize(
    ("sources", "destination", "expected"),
    [
        (["a.txt"], "/new", [("a.txt", "new")]),
        (["a.txt"], "/new/", [("a.txt", "new/a.txt")]),
        (["a.txt"], "/etc", [("a.txt", "etc/a.txt")]),
        (["f"], "/etc", [("a.txt", "etc/f")]),
        (["d"], "/new", [("d", "new")]),
        (["d/"], "/etc/", [("d", "etc")]),
        (["l"], "/new", [("d", "new")]),
        (["*.txt"], "/new/", [("a.txt", "new/a.txt"), ("b.txt", "new/b.txt")]),
        (["/a.txt"], "/link/", [("a.txt", "etc/a.txt")]),
        (["../../a.txt"], "/x", [("a.txt", "x")]),
        (["d/up"], "/x", [("a.txt", "x")]),
        (["l/x"], "/x", [("d/x", "x")]),
        (["."], "/x", [("", "x")]),
        (["[ab].tx?"], "/x/", [("a.txt", "x/a.txt"), ("b.txt", "x/b.txt")]),
    ],
)
def test_where_a_source_goes(sources: list[str], destination: str, expected: list[tuple[str, str]]) -> None:
    image = FakeTree({"etc/passwd": "p", "link": ("/etc",)})
    assert targets(planned(TREE, sources, destination, image)) == expected


def test_several_matches_need_a_directory() -> None:
    with pytest.raises(UsageError, match="several files match"):
        planned(TREE, ["*.txt"], "/new")


def test_a_file_where_a_directory_must_be_is_an_error() -> None:
    image = FakeTree({"file": "x"})
    for sources, destination in ((["d"], "/file"), (["a.txt"], "/file/")):
        with pytest.raises(UsageError, match="non-directory"):
            planned(TREE, sources, destination, image)


def test_a_missing_source_suggests_its_neighbour() -> None:
    with pytest.raises(NotFound, match=r"did you mean 'a\.txt'"):
        select_sources(TREE, ["a.tx"], place="the context")


def test_a_wildcard_that_matches_nothing_is_reported_not_raised() -> None:
    selected, empty = select_sources(TREE, ["*.none", "a.txt"], place="the context")
    assert [item.name for item in selected] == ["a.txt"]
    assert empty == ("*.none",)


def digest(tree: FakeTree, *sources: str) -> str:
    return digest_selection(tree, select_sources(tree, sources, place="x")[0]).digest


def test_the_input_digest_sees_names_modes_contents_kinds_and_link_targets() -> None:
    base = digest(FakeTree({"d/a": "1"}), "d")
    others = [
        FakeTree({"d/b": "1"}),
        FakeTree({"d/a": "2"}),
        FakeTree({"d/a": "1"}, modes={"d/a": 0o755}),
        FakeTree({"d/a": ("1",)}),
        FakeTree({"d/a": None}),
        FakeTree({"d/a": "1", "d/b": "1"}),
        FakeTree({"d/a/a": "1"}),
    ]
    assert len({base, *(digest(other, "d") for other in others)}) == len(others) + 1
    assert digest(FakeTree({"d/a": "1", "other": "x"}), "d") == base


def test_the_input_digest_sees_which_source_a_file_came_from() -> None:
    tree = FakeTree({"a/x": "1", "b/y": "2"})
    assert digest(tree, "a", "b") != digest(tree, "b", "a")


def test_the_listing_tells_files_apart() -> None:
    selected = select_sources(TREE, ["d"], place="x")[0]
    assert digest_selection(TREE, selected).entries == 3
    listing = read_listing(list_selection(TREE, selected))
    assert list(listing) == ["d", "d/up", "d/x"]
    assert listing["d/x"].startswith(" file 644 0:0 ")
    assert listing["d/up"].startswith(" symlink ")
    assert read_listing(b"") == {}
    assert read_listing(b"damaged") == {}


def test_links_resolve_inside_the_tree_and_a_loop_is_an_error() -> None:
    tree = FakeTree({"a": ("/b",), "b": ("c/../../../d",), "c": None, "d/e": "x", "loop": ("loop",)})
    assert resolve_path(tree.lookup, "/a/e") == "d/e"
    assert resolve_path(tree.lookup, "a", follow_last=False) == "a"
    assert resolve_path(tree.lookup, "missing/../x") == "x"
    with pytest.raises(UsageError, match="symbolic links"):
        resolve_path(tree.lookup, "loop")
