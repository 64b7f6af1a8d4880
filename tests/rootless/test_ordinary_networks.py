"""Networks of one's own, made by ordinary users: what root's have, they have, and nothing of them stays."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contain.linux import syscalls
from tests.e2e import test_networks_cli as as_root
from tests.e2e.test_networks_cli import Networks, on

Ordinary = Any  # tests/rootless/conftest.py

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")
several_ids = pytest.mark.parametrize("contain", ["ordinary"], indirect=True)
"""For what does not depend on how many ids there are."""
_MS_REMOUNT = 32  # mount(2)
_LOOP = 'trap "exit 3" TERM; while :; do sleep 0.05; done'
# Its input stays open: pasta of 2023 repeats a server's answer without end to a client that has ended its own half.
_ASK = "mkfifo /tmp/open 2>/dev/null; nc -w 2 {} 0<>/tmp/open"


class Theirs(Networks):
    """``contain`` as an ordinary user, with a store of theirs and the image ``small``."""

    def __init__(self, user: Ordinary, archive: bytes) -> None:
        self.user = user
        self.path: dict[str, str] = {}
        user.ok("import", "-", "small", stdin=archive)

    def __call__(self, *arguments: str, status: int = 0) -> str:
        done = self.user.contain(*arguments, env=self.path)
        assert done.returncode == status, (arguments, done.stdout, done.stderr)
        return str(done.stdout if status == 0 else done.stderr)

    def loop(self, name: str, *flags: str) -> None:
        """A container of the small image that does nothing."""
        self("run", "-d", "--name", name, *flags, "small", "sh", "-c", _LOOP)

    def reaches(self, name: str, address: str, port: int) -> bool:
        """Whether a container gets an answer from there."""
        done = self.user.contain("exec", name, "sh", "-c", _ASK.format(f"{address} {port}"), env=self.path)
        return bool(done.stdout)

    def named(self, name: str) -> list[int]:
        """The user's processes of this name (proc_pid_comm(5))."""
        found = []
        for number in self.user.processes():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{number}/comm").read_text().strip() == name:
                    found.append(number)
        return found

    def carriers(self) -> list[int]:
        """The programs that connect the networks with the outside."""
        programs = ("/pasta\0", "/slirp4netns\0")
        return [number for number in self.user.processes() if any(each in self.user.command_of(number) for each in programs)]

    def only(self, program: str) -> None:
        """From now on there is this program only of those that connect; none if empty."""
        place = self.user.place / f"only-{program}"
        place.mkdir()
        for name in (program, "newuidmap", "newgidmap"):
            if name:
                (place / name).symlink_to(shutil.which(name) or "/nonexistent")
        self.path = {"PATH": str(place)}


