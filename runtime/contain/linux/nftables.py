"""contain's own nftables table, as one netlink transaction, without the nft program and without a library.

Decides (pure) which rules a bridge needs and encodes them; `replace_table` and the others perform. Never touches a table that is
not its own, so it lives beside Docker's, a host firewall's and the administrator's.

The rules, as ``nft list table ip contain`` shows them for the bridge contain0 with the pool 172.30.0.0/16::

    chain forward {
        type filter hook forward priority filter; policy accept;
        iifname "contain0" ip saddr != 172.30.0.0/16 drop        # nobody pretends to be somebody else
        oifname "contain0" ct state established,related accept   # answers
        oifname "contain0" ct status dnat accept                 # to published ports
        oifname "contain0" drop                                  # nothing else comes in, from other containers neither
    }
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 172.30.0.0/16 oifname != "contain0" masquerade
        ip saddr 127.0.0.0/8 oifname "contain0" masquerade       # this machine, through its loopback
    }
    chain loopback {
        type filter hook prerouting priority raw; policy accept;
        iifname "contain0" ip daddr 127.0.0.0/8 drop             # or route_localnet would open this machine's loopback
    }
    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        iifname != "contain0" fib daddr type local ip daddr != 127.0.0.0/8 jump published
    }
    chain output {
        type nat hook output priority dstnat; policy accept;
        fib daddr type local jump published
    }
    chain published {                                            # one rule for each published port
        ip daddr 192.0.2.1 tcp dport 8080 dnat to 172.30.0.2:80
    }

A network whose containers may reach each other accepts, before anything else, what comes from its bridge and goes to it: with
br_netfilter such a packet passes here although it never leaves the bridge. One without a way out (`internal`) drops everything else
that comes from its bridge, and has no ``nat`` chains. A network with IPv6 has a second table of the same name in the family ip6,
which publishes what comes from outside the machine. Where
two containers of an isolated bridge are linked, one rule before the last one accepts what the one sends to the other.

In a container's own network namespace there is one more table (`redirect_resolver`): what goes to port 53 of 127.0.0.11 is sent
on to the port at which its resolver listens, so that the container may have a name server of its own at its port 53.

Containers of the same bridge are refused at published ports: with br_netfilter the kernel would turn such a packet round on the
bridge itself, where ports are isolated, so that it worked on some machines only.

An ``accept`` here only ends this chain: another table's chain on the same hook may still drop the packet. That cannot be
overridden from a table of one's own, only reported (`list_base_chains`). One such table has a place for others' rules: Docker,
which drops all that it does not know, keeps the chain DOCKER-USER for them. Where that is, two rules let pass what comes from or
goes to a bridge of ours (`pass_docker`); what may pass is decided in our own table, whose ``drop`` is final. They go with the
bridge.

Formats: linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h. nf_tables numbers are big-endian, register contents are not.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from errno import ENOENT

from contain.errors import HostError
from contain.linux.rtnetlink import (
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NetlinkSocket,
    Request,
    attribute,
    nested,
    parse_attributes,
    text,
)
from contain.values import dataclass

_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_NEWTABLE, _GETTABLE, _DELTABLE, _NEWCHAIN, _GETCHAIN, _NEWRULE, _GETRULE, _DELRULE = 0, 1, 2, 3, 4, 6, 7, 8
_FAMILY_HEADER = struct.Struct(">BBH")  # nfgenmsg: family, version, resource
_FAMILY_IPV4 = 2
_FAMILY_IPV6 = 10

_TABLE_NAME = 1
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 1, 3, 4, 5, 7
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_RULE_TABLE, _RULE_CHAIN, _RULE_HANDLE, _RULE_EXPRESSIONS, _RULE_USER_DATA = 1, 2, 3, 4, 7
_COMMENT = 0  # of a rule's user data, as the nft program writes it
_DOCKER_TABLE, _DOCKER_CHAIN = "filter", "DOCKER-USER"
_LIST_ELEMENT, _EXPRESSION_NAME, _EXPRESSION_DATA = 1, 1, 2
_DATA_VALUE, _DATA_VERDICT, _VERDICT_CODE, _VERDICT_CHAIN = 1, 2, 1, 2

_HOOK_PREROUTING, _HOOK_FORWARD, _HOOK_OUTPUT, _HOOK_POSTROUTING = 0, 2, 3, 4
_PRIORITY_RAW, _PRIORITY_DESTINATION_NAT, _PRIORITY_FILTER, _PRIORITY_SOURCE_NAT = -300, -100, 0, 100
_DROP, _ACCEPT, _JUMP = 0, 1, -3
_REGISTER_VERDICT, _REGISTER, _REGISTER_PORT = 0, 1, 2
_EQUAL, _NOT_EQUAL = 0, 1
_META_INPUT_NAME, _META_OUTPUT_NAME, _META_TRANSPORT_PROTOCOL = 6, 7, 16
_CT_STATE, _CT_ESTABLISHED_OR_RELATED, _CT_STATUS, _CT_DESTINATION_NAT = 0, 0x2 | 0x4, 2, 0x20
_NETWORK_HEADER = 1
_SOURCE_OFFSETS, _DESTINATION_OFFSETS = {4: 12, 16: 8}, {4: 16, 16: 24}  # by the length of an address
_TRANSPORT_HEADER, _DESTINATION_PORT_OFFSET = 2, 2
_FIB_RESULT_ADDRESS_TYPE, _FIB_DESTINATION_ADDRESS, _ADDRESS_TYPE_LOCAL = 3, 2, 2
_NAT_DESTINATION = 1
_LOOPBACK = ("127.0.0.0", 8)
_PUBLISHED = "published"
_DOMAIN_PORT = 53
_ANY_ADDRESSES = ("0.0.0.0", "::")  # noqa: S104 - no socket is bound to it here
_INTERFACE_NAME_BYTES = 16

_REMEDY = (
    "the kernel lacks nf_tables or a part of it: modprobe nf_tables nft_ct nft_masq nft_nat nft_fib_ipv4 nft_chain_nat; "
    "`--network host` and `--network none` work without"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeRules:
    """What `plan_table` is to know of a bridge. ``pool_address`` tells the family. ``linked``: pairs of addresses, of which the
    first may begin to talk to the second although the bridge is isolated."""

    bridge: str
    pool_address: str
    prefix_length: int
    published: tuple[Forwarding, ...] = ()
    internal: bool = False
    isolated: bool = True
    masquerade: bool = True
    linked: tuple[tuple[str, str], ...] = ()

    @property
    def family(self) -> int:
        """Of the table, as nf_tables numbers it."""
        return _family_of(self.pool_address)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseChain:
    """A chain hooked into the IPv4 path by anybody, as far as `probe_forwarding` cares."""

    table: str
    name: str
    hook: int
    drops_by_default: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarding:
    """One published port: what comes to ``host_address`` (0.0.0.0 or ``::``: any of this machine) and ``host_port`` goes to a
    container. Both addresses are of one IP version."""

    protocol: str  # tcp or udp
    host_address: str
    host_port: int
    container_address: str
    container_port: int


# Expressions


def _number(value: int) -> bytes:
    return struct.pack(">I", value & 0xFFFFFFFF)


def _expression(name: str, *attributes: bytes) -> bytes:
    return nested(_LIST_ELEMENT, text(_EXPRESSION_NAME, name), nested(_EXPRESSION_DATA, *attributes))


def _compare(operation: int, value: bytes) -> bytes:
    return _expression(
        "cmp", attribute(1, _number(_REGISTER)), attribute(2, _number(operation)), nested(3, attribute(_DATA_VALUE, value))
    )


def _masked(mask: bytes) -> bytes:
    return _expression(
        "bitwise",
        attribute(1, _number(_REGISTER)),
        attribute(2, _number(_REGISTER)),
        attribute(3, _number(len(mask))),
        nested(4, attribute(_DATA_VALUE, mask)),
        nested(5, attribute(_DATA_VALUE, bytes(len(mask)))),
    )


def _interface(key: int, operation: int, name: str) -> bytes:
    load = _expression("meta", attribute(1, _number(_REGISTER)), attribute(2, _number(key)))
    return load + _compare(operation, name.encode().ljust(_INTERFACE_NAME_BYTES, b"\0"))


def _input(name: str, operation: int = _EQUAL) -> bytes:
    return _interface(_META_INPUT_NAME, operation, name)


def _output(name: str, operation: int = _EQUAL) -> bytes:
    return _interface(_META_OUTPUT_NAME, operation, name)


def _payload(header: int, offset: int, length_bytes: int) -> bytes:
    return _expression(
        "payload",
        attribute(1, _number(_REGISTER)),
        attribute(2, _number(header)),
        attribute(3, _number(offset)),
        attribute(4, _number(length_bytes)),
    )


def _family_of(address: str) -> int:
    return _FAMILY_IPV6 if ":" in address else _FAMILY_IPV4


def _address(offsets: dict[int, int], operation: int, address: str, prefix_length: int) -> bytes:
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    bits = 8 * len(packed)
    mask = ((1 << bits) - (1 << (bits - prefix_length))).to_bytes(len(packed), "big")
    load = _payload(_NETWORK_HEADER, offsets[len(packed)], len(packed))
    return load + _masked(mask) + _compare(operation, packed)


def _source(operation: int, address: str, prefix_length: int) -> bytes:
    return _address(_SOURCE_OFFSETS, operation, address, prefix_length)


def _destination(operation: int, address: str, prefix_length: int) -> bytes:
    return _address(_DESTINATION_OFFSETS, operation, address, prefix_length)


def _tracked(key: int, bits: int) -> bytes:
    load = _expression("ct", attribute(1, _number(_REGISTER)), attribute(2, _number(key)))
    return load + _masked(struct.pack("=I", bits)) + _compare(_NOT_EQUAL, bytes(4))


def _answers() -> bytes:
    return _tracked(_CT_STATE, _CT_ESTABLISHED_OR_RELATED)


def _was_redirected() -> bytes:
    return _tracked(_CT_STATUS, _CT_DESTINATION_NAT)


def _to_this_machine() -> bytes:
    load = _expression(
        "fib",
        attribute(1, _number(_REGISTER)),
        attribute(2, _number(_FIB_RESULT_ADDRESS_TYPE)),
        attribute(3, _number(_FIB_DESTINATION_ADDRESS)),
    )
    return load + _compare(_EQUAL, struct.pack("=I", _ADDRESS_TYPE_LOCAL))


def _to_port(protocol: str, port: int) -> bytes:
    number = socket.IPPROTO_TCP if protocol == "tcp" else socket.IPPROTO_UDP
    load = _expression("meta", attribute(1, _number(_REGISTER)), attribute(2, _number(_META_TRANSPORT_PROTOCOL)))
    return (
        load
        + _compare(_EQUAL, bytes((number,)))
        + _payload(_TRANSPORT_HEADER, _DESTINATION_PORT_OFFSET, 2)
        + _compare(_EQUAL, struct.pack(">H", port))
    )


def _redirect(address: str, port: int) -> bytes:
    domain, family = (socket.AF_INET6, _FAMILY_IPV6) if ":" in address else (socket.AF_INET, _FAMILY_IPV4)

    def load(register: int, value: bytes) -> bytes:
        return _expression("immediate", attribute(1, _number(register)), nested(2, attribute(_DATA_VALUE, value)))

    return (
        load(_REGISTER, socket.inet_pton(domain, address))
        + load(_REGISTER_PORT, struct.pack(">H", port))
        + _expression(
            "nat",
            attribute(1, _number(_NAT_DESTINATION)),
            attribute(2, _number(family)),
            attribute(3, _number(_REGISTER)),
            attribute(5, _number(_REGISTER_PORT)),
        )
    )


def _verdict(code: int, chain: str = "") -> bytes:
    target = text(_VERDICT_CHAIN, chain) if chain else b""
    verdict = nested(_DATA_VERDICT, attribute(_VERDICT_CODE, _number(code)), target)
    return _expression("immediate", attribute(1, _number(_REGISTER_VERDICT)), nested(2, verdict))


# Requests


def _request(
    name: str, kind: int, flags: int, *attributes: bytes, tolerated: tuple[int, ...] = (), family: int = _FAMILY_IPV4
) -> Request:
    payload = _FAMILY_HEADER.pack(family, 0, 0) + b"".join(attributes)
    return Request(name=name, kind=_SUBSYSTEM << 8 | kind, flags=flags, payload=payload, tolerated=tolerated)


def _batch(*requests: Request) -> tuple[Request, ...]:
    """All or nothing: the kernel commits at the end of a batch, or leaves everything as it was."""
    header = _FAMILY_HEADER.pack(0, 0, _SUBSYSTEM)
    begin = Request(name="begin an nftables transaction", kind=_BATCH_BEGIN, flags=0, payload=header)
    end = Request(name="commit the nftables transaction", kind=_BATCH_END, flags=0, payload=header)
    return (begin, *requests, end)


class _Table:
    """One table's requests: its name and family are said once."""

    def __init__(self, name: str, family: int) -> None:
        self._name, self._family = name, family

    def make(self) -> Request:
        what = f"add the table {self._name} (NFT_MSG_NEWTABLE)"
        flags = NLM_F_ACK | NLM_F_CREATE
        return _request(what, _NEWTABLE, flags, text(_TABLE_NAME, self._name), family=self._family)

    def remove(self, *, tolerated: tuple[int, ...] = ()) -> Request:
        what = f"delete the table {self._name} (NFT_MSG_DELTABLE)"
        return _request(what, _DELTABLE, NLM_F_ACK, text(_TABLE_NAME, self._name), tolerated=tolerated, family=self._family)

    def base_chain(self, name: str, kind: str, hook: int, priority: int) -> Request:
        return self._chain(
            name,
            nested(_CHAIN_HOOK, attribute(_HOOK_NUMBER, _number(hook)), attribute(_HOOK_PRIORITY, _number(priority))),
            attribute(_CHAIN_POLICY, _number(_ACCEPT)),
            text(_CHAIN_TYPE, kind),
        )

    def chain(self, name: str) -> Request:
        return self._chain(name)

    def _chain(self, name: str, *more: bytes) -> Request:
        return _request(
            f"add the chain {name} to the table {self._name} (NFT_MSG_NEWCHAIN)",
            _NEWCHAIN,
            NLM_F_ACK | NLM_F_CREATE,
            text(_CHAIN_TABLE, self._name),
            text(_CHAIN_NAME, name),
            *more,
            family=self._family,
        )

    def rule(self, chain: str, what: str, *expressions: bytes) -> Request:
        return _request(
            f"add the rule '{what}' to the table {self._name} (NFT_MSG_NEWRULE)",
            _NEWRULE,
            NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND,
            text(_RULE_TABLE, self._name),
            text(_RULE_CHAIN, chain),
            nested(_RULE_EXPRESSIONS, *expressions),
            family=self._family,
        )

    def flush(self, chain: str) -> Request:
        return _request(
            f"empty the chain {chain} of the table {self._name} (NFT_MSG_DELRULE)",
            _DELRULE,
            NLM_F_ACK,
            text(_RULE_TABLE, self._name),
            text(_RULE_CHAIN, chain),
            family=self._family,
        )


