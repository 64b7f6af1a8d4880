"""The decisions of uploads and of lists that come in pages, and the scopes of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from contain.errors import IntegrityError, RegistryError
from contain.registry.challenge import combine_scopes
from contain.registry.configuration import Endpoint
from contain.registry.pages import list_tags, next_page, parse_tags
from contain.registry.upload_plan import (
    SMALLEST_CHUNK_BYTES,
    content_range,
    parse_minimum,
    parse_received,
    plan_chunk,
    smaller_chunk,
    with_query,
)

if TYPE_CHECKING:
    from tests.unit.registry.conftest import FaultyRegistry, Pusher


@pytest.mark.parametrize(
    ("text", "held"),
    [("0-1023", 1024), ("bytes=0-9", 10), ("0-0", 0), ("", None), ("5-9", None), ("0-", None), ("nonsense", None)],
)
def test_what_a_session_holds(text: str, held: int | None) -> None:
    assert parse_received(text) == held


def test_chunks_are_not_smaller_than_the_minimum_save_the_last() -> None:
    assert plan_chunk(offset=0, size=100, wanted=10, minimum=0) == 10
    assert plan_chunk(offset=0, size=100, wanted=10, minimum=30) == 30
    assert plan_chunk(offset=90, size=100, wanted=10, minimum=30) == 10


def test_too_large_ends_somewhere() -> None:
    chunk, tried = 64 << 20, 0
    while (smaller := smaller_chunk(chunk, minimum=0)) is not None:
        assert smaller < chunk
        chunk, tried = smaller, tried + 1
    assert chunk == SMALLEST_CHUNK_BYTES
    assert tried < 10
    assert smaller_chunk(8 << 20, minimum=8 << 20) is None


def test_a_range_is_inclusive_and_has_no_unit() -> None:
    assert content_range(10, 5) == "10-14"


@pytest.mark.parametrize(("text", "minimum"), [("1048576", 1048576), ("", 0), ("-1", 0), ("much", 0)])
def test_the_minimum_of_a_chunk(text: str, minimum: int) -> None:
    assert parse_minimum(text) == minimum


def test_a_location_keeps_the_state_that_it_carries() -> None:
    digest = "sha256:" + "0" * 64
    assert with_query("http://h/u/1?_state=a%2Bb%3D", digest=digest) == f"http://h/u/1?_state=a%2Bb%3D&digest={digest}"
    assert with_query("http://h/u/1", digest=digest) == f"http://h/u/1?digest={digest}"


@pytest.mark.parametrize(
    ("demanded", "ours", "asked"),
    [
        ((), ("repository:a:pull",), ["repository:a:pull"]),
        (("repository:a:pull",), ("repository:a:pull,push",), ["repository:a:pull,push"]),
        (("repository:mirror/a:pull",), ("repository:a:pull",), ["repository:mirror/a:pull"]),
        (
            ("repository:a:pull,push",),
            ("repository:a:pull,push", "repository:b:pull"),
            ["repository:a:pull,push", "repository:b:pull"],
        ),
        (("registry:catalog:*",), (), ["registry:catalog:*"]),
    ],
)
def test_a_token_is_asked_for_what_is_demanded_and_what_we_want_besides(demanded: Any, ours: Any, asked: list[str]) -> None:
    assert combine_scopes(demanded, ours) == asked


HERE = Endpoint(host="h:5000", schemes=("https",))


@pytest.mark.parametrize(
    ("link", "url"),
    [
        ('</v2/a/tags/list?last=x>; rel="next"', "https://h:5000/v2/a/tags/list?last=x"),
        ("<https://h:5000/more>; rel=next", "https://h:5000/more"),
        ('</back>; rel="prev", </on>; rel="next"', "https://h:5000/on"),
        ('<https://elsewhere/more>; rel="next"', ""),
        ('<https://h:5000/v2/a>; rel="next"', ""),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_the_next_page_is_the_same_registrys(link: str, url: str) -> None:
    assert next_page(link, "https://h:5000/v2/a", HERE) == url


def test_a_next_page_without_tls_is_refused() -> None:
    with pytest.raises(RegistryError):
        next_page('<http://h:5000/more>; rel="next"', "https://h:5000/v2/a", HERE)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"tags": [1]}', b'{"tags": ["../up"]}', b'{"tags": "latest"}', b"[" * 9999]
)
def test_what_is_no_list_of_tags_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        parse_tags(data, name="x")


def test_a_repository_without_tags_may_say_null() -> None:
    assert parse_tags(b'{"name": "a", "tags": null}', name="x") == ()


def test_all_pages_of_tags_are_read(registry: FaultyRegistry, pusher: Pusher) -> None:
    registry.page_size = 2
    pusher.image(registry.reference(), {"a": b"1"})
    image = pusher.store.find_image(str(registry.reference()))
    for tag in ("a", "b", "c", "d", "e"):
        pusher(registry.reference(f"app:{tag}"), image=image)
    with pusher.session(registry.host) as session:
        assert list_tags(session, registry.reference()) == ("a", "b", "c", "d", "e")
    assert len(registry.asked("/tags/list")) == 3
