from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from contain.environment import Environment, dump_environment, load_environment
from contain.environment.facts import frozen
from contain.errors import IntegrityError, UsageError


def test_an_environment_survives_writing_and_reading(place: Environment) -> None:
    assert load_environment(dump_environment(place)) == place


def test_equal_environments_have_equal_bytes(place: Environment) -> None:
    shuffled = replace(place, files=frozen(dict(reversed(list(place.files.items())))))
    assert dump_environment(shuffled) == dump_environment(place)


def test_the_reader_can_give_it_another_name(place: Environment) -> None:
    assert load_environment(dump_environment(place), name="other").name == "other"


def test_names_that_are_not_utf8_survive(place: Environment) -> None:
    odd = replace(place, files=frozen({"/caf\udce9": place.files["/usr/bin/ls"]}))
    assert load_environment(dump_environment(odd)) == odd


def test_the_schema_is_written_and_a_newer_one_is_refused_with_a_remedy(place: Environment) -> None:
    value = json.loads(dump_environment(place))
    assert (value["format"], value["schema"]) == ("contain-environment", 1)
    value["schema"] = 2
    with pytest.raises(UsageError, match="schema 2") as caught:
        load_environment(json.dumps(value).encode())
    assert caught.value.remedy


def edited(place: Environment, *keys: str | int, value: Any) -> bytes:
    document = json.loads(dump_environment(place))
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("schema",), True),
        (("schema",), "1"),
        (("kind",), "spaceship"),
        (("name",), None),
        (("identity",), []),
        (("identity", "diff_ids"), [1]),
        (("facts", "unknown"), {}),
        (("facts", "users"), {"a": 1}),
        (("facts", "users"), ["a"]),
        (("packages", "cargo"), {}),
        (("packages", "dpkg", "a"), []),
        (("packages", "dpkg", "a"), [{"version": 1, "place": ""}]),
        (("missing",), {"nothing": "x"}),
        (("files", "columns"), []),
        (("files", "rows"), {}),
        (("files", "rows"), [["/a"]]),
        (("files", "rows", 0, 0), "relative"),
        (("files", "rows", 0, 2), "0999"),
        (("files", "rows", 0, 3), -1),
        (("files", "rows", 0, 3), 1e400),
        (("file_scope",), "some"),
        (("file_skips",), "x"),
    ],
)
def test_a_damaged_file_is_an_integrity_error_and_nothing_else(
    place: Environment, keys: tuple[str | int, ...], value: Any
) -> None:
    with pytest.raises(IntegrityError) as caught:
        load_environment(edited(place, *keys, value=value))
    assert caught.value.code == "bad-environment"


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe", b"[]", b"{}", b"null", b"[" * 100_000, b'{"format": "contain-environment"}', b'"x"']
)
def test_what_is_no_environment_file_is_an_integrity_error(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        load_environment(data)
