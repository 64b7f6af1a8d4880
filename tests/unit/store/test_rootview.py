from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from contain.errors import IntegrityError, NotFound
from contain.store import Kind, RootView


def whiteout(path: Path) -> None:
    os.mknod(path, 0o020000, 0)


@pytest.fixture
def layers(tmp_path: Path) -> Callable[[int], list[Path]]:
    def make(number: int) -> list[Path]:
        found = [tmp_path / f"layer{index}" for index in range(number)]
        for path in found:
            path.mkdir()
        return found

    return make


def paths(view: RootView) -> list[str]:
    return [str(entry.path) for entry in view.walk()]


def test_the_upper_file_hides_the_lower_one(layers: Callable[[int], list[Path]]) -> None:
    low, high = layers(2)
    (low / "f").write_text("low")
    (high / "f").write_text("high")
    (low / "g").write_text("only low")
    with RootView([low, high]) as view:
        assert view.read("/f", limit_bytes=10) == b"high"
        assert view.read("g", limit_bytes=10) == b"only low"
        assert view.listdir("/") == ("f", "g")


def test_directories_merge_and_take_their_attributes_from_the_uppermost(layers: Callable[[int], list[Path]]) -> None:
    low, middle, high = layers(3)
    for tree, name, mode in ((low, "a", 0o700), (middle, "b", 0o711), (high, "c", 0o755)):
        (tree / "d").mkdir()
        (tree / "d" / name).touch()
        (tree / "d").chmod(mode)
    with RootView([low, middle, high]) as view:
        assert view.listdir("/d") == ("a", "b", "c")
        entry = view.lookup("/d")
        assert entry is not None
        assert entry.mode == 0o755


def test_a_whiteout_hides_everything_below_it_and_is_not_shown(layers: Callable[[int], list[Path]]) -> None:
    low, middle, high = layers(3)
    (low / "d/e").mkdir(parents=True)
    (low / "d/e/f").touch()
    (low / "f").touch()
    whiteout(middle / "d")
    whiteout(middle / "f")
    (high / "d").mkdir()
    (high / "d/new").touch()
    with RootView([low, middle, high]) as view:
        assert paths(view) == ["/", "/d", "/d/new"]
        assert view.lookup("/f") is None
        assert view.lookup("/d/e/f") is None
    with RootView([low, middle]) as view:
        assert paths(view) == ["/"]


def test_an_opaque_directory_hides_the_lower_content(layers: Callable[[int], list[Path]]) -> None:
    low, high = layers(2)
    (low / "d").mkdir()
    (low / "d/old").touch()
    (high / "d").mkdir()
    (high / "d/new").touch()
    os.setxattr(high / "d", "user.overlay.opaque", b"y")
    with RootView([low, high]) as view:
        assert view.listdir("/d") == ("new",)
        assert view.lookup("/d/old") is None


def test_a_file_in_the_middle_cuts_what_is_below_it(layers: Callable[[int], list[Path]]) -> None:
    low, middle, high = layers(3)
    (low / "d").mkdir()
    (low / "d/old").touch()
    (middle / "d").touch()
    (high / "d").mkdir()
    with RootView([low, middle, high]) as view:
        assert view.listdir("/d") == ()


@pytest.mark.parametrize("target", ["/real", "real", "../../real", "./x/../real", "/x/up/real", "again"])
def test_links_are_resolved_inside_the_root(layers: Callable[[int], list[Path]], target: str) -> None:
    low, high = layers(2)
    (low.parent / "real").mkdir()
    (low.parent / "real/f").write_text("outside")
    (low / "real").mkdir()
    (high / "real").mkdir()
    (high / "real/f").write_text("inside")
    (low / "x").mkdir()
    (low / "x/up").symlink_to("..")
    (low / "again").symlink_to("real")
    (high / "l").symlink_to(target)
    with RootView([low, high]) as view:
        assert view.read("/l/f", limit_bytes=100) == b"inside"
        entry = view.lookup("/l/f")
        assert entry is not None
        assert str(entry.path) == "/real/f"
        link = view.lookup("/l", follow=False)
        assert link is not None
        assert (link.kind, link.link_target) == (Kind.SYMLINK, target)


def test_a_link_in_a_lower_layer_may_lead_to_an_upper_one_and_back(layers: Callable[[int], list[Path]]) -> None:
    low, high = layers(2)
    (low / "lib").symlink_to("usr/lib")
    (high / "usr/lib").mkdir(parents=True)
    (high / "usr/lib/so").symlink_to("/data")
    (low / "data").write_text("found")
    with RootView([low, high]) as view:
        assert view.read("/lib/so", limit_bytes=10) == b"found"


@pytest.mark.parametrize("target", ["l", "/l", "m", "nowhere", "l/x"])
def test_a_circular_or_dangling_link_leads_to_nothing(layers: Callable[[int], list[Path]], target: str) -> None:
    (only,) = layers(1)
    (only / "l").symlink_to(target)
    (only / "m").symlink_to("l")
    with RootView([only]) as view:
        assert view.lookup("/l") is None
        assert view.lookup("/l/x") is None
        assert view.lookup("/l", follow=False) is not None


@pytest.mark.parametrize("path", ["..", "../..", "/../etc/..", ".", "", "/", "//"])
def test_the_root_is_its_own_parent(layers: Callable[[int], list[Path]], path: str) -> None:
    (only,) = layers(1)
    (only / "etc").mkdir()
    with RootView([only]) as view:
        entry = view.lookup(path)
        assert entry is not None
        assert str(entry.path) == "/"


