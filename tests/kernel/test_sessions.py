"""Test sessions on the real kernel: the worker, its sandboxes, and what is left when one of them is killed.

The worker is the little one of ``tests/conftest.py``.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest

from contain.container.session.session import open_session
from contain.container.workspaces import sweep
from contain.errors import ContainError, HostError, WorkerLost
from contain.linux.cgroups import probe_hierarchies
from contain.spec import CopyOnWrite, Identity, Limits

if TYPE_CHECKING:
    from tests.conftest import Ground, Suite

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
]

# -- what one test does never reaches the next ---------------------------------------------------------------------------------


def test_a_sandbox_sees_no_files_of_the_one_before(suite: Suite) -> None:
    write = (
        "import os, shutil; open('/written', 'w').write('x'); open('/dev/shm/y', 'w')\n"
        "os.remove('/etc/passwd'); shutil.rmtree('/tmp')"
    )
    assert suite.test(write)[0].status == 0
    look = (
        "import os; print(os.path.exists('/written'), os.listdir('/dev/shm'))\n"
        "print(os.path.exists('/etc/passwd'), os.listdir('/tmp'))"
    )
    assert suite.test(look)[0].out == "False []\nTrue []\n"


def test_a_sandbox_sees_no_processes_of_the_one_before_or_of_the_session(suite: Suite) -> None:
    leave = "import os, time\nfor _ in range(3):\n    if os.fork() == 0:\n        os.setsid(); time.sleep(1000)"
    _, verdict = suite.test(leave)
    assert verdict.leftover_processes == 3
    look = "import os; print(os.getpid() > 1, os.getppid(), len([n for n in os.listdir('/proc') if n.isdigit()]))"
    assert suite.test(look)[0].out == "True 0 2\n"  # its init, and itself


def test_a_sandbox_has_a_network_of_its_own(suite: Suite) -> None:
    serve = (
        "import socket\nserver = socket.create_server(('127.0.0.1', 80))\n"
        "local = socket.socket(socket.AF_UNIX); local.bind('\\0name')\n"
    )
    assert suite.test(serve)[0].status == 0
    assert suite.test(serve)[0].status == 0  # both are free again, although the first may still be dying
    assert suite.test("import os; print(os.listdir('/sys/class/net'))")[0].out == "['lo']\n"


def test_a_sandbox_has_message_queues_and_shared_memory_of_its_own(suite: Suite) -> None:
    make = "import ctypes; libc = ctypes.CDLL(None); print(libc.shmget(4711, 4096, 0o1600), libc.msgget(4711, 0o1600))"
    assert suite.test(make)[0].status == 0
    find = "import ctypes; libc = ctypes.CDLL(None); print(libc.shmget(4711, 4096, 0), libc.msgget(4711, 0))"
    assert suite.test(find)[0].out == "-1 -1\n"


def test_what_the_worker_wrote_before_is_seen_in_every_sandbox_and_cannot_be_spoiled(ground: Ground) -> None:
    project = ground.directory / "project"
    project.mkdir()
    (project / "source").write_text("source\n")
    mounts = (CopyOnWrite(sources=(project,), target=PurePosixPath("/project")),)
    with ground.open_suite(mounts=mounts) as suite:
        assert suite.in_worker("open('/collected', 'w').write('c'); open('/project/cache', 'w').write('p')").status == 0
        look = "print(open('/collected').read(), open('/project/cache').read(), open('/project/source').read().strip())"
        assert suite.test(look)[0].out == "c p source\n"
        spoil = "import os; open('/collected', 'w').write('bad'); os.remove('/project/cache'); os.remove('/project/source')"
        assert suite.test(spoil)[0].status == 0
        assert suite.test(look)[0].out == "c p source\n"
        assert suite.in_worker(look).out == "c p source\n"
    assert os.listdir(project) == ["source"]


def test_the_working_directory_and_the_user_are_the_images(ground: Ground) -> None:
    identity = Identity(user_id=1000, group_id=1000, groups=(2000,))
    with ground.open_suite(identity=identity, working_directory=PurePosixPath("/home/worker")) as suite:
        run, _ = suite.test(
            "import os; print(os.getcwd(), os.getresuid(), os.getresgid(), os.getgroups())\n"
            "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('Cap')])"
        )
    first, second = run.out.splitlines()
    assert first == "/home/worker (1000, 1000, 1000) (1000, 1000, 1000) [2000]"
    assert second.count("0" * 16) >= 4  # inheritable, permitted, effective, ambient


@pytest.mark.machine
@pytest.mark.parametrize("on_disk", [False, True])
def test_the_machines_own_root_can_be_the_image_wherever_the_writes_go(ground: Ground, on_disk: bool) -> None:
    tree = ground.directory / "tree"
    tree.mkdir()
    (tree / "file").write_text("of the machine")
    with ground.open_suite(layers=(Path("/"),), on_disk=on_disk) as suite:
        assert suite.in_worker("open('/collected', 'w').write('c')").status == 0
        spoil = (
            f"import os, shutil; print(open('/collected').read(), os.listdir('{tree}')); shutil.rmtree('{tree}')\n"
            f"os.mkdir('{tree}'); print(os.listdir('{tree}'))"
        )
        for _ in range(2):
            run, _ = suite.test(spoil)
            assert run.out == "c ['file']\n[]\n", run
        if on_disk:  # else a copy of the root into itself would have no end
            assert suite.test(f"import os; print(os.listdir('{ground.run_home}/work'))")[0].out == "[]\n"
    assert os.listdir(tree) == ["file"]
    assert not os.path.exists("/collected")


# -- how tests end -------------------------------------------------------------------------------------------------------------


def test_the_status_of_a_forked_test_is_its_own(suite: Suite) -> None:
    assert suite.test("raise SystemExit(7)")[0].status == 7
    assert suite.test("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")[0].status == -signal.SIGTERM
    assert suite.test("print('still fine')")[0].out == "still fine\n"


def test_a_test_out_of_memory_says_so_and_the_next_one_runs(suite: Suite) -> None:
    if not any("memory" in hierarchy.controllers for hierarchy in probe_hierarchies()):
        pytest.skip("this machine has no memory control group controller")
    run, verdict = suite.test("x = bytearray(512 << 20)")
    assert run.status == -signal.SIGKILL
    assert (verdict.out_of_memory, verdict.memory_limit_bytes) == (True, 64 << 20)
    run, verdict = suite.test("print('next')")
    assert (run.out, verdict.out_of_memory) == ("next\n", False)


def test_a_limit_that_this_machine_cannot_set_is_refused_by_name(ground: Ground) -> None:
    if any("memory" in hierarchy.controllers for hierarchy in probe_hierarchies()):
        pytest.skip("this machine can limit memory")
    with ground.open_suite(limits=Limits(memory_bytes=64 << 20)) as suite, pytest.raises(HostError, match="memory") as caught:
        suite.session.take_sandbox()
    assert caught.value.code in ("cgroup-missing", "cgroup-refused")
    with pytest.raises(HostError, match="memory"):
        ground.sh("true", limits=Limits(memory_bytes=64 << 20))


def test_kill_nine_of_everything_in_a_sandbox_reaches_nothing_outside(suite: Suite) -> None:
    bomb = "import os, signal, time\nif os.fork() == 0:\n    time.sleep(1000)\nos.kill(-1, signal.SIGKILL); print(os.wait()[1])"
    assert suite.test(bomb)[0].out == "9\n"
    assert suite.test("print('next')")[0].out == "next\n"


def test_sandboxes_are_made_ahead_and_each_is_used_once(suite: Suite) -> None:
    suite.session.prepare(3)
    numbers = [suite.session.take_sandbox().number for _ in range(4)]
    assert len(set(numbers)) == 4


# -- deaths --------------------------------------------------------------------------------------------------------------------

OWNER = """
import os, pickle, sys, time
from pathlib import Path
from contain.container.session.session import open_session
spec = pickle.load(sys.stdin.buffer)
null = os.open(os.devnull, os.O_RDWR)
with open_session(spec, scratch_bytes=1 << 24, home=Path(sys.argv[1])) as session:
    session.start_worker(("sh", "-c", "(sleep 1000 &); sleep 1000"), spec.environment, stdio=(null, null, null), fds=[])
    session.prepare(2)
    session.take_sandbox()
    print(session.configuration.session_id, session._keeper.pid, flush=True)
    time.sleep(1000)
