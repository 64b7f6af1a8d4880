"""From ``-p`` and EXPOSE to the ports that are published. Pure; reserves nothing.

Rules and error words: Docker's (``docker run --publish``, go-connections ``nat.ParsePortSpec``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from contain.errors import NotSupported, UsageError
from contain.spec import PortRequest

_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_LARGEST_PORT = 65535
_MOST_PORTS = 4096
_REMEDY = "write [ADDRESS:][HOST PORT:]CONTAINER PORT[/tcp|udp], for example 8080:80 or 127.0.0.1:5353:53/udp"


def parse_publish(text: str) -> tuple[PortRequest, ...]:
    """One ``-p``: ``[IP:][HOST:]CONTAINER[/tcp|udp]``; HOST and CONTAINER may be ranges ``FIRST-LAST``.

    Ranges of one length belong together port by port; a range for one port of the container means the first free one of them.
    Raises `UsageError` (code ``bad-port``), `NotSupported` for what Docker takes and this does not.
    """
    if "=" in text:
        raise NotSupported(f"-p {text}: the long form is not supported", code="port-not-supported", remedy=_REMEDY)
    ports, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol == "sctp":
        raise NotSupported(f"-p {text}: SCTP is not supported", code="port-not-supported", remedy="publish TCP or UDP")
    if protocol not in ("tcp", "udp"):
        raise UsageError(f"invalid proto: {protocol}", code="bad-port", remedy=_REMEDY)
    if ports.startswith("["):
        address = ports[1:].partition("]")[0]
        _refuse_ipv6(text, address)
    address, host, container = _split(text, ports)
    first, last = _parse_range(container, what="containerPort")
    if first == 0:
        raise UsageError(f"invalid containerPort: {container}", code="bad-port", remedy=_REMEDY)
    first_host, last_host = _parse_range(host, what="hostPort") if host else (0, 0)
    if last - first >= _MOST_PORTS:
        raise UsageError(f"-p {text}: more than {_MOST_PORTS} ports at once", code="bad-port", remedy="publish fewer")
    if first == last or not first_host:
        return tuple(
            PortRequest(
                container_port=port,
                protocol=protocol,
                host_address=address,
                first_host_port=first_host,
                last_host_port=last_host,
            )
            for port in range(first, last + 1)
        )
    if last_host - first_host != last - first:
        raise UsageError(
            f"invalid ranges specified for container and host Ports: {container} and {host}", code="bad-port", remedy=_REMEDY
        )
    return tuple(
        PortRequest(
            container_port=first + step,
            protocol=protocol,
            host_address=address,
            first_host_port=first_host + step,
            last_host_port=first_host + step,
        )
        for step in range(last - first + 1)
    )


def _split(text: str, ports: str) -> tuple[str, str, str]:
    parts = ports.split(":")
    if len(parts) > 3:
        _refuse_ipv6(text, ":".join(parts[:-2]))
    if not parts[-1]:
        raise UsageError(f"no port specified: {text}", code="bad-port", remedy=_REMEDY)
    container = parts.pop()
    host = parts.pop() if parts else ""
    address = parts.pop() if parts else ""
    try:
        return str(IPv4Address(address)) if address else str(IPv4Address(0)), host, container
    except AddressValueError:
        raise UsageError(f"invalid IP address: {address}", code="bad-port", remedy=_REMEDY) from None


def _refuse_ipv6(text: str, address: str) -> None:
    try:
        IPv6Address(address)
    except AddressValueError:
        raise UsageError(f"invalid IP address: {address}", code="bad-port", remedy=_REMEDY) from None
    raise NotSupported(
        f"-p {text}: publishing at an IPv6 address is not supported yet", code="port-not-supported", remedy="use IPv4"
    )


def _parse_range(text: str, *, what: str) -> tuple[int, int]:
    found = _RANGE.fullmatch(text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
    if not first <= last <= _LARGEST_PORT:
        raise UsageError(f"invalid {what}: {text}", code="bad-port", remedy=_REMEDY)
    return first, last


def resolve_ports(requests: Sequence[PortRequest], *, exposed: Sequence[str], publish_all: bool) -> tuple[PortRequest, ...]:
    """What is published in the end. ``publish_all`` adds the image's exposed ports (``80/tcp``, ``8000-8010``) that no request
    names, each at any free port. The same request twice counts once."""
    found = list(dict.fromkeys(requests))
    named = {(request.container_port, request.protocol) for request in found}
    if publish_all:
        for text in exposed:
            found += [request for request in parse_publish(text) if (request.container_port, request.protocol) not in named]
    return tuple(dict.fromkeys(found))
