"""DNS messages of clients that are not trusted, and answers to them: bytes in, values out."""

from __future__ import annotations

import struct

import pytest

from contain.container.network import domain_messages as messages
from contain.container.network.domain_messages import BadMessage

HEADER = struct.Struct(">HHHHHH")


def query(name: bytes = b"\x02db\x00", kind: int = messages.A, *, options: bytes = b"", flags: int = 0x0100) -> bytes:
    return HEADER.pack(0xABCD, flags, 1, 0, 0, 1 if options else 0) + name + struct.pack(">HH", kind, 1) + options


def options(size: int) -> bytes:
    return b"\0" + struct.pack(">HHIH", 41, size, 0, 0)


def records_of(answer: bytes, question_end: int) -> list[tuple[int, bytes]]:
    count = HEADER.unpack_from(answer)[3]
    offset, found = question_end, []
    for _ in range(count):
        assert answer[offset : offset + 2] == b"\xc0\x0c"
        kind, _, _, length = struct.unpack_from(">HHIH", answer, offset + 2)
        found.append((kind, answer[offset + 12 : offset + 12 + length]))
        offset += 12 + length
    return found


def test_a_question_is_read_in_small_letters() -> None:
    read = messages.parse_query(query(b"\x02Db\x04test\x00", messages.AAAA))
    assert (read.identifier, read.name, read.kind, read.is_internet) == (0xABCD, "db.test", messages.AAAA, True)
    assert (read.limit_bytes, read.has_options) == (512, False)


@pytest.mark.parametrize(("size", "limit"), [(0, 512), (1232, 1232), (65535, 4096)])
def test_the_size_that_a_client_takes_is_bounded_on_both_sides(size: int, limit: int) -> None:
    read = messages.parse_query(query(options=options(size)))
    assert (read.limit_bytes, read.has_options) == (limit, True)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 11,
        HEADER.pack(1, 0, 0, 0, 0, 0),
        HEADER.pack(1, 0, 2, 0, 0, 0) + b"\0\0\1\0\1" * 2,
        HEADER.pack(1, 0, 1, 0, 0, 0),
        HEADER.pack(1, 0, 1, 0, 0, 0) + b"\x3fx",
        HEADER.pack(1, 0, 1, 0, 0, 0) + b"\x01a\x00\x00\x01\x00",
        HEADER.pack(1, 0, 1, 0, 0, 0) + b"\xc0\x0c\x00\x01\x00\x01",  # a pointer to itself
        HEADER.pack(1, 0, 1, 0, 0, 0) + b"\x40" + b"a" * 64 + b"\0\0\1\0\1",
        HEADER.pack(1, 0, 1, 0, 0, 0) + (b"\x3f" + b"a" * 63) * 5 + b"\0\0\1\0\1",  # longer than a name may be
        HEADER.pack(1, 0x8000, 1, 0, 0, 0) + b"\0\0\1\0\1",  # an answer
    ],
)
def test_what_is_no_question_is_an_error_and_never_a_loop(data: bytes) -> None:
    with pytest.raises(BadMessage):
        messages.parse_query(data)


def test_a_name_that_is_not_the_same_as_text_is_nobodys() -> None:
    assert messages.parse_query(query(b"\x05a.b.c\x00")).name == ""
    assert messages.parse_query(query(b"\x02\xc3\xa4\x00")).name == ""


def test_an_answer_repeats_number_and_question_and_holds_the_addresses() -> None:
    data = query(options=options(1232))
    read = messages.parse_query(data)
    rows = [messages.encode_address("192.0.2.1"), messages.encode_address("192.0.2.2")]
    answer = messages.render_answer(data, read, rows)
    identifier, flags, questions, answers, _, additional = HEADER.unpack_from(answer)
    assert (identifier, questions, answers, additional) == (0xABCD, 1, 2, 1)
    assert flags == 0x8000 | 0x0400 | 0x0100 | 0x0080
    assert answer[12 : read.end] == data[12 : read.end]
    assert records_of(answer, read.end) == [(1, b"\xc0\x00\x02\x01"), (1, b"\xc0\x00\x02\x02")]


def test_what_does_not_fit_into_a_datagram_is_said_to_be_cut_off() -> None:
    data = query()
    read = messages.parse_query(data)
    rows = [messages.encode_address(f"192.0.2.{number}") for number in range(100)]
    short = messages.render_answer(data, read, rows)
    assert len(short) <= 512
    assert HEADER.unpack_from(short)[1] & 0x0200
    long = messages.render_answer(data, read, rows, limit_bytes=messages.LONGEST_MESSAGE_BYTES)
    assert HEADER.unpack_from(long)[3] == 100
    assert not HEADER.unpack_from(long)[1] & 0x0200


def test_only_the_answer_to_this_very_query_is_one() -> None:
    sent = query(b"\x02Db\x00")
    end = messages.parse_query(sent).end
    true = messages.render_answer(sent, messages.parse_query(sent), [messages.encode_address("192.0.2.1")])
    assert messages.is_answer(true, sent, end)
    assert messages.is_answer(true[:12] + true[12:].lower(), sent, end)
    assert not messages.is_answer(messages.with_identifier(true, 1), sent, end)
    assert not messages.is_answer(sent, sent, end)
    assert not messages.is_answer(true.replace(b"Db", b"Dc"), sent, end)
    assert not messages.is_answer(b"", sent, end)
    assert messages.is_answer(messages.render_refusal(sent, messages.SERVER_FAILURE), sent, end)  # without the question


def test_an_answer_is_never_answered() -> None:
    assert messages.render_refusal(HEADER.pack(7, 0x8000, 9, 9, 9, 9), messages.FORMAT_ERROR) == b""
    assert messages.render_refusal(b"\0", messages.FORMAT_ERROR) == b""
    assert messages.render_refusal(HEADER.pack(7, 0, 9, 9, 9, 9), messages.FORMAT_ERROR)[:4] == b"\0\x07\x80\x01"


@pytest.mark.parametrize("name", ["", ".", "a..b", "x" * 64, ".".join(["x" * 60] * 5)])
def test_a_name_that_no_message_can_hold_is_an_error(name: str) -> None:
    with pytest.raises(BadMessage):
        messages.encode_name(name)


def test_a_query_of_ours_reads_back() -> None:
    read = messages.parse_query(messages.render_query(7, "db.test", messages.AAAA))
    assert (read.identifier, read.name, read.kind) == (7, "db.test", messages.AAAA)
