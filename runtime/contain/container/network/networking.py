"""Puts a container on its networks when it starts, and takes it off; also while it runs (``contain network connect``).

Theory of operation. `find` looks up, before anything is made, what the spec names: networks, linked containers, the container
whose network is shared. `Networking.wire` runs while the container's first process waits: it reserves ports, attaches an
interface for each network, writes the files of /etc, and starts the attendant process where one is needed. On the default network
alone none is: there the first process completes its interface itself, which is the quickest way.

An ordinary user's container on networks of one's own is put there by the same `put_on`, in another network namespace than the
machine's (`contain.container.network.enclosed`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from contain.annotations import TYPE_CHECKING
from contain.container.network.etc_files import write_etc
from contain.container.plan import Workspace
from contain.container.workspaces import workspaces
from contain.errors import Conflict, NotFound, NotSupported, UsageError
from contain.linux import network
from contain.linux.bridges import bridge_home
from contain.linux.leases import DEFAULT_SETTINGS, BridgeSettings, Ledger, Owner, Pool, Wanted, dotted
from contain.linux.network import Attachment
from contain.linux.ports import HeldPorts, hold_ports
from contain.paths import HostPath
from contain.spec import DEFAULT_NETWORK, ContainerSpec, Endpoint, IdMapping, Network
from contain.spec import Networking as Asked
from contain.values import dataclass, replace

if TYPE_CHECKING:
    from contextlib import ExitStack

    from contain.container.lifecycle.records import ContainerRecord
    from contain.container.network.attendant import Attendant, Duties
    from contain.container.network.enclave import Enclosure
    from contain.container.network.links import Linked
    from contain.container.network.networks import NamedNetwork, Networks

SHARED_MARK = "network-is-shared"
RESOLVER_NOTE = "attendant"
_ETC = ("hosts", "hostname", "resolv.conf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One endpoint with the network that it is on."""

    endpoint: Endpoint
    settings: BridgeSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Wired:
    """What a container got. ``completes_itself``: its first process is to complete its one interface."""

    attachments: tuple[Attachment, ...] = ()
    attendant: Attendant | None = None
    completes_itself: bool = False


