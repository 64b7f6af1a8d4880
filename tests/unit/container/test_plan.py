"""Launch plans as text, compared with what is on record in ``tests/golden/plan``.

A plan that changes on purpose is written anew with ``CONTAIN_WRITE_GOLDEN=1``; read the difference before it is committed.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from contain.container.plan import MASKED, READ_ONLY, Workspace, plan_launch, plan_root, stub_paths
from contain.linux.capabilities import DEFAULT_CAPABILITIES, mask_of
from contain.linux.cgroups import Hierarchy
from contain.operations import (
    BecomeUser,
    EnterRoot,
    Execute,
    InstallSeccomp,
    MakeMountsPrivate,
    MountBind,
    MountFilesystem,
    MountRoot,
    Operation,
    SetHostname,
    render_operation,
)
from contain.spec import (
    Bind,
    Confinement,
    ContainerSpec,
    CopyOnWrite,
    Identity,
    Limits,
    MemoryFile,
    Network,
    ResourceLimit,
    Sharing,
    Tmpfs,
)

GOLDEN = Path(__file__).parents[2] / "golden/plan"
WORKSPACE = Workspace(directory=Path("/run/contain/work/c"), skeleton=Path("/run/contain/work/c/skeleton"))
SCRATCH = Workspace(
    directory=Path("/run/contain/work/c"),
    skeleton=Path("/run/contain/work/c/skeleton"),
    scratch=Path("/run/contain/work/c/scratch"),
    scratch_bytes=1 << 26,
    scratch_inodes=1000,
)
V1 = (
    Hierarchy(version=1, mount="/sys/fs/cgroup/cpu,cpuacct", controllers=frozenset({"cpu"}), mounted_with=("cpu", "cpuacct")),
    Hierarchy(version=1, mount="/sys/fs/cgroup/memory", controllers=frozenset({"memory"}), mounted_with=("memory",)),
)
V2 = (Hierarchy(version=2, mount="/sys/fs/cgroup", controllers=frozenset({"memory", "pids", "cpu"})),)
SECCOMP = bytes(8 * 100)


def spec(**changes: Any) -> ContainerSpec:
    values: dict[str, Any] = {
        "container_id": "c" * 64,
        "name": "web",
        "image_digest": "sha256:" + "1" * 64,
        "image_name": "app",
        "layers": (Path("/layers/low"), Path("/layers/high")),
        "upper": Path("/containers/c/upper"),
        "arguments": ("server", "--port", "80"),
        "environment": (("PATH", "/usr/bin:/bin"), ("TOKEN", "secret")),
        "working_directory": PurePosixPath("/app"),
        "identity": Identity(user_id=1000, group_id=1001, groups=(1002,)),
        "hostname": "box",
        "mounts": (),
        "network": Network.BRIDGE,
        "limits": Limits(),
        "read_only": False,
        "terminal": False,
        "stop_signal": 15,
        "capabilities": DEFAULT_CAPABILITIES,
    }
    return ContainerSpec(**{**values, **changes})


CASES: dict[str, tuple[ContainerSpec, Workspace, tuple[Hierarchy, ...]]] = {
    "bridge-on-version-2": (spec(), WORKSPACE, V2),
    "root-without-network-on-version-1": (spec(network=Network.NONE, identity=Identity()), WORKSPACE, V1),
    "hosts-network": (spec(network=Network.HOST), WORKSPACE, V2),
    "read-only-with-a-terminal": (spec(read_only=True, terminal=True), WORKSPACE, ()),
    "scratch-in-memory": (spec(upper=None), SCRATCH, V2),
    "mounts": (
        spec(
            mounts=(
                Bind(source=Path("/home/me/deep"), target=PurePosixPath("/data/deep/er"), read_only=True),
                Bind(source=Path("/home/me/resolv.conf"), target=PurePosixPath("/etc/resolv.conf")),
                CopyOnWrite(sources=(Path("/home/me/project"),), target=PurePosixPath("/home/me/project")),
                Tmpfs(target=PurePosixPath("/data"), size_bytes=4096, mode=0o700),
            )
        ),
        WORKSPACE,
        V2,
    ),
    "a-root-that-is-a-copy": (spec(copied=True, network=Network.NONE), WORKSPACE, ()),
    "the-machines-own-root": (spec(layers=(Path("/"),), upper=None), SCRATCH, V2),
}


def render(made: ContainerSpec, workspace: Workspace, hierarchies: tuple[Hierarchy, ...]) -> str:
    plan = plan_launch(made, workspace, hierarchies, SECCOMP)
    parts = (("outside", plan.outside), ("root", plan.root), ("start", plan.start))
    return "".join(f"# {name}\n" + "".join(render_operation(item) + "\n" for item in part) for name, part in parts)


@pytest.mark.parametrize("case", CASES)
def test_the_plan_is_the_one_on_record(case: str) -> None:
    text = render(*CASES[case])
    path = GOLDEN / case
    if os.environ.get("CONTAIN_WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_there_is_no_plan_on_record_without_a_case() -> None:
    assert sorted(path.name for path in GOLDEN.iterdir()) == sorted(CASES)


def whole(made: ContainerSpec) -> list[Operation]:
    plan = plan_launch(made, WORKSPACE, V1, SECCOMP)
    return [*plan.outside, *plan.root, *plan.start]


@pytest.mark.parametrize("case", CASES)
def test_the_order_is_safe_whatever_is_asked(case: str) -> None:
    operations = whole(CASES[case][0])
    kinds = [type(item) for item in operations]
    assert kinds[0] is MakeMountsPrivate
    assert kinds[-2:] == [InstallSeccomp, Execute]
    assert kinds[-3] is BecomeUser
    entered = kinds.index(EnterRoot)
    assert not {MountBind, MountFilesystem, MountRoot} & set(kinds[entered:])
    assert kinds.index(SetHostname) > entered


@pytest.mark.parametrize("case", CASES)
def test_the_kernels_own_paths_are_hidden_or_read_only_whatever_is_asked(case: str) -> None:
    text = render(*CASES[case])
    for path in MASKED:
        assert f"MaskPath target={path}\n" in text
    for path in READ_ONLY:
        assert f"MakePathReadOnly target={path}\n" in text


@pytest.mark.parametrize("case", CASES)
def test_devices_and_kernel_file_systems_cannot_be_changed_from_inside(case: str) -> None:
    for operation in whole(CASES[case][0]):
        match operation:
            case MountBind(source=source, read_only=read_only) if source.startswith(("/dev/", "/sys")):
                assert read_only, operation
            case MountFilesystem(kind="sysfs" | "cgroup" | "cgroup2", attributes=attributes):
                assert {"ro", "nosuid", "noexec", "nodev"} <= set(attributes)
            case MountFilesystem(target=target, attributes=attributes) if target != "/dev":
                assert {"nosuid", "noexec"} <= set(attributes)


def test_a_secret_in_the_environment_is_not_in_the_plans_text() -> None:
    assert "secret" not in render(*CASES["bridge-on-version-2"])
    assert "TOKEN" in render(*CASES["bridge-on-version-2"])


def test_mounts_are_made_from_the_outermost_in() -> None:
    targets = [item.target for item in whole(CASES["mounts"][0]) if isinstance(item, (MountBind, MountFilesystem))]
    assert targets.index("/data") < targets.index("/data/deep/er")


def test_a_file_of_the_users_over_etc_replaces_ours() -> None:
    sources = [
        item.source for item in whole(CASES["mounts"][0]) if isinstance(item, MountBind) and item.target == "/etc/resolv.conf"
    ]
    assert sources == ["/home/me/resolv.conf"]


def test_a_user_other_than_root_gets_the_bounding_set_only() -> None:
    become = next(item for item in whole(spec()) if isinstance(item, BecomeUser))
    assert become.bounding == mask_of(DEFAULT_CAPABILITIES)
    assert (become.user_id, become.group_id, become.groups, become.held) == (1000, 1001, (1002,), 0)
    assert become.no_new_privileges


def test_mount_points_are_made_in_the_skeleton_and_not_in_the_image(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_text("")
    made = spec(
        mounts=(
            Bind(source=tmp_path / "directory", target=PurePosixPath("/a/b")),
            Bind(source=tmp_path / "file", target=PurePosixPath("/a/c")),
            Bind(source=tmp_path / "file", target=PurePosixPath("/../../x")),
            Tmpfs(target=PurePosixPath("/")),
        )
    )
    assert stub_paths(made)[-3:] == (("/a", True), ("/a/b", True), ("/a/c", False))
    assert ("/etc/hosts", False) in stub_paths(made)


def test_what_is_written_survives_a_crash_only_where_it_is_kept() -> None:
    def volatile(workspace: Workspace) -> bool:
        return next(item for item in plan_root(spec(), workspace, ()) if isinstance(item, MountRoot)).volatile

    assert (volatile(WORKSPACE), volatile(SCRATCH)) == (False, True)


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        (MakeMountsPrivate(), "MakeMountsPrivate"),
        (InstallSeccomp(program=bytes(80)), "InstallSeccomp program=<10 instructions>"),
        (Execute(arguments=("sh",), environment=(("A", "b"),)), "Execute arguments=['sh'] environment=['A']"),
        (EnterRoot(read_only=False), "EnterRoot"),
        (EnterRoot(read_only=True), "EnterRoot read_only=True"),
    ],
)
def test_an_operation_is_one_line(operation: Operation, text: str) -> None:
    assert render_operation(operation) == text


def lines_of(made: ContainerSpec) -> list[str]:
    plan = plan_launch(made, WORKSPACE, V2, SECCOMP)
    return [render_operation(operation) for operation in (*plan.outside, *plan.root, *plan.start)]


def test_a_file_in_memory_is_never_shown_and_lies_where_only_the_container_sees_it() -> None:
    secret = MemoryFile(target=PurePosixPath("/run/secrets/s"), content=b"hunter2", mode=0o400, user_id=5)
    made = spec(mounts=(secret,))
    lines = lines_of(made)
    assert "hunter2" not in "\n".join(lines) + repr(made)
    scratch = next(
        number for number, line in enumerate(lines) if line.startswith("MountScratch path=/run/contain/work/c/memory")
    )
    written = next(number for number, line in enumerate(lines) if line.startswith("WriteMemoryFile"))
    assert scratch < written
    assert "data=<7 bytes>" in lines[written]
    assert ("/run/secrets/s", False) in stub_paths(made)


def test_without_confinement_nothing_is_filtered_or_hidden_and_the_namespaces_stay() -> None:
    usual, free = lines_of(spec()), lines_of(spec(confined=False))
    gone = {line.split()[0] for line in usual} - {line.split()[0] for line in free}
    assert gone == {"InstallSeccomp", "MaskPath", "MakePathReadOnly"}
    assert any(line.startswith("BecomeUser") and "no_new_privileges=True" in line for line in usual)
    assert not any("no_new_privileges=True" in line for line in free)


def test_limits_of_resources_are_set_before_privileges_are_given_up() -> None:
    names = [line.split()[0] for line in lines_of(spec(resource_limits=(ResourceLimit(name="nofile", soft=1, hard=2),)))]
    assert names.index("SetResourceLimit") < names.index("BecomeUser")


def credentials(**changes: Any) -> list[str]:
    operations = plan_launch(spec(**changes), WORKSPACE, V1, SECCOMP).start
    wanted = ("StartKeyring", "UseAppArmor", "BecomeUser", "InstallSeccomp", "SetUmask", "Execute")
    return [name for operation in operations if (name := type(operation).__name__) in wanted]


def test_the_filter_comes_last_but_where_privileges_may_be_gained_later() -> None:
    assert credentials() == ["BecomeUser", "InstallSeccomp", "Execute"]
    gaining = Confinement(no_new_privileges=False, apparmor="mine")
    assert credentials(confinement=gaining) == ["UseAppArmor", "StartKeyring", "InstallSeccomp", "BecomeUser", "Execute"]
    assert credentials(confinement=Confinement(seccomp="unconfined")) == ["BecomeUser", "Execute"]
    assert credentials(confinement=gaining, confined=False) == ["BecomeUser", "Execute"]
    assert credentials(umask=0o077) == ["SetUmask", "BecomeUser", "InstallSeccomp", "Execute"]


def test_nothing_is_masked_for_who_asked_for_that_and_everything_else_is_as_it_was() -> None:
    shown = whole(spec(confinement=Confinement(masked_paths=("/proc/keys",), read_only_paths=())))
    lines = [render_operation(item) for item in shown]
    assert [line for line in lines if line.startswith("MaskPath")] == ["MaskPath target=/proc/keys"]
    assert [line for line in lines if line.startswith("MakePathReadOnly target=/proc")] == []
    assert len(lines) == len(whole(spec())) - len(MASKED) - len(READ_ONLY) + 1


def test_shared_namespaces_are_named_and_nothing_of_theirs_is_set() -> None:
    plan = plan_launch(spec(uts=Sharing.HOST, ipc=Sharing.HOST, cgroup_namespace=Sharing.HOST), WORKSPACE, V1, SECCOMP)
    assert plan.shared == {"uts", "ipc", "cgroup"}
    assert not any(isinstance(item, SetHostname) for item in plan.root)
    assert "MountBind source=/dev/shm target=/dev/shm optional=True" in [render_operation(item) for item in plan.root]
    assert plan_launch(spec(), WORKSPACE, V1, SECCOMP).shared == frozenset()


def test_parameters_are_set_before_they_become_read_only_and_must_be_set() -> None:
    lines = [render_operation(item) for item in whole(spec(sysctls=(("net.ipv4.ip_forward", "1"),)))]
    place = lines.index("SetSysctl name=net/ipv4/ip_forward value=1 required=True")
    assert place < lines.index("MakePathReadOnly target=/proc/sys")
