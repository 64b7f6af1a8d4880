"""Bridge networks: each container on its own veth, outbound through NAT, none reached by what is not on its bridge.

*Theory of operation.* Everything belongs to one directory (``run_home``): one bridge and one nftables table for each IP version,
named after it, and below it a lock and a lease file that says which container has which address. The default network's is the run
directory itself, a named network's lies below it (`bridge_home`). The first container makes bridge and tables, the last one that
goes removes them; in between, attaching is one veth pair and a few netlink messages (the *hot path*: no library, no program,
about a millisecond). Whoever changes anything holds the lock, so that any number of processes may.

The lease is written before the link is made, and removed after it: what a killed process leaves behind is always named in the
lease file, and `sweep` finds it there. A lease counts as live while its container is, or while the process that asked for it is.
A veth dies with the container's network namespace; deleting it first would cost 10 to 20 ms of waiting for the kernel.

*What containers cannot do.* Ports learn no addresses, and each container's hardware address is fixed to its port and its IP
address, so ARP and spoofed frames gain nothing; on the default network ports are isolated from each other, too. What comes from
elsewhere unasked is dropped. The host's own services can be reached at the bridge's address, as with Docker. IPv6 is there where
a network asks for it.

Making a bridge sets ``net.ipv4.ip_forward`` to 1 and leaves it so, as Docker does: who needed it meanwhile is not known. With
IPv6 the same goes for ``net.ipv6.conf.all.forwarding``; interfaces that took their routes from advertisements go on to do so.
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
    DEFAULT_SETTINGS,
    BridgeSettings,
    Lease,
    Ledger,
    NetworkRecord,
    Pool,
    PublishedPort,
    Wanted,
    choose_pool,
    dotted,
    is_alive,
    lease_address,
    machine_lock,
    myself,
    number_of,
    text_of,
)
from contain.linux.resolver import host_servers
from contain.linux.rtnetlink import NETLINK_NETFILTER, Link, NetlinkSocket, Request, Route
from contain.paths import HostPath
from contain.values import dataclass, replace

DEFAULT_RUN_HOME = "/var/lib/contain/run"
CONTAINER_INTERFACE = "eth0"

FORWARDING = "/proc/sys/net/ipv4/ip_forward"
_FORWARDING6 = "/proc/sys/net/ipv6/conf/all/forwarding"
_LOOPBACK6 = "::1"
_INTERFACES6 = "/proc/sys/net/ipv6/conf"
_ROUTE_KIND_UNICAST = 1


# Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """One container on a bridge: what its inside needs to be configured, and what `detach` needs. ``gateway`` "": no way out;
    ``address6`` "": no IPv6."""

    address: str
    gateway: str
    prefix: int
    interface: str
    container_id: str
    run_home: HostPath
    host_interface: str
    mtu_bytes: int
    ports: tuple[PublishedPort, ...] = ()
    address6: str = ""
    gateway6: str = ""
    prefix6: int = 0
    hardware_address: str = ""
    network: str = "bridge"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
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


def plan_forwardings(record: NetworkRecord, *, ipv6: bool = False) -> tuple[nftables.Forwarding, ...]:
    """What the lease file says of published ports of one IP version, as the firewall is to have it. Of IPv6, only what comes from
    outside the machine to a container that has IPv6: the rest is carried by a process (`contain.container.relay`)."""
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


def _plan_port(
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


# Attaching and detaching


def attach(
    netns_fd: int,
    *,
    container_id: str,
    run_home: HostPath,
    ports: tuple[PublishedPort, ...] = (),
    settings: BridgeSettings = DEFAULT_SETTINGS,
    wanted: Wanted | None = None,
    reserved: Sequence[Pool] = (),
) -> Attachment:
    """Put the network namespace behind ``netns_fd`` on the bridge of ``run_home``, which is made as ``settings`` say if there is
    none.

    The calling thread must be in the host's network namespace, with CAP_NET_ADMIN. Afterwards the namespace has an interface
    that is still down: `configure_inside` or `configure` completes it. For a container that is attached already,
    its interface is made anew with the same address. On failure everything made here is gone again. ``ports`` are published until
    it is detached; the caller holds their sockets (`contain.linux.ports`). ``reserved``: subnets of other networks, which may
    have no bridge at the moment. Raises `HostError`, `Conflict`, `UsageError`.
    """
    names = _names(run_home)
    wanted = wanted or Wanted()
    with Ledger(run_home) as ledger, NetlinkSocket() as kernel:
        try:
            record, bridge_index = _ensure_bridge(kernel, ledger, names, settings, reserved)
            record = lease_address(record, container_id, myself(), ports, wanted)
            ledger.write(record)
            lease = record.leases[container_id]
            name = host_interface(container_id, bridge=names.bridge)
            port = _make_veth(kernel, name, lease, netns_fd=netns_fd, bridge_index=bridge_index, mtu_bytes=record.mtu_bytes)
            kernel.transact(
                _plan_port(
                    container_id,
                    lease,
                    bridge=names.bridge,
                    bridge_index=bridge_index,
                    port_index=port.index,
                    isolated=record.settings.isolated,
                )
            )
            if wanted.links and record.settings.isolated:
                _open_links(names, record)
            if ports and not record.settings.internal:
                _publish(kernel, names, record, ports)
        except BaseException:
            with contextlib.suppress(HostError, OSError):  # the first error is the one to tell
                _release(kernel, ledger, names, [container_id], delete_links=True)
            raise
    return replace(attachment_of(container_id, run_home, record), ports=ports)


def attachment_of(container_id: str, run_home: HostPath, record: NetworkRecord) -> Attachment:
    """What a record says of a container that is on the bridge."""
    lease, pool, settings = record.leases[container_id], record.pool, record.settings
    assert pool is not None
    pool6 = settings.pool6
    return Attachment(
        address=dotted(lease.address),
        gateway="" if settings.internal else dotted(pool.gateway),
        prefix=pool.prefix,
        interface=lease.interface,
        container_id=container_id,
        run_home=run_home,
        host_interface=host_interface(container_id, bridge=_names(run_home).bridge),
        mtu_bytes=record.mtu_bytes,
        ports=lease.ports,
        address6=text_of(lease.address6, 128) if lease.address6 else "",
        gateway6="" if settings.internal or pool6 is None else text_of(pool6.gateway, 128),
        prefix6=0 if pool6 is None else pool6.prefix,
        hardware_address=render_hardware_address(hardware_address_of(lease)),
        network=settings.name,
    )


def _publish(kernel: NetlinkSocket, names: _Names, record: NetworkRecord, ports: Sequence[PublishedPort]) -> None:
    """Let the firewall publish what the record says, to this machine's own loopback too: its packets may then leave by the bridge
    (``route_localnet``; the table keeps containers from using that in the other direction)."""
    with NetlinkSocket(NETLINK_NETFILTER) as tables:
        try:
            _replace_published(tables, names, record)
        except HostError as error:
            if error.errno != ENOENT:
                raise
            _replace_tables(tables, names, record)  # of a version that published nothing, or somebody removed the chain
        datagrams = {port.host_port for port in ports if port.protocol == "udp" and not port.is_ipv6}
        if datagrams:
            from contain.linux.conntrack import forget_datagrams

            forget_datagrams(kernel, tables, datagrams)
    _write_setting(f"/proc/sys/net/ipv4/conf/{names.bridge}/route_localnet", "1")


def _replace_published(tables: NetlinkSocket, names: _Names, record: NetworkRecord) -> None:
    nftables.replace_published(tables, names.table, plan_forwardings(record))
    if record.settings.pool6 is not None:
        nftables.replace_published(tables, names.table, plan_forwardings(record, ipv6=True), ipv6=True)


def _open_links(names: _Names, record: NetworkRecord) -> None:
    """Let linked containers of an isolated bridge talk by way of this machine: it answers for the one's address towards the
    other, and passes on what the table lets through. ``send_redirects``: else it would tell them of a shorter way that is
    closed."""
    place = f"/proc/sys/net/ipv4/conf/{names.bridge}"
    for path, value in (
        (f"{place}/send_redirects", "0"),
        (f"/proc/sys/net/ipv4/neigh/{names.bridge}/proxy_delay", "0"),
        (f"{place}/proxy_arp_pvlan", "1"),
    ):
        _write_setting(path, value)
    with NetlinkSocket(NETLINK_NETFILTER) as tables:
        _replace_tables(tables, names, record)


def _replace_tables(tables: NetlinkSocket, names: _Names, record: NetworkRecord) -> None:
    for rules in plan_rules(record, names.bridge):
        nftables.replace_table(tables, names.table, rules)


def publish(container_id: str, ports: tuple[PublishedPort, ...], *, run_home: HostPath) -> None:
    """Let an attached container's published ports be these from now on. The caller knows that somebody holds their sockets."""
    names = _names(run_home)
    with Ledger(run_home) as ledger, NetlinkSocket() as kernel:
        record = ledger.read()
        lease = record.leases.get(container_id)
        if lease is None or record.settings.internal:
            return
        record = replace(record, leases={**record.leases, container_id: replace(lease, ports=ports)})
        ledger.write(record)
        _publish(kernel, names, record, ports)


