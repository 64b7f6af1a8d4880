"""The bridge network on the real kernel, in network namespaces of the test's own: the machine's network is never touched.

Each `Place` is a network namespace with a thread in it, since network namespaces are per thread: "host" stands for the machine,
"outside" for the world behind its uplink, the others for containers.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from contain.errors import Conflict, HostError
from contain.linux import bridges, forwarding, network, nftables, rtnetlink
from contain.linux.network import Attachment
from contain.linux.rtnetlink import NetlinkSocket, Request
from contain.linux.syscalls import CLONE_NEWNET, unshare

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces"),
]

T = TypeVar("T")
HOST_OUTER_ADDRESS, OUTSIDE_ADDRESS = "198.51.100.1", "198.51.100.2"


class Place:
    """A network namespace; what is called with `do` happens in it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, initializer=unshare, initargs=(CLONE_NEWNET,))
        self.descriptor = self.do(os.open, "/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.netlink(rtnetlink.set_up("lo"))

    def do(self, work: Callable[..., T], *arguments: object, **named: object) -> T:
        return self._thread.submit(work, *arguments, **named).result(timeout=20)

    def netlink(self, *requests: Request) -> list[list[bytes]]:
        def talk() -> list[list[bytes]]:
            with NetlinkSocket() as kernel:
                return kernel.transact(requests)

        return self.do(talk)

    def tables(self, work: Callable[..., T], *arguments: object) -> T:
        def talk() -> T:
            with NetlinkSocket(rtnetlink.NETLINK_NETFILTER) as kernel:
                return work(kernel, *arguments)

        return self.do(talk)

    def links(self) -> set[str]:
        return {rtnetlink.parse_link(payload).name for payload in self.netlink(rtnetlink.list_links())[0]}

    def close(self) -> None:
        os.close(self.descriptor)
        self._thread.shutdown()


@pytest.fixture
def make_place() -> Iterator[Callable[[], Place]]:
    places: list[Place] = []

    def make() -> Place:
        places.append(Place())
        return places[-1]

    yield make
    for place in places:
        place.close()


@pytest.fixture
def host(make_place: Callable[[], Place]) -> Place:
    return make_place()


@pytest.fixture
def run_home(tmp_path: Path) -> Path:
    return tmp_path / "run"


def attach(host: Place, place: Place, run_home: Path, container_id: str) -> Attachment:
    attachment = host.do(network.attach, place.descriptor, container_id=container_id, run_home=run_home)
    place.do(network.configure_inside, attachment.interface, attachment.address, attachment.prefix, attachment.gateway)
    return attachment


def uplink(host: Place, outside: Place, *, mtu_bytes: int = 1400) -> None:
    """A cable between host and outside: the host's default route goes there, the way back knows only the host itself."""
    veth = Request(
        name="uplink",
        kind=16,
        flags=rtnetlink.NLM_F_ACK | rtnetlink.NLM_F_CREATE,
        payload=_veth_payload("up0", "up1", mtu_bytes, outside.descriptor),
    )
    host.netlink(veth)
    for place, name, address in ((host, "up0", HOST_OUTER_ADDRESS), (outside, "up1", OUTSIDE_ADDRESS)):
        index = place.do(socket.if_nametoindex, name)
        place.netlink(rtnetlink.set_up(name), rtnetlink.add_address(index, address=address, prefix_length=24))
    host.netlink(rtnetlink.add_default_route(host.do(socket.if_nametoindex, "up0"), gateway=OUTSIDE_ADDRESS))


def _veth_payload(name: str, peer: str, mtu_bytes: int, peer_namespace: int) -> bytes:
    head, mtu = bytes(16), rtnetlink.attribute(4, mtu_bytes.to_bytes(4, sys.byteorder))
    namespace = rtnetlink.attribute(28, peer_namespace.to_bytes(4, sys.byteorder))
    other = head + rtnetlink.text(3, peer) + mtu + namespace
    return (
        head
        + rtnetlink.text(3, name)
        + mtu
        + rtnetlink.nested(18, rtnetlink.text(1, "veth"), rtnetlink.nested(2, rtnetlink.nested(1, other)))
    )


class Server:
    """Accepts TCP connections at a place and says to each who it is taken for."""

    def __init__(self, place: Place, address: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = place.do(socket.create_server, (address, 0), family=family)
        self._socket.settimeout(10)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, peer = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.sendall(peer[0].encode())

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Place, str], tuple[str, int]]]:
    servers: list[Server] = []

    def start(place: Place, address: str) -> tuple[str, int]:
        servers.append(Server(place, address))
        return servers[-1].address

    yield start
    for server in servers:
        server.close()


