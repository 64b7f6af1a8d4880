"""The default bridge network: each container on its own veth, outbound through NAT, none reaching another.

*Theory of operation.* Everything belongs to one run directory (``run_home``): one bridge and one nftables table, named after it,
and below it a lock and a lease file that says which container has which address. The first container makes bridge and table,
the last one that goes removes them; in between, attaching is one veth pair and a few netlink messages (the *hot path*: no
library, no program, about a millisecond). Whoever changes anything holds the lock, so that any number of processes may.

The lease is written before the link is made, and removed after it: what a killed process leaves behind is always named in the
lease file, and `sweep` finds it there. A lease counts as live while its container is, or while the process that asked for it is.
A veth dies with the container's network namespace; deleting it first would cost 10 to 20 ms of waiting for the kernel.

*What containers cannot do.* Ports are isolated from each other, learn no addresses, and each container's hardware address is
fixed to its port and its IP address, so ARP and spoofed frames gain nothing. What comes from elsewhere unasked is dropped. The
host's own services can be reached at the bridge's address, as with Docker. There is no IPv6.

Making the bridge sets ``net.ipv4.ip_forward`` to 1 and leaves it so, as Docker does: who needed it meanwhile is not known.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections.abc import Collection, Iterator, Sequence
from errno import EEXIST, ENODEV, ENOENT

from contain.errors import Conflict, HostError
from contain.linux import nftables, rtnetlink
from contain.linux.leases import (
    DEFAULT_MTU_BYTES,
    Lease,
    Ledger,
    NetworkRecord,
    Pool,
    PublishedPort,
    choose_pool,
    dotted,
    is_alive,
    lease_address,
    machine_lock,
    myself,
    number_of,
)
from contain.linux.rtnetlink import NETLINK_NETFILTER, Link, NetlinkSocket, Request, Route
from contain.paths import HostPath
from contain.values import dataclass, replace

DEFAULT_RUN_HOME = "/var/lib/contain/run"
CONTAINER_INTERFACE = "eth0"

_FORWARDING = "/proc/sys/net/ipv4/ip_forward"
_CAP_NET_ADMIN = 12
_ROUTE_KIND_UNICAST = 1
_HOOK_FORWARD = 2


# Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """One container on the bridge: what its inside needs to be configured, and what `detach` needs."""

    address: str
    gateway: str
    prefix: int
    interface: str
    container_id: str
    run_home: HostPath
    host_interface: str
    mtu_bytes: int
    ports: tuple[PublishedPort, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about this machine that stands in the way of the bridge network; ``fatal``: it cannot work at all."""

    code: str
    message: str
    remedy: str
    fatal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolverConfiguration:
    """A container's ``/etc/resolv.conf``, and what had to be left out of the host's."""

    text: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    bridge: str
    table: str


# Decisions


def hardware_address(address: int) -> bytes:
    """The hardware address that belongs to a container's IP address: locally administered, equal for equal addresses, so that
    nobody's memory of it is ever out of date when an address is used again."""
    return b"\x02\x63" + address.to_bytes(4, "big")


def host_interface(container_id: str, *, bridge: str) -> str:
    """The name of the host's end of a container's veth: at most 15 bytes, a function of the container's id and its bridge."""
    return "ct" + hashlib.blake2b(f"{bridge} {container_id}".encode(), digest_size=6).hexdigest()


def _names(run_home: HostPath) -> _Names:
    """Two run directories never share a bridge: they know nothing of each other's addresses and lifetimes."""
    place = os.path.realpath(run_home)
    if place == DEFAULT_RUN_HOME:
        return _Names(bridge="contain0", table="contain")
    tag = hashlib.blake2b(place.encode(), digest_size=5).hexdigest()
    return _Names(bridge=f"ctb{tag}", table=f"contain-{tag}")


def uplink_mtu_bytes(routes: Sequence[Route], links: Sequence[Link]) -> int:
    """The smallest MTU of the links that have a default route; 1500 if there is none."""
    uplinks = {
        index
        for route in routes
        if route.prefix_length == 0 and route.kind == _ROUTE_KIND_UNICAST
        for index in route.interface_indices
    }
    return min((link.mtu_bytes for link in links if link.index in uplinks), default=DEFAULT_MTU_BYTES)


