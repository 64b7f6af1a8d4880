"""Containers that are made, started, stopped, started again, looked into and renamed, each command a process of its own."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
]


class Contain:
    """``contain`` with a home of its own and an image named ``small``."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "CONTAIN_HOME": str(home), "LC_ALL": "C.UTF-8"}

    def __call__(self, *words: str, status: int = 0, **options: Any) -> str:
        """Standard output; or, where another exit status than 0 is expected, both outputs."""
        done = self.try_(*words, **options)
        assert done.returncode == status, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout + (done.stderr if status else "")

    def try_(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        options = {"text": True, "stdin": None if "input" in options else subprocess.DEVNULL, **options}
        options = {name: value for name, value in options.items() if value is not None}
        command = [sys.executable, "-m", "contain.cli.start", *words]
        return subprocess.run(command, capture_output=True, timeout=40, env=self.environment, check=False, **options)

    def start(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "contain.cli.start", *words]
        return subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)

    def inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("container", "inspect", name))[0]
        return found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, small_tree: Path) -> Iterator[Contain]:
    directory = tmp_path_factory.mktemp("verbs")
    made = Contain(directory / "home")
    archive = directory / "small.tar"
    with tarfile.open(archive, "w") as file:
        file.add(small_tree, arcname=".")
    made("import", str(archive), "small")
    yield made
    assert os.listdir(made.home / "run/work") == []


@pytest.fixture
def contain(shared: Contain) -> Iterator[Contain]:
    """Every container of the test is removed after it."""
    yield shared
    names = [name for name in os.listdir(shared.home / "containers") if len(name) == 64]
    if names:
        shared("rm", "-f", *names)


def wait_for(process: subprocess.Popen[bytes], text: bytes) -> None:
    """Until a program has printed this."""
    assert process.stdout is not None
    seen = b""
    while text not in seen:
        ready, _, _ = select.select([process.stdout], [], [], 20)
        data = os.read(process.stdout.fileno(), 4096) if ready else b""
        assert data, seen
        seen += data


def test_a_stopped_container_starts_again_with_what_it_wrote_and_its_settings(contain: Contain) -> None:
    contain("run", "--name", "web", "-e", "A=b", "-h", "box", "small", "sh", "-c", "echo $A $(hostname) >>/kept; cat /kept")
    assert contain("start", "-a", "web") == "b box\nb box\n"
    assert contain("start", "web") == "web\n"
    assert contain("wait", "web") == "0\n"
    assert contain("logs", "web") == "b box\n" * 6


def test_a_container_is_made_first_and_started_later(contain: Contain) -> None:
    identifier = contain("create", "--name", "later", "-i", "small", "sh", "-c", "cat; exit 7").strip()
    assert contain.inspect("later")["State"]["Status"] == "created"
    assert contain("wait", "later") == "0\n"
    assert contain("ps", "-aq", "--no-trunc").strip() == identifier
    assert contain("start", "-ai", "later", status=7, input="typed\n") == "typed\n"
    assert contain.inspect(identifier)["State"]["ExitCode"] == 7


def test_to_start_what_runs_changes_nothing(contain: Contain) -> None:
    contain("run", "-d", "--name", "web", "small", "sleep", "1000")
    before = contain.inspect("web")["State"]
    assert contain("start", "web") == "web\n"
    assert contain.inspect("web")["State"] == before
    assert "runs already" in contain("start", "-a", "web", status=1)


def test_many_that_start_one_container_at_once_start_it_once(contain: Contain) -> None:
    contain("create", "--name", "one", "small", "sh", "-c", "echo started >>/kept; sleep 1000")
    processes = [contain.start("start", "one") for _ in range(4)]
    said = [process.communicate(timeout=40)[1] for process in processes]
    assert 0 in [process.returncode for process in processes]
    assert all(b"container-busy" in text or b"by somebody else" in text or not text for text in said), said
    assert contain("exec", "one", "cat", "/kept") == "started\n"