def call(address: tuple[str, int], timeout_seconds: float = 5) -> str:
    """What a server at an address says; an OSError if it cannot be reached."""
    with socket.create_connection(address, timeout=timeout_seconds) as connection:
        return connection.recv(100).decode()


Serve = Callable[[Place, str], tuple[str, int]]


def test_a_container_reaches_the_host_at_the_bridge(
    host: Place, make_place: Callable[[], Place], run_home: Path, serve: Serve
) -> None:
    container = make_place()
    attachment = attach(host, container, run_home, "a")
    assert container.do(call, serve(host, attachment.gateway)) == attachment.address


def test_the_host_reaches_a_container(host: Place, make_place: Callable[[], Place], run_home: Path, serve: Serve) -> None:
    container = make_place()
    attachment = attach(host, container, run_home, "a")
    assert host.do(call, serve(container, attachment.address)) == attachment.gateway


def test_a_container_reaches_the_outside_under_the_hosts_address(
    host: Place, make_place: Callable[[], Place], run_home: Path, serve: Serve
) -> None:
    outside, container = make_place(), make_place()
    uplink(host, outside)
    attach(host, container, run_home, "a")
    assert container.do(call, serve(outside, OUTSIDE_ADDRESS)) == HOST_OUTER_ADDRESS


def test_the_outside_does_not_reach_a_container(
    host: Place, make_place: Callable[[], Place], run_home: Path, serve: Serve
) -> None:
    outside, container = make_place(), make_place()
    uplink(host, outside)
    attachment = attach(host, container, run_home, "a")
    server = serve(container, attachment.address)
    up = outside.do(socket.if_nametoindex, "up1")
    outside.netlink(rtnetlink.add_default_route(up, gateway=HOST_OUTER_ADDRESS))
    assert host.do(call, server)  # it does serve
    with pytest.raises(TimeoutError):
        outside.do(call, server, 0.5)


@pytest.mark.parametrize("bridge_calls_nftables", ["0", "1"])
def test_containers_do_not_reach_each_other(
    host: Place, make_place: Callable[[], Place], run_home: Path, serve: Serve, bridge_calls_nftables: str
) -> None:
    setting = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if host.do(setting.exists):  # per network namespace; elsewhere the isolation of ports is all there is
        host.do(setting.write_text, bridge_calls_nftables)
    one, two = make_place(), make_place()
    first, second = attach(host, one, run_home, "a"), attach(host, two, run_home, "b")
    assert first.address != second.address
    server = serve(two, second.address)
    assert host.do(call, server)
    with pytest.raises(OSError, match=r"timed out|No route to host"):
        one.do(call, server, 0.5)


def test_a_container_cannot_draw_anothers_traffic_to_itself(
    host: Place, make_place: Callable[[], Place], run_home: Path, serve: Serve
) -> None:
    names = network._names(run_home)
    victim, thief = make_place(), make_place()
    attachment = attach(host, victim, run_home, "victim")
    stolen = attach(host, thief, run_home, "thief")
    server = serve(victim, attachment.address)
    locktime = Path(f"/proc/sys/net/ipv4/neigh/{names.bridge}/locktime")
    host.do(locktime.write_text, "0")  # else an answer less than a second after the last one is not believed anyway
    assert host.do(call, server) == attachment.gateway
    victims, own = (
        bridges.hardware_address(int.from_bytes(socket.inet_aton(address), "big"))
        for address in (attachment.address, stolen.address)
    )
    claim = bytes.fromhex("0001 0800 0604 0002") + 2 * (own + socket.inet_aton(attachment.address))
    frames = (
        b"\xff" * 6 + victims + b"\x08\x06" + claim,  # "this hardware address is behind my port"
        b"\xff" * 6 + own + b"\x08\x06" + claim,  # "this IP address has my hardware address"
    )

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            for frame in frames:
                raw.send(frame)

    thief.do(send)
    assert host.do(call, server) == attachment.gateway


