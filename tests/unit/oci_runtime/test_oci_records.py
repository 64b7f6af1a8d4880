"""What the OCI runtime keeps of a container, and how its state reads."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from contain.errors import Conflict, HostError, NotFound, UsageError
from contain.oci_runtime.control import parse_signal, parse_update
from contain.oci_runtime.example import render_example, render_features
from contain.oci_runtime.execute import parse_user
from contain.oci_runtime.groups import MountedHierarchy, parse_mounted, parse_own_groups, place_group
from contain.oci_runtime.records import CREATING, STOPPED, Place, Record, check_root, read_start_time
from contain.oci_runtime.state import render_listed, render_state
from contain.runtime_spec.configuration import parse_configuration

GOLDEN = Path(__file__).resolve().parents[2] / "golden/runtime-spec"


def record(**members: Any) -> Record:
    return Record(**{"container_id": "abc", "version": "1.2.0", "bundle": "/b", "root": "/b/rootfs", **members})


def schema_check(name: str, document: Any) -> list[str]:
    """What a schema of the specification has against a document."""
    jsonschema = pytest.importorskip("jsonschema")
    referencing = pytest.importorskip("referencing")
    draft = pytest.importorskip("referencing.jsonschema").DRAFT4
    resources = [
        (path.name, referencing.Resource.from_contents(json.loads(path.read_text()), default_specification=draft))
        for path in GOLDEN.glob("*.json")
    ]
    registry = referencing.Registry().with_resources(resources)
    validator = jsonschema.Draft4Validator({"$ref": name}, registry=registry)
    return [error.message for error in validator.iter_errors(document)]


@pytest.mark.parametrize("status", ["creating", "created", "running", "stopped"])
def test_a_state_keeps_to_the_schema(status: str) -> None:
    one = record(process_id=5, annotations=(("a", "b"),))
    for text in (render_state(one, status), json.dumps(render_listed(one, status)).encode()):
        assert schema_check("state-schema.json", json.loads(text)) == []


def test_the_schema_itself_can_refuse() -> None:
    assert schema_check("state-schema.json", {"id": 5})
    assert schema_check(
        "features-schema.json", json.loads((GOLDEN / "fixtures/features-bad-missing-ociVersionMax.json").read_text())
    )


def test_the_features_keep_to_the_schema() -> None:
    assert schema_check("features-schema.json", json.loads(render_features())) == []


@pytest.mark.parametrize("rootless", [False, True])
def test_the_example_is_valid_and_can_be_read_again(rootless: bool) -> None:
    text = render_example(rootless=rootless, user_id=1000, group_id=1000)
    assert parse_configuration(text).root == "rootfs"
    assert schema_check("config-schema.json", json.loads(text)) == []


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a b", "ä", "x" * 129])
def test_an_id_that_is_no_safe_file_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        Place(str(tmp_path), name)


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    place = Place(str(tmp_path), "abc")
    place.make()
    assert (tmp_path / "abc").stat().st_mode & 0o777 == 0o700
    with pytest.raises(Conflict):
        place.make()


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    place = Place(str(tmp_path), "abc")
    place.make()
    one = record(process_id=3, annotations=(("a", "b"),), groups=(("cpu,cpuacct", "/x"),))
    place.write_record(one)
    assert place.read_record() == one
    with pytest.raises(NotFound):
        Place(str(tmp_path), "other").read_record()


def test_what_is_being_made_is_creating_until_its_maker_dies(tmp_path: Path) -> None:
    place = Place(str(tmp_path), "abc")
    place.make()
    lock = place.lock()
    assert place.read_status(record()) == CREATING
    os.close(lock)
    assert place.read_status(record()) == STOPPED


def test_another_process_under_the_same_number_is_not_the_containers(tmp_path: Path) -> None:
    place = Place(str(tmp_path), "abc")
    place.make()
    mine = read_start_time(os.getpid())
    assert mine > 0
    assert place.read_status(record(process_id=os.getpid(), start_time=mine)) == "running"
    assert place.read_status(record(process_id=os.getpid(), start_time=mine - 1)) == STOPPED


def test_a_state_directory_that_everybody_may_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(HostError, match="everybody"):
        check_root(str(tmp_path))
    tmp_path.chmod(0o755)
    check_root(str(tmp_path))


def test_signals_by_name_and_number() -> None:
    assert [parse_signal(text) for text in ("", "9", "KILL", "sigkill", "SIGRTMIN+3")] == [15, 9, 9, 9, signal.SIGRTMIN + 3]
    for bad in ("NONSENSE", "99", "_DFL", "-1", "KILL+3"):
        with pytest.raises(UsageError):
            parse_signal(bad)


def test_users_are_numbers_within_bounds() -> None:
    assert parse_user("1000:5") == (1000, 5)
    assert parse_user("7") == (7, 0)
    for bad in ("4294967296", "4294967295", "", "1000:", "root", "-1", "\u0661"):
        with pytest.raises(UsageError):
            parse_user(bad)


def test_flags_of_update_win_over_its_document() -> None:
    found = parse_update(b'{"memory": {"limit": 5, "swap": 9}, "devices": []}', {"memory": "7", "cpuset-cpus": "0"})
    assert (found.memory_bytes, found.memory_and_swap_bytes, found.cpus) == (7, 9, "0")
    with pytest.raises(UsageError, match="--memory"):
        parse_update(None, {"memory": "1g"})


V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
)


def test_hierarchies_of_version_1_win_where_they_have_controllers() -> None:
    assert [(each.version, each.name) for each in parse_mounted(V1)] == [(1, "cpu,cpuacct"), (1, "name=systemd")]
    assert [each.version for each in parse_mounted("41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")] == [2]
    hybrid = "\n".join(line for line in V1.splitlines() if "cpu" not in line)
    assert [each.version for each in parse_mounted(hybrid)] == [2]


def test_a_groups_place() -> None:
    first = MountedHierarchy(version=1, mount="/cg/cpu", root="/", name="cpu")
    own = parse_own_groups("3:cpu:/user/me\n0::/two/three\n")
    assert place_group(first, "/docker/x", own, "abc") == "/cg/cpu/docker/x"
    assert place_group(first, "x", own, "abc") == "/cg/cpu/user/me/x"
    assert place_group(first, "", own, "abc") == "/cg/cpu/user/me/abc"
    second = MountedHierarchy(version=2, mount="/cg", root="/", name="")
    assert place_group(second, "", own, "abc") == "/cg/two/abc"
    for bad in ("/../x", "a/../../x", "system.slice:docker:abc"):
        with pytest.raises(UsageError):
            place_group(first, bad, own, "abc")
