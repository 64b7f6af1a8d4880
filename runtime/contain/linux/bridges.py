"""The bridge of one network: its names, what its tables are to say, and how it is made when its first container comes.

Decides (pure) names, hardware addresses and rules; makes bridge and tables, and looks each time whether they still stand. Which
containers are on it is `contain.linux.network`'s business, which calls everything here with the lease file locked.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from contain.errors import Conflict, HostError
from contain.linux import nftables, rtnetlink
from contain.linux.leases import (
    DEFAULT_MTU_BYTES,
    BridgeSettings,
    Lease,
    Ledger,
    NetworkRecord,
    Pool,
    choose_pool,
    dotted,
    machine_lock,
    number_of,
    text_of,
)
from contain.linux.resolver import host_servers
from contain.linux.rtnetlink import NETLINK_NETFILTER, Link, NetlinkSocket, Request, Route
from contain.oci.image import digest_of
from contain.paths import HostPath
from contain.values import dataclass, replace

DEFAULT_RUN_HOME = "/var/lib/contain/run"
FORWARDING = "/proc/sys/net/ipv4/ip_forward"
_FORWARDING6 = "/proc/sys/net/ipv6/conf/all/forwarding"
_LOOPBACK6 = "::1"
_INTERFACES6 = "/proc/sys/net/ipv6/conf"
_ROUTE_KIND_UNICAST = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeNames:
    """What a directory's bridge and tables are called."""

    bridge: str
    table: str


# Decisions


def hardware_address(address: int) -> bytes:
    """The hardware address that belongs to a container's IP address: locally administered, equal for equal addresses, so that
    nobody's memory of it is ever out of date when an address is used again."""
    return b"\x02\x63" + address.to_bytes(4, "big")


def parse_hardware_address(text: str) -> bytes:
    """``02:42:ac:11:00:02`` as bytes. Raises ValueError for anything that no interface can have."""
    parts = text.replace("-", ":").split(":")
    if len(parts) != 6 or any(len(part) != 2 for part in parts):
        raise ValueError(text)
    found = bytes.fromhex("".join(parts))
    if found[0] & 1 or not any(found):  # a group's, or none
        raise ValueError(text)
    return found


def render_hardware_address(address: bytes) -> str:
    """As ``ip link`` shows it."""
    return address.hex(":")


def hardware_address_of(lease: Lease) -> bytes:
    """The one that a container asked for, else the one of its IP address."""
    return parse_hardware_address(lease.hardware_address) if lease.hardware_address else hardware_address(lease.address)


def bridge_home(run_home: HostPath, network_id: str) -> HostPath:
    """The directory of a named network's bridge; the default network's (``""``) is the run directory."""
    return run_home / "networks" / network_id if network_id else run_home


def _tag(text: str, digits: int) -> str:
    return digest_of(text.encode()).partition(":")[2][:digits]


def host_interface(container_id: str, *, bridge: str) -> str:
    """The name of the host's end of a container's veth: at most 15 bytes, a function of the container's id and its bridge."""
    return f"ct{_tag(f'{bridge} {container_id}', 12)}"


def bridge_names(run_home: HostPath) -> BridgeNames:
    """Two run directories never share a bridge: they know nothing of each other's addresses and lifetimes."""
    place = os.path.realpath(run_home)
    if place == DEFAULT_RUN_HOME:
        return BridgeNames(bridge="contain0", table="contain")
    tag = _tag(place, 10)
    return BridgeNames(bridge=f"ctb{tag}", table=f"contain-{tag}")


def uplink_mtu_bytes(routes: Sequence[Route], links: Sequence[Link]) -> int:
    """The smallest MTU of the links that have a default route; 1500 if there is none."""
    uplinks = {
        index
        for route in routes
        if route.prefix_length == 0 and route.kind == _ROUTE_KIND_UNICAST
        for index in route.interface_indices
    }
    return min((link.mtu_bytes for link in links if link.index in uplinks), default=DEFAULT_MTU_BYTES)


