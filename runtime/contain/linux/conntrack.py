"""Makes the kernel forget UDP flows to a port of this machine when the port gets another owner.

UDP has no connections, but the kernel remembers who talked to whom and translates the rest of a flow as it did its first packet. A
client that keeps its own port (a DNS forwarder, a tunnel, a metrics sender) would so go on talking to the container that had the port
before, or to nobody. TCP needs none of this: its flows end with their sockets. Touches flows to the given ports of this machine only.

Formats: linux/netfilter/nfnetlink_conntrack.h. Numbers in messages are big-endian.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection

from contain.errors import HostError
from contain.linux.rtnetlink import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NetlinkSocket,
    Request,
    list_routes,
    nested,
    parse_attributes,
    parse_route,
)

_SUBSYSTEM = 1  # NFNL_SUBSYS_CTNETLINK
_GET, _DELETE = 1, 2
_FAMILY_HEADER = struct.Struct(">BBH")
_TUPLE_ORIGINAL, _TUPLE_ADDRESSES, _TUPLE_PROTOCOL = 1, 1, 2
_ADDRESS_DESTINATION = 2
_PROTOCOL_NUMBER, _PROTOCOL_DESTINATION_PORT = 1, 3
_ROUTE_KIND_LOCAL = 2
_NOT_THERE_ANY_MORE = 2  # ENOENT


def forget_datagrams(routes: NetlinkSocket, tables: NetlinkSocket, ports: Collection[int]) -> int:
    """Forget the IPv4 UDP flows that were begun to one of these ports at an address of this machine; how many there were.

    ``routes`` and ``tables``: sockets of NETLINK_ROUTE and NETLINK_NETFILTER. Without the kernel's module for it (nf_conntrack_netlink)
    nothing happens: such flows then end by themselves, after at most two minutes of silence.
    """
    here = [parse_route(payload) for payload in routes.transact((list_routes(),))[0]]
    local = [(route.destination, route.prefix_length) for route in here if route.kind == _ROUTE_KIND_LOCAL]
    head = _FAMILY_HEADER.pack(socket.AF_INET, 0, 0)
    question = Request(name="list flows (IPCTNL_MSG_CT_GET)", kind=_SUBSYSTEM << 8 | _GET, flags=NLM_F_DUMP, payload=head)
    try:
        flows = tables.transact((question,))[0]
    except HostError:
        return 0
    requests = []
    for flow in flows:
        original = parse_attributes(flow[_FAMILY_HEADER.size :]).get(_TUPLE_ORIGINAL, b"")
        destination = _udp_destination(original)
        if destination is None or destination[1] not in ports:
            continue
        if any(destination[0] >> 32 - length == base >> 32 - length for base, length in local):
            requests.append(
                Request(
                    name="forget a flow (IPCTNL_MSG_CT_DELETE)",
                    kind=_SUBSYSTEM << 8 | _DELETE,
                    flags=NLM_F_ACK,
                    payload=head + nested(_TUPLE_ORIGINAL, original),  # never without: that would mean every flow there is
                    tolerated=(_NOT_THERE_ANY_MORE,),
                )
            )
    for request in requests:
        tables.transact((request,))
    return len(requests)


def _udp_destination(flow: bytes) -> tuple[int, int] | None:
    """The address and port that a flow's first packet went to; None for what is no IPv4 UDP."""
    parts = parse_attributes(flow)
    addresses = parse_attributes(parts.get(_TUPLE_ADDRESSES, b""))
    protocol = parse_attributes(parts.get(_TUPLE_PROTOCOL, b""))
    address, port = addresses.get(_ADDRESS_DESTINATION, b""), protocol.get(_PROTOCOL_DESTINATION_PORT, b"")
    if protocol.get(_PROTOCOL_NUMBER) != bytes((socket.IPPROTO_UDP,)) or len(address) != 4 or len(port) != 2:
        return None
    return int.from_bytes(address, "big"), int.from_bytes(port, "big")
