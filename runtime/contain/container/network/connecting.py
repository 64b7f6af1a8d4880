"""``contain network connect`` and ``disconnect``: a container gets one more network, or loses one, while it runs or before it starts.

What a container has is written into its record first, so that a restart keeps it; then, if it runs, its network namespace is changed to
match. The default route stays where it is as long as that network is there; afterwards another one with a way out has it, and the
published ports with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable, Iterator

from contain.annotations import TYPE_CHECKING
from contain.container.lifecycle.records import ContainerRecord, Records, describe_spec
from contain.container.lifecycle.respecify import parse_spec
from contain.container.network.attendant import Duties, answers, in_namespace, start_attendant
from contain.container.network.endpoints import verify_endpoint
from contain.container.network.etc_files import RESOLVER_ADDRESS, render_resolver
from contain.container.network.networking import RESOLVER_NOTE, verify_addresses, wanted_of
from contain.container.network.networks import NamedNetwork, Networks
from contain.container.workspaces import workspaces
from contain.errors import Conflict, NotFound, NotSupported
from contain.linux import network, rtnetlink
from contain.linux.bridges import bridge_home
from contain.linux.leases import DEFAULT_SETTINGS, BridgeSettings, Lease, dotted, text_of
from contain.linux.network import Attachment
from contain.linux.uplink import INTERFACE as UPLINK_INTERFACE
from contain.linux.uplink import read_uplink_lease
from contain.linux.usernamespace import owns_network
from contain.paths import HostPath
from contain.spec import DEFAULT_NETWORK, ContainerSpec, Endpoint, Network
from contain.values import replace

if TYPE_CHECKING:
    from contain.container.network.enclave import Enclosure


def connect(records: Records, record: ContainerRecord, endpoint: Endpoint, *, home: HostPath) -> None:
    """Put a container on a network. Raises `NotFound`, `Conflict`, `UsageError` in Docker's words."""
    _refuse_shared(parse_spec(record.details))
    store = records.directory.parent
    settings = DEFAULT_SETTINGS
    found: NamedNetwork | None = None
    if endpoint.network in ("default", DEFAULT_NETWORK):
        endpoint = replace(endpoint, network=DEFAULT_NETWORK)
    else:
        found = Networks(store).find(endpoint.network)
        settings, endpoint = found.settings, replace(endpoint, network=found.name)
        verify_addresses(endpoint, found)
    verify_endpoint(endpoint)
    links = tuple((records.find(target).container_id, alias) for target, alias in endpoint.links)
    endpoint = replace(endpoint, links=links)

    def change(written: ContainerRecord) -> ContainerRecord:
        spec = parse_spec(written.details)
        _refuse_shared(spec)
        present = _endpoints_of(spec)
        if any(each.network == endpoint.network for each in present):
            raise Conflict(
                f"endpoint with name {written.name} already exists in network {endpoint.network}", code="network-connected"
            )
        return _with_endpoints(written, spec, (*present, endpoint))

    changed = records.update(record.container_id, change)
    if changed.state == "running" and changed.process_id is not None:
        try:
            with _alone(changed, home):
                _where_bridges_stand(home, lambda enclosure: _join(changed, endpoint, settings, home=home, enclosure=enclosure))
        except BaseException:
            with contextlib.suppress(NotFound):
                records.update(record.container_id, lambda written: _without(written, endpoint.network))
            raise
        records.tell_of_network(changed, "connect", endpoint.network)


def disconnect(records: Records, record: ContainerRecord, name: str, *, home: HostPath, force: bool = False) -> None:
    """Take a container off a network. Raises `NotFound`, `Conflict` in Docker's words. ``force``: also if it is not on it any more."""
    spec = parse_spec(record.details)
    if name == "host" or spec.network is Network.HOST:
        raise Conflict(
            "container cannot be disconnected from host network or connected to host network", code="network-conflict"
        )
    network_id = ""
    if name in ("default", DEFAULT_NETWORK):
        name = DEFAULT_NETWORK
    else:
        found = Networks(records.directory.parent).find(name)
        name, network_id = found.name, found.network_id
    is_on = spec.network is Network.BRIDGE and any(each.network == name for each in _endpoints_of(spec))
    if not is_on and not force:
        raise Conflict(f"container {record.container_id} is not connected to network {name}", code="network-not-connected")
    if name == DEFAULT_NETWORK and record.state == "running" and _has_uplink(record, home):
        raise NotSupported(
            "an ordinary user's container cannot be taken off the default network while it runs",
            code="network-option-not-supported",
            remedy=f"stop it first: contain stop {record.name}",
        )
    changed = records.update(record.container_id, lambda written: _without(written, name)) if is_on else record
    if changed.state == "running" and changed.process_id is not None:
        with _alone(changed, home):
            _where_bridges_stand(home, lambda _: _part(changed, bridge_home(home, network_id), home=home))
        if is_on:
            records.tell_of_network(changed, "disconnect", name)


def rename(container_id: str, name: str, *, home: HostPath) -> None:
    """Let a running container be found by its new name on all its networks."""
    for place, record in network.read_bridges(home):
        if container_id in record.leases:
            network.rename(container_id, name, run_home=place)


def _refuse_shared(spec: ContainerSpec) -> None:
    if spec.network is Network.NONE:
        raise Conflict(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
            code="network-conflict",
        )
    if spec.network is Network.HOST:
        raise Conflict(
            "container cannot be disconnected from host network or connected to host network", code="network-conflict"
        )
    if spec.network is Network.CONTAINER:
        raise Conflict(
            "container sharing network namespace with another container or host cannot be connected to any other network",
            code="network-conflict",
        )


