"""``contain port``, and how ``ps`` and ``inspect`` show addresses and ports."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from contain.errors import NotFound, UsageError

if TYPE_CHECKING:
    from contain.container.records import ContainerRecord
    from contain.linux.leases import Lease, PublishedPort
    from contain.paths import HostPath


def find_lease(record: ContainerRecord, run_home: HostPath) -> Lease | None:
    """A running container's address and ports; None for others, and for networks without."""
    if record.state != "running":
        return None
    from contain.container.workspaces import workspaces
    from contain.linux.network import read_lease
    from contain.linux.uplink import read_uplink_lease

    own = read_uplink_lease(workspaces(run_home) / record.container_id)
    return own if own is not None else read_lease(record.container_id, run_home=run_home)


def _order(port: PublishedPort) -> tuple[str, str, int, int]:
    return port.protocol, port.host_address, port.container_port, port.host_port


def render_ports(ports: Sequence[PublishedPort]) -> str:
    """The column PORTS of ``contain ps``: ports in a row that belong to ports in a row are told as ranges, as Docker does."""
    parts = []
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
        parts.append(f"{first.host_address}:{outer}->{inner}/{first.protocol}")
    return ", ".join(parts)


def describe_network(record: ContainerRecord, run_home: HostPath) -> dict[str, Any]:
    """``NetworkSettings`` of ``contain inspect``, under Docker's keys."""
    lease = find_lease(record, run_home)
    if lease is None:
        return {"IPAddress": "", "Ports": {}}
    from contain.linux.leases import dotted

    ports: dict[str, list[dict[str, str]]] = {}
    for port in sorted(lease.ports, key=_order):
        rows = ports.setdefault(f"{port.container_port}/{port.protocol}", [])
        rows.append({"HostIp": port.host_address, "HostPort": str(port.host_port)})
    return {"IPAddress": dotted(lease.address), "Ports": ports}


def add_port_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's arguments."""
    parser.add_argument("container", metavar="CONTAINER", help="name or id")
    parser.add_argument("port", nargs="?", metavar="PORT[/PROTOCOL]", help="of the container; all without it")


def port(options: argparse.Namespace) -> int:
    """Where a container's ports are published."""
    from contain.engine import Engine

    with Engine.open() as engine:
        record = engine.records.find(options.container)
        lease = find_lease(record, engine.run_home)
    ports = sorted(lease.ports if lease else (), key=_order)
    if options.port is None:
        for row in ports:
            sys.stdout.write(f"{row.container_port}/{row.protocol} -> {row.host_address}:{row.host_port}\n")
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
        sys.stdout.write(f"{row.host_address}:{row.host_port}\n")
    return 0
