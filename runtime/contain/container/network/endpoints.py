"""What ``--network`` and the options beside it ask for. Pure; whether such networks and containers are there is looked up when a
container is made and when it starts.

Forms and words: Docker's (``docker run --network``, runconfig's conflicts of options).
"""

from __future__ import annotations

import re
from ipaddress import ip_address

from contain.errors import NotSupported, UsageError
from contain.linux.bridges import parse_hardware_address, render_hardware_address
from contain.spec import DEFAULT_NETWORK, Endpoint, Network
from contain.values import dataclass, replace

_ALIAS = r"[a-zA-Z0-9_]([a-zA-Z0-9_.-]{0,251}[a-zA-Z0-9_])?"
_MODES = {"none": Network.NONE, "host": Network.HOST}
_KEYS = ("alias", "ip", "ip6", "mac-address", "name")
_LABEL_BYTES = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options of ``run``, ``create`` and ``network connect`` that say what a container is on networks. ``links``: (container,
    alias)."""

    networks: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    address: str = ""
    address6: str = ""
    hardware_address: str = ""
    links: tuple[tuple[str, str], ...] = ()
    publishes: bool = False
    exposes: bool = False
    hostname: bool = False
    name_servers: bool = False
    extra_hosts: bool = False


def check_address(text: str, *, version: int, flag: str) -> str:
    """An address of one IP version, or `UsageError`."""
    try:
        address = ip_address(text)
    except ValueError:
        address = None
    if address is None or address.version != version:
        raise UsageError(
            f"invalid IPv{version} address: {text}", code="bad-address", remedy=f"{flag} takes one IPv{version} address"
        )
    return str(address)


def check_hardware_address(text: str) -> str:
    """A hardware address, or `UsageError` in Docker's words."""
    try:
        return render_hardware_address(parse_hardware_address(text))
    except ValueError:
        raise UsageError(
            f"{text} is not a valid mac address", code="bad-mac-address", remedy="for example 02:42:ac:11:00:02"
        ) from None


def check_alias(text: str) -> str:
    """A name that can be asked for, or `UsageError`."""
    if not re.fullmatch(_ALIAS, text) or any(not 0 < len(part) <= _LABEL_BYTES for part in text.split(".")):
        raise UsageError(
            f"invalid network alias: {text}",
            code="bad-alias",
            remedy="letters, digits, '-', '_' and '.', at most 63 between dots",
        )
    return text


def parse_network(text: str) -> tuple[Network, str, Endpoint]:
    """One ``--network``: the kind, the container of ``container:NAME``, and the place: ``NAME`` or
    ``name=NAME,alias=...,ip=...``."""
    if not text:
        raise UsageError(
            "--network needs a value", code="bad-network", remedy="none, host, bridge, container:NAME or a network's name"
        )
    if text in _MODES:
        return _MODES[text], "", Endpoint()
    if text == "container" or text.startswith("container:"):
        name = text.partition(":")[2]
        if not name:
            raise UsageError(
                "invalid container format container:<name|id>", code="bad-network", remedy="write --network container:NAME"
            )
        return Network.CONTAINER, name, Endpoint()
    if "=" not in text:
        return Network.BRIDGE, "", Endpoint(network=DEFAULT_NETWORK if text == "default" else text)
    import csv

    endpoint = Endpoint(network="")
    for part in next(csv.reader([text])):
        key, equals, value = part.partition("=")
        key = key.strip().lower()
        if not equals or not value:
            raise UsageError(f"invalid key value pair format {part!r} in --network", code="bad-network")
        if key in ("driver-opt", "link-local-ip", "gw-priority"):
            raise NotSupported(f"--network {key}=...: not supported yet", code="network-option-not-supported")
        if key not in _KEYS:
            raise UsageError(
                f"invalid field key {key!r} in --network", code="bad-network", remedy=f"there are {', '.join(_KEYS)}"
            )
        match key:
            case "name":
                endpoint = replace(endpoint, network=DEFAULT_NETWORK if value == "default" else value)
            case "alias":
                endpoint = replace(endpoint, aliases=(*endpoint.aliases, check_alias(value)))
            case "ip":
                endpoint = replace(endpoint, address=check_address(value, version=4, flag="ip"))
            case "ip6":
                endpoint = replace(endpoint, address6=check_address(value, version=6, flag="ip6"))
            case _:
                endpoint = replace(endpoint, hardware_address=check_hardware_address(value))
    if not endpoint.network or endpoint.network in _MODES or endpoint.network.startswith("container:"):
        raise UsageError(
            f"invalid network in --network {text}", code="bad-network", remedy="write name=NAME with a network's name"
        )
    return Network.BRIDGE, "", endpoint


