"""``contain run -p`` from the command line: reached from this machine, shown, refused when taken, gone with the container."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
]
SERVER = (
    "import socket\n"
    "s = socket.create_server(('', 8000))\n"
    "print('ready', flush=True)\n"
    "while True:\n"
    "    c, _ = s.accept()\n"
    "    c.sendall(b'served'); c.close()\n"
)


class Commands:
    """``contain`` with a store of its own."""

    def __init__(self, home: Path) -> None:
        self.environment = {**os.environ, "CONTAIN_HOME": str(home)}

    def __call__(self, *arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "contain.cli.start", *arguments],
            capture_output=True,
            text=True,
            timeout=40,
            env=self.environment,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == status, done.stderr
        return done.stdout if status == 0 else done.stderr


@pytest.fixture
def contain(tmp_path: Path) -> Iterator[Commands]:
    commands = Commands(tmp_path / "store")
    yield commands
    for row in commands("ps", "-aq").split():
        commands("rm", "-f", row)
    commands("ps")  # sweeps


def serve(contain: Commands, *flags: str) -> None:
    """A container called web that answers at its port 8000 when this returns."""
    contain("run", "-d", "--name", "web", *flags, "host", "python3", "-c", SERVER)
    logs = subprocess.Popen(
        [sys.executable, "-m", "contain.cli.start", "logs", "-f", "web"], stdout=subprocess.PIPE, env=contain.environment
    )
    with logs:
        assert logs.stdout is not None
        assert logs.stdout.readline() == b"ready\n"
        logs.kill()


def ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        return connection.recv(100)


def test_a_published_port_is_reached_shown_refused_to_others_and_gone_afterwards(contain: Commands) -> None:
    serve(contain, "-p", "127.0.0.1::8000")
    address, _, port = contain("port", "web", "8000").strip().partition(":")
    assert address == "127.0.0.1"
    assert ask(int(port)) == b"served"
    assert f"127.0.0.1:{port}->8000/tcp" in contain("ps")
    assert contain("port", "web") == f"8000/tcp -> 127.0.0.1:{port}\n"
    shown = json.loads(contain("inspect", "web"))[0]["NetworkSettings"]["Ports"]
    assert shown == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": port}]}
    assert "no public port '9/tcp' published for web" in contain("port", "web", "9", status=1)
    taken = contain("run", "--rm", "-p", f"127.0.0.1:{port}:80", "host", "true", status=125)
    assert f"Bind for 127.0.0.1:{port} failed: port is already allocated" in taken
    contain("rm", "-f", "web")
    with pytest.raises(ConnectionRefusedError):
        ask(int(port))


def test_after_a_killed_supervisor_the_port_is_free_again(contain: Commands, tmp_path: Path) -> None:
    serve(contain, "-p", "8000")
    port = int(contain("port", "web", "8000").strip().rpartition(":")[2])
    supervisor = json.loads(next((tmp_path / "store/run").glob("network.json")).read_text())["leases"]
    (lease,) = supervisor.values()
    os.kill(lease[1], signal.SIGKILL)
    again = contain("run", "--rm", "-p", f"{port}:80", "host", "echo", "again")
    assert again == "again\n"
    with pytest.raises(ConnectionRefusedError):
        ask(port)


def test_ports_of_the_hosts_network_are_discarded_aloud_and_without_a_network_refused(contain: Commands) -> None:
    refused = contain("run", "--rm", "--network", "none", "-p", "80", "host", "true", status=125)
    assert "port publishing and the network mode none" in refused
    done = subprocess.run(
        [sys.executable, "-m", "contain.cli.start", "run", "--rm", "--network=host", "-p", "80", "host", "true"],
        capture_output=True,
        text=True,
        timeout=40,
        env=contain.environment,
        check=True,
    )
    assert "WARNING: Published ports are discarded when using host network mode" in done.stderr