def until(found: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(params=["ordinary", "single"])
def contain(request: pytest.FixtureRequest, small_archive: bytes) -> Iterator[Theirs]:
    """An ordinary user with several ids, and one with a single id."""
    user: Ordinary = request.getfixturevalue(request.param)
    theirs = Theirs(user, small_archive)
    yield theirs
    theirs.path = {}
    for row in theirs("ps", "-aq").split():
        theirs("rm", "-f", row)
    theirs("run", "--rm", "--network", "none", "small", "true")  # sweeps
    run = user.store / "run"
    assert not list(run.glob("network*.json")) + list(run.glob("networks/*/network.json"))
    until(lambda: not theirs.named("contain-names") + theirs.named("contain-uplink") + theirs.carriers())


@pytest.fixture
def connected(contain: Theirs) -> Theirs:
    """On a machine that has a program for the way out."""
    if not (shutil.which("pasta") or shutil.which("slirp4netns")) or not os.path.exists("/dev/net/tun"):
        pytest.skip("needs pasta or slirp4netns, and /dev/net/tun")
    if os.geteuid() != 0 and not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("/dev/net/tun is not for ordinary users here")
    return contain


@contextlib.contextmanager
def server(address: str) -> Iterator[int]:
    """A server of the machine's that says ``machine``; its port."""

    class Say(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"machine")

    with socketserver.TCPServer((address, 0), Say) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        try:
            yield int(made.server_address[1])
        finally:
            made.shutdown()


def own_address() -> str:
    """An address of this machine that is not its loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no network")
        return str(asked.getsockname()[0])


def ask(address: str, port: int) -> bytes:
    with socket.create_connection((address, port), timeout=5) as connection:
        return connection.recv(100)


@pytest.mark.parametrize(
    "promise",
    [
        as_root.test_containers_of_a_network_find_and_reach_each_other_by_name_and_others_do_not,
        as_root.test_a_network_is_shown_with_dockers_fields_and_stays_while_it_is_used,
        as_root.test_an_internal_network_has_names_and_neighbours_and_nothing_else,
        as_root.test_names_that_no_container_has_are_asked_of_the_given_server_within_the_network,
        as_root.test_a_shared_network_is_the_others_and_ends_sensibly_with_it,
        as_root.test_names_are_answered_again_after_the_attendant_was_killed,
        as_root.test_what_a_killed_supervisor_leaves_goes_with_the_next_command,
    ],
    ids=lambda promise: promise.__name__.removeprefix("test_"),
)
def test_what_root_is_promised_holds_for_an_ordinary_user(promise: Callable[[Networks], None], contain: Theirs) -> None:
    promise(contain)


def test_a_restart_keeps_the_networks_of_a_container(contain: Theirs) -> None:
    as_root.test_a_restart_keeps_the_networks_of_a_container(contain, "small")


def test_networks_do_not_reach_each_other_in_either_direction(contain: Theirs) -> None:
    for name in ("front", "back"):
        contain("network", "create", name)
        contain.serve(name, *on(name))
    contain.loop("both", *on("front", "back"))
    places = [f"{contain.address(name, name)}:8000" for name in ("front", "back")]
    assert contain.call(*places, "back:8000", flags=on("front"))[1:] == ["no", "no"]
    assert contain.call(*places, "front:8000", flags=on("back"))[::2] == ["no", "no"]
    for name in ("front", "back"):  # who is on both reaches both, and joins them not
        assert contain.reaches("both", contain.address(name, name), 8000)
    assert contain.call(*places, flags=on("front"))[1] == "no"


def test_the_outside_is_reached_and_the_machines_loopback_is_not(connected: Theirs) -> None:
    connected("network", "create", "front")
    connected("network", "create", "--internal", "inner")
    connected.loop("open", *on("front"))
    connected.loop("closed", *on("inner"))
    with server(own_address()) as port:
        assert connected.reaches("open", own_address(), port)
        assert not connected.reaches("closed", own_address(), port)
    with server("127.0.0.1") as port:
        gateway = json.loads(connected("network", "inspect", "front"))[0]["IPAM"]["Config"][0]["Gateway"]
        for address in ("127.0.0.1", "10.0.2.2", "10.0.2.100", gateway):
            assert not connected.reaches("open", address, port)


@several_ids
@pytest.mark.parametrize("program", ["pasta", "slirp4netns", ""])
def test_each_program_connects_and_without_one_the_networks_work_alone(connected: Theirs, program: str) -> None:
    if program and shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    connected.only(program)
    connected("network", "create", "front")
    first = connected.user.contain("run", "--rm", *on("front"), "small", "true", env=connected.path)
    assert ("reach each other, and nothing outside" in first.stderr) == (not program)
    connected("run", "-d", "--name", "web", *on("front"), "-p", "127.0.0.1::8000", "host", "python3", "-c", as_root.SERVER)
    until(lambda: "ready" in connected("logs", "web"))
    again = connected.user.contain("run", "-d", "--name", "peer", *on("front"), "small", "sh", "-c", _LOOP, env=connected.path)
    assert "nothing outside" not in again.stderr  # said once
    assert connected.reaches("peer", "web", 8000)
    assert ask("127.0.0.1", int(connected("port", "web", "8000").rsplit(":", 1)[1]))
    with server(own_address()) as port:
        assert connected.reaches("peer", own_address(), port) == bool(program)
    assert len(connected.carriers()) == bool(program)  # one for all


def test_a_published_port_is_reached_at_every_address_and_is_free_afterwards(contain: Theirs) -> None:
    contain("network", "create", "front")
    contain.serve("web", *on("front"), "-p", "8000")
    rows = [row.rpartition(":") for row in contain("port", "web").splitlines()]
    (port,) = {int(row[2]) for row in rows}
    for address in ("127.0.0.1", own_address(), *(["::1"] if as_root.has_ipv6() else [])):
        assert ask(address, port)
    assert "port is already allocated" in contain.refused("run", *on("front"), "-p", f"{port}:80", "small", "true", status=125)
    contain("rm", "-f", "web")
    with pytest.raises(ConnectionRefusedError):
        ask("127.0.0.1", port)


def test_a_port_stays_the_containers_when_it_is_started_again(contain: Theirs) -> None:
    contain("network", "create", "front")
    serve = "while :; do echo inside | nc -l -p 80 >/dev/null; done"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    contain("run", "-d", "--name", "web", *on("front"), "-p", f"127.0.0.1:{port}:80", "small", "sh", "-c", serve)

    def answers() -> bool:
        with contextlib.suppress(OSError):
            return ask("127.0.0.1", port) == b"inside\n"
        return False

    until(answers)
    contain("restart", "-t", "0", "web")
    until(answers)


@several_ids
def test_a_datagram_port_is_published(contain: Theirs) -> None:
    contain("network", "create", "front")
    echo = (
        "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 53)); print('ready', flush=True)\n"
        "while 1: s.sendto(*s.recvfrom(99))"
    )
    contain("run", "-d", "--name", "web", *on("front"), "-p", "127.0.0.1::53/udp", "host", "python3", "-c", echo)
    until(lambda: "ready" in contain("logs", "web"))
    with socket.socket(type=socket.SOCK_DGRAM) as asked:
        asked.settimeout(5)
        asked.connect(("127.0.0.1", int(contain("port", "web", "53/udp").rsplit(":", 1)[1])))
        asked.send(b"hello")
        assert asked.recv(100) == b"hello"


def test_a_running_container_is_connected_and_disconnected(connected: Theirs) -> None:
    for name in ("front", "back"):
        connected("network", "create", name)
    connected.serve("web", "-p", "127.0.0.1::8000")  # on the default network, with a program of its own
    port = int(connected("port", "web", "8000").rsplit(":", 1)[1])
    connected.loop("peer", *on("front"))
    connected.loop("other", *on("back"))
    assert not connected.reaches("peer", "web", 8000)
    connected("network", "connect", "--alias", "www", "front", "web")
    assert connected.reaches("peer", "www", 8000)
    assert connected("exec", "web", "python3", "-c", as_root.NAMES, "peer").strip() == connected.address("peer", "front")
    assert ask("127.0.0.1", port)
    assert sorted(json.loads(connected.show("web", "{{json .NetworkSettings.Networks}}"))) == ["bridge", "front"]
    assert "while it runs" in connected.refused("network", "disconnect", "bridge", "web")
    connected("network", "connect", "back", "peer")
    assert connected("exec", "other", "ping", "-c", "1", "-W", "2", "peer")
    connected("network", "disconnect", "back", "peer")
    assert connected("exec", "other", "sh", "-c", "nslookup peer 127.0.0.11 >&2 && echo found || true") == ""
    connected("network", "disconnect", "front", "peer")
    connected("network", "disconnect", "front", "web")
    assert connected("exec", "peer", "sh", "-c", "ls /sys/class/net; cat /proc/net/dev").count(":") == 1
    connected("network", "connect", "front", "peer")
    connected("network", "connect", "front", "web")
    assert connected.reaches("peer", "web", 8000)
    with server(own_address()) as machines:
        assert connected.reaches("peer", own_address(), machines)


@several_ids
def test_all_networks_of_a_store_go_with_the_last_container(connected: Theirs) -> None:
    for name in ("front", "back"):
        connected("network", "create", name)
        connected.loop(name, *on(name))
    assert len(connected.carriers()) == 1
    assert len(connected.named("contain-names")) == 2
    connected("rm", "-f", "front")
    assert len(connected.carriers()) == 1
    connected("rm", "-f", "back")
    until(lambda: not connected.carriers() + connected.named("contain-uplink") + connected.named("contain-names"))
    assert connected("network", "prune", "-f").split()[-2:] == ["back", "front"]
    assert not list((connected.user.store / "run/networks").iterdir())


@several_ids
def test_networks_whose_last_container_goes_while_the_next_one_comes_are_connected(connected: Theirs) -> None:
    connected("network", "create", "front")
    with server(own_address()) as port:
        ask_once = ("run", "--rm", *on("front"), "small", "sh", "-c", _ASK.format(f"{own_address()} {port}"))
        assert [connected(*ask_once) for _ in range(5)] == ["machine"] * 5


@several_ids
@pytest.mark.parametrize("who", ["the program", "its keeper"])
def test_what_is_killed_of_the_way_out_is_made_again_by_the_next_command(connected: Theirs, who: str) -> None:
    connected("network", "create", "front")
    connected.serve("web", *on("front"))
    connected.loop("peer", *on("front"))
    (program,) = connected.carriers()
    kin = connected.named("contain-uplink")
    (keeper,) = [number for number in kin if as_root._parent(number) not in kin]
    os.kill(program if who == "the program" else keeper, signal.SIGKILL)
    until(lambda: not connected.carriers())
    assert connected.reaches("peer", "web", 8000)
    with server(own_address()) as port:
        connected("run", "--rm", "--network", "none", "small", "true")
        assert connected.reaches("peer", own_address(), port)
    assert len(connected.carriers()) == 1


@several_ids
def test_a_killed_supervisor_takes_its_container_along_and_the_others_stay_connected(connected: Theirs) -> None:
    connected("network", "create", "front")
    connected.serve("web", *on("front"))  # the first: it started what connects
    connected.loop("peer", *on("front"))
    first = int(connected.show("web", "{{.State.Pid}}"))
    os.kill(as_root._parent(first), signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{first}"))
    assert connected("ps", "--format", "{{.Names}}") == "peer\n"
    assert [row["Name"] for row in json.loads(connected("network", "inspect", "front"))[0]["Containers"].values()] == ["peer"]
    with server(own_address()) as port:
        assert connected.reaches("peer", own_address(), port)
    connected.serve("next", *on("front"))
    assert connected.reaches("peer", "next", 8000)


@several_ids
def test_when_everybody_who_keeps_the_networks_is_killed_they_are_made_again(connected: Theirs) -> None:
    for name in ("front", "back"):
        connected("network", "create", name)
    connected.serve("web", *on("front"), "-p", "127.0.0.1::8000")
    port = int(connected("port", "web", "8000").rsplit(":", 1)[1])
    connected.loop("peer", *on("front"))
    connected("network", "connect", "back", "peer")
    before = connected.named("contain-names") + connected.named("contain-uplink")
    for number in before:
        os.kill(number, signal.SIGKILL)
    until(lambda: len(set(connected.named("contain-names")) - set(before)) == 2, 20)
    until(lambda: connected.reaches("peer", "web", 8000), 20)
    assert ask("127.0.0.1", port)
    with server(own_address()) as machines:
        assert connected.reaches("peer", own_address(), machines)
    # What it was connected to while it ran is told as it is, and comes back by the same command.
    assert connected.address("peer", "back") == ""
    connected("network", "disconnect", "back", "peer")
    connected("network", "connect", "back", "peer")
    assert connected.address("peer", "back")


@several_ids
def test_links_on_the_default_network_are_refused_by_name(contain: Theirs) -> None:
    contain.loop("db")
    assert "--link on the default network" in contain.refused("run", "--rm", "--link", "db", "small", "true", status=125)


@several_ids
def test_where_the_kernels_settings_are_read_only_it_is_refused_by_name_and_nothing_stays(connected: Theirs) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: to make /proc/sys read-only, as it is in others' containers")

    def read_only() -> None:
        syscalls.mount("/proc/sys", "/proc/sys", "", syscalls.MS_BIND, "")
        syscalls.mount("", "/proc/sys", "", syscalls.MS_BIND | _MS_REMOUNT | syscalls.MS_RDONLY, "")

    connected("network", "create", "front")
    for _ in range(2):
        refused = connected.user.contain("run", "--rm", *on("front"), "small", "true", private=read_only)
        assert refused.returncode == 125
        assert "cannot set net." in refused.stderr
    until(lambda: not connected.carriers())
    connected("run", "--rm", *on("front"), "small", "true")
