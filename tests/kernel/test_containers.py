"""One container on the real kernel: how it ends, what it sees, what it may, and that nothing of it is left."""

from __future__ import annotations

import os
import pickle
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest

from contain.container.launch import CommandNotStarted
from contain.container.workspaces import sweep, sweep_groups_without_owner
from contain.linux.capabilities import DEFAULT_CAPABILITIES, mask_of
from contain.linux.cgroups import make_cgroup, probe_hierarchies, remove_cgroup
from contain.spec import Bind, CopyOnWrite, Identity, Limits, Network, Tmpfs

if TYPE_CHECKING:
    from tests.conftest import Ground

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
]
WORKER = Identity(user_id=1000, group_id=1000, groups=(2000,))


def controllers() -> frozenset[str]:
    return frozenset(name for hierarchy in probe_hierarchies() for name in hierarchy.controllers)


def needs_controller(name: str) -> None:
    if name not in controllers():
        pytest.skip(f"this machine has no {name} control group controller")


def rows(text: str) -> dict[str, str]:
    """Lines of the form ``name: value``."""
    return {name: value.strip() for name, colon, value in (line.partition(":") for line in text.splitlines()) if colon}


# -- how it ends ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 42, 125, 137, 255])
def test_the_exit_status_is_the_programs(ground: Ground, status: int) -> None:
    outcome = ground.sh(f"exit {status}")
    assert (outcome.status, outcome.state.signal, outcome.state.out_of_memory) == (status, None, False)


def test_streams_are_kept_apart_and_input_arrives(ground: Ground) -> None:
    outcome = ground.run("sh", "-c", "cat; echo problem >&2", stdin=b"typed\n")
    assert (outcome.out, outcome.err) == ("typed\n", "problem\n")


def test_a_signal_gives_128_and_its_number(ground: Ground) -> None:
    # One that the kernel forces: the first process of a PID namespace ignores what it has no handler for, as in Docker.
    outcome = ground.python("import ctypes, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); ctypes.string_at(0)")
    assert (outcome.status, outcome.state.signal) == (139, signal.SIGSEGV)
    assert outcome.state.describe() == "killed by signal 11"


@pytest.mark.parametrize(("program", "status"), [("nope", 127), ("/nope/nope", 127), ("/etc/passwd", 126), ("/etc", 126)])
def test_a_program_that_cannot_be_started_gives_126_or_127_and_leaves_nothing(
    ground: Ground, program: str, status: int
) -> None:
    with pytest.raises(CommandNotStarted, match=program) as caught:
        ground.run(program)
    assert caught.value.exit_status == status


