"""From ``-p`` and EXPOSE to the ports that are published. Pure; reserves nothing.

Rules and error words: Docker's (``docker run --publish``, go-connections ``nat.ParsePortSpec``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address

from contain.errors import NotSupported, UsageError
from contain.spec import PortRequest

_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_LARGEST_PORT = 65535
_MOST_PORTS = 4096
_REMEDY = "write [ADDRESS:][HOST PORT:]CONTAINER PORT[/tcp|udp], for example 8080:80, 127.0.0.1:5353:53/udp or [::1]:8080:80"


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
    """Address, host port and container port. An IPv6 address stands in brackets, or before two colons more."""
    if ports.startswith("["):
        address, bracket, rest = ports[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise UsageError(f"invalid IP address: {ports}", code="bad-port", remedy=_REMEDY)
        host, _, container = rest[1:].rpartition(":")
    else:
        rest, _, container = ports.rpartition(":")
        address, _, host = rest.rpartition(":")
    if not container:
        raise UsageError(f"no port specified: {text}", code="bad-port", remedy=_REMEDY)
    try:
        if "%" in address:  # a zone is this machine's own business
            raise ValueError(address)
        return str(ip_address(address)) if address else "", host, container
    except ValueError:
        raise UsageError(f"invalid IP address: {address}", code="bad-port", remedy=_REMEDY) from None


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


def parse_expose(text: str) -> tuple[str, ...]:
    """One ``--expose``: ``PORT[/tcp|udp]`` or a range, as EXPOSE in a Dockerfile. Raises `UsageError`, `NotSupported`."""
    if ":" in text:
        raise UsageError(f"invalid port format for --expose: {text}", code="bad-port", remedy="for example 80 or 53/udp")
    return tuple(f"{request.container_port}/{request.protocol}" for request in parse_publish(text))
