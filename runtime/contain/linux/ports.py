"""Reserves ports of this machine for containers: one bound socket for each, held by the container's supervisor.

What arrives never reaches these sockets: the firewall sends it on to the container before (`contain.linux.nftables`). They are there
so that a port has one owner, among containers of any store, Docker's and all other programs, and so that the kernel takes it back
when the supervisor dies, however it dies. Never talks to the firewall and keeps no records.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from errno import EACCES, EADDRINUSE, EADDRNOTAVAIL

from contain.errors import Conflict, HostError
from contain.linux.leases import PublishedPort
from contain.spec import PortRequest

_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


class HeldPorts:
    """Reserved ports, until `close`."""

    def __init__(self) -> None:
        self.ports: tuple[PublishedPort, ...] = ()
        self._sockets: list[socket.socket] = []

    def take(self, request: PortRequest) -> None:
        """Reserve one more. Raises `Conflict` if it is another's, `HostError` if it cannot be had at all."""
        failure: OSError | None = None
        for number in range(request.first_host_port, request.last_host_port + 1):
            try:
                reserved = _reserve(request.protocol, request.host_address, number)
            except OSError as error:
                failure = error
                if error.errno != EADDRINUSE:
                    break
            else:
                self._sockets.append(reserved)
                port = PublishedPort(
                    protocol=request.protocol,
                    host_address=request.host_address,
                    host_port=reserved.getsockname()[1],
                    container_port=request.container_port,
                )
                self.ports = (*self.ports, port)
                return
        assert failure is not None
        raise _describe(request, failure) from failure

    def close(self) -> None:
        """Give all of them back."""
        for reserved in self._sockets:
            reserved.close()
        self._sockets = []


def hold_ports(requests: Sequence[PortRequest]) -> HeldPorts:
    """Reserve all or none. ``close`` gives them back. Raises `Conflict`, `HostError`."""
    held = HeldPorts()
    with contextlib.ExitStack() as undo:
        undo.callback(held.close)
        for request in sorted(requests, key=lambda request: not request.first_host_port):  # the ones that have no choice first
            held.take(request)
        undo.pop_all()
    return held


def _reserve(protocol: str, address: str, number: int) -> socket.socket:
    reserved = socket.socket(socket.AF_INET, _KINDS[protocol])
    try:
        if protocol == "udp" or not number:
            reserved.bind((address, number))
            return reserved
        # Connections that ended a moment ago (TIME_WAIT) must not stand in the way, a listener must: so listen once as servers do,
        # then only stay bound. What comes past the firewall's rules is then refused, not left waiting.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((address, number))
        reserved.listen(1)
        reserved.shutdown(socket.SHUT_RDWR)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except BaseException:
        reserved.close()
        raise
    return reserved


def _describe(request: PortRequest, error: OSError) -> Conflict | HostError:
    place = f"{request.host_address}:{request.first_host_port}"
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
