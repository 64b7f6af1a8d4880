"""Addresses in a Dockerfile are anybody's text: each has a meaning, or an error of ours."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from contain.build.fetch.git_reference import hide_password, parse_git_reference
from contain.build.fetch.url import is_url, name_of_url
from contain.errors import UsageError

PIECES = st.sampled_from(
    [
        "https://",
        "git://",
        "ssh://",
        "git@",
        "github.com/",
        "host",
        ":",
        "/",
        "@",
        "[",
        "::1",
        "%2f",
        "%00",
        "..",
        ".git",
        "#",
        "?ref=",
        "&",
        "-",
    ]
)
ADDRESSES = st.one_of(st.text(), st.lists(st.one_of(PIECES, st.sampled_from(["\n", "\0", " "])), max_size=12).map("".join))


@given(ADDRESSES)
def test_a_git_address_is_a_reference_nothing_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        found = parse_git_reference(text)
        if found is not None:
            assert not found.remote.startswith("-")
            assert not found.ref.startswith("-")
            assert ".." not in found.subdir.split("/")
            assert not found.subdir.startswith("/")


@given(ADDRESSES)
def test_the_name_of_a_url_is_one_file_name(text: str) -> None:
    with contextlib.suppress(UsageError):
        name = name_of_url("https://host/" + text)
        assert name
        assert "/" not in name
        assert "\0" not in name
        assert name not in (".", "..")


@given(
    st.text(alphabet="abc", min_size=1), st.text(alphabet="xyz", min_size=1), st.sampled_from(["https", "http", "ssh", "git"])
)
def test_a_password_is_hidden_whatever_the_scheme(user: str, password: str, scheme: str) -> None:
    assert password not in hide_password(f"{scheme}://{user}:{password}@host/a.git").replace("host", "")


@given(ADDRESSES)
def test_what_is_a_url_can_be_told_from_what_is_not(text: str) -> None:
    assert is_url(text) == text.lower().startswith(("http://", "https://"))
