from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contain.build.copy.selection import digest_directory_slowly, digest_selection, select_sources
from contain.build.trees.context import ContextTree
from contain.dockerfile.patterns import IgnorePatterns, parse_dockerignore
from contain.errors import Conflict


class Index:
    """Remembers everything, and counts what it is asked for file by file."""

    def __init__(self) -> None:
        self.files: dict[tuple[int, ...], str] = {}
        self.directories: dict[bytes, bytes] = {}
        self.lookups = 0

    def lookup(self, status: os.stat_result) -> str | None:
        self.lookups += 1
        return self.files.get((status.st_ino, status.st_ctime_ns, status.st_size))

    def remember(self, status: os.stat_result, digest: str) -> None:
        self.files[(status.st_ino, status.st_ctime_ns, status.st_size)] = digest

    def lookup_directories(self, states: list[bytes]) -> dict[bytes, bytes]:
        return {state: self.directories[state] for state in states if state in self.directories}

    def remember_directory(self, state: bytes, digest: bytes) -> None:
        self.directories[state] = digest


def digest_of_context(directory: Path, index: Index, *, ignore: str = "", strict: bool = False) -> str:
    with ContextTree(directory, index=index, ignore=parse_dockerignore(ignore), strict=strict) as tree:  # type: ignore[arg-type]
        selected, _ = select_sources(tree, ["."], place="here")
        return digest_selection(tree, selected).digest


def make(directory: Path) -> None:
    for name, text in {"a": "1", "d/b": "2", "d/e/c": "3", "z/q": "4"}.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (directory / "d/link").symlink_to("b")