def rename(container_id: str, name: str, *, run_home: HostPath) -> None:
    """Let an attached container be found by another name. Nothing if it is not attached."""
    with Ledger(run_home) as ledger:
        record = ledger.read()
        lease = record.leases.get(container_id)
        if lease is not None:
            ledger.write(replace(record, leases={**record.leases, container_id: replace(lease, name=name)}))


def read_lease(container_id: str, *, run_home: HostPath) -> Lease | None:
    """A container's address and published ports at this moment, or None. Takes no lock: the file is replaced in one step."""
    return Ledger(run_home).read().leases.get(container_id)


def bridge_homes(run_home: HostPath) -> list[HostPath]:
    """Every bridge's directory that may be in use: the default network's first."""
    found = [run_home]
    with contextlib.suppress(FileNotFoundError):
        found += [run_home / "networks" / name for name in sorted(os.listdir(run_home / "networks"))]
    return found


def read_bridges(run_home: HostPath) -> list[tuple[HostPath, NetworkRecord]]:
    """What is in use of all networks at this moment; the default one first. Takes no lock."""
    return [(home, record) for home in bridge_homes(run_home) if (record := Ledger(home).read()).leases]


def detach_container(container_id: str, *, run_home: HostPath, wait: bool = True, delete_links: bool = False) -> None:
    """`detach` from every bridge that a container is on, whoever put it there. ``delete_links``: somebody else is in its network
    namespace, which so may outlive it."""
    for home, record in read_bridges(run_home):
        if container_id in record.leases and delete_links:
            disconnect(container_id, run_home=home)
        elif container_id in record.leases:
            _detach(container_id, home, wait=wait)


