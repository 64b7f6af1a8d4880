"""A hostile test in its sandbox: what it cannot reach of its session, and that the next test runs as if it had not been."""

from __future__ import annotations

import os
import platform
import signal
from typing import TYPE_CHECKING

import pytest

from contain.linux.cgroups import probe_hierarchies
from contain.spec import Limits

if TYPE_CHECKING:
    from tests.conftest import Ground, Suite

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
]


def needs_controller(name: str) -> None:
    if not any(name in hierarchy.controllers for hierarchy in probe_hierarchies()):
        pytest.skip(f"this machine has no {name} control group controller")


def the_next_test_runs(suite: Suite) -> None:
    run, verdict = suite.test("import os; print('fine', len([name for name in os.listdir('/proc') if name.isdigit()]))")
    assert (run.out, run.status) == ("fine 2\n", 0)
    assert (verdict.leftover_processes, verdict.out_of_memory, verdict.pids_limit_reached) == (0, False, False)


def test_the_init_of_a_sandbox_cannot_be_looked_into_traced_or_ended(suite: Suite) -> None:
    source = """
import ctypes, os, signal
for path in ("environ", "exe", "mem", "root/etc/passwd", "cwd/x", "fd/0", "maps", "ns/mnt", "ns/user", "map_files"):
    try:
        if path in ("exe", "ns/mnt", "ns/user"):
            os.readlink(f"/proc/1/{path}")
        elif path == "map_files":
            os.listdir("/proc/1/map_files")
        else:
            open(f"/proc/1/{path}", "rb").read(1)
        print("reached", path)
    except OSError:
        pass
libc = ctypes.CDLL(None, use_errno=True)
for request in (16, 0x4206):
    if libc.ptrace(request, 1, 0, 0) == 0:
        print("traced")
for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGSEGV):
    os.kill(1, number)
print(open("/proc/1/stat").read().rsplit(")")[1].split()[0])
"""
    assert suite.test(source)[0].out == "S\n"
    the_next_test_runs(suite)


def test_the_builder_cannot_be_looked_into_by_the_worker(suite: Suite) -> None:
    # The worker sees the session's processes; the first one is the builder, whose program and memory are the host's.
    source = """
import os
for name in sorted((name for name in os.listdir("/proc") if name.isdigit()), key=int):
    if int(name) == os.getpid() or int(name) == os.getppid():
        continue
    for path in ("environ", "mem", "exe", "fd", "root", "cwd", "ns/mnt"):
        try:
            if path in ("environ", "mem"):
                open(f"/proc/{name}/{path}", "rb").read(1)
            elif path == "fd":
                os.readlink(f"/proc/{name}/fd/" + os.listdir(f"/proc/{name}/fd")[0])
            else:
                os.readlink(f"/proc/{name}/{path}")
            print("reached", name, path)
        except (OSError, IndexError):
            pass
print("tried", os.getpid() > 2)
"""
    suite.session.prepare(3)
    suite.session.take_sandbox()
    assert suite.in_worker(source).out == "tried True\n"


def test_the_worker_cannot_use_what_it_holds_to_change_mounts(suite: Suite) -> None:
    # It keeps SYS_ADMIN permitted to join sandboxes; whoever raises it finds the system calls for mounts refused.
    source = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
class Header(ctypes.Structure): _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]
class Data(ctypes.Structure): _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]
header, data = Header(0x20080522, 0), (Data * 2)()
libc.capget(ctypes.byref(header), ctypes.byref(data))
for word in data: word.effective = word.permitted
print(libc.capset(ctypes.byref(header), ctypes.byref(data)))
print(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None), libc.umount2(b"/proc/keys", 2), libc.unshare(0x10000000), libc.unshare(0x20000))
print(libc.mount(b"", b"/proc/sys", None, 32 | 4096, None))
for name in ("mnt", "user"):
    try:
        print(libc.setns(os.open(f"/proc/1/ns/{name}", os.O_RDONLY), 0))
    except OSError:
        print("refused")
"""
    assert suite.in_worker(source).out == "0\n-1 -1 -1 -1\n-1\nrefused\nrefused\n"


def test_the_worker_cannot_change_the_files_of_its_image(suite: Suite, ground: Ground) -> None:
    before = (ground.tree / "etc/passwd").read_bytes()
    source = "import os; open('/etc/passwd', 'w').write('x'); os.remove('/etc/group')"
    assert suite.in_worker(source).status == 0
    assert (ground.tree / "etc/passwd").read_bytes() == before


def test_no_descriptor_of_the_session_is_open_in_a_test(suite: Suite) -> None:
    source = """
import os
for name in os.listdir("/proc/self/fd"):
    if int(name) > 2:
        try:
            print(os.readlink(f"/proc/self/fd/{name}").split(":")[0])
        except OSError:
            pass