def test_containers_do_not_reach_each_other_through_the_host(
    host: Place, make_place: Callable[[], Place], run_home: Path, serve: Serve
) -> None:
    one, two = make_place(), make_place()
    first, second = attach(host, one, run_home, "a"), attach(host, two, run_home, "b")
    server = serve(two, second.address)
    one.netlink(  # a route that asks the host to forward, and so goes around the isolation of ports
        route_to(second.address, first.gateway, one.do(socket.if_nametoindex, "eth0"))
    )
    with pytest.raises(OSError, match=r"timed out|No route to host"):
        one.do(call, server, 0.5)


def route_to(address: str, gateway: str, index: int) -> Request:
    route = rtnetlink.add_default_route(index, gateway=gateway)
    payload = bytearray(route.payload)
    payload[1] = 32  # the destination's prefix length
    payload += rtnetlink.attribute(1, socket.inet_aton(address))
    return Request(name="add a route", kind=route.kind, flags=route.flags, payload=bytes(payload))


def test_containers_of_two_run_directories_do_not_reach_each_other(
    host: Place, make_place: Callable[[], Place], tmp_path: Path, serve: Serve
) -> None:
    one, two = make_place(), make_place()
    first, second = attach(host, one, tmp_path / "1", "a"), attach(host, two, tmp_path / "2", "a")
    assert first.gateway != second.gateway
    server = serve(two, second.address)
    assert host.do(call, server)
    with pytest.raises(TimeoutError):
        one.do(call, server, 0.5)


def test_a_source_address_that_is_not_the_containers_is_not_forwarded(
    host: Place, make_place: Callable[[], Place], run_home: Path
) -> None:
    outside, container = make_place(), make_place()
    uplink(host, outside)
    attach(host, container, run_home, "a")
    index = container.do(socket.if_nametoindex, "eth0")
    container.netlink(rtnetlink.add_address(index, address="203.0.113.9", prefix_length=32))

    def listen() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    with outside.do(listen) as receiver, container.do(listen) as pretender, container.do(listen) as honest:
        receiver.bind((OUTSIDE_ADDRESS, 0))
        receiver.settimeout(5)
        pretender.bind(("203.0.113.9", 0))
        pretender.sendto(b"pretended", receiver.getsockname())
        honest.sendto(b"honest", receiver.getsockname())
        assert receiver.recv(100) == b"honest"


def test_the_interface_has_the_uplinks_mtu_and_no_ipv6(host: Place, make_place: Callable[[], Place], run_home: Path) -> None:
    outside, container = make_place(), make_place()
    uplink(host, outside, mtu_bytes=1380)
    attachment = attach(host, container, run_home, "a")
    inside = rtnetlink.parse_link(container.netlink(rtnetlink.get_link("eth0"))[0][0])
    port = rtnetlink.parse_link(host.netlink(rtnetlink.get_link(attachment.host_interface))[0][0])
    bridge = next(
        link for link in map(rtnetlink.parse_link, host.netlink(rtnetlink.list_links())[0]) if link.index == port.master_index
    )
    assert [inside.mtu_bytes, port.mtu_bytes, bridge.mtu_bytes] == [1380] * 3
    addresses = container.do(Path("/proc/thread-self/net/if_inet6").read_text)
    assert "eth0" not in addresses
    assert [line for line in host.do(Path("/proc/thread-self/net/if_inet6").read_text).splitlines() if " ct" in line] == []


def test_the_last_detach_leaves_no_link_no_table_no_lease(host: Place, make_place: Callable[[], Place], run_home: Path) -> None:
    before = host.links()
    one, two = make_place(), make_place()
    first, second = attach(host, one, run_home, "a"), attach(host, two, run_home, "b")
    host.do(network.detach, first)
    assert len(host.tables(nftables.list_base_chains)) == 5  # the other one still needs it
    one.netlink(rtnetlink.delete_link("eth0"))  # as the end of its namespace does
    two.netlink(rtnetlink.delete_link("eth0"))
    host.do(network.detach, second)
    host.do(network.detach, second)
    assert host.links() == before
    assert host.tables(nftables.list_base_chains) == ()
    assert [path.name for path in run_home.iterdir()] == ["network.lock"]