def test_a_script_without_its_interpreter_says_so(ground: Ground, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(CommandNotStarted, match="interpreter"):
        ground.run("/script", mounts=(Bind(source=script, target=PurePosixPath("/script")),))


def test_a_container_killed_for_memory_says_so(ground: Ground) -> None:
    needs_controller("memory")
    outcome = ground.python("x = bytearray(256 << 20)", limits=Limits(memory_bytes=48 << 20))
    assert outcome.status == 137
    assert outcome.state.out_of_memory
    assert outcome.state.describe() == "killed: the memory limit of 48 MiB was reached"


def test_a_fork_bomb_ends_inside(ground: Ground) -> None:
    needs_controller("pids")
    outcome = ground.python(
        """
        import os, time
        made = 0
        try:
            while True:
                if os.fork() == 0:
                    time.sleep(60)
                    os._exit(0)
                made += 1
        except BlockingIOError:
            print(made)
        """,
        limits=Limits(pids=20),
    )
    assert 10 <= int(outcome.out) < 20, outcome
    assert outcome.state.pids_limit_hits >= 1


def test_a_limit_on_processors_is_what_the_kernel_enforces(ground: Ground) -> None:
    needs_controller("cpu")
    spec = ground.spec("sh", "-c", "cd /sys/fs/cgroup; cat cpu*/cpu.cfs_quota_us cpu.max unified/cpu.max 2>/dev/null")
    version = next(hierarchy.version for hierarchy in probe_hierarchies() if "cpu" in hierarchy.controllers)
    outcome = ground.run(*spec.arguments, limits=Limits(cpus=0.5))
    assert outcome.out.strip() == ("50000" if version == 1 else "50000 100000")


def test_processes_left_behind_do_not_outlive_the_first(ground: Ground) -> None:
    outcome = ground.sh("sleep 1000 & (sleep 1000 &) ; exit 3")
    assert outcome.status == 3


# -- what it sees --------------------------------------------------------------------------------------------------------------


def test_it_sees_its_own_processes_only(ground: Ground) -> None:
    outcome = ground.python("import os; print(os.getpid(), [name for name in os.listdir('/proc') if name.isdigit()])")
    assert outcome.out == "1 ['1']\n"


def test_the_host_name_is_its_own(ground: Ground) -> None:
    before = os.uname().nodename
    outcome = ground.sh("hostname; cat /etc/hostname; grep -c box /etc/hosts", hostname="box")
    assert outcome.out == "box\nbox\n1\n"
    assert os.uname().nodename == before


def test_without_a_network_there_is_loopback_only_and_it_works(ground: Ground) -> None:
    outcome = ground.python(
        """
        import os, socket
        print(sorted(os.listdir("/sys/class/net")))
        server = socket.create_server(("127.0.0.1", 0))
        socket.create_connection(server.getsockname(), timeout=5).close()
        try:
            socket.create_connection(("192.0.2.1", 9), timeout=5)
        except OSError as error:
            print(type(error).__name__, error.errno)
        """
    )
    assert outcome.out == "['lo']\nOSError 101\n", outcome


def test_the_hosts_network_is_shared_when_asked_for(ground: Ground) -> None:
    outcome = ground.sh("readlink /proc/self/ns/net", network=Network.HOST)
    assert outcome.out.strip() == os.readlink("/proc/self/ns/net")


def test_dev_holds_the_safe_devices_and_nothing_else(ground: Ground) -> None:
    outcome = ground.python(
        """
        import os, stat
        for name in sorted(os.listdir("/dev")):
            path = f"/dev/{name}"
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                print(name, "->", os.readlink(path))
            elif stat.S_ISCHR(mode):
                rdev = os.stat(path).st_rdev
                print(name, os.major(rdev), os.minor(rdev))
            else:
                print(name, oct(stat.S_IMODE(mode)))
        with open("/dev/null", "wb") as null, open("/dev/zero", "rb") as zero, open("/dev/urandom", "rb") as random:
            null.write(zero.read(16) + random.read(16))
        try:
            with open("/dev/full", "wb", buffering=0) as full:
                full.write(b"x")
        except OSError as error:
            print(error.strerror)
        """
    )
    assert outcome.out.splitlines() == [
        "fd -> /proc/self/fd",
        "full 1 7",
        "mqueue 0o1777",
        "null 1 3",
        "ptmx -> pts/ptmx",
        "pts 0o755",
        "random 1 8",
        "shm 0o1777",
        "stderr -> fd/2",
        "stdin -> fd/0",
        "stdout -> fd/1",
        "tty 5 0",
        "urandom 1 9",
        "zero 1 5",
        "No space left on device",
    ]


def test_only_the_standard_descriptors_are_open(ground: Ground) -> None:
    extra = os.open("/", os.O_RDONLY)
    os.set_inheritable(extra, True)
    try:
        outcome = ground.python(
            "import os; opened = [n for n in range(1024) if os.path.exists(f'/proc/self/fd/{n}')]; print(opened)"
        )
    finally:
        os.close(extra)
    assert outcome.out == "[0, 1, 2]\n"


def test_the_environment_is_the_given_one_and_nothing_of_the_callers(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "x")
    outcome = ground.run("env", environment=(("PATH", "/bin"), ("A", "b")))
    assert sorted(outcome.out.splitlines()) == ["A=b", "PATH=/bin"]


def test_every_mount_is_in_the_containers_own_table(ground: Ground) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    during = ground.directory / "during"
    during.write_text("")
    ground.sh("cat > /during", stdin=b"", mounts=(Bind(source=during, target=PurePosixPath("/during")),))
    assert Path("/proc/self/mountinfo").read_text() == before


# -- its files -----------------------------------------------------------------------------------------------------------------


def test_what_it_writes_is_gone_with_it_and_never_in_the_layer(ground: Ground) -> None:
    before = sorted(os.listdir(ground.tree))
    outcome = ground.sh("echo x > /written && echo y > /etc/passwd && rm -r /tmp && cat /written")
    assert outcome.out == "x\n", outcome.err
    assert sorted(os.listdir(ground.tree)) == before
    assert "root:x:0:0" in (ground.tree / "etc/passwd").read_text()
    assert ground.sh("ls /written").status != 0


def test_what_it_writes_is_in_the_upper_directory_that_was_given(ground: Ground) -> None:
    upper = ground.directory / "upper"
    ground.sh("echo x > /written; rm /etc/group", upper=upper)
    assert (upper / "written").read_text() == "x\n"
    whiteout = os.lstat(upper / "etc/group")
    assert stat.S_ISCHR(whiteout.st_mode)
    assert whiteout.st_rdev == 0


def test_a_read_only_root_cannot_be_written_but_its_memory_file_systems_can(ground: Ground) -> None:
    outcome = ground.sh("echo x > /written; echo y > /dev/shm/y && cat /dev/shm/y", read_only=True)
    assert outcome.out == "y\n"
    assert "Read-only file system" in outcome.err


def test_bind_mounts_write_through_unless_read_only(ground: Ground) -> None:
    shared = ground.directory / "shared"
    shared.mkdir()
    (shared / "there").write_text("there\n")
    places = {
        "mounts": (
            Bind(source=shared, target=PurePosixPath("/rw")),
            Bind(source=shared, target=PurePosixPath("/deep/ro"), read_only=True),
            Bind(source=shared / "there", target=PurePosixPath("/etc/there"), read_only=True),
        )
    }
    outcome = ground.sh(
        "cat /deep/ro/there /etc/there; echo made > /rw/made; echo x > /deep/ro/x; echo x > /etc/there", **places
    )
    assert outcome.out == "there\nthere\n"
    assert outcome.err.count("Read-only file system") == 2
    assert sorted(os.listdir(shared)) == ["made", "there"]


def test_a_read_only_bind_is_read_only_with_all_that_is_mounted_below_it(ground: Ground) -> None:
    outcome = ground.sh(
        "echo x > /x/shm/contain-was-here", mounts=(Bind(source=Path("/dev"), target=PurePosixPath("/x"), read_only=True),)
    )
    assert "Read-only file system" in outcome.err
    assert not os.path.exists("/dev/shm/contain-was-here")


def test_a_copy_on_write_directory_never_changes_the_hosts(ground: Ground) -> None:
    project = ground.directory / "project"
    (project / "deep").mkdir(parents=True)
    (project / "kept").write_text("kept\n")
    (project / "removed").write_text("removed\n")
    outcome = ground.sh(
        "cd /work/project && cat kept && echo new > kept && rm removed && echo x > deep/x && ls . deep && cat kept",
        mounts=(CopyOnWrite(sources=(project,), target=PurePosixPath("/work/project")),),
    )
    assert outcome.out.split() == ["kept", ".:", "deep", "kept", "deep:", "x", "new"], outcome.err
    assert sorted(os.listdir(project)) == ["deep", "kept", "removed"]
    assert (project / "kept").read_text() == "kept\n"
    assert os.listdir(project / "deep") == []


def test_a_copy_on_write_directory_keeps_its_owner_and_mode(ground: Ground) -> None:
    project = ground.directory / "project"
    project.mkdir()
    os.chown(project, 1000, 1000)
    project.chmod(0o2750)
    outcome = ground.sh(
        "cd /project && echo x > made && cat made && stat -c '%a %u %g' .",
        mounts=(CopyOnWrite(sources=(project,), target=PurePosixPath("/project")),),
        identity=WORKER,
    )
    assert outcome.out == "x\n2750 1000 1000\n", outcome.err
    assert os.listdir(project) == []


def test_a_memory_file_system_has_the_size_that_was_given(ground: Ground) -> None:
    outcome = ground.sh(
        "dd if=/dev/zero of=/small/x bs=1024 count=100", mounts=(Tmpfs(target=PurePosixPath("/small"), size_bytes=65536),)
    )
    assert "No space left on device" in outcome.err


def test_the_machines_own_root_can_be_the_image(ground: Ground) -> None:
    outcome = ground.sh("echo x > /contain-was-here && cat /contain-was-here && ls -d /usr", layers=(Path("/"),))
    assert outcome.out == "x\n/usr\n", outcome.err
    assert not os.path.exists("/contain-was-here")


@pytest.mark.machine
def test_a_directory_of_the_machines_own_root_can_be_removed_and_made_again(ground: Ground) -> None:
    tree = ground.directory / "tree"
    tree.mkdir()
    (tree / "file").touch()
    outcome = ground.sh(f"rm -r {tree} && mkdir {tree} && ls -A {tree} && echo empty", layers=(Path("/"),))
    assert outcome.out == "empty\n", outcome.err
    assert (tree / "file").exists()


# -- what it may ---------------------------------------------------------------------------------------------------------------


def test_root_has_dockers_capabilities_and_no_more(ground: Ground) -> None:
    status = rows(ground.run("cat", "/proc/self/status").out)
    mask = f"{mask_of(DEFAULT_CAPABILITIES):016x}"
    assert mask == "00000000a80425fb"
    assert [status[name] for name in ("CapPrm", "CapEff", "CapBnd")] == [mask] * 3
    assert [status[name] for name in ("CapInh", "CapAmb")] == ["0" * 16] * 2
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_a_user_has_no_capabilities(ground: Ground) -> None:
    status = rows(ground.run("cat", "/proc/self/status", identity=WORKER).out)
    assert [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == ["0" * 16] * 4
    assert status["Uid"].split() == ["1000"] * 4
    assert status["Gid"].split() == ["1000"] * 4
    assert status["Groups"].split() == ["2000"]
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_the_working_directory_is_made_for_its_user(ground: Ground) -> None:
    outcome = ground.sh("pwd; echo x > here && cat here", identity=WORKER, working_directory=PurePosixPath("/made/for"))
    assert outcome.out == "/made/for\nx\n", outcome.err


def test_a_user_may_bind_low_ports(ground: Ground) -> None:
    outcome = ground.python("import socket; print(socket.create_server(('127.0.0.1', 80)).getsockname()[1])", identity=WORKER)
    assert outcome.out == "80\n", outcome.err


@pytest.mark.parametrize(
    "path", ["/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity", "/sys/kernel/uevent_helper"]
)
def test_the_kernels_parameters_cannot_be_written(ground: Ground, path: str) -> None:
    if not os.path.exists(path):
        pytest.skip(f"this kernel has no {path}")
    outcome = ground.sh(f"echo x > {path}")
    assert "Read-only file system" in outcome.err


@pytest.mark.parametrize("path", ["/proc/keys", "/proc/timer_list", "/proc/interrupts", "/proc/kcore"])
def test_masked_files_are_empty(ground: Ground, path: str) -> None:
    if not os.path.exists(path):
        pytest.skip(f"this kernel has no {path}")
    outcome = ground.sh(f"cat {path}; stat -c %t:%T {path}")
    assert outcome.out == "1:3\n"


@pytest.mark.parametrize("path", ["/proc/acpi", "/sys/firmware"])
def test_masked_directories_are_empty_and_stay_so(ground: Ground, path: str) -> None:
    if not os.path.isdir(path):
        pytest.skip(f"this kernel has no {path}")
    outcome = ground.sh(f"ls -A {path}; mkdir {path}/x")
    assert outcome.out == ""
    assert "Read-only file system" in outcome.err


# -- what is left --------------------------------------------------------------------------------------------------------------


@contextmanager
def start_elsewhere(ground: Ground, script: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A container whose caller is a process of its own: that process, and the container's id."""
    spec = ground.spec("sh", "-c", script)
    source = (
        "import pickle, sys\n"
        "from pathlib import Path\n"
        "from contain.container.run import run\n"
        "spec = pickle.load(sys.stdin.buffer)\n"
        "run(spec, stdin=0, stdout=1, stderr=2, home=Path(sys.argv[1]))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source, str(ground.run_home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as caller:
        try:
            assert caller.stdin is not None
            assert caller.stdout is not None
            caller.stdin.write(pickle.dumps(spec))
            caller.stdin.close()
            assert caller.stdout.readline() == b"ready\n"
            yield caller, spec.container_id
        finally:
            caller.kill()


def wait_for(condition: str, check: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds} seconds: {condition}"
        time.sleep(0.02)


@pytest.mark.machine
def test_a_caller_killed_in_the_middle_takes_its_processes_along_and_the_next_sweep_takes_the_rest(ground: Ground) -> None:
    with start_elsewhere(ground, "(sleep 1000 &); echo ready; sleep 1000") as (caller, identifier):
        assert any("process" in item for item in ground.leftovers())
        caller.kill()
        caller.wait(timeout=10)
        wait_for("no process is left", lambda: not any("process" in item for item in ground.leftovers()))
        assert sweep(ground.run_home) == [identifier]


def test_a_sweep_leaves_running_containers_alone(ground: Ground) -> None:
    with start_elsewhere(ground, "echo ready; sleep 1000") as (caller, _):
        assert sweep(ground.run_home) == []
        assert caller.poll() is None
        caller.send_signal(signal.SIGINT)
        caller.wait(timeout=10)


def test_ctrl_c_leaves_nothing(ground: Ground) -> None:
    with start_elsewhere(ground, "echo ready; sleep 1000") as (caller, _):
        caller.send_signal(signal.SIGINT)
        caller.wait(timeout=10)
        ground.check_nothing_is_left()


@pytest.mark.machine
@pytest.mark.root
def test_empty_groups_of_a_deleted_store_go_and_groups_with_processes_stay() -> None:
    hierarchies = probe_hierarchies()
    empty = make_cgroup(hierarchies, "f" * 63 + "0", Limits())
    used = make_cgroup(hierarchies, "f" * 63 + "1", Limits())
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        for path in used.paths():
            Path(path, "cgroup.procs").write_text(str(sleeper.pid))
        removed = sweep_groups_without_owner(older_than_seconds=0)
        assert "f" * 63 + "0" in removed
        assert not any(os.path.exists(path) for path in empty.paths())
        assert all(os.path.exists(path) for path in used.paths())
    finally:
        sleeper.kill()
        sleeper.wait()
        remove_cgroup(empty)
        remove_cgroup(used)
