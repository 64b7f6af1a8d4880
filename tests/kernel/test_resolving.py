"""A container's name server on real sockets of loopback: what it answers, what it passes on, and that nobody can stop it."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from contain.container.lifecycle.loop import Loop
from contain.container.network import domain_messages as messages
from contain.container.network import resolving
from contain.container.network.names import LeaseFiles
from contain.container.network.relay import DatagramRelay, StreamRelay
from contain.container.network.resolving import Resolver
from contain.linux.leases import BridgeSettings, Lease, NetworkRecord, Owner, Pool, encode_record, number_of

WEB = "a" * 64
POOL = Pool(base=number_of("10.99.0.0"), prefix=24)


def write_network(run_home: Path, *, internal: bool = False, copies: int = 1) -> None:
    owner = Owner(process_id=1, start_ticks=1)
    leases = {WEB: Lease(address=number_of("10.99.0.2"), owner=owner, name="web")}
    for number in range(copies):
        leases[f"{number:064x}"] = Lease(address=POOL.base + 3 + number, owner=owner, name=f"db{number}", aliases=("db",))
    settings = BridgeSettings(name="front", network_id="f" * 64, pool=POOL, internal=internal)
    place = run_home / "networks" / "front"
    place.mkdir(parents=True, exist_ok=True)
    (place / "network.json.new").write_bytes(encode_record(NetworkRecord(pool=POOL, leases=leases, settings=settings)))
    (place / "network.json.new").rename(place / "network.json")


class Turning:
    """A loop that turns on a thread until it is stopped."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        ours, self._stop = socket.socketpair()
        self._going = True

        def end() -> None:
            self._going = False

        loop.watch(ours.fileno(), end)
        self._ours = ours
        self._thread = threading.Thread(target=self._turn)
        self._thread.start()

    def _turn(self) -> None:
        while self._going:
            self._loop.turn()

    def close(self) -> None:
        self._stop.send(b"x")
        self._thread.join(10)
        self._stop.close()
        self._loop.forget(self._ours.fileno())
        self._ours.close()


class Served(NamedTuple):
    """Where the name server listens, and what a server outside gets and gives."""

    address: tuple[str, int]
    stream_address: tuple[str, int]
    run_home: Path
    outside: Outside

    def ask(self, data: bytes) -> bytes:
        """Again after a second without an answer, as resolvers do: a queue that is full loses datagrams."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(1)
            for _ in range(9):
                asking.sendto(data, self.address)
                with contextlib.suppress(TimeoutError):
                    return asking.recv(65535)
        raise TimeoutError("no answer")

    def ask_by_stream(self, *queries: bytes) -> list[bytes]:
        with socket.create_connection(self.stream_address, timeout=5) as asking:
            asking.sendall(b"".join(len(data).to_bytes(2, "big") + data for data in queries))
            return [read_message(asking) for _ in queries]


def read_exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        assert piece, "the connection ended early"
        data += piece
    return data


def read_message(connection: socket.socket) -> bytes:
    return read_exactly(connection, int.from_bytes(read_exactly(connection, 2), "big"))


class Outside:
    """A name server of the world outside, UDP and TCP at one port. ``answer`` makes what it says of a query."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.answer: Callable[[bytes], list[bytes]] = lambda data: [answer_of(data, "192.0.2.7")]
        self.streams = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.streams.getsockname()[1]
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind(("127.0.0.1", self.port))
        self._threads = [threading.Thread(target=work) for work in (self._serve_datagrams, self._serve_streams)]
        for thread in self._threads:
            thread.start()

    def _serve_datagrams(self) -> None:
        while True:
            data, client = self.datagrams.recvfrom(65535)
            if not data:
                return
            self.seen.append(data)
            for answer in self.answer(data):
                self.datagrams.sendto(answer, client)

    def _serve_streams(self) -> None:
        while True:
            try:
                connection, _ = self.streams.accept()
            except OSError:
                return
            with connection:
                data = read_message(connection)
                for answer in self.answer(data):
                    connection.sendall(len(answer).to_bytes(2, "big") + answer)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self.streams.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self.streams.close()
        self.datagrams.close()


def answer_of(data: bytes, *addresses: str) -> bytes:
    query = messages.parse_query(data)
    return messages.render_answer(data, query, [messages.encode_address(each) for each in addresses])


def query(name: str, kind: int = messages.A, identifier: int = 0x1234) -> bytes:
    return messages.render_query(identifier, name, kind)