def test_a_name_below_a_file_is_nothing(layers: Callable[[int], list[Path]]) -> None:
    (only,) = layers(1)
    (only / "f").touch()
    with RootView([only]) as view:
        assert view.lookup("/f/x") is None
        assert view.lookup("/f/..") is None
        assert view.lookup("/" + "n" * 300) is None
        with pytest.raises(NotFound):
            view.listdir("/f")
        with pytest.raises(NotFound):
            view.read("/missing", limit_bytes=1)


def test_the_walk_is_sorted_bytewise_with_parents_first(layers: Callable[[int], list[Path]]) -> None:
    low, high = layers(2)
    for tree, names in ((low, ["b/x", "a", "é"]), (high, ["b/a", "b-", "B"])):
        for name in names:
            (tree / name).parent.mkdir(exist_ok=True)
            (tree / name).touch()
    with RootView([low, high]) as view:
        assert paths(view) == ["/", "/B", "/a", "/b", "/b/a", "/b/x", "/b-", "/é"]
        assert [str(entry.path) for entry in view.walk("/b")] == ["/b", "/b/a", "/b/x"]
        assert list(view.walk("/missing")) == []


def test_entries_say_what_lstat_says(layers: Callable[[int], list[Path]]) -> None:
    (only,) = layers(1)
    (only / "f").write_bytes(b"1234")
    (only / "f").chmod(0o2754)
    os.utime(only / "f", ns=(5, 1234567890123456789))
    os.setxattr(only / "f", "user.k", b"v")
    os.link(only / "f", only / "g")
    with RootView([only]) as view:
        entry, other = view.lookup("/f"), view.lookup("/g")
        assert entry is not None
        assert other is not None
        assert (entry.kind, entry.mode, entry.size, entry.mtime_ns) == (Kind.FILE, 0o2754, 4, 1234567890123456789)
        assert (entry.uid, entry.gid, entry.device, entry.link_target) == (0, 0, (0, 0), "")
        assert dict(entry.xattrs) == {"user.k": b"v"}
        assert entry.identity == other.identity
        with entry.open() as file:
            assert file.read() == b"1234"


def test_a_pipe_or_a_socket_is_never_opened(layers: Callable[[int], list[Path]], monkeypatch: pytest.MonkeyPatch) -> None:
    (only,) = layers(1)
    os.mkfifo(only / "p")
    monkeypatch.chdir(only)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
    with RootView([only]) as view:
        for name in ("p", "s", "/"):
            with pytest.raises(NotFound, match="not a file"):
                view.read(name, limit_bytes=1)


def test_a_file_beyond_the_limit_is_refused_without_reading_it(layers: Callable[[int], list[Path]]) -> None:
    (only,) = layers(1)
    with open(only / "sparse", "wb") as file:
        file.truncate(10 << 30)
    with RootView([only]) as view, pytest.raises(IntegrityError, match="larger than 1000"):
        view.read("/sparse", limit_bytes=1000)


def test_a_layer_without_a_word_on_the_root_leaves_it_to_the_one_below(layers: Callable[[int], list[Path]]) -> None:
    found = layers(2)
    trees = []
    for path, stated, mode in ((found[0], "true", 0o711), (found[1], "false", 0o755)):
        (path / "layer.json").write_text(f'{{"root_entry": {stated}}}')
        (path / "tree").mkdir()
        (path / "tree").chmod(mode)
        trees.append(path / "tree")
    with RootView(trees) as view:
        entry = view.lookup("/")
        assert entry is not None
        assert entry.mode == 0o711


def test_many_layers_do_not_exhaust_descriptors(layers: Callable[[int], list[Path]]) -> None:
    trees = layers(120)
    for number, tree in enumerate(trees):
        for inner in range(10):
            (tree / f"d{inner}").mkdir()
            (tree / f"d{inner}" / str(number)).touch()
    gc.collect()  # what tests before this one have left
    before = len(os.listdir("/proc/self/fd"))
    with RootView(trees) as view:
        assert len(paths(view)) == 1 + 10 + 10 * 120
        assert len(os.listdir("/proc/self/fd")) - before < 600
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_layers_at_all_are_an_empty_view() -> None:
    with RootView([]) as view:
        assert view.lookup("/") is None
        assert view.lookup("/etc") is None
        assert list(view.walk()) == []


def test_the_entries_of_a_directory_are_those_that_are_listed_and_looked_up(layers: Callable[[int], list[Path]]) -> None:
    below, above = layers(2)
    for tree in (below, above):
        (tree / "d" / "inner").mkdir(parents=True)
        (tree / "d" / tree.parent.name).write_text("x")
        (tree / "d" / "both").write_text(tree.parent.name)
    (above / "d" / "link").symlink_to("both")
    with RootView([below, above]) as view:
        found = view.entries("/d")
        assert tuple(name for name, _ in found) == view.listdir("/d")
        for name, entry in found:
            same = view.lookup(f"/d/{name}", follow=False)
            assert same is not None
            assert (entry.path, entry.kind, entry.host_path, entry.identity) == (
                same.path,
                same.kind,
                same.host_path,
                same.identity,
            )
        with pytest.raises(NotFound):
            view.entries("/d/both")