def test_exec_in_a_directory_that_is_not_there_is_told_as_docker_does(contain: Contain) -> None:
    contain("run", "-d", "--name", "one", "small", "sleep", "1000")
    assert "chdir to /nowhere failed: no such file or directory" in contain("exec", "-w", "/nowhere", "one", "true", status=127)
    assert "chdir to /bin/sh failed: not a directory" in contain("exec", "-w", "/bin/sh", "one", "true", status=126)


def test_restart_stops_and_starts(contain: Contain) -> None:
    program = "echo up >>/kept; trap 'echo end >>/kept; exit 3' USR1; sleep 1000 & wait"
    contain("run", "-d", "--name", "web", "small", "sh", "-c", program)
    first = contain.inspect("web")["State"]["Pid"]
    while contain("exec", "web", "cat", "/kept") != "up\n":
        pass
    assert contain("restart", "-s", "USR1", "web") == "web\n"
    assert contain.inspect("web")["State"]["Pid"] not in (0, first)
    assert contain("exec", "web", "head", "-n2", "/kept") == "up\nend\n"
    contain("kill", "web")
    contain("wait", "web")
    contain("restart", "web")
    assert contain.inspect("web")["State"]["Running"]


def test_a_container_that_goes_with_its_end_is_not_restarted(contain: Contain) -> None:
    contain("run", "-d", "--rm", "--name", "web", "small", "sleep", "1000")
    assert "made with --rm" in contain("restart", "web", status=1)
    assert contain.inspect("web")["State"]["Running"]


def test_a_container_on_the_hosts_root_is_not_started_again_empty(contain: Contain) -> None:
    contain("run", "--name", "on-host", "host", "true")
    assert "what it wrote went with its end" in contain("start", "on-host", status=1)


def test_a_program_that_cannot_be_started_is_told_at_every_start(contain: Contain) -> None:
    contain("create", "--name", "broken", "small", "/nope")
    for _ in range(2):
        assert '"/nope"' in contain("start", "broken", status=1)
        assert contain.inspect("broken")["State"]["ExitCode"] == 127
    contain("start", "-a", "broken", status=127)


def test_a_renamed_container_goes_on_under_its_new_name(contain: Contain) -> None:
    contain("run", "-d", "--name", "old", "small", "sleep", "1000")
    contain("run", "-d", "--name", "other", "small", "sleep", "1000")
    assert contain("rename", "old", "new") == ""
    assert "No such container: old" in contain("logs", "old", status=1)
    assert 'The container name "/other" is already in use' in contain("rename", "new", "other", status=1)
    assert "Invalid container name" in contain("rename", "new", "a b", status=1)
    contain("kill", "new")
    contain("wait", "new")
    assert contain.inspect("new")["Name"] == "/new"
    assert contain.inspect("new")["State"]["ExitCode"] == 137


def test_attach_shows_what_is_printed_from_now_on_and_ends_with_the_status(contain: Contain) -> None:
    program = "echo before; trap 'echo asked; exit 9' INT; while :; do echo tick; sleep 0.1; done"
    contain("run", "-d", "--name", "web", "small", "sh", "-c", program)
    while "tick" not in contain("logs", "web"):
        pass
    attached = contain.start("attach", "--no-stdin", "web")
    wait_for(attached, b"tick")
    attached.send_signal(signal.SIGINT)  # passed on
    out, _ = attached.communicate(timeout=20)
    assert (b"before" in out, b"asked" in out, attached.returncode) == (False, True, 9)
    assert "cannot attach to a stopped container" in contain("attach", "--no-stdin", "web", status=1)


def test_attach_passes_standard_input_on(contain: Contain) -> None:
    contain("run", "-di", "--name", "web", "small", "sh", "-c", "read x; echo got $x; exit 4")
    done = contain.try_("attach", "web", input="one\n")
    assert (done.returncode, done.stdout) == (4, "got one\n")


