"""Limits of a bundle as files of control groups."""

from __future__ import annotations

from typing import Any

import pytest

from contain.errors import NotSupported, UsageError
from contain.runtime_spec.reading import Table
from contain.runtime_spec.resources import (
    DEFAULT_RULES,
    Resources,
    parse_resources,
    plan_first_version,
    plan_second_version,
    weight_of_shares,
)


def resources(**members: Any) -> Resources:
    return parse_resources(Table(members, "linux.resources"))


def first(**members: Any) -> list[tuple[str, str]]:
    return [(file.name, file.value) for file in plan_first_version(resources(**members))]


def second(**members: Any) -> list[tuple[str, str]]:
    return [(file.name, file.value) for file in plan_second_version(resources(**members))]


def test_nothing_asked_for_is_nothing_written() -> None:
    assert first() == []
    assert second() == []
    assert first(memory={}, cpu={}, pids={}) == []


def test_memory_and_swap_are_one_number_in_version_1_and_apart_in_version_2() -> None:
    asked = {"limit": 100, "swap": 150, "reservation": 50}
    assert first(memory=asked)[:2] == [("memory.limit_in_bytes", "100"), ("memory.memsw.limit_in_bytes", "150")]
    assert second(memory=asked) == [("memory.swap.max", "50"), ("memory.max", "100"), ("memory.low", "50")]


def test_no_limit_is_written_as_each_version_has_it() -> None:
    assert first(memory={"limit": -1}, pids={"limit": -1}) == [("memory.limit_in_bytes", "-1"), ("pids.max", "max")]
    assert second(memory={"limit": -1}, pids={"limit": -1}) == [("memory.max", "max"), ("pids.max", "max")]


def test_processor_time() -> None:
    asked = {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0-1"}
    assert first(cpu=asked) == [
        ("cpu.shares", "512"),
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "50000"),
        ("cpuset.cpus", "0-1"),
    ]
    assert second(cpu=asked) == [("cpu.weight", "20"), ("cpu.max", "50000 100000"), ("cpuset.cpus", "0-1")]
    assert second(cpu={"period": 5000}) == [("cpu.max", "max 5000")]


@pytest.mark.parametrize(("shares", "weight"), [(0, 1), (2, 1), (1024, 39), (262144, 10000), (10**9, 10000)])
def test_shares_become_weights_within_their_range(shares: int, weight: int) -> None:
    assert weight_of_shares(shares) == weight


def test_a_container_may_always_use_the_devices_that_it_always_has() -> None:
    rows = first(
        devices=[{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}]
    )
    assert rows[0] == ("devices.deny", "a *:* rwm")
    assert rows[1] == ("devices.allow", "c 10:229 rw")
    assert len(rows) == 2 + len(DEFAULT_RULES)
    assert ("devices.allow", "c 1:3 rwm") in rows
    assert not any("10:200" in value for _, value in rows)  # tun


def test_what_only_the_other_version_has_is_refused() -> None:
    with pytest.raises(NotSupported, match="unified"):
        first(unified={"memory.high": "5"})
    with pytest.raises(NotSupported, match="network"):
        second(network={"classID": 5})
    with pytest.raises(NotSupported, match="realtimeRuntime"):
        second(cpu={"realtimeRuntime": 5})


def test_unified_files_are_files_of_the_group_and_of_no_other() -> None:
    assert second(unified={"memory.high": "5"}) == [("memory.high", "5")]
    with pytest.raises(UsageError):
        second(unified={"../memory.max": "5"})


def test_throttles_of_both_versions() -> None:
    asked = {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}]}
    assert first(blockIO=asked) == [("blkio.throttle.read_bps_device", "8:0 600")]
    assert second(blockIO=asked) == [("io.max", "8:0 rbps=600")]
