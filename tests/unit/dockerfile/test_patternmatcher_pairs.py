"""The pairs of moby/patternmatcher's own tests (``patternmatcher_test.go``, ``ignorefile/ignorefile_test.go``), as tables.

The data are facts about which pattern matches which path; nothing of the code is here.
"""

from __future__ import annotations

import pytest

from contain.dockerfile import IgnorePatterns, parse_dockerignore
from contain.errors import UsageError

# ``TestMatches``: a pattern, a path, whether the path or a directory above it matches.
PAIRS = (
    ("**", "file", True),
    ("**", "file/", True),
    ("**/", "file", True),
    ("**/", "file/", True),
    ("**", "/", True),
    ("**/", "/", True),
    ("**", "dir/file", True),
    ("**/", "dir/file", True),
    ("**", "dir/file/", True),
    ("**/", "dir/file/", True),
    ("**/**", "dir/file", True),
    ("**/**", "dir/file/", True),
    ("dir/**", "dir/file", True),
    ("dir/**", "dir/file/", True),
    ("dir/**", "dir/dir2/file", True),
    ("dir/**", "dir/dir2/file/", True),
    ("**/dir", "dir", True),
    ("**/dir", "dir/file", True),
    ("**/dir2/*", "dir/dir2/file", True),
    ("**/dir2/*", "dir/dir2/file/", True),
    ("**/dir2/**", "dir/dir2/dir3/file", True),
    ("**/dir2/**", "dir/dir2/dir3/file/", True),
    ("**file", "file", True),
    ("**file", "dir/file", True),
    ("**/file", "dir/file", True),
    ("**file", "dir/dir/file", True),
    ("**/file", "dir/dir/file", True),
    ("**/file*", "dir/dir/file", True),
    ("**/file*", "dir/dir/file.txt", True),
    ("**/file*txt", "dir/dir/file.txt", True),
    ("**/file*.txt", "dir/dir/file.txt", True),
    ("**/file*.txt*", "dir/dir/file.txt", True),
    ("**/**/*.txt", "dir/dir/file.txt", True),
    ("**/**/*.txt2", "dir/dir/file.txt", False),
    ("**/*.txt", "file.txt", True),
    ("**/**/*.txt", "file.txt", True),
    ("a**/*.txt", "a/file.txt", True),
    ("a**/*.txt", "a/dir/file.txt", True),
    ("a**/*.txt", "a/dir/dir/file.txt", True),
    ("a/*.txt", "a/dir/file.txt", False),
    ("a/*.txt", "a/file.txt", True),
    ("a/*.txt**", "a/file.txt", True),
    ("a[b-d]e", "ae", False),
    ("a[b-d]e", "ace", True),
    ("a[b-d]e", "aae", False),
    ("a[^b-d]e", "aze", True),
    (".*", ".foo", True),
    (".*", "foo", False),
    ("abc.def", "abcdef", False),
    ("abc.def", "abc.def", True),
    ("abc.def", "abcZdef", False),
    ("abc?def", "abcZdef", True),
    ("abc?def", "abcdef", False),
    ("a\\\\", "a\\", True),
    ("**/foo/bar", "foo/bar", True),
    ("**/foo/bar", "dir/foo/bar", True),
    ("**/foo/bar", "dir/dir2/foo/bar", True),
    ("abc/**", "abc", False),
    ("abc/**", "abc/def", True),
    ("abc/**", "abc/def/ghi", True),
    ("**/.foo", ".foo", True),
    ("**/.foo", "bar.foo", False),
    ("a(b)c/def", "a(b)c/def", True),
    ("a(b)c/def", "a(b)c/xyz", False),
    ("a.|)$(}+{bc", "a.|)$(}+{bc", True),
    ("dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl", "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl", True),
    ("dist/*.whl", "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl", True),
    ("a\\*b", "a*b", True),
)

