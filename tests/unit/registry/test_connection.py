"""Connecting to one of many addresses."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from contain.registry import connection


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """An address that takes no connection and refuses none: its queue of one is full."""
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    def answer(*_: Any, **__: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", answer)


def test_a_refusing_address_does_not_hide_the_next(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, ("127.0.0.1", 1), listener.getsockname())
    with connection.connect("name", 1, seconds=10) as connected:
        assert connected.getpeername() == listener.getsockname()
        assert connected.gettimeout() == 10


def test_silent_addresses_do_not_hide_the_next(
    listener: socket.socket, silent: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_STAGGER_SECONDS", 0.01)
    resolving(monkeypatch, silent, silent, listener.getsockname())
    with connection.connect("name", 1, seconds=10) as connected:
        assert connected.getpeername() == listener.getsockname()


def test_all_addresses_share_one_deadline(silent: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr(connection, "_STAGGER_SECONDS", 0.001)
    monkeypatch.setattr("contain.registry.connection.monotonic", lambda: next(now))
    resolving(monkeypatch, *[silent] * 50)
    with pytest.raises(TimeoutError):
        connection.connect("name", 1, seconds=3)
    assert next(now) == 4  # the deadline was set, then two looks at the clock, then one that was too late


def test_the_last_refusal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, ("127.0.0.1", 1), ("127.0.0.1", 1))
    with pytest.raises(ConnectionRefusedError):
        connection.connect("name", 1, seconds=10)


def test_families_take_turns() -> None:
    def address(family: socket.AddressFamily, number: int) -> Any:
        return (family, socket.SOCK_STREAM, 6, "", (f"host{number}", 1))

    six, four = socket.AF_INET6, socket.AF_INET
    written = [address(six, 1), address(six, 2), address(six, 3), address(four, 4)]
    assert [row[4][0] for row in connection._interleaved(written)] == ["host1", "host4", "host2", "host3"]
