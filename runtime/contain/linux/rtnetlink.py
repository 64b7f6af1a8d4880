"""Netlink messages as bytes, and one socket that carries them: links, addresses, routes and neighbours, without a library.

Encodes `Request` values (pure) and exchanges them with the kernel. Decides nothing: which links there should be is
`contain.linux.network`'s business. It exists because the ready library takes 150 ms to import, several times what a whole
container costs, and because a container's own process must configure its interface with nothing but what is already loaded.

Formats: netlink(7), rtnetlink(7); attribute numbers from the kernel's linux/if_link.h, linux/rtnetlink.h, linux/neighbour.h.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from errno import EACCES, EADDRNOTAVAIL, EAFNOSUPPORT, EEXIST, EMFILE, ENODEV, ENOENT, EOPNOTSUPP, EPERM, EPROTONOSUPPORT
from types import TracebackType

from contain.errors import HostError
from contain.values import dataclass

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12

NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK, NLM_F_DUMP_INTR = 0x1, 0x2, 0x4, 0x10
NLM_F_DUMP = 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_ACK_TLVS = 0x200
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_NLMSGERR_ATTR_MSG = 1
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NLA_F_NESTED, _NLA_TYPE_MASK = 0x8000, 0x3FFF
_ANSWER_TIMEOUT_SECONDS = 10  # the kernel answers within the call; this bounds what would else be a wait for ever
_DUMP_ATTEMPTS = 8

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_NEWADDR, _RTM_NEWROUTE, _RTM_GETROUTE = 20, 24, 26
_RTM_NEWNEIGH, _RTM_DELNEIGH = 28, 29

_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, device type, index, flags, mask of flags to change
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, dst length, src length, tos, table, protocol, scope, type, flags
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # ndmsg: family, index, state, flags, type

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_IFALIAS = 1, 3, 4, 10, 18, 20
_IFLA_AF_SPEC, _IFLA_NET_NS_FD = 26, 28
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_INFO_PEER = 1
_BRPORT_LEARNING, _BRPORT_UNICAST_FLOOD, _BRPORT_ISOLATED = 8, 9, 33
_INET6_ADDR_GEN_MODE, _ADDR_GEN_MODE_NONE = 8, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_IFA_F_NODAD = 0x02
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_MULTIPATH = 1, 4, 5, 9
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_NOARP, _NUD_PERMANENT, _NTF_MASTER = 0x40, 0x80, 0x04
_RT_TABLE_MAIN, _RTPROT_STATIC, _RTN_UNICAST = 254, 4, 1

IFF_UP = 0x1


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One message to the kernel. ``name`` is what an error calls it; ``tolerated`` are the errnos that mean "already so"."""

    name: str
    kind: int
    flags: int
    payload: bytes
    tolerated: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What the kernel says about one network interface."""

    index: int
    name: str
    kind: str  # "bridge", "veth", ...; "" for hardware
    mtu_bytes: int
    is_up: bool
    master_index: int  # 0: none


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One IPv4 route: the destination as a number with its prefix length, and the interfaces that it leaves by."""

    destination: int
    prefix_length: int
    kind: int  # 1 unicast, 2 local, 3 broadcast ...
    interface_indices: tuple[int, ...]


# Attributes


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute: length, type, payload, padded to four bytes."""
    return _ATTRIBUTE.pack(len(payload) + 4, kind) + payload + bytes(-len(payload) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that consists of attributes."""
    return attribute(kind | _NLA_F_NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """A zero-terminated string attribute."""
    return attribute(kind, value.encode() + b"\0")


def parse_attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in ``data`` by type (flag bits removed). Of equal types the last stays; what is cut off is left out."""
    return dict(iterate_attributes(data))


def iterate_attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in ``data`` in order, also when one type occurs several times."""
    offset = 0
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > len(data):
            return
        yield kind & _NLA_TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


# Requests: links


def get_link(name: str, *, tolerated: tuple[int, ...] = (ENODEV,)) -> Request:
    """Ask for one interface by name; no reply if there is none."""
    payload = _LINK.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, name)
    return Request(
        name=f"look up {name} (RTM_GETLINK)", kind=_RTM_GETLINK, flags=NLM_F_ACK, payload=payload, tolerated=tolerated
    )


def list_links() -> Request:
    """Ask for all interfaces."""
    return Request(name="list interfaces (RTM_GETLINK)", kind=_RTM_GETLINK, flags=NLM_F_DUMP, payload=_LINK.pack(0, 0, 0, 0, 0))


