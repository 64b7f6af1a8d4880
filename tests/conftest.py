"""The options that the tests take, and the ground on which containers are made on the real kernel.

Without paths on the command line, write ``--option=VALUE``: pytest finds this file by its ``testpaths`` only if it sees no
argument that could be a path.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings

import pytest_contain.inside
from contain.container.lifecycle.ended import ExitState
from contain.container.run import new_container_id
from contain.container.session.session import Sandbox, SandboxVerdict, Session, open_session
from contain.linux.capabilities import DEFAULT_CAPABILITIES
from contain.linux.cgroups import can_limit, probe_hierarchies
from contain.linux.usernamespace import is_rootless
from contain.spec import Bind, ContainerSpec, Identity, Limits, Network
from contain.store import Store
from contain.values import replace

# A busy machine is no failure.
settings.register_profile("contain", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("contain")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--buildkit-corpus",
        metavar="PATH",
        default=os.environ.get("CONTAIN_BUILDKIT_CORPUS"),
        help="a checkout (or a part of one) of moby/buildkit, whose Dockerfile test data is to be tried"
        " (default: $CONTAIN_BUILDKIT_CORPUS; without it those tests are skipped)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With ``contain unshare pytest`` what is marked ``root`` runs, but for what only the machine's own root has."""
    if is_rootless():
        for item in items:
            if item.get_closest_marker("machine") is not None:
                item.add_marker(
                    pytest.mark.skip(reason="needs the machine's own root: control groups, devices, or / as a whole")
                )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    with Store.open(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """An empty build context."""
    directory = tmp_path / "context"
    directory.mkdir()
    return directory


class Outcome(NamedTuple):
    """How a program in a container ended, and what it printed."""

    status: int
    out: str
    err: str
    state: ExitState


def _copy_with_libraries(program: Path, tree: Path) -> None:
    """A dynamically linked program and what ldd(1) says that it needs."""
    shown = subprocess.run(["ldd", program], capture_output=True, text=True, check=False, timeout=20).stdout
    needed = [word for line in shown.splitlines() for word in line.split() if word.startswith("/")]
    for source in (program, *map(Path, needed)):
        target = tree / str(source).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source.resolve(), target)


@pytest.fixture(scope="session")
def small_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system with a shell and common programs: busybox where it is installed, else the machine's own programs."""
    tree = tmp_path_factory.mktemp("image") / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "etc").mkdir()
    (tree / "tmp").mkdir()
    (tree / "tmp").chmod(0o1777)
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1000::/home/worker:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:\nworker:x:1000:\ntools:x:2000:worker\n")
    busybox = shutil.which("busybox")
    if busybox is not None:
        _copy_with_libraries(Path(busybox), tree)
        shutil.copy(busybox, tree / "bin/busybox")
        names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True, timeout=20).stdout.split()
        for name in names:
            if not os.path.lexists(tree / "bin" / name):
                (tree / "bin" / name).symlink_to("busybox")
        return tree
    for name in _PROGRAMS.split():
        found = shutil.which(name)
        if found is not None:
            _copy_with_libraries(Path(found), tree)
            shutil.copy(Path(found).resolve(), tree / "bin" / name)
    return tree


_PROGRAMS = (
    "sh cat chmod chown cp dd echo env false grep head hostname id kill ln ls mkdir mv pwd readlink rm sleep stat stty touch true "
    "tty wc"
)


_WORKER = """
import json, os, socket, sys
sys.path.insert(0, "/entry")
import entry
entry.hold_capabilities()
channel = socket.socket(fileno=3)

def carry_out(source, output):
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        exec(source, {"__name__": "test"})
    except SystemExit as error:
        sys.stdout.flush()
        os._exit(error.code or 0)
    except BaseException as error:
        print(type(error).__name__, error, flush=True)
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)

while True:
    data, descriptors, _, _ = socket.recv_fds(channel, 65536, 32)
    if not data:
        break
    request = json.loads(data)
    output = descriptors.pop()
    if request["details"] is None:
        child = os.fork()
    else:
        child = entry.fork_into(request["details"], descriptors)
    if child == 0:
        channel.close()
        carry_out(request["source"], output)
    for descriptor in (output, *descriptors):
        os.close(descriptor)
    _, status = os.waitpid(child, 0)
    channel.send(json.dumps({"status": os.waitstatus_to_exitcode(status)}).encode())
"""