def plan_resolver(host_text: str, stub_text: str) -> ResolverConfiguration:
    """A container's resolv.conf from the host's; ``stub_text`` is systemd-resolved's file of real servers, "" if there is none.

    A server on the host's loopback cannot be reached from a container, nor an IPv6 one without IPv6. No public server is put in
    their place: that would send names somewhere that nobody chose. Source: resolv.conf(5).
    """
    servers, others, left_out = _usable_servers(host_text)
    if not servers and stub_text:
        servers, others, more = _usable_servers(stub_text)
        left_out += more
    warnings: tuple[str, ...] = ()
    if not servers:
        which = f": {', '.join(left_out)} cannot be reached from a container" if left_out else ""
        warnings = (f"the host's resolv.conf names no usable nameserver{which}; names will not resolve in containers",)
    lines = [*others, *(f"nameserver {server}" for server in servers)]
    return ResolverConfiguration(text="".join(f"{line}\n" for line in lines), warnings=warnings)


def _usable_servers(text: str) -> tuple[list[str], list[str], list[str]]:
    servers: list[str] = []
    others: list[str] = []
    left_out: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        if words[0] != "nameserver":
            if words[0] in ("search", "domain", "options", "sortlist"):
                others.append(" ".join(words))
        elif len(words) > 1:
            try:
                usable = number_of(words[1]) >> 24 not in (0, 127)
            except OSError:
                usable = False
            (servers if usable else left_out).append(words[1])
    return servers, others, left_out


def plan_forwardings(record: NetworkRecord) -> tuple[nftables.Forwarding, ...]:
    """What the lease file says of published ports, as the firewall is to have it."""
    return tuple(
        nftables.Forwarding(
            protocol=port.protocol,
            host_address=port.host_address,
            host_port=port.host_port,
            container_address=dotted(lease.address),
            container_port=port.container_port,
        )
        for lease in record.leases.values()
        for port in lease.ports
    )


def _plan_port(container_id: str, lease: Lease, *, bridge: str, bridge_index: int, port_index: int) -> tuple[Request, ...]:
    """From a veth on the bridge to a port that carries traffic. It comes up last: never unisolated, not for a moment."""
    name, mac = host_interface(container_id, bridge=bridge), hardware_address(lease.address)
    return (
        rtnetlink.isolate_port(name, alias=f"{bridge} container {container_id}"),
        rtnetlink.no_link_local_address(name),
        rtnetlink.pin_port(port_index, hardware_address=mac),
        rtnetlink.pin_neighbour(bridge_index, address=dotted(lease.address), hardware_address=mac),
        rtnetlink.set_up(name),
    )


# Attaching and detaching


def attach(netns_fd: int, *, container_id: str, run_home: HostPath, ports: tuple[PublishedPort, ...] = ()) -> Attachment:
    """Put the network namespace behind ``netns_fd`` on the bridge, which is made if there is none.

    The calling thread must be in the host's network namespace, with CAP_NET_ADMIN. Afterwards the namespace has an interface
    that is still down: `configure_inside` or `configure_from_outside` completes it. For a container that is attached already,
    its interface is made anew with the same address. On failure everything made here is gone again. ``ports`` are published until
    it is detached; the caller holds their sockets (`contain.linux.ports`). Raises `HostError`.
    """
    names = _names(run_home)
    with Ledger(run_home) as ledger, NetlinkSocket() as kernel:
        try:
            record, bridge_index = _ensure_bridge(kernel, ledger, names)
            record = lease_address(record, container_id, myself(), ports)
            ledger.write(record)
            lease, pool = record.leases[container_id], record.pool
            assert pool is not None
            name = host_interface(container_id, bridge=names.bridge)
            port = _make_veth(kernel, name, lease, netns_fd=netns_fd, bridge_index=bridge_index, mtu_bytes=record.mtu_bytes)
            kernel.transact(
                _plan_port(container_id, lease, bridge=names.bridge, bridge_index=bridge_index, port_index=port.index)
            )
            if ports:
                _publish(kernel, names, record, ports)
        except BaseException:
            with contextlib.suppress(HostError, OSError):  # the first error is the one to tell
                _release(kernel, ledger, names, [container_id], delete_links=True)
            raise
    return Attachment(
        address=dotted(lease.address),
        gateway=dotted(pool.gateway),
        prefix=pool.prefix,
        interface=CONTAINER_INTERFACE,
        container_id=container_id,
        run_home=run_home,
        host_interface=port.name,
        mtu_bytes=record.mtu_bytes,
        ports=ports,
    )