def test_a_veth_goes_with_its_network_namespace(host: Place, run_home: Path) -> None:
    before = host.links()
    process = subprocess.Popen(["unshare", "-n", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"ready\n")
    process.stdin.flush()
    process.stdout.readline()
    descriptor = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY)
    attachment = host.do(network.attach, descriptor, container_id="a", run_home=run_home)
    host.do(network.configure_from_outside, descriptor, attachment)
    os.close(descriptor)
    process.communicate(timeout=10)
    host.do(network.detach, attachment)
    gone = threading.Event()
    for _ in range(500):
        if host.links() == before:
            break
        gone.wait(0.01)
    assert host.links() == before


def test_sweep_takes_back_what_dead_processes_hold(host: Place, make_place: Callable[[], Place], run_home: Path) -> None:
    before = host.links()
    container = make_place()
    script = (
        "import sys; from pathlib import Path; from contain.linux.network import attach\n"
        "attach(int(sys.argv[1]), container_id='dead', run_home=Path(sys.argv[2]))\n"
    )
    host.do(
        subprocess.run,
        [sys.executable, "-c", script, str(container.descriptor), str(run_home)],
        pass_fds=(container.descriptor,),
        check=True,
        timeout=20,
    )
    assert host.do(network.sweep, {"dead"}, run_home=run_home) == 0  # its container may live on without the one who started it
    assert "eth0" in container.links()
    assert host.do(network.sweep, set(), run_home=run_home) == 1
    assert host.links() == before
    assert "eth0" not in container.links()
    assert host.tables(nftables.list_base_chains) == ()
    assert [path.name for path in run_home.iterdir()] == ["network.lock"]
    assert host.do(network.sweep, set(), run_home=run_home) == 0


def test_sweep_leaves_alone_what_a_living_process_just_attached(
    host: Place, make_place: Callable[[], Place], run_home: Path, serve: Serve
) -> None:
    container = make_place()
    attachment = attach(host, container, run_home, "not-yet-recorded")
    assert host.do(network.sweep, set(), run_home=run_home) == 0
    assert container.do(call, serve(host, attachment.gateway))


def test_attaching_twice_is_the_same_as_once(
    host: Place, make_place: Callable[[], Place], run_home: Path, serve: Serve
) -> None:
    container = make_place()
    first = attach(host, container, run_home, "a")
    second = attach(host, container, run_home, "a")
    assert first == second
    assert container.do(call, serve(host, second.gateway)) == first.address


def test_a_failed_attach_leaves_nothing(host: Place, run_home: Path) -> None:
    before = host.links()
    with open(os.devnull) as no_namespace, pytest.raises(HostError) as caught:
        host.do(network.attach, no_namespace.fileno(), container_id="a", run_home=run_home)
    assert caught.value.errno != 0
    assert host.links() == before
    assert host.tables(nftables.list_base_chains) == ()
    assert [path.name for path in run_home.iterdir()] == ["network.lock"]


def test_flushed_rules_come_back_with_the_next_container(host: Place, make_place: Callable[[], Place], run_home: Path) -> None:
    one, two = make_place(), make_place()
    attach(host, one, run_home, "a")
    table = network._names(run_home).table
    host.tables(nftables.delete_table, table)
    attach(host, two, run_home, "b")
    assert host.tables(nftables.table_exists, table)


def test_a_removed_bridge_comes_back_under_running_containers(
    host: Place, make_place: Callable[[], Place], run_home: Path, serve: Serve
) -> None:
    one, two = make_place(), make_place()
    first = attach(host, one, run_home, "a")
    host.netlink(rtnetlink.delete_link(network._names(run_home).bridge))
    attach(host, two, run_home, "b")
    assert one.do(call, serve(host, first.gateway)) == first.address


def test_a_foreign_interface_with_the_bridges_name_is_not_touched(
    host: Place, make_place: Callable[[], Place], run_home: Path
) -> None:
    name = network._names(run_home).bridge
    other = make_place()
    host.netlink(
        Request(
            name="foreign",
            kind=16,
            flags=rtnetlink.NLM_F_ACK | rtnetlink.NLM_F_CREATE,
            payload=_veth_payload(name, "x", 1500, other.descriptor),
        )
    )
    with pytest.raises(Conflict):
        attach(host, make_place(), run_home, "a")
    assert name in host.links()


