"""Terminals of containers on real pseudo terminals: let go of and come back to, several at once, and never a broken one afterwards."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import tarfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
]
LET_GO = b"\x10\x11"
SECONDS = 30


def set_size(descriptor: int, rows: int, columns: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))


class Screen:
    """``contain`` on a pseudo terminal of its own, whose settings can be compared with those before."""

    def __init__(self, command: list[str], environment: dict[str, str], rows: int, columns: int) -> None:
        self.main, self.inner = pty.openpty()
        set_size(self.inner, rows, columns)
        self.before = termios.tcgetattr(self.inner)
        self.out = b""

        def own_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=self.inner,
            stdout=self.inner,
            stderr=self.inner,
            start_new_session=True,
            preexec_fn=own_terminal,
        )

    def expect(self, text: bytes) -> bytes:
        """All that comes up to ``text``."""
        deadline = time.monotonic() + SECONDS
        while text not in self.out:
            ready, _, _ = select.select([self.main], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, (text, self.out)
            self.out += os.read(self.main, 65536)
        found, self.out = self.out[: (end := self.out.index(text) + len(text))], self.out[end:]
        return found

    def type(self, text: bytes) -> None:
        os.write(self.main, text)

    def wait(self) -> int:
        return self.process.wait(SECONDS)

    def is_as_before(self) -> bool:
        return termios.tcgetattr(self.inner) == self.before

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.inner)[3] & (termios.ICANON | termios.ECHO)

    def wait_until_raw(self) -> None:
        deadline = time.monotonic() + SECONDS
        while not self.is_raw():
            assert time.monotonic() < deadline
            os.sched_yield()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(SECONDS)
        os.close(self.main)
        os.close(self.inner)


class Scene:
    """A store with the image ``small``; every container and screen made here is gone afterwards."""

    def __init__(self, home: Path) -> None:
        self.environment = {**os.environ, "CONTAIN_HOME": str(home), "LC_ALL": "C.UTF-8"}
        self.command = [sys.executable, "-m", "contain.cli.start"]
        self.screens: list[Screen] = []

    def run(self, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            [*self.command, *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            **({"stdin": subprocess.DEVNULL} | options),
        )

    def screen(self, *words: str, rows: int = 24, columns: int = 80) -> Screen:
        made = Screen([*self.command, *words], self.environment, rows, columns)
        self.screens.append(made)
        return made

    def state(self, name: str) -> str:
        found = json.loads(self.run("container", "inspect", name).stdout)
        return str(found[0]["State"]["Status"])

    def clean(self) -> None:
        for screen in self.screens:
            screen.close()
        self.screens.clear()
        names = self.run("ps", "-a", "-q").stdout.split()
        if names:
            self.run("rm", "-f", *names)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, small_tree: Path) -> Scene:
    directory = tmp_path_factory.mktemp("terminals")
    made = Scene(directory / "home")
    archive = directory / "small.tar"
    with tarfile.open(archive, "w") as file:
        file.add(small_tree, arcname=".")
    assert made.run("import", str(archive), "small").returncode == 0
    return made


@pytest.fixture
def scene(shared: Scene) -> Iterator[Scene]:
    try:
        yield shared
    finally:
        shared.clean()


def shell(scene: Scene, *flags: str, rows: int = 24, columns: int = 80) -> Screen:
    """A shell with a prompt that nothing else prints."""
    screen = scene.screen("run", "-it", "--network=none", "-e", "PS1=ready>", *flags, "small", "sh", rows=rows, columns=columns)
    screen.expect(b"ready>")
    return screen


def test_the_window_has_its_size_from_the_first_byte_on_and_follows_changes(scene: Scene) -> None:
    screen = scene.screen("run", "--rm", "-it", "--network=none", "small", "sh", "-c", "stty size; cat", rows=33, columns=99)
    screen.expect(b"33 99")
    other = shell(scene, "--rm")
    set_size(other.inner, 41, 121)
    other.process.send_signal(signal.SIGWINCH)
    while True:  # the change takes its way through two processes
        other.type(b"stty size\r")
        if b"41 121" in other.expect(b"ready>"):
            break


def test_the_detach_keys_leave_it_running_and_attach_comes_back(scene: Scene) -> None:
    screen = shell(scene, "--name", "left")
    screen.type(LET_GO)
    assert screen.wait() == 0
    assert screen.is_as_before()
    assert scene.state("left") == "running"
    again = scene.screen("attach", "left", rows=50, columns=132)
    again.type(b"\r")
    again.expect(b"ready>")
    again.type(b"stty size\r")
    again.expect(b"50 132")
    again.type(b"exit 7\r")
    assert again.wait() == 7
    assert again.is_as_before()
    assert scene.state("left") == "exited"


def test_keys_of_ones_own_let_go_and_the_default_ones_are_passed_on(scene: Scene) -> None:
    screen = scene.screen("run", "-it", "--network=none", "--name", "own", "--detach-keys", "x,y", "small", "cat", "-v")
    screen.wait_until_raw()
    screen.type(b"axb\r")
    screen.expect(b"axb")
    screen.type(b"xy")
    assert screen.wait() == 0
    assert scene.state("own") == "running"


def test_a_detached_shell_is_attached_to_by_several_at_once(scene: Scene) -> None:
    done = scene.run("run", "-dit", "--network=none", "--name", "many", "-e", "PS1=ready>", "small", "sh")
    assert done.returncode == 0, done.stderr
    one, two = scene.screen("attach", "many"), scene.screen("attach", "many")
    one.wait_until_raw()
    two.wait_until_raw()
    one.type(b"echo fr''om one\r")
    one.expect(b"from one")
    two.expect(b"from one")
    two.type(b"exit 3\r")
    assert (one.wait(), two.wait()) == (3, 3)
    assert one.is_as_before()
    assert two.is_as_before()


def test_start_ai_is_the_container_again_on_this_terminal(scene: Scene) -> None:
    made = scene.run("create", "-it", "--network=none", "--name", "later", "-e", "PS1=ready>", "small", "sh")
    assert made.returncode == 0, made.stderr
    for status in (4, 5):
        screen = scene.screen("start", "-ai", "later")
        screen.expect(b"ready>")
        screen.type(b"exit %d\r" % status)
        assert screen.wait() == status
        assert screen.is_as_before()


def test_exec_can_be_let_go_of_and_goes_on(scene: Scene) -> None:
    scene.run("run", "-d", "--network=none", "--name", "host", "small", "sleep", "100")
    screen = scene.screen("exec", "-it", "host", "sh", "-c", "stty size; cat", rows=20, columns=70)
    screen.expect(b"20 70")
    screen.type(LET_GO)
    assert screen.wait() == 0
    assert screen.is_as_before()
    assert "cat" in scene.run("top", "host").stdout


def test_exec_on_a_terminal_ends_with_its_programs_status(scene: Scene) -> None:
    scene.run("run", "-d", "--network=none", "--name", "host", "small", "sleep", "100")
    screen = scene.screen("exec", "-it", "host", "sh", "-c", "exit 9")
    assert screen.wait() == 9
    assert screen.is_as_before()
    missing = scene.screen("exec", "-it", "host", "nope")
    assert missing.wait() == 127
    assert missing.is_as_before()


def test_exec_in_the_background_prints_nothing_and_goes_on(scene: Scene) -> None:
    scene.run("run", "-d", "--network=none", "--name", "host", "small", "sleep", "100")
    done = scene.run("exec", "-d", "host", "sh", "-c", "echo said; exec sleep 77")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "sleep 77" in scene.run("top", "host").stdout
    assert scene.run("exec", "-d", "host", "nope").returncode == 127


def test_ctrl_c_reaches_the_program_and_not_the_command(scene: Scene) -> None:
    screen = scene.screen(
        "run", "--rm", "-it", "--network=none", "small", "sh", "-c", "trap 'echo caught; exit 5' INT; echo up; cat"
    )
    screen.expect(b"up")
    screen.wait_until_raw()
    screen.type(b"\x03")
    screen.expect(b"caught")
    assert screen.wait() == 5
    assert screen.is_as_before()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_the_terminal_is_as_before_whatever_signal_ends_the_command(scene: Scene, number: signal.Signals) -> None:
    screen = shell(scene, "--rm")
    assert screen.is_raw()
    if number in (signal.SIGHUP, signal.SIGQUIT):
        screen.process.send_signal(number)
    else:  # a shell ignores them as first process; who asks three times means it
        deadline = time.monotonic() + SECONDS
        while screen.process.poll() is None and time.monotonic() < deadline:
            screen.process.send_signal(number)
            os.sched_yield()
    if number == signal.SIGQUIT:  # passed on, and ignored
        screen.type(b"exit\r")
    screen.wait()
    assert screen.is_as_before()


# A little shell: the command in a process group of its own, in the foreground (only such a group is stopped by SIGTSTP).
_JOB_CONTROL = """
import os, signal, sys, termios
before = termios.tcgetattr(0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
child = os.fork()
if child == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
print("job", child, flush=True)
_, status = os.waitpid(child, os.WUNTRACED)
print("stopped" if os.WIFSTOPPED(status) else "ended", termios.tcgetattr(0) == before, flush=True)
os.kill(child, signal.SIGCONT)
_, status = os.waitpid(child, 0)
print("then", os.waitstatus_to_exitcode(status), termios.tcgetattr(0) == before, flush=True)
"""


def test_a_stopped_command_gives_the_terminal_back_and_takes_it_again(scene: Scene) -> None:
    words = ["run", "--rm", "-it", "--network=none", "-e", "PS1=ready>", "small", "sh"]
    screen = Screen([sys.executable, "-c", _JOB_CONTROL, *scene.command, *words], scene.environment, 24, 80)
    scene.screens.append(screen)
    screen.expect(b"job ")
    job = int(screen.expect(b"\n"))
    screen.expect(b"ready>")
    os.kill(job, signal.SIGTSTP)
    screen.expect(b"stopped True")
    screen.wait_until_raw()
    screen.type(b"exit 6\r")
    screen.expect(b"then 6 True")


def test_the_terminal_is_as_before_when_the_program_is_killed(scene: Scene) -> None:
    screen = shell(scene, "--name", "victim")
    assert scene.run("kill", "victim").returncode == 0
    assert screen.wait() == 137
    assert screen.is_as_before()


def supervisor_of(scene: Scene, name: str) -> int:
    """A descriptor (pidfd_open(2)) of the process that stays with a container. Never any other process: it must be a program of this
    scene's, by its command and its store, and not one of the screens."""
    found = json.loads(scene.run("container", "inspect", name).stdout)[0]
    number = int(found["State"]["Pid"])
    wanted = f"CONTAIN_HOME={scene.environment['CONTAIN_HOME']}".encode()
    while True:
        number = int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])
        assert number > 1, "no process of this scene's stays with the container"
        assert number not in [os.getpid(), *(screen.process.pid for screen in scene.screens)]
        descriptor = os.pidfd_open(number)
        words = Path(f"/proc/{number}/cmdline").read_bytes()
        if b"contain.cli.start" in words and wanted in Path(f"/proc/{number}/environ").read_bytes().split(b"\0"):
            return descriptor
        os.close(descriptor)


