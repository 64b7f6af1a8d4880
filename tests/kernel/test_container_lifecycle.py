"""What becomes of containers: started again, watched, stopped, lost with their supervisor or the machine; each command a process."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
]

RSS_LIMIT_KIB = 25 * 1024


class Contain:
    """``contain`` with a home of its own and an image named ``small``; containers without a network."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "CONTAIN_HOME": str(home), "LC_ALL": "C.UTF-8"}

    def __call__(self, *words: str, status: int = 0) -> str:
        """Standard output; or, where another exit status than 0 is expected, both outputs."""
        done = subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=60, env=self.environment, check=False
        )
        assert done.returncode == status, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout + (done.stderr if status else "")

    def try_(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=60, env=self.environment, check=False
        )

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "contain.cli.start", *words]

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words), env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *words: str) -> str:
        return self("run", "--network", "none", *words).strip()

    def inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("container", "inspect", name))[0]
        return found

    def state(self, name: str) -> dict[str, Any]:
        state: dict[str, Any] = self.inspect(name)["State"]
        return state

    def status(self, name: str) -> str:
        return self("ps", "-a", "--filter", f"name=^{name}$", "--format", "{{.Status}}").strip()

    def supervisor(self, name: str) -> int:
        """The process id of a container's supervisor: above its first process."""
        process = self.state(name)["Pid"]
        return int(re.search(r"PPid:\t(\d+)", Path(f"/proc/{process}/status").read_text())[1])  # type: ignore[index]


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.03)


def import_small(contain: Contain, directory: Path, tree: Path) -> None:
    archive = directory / "small.tar"
    with tarfile.open(archive, "w") as file:
        file.add(tree, arcname=".")
    contain("import", str(archive), "small")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, small_tree: Path) -> Iterator[Contain]:
    directory = tmp_path_factory.mktemp("lifecycle")
    made = Contain(directory / "home")
    import_small(made, directory, small_tree)
    yield made
    assert list((made.home / "run/work").glob("*")) == []


@pytest.fixture
def contain(shared: Contain) -> Iterator[Contain]:
    """Every container of the test is removed after it."""
    yield shared
    names = [path.name for path in (shared.home / "containers").glob("*") if len(path.name) == 64]
    if names:
        shared("rm", "-f", *names)


# -- restarts ----------------------------------------------------------------------------------------------------------------


def test_on_failure_starts_it_again_so_many_times_and_keeps_what_it_wrote(contain: Contain) -> None:
    contain.run("-d", "--restart", "on-failure:2", "--name", "web", "small", "sh", "-c", "echo x >>/f; cat /f; echo -; exit 4")
    until(lambda: contain.state("web")["Status"] == "exited")
    assert contain("logs", "web") == "x\n-\nx\nx\n-\nx\nx\nx\n-\n"
    assert (contain.inspect("web")["RestartCount"], contain.state("web")["ExitCode"]) == (2, 4)


def while_restarting(contain: Contain, *words: str) -> str:
    """What a command that must fail says of ``web`` between two starts: asked until no start came in between."""
    for _ in range(20):
        until(lambda: contain.state("web")["Status"] == "restarting")
        before = contain.inspect("web")
        refused = contain.try_(*words)
        after = contain.inspect("web")
        if (before["State"]["Status"], before["RestartCount"]) == (after["State"]["Status"], after["RestartCount"]):
            assert refused.returncode
            return refused.stderr
        contain.try_("unpause", "web")
    raise AssertionError("each time a start came in between")


def test_between_two_starts_it_is_restarting_and_stop_ends_that(contain: Contain, tmp_path: Path) -> None:
    contain.run("-d", "--restart", "always", "--name", "web", "small", "sh", "-c", "test -e /stay && exec sleep 1000; exit 1")
    until(lambda: contain.status("web").startswith("Restarting (1) "))
    assert "web" in contain("ps")
    for words in (["pause", "web"], ["exec", "web", "true"]):
        assert "is restarting, wait until the container is running" in while_restarting(contain, *words)
    refused = while_restarting(contain, "rm", "web")
    assert "container is restarting: stop the container before removing or force remove" in refused
    contain("stop", "web")
    assert contain.status("web").startswith("Exited (1) ")
    assert contain.inspect("web")["RestartCount"] >= 1
    (tmp_path / "stay").touch()
    contain("cp", str(tmp_path / "stay"), "web:/stay")
    contain("start", "web")
    until(lambda: contain.state("web")["Status"] == "running")
    assert contain.inspect("web")["RestartCount"] == 0  # counts from the beginning
    contain("stop", "-t", "0", "web")
    assert contain.state("web")["Status"] == "exited"