def _published_rules(table: _Table, published: Sequence[Forwarding]) -> list[Request]:
    rules = []
    for port in published:
        bits = 128 if ":" in port.host_address else 32
        where = () if port.host_address in _ANY_ADDRESSES else (_destination(_EQUAL, port.host_address, bits),)
        what = f"{port.host_address}:{port.host_port}/{port.protocol} to {port.container_address}:{port.container_port}"
        target = _redirect(port.container_address, port.container_port)
        rules.append(table.rule(_PUBLISHED, what, *where, _to_port(port.protocol, port.host_port), target))
    return rules


def plan_published(table: str, published: Sequence[Forwarding], *, ipv6: bool = False) -> tuple[Request, ...]:
    """The transaction after which exactly these ports are published, of one IP version."""
    own = _Table(table, _FAMILY_IPV6 if ipv6 else _FAMILY_IPV4)
    return _batch(own.flush(_PUBLISHED), *_published_rules(own, published))


def plan_table(table: str, rules: BridgeRules, *, exists: bool) -> tuple[Request, ...]:
    """The transaction after which the table is exactly as this module's head shows it, whatever it was before."""
    own = _Table(table, rules.family)
    ways_out = () if rules.internal else (*_plan_source_nat(own, rules), *_plan_published_chains(own, rules))
    return _batch(
        *((own.remove(),) if exists else ()),
        own.make(),
        own.base_chain("forward", "filter", _HOOK_FORWARD, _PRIORITY_FILTER),
        *_plan_forward(own, rules),
        *ways_out,
    )


