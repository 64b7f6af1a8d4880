"""Published ports on the real kernel, in network namespaces of the test's own: who reaches what, and that nothing is left."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from contain.errors import Conflict, HostError
from contain.linux import bridges, network, nftables, rtnetlink
from contain.linux.network import Attachment
from contain.linux.ports import HeldPorts, hold_ports
from contain.spec import PortRequest
from tests.kernel.test_network import (
    HOST_OUTER_ADDRESS,
    OUTSIDE_ADDRESS,
    Place,
    call,
    make_place,  # noqa: F401 - a fixture
    serve,  # noqa: F401 - a fixture
    uplink,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces"),
]
Serve = Callable[[Place, str], tuple[str, int]]


class Scene(NamedTuple):
    """A machine with an uplink, and what is published on it."""

    host: Place
    outside: Place
    run_home: Path
    make: Callable[[], Place]

    def publish(self, place: Place, container_id: str, *requests: PortRequest) -> tuple[Attachment, HeldPorts]:
        held = self.host.do(hold_ports, requests)
        try:
            attachment = self.host.do(
                network.attach, place.descriptor, container_id=container_id, run_home=self.run_home, ports=held.ports
            )
        except BaseException:
            held.close()
            raise
        place.do(network.configure_inside, attachment.interface, attachment.address, attachment.prefix, attachment.gateway)
        return attachment, held


@pytest.fixture
def scene(make_place: Callable[[], Place], tmp_path: Path) -> Scene:  # noqa: F811
    host, outside = make_place(), make_place()
    uplink(host, outside)
    outside.netlink(rtnetlink.add_default_route(outside.do(socket.if_nametoindex, "up1"), gateway=HOST_OUTER_ADDRESS))
    return Scene(host, outside, tmp_path / "run", make_place)


@pytest.fixture
def served(scene: Scene) -> Iterator[tuple[Attachment, int]]:
    """A container whose port 8000 answers, TCP and UDP, with who it is asked by, published at all addresses."""
    container = scene.make()
    requests = [PortRequest(container_port=8000, protocol=protocol) for protocol in ("tcp", "udp")]
    attachment, held = scene.publish(container, "served", *requests)
    with _answering(container, attachment.address, 8000):
        yield attachment, attachment.ports[0].host_port
    held.close()


class _answering:  # noqa: N801 - a context manager
    def __init__(self, place: Place, address: str, port: int) -> None:
        self.stream = place.do(socket.create_server, (address, port))
        self.datagrams = place.do(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind((address, port))
        self.threads = [threading.Thread(target=work) for work in (self._streams, self._datagrams)]

    def __enter__(self) -> None:
        for thread in self.threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self.stream.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(10)
        self.stream.close()
        self.datagrams.close()

    def _streams(self) -> None:
        while True:
            try:
                connection, peer = self.stream.accept()
            except OSError:
                return
            with connection:
                connection.sendall(peer[0].encode())

    def _datagrams(self) -> None:
        self.datagrams.settimeout(0.05)
        while self.threads[0].is_alive():
            try:
                _, peer = self.datagrams.recvfrom(100)
            except TimeoutError:
                continue
            self.datagrams.sendto(peer[0].encode(), peer)


def ask(address: tuple[str, int], timeout_seconds: float = 5) -> str:
    """What a UDP server says."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(timeout_seconds)
        asking.connect(address)
        asking.send(b"?")
        return asking.recv(100).decode()


def test_the_outside_reaches_what_is_published(scene: Scene, served: tuple[Attachment, int]) -> None:
    attachment, port = served
    assert scene.outside.do(call, (HOST_OUTER_ADDRESS, port)) == OUTSIDE_ADDRESS  # its own address, not the machine's
    udp = next(row.host_port for row in attachment.ports if row.protocol == "udp")
    assert scene.outside.do(ask, (HOST_OUTER_ADDRESS, udp)) == OUTSIDE_ADDRESS


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", HOST_OUTER_ADDRESS])
def test_the_machine_itself_reaches_what_is_published(scene: Scene, served: tuple[Attachment, int], address: str) -> None:
    attachment, port = served
    assert scene.host.do(call, (address, port)) in (attachment.gateway, HOST_OUTER_ADDRESS)
    udp = next(row.host_port for row in attachment.ports if row.protocol == "udp")
    assert scene.host.do(ask, (address, udp)) in (attachment.gateway, HOST_OUTER_ADDRESS)


