"""What the first process of a bundle does, and in which order."""

from __future__ import annotations

import json
from typing import Any

from contain.bundle_operations import (
    BundleOperation,
    EnterProfile,
    InstallFilter,
    KeepOnly,
    LeaveHost,
    MakeNode,
    MountEntry,
    TakeIdentity,
    TakeRootDirectory,
    WriteSysctl,
)
from contain.linux.springboard import render_springboard
from contain.oci_runtime.groups import Groups
from contain.oci_runtime.plan import BundlePlan, plan_bundle
from contain.operations import ChangeDirectory, MakePathReadOnly, MaskPath
from contain.runtime_spec.configuration import parse_configuration

KINDS = ("pid", "network", "ipc", "uts", "mount", "cgroup")


def plan(*, kinds: tuple[str, ...] = KINDS, filter_program: bytes | None = None, **members: Any) -> BundlePlan:
    linux = {"namespaces": [{"type": kind} for kind in kinds], **members.pop("linux", {})}
    process = {"args": ["sh"], "cwd": "/", "capabilities": {}, **members.pop("process", {})}
    document = {"ociVersion": "1.2.0", "root": {"path": "r"}, "process": process, "linux": linux, **members}
    groups = Groups(version=1, places=(("memory", "/cg/memory/x"), ("cpu,cpuacct", "/cg/cpu/x")))
    return plan_bundle(
        parse_configuration(json.dumps(document)), bundle="/b", root="/b/r", groups=groups, filter_program=filter_program
    )


def kinds_of(operations: tuple[BundleOperation, ...]) -> list[type]:
    return [type(operation) for operation in operations]


def test_without_no_new_privs_the_filter_comes_while_it_may_and_rights_go_after_it() -> None:
    identity = plan(filter_program=b"x").identity
    assert kinds_of(identity.become)[-2:] == [TakeIdentity, ChangeDirectory]
    assert kinds_of(identity.drop) == [InstallFilter, KeepOnly]
    assert identity.last == ()


def test_with_no_new_privs_the_filter_is_the_very_last() -> None:
    identity = plan(filter_program=b"x", process={"noNewPrivileges": True}).identity
    assert kinds_of(identity.drop) == [KeepOnly]
    assert kinds_of(identity.last) == [InstallFilter]
    assert not any(isinstance(operation, TakeIdentity) and operation.filter_follows for operation in identity.become)


def test_a_profile_is_entered_by_the_execution_of_the_program() -> None:
    assert kinds_of(plan(process={"apparmorProfile": "docker-default"}).identity.last) == [EnterProfile]
    assert plan(process={"apparmorProfile": "unconfined"}).identity.last == ()


def test_masks_and_parameters_are_set_before_the_root_is_entered() -> None:
    found = plan(linux={"maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"], "sysctl": {"net.ipv4.ip_forward": "1"}})
    order = kinds_of(found.enter)
    assert order.index(WriteSysctl) < order.index(MaskPath) < order.index(MakePathReadOnly) < order.index(LeaveHost)
    assert WriteSysctl(name="net/ipv4/ip_forward", value="1") in found.enter


def test_a_parameter_of_an_interface_with_a_dot_in_its_name() -> None:
    found = plan(linux={"sysctl": {"net.ipv4.conf.eth0/1.forwarding": "1", "net/ipv4/conf/a.b/forwarding": "2"}})
    names = [operation.name for operation in found.enter if isinstance(operation, WriteSysctl)]
    assert names == ["net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/a.b/forwarding"]


def test_devices_are_made_or_in_a_user_namespace_bound() -> None:
    maps = [{"containerID": 0, "hostID": 5, "size": 10}]
    made = [operation for operation in plan().root if isinstance(operation, MakeNode)]
    assert {node.path for node in made} == {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")}
    assert not any(node.bind for node in made)
    inner = plan(kinds=(*KINDS, "user"), linux={"uidMappings": maps, "gidMappings": maps})
    assert all(operation.bind for operation in inner.root if isinstance(operation, MakeNode))


def test_a_dev_of_the_machine_is_not_written_to() -> None:
    found = plan(mounts=[{"destination": "/dev", "type": "none", "source": "/dev", "options": ["rbind"]}])
    assert not any(isinstance(operation, MakeNode) for operation in found.root)


def test_without_a_mount_namespace_of_its_own_the_root_is_seen_nowhere_else() -> None:
    found = plan(kinds=("pid",))
    assert isinstance(found.root[0], TakeRootDirectory)
    assert found.root[0].detached
    assert not plan().root[0].detached  # type: ignore[union-attr]


def test_groups_are_bound_where_the_namespace_is_shared() -> None:
    mount = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid"]}
    own = [operation for operation in plan(mounts=[mount]).root if isinstance(operation, MountEntry)]
    assert [(entry.kind, entry.target) for entry in own[1:]] == [
        ("cgroup", "/sys/fs/cgroup/memory"),
        ("cgroup", "/sys/fs/cgroup/cpu,cpuacct"),
    ]
    shared = plan(kinds=tuple(kind for kind in KINDS if kind != "cgroup"), mounts=[mount])
    bound = [operation for operation in shared.root if isinstance(operation, MountEntry)]
    assert [(entry.bind, entry.source) for entry in bound[1:]] == [(True, "/cg/memory/x"), (True, "/cg/cpu/x")]


def test_relative_sources_lie_in_the_bundle() -> None:
    found = plan(mounts=[{"destination": "/x", "type": "bind", "source": "data", "options": ["bind"]}])
    assert [operation.source for operation in found.root if isinstance(operation, MountEntry)] == ["/b/data"]


def test_the_springboard_is_a_small_program_for_both_architectures() -> None:
    for machine, number in (("x86_64", 62), ("aarch64", 183)):
        image = render_springboard(machine, 200)
        assert image[:4] == b"\x7fELF"
        assert image[18] == number
        assert len(image) < 300