def outcome(answer: bytes) -> tuple[int, int, int]:
    """Number, code, and how many records."""
    return int.from_bytes(answer[:2], "big"), answer[3] & 15, int.from_bytes(answer[6:8], "big")


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(resolving, "_SERVER_SECONDS", 0.2)
    write_network(tmp_path)
    outside = Outside()
    with (
        Loop() as loop,
        socket.create_server(("127.0.0.1", 0)) as streams,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.bind(("127.0.0.1", 0))
        resolver = Resolver(
            loop,
            files=LeaseFiles(tmp_path),
            container_id=WEB,
            servers=("127.0.0.1",),
            datagrams=datagrams,
            streams=streams,
            server_port=outside.port,
        )
        turning = Turning(loop)
        try:
            yield Served(datagrams.getsockname(), streams.getsockname(), tmp_path, outside)
        finally:
            turning.close()
            resolver.close()
            outside.close()


def test_names_of_containers_are_answered_here_and_others_passed_on(served: Served) -> None:
    assert outcome(served.ask(query("db"))) == (0x1234, 0, 1)
    assert served.outside.seen == []
    assert outcome(served.ask(query("example.org"))) == (0x1234, 0, 1)
    assert len(served.outside.seen) == 1


def test_each_query_that_is_passed_on_has_a_number_of_its_own(served: Served) -> None:
    for _ in range(8):
        served.ask(query("example.org"))
    assert len({data[:2] for data in served.outside.seen}) > 4


def test_a_forged_answer_is_not_believed(served: Served) -> None:
    def forge_first(data: bytes) -> list[bytes]:
        wrong_number = messages.with_identifier(answer_of(data, "6.6.6.6"), int.from_bytes(data[:2], "big") ^ 1)
        wrong_name = answer_of(data[:2] + query("other.org")[2:], "6.6.6.6")
        return [wrong_number, wrong_name, b"", data, answer_of(data, "192.0.2.7")]

    served.outside.answer = forge_first
    assert served.ask(query("example.org")).endswith(socket.inet_aton("192.0.2.7"))


def test_a_server_that_is_silent_is_asked_again_and_then_said_to_have_failed(served: Served) -> None:
    served.outside.answer = lambda _: []
    assert outcome(served.ask(query("example.org"))) == (0x1234, messages.SERVER_FAILURE, 0)
    assert len(served.outside.seen) == 2


def test_on_internal_networks_nothing_is_passed_on(served: Served) -> None:
    write_network(served.run_home, internal=True)
    assert outcome(served.ask(query("db"))) == (0x1234, 0, 1)
    assert outcome(served.ask(query("example.org"))) == (0x1234, messages.SERVER_FAILURE, 0)
    assert served.outside.seen == []


def test_who_asks_by_tcp_gets_all_of_a_long_answer_and_may_ask_on(served: Served) -> None:
    write_network(served.run_home, copies=60)
    short = served.ask(query("db"))
    assert short[2] & 0x02  # cut off
    answers = served.ask_by_stream(query("db"), query("example.org", identifier=7), query("db3", identifier=8))
    assert [outcome(answer) for answer in answers] == [(0x1234, 0, 60), (7, 0, 1), (8, 0, 1)]


def test_several_containers_of_one_alias_take_turns(served: Served) -> None:
    write_network(served.run_home, copies=4)
    firsts = {served.ask(query("db"))[-4:] for _ in range(40)}
    assert len(firsts) > 1


def test_a_container_that_comes_is_found_at_once_and_one_that_goes_is_not(served: Served) -> None:
    write_network(served.run_home, copies=2)
    assert outcome(served.ask(query("db1"))) == (0x1234, 0, 1)
    write_network(served.run_home, copies=1)
    served.outside.answer = lambda data: [messages.render_answer(data, messages.parse_query(data), (), code=3)]
    assert outcome(served.ask(query("db1"))) == (0x1234, messages.NO_SUCH_NAME, 0)


@pytest.mark.parametrize(
    "data", [b"", b"\0", os.urandom(7), b"\0\1\1\0\0\1" + bytes(6) + b"\xc0\x0c\0\1\0\1", bytes(12), b"\xff" * 512]
)
def test_nonsense_does_not_stop_it(served: Served, data: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.sendto(data, served.address)
    with socket.create_connection(served.stream_address, timeout=5) as asking:
        asking.sendall(struct.pack(">H", len(data)) + data)
    assert outcome(served.ask(query("db"))) == (0x1234, 0, 1)


def test_clients_that_only_connect_and_queries_without_end_do_not_stop_it(served: Served) -> None:
    served.outside.answer = lambda _: []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for number in range(3 * resolving.MOST_WAITING):
            asking.sendto(query("example.org", identifier=number), served.address)
    with contextlib.ExitStack() as idle:
        for _ in range(2 * resolving.MOST_CONNECTIONS):
            idle.enter_context(socket.create_connection(served.stream_address, timeout=5))
        assert outcome(served.ask(query("db"))) == (0x1234, 0, 1)
        assert outcome(served.ask_by_stream(query("db"))[0]) == (0x1234, 0, 1)


# Ports at IPv6 addresses


@pytest.fixture
def carried() -> Iterator[Callable[[socket.socket, tuple[str, int] | None], tuple[str, int]]]:
    """Have what comes to a socket carried to an address; where to connect."""
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    loop = Loop()
    opened: list[socket.socket] = []

    def carry(listening: socket.socket, target: tuple[str, int] | None) -> tuple[str, int]:
        opened.append(listening)
        kind = StreamRelay if listening.type == socket.SOCK_STREAM else DatagramRelay
        relays.append(kind(loop, listening, lambda: target))
        if len(opened) == 1:
            turning.append(Turning(loop))
        address: tuple[str, int] = listening.getsockname()[:2]
        return address

    turning: list[Turning] = []
    relays: list[StreamRelay | DatagramRelay] = []
    yield carry
    for thread in turning:
        thread.close()
    for relay in relays:
        relay.close()
    for each in opened:
        each.close()
    loop.__exit__()


Carry = Callable[[socket.socket, tuple[str, int] | None], tuple[str, int]]


def test_a_stream_is_carried_both_ways_each_to_its_own_end(carried: Carry) -> None:
    payload = os.urandom(3 << 20)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo() -> None:
            connection, _ = server.accept()
            with connection:
                data = b""
                while piece := connection.recv(1 << 16):
                    data += piece
                connection.sendall(data[::-1])  # only once the client has said that this was all

        thread = threading.Thread(target=echo)
        thread.start()
        address = carried(socket.create_server(("::1", 0), family=socket.AF_INET6), server.getsockname())
        with socket.create_connection(address, timeout=10) as client:
            client.sendall(payload)
            client.shutdown(socket.SHUT_WR)
            data = b""
            while piece := client.recv(1 << 16):
                data += piece
        thread.join(10)
    assert data == payload[::-1]


@pytest.mark.parametrize("target", [None, ("127.0.0.1", 1)])
def test_a_container_that_does_not_listen_is_a_connection_reset_and_no_empty_answer(
    carried: Carry, target: tuple[str, int] | None
) -> None:
    address = carried(socket.create_server(("::1", 0), family=socket.AF_INET6), target)
    with pytest.raises(ConnectionError), socket.create_connection(address, timeout=5) as client:
        client.recv(10)  # the reset may come before the connection is ours


def test_more_clients_than_a_relay_takes_at_once_wait_for_their_turn(carried: Carry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StreamRelay.__init__, "__defaults__", (2,))
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for _ in range(6):
                connection, _peer = server.accept()
                with connection:
                    connection.sendall(connection.recv(10))

        thread = threading.Thread(target=answer)
        thread.start()
        address = carried(socket.create_server(("::1", 0), family=socket.AF_INET6), server.getsockname())
        with contextlib.ExitStack() as opened:
            clients = [opened.enter_context(socket.create_connection(address, timeout=10)) for _ in range(6)]
            for number, client in enumerate(clients):
                client.sendall(b"%d" % number)
                assert client.recv(10) == b"%d" % number
                client.close()
        thread.join(10)


def test_datagrams_are_carried_and_each_client_gets_its_own_answers(carried: Carry) -> None:
    listening = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    listening.bind(("::1", 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        address = carried(listening, server.getsockname())
        clients = [socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(2)]
        for number, client in enumerate(clients):
            client.settimeout(5)
            client.sendto(b"from %d" % number, address)
        for _ in clients:
            data, peer = server.recvfrom(100)
            server.sendto(b"to" + data[4:], peer)
        assert [client.recvfrom(100)[0] for client in clients] == [b"to 0", b"to 1"]
        assert clients[0].getsockname() != clients[1].getsockname()
        for client in clients:
            client.close()