def test_the_outside_reaches_nothing_else_of_the_container(
    scene: Scene,
    served: tuple[Attachment, int],
    serve: Serve,  # noqa: F811
) -> None:
    attachment, port = served
    for address in ((attachment.address, 8000), (attachment.address, port)):  # directly, although it knows the way
        with pytest.raises(TimeoutError):
            scene.outside.do(call, address, 0.5)
    with pytest.raises(ConnectionRefusedError):
        scene.outside.do(call, (HOST_OUTER_ADDRESS, 8000), 2)


def test_another_container_of_the_network_reaches_neither_the_container_nor_its_published_port(
    scene: Scene, served: tuple[Attachment, int]
) -> None:
    attachment, port = served
    other = scene.make()
    scene.publish(other, "other")
    for gateway in (attachment.gateway, HOST_OUTER_ADDRESS):
        with pytest.raises(ConnectionRefusedError):
            other.do(call, (gateway, port), 2)
    with pytest.raises(OSError, match=r"timed out|No route to host"):
        other.do(call, (attachment.address, 8000), 0.5)


def test_a_container_of_another_network_reaches_the_published_port(
    scene: Scene, served: tuple[Attachment, int], tmp_path: Path
) -> None:
    attachment, port = served
    other = scene.make()
    beside = scene._replace(run_home=tmp_path / "beside")
    beside.publish(other, "other")
    assert other.do(call, (HOST_OUTER_ADDRESS, port)) != ""
    with pytest.raises(OSError, match=r"timed out|No route to host"):
        other.do(call, (attachment.address, 8000), 0.5)


def test_what_is_published_at_loopback_is_not_the_outsides(scene: Scene) -> None:
    container = scene.make()
    request = PortRequest(container_port=8000, host_address="127.0.0.1")
    attachment, held = scene.publish(container, "a", request)
    port = attachment.ports[0].host_port
    with _answering(container, attachment.address, 8000):
        assert scene.host.do(call, ("127.0.0.1", port)) == attachment.gateway
        with pytest.raises(ConnectionRefusedError):
            scene.outside.do(call, (HOST_OUTER_ADDRESS, port), 2)
        with pytest.raises(ConnectionRefusedError):
            scene.host.do(call, (HOST_OUTER_ADDRESS, port), 2)
    held.close()


