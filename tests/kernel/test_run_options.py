"""Options of ``contain run`` on the real kernel, each command a process of its own: what is asked is what is there, and what cannot be
had is refused by name, with status 125, and nothing is made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contain.errors import HostError
from contain.linux.cgroups import EVERY, probe_hierarchies, update_limits
from contain.spec import Limits

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
]

Contain = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def contain(tmp_path_factory: pytest.TempPathFactory, small_tree: Path) -> Iterator[Contain]:
    """``contain`` with a home of its own and an image named ``small``, whose command shows its privileges."""
    directory = tmp_path_factory.mktemp("options")
    environment = {**os.environ, "CONTAIN_HOME": str(directory / "home"), "LC_ALL": "C.UTF-8", "MARK": "callers"}

    def contain(*words: str, before: str = "true") -> subprocess.CompletedProcess[str]:
        command = ["sh", "-c", f'{before} && exec "$@"', "sh", sys.executable, "-m", "contain.cli.start", *words]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=environment, stdin=subprocess.DEVNULL, check=False
        )

    with tarfile.open(directory / "small.tar", "w") as file:
        file.add(small_tree, arcname=".")
    for words in (
        ("import", str(directory / "small.tar"), "plain"),
        ("run", "--name", "base", "--network", "none", "plain", "true"),
        ("commit", "-c", "ENV FROM_IMAGE=yes", "base", "small"),
        ("rm", "base"),
    ):
        made = contain(*words)
        assert made.returncode == 0, (words, made.stderr)
    yield contain
    left = contain("ps", "-aq").stdout.split()
    assert not left or contain("rm", "-f", *left).returncode == 0
    assert os.listdir(directory / "home/run/work") == []


def shown(contain: Contain, *words: str, program: str) -> str:
    done = contain("run", "--rm", "--network", "none", *words, "small", "sh", "-c", program)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout.strip()


def needs(controller: str) -> int:
    """The version on which a controller is here."""
    for hierarchy in probe_hierarchies(EVERY):
        if controller in hierarchy.controllers:
            return hierarchy.version
    pytest.skip(f"this machine has no {controller} control group controller")


STATUS = "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status | cut -f2 | xargs"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "00000000a80425fb 1 2"),
        (("--cap-add", "SYS_PTRACE"), "00000000a80c25fb 1 2"),
        (("--cap-drop", "all", "--cap-add", "cap_chown"), "0000000000000001 1 2"),
        (("--security-opt", "no-new-privileges=false"), "00000000a80425fb 0 2"),
        (("--security-opt", "seccomp=unconfined"), "00000000a80425fb 1 0"),
        (("--security-opt", "seccomp=unconfined", "--security-opt", "no-new-privileges:false"), "00000000a80425fb 0 0"),
        (("--user", "1000"), "0000000000000000 1 2"),
    ],
)
def test_privileges_are_those_that_were_asked_for(contain: Contain, words: tuple[str, ...], expected: str) -> None:
    assert shown(contain, *words, program=STATUS) == expected


def test_all_capabilities_are_those_that_the_kernel_has(contain: Contain) -> None:
    every = (1 << int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1) - 1
    assert shown(contain, "--cap-add", "ALL", program=STATUS) == f"{every & (1 << 41) - 1:016x} 1 2"


def test_an_added_capability_gives_its_system_calls_back_inside_only(contain: Contain) -> None:
    mount = "mount -t tmpfs x /tmp 2>/dev/null && echo mounted || echo refused"
    assert shown(contain, program=mount) == "refused"
    assert shown(contain, "--cap-add", "SYS_ADMIN", program=mount) == "mounted"
    host = os.uname().nodename
    assert shown(contain, "--cap-add", "SYS_ADMIN", program="hostname other && hostname") == "other"
    assert os.uname().nodename == host


def test_privileged_hides_nothing_and_is_still_inside_its_user_namespace(contain: Contain) -> None:
    program = (
        f"{STATUS}; test -w /proc/sys/kernel/hostname && echo shown; mount | grep -c ' on /proc/' ; readlink /proc/self/ns/user"
    )
    lines = shown(contain, "--privileged", program=program).splitlines()
    assert lines[0].split()[1:] == ["0", "0"]
    assert int(lines[0].split()[0], 16) & 1 << 21  # SYS_ADMIN
    assert lines[1:3] == ["shown", "0"]
    assert lines[3] != os.readlink("/proc/self/ns/user")


def test_a_profile_of_the_users_is_the_filter_and_stays_it_for_exec(contain: Contain, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    rows = [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rows}))
    assert "No space left" in shown(contain, "--security-opt", f"seccomp={profile}", program="mkdir /tmp/x 2>&1 || true")
    name = "filtered"
    words = ("--security-opt", f"seccomp={profile}", "--umask", "0077", "--name", name, "small", "sleep", "1000")
    assert contain("run", "-d", "--network", "none", *words).returncode == 0
    profile.unlink()  # what was asked for is kept with the container
    done = contain("exec", name, "sh", "-c", "mkdir /tmp/x; umask")
    assert "No space left" in done.stderr
    assert done.stdout == "0077\n"


def test_a_second_program_gets_limits_and_score_of_the_container(contain: Contain) -> None:
    words = ("--ulimit", "nofile=77:99", "--oom-score-adj", "33", "--network", "none")
    assert contain("run", "-d", "--name", "second", *words, "small", "sleep", "1000").returncode == 0
    done = contain("exec", "second", "sh", "-c", "ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj")
    assert done.stdout.split() == ["77", "99", "33"]


def test_one_program_may_be_privileged_in_a_container_that_is_not(contain: Contain) -> None:
    assert contain("run", "-d", "--name", "whole", "--network", "none", "small", "sleep", "1000").returncode == 0

    def said(*words: str) -> str:
        done = contain(
            "exec", *words, "sh", "-c", f"{STATUS}; mount -t tmpfs x /tmp 2>/dev/null && umount /tmp && echo mounted"
        )
        return done.stdout.strip()

    before, inspected = said("whole"), contain("inspect", "whole").stdout
    every = (1 << min(41, int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1)) - 1
    assert said("--privileged", "whole") == f"{every:016x} 1 0\nmounted", "all capabilities, no new ones by a file, no filter"
    assert "mounted" not in before
    assert said("whole") == before
    assert contain("inspect", "whole").stdout == inspected
    host = os.uname().nodename
    contain("exec", "--privileged", "whole", "hostname", "other")
    assert os.uname().nodename == host
    clock = contain("exec", "--privileged", "whole", "date", "-s", "2001-01-01")
    assert "Operation not permitted" in clock.stderr, "the machine's clock is not the user namespace's"


def test_a_privileged_program_does_not_get_the_machines_capabilities(contain: Contain) -> None:
    assert (
        contain("run", "-d", "--name", "open", "--userns=host", "--network", "none", "small", "sleep", "1000").returncode == 0
    )
    done = contain("exec", "--privileged", "open", "true")
    assert done.returncode == 1
    assert "its capabilities would be this machine's" in done.stderr
    assert contain("exec", "open", "true").returncode == 0


def test_who_may_raise_limits_may_give_a_container_higher_ones(contain: Contain) -> None:
    status = Path("/proc/self/status").read_text()
    if not int(status.split("CapEff:")[1].split()[0], 16) >> 24 & 1:
        pytest.skip("this process has no CAP_SYS_RESOURCE")
    words = ("run", "--rm", "--network", "none", "--ulimit", "nofile=600:700", "small", "sh", "-c", "ulimit -Sn; ulimit -Hn")
    done = contain(*words, before="ulimit -n 500")
    assert done.stdout.split() == ["600", "700"], done.stderr


def test_a_made_container_starts_with_all_that_it_was_made_with(contain: Contain) -> None:
    needs("memory")
    words = ["--memory", "64m", "--cpus", "0.5", "--security-opt", "mask=/proc/version", "--cap-add", "SYS_PTRACE"]
    words += ["--sysctl", "net.ipv4.ip_forward=1", "--device", "/dev/zero:/dev/mine", "--device-cgroup-rule", "c 42:* r"]
    words += ["--ipc", "none", "--uts", "host", "--umask", "0027", "--network", "none"]
    program = (
        "cat /proc/sys/net/ipv4/ip_forward; umask; ls /dev/mine; test -e /dev/shm || echo none; cat /proc/version; sleep 1000"
    )
    assert contain("create", "--name", "made", *words, "small", "sh", "-c", program).returncode == 0
    for _ in range(2):  # and again when it is started again
        assert contain("restart", "-t", "0", "made").returncode == 0
    told = json.loads(contain("container", "inspect", "made").stdout)[0]["Effective"]
    assert "CAP_SYS_PTRACE" in told["Capabilities"]["Effective"]
    assert [name for name, found in told["Namespaces"].items() if found["Shared"]] == ["uts"]
    assert contain("stop", "-t", "0", "made").returncode == 0
    assert contain("logs", "made").stdout.splitlines()[-4:] == ["1", "0027", "/dev/mine", "none"]


def test_system_paths_can_be_shown_and_hidden(contain: Contain) -> None:
    program = "mount | grep -cE ' on /(proc|sys)/[^ ]+ ' || true"
    every, none, fewer, more = (
        int(shown(contain, *words, program=program))
        for words in (
            (),
            ("--security-opt", "systempaths=unconfined"),
            ("--security-opt", "unmask=/proc/sys"),
            ("--security-opt", "mask=/proc/version"),
        )
    )
    assert none < fewer == every - 1
    assert more == every + 1
    assert shown(contain, "--security-opt", "mask=/proc/version", program="cat /proc/version") == ""


def test_groups_are_added_by_name_and_number(contain: Contain) -> None:
    assert shown(contain, "--group-add", "tools", "--group-add", "44", program="id -G") == "0 44 2000"
    assert "Unable to find group nope" in refused(contain, "--group-add", "nope")


def test_parameters_of_its_namespaces_are_set(contain: Contain) -> None:
    words = ("--sysctl", "net.ipv4.ip_forward=1", "--sysctl", "kernel.msgmax=4096", "--sysctl", "fs.mqueue.msg_max=7")
    before = Path("/proc/sys/kernel/msgmax").read_text()
    program = "cd /proc/sys; cat net/ipv4/ip_forward kernel/msgmax fs/mqueue/msg_max | xargs"
    assert shown(contain, *words, program=program) == "1 4096 7"
    assert Path("/proc/sys/kernel/msgmax").read_text() == before


def test_a_parameter_that_the_kernel_refuses_is_an_error(contain: Contain) -> None:
    assert "SetSysctl" in refused(contain, "--rm", "--sysctl", "net.ipv4.ip_forward=perhaps")
    assert "SetSysctl" in refused(contain, "--rm", "--sysctl", "net.ipv4.no_such_thing=1")


def test_a_device_is_there_with_the_access_that_was_asked_for(contain: Contain) -> None:
    look = "ls -l /dev/mine | cut -c1; (: </dev/mine) 2>/dev/null && echo r; (: >/dev/mine) 2>/dev/null && echo w; true"
    assert shown(contain, "--device", "/dev/zero:/dev/mine", program=look).split() == ["c", "r", "w"]
    needs_devices()
    source = other_device()
    assert shown(contain, "--device", f"{source}:/dev/mine", program=look).split() == ["c", "r", "w"]
    assert shown(contain, "--device", f"{source}:/dev/mine:r", program=look).split() == ["c", "r"]
    assert "no such file or directory" in refused(contain, "--device", "/dev/no-such-device")


def needs_devices() -> None:
    if not any(hierarchy.version == 2 or hierarchy.only_devices for hierarchy in probe_hierarchies()):
        pytest.skip("this machine has no devices control group")


def other_device() -> str:
    """A device that no container has and that this process can open to read and to write."""
    for path in ("/dev/net/tun", "/dev/fuse", "/dev/loop-control", "/dev/kmsg"):
        try:
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:
            continue
        return path
    pytest.skip("this machine has no device that could be given away")


def test_namespaces_can_be_this_machines(contain: Contain) -> None:
    for kind, flag in (("ipc", "--ipc"), ("uts", "--uts"), ("cgroup", "--cgroupns")):
        own = os.readlink(f"/proc/self/ns/{kind}")
        assert shown(contain, flag, "host", program=f"readlink /proc/self/ns/{kind}") == own
        assert shown(contain, program=f"readlink /proc/self/ns/{kind}") != own
    assert shown(contain, "--uts", "host", program="hostname") == os.uname().nodename
    assert shown(contain, "--ipc", "none", program="test -e /dev/shm || echo none") == "none"
    assert shown(contain, "--domainname", "example.org", program="cat /proc/sys/kernel/domainname") == "example.org"


def test_shared_memory_can_be_another_containers_that_allows_it(contain: Contain) -> None:
    words = ("-d", "--network", "none")
    assert contain("run", *words, "--ipc", "shareable", "--name", "donor", "small", "sleep", "1000").returncode == 0
    done = contain("run", *words, "--ipc", "container:donor", "--name", "guest", "small", "sleep", "1000")
    assert done.returncode == 0, done.stderr
    look = "cat /dev/shm/x 2>/dev/null; readlink /proc/self/ns/ipc"
    theirs = contain("exec", "donor", "sh", "-c", f"echo shared >/dev/shm/x; {look}").stdout
    assert theirs.startswith("shared\nipc:")
    assert contain("exec", "guest", "sh", "-c", look).stdout == theirs  # a second program is in it too
    assert contain("run", *words, "--name", "alone", "small", "sleep", "1000").returncode == 0
    assert "non-shareable IPC" in refused(contain, "--rm", "--ipc", "container:alone")
    contain("rm", "-f", "guest", "alone")
    contain("kill", "donor")
    contain("wait", "donor")
    assert "cannot join IPC of a non running container" in refused(contain, "--rm", "--ipc", "container:donor")
    assert "No such container: nobody" in refused(contain, "--ipc", "container:nobody")


def test_the_score_and_the_mask_of_files(contain: Contain) -> None:
    assert shown(contain, "--oom-score-adj", "300", program="cat /proc/self/oom_score_adj") == "300"
    assert shown(contain, "--umask", "0077", program="umask; touch /tmp/x; stat -c %a /tmp/x") == "0077\n600"


def test_variables_come_from_files_first_and_can_be_taken_away(contain: Contain, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("A=file\nB=file\nMARK\n")
    words = ("--env-file", str(tmp_path / "env"), "-e", "B=flag")
    assert shown(contain, *words, program="echo $A $B $MARK $FROM_IMAGE") == "file flag callers yes"
    assert shown(contain, "--unsetenv", "FROM_IMAGE", program="echo x$FROM_IMAGE") == "x"
    assert shown(contain, "--unsetenv-all", "-e", "B=flag", program="echo x$FROM_IMAGE$B") == "xflag"


def test_a_read_only_root_with_a_place_to_write(contain: Contain) -> None:
    program = "touch /x 2>/dev/null || echo refused; touch /run/x && echo written"
    assert shown(contain, "--read-only", "--tmpfs", "/run", program=program) == "refused\nwritten"


def test_labels_and_annotations_are_on_record(contain: Contain, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("one=file\ntwo=file\nbare\n")
    words = ("--label-file", str(tmp_path / "labels"), "--label", "two=flag", "--label", "alone", "--annotation", "k=v")
    assert contain("create", "--name", "labelled", *words, "small", "true").returncode == 0
    spec = json.loads(contain("container", "inspect", "labelled").stdout)[0]["Spec"]
    labels = dict(spec["labels"])
    assert {name: labels[name] for name in ("one", "two", "bare", "alone")} == {
        "one": "file",
        "two": "flag",
        "bare": "",
        "alone": "",
    }
    assert spec["annotations"] == [["k", "v"]]


def test_the_id_goes_to_a_file_that_was_not_there(contain: Contain, tmp_path: Path) -> None:
    file = tmp_path / "cid"
    done = contain("run", "-d", "--cidfile", str(file), "--network", "none", "small", "true")
    assert file.read_text() == done.stdout.strip()
    assert "container ID file found" in refused(contain, "--cidfile", str(file))
    file.unlink()
    assert "No such image" in contain("run", "--cidfile", str(file), "--pull", "never", "no-such-image").stderr
    assert not file.exists()


def test_a_container_can_be_replaced(contain: Contain) -> None:
    first = contain("create", "--name", "twice", "small", "true").stdout
    assert contain("create", "--name", "twice", "small", "true").returncode != 0
    second = contain("create", "--name", "twice", "--replace", "small", "true").stdout
    assert second
    assert first.strip() not in contain("ps", "-aq", "--no-trunc").stdout
    assert "without --name" in contain("create", "--replace", "small", "true").stderr


def test_an_image_of_another_platform_is_not_taken_for_it(contain: Contain) -> None:
    done = contain("run", "--rm", "--pull", "never", "--platform", "linux/s390x", "small", "true")
    assert done.returncode == 125
    assert "does not match the specified platform: wanted linux/s390x" in done.stderr


LIMITS = [
    ("memory", ("--memory", "64m"), "memory/memory.limit_in_bytes", "67108864", "memory.max", "67108864"),
    ("memory", ("--memory-reservation", "32m"), "memory/memory.soft_limit_in_bytes", "33554432", "memory.low", "33554432"),
    ("cpu", ("--cpus", "0.5"), "cpu/cpu.cfs_quota_us", "50000", "cpu.max", "50000 100000"),
    ("cpu", ("-c", "512"), "cpu/cpu.shares", "512", "cpu.weight", "59"),
    ("cpu", ("--cpu-period", "50000", "--cpu-quota", "20000"), "cpu/cpu.cfs_quota_us", "20000", "cpu.max", "20000 50000"),
    ("cpuset", ("--cpuset-cpus", "0"), "cpuset/cpuset.cpus", "0", "cpuset.cpus", "0"),
    ("cpuset", ("--cpuset-mems", "0"), "cpuset/cpuset.mems", "0", "cpuset.mems", "0"),
    ("pids", ("--pids-limit", "77"), "pids/pids.max", "77", "pids.max", "77"),
    ("pids", ("--pids-limit", "-1"), "pids/pids.max", "max", "pids.max", "max"),
]


@pytest.mark.parametrize(("controller", "words", "first", "one", "second", "two"), LIMITS)
def test_limits_are_what_the_kernel_enforces(
    contain: Contain, controller: str, words: tuple[str, ...], first: str, one: str, second: str, two: str
) -> None:
    version = needs(controller)
    program = f"cd /sys/fs/cgroup; cat {first if version == 1 else second} 2>/dev/null || cat */{first.split('/')[1]}"
    assert shown(contain, *words, program=program) == (one if version == 1 else two)


def test_a_container_on_one_processor_has_one(contain: Contain) -> None:
    needs("cpuset")
    assert shown(contain, "--cpuset-cpus", "0", program="grep Cpus_allowed_list /proc/self/status | cut -f2") == "0"
    name = "pinned"
    contain("run", "-d", "--name", name, "--network", "none", "--cpuset-cpus", "0", "small", "sleep", "1000")
    done = contain("exec", name, "grep", "Cpus_allowed_list", "/proc/self/status")
    assert done.stdout.split() == ["Cpus_allowed_list:", "0"]


def test_what_a_container_really_got_is_told(contain: Contain) -> None:
    words = ("--cap-add", "SYS_PTRACE", "--security-opt", "no-new-privileges=false", "--oom-score-adj", "100", "--read-only")
    done = contain("run", "-d", "--name", "told", "--network", "none", *words, "--pids-limit", "99", "small", "sleep", "1000")
    assert done.returncode == 0, done.stderr
    told = json.loads(contain("container", "inspect", "told").stdout)[0]["Effective"]
    assert "CAP_SYS_PTRACE" in told["Capabilities"]["Bounding"]
    assert told["Capabilities"]["Ambient"] == []
    assert (told["NoNewPrivileges"], told["SeccompMode"], told["OomScoreAdj"], told["Umask"]) == (False, "filter", 100, "0022")
    root = next(mount for mount in told["Mounts"] if mount["Destination"] == "/")
    assert root["Type"] == "overlay" or os.environ.get("CONTAIN_STORAGE") == "copy"
    assert "ro" in root["Options"]
    assert [name for name, found in told["Namespaces"].items() if found["Shared"]] == []
    if any("pids" in hierarchy.controllers for hierarchy in probe_hierarchies()):
        assert "99" in [files.get("pids.max") for files in told["Limits"].values()]
    contain("kill", "told")
    contain("wait", "told")
    assert json.loads(contain("container", "inspect", "told").stdout)[0]["Effective"] is None


# -- refusals -----------------------------------------------------------------------------------------------------------------------


def refused(contain: Contain, *words: str) -> str:
    done = contain("run", "--name", "never", "--network", "none", *words, "small", "true")
    assert done.returncode == 125, (words, done.stdout, done.stderr)
    return done.stderr


REFUSED = (
    *("--volume-driver", "--runtime", "--gpus", "--storage-opt", "--cgroup-parent", "--pid", "--pod", "--tz", "--timeout"),
    *("--preserve-fds", "--secret", "--cpu-rt-period", "--kernel-memory"),
)


@pytest.mark.parametrize("flag", REFUSED)
def test_what_is_not_carried_out_is_refused_by_its_name_with_a_reason(contain: Contain, flag: str) -> None:
    said = refused(contain, flag, "x")
    assert f"{flag} is not supported: " in said
    assert "hint: " in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--memory", "5x"), 'invalid argument "5x" for "--memory" flag: invalid size: \'5x\''),
        (("--memory", "1m"), "Minimum memory limit allowed is 6MB"),
        (("--memory", "64m", "--memory-swap", "32m"), "Minimum memoryswap limit should be larger than memory limit, see usage"),
        (("--cpus", "many"), 'invalid argument "many" for "--cpus" flag: failed to parse many as a rational number'),
        (("--cpus", "100000"), "Range of CPUs is from 0.01 to"),
        (("--cpu-shares", "x"), 'invalid argument "x" for "--cpu-shares" flag: strconv.ParseInt: parsing "x": invalid syntax'),
        (("--cpuset-cpus", "9999"), "Requested CPUs are not available - requested 9999, available: "),
        (("--blkio-weight", "5"), "Range of blkio weight is from 10 to 1000"),
        (("--pids-limit", "x"), 'invalid argument "x" for "--pids-limit" flag'),
        (("--device-read-bps", "sda:1"), "bad format for device path"),
        (("--oom-score-adj", "2000"), "Invalid value 2000, range for oom score adj is [-1000, 1000]"),
        (("--cap-add", "NOPE"), 'invalid CapAdd: unknown capability: "NOPE"'),
        (("--security-opt", "x"), 'Invalid --security-opt: "x"'),
        (("--security-opt", "seccomp=/no/such/file"), "opening seccomp profile (/no/such/file) failed: open /no/such/file"),
        (("--security-opt", "seccomp=/etc/passwd"), "Decoding seccomp profile failed"),
        (("--sysctl", "kernel.panic=1"), "sysctl 'kernel.panic=1' is not allowed"),
        (("--device", "/dev/null:/dev/x:q"), "invalid device mode: q"),
        (("--device-cgroup-rule", "x"), "invalid device cgroup format 'x'"),
        (("--ipc", "nope"), "invalid IPC mode"),
        (("--uts", "host", "--hostname", "x"), "conflicting options: hostname and the UTS mode"),
        (("--umask", "9"), "invalid umask 9"),
        (("--pull", "x"), "invalid pull option: 'x'"),
        (("--isolation", "hyperv"), "--isolation hyperv is not supported"),
        (("--label-file", "/no/such/file"), "open /no/such/file"),
        (("--ulimit", "x"), "ulimit"),
        (("--shm-size", "x"), "size"),
    ],
)
def test_a_bad_value_is_refused_in_dockers_words_and_nothing_is_made(
    contain: Contain, words: tuple[str, ...], said: str
) -> None:
    assert said in refused(contain, *words)
    assert "never" not in contain("ps", "-a", "--format", "{{.Names}}").stdout.split()


# -- limits of a living container ---------------------------------------------------------------------------------------------------


def test_limits_of_a_living_container_can_be_changed(contain: Contain) -> None:
    version = needs("memory")
    needs("cpuset")
    words = ("-d", "--network", "none", "--memory", "64m", "small", "sh", "-c", "while :; do sleep 0.05; done")
    identifier = contain("run", *words).stdout.strip()

    def told(name: str) -> str | None:
        effective = json.loads(contain("container", "inspect", identifier).stdout)[0]["Effective"]
        return next((files[name] for files in effective["Limits"].values() if name in files), None)

    memory = "memory.limit_in_bytes" if version == 1 else "memory.max"
    assert told(memory) == str(64 << 20)
    update_limits(identifier, Limits(memory_bytes=256 << 20, pids=-1))  # more than memory and swap together were
    assert (told(memory), told("pids.max")) == (str(256 << 20), "max")
    update_limits(identifier, Limits(memory_bytes=32 << 20, memory_swap_bytes=40 << 20, pids=9))
    assert (told(memory), told("pids.max")) == (str(32 << 20), "9")
    update_limits(identifier, Limits(processors="0", cpus=0.5, pids=9))  # groups that it did not need so far
    assert told("cpuset.cpus") == "0"
    process = json.loads(contain("container", "inspect", identifier).stdout)[0]["State"]["Pid"]
    assert "Cpus_allowed_list:\t0\n" in Path(f"/proc/{process}/status").read_text()
    assert told("cpu.cfs_quota_us" if needs("cpu") == 1 else "cpu.max") in ("50000", "50000 100000")
    with pytest.raises(HostError, match="the limit cannot be set") as caught:
        update_limits(identifier, Limits(processors="4000"))
    assert caught.value.code == "cgroup-refused"
    contain("rm", "-f", identifier)
    for hierarchy in probe_hierarchies(EVERY):
        assert not os.path.exists(f"{hierarchy.mount}/contain/{identifier}")
