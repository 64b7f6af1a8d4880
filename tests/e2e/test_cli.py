"""The command line as somebody uses it who has just installed it: nonsense, a full disk, a closed pipe, Ctrl-C, two at once.

Every command is a process of its own with a home of its own; every wait has a bound.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

AS_ROOT = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
]
HEAVY = ("rich", "urllib3", "pyroute2", "zstandard", "sqlite3", "ctypes", "asyncio", "pytest", "debian", "pysequoia", "xxhash")


class CommandLine:
    """``contain`` with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "CONTAIN_HOME": str(home), "LC_ALL": "C.UTF-8"}
        self.environment.pop("CONTAIN_DEBUG", None)
        self.program = (sys.executable, "-m", "contain.cli.start")

    def __call__(self, *arguments: str, seconds: float = 30, **options: Any) -> subprocess.CompletedProcess[str]:
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(
            [*self.program, *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            env=self.environment,
            check=False,
            **options,
        )

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self.program, *arguments],
            env=self.environment,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    made = CommandLine(tmp_path / "home")
    yield made
    if os.geteuid() == 0 and (made.home / "containers").exists():
        names = [name for name in os.listdir(made.home / "containers") if len(name) == 64]
        if names:
            made("rm", "-f", *names)
        assert not os.path.exists(made.home / "run/work") or os.listdir(made.home / "run/work") == []


@pytest.fixture
def small(cli: CommandLine, small_tree: Path, tmp_path: Path) -> CommandLine:
    """With an image named ``small``."""
    archive = tmp_path / "small.tar"
    with tarfile.open(archive, "w") as file:
        file.add(small_tree, arcname=".")
    done = cli("import", str(archive), "small")
    assert done.returncode == 0, done.stderr
    return cli


def clear(done: subprocess.CompletedProcess[str]) -> str:
    """The error of a command: one short paragraph and no traceback."""
    assert "Traceback" not in done.stderr, done.stderr
    assert "fault of contain" not in done.stderr, done.stderr
    assert done.stderr.startswith("Error: "), done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4, done.stderr
    return done.stderr


# -- first contact -------------------------------------------------------------------------------------------------------------


