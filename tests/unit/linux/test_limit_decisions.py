"""Which files a container's limits are written to, and with which values, on both versions of control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from contain.errors import HostError, UsageError
from contain.linux import limits as decisions
from contain.linux.cgroups import EVERY, Hierarchy, make_cgroup, parse_hierarchies, select_hierarchies, used_controllers
from contain.linux.limits import block_weight_to_io, needed_controllers, plan_limits, shares_to_weight
from contain.spec import BlockLimit, Limits

MEMORY, CPU, CPUSET = frozenset({"memory"}), frozenset({"cpu"}), frozenset({"cpuset"})
BLKIO, IO = frozenset({"blkio"}), frozenset({"io"})


def writes(version: int, controllers: frozenset[str], limits: Limits, *absent: str) -> list[tuple[str, str]]:
    return plan_limits(version, controllers, limits, lambda name: name not in absent)


def test_memory_on_version_1() -> None:
    limits = Limits(
        memory_bytes=100, memory_swap_bytes=150, memory_reservation_bytes=50, memory_swappiness=7, out_of_memory_kill=False
    )
    assert writes(1, MEMORY, limits) == [
        ("memory.limit_in_bytes", "100"),
        ("memory.memsw.limit_in_bytes", "150"),
        ("memory.soft_limit_in_bytes", "50"),
        ("memory.swappiness", "7"),
        ("memory.oom_control", "1"),
    ]


@pytest.mark.parametrize(
    ("memory", "both", "swap"),
    [(100, 150, "50"), (100, 100, "0"), (100, None, "0"), (100, -1, "max"), (-1, None, "max"), (None, -1, "max")],
)
def test_swap_on_version_2_is_what_is_beyond_memory(memory: int | None, both: int | None, swap: str) -> None:
    found = dict(writes(2, MEMORY, Limits(memory_bytes=memory, memory_swap_bytes=both)))
    assert found["memory.swap.max"] == swap
    assert found.get("memory.max") == (None if memory is None else "max" if memory < 0 else str(memory))


def test_a_reservation_on_version_2_is_memory_that_is_kept() -> None:
    assert writes(2, MEMORY, Limits(memory_reservation_bytes=64)) == [("memory.low", "64")]


@pytest.mark.parametrize(
    ("version", "limits", "absent", "option"),
    [
        (2, Limits(memory_swappiness=1), (), "--memory-swappiness"),
        (2, Limits(out_of_memory_kill=False), (), "--oom-kill-disable"),
        (1, Limits(memory_bytes=9, memory_swap_bytes=9), ("memory.memsw.limit_in_bytes",), "--memory-swap"),
        (2, Limits(memory_bytes=9, memory_swap_bytes=9), ("memory.swap.max",), "--memory-swap"),
        (1, Limits(block_weight=10), ("blkio.weight", "blkio.bfq.weight"), "--blkio-weight"),
        (2, Limits(block_weight=10), ("io.weight", "io.bfq.weight"), "--blkio-weight"),
    ],
)
def test_a_limit_that_the_kernel_has_no_file_for_is_refused_by_its_name(
    version: int, limits: Limits, absent: tuple[str, ...], option: str
) -> None:
    with pytest.raises(HostError, match=f"{option} cannot be set") as caught:
        writes(version, MEMORY | BLKIO | IO, limits, *absent)
    assert caught.value.code == "cgroup-refused"


def test_no_swap_is_asked_for_where_the_kernel_does_not_count_it() -> None:
    assert writes(1, MEMORY, Limits(memory_bytes=9), "memory.memsw.limit_in_bytes") == [("memory.limit_in_bytes", "9")]
    assert writes(2, MEMORY, Limits(memory_bytes=9), "memory.swap.max") == [("memory.max", "9")]


def test_processor_time() -> None:
    both = Limits(cpu_period_microseconds=50_000, cpu_quota_microseconds=25_000, cpu_shares=1024)
    assert writes(1, CPU, both) == [("cpu.shares", "1024"), ("cpu.cfs_period_us", "50000"), ("cpu.cfs_quota_us", "25000")]
    assert writes(2, CPU, both) == [("cpu.weight", "100"), ("cpu.max", "25000 50000")]
    assert writes(2, CPU, Limits(cpu_quota_microseconds=-1)) == [("cpu.max", "max 100000")]
    assert writes(2, CPU, Limits(cpu_period_microseconds=2000)) == [("cpu.max", "max 2000")]
    assert writes(1, CPU, Limits(cpus=0.001)) == [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "1000")]


@pytest.mark.parametrize(
    ("shares", "weight"), [(0, 1), (2, 1), (3, 2), (512, 59), (1024, 100), (2048, 174), (262_144, 10_000), (300_000, 10_000)]
)
def test_shares_become_weights_along_runcs_curve(shares: int, weight: int) -> None:
    assert shares_to_weight(shares) == weight


@pytest.mark.parametrize(("weight", "io"), [(10, 1), (500, 4950), (1000, 10_000)])
def test_block_weights_become_io_weights_as_in_runc(weight: int, io: int) -> None:
    assert block_weight_to_io(weight) == io


def test_processors_and_memory_nodes() -> None:
    limits = Limits(processors="0-1", memory_nodes="0")
    assert [writes(version, CPUSET, limits) for version in (1, 2)] == [[("cpuset.cpus", "0-1"), ("cpuset.mems", "0")]] * 2


def test_block_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "device_number", lambda limit: "8:0")
    kinds = ("read_bps", "write_bps", "read_iops", "write_iops")
    limits = Limits(block_weight=500, block=tuple(BlockLimit(kind=kind, device=Path("/dev/sda"), value=7) for kind in kinds))
    assert writes(1, BLKIO, limits) == [
        ("blkio.weight", "500"),
        *((f"blkio.throttle.{kind}_device", "8:0 7") for kind in kinds),
    ]
    assert writes(1, BLKIO, limits, "blkio.weight")[0] == ("blkio.bfq.weight", "500")
    assert writes(2, IO, limits, "io.bfq.weight") == [
        ("io.weight", "4950"),
        *(("io.max", f"8:0 {name}=7") for name in ("rbps", "wbps", "riops", "wiops")),
    ]
    assert writes(2, IO, limits)[0] == ("io.bfq.weight", "500")


def test_a_limit_for_what_is_no_block_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, said in ((tmp_path / "none", "No such file"), (tmp_path / "file", "is not a block device")):
        limit = BlockLimit(kind="read_bps", device=path, value=1)
        with pytest.raises(UsageError, match=said):
            decisions.device_number(limit)


def test_only_controllers_that_somebody_asks_for_are_used() -> None:
    assert used_controllers(Limits()) == {"memory", "pids", "cpu"}
    assert used_controllers(Limits(processors="0")) == {"memory", "pids", "cpu", "cpuset"}
    assert used_controllers(Limits(block_weight=10)) == {"memory", "pids", "cpu", "blkio", "io"}
    assert needed_controllers(Limits()) == {}
    assert needed_controllers(Limits(cpu_shares=5, memory_swappiness=1)) == {
        "cpu": "--cpu-shares",
        "memory": "--memory-swappiness",
    }
    mounts = (
        "33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n34 31 0:31 / /c/blkio rw - cgroup cgroup rw,blkio\n"
    )
    assert [row.mount for row in parse_hierarchies(mounts, frozenset())] == []
    both = parse_hierarchies(mounts, frozenset(), used=frozenset({"cpuset", "blkio"}))
    assert [row.mount for row in both] == ["/sys/fs/cgroup/cpuset", "/c/blkio"]


def test_a_new_group_of_version_1_has_its_parents_processors(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "contain", tmp_path / "contain/c"):
        place.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            (place / name).write_text("")
    (tmp_path / "cpuset.cpus").write_text("0-3\n")
    (tmp_path / "cpuset.mems").write_text("0\n")
    hierarchy = Hierarchy(version=1, mount=str(tmp_path), controllers=CPUSET)
    made = make_cgroup((hierarchy,), "c", Limits(processors="1"))
    assert made.paths() == (f"{tmp_path}/contain/c",)
    # A file of the kernel's is replaced by a write; this one stands for it and keeps what was longer.
    assert (tmp_path / "contain/c/cpuset.cpus").read_text().startswith("1")
    assert (tmp_path / "contain/c/cpuset.mems").read_text() == "0"
    assert (tmp_path / "contain/cpuset.cpus").read_text() == "0-3"
    assert make_cgroup((hierarchy,), "d", Limits()).places == ()
    assert not os.path.exists(tmp_path / "contain/d")


BLOCK_V1 = (
    "35 31 0:32 / /c/blkio rw,relatime - cgroup cgroup rw,blkio\n36 31 0:33 / /c/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"
)
MEMORY_V1 = "33 31 0:30 / /c/memory rw,nosuid - cgroup cgroup rw,memory\n"
V2 = "30 23 0:26 / /c/unified rw - cgroup2 cgroup2 rw\n"


@pytest.mark.parametrize("mounts", [MEMORY_V1, MEMORY_V1 + BLOCK_V1, V2, MEMORY_V1 + V2, BLOCK_V1 + V2, BLOCK_V1, ""])
@pytest.mark.parametrize("second", [set(), {"memory"}, {"io", "pids"}, {"io"}, {"cpuset", "cpu", "io", "memory", "pids"}])
@pytest.mark.parametrize("limits", [Limits(), Limits(processors="0"), Limits(block_weight=10)])
def test_of_all_hierarchies_those_are_selected_that_are_found_for_what_is_used(
    mounts: str, second: set[str], limits: Limits
) -> None:
    used = used_controllers(limits)
    every = parse_hierarchies(mounts, frozenset(second), frozenset(), EVERY)
    assert select_hierarchies(every, used) == parse_hierarchies(mounts, frozenset(second), frozenset(), used)
