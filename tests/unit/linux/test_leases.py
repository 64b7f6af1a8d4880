"""Which subnet, which address: decided from values alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from contain.errors import Conflict, HostError, UsageError
from contain.linux.leases import (
    BridgeSettings,
    Lease,
    NetworkRecord,
    Owner,
    Pool,
    Wanted,
    choose_pool,
    decode_record,
    dotted,
    encode_record,
    lease_address,
    number_of,
    number_of6,
    text_of,
)
from contain.linux.rtnetlink import Route

OWNER = Owner(process_id=7, start_ticks=99)


def route(destination: str, prefix_length: int) -> Route:
    return Route(destination=number_of(destination), prefix_length=prefix_length, kind=1, interface_indices=(2,))


def small(**changes: object) -> NetworkRecord:
    return replace(NetworkRecord(pool=Pool(base=number_of("192.168.240.0"), prefix=29)), **changes)  # type: ignore[arg-type]


def addresses(record: NetworkRecord) -> dict[str, str]:
    return {name: dotted(lease.address) for name, lease in record.leases.items()}


def test_a_free_pool_overlaps_no_route_in_either_direction() -> None:
    assert choose_pool([], []) == Pool(base=number_of("172.30.0.0"), prefix=16)
    assert choose_pool([route("172.30.5.0", 24)], []) == Pool(base=number_of("172.29.0.0"), prefix=16)
    assert choose_pool([route("172.16.0.0", 12)], []) == Pool(base=number_of("192.168.240.0"), prefix=20)


def test_a_default_route_even_in_two_halves_takes_no_pool() -> None:
    routes = [route("0.0.0.0", 0), route("0.0.0.0", 1), route("128.0.0.0", 1)]
    assert choose_pool(routes, []) == Pool(base=number_of("172.30.0.0"), prefix=16)


def test_a_pool_with_the_hosts_nameserver_is_avoided() -> None:
    assert choose_pool([], [number_of("172.30.9.9")]) == Pool(base=number_of("172.29.0.0"), prefix=16)


def test_without_any_free_pool_there_is_none() -> None:
    assert choose_pool([route("172.16.0.0", 12), route("192.168.0.0", 16)], []) is None


def test_addresses_are_given_in_turn_and_rest_before_they_are_used_again() -> None:
    record = small()
    for name in "abc":
        record = lease_address(record, name, OWNER)
    assert addresses(record) == {"a": "192.168.240.2", "b": "192.168.240.3", "c": "192.168.240.4"}
    record = replace(record, leases={name: lease for name, lease in record.leases.items() if name != "a"})
    assert addresses(lease_address(record, "d", OWNER))["d"] == "192.168.240.5"


def test_a_container_keeps_its_address() -> None:
    record = lease_address(lease_address(small(), "a", OWNER), "b", OWNER)
    again = lease_address(record, "a", Owner(process_id=8, start_ticks=100))
    assert addresses(again) == addresses(record)
    assert again.leases["a"].owner.process_id == 8


def test_a_full_network_is_an_error_that_says_so_and_a_freed_address_is_found() -> None:
    record = small()
    for name in "abcde":
        record = lease_address(record, name, OWNER)
    assert set(addresses(record).values()) == {f"192.168.240.{last}" for last in range(2, 7)}  # not network, bridge, broadcast
    with pytest.raises(HostError) as caught:
        lease_address(record, "f", OWNER)
    assert caught.value.code == "network-addresses-exhausted"
    record = replace(record, leases={name: lease for name, lease in record.leases.items() if name != "c"})
    assert addresses(lease_address(record, "f", OWNER))["f"] == "192.168.240.4"


def test_a_record_comes_back_from_its_file() -> None:
    record = small(
        mtu_bytes=1400,
        newest_address=number_of("192.168.240.3"),
        leases={"a": Lease(address=number_of("192.168.240.3"), owner=OWNER)},
        holds=(OWNER, OWNER),
    )
    assert decode_record(encode_record(record)) == record
    assert decode_record(encode_record(NetworkRecord())) == NetworkRecord()


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b'{"version": 2}', b'{"version": 1}', b"\xff", b'{"version": 1, "pool": ["x", 1]}']
)
def test_a_damaged_file_is_no_record(data: bytes) -> None:
    assert decode_record(data) is None


SIX = Pool(base=number_of6("fd00:1::"), prefix=64, bits=128)


def six(**changes: object) -> NetworkRecord:
    return replace(small(settings=BridgeSettings(name="six", network_id="x", pool6=SIX)), **changes)  # type: ignore[arg-type]


def test_with_ipv6_each_container_has_an_address_of_both_kinds_in_turn() -> None:
    record = six()
    for name in "ab":
        record = lease_address(record, name, OWNER)
    assert [text_of(lease.address6, 128) for lease in record.leases.values()] == ["fd00:1::2", "fd00:1::3"]
    assert decode_record(encode_record(record)) == record


def test_a_range_is_kept_to_and_the_gateway_given_to_nobody() -> None:
    pool = Pool(
        base=number_of("10.0.0.0"),
        prefix=24,
        router=number_of("10.0.0.129"),
        range_base=number_of("10.0.0.128"),
        range_prefix=30,
    )
    record = small(pool=pool)
    for name in "abc":
        record = lease_address(record, name, OWNER)
    assert sorted(addresses(record).values()) == ["10.0.0.128", "10.0.0.130", "10.0.0.131"]
    with pytest.raises(HostError, match="all 3 addresses"):
        lease_address(record, "d", OWNER)


def test_a_wanted_address_is_given_once_and_only_within_the_subnet() -> None:
    record = lease_address(six(), "a", OWNER, (), Wanted(address="192.168.240.5", address6="fd00:1::99"))
    assert addresses(record) == {"a": "192.168.240.5"}
    assert text_of(record.leases["a"].address6, 128) == "fd00:1::99"
    assert addresses(lease_address(record, "b", OWNER))["b"] == "192.168.240.2"  # a wanted one moves nothing on
    for text in ("192.168.240.5", "192.168.240.1"):
        with pytest.raises(Conflict, match="Address already in use"):
            lease_address(record, "b", OWNER, (), Wanted(address=text))
    for text in ("192.168.240.0", "192.168.240.7", "10.0.0.1"):
        with pytest.raises(UsageError, match="does not belong to any of this network's subnets"):
            lease_address(record, "b", OWNER, (), Wanted(address=text))
    with pytest.raises(UsageError, match="does not belong"):
        lease_address(small(), "b", OWNER, (), Wanted(address6="fd00:1::5"))


def test_what_a_container_is_called_and_what_it_calls_others_stands_in_the_file() -> None:
    wanted = Wanted(
        interface="eth1", hardware_address="02:42:ac:11:00:02", name="web", aliases=("www",), links=(("db", "f" * 64),)
    )
    record = lease_address(small(), "a", OWNER, (), wanted)
    lease = record.leases["a"]
    assert (lease.interface, lease.name, lease.aliases, lease.links) == ("eth1", "web", ("www",), (("db", "f" * 64),))
    assert decode_record(encode_record(record)) == record


def test_a_subnet_of_another_network_is_not_chosen() -> None:
    reserved = [Pool(base=number_of("172.30.8.0"), prefix=24), SIX]
    assert choose_pool([], [], reserved) == Pool(base=number_of("172.29.0.0"), prefix=16)


def test_the_largest_subnets_are_no_work() -> None:
    record = lease_address(replace(six(), leases={}), "a", OWNER)
    wide = replace(record, settings=replace(record.settings, pool6=replace(SIX, prefix=8, base=0xFD << 120)))
    assert lease_address(wide, "b", OWNER).leases["b"].address6 > 0
