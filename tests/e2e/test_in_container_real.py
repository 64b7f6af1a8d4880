"""Tests in real containers: what a test does to its own container reaches nothing else, and is told truly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.getuid() != 0, reason="needs root")]

ENVIRONMENT = """
[tool.contain.environments.default]
image = "host"
memory = "300m"
pids_limit = 60
env = { COLOUR = "red" }
"""

HOSTILE = '''
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest


def processes():
    return [name for name in os.listdir("/proc") if name.isdigit()]


@pytest.fixture(autouse=True)
def clean():
    """Every test, whatever came before it, starts in a container of its own."""
    assert set(processes()) <= {"1", str(os.getpid())}
    assert os.path.exists("/usr/bin/env")
    assert not os.path.exists("/made-by-a-test")
    assert not os.path.exists("/tmp/made-by-a-test")
    open("/made-by-a-test", "w").close()
    open("/tmp/made-by-a-test", "w").close()


def test_fork_bomb():
    while True:
        if os.fork() == 0:
            time.sleep(1000)


def test_memory():
    hog = []
    while True:
        hog.append(b"x" * 10_000_000)


def test_daemon():
    subprocess.Popen(["sleep", "1000"], start_new_session=True)


def test_deletes_usr():
    shutil.rmtree("/usr", ignore_errors=True)
    assert not os.path.exists("/usr/bin")


def test_unmounts():
    subprocess.run(["umount", "-a", "-l"], stderr=subprocess.DEVNULL)


def test_kills_everything():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        pass


def test_writes_in_the_project():
    open("made.txt", "w").close()


def test_sees_nothing_written():
    assert not os.path.exists("made.txt")


def test_reaches_only_loopback():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), 1).close()
    with pytest.raises(OSError):
        socket.create_connection(("192.0.2.1", 80), 1)


def test_environment():
    assert os.environ["COLOUR"] == "red"


def test_hangs():
    time.sleep(1000)


def test_spawns():
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(abs, [-1]) == [1]


def test_uses_shared_memory_and_a_queue():
    import multiprocessing

    queue = multiprocessing.Queue()
    process = multiprocessing.Process(target=queue.put, args=(1,))
    process.start()
    assert queue.get(timeout=10) == 1
    process.join()
'''


@pytest.fixture
def project(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> pytest.Pytester:
    monkeypatch.setenv("CONTAIN_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("COLUMNS", "160")
    pytester.makepyprojecttoml(ENVIRONMENT)
    return pytester


@pytest.mark.machine
def test_hostile_tests_fail_alone_with_the_true_reason(project: pytest.Pytester) -> None:
    project.makepyfile(test_hostile=HOSTILE)
    result = project.runpytest_subprocess("--in-container", "-v", "--contain-timeout=20", "-n2", timeout=200)
    text = result.stdout.str()
    words = {
        line.split("::")[1].split()[0]: line.split()[1] for line in result.outlines if line.startswith("test_hostile.py::")
    }
    failed = {name for name, word in words.items() if word in ("FAILED", "ERROR")}
    assert failed == {"test_fork_bomb", "test_memory", "test_daemon", "test_hangs"}, text
    assert "processes limit 60 reached" in text
    assert "killed by SIGKILL: memory limit 300 MiB reached" in text
    assert "left 1 process behind in its container: sleep 1000" in text
    assert "timeout: the test took longer than 20 seconds" in text
    assert not (project.path / "made.txt").exists()
    assert "default: 13 containers" in text
    assert result.ret == 1


def test_the_image_of_a_dockerfile_is_built_and_named(project: pytest.Pytester) -> None:
    (project.path / "pyproject.toml").unlink()
    (project.path / "Dockerfile").write_text(
        "FROM host AS first\nENV A=b\nRUN echo made > /made\nFROM first AS second\nENV A=c\n"
    )
    project.makepyfile("import os\ndef test_image(): assert open('/made').read() == 'made\\n' and os.environ['A'] == 'b'")
    result = project.runpytest_subprocess("--in-container", "--contain-target=first", timeout=200)
    result.assert_outcomes(passed=1)
    result.stdout.re_match_lines([r"environment: default \(sha256:[0-9a-f]{12}\), one container per test"])
    project.runpytest_subprocess("--in-container", timeout=200).assert_outcomes(failed=1)


def test_an_image_without_python_is_refused_by_name(project: pytest.Pytester) -> None:
    (project.path / "pyproject.toml").unlink()
    (project.path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    project.makepyfile("def test_image(): pass")
    result = project.runpytest_subprocess("--in-container", timeout=100)
    assert result.ret == 4
    assert "has no Python on its PATH" in result.stderr.str()


@pytest.mark.machine
def test_the_container_fixture_runs_programs_and_shows_them_when_the_test_fails(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        def test_run(container):
            done = container.run("sh", "-c", "echo out; echo err >&2; exit 3")
            assert (done.exit_status, done.stdout, done.stderr) == (3, "out\\n", "err\\n")
            assert container.run("touch", "/here").exit_status == 0
            assert container.run("ls", "/here").stdout == "/here\\n"
            assert container.run("no-such-program").exit_status == 127
            assert container.run("cat", input="given").stdout == "given"
            assert container.run("sh", "-c", "echo $COLOUR $MORE", env={"MORE": "x"}).stdout == "red x\\n"

        def test_fresh(container):
            assert container.run("ls", "/here").exit_status == 0

        def test_engine(contain, image):
            assert contain.store.image(image.image.digest)
        """
    )
    result = project.runpytest_subprocess(timeout=100)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*- container -*", "$ ls /here", "*No such file*", "(exit status 2)"])


def test_a_killed_run_leaves_nothing(project: pytest.Pytester) -> None:
    import signal
    import subprocess
    import sys
    import time

    project.makepyfile("import time\ndef test_waits():\n    open('/tmp/started', 'w'); time.sleep(1000)")
    marker = f"contain-test-{os.getpid()}"
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "--in-container", "-o", f"cache_dir={marker}"],
        cwd=project.path,
        stdout=subprocess.DEVNULL,
    )
    home = Path(os.environ["CONTAIN_HOME"])
    deadline = time.monotonic() + 60

    def alive() -> list[str]:
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    environ = Path(f"/proc/{name}/mountinfo").read_text()
                except OSError:
                    continue
                if str(home) in environ:
                    found.append(name)
        return found

    while not alive():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    run.send_signal(signal.SIGKILL)
    run.wait()
    deadline = time.monotonic() + 10  # two seconds on an idle machine
    while alive():
        assert time.monotonic() < deadline, alive()
        time.sleep(0.05)
