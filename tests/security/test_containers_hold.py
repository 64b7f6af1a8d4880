"""Known ways out of containers of other runtimes, tried on ours. Each test is named after the hole that it keeps closed."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
import signal
import stat
import sys
import textwrap
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest

import contain
import pytest_contain
from contain.container.request.identity import resolve_identity
from contain.container.request.resolve import RunRequest, resolve_spec
from contain.container.run import open_workspace, run, start
from contain.errors import ContainError, UsageError
from contain.oci import ImageConfig, Platform
from contain.spec import Bind, Identity, Network, Tmpfs, Volume
from tests.security.attacks import (
    WORKER,
    attempt,
    detached,
    digest,
    exec_in,
    flipping,
    left_open,
    output_of,
    read_terminal,
    untouched,
)

if TYPE_CHECKING:
    from tests.conftest import Ground

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
]
ON_X86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of system calls are x86-64's")


# -- 1 -------------------------------------------------------------------------------------------------------------------------


def test_cve_2019_5736_no_program_of_the_host_can_be_opened_for_writing(ground: Ground, outside: Path) -> None:
    """While it runs nobody can write it (ETXTBSY); who holds a descriptor of it until it has ended, can, if the mount lets him."""
    shutil.copy((ground.tree / "bin/sleep").resolve(), outside / "sleep")
    before = digest(outside / "sleep")
    outcome = ground.sh(
        "/app/sleep 0.3 & until [ $(readlink /proc/$!/exe) = /app/sleep ]; do :; done; exec 5</proc/$!/exe; wait; "
        "echo tried; echo owned > /proc/self/fd/5 && echo opened",
        mounts=(Bind(source=outside, target=PurePosixPath("/app"), read_only=True),),
    )
    assert outcome.out == "tried\n"
    assert digest(outside / "sleep") == before


WHO_AM_I = "import os; print('executed', os.readlink('/proc/self/exe'))"


@pytest.mark.parametrize("way", ["link", "script", "name"])
def test_cve_2019_5736_the_program_of_this_engine_is_never_executed_inside(ground: Ground, image: Path, way: str) -> None:
    """Between fork and exec a process of ours is the machine's Python: an image that names ``/proc/self/exe`` as a program or as an
    interpreter would execute it, and then have a descriptor of it."""
    (image / "link").symlink_to("/proc/self/exe")
    (image / "script").write_text(f"#!/proc/self/exe\n{WHO_AM_I}\n")
    (image / "script").chmod(0o755)
    program = ("/script",) if way == "script" else ("/link" if way == "link" else "/proc/self/exe", "-I", "-c", WHO_AM_I)
    mounts = ground.python_mounts()  # its libraries are there
    try:
        outcome = ground.run(*program, layers=(image,), mounts=mounts)
        assert "executed" not in outcome.out
        assert outcome.status != 0
    except ContainError:
        pass
    with (
        detached(ground, "sleep", "100", layers=(image,), mounts=mounts, upper=ground.directory / "upper") as (_, record),
        contextlib.suppress(ContainError),
    ):
        assert "executed" not in output_of(record, *program)


def test_cve_2019_5736_and_2016_9962_a_process_on_its_way_in_cannot_be_looked_into(ground: Ground) -> None:
    spy = """
        import ctypes, os
        libc = ctypes.CDLL(None)
        seen = set()
        print("ready", flush=True)
        while not os.path.exists("/stop"):
            for name in os.listdir("/proc"):
                if name.isdigit() and int(name) > 1:
                    traced = libc.ptrace(0x4206, int(name), 0, 0) == 0  # PTRACE_SEIZE, _INTERRUPT, and in the end _DETACH
                    try:
                        if traced:
                            libc.ptrace(0x4207, int(name), 0, 0)
                            os.waitpid(int(name), 0x40000000)
                        seen.add(os.readlink(f"/proc/{name}/exe"))
                        open(f"/proc/{name}/mem", "r+b", buffering=0).close()
                        seen.update(os.readlink(f"/proc/{name}/fd/{n}") for n in os.listdir(f"/proc/{name}/fd"))
                    except OSError:
                        pass
                    if traced:
                        libc.ptrace(17, int(name), 0, 0)
        open("/seen", "w").write("\\n".join(sorted(seen)))
    """
    python = os.path.realpath(sys.executable)
    with detached(
        ground, python, "-I", "-c", textwrap.dedent(spy), mounts=ground.python_mounts(), upper=ground.directory / "upper"
    ) as (_, record):
        for _ in range(30):
            assert exec_in(record, "true") == 0
        exec_in(record, "touch", "/stop")
        deadline = time.monotonic() + 10
        while not (ground.directory / "upper/seen").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        seen = (ground.directory / "upper/seen").read_text().splitlines()
    of_the_image = ("/bin/", "/lib", "/usr/lib", "/etc/ld.so", "/dev/null", "pipe:", "/stop", "/memfd:contain", "socket:")
    assert [path for path in seen if not path.startswith(of_the_image)] == []


# -- 2 -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("directory", ["/proc/self/fd/7", "/proc/self/cwd", "/../proc/1/root", "relative"])
def test_cve_2024_21626_such_a_working_directory_is_refused(directory: str) -> None:
    config = ImageConfig(platform=Platform(os="linux", architecture="amd64"), command=("true",), working_directory=directory)
    with pytest.raises(UsageError):
        resolve_spec(
            RunRequest(image="x"),
            container_id="0" * 64,
            name="x",
            image_digest="",
            config=config,
            layers=(),
            upper=None,
            identity=Identity(),
            home="/",
        )


LEFT_OPEN = 57


@pytest.mark.parametrize("number", [*range(3, 12), LEFT_OPEN, 200, 201, 202, 203])
def test_cve_2024_21626_a_link_to_a_descriptor_of_ours_is_no_working_directory(
    ground: Ground, image: Path, outside: Path, number: int
) -> None:
    (image / "work").symlink_to(f"/proc/self/fd/{number}")
    with left_open(outside, LEFT_OPEN):
        outcome = attempt(ground, "cat canary; pwd", layers=(image,), working_directory=PurePosixPath("/work"))
    assert outcome is None


def test_cve_2024_21626_exec_refuses_a_directory_outside(ground: Ground, outside: Path) -> None:
    with (
        detached(ground, "sleep", "100", upper=ground.directory / "upper") as (_, record),
        left_open(outside, LEFT_OPEN),
    ):
        for number in (*range(3, 12), LEFT_OPEN, 200, 201, 202, 203):
            with pytest.raises(ContainError):
                exec_in(record, "pwd", cwd=f"/proc/self/fd/{number}")


SHOW_DESCRIPTORS = "for n in /proc/self/fd/*; do readlink $n; cat $n/canary 2>/dev/null; done; true"


def test_cve_2024_21626_a_descriptor_left_open_reaches_no_program(ground: Ground, outside: Path) -> None:
    with left_open(outside, LEFT_OPEN):
        outcome = ground.sh(SHOW_DESCRIPTORS)
        with detached(ground, "sleep", "100", upper=ground.directory / "upper") as (_, record):
            executed = output_of(record, "sh", "-c", SHOW_DESCRIPTORS)
    for text in (outcome.out, executed):
        assert "alive" not in text
        assert str(outside) not in text


# -- 3, 4 ----------------------------------------------------------------------------------------------------------------------


def test_cve_2025_31133_a_null_device_of_the_image_is_not_used(ground: Ground, image: Path, outside: Path) -> None:
    (image / "dev").mkdir(exist_ok=True)
    (image / "dev/null").symlink_to(outside / "canary")
    outcome = ground.sh("echo x > /dev/null; stat -c %t:%T /dev/null /proc/keys", layers=(image,))
    assert outcome.out == "1:3\n1:3\n"
    assert untouched(outside)


def test_cve_2025_52565_the_terminal_is_the_containers_own(ground: Ground, image: Path) -> None:
    (image / "dev").mkdir(exist_ok=True)
    (image / "dev/console").symlink_to("/etc/passwd")
    (image / "dev/pts").symlink_to("/etc")
    before = sorted(os.listdir("/dev/pts"))
    spec = ground.spec("sh", "-c", "tty; ls /dev/pts", layers=(image,), terminal=True)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    with (
        open_workspace(spec, ground.run_home) as workspace,
        start(spec, workspace, stdio=(null, null, null), home=ground.run_home) as running,
    ):
        text = read_terminal(running.launched)
        running.launched.wait()
    os.close(null)
    assert text.split() == ["/dev/pts/0", "0", "ptmx"]
    assert sorted(os.listdir("/dev/pts")) == before


# -- 5, 6 ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["proc", "sys", "dev", "etc", "tmp", "run"])
@pytest.mark.parametrize(
    "target", ["{outside}", "/../../../../../..{outside}", "../../../../../../..{outside}", "/proc/1/root{outside}", "/nowhere"]
)
def test_cve_2026_41579_and_2019_19921_links_in_place_of_directories_stay_inside(
    ground: Ground, image: Path, outside: Path, name: str, target: str
) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(image / name)
    (image / name).symlink_to(target.format(outside=outside))
    outcome = attempt(
        ground,
        "touch /proc/x /sys/x /dev/x /etc/x /tmp/x /run/x; cat /proc/self/mountinfo",
        layers=(image,),
        working_directory=PurePosixPath("/tmp/work"),
        mounts=(Bind(source=outside / "canary", target=PurePosixPath("/run/app/canary"), read_only=True),),
    )
    assert untouched(outside)
    if outcome is not None:
        assert "/proc rw,nosuid,nodev,noexec" in outcome.out
        assert name not in ("proc", "sys", "dev")


def test_a_plain_file_in_place_of_proc_is_refused(ground: Ground, image: Path) -> None:
    (image / "proc").write_text("")
    with pytest.raises(ContainError, match="/proc of the image is not an ordinary directory"):
        ground.sh("true", layers=(image,))


@pytest.mark.parametrize("kind", [Bind, Tmpfs, Volume])
@pytest.mark.parametrize("target", ["/proc", "/proc/sys", "/link", "/link/sys/kernel", "/proc/self/attr"])
def test_cve_2019_19921_nothing_is_mounted_inside_proc(
    ground: Ground, image: Path, outside: Path, target: str, kind: type
) -> None:
    (image / "link").symlink_to("/proc")
    place = PurePosixPath(target)
    mount: Bind | Tmpfs | Volume = Tmpfs(target=place)
    if kind is Bind:
        mount = Bind(source=outside, target=place)
    elif kind is Volume:
        mount = Volume(name="data", source=outside, target=place)
    with pytest.raises(ContainError, match="cannot be mounted because it is inside /proc"):
        ground.sh("true", layers=(image,), mounts=(mount,))


@pytest.mark.parametrize("target", ["../run/resolver/stub.conf", "/run/stub.conf", "/../../../etc/other", "there"])
def test_a_resolver_file_that_is_a_link_to_nowhere_works(ground: Ground, image: Path, target: str) -> None:
    (image / "etc/resolv.conf").symlink_to(target)
    outcome = ground.sh("cat /etc/resolv.conf && echo readable && readlink /etc/resolv.conf", layers=(image,))
    assert outcome.out == f"readable\n{target}\n"


def test_links_in_a_circle_end(ground: Ground, image: Path) -> None:
    (image / "etc/resolv.conf").symlink_to("/etc/hosts")
    (image / "etc/hosts").symlink_to("/etc/resolv.conf")
    with pytest.raises(ContainError):
        ground.sh("true", layers=(image,))


# -- 7, 8 ----------------------------------------------------------------------------------------------------------------------


def test_cve_2021_30465_and_2024_45310_a_link_that_flips_during_set_up_leads_nowhere(ground: Ground, outside: Path) -> None:
    shared = ground.directory / "shared"
    shared.mkdir()
    mounted = ground.directory / "mounted"
    mounted.mkdir()
    (shared / "place").mkdir()
    (shared / "link").symlink_to(f"/../../../../../../..{outside}")
    inner = Bind(source=mounted, target=PurePosixPath("/shared/place/deep/er"))
    with flipping(shared / "place", shared / "link"):
        for number in range(24):
            over = (Bind(source=mounted, target=PurePosixPath("/shared/place")),) if number % 3 == 0 else ()
            attempt(ground, "true", mounts=(Bind(source=shared, target=PurePosixPath("/shared")), *over, inner))
            for made in ("place", "link"):  # so that there is again something to be made
                with contextlib.suppress(OSError):
                    (shared / made / "deep/er").rmdir()
                    (shared / made / "deep").rmdir()
    assert untouched(outside)


@pytest.mark.parametrize("target", ["/link/made", "/link/made/deep", "/file"])
def test_cve_2024_45310_mount_points_are_made_inside(ground: Ground, image: Path, outside: Path, target: str) -> None:
    (image / "link").symlink_to(f"/../../../../..{outside}")
    (image / "file").symlink_to(f"../../../../../..{outside}/made")
    source = outside if target != "/file" else outside / "canary"
    outcome = attempt(ground, f"ls {target}", layers=(image,), mounts=(Bind(source=source, target=PurePosixPath(target)),))
    assert untouched(outside)
    assert outcome is not None


# -- 9, 10 ---------------------------------------------------------------------------------------------------------------------


def test_cve_2022_0492_release_agent_is_out_of_reach(ground: Ground) -> None:
    outcome = ground.python(
        """
        import ctypes, glob, os
        libc = ctypes.CDLL(None, use_errno=True)
        os.mkdir("/cg")
        print(libc.mount(b"cgroup", b"/cg", b"cgroup", 0, b"memory"), libc.mount(b"none", b"/cg", b"cgroup2", 0, None))
        print(libc.unshare(0x10000000), libc.unshare(0x02000000), libc.unshare(0x00020000))
        print([path for path in glob.glob("/sys/fs/cgroup/**/release_agent", recursive=True) if os.access(path, os.W_OK)])
        """
    )
    assert outcome.out == "-1 -1\n-1 -1 -1\n[]\n"


@pytest.mark.parametrize("network", [Network.NONE, Network.HOST])
def test_cve_2023_25809_nothing_below_sys_can_be_written(ground: Ground, network: Network) -> None:
    outcome = ground.python(
        """
        import os
        opened, seen = [], 0
        for place, directories, files in os.walk("/sys/fs/cgroup"):
            for name in ("made", *files):
                seen += 1
                try:
                    os.close(os.open(f"{place}/{name}", os.O_WRONLY | os.O_CREAT))
                    opened.append(f"{place}/{name}")
                except OSError:
                    pass
            try:
                os.mkdir(f"{place}/group")
                opened.append(f"{place}/group")
                os.rmdir(f"{place}/group")  # it would be the machine's
            except OSError:
                pass
            if seen > 2000:
                break
        for path in ("/sys/kernel/uevent_seqnum", "/sys/class/net/lo/mtu", "/sys/kernel/mm/transparent_hugepage/enabled"):
            if os.path.exists(path):
                try:
                    os.close(os.open(path, os.O_WRONLY))
                    opened.append(path)
                except OSError:
                    pass
        print(opened, seen > 0)
        """,
        network=network,
    )
    assert outcome.out == "[] True\n", outcome


# -- 11 to 13 ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", [Identity(), WORKER])
def test_cve_2022_29162_exec_has_the_capabilities_of_run(ground: Ground, identity: Identity) -> None:
    with detached(ground, "sleep", "100", upper=ground.directory / "upper") as (_, record):
        text = output_of(record, "cat", "/proc/self/status", identity=identity)
    rows = {line.split(":")[0]: line.split(":")[1].strip() for line in text.splitlines() if ":" in line}
    own = "00000000a80425fb" if identity.user_id == 0 else "0" * 16
    assert [rows[name] for name in ("CapInh", "CapAmb")] == ["0" * 16] * 2
    assert [rows[name] for name in ("CapPrm", "CapEff")] == [own] * 2
    assert rows["CapBnd"] == "00000000a80425fb"
    assert (rows["NoNewPrivs"], rows["Seccomp"]) == ("1", "2")
    assert rows["Groups"].split() == [str(group) for group in identity.groups]


@pytest.mark.parametrize(
    "user", ["4294967296", "2147483648", "1000:", ":", ":0", "-1", "+0", "0x0", " 0", "\u0661", "1000:4294967296", "1_0"]
)
def test_cve_2024_40635_and_2026_30892_odd_users_are_refused_and_never_root(ground: Ground, user: str) -> None:
    with pytest.raises(UsageError):
        resolve_identity(user, (ground.tree,))


def test_cve_2026_30892_leading_zeros_are_decimal_and_an_empty_user_is_the_images(ground: Ground) -> None:
    assert resolve_identity("01000", (ground.tree,)).user_id == 1000
    assert resolve_identity("", (ground.tree,)) == resolve_identity("0", (ground.tree,))
    outcome = ground.sh("id -u", identity=resolve_identity("01000:02000", (ground.tree,)))
    assert outcome.out == "1000\n"


def spoil_with_fifo(path: Path, outside: Path) -> None:
    os.mkfifo(path)


def spoil_with_sparse_file(path: Path, outside: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(10 << 30)


def spoil_with_link(path: Path, outside: Path) -> None:
    (outside / "canary").write_text("intruder:x:0:0::/:/bin/sh\n")
    path.symlink_to(outside / "canary")


def spoil_with_directory(path: Path, outside: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("spoil", [spoil_with_fifo, spoil_with_sparse_file, spoil_with_link, spoil_with_directory])
def test_cve_2024_9676_and_2026_47262_account_files_are_read_from_the_image_only_and_not_without_end(
    ground: Ground, image: Path, outside: Path, spoil: Any
) -> None:
    (image / "etc/passwd").unlink()
    spoil(image / "etc/passwd", outside)
    before = resource.getrlimit(resource.RLIMIT_AS)
    signal.setitimer(signal.ITIMER_REAL, 10)  # who opens a FIFO waits
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, before[1]))  # who reads without end gets no memory
    try:
        with pytest.raises(UsageError, match="no matching entries"):
            resolve_identity("intruder", (image,))
        assert resolve_identity("1000", (image,)) == Identity(user_id=1000, group_id=0, groups=(0,))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_cve_2022_36109_supplementary_groups_are_the_images(ground: Ground) -> None:
    """And the primary group is among them: who gives it up (setgid(2)) must not reach what is denied to that group."""
    os.setgroups([0, 4, 27])
    try:
        outcome = ground.run("cat", "/proc/self/status", identity=resolve_identity("worker", (ground.tree,)))
    finally:
        os.setgroups([0])
    assert next(line for line in outcome.out.splitlines() if line.startswith("Groups:")).split() == ["Groups:", "1000", "2000"]


# -- 15 to 18 ------------------------------------------------------------------------------------------------------------------


def test_cve_2020_15257_and_2024_25621_no_abstract_socket_and_no_open_directory(ground: Ground) -> None:
    before = {line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if "@" in line}
    with detached(ground, "sleep", "100", network=Network.HOST, upper=ground.home / "upper") as (records, record):
        text = output_of(record, "cat", "/proc/net/unix")
        assert not [line for line in text.splitlines() if "@" in line and line.split()[-1] not in before and "contain" in line]
        for path in (ground.run_home / "work" / record.container_id, records.place(record.container_id), records.directory):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700, path


@pytest.mark.parametrize("request_number", [0x5412, 0x541C, 0xFFFFFFFF00005412, 0x100005412, 0x10000541C])
def test_cve_2017_5226_and_2019_10063_nothing_is_typed_into_a_terminal(ground: Ground, request_number: int) -> None:
    outcome = ground.python(
        f"""
        import ctypes, fcntl, os, pty, termios
        main, peer = pty.openpty()
        fcntl.ioctl(peer, termios.TIOCSCTTY, 0)  # into one's own terminal the kernel lets anybody type
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_char_p)
        print(libc.ioctl(peer, {request_number}, b"\\x02"), ctypes.get_errno())
        """
    )
    assert outcome.out == "-1 1\n", outcome


def test_cve_2020_5291_nothing_that_is_shipped_runs_as_somebody_else() -> None:
    for package in (contain, pytest_contain):
        for place, _, files in os.walk(Path(str(package.__file__)).parent):
            for name in files:
                path = os.path.join(place, name)
                assert not os.lstat(path).st_mode & (stat.S_ISUID | stat.S_ISGID), path
                assert "security.capability" not in os.listxattr(path), path


SYSTEM_CALLS = {
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "move_mount": 429, "open_tree": 428, "mount_setattr": 442, "mount": 165,
    "umount2": 166, "pivot_root": 155, "unshare": 272, "setns": 308, "bpf": 321, "keyctl": 250, "add_key": 248,
    "request_key": 249, "io_uring_setup": 425, "userfaultfd": 323, "perf_event_open": 298, "open_by_handle_at": 304,
    "kexec_load": 246, "init_module": 175, "finit_module": 313, "reboot": 169, "swapon": 167, "sethostname": 170,
    "settimeofday": 164, "clock_settime": 227, "acct": 163, "quotactl": 179, "syslog": 103, "pidfd_getfd": 438, "iopl": 172,
}  # fmt: skip


@ON_X86_64
def test_cve_2022_0185_calls_that_open_the_kernel_are_refused(ground: Ground) -> None:
    outcome = ground.python(
        f"""
        import ctypes, socket
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall.restype = ctypes.c_long
        for name, number in {SYSTEM_CALLS}.items():
            arguments = [ctypes.c_long(-1)] * 6
            ctypes.set_errno(0)
            if libc.syscall(ctypes.c_long(number), *arguments) != -1 or ctypes.get_errno() != 1:
                print(name, ctypes.get_errno())
        for flags in (0x10000000, 0x00020000, 0x20000000, 0x40000000, 0x02000000, 0x04000000, 0x08000000):
            if libc.syscall(ctypes.c_long(56), ctypes.c_long(flags | 17), 0, 0, 0, 0) != -1 or ctypes.get_errno() != 1:
                print("clone", hex(flags), ctypes.get_errno())
        if libc.syscall(ctypes.c_long(435), 0, 0) != -1 or ctypes.get_errno() != 38:
            print("clone3", ctypes.get_errno())
        for family in (38, 40):
            try:
                socket.socket(family, socket.SOCK_STREAM)
                print("socket", family)
            except PermissionError:
                pass
        print("tried")
        """
    )
    assert outcome.out == "tried\n", outcome


def test_cve_2022_0847_a_layer_is_the_same_after_a_container_ran_on_it(ground: Ground) -> None:
    def state() -> list[tuple[str, int, int, str]]:
        found = []
        for place, _, files in os.walk(ground.tree):
            for name in files:
                path = os.path.join(place, name)
                at = os.lstat(path)
                found.append((path, at.st_mode, at.st_mtime_ns, "" if os.path.islink(path) else digest(path)))
        return sorted(found)

    before = state()
    ground.sh("chmod 777 /etc/passwd; echo x >> /etc/passwd; chown 5 /etc/group; rm -rf /bin/* /etc")
    assert state() == before


# -- 29 ------------------------------------------------------------------------------------------------------------------------


def test_cve_2021_3602_the_hosts_environment_stays_outside(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_OF_THE_HOST", "secret-of-the-host")
    outcome = ground.sh("cat /proc/*/environ; env", upper=None)
    assert "secret-of-the-host" not in outcome.out
    with detached(ground, "sleep", "100", upper=ground.directory / "upper") as (_, record):
        assert "secret-of-the-host" not in output_of(record, "sh", "-c", "cat /proc/*/environ; env")


# -- found here ----------------------------------------------------------------------------------------------------------------


@pytest.mark.machine
@pytest.mark.parametrize("path", ["/dev/full", "/proc/keys", "/proc/self/fd/0"])
def test_mode_and_owner_of_the_hosts_devices_cannot_be_changed(ground: Ground, path: str) -> None:
    devices = ("/dev/full", "/dev/null", "/dev/zero", "/dev/tty")
    before = [(os.stat(device).st_mode, os.stat(device).st_uid) for device in devices]
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        state = run(
            ground.spec("sh", "-c", f"chmod 640 {path} || chown 5 {path}"),
            stdin=null,
            stdout=null,
            stderr=null,
            home=ground.run_home,
        )
        after = [(os.stat(device).st_mode, os.stat(device).st_uid) for device in devices]
    finally:
        os.close(null)
        for device, (mode, owner) in zip(devices, before, strict=True):
            os.chmod(device, stat.S_IMODE(mode))
            os.chown(device, owner, -1)
    assert after == before
    assert state.status != 0


def test_files_of_the_caller_are_not_handed_to_an_executed_program(ground: Ground) -> None:
    file = ground.directory / "output"
    file.write_text("first\n")
    with detached(ground, "sleep", "100", upper=ground.directory / "upper") as (_, record):
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            exec_in(record, "sh", "-c", "echo said; chmod 777 /proc/self/fd/1; : > /proc/self/fd/1", output=descriptor)
        finally:
            os.close(descriptor)
    assert file.read_text() == "first\nsaid\n"
    assert stat.S_IMODE(file.stat().st_mode) != 0o777


def test_mounts_cannot_be_undone_from_inside(ground: Ground, outside: Path) -> None:
    outcome = ground.python(
        """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        for path in (b"/data", b"/proc/keys", b"/proc/sys", b"/dev/null", b"/etc/hosts"):
            print(libc.umount2(path, 2), libc.mount(b"", path, b"", 32 | 4096, b""), end=" ")
        try:
            open("/data/canary", "w")
        except OSError as error:
            print(error.errno)
        """,
        mounts=(Bind(source=outside, target=PurePosixPath("/data"), read_only=True),),
    )
    assert outcome.out == "-1 -1 " * 5 + "30\n"
    assert untouched(outside)
