"""Which names a container's networks know: decided from lease records alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from contain.container.network import domain_messages as messages
from contain.container.network.names import Found, LeaseFiles, is_closed, parse_reverse, resolve_name, resolve_pointer
from contain.container.network.resolving import answer_here
from contain.linux.leases import BridgeSettings, Lease, NetworkRecord, Owner, Pool, encode_record, number_of, number_of6
from contain.values import replace

OWNER = Owner(process_id=7, start_ticks=8)
WEB, DB, OTHER = "a" * 64, "b" * 64, "c" * 64


def lease(last: int, name: str, *aliases: str, six: bool = False, links: tuple[tuple[str, str], ...] = ()) -> Lease:
    return Lease(
        address=number_of(f"172.28.0.{last}"),
        owner=OWNER,
        address6=number_of6(f"fd00::{last}") if six else 0,
        name=name,
        aliases=aliases,
        links=links,
    )


def network(name: str, leases: dict[str, Lease], *, internal: bool = False) -> NetworkRecord:
    pool = Pool(base=number_of("172.28.0.0"), prefix=16)
    settings = BridgeSettings(
        name=name,
        network_id=name.encode().hex(),
        pool=pool,
        pool6=Pool(base=number_of6("fd00::"), prefix=64, bits=128),
        internal=internal,
        isolated=False,
    )
    return NetworkRecord(pool=pool, leases=leases, settings=settings)


FRONT = network("front", {WEB: lease(2, "web"), DB: lease(3, "db", "Store", six=True), OTHER: lease(4, "copy", "store")})


@pytest.mark.parametrize("name", ["db", "store.front", "db.front", "b" * 12])
def test_a_container_is_found_by_name_alias_short_id_and_with_the_networks_name(name: str) -> None:
    found = resolve_name([FRONT], WEB, name)
    assert found is not None
    assert "172.28.0.3" in found.addresses
    assert found.addresses6 == ("fd00::3",)


def test_several_containers_of_one_alias_are_all_found() -> None:
    assert resolve_name([FRONT], WEB, "store") == Found(addresses=("172.28.0.3", "172.28.0.4"), addresses6=("fd00::3",))


def test_names_of_networks_that_a_container_is_not_on_are_unknown_to_it() -> None:
    back = network("back", {DB: lease(3, "db"), OTHER: lease(4, "copy")})
    assert resolve_name([back], WEB, "db") is None
    assert resolve_name([back], WEB, "db.back") is None
    assert resolve_pointer([back], WEB, "3.0.28.172.in-addr.arpa") is None


def test_the_default_network_has_no_names() -> None:
    default = replace(FRONT, settings=replace(FRONT.settings, network_id=""))
    assert resolve_name([default], WEB, "db") is None


def test_a_link_is_a_name_for_this_container_only_and_beats_others() -> None:
    linked = network("front", {WEB: lease(2, "web", links=(("copy", DB),)), DB: lease(3, "db"), OTHER: lease(4, "copy")})
    asked = resolve_name([linked], WEB, "copy")
    assert asked is not None
    assert asked.addresses == ("172.28.0.3",)
    by_other = resolve_name([linked], OTHER, "copy")
    assert by_other is not None
    assert by_other.addresses == ("172.28.0.4",)


def test_an_address_leads_back_to_name_and_network() -> None:
    assert resolve_pointer([FRONT], WEB, "3.0.28.172.in-addr.arpa") == "db.front"
    reverse = ".".join(reversed("fd00" + "0" * 27 + "3")) + ".ip6.arpa"
    assert resolve_pointer([FRONT], WEB, reverse) == "db.front"
    assert resolve_pointer([FRONT], WEB, "9.0.28.172.in-addr.arpa") == ""
    assert resolve_pointer([FRONT], WEB, "1.2.0.192.in-addr.arpa") is None


@pytest.mark.parametrize(
    "name", ["in-addr.arpa", "1.2.3.in-addr.arpa", "x.2.3.4.in-addr.arpa", "1.2.3.4.5.in-addr.arpa", "f.ip6.arpa", "db"]
)
def test_what_is_no_address_backwards_is_none(name: str) -> None:
    assert parse_reverse(name) is None


def test_outside_names_are_closed_only_where_all_networks_are_internal() -> None:
    inner = network("inner", {WEB: lease(2, "web")}, internal=True)
    assert is_closed([inner], WEB)
    assert not is_closed([inner, FRONT], WEB)
    assert not is_closed([], WEB)


@pytest.fixture
def files(tmp_path: Path) -> LeaseFiles:
    place = tmp_path / "networks" / "one"
    place.mkdir(parents=True)
    (place / "network.json").write_bytes(encode_record(FRONT))
    return LeaseFiles(tmp_path)


def test_the_lease_files_are_read_again_when_they_are_replaced(tmp_path: Path, files: LeaseFiles) -> None:
    assert [record.leases.keys() for record in files.records()] == [FRONT.leases.keys()]
    place = tmp_path / "networks/one/network.json"
    aside = place.with_name("network.json.new")
    aside.write_bytes(encode_record(replace(FRONT, leases={})))
    aside.rename(place)
    assert [dict(record.leases) for record in files.records()] == [{}]
    place.unlink()
    assert files.records() == []


def ask(files: LeaseFiles, name: str, kind: int) -> tuple[int, int] | None:
    """The code and the number of records of the answer; None if others are asked."""
    data = messages.render_query(1, name, kind)
    answer = answer_here(data, messages.parse_query(data), files, WEB)
    return None if answer is None else (answer[3] & 15, int.from_bytes(answer[6:8], "big"))


def test_a_containers_name_is_never_asked_of_others_whatever_is_asked_of_it(files: LeaseFiles) -> None:
    assert ask(files, "db", messages.A) == (0, 1)
    assert ask(files, "web", messages.AAAA) == (0, 0)  # it has none
    assert ask(files, "db", 15) == (0, 0)  # a mail exchanger
    assert ask(files, "db", messages.ANY) == (0, 2)
    assert ask(files, "9.0.28.172.in-addr.arpa", messages.POINTER) == (messages.NO_SUCH_NAME, 0)
    assert ask(files, "3.0.28.172.in-addr.arpa", messages.POINTER) == (0, 1)
    assert ask(files, "example.org", messages.A) is None
