"""Places that stand in the way of containers: recognised by ``contain doctor`` and by the first command, with cause and remedy.

Each is made here, in mount or user namespaces that go with the test; nothing of the machine is changed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contain.linux import syscalls

Ordinary = Any  # tests/rootless/conftest.py
Covered = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to make hostile environments"),
]

_ROOT = Path(__file__).resolve().parents[2]
_RUN = ("run", "--rm", "--network", "none")


class Root:
    """Root, with a store of its own, in a place that is made before."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.store = place / "store"

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(_ROOT), str(_ROOT / "runtime")])
        return {"PATH": os.environ["PATH"], "HOME": str(self.place), "CONTAIN_HOME": str(self.store), "PYTHONPATH": path}

    def run(
        self, *arguments: str, private: Callable[[], None] | None = None, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[str]:
        def prepare() -> None:
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE, "")
            if private is not None:
                private()

        done = subprocess.run(
            arguments,
            env=self.environment(),
            input=stdin,
            capture_output=True,
            preexec_fn=prepare,
            timeout=60,
            check=False,
            cwd="/",
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def contain(self, *arguments: str, private: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
        return self.run(*self.command, *arguments, private=private)

    command = (sys.executable, "-P", "-m", "contain.cli.start")


@pytest.fixture
def root(tmp_path: Path, small_archive: bytes) -> Root:
    made = Root(tmp_path)
    done = made.run(*made.command, "import", "-", "small", stdin=small_archive)
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture
def image(ordinary: Ordinary, small_archive: bytes) -> Ordinary:
    ordinary.ok("import", "-", "small", stdin=small_archive)
    return ordinary


@pytest.fixture
def short_place() -> Iterator[Path]:
    """podman wants its run-time directory's name to be short."""
    place = Path(tempfile.mkdtemp(prefix="peer-"))
    yield place
    shutil.rmtree(place, ignore_errors=True)


def named(doctor: subprocess.CompletedProcess[str], command: subprocess.CompletedProcess[str], *words: str) -> None:
    """Both fail, and both say all of it."""
    assert doctor.returncode == 1, doctor
    assert command.returncode == 125, command
    for word in words:
        assert word in doctor.stdout, doctor.stdout
        assert word in command.stderr, command.stderr


# -- inside of other containers ----------------------------------------------------------------------------------------------------


def test_inside_of_a_container_of_ours(root: Root) -> None:
    inside = (
        *(
            "run",
            "--rm",
            "--network",
            "none",
            "-e",
            "CONTAIN_HOME=/tmp/inner",
            "-e",
            f"PYTHONPATH={root.environment()['PYTHONPATH']}",
        ),
        *("host", *root.command),
    )
    doctor, command = root.contain(*inside, "doctor"), root.contain(*inside, *_RUN, "host", "true")
    named(doctor, command, "a system call filter keeps containers from being made", "--privileged", "seccomp=unconfined")


def test_inside_of_a_peers_unprivileged_container_each_remedy_leads_to_the_next_and_the_last_helps(
    root: Root, short_place: Path, small_archive: bytes
) -> None:
    """podman's default container: no CAP_SYS_ADMIN, parts of /proc hidden, its root an overlay."""
    found = shutil.which("podman")
    if found is None:
        pytest.skip("podman is not installed")

    def outer(*options: str) -> tuple[str, ...]:
        return (
            *(found, "--root", str(short_place / "root"), "--runroot", str(short_place / "run"), "--cgroup-manager=cgroupfs"),
            *(
                "--runtime=runc",
                "run",
                "--rm",
                "--network=none",
                "--ulimit=nofile=1024:1024",
                "--ulimit=nproc=1024:1024",
                *options,
            ),
            *("-e", "CONTAIN_HOME=/mnt/inner", "-e", f"PYTHONPATH={root.environment()['PYTHONPATH']}", "--rootfs", "/:O"),
        )

    tried = root.run(*outer(), "true")
    if tried.returncode:
        pytest.skip(f"podman runs no container here: {tried.stderr.strip()[-200:]}")

    def both(*options: str) -> tuple[subprocess.CompletedProcess[str], subprocess.CompletedProcess[str]]:
        inside = (*outer(*options), *root.command)
        return root.run(*inside, "doctor"), root.run(*inside, *_RUN, "host", "id", "-u")

    named(*both("--tmpfs=/mnt"), "hides parts of /proc", "unmask=ALL")
    named(
        *both("--tmpfs=/mnt", "--security-opt=unmask=ALL"), "a system call filter keeps containers from", "seccomp=unconfined"
    )
    allowed = ("--security-opt=unmask=ALL", "--security-opt=seccomp=unconfined")
    told = both(*allowed)[0].stdout
    assert "no overlay can be written onto it" in told
    assert "set CONTAIN_HOME to a directory on" in told
    script = (
        'c="$*"; $c import - small && $c run --network none --name kept small sh -c "echo x >>/x; cat /x" && $c start -a kept'
    )
    kept = root.run(*outer(*allowed, "-i"), "sh", "-c", script, "sh", *root.command, stdin=small_archive)
    assert kept.stdout.split("\n")[1:] == ["x", "x", "x", ""], kept.stderr
    assert "storage by copying" in kept.stderr
    doctor, command = both(*allowed, "--tmpfs=/mnt")
    assert doctor.returncode == 0, doctor.stdout
    assert (command.returncode, command.stdout) == (0, "0\n"), command.stderr


# -- what somebody took away -------------------------------------------------------------------------------------------------------


def test_a_proc_of_which_parts_are_hidden(image: Ordinary) -> None:
    def mask() -> None:
        syscalls.mount("/dev/null", "/proc/cpuinfo", "", syscalls.MS_BIND, "")

    doctor, command = image.contain("doctor", private=mask), image.contain(*_RUN, "small", "true", private=mask)
    named(doctor, command, "hides parts of /proc (/proc/cpuinfo)", "systempaths=unconfined", "unmask=ALL")


def test_user_namespaces_that_are_switched_off(root: Root) -> None:
    """In a user namespace of the test's own, whose limit is its own, too."""
    off = (
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"',
        "sh",
    )
    doctor, command = root.run(*off, *root.command, "doctor"), root.run(*off, *root.command, *_RUN, "small", "true")
    named(doctor, command, "user namespaces are switched off here", "sysctl -w user.max_user_namespaces=10000")


@pytest.fixture
def covered(image: Ordinary) -> Covered:
    """A store on an overlay, as in a container without a volume."""
    place = image.place / "covered"
    for name in ("lower", "upper", "work", "store"):
        (place / name).mkdir(parents=True)
    image.give(place)

    def cover() -> None:
        data = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
        syscalls.mount("overlay", f"{place}/store", "overlay", 0, data)

    archive = str(image.place / "small.tar")
    assert image.ok("save", "small", "-o", archive) == ""

    def contain(*arguments: str, storage: str = "") -> subprocess.CompletedProcess[str]:
        env = {"CONTAIN_HOME": f"{place}/store", "CONTAIN_STORAGE": storage}
        done: subprocess.CompletedProcess[str] = image.contain(*arguments, private=cover, env=env)
        return done

    assert contain("load", "-i", archive).returncode == 0
    return contain


def test_a_store_on_an_overlay_keeps_what_goes_in_memory_and_says_what_becomes_of_the_rest(covered: Covered) -> None:
    doctor = covered("doctor")
    assert doctor.returncode == 0
    assert "no overlay can be written onto it; `run --rm` and tests keep what they write in memory" in doctor.stdout
    assert "all else in full copies of their images" in doctor.stdout
    assert "set CONTAIN_HOME to a directory on" in doctor.stdout
    assert "Driver: copy" in covered("info").stdout
    done = covered(*_RUN, "small", "sh", "-c", "echo x > /made; cat /made")
    assert (done.returncode, done.stdout.strip()) == (0, "x")
    assert "copying" not in done.stderr


def test_a_store_on_an_overlay_keeps_containers_as_copies(covered: Covered) -> None:
    done = covered(
        "run", "--network", "none", "--name", "kept", "small", "sh", "-c", "echo x >> /made; rm /etc/passwd; cat /made"
    )
    assert (done.returncode, done.stdout.strip()) == (0, "x"), done.stderr
    assert done.stderr.count("storage by copying (no overlay can be written onto the store's file system, overlay)") == 1
    assert "set CONTAIN_HOME" in done.stderr
    assert covered("start", "-a", "kept").stdout.split() == ["x", "x"]
    changes = covered("diff", "kept").stdout.splitlines()
    assert {"A /made", "D /etc/passwd"} <= set(changes)
    assert covered("commit", "kept", "small:changed").returncode == 0
    # the layer removes a file, with a mark that the kernel does not know: what goes with its container is a copy then, too
    gone = covered(*_RUN, "small:changed", "sh", "-c", "cat /made; ls /etc")
    assert gone.stdout.split()[:2] == ["x", "x"], gone.stderr
    assert "passwd" not in gone.stdout
    assert "the image removes files with marks that the kernel's overlay does not know" in gone.stderr
    assert covered("rm", "kept").returncode == 0
    refused = covered("run", "--network", "none", "small", "true", storage="overlay")
    assert refused.returncode == 125
    assert "the store is on a file system of the kind overlay, onto which the kernel writes no overlay" in refused.stderr
    assert "set CONTAIN_HOME" in refused.stderr


def test_a_store_on_an_overlay_builds_the_same_image_as_another_one(covered: Covered, image: Ordinary) -> None:
    context = image.place / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM small\nRUN echo one > /one && rm /etc/passwd && mkdir /etc/passwd\nRUN rm /one && chmod 700 /etc && echo x > /etc/x\n"
    )
    image.give(context)
    build = ("build", "-q", "--network", "none", str(context))
    assert covered(*build).stdout == image.contain(*build).stdout != ""


def test_a_store_on_a_file_system_of_another_program_is_tried_and_holds_copies(root: Root, small_archive: bytes) -> None:
    """No list names fuse-overlayfs, and it has an opinion of its own on devices 0:0."""
    if shutil.which("fuse-overlayfs") is None or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("fuse-overlayfs is not installed, or there is no /dev/fuse")
    for name in ("fuse-lower", "fuse-upper", "fuse-work"):
        (root.place / name).mkdir()
    script = f"""
        cd {root.place}
        fuse-overlayfs -o lowerdir=fuse-lower,upperdir=fuse-upper,workdir=fuse-work {root.store} || exit
        trap 'umount -l {root.store}' EXIT
        set -e
        "$@" import - small >/dev/null
        "$@" run --network none --name kept small rm /etc/passwd
        "$@" diff kept
        "$@" commit kept changed >/dev/null
        "$@" run --rm --network none changed ls -d /etc /etc/passwd || true
        "$@" rm kept
    """
    done = root.run("sh", "-c", script, "sh", *root.command, stdin=small_archive)
    assert done.stdout.split("\n") == ["C /etc", "D /etc/passwd", "/etc", "kept", ""], done.stderr
    assert "no overlay can be written onto the store's file system, fuse.fuse-overlayfs" in done.stderr


def test_a_store_from_which_no_program_may_be_started_holds_no_copies(root: Root, small_archive: bytes) -> None:
    def cover() -> None:
        syscalls.mount("store", str(root.store), "tmpfs", syscalls.MS_NOEXEC, "mode=700")

    script = '"$@" import - small && "$@" run --rm --network none small true && CONTAIN_STORAGE=copy "$@" run --network none small true'
    done = root.run("sh", "-c", script, "sh", *root.command, private=cover, stdin=small_archive)
    assert done.returncode == 125
    assert "where no program may be started (mount option noexec)" in done.stderr
    assert "set CONTAIN_HOME" in done.stderr


def test_control_groups_that_cannot_be_written(root: Root) -> None:
    def protect() -> None:
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            point = line.split()[4]
            if point.startswith("/sys/fs/cgroup"):
                flags = syscalls.MS_BIND | syscalls.MS_RDONLY | 0x20  # MS_REMOUNT
                syscalls.mount("", point, "", flags, "")

    assert root.contain(*_RUN, "small", "true", private=protect).returncode == 0
    refused = root.contain(*_RUN, "-m", "64m", "small", "true", private=protect)
    assert refused.returncode == 125
    assert "'memory'" in refused.stderr
    doctor = root.contain("doctor", private=protect)
    assert doctor.returncode == 0
    rows = {
        line[:14].strip(): line.split()[2]
        for line in doctor.stdout.splitlines()
        if line.startswith("cgroup ") and "limited" in line
    }
    assert rows == {"cgroup memory": "limited", "cgroup pids": "limited", "cgroup cpu": "limited"}
    assert "a writable /sys/fs/cgroup" in doctor.stdout


def test_limits_that_may_not_be_raised(image: Ordinary) -> None:
    most = int(image.ok(*_RUN, "small", "sh", "-c", "ulimit -H -n"))
    lower = image.contain(*_RUN, "--ulimit", f"nofile={most - 1}:{most - 1}", "small", "sh", "-c", "ulimit -H -n")
    assert (lower.returncode, lower.stdout.strip()) == (0, str(most - 1))
    refused = image.contain(*_RUN, "--ulimit", f"nofile={most + 1}:{most + 1}", "small", "true")
    assert refused.returncode == 125
    assert "CAP_SYS_RESOURCE" in refused.stderr


def test_no_pseudo_terminals_of_the_machine(image: Ordinary) -> None:
    def hide() -> None:
        syscalls.mount("none", "/dev/pts", "tmpfs", 0, "")

    done = image.contain(*_RUN, "small", "sh", "-c", "ls /dev/pts", private=hide)
    assert (done.returncode, done.stdout.split()) == (0, ["ptmx"])


def test_no_control_groups_at_all(image: Ordinary) -> None:
    def hide() -> None:
        syscalls.mount("none", "/sys/fs/cgroup", "tmpfs", 0, "")

    done = image.contain(*_RUN, "small", "echo", "runs", private=hide)
    assert (done.returncode, done.stdout) == (0, "runs\n")


# -- groups that are delegated -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def delegated(user: Ordinary) -> Iterator[Callable[[], None]]:
    """A group of the user's in each hierarchy of version 1; what puts a process into them."""
    places = []
    for controller in ("memory", "pids", "cpu", "freezer"):
        place = Path("/sys/fs/cgroup", controller, f"contain-test-{os.getpid()}")
        if not (place.parent / "cgroup.procs").exists():
            pytest.skip(f"no control group hierarchy of version 1 with {controller} here")
        place.mkdir()
        os.chown(place, user.user_id, user.group_id)
        places.append(place)

    def enter() -> None:
        for place in places:
            (place / "cgroup.procs").write_text("0")

    try:
        yield enter
    finally:
        for place in places:
            left = [each for each in place.iterdir() if each.is_dir()]
            for each in left:
                each.rmdir()
            place.rmdir()
            assert not left


def test_a_delegated_group_gives_limits_and_nothing_of_them_is_left(image: Ordinary) -> None:
    with delegated(image) as enter:
        out = image.ok(*_RUN, "-m", "64m", "--cpus", "0.5", "--pids-limit", "33", "small", "sh", "-c",
                       "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max", private=enter)  # fmt: skip
        assert out.split() == [str(64 << 20), "33"]
        killed = image.contain(
            *_RUN, "-m", "16m", "small", "sh", "-c", "x=$(head -c 64m /dev/zero | tr '\\0' x); true", private=enter
        )
        assert killed.returncode == 137
        doctor = image.contain("doctor", private=enter).stdout
        assert "no group is delegated" not in doctor
        image.ok("run", "-d", "--network", "none", "--name", "held", "small", "sleep", "60", private=enter)
        image.ok("pause", "held", private=enter)
        image.ok("unpause", "held", private=enter)
        image.ok("rm", "-f", "held", private=enter)


def test_without_one_a_limit_that_was_asked_for_is_an_error(image: Ordinary) -> None:
    if any(os.access(f"/sys/fs/cgroup/{name}", os.W_OK) for name in ("memory", "pids")) and os.geteuid() != 0:
        pytest.skip("a group is delegated")
    for option in ("--memory=64m", "--cpus=0.5", "--pids-limit=33"):
        refused = image.contain(*_RUN, option, "small", "true")
        assert refused.returncode == 125, option
        assert "control group" in refused.stderr
    assert "no group is delegated to this user" in image.contain("doctor").stdout
