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
import os
import socket
from collections.abc import Collection, Iterator, Sequence
from errno import EEXIST, ENODEV, ENOENT

from contain.errors import HostError
from contain.linux import nftables, rtnetlink
from contain.linux.bridges import (
    BridgeNames,
    bridge_homes,
    bridge_names,
    ensure_bridge,
    find_link,
    hardware_address_of,
    host_interface,
    open_links,
    plan_port,
    render_hardware_address,
    replace_published,
    replace_tables,
    write_setting,
)
from contain.linux.leases import (
    DEFAULT_SETTINGS,
    BridgeSettings,
    Lease,
    Ledger,
    NetworkRecord,
    Owner,
    Pool,
    PublishedPort,
    Wanted,
    dotted,
    is_alive,
    lease_address,
    myself,
    text_of,
)
from contain.linux.rtnetlink import NETLINK_NETFILTER, Link, NetlinkSocket
from contain.paths import HostPath
from contain.values import dataclass, replace

CONTAINER_INTERFACE = "eth0"
_names = bridge_names

_INTERFACES6 = "/proc/sys/net/ipv6/conf"


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
    owner: Owner | None = None,
) -> Attachment:
    """Put the network namespace behind ``netns_fd`` on the bridge of ``run_home``, which is made as ``settings`` say if there is
    none.

    The calling thread must be in the host's network namespace, with CAP_NET_ADMIN. Afterwards the namespace has an interface
    that is still down: `configure_inside` or `configure` completes it. For a container that is attached already,
    its interface is made anew with the same address. On failure everything made here is gone again. ``ports`` are published until
    it is detached; the caller holds their sockets (`contain.linux.ports`). ``reserved``: subnets of other networks, which may
    have no bridge at the moment. ``owner``: in whose name, else the caller's. Raises `HostError`, `Conflict`, `UsageError`.
    """
    names = bridge_names(run_home)
    wanted = wanted or Wanted()
    with Ledger(run_home) as ledger, NetlinkSocket() as kernel:
        try:
            record, bridge_index = ensure_bridge(kernel, ledger, names, settings, reserved)
            record = lease_address(record, container_id, owner or myself(), ports, wanted)
            ledger.write(record)
            lease = record.leases[container_id]
            name = host_interface(container_id, bridge=names.bridge)
            port = _make_veth(kernel, name, lease, netns_fd=netns_fd, bridge_index=bridge_index, mtu_bytes=record.mtu_bytes)
            kernel.transact(
                plan_port(
                    container_id,
                    lease,
                    bridge=names.bridge,
                    bridge_index=bridge_index,
                    port_index=port.index,
                    isolated=record.settings.isolated,
                )
            )
            if wanted.links and record.settings.isolated:
                open_links(names, record)
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
        host_interface=host_interface(container_id, bridge=bridge_names(run_home).bridge),
        mtu_bytes=record.mtu_bytes,
        ports=lease.ports,
        address6=text_of(lease.address6, 128) if lease.address6 else "",
        gateway6="" if settings.internal or pool6 is None else text_of(pool6.gateway, 128),
        prefix6=0 if pool6 is None else pool6.prefix,
        hardware_address=render_hardware_address(hardware_address_of(lease)),
        network=settings.name,
    )


def _publish(kernel: NetlinkSocket, names: BridgeNames, record: NetworkRecord, ports: Sequence[PublishedPort]) -> None:
    """Let the firewall publish what the record says, to this machine's own loopback too: its packets may then leave by the bridge
    (``route_localnet``; the table keeps containers from using that in the other direction)."""
    with NetlinkSocket(NETLINK_NETFILTER) as tables:
        try:
            replace_published(tables, names, record)
        except HostError as error:
            if error.errno != ENOENT:
                raise
            replace_tables(tables, names, record)  # of a version that published nothing, or somebody removed the chain
        datagrams = {port.host_port for port in ports if port.protocol == "udp" and not port.is_ipv6}
        if datagrams:
            from contain.linux.conntrack import forget_datagrams

            forget_datagrams(kernel, tables, datagrams)
    write_setting(f"/proc/sys/net/ipv4/conf/{names.bridge}/route_localnet", "1")


