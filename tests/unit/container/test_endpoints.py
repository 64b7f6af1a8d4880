"""What ``--network`` and its neighbours ask for, and what contradicts them, in Docker's words."""

from __future__ import annotations

import pytest

from contain.container.network.endpoints import Asked, check_hardware_address, resolve_networks
from contain.container.network.etc_files import render_resolver
from contain.container.network.links import Linked, link_hosts, link_variables, parse_link
from contain.errors import NotSupported, UsageError
from contain.spec import Endpoint, Network


def test_without_options_it_is_the_default_network() -> None:
    assert resolve_networks(Asked()) == (Network.BRIDGE, "", (Endpoint(network="bridge"),))
    assert resolve_networks(Asked(networks=("default",))) == (Network.BRIDGE, "", (Endpoint(network="bridge"),))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("none", (Network.NONE, "", ())), ("host", (Network.HOST, "", ())), ("container:web", (Network.CONTAINER, "web", ()))],
)
def test_the_other_kinds_have_no_places(text: str, expected: object) -> None:
    assert resolve_networks(Asked(networks=(text,))) == expected


def test_options_beside_it_belong_to_the_first_network() -> None:
    _, _, endpoints = resolve_networks(
        Asked(
            networks=("front", "name=back,alias=store,alias=db,ip=10.0.0.9,ip6=FD00::9,mac-address=02-42-AC-11-00-02"),
            aliases=("www",),
            address="10.1.0.5",
            links=(("web", "w"),),
        )
    )
    assert endpoints == (
        Endpoint(network="front", aliases=("www",), address="10.1.0.5", links=(("web", "w"),)),
        Endpoint(
            network="back",
            aliases=("store", "db"),
            address="10.0.0.9",
            address6="fd00::9",
            hardware_address="02:42:ac:11:00:02",
        ),
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked(networks=("host", "front")), "cannot attach both host and other networks"),
        (Asked(networks=("front", "front")), "specified multiple times"),
        (Asked(address="10.0.0.1"), "supported on user defined networks only"),
        (Asked(aliases=("x",)), "only supported for user-defined networks"),
        (Asked(networks=("front",), address="fd00::1"), "invalid IPv4 address"),
        (Asked(networks=("front",), address6="10.0.0.1"), "invalid IPv6 address"),
        (Asked(networks=("front",), aliases=("a b",)), "invalid network alias"),
        (Asked(networks=("name=front,colour=red",)), "invalid field key 'colour'"),
        (Asked(networks=("alias=x",)), "invalid network"),
        (Asked(networks=("container:",)), "invalid container format"),
        (Asked(networks=("container:web",), publishes=True), "port publishing and the container type network mode"),
        (Asked(networks=("container:web",), exposes=True), "port exposing and the container type network mode"),
        (Asked(networks=("container:web",), hostname=True), "hostname and the network mode"),
        (Asked(networks=("container:web",), name_servers=True), "dns and the network mode"),
        (Asked(networks=("container:web",), extra_hosts=True), "custom host-to-IP mapping and the network mode"),
        (Asked(networks=("container:web",), links=(("a", "b"),)), "container type network can't be used with links"),
        (Asked(networks=("host",), links=(("a", "b"),)), "host type networking can't be used with links"),
        (Asked(networks=("host",), hardware_address="02:42:ac:11:00:02"), "mac-address and the network mode"),
        (Asked(networks=("none",), publishes=True), "port publishing and the network mode none"),
        (Asked(networks=("none",), aliases=("x",)), "need a named network"),
        (Asked(networks=("",)), "--network needs a value"),
    ],
)
def test_contradictions_are_refused_in_dockers_words(asked: Asked, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_networks(asked)
    assert message in caught.value.message


def test_what_only_docker_has_is_refused_by_name() -> None:
    with pytest.raises(NotSupported, match="link-local-ip"):
        resolve_networks(Asked(networks=("name=front,link-local-ip=169.254.1.1",)))


@pytest.mark.parametrize("text", ["", "02:42", "01:00:5e:00:00:01", "00:00:00:00:00:00", "02:42:ac:11:00:0g"])
def test_what_no_interface_can_have_is_no_hardware_address(text: str) -> None:
    with pytest.raises(UsageError, match="is not a valid mac address"):
        check_hardware_address(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("web", ("web", "web")), ("web:www", ("web", "www")), ("/web:/a/www", ("web", "www"))]
)
def test_links_are_read_as_docker_reads_them(text: str, expected: tuple[str, str]) -> None:
    assert parse_link(text) == expected


@pytest.mark.parametrize("text", ["", ":x", "web:", "a:b:c"])
def test_what_is_no_link_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="bad format for links"):
        parse_link(text)


def test_a_link_tells_of_ports_name_and_variables() -> None:
    linked = Linked(
        alias="my-db",
        container_id="a" * 64,
        name="store",
        hostname="box",
        address="172.30.0.2",
        exposed=("5432/tcp", "53/udp", "80/tcp"),
        environment=(("PATH", "/bin"), ("MODE", "x")),
    )
    variables = dict(link_variables("web", linked))
    assert variables["MY_DB_PORT"] == "tcp://172.30.0.2:80"
    assert variables["MY_DB_PORT_5432_TCP"] == "tcp://172.30.0.2:5432"
    assert variables["MY_DB_PORT_53_UDP_ADDR"] == "172.30.0.2"
    assert variables["MY_DB_PORT_53_UDP_PROTO"] == "udp"
    assert variables["MY_DB_NAME"] == "/web/my-db"
    assert variables["MY_DB_ENV_MODE"] == "x"
    assert "MY_DB_ENV_PATH" not in variables
    assert link_hosts([linked]) == (("my-db box store", "172.30.0.2"),)


def test_on_a_named_network_the_resolver_of_ours_is_asked_and_names_without_dots_first() -> None:
    host = "search corp\noptions ndots:3 timeout:1\nnameserver 192.0.2.53\n"
    text = render_resolver(host, ("127.0.0.11",), named=True)
    assert text == "search corp\noptions timeout:1 ndots:0\nnameserver 127.0.0.11\n"
    text = render_resolver(host, ("127.0.0.11",), search=["."], options=["ndots:2"], named=True)
    assert text == "options ndots:2\nnameserver 127.0.0.11\n"
    assert render_resolver(host, (), search=["a", "b"]) == "search a b\noptions ndots:3 timeout:1\nnameserver 192.0.2.53\n"