def create_bridge(name: str, *, hardware_address: bytes, mtu_bytes: int) -> Request:
    """Make a bridge, down. Its hardware address is fixed, else it would change with every port that comes and goes."""
    payload = (
        _LINK.pack(0, 0, 0, 0, 0)
        + text(_IFLA_IFNAME, name)
        + attribute(_IFLA_ADDRESS, hardware_address)
        + attribute(_IFLA_MTU, struct.pack("=I", mtu_bytes))
        + nested(_IFLA_LINKINFO, text(_INFO_KIND, "bridge"))
    )
    return Request(
        name=f"create the bridge {name} (RTM_NEWLINK)",
        kind=_RTM_NEWLINK,
        flags=NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
        payload=payload,
    )


def create_veth(
    name: str, *, bridge_index: int, mtu_bytes: int, peer_name: str, peer_hardware_address: bytes, peer_namespace: int
) -> Request:
    """Make a veth pair: this end on the bridge, down; the other end directly in the network namespace ``peer_namespace`` (a
    file descriptor), because moving an interface between namespaces afterwards is the slow part."""
    peer = (
        _LINK.pack(0, 0, 0, 0, 0)
        + text(_IFLA_IFNAME, peer_name)
        + attribute(_IFLA_ADDRESS, peer_hardware_address)
        + attribute(_IFLA_MTU, struct.pack("=I", mtu_bytes))
        + attribute(_IFLA_NET_NS_FD, struct.pack("=i", peer_namespace))
    )
    payload = (
        _LINK.pack(0, 0, 0, 0, 0)
        + text(_IFLA_IFNAME, name)
        + attribute(_IFLA_MTU, struct.pack("=I", mtu_bytes))
        + attribute(_IFLA_MASTER, struct.pack("=i", bridge_index))
        + nested(_IFLA_LINKINFO, text(_INFO_KIND, "veth"), nested(_INFO_DATA, nested(_VETH_INFO_PEER, peer)))
    )
    return Request(
        name=f"create the veth pair {name} (RTM_NEWLINK)",
        kind=_RTM_NEWLINK,
        flags=NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
        payload=payload,
    )


def set_port(name: str, *, alias: str, isolated: bool) -> Request:
    """Let a bridge port learn no addresses from what it sends, and get no frames for unknown addresses; ``isolated``: and talk to
    the bridge only, not to other isolated ports. ``alias`` says in ``ip link`` whose it is. The isolation flag needs Linux 4.18."""
    on, off = b"\x01", b"\x00"
    flags = (
        attribute(_BRPORT_ISOLATED, on if isolated else off),
        attribute(_BRPORT_LEARNING, off),
        attribute(_BRPORT_UNICAST_FLOOD, off),
    )
    payload = (
        _LINK.pack(0, 0, 0, 0, 0)
        + text(_IFLA_IFNAME, name)
        + attribute(_IFLA_IFALIAS, alias.encode())
        + nested(_IFLA_LINKINFO, text(_INFO_SLAVE_KIND, "bridge"), nested(_INFO_SLAVE_DATA, *flags))
    )
    return Request(
        name=f"{'isolate' if isolated else 'set'} the bridge port {name} (RTM_NEWLINK)",
        kind=_RTM_NEWLINK,
        flags=NLM_F_ACK,
        payload=payload,
    )


def set_master(name: str, *, bridge_index: int) -> Request:
    """Put an interface on a bridge; nothing to do if it is gone."""
    payload = _LINK.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, name) + attribute(_IFLA_MASTER, struct.pack("=i", bridge_index))
    return Request(
        name=f"put {name} on the bridge (RTM_NEWLINK)", kind=_RTM_NEWLINK, flags=NLM_F_ACK, payload=payload, tolerated=(ENODEV,)
    )


def no_link_local_address(name: str) -> Request:
    """Give an interface no IPv6 link-local address. A kernel without IPv6 refuses, and gives none either."""
    specification = nested(
        _IFLA_AF_SPEC, nested(socket.AF_INET6, attribute(_INET6_ADDR_GEN_MODE, bytes((_ADDR_GEN_MODE_NONE,))))
    )
    return Request(
        name=f"keep IPv6 addresses off {name} (RTM_NEWLINK)",
        kind=_RTM_NEWLINK,
        flags=NLM_F_ACK,
        payload=_LINK.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, name) + specification,
        tolerated=(EAFNOSUPPORT, EOPNOTSUPP),
    )


def set_up(name: str) -> Request:
    """Bring an interface up."""
    payload = _LINK.pack(0, 0, 0, IFF_UP, IFF_UP) + text(_IFLA_IFNAME, name)
    return Request(name=f"bring {name} up (RTM_NEWLINK)", kind=_RTM_NEWLINK, flags=NLM_F_ACK, payload=payload)


def delete_link(name: str) -> Request:
    """Remove an interface; nothing to do if there is none. The call waits for the kernel's grace periods: 10 ms and more."""
    payload = _LINK.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, name)
    return Request(
        name=f"delete {name} (RTM_DELLINK)", kind=_RTM_DELLINK, flags=NLM_F_ACK, payload=payload, tolerated=(ENODEV,)
    )