def resolve_networks(asked: Asked) -> tuple[Network, str, tuple[Endpoint, ...]]:
    """The kind, the container whose network is shared, and the places in order. Raises `UsageError` in Docker's words."""
    parsed = [parse_network(text) for text in asked.networks] or [(Network.BRIDGE, "", Endpoint())]
    kinds = {kind for kind, _, _ in parsed}
    if len(parsed) > 1 and kinds != {Network.BRIDGE}:
        word = "host" if Network.HOST in kinds else "none" if Network.NONE in kinds else "container"
        raise UsageError(
            f"conflicting options: cannot attach both {word} and other networks", code="network-conflict", remedy="name one"
        )
    kind, container, first = parsed[0]
    _refuse_conflicts(kind, asked)
    if kind is not Network.BRIDGE:
        return kind, container, ()
    endpoints = [endpoint for _, _, endpoint in parsed]
    names = [endpoint.network for endpoint in endpoints]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"network {twice!r} is specified multiple times", code="network-conflict")
    # The options beside --network belong to the first one.
    endpoints[0] = replace(
        first,
        aliases=(*first.aliases, *map(check_alias, asked.aliases)),
        address=first.address or (check_address(asked.address, version=4, flag="--ip") if asked.address else ""),
        address6=first.address6 or (check_address(asked.address6, version=6, flag="--ip6") if asked.address6 else ""),
        hardware_address=first.hardware_address
        or (check_hardware_address(asked.hardware_address) if asked.hardware_address else ""),
        links=asked.links,
    )
    for endpoint in endpoints:
        verify_endpoint(endpoint)
    return kind, "", tuple(endpoints)


def verify_endpoint(endpoint: Endpoint) -> None:
    """What the default network does not have. Raises `UsageError` in Docker's words."""
    if endpoint.network != DEFAULT_NETWORK:
        return
    if endpoint.address or endpoint.address6:
        raise UsageError(
            "invalid config for network bridge: user specified IP address is supported on user defined networks only",
            code="network-conflict",
            remedy="make one: contain network create --subnet ...",
        )
    if endpoint.aliases:
        raise UsageError(
            "invalid config for network bridge: network-scoped aliases are only supported for user-defined networks",
            code="network-conflict",
            remedy="make one: contain network create NAME",
        )


def _refuse_conflicts(kind: Network, asked: Asked) -> None:
    def conflict(what: str) -> UsageError:
        return UsageError(f"conflicting options: {what}", code="network-conflict")

    if kind is Network.BRIDGE:
        return
    if asked.aliases or asked.address or asked.address6:
        raise conflict(f"--network-alias, --ip and --ip6 need a named network, not --network {kind.value}")
    if kind is Network.NONE:
        if asked.publishes:
            raise UsageError(
                "conflicting options: port publishing and the network mode none",
                code="port-without-network",
                remedy="leave out -p, or --network none",
            )
        if asked.links:
            raise conflict("--link and the network mode none")
        return
    if asked.links:
        who = "host type networking" if kind is Network.HOST else "container type network"
        raise conflict(f"{who} can't be used with links. This would result in undefined behavior")
    if asked.hardware_address:
        raise conflict("mac-address and the network mode")
    if kind is Network.HOST:
        return
    if asked.hostname:
        raise conflict("hostname and the network mode")
    if asked.name_servers:
        raise conflict("dns and the network mode")
    if asked.extra_hosts:
        raise conflict("custom host-to-IP mapping and the network mode")
    if asked.publishes:
        raise conflict("port publishing and the container type network mode")
    if asked.exposes:
        raise conflict("port exposing and the container type network mode")