def plan_forwardings(record: NetworkRecord, *, ipv6: bool = False) -> tuple[nftables.Forwarding, ...]:
    """What the lease file says of published ports of one IP version, as the firewall is to have it. Of IPv6, only what comes from
    outside the machine to a container that has IPv6: the rest is carried by a process (`contain.container.network.relay`)."""
    return tuple(
        nftables.Forwarding(
            protocol=port.protocol,
            host_address=port.host_address,
            host_port=port.host_port,
            container_address=text_of(lease.address6, 128) if ipv6 else dotted(lease.address),
            container_port=port.container_port,
        )
        for lease in record.leases.values()
        for port in lease.ports
        if port.is_ipv6 == ipv6 and (not ipv6 or (lease.address6 and port.host_address != _LOOPBACK6))
    )


def plan_rules(record: NetworkRecord, bridge: str) -> tuple[nftables.BridgeRules, ...]:
    """The tables that a bridge is to have: one for IPv4, and one for IPv6 where containers have that."""
    settings = record.settings
    linked: list[tuple[str, str]] = []
    if settings.isolated:
        linked = [
            (dotted(lease.address), dotted(record.leases[target].address))
            for lease in record.leases.values()
            for _, target in lease.links
            if target in record.leases
        ]
    pools = [record.pool, settings.pool6]
    return tuple(
        nftables.BridgeRules(
            bridge=bridge,
            pool_address=text_of(pool.base, pool.bits),
            prefix_length=pool.prefix,
            published=() if settings.internal else plan_forwardings(record, ipv6=pool.bits == 128),
            internal=settings.internal,
            isolated=settings.isolated,
            masquerade=settings.masquerade,
            linked=tuple(dict.fromkeys(linked)) if pool.bits == 32 else (),
        )
        for pool in pools
        if pool is not None
    )


def plan_port(
    container_id: str, lease: Lease, *, bridge: str, bridge_index: int, port_index: int, isolated: bool
) -> tuple[Request, ...]:
    """From a veth on the bridge to a port that carries traffic. It comes up last: never unisolated, not for a moment."""
    name, mac = host_interface(container_id, bridge=bridge), hardware_address_of(lease)
    addresses = [dotted(lease.address), *([text_of(lease.address6, 128)] if lease.address6 else [])]
    return (
        rtnetlink.set_port(name, alias=f"{bridge} container {container_id}", isolated=isolated),
        rtnetlink.no_link_local_address(name),
        rtnetlink.pin_port(port_index, hardware_address=mac),
        *(rtnetlink.pin_neighbour(bridge_index, address=address, hardware_address=mac) for address in addresses),
        rtnetlink.set_up(name),
    )


def bridge_homes(run_home: HostPath) -> list[HostPath]:
    """Every bridge's directory that may be in use: the default network's first."""
    found = [run_home]
    with contextlib.suppress(FileNotFoundError):
        found += [run_home / "networks" / name for name in sorted(os.listdir(run_home / "networks"))]
    return found


# The kernel


def find_link(kernel: NetlinkSocket, name: str) -> Link | None:
    """What the kernel says of an interface of this name; None if there is none."""
    replies = kernel.transact((rtnetlink.get_link(name),))[0]
    return rtnetlink.parse_link(replies[0]) if replies else None


def replace_published(tables: NetlinkSocket, names: BridgeNames, record: NetworkRecord) -> None:
    """Let the firewall publish what the record says, of both IP versions, where the chains for it stand."""
    nftables.replace_published(tables, names.table, plan_forwardings(record))
    if record.settings.pool6 is not None:
        nftables.replace_published(tables, names.table, plan_forwardings(record, ipv6=True), ipv6=True)


