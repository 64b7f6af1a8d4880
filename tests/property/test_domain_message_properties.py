"""DNS messages from programs that are not trusted: whatever the bytes are, reading them ends, and what is answered is well formed."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from contain.container.network import domain_messages as messages
from contain.container.network.domain_messages import BadMessage
from contain.container.network.names import LeaseFiles, parse_reverse
from contain.container.network.resolving import answer_here

FILES = LeaseFiles(Path("/nonexistent"))
NAMES = st.from_regex(r"[a-z0-9]{1,20}(\.[a-z0-9]{1,20}){0,3}", fullmatch=True)


@given(st.binary(max_size=600))
def test_any_bytes_are_a_query_or_an_error(data: bytes) -> None:
    try:
        query = messages.parse_query(data)
    except BadMessage:
        assert len(messages.render_refusal(data, messages.FORMAT_ERROR)) in (0, 12)
        return
    assert query.end <= len(data)
    answer_here(data, query, FILES, "a" * 64)
    assert len(messages.render_answer(data, query, ())) <= len(data) + 11


@given(st.integers(0, 65535), NAMES, st.sampled_from([messages.A, messages.AAAA, messages.POINTER]))
def test_a_query_reads_back_as_it_was_written(identifier: int, name: str, kind: int) -> None:
    query = messages.parse_query(messages.render_query(identifier, name, kind))
    assert (query.identifier, query.name, query.kind, query.is_internet) == (identifier, name, kind, True)


@given(NAMES, st.lists(st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str), max_size=80), st.integers(512, 4096))
def test_an_answer_never_grows_over_the_limit_and_is_one_to_its_query(name: str, addresses: list[str], limit: int) -> None:
    data = messages.render_query(1, name, messages.ANY)
    query = messages.parse_query(data)
    answer = messages.render_answer(data, query, [messages.encode_address(each) for each in addresses], limit_bytes=limit)
    assert len(answer) <= limit
    assert messages.is_answer(answer, data, query.end)
    count = int.from_bytes(answer[6:8], "big")
    assert count == len(addresses) or answer[2] & 0x02


@given(st.binary(max_size=64), st.binary(max_size=64), st.integers(0, 64))
def test_comparing_an_answer_with_a_query_never_fails(answer: bytes, query: bytes, end: int) -> None:
    assert messages.is_answer(answer, query, end) in (True, False)


@given(st.text(max_size=90) | NAMES.map(lambda name: f"{name}.in-addr.arpa"))
def test_any_name_is_an_address_backwards_or_not(name: str) -> None:
    found = parse_reverse(name)
    assert found is None or found[0] in (32, 128)