def _publish(kernel: NetlinkSocket, names: _Names, record: NetworkRecord, ports: Sequence[PublishedPort]) -> None:
    """Let the firewall publish what the record says, to this machine's own loopback too: its packets may then leave by the bridge
    (``route_localnet``; the table keeps containers from using that in the other direction)."""
    with NetlinkSocket(NETLINK_NETFILTER) as tables:
        try:
            nftables.replace_published(tables, names.table, plan_forwardings(record))
        except HostError as error:
            if error.errno != ENOENT:
                raise
            _replace_table(tables, names, record)  # of a version that published nothing, or somebody removed the chain
        datagrams = {port.host_port for port in ports if port.protocol == "udp"}
        if datagrams:
            from contain.linux.conntrack import forget_datagrams

            forget_datagrams(kernel, tables, datagrams)
    _write_setting(f"/proc/sys/net/ipv4/conf/{names.bridge}/route_localnet", "1")


def _replace_table(tables: NetlinkSocket, names: _Names, record: NetworkRecord) -> None:
    assert record.pool is not None
    nftables.replace_table(
        tables,
        names.table,
        bridge=names.bridge,
        pool_address=dotted(record.pool.base),
        prefix_length=record.pool.prefix,
        published=plan_forwardings(record),
    )


def read_lease(container_id: str, *, run_home: HostPath) -> Lease | None:
    """A container's address and published ports at this moment, or None. Takes no lock: the file is replaced in one step."""
    return Ledger(run_home).read().leases.get(container_id)


def detach(attachment: Attachment, *, wait: bool = True) -> None:
    """Give a container's address back, once its processes have ended; with the last one, bridge and table go.

    The veth goes with the namespace, by itself. Detaching twice is the same as once. The kernel takes tens of milliseconds to
    remove a bridge: without ``wait``, a process of its own does that, and if it is killed, the next `sweep`. Raises `HostError`.
    """
    run_home, names = attachment.run_home, _names(attachment.run_home)
    with Ledger(run_home) as ledger:
        if not ledger.exists():
            return
        record = ledger.read()
        last = not record.holds and set(record.leases) <= {attachment.container_id}
        if last and not wait and _has_one_thread():
            ledger.write(replace(record, leases={}))
        else:
            with NetlinkSocket() as kernel:
                _release(kernel, ledger, names, [attachment.container_id], delete_links=False)
            return
    _remove_in_background(run_home)


def _has_one_thread() -> bool:
    return len(os.listdir("/proc/self/task")) == 1


