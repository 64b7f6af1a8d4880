"""Named networks on the real kernel: who reaches whom, in each direction, with IPv4 and IPv6; and that nothing is left.

In network namespaces of the test's own, like `tests.kernel.test_network`, whose `Place` stands for a machine or a container.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contain.container.network.names import LeaseFiles
from contain.errors import Conflict
from contain.linux import network, nftables, rtnetlink
from contain.linux.bridges import bridge_home, bridge_homes, bridge_names
from contain.linux.leases import BridgeSettings, Pool, PublishedPort, Wanted, number_of, number_of6
from contain.linux.network import Attachment
from contain.linux.ports import hold_ports
from contain.spec import PortRequest
from contain.values import replace
from tests.kernel.test_network import (
    HOST_OUTER_ADDRESS,
    OUTSIDE_ADDRESS,
    Place,
    Serve,
    call,
    make_place,  # noqa: F401 - a fixture
    serve,  # noqa: F401 - a fixture
    uplink,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces"),
]
HOST_OUTER_ADDRESS6, OUTSIDE_ADDRESS6 = "2001:db8::1", "2001:db8::2"
NO = 0.4  # seconds after which nobody answers any more


def settings_of(name: str, number: int, **changes: object) -> BridgeSettings:
    settings = BridgeSettings(
        name=name,
        network_id=name * 3,
        pool=Pool(base=number_of(f"10.99.{number}.0"), prefix=24),
        pool6=Pool(base=number_of6(f"fd00:99:{number}::"), prefix=64, bits=128),
        isolated=False,
        fixed=True,
    )
    return replace(settings, **changes)  # type: ignore[arg-type]


FRONT, BACK = settings_of("front", 1), settings_of("back", 2)
INNER = settings_of("inner", 3, internal=True)


class Machine:
    """A machine with an uplink of both IP versions, and its containers."""

    def __init__(self, make: Callable[[], Place], run_home: Path) -> None:
        self.host, self.outside, self.make, self.run_home = make(), make(), make, run_home
        uplink(self.host, self.outside)
        for place, name, address in (
            (self.host, "up0", HOST_OUTER_ADDRESS6),
            (self.outside, "up1", OUTSIDE_ADDRESS6),
        ):
            index = place.do(socket.if_nametoindex, name)
            place.netlink(rtnetlink.add_address(index, address=address, prefix_length=64))
        up = self.host.do(socket.if_nametoindex, "up0")
        self.host.netlink(rtnetlink.add_default_route(up, gateway=OUTSIDE_ADDRESS6))
        back = self.outside.do(socket.if_nametoindex, "up1")
        self.outside.netlink(
            rtnetlink.add_default_route(back, gateway=HOST_OUTER_ADDRESS),
            rtnetlink.add_default_route(back, gateway=HOST_OUTER_ADDRESS6),
        )

    def join(
        self,
        name: str,
        settings: BridgeSettings | None,
        *,
        place: Place | None = None,
        ports: tuple[PublishedPort, ...] = (),
        **wanted: object,
    ) -> tuple[Place, Attachment]:
        place = self.make() if place is None else place
        attachment = self.host.do(
            network.attach,
            place.descriptor,
            container_id=name,
            run_home=bridge_home(self.run_home, settings.network_id if settings else ""),
            settings=settings or BridgeSettings(),
            ports=ports,
            wanted=Wanted(name=name, **wanted),  # type: ignore[arg-type]
        )
        place.do(network.configure, attachment)
        return place, attachment

    def homes(self) -> list[Path]:
        return bridge_homes(self.run_home)


@pytest.fixture
def machine(make_place: Callable[[], Place], tmp_path: Path) -> Machine:  # noqa: F811
    return Machine(make_place, tmp_path / "run")


def cannot(place: Place, server: tuple[str, int]) -> None:
    with pytest.raises(OSError, match=r"timed out|No route to host|unreachable|refused"):
        place.do(call, server, NO)


Both = tuple[tuple[str, int], ...]


def serve_both(serve: Serve, place: Place, attachment: Attachment) -> Both:  # noqa: F811
    return tuple(serve(place, address) for address in (attachment.address, attachment.address6) if address)


def test_containers_of_one_network_reach_each_other(machine: Machine, serve: Serve) -> None:  # noqa: F811
    (one, first), (two, second) = machine.join("one", FRONT), machine.join("two", FRONT)
    for server, seen in zip(serve_both(serve, two, second), (first.address, first.address6), strict=True):
        assert one.do(call, server) == seen
    for server, seen in zip(serve_both(serve, one, first), (second.address, second.address6), strict=True):
        assert two.do(call, server) == seen


@pytest.mark.parametrize("settings", [BACK, INNER, None], ids=["another", "internal", "default"])
def test_containers_of_different_networks_do_not_reach_each_other(
    machine: Machine,
    serve: Serve,  # noqa: F811
    settings: BridgeSettings | None,
) -> None:
    (one, first), (two, second) = machine.join("one", FRONT), machine.join("two", settings)
    for server in serve_both(serve, one, first):
        assert machine.host.do(call, server)  # it does serve
        cannot(two, server)
    for server in serve_both(serve, two, second):
        assert machine.host.do(call, server)
        cannot(one, server)


def test_the_outside_is_reached_under_the_machines_address_and_does_not_reach_in(
    machine: Machine,
    serve: Serve,  # noqa: F811
) -> None:
    one, first = machine.join("one", FRONT)
    assert one.do(call, serve(machine.outside, OUTSIDE_ADDRESS)) == HOST_OUTER_ADDRESS
    assert one.do(call, serve(machine.outside, OUTSIDE_ADDRESS6)) == HOST_OUTER_ADDRESS6
    for server in serve_both(serve, one, first):
        cannot(machine.outside, server)


def test_nothing_leaves_an_internal_network_even_by_a_route_of_its_own(machine: Machine, serve: Serve) -> None:  # noqa: F811
    machine.join("open", FRONT)  # so that this machine passes packets on
    one, first = machine.join("one", INNER)
    index = one.do(socket.if_nametoindex, "eth0")
    gateways = ("10.99.3.1", "fd00:99:3::1")
    one.netlink(*(rtnetlink.add_default_route(index, gateway=gateway) for gateway in gateways))
    servers = [serve(machine.outside, OUTSIDE_ADDRESS), serve(machine.outside, OUTSIDE_ADDRESS6)]
    for server in servers:
        assert machine.host.do(call, server)
        cannot(one, server)
    for server in serve_both(serve, one, first):
        cannot(machine.outside, server)


def is_heard(hearing: socket.socket, sending: socket.socket, address: str) -> bool:
    """Whether a datagram arrives; a new interface may lose its first ones."""
    for _ in range(20):
        sending.sendto(b"heard", (address, 9000))
        with contextlib.suppress(TimeoutError):
            return hearing.recv(10) == b"heard"
    return False


def test_not_even_a_datagram_leaves_an_internal_network_nor_one_under_an_address_of_nobodys(machine: Machine) -> None:
    machine.join("open", FRONT)
    inner, _ = machine.join("inner", INNER)
    front, own = machine.join("front", FRONT)
    index = inner.do(socket.if_nametoindex, "eth0")
    gateways = ("10.99.3.1", "fd00:99:3::1")
    inner.netlink(*(rtnetlink.add_default_route(index, gateway=gateway) for gateway in gateways))
    index = front.do(socket.if_nametoindex, "eth0")
    false = {socket.AF_INET: "203.0.113.9", socket.AF_INET6: "2001:db8:9::9"}
    front.netlink(
        rtnetlink.add_address(index, address=false[socket.AF_INET], prefix_length=32),
        rtnetlink.add_address(index, address=false[socket.AF_INET6], prefix_length=128),
    )
    for family, address in ((socket.AF_INET, OUTSIDE_ADDRESS), (socket.AF_INET6, OUTSIDE_ADDRESS6)):
        with machine.outside.do(socket.socket, family, socket.SOCK_DGRAM) as hearing:
            hearing.bind((address, 9000))
            hearing.settimeout(0.3)
            for place, source in ((inner, ""), (front, false[family])):
                with place.do(socket.socket, family, socket.SOCK_DGRAM) as sending, contextlib.suppress(OSError):
                    if source:
                        sending.bind((source, 0))
                    for _ in range(3):
                        sending.sendto(b"x", (address, 9000))
            with pytest.raises(TimeoutError):
                hearing.recv(10)
            with front.do(socket.socket, family, socket.SOCK_DGRAM) as sending:
                sending.bind((own.address if family == socket.AF_INET else own.address6, 0))
                assert is_heard(hearing, sending, address)


@pytest.mark.parametrize("settings", [BACK, INNER], ids=["open", "internal"])
def test_not_even_a_datagram_without_an_answer_comes_in(machine: Machine, settings: BridgeSettings) -> None:
    target, attachment = machine.join("target", settings)
    front, _ = machine.join("front", FRONT)
    for family, address in ((socket.AF_INET, attachment.address), (socket.AF_INET6, attachment.address6)):
        with target.do(socket.socket, family, socket.SOCK_DGRAM) as hearing:
            hearing.bind((address, 9000))
            hearing.settimeout(0.3)
            for place in (machine.outside, front):
                with place.do(socket.socket, family, socket.SOCK_DGRAM) as sending, contextlib.suppress(OSError):
                    for _ in range(3):
                        sending.sendto(b"x", (address, 9000))
            with pytest.raises(TimeoutError):
                hearing.recv(10)
            with machine.host.do(socket.socket, family, socket.SOCK_DGRAM) as sending:
                assert is_heard(hearing, sending, address)


@contextlib.contextmanager
def published(machine: Machine, settings: BridgeSettings) -> Iterator[tuple[Place, int]]:
    """A container whose port 8000 is published at all of this machine's IPv4 addresses."""
    held = machine.host.do(hold_ports, [PortRequest(container_port=8000)])
    try:
        place, attachment = machine.join("served", settings, ports=held.ports)
        listening = place.do(socket.create_server, (attachment.address, 8000))
        with listening:
            yield place, held.ports[0].host_port
    finally:
        held.close()


