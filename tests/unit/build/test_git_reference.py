from __future__ import annotations

from typing import Any

import pytest

from contain.build.fetch.git_reference import GitReference, choose_commit, hide_password, parse_git_reference
from contain.errors import IntegrityError, NotFound, UsageError

BUILDKIT = "https://github.com/moby/buildkit.git"
SHORT = "git@github.com:moby/buildkit.git"


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com/",
        "https://example.com/foo",
        "https://example.com/foo.git/",
        "https://example.com/foo.git.bar",
        "custom.xyz/moby/buildkit.git",
        "https://github.com/moby/buildkit",
        "http://github.com/docker/docker.git:#branch",
        "./.git",
        ".git",
        "../git@host:x.git",
        "file:///tmp/x.git",
        "ext::sh -c touch% /tmp/x",
    ],
)
def test_what_is_no_repository_is_left_to_others(text: str) -> None:
    assert parse_git_reference(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://example.com/foo.git", {"remote": "https://example.com/foo.git", "name": "foo"}),
        ("https://example.com/foo.git#deadbeef", {"remote": "https://example.com/foo.git", "name": "foo", "ref": "deadbeef"}),
        (
            "https://example.com/foo.git#release/1.2",
            {"remote": "https://example.com/foo.git", "name": "foo", "ref": "release/1.2"},
        ),
        ("git://example.com/foo", {"remote": "git://example.com/foo", "name": "foo"}),
        ("ssh://git@example.com:22/foo.git", {"remote": "ssh://git@example.com:22/foo.git", "name": "foo"}),
        ("github.com/moby/buildkit", {"remote": "https://github.com/moby/buildkit", "name": "buildkit", "like_a_path": True}),
        (
            "github.com/moby/buildkit#master",
            {"remote": "https://github.com/moby/buildkit", "name": "buildkit", "like_a_path": True, "ref": "master"},
        ),
        (
            "https://a:b@github.com/moby/buildkit.git",
            {"remote": "https://a:b@github.com/moby/buildkit.git", "name": "buildkit"},
        ),
        ("git@github.com:moby/buildkit", {"remote": "git@github.com:moby/buildkit", "name": "buildkit"}),
        (SHORT, {"remote": SHORT, "name": "buildkit"}),
        ("git@example.org:own.git", {"remote": "git@example.org:own.git", "name": "own"}),
        (
            "https://github.com/foo/bar.git#baz/qux:quux/quuz",
            {"remote": "https://github.com/foo/bar.git", "name": "bar", "ref": "baz/qux", "subdir": "quux/quuz"},
        ),
        (f"{BUILDKIT}#:my/../../folder", {"remote": BUILDKIT, "name": "buildkit", "subdir": "folder"}),
        (f"{BUILDKIT}?ref=v1.0.0&subdir=/sub", {"remote": BUILDKIT, "name": "buildkit", "ref": "v1.0.0", "subdir": "sub"}),
        (f"{BUILDKIT}?subdir=/sub#v1.0.0", {"remote": BUILDKIT, "name": "buildkit", "ref": "v1.0.0", "subdir": "sub"}),
        (f"{BUILDKIT}?tag=v1.0.0", {"remote": BUILDKIT, "name": "buildkit", "ref": "refs/tags/v1.0.0"}),
        (f"{BUILDKIT}?tag=v1#refs/tags/v1", {"remote": BUILDKIT, "name": "buildkit", "ref": "refs/tags/v1"}),
        (f"{BUILDKIT}?branch=v1.0", {"remote": BUILDKIT, "name": "buildkit", "ref": "refs/heads/v1.0"}),
        (f"{SHORT}?subdir=/sub#v1.0.0", {"remote": SHORT, "name": "buildkit", "ref": "v1.0.0", "subdir": "sub"}),
        (f"{BUILDKIT}?mtime=commit", {"remote": BUILDKIT, "name": "buildkit", "mtime": "commit"}),
        (f"{BUILDKIT}?mtime=checkout", {"remote": BUILDKIT, "name": "buildkit", "mtime": "checkout"}),
        (f"{BUILDKIT}?keep-git-dir", {"remote": BUILDKIT, "name": "buildkit", "keep_git_dir": True}),
        (f"{BUILDKIT}?keep-git-dir=0", {"remote": BUILDKIT, "name": "buildkit", "keep_git_dir": False}),
        (f"{BUILDKIT}?submodules=false", {"remote": BUILDKIT, "name": "buildkit", "submodules": False}),
        (
            f"{BUILDKIT}?fetch-by-commit=true&checksum=deadbeef#refs/heads/branch",
            {
                "remote": BUILDKIT,
                "name": "buildkit",
                "ref": "refs/heads/branch",
                "checksum": "deadbeef",
                "fetch_by_commit": True,
            },
        ),
        (
            f"{BUILDKIT}?fetch-by-commit&commit=deadbeef",
            {"remote": BUILDKIT, "name": "buildkit", "checksum": "deadbeef", "fetch_by_commit": True},
        ),
        (f"{BUILDKIT}?fetch-by-commit=false", {"remote": BUILDKIT, "name": "buildkit"}),
    ],
)
def test_an_address_says_repository_ref_directory_and_more(text: str, expected: dict[str, Any]) -> None:
    assert parse_git_reference(text) == GitReference(**expected)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?ref=v1.0.0#v1.2.3", "ref conflicts"),
        ("?ref=v1.0.0&tag=v1.2.3", "ref conflicts"),
        ("?tag=v1.0.0&branch=v1.0", "branch conflicts with tag"),
        ("?subdir=a#:b", "subdir conflicts"),
        ("?commit=aa&checksum=bb", "conflicts with checksum"),
        ("?mtime=invalid", "invalid mtime value"),
        ("?fetch-by-commit=invalid", "invalid fetch-by-commit value"),
        ("?keep-git-dir=maybe", "invalid keep-git-dir value"),
        ("?submodules=2", "invalid submodules value"),
        ("?invalid=123", "unexpected query 'invalid'"),
        ("?ref=a&ref=b", "multiple values"),
        ("?ref=", "has no value"),
        ("#--upload-pack=x", "is not a name"),
        ("#a%00b", "is not a name"),
    ],
)
def test_a_query_that_contradicts_itself_is_refused(query: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_git_reference(BUILDKIT + query)
    assert caught.value.code == "bad-git-reference"


@pytest.mark.parametrize("text", ["https://[a.git", "ssh://[::1/x.git", "git@host:a\0b.git"])
def test_what_cannot_be_an_address_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_git_reference(text)
    assert caught.value.code == "bad-git-reference"


ONE, TWO, THREE = "1" * 40, "2" * 40, "3" * 40


def chosen(ref: str, advertised: dict[str, str], checksum: str = "") -> tuple[str, str]:
    found = choose_commit(GitReference(remote=BUILDKIT, name="x", ref=ref), advertised, checksum=checksum)
    return found.commit, found.ref


def test_a_branch_comes_before_a_tag_of_the_same_name() -> None:
    assert chosen("v1", {"refs/tags/v1": ONE, "refs/heads/v1": TWO}) == (TWO, "refs/heads/v1")
    assert chosen("refs/tags/v1", {"refs/tags/v1": ONE, "refs/heads/v1": TWO}) == (ONE, "refs/tags/v1")
    assert chosen("pull/1/head", {"refs/pull/1/head": ONE}) == (ONE, "refs/pull/1/head")
    assert chosen("", {"HEAD": THREE}) == (THREE, "HEAD")


def test_an_annotated_tag_stands_for_its_commit_and_either_may_be_the_checksum() -> None:
    advertised = {"refs/tags/v1": ONE, "refs/tags/v1^{}": TWO}
    for checksum in ("", ONE, TWO, TWO[:7]):
        assert chosen("v1", advertised, checksum) == (TWO, "refs/tags/v1")
    with pytest.raises(IntegrityError, match=f"expected checksum to match {THREE}, got {TWO}"):
        chosen("v1", advertised, THREE)


def test_a_ref_that_the_remote_does_not_have_is_named() -> None:
    with pytest.raises(NotFound, match="repository does not contain ref nope"):
        chosen("nope", {"HEAD": ONE})


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:secret@host/x.git", "https://***@host/x.git"),
        ("https://token@host/x.git", "https://***@host/x.git"),
        ("https://host/x.git", "https://host/x.git"),
        ("ssh://git@host/x.git", "ssh://git@host/x.git"),
        ("git@host:x.git", "git@host:x.git"),
    ],
)
def test_a_password_is_never_shown(address: str, shown: str) -> None:
    assert hide_password(address) == shown