# Requests: addresses, routes, neighbours


def _packed(address: str) -> tuple[int, bytes]:
    """The family of an address, and its bytes."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.inet_pton(family, address)


def add_address(index: int, *, address: str, prefix_length: int) -> Request:
    """Give an interface an address and the route to its subnet. An IPv6 one is not asked for on the link before it is used: it was
    given out by whoever gives out all of them there."""
    family, packed = _packed(address)
    flags = _IFA_F_NODAD if family == socket.AF_INET6 else 0
    payload = (
        _ADDRESS.pack(family, prefix_length, flags, 0, index) + attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
    )
    if family == socket.AF_INET:
        broadcast = int.from_bytes(packed, "big") | ((1 << (32 - prefix_length)) - 1)
        payload += attribute(_IFA_BROADCAST, broadcast.to_bytes(4, "big"))
    return Request(
        name=f"give the address {address}/{prefix_length} (RTM_NEWADDR)",
        kind=_RTM_NEWADDR,
        flags=NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
        payload=payload,
        tolerated=(EEXIST,),
    )


def add_default_route(index: int, *, gateway: str) -> Request:
    """Send everything of its family that has no better route to ``gateway``, unless there is such a route."""
    family, packed = _packed(gateway)
    payload = (
        _ROUTE.pack(family, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, 0, _RTN_UNICAST, 0)
        + attribute(_RTA_GATEWAY, packed)
        + attribute(_RTA_OIF, struct.pack("=i", index))
    )
    return Request(
        name=f"add the default route by {gateway} (RTM_NEWROUTE)",
        kind=_RTM_NEWROUTE,
        flags=NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
        payload=payload,
        tolerated=(EEXIST,),
    )


def list_routes() -> Request:
    """Ask for all IPv4 routes of all tables."""
    payload = _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)
    return Request(name="list routes (RTM_GETROUTE)", kind=_RTM_GETROUTE, flags=NLM_F_DUMP, payload=payload)


def pin_neighbour(index: int, *, address: str, hardware_address: bytes) -> Request:
    """Fix which hardware address an address has on an interface, so that nobody's answer can change it."""
    family, packed = _packed(address)
    payload = (
        _NEIGHBOUR.pack(family, index, _NUD_PERMANENT, 0, 0)
        + attribute(_NDA_DST, packed)
        + attribute(_NDA_LLADDR, hardware_address)
    )
    return Request(
        name=f"pin the neighbour {address} (RTM_NEWNEIGH)",
        kind=_RTM_NEWNEIGH,
        flags=NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
        payload=payload,
    )


def unpin_neighbour(index: int, *, address: str) -> Request:
    """Forget what `pin_neighbour` fixed."""
    family, packed = _packed(address)
    payload = _NEIGHBOUR.pack(family, index, 0, 0, 0) + attribute(_NDA_DST, packed)
    return Request(
        name=f"unpin the neighbour {address} (RTM_DELNEIGH)",
        kind=_RTM_DELNEIGH,
        flags=NLM_F_ACK,
        payload=payload,
        tolerated=(ENOENT, ENODEV, EADDRNOTAVAIL),
    )


def pin_port(index: int, *, hardware_address: bytes) -> Request:
    """Fix behind which bridge port a hardware address is, since the port learns none."""
    payload = _NEIGHBOUR.pack(socket.AF_BRIDGE, index, _NUD_NOARP, _NTF_MASTER, 0) + attribute(_NDA_LLADDR, hardware_address)
    return Request(
        name="pin the bridge port's hardware address (RTM_NEWNEIGH)",
        kind=_RTM_NEWNEIGH,
        flags=NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
        payload=payload,
    )


# Replies