def disconnect(container_id: str, *, run_home: HostPath) -> None:
    """Take a running container off a bridge: its interface goes, and the bridge with the last one."""
    with Ledger(run_home) as ledger:
        if ledger.exists():
            with NetlinkSocket() as kernel:
                _release(kernel, ledger, _names(run_home), [container_id], delete_links=True)


def detach(attachment: Attachment, *, wait: bool = True) -> None:
    """Give a container's address back, once its processes have ended; with the last one, bridge and table go.

    The veth goes with the namespace, by itself. Detaching twice is the same as once. The kernel takes tens of milliseconds to
    remove a bridge: without ``wait``, a process of its own does that, and if it is killed, the next `sweep`. Raises `HostError`.
    """
    _detach(attachment.container_id, attachment.run_home, wait=wait)


def _detach(container_id: str, run_home: HostPath, *, wait: bool) -> None:
    names = _names(run_home)
    with Ledger(run_home) as ledger:
        if not ledger.exists():
            return
        record = ledger.read()
        last = not record.holds and set(record.leases) <= {container_id}
        if last and not wait and _has_one_thread():
            ledger.write(replace(record, leases={}))
        else:
            with NetlinkSocket() as kernel:
                _release(kernel, ledger, names, [container_id], delete_links=False)
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


def sweep_all(live_container_ids: Collection[str], *, run_home: HostPath) -> int:
    """`sweep` of every bridge below a run directory."""
    return sum(sweep(live_container_ids, run_home=home) for home in bridge_homes(run_home))


def forget_bridge(run_home: HostPath) -> None:
    """Remove the directory of a named network that is no more, unless somebody is still on it."""
    with Ledger(run_home) as ledger:
        if not ledger.exists():
            with contextlib.suppress(OSError):
                os.unlink(run_home / "network.lock")
                os.rmdir(run_home)


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
    has_ipv6 = record.settings.pool6 is not None
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
            nftables.unpass_docker(tables, names.bridge)
            nftables.delete_table(tables, names.table)
            if has_ipv6:
                nftables.delete_table(tables, names.table, ipv6=True)
            if bridge is not None and bridge.kind == "bridge":
                kernel.transact((rtnetlink.delete_link(names.bridge),))
        ledger.remove()
        return
    bridge = _find_link(kernel, names.bridge) if gone else None
    if bridge is not None:
        addresses = [dotted(lease.address) for _, lease in gone]
        addresses += [text_of(lease.address6, 128) for _, lease in gone if lease.address6]
        kernel.transact([rtnetlink.unpin_neighbour(bridge.index, address=address) for address in addresses])
    if gone:
        left = replace(record, leases=remaining)
        ledger.write(left)
        linked = [lease for lease in record.leases.values() if lease.links]
        if any(lease.ports for _, lease in gone) or (linked and record.settings.isolated):
            with NetlinkSocket(NETLINK_NETFILTER) as tables:
                if not nftables.table_exists(tables, names.table) or record.settings.internal:
                    return
                if linked:
                    _replace_tables(tables, names, left)
                else:
                    _replace_published(tables, names, left)


def _find_link(kernel: NetlinkSocket, name: str) -> Link | None:
    replies = kernel.transact((rtnetlink.get_link(name),))[0]
    return rtnetlink.parse_link(replies[0]) if replies else None


