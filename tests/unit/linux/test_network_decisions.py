"""What the bridge network decides without the kernel: names, MTU, the resolver's file."""

from __future__ import annotations

from pathlib import Path

from contain.linux import bridges, network, resolver
from contain.linux.rtnetlink import Link, Route


def link(index: int, mtu_bytes: int) -> Link:
    return Link(index=index, name=f"n{index}", kind="", mtu_bytes=mtu_bytes, is_up=True, master_index=0)


def default_route(*indices: int, kind: int = 1) -> Route:
    return Route(destination=0, prefix_length=0, kind=kind, interface_indices=indices)


def test_the_mtu_is_the_smallest_of_the_links_with_a_default_route() -> None:
    links = [link(1, 65536), link(2, 1400), link(3, 1500), link(4, 576)]
    assert bridges.uplink_mtu_bytes([default_route(2, 3)], links) == 1400
    assert bridges.uplink_mtu_bytes([default_route(3), default_route(4, kind=7)], links) == 1500  # 7: unreachable
    assert bridges.uplink_mtu_bytes([], links) == 1500


def test_run_directories_have_names_of_their_own_that_fit() -> None:
    default, other = network._names(Path(bridges.DEFAULT_RUN_HOME)), network._names(Path("/srv/other/run"))
    assert (default.bridge, default.table) == ("contain0", "contain")
    assert default != other
    interfaces = [bridges.host_interface("f" * 64, bridge=names.bridge) for names in (default, other)]
    assert len(set(interfaces)) == 2
    assert all(len(name) <= 15 for name in (default.bridge, other.bridge, *interfaces))


def test_a_hardware_address_is_local_and_unicast() -> None:
    assert bridges.hardware_address(0xAC1E0005) == bytes.fromhex("0263ac1e0005")
    assert bridges.hardware_address(1)[0] & 3 == 2


def test_a_routable_nameserver_is_taken_over_with_the_options() -> None:
    text = "# made by hand\nsearch example.org corp\nnameserver 10.255.255.53\noptions ndots:2 timeout:1\n"
    planned = resolver.plan_resolver(text, "")
    assert planned.text == "search example.org corp\noptions ndots:2 timeout:1\nnameserver 10.255.255.53\n"
    assert planned.warnings == ()


def test_behind_a_stub_on_loopback_the_real_servers_are_taken() -> None:
    planned = resolver.plan_resolver("nameserver 127.0.0.53\n", "nameserver 192.0.2.53\nsearch lan\n")
    assert planned.text == "search lan\nnameserver 192.0.2.53\n"
    assert planned.warnings == ()


def test_without_a_reachable_nameserver_a_warning_names_those_that_are_not() -> None:
    planned = resolver.plan_resolver("nameserver 127.0.0.1\nnameserver fd00::53%eth0\n", "nameserver ::1\n")
    assert "nameserver" not in planned.text
    assert len(planned.warnings) == 1
    assert "127.0.0.1, fd00::53%eth0, ::1 cannot be reached" in planned.warnings[0]


def test_no_public_nameserver_is_made_up() -> None:
    assert resolver.plan_resolver("", "").text == ""
    assert resolver.plan_resolver("", "").warnings != ()
