"""``contain network create``, ``connect``, ``disconnect``, ``ls``, ``inspect``, ``rm``, ``prune``. Words and columns: docker/cli
``network_*.md``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from contain.annotations import TYPE_CHECKING, Any
from contain.cli.arguments import parse_labels
from contain.cli.filters import has_label, matches_name, parse_filters
from contain.cli.names import each_name
from contain.cli.output import render_table
from contain.container.network.predefined import DRIVERS, PREDEFINED, PREDEFINED_IDS, network_digest
from contain.errors import Conflict, NotSupported
from contain.values import dataclass

if TYPE_CHECKING:
    from contain.cli.pruning import PruneFilters
    from contain.container.lifecycle.records import ContainerRecord
    from contain.container.network.networks import NamedNetwork
    from contain.engine import Engine
    from contain.linux.leases import NetworkRecord, Pool

HEADINGS = {"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE"}
_OTHER_HEADINGS = {"CreatedAt": "CREATED AT", "IPv4": "IPV4", "IPv6": "IPV6", "Internal": "INTERNAL", "Labels": "LABELS"}
_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")
CHOICES = {
    "type": (("builtin", "custom"), "one of builtin, custom"),
    "dangling": (("true", "1", "false", "0"), "one of true, 1, false, 0"),
}
_SHORT_ID = 12
_REFUSED = ("aux-address", "config-from", "config-only", "ingress", "ipam-opt", "scope")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenNetwork:
    """A network as it is shown: its record, or None for one that is always there, and who is on it at this moment."""

    name: str
    network_id: str
    driver: str
    record: NamedNetwork | None = None
    state: NetworkRecord | None = None
    users: tuple[tuple[str, str], ...] = ()  # name, id

    @property
    def labels(self) -> dict[str, str]:
        """What it is labelled with."""
        return dict(self.record.labels) if self.record else {}


def list_networks(engine: Engine) -> list[SeenNetwork]:
    """All of them, by name."""
    from contain.container.network.networks import Networks
    from contain.linux.bridges import bridge_home
    from contain.linux.leases import Ledger

    containers = engine.records.all()
    found = []
    for name in PREDEFINED:
        state = Ledger(engine.run_home).read() if name == "bridge" else None
        found.append(
            SeenNetwork(
                name=name,
                network_id=PREDEFINED_IDS[name],
                driver=DRIVERS[name],
                state=state,
                users=_users(state, containers, shared=name),
            )
        )
    for record in Networks(engine.home).all():
        state = Ledger(bridge_home(engine.run_home, record.network_id)).read()
        found.append(
            SeenNetwork(
                name=record.name,
                network_id=record.network_id,
                driver="bridge",
                record=record,
                state=state,
                users=_users(state, containers),
            )
        )
    return sorted(found, key=lambda each: each.name)


def _users(
    state: NetworkRecord | None, containers: Sequence[ContainerRecord], *, shared: str = ""
) -> tuple[tuple[str, str], ...]:
    leases = state.leases if state is not None else {}
    return tuple(
        (container.name, container.container_id)
        for container in containers
        if container.state == "running"
        and (container.container_id in leases or (shared in ("host", "none") and container.details.get("network") == shared))
    )


def find_network(engine: Engine, text: str) -> SeenNetwork:
    """By name, id or unique beginning of an id. `NotFound` in Docker's words."""
    from contain.container.network.networks import no_such_network

    known = list_networks(engine)
    for seen in known:
        if text in (seen.name, seen.network_id):
            return seen
    found = [seen for seen in known if text and seen.network_id.startswith(text)]
    if len(found) > 1:
        raise Conflict(f"network {text} is ambiguous ({len(found)} matches found on ID prefix)", code="ambiguous-id")
    if not found:
        raise no_such_network(text)
    return found[0]


# create