def _make_veth(kernel: NetlinkSocket, name: str, lease: Lease, *, netns_fd: int, bridge_index: int, mtu_bytes: int) -> Link:
    requests = (
        rtnetlink.create_veth(
            name,
            bridge_index=bridge_index,
            mtu_bytes=mtu_bytes,
            peer_name=lease.interface,
            peer_hardware_address=hardware_address_of(lease),
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


def _ensure_bridge(
    kernel: NetlinkSocket, ledger: Ledger, names: _Names, settings: BridgeSettings, reserved: Sequence[Pool]
) -> tuple[NetworkRecord, int]:
    """The record and the bridge's index; what is missing is made. A firewall's reload may have flushed the table and somebody
    may have switched forwarding off, so all of it is looked at each time (0.1 ms): isolation never goes away unnoticed."""
    record = replace(ledger.read(), settings=settings)
    bridge = _find_link(kernel, names.bridge)
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
            _replace_tables(tables, names, record)
            if not settings.internal:
                _switch_forwarding_on(ipv6=settings.pool6 is not None)
            if not is_usable:
                bridge = _make_bridge(kernel, names.bridge, pool, settings.pool6, record.mtu_bytes)
    assert bridge is not None
    if not is_usable:
        for container_id, lease in record.leases.items():  # somebody removed the bridge below running containers
            name = host_interface(container_id, bridge=names.bridge)
            kernel.transact((rtnetlink.set_master(name, bridge_index=bridge.index),))
            port = _find_link(kernel, name)
            if port is not None:
                kernel.transact(
                    _plan_port(
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


def _tables_stand(tables: NetlinkSocket, names: _Names, settings: BridgeSettings) -> bool:
    if not nftables.table_exists(tables, names.table):
        return False
    return settings.pool6 is None or nftables.table_exists(tables, names.table, ipv6=True)


def _settle_record(kernel: NetlinkSocket, record: NetworkRecord, names: _Names, reserved: Sequence[Pool]) -> NetworkRecord:
    """Without a bridge, only leases whose veth is still there mean anything (after a reboot none does); without any of those the
    pool is chosen anew, unless it was given."""
    leases = {
        name: lease
        for name, lease in record.leases.items()
        if _find_link(kernel, host_interface(name, bridge=names.bridge)) is not None
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
    bridge = _find_link(kernel, name)
    assert bridge is not None
    addresses = [rtnetlink.add_address(bridge.index, address=dotted(pool.gateway), prefix_length=pool.prefix)]
    if os.path.exists(_INTERFACES6):
        # A container could else advertise itself as a router.
        setting = "disable_ipv6" if pool6 is None else "accept_ra"
        _write_setting(f"{_INTERFACES6}/{name}/{setting}", "1" if pool6 is None else "0")
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
        _write_setting(FORWARDING, "1")
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
                _write_setting(path, "2")
    _write_setting(_FORWARDING6, "1")


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


def configure(attachment: Attachment) -> None:
    """What `configure_inside` does, for the namespace that the calling thread is in at the moment, with IPv6 where the network
    has it. The first attachment with a way out keeps the default route. Raises `HostError`."""
    index = socket.if_nametoindex(attachment.interface)
    requests = [rtnetlink.set_up("lo")]
    if attachment.address6:
        _write_setting(f"{_INTERFACES6}/{attachment.interface}/accept_ra", "0")  # routers are no business of other containers
    else:
        requests.append(rtnetlink.no_link_local_address(attachment.interface))
    requests += [
        rtnetlink.set_up(attachment.interface),
        rtnetlink.add_address(index, address=attachment.address, prefix_length=attachment.prefix),
    ]
    if attachment.gateway:
        requests.append(rtnetlink.add_default_route(index, gateway=attachment.gateway))
    if attachment.address6:
        requests.append(rtnetlink.add_address(index, address=attachment.address6, prefix_length=attachment.prefix6))
    if attachment.gateway6:
        requests.append(rtnetlink.add_default_route(index, gateway=attachment.gateway6))
    with NetlinkSocket() as kernel:
        kernel.transact(requests)


def configure_from_outside(netns_fd: int, attachment: Attachment) -> None:
    """`configure` for a namespace that the caller is not in. Raises `HostError`.

    On a thread of its own, which joins the namespace and ends before this returns: network namespaces are per thread, and
    a fork would be unsafe wherever the caller has threads.
    """
    import threading

    failures: list[BaseException] = []

    def work() -> None:
        try:
            enter(netns_fd)
            configure(attachment)
        except BaseException as error:  # carried to the caller's thread
            failures.append(error)

    thread = threading.Thread(target=work, name="configure-network")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def enter(netns_fd: int) -> None:
    """Let the calling thread be in another network namespace from now on (setns(2)). Raises `HostError`."""
    from contain.linux.syscalls import CLONE_NEWNET, setns

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
