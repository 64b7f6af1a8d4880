"""Which keys let go of a terminal, and that everything else is passed on whole."""

from __future__ import annotations

import pytest

from contain.container.terminal.detach_keys import KeyWatch, parse_detach_keys
from contain.errors import UsageError


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", b"\x10\x11"),
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("ctrl-@", b"\0"),
        ("CTRL-A", b"\x01"),
        ("ctrl-[", b"\x1b"),
        ("ctrl-\\,ctrl-],ctrl-^,ctrl-_", b"\x1c\x1d\x1e\x1f"),
        ("a,b,1", b"ab1"),
        ("DEL", b"\x7f"),
    ],
)
def test_keys_are_read_as_docker_reads_them(text: str, keys: bytes) -> None:
    assert parse_detach_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-1", "ab", "ctrl-p,,q", ",", "ä", "ctrl-pq"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="invalid detach keys"):
        parse_detach_keys(text)


def watch(keys: bytes, *pieces: bytes) -> tuple[bytes, bool]:
    """All that is passed on of the pieces, and whether the keys were there."""
    looking, passed = KeyWatch(keys), b""
    for piece in pieces:
        more, found = looking.feed(piece)
        passed += more
        if found:
            return passed, True
    return passed, False


@pytest.mark.parametrize("pieces", [(b"ab\x10\x11cd",), (b"ab\x10", b"\x11cd"), (b"a", b"b", b"\x10", b"\x11", b"cd")])
def test_the_keys_are_found_however_they_arrive(pieces: tuple[bytes, ...]) -> None:
    assert watch(b"\x10\x11", *pieces) == (b"ab", True)


@pytest.mark.parametrize(
    ("pieces", "passed"),
    [((b"\x10", b"x"), b"\x10x"), ((b"\x10\x10", b"\x10x"), b"\x10\x10\x10x"), ((b"\x11\x10",), b"\x11"), ((b"xy",), b"xy")],
)
def test_what_only_began_like_the_keys_is_passed_on(pieces: tuple[bytes, ...], passed: bytes) -> None:
    assert watch(b"\x10\x11", *pieces) == (passed, False)


def test_keys_that_begin_again_within_themselves_are_found() -> None:
    assert watch(b"aab", b"aaab") == (b"a", True)
