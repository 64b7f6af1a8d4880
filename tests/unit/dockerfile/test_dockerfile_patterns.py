from __future__ import annotations

import pytest

from contain.dockerfile import IgnorePatterns, clean_path, has_wildcard, match_wildcard, parse_dockerignore
from contain.errors import UsageError


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("abc", "abc", True),
        ("*", "abc", True),
        ("*", ".abc", True),
        ("*c", "abc", True),
        ("a*", "a", True),
        ("a*", "abc", True),
        ("a*", "ab/c", False),
        ("a*/b", "abc/b", True),
        ("a*/b", "a/c/b", False),
        ("a*b*c*d*e*/f", "axbxcxdxe/f", True),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/f", True),
        ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", False),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", False),
        ("a*b?c*x", "abxbbxdbxebxczzx", True),
        ("a*b?c*x", "abxbbxdbxebxczzy", False),
        ("ab[c]", "abc", True),
        ("ab[b-d]", "abc", True),
        ("ab[e-g]", "abc", False),
        ("ab[^c]", "abc", False),
        ("ab[^e-g]", "abc", True),
        ("a\\*b", "a*b", True),
        ("a\\*b", "ab", False),
        ("a?b", "a☺b", True),
        ("a[^a]b", "a☺b", True),
        ("a???b", "a☺b", False),
        ("[a-ζ]*", "β", True),
        ("*[a-ζ]", "A", False),
        ("a?b", "a/b", False),
        ("a*b", "a/b", False),
        ("[\\]a]", "]", True),
        ("[\\-]", "-", True),
        ("[x\\-]", "x", True),
        ("[x\\-]", "z", False),
        ("[\\-x]", "-", True),
        ("[z-a]", "m", False),
        ("[^z-a]", "m", True),
        ("*x", "xxx", True),
        ("**", "abc", True),
        ("**", "a/b", False),
        ("", "", True),
        ("a", "a\n", False),
        ("a*", "a\nb", True),
        ("[[&&~~||--]", "", None),
        ("[[&~|]", "&", True),
    ],
)
def test_wildcards_match_as_in_go(pattern: str, name: str, expected: bool | None) -> None:
    if expected is None:
        with pytest.raises(UsageError):
            match_wildcard(pattern, name)
    else:
        assert match_wildcard(pattern, name) is expected


@pytest.mark.parametrize("pattern", ["[]a]", "[-]", "[x-]", "[-x]", "\\", "[a-b-c]", "[", "[^", "[^bc", "a[", "a[\\", "x[a-"])
def test_an_unfinished_wildcard_is_an_error_whatever_the_name(pattern: str) -> None:
    for name in ("a", "", "xyz"):
        with pytest.raises(UsageError) as caught:
            match_wildcard(pattern, name)
        assert caught.value.code == "bad-pattern"


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("**", "file", True),
        ("**/", "file", True),
        ("**", "dir/file", True),
        ("**/**", "dir/file", True),
        ("dir/**", "dir/file", True),
        ("dir/**", "dir/dir2/file/", True),
        ("**/dir", "dir", True),
        ("**/dir", "dir/file", True),
        ("**/dir2/*", "dir/dir2/file", True),
        ("**/dir2/**", "dir/dir2/dir3/file", True),
        ("**file", "file", True),
        ("**file", "dir/file", True),
        ("**file", "dir/dir/file", True),
        ("**file", "dir/myfile", True),
        ("**/file", "dir/myfile", False),
        ("**/file*", "dir/dir/file.txt", True),
        ("**/file*txt", "dir/dir/file.txt", True),
        ("**/file*.txt*", "dir/dir/file.txt", True),
        ("**/**/*.txt", "dir/dir/file.txt", True),
        ("**/**/*.txt2", "dir/dir/file.txt", False),
        ("**/*.txt", "file.txt", True),
        ("**/**/*.txt", "file.txt", True),
        ("a**/*.txt", "a/file.txt", True),
        ("a**/*.txt", "a/dir/file.txt", True),
        ("a/*.txt", "a/dir/file.txt", False),
        ("a/*.txt", "a/file.txt", True),
        ("a/*.txt**", "a/file.txt", True),
        ("a[b-d]e", "ae", False),
        ("a[b-d]e", "ace", True),
        ("a[^b-d]e", "aze", True),
        (".*", ".foo", True),
        (".*", "foo", False),
        ("abc.def", "abcZdef", False),
        ("abc?def", "abcZdef", True),
        ("abc?def", "abcdef", False),
        ("a\\\\", "a\\", True),
        ("a\\*b", "a*b", True),
        ("**/foo/bar", "dir/dir2/foo/bar", True),
        ("abc/**", "abc", False),
        ("abc/**", "abc/def/ghi", True),
        ("**/.foo", "bar.foo", False),
        ("a(b)c/def", "a(b)c/def", True),
        ("a.|)$(}+{bc", "a.|)$(}+{bc", True),
        ("foo", "dir/foo", False),
        ("foo", "foo/bar/baz", True),
        ("/foo", "foo", True),
        ("./foo/../bar", "bar", True),
        ("foo/", "foo/bar", True),
        ("***", "a/b", True),
        ("*", "a/b", True),
    ],
)
def test_an_ignore_pattern_matches_a_path_or_what_is_above_it(pattern: str, path: str, expected: bool) -> None:
    assert parse_dockerignore(pattern).ignores(path) is expected