"""
    # the little worker's pipe for the output is the only one
    assert suite.test(source)[0].out.split() == ["pipe"]


def test_a_test_has_no_capability_beyond_dockers_and_its_filter_is_on(suite: Suite) -> None:
    run, _ = suite.test("print(''.join(l for l in open('/proc/self/status') if l.startswith(('Cap', 'NoNew', 'Seccomp:'))))")
    rows = {line.split(":")[0]: line.split()[1] for line in run.out.splitlines() if ":" in line}
    mask = "00000000a80425fb"
    assert rows == {
        "CapInh": rows["CapInh"],
        "CapPrm": mask,
        "CapEff": mask,
        "CapBnd": mask,
        "CapAmb": "0" * 16,
        "NoNewPrivs": "1",
        "Seccomp": "2",
    }
    assert int(rows["CapInh"], 16) & ~int(mask, 16) == 0


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of system calls are x86-64's")
def test_a_test_cannot_go_back_to_where_it_came_from(suite: Suite) -> None:
    source = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def error(number):
    ctypes.set_errno(0)
    return libc.syscall(number, -1, 0, 0), ctypes.get_errno()
print({error(number) for number in (308, 272, 165, 166, 155, 428, 250, 438)})
"""
    assert suite.test(source)[0].out == "{(-1, 1)}\n"


def test_a_fork_bomb_ends_with_its_sandbox(suite: Suite) -> None:
    needs_controller("pids")
    source = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    run, verdict = suite.test(source, seconds=1)
    assert run.status == -signal.SIGKILL
    assert verdict.pids_limit_reached
    assert verdict.leftover_processes >= 10
    the_next_test_runs(suite)


def test_a_test_that_never_ends_is_ended(suite: Suite) -> None:
    source = """
import signal, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
time.sleep(1000)
"""
    run, _ = suite.test(source, seconds=0.5)
    assert run.status == -signal.SIGKILL
    the_next_test_runs(suite)


def test_a_stopped_test_is_ended(suite: Suite) -> None:
    run, _ = suite.test("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", seconds=0.5)
    assert run.status == -signal.SIGKILL
    the_next_test_runs(suite)


def test_a_test_that_closes_everything_ends_itself_only(suite: Suite) -> None:
    assert suite.test("import os; os.closerange(0, 4096); os._exit(3)")[0].status == 3
    the_next_test_runs(suite)


def fill(path: str, mebibytes: int) -> str:
    return (
        f"block = b'x' * (1 << 20)\ntry:\n    with open({path!r}, 'wb', buffering=0) as file:\n"
        f"        for _ in range({mebibytes}):\n            file.write(block)\n    print('written')\n"
        "except OSError as error:\n    print(error.strerror)"
    )


@pytest.mark.parametrize("path", ["/filled", "/dev/shm/filled", "/dev/filled", "/tmp/filled"])
def test_memory_and_disk_cannot_be_filled(ground: Ground, path: str) -> None:
    with ground.open_suite(scratch_bytes=16 << 20) as suite:
        run, _ = suite.test(fill(path, 128))
        assert run.out == "No space left on device\n"
        assert suite.test(fill(path, 8))[0].out == "written\n"


def test_files_without_number_cannot_be_made(ground: Ground) -> None:
    with ground.open_suite(scratch_bytes=4 << 20) as suite:
        run, _ = suite.test(
            "import os\ntry:\n    for n in range(10**7):\n        os.close(os.open(f'/f{n}', os.O_CREAT | os.O_WRONLY))\n"
            "except OSError as error:\n    print(error.strerror)",
            seconds=30,
        )
        assert run.out == "No space left on device\n"


def test_what_a_test_keeps_in_memory_is_charged_to_it(ground: Ground) -> None:
    needs_controller("memory")
    with ground.open_suite(scratch_bytes=1 << 30, limits=Limits(memory_bytes=48 << 20)) as suite:
        run, verdict = suite.test(fill("/filled", 256), seconds=20)
        assert run.status == -signal.SIGKILL
        assert verdict.out_of_memory
        the_next_test_runs(suite)


def test_deleting_everything_reaches_the_sandbox_only(suite: Suite, ground: Ground) -> None:
    before = sorted(os.listdir(ground.tree / "bin"))
    source = """
import os, shutil
for name in ("bin", "etc", "tmp"):
    shutil.rmtree(f"/{name}", ignore_errors=True)
for name in os.listdir("/"):
    try:
        os.rmdir(f"/{name}")
    except OSError:
        pass
print(os.path.exists("/bin/sh"))
"""
    run, _ = suite.test(source)
    assert run.out == "False\n"
    assert sorted(os.listdir(ground.tree / "bin")) == before
    the_next_test_runs(suite)
