"""``contain port``, and how ``ps`` and ``inspect`` show addresses and ports."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import groupby

from contain.annotations import TYPE_CHECKING, Any
from contain.errors import NotFound, UsageError

if TYPE_CHECKING:
    from contain.container.lifecycle.records import ContainerRecord
    from contain.linux.leases import Lease, NetworkRecord, PublishedPort
    from contain.paths import HostPath


def find_places(
    record: ContainerRecord, run_home: HostPath, bridges: Sequence[NetworkRecord] | None = None
) -> list[tuple[NetworkRecord, Lease]]:
    """The networks that a running container is on, with its addresses and ports there, first interface first; none for others.
    ``bridges``: what `read_bridges` said a moment ago."""
    if record.state != "running":
        return []
    from contain.container.workspaces import workspaces
    from contain.linux.leases import NetworkRecord
    from contain.linux.uplink import read_uplink_lease

    own = read_uplink_lease(workspaces(run_home) / record.container_id)
    if bridges is None:
        bridges = read_bridges(run_home)
    found = [(network, network.leases[record.container_id]) for network in bridges if record.container_id in network.leases]
    return sorted([*([(NetworkRecord(), own)] if own is not None else []), *found], key=lambda place: place[1].interface)


def read_bridges(run_home: HostPath) -> list[NetworkRecord]:
    """What is in use of all networks at this moment."""
    from contain.linux.network import read_bridges

    return [network for _, network in read_bridges(run_home)]


def find_ports(
    record: ContainerRecord, run_home: HostPath, bridges: Sequence[NetworkRecord] | None = None
) -> tuple[PublishedPort, ...]:
    """What is published of a running container."""
    return tuple(port for _, lease in find_places(record, run_home, bridges) for port in lease.ports)


def network_names(record: ContainerRecord) -> tuple[str, ...]:
    """The names of the networks that a container is made for."""
    kind = str(record.details.get("network", "bridge"))
    if kind != "bridge":
        return (kind,) if kind in ("host", "none") else ()
    networking = record.details.get("networking") or {}
    if networking.get("disconnected"):
        return ()
    return tuple(endpoint["network"] for endpoint in networking.get("endpoints", ())) or ("bridge",)


def exposed_ports(record: ContainerRecord) -> tuple[str, ...]:
    """The ports that its image or its maker names, as ``80/tcp``."""
    names = (record.details.get("networking") or {}).get("exposed", ())
    return tuple(name if "/" in name else f"{name}/tcp" for name in names)


def _order(port: PublishedPort) -> tuple[str, str, int, int]:
    return port.protocol, port.host_address, port.container_port, port.host_port


def _place(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def render_ports(ports: Sequence[PublishedPort], exposed: Sequence[str] = ()) -> str:
    """The column PORTS of ``contain ps``: ports in a row that belong to ports in a row are told as ranges, as Docker does; and those
    that are only exposed."""
    published = {f"{port.container_port}/{port.protocol}" for port in ports}
    parts = [name for name in exposed if name not in published and "-" not in name]
    ordered = sorted(ports, key=_order)
    for _, group in groupby(
        enumerate(ordered),
        key=lambda item: (
            item[1].protocol,
            item[1].host_address,
            item[1].container_port - item[0],
            item[1].host_port - item[0],
        ),
    ):
        run = [port for _, port in group]
        first, last = run[0], run[-1]
        outer, inner = str(first.host_port), str(first.container_port)
        if len(run) > 1:
            outer, inner = f"{outer}-{last.host_port}", f"{inner}-{last.container_port}"
        parts.append(f"{_place(first.host_address)}:{outer}->{inner}/{first.protocol}")
    return ", ".join(parts)


def describe_network(record: ContainerRecord, run_home: HostPath) -> dict[str, Any]:
    """``NetworkSettings`` of ``contain inspect``, under Docker's keys."""
    ports: dict[str, list[dict[str, str]] | None] = {}
    if record.state == "running" and record.details.get("network") == "bridge":
        ports = dict.fromkeys(name for name in exposed_ports(record) if "-" not in name)
    for port in sorted(find_ports(record, run_home), key=_order):
        name = f"{port.container_port}/{port.protocol}"
        row = {"HostIp": port.host_address, "HostPort": str(port.host_port)}
        ports[name] = [*(ports.get(name) or []), row]
    networks: dict[str, dict[str, Any]] = {}
    endpoints = {endpoint["network"]: endpoint for endpoint in (record.details.get("networking") or {}).get("endpoints", ())}
    for name in network_names(record):
        networks[name] = _describe_place(record, name, None, None, endpoints.get(name, {}))
    for network, lease in find_places(record, run_home):
        name = network.settings.name
        networks[name] = _describe_place(record, name, network, lease, endpoints.get(name, {}))
    default = networks.get("bridge") or _describe_place(record, "bridge", None, None, {})
    process_id = record.process_id or 0
    return {
        "Bridge": "",
        "SandboxID": "",
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "SandboxKey": f"/proc/{process_id}/ns/net" if process_id else "",
        "Ports": ports,
        "EndpointID": default["EndpointID"],
        "Gateway": default["Gateway"],
        "GlobalIPv6Address": default["GlobalIPv6Address"],
        "GlobalIPv6PrefixLen": default["GlobalIPv6PrefixLen"],
        "IPAddress": default["IPAddress"],
        "IPPrefixLen": default["IPPrefixLen"],
        "IPv6Gateway": default["IPv6Gateway"],
        "MacAddress": default["MacAddress"],
        "Networks": networks,
    }