@pytest.mark.machine
def test_a_paused_container_stands_still_until_it_goes_on(contain: Contain) -> None:
    contain("run", "-d", "--name", "web", "small", "sh", "-c", "while :; do echo tick; (true); done")
    while "tick" not in contain("logs", "web"):
        pass
    assert contain("pause", "web") == "web\n"
    assert (contain.inspect("web")["State"]["Status"], "(Paused)" in contain("ps")) == ("paused", True)
    first = contain("logs", "web")
    first = contain("logs", "web")  # what was under way has arrived
    assert contain("logs", "web") == first
    assert "is already paused" in contain("pause", "web", status=1)
    assert "unpause the container before exec" in contain("exec", "web", "true", status=1)
    assert contain("unpause", "web") == "web\n"
    assert "is not paused" in contain("unpause", "web", status=1)
    while len(contain("logs", "web")) <= len(first):
        pass


@pytest.mark.machine
@pytest.mark.parametrize("verb", ["stop", "kill", "rm"])
def test_a_paused_container_can_be_ended_and_leaves_nothing(contain: Contain, verb: str) -> None:
    identifier = contain("run", "-d", "--name", "web", "small", "sleep", "1000").strip()
    contain("pause", "web")
    contain(verb, *(("-f",) if verb == "rm" else ("-s", "KILL") if verb == "kill" else ("-t", "0")), "web")
    if verb != "rm":
        assert contain("wait", "web") == "137\n"
    assert "is not running" in contain("pause", "web", status=1) or verb == "rm"
    assert [place for place, _, _ in os.walk("/sys/fs/cgroup") if identifier in place] == []


@pytest.mark.machine
def test_a_paused_container_whose_supervisor_was_killed_does_not_stay(contain: Contain) -> None:
    supervisor = contain.start("run", "--name", "web", "small", "sh", "-c", "echo up; sleep 1000")
    wait_for(supervisor, b"up")
    contain("pause", "web")
    identifier = contain.inspect("web")["Id"]
    supervisor.kill()
    supervisor.communicate(timeout=20)
    assert contain.inspect("web")["State"]["Status"] == "dead"
    contain("run", "--rm", "small", "true")  # sweeps
    assert [place for place, _, _ in os.walk("/sys/fs/cgroup") if identifier in place] == []
    assert contain("start", "web") == "web\n"


def test_top_shows_the_containers_processes_only(contain: Contain) -> None:
    contain("run", "-d", "--name", "web", "-u", "1000", "small", "sh", "-c", "sleep 1234 & sleep 1235; true")
    while len(rows := contain("top", "web").splitlines()) < 4:
        pass
    assert rows[0].split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert int(rows[1].split()[1]) == contain.inspect("web")["State"]["Pid"]
    assert sorted(row.split(None, 7)[7] for row in rows[2:]) == ["sleep 1234", "sleep 1235"]
    rows = contain("top", "web", "-e", "-o", "pid,args").splitlines()
    assert rows[0].split() == ["PID", "COMMAND"]
    assert sorted(row.split(None, 1)[1] for row in rows[2:]) == ["sleep 1234", "sleep 1235"]
    assert "find PID field" in contain("top", "web", "-e", "-o", "args", status=1)
    contain("kill", "web")
    contain("wait", "web")
    assert "is not running" in contain("top", "web", status=1)


@pytest.mark.machine
def test_stats_shows_what_a_container_uses(contain: Contain) -> None:
    contain("run", "-d", "--name", "busy", "small", "sh", "-c", "while :; do :; done")
    contain("run", "-d", "--name", "idle", "-m", "64m", "small", "sleep", "1000")
    template = "{{.Name}} {{.CPUPerc}} {{.PIDs}} {{.MemUsage}}"
    found = {row.split()[0]: row.split() for row in contain("stats", "--no-stream", "--format", template).splitlines()}
    assert float(found["busy"][1].rstrip("%")) > 5 > float(found["idle"][1].rstrip("%"))
    assert (found["busy"][2], found["idle"][2], found["idle"][5]) == ("1", "1", "64MiB")
    assert contain("stats", "--no-stream").splitlines()[0].split("   ")[:2] == ["CONTAINER ID", "NAME"]
    contain("stop", "-t", "0", "idle")
    assert contain("stats", "--no-stream", "--format", "{{.MemUsage}}", "idle") == "0B / 0B\n"
    with contain.start("stats", "--format", "{{.Name}}", "idle") as watching:
        assert watching.stdout is not None
        assert [watching.stdout.readline() for _ in range(2)] == [b"idle\n", b"idle\n"]  # again and again
        watching.kill()