"""


@contextlib.contextmanager
def owner_elsewhere(ground: Ground) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A session whose owner is a process of its own: that process, and the keeper's id."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(ground.run_home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as owner:
        try:
            assert owner.stdin is not None
            assert owner.stdout is not None
            owner.stdin.write(pickle.dumps(ground.session_spec()))
            owner.stdin.close()
            identifier, keeper = owner.stdout.readline().split()
            ground.identifiers.append(identifier.decode())
            yield owner, int(keeper)
        finally:
            owner.kill()


def left_after(ground: Ground, seconds: float) -> list[str]:
    """What is left once nothing is, or after ``seconds``."""
    deadline = time.monotonic() + seconds
    while (left := ground.leftovers()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


@pytest.mark.machine
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_two_seconds_after_its_owner_was_killed_nothing_is_left(ground: Ground, number: signal.Signals) -> None:
    with owner_elsewhere(ground) as (owner, _):
        assert any("process" in item for item in ground.leftovers())
        owner.send_signal(number)
        assert left_after(ground, 2) == []


@pytest.mark.machine
def test_a_killed_keeper_takes_its_processes_along_and_the_next_sweep_takes_the_rest(ground: Ground) -> None:
    with owner_elsewhere(ground) as (_, keeper):
        os.kill(keeper, signal.SIGKILL)
        deadline = time.monotonic() + 2
        while any("process" in item for item in ground.leftovers()):
            assert time.monotonic() < deadline, ground.leftovers()
            time.sleep(0.02)
        assert sweep(ground.run_home) == [ground.identifiers[-1]]
        assert ground.leftovers() == []


def test_a_killed_builder_is_an_error_and_not_a_hang(suite: Suite) -> None:
    keeper = suite.session._keeper.pid
    inner = int(Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()[0])
    builder = int(Path(f"/proc/{inner}/task/{inner}/children").read_text().split()[0])
    os.kill(builder, signal.SIGKILL)
    with contextlib.suppress(WorkerLost):
        suite.session.take_sandbox()  # one may have been ready
    with pytest.raises(WorkerLost):
        suite.session.take_sandbox()


def test_a_worker_that_cannot_be_started_is_a_clear_error(ground: Ground) -> None:
    spec = ground.session_spec()
    with open_session(spec, scratch_bytes=1 << 24, home=ground.run_home) as session:
        ground.identifiers.append(session.configuration.session_id)
        with pytest.raises(ContainError, match="/no/python") as caught:
            session.start_worker(("/no/python",), (), stdio=(0, 1, 2), fds=[])
        assert caught.value.exit_status == 127
