"""Docker and podman run their containers on this core: a web service with a published port and a volume, and what one does with it."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
    pytest.mark.skipif(not os.access("/bin/busybox", os.X_OK), reason="needs busybox, statically linked"),
]
NETWORK = "contain-e2e"
PORTS = {"docker": 18731, "podman": 18732}


class Engine:
    """Another engine's command line, with this project's runtime under it."""

    def __init__(self, name: str, command: list[str], runtime: list[str], network: list[str]) -> None:
        self.name, self.command, self.network = name, command, network
        self.run_options = runtime
        self.port = PORTS[name]

    def __call__(self, *words: str, status: int | None = 0) -> str:
        done = subprocess.run(
            [*self.command, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
        )
        text = done.stdout + done.stderr
        assert status is None or done.returncode == status, f"{words}: {done.returncode}\n{text}"
        return text

    def run(self, *words: str, status: int | None = 0) -> str:
        return self("run", *self.run_options, *words, status=status)


def runtime_program(place: Path) -> Path:
    """`contain-oci`, whether or not this project is installed."""
    program = place / "contain-oci"
    root = Path(__file__).resolve().parents[2] / "runtime"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(root)!r})\n"
        "from contain.oci_runtime.program import program\nprogram()\n"
    )
    program.chmod(0o755)
    return program


def image_archive(place: Path) -> Path:
    """A root with busybox."""
    tree = place / "tree"
    (tree / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    for name in ("sh", "httpd", "id", "cat", "grep", "sleep", "tty", "echo", "touch", "true", "hostname", "ls", "env"):
        (tree / "bin" / name).symlink_to("busybox")
    path = place / "image.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(tree, ".")
    return path


def unmount_below(place: Path) -> None:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in reversed([point for point in points if point.startswith(f"{place}/")]):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)


@contextlib.contextmanager
def docker(place: Path) -> Iterator[Engine]:
    client, daemon = shutil.which("docker"), shutil.which("dockerd")
    if client is None or daemon is None:
        pytest.skip("docker and dockerd are not installed")
    assert client is not None
    assert daemon is not None
    host = f"unix://{place}/docker.sock"
    groups = {path for path in Path("/sys/fs/cgroup").glob("*/docker") if path.is_dir()}
    words = [daemon, "--data-root", str(place / "docker"), "--exec-root", str(place / "exec"), "--host", host]
    words += ["--pidfile", str(place / "docker.pid"), "--iptables=false", "--ip-forward=false", "--bridge=none"]
    words += ["--add-runtime", f"contain={runtime_program(place)}"]
    with (place / "dockerd.log").open("wb") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    engine = Engine("docker", [client, "--host", host], ["--runtime", "contain"], ["--network", NETWORK])
    try:
        for _ in range(300):
            if (
                process.poll() is not None
                or not subprocess.run([*engine.command, "version"], capture_output=True, check=False).returncode
            ):
                break
            time.sleep(0.1)
        if process.poll() is not None:
            pytest.skip(f"dockerd does not start here: {(place / 'dockerd.log').read_text()[-500:]}")
        engine("import", str(image_archive(place)), "web")
        engine("network", "create", "-o", "com.docker.network.bridge.name=ctbe2e", "--subnet", "172.31.98.0/24", NETWORK)
        yield engine
        for name in engine("ps", "--all", "--quiet").split():
            engine("rm", "--force", name)
        engine("network", "rm", NETWORK, status=None)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for path in place.glob("exec/**/*.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(path.read_text()), signal.SIGTERM)
        for path in set(Path("/sys/fs/cgroup").glob("*/docker")) - groups:
            with contextlib.suppress(OSError):
                path.rmdir()
        subprocess.run(["ip", "link", "delete", "ctbe2e"], capture_output=True, check=False)
        unmount_below(place)


@contextlib.contextmanager
def podman(place: Path) -> Iterator[Engine]:
    client = shutil.which("podman")
    if client is None or shutil.which("conmon") is None:
        pytest.skip("podman and conmon are not installed")
    assert client is not None
    words = [client, "--root", str(place / "root"), "--runroot", str(place / "run"), "--cgroup-manager", "cgroupfs"]
    words += ["--runtime", str(runtime_program(place))]
    # its own defaults are above what a machine without CAP_SYS_RESOURCE lets it set
    groups = {path for path in Path("/sys/fs/cgroup").glob("*/libpod_parent") if path.is_dir()}
    engine = Engine("podman", words, ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"], [])
    try:
        engine("import", str(image_archive(place)), "web")
        yield engine
    finally:
        engine("rm", "--all", "--force", "--time", "0", status=None)
        engine("volume", "rm", "--all", "--force", status=None)
        for path in set(Path("/sys/fs/cgroup").glob("*/libpod_parent")) - groups:
            for below in sorted(path.rglob("*/"), reverse=True):
                with contextlib.suppress(OSError):
                    below.rmdir()
            with contextlib.suppress(OSError):
                path.rmdir()
        unmount_below(place)


@pytest.fixture(scope="module", params=[docker, podman], ids=["docker", "podman"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with request.param(tmp_path_factory.mktemp("engine")) as opened:
        yield opened


def test_a_web_service_with_a_port_and_a_volume(engine: Engine) -> None:
    serve = "echo listening; exec httpd -f -p 80 -h /srv"
    port = f"127.0.0.1:{engine.port}:80"
    engine.run("--detach", "--name", "web", *engine.network, "-p", port, "-v", "site:/srv", "web", "sh", "-c", serve)
    engine("exec", "web", "sh", "-c", "echo '<p>served</p>' > /srv/index.html")
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{engine.port}/", timeout=10) as answer:
                assert answer.read() == b"<p>served</p>\n"
            break
        except OSError:
            assert time.monotonic() < deadline
    assert engine("logs", "web") == "listening\n"
    assert "httpd" in engine("top", "web")
    engine("pause", "web")
    assert "aused" in engine("ps", "--all")
    engine("unpause", "web")
    assert "uid=5" in engine("exec", "--user", "5:6", "web", "id")
    engine("exec", "web", "sh", "-c", "exit 9", status=9)
    engine("stop", "--time", "1", "web")
    assert engine("inspect", "--format", "{{.State.ExitCode}}", "web").strip() == "137"
    engine("start", "web")
    assert "served" in engine("exec", "web", "cat", "/srv/index.html")
    engine("rm", "--force", "web")
    assert "served" in engine.run("--rm", "--network", "none", "-v", "site:/srv", "web", "cat", "/srv/index.html")
    engine("volume", "rm", "site")


@pytest.mark.parametrize(
    ("options", "program", "status", "shown"),
    [
        ((), ("sh", "-c", "exit 41"), 41, ""),
        ((), ("nosuch",), 127, "executable file not found in $PATH"),
        ((), ("/bin",), 126, ""),
        (("--user", "1000:1000"), ("grep", "CapEff", "/proc/self/status"), 0, "0000000000000000"),
        (("--hostname", "away"), ("hostname",), 0, "away"),
        (("--read-only", "--tmpfs", "/data"), ("sh", "-c", "touch /data/x && ! touch /x"), 0, "Read-only file system"),
        (("--memory", "32m"), ("cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes"), None, ""),
        ((), ("grep", "Seccomp:", "/proc/self/status"), 0, "2"),
        (("--cap-drop", "ALL"), ("grep", "CapBnd", "/proc/self/status"), 0, "0000000000000000"),
        (("--security-opt", "no-new-privileges"), ("grep", "NoNewPrivs", "/proc/self/status"), 0, "1"),
        (("--sysctl", "net.ipv4.ip_forward=1"), ("cat", "/proc/sys/net/ipv4/ip_forward"), 0, "1"),
        (("--env", "A=b c"), ("env",), 0, "A=b c"),
    ],
)
def test_options_reach_the_container(
    engine: Engine, options: tuple[str, ...], program: tuple[str, ...], status: int | None, shown: str
) -> None:
    assert shown in engine.run("--rm", "--network", "none", *options, "web", *program, status=status)


def test_a_terminal(engine: Engine) -> None:
    words = [*engine.command, "run", *engine.run_options, "--rm", "-it", "--network", "none", "web", "sh", "-c", "tty; exit 5"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(words[0], words)
    shown = b""
    with contextlib.suppress(OSError):
        while data := os.read(terminal, 4096):
            shown += data
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert b"/dev/pts/0" in shown
    assert os.waitstatus_to_exitcode(status) == 5
