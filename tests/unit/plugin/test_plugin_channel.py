from __future__ import annotations

import json
import os
import socket
import struct
from typing import Any

import pytest

from pytest_contain.channel import Channel, Decoder
from pytest_contain.inside import wire


def frame(message: Any) -> bytes:
    body = json.dumps(message).encode()
    return struct.pack(">I", len(body)) + body


def test_messages_are_cut_out_of_any_pieces() -> None:
    stream = frame({"type": "a"}) + frame({"type": "b", "x": "ü" * 100})
    for size in (1, 3, 7, len(stream)):
        decoder = Decoder()
        found = [message for start in range(0, len(stream), size) for message in decoder.feed(stream[start : start + size])]
        assert [message["type"] for message in found] == ["a", "b"]


@pytest.mark.parametrize(
    "bad", [struct.pack(">I", 5) + b"[1,2]", struct.pack(">I", 2) + b"{x", frame({"no": "type"}), frame({"type": 1})]
)
def test_what_is_no_message_stops_the_stream_after_what_came_before(bad: bytes) -> None:
    decoder = Decoder()
    assert decoder.feed(frame({"type": "good"}) + bad + frame({"type": "late"})) == [{"type": "good"}]
    assert decoder.error is not None
    assert decoder.feed(frame({"type": "late"})) == []


def test_a_length_over_the_limit_is_refused_before_its_bytes_come() -> None:
    decoder = Decoder(largest_message_bytes=100)
    assert decoder.feed(struct.pack(">I", 101)) == []
    assert decoder.error is not None
    assert decoder.error.code == "message-too-large"


def test_both_ends_understand_each_other_with_descriptors() -> None:
    ours, theirs = Channel.pair()
    inside = wire.Channel(theirs)
    reader, writer = os.pipe()
    try:
        ours.send({"type": "fork", "details": {"a": [1]}}, (writer,))
        received = inside.receive()
        assert received is not None
        message, fds = received
        assert message["details"] == {"a": [1]}
        os.write(fds[0], b"x")
        assert os.read(reader, 1) == b"x"
        inside.send({"type": "files", "odd": object, "text": "\udcff"}, tuple(fds))
        odd: Any = {"type": "next", (1, 2): "a key that JSON does not have"}
        inside.send(odd)
        first, second = ours.receive_ready()
        assert first["text"] == "\udcff"
        assert "object" in first["odd"]
        assert second["(1, 2)"].startswith("a key")
        taken = ours.take_fds(first["fds"])
        assert len(taken) == 1
        os.close(taken[0])
        os.close(fds[0])
    finally:
        os.close(reader)
        os.close(writer)
        ours.close()
        theirs.close()


def test_everything_sent_before_the_end_is_received_even_around_descriptors() -> None:
    ours, theirs = Channel.pair()
    inside = wire.Channel(theirs)
    inside.send({"type": "first"})
    inside.send({"type": "second"}, (0,))
    inside.send({"type": "third"})
    theirs.close()
    assert [message["type"] for message in ours.receive_ready()] == ["first", "second", "third"]
    assert ours.at_end
    ours.close()


def test_a_process_that_a_test_forked_off_says_nothing() -> None:
    ours, theirs = socket.socketpair()
    inside = wire.Channel(theirs)
    inside.owner_pid = os.getpid() + 1
    inside.send({"type": "report"})
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        ours.recv(1)
    ours.close()
    theirs.close()


def test_sending_to_a_closed_end_is_told_and_not_raised() -> None:
    ours, theirs = Channel.pair()
    theirs.close()
    assert ours.send({"type": "run"}) is False
    ours.close()