def connects(place: Place, address: str, port: int) -> bool:
    try:
        place.do(socket.create_connection, (address, port), NO).close()
    except OSError:
        return False
    return True


def test_a_published_port_is_reached_from_everywhere_but_its_own_and_internal_networks(machine: Machine) -> None:
    with published(machine, FRONT) as (served, port):
        others = {name: machine.join(name, settings)[0] for name, settings in (("back", BACK), ("default", None))}
        same, inner = machine.join("same", FRONT)[0], machine.join("inner", INNER)[0]
        assert connects(machine.outside, HOST_OUTER_ADDRESS, port)
        assert connects(machine.host, "127.0.0.1", port)
        for other in others.values():
            assert connects(other, HOST_OUTER_ADDRESS, port)
        assert not connects(same, HOST_OUTER_ADDRESS, port)
        assert not connects(served, HOST_OUTER_ADDRESS, port)
        index = inner.do(socket.if_nametoindex, "eth0")
        inner.netlink(rtnetlink.add_default_route(index, gateway="10.99.3.1"))
        assert not connects(inner, HOST_OUTER_ADDRESS, port)
        assert not connects(inner, "10.99.3.1", port)


def test_at_ipv6_addresses_too_the_container_sees_who_asks_from_outside_and_internal_networks_do_not_reach_it(
    machine: Machine,
) -> None:
    held = machine.host.do(hold_ports, [PortRequest(container_port=8000, host_address="")])
    place, attachment = machine.join("served", FRONT, ports=held.ports)
    port = held.ports[0].host_port
    back, inner = machine.join("back", BACK)[0], machine.join("inner", INNER)[0]
    with place.do(socket.create_server, (attachment.address6, 8000), family=socket.AF_INET6) as listening:
        listening.settimeout(5)
        with machine.outside.do(socket.create_connection, (HOST_OUTER_ADDRESS6, port), 5):
            connection, peer = listening.accept()
            connection.close()
        assert peer[0] == OUTSIDE_ADDRESS6
        assert connects(back, HOST_OUTER_ADDRESS6, port)
        index = inner.do(socket.if_nametoindex, "eth0")
        inner.netlink(rtnetlink.add_default_route(index, gateway="fd00:99:3::1"))
        assert not connects(inner, HOST_OUTER_ADDRESS6, port)
        machine.host.do(network.disconnect, "served", run_home=attachment.run_home)
        machine.join("again", FRONT)
        assert not _mentions(machine, network._names(attachment.run_home).table, attachment.address)
    held.close()