def test_version_and_help_import_nothing_heavy() -> None:
    source = (
        "import sys\nfrom contain.cli.main import main\nassert main([sys.argv[1]]) == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    for argument in ("--version", "--help"):
        done = subprocess.run([sys.executable, "-c", source, argument], capture_output=True, text=True, timeout=30, check=False)
        assert (done.stderr, done.returncode) == ("[]\n", 0)


def test_ps_does_not_import_what_only_runs_containers() -> None:
    source = (
        "import sys\nfrom contain.cli.main import main\nassert main(['ps']) == 0\n"
        "print([name for name in ('rich', 'urllib3', 'pyroute2', 'zstandard', 'asyncio', 'debian') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


NOT_TO_START_A_CONTAINER = """
    asyncio csv dataclasses hashlib inspect locale pyroute2 rich shutil subprocess tempfile threading tomllib typing urllib3 zstandard
    contain.build.execute contain.container.lifecycle.probing contain.container.lifecycle.respecify contain.container.network.networking
    contain.container.request.mounts contain.declared contain.dockerfile contain.linux.nftables contain.linux.seccomp
    contain.store.store
"""


def imports_of(stderr: str) -> set[str]:
    """What a program started with ``-X importtime`` imported."""
    return {line.rpartition("|")[2].strip() for line in stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("network", ["none", "bridge"])
def test_starting_a_container_imports_what_it_needs_and_no_more(small_tree: Path, tmp_path: Path, network: str) -> None:
    archive = tmp_path / "small.tar"
    with tarfile.open(archive, "w") as file:
        file.add(small_tree, arcname=".")
    environment = {**os.environ, "CONTAIN_HOME": str(tmp_path / "home")}

    def contain(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-X", "importtime", "-m", "contain.cli.start", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=True)

    contain("import", str(archive), "small")
    run = ("run", "--rm", "--network", network, "small", "true")
    contain(*run)  # compiles the filter
    imported = imports_of(contain(*run).stderr)
    assert {"contain.container.launch", "sqlite3"} <= imported
    not_wanted = set(NOT_TO_START_A_CONTAINER.split())
    if network == "bridge":
        not_wanted -= {"contain.container.network.networking", "contain.linux.nftables"}
    assert imported & not_wanted == set()
    imported = imports_of(contain("ps", "-a").stderr)
    assert "contain.cli.container_listing" in imported
    assert (
        imported & {"dataclasses", "hashlib", "sqlite3", "typing", "contain.container.launch", "contain.store.images"} == set()
    )


@pytest.mark.parametrize("argument", ["--version", "-v", "version"])
def test_the_version_is_one_line(cli: CommandLine, argument: str) -> None:
    assert re.fullmatch(r"contain \d+\.\d+\S*\n", cli(argument).stdout)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_help_names_every_command(cli: CommandLine, arguments: tuple[str, ...]) -> None:
    from contain.cli.arguments import COMMANDS

    done = cli(*arguments)
    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


def every_command() -> list[str]:
    from contain.cli.arguments import COMMANDS

    return [name for name in COMMANDS if name != "oci"]  # another program's command line


@pytest.mark.parametrize("name", every_command())
def test_every_command_explains_itself(cli: CommandLine, name: str) -> None:
    done = cli(*name.split(), "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: contain {name}")
    assert not cli.home.exists()


@pytest.mark.parametrize("name", every_command())
def test_every_command_refuses_flags_that_it_does_not_know(cli: CommandLine, name: str) -> None:
    done = cli(*name.split(), "--no-such-flag", "x", "y")
    assert "unknown flag: --no-such-flag" in clear(done)
    assert f"contain {name} --help" in done.stderr
    assert done.returncode == {"run": 125, "diff": 2, "capture": 2, "unshare": 127}.get(name, 1)


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("images", "--tree"), ("build", "--cgroup-parent"), ("build", "--squash"), ("rm", "-l"), ("save", "--platform"),
        ("update", "--kernel-memory"),
    ],
)  # fmt: skip
def test_flags_of_docker_that_are_not_built_are_refused_by_name(cli: CommandLine, name: str, flag: str) -> None:
    message = clear(cli(name, flag, "x", "y"))
    assert f"contain {name} {flag.split('=', maxsplit=1)[0]} is not supported yet" in message


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        ("rnu", "'rnu' is not a contain command\nhint: did you mean 'run'?", 1),
        ("xyzzy", "'xyzzy' is not a contain command\nhint: `contain --help` lists them", 1),
        ("network inspect mine", "network mine not found", 1),
        ("run --gpus all host", "--gpus is not supported", 125),
        ("run --volume-driver x host", "--volume-driver is not supported", 125),
        ("run --runtime x host", "--runtime is not supported", 125),
        ("run --pid host host", "--pid is not supported", 125),
        ("run --cgroup-parent x host", "--cgroup-parent is not supported", 125),
        ("container", "contain container needs one of: attach", 1),
        ("container frob", "no command 'frob'", 1),
        ("builder", "contain builder needs one of: build, prune", 1),
        ("run", '"contain run" requires IMAGE\n', 125),
        ("container run", '"contain run" requires IMAGE\n', 125),
        ("exec", '"contain exec" requires CONTAINER\n', 1),
        ("exec x", '"contain exec" requires COMMAND\n', 1),
        ("exec x true", "No such container: x", 1),
        ("rm", '"contain rm" requires CONTAINER\n', 1),
        ("rm x", "No such container: x", 1),
        ("rm -f x", "No such container: x", 1),
        ("stop x", "No such container: x", 1),
        ("kill x", "No such container: x", 1),
        ("kill -s NOPE x", "invalid signal: NOPE", 1),
        ("wait x", "No such container: x", 1),
        ("port x", "No such container: x", 1),
        ("run -p x host", "invalid containerPort: x", 125),
        ("run --dns x host", "x is not an ip address", 125),
        ("run --add-host x host", 'bad format for add-host: "x"', 125),
        ("logs x", "No such container: x", 1),
        ("inspect x", "No such object: x", 1),
        ("rmi x", "No such image: x", 1),
        ("tag a b", "No such image: a", 1),
        ("tag a", '"contain tag" requires NAME', 1),
        ("import /nope x", "/nope: No such file or directory", 1),
        ("import /etc/passwd x", "Error: ", 1),
        ("build", '"contain build" requires CONTEXT', 1),
        ("build /nope", "'/nope' is not a directory", 1),
        ("build -", "nothing came from standard input", 1),
        ("build -f - -", "standard input cannot be both the context and the Dockerfile", 1),
        ("build https://registry.invalid/x.git", "git ls-remote of https://registry.invalid/x.git failed", 1),
        ("build -o type=nope .", "--output has no type 'nope'", 1),
        ("build --push .", "an image without a name cannot be pushed", 1),
        ("build --build-context x .", "invalid --build-context 'x'", 1),
        ("build --build-context x=/nope .", "--build-context x: '/nope' is not a directory", 1),
        ("diff a", "No such container: a", 2),
        ("diff /nope /nope", "/nope", 2),
        ("capture", '"contain capture" requires X', 2),
        ("doctor x", "contain doctor takes no argument 'x'", 1),
        ("ps x", "contain ps takes no argument 'x'", 1),
        ("run --pull never nope", "No such image: nope", 125),
        ("run -v d:/data x", "volume name is too short", 125),
        ("run --mount type=bind,src=/nope,dst=/b x", "bind source path does not exist: /nope", 125),
        ("run -v /tmp:b x", "invalid volume specification: '/tmp:b'", 125),
        ("run -v /tmp:/b:rx x", "invalid volume specification: '/tmp:/b:rx'", 125),
        ("run -v /tmp:/../b x", "invalid volume specification", 125),
        ("run -v /tmp:/ x", "destination can't be '/'", 125),
        ("run --memory 1 x", "Minimum memory limit allowed is 6MB", 125),
        ("run --memory much x", "invalid size: 'much'", 125),
        ("run --memory -5 x", "--memory", 125),
        (f"run --memory {'9' * 400} x", "invalid size", 125),
        ("run --cpus 10000 x", "Range of CPUs is from 0.01 to", 125),
        ("run --cpus nan x", "failed to parse nan as a rational number", 125),
        ("run --cpus many x", "--cpus", 125),
        ("run -e =x y", 'invalid argument "=x" for "-e, --env" flag: invalid environment variable: =x', 125),
        ("exec -e =x y z", "invalid environment variable: =x", 1),
        ("build --build-arg =x .", "invalid environment variable: =x", 1),
        ("run --label =x y", "invalid argument \"=x\" for \"-l, --label\" flag: invalid label '=x': empty name", 125),
        ("run --label= y", "invalid label '': empty name", 125),
        ("create -l =x y", "invalid label '=x': empty name", 1),
        ("build --label =x .", "invalid argument \"=x\" for \"--label\" flag: invalid label '=x': empty name", 1),
        ("network create --label =x y", "invalid label '=x': empty name", 1),
        ("volume create --label = yy", "invalid label '=': empty name", 1),
        ("run Upper", "repository name must be lowercase", 125),
        ("run a..b", "invalid reference format", 125),
        ("run --plan -d --rm x", "--plan excludes -d", 125),
        ("pull not:a:name", "invalid reference format", 1),
    ],
)  # fmt: skip
def test_nonsense_is_answered_in_one_paragraph(cli: CommandLine, arguments: str, message: str, status: int) -> None:
    done = cli(*arguments.split())
    assert message in clear(done)
    assert done.returncode == status