def parse_link(payload: bytes) -> Link:
    """An RTM_NEWLINK message's body."""
    _, _, index, flags, _ = _LINK.unpack_from(payload)
    found = parse_attributes(payload[_LINK.size :])
    information = parse_attributes(found.get(_IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=found.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace"),
        kind=information.get(_INFO_KIND, b"").rstrip(b"\0").decode(errors="replace"),
        mtu_bytes=int.from_bytes(found.get(_IFLA_MTU, b""), sys.byteorder),
        is_up=bool(flags & IFF_UP),
        master_index=int.from_bytes(found.get(_IFLA_MASTER, b""), sys.byteorder),
    )


def parse_route(payload: bytes) -> Route:
    """An RTM_NEWROUTE message's body, IPv4."""
    _, prefix_length, _, _, _, _, _, kind, _ = _ROUTE.unpack_from(payload)
    found = parse_attributes(payload[_ROUTE.size :])
    indices = [int.from_bytes(found[_RTA_OIF], sys.byteorder)] if _RTA_OIF in found else []
    hops = found.get(_RTA_MULTIPATH, b"")
    while len(hops) >= 8:  # rtnexthop: length, flags, hops, interface index, then attributes
        length, index = struct.unpack_from("=HxxI", hops)
        indices.append(index)
        if length < 8:
            break
        hops = hops[(length + 3) & ~3 :]
    return Route(
        destination=int.from_bytes(found.get(_RTA_DST, b"\0\0\0\0"), "big"),
        prefix_length=prefix_length,
        kind=kind,
        interface_indices=tuple(indices),
    )


# The socket


class NetlinkSocket:
    """A netlink socket in the network namespace of the thread that opens it. A context manager."""

    __slots__ = ("_sequence", "_socket")

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        except OSError as error:
            remedy = (
                "load the module: modprobe nfnetlink nf_tables"
                if protocol == NETLINK_NETFILTER and error.errno == EPROTONOSUPPORT
                else _remedy(error.errno or 0)
            )
            raise HostError(
                "cannot talk to the kernel about networks",
                call=f"socket(AF_NETLINK, {protocol})",
                errno=error.errno or 0,
                remedy=remedy,
                code="network-kernel",
            ) from error
        self._sequence = 0
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _ANSWER_TIMEOUT_SECONDS, 0))
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):  # short answers, with the kernel's own words
            try:
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            except OSError:
                continue  # kernels before 4.12: only the errno is told

    def __enter__(self) -> NetlinkSocket:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._socket.close()

    def transact(self, requests: Sequence[Request]) -> list[list[bytes]]:
        """Send all requests in one system call and wait for their answers: per request, the bodies of its replies.

        Raises `HostError` for the first request that failed; the kernel has then still looked at the ones after it. A request
        with neither ACK nor DUMP in its flags is not waited for, but an error about it ends the exchange at once.
        """
        if not requests:
            return []
        for _ in range(_DUMP_ATTEMPTS):
            replies = self._exchange(requests)
            if replies is not None:
                return replies
        raise HostError(
            f"the list kept changing while it was read: {requests[0].name}", call="recv(AF_NETLINK)", code="network-kernel"
        )

    def _exchange(self, requests: Sequence[Request]) -> list[list[bytes]] | None:
        first = self._sequence + 1
        self._sequence += len(requests)
        data = bytearray()
        waiting: set[int] = set()
        for sequence, request in enumerate(requests, first):
            data += _HEADER.pack(len(request.payload) + 16, request.kind, request.flags | NLM_F_REQUEST, sequence, 0)
            data += request.payload
            data += bytes(-len(request.payload) % 4)
            if request.flags & NLM_F_ACK or request.flags & NLM_F_DUMP == NLM_F_DUMP:
                waiting.add(sequence)
        replies: list[list[bytes]] = [[] for _ in requests]
        failure: HostError | None = None
        interrupted = False
        try:
            self._socket.send(data)
            while waiting:
                for kind, flags, sequence, body in _messages(self._socket.recv(1 << 17)):
                    position = sequence - first
                    if not 0 <= position < len(requests):
                        continue
                    interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
                    if kind not in (_NLMSG_ERROR, _NLMSG_DONE):
                        replies[position].append(body)
                        continue
                    number = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                    if number > 0 and number not in requests[position].tolerated:
                        failure = failure or _failure(requests[position], number, body, flags)
                        if sequence not in waiting:
                            raise failure
                    waiting.discard(sequence)
        except OSError as error:
            raise HostError(
                f"the kernel did not answer: {requests[0].name}",
                call="send and recv(AF_NETLINK)",
                errno=error.errno or 0,
                remedy=_remedy(error.errno or 0),
                code="network-kernel",
            ) from error
        if failure is not None:
            raise failure
        return None if interrupted else replies


def _messages(data: bytes) -> Iterable[tuple[int, int, int, bytes]]:
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < 16:
            return
        yield kind, flags, sequence, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _failure(request: Request, number: int, body: bytes, flags: int) -> HostError:
    said = ""
    if flags & _NLM_F_ACK_TLVS and len(body) > 20:  # the errno, then the header of the request, then attributes
        said = parse_attributes(body[20:]).get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")
    return HostError(
        f"the kernel refused: {request.name}" + (f": {said}" if said else ""),
        call="sendmsg(AF_NETLINK)",
        errno=number,
        remedy=_remedy(number, request),
        code="network-permission" if number in (EPERM, EACCES) else "network-kernel",
    )


def _remedy(number: int, request: Request | None = None) -> str:
    if number in (EPERM, EACCES):
        return "run as root or with CAP_NET_ADMIN; `--network none` and `--network host` need neither"
    if number == EMFILE:
        return "raise the limit of open files (ulimit -n)"
    if number == EOPNOTSUPP and request is not None:
        for module in ("veth", "bridge"):
            if module in request.name:
                return f"the kernel has no {module} driver: modprobe {module}, or build it with CONFIG_{module.upper()}"
    return ""