def _plan_forward(own: _Table, rules: BridgeRules) -> Iterator[Request]:
    bridge = rules.bridge
    chain = "forward"
    if not rules.isolated:
        yield own.rule(chain, "within the network accept", _input(bridge), _output(bridge), _verdict(_ACCEPT))
    if rules.internal:
        yield own.rule(chain, "nothing leaves drop", _input(bridge), _verdict(_DROP))
        yield own.rule(chain, "unasked drop", _output(bridge), _verdict(_DROP))
        return
    foreign = _source(_NOT_EQUAL, rules.pool_address, rules.prefix_length)
    yield own.rule(chain, "foreign source address drop", _input(bridge), foreign, _verdict(_DROP))
    yield own.rule(chain, "answers accept", _output(bridge), _answers(), _verdict(_ACCEPT))
    yield own.rule(chain, "published ports accept", _output(bridge), _was_redirected(), _verdict(_ACCEPT))
    for asking, answering in rules.linked:
        pair = (_source(_EQUAL, asking, 32), _destination(_EQUAL, answering, 32))
        yield own.rule(chain, "link accept", _input(bridge), _output(bridge), *pair, _verdict(_ACCEPT))
    yield own.rule(chain, "unasked drop", _output(bridge), _verdict(_DROP))


def _plan_source_nat(own: _Table, rules: BridgeRules) -> Iterator[Request]:
    yield own.base_chain("postrouting", "nat", _HOOK_POSTROUTING, _PRIORITY_SOURCE_NAT)
    if rules.masquerade:
        inside = _source(_EQUAL, rules.pool_address, rules.prefix_length)
        yield own.rule("postrouting", "masquerade", inside, _output(rules.bridge, _NOT_EQUAL), _expression("masq"))