def look_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the files had been there for a minute."""
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 60_000_000_000)


def rewrite(path: Path, text: str) -> None:
    """Write, and make sure that the clock has ticked since the last time."""
    before = path.stat().st_ctime_ns
    for _ in range(1_000_000):
        path.write_text(text)
        if path.stat().st_ctime_ns != before:
            return
    raise AssertionError("the clock stands still")


def test_an_unchanged_directory_is_not_looked_at_file_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    look_later(monkeypatch)
    index = Index()
    first = digest_of_context(tmp_path, index)
    index.lookups = 0
    assert digest_of_context(tmp_path, index) == first
    assert index.lookups == 0
    rewrite(tmp_path / "d/e/c", "33")
    assert digest_of_context(tmp_path, index) != first
    assert index.lookups == 1


@pytest.mark.parametrize(
    "change", ["content", "mode", "name", "added", "removed", "link", "kind", "moved up", "empty directory"]
)
def test_every_change_is_seen_also_where_all_digests_are_known(
    tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path)
    look_later(monkeypatch)
    index = Index()
    first = digest_of_context(tmp_path, index)
    match change:
        case "content":
            rewrite(tmp_path / "d/e/c", "X")
        case "mode":
            (tmp_path / "d/e/c").chmod(0o755)
        case "name":
            (tmp_path / "d/e/c").rename(tmp_path / "d/e/cc")
        case "added":
            (tmp_path / "d/e/new").write_text("")
        case "removed":
            (tmp_path / "d/e/c").unlink()
        case "link":
            (tmp_path / "d/link").unlink()
            (tmp_path / "d/link").symlink_to("e/c")
        case "kind":
            (tmp_path / "d/link").unlink()
            (tmp_path / "d/link").write_text("2")
        case "moved up":
            (tmp_path / "d/e").rename(tmp_path / "e")
        case "empty directory":
            (tmp_path / "d/empty").mkdir()
    assert digest_of_context(tmp_path, index) != first
    assert digest_of_context(tmp_path, Index()) == digest_of_context(tmp_path, index)


def test_what_was_written_a_moment_before_the_look_is_not_remembered(tmp_path: Path) -> None:
    """Another change within the same tick of the clock would look the same."""
    make(tmp_path)
    index = Index()
    digest_of_context(tmp_path, index)
    assert (index.files, index.directories) == ({}, {})


def test_times_umask_place_and_group_bits_are_no_part_of_it(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        make(tmp_path / name)
    for path in (tmp_path / "two").rglob("*"):
        if not path.is_symlink():
            path.chmod(0o775 if path.is_dir() else 0o664)
            os.utime(path, (1, 1))
    index = Index()
    assert digest_of_context(tmp_path / "one", index) == digest_of_context(tmp_path / "two", index)
    assert digest_of_context(tmp_path / "one", index, strict=True) != digest_of_context(tmp_path / "two", index, strict=True)


def test_what_is_ignored_is_no_part_of_a_directory_that_is_known(tmp_path: Path) -> None:
    make(tmp_path)
    index = Index()
    whole = digest_of_context(tmp_path, index)
    assert digest_of_context(tmp_path, index, ignore="d/e") != whole
    (tmp_path / "d/e/c").write_text("other")
    assert digest_of_context(tmp_path, index, ignore="d/e") == digest_of_context(tmp_path, Index(), ignore="d/e")


def test_hard_links_inside_count_and_those_to_the_outside_do_not(tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    make(context)
    index = Index()
    plain = digest_of_context(context, index)
    os.link(context / "a", tmp_path / "outside")
    assert digest_of_context(context, index) == plain
    (context / "z/copy").write_text("1")
    copied = digest_of_context(context, index)
    (context / "z/copy").unlink()
    os.link(context / "a", context / "z/copy")
    assert digest_of_context(context, index) != copied
    assert digest_of_context(context, index) == digest_of_context(context, Index())


_NAMES = st.sampled_from(["a", "b", "B", "é", "a.b", "a-b", "\udcff"])
_TREES = st.dictionaries(st.lists(_NAMES, min_size=1, max_size=3).map("/".join), st.sampled_from(["", "x", "y"]), max_size=8)


@settings(max_examples=60, deadline=None)
@given(files=_TREES)
def test_the_quick_walk_gives_what_the_plain_one_gives(tmp_path_factory: pytest.TempPathFactory, files: dict[str, str]) -> None:
    directory = tmp_path_factory.mktemp("context")
    for name, text in files.items():
        path = os.path.join(directory, name)
        if os.path.lexists(path) or any(os.path.isfile(parent) for parent in Path(path).parents):
            continue
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).write_text(text)
    index = Index()
    with ContextTree(directory, index=index) as tree:  # type: ignore[arg-type]
        quick = tree.digest_directory("", {})
    with ContextTree(directory) as tree:
        assert digest_directory_slowly(tree, "", {}) == quick
    with ContextTree(directory, index=index) as tree:  # type: ignore[arg-type]
        assert tree.digest_directory("", {}) == quick


_PATTERNS = st.lists(
    st.tuples(
        st.sampled_from(["", "!"]),
        st.sampled_from(["a", "*", "**", "a/b", "**/b", "a/**", "*/c", "b*", "?", "a/b/c", "**/c/**"]),
    ),
    min_size=1,
    max_size=4,
).map(lambda rules: ["".join(rule) for rule in rules])


@given(patterns=_PATTERNS, names=st.lists(st.sampled_from(["a", "b", "c", "ab"]), unique=True))
def test_all_names_of_a_directory_at_once_are_ignored_like_each_alone(patterns: list[str], names: list[str]) -> None:
    for directory in ("", "a", "a/b", "c"):
        ignore = IgnorePatterns.of(patterns)
        expected = {name for name in names if IgnorePatterns.of(patterns).ignores(f"{directory}/{name}" if directory else name)}
        assert ignore.ignored_names(directory, names) == expected


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_cannot_be_read_says_how_to_leave_it_out(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir(mode=0)
    with pytest.raises(Conflict, match="cannot read 'private' in the build context") as caught:
        digest_of_context(tmp_path, Index())
    assert ".dockerignore" in caught.value.remedy
    digest_of_context(tmp_path, Index(), ignore="private\n")
