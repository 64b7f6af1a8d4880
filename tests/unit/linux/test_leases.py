"""Which subnet, which address: decided from values alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from contain.errors import HostError
from contain.linux.leases import (
    Lease,
    NetworkRecord,
    Owner,
    Pool,
    choose_pool,
    decode_record,
    dotted,
    encode_record,
    lease_address,
    number_of,
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