def test_a_container_on_two_networks_reaches_both_and_joins_them_not(machine: Machine, serve: Serve) -> None:  # noqa: F811
    both, first = machine.join("both", FRONT)
    _, second = machine.join("both", BACK, place=both, interface="eth1")
    front, at_front = machine.join("front", FRONT)
    back, at_back = machine.join("back", BACK)
    for place, attachment, seen in ((front, at_front, first), (back, at_back, second)):
        assert both.do(call, serve(place, attachment.address)) == seen.address
    index = front.do(socket.if_nametoindex, "eth0")
    way = rtnetlink.add_address(index, address="10.99.2.200", prefix_length=24)  # pretends to be of the other one
    front.netlink(way)
    cannot(front, serve(back, at_back.address))


@pytest.mark.parametrize("bridge_calls_nftables", ["0", "1"])
def test_a_link_opens_the_way_in_one_direction_on_the_default_network(
    machine: Machine,
    serve: Serve,  # noqa: F811
    bridge_calls_nftables: str,
) -> None:
    setting = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if machine.host.do(setting.exists):
        machine.host.do(setting.write_text, bridge_calls_nftables)
    target, at_target = machine.join("target", None)
    other, _ = machine.join("other", None)
    linked, at_linked = machine.join("linked", None, links=(("db", "target"),))
    server = serve(target, at_target.address)
    assert linked.do(call, server) == at_linked.address
    cannot(other, server)
    cannot(target, serve(linked, at_linked.address))
    machine.host.do(network.disconnect, "linked", run_home=machine.run_home)
    names = network._names(machine.run_home)
    assert not _mentions(machine, names.table, at_linked.address)