def _plan_published_chains(own: _Table, rules: BridgeRules) -> Iterator[Request]:
    """What this machine itself sends to its IPv6 addresses is not translated: a process carries it
    (`contain.container.network.relay`)."""
    bridge = rules.bridge
    if rules.family == _FAMILY_IPV6:
        yield own.chain(_PUBLISHED)
        yield from _published_rules(own, rules.published)
        yield own.base_chain("prerouting", "nat", _HOOK_PREROUTING, _PRIORITY_DESTINATION_NAT)
        outside = (_input(bridge, _NOT_EQUAL), _input("lo", _NOT_EQUAL))
        yield own.rule("prerouting", "published ports", *outside, _to_this_machine(), _verdict(_JUMP, _PUBLISHED))
        return
    from_loopback = _source(_EQUAL, *_LOOPBACK)
    yield own.rule("postrouting", "masquerade loopback", from_loopback, _output(bridge), _expression("masq"))
    yield own.base_chain("loopback", "filter", _HOOK_PREROUTING, _PRIORITY_RAW)
    yield own.rule("loopback", "loopback drop", _input(bridge), _destination(_EQUAL, *_LOOPBACK), _verdict(_DROP))
    yield own.chain(_PUBLISHED)
    yield from _published_rules(own, rules.published)
    yield own.base_chain("prerouting", "nat", _HOOK_PREROUTING, _PRIORITY_DESTINATION_NAT)
    yield own.rule(
        "prerouting",
        "published ports",
        _input(bridge, _NOT_EQUAL),
        _to_this_machine(),
        _destination(_NOT_EQUAL, *_LOOPBACK),
        _verdict(_JUMP, _PUBLISHED),
    )
    yield own.base_chain("output", "nat", _HOOK_OUTPUT, _PRIORITY_DESTINATION_NAT)
    yield own.rule("output", "published ports", _to_this_machine(), _verdict(_JUMP, _PUBLISHED))