class Networking:
    """What a container that is about to start has of networks. ``spec``: the container, with what its links tell it. ``joined``:
    descriptors of the network namespace that is shared, and of the user namespace that it belongs to; the caller closes them."""

    def __init__(
        self,
        spec: ContainerSpec,
        *,
        home: HostPath,
        places: Sequence[Place] = (),
        linked: Sequence[Linked] = (),
        reserved: Sequence[Pool] = (),
        joined: Sequence[int] = (),
        joined_id: str = "",
    ) -> None:
        self.spec, self.joined = spec, tuple(joined)
        self.attendant: Attendant | None = None
        self.configure = network.configure_inside if spec.network is Network.BRIDGE else None
        self._home, self._places, self._linked, self._reserved, self._joined_id = home, places, linked, reserved, joined_id

    @property
    def has_places(self) -> bool:
        """Whether it is on any network from its start on."""
        return bool(self._places)

    def wire(self, process_id: int, workspace: Workspace, cleanup: ExitStack) -> dict[str, object]:
        """Put the container with this first process on its networks; what the first process is to be told. ``cleanup`` undoes
        it."""
        if self.spec.network is Network.CONTAINER:
            _share_etc(workspaces(self._home) / self._joined_id, workspace)
            return {}
        held = hold_ports(self.spec.ports)
        cleanup.callback(held.close)
        cleanup.callback(leave, self.spec.container_id, workspace, self._home)
        wired = self.put_on(process_id, workspace, held)
        self.attendant = wired.attendant
        if wired.attendant is not None:
            cleanup.callback(wired.attendant.close)
        only = wired.attachments[0] if wired.completes_itself else None
        if only is None:
            return {}
        return {
            "interface": {
                "interface": only.interface,
                "address": only.address,
                "prefix": only.prefix,
                "gateway": only.gateway,
            }
        }

    def put_on(
        self,
        process_id: int,
        workspace: Workspace,
        held: HeldPorts,
        *,
        enclosure: Enclosure | None = None,
        owner: Owner | None = None,
    ) -> Wired:
        """Attach an interface for each network, write the files of /etc, start the attendant where one is needed. The caller is in the
        network namespace in which the bridges are to stand; if that is the enclave, it says so, and who is the ``owner``."""
        spec = self.spec
        if not self._places:  # it was taken off all of them, and may be connected again while it runs
            write_etc(workspace, spec, None)
            return Wired()
        attachments: list[Attachment] = []
        way_out = next((number for number, place in enumerate(self._places) if not place.settings.internal), 0)
        namespace = os.open(f"/proc/{process_id}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            for number, place in enumerate(self._places):
                attachments.append(
                    network.attach(
                        namespace,
                        container_id=spec.container_id,
                        run_home=bridge_home(self._home, place.settings.network_id),
                        ports=held.ports if number == way_out else (),
                        settings=place.settings,
                        wanted=wanted_of(spec.name, spec.hostname, spec.container_id, place.endpoint, interface=f"eth{number}"),
                        reserved=[pool for pool in self._reserved if pool != place.settings.pool],
                        owner=owner,
                    )
                )
        finally:
            os.close(namespace)
        named = self._is_named
        self._write_etc(workspace, attachments, named=named, machine=None if enclosure is None else enclosure.machine)
        relayed = tuple(held.relayed())
        completes_itself = not named and len(attachments) == 1
        attendant: Attendant | None = None
        if named or relayed:
            from contain.container.network.attendant import start_attendant

            duties = self.duties(held, () if completes_itself else attachments, enclosure=enclosure)
            attendant = start_attendant(duties, process_id, note=workspace.directory / RESOLVER_NOTE if named else None)
        return Wired(attachments=tuple(attachments), attendant=attendant, completes_itself=completes_itself)

    @property
    def _is_named(self) -> bool:
        return any(place.settings.network_id for place in self._places)

    def duties(self, held: HeldPorts, attachments: Sequence[Attachment], *, enclosure: Enclosure | None) -> Duties:
        """What the attendant is for."""
        from contain.container.network.attendant import Duties

        return Duties(
            container_id=self.spec.container_id,
            run_home=self._home,
            attachments=tuple(attachments),
            answers_names=self._is_named,
            servers=self.spec.name_servers if self._is_named else (),
            relayed=tuple(held.relayed()),
            enclosure=enclosure,
        )

    def _write_etc(self, workspace: Workspace, attachments: Sequence[Attachment], *, named: bool, machine: str | None) -> None:
        linked: Sequence[tuple[str, str]] = ()
        if self._linked:
            from contain.container.network.links import link_hosts

            linked = link_hosts(self._linked)
        first = attachments[0]
        gateway = machine or next((each.gateway for each in attachments if each.gateway), "127.0.0.1")
        more = [
            (address, self.spec.hostname) for each in attachments[1:] for address in (each.address, each.address6) if address
        ]
        if first.address6:
            more.insert(0, (first.address6, self.spec.hostname))
        extra = (*self.spec.extra_hosts, *linked, *((name, address) for address, name in more))
        spec = replace(self.spec, extra_hosts=extra)
        write_etc(workspace, spec, first.address, gateway, named=named)


def leave(container_id: str, workspace: Workspace, home: HostPath) -> None:
    """Take a container that has ended off all networks, also those that it was connected to while it ran."""
    shared = (workspace.directory / SHARED_MARK).exists()
    network.detach_container(container_id, run_home=home, wait=False, delete_links=shared)


def wanted_of(name: str, hostname: str, container_id: str, endpoint: Endpoint, *, interface: str) -> Wanted:
    """What a container asks of a network's bridge."""
    other = () if container_id.startswith(hostname) or hostname in endpoint.aliases else (hostname,)
    return Wanted(
        interface=interface,
        address=endpoint.address,
        address6=endpoint.address6,
        hardware_address=endpoint.hardware_address,
        name=name,
        aliases=(*endpoint.aliases, *other),
        links=tuple((alias, target) for target, alias in endpoint.links),
    )


def _share_etc(other: HostPath, workspace: Workspace) -> None:
    """The very files of the container whose network is shared, so that changes are seen by both."""
    workspace.etc.mkdir(mode=0o755, exist_ok=True)
    for name in _ETC:
        with contextlib.suppress(FileNotFoundError):
            (workspace.etc / name).unlink()
        try:
            os.link(other / "etc" / name, workspace.etc / name)
        except FileNotFoundError:
            raise Conflict("the container whose network is to be shared has just ended", code="network-not-running") from None


# Looking up


def settle(asked: Asked, store: HostPath) -> Asked:
    """What a container is to have of networks with every name looked up, so that what it was made with does not change when
    somebody is renamed. Raises `NotFound`, `Conflict`, `UsageError`."""
    from contain.container.lifecycle.records import Records

    records = Records(store)
    endpoints = []
    for endpoint in asked.endpoints:
        name = endpoint.network
        if name != DEFAULT_NETWORK:
            from contain.container.network.networks import Networks

            found = Networks(store).find(name)
            verify_addresses(endpoint, found)
            name = found.name
        links = tuple((records.find(target).container_id, alias) for target, alias in endpoint.links)
        endpoints.append(replace(endpoint, network=name, links=links))
    container = records.find(asked.container).container_id if asked.container else ""
    return replace(asked, endpoints=tuple(endpoints), container=container)


def verify_addresses(endpoint: Endpoint, found: NamedNetwork) -> None:
    """An address of one's own choice needs a subnet of somebody's choice: one that was chosen by itself may be another next
    time."""
    if (endpoint.address or endpoint.address6) and not found.settings.fixed:
        raise UsageError(
            f"invalid config for network {found.name}: user specified IP address is supported only when connecting to networks with "
            "user configured subnets",
            code="network-conflict",
            remedy="make the network with --subnet",
        )


def find(spec: ContainerSpec, *, home: HostPath, store: HostPath | None) -> Networking:
    """What the spec names, as it is at this moment. ``store``: where records of networks and containers are; without it there is
    the default network only. Raises `NotFound`, `Conflict`, `NotSupported`, `UsageError`."""
    if spec.network is Network.CONTAINER:
        return _find_joined(spec, home, store)
    if spec.networking.disconnected:
        return Networking(replace(spec, ports=()), home=home)
    endpoints = spec.networking.endpoints or (Endpoint(),)
    networks = _open_networks(store)
    places = [Place(endpoint=endpoint, settings=_settings_of(endpoint.network, networks)) for endpoint in endpoints]
    if spec.ports and all(place.settings.internal for place in places):
        raise UsageError(
            "ports cannot be published from an internal network",
            code="network-internal",
            remedy="leave out -p, or add a network that is not internal",
        )
    reserved = [pool for other in (networks.all() if networks else ()) for pool in other.pools]
    linked: list[Linked] = []
    if store is not None:
        for place in places:
            if not place.settings.network_id and place.endpoint.links:
                linked += _find_linked(place.endpoint, home, store)
    if linked:
        from contain.container.network.links import link_variables

        variables = dict(pair for each in linked for pair in link_variables(spec.name, each))
        spec = replace(spec, environment=tuple({**variables, **dict(spec.environment)}.items()))
    return Networking(spec, home=home, places=places, linked=linked, reserved=reserved)


def _open_networks(store: HostPath | None) -> Networks | None:
    """None where there never was a named network."""
    if store is None or not os.path.exists(store / "networks"):
        return None
    from contain.container.network.networks import Networks

    return Networks(store)


def _settings_of(name: str, networks: Networks | None) -> BridgeSettings:
    if name == DEFAULT_NETWORK:
        return DEFAULT_SETTINGS
    if networks is None:
        raise NotFound(f"network {name} not found", code="no-such-network")
    return networks.find(name).settings


def _find_linked(endpoint: Endpoint, home: HostPath, store: HostPath) -> list[Linked]:
    """On the default network: those that run and are there, else Docker's error."""
    from contain.container.lifecycle.records import Records
    from contain.container.network.links import Linked

    records = Records(store)
    found = []
    for target, alias in endpoint.links:
        record = records.find(target)
        lease = Ledger(home).read().leases.get(record.container_id) if record.state == "running" else None
        if lease is None:
            raise Conflict(
                f"Cannot link to a non running container: /{record.name} AS /{alias}",
                code="link-not-running",
                remedy=f"start it on the default network first: contain start {record.name}",
            )
        networking = record.details.get("networking") or {}
        found.append(
            Linked(
                alias=alias,
                container_id=record.container_id,
                name=record.name,
                hostname=str(record.details["hostname"]),
                address=dotted(lease.address),
                exposed=tuple(networking.get("exposed", ())),
                environment=tuple((name, value) for name, value in record.details["environment"]),
            )
        )
    return found


def _find_joined(spec: ContainerSpec, home: HostPath, store: HostPath | None) -> Networking:
    if store is None:
        raise NotFound(f"No such container: {spec.networking.container}", code="no-such-container")
    from contain.container.lifecycle.records import Records

    record = Records(store).find(spec.networking.container)
    if record.state != "running" or record.process_id is None:
        raise Conflict(
            f"cannot join network of a non running container: {record.container_id}",
            code="network-not-running",
            remedy=f"contain start {record.name}",
        )
    theirs = (record.details.get("user_namespace") or {}).get("mapping", IdMapping.PRIVATE.value)
    if theirs != spec.user_namespace.mapping.value or theirs == IdMapping.AUTO.value:
        raise NotSupported(
            f"--network container:{record.name} needs the same --userns as that container has ({theirs}), and not auto",
            code="network-option-not-supported",
            remedy="make both without --userns=auto, or put both on one network: contain network create",
        )
    spec = replace(spec, hostname=str(record.details["hostname"]))
    place = f"/proc/{record.process_id}/ns"
    try:
        if os.readlink(f"{place}/net") == os.readlink("/proc/self/ns/net"):
            return Networking(replace(spec, network=Network.HOST), home=home)
        flags = os.O_RDONLY | os.O_CLOEXEC
        own_users = spec.user_namespace.mapping is not IdMapping.HOST
        joined = [os.open(f"{place}/{name}", flags) for name in ("net", "user")[: 1 + own_users]]
        (workspaces(home) / record.container_id / SHARED_MARK).touch()
    except FileNotFoundError:
        raise Conflict(
            f"cannot join network of a non running container: {record.container_id}", code="network-not-running"
        ) from None
    return Networking(spec, home=home, joined=joined, joined_id=record.container_id)


def network_users(record: NamedNetwork, home: HostPath, containers: Sequence[ContainerRecord]) -> list[tuple[str, str]]:
    """Who is on a network at this moment: (name, id)."""
    running = {container.container_id: container.name for container in containers if container.state == "running"}
    leases = Ledger(bridge_home(home, record.network_id)).read().leases
    return [(running[container_id], container_id) for container_id in leases if container_id in running]
