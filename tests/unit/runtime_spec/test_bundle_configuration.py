"""`contain.runtime_spec`: what a bundle asks for is read whole, and what it cannot have is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from contain.errors import NotSupported, UsageError
from contain.linux.capabilities import CAPABILITY_NUMBERS
from contain.runtime_spec.configuration import Configuration, parse_configuration
from contain.runtime_spec.process import CapabilitySets, Process, grant, name_capabilities, parse_cpu_list

FIXTURES = Path(__file__).resolve().parents[2] / "golden/runtime-spec/fixtures"
ALL = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")]


def parse(**members: Any) -> Configuration:
    """A configuration with the given members beside the least that it needs."""
    document = {"ociVersion": "1.2.0", "root": {"path": "rootfs"}, "linux": {"namespaces": ALL}, **members}
    return parse_configuration(json.dumps(document))


def process(**members: Any) -> dict[str, Any]:
    return {"args": ["sh"], "cwd": "/", **members}


def linux(**members: Any) -> dict[str, Any]:
    return {"namespaces": ALL, **members}


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("config-good-*.json")), ids=lambda path: path.stem)
def test_a_valid_document_of_the_specification_is_read_or_refused_by_name(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace('"0.5.0-dev"', '"1.2.0"')  # the example in full is older than 1.0
    said = ""
    try:
        parse_configuration(text)
    except NotSupported as error:
        said = str(error)
    # AppArmor, SELinux, Intel RDT, network devices: said by their member's name
    assert not said or said.startswith(("linux.", "process."))


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("config-bad-*.json")), ids=lambda path: path.stem)
def test_an_invalid_document_of_the_specification_is_refused(path: Path) -> None:
    with pytest.raises(UsageError):
        parse_configuration(path.read_bytes())


@pytest.mark.parametrize(
    ("members", "where"),
    [
        ({"ociVersion": "invalid"}, "ociVersion"),
        ({"ociVersion": "2.0.0"}, "ociVersion"),
        ({"root": None}, "root"),
        ({"root": {"path": 5}}, "root.path"),
        ({"process": {"cwd": "/"}}, "process.args"),
        ({"process": process(cwd="relative")}, "process.cwd"),
        ({"process": process(args=["a\0b"])}, "process.args[0]"),
        ({"process": process(user={"uid": 2**32})}, "process.user.uid"),
        ({"process": process(user={"uid": -1})}, "process.user.uid"),
        ({"process": process(user={"uid": True})}, "process.user.uid"),
        ({"process": process(user={"additionalGids": ["5"]})}, "process.user.additionalGids[0]"),
        ({"process": process(capabilities={"bounding": ["chown"]})}, "process.capabilities.bounding"),
        ({"process": process(rlimits=[{"type": "RLIMIT_TEST", "soft": 1, "hard": 1}])}, "process.rlimits[0].type"),
        ({"process": process(rlimits=[{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}])}, "process.rlimits[0].soft"),
        ({"process": process(rlimits=[{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2)}, "process.rlimits"),
        ({"process": process(oomScoreAdj=1001)}, "process.oomScoreAdj"),
        ({"process": process(selinuxLabel="x")}, "process.selinuxLabel"),
        ({"process": process(scheduler={"policy": "SCHED_NONE"})}, "process.scheduler.policy"),
        ({"process": process(ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 8})}, "process.ioPriority.priority"),
        ({"mounts": [{"source": "x"}]}, "mounts[0].destination"),
        ({"mounts": [{"destination": "/x"}]}, "mounts[0].type"),
        ({"mounts": [{"destination": "/x", "type": "bind"}]}, "mounts[0].source"),
        ({"mounts": [{"destination": "/x", "type": "tmpfs", "options": ["remount"]}]}, "mounts[0].options"),
        ({"mounts": [{"destination": "/x", "type": "none", "source": "/y", "options": ["rbind", "idmap"]}]}, "mounts[0]"),
        ({"hooks": {"prestart": [{"path": "relative"}]}}, "hooks.prestart[0].path"),
        ({"hooks": {"poststop": [{"path": "/x", "timeout": 0}]}}, "hooks.poststop[0].timeout"),
        ({"linux": {"namespaces": [{"type": "mount"}, {"type": "mount"}]}}, "linux.namespaces[1].type"),
        ({"linux": {"namespaces": [{"type": "planet"}]}}, "linux.namespaces[0].type"),
        ({"linux": {"namespaces": [{"type": "user"}]}}, "linux.uidMappings"),
        ({"linux": {"namespaces": [{"type": "mount"}]}, "hostname": "x"}, "hostname"),
        ({"linux": linux(uidMappings=[{"containerID": 0, "hostID": 0, "size": 1}])}, "linux.uidMappings"),
        ({"linux": linux(timeOffsets={"boottime": {"secs": 1}})}, "linux.timeOffsets"),
        ({"linux": linux(rootfsPropagation="everywhere")}, "linux.rootfsPropagation"),
        ({"linux": linux(intelRdt={"closID": "x"})}, "linux.intelRdt"),
        ({"linux": linux(devices=[{"path": "/dev/x", "type": "c", "major": 1}])}, "linux.devices[0].minor"),
        ({"linux": linux(devices=[{"path": "dev/x", "type": "p"}])}, "linux.devices[0].path"),
        ({"linux": linux(resources={"devices": [{"access": "rwm"}]})}, "linux.resources.devices[0].allow"),
        ({"linux": linux(resources={"devices": [{"allow": True, "access": "rx"}]})}, "linux.resources.devices[0].access"),
        ({"linux": linux(resources={"memory": {"limit": 100, "swap": 50}})}, "linux.resources.memory.swap"),
        ({"linux": linux(sysctl={"kernel.core_pattern": "|/x"})}, "linux.sysctl.kernel.core_pattern"),
        ({"linux": linux(sysctl={"net/../kernel/core_pattern": "|/x"})}, "linux.sysctl.net/../kernel/core_pattern"),
        (
            {"linux": {"namespaces": [{"type": "mount"}], "sysctl": {"net.ipv4.ip_forward": "1"}}},
            "linux.sysctl.net.ipv4.ip_forward",
        ),
        ({"vm": {"kernel": {"path": "/x"}}}, "vm"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_or_not_to_be_had_is_refused_by_its_member(members: dict[str, Any], where: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(**members)
    assert str(caught.value).startswith(where)


def test_unknown_members_and_annotations_are_no_error() -> None:
    found = parse(annotations={"org.example": "x"}, somethingNew={"a": 1})
    assert found.annotations == (("org.example", "x"),)


def test_an_unknown_capability_is_left_out() -> None:
    found = parse(process=process(capabilities={"bounding": ["CAP_CHOWN", "CAP_FROM_TOMORROW"]})).process
    assert found is not None
    assert found.capabilities == CapabilitySets(bounding=1 << CAPABILITY_NUMBERS["CHOWN"])


def test_capabilities_that_the_runtime_lacks_are_taken_out_and_told() -> None:
    asked = Process(
        arguments=("x",), capabilities=CapabilitySets(bounding=0b111, effective=0b011, permitted=0b011, ambient=0b010)
    )
    granted, missing = grant(asked, 0b101)
    assert granted.capabilities == CapabilitySets(bounding=0b101, effective=0b001, permitted=0b001)
    assert missing == 0b010
    assert name_capabilities(missing) == ("CAP_DAC_OVERRIDE",)


def test_a_list_of_processors() -> None:
    assert parse_cpu_list("0-2, 7", "x") == (0, 1, 2, 7)
    for bad in ("3-1", "a", "1-", "0-99999"):
        with pytest.raises(UsageError):
            parse_cpu_list(bad, "x")


def test_a_hook_without_an_environment_differs_from_one_with_an_empty_one() -> None:
    hooks = parse(hooks={"prestart": [{"path": "/a"}, {"path": "/b", "env": []}]}).hooks_of("prestart")
    assert [hook.environment for hook in hooks] == [None, ()]