def plan_resolver_redirect(table: str, address: str, ports: Mapping[str, int], *, exists: bool) -> tuple[Request, ...]:
    """The transaction after which the namespace's own packets to port 53 of ``address`` go to these ports of it, by protocol."""
    own = _Table(table, _FAMILY_IPV4)
    rules = [
        own.rule(
            "output",
            f"{protocol} resolver",
            _destination(_EQUAL, address, 32),
            _to_port(protocol, _DOMAIN_PORT),
            _redirect(address, port),
        )
        for protocol, port in ports.items()
    ]
    return _batch(
        *((own.remove(),) if exists else ()),
        own.make(),
        own.base_chain("output", "nat", _HOOK_OUTPUT, _PRIORITY_DESTINATION_NAT),
        *rules,
    )


# Doers


def replace_published(kernel: NetlinkSocket, table: str, published: Sequence[Forwarding], *, ipv6: bool = False) -> None:
    """Publish exactly these ports of one IP version, in one transaction. Raises `HostError`."""
    _transact(kernel, plan_published(table, published, ipv6=ipv6))


def replace_table(kernel: NetlinkSocket, table: str, rules: BridgeRules) -> None:
    """Make the table or replace it, in one transaction. Raises `HostError` when the kernel lacks nf_tables or a part of it.

    All functions here take a socket of `NETLINK_NETFILTER`. Closing one after something was deleted waits for the kernel to
    have freed it, 10 ms and more: so delete early, close late, and delete nothing that is not there.
    """
    exists = table_exists(kernel, table, ipv6=rules.family == _FAMILY_IPV6)
    _transact(kernel, plan_table(table, rules, exists=exists))


