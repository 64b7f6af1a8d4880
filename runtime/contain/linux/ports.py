"""Reserves ports of this machine for containers: one bound socket for each, held by the container's supervisor.

What arrives at IPv4 addresses never reaches these sockets: the firewall sends it on to the container before
(`contain.linux.nftables`). They are there so that a port has one owner, among containers of any store, Docker's and all other
programs, and so that the kernel takes it back when the supervisor dies, however it dies. Those at IPv6 addresses listen, and the
container's attendant process serves them (`contain.container.network.relay`); so do all where no firewall of ours comes before
them. Never talks to the firewall and keeps no records.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from errno import EACCES, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT

from contain.errors import Conflict, HostError
from contain.linux.leases import PublishedPort
from contain.spec import PortRequest

_BACKLOG = 512
_FREE_PORT_ATTEMPTS = 64
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


class HeldPorts:
    """Reserved ports, until `close`. ``served``: those at IPv4 addresses listen, too, since no firewall of ours comes before them."""

    def __init__(self, *, served: bool = False) -> None:
        self._served = served
        self.ports: tuple[PublishedPort, ...] = ()
        self._sockets: list[socket.socket] = []

    def take(self, request: PortRequest) -> None:
        """Reserve one more: at all of this machine's addresses, of both IP versions under one number, where the request names none.
        Raises `Conflict` if it is another's, `HostError` if it cannot be had at all."""
        failure: OSError | None = None
        anywhere = not request.host_address
        for number in range(request.first_host_port, request.last_host_port + 1):
            try:
                reserved = (
                    _reserve_everywhere(request.protocol, number, self._served)
                    if anywhere
                    else [_reserve_at(request, number, self._served)]
                )
            except OSError as error:
                failure = error
                if error.errno != EADDRINUSE:
                    break
                continue
            for each in reserved:
                place = each.getsockname()
                port = PublishedPort(
                    protocol=request.protocol,
                    host_address=place[0],
                    host_port=place[1],
                    container_port=request.container_port,
                )
                self._sockets.append(each)
                self.ports = (*self.ports, port)
            return
        assert failure is not None
        raise _describe(request, failure) from failure

    def relayed(self) -> list[tuple[int, int]]:
        """The descriptors of the sockets that the attendant serves, each with the container's port."""
        return [
            (reserved.fileno(), port.container_port)
            for reserved, port in zip(self._sockets, self.ports, strict=True)
            if port.is_ipv6 or self._served
        ]

    def close(self) -> None:
        """Give all of them back."""
        for reserved in self._sockets:
            reserved.close()
        self._sockets = []


def hold_ports(requests: Sequence[PortRequest], *, served: bool = False) -> HeldPorts:
    """Reserve all or none. ``close`` gives them back. ``served``: see `HeldPorts`. Raises `Conflict`, `HostError`."""
    held = HeldPorts(served=served)
    with contextlib.ExitStack() as undo:
        undo.callback(held.close)
        for request in sorted(requests, key=lambda request: not request.first_host_port):  # the ones that have no choice first
            held.take(request)
        undo.pop_all()
    return held


def _reserve_at(request: PortRequest, number: int, served: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in request.host_address else socket.AF_INET
    return _reserve(family, request.protocol, request.host_address, number, served)


def _reserve_everywhere(protocol: str, number: int, served: bool) -> list[socket.socket]:
    """One socket for each IP version that this machine has, with one number."""
    for attempt in range(_FREE_PORT_ATTEMPTS):
        first = _reserve(socket.AF_INET, protocol, "0.0.0.0", number, served)  # noqa: S104 - as asked
        try:
            return [first, _reserve(socket.AF_INET6, protocol, "::", first.getsockname()[1], served)]
        except OSError as error:
            if error.errno in (EAFNOSUPPORT, EADDRNOTAVAIL):  # no IPv6 here, or switched off
                return [first]
            first.close()
            if number or error.errno != EADDRINUSE or attempt == _FREE_PORT_ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def _reserve(family: int, protocol: str, address: str, number: int, served: bool) -> socket.socket:
    reserved = socket.socket(family, _KINDS[protocol])
    try:
        if family == socket.AF_INET6:
            reserved.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol == "udp" or (not number and family == socket.AF_INET and not served):
            reserved.bind((address, number))
            return reserved
        # Connections that ended a moment ago (TIME_WAIT) must not stand in the way, a listener must: so listen once as servers do.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((address, number))
        if family == socket.AF_INET6 or served:
            reserved.listen(_BACKLOG)
            return reserved
        # Then only stay bound: what comes past the firewall's rules is refused, not left waiting.
        reserved.listen(1)
        reserved.shutdown(socket.SHUT_RDWR)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except BaseException:
        reserved.close()
        raise
    return reserved


def _describe(request: PortRequest, error: OSError) -> Conflict | HostError:
    address = f"[{request.host_address}]" if ":" in request.host_address else request.host_address or "0.0.0.0"  # noqa: S104
    place = f"{address}:{request.first_host_port}"
    if request.last_host_port != request.first_host_port:
        place += f"-{request.last_host_port}"
    if error.errno == EADDRINUSE:
        return Conflict(
            f"Bind for {place} failed: port is already allocated",
            remedy=f"`contain ps` shows the ports of containers, `ss -lnp` those of other programs ({request.protocol})",
            code="port-allocated",
        )
    remedies = {
        EADDRNOTAVAIL: "this machine has no such address: see `ip address`",
        EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE",
    }
    return HostError(
        f"cannot publish {place}/{request.protocol}",
        call="bind",
        errno=error.errno or 0,
        remedy=remedies.get(error.errno or 0, ""),
        code="port-not-available",
    )