def open_links(names: BridgeNames, record: NetworkRecord) -> None:
    """Let linked containers of an isolated bridge talk by way of this machine: it answers for the one's address towards the
    other, and passes on what the table lets through. ``send_redirects``: else it would tell them of a shorter way that is
    closed."""
    place = f"/proc/sys/net/ipv4/conf/{names.bridge}"
    for path, value in (
        (f"{place}/send_redirects", "0"),
        (f"/proc/sys/net/ipv4/neigh/{names.bridge}/proxy_delay", "0"),
        (f"{place}/proxy_arp_pvlan", "1"),
    ):
        write_setting(path, value)
    with NetlinkSocket(NETLINK_NETFILTER) as tables:
        replace_tables(tables, names, record)


def replace_tables(tables: NetlinkSocket, names: BridgeNames, record: NetworkRecord) -> None:
    """Make the tables of a bridge, or replace them, by what the record says."""
    for rules in plan_rules(record, names.bridge):
        nftables.replace_table(tables, names.table, rules)


def ensure_bridge(
    kernel: NetlinkSocket, ledger: Ledger, names: BridgeNames, settings: BridgeSettings, reserved: Sequence[Pool]
) -> tuple[NetworkRecord, int]:
    """The record and the bridge's index; what is missing is made. A firewall's reload may have flushed the table and somebody
    may have switched forwarding off, so all of it is looked at each time (0.1 ms): isolation never goes away unnoticed."""
    record = replace(ledger.read(), settings=settings)
    bridge = find_link(kernel, names.bridge)
    if bridge is not None and bridge.kind != "bridge":
        raise Conflict(
            f"the interface {names.bridge} exists and is no bridge",
            remedy=f"rename or remove it: ip link delete {names.bridge}",
            code="network-name-taken",
        )
    is_usable = bridge is not None and bridge.is_up and record.pool is not None
    with NetlinkSocket(NETLINK_NETFILTER) as tables:
        nftables.pass_docker(tables, names.bridge)  # a Docker may have come meanwhile
        if is_usable and bridge is not None and _settings_stand(settings) and _tables_stand(tables, names, settings):
            return record, bridge.index
        with machine_lock():
            if not is_usable:
                kernel.transact((rtnetlink.delete_link(names.bridge),))
                record = _settle_record(kernel, record, names, reserved)
                ledger.write(record)
            pool = record.pool
            assert pool is not None
            replace_tables(tables, names, record)
            if not settings.internal:
                _switch_forwarding_on(ipv6=settings.pool6 is not None)
            if not is_usable:
                bridge = _make_bridge(kernel, names.bridge, pool, settings.pool6, record.mtu_bytes)
    assert bridge is not None
    if not is_usable:
        for container_id, lease in record.leases.items():  # somebody removed the bridge below running containers
            name = host_interface(container_id, bridge=names.bridge)
            kernel.transact((rtnetlink.set_master(name, bridge_index=bridge.index),))
            port = find_link(kernel, name)
            if port is not None:
                kernel.transact(
                    plan_port(
                        container_id,
                        lease,
                        bridge=names.bridge,
                        bridge_index=bridge.index,
                        port_index=port.index,
                        isolated=settings.isolated,
                    )
                )
    return record, bridge.index


def _settings_stand(settings: BridgeSettings) -> bool:
    """Whether this machine passes packets on, if it is to."""
    return settings.internal or (forwarding_is_on() and (settings.pool6 is None or _forwarding6_is_on()))


def _tables_stand(tables: NetlinkSocket, names: BridgeNames, settings: BridgeSettings) -> bool:
    if not nftables.table_exists(tables, names.table):
        return False
    return settings.pool6 is None or nftables.table_exists(tables, names.table, ipv6=True)


