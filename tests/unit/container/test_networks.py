"""What a new network is: subnets, gateways, options; decided from values, and kept on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from contain.cli.filters import parse_filters
from contain.cli.networks import CHOICES, SeenNetwork, network_document, network_row, select_networks
from contain.container.network.networks import NamedNetwork, NetworkRequest, Networks, check_network_name, plan_network
from contain.container.network.predefined import PREDEFINED, PREDEFINED_IDS, network_digest
from contain.errors import Conflict, NotFound, NotSupported, UsageError
from contain.linux.leases import BridgeSettings, Pool, number_of, text_of

FREE = Pool(base=number_of("172.28.0.0"), prefix=16)


def plan(*, others: tuple[NamedNetwork, ...] = (), free: Pool | None = FREE, **asked: object) -> BridgeSettings:
    request = NetworkRequest(name="front", **asked)  # type: ignore[arg-type]
    return plan_network(request, network_id="ab" * 32, others=others, choose=lambda: free)


def test_without_a_subnet_a_free_one_is_chosen_and_may_give_way() -> None:
    settings = plan()
    assert (settings.pool, settings.pool6, settings.isolated, settings.fixed) == (FREE, None, False, False)


def test_with_ipv6_there_is_a_unique_local_subnet_of_the_networks_own() -> None:
    settings = plan(ipv6=True)
    assert settings.pool6 is not None
    assert str(settings.pool6) == "fdab:abab:abab::/64"
    assert text_of(settings.pool6.gateway, 128) == "fdab:abab:abab::1"


def test_subnet_gateway_and_range_of_both_versions_are_taken() -> None:
    settings = plan(
        subnets=("10.1.2.3/24", "fd00:1::/64"),
        gateways=("10.1.2.254", "fd00:1::ff"),
        ranges=("10.1.2.128/25",),
        ipv6=True,
    )
    pool, pool6 = settings.pool, settings.pool6
    assert pool is not None
    assert pool6 is not None
    assert (str(pool), text_of(pool.gateway, 32), text_of(pool.first, 32), text_of(pool.last, 32)) == (
        *("10.1.2.0/24", "10.1.2.254"),
        *("10.1.2.128", "10.1.2.254"),
    )
    assert (str(pool6), text_of(pool6.gateway, 128)) == ("fd00:1::/64", "fd00:1::ff")
    assert settings.fixed


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"subnets": ("10.0.0.0",)}, "invalid CIDR address"),
        ({"subnets": ("x/24",)}, "invalid CIDR address"),
        ({"subnets": ("10.0.0.0/31",)}, "cannot be a network of containers"),
        ({"subnets": ("10.0.0.0/4",)}, "cannot be a network of containers"),
        ({"subnets": ("127.0.0.0/8",)}, "cannot be a network of containers"),
        ({"subnets": ("224.0.0.0/8",)}, "cannot be a network of containers"),
        ({"gateways": ("10.0.0.1",)}, "no matching subnet for gateway 10.0.0.1"),
        ({"subnets": ("10.0.0.0/24",), "gateways": ("10.0.0.0",)}, "no matching subnet for gateway"),
        ({"subnets": ("10.0.0.0/24",), "gateways": ("x",)}, "invalid gateway address"),
        ({"subnets": ("10.0.0.0/24",), "ranges": ("10.0.0.0/16",)}, "no matching subnet for ip-range"),
        ({"subnets": ("10.0.0.0/24",), "ranges": ("10.0.0.255/32",)}, "no address of ip-range"),
        ({"options": (("com.docker.network.driver.mtu", "9"),)}, "invalid value '9'"),
        ({"options": (("com.docker.network.bridge.enable_icc", "maybe"),)}, "invalid value 'maybe'"),
    ],
)
def test_nonsense_is_refused(asked: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(**asked)  # type: ignore[arg-type]


def test_options_of_dockers_bridge_driver_are_known_or_refused_by_name() -> None:
    prefix = "com.docker.network.bridge."
    settings = plan(options=((f"{prefix}enable_icc", "false"), (f"{prefix}enable_ip_masquerade", "false")))
    assert (settings.isolated, settings.masquerade) == (True, False)
    assert plan(options=(("com.docker.network.driver.mtu", "1400"),)).mtu_bytes == 1400
    with pytest.raises(NotSupported, match="inhibit_ipv4"):
        plan(options=((f"{prefix}inhibit_ipv4", "true"),))


def test_networks_share_no_addresses() -> None:
    other = NamedNetwork(settings=BridgeSettings(name="back", network_id="c" * 64, pool=FREE), created_seconds=0)
    with pytest.raises(Conflict, match="Pool overlaps with other one on this address space"):
        plan(others=(other,), subnets=("172.28.3.0/24",))
    with pytest.raises(Conflict, match="could not find an available, non-overlapping IPv4 address pool"):
        plan(free=None)


@pytest.mark.parametrize("name", ["", "-x", "a b", "../x", "x" * 300])
def test_a_name_that_no_network_may_have_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_network_name(name)


@pytest.mark.parametrize("name", ["bridge", "host", "none", "default"])
def test_networks_that_are_always_there_cannot_be_made(name: str) -> None:
    with pytest.raises(Conflict, match="predefined"):
        check_network_name(name)


def make(networks: Networks, name: str, subnet: str, **more: object) -> NamedNetwork:
    return networks.create(NetworkRequest(name=name, subnets=(subnet,), **more))  # type: ignore[arg-type]


def test_a_network_comes_back_from_its_file_by_name_id_and_beginning(tmp_path: Path) -> None:
    networks = Networks(tmp_path)
    made = make(networks, "front", "10.9.0.0/24", labels=(("a", "b"),), internal=True)
    make(networks, "back", "10.9.1.0/24")
    assert [record.name for record in networks.all()] == ["back", "front"]
    for text in ("front", made.network_id, made.network_id[:12]):
        assert networks.find(text) == made
    with pytest.raises(NotFound, match="network nope not found"):
        networks.find("nope")
    with pytest.raises(NotFound):
        networks.find("../front")


def test_a_name_is_taken_once_and_a_damaged_file_is_no_network(tmp_path: Path) -> None:
    networks = Networks(tmp_path)
    make(networks, "front", "10.9.0.0/24")
    with pytest.raises(Conflict, match="network with name front already exists"):
        make(networks, "front", "10.9.1.0/24")
    (tmp_path / "networks/broken.json").write_text("{")
    assert [record.name for record in networks.all()] == ["front"]


def test_a_network_in_use_stays_in_dockers_words(tmp_path: Path) -> None:
    networks = Networks(tmp_path)
    made = make(networks, "front", "10.9.0.0/24")
    forgotten: list[str] = []
    with pytest.raises(Conflict) as caught:
        networks.remove(made, lambda _: [("web", "f" * 64)], lambda: forgotten.append("x"))
    assert caught.value.message == (
        f'error while removing network: network front has active endpoints (name:"web" id:"{"f" * 12}")'
    )
    assert (networks.all(), forgotten) == ((made,), [])
    networks.remove(made, lambda _: [], lambda: forgotten.append("x"))
    assert (networks.all(), forgotten) == ((), ["x"])


def seen(name: str, **more: object) -> SeenNetwork:
    record = NamedNetwork(
        settings=BridgeSettings(name=name, network_id=name * 8, pool=FREE, internal=True),
        created_seconds=86400,
        labels=(("team", "a"),),
    )
    return SeenNetwork(name=name, network_id=name * 8, driver="bridge", record=record, **more)  # type: ignore[arg-type]


def test_filters_choose_as_dockers_do() -> None:
    networks = [
        SeenNetwork(name="host", network_id="0" * 64, driver="host"),
        seen("front", users=(("web", "a" * 64),)),
        seen("back"),
    ]
    known = ("dangling", "driver", "id", "label", "name", "scope", "type")

    def names(*filters: str) -> list[str]:
        return [each.name for each in select_networks(networks, parse_filters(filters, known, choices=CHOICES))]

    assert names() == ["host", "front", "back"]
    assert names("type=custom") == ["front", "back"]
    assert names("type=builtin") == ["host"]
    assert names("dangling=true") == ["back"]
    assert names("driver=host") == ["host"]
    assert names("name=^b") == ["back"]
    assert names("label=team=a", "id=front") == ["front"]
    assert names("scope=swarm") == []
    for text in ("type=x", "dangling=x", "colour=red", "name"):
        with pytest.raises(UsageError):
            names(text)


def test_rows_and_documents_have_dockers_keys() -> None:
    row = network_row(seen("front"), whole=False)
    assert (row["ID"], row["Driver"], row["Internal"], row["CreatedAt"]) == (
        *("frontfrontfr", "bridge"),
        *("true", "1970-01-02 00:00:00 +0000 UTC"),
    )
    document = network_document(seen("front"))
    assert document["IPAM"]["Config"] == [{"Subnet": "172.28.0.0/16", "Gateway": "172.28.0.1"}]
    assert (document["Internal"], document["EnableIPv6"], document["Labels"]) == (True, False, {"team": "a"})
    assert document["Containers"] == {}


def test_the_networks_that_are_always_there_have_their_ids_everywhere() -> None:
    assert {name: network_digest(name) for name in PREDEFINED} == PREDEFINED_IDS