@pytest.mark.parametrize(
    ("patterns", "path", "expected"),
    [
        (["**", "!util/docker/web"], "util/docker/web/foo", False),
        (["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/foo", True),
        (["**", "!dist/*.whl"], "dist/a.whl", False),
        (["docs", "!docs/README.md"], "docs/README.md", False),
        (["docs/*", "!docs/README.md"], "docs/README.md", False),
        (["docs", "!docs/README.md"], "docs/other.md", True),
        (["!a.go", "*.go"], "a.go", True),
        (["*.go", "!a.go"], "a.go", False),
        (["*", "!src", "src/secret"], "src/a/b", False),
        (["*", "!src", "src/secret"], "src/secret/b", True),
        (["."], "a", False),
        ([], "a", False),
    ],
)
def test_the_last_matching_pattern_decides(patterns: list[str], path: str, expected: bool) -> None:
    assert IgnorePatterns.of(patterns).ignores(path) is expected
    assert parse_dockerignore("\n".join(patterns)).ignores(path) is expected


def test_the_context_itself_is_never_ignored() -> None:
    assert not IgnorePatterns.of(["**"]).ignores(".")
    assert not IgnorePatterns.of(["**"]).prunes("/")


def test_a_dockerignore_is_read_line_by_line() -> None:
    text = "\ufefftest1\n/test2\n/a/file/here\n\n  lastfile \r\n# this is a comment\n #not-a-comment\n! /inverted/abs/path\n"
    assert parse_dockerignore(text).patterns == (
        "test1",
        "test2",
        "a/file/here",
        "lastfile",
        "#not-a-comment",
        "!inverted/abs/path",
    )


@pytest.mark.parametrize(("line", "column"), [("!", 1), ("  ! ", 3), ("a[", 1), ("\ta\\", 2)])
def test_a_bad_line_is_shown(line: str, column: int) -> None:
    with pytest.raises(UsageError) as caught:
        parse_dockerignore(f"ok\n{line}\n", file="x.dockerignore")
    span = caught.value.span
    assert span is not None
    assert (span.file, span.line, span.column, span.text) == ("x.dockerignore", 2, column, line)


@pytest.mark.parametrize(
    ("patterns", "directory", "expected"),
    [
        (["node_modules"], "node_modules", True),
        (["node_modules"], "src", False),
        (["node_modules", "!node_modules/keep"], "node_modules", False),
        (["node_modules", "!node_modules/keep"], "node_modules/other", True),
        (["node_modules", "!src/keep"], "node_modules", True),
        (["*", "!src/**/*.py"], "docs", True),
        (["*", "!src/**/*.py"], "src/a/b", False),
        (["*", "!**/*.py"], "docs", False),
        (["*", "!d?cs/a"], "docs", False),
        (["*", "!d?cs/a"], "doccs", True),
        (["*", "!src"], "docs", True),
    ],
)
def test_a_directory_is_pruned_if_nothing_below_can_come_back(patterns: list[str], directory: str, expected: bool) -> None:
    assert IgnorePatterns.of(patterns).prunes(directory) is expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [("", "."), ("a//b/./c/..", "a/b"), ("../a", "../a"), ("/../a", "/a"), ("//", "/"), ("a/../..", ".."), ("a/", "a")],
)
def test_paths_are_cleaned_as_in_go(path: str, expected: str) -> None:
    assert clean_path(path) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a*", True), ("a\\*", False), ("a\\\\*", True), ("a?", True), ("[a]", True), ("a]", False), ("", False)],
)
def test_wildcards_are_told_from_paths(text: str, expected: bool) -> None:
    assert has_wildcard(text) is expected