def redirect_resolver(kernel: NetlinkSocket, table: str, address: str, ports: Mapping[str, int]) -> None:
    """Let the socket's network namespace find its resolver at port 53 of ``address``. Raises `HostError`."""
    _transact(kernel, plan_resolver_redirect(table, address, ports, exists=table_exists(kernel, table)))


def table_exists(kernel: NetlinkSocket, table: str, *, ipv6: bool = False) -> bool:
    """Whether there is a table of this name in the family ``ip`` or ``ip6``. Raises `HostError`."""
    name = f"look up the table {table} (NFT_MSG_GETTABLE)"
    family = _FAMILY_IPV6 if ipv6 else _FAMILY_IPV4
    question = _request(name, _GETTABLE, NLM_F_ACK, text(_TABLE_NAME, table), tolerated=(ENOENT,), family=family)
    return bool(_transact(kernel, (question,))[0])


def delete_table(kernel: NetlinkSocket, table: str, *, ipv6: bool = False) -> None:
    """Remove the table with everything in it; nothing to do if there is none. Raises `HostError`."""
    own = _Table(table, _FAMILY_IPV6 if ipv6 else _FAMILY_IPV4)
    _transact(kernel, _batch(own.remove(tolerated=(ENOENT,))))


def _docker_mark(bridge: str) -> bytes:
    comment = f"contain {bridge}".encode() + b"\0"
    return bytes((_COMMENT, len(comment))) + comment


def _find_docker_rules(kernel: NetlinkSocket, bridge: str, family: int) -> list[bytes] | None:
    """The handles of a bridge's rules in Docker's chain for others; None where there is no such chain."""
    place = (text(_CHAIN_TABLE, _DOCKER_TABLE), text(_CHAIN_NAME, _DOCKER_CHAIN))
    question = _request(
        "look up Docker's chain (NFT_MSG_GETCHAIN)", _GETCHAIN, NLM_F_ACK, *place, tolerated=(ENOENT,), family=family
    )
    if not _transact(kernel, (question,))[0]:
        return None
    named = (text(_RULE_TABLE, _DOCKER_TABLE), text(_RULE_CHAIN, _DOCKER_CHAIN))
    dump = _request("list Docker's chain (NFT_MSG_GETRULE)", _GETRULE, NLM_F_DUMP, *named, family=family)
    found = []
    for payload in _transact(kernel, (dump,))[0]:
        attributes = parse_attributes(payload[_FAMILY_HEADER.size :])
        chain = attributes.get(_RULE_CHAIN, b"").rstrip(b"\0").decode(errors="replace")
        if chain == _DOCKER_CHAIN and attributes.get(_RULE_USER_DATA) == _docker_mark(bridge):
            found.append(attributes[_RULE_HANDLE])
    return found


