"""What the two paths of ``contain cp`` mean."""

from __future__ import annotations

import pytest

from contain.container.files.copy_rules import (
    Address,
    Found,
    asks_for_directory,
    base_name,
    check_addresses,
    parse_address,
    plan_name,
)
from contain.errors import Conflict, ContainError


@pytest.mark.parametrize(
    ("text", "container", "path"),
    [
        ("web:/etc", "web", "/etc"),
        ("web:etc", "web", "etc"),
        ("web:a:b", "web", "a:b"),
        ("web:", "web", ""),
        ("/a:b", None, "/a:b"),
        ("./a:b", None, "./a:b"),
        ("../a:b", None, "../a:b"),
        ("file", None, "file"),
        ("-", None, "-"),
    ],
)
def test_an_argument_is_a_containers_if_something_stands_before_a_colon(text: str, container: str | None, path: str) -> None:
    assert parse_address(text) == Address(container=container, path=path)


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("a", "b", "must specify at least one container source"),
        ("a:/x", "b:/x", "copying between containers is not supported"),
        ("", "b:/x", "source can not be empty"),
        ("a:/x", "", "destination can not be empty"),
    ],
)
def test_what_is_no_copy_is_refused_in_dockers_words(source: str, target: str, words: str) -> None:
    with pytest.raises(ContainError, match=words):
        check_addresses(parse_address(source), parse_address(target))


@pytest.mark.parametrize(
    ("path", "asked"), [("/a/", True), ("/a/.", True), (".", True), ("..", True), ("/a", False), ("a.", False)]
)
def test_a_slash_or_a_dot_at_the_end_asks_for_a_directory(path: str, asked: bool) -> None:
    assert asks_for_directory(path) is asked


@pytest.mark.parametrize(
    ("path", "name"),
    [("/a/b", b"b"), ("/a/b/", b"b"), ("/a/b/.", b""), ("/", b""), (".", b""), ("/a/../b", b"b"), ("b//", b"b")],
)
def test_the_name_in_a_directory_is_the_last_part_and_a_dot_means_the_contents(path: str, name: bytes) -> None:
    assert base_name(path) == name


THERE, FILE, NOWHERE = (
    Found(path="/there", exists=True, is_directory=True),
    Found(path="/there", exists=True),
    Found(path="/new", exists=False),
)


@pytest.mark.parametrize(
    ("source", "is_directory", "target", "planned"),
    [
        ("/s/f", False, THERE, (True, b"f")),
        ("/s/d", True, THERE, (True, b"d")),
        ("/s/d/", True, THERE, (True, b"d")),
        ("/s/d/.", True, THERE, (True, b"")),
        ("/s/f", False, FILE, (False, b"there")),
        ("/s/f", False, NOWHERE, (False, b"new")),
        ("/s/d", True, NOWHERE, (False, b"new")),
        ("/s/d/.", True, NOWHERE, (False, b"new")),
        ("/s/d", True, Found(path="/new/", exists=False), (False, b"new")),
    ],
)
def test_under_which_name_it_appears(source: str, is_directory: bool, target: Found, planned: tuple[bool, bytes]) -> None:
    assert plan_name(source, is_directory=is_directory, target=target) == planned


def test_a_directory_onto_a_file_is_refused() -> None:
    with pytest.raises(Conflict, match="cannot copy directory"):
        plan_name("/s/d", is_directory=True, target=FILE)


def test_a_file_to_a_directory_that_is_not_there_is_refused() -> None:
    with pytest.raises(Conflict, match="no such directory"):
        plan_name("/s/f", is_directory=False, target=Found(path="/new/", exists=False))