class Run:
    """What a forked test of the little worker printed, and how it ended: an exit status, or minus the signal's number."""

    def __init__(self, out: str, status: int | None) -> None:
        self.out, self.status = out, status


class Suite:
    """A session with the little worker."""

    def __init__(self, session: Session, spec: ContainerSpec) -> None:
        self.session = session
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            self.worker = session.start_worker(
                (os.path.realpath(sys.executable), "-I", "-c", _WORKER),
                spec.environment,
                stdio=(null, null, 2),
                fds=[theirs.fileno()],
            )
        finally:
            os.close(null)
            theirs.close()

    def send(self, source: str, details: dict[str, Any] | None, descriptors: list[int]) -> int:
        """Have ``source`` run; where its output comes from."""
        output, theirs = os.pipe2(os.O_CLOEXEC)
        request = json.dumps({"source": source, "details": details}).encode()
        socket.send_fds(self.channel, [request], [*descriptors, theirs])
        os.close(theirs)
        return output

    def receive(self, output: int, seconds: float) -> Run:
        """The output and end, or what came until ``seconds`` were over (then without a status)."""
        deadline = time.monotonic() + seconds
        data = b""
        while True:
            ready, _, _ = select.select([output, self.channel.fileno()], [], [], max(0.0, deadline - time.monotonic()))
            if output in ready:
                piece = os.read(output, 65536)
                data += piece
                if piece:
                    continue
            if self.channel.fileno() in ready:
                os.close(output)
                return Run(data.decode(), json.loads(self.channel.recv(65536))["status"])
            if not ready:
                os.close(output)
                return Run(data.decode(), None)

    def in_worker(self, source: str) -> Run:
        """In a fork of the worker that joins no sandbox."""
        return self.receive(self.send(source, None, []), 10)

    def test(
        self, source: str, *, seconds: float = 10, then: Callable[[Sandbox], None] | None = None
    ) -> tuple[Run, SandboxVerdict]:
        """In a fresh sandbox; ends it, also if it did not end by itself within ``seconds``."""
        sandbox = self.session.take_sandbox()
        output = self.send(source, sandbox.details, sandbox.fds)
        run = self.receive(output, seconds)
        if then is not None:
            then(sandbox)
        verdict = sandbox.finish()
        if run.status is None:
            assert select.select([self.channel], [], [], 10)[0], "the sandbox's process outlived its sandbox"
            run.status = json.loads(self.channel.recv(65536))["status"]
        return run, verdict


