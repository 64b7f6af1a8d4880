"""What flags ask of a container's surroundings: Docker's meanings, checks and words."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from contain.container.request import asked
from contain.errors import NotSupported, UsageError
from contain.linux.capabilities import CAPABILITY_NUMBERS, DEFAULT_CAPABILITIES
from contain.spec import MASKED_PATHS, READ_ONLY_PATHS, BlockLimit, Confinement, Device, Limits, Sharing

EVERY = frozenset(CAPABILITY_NUMBERS)


@pytest.mark.parametrize(
    ("added", "dropped", "kept"),
    [
        ([], [], DEFAULT_CAPABILITIES),
        (["net_bind_service"], ["ALL"], {"NET_BIND_SERVICE"}),
        (["CAP_KILL"], ["kill", "CAP_CHOWN"], DEFAULT_CAPABILITIES - {"CHOWN"}),
        (["CAP_SYS_ADMIN", "net_admin"], [], DEFAULT_CAPABILITIES | {"SYS_ADMIN", "NET_ADMIN"}),
        (["all"], [], EVERY),
        (["ALL"], ["sys_admin"], EVERY - {"SYS_ADMIN"}),
        (["ALL", "chown"], ["ALL"], EVERY),
        ([], ["all"], frozenset()),
    ],
)
def test_capabilities_are_added_and_dropped_as_docker_does(added: list[str], dropped: list[str], kept: set[str]) -> None:
    assert asked.parse_capabilities(added, dropped) == kept


def test_privileged_is_every_capability() -> None:
    assert asked.parse_capabilities([], ["ALL"], privileged=True) == EVERY


def test_an_unknown_capability_is_refused_in_dockers_words() -> None:
    with pytest.raises(UsageError, match='invalid CapAdd: unknown capability: "nope"'):
        asked.parse_capabilities(["nope"], [])
    with pytest.raises(UsageError, match='invalid CapDrop: unknown capability: "CAP_X"'):
        asked.parse_capabilities([], ["CAP_X"])


@pytest.mark.parametrize(
    ("options", "held"),
    [
        ([], Confinement()),
        (["no-new-privileges"], Confinement()),
        (["no-new-privileges:false"], Confinement(no_new_privileges=False)),
        (["no-new-privileges=false"], Confinement(no_new_privileges=False)),
        (["seccomp=unconfined"], Confinement(seccomp="unconfined")),
        (["seccomp:unconfined"], Confinement(seccomp="unconfined")),
        (["seccomp=builtin"], Confinement()),
        (["seccomp=p.json"], Confinement(seccomp="{}")),
        (["apparmor=unconfined"], Confinement()),
        (["apparmor=mine"], Confinement(apparmor="mine")),
        (["label=disable"], Confinement()),
        (["systempaths=unconfined"], Confinement(masked_paths=(), read_only_paths=())),
        (["unmask=ALL"], Confinement(masked_paths=(), read_only_paths=())),
        (["mask=/a:/b"], Confinement(masked_paths=(*MASKED_PATHS, "/a", "/b"))),
        (
            ["unmask=/proc/kcore:/proc/sys"],
            Confinement(
                masked_paths=tuple(path for path in MASKED_PATHS if path != "/proc/kcore"),
                read_only_paths=tuple(path for path in READ_ONLY_PATHS if path != "/proc/sys"),
            ),
        ),
        (["unmask=/proc/*", "mask=/proc/keys"], None),
    ],
)
def test_security_options(options: list[str], held: Confinement | None) -> None:
    found = asked.parse_security_options(options, profiles={"p.json": "{}"})
    if held is None:
        assert [path for path in found.masked_paths if path.startswith("/proc/")] == ["/proc/keys"]
        assert found.read_only_paths == ()
    else:
        assert found == held


def test_privileged_hides_nothing_and_security_options_come_on_top() -> None:
    found = asked.parse_security_options(["no-new-privileges", "mask=/x"], privileged=True)
    assert found == Confinement(
        seccomp="unconfined", no_new_privileges=True, masked_paths=("/x",), read_only_paths=(), privileged=True
    )


@pytest.mark.parametrize(
    "option",
    [
        "",
        "foo",
        "foo=bar",
        "seccomp",
        "seccomp=",
        "no-new-privileges=maybe",
        "systempaths=confined",
        "mask=x",
        "unmask=/a/../b",
    ],
)
def test_other_security_options_are_refused(option: str) -> None:
    with pytest.raises(UsageError, match=r"nvalid --security-opt") as caught:
        asked.parse_security_options([option])
    assert caught.value.code == "bad-security-option"


@pytest.mark.parametrize("option", ["label=type:svirt_t", "proc-opts=hidepid=2"])
def test_security_options_that_are_known_and_not_done_are_refused_by_name(option: str) -> None:
    with pytest.raises(NotSupported, match=option.partition("=")[0]):
        asked.parse_security_options([option])


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("/dev/a", ("/dev/a", "/dev/a", "rwm")),
        ("/dev/a:rw", ("/dev/a", "/dev/a", "rw")),
        ("/dev/a:/dev/b", ("/dev/a", "/dev/b", "rwm")),
        ("/dev/a:/dev/b:r", ("/dev/a", "/dev/b", "r")),
    ],
)
def test_devices(text: str, device: tuple[str, str, str]) -> None:
    source, target, access = device
    assert asked.parse_device(text) == Device(source=Path(source), target=PurePosixPath(target), access=access)


@pytest.mark.parametrize(
    "text", ["", "/dev/a:/dev/b:x", "/dev/a:/dev/b:r:w", "/dev/a:b", "/dev/a:/dev/../etc", "/dev/a:/dev/b:rr"]
)
def test_bad_devices_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        asked.parse_device(text)
    assert caught.value.code == "bad-device"


@pytest.mark.parametrize(
    "text", ["net.ipv4.ip_forward=1", "kernel.shmmax=1", "kernel.msgmax=2", "kernel.sem=1 2 3 4", "fs.mqueue.msg_max=5"]
)
def test_parameters_of_namespaces_can_be_set(text: str) -> None:
    name, _, value = text.partition("=")
    assert asked.parse_sysctl(text, host_network=False, host_ipc=False) == (name, value)


@pytest.mark.parametrize(
    "text", ["kernel.panic=1", "vm.swappiness=1", "net.ipv4.ip_forward", "", "kernel.shm=1", "net.../x=1", "fs.file-max=9"]
)
def test_parameters_of_the_machine_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not allowed") as caught:
        asked.parse_sysctl(text, host_network=False, host_ipc=False)
    assert caught.value.code == "sysctl-refused"


def test_parameters_of_a_shared_namespace_are_the_machines() -> None:
    with pytest.raises(UsageError, match="not allowed in the hosts network namespace"):
        asked.parse_sysctl("net.ipv4.ip_forward=1", host_network=True, host_ipc=False)
    with pytest.raises(UsageError, match="not allowed in the hosts ipc namespace"):
        asked.parse_sysctl("kernel.shmmax=1", host_network=False, host_ipc=True)


def test_shared_namespaces() -> None:
    words = ("", "private", "shareable", "none", "host", "container:web")
    assert [asked.parse_sharing(text, "--ipc", (*Sharing,)) for text in words] == [
        *(Sharing.PRIVATE, Sharing.PRIVATE, Sharing.SHAREABLE),
        *(Sharing.NONE, Sharing.HOST, Sharing.CONTAINER),
    ]
    for text in ("container", "container:"):
        with pytest.raises(UsageError, match="invalid IPC mode"):
            asked.parse_sharing(text, "--ipc", (*Sharing,))
    with pytest.raises(UsageError, match="invalid UTS mode"):
        asked.parse_sharing("none", "--uts", (Sharing.PRIVATE, Sharing.HOST))
    for text in ("container:web", "ns:/proc/1/ns/uts"):
        with pytest.raises(NotSupported, match=f"--uts {text}"):
            asked.parse_sharing(text, "--uts", (Sharing.PRIVATE, Sharing.HOST))


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("1024", 1024), ("1k", 1024), ("1.5K", 1536), ("2MB", 2 << 20), ("3gib", 3 << 30), ("1 t", 1 << 40)],
)
def test_sizes(text: str, number: int) -> None:
    assert asked.parse_bytes(text, "--memory") == number


@pytest.mark.parametrize("text", ["", "-1", "m", "1x", "1,5g", "0x10", "1e3"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r'invalid argument ".*" for "--memory" flag: invalid size'):
        asked.parse_bytes(text, "--memory")


MEBI = 1 << 20


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(memory_bytes=6 * MEBI - 1), "Minimum memory limit allowed is 6MB"),
        (Limits(memory_bytes=1 << 60), "more than any machine has"),
        (Limits(memory_swap_bytes=64 * MEBI), "You should always set the Memory limit when using Memoryswap limit, see usage"),
        (
            Limits(memory_bytes=64 * MEBI, memory_swap_bytes=32 * MEBI),
            "Minimum memoryswap limit should be larger than memory limit",
        ),
        (Limits(memory_swappiness=101), "Invalid value: 101, valid memory swappiness range is 0-100"),
        (Limits(memory_reservation_bytes=MEBI), "Minimum memory reservation allowed is 6MB"),
        (Limits(memory_bytes=8 * MEBI, memory_reservation_bytes=9 * MEBI), "can not be less than memory reservation limit"),
        (Limits(cpus=5.0), "Range of CPUs is from 0.01 to 4.00, as there are only 4 CPUs available"),
        (Limits(cpus=0.001), "Range of CPUs is from 0.01"),
        (Limits(cpus=1.0, cpu_period_microseconds=5000), "Nano CPUs and CPU Period cannot both be set"),
        (Limits(cpus=1.0, cpu_quota_microseconds=5000), "Nano CPUs and CPU Quota cannot both be set"),
        (Limits(cpu_period_microseconds=999), "CPU cfs period can not be less than 1ms"),
        (Limits(cpu_quota_microseconds=999), "CPU cfs quota can not be less than 1ms"),
        (Limits(cpu_shares=1), "Invalid CPU shares"),
        (Limits(block_weight=9), "Range of blkio weight is from 10 to 1000"),
    ],
)
def test_limits_that_do_not_go_together_are_refused_in_dockers_words(limits: Limits, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        asked.verify_limits(limits, processors=4)
    assert said in caught.value.message
    assert caught.value.code == "bad-limit"


def test_limits_that_go_together_are_taken() -> None:
    limits = Limits(
        memory_bytes=64 * MEBI,
        memory_swap_bytes=-1,
        memory_reservation_bytes=32 * MEBI,
        memory_swappiness=0,
        cpu_period_microseconds=50_000,
        cpu_quota_microseconds=-1,
        cpu_shares=2,
        block_weight=1000,
    )
    assert asked.verify_limits(limits, processors=1) == limits


@pytest.mark.parametrize(("text", "good"), [("0", True), ("0-2", True), ("0,3", True), ("0-3", False), ("4", False)])
def test_processors_must_be_there(text: str, good: bool) -> None:
    available = frozenset((0, 1, 2, 3)) if good else frozenset((0, 1))
    if good:
        assert asked.parse_processors(text, available, what="cpuset cpus", flag="--cpuset-cpus") == text
    else:
        with pytest.raises(UsageError, match=f"Requested CPUs are not available - requested {text}, available: 0,1"):
            asked.parse_processors(text, available, what="cpuset cpus", flag="--cpuset-cpus")


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "2-1", "0,,1", "0x1"])
def test_processors_that_are_no_list(text: str) -> None:
    with pytest.raises(UsageError, match=r"Invalid value .* for cpuset mems"):
        asked.parse_processors(text, frozenset((0, 1)), what="cpuset mems", flag="--cpuset-mems")


def test_limits_of_block_devices() -> None:
    assert asked.parse_block_limit("read_bps", "/dev/sda:1mb", "--device-read-bps") == BlockLimit(
        kind="read_bps", device=Path("/dev/sda"), value=MEBI
    )
    assert asked.parse_block_limit("weight", "/dev/sda:10", "--blkio-weight-device").value == 10
    assert asked.parse_block_limit("write_iops", "/dev/sda:77", "--device-write-iops").value == 77


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("read_bps", "/dev/sda", "bad format: /dev/sda"),
        ("read_bps", "sda:1mb", "bad format for device path"),
        ("read_bps", "/dev/sda:fast", "Unit is optional and can be kb, mb, or gb"),
        ("read_iops", "/dev/sda:1mb", "Number must be a positive integer"),
        ("weight", "/dev/sda:9", "invalid weight for device"),
    ],
)
def test_limits_of_block_devices_that_are_none(kind: str, text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        asked.parse_block_limit(kind, text, "--flag")
    assert said in caught.value.message


def test_umasks_and_scores() -> None:
    assert asked.parse_umask("0077") == 0o077
    with pytest.raises(UsageError, match="invalid umask 8"):
        asked.parse_umask("8")
    assert asked.verify_out_of_memory_score(-1000) == -1000
    with pytest.raises(UsageError, match=r"Invalid value 1001, range for oom score adj is \[-1000, 1000\]"):
        asked.verify_out_of_memory_score(1001)


def test_lists_of_the_kernel() -> None:
    assert asked.parse_list("0-2,5\n") == {0, 1, 2, 5}
    assert asked.parse_list("\n") == frozenset()