def _describe_place(
    record: ContainerRecord, name: str, network: NetworkRecord | None, lease: Lease | None, endpoint: dict[str, Any]
) -> dict[str, Any]:
    """One of ``Networks``: what was asked for, and what it has at this moment."""
    from contain.container.network.predefined import PREDEFINED_IDS, network_digest

    wanted = {"IPv4Address": endpoint.get("address"), "IPv6Address": endpoint.get("address6")}
    described: dict[str, Any] = {
        "IPAMConfig": {key: value for key, value in wanted.items() if value} or None,
        "Links": [f"{target[:12]}:{alias}" for target, alias in endpoint.get("links", ())] or None,
        "Aliases": list(endpoint.get("aliases", ())) or None,
        "MacAddress": endpoint.get("hardware_address", ""),
        "NetworkID": "",
        "EndpointID": "",
        "Gateway": "",
        "IPAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DriverOpts": None,
        "DNSNames": None,
    }
    if lease is None or network is None:
        return described
    from contain.container.network.names import names_of
    from contain.linux.bridges import hardware_address_of, render_hardware_address
    from contain.linux.leases import dotted, text_of

    network_id = network.settings.network_id or PREDEFINED_IDS[name]
    described |= {
        "MacAddress": render_hardware_address(hardware_address_of(lease)),
        "NetworkID": network_id,
        "EndpointID": network_digest(f"{network_id} {record.container_id}"),
        "IPAddress": dotted(lease.address),
        "DNSNames": list(dict.fromkeys(names_of(record.container_id, lease))) if network.settings.network_id else None,
    }
    if network.pool is not None:
        described |= {"Gateway": dotted(network.pool.gateway), "IPPrefixLen": network.pool.prefix}
    pool6 = network.settings.pool6
    if lease.address6 and pool6 is not None:
        described |= {
            "IPv6Gateway": text_of(pool6.gateway, 128),
            "GlobalIPv6Address": text_of(lease.address6, 128),
            "GlobalIPv6PrefixLen": pool6.prefix,
        }
    return described


def add_port_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's arguments."""
    parser.add_argument("container", metavar="CONTAINER", help="name or id")
    parser.add_argument("port", nargs="?", metavar="PORT[/PROTOCOL]", help="of the container; all without it")


def port(options: argparse.Namespace) -> int:
    """Where a container's ports are published."""
    from contain.engine import Engine

    with Engine.open() as engine:
        record = engine.records.find(options.container)
        ports = sorted(find_ports(record, engine.run_home), key=_order)
    if options.port is None:
        for row in ports:
            sys.stdout.write(f"{row.container_port}/{row.protocol} -> {_place(row.host_address)}:{row.host_port}\n")
        return 0
    number, _, protocol = options.port.partition("/")
    protocol = protocol.lower() or "tcp"
    if not (number.isascii() and number.isdigit()):
        raise UsageError(f"invalid containerPort: {options.port}", code="bad-port", remedy="for example 80 or 53/udp")
    found = [row for row in ports if (row.container_port, row.protocol) == (int(number), protocol)]
    if not found:
        raise NotFound(
            f"no public port '{number}/{protocol}' published for {options.container}",
            code="no-such-port",
            remedy=f"`contain port {options.container}` lists them",
        )
    for row in found:
        sys.stdout.write(f"{_place(row.host_address)}:{row.host_port}\n")
    return 0