class Ground:
    """Where the tests on the real kernel make their containers: a home of their own, and one small image."""

    def __init__(self, directory: Path, tree: Path) -> None:
        self.directory = directory
        self.tree = tree
        self.home = directory / "home"
        self.run_home = self.home / "run"
        self.identifiers: list[str] = []

    def spec(self, *arguments: str, **changes: Any) -> ContainerSpec:
        """A container of the small image that runs ``arguments``; no network."""
        identifier = new_container_id()
        self.identifiers.append(identifier)
        values: dict[str, Any] = {
            "container_id": identifier,
            "name": identifier[:12],
            "image_digest": "sha256:" + "0" * 64,
            "image_name": "small",
            "layers": (self.tree,),
            "upper": None,
            "arguments": arguments,
            "environment": (("PATH", "/usr/bin:/bin"), ("HOME", "/root")),
            "working_directory": PurePosixPath("/"),
            "identity": Identity(),
            "hostname": "box",
            "mounts": (),
            "network": Network.NONE,
            "limits": Limits(),
            "read_only": False,
            "terminal": False,
            "stop_signal": 15,
            "capabilities": DEFAULT_CAPABILITIES,
        }
        return ContainerSpec(**{**values, **changes})

    def run(self, *arguments: str, stdin: bytes = b"", **changes: Any) -> Outcome:
        """Run a program in a container to its end."""
        from contain.container.run import run

        spec = self.spec(*arguments, **changes)
        with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            source.write(stdin)
            source.seek(0)
            state = run(spec, stdin=source.fileno(), stdout=out.fileno(), stderr=err.fileno(), home=self.run_home)
            out.seek(0)
            err.seek(0)
            return Outcome(state.status, out.read().decode(), err.read().decode(), state)

    def sh(self, script: str, **changes: Any) -> Outcome:
        """Run a shell script in a container to its end."""
        return self.run("sh", "-c", script, **changes)

    def python(self, source: str, **changes: Any) -> Outcome:
        """Run a program in this machine's Python, whose files are mounted read-only into the container."""
        mounts = (*self.python_mounts(), *changes.pop("mounts", ()))
        program = os.path.realpath(sys.executable)
        return self.run(program, "-I", "-c", textwrap.dedent(source), mounts=mounts, **changes)

    def python_mounts(self) -> tuple[Bind, ...]:
        """What this machine's Python needs of it, read-only, each at its own path."""
        wanted = ["/usr", "/lib", "/lib64"] + ([] if sys.base_prefix.startswith("/usr") else [sys.base_prefix])
        return tuple(
            Bind(source=Path(path).resolve(), target=PurePosixPath(path), read_only=True)
            for path in wanted
            if os.path.isdir(path)
        )

    def session_spec(self, **changes: Any) -> ContainerSpec:
        """The containers of a test session of the small image, with this machine's Python in it."""
        inside = Path(pytest_contain.inside.__file__).parent
        entry = Bind(source=inside, target=PurePosixPath("/entry"), read_only=True)
        mounts = (*changes.pop("mounts", ()), *self.python_mounts(), entry)
        return self.spec("worker", mounts=mounts, **changes)

    @contextlib.contextmanager
    def open_suite(self, *, scratch_bytes: int = 64 << 20, on_disk: bool = False, **changes: Any) -> Iterator[Suite]:
        """A test session with the little worker."""
        spec = self.session_spec(**changes)
        with open_session(spec, scratch_bytes=scratch_bytes, home=self.run_home, on_disk=on_disk) as session:
            self.identifiers.append(session.configuration.session_id)
            suite = Suite(session, spec)
            try:
                yield suite
            finally:
                suite.channel.close()

    def check_nothing_is_left(self) -> None:
        """No process, mount, control group or directory of the containers made here; waits two seconds for dying ones."""
        deadline = time.monotonic() + 2
        while True:
            left = self.leftovers()
            if not left or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        assert not left, left

    def leftovers(self) -> list[str]:
        """What the containers made here have on this machine now."""
        left = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.directory) in line]
        work = self.run_home / "work"
        left += [str(path) for path in work.iterdir()] if work.exists() else []
        for hierarchy in probe_hierarchies():
            left += [path for name in self.identifiers if os.path.exists(path := f"{hierarchy.mount}/contain/{name}")]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    text = (entry / "cgroup").read_text()
                    left += [f"process {entry.name}" for name in self.identifiers if name in text]
        return left


@pytest.fixture
def ground(tmp_path: Path, small_tree: Path) -> Iterator[Ground]:
    """Containers on the real kernel; after the test nothing of them may be left. A test that hangs is ended after 40 seconds."""

    def too_late(number: int, frame: object) -> None:
        raise TimeoutError("a test of containers took more than 40 seconds")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, 40)
    made = Ground(tmp_path, small_tree)
    try:
        yield made
        made.check_nothing_is_left()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def suite(ground: Ground) -> Iterator[Suite]:
    """A test session whose sandboxes may take 64 MiB of memory, where the machine can limit that, and 40 processes."""
    limits = Limits(memory_bytes=64 << 20 if can_limit("memory") else None)
    if can_limit("pids"):
        limits = replace(limits, pids=40)
    with ground.open_suite(limits=limits) as made:
        yield made