def _mentions(machine: Machine, table: str, address: str) -> bool:
    """Whether a rule of the table holds an address."""
    question = nftables._request("list rules", 7, rtnetlink.NLM_F_DUMP, rtnetlink.text(1, table))
    rows = machine.host.tables(lambda kernel: kernel.transact((question,)))[0]
    return any(socket.inet_aton(address) in row and table.encode() in row for row in rows)


def test_networks_are_made_again_after_a_firewalls_reload(machine: Machine, serve: Serve) -> None:  # noqa: F811
    one, _ = machine.join("one", FRONT)
    names = network._names(bridge_home(machine.run_home, FRONT.network_id))
    for ipv6 in (False, True):
        machine.host.tables(lambda kernel, ipv6=ipv6: nftables.delete_table(kernel, names.table, ipv6=ipv6))
        machine.join(f"more{ipv6}", FRONT)
        assert machine.host.tables(lambda kernel, ipv6=ipv6: nftables.table_exists(kernel, names.table, ipv6=ipv6))
    assert one.do(call, serve(machine.outside, OUTSIDE_ADDRESS6)) == HOST_OUTER_ADDRESS6


def test_nothing_is_left_of_networks_whose_containers_are_gone(machine: Machine) -> None:
    for number, settings in enumerate((FRONT, BACK, INNER, None)):
        machine.join(f"c{number}", settings)
    bridges = {bridge_names(home).bridge for home in machine.homes()}
    assert len(bridges & machine.host.links()) == 4
    for number in range(4):
        machine.host.do(network.detach_container, f"c{number}", run_home=machine.run_home, delete_links=True)
    assert machine.host.links() == {"lo", "up0"}
    assert machine.host.tables(nftables.list_base_chains) == ()
    for settings in (FRONT, BACK, INNER):
        name = network._names(bridge_home(machine.run_home, settings.network_id)).table
        assert not machine.host.tables(lambda kernel, name=name: nftables.table_exists(kernel, name, ipv6=True))


