"""Messages as bytes: what another implementation of netlink reads from them is what was meant."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from pyroute2.netlink.nfnetlink.nftsocket import nft_chain_msg, nft_rule_msg, nft_table_msg  # type: ignore[import-untyped]
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg  # type: ignore[import-untyped]
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # type: ignore[import-untyped]
from pyroute2.netlink.rtnl.ndmsg import ndmsg  # type: ignore[import-untyped]
from pyroute2.netlink.rtnl.rtmsg import rtmsg  # type: ignore[import-untyped]

from contain.linux import nftables, rtnetlink
from contain.linux.rtnetlink import Request, attribute, iterate_attributes, nested, parse_attributes, text
from contain.values import replace

MAC = b"\x02\x63\xac\x1e\x00\x05"


def decode(kind: type[Any], request: Request) -> Any:
    payload = request.payload
    message = kind(struct.pack("=IHHII", len(payload) + 16, request.kind, request.flags, 1, 0) + payload)
    message.decode()
    return message


def test_an_attribute_is_padded_to_four_bytes_and_its_length_is_not() -> None:
    assert attribute(3, b"abcde") == struct.pack("=HH", 9, 3) + b"abcde\0\0\0"


def test_attributes_come_back_as_they_were_written() -> None:
    data = attribute(1, b"") + attribute(2, b"xyz") + nested(18, text(1, "veth"), attribute(2, b"12345678"))
    found = parse_attributes(data)
    assert found[1] == b""
    assert found[2] == b"xyz"
    assert parse_attributes(found[18]) == {1: b"veth\0", 2: b"12345678"}
    assert [kind for kind, _ in iterate_attributes(attribute(1, b"a") + attribute(1, b"b"))] == [1, 1]


@pytest.mark.parametrize("data", [b"", b"\x08", b"\x03\x00\x01\x00", b"\x09\x00\x01\x00abcd", b"\x00\x00\x00\x00" * 2])
def test_a_cut_or_senseless_attribute_ends_the_list(data: bytes) -> None:
    assert parse_attributes(data) == {}
    assert parse_attributes(attribute(7, b"kept") + data) == {7: b"kept"}


def test_a_veth_is_made_on_the_bridge_with_its_peer_in_the_other_namespace() -> None:
    request = rtnetlink.create_veth(
        "ct0", bridge_index=7, mtu_bytes=1400, peer_name="eth0", peer_hardware_address=MAC, peer_namespace=9
    )
    link = decode(ifinfmsg, request)
    assert link.get_attr("IFLA_IFNAME") == "ct0"
    assert link.get_attr("IFLA_MTU") == 1400
    assert link.get_attr("IFLA_MASTER") == 7
    assert link["flags"] & rtnetlink.IFF_UP == 0  # not before it is isolated
    information = link.get_attr("IFLA_LINKINFO")
    assert information.get_attr("IFLA_INFO_KIND") == "veth"
    peer = information.get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    assert peer.get_attr("IFLA_IFNAME") == "eth0"
    assert peer.get_attr("IFLA_MTU") == 1400
    assert peer.get_attr("IFLA_ADDRESS") == "02:63:ac:1e:00:05"
    assert peer.get_attr("IFLA_NET_NS_FD") == 9


def test_a_bridge_has_a_fixed_hardware_address() -> None:
    link = decode(ifinfmsg, rtnetlink.create_bridge("contain0", hardware_address=MAC, mtu_bytes=1380))
    assert link.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_KIND") == "bridge"
    assert link.get_attr("IFLA_ADDRESS") == "02:63:ac:1e:00:05"
    assert link.get_attr("IFLA_MTU") == 1380


def test_an_isolated_port_learns_nothing_and_floods_nothing() -> None:
    link = decode(ifinfmsg, rtnetlink.set_port("ct0", alias="contain0 container a", isolated=True))
    information = link.get_attr("IFLA_LINKINFO")
    assert information.get_attr("IFLA_INFO_SLAVE_KIND") == "bridge"
    port = information.get_attr("IFLA_INFO_SLAVE_DATA")
    assert [port.get_attr(f"IFLA_BRPORT_{name}") for name in ("ISOLATED", "LEARNING", "UNICAST_FLOOD")] == [1, 0, 0]


def test_an_address_has_its_subnets_broadcast_address() -> None:
    address = decode(ifaddrmsg, rtnetlink.add_address(3, address="172.30.5.9", prefix_length=16))
    assert (address["index"], address["prefixlen"]) == (3, 16)
    assert address.get_attr("IFA_LOCAL") == "172.30.5.9"
    assert address.get_attr("IFA_BROADCAST") == "172.30.255.255"


def test_a_default_route_names_gateway_and_interface() -> None:
    route = decode(rtmsg, rtnetlink.add_default_route(3, gateway="172.30.0.1"))
    assert (route["dst_len"], route["table"], route["type"]) == (0, 254, 1)
    assert route.get_attr("RTA_GATEWAY") == "172.30.0.1"
    assert route.get_attr("RTA_OIF") == 3


def test_a_pinned_neighbour_is_permanent_and_a_pinned_port_static() -> None:
    neighbour = decode(ndmsg, rtnetlink.pin_neighbour(7, address="172.30.0.5", hardware_address=MAC))
    assert (neighbour["state"], neighbour["ifindex"]) == (0x80, 7)
    assert neighbour.get_attr("NDA_DST") == "172.30.0.5"
    assert neighbour.get_attr("NDA_LLADDR") == "02:63:ac:1e:00:05"
    port = decode(ndmsg, rtnetlink.pin_port(8, hardware_address=MAC))
    assert (port["state"], port["flags"], port["ifindex"], port["family"]) == (0x40, 0x04, 8, 7)


def test_the_hops_of_a_multipath_route_are_all_found() -> None:
    hops = struct.pack("=HBBI", 16, 0, 0, 2) + attribute(5, b"\x0a\x00\x00\x01") + struct.pack("=HBBI", 8, 0, 0, 4)
    head = struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 4, 0, 1, 0)
    route = rtnetlink.parse_route(head + attribute(9, hops))
    assert route.interface_indices == (2, 4)
    assert (route.destination, route.prefix_length) == (0, 0)


def test_a_link_is_read_from_the_kernels_bytes() -> None:
    payload = (
        struct.pack("=BxHiII", 0, 1, 5, 0x1043, 0)
        + text(3, "contain0")
        + attribute(4, struct.pack("=I", 1400))
        + nested(18, text(1, "bridge"))
    )
    link = rtnetlink.parse_link(payload)
    assert (link.index, link.name, link.kind, link.mtu_bytes, link.is_up) == (5, "contain0", "bridge", 1400, True)
    assert link.master_index == 0


RULES = nftables.BridgeRules(bridge="contain0", pool_address="172.30.0.0", prefix_length=16)


@pytest.mark.parametrize("exists", [False, True])
def test_the_table_is_one_transaction_that_starts_from_nothing(exists: bool) -> None:
    requests = nftables.plan_table("contain", RULES, exists=exists)
    kinds = [request.kind for request in requests]
    new, delete = 10 << 8, 10 << 8 | 2
    assert kinds[0] == 0x10
    assert kinds[-1] == 0x11
    assert [kind for kind in kinds if kind in (new, delete)] == ([delete, new] if exists else [new])
    assert kinds[1] == (delete if exists else new)
    assert all(request.flags & rtnetlink.NLM_F_ACK for request in requests[1:-1])
    assert decode(nft_table_msg, requests[1]).get_attr("NFTA_TABLE_NAME") == "contain"


def test_the_rules_say_what_the_module_says() -> None:
    requests = nftables.plan_table("contain", RULES, exists=False)
    chains = [decode(nft_chain_msg, request) for request in requests if request.kind == 10 << 8 | 3]
    assert [(chain.get_attr("NFTA_CHAIN_NAME"), chain.get_attr("NFTA_CHAIN_TYPE")) for chain in chains] == [
        ("forward", "filter"),
        ("postrouting", "nat"),
        ("loopback", "filter"),
        ("published", None),
        ("prerouting", "nat"),
        ("output", "nat"),
    ]
    rules = [decode(nft_rule_msg, request) for request in requests if request.kind == 10 << 8 | 6]
    shapes = [
        [expression.get_attr("NFTA_EXPR_NAME") for expression in rule.get_attr("NFTA_RULE_EXPRESSIONS")] for rule in rules
    ]
    assert shapes == [
        ["meta", "cmp", "payload", "bitwise", "cmp", "immediate"],
        ["meta", "cmp", "ct", "bitwise", "cmp", "immediate"],
        ["meta", "cmp", "ct", "bitwise", "cmp", "immediate"],
        ["meta", "cmp", "immediate"],
        ["payload", "bitwise", "cmp", "meta", "cmp", "masq"],
        ["payload", "bitwise", "cmp", "meta", "cmp", "masq"],
        ["meta", "cmp", "payload", "bitwise", "cmp", "immediate"],
        ["meta", "cmp", "fib", "cmp", "payload", "bitwise", "cmp", "immediate"],
        ["fib", "cmp", "immediate"],
    ]


def shapes_of(rules: nftables.BridgeRules) -> dict[str, list[list[str]]]:
    """The names of the expressions of each rule, by chain."""
    found: dict[str, list[list[str]]] = {}
    for request in nftables.plan_table("contain", rules, exists=False):
        if request.kind == 10 << 8 | 3:
            found[decode(nft_chain_msg, request).get_attr("NFTA_CHAIN_NAME")] = []
        elif request.kind == 10 << 8 | 6:
            rule = decode(nft_rule_msg, request)
            names = [expression.get_attr("NFTA_EXPR_NAME") for expression in rule.get_attr("NFTA_RULE_EXPRESSIONS")]
            found[rule.get_attr("NFTA_RULE_CHAIN")].append(names)
    return found


def names_of(rules: nftables.BridgeRules) -> list[str]:
    """What the rules of the chain ``forward`` are called, in order."""
    requests = nftables.plan_table("contain", rules, exists=False)
    return [request.name.split("'")[1] for request in requests if request.kind == 10 << 8 | 6 and b"forward" in request.payload]


def test_a_network_whose_containers_reach_each_other_accepts_that_first() -> None:
    assert names_of(replace(RULES, isolated=False)) == [
        "within the network accept",
        "foreign source address drop",
        "answers accept",
        "published ports accept",
        "unasked drop",
    ]


def test_an_internal_network_has_no_way_in_or_out_and_no_translation() -> None:
    rules = replace(RULES, internal=True, isolated=False)
    assert names_of(rules) == ["within the network accept", "nothing leaves drop", "unasked drop"]
    assert list(shapes_of(rules)) == ["forward"]


def test_a_link_opens_one_direction_between_two_addresses_before_the_rest_is_dropped() -> None:
    rules = replace(RULES, linked=(("172.30.0.2", "172.30.0.3"),))
    assert names_of(rules)[-2:] == ["link accept", "unasked drop"]
    shape = shapes_of(rules)["forward"][-2]
    assert shape == ["meta", "cmp", "meta", "cmp", *["payload", "bitwise", "cmp"] * 2, "immediate"]


def test_without_masquerade_only_this_machines_loopback_is_translated() -> None:
    assert len(shapes_of(RULES)["postrouting"]) == 2
    assert len(shapes_of(replace(RULES, masquerade=False))["postrouting"]) == 1


def test_the_table_of_ipv6_filters_masquerades_and_publishes_what_comes_from_outside() -> None:
    port = nftables.Forwarding(
        protocol="tcp", host_address="2001:db8::1", host_port=8080, container_address="fd00:1::2", container_port=80
    )
    rules = replace(RULES, pool_address="fd00:1::", prefix_length=64, isolated=False, published=(port,))
    requests = nftables.plan_table("contain", rules, exists=True)
    assert {request.payload[0] for request in requests[1:-1]} == {10}  # NFPROTO_IPV6
    assert list(shapes_of(rules)) == ["forward", "postrouting", "published", "prerouting"]
    assert shapes_of(rules)["prerouting"] == [["meta", "cmp", "meta", "cmp", "fib", "cmp", "immediate"]]
    assert shapes_of(rules)["published"] == [
        ["payload", "bitwise", "cmp", "meta", "cmp", "payload", "cmp", "immediate", "immediate", "nat"]
    ]
    foreign = next(request for request in requests if "foreign source" in request.name)
    assert bytes.fromhex("fd000001") + bytes(12) in foreign.payload
    assert b"\xff" * 8 + bytes(8) in foreign.payload


def test_a_resolver_is_reached_at_port_53_whatever_port_it_has() -> None:
    requests = nftables.plan_resolver_redirect("contain-resolver", "127.0.0.11", {"udp": 4000, "tcp": 4001}, exists=False)
    rules = [decode(nft_rule_msg, request) for request in requests if request.kind == 10 << 8 | 6]
    names = [expression.get_attr("NFTA_EXPR_NAME") for expression in rules[0].get_attr("NFTA_RULE_EXPRESSIONS")]
    assert names == ["payload", "bitwise", "cmp", "meta", "cmp", "payload", "cmp", "immediate", "immediate", "nat"]
    assert len(rules) == 2
    assert (4000).to_bytes(2, "big") in requests[3].payload