def _endpoints_of(spec: ContainerSpec) -> tuple[Endpoint, ...]:
    networking = spec.networking
    return networking.endpoints or (() if networking.disconnected else (Endpoint(),))


def _with_endpoints(record: ContainerRecord, spec: ContainerSpec, endpoints: tuple[Endpoint, ...]) -> ContainerRecord:
    networking = replace(spec.networking, endpoints=endpoints, disconnected=not endpoints)
    return replace(record, details=describe_spec(replace(spec, networking=networking)))


def _without(record: ContainerRecord, name: str) -> ContainerRecord:
    spec = parse_spec(record.details)
    return _with_endpoints(record, spec, tuple(each for each in _endpoints_of(spec) if each.network != name))


# While it runs


def _where_bridges_stand(home: HostPath, work: Callable[[Enclosure | None], None]) -> None:
    """Change a running container's networks from where they are made: here, or in an ordinary user's enclave."""
    if owns_network():
        work(None)
        return
    from contain.container.network import enclave

    enclave.warn_without_outside(home)
    enclosure = enclave.enclosure_of(home)
    enclave.inside(home, lambda: work(enclosure))


def _has_uplink(record: ContainerRecord, home: HostPath) -> bool:
    """Whether a program of its own carries a container's packets, on its interface eth0."""
    return read_uplink_lease(workspaces(home) / record.container_id) is not None


@contextlib.contextmanager
def _alone(record: ContainerRecord, home: HostPath) -> Iterator[None]:
    """One at a time changes a container's interfaces."""
    try:
        lock = os.open(workspaces(home) / record.container_id / "connecting", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:  # it has just ended: nobody else changes anything either
        yield
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _leases(container_id: str, home: HostPath) -> list[tuple[HostPath, BridgeSettings, Lease, Attachment]]:
    found = []
    for place, record in network.read_bridges(home):
        if container_id in record.leases:
            lease = record.leases[container_id]
            found.append((place, record.settings, lease, network.attachment_of(container_id, place, record)))
    return sorted(found, key=lambda row: row[2].interface)


def _join(
    record: ContainerRecord, endpoint: Endpoint, settings: BridgeSettings, *, home: HostPath, enclosure: Enclosure | None
) -> None:
    process_id = record.process_id
    assert process_id is not None
    spec = parse_spec(record.details)
    workspace = workspaces(home) / record.container_id
    taken = {lease.interface for _, _, lease, _ in _leases(record.container_id, home)}
    if _has_uplink(record, home):
        taken.add(UPLINK_INTERFACE)
    interface = next(name for number in range(len(taken) + 1) if (name := f"eth{number}") not in taken)
    try:
        namespace = os.open(f"/proc/{process_id}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # it has just ended, and has its new network when it starts again
    try:
        attachment = network.attach(
            namespace,
            container_id=record.container_id,
            run_home=bridge_home(home, settings.network_id),
            settings=settings,
            wanted=wanted_of(record.name, spec.hostname, record.container_id, endpoint, interface=interface),
        )
    finally:
        os.close(namespace)
    try:
        note = workspace / RESOLVER_NOTE
        if (settings.network_id or enclosure is not None) and not answers(note):  # an enclave is kept by attendants
            duties = Duties(
                container_id=record.container_id,
                run_home=home,
                attachments=(attachment,),
                servers=spec.name_servers,
                enclosure=enclosure,
            )
            start_attendant(duties, process_id, outlives_caller=True, note=note)
            _rewrite(
                workspace / "etc/resolv.conf",
                lambda text: render_resolver(
                    text, (RESOLVER_ADDRESS,), search=spec.networking.search, options=spec.networking.options, named=True
                ),
            )
        else:
            in_namespace(process_id, lambda: network.configure(attachment))
    except BaseException:
        network.disconnect(record.container_id, run_home=attachment.run_home)
        raise
    lines = [f"{address}\t{spec.hostname}\n" for address in (attachment.address, attachment.address6) if address]
    _rewrite(workspace / "etc/hosts", lambda text: text + "".join(lines))


def _part(record: ContainerRecord, place: HostPath, *, home: HostPath) -> None:
    process_id = record.process_id
    assert process_id is not None
    before = _leases(record.container_id, home)
    gone = next((row for row in before if row[0] == place), None)
    if gone is None:
        return
    _, _, lease, _ = gone
    network.disconnect(record.container_id, run_home=place)
    rest = [row for row in before if row[0] != place and not row[1].internal]
    if rest:
        other_place, _, _, attachment = rest[0]
        in_namespace(process_id, lambda: _add_default_routes(attachment))
        if lease.ports:
            network.publish(record.container_id, lease.ports, run_home=other_place)
    addresses = {dotted(lease.address), *([text_of(lease.address6, 128)] if lease.address6 else [])}
    _rewrite(
        workspaces(home) / record.container_id / "etc/hosts",
        lambda text: "".join(line for line in text.splitlines(keepends=True) if line.split("\t")[0] not in addresses),
    )


def _add_default_routes(attachment: Attachment) -> None:
    index = socket.if_nametoindex(attachment.interface)
    gateways = [gateway for gateway in (attachment.gateway, attachment.gateway6) if gateway]
    with rtnetlink.NetlinkSocket() as kernel:
        kernel.transact([rtnetlink.add_default_route(index, gateway=gateway) for gateway in gateways])


def _rewrite(path: HostPath, change: Callable[[str], str]) -> None:
    """In place: the container has this very file mounted."""
    with contextlib.suppress(FileNotFoundError), open(path, "r+", encoding="utf-8", errors="surrogateescape") as file:
        text = change(file.read())
        file.seek(0)
        file.truncate()
        file.write(text)
