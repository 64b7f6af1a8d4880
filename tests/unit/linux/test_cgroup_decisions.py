"""Where control groups are, from texts of proc(5); what is written for a limit, into a directory that stands for the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from contain.errors import HostError
from contain.linux.cgroups import (
    Cgroup,
    CgroupCounters,
    Hierarchy,
    make_cgroup,
    parse_hierarchies,
    read_counters,
    remove_cgroup,
)
from contain.spec import Limits

ROOT = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
V1 = ROOT + (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid,nodev,noexec,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/memory rw,nosuid shared:10 master:3 - cgroup cgroup rw,memory\n"
    "34 31 0:31 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n"
    "35 31 0:32 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n"
)
V2 = ROOT + "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = ROOT + (
    "32 31 0:29 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
)


def test_a_version_1_machine_has_a_hierarchy_for_each_mount() -> None:
    found = parse_hierarchies(V1, frozenset())
    assert found == (
        Hierarchy(
            version=1, mount="/sys/fs/cgroup/cpu,cpuacct", controllers=frozenset({"cpu"}), mounted_with=("cpu", "cpuacct")
        ),
        Hierarchy(version=1, mount="/sys/fs/cgroup/memory", controllers=frozenset({"memory"}), mounted_with=("memory",)),
        Hierarchy(version=1, mount="/sys/fs/cgroup/pids", controllers=frozenset({"pids"}), mounted_with=("pids",)),
    )


def test_a_version_2_machine_has_one_hierarchy_with_the_controllers_that_it_says() -> None:
    found = parse_hierarchies(V2, frozenset({"cpuset", "cpu", "io", "memory", "pids"}))
    assert found == (Hierarchy(version=2, mount="/sys/fs/cgroup", controllers=frozenset({"cpu", "memory", "pids"})),)


def test_on_a_hybrid_machine_each_controller_is_where_it_is() -> None:
    found = parse_hierarchies(HYBRID, frozenset({"memory", "cpu"}))
    assert [(row.version, row.mount, row.controllers) for row in found] == [
        (1, "/sys/fs/cgroup/pids", frozenset({"pids"})),
        (2, "/sys/fs/cgroup/unified", frozenset({"memory", "cpu"})),
    ]


def test_version_2_without_controllers_of_ours_is_not_used() -> None:
    assert [row.version for row in parse_hierarchies(HYBRID, frozenset({"hugetlb"}))] == [1]


def test_version_2_alone_is_used_even_without_controllers_since_it_tells_whose_a_process_is() -> None:
    assert parse_hierarchies(V2, frozenset()) == (Hierarchy(version=2, mount="/sys/fs/cgroup", controllers=frozenset()),)


def test_controllers_that_a_busy_topmost_group_keeps_to_itself_are_named_and_not_used() -> None:
    found = parse_hierarchies(V2, frozenset({"memory", "pids", "io"}), frozenset({"memory", "io"}))
    withheld = frozenset({"memory"})
    assert found == (Hierarchy(version=2, mount="/sys/fs/cgroup", controllers=frozenset({"pids"}), withheld=withheld),)


def test_a_limit_whose_controller_is_withheld_is_refused_with_the_remedy(tmp_path: Path) -> None:
    found = Hierarchy(version=2, mount=str(tmp_path), controllers=frozenset(), withheld=frozenset({"memory"}))
    with pytest.raises(HostError, match="has processes and therefore hands 'memory' to no group below") as caught:
        make_cgroup((found,), "c", Limits(memory_bytes=1 << 30))
    assert caught.value.code == "cgroup-refused"
    assert f"mkdir {tmp_path}/init" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_hierarchy_that_is_mounted_twice_counts_once() -> None:
    again = V1 + "50 27 0:31 / /other/pids rw,relatime - cgroup cgroup rw,pids\n"
    assert [row.mount for row in parse_hierarchies(again, frozenset()) if "pids" in row.controllers] == ["/sys/fs/cgroup/pids"]


def test_blanks_in_a_path_are_read_as_the_kernel_writes_them() -> None:
    line = "32 31 0:29 / /with\\040blank/pids rw,relatime - cgroup cgroup rw,pids\n"
    assert parse_hierarchies(line, frozenset())[0].mount == "/with blank/pids"


def test_no_control_groups_are_no_hierarchies() -> None:
    assert parse_hierarchies(ROOT, frozenset()) == ()
    assert parse_hierarchies("", frozenset({"memory"})) == ()


# -- limits ---------------------------------------------------------------------------------------------------------------------


def hierarchy(tmp_path: Path, version: int, *controllers: str, files: tuple[str, ...]) -> Hierarchy:
    """A directory that stands for a hierarchy; the group of the container with the files that the kernel would make."""
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "cgroup.subtree_control").write_text("")
    if files:
        group = tmp_path / "contain/c"
        group.mkdir(parents=True)
        (tmp_path / "contain/cgroup.subtree_control").write_text("")
        for name in files:
            (group / name).write_text("")
    return Hierarchy(version=version, mount=str(tmp_path), controllers=frozenset(controllers), mounted_with=controllers)


def test_limits_on_version_1(tmp_path: Path) -> None:
    files = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "pids.max", "cpu.cfs_period_us", "cpu.cfs_quota_us")
    made = make_cgroup(
        (hierarchy(tmp_path, 1, "memory", "pids", "cpu", files=files),),
        "c",
        Limits(memory_bytes=1 << 26, cpus=1.5, pids=10),
    )
    assert {name: (tmp_path / "contain/c" / name).read_text() for name in files} == {
        "memory.limit_in_bytes": "67108864",
        "memory.memsw.limit_in_bytes": "67108864",
        "pids.max": "10",
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "150000",
    }
    assert made.paths() == (f"{tmp_path}/contain/c",)


def test_limits_on_version_2_and_the_controllers_handed_down(tmp_path: Path) -> None:
    files = ("memory.max", "memory.swap.max", "pids.max", "cpu.max")
    make_cgroup(
        (hierarchy(tmp_path, 2, "memory", "pids", "cpu", files=files),),
        "c",
        Limits(memory_bytes=1 << 26, cpus=0.5, pids=10),
    )
    assert {name: (tmp_path / "contain/c" / name).read_text() for name in files} == {
        "memory.max": "67108864",
        "memory.swap.max": "0",
        "pids.max": "10",
        "cpu.max": "50000 100000",
    }
    for place in (tmp_path, tmp_path / "contain"):
        assert (place / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"


def test_without_a_limit_nothing_is_written(tmp_path: Path) -> None:
    files = ("memory.max", "pids.max", "cpu.max")
    make_cgroup(
        (hierarchy(tmp_path, 2, "memory", "pids", "cpu", files=files),), "c", Limits(memory_bytes=None, cpus=None, pids=None)
    )
    assert [(tmp_path / "contain/c" / name).read_text() for name in files] == ["", "", ""]


def test_a_hierarchy_of_version_1_for_processors_is_joined_only_for_a_limit(tmp_path: Path) -> None:
    found = hierarchy(tmp_path, 1, "cpu", files=())
    assert make_cgroup((found,), "c", Limits(cpus=None)).places == ()


def test_a_machine_that_does_not_hand_controllers_down_refuses_limits_that_were_asked_for_only(tmp_path: Path) -> None:
    found = hierarchy(tmp_path, 2, "memory", "pids", files=())
    (tmp_path / "cgroup.subtree_control").unlink()
    (tmp_path / "cgroup.subtree_control").mkdir()  # cannot be written, as one that still has processes in it
    with pytest.raises(HostError, match="cannot be handed down") as caught:
        make_cgroup((found,), "c", Limits(memory_bytes=1 << 30))
    assert caught.value.code == "cgroup-refused"
    assert not (tmp_path / "contain/c").exists()
    assert make_cgroup((found,), "c", Limits()).paths() == (f"{tmp_path}/contain/c",)


@pytest.mark.parametrize(("limits", "controller"), [(Limits(memory_bytes=1 << 30), "memory"), (Limits(cpus=1.0), "cpu")])
def test_a_limit_whose_controller_is_missing_is_an_error_and_not_ignored(
    tmp_path: Path, limits: Limits, controller: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contain.linux.cgroups.is_rootless", lambda: False)
    with pytest.raises(HostError, match=f"no '{controller}' control group controller") as caught:
        make_cgroup((hierarchy(tmp_path, 1, "pids", files=("pids.max",)),), "c", limits)
    assert caught.value.code == "cgroup-missing"


def test_the_default_process_limit_is_no_error_where_there_is_no_controller() -> None:
    assert make_cgroup((), "c", Limits()).places == ()


def test_a_kernel_that_refuses_is_named_with_its_file(tmp_path: Path) -> None:
    found = hierarchy(tmp_path, 1, "pids", files=())  # no pids.max
    with pytest.raises(HostError, match=r"pids\.max"):
        make_cgroup((found,), "c", Limits(pids=5))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cgroup.subtree_control"]


def test_counters_of_both_versions(tmp_path: Path) -> None:
    first = hierarchy(tmp_path / "1", 1, "memory", files=())
    second = hierarchy(tmp_path / "2", 2, "memory", "pids", files=())
    one, two = tmp_path / "1/contain/c", tmp_path / "2/contain/c"
    one.mkdir(parents=True)
    two.mkdir(parents=True)
    (one / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    (one / "memory.max_usage_in_bytes").write_text("4096\n")
    (two / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 3\noom_kill 1\noom_group_kill 0\n")
    (two / "memory.peak").write_text("8192\n")
    (two / "pids.events").write_text("max 5\n")
    assert read_counters(Cgroup(places=((first, str(one)),))) == CgroupCounters(out_of_memory_kills=2, memory_peak_bytes=4096)
    assert read_counters(Cgroup(places=((second, str(two)),))) == CgroupCounters(
        out_of_memory_kills=1, memory_peak_bytes=8192, pids_limit_hits=5
    )


def test_counters_of_a_group_that_is_gone_are_zero(tmp_path: Path) -> None:
    found = Hierarchy(version=2, mount=str(tmp_path), controllers=frozenset({"memory", "pids"}))
    assert read_counters(Cgroup(places=((found, str(tmp_path / "gone")),))) == CgroupCounters()


def test_removing_takes_empty_parents_along_and_stops_at_others(tmp_path: Path) -> None:
    found = Hierarchy(version=1, mount=str(tmp_path), controllers=frozenset({"pids"}))
    (tmp_path / "contain/session/1/below").mkdir(parents=True)
    (tmp_path / "contain/other").mkdir()
    assert remove_cgroup(Cgroup(places=((found, f"{tmp_path}/contain/session/1"),)))
    assert [path.name for path in (tmp_path / "contain").iterdir()] == ["other"]
    (tmp_path / "contain/other").rmdir()
    assert remove_cgroup(Cgroup(places=((found, f"{tmp_path}/contain/gone"),)))
    assert list(tmp_path.iterdir()) == []