def add_network_create_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.usage = "contain network create [OPTIONS] NETWORK"
    parser.add_argument("-d", "--driver", default="bridge", metavar="DRIVER", help="only bridge")
    parser.add_argument("--subnet", action="append", default=[], metavar="CIDR", help="its addresses; one of IPv4, one of IPv6")
    parser.add_argument("--gateway", action="append", default=[], metavar="IP", help="this machine's address on it")
    parser.add_argument("--ip-range", action="append", default=[], metavar="CIDR", help="which of them containers get")
    parser.add_argument("--internal", action="store_true", help="no way in or out")
    parser.add_argument("--ipv6", action="store_true", help="IPv6 addresses too")
    parser.add_argument("--ipv4", action=argparse.BooleanOptionalAction, default=True, help=argparse.SUPPRESS)
    parser.add_argument("--attachable", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--ipam-driver", default="default", help=argparse.SUPPRESS)
    for name in _REFUSED:
        parser.add_argument(f"--{name}", nargs="?", default=None, const="", help=argparse.SUPPRESS)
    parser.add_argument("--label", action="append", default=[], metavar="K=V", help="label")
    parser.add_argument("-o", "--opt", action="append", default=[], metavar="K=V", help="an option of Docker's bridge driver")
    parser.add_argument("network", metavar="NETWORK", help="its name")


def network_create(options: argparse.Namespace) -> int:
    """Print the id."""
    from contain.container.network.networks import NetworkRequest, Networks
    from contain.engine import Engine

    if options.driver in ("host", "null", "none"):
        name = "host" if options.driver == "host" else "null"
        raise Conflict(f'only one instance of "{name}" network is allowed', code="network-driver")
    if options.driver != "bridge":
        raise NotSupported(
            f"network driver {options.driver!r} is not supported",
            code="network-driver",
            remedy="leave out --driver: it is bridge",
        )
    for name in _REFUSED:
        if getattr(options, name.replace("-", "_")) is not None:
            raise NotSupported(f"network create --{name} is not supported yet", code="flag-not-supported")
    if options.attachable:
        raise NotSupported(
            "network create --attachable is for a swarm's networks", code="flag-not-supported", remedy="leave it out"
        )
    if options.ipam_driver != "default" or not options.ipv4:
        flag = "--ipam-driver" if options.ipv4 else "--ipv4=false"
        raise NotSupported(f"network create {flag} is not supported yet", code="flag-not-supported")
    request = NetworkRequest(
        name=options.network,
        subnets=tuple(options.subnet),
        gateways=tuple(options.gateway),
        ranges=tuple(options.ip_range),
        internal=options.internal,
        ipv6=options.ipv6,
        labels=parse_labels(options.label),
        options=tuple((name, value) for name, _, value in (text.partition("=") for text in options.opt)),
    )
    with Engine.open() as engine:
        sys.stdout.write(f"{Networks(engine.home).create(request).network_id}\n")
    return 0


# connect, disconnect


def add_network_connect_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("--alias", action="append", default=[], metavar="NAME", help="one more name on the network")
    parser.add_argument("--ip", default="", metavar="IP", help="its address there")
    parser.add_argument("--ip6", default="", metavar="IP", help="its IPv6 address there")
    parser.add_argument(
        "--link", action="append", default=[], metavar="CONTAINER[:ALIAS]", help="a name of its own for another"
    )
    parser.add_argument("network", metavar="NETWORK")
    parser.add_argument("container", metavar="CONTAINER")


def network_connect(options: argparse.Namespace) -> int:
    """Docker prints nothing."""
    from contain.container.network.connecting import connect
    from contain.container.network.endpoints import check_address, check_alias
    from contain.container.network.links import parse_link
    from contain.engine import Engine
    from contain.spec import Endpoint

    with Engine.open() as engine:
        record = engine.records.find(options.container)
        found = find_network(engine, options.network)
        if found.name in ("host", "none"):
            what = "container cannot be disconnected from host network or connected to host network"
            if found.name == "none":
                what = "container cannot be connected to multiple networks with one of the networks in private (none) mode"
            raise Conflict(what, code="network-conflict")
        endpoint = Endpoint(
            network=found.name,
            aliases=tuple(map(check_alias, options.alias)),
            address=check_address(options.ip, version=4, flag="--ip") if options.ip else "",
            address6=check_address(options.ip6, version=6, flag="--ip6") if options.ip6 else "",
            links=tuple(parse_link(text) for text in options.link),
        )
        connect(engine.records, record, endpoint, home=engine.run_home)
    return 0


def add_network_disconnect_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flag."""
    parser.add_argument("-f", "--force", action="store_true", help="no error for one that is not on it")
    parser.add_argument("network", metavar="NETWORK")
    parser.add_argument("container", metavar="CONTAINER")


def network_disconnect(options: argparse.Namespace) -> int:
    """Docker prints nothing."""
    from contain.container.network.connecting import disconnect
    from contain.engine import Engine

    with Engine.open() as engine:
        record = engine.records.find(options.container)
        found = find_network(engine, options.network)
        disconnect(engine.records, record, found.name, home=engine.run_home, force=options.force)
    return 0


# ls, inspect


def select_networks(networks: Sequence[SeenNetwork], filters: Mapping[str, Sequence[str]]) -> list[SeenNetwork]:
    """Those that the filters let through: all labels, any of several values of another key."""

    def passes(seen: SeenNetwork) -> bool:
        dangling = [value.lower() in ("true", "1") for value in filters["dangling"]]
        is_dangling = seen.record is not None and not seen.users
        return (
            (not dangling or is_dangling in dangling)
            and (not filters["driver"] or seen.driver in filters["driver"])
            and (not filters["id"] or any(seen.network_id.startswith(text) for text in filters["id"]))
            and (not filters["name"] or any(matches_name(seen.name, text) for text in filters["name"]))
            and (not filters["scope"] or "local" in filters["scope"])
            and (not filters["type"] or ("builtin" if seen.record is None else "custom") in filters["type"])
            and all(has_label(seen.labels, text) for text in filters["label"])
        )

    return list(filter(passes, networks))


def network_row(seen: SeenNetwork, *, whole: bool) -> dict[str, object]:
    """The fields of ``contain network ls``."""
    settings = seen.record.settings if seen.record else None
    return {
        "CreatedAt": _moment(seen, " "),
        "Driver": seen.driver,
        "ID": seen.network_id if whole else seen.network_id[:_SHORT_ID],
        "IPv4": "true",
        "IPv6": "true" if settings and settings.pool6 else "false",
        "Internal": "true" if settings and settings.internal else "false",
        "Labels": ",".join(f"{name}={value}" for name, value in seen.labels.items()),
        "Name": seen.name,
        "Scope": "local",
    }


def _moment(seen: SeenNetwork, between: str) -> str:
    moment = datetime.fromtimestamp(seen.record.created_seconds if seen.record else 0, UTC)
    return moment.strftime(f"%Y-%m-%d{between}%H:%M:%S") + ("Z" if between == "T" else " +0000 UTC")


def add_network_ls_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-q", "--quiet", action="store_true", help="ids only")
    parser.add_argument("--no-trunc", action="store_true", help="whole ids")
    parser.add_argument("-f", "--filter", action="append", default=[], metavar="KEY=VALUE", help=f"keys: {', '.join(_FILTERS)}")
    parser.add_argument("--format", metavar="TEMPLATE", help="json, table TEMPLATE, or a template such as '{{.Name}}'")


def network_ls(options: argparse.Namespace) -> int:
    """A table, sorted by name."""
    from contain.engine import Engine

    filters = parse_filters(options.filter, _FILTERS, choices=CHOICES)
    with Engine.open() as engine:
        rows = [network_row(seen, whole=options.no_trunc) for seen in select_networks(list_networks(engine), filters)]
    if options.quiet:
        sys.stdout.write("".join(f"{row['ID']}\n" for row in rows))
    elif options.format:
        from contain.cli.templates import render_rows

        sys.stdout.write(render_rows(options.format, rows, headings={**HEADINGS, **_OTHER_HEADINGS}))
    else:
        sys.stdout.write(render_table(list(HEADINGS.values()), [[str(row[field]) for field in HEADINGS] for row in rows]))
    return 0


def _describe_pool(pool: Pool) -> dict[str, str]:
    from contain.linux.leases import text_of

    described = {"Subnet": str(pool)}
    if pool.range_base is not None:
        described["IPRange"] = f"{text_of(pool.range_base, pool.bits)}/{pool.range_prefix}"
    return described | {"Gateway": text_of(pool.gateway, pool.bits)}


def network_document(seen: SeenNetwork) -> dict[str, Any]:
    """What ``contain network inspect`` says of one, under Docker's keys."""
    from contain.linux.bridges import hardware_address_of, render_hardware_address
    from contain.linux.leases import dotted, text_of

    record, state = seen.record, seen.state
    settings = record.settings if record else None
    pools = list(record.pools) if record else []
    if state is not None and state.pool is not None and state.leases:  # another one than on record, if that was taken meanwhile
        pools = [state.pool, *pools[1:]]
    containers: dict[str, dict[str, str]] = {}
    for name, container_id in sorted(seen.users):
        lease = state.leases.get(container_id) if state is not None else None
        row = {"Name": name, "EndpointID": "", "MacAddress": "", "IPv4Address": "", "IPv6Address": ""}
        if lease is not None and state is not None and state.pool is not None:
            row["EndpointID"] = network_digest(f"{seen.network_id} {container_id}")
            row["MacAddress"] = render_hardware_address(hardware_address_of(lease))
            row["IPv4Address"] = f"{dotted(lease.address)}/{state.pool.prefix}"
            if lease.address6 and settings and settings.pool6:
                row["IPv6Address"] = f"{text_of(lease.address6, 128)}/{settings.pool6.prefix}"
        containers[container_id] = row
    return {
        "Name": seen.name,
        "Id": seen.network_id,
        "Created": _moment(seen, "T"),
        "Scope": "local",
        "Driver": seen.driver,
        "EnableIPv4": True,
        "EnableIPv6": bool(settings and settings.pool6),
        "IPAM": {
            "Driver": "default",
            "Options": {} if record else None,
            "Config": [_describe_pool(pool) for pool in pools] if pools else ([] if seen.driver == "bridge" else None),
        },
        "Internal": bool(settings and settings.internal),
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": containers,
        "Options": dict(record.options) if record else {},
        "Labels": seen.labels,
    }


def add_network_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    parser.add_argument("-f", "--format", metavar="TEMPLATE", help="json, or a template such as '{{.Driver}}'")
    parser.add_argument("-v", "--verbose", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("networks", nargs="+", metavar="NETWORK")


def network_inspect(options: argparse.Namespace) -> int:
    """A JSON list of those that are there; an error for each that is not."""
    from contain.cli.inspecting import show_documents
    from contain.engine import Engine

    with Engine.open() as engine:
        return show_documents(options.networks, lambda name: network_document(find_network(engine, name)), options.format)


# rm, prune


def add_network_rm_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flag."""
    parser.add_argument("-f", "--force", action="store_true", help="no error for one that is not there")
    parser.add_argument("networks", nargs="+", metavar="NETWORK")


def _remove(engine: Engine, record: NamedNetwork) -> None:
    from contain.container.network.networking import network_users
    from contain.container.network.networks import Networks
    from contain.container.workspaces import sweep
    from contain.linux.bridges import bridge_home
    from contain.linux.network import forget_bridge

    sweep(engine.run_home)
    home = bridge_home(engine.run_home, record.network_id)

    def forget() -> None:
        if home.exists():
            forget_bridge(home)

    Networks(engine.home).remove(record, lambda each: network_users(each, engine.run_home, engine.records.all()), forget)


def network_rm(options: argparse.Namespace) -> int:
    """One that a running container is on stays."""
    from contain.engine import Engine

    with Engine.open() as engine:

        def remove(name: str) -> None:
            seen = find_network(engine, name)
            if seen.record is None:
                raise Conflict(f"{seen.name} is a pre-defined network and cannot be removed", code="network-predefined")
            _remove(engine, seen.record)

        return each_name(options.networks, remove, missing_ok=options.force)


def add_network_prune_arguments(parser: argparse.ArgumentParser) -> None:
    """Docker's flags."""
    from contain.cli.pruning import add_filter_argument

    parser.add_argument("-f", "--force", action="store_true", help="do not ask")
    add_filter_argument(parser, "until=TIME, label=K[=V], label!=K[=V]")


def network_prune(options: argparse.Namespace) -> int:
    """Those that no running container is on."""
    import time

    from contain.cli.pruning import confirmed, parse_prune_filters
    from contain.engine import Engine

    filters = parse_prune_filters(options.filter, now=time.time())
    if not confirmed("This will remove all custom networks not used by at least one container.", force=options.force):
        return 1
    with Engine.open() as engine:
        prune_networks(engine, filters)
    return 0


def prune_networks(engine: Engine, filters: PruneFilters) -> None:
    """Remove networks that no running container is on and that the filters let go, and say so."""
    from contain.cli.pruning import note_prune, show_deleted
    from contain.container.network.networks import Networks

    removed = []
    for record in Networks(engine.home).all():
        if not filters.passes(dict(record.labels), record.created_seconds):
            continue
        try:
            _remove(engine, record)
        except Conflict:
            continue
        removed.append(record.name)
    show_deleted("Networks", removed)
    note_prune(engine, "network", 0)