def _settle_record(kernel: NetlinkSocket, record: NetworkRecord, names: BridgeNames, reserved: Sequence[Pool]) -> NetworkRecord:
    """Without a bridge, only leases whose veth is still there mean anything (after a reboot none does); without any of those the
    pool is chosen anew, unless it was given."""
    leases = {
        name: lease
        for name, lease in record.leases.items()
        if find_link(kernel, host_interface(name, bridge=names.bridge)) is not None
    }
    routes = [rtnetlink.parse_route(payload) for payload in kernel.transact((rtnetlink.list_routes(),))[0]]
    links = [rtnetlink.parse_link(payload) for payload in kernel.transact((rtnetlink.list_links(),))[0]]
    settings = record.settings
    pool = settings.pool
    inner = None if pool is None else _route_within(pool, routes)
    if inner is not None and settings.fixed:
        raise Conflict(
            f"the network {settings.name} cannot be used at the moment: Pool overlaps with other one on this address space: this "
            f"machine has a route to {dotted(inner.destination)}/{inner.prefix_length}",
            remedy="see `ip route`; or make the network with another --subnet",
            code="network-overlap",
        )
    if pool is None or inner is not None:
        avoid = [number_of(server) for server in host_servers()]
        pool = record.pool if leases and record.pool else choose_pool(routes, avoid, reserved)
    if pool is None:
        raise HostError(
            "no private IPv4 subnet is free for containers",
            call="RTM_GETROUTE",
            remedy="the host has routes to all of 172.17.0.0/16 to 172.31.0.0/16 and 192.168.0.0/16; use `--network host`",
            code="network-no-free-subnet",
        )
    return replace(record, pool=pool, leases=leases, mtu_bytes=settings.mtu_bytes or uplink_mtu_bytes(routes, links))


def _route_within(pool: Pool, routes: Sequence[Route]) -> Route | None:
    """A route to a part of a subnet, or to just that: it would take the subnet's packets elsewhere, or others' to it."""
    for route in routes:
        if route.prefix_length >= pool.prefix and pool.overlaps(route.destination, route.prefix_length):
            return route
    return None


def _make_bridge(kernel: NetlinkSocket, name: str, pool: Pool, pool6: Pool | None, mtu_bytes: int) -> Link:
    mac = hardware_address(pool.gateway)
    kernel.transact((rtnetlink.create_bridge(name, hardware_address=mac, mtu_bytes=mtu_bytes),))
    bridge = find_link(kernel, name)
    assert bridge is not None
    addresses = [rtnetlink.add_address(bridge.index, address=dotted(pool.gateway), prefix_length=pool.prefix)]
    if os.path.exists(_INTERFACES6):
        # A container could else advertise itself as a router.
        setting = "disable_ipv6" if pool6 is None else "accept_ra"
        write_setting(f"{_INTERFACES6}/{name}/{setting}", "1" if pool6 is None else "0")
    if pool6 is not None:
        addresses.append(rtnetlink.add_address(bridge.index, address=text_of(pool6.gateway, 128), prefix_length=pool6.prefix))
    kernel.transact((*addresses, rtnetlink.set_up(name)))  # up last: a bridge that is up is complete
    return bridge


def forwarding_is_on() -> bool:
    """Whether this machine passes IPv4 packets on."""
    try:
        with open(FORWARDING, "rb") as file:
            return file.read(1) != b"0"
    except OSError:
        return False


def _forwarding6_is_on() -> bool:
    try:
        with open(_FORWARDING6, "rb") as file:
            return file.read(1) != b"0"
    except OSError:
        return False


def _switch_forwarding_on(*, ipv6: bool) -> None:
    if not forwarding_is_on():
        write_setting(FORWARDING, "1")
    if not ipv6 or _forwarding6_is_on():
        return
    if not os.path.exists(_FORWARDING6):
        raise HostError(
            "this kernel has no IPv6, which the network asks for",
            path=_FORWARDING6,
            remedy="boot without ipv6.disable=1, or make the network without --ipv6",
            code="network-no-ipv6",
        )
    # Who passes packets on takes no more advertisements with accept_ra 1: the machine would lose its own IPv6 routes.
    for name in os.listdir(_INTERFACES6):
        path = f"{_INTERFACES6}/{name}/accept_ra"
        with contextlib.suppress(OSError):
            with open(path, encoding="ascii") as file:
                accepts = file.read().strip() == "1"
            if accepts:
                write_setting(path, "2")
    write_setting(_FORWARDING6, "1")


def write_setting(path: str, value: str) -> None:
    """One of the kernel's settings, by its path below /proc. Raises `HostError` with what to do."""
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