# ``TestMatch``: the same; None for a pattern that is an error.
SINGLE = (
    ("abc", "abc", True),
    ("*", "abc", True),
    ("*c", "abc", True),
    ("a*", "a", True),
    ("a*", "abc", True),
    ("a*", "ab/c", True),
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
    ("ab[^b-d]", "abc", False),
    ("ab[^e-g]", "abc", True),
    ("a\\*b", "a*b", True),
    ("a\\*b", "ab", False),
    ("a?b", "a☺b", True),
    ("a[^a]b", "a☺b", True),
    ("a???b", "a☺b", False),
    ("a[^a][^a][^a]b", "a☺b", False),
    ("[a-ζ]*", "\u03b1", True),
    ("*[a-ζ]", "A", False),
    ("a?b", "a/b", False),
    ("a*b", "a/b", False),
    ("[\\]a]", "]", True),
    ("[\\-]", "-", True),
    ("[x\\-]", "x", True),
    ("[x\\-]", "-", True),
    ("[x\\-]", "z", False),
    ("[\\-x]", "x", True),
    ("[\\-x]", "-", True),
    ("[\\-x]", "a", False),
    ("[]a]", "]", None),
    ("[-]", "-", None),
    ("[x-]", "x", None),
    ("[x-]", "-", None),
    ("[x-]", "z", None),
    ("[-x]", "x", None),
    ("[-x]", "-", None),
    ("[-x]", "a", None),
    ("\\", "a", None),
    ("[a-b-c]", "a", None),
    ("[", "a", None),
    ("[^", "a", None),
    ("[^bc", "a", None),
    ("a[", "a", None),
    ("a[", "ab", None),
    ("*x", "xxx", True),
)
_WHEEL = "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl"

# Several patterns, a path, whether it is left out in the end.
SEVERAL = (
    (("**", "!util/docker/web"), "util/docker/web/foo", False),
    (("**", "!util/docker/web", "util/docker/web/foo"), "util/docker/web/foo", True),
    (("**", f"!{_WHEEL}"), _WHEEL, False),
    (("**", "!dist/*.whl"), _WHEEL, False),
    (("*",), "fileutils.go", True),
    (("*.go",), "fileutils.go", True),
    (("!fileutils.go", "*.go"), "fileutils.go", True),
    (("docs", "!docs/README.md"), "docs/README.md", False),
    (("docs/", "!docs/README.md"), "docs/README.md", False),
    (("docs/*", "!docs/README.md"), "docs/README.md", False),
    (("*.go", "!fileutils.go"), "fileutils.go", False),
    (("*.go",), ".", False),
    ((), "/any/path/there", False),
    (("docs", "  !docs/README.md"), "docs/README.md", False),
    (("docs", "!docs/README.md  "), "docs/README.md", False),
    (("docs", "config", ""), "config", True),
)

DIFFERENT = {("**", "/"), ("**/", "/")}
"""The context itself: it is never left out here. BuildKit never asks for it."""


@pytest.mark.parametrize(("pattern", "path", "expected"), PAIRS)
def test_a_pair_matches_as_there(pattern: str, path: str, expected: bool) -> None:
    wanted = expected and (pattern, path) not in DIFFERENT
    assert IgnorePatterns.of([pattern]).ignores(path) is wanted
    assert parse_dockerignore(pattern + "\n").ignores(path) is wanted


@pytest.mark.parametrize(("pattern", "path", "expected"), SINGLE)
def test_a_wildcard_matches_as_there(pattern: str, path: str, expected: bool | None) -> None:
    if expected is None:
        with pytest.raises(UsageError):
            IgnorePatterns.of([pattern])
    else:
        assert IgnorePatterns.of([pattern]).ignores(path) is expected


@pytest.mark.parametrize(("patterns", "path", "expected"), SEVERAL)
def test_several_patterns_decide_as_there(patterns: tuple[str, ...], path: str, expected: bool) -> None:
    assert IgnorePatterns.of(patterns).ignores(path) is expected
    assert parse_dockerignore("\n".join(patterns)).ignores(path) is expected


@pytest.mark.parametrize("pattern", ["!", "! ", "[", "[Local-Only]/"])
def test_what_is_no_pattern_there_is_none_here(pattern: str) -> None:
    with pytest.raises(UsageError):
        IgnorePatterns.of([pattern])
    with pytest.raises(UsageError):
        parse_dockerignore(pattern)


def test_an_ignore_file_is_read_as_there() -> None:
    """Two lines of that test are only ``!``: an error when they are used there, and when they are read here."""
    text = "test1\n/test2\n/a/file/here\n\nlastfile\n# this is a comment\n! /inverted/abs/path\n"
    assert parse_dockerignore(text).patterns == ("test1", "test2", "a/file/here", "lastfile", "!inverted/abs/path")


def test_the_tables_are_whole() -> None:
    assert (len(PAIRS), len(SINGLE)) == (68, 54)