def has_docker_chain(kernel: NetlinkSocket) -> bool:
    """Whether there is a Docker that keeps a chain for others' rules, or was."""
    return _find_docker_rules(kernel, "", _FAMILY_IPV4) is not None


def pass_docker(kernel: NetlinkSocket, bridge: str) -> None:
    """Where a Docker drops what it does not know, let a bridge's packets pass it, as far as our own table lets them. Nothing where
    there is no Docker, or where it is done already. Raises `HostError`."""
    for family in (_FAMILY_IPV4, _FAMILY_IPV6):
        found = _find_docker_rules(kernel, bridge, family)
        if found is None or len(found) == 2:
            continue
        rules = [
            _request(
                f"let {bridge} pass Docker's rules (NFT_MSG_NEWRULE)",
                _NEWRULE,
                NLM_F_ACK | NLM_F_CREATE,  # not appended: before whatever stands there
                text(_RULE_TABLE, _DOCKER_TABLE),
                text(_RULE_CHAIN, _DOCKER_CHAIN),
                nested(_RULE_EXPRESSIONS, match, _expression("counter"), _verdict(_ACCEPT)),
                attribute(_RULE_USER_DATA, _docker_mark(bridge)),
                family=family,
            )
            for match in (_input(bridge), _output(bridge))
        ]
        _transact(kernel, _batch(*_plan_docker_removal(bridge, found, family), *rules))


def unpass_docker(kernel: NetlinkSocket, bridge: str) -> None:
    """Take back what `pass_docker` did. Raises `HostError`."""
    for family in (_FAMILY_IPV4, _FAMILY_IPV6):
        found = _find_docker_rules(kernel, bridge, family)
        if found:
            _transact(kernel, _batch(*_plan_docker_removal(bridge, found, family)))


def _plan_docker_removal(bridge: str, handles: Sequence[bytes], family: int) -> list[Request]:
    return [
        _request(
            f"let {bridge} not pass Docker's rules any more (NFT_MSG_DELRULE)",
            _DELRULE,
            NLM_F_ACK,
            text(_RULE_TABLE, _DOCKER_TABLE),
            text(_RULE_CHAIN, _DOCKER_CHAIN),
            attribute(_RULE_HANDLE, handle),
            tolerated=(ENOENT,),
            family=family,
        )
        for handle in handles
    ]


def list_base_chains(kernel: NetlinkSocket) -> tuple[BaseChain, ...]:
    """Everybody's IPv4 chains that are hooked somewhere, also those that iptables-nft made. Raises `HostError`."""
    found: list[BaseChain] = []
    for payload in _transact(kernel, (_request("list chains (NFT_MSG_GETCHAIN)", _GETCHAIN, NLM_F_DUMP),))[0]:
        attributes = parse_attributes(payload[_FAMILY_HEADER.size :])
        if _CHAIN_HOOK not in attributes:
            continue
        hook = parse_attributes(attributes[_CHAIN_HOOK])
        found.append(
            BaseChain(
                table=attributes.get(_CHAIN_TABLE, b"").rstrip(b"\0").decode(errors="replace"),
                name=attributes.get(_CHAIN_NAME, b"").rstrip(b"\0").decode(errors="replace"),
                hook=int.from_bytes(hook.get(_HOOK_NUMBER, b""), "big"),
                drops_by_default=int.from_bytes(attributes.get(_CHAIN_POLICY, b"\1"), "big") == _DROP,
            )
        )
    return tuple(found)


def _transact(kernel: NetlinkSocket, requests: Sequence[Request]) -> list[list[bytes]]:
    try:
        return kernel.transact(requests)
    except HostError as error:
        error.remedy = error.remedy or _REMEDY
        raise