def test_what_is_started_again_and_again_can_be_removed(contain: Contain) -> None:
    contain.run("-d", "--restart", "always", "--name", "web", "small", "true")
    until(lambda: contain.state("web")["Status"] == "restarting")
    contain("rm", "-f", "web")
    assert contain("ps", "-aq") == ""
    contain.run("--name", "web", "small", "true")


def test_restarts_end_when_somebody_removes_the_record_by_hand(contain: Contain) -> None:
    identifier = contain.run("-d", "--restart", "always", "--name", "web", "small", "sleep", "1000")
    supervisor = contain.supervisor("web")
    process = contain.state("web")["Pid"]
    shutil.rmtree(contain.home / "containers" / identifier)
    os.kill(process, signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{supervisor}"))


def test_a_program_that_somebody_else_killed_is_started_again_and_one_that_contain_killed_is_not(contain: Contain) -> None:
    contain.run("-d", "--restart", "unless-stopped", "--name", "web", "small", "sleep", "1000")
    first = contain.state("web")["Pid"]
    os.kill(first, signal.SIGKILL)
    until(lambda: contain.state("web")["Pid"] not in (0, first))
    contain("kill", "web")
    until(lambda: contain.status("web").startswith("Exited (137) "))


def test_run_in_front_ends_with_the_first_run_and_the_restarts_go_on(contain: Contain) -> None:
    words = [
        "run",
        "--network",
        "none",
        "--restart",
        "on-failure:1",
        "--name",
        "web",
        "small",
        "sh",
        "-c",
        "echo hello; exit 3",
    ]
    assert contain(*words, status=3).startswith("hello\n")
    until(lambda: contain.state("web")["Status"] == "exited")
    assert contain("logs", "web") == "hello\nhello\n"


def test_restart_and_rm_together_are_refused_in_dockers_words(contain: Contain) -> None:
    refused = contain("run", "--rm", "--restart", "always", "small", "true", status=125)
    assert "cannot specify both --restart and --rm" in refused
    contain("run", "--rm", "--restart", "no", "--network", "none", "small", "true")


# -- ends --------------------------------------------------------------------------------------------------------------------


def test_stop_sends_the_signal_and_kills_after_the_containers_own_grace_time(contain: Contain) -> None:
    contain.run("-d", "--name", "polite", "small", "sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.02; done")
    contain.run("-d", "--name", "deaf", "--stop-timeout", "0", "small", "sh", "-c", "trap '' TERM; echo up; sleep 1000")
    for name in ("polite", "deaf"):
        until(lambda name=name: contain("logs", name) == "up\n")  # type: ignore[misc]
    began = time.monotonic()
    contain("stop", "polite", "deaf")
    assert time.monotonic() - began < 8.0
    assert contain.status("polite").startswith("Exited (5) ")
    assert contain.status("deaf").startswith("Exited (137) ")


def test_wait_tells_of_several_also_of_those_that_have_ended_or_go_with_their_end(contain: Contain) -> None:
    contain.run("--name", "never", "small", "true")
    contain("create", "--name", "new", "small", "true")
    contain.run("-d", "--rm", "--name", "gone", "small", "sh", "-c", "while [ ! -e /go ]; do sleep 0.02; done; exit 6")
    waiting = contain.start("wait", "never", "new", "gone")
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "0\n"
    assert waiting.stdout.readline() == "0\n"
    contain("exec", "gone", "touch", "/go")
    assert waiting.communicate(timeout=30) == ("6\n", "")
    assert contain("wait", "nobody", "never", status=1).startswith("0\n")


def test_a_container_whose_memory_ran_out_says_so(contain: Contain) -> None:
    words = ["small", "sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=40; tail /dev/zero"]
    contain.run("-d", "--memory", "8m", "--name", "greedy", *words)
    until(lambda: contain.state("greedy")["Status"] == "exited", 40)
    assert contain.state("greedy")["OOMKilled"] is True
    assert contain.state("greedy")["ExitCode"] == 137


# -- supervisors and the machine -----------------------------------------------------------------------------------------------


def test_a_supervisor_takes_its_container_along_and_ps_says_so(contain: Contain) -> None:
    contain.run("-d", "--restart", "always", "--name", "web", "small", "sleep", "1000")
    process = contain.state("web")["Pid"]
    os.kill(contain.supervisor("web"), signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{process}"))
    assert contain.status("web").startswith("Dead")
    assert contain("wait", "web") == "137\n"
    assert contain("system", "start") == "web\n"
    assert contain.state("web")["Status"] == "running"


def test_a_supervisor_needs_little_memory(contain: Contain) -> None:
    contain("run", "-d", "--name", "web", "small", "sleep", "1000")  # with a network: what that needs is loaded too
    text = Path(f"/proc/{contain.supervisor('web')}/smaps_rollup").read_text()
    assert int(re.search(r"Rss:\s+(\d+)", text)[1]) < RSS_LIMIT_KIB  # type: ignore[index]


def test_sigterm_to_a_supervisor_stops_its_container_but_not_for_good(contain: Contain) -> None:
    program = ["small", "sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.02; done"]
    for name in ("web", "stopped", "always"):
        contain.run("-d", "--restart", "always" if name == "always" else "unless-stopped", "--name", name, *program)
        until(lambda name=name: contain("logs", name) == "up\n")  # type: ignore[misc]
    os.kill(contain.supervisor("web"), signal.SIGTERM)
    until(lambda: contain.status("web").startswith("Exited (5) "))
    contain("stop", "stopped", "always")
    assert contain("system", "start").split() == ["web", "always"]
    assert contain.status("stopped").startswith("Exited (5) ")
    assert contain("system", "start") == ""


def test_after_a_boot_ps_says_so_and_what_is_always_to_run_comes_back(contain: Contain) -> None:
    places = {}
    for name, policy in (("no", "no"), ("always", "always"), ("unless", "unless-stopped"), ("onfail", "on-failure")):
        identifier = contain.run("-d", "--restart", policy, "--name", name, "small", "sleep", "1000")
        places[name] = contain.home / "containers" / identifier / "record.json"
        os.kill(contain.supervisor(name), signal.SIGKILL)
    for name, place in places.items():
        until(lambda name=name: contain.state(name)["Status"] == "dead")  # type: ignore[misc]
        written = json.loads(place.read_text())
        place.write_text(json.dumps({**written, "boot_id": "a machine that was started before"}))
        assert contain.status(name).startswith("Exited (255) ")
    assert contain("system", "start").split() == ["always", "unless"]
    assert [contain.state(name)["Status"] for name in places] == ["exited", "running", "running", "exited"]


# -- health ------------------------------------------------------------------------------------------------------------------


def test_health_is_looked_at_and_told(contain: Contain) -> None:
    check = ["--health-cmd", "echo looking; test -e /ok", "--health-interval", "40ms", "--health-retries", "2"]
    contain.run("-d", *check, "--name", "web", "small", "sleep", "1000")
    until(lambda: contain.status("web").endswith("(unhealthy)"))
    assert contain.state("web")["Health"]["FailingStreak"] >= 2
    contain("exec", "web", "touch", "/ok")
    until(lambda: contain.status("web").endswith("(healthy)"))
    health = contain.state("web")["Health"]
    assert (health["Status"], health["FailingStreak"]) == ("healthy", 0)
    until(lambda: len(contain.state("web")["Health"]["Log"]) == 5)
    assert contain.state("web")["Health"]["Log"][-1]["Output"] == "looking\n"
    assert contain("ps", "-q", "--filter", "health=healthy") != ""
    assert contain("ps", "-q", "--filter", "health=starting") == ""


def test_health_is_looked_at_in_front_too(contain: Contain) -> None:
    running = contain.start(
        *("run", "--network", "none", "--health-cmd", "true", "--health-interval", "40ms", "--name", "web"),
        *("small", "sh", "-c", "while [ ! -e /go ]; do sleep 0.02; done; exit 8"),
    )
    until(lambda: contain.status("web").endswith("(healthy)"))
    contain("exec", "web", "touch", "/go")
    running.communicate(timeout=30)
    assert running.returncode == 8


def test_a_check_that_takes_too_long_is_killed_with_whatever_it_started(contain: Contain) -> None:
    check = "setsid sleep 2001 & (sleep 2002 &) ; sleep 2003"
    contain.run(
        *("-d", "--health-cmd", check, "--health-interval", "50ms", "--health-timeout", "150ms", "--health-retries", "1"),
        *("--name", "web", "small", "sleep", "1000"),
    )
    until(lambda: contain.status("web").endswith("(unhealthy)"))
    contain("pause", "web")  # so that no further look is on; it waits for the one that is
    first = contain.state("web")["Health"]["Log"][0]
    assert first["ExitCode"] == -1
    assert first["Output"].startswith("Health check exceeded timeout (0.15s)")
    contain("unpause", "web")
    contain("stop", "-t", "0", "web")


def test_a_check_has_the_containers_own_restrictions(contain: Contain) -> None:
    check = "grep -E '^(Cap|Seccomp:|NoNew|Uid)' /proc/self/status; hostname"
    contain.run(
        *("-d", "-u", "1000", "--cap-drop", "ALL", "-h", "inner", "--health-cmd", check, "--health-interval", "50ms"),
        *("--name", "web", "small", "sleep", "1000"),
    )
    until(lambda: contain.status("web").endswith("(healthy)"))
    inside = contain("exec", "web", "sh", "-c", check)
    assert contain.state("web")["Health"]["Log"][0]["Output"] == inside
    assert "Seccomp:\t2" in inside
    assert "Uid:\t1000" in inside


def test_a_check_that_cannot_be_started_is_a_failure_with_its_reason(contain: Contain) -> None:
    context = contain.home.parent / "checked"
    context.mkdir()
    (context / "Dockerfile").write_text(
        'FROM small\nHEALTHCHECK --interval=50ms --retries=1 CMD ["/no-such-check"]\nCMD ["sleep", "1000"]\n'
    )
    contain("build", "-q", "-t", "checked", str(context))
    contain.run("-d", "--name", "web", "checked")
    until(lambda: contain.status("web").endswith("(unhealthy)"))
    assert "/no-such-check" in contain.state("web")["Health"]["Log"][0]["Output"]
    contain.run("-d", "--no-healthcheck", "--name", "quiet", "checked")
    assert "Health" not in contain.state("quiet")


# -- init --------------------------------------------------------------------------------------------------------------------


def test_init_reaps_passes_signals_on_and_ends_as_the_program_ends(contain: Contain) -> None:
    program = "trap 'echo got; exit 5' USR1; (sleep 0.01 & exec true) ; echo up; while :; do sleep 0.02; done"
    contain.run("-d", "--init", "--name", "web", "small", "sh", "-c", program)
    until(lambda: contain("logs", "web") == "up\n")
    until(lambda: " Z " not in contain("exec", "web", "ps", "-o", "pid,stat,args"))
    contain("kill", "-s", "USR1", "web")
    until(lambda: contain.status("web").startswith("Exited (5) "))
    assert contain("logs", "web") == "up\ngot\n"
    contain("run", "--rm", "--init", "--network", "none", "small", "sh", "-c", "kill -9 $$", status=137)
    contain("run", "--rm", "--init", "--network", "none", "small", "/no-such-program", status=127)


def test_init_shows_nothing_of_the_host(contain: Contain) -> None:
    looks = "ls -l /proc/1/fd/; readlink /proc/1/exe; cat /proc/1/environ /proc/1/maps; echo x >/proc/1/mem"
    script = f"{looks}; cat /proc/1/cmdline /proc/1/comm"
    done = subprocess.run(
        contain.command("run", "--rm", "--init", "--network", "none", "small", "sh", "-c", script),
        capture_output=True,
        text=True,
        timeout=60,
        env=contain.environment,
        check=False,
    )
    assert done.stdout.replace("\0", "").replace("total 0\n", "") == "contain-initcontain-init\n"
    facts = contain(
        *("run", "--rm", "--init", "--network", "none", "-u", "1000", "--cap-drop", "ALL", "small", "cat", "/proc/1/status")
    )
    assert "Uid:\t1000\t1000\t1000\t1000" in facts
    assert re.search(r"CapBnd:\s+0{16}", facts)
    assert re.search(r"Seccomp:\s+2", facts)
    assert re.search(r"NoNewPrivs:\s+1", facts)


def test_a_program_ignores_no_signal_that_its_supervisor_ignores(contain: Contain) -> None:
    for words in (["-d"], ["-d", "--init"], ["-d", "-i"], ["-d", "-t"]):
        contain.run(*words, "--name", "web", "small", "cat", "/proc/self/status")
        until(lambda: contain.state("web")["Status"] == "exited")
        assert re.search(r"SigIgn:\s+0{16}", contain("logs", "web"))
        assert re.search(r"SigBlk:\s+0{16}", contain("logs", "web"))
        contain("rm", "web")


# -- logs --------------------------------------------------------------------------------------------------------------------


def test_a_follower_sees_every_line_of_a_log_that_is_rotated(contain: Contain) -> None:
    program = "while [ ! -e /go ]; do sleep 0.02; done; i=0; while [ $i -lt 4000 ]; do echo line $i; i=$((i+1)); done"
    contain.run(
        *("-d", "--log-opt", "max-size=4k", "--log-opt", "max-file=100", "--name", "web", "small", "sh", "-c", program),
    )
    following = contain.start("logs", "-f", "web")
    contain("exec", "web", "touch", "/go")
    out, _ = following.communicate(timeout=40)
    assert out.splitlines() == [f"line {number}" for number in range(4000)]
    assert (contain.home / "containers" / contain.inspect("web")["Id"] / "log.1").exists()


def test_no_log_is_kept_with_the_driver_none(contain: Contain) -> None:
    contain.run("--log-driver", "none", "--name", "web", "small", "echo", "hello")
    assert "configured logging driver does not support reading" in contain("logs", "web", status=1)


def test_a_full_disk_costs_output_and_neither_the_container_nor_its_status(tmp_path: Path, small_tree: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=True, timeout=20)
    contain = Contain(disk / "home")
    try:
        import_small(contain, tmp_path, small_tree)
        program = (
            "while [ ! -e /dev/shm/go ]; do sleep 0.02; done; i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); done"
        )
        contain.run("-d", "--name", "web", "small", "sh", "-c", f"{program}; exit 9")
        filler = os.open(disk / "filler", os.O_CREAT | os.O_WRONLY)
        with contextlib.suppress(OSError):
            while True:
                os.write(filler, b"x" * 4096)
        with pytest.raises(OSError, match="No space left"):
            os.write(filler, b"x")
        os.close(filler)
        contain("exec", "web", "touch", "/dev/shm/go")
        until(lambda: contain.state("web")["Status"] == "exited")
        assert contain.state("web")["ExitCode"] == 9
        os.unlink(disk / "filler")
        contain("start", "web")
        contain("exec", "web", "touch", "/dev/shm/go")
        until(lambda: contain.state("web")["Status"] == "exited")
        assert contain("logs", "web").splitlines()[-1] == "line 199"
    finally:
        contain("rm", "-f", "web")
        subprocess.run(["umount", disk], check=True, timeout=20)


@contextlib.contextmanager
def no_room_for(record: Path) -> Iterator[None]:
    """What is written to the record finds the disk full, as on file systems that keep no room for a file."""
    subprocess.run(["mount", "--bind", "/dev/full", record / "record.spare"], check=True, timeout=20)
    try:
        yield
    finally:
        for place in (record, record.with_name(f"{record.name}.removed")):
            if (place / "record.spare").exists():
                subprocess.run(["umount", place / "record.spare"], check=True, timeout=20)


@pytest.mark.parametrize("flags", [(), ("--rm",), ("-t",)])
def test_who_waits_gets_the_status_also_when_it_cannot_be_written_down(contain: Contain, flags: tuple[str, ...]) -> None:
    program = "while [ ! -e /dev/shm/go ]; do sleep 0.02; done; exit 9"
    running = contain.start("run", *flags, "--network=none", "--name", "web", "small", "sh", "-c", program)
    until(lambda: contain("ps", "--filter", "name=web", "--format", "{{.State}}") == "running\n")
    with no_room_for(contain.home / "containers" / contain.inspect("web")["Id"]):
        contain("exec", "web", "touch", "/dev/shm/go")
        _, said = running.communicate(timeout=40)
    assert running.returncode == 9, said
    if not flags:
        assert "warning: container web ended with status 9, which cannot be written down: No space left on device" in said
    assert contain("ps", "-a", "--format", "{{.State}}").split() == ([] if flags == ("--rm",) else ["dead"])


# -- two at once -------------------------------------------------------------------------------------------------------------


def at_once(contain: Contain, *commands: tuple[str, ...]) -> list[tuple[int, str]]:
    """Exit status and output of commands that were started together."""
    running = [contain.start(*words) for words in commands]
    found = []
    for process in running:
        out, err = process.communicate(timeout=60)
        found.append((process.returncode, out + err))
    return found


@pytest.mark.parametrize("_round", range(6))
def test_of_several_who_want_one_name_one_gets_it(contain: Contain, _round: int) -> None:
    done = at_once(contain, *[("create", "--name", "web", "small", "true")] * 4)
    assert sorted(status for status, _ in done) == [0, 1, 1, 1]
    assert all('Conflict. The container name "/web" is already in use' in text for status, text in done if status)
    assert len(contain("ps", "-aq").split()) == 1


@pytest.mark.parametrize("_round", range(6))
def test_of_several_who_start_one_container_one_does(contain: Contain, _round: int) -> None:
    contain("create", "--name", "web", "--network", "none", "small", "sh", "-c", "echo up; sleep 1000")
    done = at_once(contain, *[("start", "web")] * 4)
    assert 0 in [status for status, _ in done]
    assert all("is being started or removed by somebody else" in text for status, text in done if status)
    assert contain.state("web")["Status"] == "running"
    assert contain("logs", "web") in ("up\n", "")


@pytest.mark.parametrize("_round", range(6))
def test_of_several_who_remove_one_container_each_gets_a_clear_answer(contain: Contain, _round: int) -> None:
    contain.run("-d", "--name", "web", "small", "sleep", "1000")
    done = at_once(contain, ("rm", "-f", "web"), ("rm", "-f", "web"), ("stop", "-t", "0", "web"), ("kill", "web"))
    known = ("No such container: web", "is not running", "is being started or removed by somebody else")
    assert all(status == 0 or any(words in text for words in known) for status, text in done), done
    assert contain("ps", "-aq") == ""


@pytest.mark.parametrize("_round", range(4))
def test_start_stop_and_restart_at_once_leave_it_running_or_not(contain: Contain, _round: int) -> None:
    contain.run("-d", "--restart", "always", "--name", "web", "small", "sleep", "1000")
    done = at_once(
        contain, ("stop", "-t", "0", "web"), ("restart", "-t", "0", "web"), ("start", "web"), ("stop", "-t", "0", "web")
    )
    known = ("is being started or removed by somebody else",)
    assert all(status == 0 or any(words in text for words in known) for status, text in done), done
    state = contain.state("web")
    assert (state["Status"] == "running") == (state["Pid"] != 0)
    assert state["Status"] in ("running", "exited")


@pytest.mark.parametrize("_round", range(4))
def test_of_several_who_remove_one_image_one_does(contain: Contain, _round: int) -> None:
    contain("tag", "small", "other")
    done = at_once(contain, *[("rmi", "other")] * 3)
    assert sorted(status for status, _ in done) == [0, 1, 1], done
    assert all("No such image" in text for status, text in done if status), done


# -- kills -------------------------------------------------------------------------------------------------------------------


def test_nothing_is_lost_when_processes_are_killed_at_random_moments() -> None:
    """A small version of ``nox -s faults``."""
    script = Path(__file__).parents[1] / "faults/run.py"
    done = subprocess.run([sys.executable, script, "--kills", "25"], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
