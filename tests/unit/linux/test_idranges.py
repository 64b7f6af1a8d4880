"""Which ids of the machine a container with ids of its own gets."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contain.container.workspaces import hold_directory
from contain.errors import HostError
from contain.linux import idranges
from contain.linux.idranges import (
    DEFAULT_FIRST,
    IdRange,
    choose_range,
    hold_range,
    parse_claims,
    parse_maps_in_use,
    parse_pool,
    shared_by,
)


def _range(first: int, size: int) -> IdRange:
    return IdRange(first=first, size=size)


def test_the_pool_is_what_the_files_give_to_containers() -> None:
    text = "user:100000:65536\ncontainers:200000:1000\nbad\ncontainers:x:1\ncontainers:500000:0\n containers:300000:5 \n"
    assert parse_pool(text) == (_range(200000, 1000), _range(300000, 5))


def test_users_and_groups_get_the_same_numbers() -> None:
    assert shared_by((_range(10, 10), _range(100, 10)), (_range(15, 90),)) == (_range(15, 5), _range(100, 5))
    assert shared_by((_range(10, 10),), (_range(20, 10),)) == ()


def test_what_belongs_to_somebody_is_claimed() -> None:
    claims = parse_claims("user:100000:65536\ncontainers:1:1\n", "root:x:0:0::/:/bin/sh\n+::::::\nbig:x:2000000000:1::/:\n")
    assert claims == (_range(100000, 65536), _range(0, 1), _range(2000000000, 1))


def test_maps_of_other_programs_containers_are_seen_and_the_machines_own_is_not() -> None:
    assert parse_maps_in_use("         0          0 4294967295\n") == ()
    assert parse_maps_in_use("0 1000 1\n1 100000 65536\n\n") == (_range(1000, 1), _range(100000, 65536))


def test_the_first_gap_that_is_large_enough_is_taken() -> None:
    pools = (_range(0, 10), _range(100, 100))
    assert choose_range(pools, (), 10) == _range(0, 10)
    assert choose_range(pools, (), 11) == _range(100, 11)
    assert choose_range(pools, (_range(5, 100),), 5) == _range(0, 5)
    assert choose_range(pools, (_range(4, 100), _range(110, 20)), 5) == _range(104, 5)
    assert choose_range(pools, (_range(4, 100), _range(110, 20)), 10) == _range(130, 10)
    assert choose_range(pools, (_range(0, 1000),), 1) is None
    assert choose_range(pools, (), 101) is None


_RANGES = st.lists(st.builds(_range, st.integers(0, 200), st.integers(1, 40)), max_size=8)


@given(pools=_RANGES, taken=_RANGES, size=st.integers(1, 60))
def test_a_range_shares_no_id_and_none_is_missed(pools: list[IdRange], taken: list[IdRange], size: int) -> None:
    chosen = choose_range(pools, taken, size)
    free = [
        first
        for pool in pools
        for first in range(pool.first, pool.end - size + 1)
        if not any(_range(first, size).overlaps(other) for other in taken)
    ]
    assert (chosen is None) == (not free)
    if chosen is not None:
        assert chosen.size == size
        assert chosen.first in free


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry of this test's own, as root's."""
    monkeypatch.setattr(idranges, "registry_home", lambda run_home: run_home)
    monkeypatch.setattr(idranges, "is_rootless", lambda: False)
    return tmp_path / "run"


def _known(registry: Path) -> list[str]:
    return sorted(os.path.basename(name) for name in json.loads((registry / "id-ranges.json").read_text()))


def test_two_containers_share_no_id_and_give_them_back(registry: Path) -> None:
    pools = (_range(DEFAULT_FIRST, 20),)
    with hold_directory(registry / "work/a") as first, hold_directory(registry / "work/b") as second:
        with hold_range(first, 10, run_home=registry, pools=pools) as one:
            with hold_range(second, 10, run_home=registry, pools=pools) as other:
                assert not one.overlaps(other)
                assert _known(registry) == ["a", "b"]
            with hold_range(second, 10, run_home=registry, pools=pools) as again:
                assert again == other
        assert _known(registry) == []


def test_what_a_killed_owner_had_is_free(registry: Path) -> None:
    """Its lock on its workspace went with it."""
    pools = (_range(DEFAULT_FIRST, 10),)
    (registry / "work/dead").mkdir(parents=True)
    (registry / "id-ranges.json").write_text(json.dumps({str(registry / "work/dead"): [DEFAULT_FIRST, 10]}))
    with hold_directory(registry / "work/a") as workspace, hold_range(workspace, 10, run_home=registry, pools=pools) as ids:
        assert ids == pools[0]
        assert _known(registry) == ["a"]


def test_when_none_is_left_the_error_says_how_to_get_more(registry: Path) -> None:
    pools = (_range(DEFAULT_FIRST, 10),)
    with hold_directory(registry / "work/a") as place, pytest.raises(HostError) as caught:
        hold_range(place, 11, run_home=registry, pools=pools).__enter__()
    assert caught.value.code == "no-free-ids"
    assert "/etc/subuid" in caught.value.remedy


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": ["x", 2]}'])
def test_a_spoilt_registry_is_begun_anew(registry: Path, text: str) -> None:
    registry.mkdir()
    (registry / "id-ranges.json").write_text(text)
    pools = (_range(DEFAULT_FIRST, 10),)
    with hold_directory(registry / "work/a") as place, hold_range(place, 5, run_home=registry, pools=pools):
        assert _known(registry) == ["a"]