def test_ps_chooses_and_formats(contain: Contain) -> None:
    contain("run", "-d", "--name", "web", "-l", "tier=front", "small", "sleep", "1000")
    contain("run", "--name", "failed", "small", "sh", "-c", "exit 3", status=3)
    assert contain("ps", "--format", "{{.Names}} {{.State}}") == "web running\n"
    assert contain("ps", "-f", "exited=3", "--format", "{{.Names}} {{.Image}}") == "failed small\n"
    assert contain("ps", "-l", "--format", "{{.Names}}") == contain("ps", "-n1", "--format", "{{.Names}}") == "failed\n"
    assert contain("ps", "-f", "label=tier=front", "-f", "ancestor=small", "--format", "{{.Names}}") == "web\n"
    assert contain("ps", "-a", "-f", "before=failed", "--format", "{{.Names}}") == "web\n"
    assert json.loads(contain("ps", "--format", "json"))["Names"] == "web"
    assert "invalid filter 'nope'" in contain("ps", "-f", "nope=1", status=1)


def test_logs_shows_the_lines_that_were_asked_for(contain: Contain) -> None:
    contain("run", "--name", "web", "small", "sh", "-c", "echo one; echo two >&2; echo three; printf four")
    assert contain("logs", "-n", "1", "web") == "four"
    assert contain("logs", "-n", "0", "web") == ""
    assert contain("logs", "--since", "1h", "web") == "one\nthree\nfour"
    assert contain("logs", "--until", "1h", "web") == contain("logs", "--since", "2100-01-01T00:00:00Z", "web") == ""
    lines = contain("logs", "-t", "web").splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["one", "three", "four"]
    assert all(len(line.split()[0]) == len("2026-01-01T00:00:00.000000000Z") for line in lines)
    assert "failed to parse value as time" in contain("logs", "--since", "soon", "web", status=1)


def test_a_program_gets_what_run_was_told(contain: Contain, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("A=file\nB=file\n")
    flags = ["--env-file", str(tmp_path / "env"), "-e", "B=flag", "--cap-drop", "ALL", "--cap-add", "KILL"]
    flags += ["--shm-size", "8m", "--ulimit", "nofile=100:200", "--stop-signal", "USR1"]
    program = "echo $A $B; grep CapBnd /proc/self/status; ulimit -Sn; ulimit -Hn; df -m /dev/shm | tail -n1; sleep 1000"
    contain("run", "-d", "--name", "web", *flags, "small", "sh", "-c", program)
    while len(lines := contain("logs", "web").splitlines()) < 5:
        pass
    assert [lines[0], lines[1].split()[1], lines[2], lines[3]] == ["file flag", f"{1 << 5:016x}", "100", "200"]
    assert lines[4].split()[1] == "8"
    assert contain.inspect("web")["Spec"]["stop_signal"] == signal.SIGUSR1
    assert "unknown capability" in contain("run", "--cap-add", "NOPE", "small", "true", status=125)


def test_a_container_with_a_very_deep_directory_is_removed(contain: Contain) -> None:
    script = "i=0; while [ $i -lt 1500 ]; do mkdir d && cd d || exit 1; i=$((i+1)); done"
    contain("run", "--name", "deep", "small", "sh", "-c", script)
    contain("rm", "deep")
    assert os.listdir(contain.home / "containers") == []


def test_system_prune_takes_what_nobody_uses_and_leaves_the_rest(contain: Contain) -> None:
    running = contain("run", "-d", "--name", "kept", "small", "sleep", "100").strip()
    ended = contain("create", "--name", "gone", "small", "true").strip()
    contain("network", "create", "nobodys")
    said = contain("system", "prune", "-f")
    assert f"Deleted Containers:\n{ended}\n" in said
    assert "Deleted Networks:\nnobodys\n" in said
    assert "Total reclaimed space: " in said
    assert contain("ps", "-aq", "--no-trunc").split() == [running]
    assert contain("images", "-q").split() != []