def _remove_in_background(run_home: HostPath) -> None:
    """`sweep` in a grandchild that holds no descriptor of ours: who reads our output sees its end when we end."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, os.sysconf("SC_OPEN_MAX"))
            sweep((), run_home=run_home)
    finally:
        os._exit(0)


def sweep(live_container_ids: Collection[str], *, run_home: HostPath) -> int:
    """Take back what dead containers hold, and remove bridge and table if nobody is left; how many leases were taken back.

    A container is dead if it is not among the live ones and the process that attached it has ended. Costs one look at a file
    where no network was ever made. Raises `HostError`.
    """
    if not os.path.exists(os.path.join(run_home, "network.json")):
        return 0
    with Ledger(run_home) as ledger:
        if not ledger.exists():
            return 0
        record = ledger.read()
        dead = [name for name, lease in record.leases.items() if name not in live_container_ids and not is_alive(lease.owner)]
        holds = tuple(hold for hold in record.holds if is_alive(hold))
        if not dead and holds == record.holds and (record.leases or holds):
            return 0
        ledger.write(replace(record, holds=holds))
        with NetlinkSocket() as kernel:
            _release(kernel, ledger, _names(run_home), dead, delete_links=True)
        return len(dead)


@contextlib.contextmanager
def hold(*, run_home: HostPath) -> Iterator[None]:
    """Keep the bridge, once it is made, until the block is left: for a build or a test session, whose containers come one after
    another. Makes nothing itself. What a killed process held is taken back by `sweep`."""
    mine = myself()
    with Ledger(run_home) as ledger:
        record = ledger.read()
        ledger.write(replace(record, holds=(*record.holds, mine)))
    try:
        yield
    finally:
        with Ledger(run_home) as ledger:
            if ledger.exists():
                record = ledger.read()
                remaining = list(record.holds)
                if mine in remaining:
                    remaining.remove(mine)  # one of possibly several of this process
                ledger.write(replace(record, holds=tuple(remaining)))
                with NetlinkSocket() as kernel:
                    _release(kernel, ledger, _names(run_home), [], delete_links=False)


def _release(kernel: NetlinkSocket, ledger: Ledger, names: _Names, container_ids: Sequence[str], *, delete_links: bool) -> None:
    if not ledger.exists():  # nothing of ours was made, whatever stands there under our names
        return
    record = ledger.read()
    gone = [(name, record.leases[name]) for name in container_ids if name in record.leases]
    remaining = {name: lease for name, lease in record.leases.items() if name not in container_ids}
    if delete_links:
        for name in container_ids:
            kernel.transact((rtnetlink.delete_link(host_interface(name, bridge=names.bridge)),))
    if not remaining and not record.holds:
        if record.pool is None:  # nobody came as far as to make a bridge, perhaps because it was not allowed
            ledger.remove()
            return
        bridge = _find_link(kernel, names.bridge)
        with NetlinkSocket(NETLINK_NETFILTER) as tables:  # the kernel frees the table while the bridge goes
            nftables.delete_table(tables, names.table)
            if bridge is not None and bridge.kind == "bridge":
                kernel.transact((rtnetlink.delete_link(names.bridge),))
        ledger.remove()
        return
    bridge = _find_link(kernel, names.bridge) if gone else None
    if bridge is not None:
        kernel.transact([rtnetlink.unpin_neighbour(bridge.index, address=dotted(lease.address)) for _, lease in gone])
    if gone:
        ledger.write(replace(record, leases=remaining))
        if any(lease.ports for _, lease in gone):
            with NetlinkSocket(NETLINK_NETFILTER) as tables:
                if nftables.table_exists(tables, names.table):
                    nftables.replace_published(tables, names.table, plan_forwardings(replace(record, leases=remaining)))


def _find_link(kernel: NetlinkSocket, name: str) -> Link | None:
    replies = kernel.transact((rtnetlink.get_link(name),))[0]
    return rtnetlink.parse_link(replies[0]) if replies else None


def _make_veth(kernel: NetlinkSocket, name: str, lease: Lease, *, netns_fd: int, bridge_index: int, mtu_bytes: int) -> Link:
    requests = (
        rtnetlink.create_veth(
            name,
            bridge_index=bridge_index,
            mtu_bytes=mtu_bytes,
            peer_name=CONTAINER_INTERFACE,
            peer_hardware_address=hardware_address(lease.address),
            peer_namespace=netns_fd,
        ),
        rtnetlink.get_link(name),
    )
    try:
        replies = kernel.transact(requests)
    except HostError as error:
        if error.errno != EEXIST or _find_link(kernel, name) is None:
            raise
        kernel.transact((rtnetlink.delete_link(name),))  # of an earlier attempt
        replies = kernel.transact(requests)
    if not replies[1]:
        raise HostError(
            f"the interface {name} vanished while it was made",
            call="RTM_GETLINK",
            errno=ENODEV,
            remedy="the container's network namespace may have ended; run it again",
            code="network-kernel",
        )
    return rtnetlink.parse_link(replies[1][0])


# The bridge, on first use


def _ensure_bridge(kernel: NetlinkSocket, ledger: Ledger, names: _Names) -> tuple[NetworkRecord, int]:
    """The record and the bridge's index; what is missing is made. A firewall's reload may have flushed the table and somebody
    may have switched forwarding off, so all of it is looked at each time (0.1 ms): isolation never goes away unnoticed."""
    record = ledger.read()
    bridge = _find_link(kernel, names.bridge)
    if bridge is not None and bridge.kind != "bridge":
        raise Conflict(
            f"the interface {names.bridge} exists and is no bridge",
            remedy=f"rename or remove it: ip link delete {names.bridge}",
            code="network-name-taken",
        )
    is_usable = bridge is not None and bridge.is_up and record.pool is not None
    with NetlinkSocket(NETLINK_NETFILTER) as tables:
        if is_usable and bridge is not None and _forwarding_is_on() and nftables.table_exists(tables, names.table):
            return record, bridge.index
        with machine_lock():
            if not is_usable:
                kernel.transact((rtnetlink.delete_link(names.bridge),))
                record = _settle_record(kernel, record, names)
                ledger.write(record)
            pool = record.pool
            assert pool is not None
            _replace_table(tables, names, record)
            _switch_forwarding_on()
            if not is_usable:
                bridge = _make_bridge(kernel, names.bridge, pool, record.mtu_bytes)
    assert bridge is not None
    if not is_usable:
        for container_id, lease in record.leases.items():  # somebody removed the bridge below running containers
            name = host_interface(container_id, bridge=names.bridge)
            kernel.transact((rtnetlink.set_master(name, bridge_index=bridge.index),))
            port = _find_link(kernel, name)
            if port is not None:
                kernel.transact(
                    _plan_port(container_id, lease, bridge=names.bridge, bridge_index=bridge.index, port_index=port.index)
                )
    return record, bridge.index


def _settle_record(kernel: NetlinkSocket, record: NetworkRecord, names: _Names) -> NetworkRecord:
    """Without a bridge, only leases whose veth is still there mean anything (after a reboot none does); without any of those the
    pool is chosen anew."""
    leases = {
        name: lease
        for name, lease in record.leases.items()
        if _find_link(kernel, host_interface(name, bridge=names.bridge)) is not None
    }
    routes = [rtnetlink.parse_route(payload) for payload in kernel.transact((rtnetlink.list_routes(),))[0]]
    links = [rtnetlink.parse_link(payload) for payload in kernel.transact((rtnetlink.list_links(),))[0]]
    pool = record.pool if leases else choose_pool(routes, [number_of(server) for server in _host_servers()])
    if pool is None:
        raise HostError(
            "no private IPv4 subnet is free for containers",
            call="RTM_GETROUTE",
            remedy="the host has routes to all of 172.17.0.0/16 to 172.31.0.0/16 and 192.168.0.0/16; use `--network host`",
            code="network-no-free-subnet",
        )
    return replace(record, pool=pool, leases=leases, mtu_bytes=uplink_mtu_bytes(routes, links))


def _make_bridge(kernel: NetlinkSocket, name: str, pool: Pool, mtu_bytes: int) -> Link:
    mac = hardware_address(pool.gateway)
    kernel.transact((rtnetlink.create_bridge(name, hardware_address=mac, mtu_bytes=mtu_bytes),))
    bridge = _find_link(kernel, name)
    assert bridge is not None
    if os.path.exists("/proc/sys/net/ipv6"):
        _write_setting(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "1")  # or a container could advertise itself as a router
    kernel.transact(
        (
            rtnetlink.add_address(bridge.index, address=dotted(pool.gateway), prefix_length=pool.prefix),
            rtnetlink.set_up(name),  # last: a bridge that is up is complete
        )
    )
    return bridge


def _forwarding_is_on() -> bool:
    try:
        with open(_FORWARDING, "rb") as file:
            return file.read(1) != b"0"
    except OSError:
        return False


def _switch_forwarding_on() -> None:
    if not _forwarding_is_on():
        _write_setting(_FORWARDING, "1")


def _write_setting(path: str, value: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(value)
    except OSError as error:
        name = path.removeprefix("/proc/sys/").replace("/", ".")
        raise HostError(
            f"cannot set {name} to {value}",
            call="write",
            path=path,
            errno=error.errno or 0,
            remedy=f"sysctl -w {name}={value} as root, outside of any container; or use `--network host` or `--network none`",
            code="network-setting",
        ) from error


# Inside the container's network namespace


def configure_inside(interface: str, address: str, prefix: int, gateway: str) -> None:
    """Bring loopback and ``interface`` up in the calling thread's network namespace: address, default route, no IPv6.

    For the container's own process before it gives up CAP_NET_ADMIN: one socket, one exchange, no import, nothing of the host
    needed. Calling it twice is the same as once. Raises `HostError`.
    """
    try:
        index = socket.if_nametoindex(interface)
    except OSError as error:
        raise HostError(
            f"the container has no interface {interface}",
            call="ioctl(SIOCGIFINDEX)",
            errno=error.errno or ENODEV,
            code="network-kernel",
        ) from error
    with NetlinkSocket() as kernel:
        kernel.transact(
            (
                rtnetlink.set_up("lo"),
                rtnetlink.no_link_local_address(interface),
                rtnetlink.set_up(interface),
                rtnetlink.add_address(index, address=address, prefix_length=prefix),
                rtnetlink.add_default_route(index, gateway=gateway),
            )
        )


def configure_from_outside(netns_fd: int, attachment: Attachment) -> None:
    """What `configure_inside` does, for a namespace that the caller is not in. Raises `HostError`.

    On a thread of its own, which joins the namespace and ends before this returns: network namespaces are per thread, and
    a fork would be unsafe wherever the caller has threads.
    """
    import threading

    from contain.linux.syscalls import CLONE_NEWNET, setns

    failures: list[BaseException] = []

    def work() -> None:
        try:
            try:
                setns(netns_fd, CLONE_NEWNET)
            except OSError as error:
                raise HostError(
                    "cannot enter the container's network namespace",
                    call="setns(CLONE_NEWNET)",
                    errno=error.errno or 0,
                    remedy="run as root or with CAP_SYS_ADMIN",
                    code="network-permission",
                ) from error
            configure_inside(attachment.interface, attachment.address, attachment.prefix, attachment.gateway)
        except BaseException as error:  # carried to the caller's thread
            failures.append(error)

    thread = threading.Thread(target=work, name="configure-network")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


# What the host tells


def read_resolver() -> ResolverConfiguration:
    """The resolv.conf for containers on the bridge of this host."""
    return plan_resolver(_text_of("/etc/resolv.conf"), _text_of("/run/systemd/resolve/resolv.conf"))


def _host_servers() -> list[str]:
    return _usable_servers(_text_of("/etc/resolv.conf"))[0]


def _text_of(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 16)
    except OSError:
        return ""


def probe_forwarding() -> list[Finding]:
    """What on this machine keeps containers on the bridge from the outside, as far as it can be seen. Changes nothing."""
    findings: list[Finding] = []
    if not _has_net_admin():
        findings.append(
            Finding(
                code="network-permission",
                message="this process lacks CAP_NET_ADMIN",
                remedy="run as root; `--network none` and `--network host` need no permission",
                fatal=True,
            )
        )
        return findings
    if not _forwarding_is_on() and not os.access(_FORWARDING, os.W_OK):
        findings.append(
            Finding(
                code="network-setting",
                message="net.ipv4.ip_forward is 0 and cannot be changed here (/proc/sys is read-only)",
                remedy="sysctl -w net.ipv4.ip_forward=1 on the host itself",
                fatal=True,
            )
        )
    try:
        with NetlinkSocket(NETLINK_NETFILTER) as tables:
            chains = nftables.list_base_chains(tables)
    except HostError as error:
        findings.append(Finding(code="network-kernel", message=error.message, remedy=error.remedy, fatal=True))
        return findings
    findings.extend(
        Finding(
            code="network-forward-policy",
            message=f"the nftables table {chain.table} drops forwarded packets by default (chain {chain.name})",
            remedy=f"let that chain accept what has the input or the output interface contain0 (Docker: `iptables -I DOCKER-USER "
            f"-i contain0 -j ACCEPT; iptables -I DOCKER-USER -o contain0 -j ACCEPT`; else: `nft insert rule ip {chain.table} "
            f"{chain.name} iifname contain0 accept` and the same with oifname)",
            fatal=False,
        )
        for chain in chains
        if chain.hook == _HOOK_FORWARD and chain.drops_by_default
    )
    if "filter" in _text_of("/proc/net/ip_tables_names").split():
        findings.append(
            Finding(
                code="network-legacy-iptables",
                message="legacy iptables rules are loaded beside nftables; if their FORWARD chain drops, containers have no network",
                remedy="look with `iptables-legacy -S FORWARD`; if need be `iptables-legacy -I FORWARD -i contain0 -j ACCEPT` and "
                "the same with -o",
                fatal=False,
            )
        )
    return findings


def _has_net_admin() -> bool:
    for line in _text_of("/proc/thread-self/status").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    return False