def test_the_lists_are_empty_where_nothing_was_made(cli: CommandLine) -> None:
    assert cli("ps", "-a").stdout.split() == ["CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    assert cli("images").stdout.split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE", "SOURCE"]
    assert cli("ps", "-q").stdout == cli("images", "-q").stdout == ""


# -- a machine that is not well -------------------------------------------------------------------------------------------------


def test_a_home_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cli = CommandLine(tmp_path / "file/home")
    for arguments in (("ps",), ("images",), ("build", "."), ("run", "x")):
        done = cli(*arguments)
        assert str(tmp_path / "file") in clear(done)
        assert done.returncode == (125 if arguments[0] == "run" else 1)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: needs root")
def test_somebody_elses_home_is_said() -> None:
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        home = Path(place) / "home"
        home.mkdir(mode=0o755)
        cli = CommandLine(home)
        nobody: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": [], "cwd": "/"}
        try:
            reachable = cli("--version", **nobody).returncode == 0
        except PermissionError:
            reachable = False
        if not reachable:
            pytest.skip("other users cannot reach this Python")
        done = cli("images", **nobody)
        assert str(home) in clear(done)
        assert "ermission denied" in done.stderr


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk: needs root")
def test_a_full_disk_is_said_and_the_store_stays_valid(cli: CommandLine, small_tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "small.tar"
    with tarfile.open(archive, "w") as file:
        file.add(small_tree, arcname=".")
    (tmp_path / "big").mkdir()
    (tmp_path / "big/file").write_bytes(os.urandom(4 << 20))
    big = tmp_path / "big.tar"
    with tarfile.open(big, "w") as file:
        file.add(tmp_path / "big", arcname=".")
    script = tmp_path / "script.py"
    cli.home.mkdir()
    script.write_text(
        "import subprocess, sys\n"
        "from contain.linux import syscalls\n"
        "syscalls.unshare(syscalls.CLONE_NEWNS)\n"
        "syscalls.mount('', '/', '', syscalls.MS_REC | syscalls.MS_PRIVATE, '')\n"
        "home, small, big = sys.argv[1:4]\n"
        "syscalls.mount('small', home, 'tmpfs', 0, 'size=6m')\n"
        "def contain(*arguments):\n"
        "    command = [sys.executable, '-m', 'contain.cli.start', *arguments]\n"
        "    done = subprocess.run(command, capture_output=True, text=True, timeout=60)\n"
        "    print(arguments[0], done.returncode, done.stderr.strip().replace(chr(10), ' | '), flush=True)\n"
        "contain('import', small, 'small')\n"
        "contain('import', big, 'big')\n"
        "contain('images')\n"
        "contain('run', '--rm', '--network', 'none', 'small', 'true')\n"
        "open(home + '/rest', 'wb').close()\n"
        "try:\n"
        "    with open(home + '/rest', 'wb', buffering=0) as file:\n"
        "        while True: file.write(bytes(4096))\n"
        "except OSError: pass\n"
        "contain('run', '--network', 'none', 'small', 'true')\n"
        "contain('tag', 'small', 'other')\n"
        "import os; os.unlink(home + '/rest')\n"
        "contain('run', '--rm', '--network', 'none', 'small', 'true')\n"
    )
    done = subprocess.run(
        [sys.executable, script, cli.home, archive, big],
        capture_output=True,
        text=True,
        timeout=120,
        env=cli.environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split(" ", 2) for line in done.stdout.splitlines()]
    assert [(row[0], row[1]) for row in rows] == [
        ("import", "0"), ("import", "1"), ("images", "0"), ("run", "0"), ("run", "125"), ("tag", "1"), ("run", "0"),
    ], done.stdout  # fmt: skip
    for row in (rows[1], rows[4], rows[5]):
        assert row[2].startswith("Error: "), row
        assert re.search("[Nn]o space left|disk is full|disk of the store is full", row[2]), row
        assert "fault of contain" not in row[2]
        assert "Traceback" not in row[2]


# -- containers ----------------------------------------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root")
class TestContainers:
    def test_output_and_exit_status_are_the_programs(self, small: CommandLine) -> None:
        done = small("run", "--rm", "--network", "none", "small", "sh", "-c", "echo out; echo err >&2; exit 7")
        assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)
        assert small("ps", "-aq").stdout == ""

    def test_input_is_passed_on_only_when_asked(self, small: CommandLine) -> None:
        run = ("run", "--rm", "--network", "none")
        assert small(*run, "-i", "small", "cat", stdin=None, input="typed\n").stdout == "typed\n"
        assert small(*run, "small", "cat", stdin=None, input="typed\n").stdout == ""

    @pytest.mark.parametrize(
        ("program", "message", "status"),
        [
            ("nope", 'exec: "nope": executable file not found in $PATH', 127),
            ("/nope", 'exec: "/nope": stat /nope: no such file or directory', 127),
            ("/etc/passwd", 'exec: "/etc/passwd": permission denied', 126),
            ("/etc", 'exec: "/etc": is a directory', 126),
        ],
    )
    def test_a_program_that_does_not_start_has_dockers_words_and_status(
        self, small: CommandLine, program: str, message: str, status: int
    ) -> None:
        for detached in ((), ("-d",)):
            done = small("run", "--rm", *detached, "--network", "none", "small", program)
            assert done.stderr == f"Error: {message}\n"
            assert done.returncode == status
        assert small("ps", "-aq").stdout == ""

    def test_variables_directory_user_and_name(self, small: CommandLine) -> None:
        small.environment["FROM_CALLER"] = "caller"
        done = small(
            *(
                "run",
                "--rm",
                "--network",
                "none",
                "-e",
                "A=b=c",
                "-e",
                "FROM_CALLER",
                "-e",
                "NOT_SET",
                "-w",
                "/made",
                "-u",
                "worker",
            ),
            *(
                "-h",
                "web",
                "small",
                "sh",
                "-c",
                "echo $A $FROM_CALLER ${NOT_SET-unset} $(pwd) $(id -u):$(id -g) $(hostname) $HOME",
            ),
        )
        assert done.stdout == "b=c caller unset /made 1000:1000 web /home/worker\n", done.stderr

    def test_a_detached_container_from_start_to_end(self, small: CommandLine) -> None:
        started = small(
            "run", "-d", "--name", "web", "--network", "none", "small", "sh", "-c", "echo hello; echo oops >&2; sleep 100"
        )
        identifier = started.stdout.strip()
        assert re.fullmatch("[0-9a-f]{64}", identifier), started.stderr
        rows = small("ps").stdout.splitlines()
        assert len(rows) == 2
        assert rows[1].split()[0] == identifier[:12]
        assert rows[1].endswith("web")
        assert "Up " in rows[1]
        wait_until(lambda: small("logs", "web").stdout == "hello\n")
        assert small("logs", "web").stderr == "oops\n"
        done = small("exec", "web", "sh", "-c", "echo inside; exit 5")
        assert (done.stdout, done.returncode) == ("inside\n", 5)
        assert small("exec", "-i", "web", "cat", stdin=None, input="x").stdout == "x"
        assert small("exec", "web", "sh", "-c", "echo added:x:4000:4001::/:/bin/sh >> /etc/passwd").returncode == 0
        assert small("exec", "-u", "added", "web", "id", "-u").stdout == "4000\n"
        assert "unable to find user nobody-knows" in clear(small("exec", "-u", "nobody-knows", "web", "id"))
        done = small("exec", "web", "nope")
        assert (done.stderr, done.returncode) == ('Error: exec: "nope": executable file not found in $PATH\n', 127)
        state = json.loads(small("inspect", "web").stdout)[0]["State"]
        assert (state["Status"], state["Running"]) == ("running", True)
        again = small("run", "-d", "--name", "web", "--network", "none", "small", "true")
        assert f'Conflict. The container name "/web" is already in use by container "{identifier}".' in clear(again)
        assert again.returncode == 125
        refused = small("rm", "web")
        assert 'cannot remove container "/web": container is running' in clear(refused)
        assert refused.returncode == 1
        assert "is using it" in clear(small("rmi", "small"))
        assert small("kill", "web").stdout == "web\n"
        assert small("wait", "web").stdout == "137\n"
        assert "Exited (137)" in small("ps", "-a").stdout
        assert small("ps").stdout.count("\n") == 1
        assert "is not running" in clear(small("kill", "web"))
        assert "is not running" in clear(small("exec", "web", "true"))
        assert small("stop", "web").returncode == 0
        assert small("logs", "-f", "web").stdout == "hello\n"
        assert small("rm", "web").stdout == "web\n"
        assert "No such container: web" in clear(small("rm", "web"))

    def test_stop_asks_first_and_then_kills(self, small: CommandLine) -> None:
        small(
            "run",
            "-d",
            "--name",
            "polite",
            "--network",
            "none",
            "small",
            "sh",
            "-c",
            "trap 'exit 4' TERM; echo ready; while :; do sleep 0.1; done",
        )
        small("run", "-d", "--name", "deaf", "--network", "none", "small", "sleep", "100")
        wait_until(lambda: "ready" in small("logs", "polite").stdout)
        before = time.monotonic()
        assert small("stop", "-t", "1", "polite", "deaf").stdout == "polite\ndeaf\n"
        assert time.monotonic() - before < 20
        assert small("wait", "polite", "deaf").stdout == "4\n137\n"

    def test_with_rm_nothing_is_kept(self, small: CommandLine) -> None:
        small("run", "-d", "--rm", "--name", "gone", "--network", "none", "small", "true")
        wait_until(lambda: small("ps", "-aq").stdout == "")
        assert os.listdir(small.home / "containers") == []

    def test_what_one_command_of_several_names_fails_at_does_not_stop_the_others(self, small: CommandLine) -> None:
        small("run", "--name", "one", "--network", "none", "small", "true")
        done = small("rm", "nope", "one")
        assert (done.stdout, done.returncode) == ("one\n", 1)
        assert "No such container: nope" in done.stderr

    def test_two_at_once_on_one_name_make_one_container(self, small: CommandLine) -> None:
        both = [small.start("run", "-d", "--name", "web", "--network", "none", "small", "sleep", "100") for _ in range(2)]
        ends = []
        for process in both:
            _, err = process.communicate(timeout=30)
            ends.append((process.returncode, b"already in use" in err))
        assert sorted(ends) == [(0, False), (125, True)]
        assert small("ps", "-q").stdout.count("\n") == 1

    def test_a_detached_container_holds_nothing_of_its_caller(self, small: CommandLine) -> None:
        read, write = os.pipe()
        done = small("run", "-d", "--name", "web", "--network", "none", "small", "sleep", "100", pass_fds=[write], cwd="/")
        assert done.returncode == 0, done.stderr
        os.close(write)
        os.set_blocking(read, False)
        assert os.read(read, 1) == b""  # the end, and not that somebody could still write
        os.close(read)

    def test_the_programs_status_counts_when_the_reader_goes_away(self, small: CommandLine) -> None:
        process = small.start(
            "run", "--rm", "--network", "none", "small", "sh", "-c", "for i in 1 2 3 4 5 6; do echo $i; sleep 0.1; done; exit 3"
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        process.stdout.close()
        assert process.wait(timeout=20) == 3
        assert process.stderr is not None
        assert b"contain" not in process.stderr.read()
        process.stderr.close()

    def test_a_pipe_closed_under_a_list_is_silent(self, small: CommandLine) -> None:
        read, write = os.pipe()
        os.close(read)
        process = small.start("images", stdout=write)
        os.close(write)
        _, err = process.communicate(timeout=20)
        assert err == b""
        assert process.returncode == 141

    def test_out_of_memory_is_said(self, small: CommandLine) -> None:
        done = small(
            *("run", "--rm", "--network", "none", "-m", "16m", "small"),
            *("sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1"),
        )
        if "controller" in done.stderr:
            pytest.skip(done.stderr)
        assert "contain: killed: the memory limit of 16 MiB was reached" in done.stderr
        assert done.returncode in (1, 137)

    def test_the_plan_is_shown_and_nothing_is_done(self, small: CommandLine) -> None:
        done = small("run", "--plan", "small", "echo", "x")
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[-1].startswith("Execute arguments=['echo', 'x']")
        assert any(line.startswith("MountRoot") for line in lines)
        assert small("ps", "-aq").stdout == ""

    def test_ctrl_c_reaches_the_program(self, small: CommandLine) -> None:
        process = small.start(
            "run",
            "--rm",
            "--network",
            "none",
            "small",
            "sh",
            "-c",
            "trap 'echo bye; exit 5' INT; echo ready; while :; do sleep 0.05; done",
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
        assert (out, process.returncode) == (b"bye\n", 5)

    def test_ctrl_c_three_times_ends_a_program_that_does_not_listen(self, small: CommandLine) -> None:
        process = small.start("run", "--rm", "--network", "none", "small", "sh", "-c", "echo ready; exec sleep 1000")
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for _ in range(100):  # two that come at the same moment are one
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.2)
                break
        process.communicate(timeout=20)
        assert process.returncode == 137
        assert small("ps", "-aq").stdout == ""

    @pytest.mark.parametrize("delay_seconds", [0.05, 0.15, 0.25, 0.35, None])
    def test_ctrl_c_at_any_moment_leaves_nothing_and_no_traceback(
        self, small: CommandLine, delay_seconds: float | None
    ) -> None:
        def is_on_record() -> bool:
            return any((small.home / "containers").glob("*/record.json"))

        process = small.start(
            "run", "--rm", "--network", "none", "small", "sh", "-c", "trap 'exit 5' INT; while :; do sleep 0.05; done"
        )
        deadline = time.monotonic() + (20 if delay_seconds is None else delay_seconds)
        while time.monotonic() < deadline and not (delay_seconds is None and is_on_record()):
            time.sleep(0.01)
        begun = is_on_record()  # earlier, Python itself may not have come up
        assert begun or delay_seconds is not None
        for _ in range(4):
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
                break
        _, err = process.communicate(timeout=20)
        assert not begun or b"Traceback" not in err, err.decode()
        assert process.returncode != 0
        assert small("ps", "-aq").stdout == ""

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_a_build_that_is_interrupted_leaves_nothing(
        self, small: CommandLine, tmp_path: Path, number: signal.Signals
    ) -> None:
        context = tmp_path / "context"
        context.mkdir()
        (context / "Dockerfile").write_text("FROM small\nRUN echo started && sleep 1000\n")
        process = small.start("build", "-t", "made", str(context))
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        seen = b""

        def started() -> bool:
            nonlocal seen
            assert process.stderr is not None
            seen += process.stderr.read() or b""
            return b"\nstarted" in seen

        wait_until(started)
        process.send_signal(number)
        process.wait(timeout=20)
        rest = seen + (process.stderr.read() or b"")
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()
        assert b"Traceback" not in rest
        assert process.returncode == 128 + number
        assert os.listdir(small.home / "run/work") == os.listdir(small.home / "tmp") == []
        assert "made" not in small("images").stdout
        assert small("build", "--target", "nope", str(context)).returncode == 1  # the store still works

    def test_kill_nine_is_cleaned_up_by_the_next_command(self, small: CommandLine) -> None:
        process = small.start("run", "--name", "web", "--network", "none", "small", "sh", "-c", "echo ready; sleep 1000")
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()
        process.communicate(timeout=20)
        assert "Dead" in small("ps", "-a").stdout
        assert small("run", "--rm", "--network", "none", "small", "true").returncode == 0
        assert os.listdir(small.home / "run/work") == []
        assert small("rm", "web").returncode == 0

    @pytest.mark.parametrize("command", ["build", "builder prune -f"])
    def test_what_a_killed_build_left_goes_with_the_next_one(self, small: CommandLine, tmp_path: Path, command: str) -> None:
        (tmp_path / "Dockerfile").write_text("FROM small\nRUN touch /tmp/x && sleep 1000\n")
        (tmp_path / "next.df").write_text("FROM small\nRUN true\n")
        process = small.start("build", "--network", "none", str(tmp_path))
        wait_until(lambda: bool(list(small.home.glob("run/work/*"))))
        process.kill()
        process.communicate(timeout=20)
        left = os.listdir(small.home / "run/work")
        assert left
        words = (
            ("build", "--network", "none", "-f", str(tmp_path / "next.df"), str(tmp_path))
            if command == "build"
            else command.split()
        )
        wait_until(lambda: small(*words).returncode == 0 and not os.listdir(small.home / "run/work"))
        assert not [place for place in Path("/sys/fs/cgroup").glob("**/contain/*") if place.name in left]

    def test_a_terminal_is_one(self, small: CommandLine) -> None:
        import pty

        main, peer = pty.openpty()
        process = small.start(
            "run",
            "--rm",
            "-it",
            "--network",
            "none",
            "small",
            "sh",
            "-c",
            "tty; stty size; read x; echo got $x",
            stdin=peer,
            stdout=peer,
            stderr=peer,
        )
        os.close(peer)
        os.write(main, b"typed\n")
        text = b""
        deadline = time.monotonic() + 15
        with contextlib.suppress(OSError):
            while select.select([main], [], [], max(0.0, deadline - time.monotonic()))[0]:
                text += os.read(main, 4096)
        if process.poll() is None and time.monotonic() > deadline:
            process.kill()
        os.close(main)
        assert process.wait(timeout=20) == 0
        assert b"/dev/pts/0" in text
        assert b"got typed" in text

    def test_a_reader_that_goes_away_ends_the_program_as_it_would_without_a_container(self, small: CommandLine) -> None:
        command = [sys.executable, "-m", "contain.cli.start", "run", "--rm", "small", "sh", "-c", "while echo y; do :; done"]
        reader, writer = os.pipe()
        process = subprocess.Popen(command, stdout=writer, stderr=subprocess.DEVNULL, env=small.environment)
        os.close(writer)
        assert os.read(reader, 2) == b"y\n"
        os.close(reader)
        try:
            process.wait(timeout=30)
        finally:
            process.kill()

    def test_a_host_path_of_v_that_is_not_there_becomes_a_directory(self, small: CommandLine, tmp_path: Path) -> None:
        assert small("run", "--rm", "-v", f"{tmp_path}/new/place:/d", "small", "touch", "/d/file").returncode == 0
        assert (tmp_path / "new/place/file").exists()

    def test_a_terminal_that_is_none_is_said(self, small: CommandLine) -> None:
        assert "the input device is not a TTY" in clear(small("run", "--rm", "-it", "small", "true"))


def wait_until(check: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds} seconds"
        time.sleep(0.05)


def test_a_dockerfile_may_come_through_a_pipe_of_the_shell(cli: CommandLine, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"FROM scratch\nENV A=b\n")
    os.close(writing)
    done = cli("build", "-q", "-f", f"/dev/fd/{reading}", str(tmp_path), pass_fds=[reading])
    os.close(reading)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("sha256:")