def publish(container_id: str, ports: tuple[PublishedPort, ...], *, run_home: HostPath) -> None:
    """Let an attached container's published ports be these from now on. The caller knows that somebody holds their sockets."""
    names = bridge_names(run_home)
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
                _release(kernel, ledger, bridge_names(run_home), [container_id], delete_links=True)


def detach(attachment: Attachment, *, wait: bool = True) -> None:
    """Give a container's address back, once its processes have ended; with the last one, bridge and table go.

    The veth goes with the namespace, by itself. Detaching twice is the same as once. The kernel takes tens of milliseconds to
    remove a bridge: without ``wait``, a process of its own does that, and if it is killed, the next `sweep`. Raises `HostError`.
    """
    _detach(attachment.container_id, attachment.run_home, wait=wait)


def _detach(container_id: str, run_home: HostPath, *, wait: bool) -> None:
    names = bridge_names(run_home)
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
        dead = _dead(record, live_container_ids)
        if not _is_stale(record, dead):
            return 0
        holds = tuple(hold for hold in record.holds if is_alive(hold))
        ledger.write(replace(record, holds=holds))
        with NetlinkSocket() as kernel:
            _release(kernel, ledger, bridge_names(run_home), dead, delete_links=True)
        return len(dead)


def _dead(record: NetworkRecord, live_container_ids: Collection[str]) -> list[str]:
    return [name for name, lease in record.leases.items() if name not in live_container_ids and not is_alive(lease.owner)]


def _is_stale(record: NetworkRecord, dead: Sequence[str]) -> bool:
    return bool(dead) or not all(map(is_alive, record.holds)) or not (record.leases or record.holds)


def needs_sweep(live_container_ids: Collection[str], *, run_home: HostPath) -> bool:
    """Whether `sweep_all` would change anything. Takes no lock, and asks the kernel for nothing but processes."""
    records = [ledger.read() for home in bridge_homes(run_home) if (ledger := Ledger(home)).exists()]
    return any(_is_stale(record, _dead(record, live_container_ids)) for record in records)


def forget_bridges(run_home: HostPath) -> None:
    """Forget who is on which bridge: the network namespace in which they stood is gone, and all of them with it."""
    for home in bridge_homes(run_home):
        with Ledger(home) as ledger:
            holds = tuple(hold for hold in ledger.read().holds if is_alive(hold))
            if holds:
                ledger.write(NetworkRecord(holds=holds))
            else:
                ledger.remove()


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
                    _release(kernel, ledger, bridge_names(run_home), [], delete_links=False)


def _release(
    kernel: NetlinkSocket, ledger: Ledger, names: BridgeNames, container_ids: Sequence[str], *, delete_links: bool
) -> None:
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
        bridge = find_link(kernel, names.bridge)
        with NetlinkSocket(NETLINK_NETFILTER) as tables:  # the kernel frees the table while the bridge goes
            nftables.unpass_docker(tables, names.bridge)
            nftables.delete_table(tables, names.table)
            if has_ipv6:
                nftables.delete_table(tables, names.table, ipv6=True)
            if bridge is not None and bridge.kind == "bridge":
                kernel.transact((rtnetlink.delete_link(names.bridge),))
        ledger.remove()
        return
    bridge = find_link(kernel, names.bridge) if gone else None
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
                    replace_tables(tables, names, left)
                else:
                    replace_published(tables, names, left)


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
        if error.errno != EEXIST or find_link(kernel, name) is None:
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
        write_setting(f"{_INTERFACES6}/{attachment.interface}/accept_ra", "0")  # routers are no business of other containers
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