def test_the_terminal_is_as_before_when_the_supervisor_is_killed(scene: Scene) -> None:
    screen = shell(scene, "--name", "orphan")
    supervisor = supervisor_of(scene, "orphan")
    signal.pidfd_send_signal(supervisor, signal.SIGKILL)
    os.close(supervisor)
    assert screen.wait() != 0
    assert screen.is_as_before()


def test_the_caller_may_be_killed_and_the_container_goes_on(scene: Scene) -> None:
    screen = shell(scene, "--name", "survivor")
    screen.process.kill()
    screen.wait()
    again = scene.screen("attach", "survivor")
    again.type(b"exit 2\r")
    assert again.wait() == 2
    assert again.is_as_before()


def test_a_program_that_cannot_be_started_leaves_the_terminal_alone(scene: Scene) -> None:
    screen = scene.screen("run", "--rm", "-it", "--network=none", "small", "nope")
    assert screen.wait() == 127
    assert screen.is_as_before()


def test_input_of_a_detached_container_is_kept_open_for_whoever_comes(scene: Scene) -> None:
    scene.run("run", "-di", "--network=none", "--name", "open", "small", "sh", "-c", "while read x; do echo got $x; done")
    with subprocess.Popen(
        [*scene.command, "attach", "open"], env=scene.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as one:
        assert one.stdin is not None
        assert one.stdout is not None
        one.stdin.write(b"one\n")
        one.stdin.flush()
        assert one.stdout.readline() == b"got one\n"
        one.stdin.close()  # its end is this caller's only
        one.kill()
    with subprocess.Popen(
        [*scene.command, "attach", "open"], env=scene.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as two:
        assert two.stdin is not None
        assert two.stdout is not None
        two.stdin.write(b"two\n")
        two.stdin.flush()
        assert two.stdout.readline() == b"got two\n"
        two.kill()
    assert scene.state("open") == "running"


def test_signals_are_passed_on_unless_that_is_switched_off(scene: Scene) -> None:
    script = "trap 'echo caught; exit 8' TERM; echo up; while :; do sleep 0.05; done"
    for flag, state in (("--sig-proxy=false", "running"), ("--sig-proxy=true", "exited")):
        name = f"signals{len(flag)}"
        scene.run("run", "-d", "--network=none", "--name", name, "small", "sh", "-c", script)
        with subprocess.Popen(
            [*scene.command, "attach", "--no-stdin", flag, name], env=scene.environment, stdout=subprocess.DEVNULL
        ) as one:
            while _is_waiting(one.pid) is False:
                os.sched_yield()
            one.send_signal(signal.SIGTERM)
            one.wait(SECONDS)
        assert scene.state(name) == state


def test_a_run_that_does_not_pass_signals_on_leaves_its_container_running(scene: Scene) -> None:
    script = "read x; echo got $x; sleep 100"
    words = ["run", "-i", "--sig-proxy=false", "--network=none", "--name", "stays", "small", "sh", "-c", script]
    with subprocess.Popen(
        [*scene.command, *words],
        env=scene.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as one:
        assert one.stdin is not None
        assert one.stdout is not None
        one.stdin.write(b"input\n")
        one.stdin.flush()
        assert one.stdout.readline() == b"got input\n"
        one.send_signal(signal.SIGINT)
        assert one.wait(SECONDS) == 130
    assert scene.state("stays") == "running"


def _is_waiting(process: int) -> bool:
    """Whether it is attached: a connected socket of packets is open."""
    links = []
    for name in os.listdir(f"/proc/{process}/fd"):
        try:
            links.append(os.readlink(f"/proc/{process}/fd/{name}"))
        except OSError:
            continue
    syscall = Path(f"/proc/{process}/syscall").read_text().split()[0]
    return any(link.startswith("socket:") for link in links) and syscall in ("23", "270", "72")


def test_somebody_who_does_not_read_holds_up_nobody_for_long(scene: Scene) -> None:
    scene.run(
        "run", "-di", "--network=none", "--name", "flood", "small", "sh", "-c", "read x; yes | head -c 20000000; echo over; cat"
    )
    with (
        subprocess.Popen(
            [*scene.command, "attach", "flood"], env=scene.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as idle,
        subprocess.Popen(
            [*scene.command, "attach", "flood"], env=scene.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as reader,
    ):
        assert reader.stdin is not None
        assert reader.stdout is not None
        while not (_is_waiting(idle.pid) and _is_waiting(reader.pid)):
            os.sched_yield()
        reader.stdin.write(b"go\n")
        reader.stdin.flush()
        seen = b""
        while b"over" not in seen:
            data = reader.stdout.read1(1 << 20)  # type: ignore[attr-defined]
            assert data
            seen = seen[-10:] + data
        idle.kill()
        reader.kill()


def test_nobody_else_can_attach(scene: Scene) -> None:
    scene.run("run", "-di", "--network=none", "--name", "own", "small", "cat")
    home = Path(scene.environment["CONTAIN_HOME"])
    place = next((home / "containers").glob("*/attach"))
    assert place.parent.stat().st_mode & 0o077 == 0
    assert place.stat().st_mode & 0o077 == 0
    listening = Path("/proc/net/unix").read_text()
    assert not any("@" in line and "contain" in line for line in listening.splitlines())
    # even with the way to it opened, another user's connection is closed unheard
    program = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "os.chdir(sys.argv[1]); s.connect('attach'); os.setgid(65534); os.setuid(65534)\n"
        "t = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); t.settimeout(20)\n"
        "try:\n t.connect('attach'); print(t.recv(10))\nexcept OSError as e: print(e.errno)\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program, str(place.parent)], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert shown.stdout.strip() in ("b''", "13"), shown