def test_a_neighbour_who_sends_to_127_0_0_1_on_the_wire_reaches_no_container(scene: Scene) -> None:
    container = scene.make()
    attachment, held = scene.publish(container, "a", PortRequest(container_port=8000, host_address="127.0.0.1", protocol="udp"))
    port = attachment.ports[0].host_port
    scene.host.do(Path("/proc/sys/net/ipv4/conf/up0/route_localnet").write_text, "1")  # the worst case
    link = scene.host.netlink(rtnetlink.get_link("up0"))[0][0]
    destination = rtnetlink.parse_attributes(link[16:])[1]  # IFLA_ADDRESS, behind the ifinfomsg

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("up1", 0))
            raw.send(destination + bytes(6) + b"\x08\x00" + _datagram(OUTSIDE_ADDRESS, "127.0.0.1", port))

    with container.do(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind((attachment.address, 8000))
        receiver.settimeout(0.5)
        scene.outside.do(send)
        with pytest.raises(TimeoutError):
            receiver.recv(100)
    held.close()


def test_a_container_does_not_reach_the_machines_loopback_though_ports_are_published(
    scene: Scene,
    served: tuple[Attachment, int],
    serve: Serve,  # noqa: F811
) -> None:
    other = scene.make()
    attachment, _ = scene.publish(other, "other")
    _, port = serve(scene.host, "127.0.0.1")

    gateway = bridges.hardware_address(int.from_bytes(socket.inet_aton(attachment.gateway), "big"))
    own = bridges.hardware_address(int.from_bytes(socket.inet_aton(attachment.address), "big"))

    def send(destination: str) -> None:  # as a container does that may make packets of its own
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            raw.send(gateway + own + b"\x08\x00" + _datagram(attachment.address, destination, port))

    with (
        scene.host.do(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as at_bridge,
        scene.host.do(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as at_loopback,
    ):
        at_bridge.bind((attachment.gateway, port))
        at_loopback.bind(("127.0.0.1", port))
        for receiver in (at_bridge, at_loopback):
            receiver.settimeout(0.2)
        arrived = False
        for _ in range(20):  # a new interface may lose its first datagrams
            other.do(send, attachment.gateway)
            with contextlib.suppress(TimeoutError):
                arrived = at_bridge.recv(100) == b""
                break
        assert arrived  # such packets do arrive where they may
        other.do(send, "127.0.0.1")
        with pytest.raises(TimeoutError):
            at_loopback.recv(100)


def _datagram(source: str, destination: str, port: int) -> bytes:
    """An IPv4 packet with an empty UDP datagram (RFC 791, RFC 768)."""
    head = bytes.fromhex("4500001c000100004011") + b"%s" + socket.inet_aton(source) + socket.inet_aton(destination)
    words = head.replace(b"%s", bytes(2))
    total = sum(int.from_bytes(words[place : place + 2], "big") for place in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
    udp = (1000).to_bytes(2, "big") + port.to_bytes(2, "big") + (8).to_bytes(2, "big") + bytes(2)
    return head.replace(b"%s", checksum) + udp


def _loopback_by(gateway: str, index: int) -> rtnetlink.Request:
    route = rtnetlink.add_default_route(index, gateway=gateway)
    payload = bytearray(route.payload)
    payload[1] = 8
    payload += rtnetlink.attribute(1, socket.inet_aton("127.0.0.0"))
    return rtnetlink.Request(name="add a route", kind=route.kind, flags=route.flags, payload=bytes(payload))


def test_a_client_that_keeps_its_udp_port_reaches_the_ports_next_container(scene: Scene) -> None:
    request = PortRequest(container_port=8000, protocol="udp", first_host_port=21020, last_host_port=21020)
    scene.publish(scene.make(), "stays")  # so that each of the others has an address of its own
    with scene.outside.do(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((OUTSIDE_ADDRESS, 0))
        for number in range(2):
            client.sendto(b"too early", (HOST_OUTER_ADDRESS, 21020))  # nobody has the port: the kernel remembers that as a flow
            container = scene.make()
            attachment, held = scene.publish(container, f"number{number}", request)
            with container.do(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as server:
                server.bind((attachment.address, 8000))
                server.settimeout(0.2)
                heard = b""
                for _ in range(20):  # a new interface may lose its first datagrams
                    client.sendto(b"hello %d" % number, (HOST_OUTER_ADDRESS, 21020))
                    with contextlib.suppress(TimeoutError):
                        heard = server.recv(100)
                        break
                assert heard == b"hello %d" % number
            scene.host.do(network.detach, attachment)
            held.close()


def test_two_containers_cannot_have_one_port(scene: Scene, served: tuple[Attachment, int]) -> None:
    _, port = served
    with pytest.raises(Conflict, match=rf"Bind for 0\.0\.0\.0:{port} failed: port is already allocated"):
        scene.publish(scene.make(), "second", PortRequest(container_port=80, first_host_port=port, last_host_port=port))


def test_a_port_of_another_program_is_taken_and_free_after_it(scene: Scene) -> None:
    listener = scene.host.do(socket.create_server, ("0.0.0.0", 0))
    port = listener.getsockname()[1]
    request = PortRequest(container_port=80, first_host_port=port, last_host_port=port)
    with pytest.raises(Conflict, match="port is already allocated"):
        scene.host.do(hold_ports, [request])
    asking = scene.host.do(socket.create_connection, ("127.0.0.1", port))
    accepted, _ = listener.accept()
    accepted.close()  # this side remembers the connection now (TIME_WAIT), which is no reason to refuse
    asking.close()
    listener.close()
    scene.host.do(hold_ports, [request]).close()


def test_of_a_range_the_first_free_port_is_taken(scene: Scene) -> None:
    request = PortRequest(container_port=80, first_host_port=21000, last_host_port=21001)
    first, second = scene.host.do(hold_ports, [request]), scene.host.do(hold_ports, [request])
    assert [held.ports[0].host_port for held in (first, second)] == [21000, 21001]
    with pytest.raises(Conflict, match="21000-21001 failed"):
        scene.host.do(hold_ports, [request])
    first.close()
    scene.host.do(hold_ports, [request]).close()
    second.close()


def test_an_address_that_the_machine_has_not_is_refused(scene: Scene) -> None:
    with pytest.raises(HostError, match=r"cannot publish 203\.0\.113\.77:0/tcp") as caught:
        scene.host.do(hold_ports, [PortRequest(container_port=80, host_address="203.0.113.77")])
    assert caught.value.code == "port-not-available"


def test_the_rules_of_a_port_go_with_its_container(scene: Scene) -> None:
    before = scene.host.links()
    one, two = scene.make(), scene.make()
    first, held = scene.publish(one, "one", PortRequest(container_port=80))
    second, held_too = scene.publish(two, "two", PortRequest(container_port=80))
    scene.host.do(network.detach, first)
    left = network.read_lease("two", run_home=scene.run_home)
    assert left is not None
    assert left.ports == second.ports
    assert network.read_lease("one", run_home=scene.run_home) is None
    with pytest.raises(ConnectionRefusedError):  # its socket is still held, its rule is gone: nobody waits for a dead container
        scene.host.do(call, ("127.0.0.1", first.ports[0].host_port), 2)
    for place in (one, two):
        place.netlink(rtnetlink.delete_link("eth0"))
    scene.host.do(network.detach, second)
    held.close()
    held_too.close()
    assert scene.host.tables(nftables.list_base_chains) == ()
    assert scene.host.links() == before


def test_what_a_killed_supervisor_published_is_swept(scene: Scene) -> None:
    container = scene.make()
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from contain.linux.network import attach; from contain.linux.ports import hold_ports\n"
        "from contain.spec import PortRequest\n"
        "held = hold_ports([PortRequest(container_port=80, first_host_port=21010, last_host_port=21010)])\n"
        "attach(int(sys.argv[1]), container_id='dead', run_home=Path(sys.argv[2]), ports=held.ports)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = scene.host.do(
        subprocess.run,
        [sys.executable, "-c", script, str(container.descriptor), str(scene.run_home)],
        pass_fds=(container.descriptor,),
        timeout=20,
    )
    assert done.returncode == -9
    assert scene.host.do(network.sweep, set(), run_home=scene.run_home) == 1
    assert scene.host.tables(nftables.list_base_chains) == ()
    scene.host.do(hold_ports, [PortRequest(container_port=80, first_host_port=21010, last_host_port=21010)]).close()


def test_ports_are_published_again_after_a_firewall_was_reloaded(scene: Scene, served: tuple[Attachment, int]) -> None:
    _, port = served
    names = network._names(scene.run_home)
    scene.host.tables(nftables.delete_table, names.table)
    with pytest.raises(ConnectionRefusedError):  # never a program of the machine's own in its place
        scene.outside.do(call, (HOST_OUTER_ADDRESS, port), 2)
    scene.publish(scene.make(), "next")
    assert scene.outside.do(call, (HOST_OUTER_ADDRESS, port)) == OUTSIDE_ADDRESS


def test_a_table_of_an_earlier_version_is_completed(scene: Scene) -> None:
    scene.publish(scene.make(), "first")
    names = network._names(scene.run_home)
    scene.host.tables(nftables.delete_table, names.table)
    bare = nftables._batch(
        nftables._request(
            "bare", nftables._NEWTABLE, rtnetlink.NLM_F_ACK | rtnetlink.NLM_F_CREATE, rtnetlink.text(1, names.table)
        )
    )
    scene.host.tables(nftables._transact, bare)
    container = scene.make()
    attachment, held = scene.publish(container, "second", PortRequest(container_port=8000))
    with _answering(container, attachment.address, 8000):
        assert scene.outside.do(call, (HOST_OUTER_ADDRESS, attachment.ports[0].host_port)) == OUTSIDE_ADDRESS
    held.close()