def test_a_hold_keeps_the_bridge_between_two_containers(host: Place, make_place: Callable[[], Place], run_home: Path) -> None:
    container = make_place()
    before = host.links()
    holding = network.hold(run_home=run_home)
    host.do(holding.__enter__)
    attachment = attach(host, container, run_home, "a")
    container.netlink(rtnetlink.delete_link("eth0"))
    host.do(network.detach, attachment)
    assert network._names(run_home).bridge in host.links()
    host.do(holding.__exit__, None, None, None)
    assert host.links() == before
    assert host.tables(nftables.list_base_chains) == ()


def test_many_processes_at_once_get_addresses_of_their_own_and_leave_nothing(
    host: Place, make_place: Callable[[], Place], run_home: Path
) -> None:
    before = host.links()
    containers = [make_place() for _ in range(4)]
    script = (
        "import sys; from pathlib import Path; from contain.linux.network import attach, detach\n"
        "for turn in range(5):\n"
        "    a = attach(int(sys.argv[1]), container_id=sys.argv[2], run_home=Path(sys.argv[3]))\n"
        "    print(a.address, flush=True)\n"
        "    if turn < 4: detach(a)\n"
        "sys.stdin.read()\n"
        "detach(a)\n"
    )
    processes = [
        host.do(
            subprocess.Popen,
            [sys.executable, "-c", script, str(place.descriptor), f"container{number}", str(run_home)],
            pass_fds=(place.descriptor,),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number, place in enumerate(containers)
    ]
    last = []
    for process in processes:
        assert process.stdout is not None
        last.append([process.stdout.readline().strip() for _ in range(5)][-1])
    assert len(set(last)) == 4
    assert "" not in last
    for process in processes:
        process.communicate(timeout=20)
        assert process.returncode == 0
    for place in containers:
        place.netlink(rtnetlink.delete_link("eth0"))
    assert host.links() == before
    assert host.tables(nftables.list_base_chains) == ()


def test_the_child_in_a_user_namespace_configures_itself(host: Place, run_home: Path, serve: Serve) -> None:
    script = (
        "import sys, socket; from contain.linux.network import configure_inside\n"
        "print('ready', flush=True)\n"
        "address, prefix, gateway, port = sys.stdin.readline().split()\n"
        "loaded = set(sys.modules)\n"
        "configure_inside('eth0', address, int(prefix), gateway)\n"
        "assert set(sys.modules) == loaded, set(sys.modules) - loaded\n"
        "print(socket.create_connection((gateway, int(port)), timeout=5).recv(100).decode(), flush=True)\n"
    )
    process = subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    descriptor = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY)
    attachment = host.do(network.attach, descriptor, container_id="a", run_home=run_home)
    os.close(descriptor)
    _, port = serve(host, attachment.gateway)
    output, _ = process.communicate(f"{attachment.address} {attachment.prefix} {attachment.gateway} {port}\n", timeout=20)
    assert output.strip() == attachment.address
    host.do(network.detach, attachment)


def test_attaching_loads_no_network_library(run_home: Path) -> None:
    script = "import contain.linux.network, sys; print(sorted({'pyroute2', 'filelock', 'asyncio'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=20)
    assert result.stdout == "[]\n"


def test_a_foreign_chain_that_drops_by_default_is_reported(
    host: Place, make_place: Callable[[], Place], run_home: Path
) -> None:
    attach(host, make_place(), run_home, "a")
    assert "network-forward-policy" not in [finding.code for finding in host.do(forwarding.probe_forwarding)]
    dropping = nftables._request(
        "add a chain",
        3,
        rtnetlink.NLM_F_ACK | rtnetlink.NLM_F_CREATE,
        rtnetlink.text(1, "foreign"),
        rtnetlink.text(3, "FORWARD"),
        rtnetlink.nested(4, rtnetlink.attribute(1, nftables._number(2)), rtnetlink.attribute(2, nftables._number(0))),
        rtnetlink.attribute(5, nftables._number(0)),
        rtnetlink.text(7, "filter"),
    )
    table = nftables._request("add a table", 0, rtnetlink.NLM_F_ACK | rtnetlink.NLM_F_CREATE, rtnetlink.text(1, "foreign"))

    host.tables(lambda kernel: kernel.transact(nftables._batch(table, dropping)))
    findings = [finding for finding in host.do(forwarding.probe_forwarding) if finding.code == "network-forward-policy"]
    assert len(findings) == 1
    assert "foreign" in findings[0].message