def test_what_a_killed_process_left_is_swept_on_all_networks(machine: Machine) -> None:
    for name, settings in (("a", FRONT), ("b", BACK), ("c", None)):
        machine.join(name, settings)
    for home in machine.homes():  # as if whoever attached them had been killed
        path = home / "network.json"
        path.write_text(path.read_text().replace(f", {os.getpid()}, ", ", 4194305, "))
    assert machine.host.do(network.sweep_all, (), run_home=machine.run_home) == 3
    assert machine.host.links() == {"lo", "up0"}
    assert LeaseFiles(machine.run_home).records() == []


def test_a_given_subnet_that_a_route_of_the_machine_has_is_refused_and_a_chosen_one_gives_way(machine: Machine) -> None:
    up = machine.host.do(socket.if_nametoindex, "up0")
    machine.host.netlink(rtnetlink.add_address(up, address="10.99.1.77", prefix_length=25))
    with pytest.raises(Conflict, match="Pool overlaps with other one on this address space"):
        machine.join("one", FRONT)
    assert machine.host.links() == {"lo", "up0"}
    _, attachment = machine.join("one", replace(FRONT, fixed=False))
    assert not attachment.address.startswith("10.99.")


def test_forwarding_ipv6_keeps_what_the_machine_learns_from_its_routers(machine: Machine) -> None:
    setting = Path("/proc/sys/net/ipv6/conf/up0/accept_ra")
    machine.host.do(setting.write_text, "1")
    machine.join("one", FRONT)
    assert machine.host.do(setting.read_text) == "2\n"


def test_a_router_advertised_by_a_container_is_nobodys(machine: Machine) -> None:
    one, _ = machine.join("one", FRONT)
    assert one.do(Path("/proc/sys/net/ipv6/conf/eth0/accept_ra").read_text) == "0\n"
    bridge = network._names(bridge_home(machine.run_home, FRONT.network_id)).bridge
    assert machine.host.do(Path(f"/proc/sys/net/ipv6/conf/{bridge}/accept_ra").read_text) == "0\n"


@pytest.fixture
def docker_chain(machine: Machine) -> Callable[[], int]:
    """What a Docker that drops what it does not know has in the firewall; how many rules of others stand in its chain for them."""
    table, chain, flags = "filter", "DOCKER-USER", rtnetlink.NLM_F_ACK | rtnetlink.NLM_F_CREATE
    own = nftables._Table(table, 2)
    hook = rtnetlink.nested(4, rtnetlink.attribute(1, nftables._number(2)), rtnetlink.attribute(2, nftables._number(0)))
    forward = nftables._request(
        "add FORWARD",
        3,
        flags,
        rtnetlink.text(1, table),
        rtnetlink.text(3, "FORWARD"),
        hook,
        rtnetlink.attribute(5, nftables._number(0)),
        rtnetlink.text(7, "filter"),
    )
    jump = own.rule("FORWARD", "jump", nftables._verdict(-3, chain))
    machine.host.tables(lambda kernel: kernel.transact(nftables._batch(own.make(), own.chain(chain), forward, jump)))

    def count() -> int:
        question = nftables._request("list", 7, rtnetlink.NLM_F_DUMP, rtnetlink.text(1, table), rtnetlink.text(2, chain))
        rows = machine.host.tables(lambda kernel: kernel.transact((question,)))[0]
        return sum(chain.encode() in row and b"contain ctb" in row for row in rows)

    return count


def test_a_docker_that_drops_what_it_does_not_know_is_passed_and_only_by_what_our_own_rules_let_through(
    machine: Machine,
    serve: Serve,  # noqa: F811
    docker_chain: Callable[[], int],
) -> None:
    one, first = machine.join("one", FRONT)
    other, _ = machine.join("other", None)
    assert one.do(call, serve(machine.outside, OUTSIDE_ADDRESS)) == HOST_OUTER_ADDRESS
    cannot(other, serve(one, first.address))
    assert docker_chain() == 4
    machine.join("two", FRONT)
    assert docker_chain() == 4  # once for each bridge and direction
    for name in ("one", "two", "other"):
        machine.host.do(network.detach_container, name, run_home=machine.run_home, delete_links=True)
    assert docker_chain() == 0
