"""Networks from the command line, as somebody types them: names, addresses, connecting, links, sharing; and what is refused."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_published_ports import Commands

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
]
SERVER = """
import selectors, socket
chosen = selectors.DefaultSelector()
for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    s = socket.socket(family)
    if family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((address, 8000))
    s.listen()
    chosen.register(s, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in chosen.select():
        c, peer = key.fileobj.accept()
        c.sendall(peer[0].encode())
        c.close()
"""
CLIENT = """
import socket, sys
for text in sys.argv[1:]:
    name, port = text.rsplit(":", 1)
    try:
        with socket.create_connection((name.strip("[]"), int(port)), 1) as c:
            print(c.recv(100).decode())
    except OSError as error:
        print("no")
"""
NAMES = """
import socket, sys
for name in sys.argv[1:]:
    try:
        rows = socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)
        print(" ".join(sorted({row[4][0] for row in rows})))
    except socket.gaierror:
        print("unknown")
"""


class Networks(Commands):
    """``contain`` with a store of its own, and what these tests do often."""

    def serve(self, name: str, *flags: str) -> None:
        """A container that answers at its port 8000 with who asks, once this returns."""
        self("run", "-d", "--name", name, *flags, "host", "python3", "-c", SERVER)
        deadline = time.monotonic() + 20
        while "ready" not in self("logs", name):
            assert time.monotonic() < deadline, self("logs", name)

    def call(self, *places: str, flags: tuple[str, ...] = ()) -> list[str]:
        """What servers at HOST:PORT say to a new container; ``no`` if they are not reached."""
        return self("run", "--rm", *flags, "host", "python3", "-c", CLIENT, *places).splitlines()

    def look_up(self, *names: str, flags: tuple[str, ...] = ()) -> list[str]:
        """The addresses of names, seen from a new container."""
        return self("run", "--rm", *flags, "host", "python3", "-c", NAMES, *names).splitlines()

    def show(self, name: str, template: str) -> str:
        return self("inspect", "-f", template, name).strip()

    def address(self, name: str, network: str) -> str:
        found: str = json.loads(self.show(name, "{{json .NetworkSettings.Networks}}"))[network]["IPAddress"]
        return found

    def refused(self, *arguments: str, status: int = 1) -> str:
        said = self(*arguments, status=status).splitlines()
        return next(line for line in said if line.startswith("Error: "))


@pytest.fixture
def contain(tmp_path: Path) -> Iterator[Networks]:
    commands = Networks(tmp_path / "store")
    yield commands
    for row in commands("ps", "-aq").split():
        commands("rm", "-f", row)
    commands("run", "--rm", "--network", "none", "host", "true")  # sweeps
    run = tmp_path / "store/run"
    assert not (run / "network.json").exists()
    assert not list(run.glob("networks/*/network.json"))
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True, timeout=20).stdout
    from contain.linux.bridges import bridge_homes, bridge_names

    assert not [home for home in bridge_homes(run) if f" {bridge_names(home).bridge}:" in links]


def on(*networks: str) -> tuple[str, ...]:
    return tuple(word for name in networks for word in ("--network", name))


def test_containers_of_a_network_find_and_reach_each_other_by_name_and_others_do_not(contain: Networks) -> None:
    contain("network", "create", "--ipv6", "front")
    contain("network", "create", "back")
    contain.serve("web", *on("front"), "--network-alias", "www")
    short = contain("ps", "-q").strip()
    web = contain.address("web", "front")
    names = ("web", "WWW", short, "web.front", "nobody-has-this-name.invalid")
    found = contain.look_up(*names, flags=on("front"))
    assert all(web in row and "fd" in row for row in found[:4]), found
    assert found[4] == "unknown"
    assert contain.look_up("web", "web.front", flags=on("back")) == ["unknown", "unknown"]
    assert contain.look_up("web") == ["unknown"]
    assert contain.call("web:8000", f"{web}:8000", flags=on("front"))[1].startswith(web.rsplit(".", 1)[0])
    for flags in (on("back"), ()):
        assert contain.call(f"{web}:8000", flags=flags) == ["no"]


def test_a_network_is_shown_with_dockers_fields_and_stays_while_it_is_used(contain: Networks) -> None:
    created = ("--subnet", "10.213.7.0/24", "--gateway", "10.213.7.254", "--label", "team=a")
    network_id = contain("network", "create", *created, "front").strip()
    contain("run", "-d", "--name", "web", *on("front"), "--ip", "10.213.7.9", "host", "sleep", "1000")
    (shown,) = json.loads(contain("network", "inspect", "front"))
    assert (shown["Id"], shown["Driver"], shown["Internal"], shown["Labels"]) == (network_id, "bridge", False, {"team": "a"})
    assert shown["IPAM"]["Config"] == [{"Subnet": "10.213.7.0/24", "Gateway": "10.213.7.254"}]
    assert [(row["Name"], row["IPv4Address"]) for row in shown["Containers"].values()] == [("web", "10.213.7.9/24")]
    assert contain("ps", "-q", "-f", "network=front") == contain("ps", "-q")
    assert contain("ps", "-q", "-f", "network=bridge") == ""
    assert "has active endpoints" in contain.refused("network", "rm", "front")
    assert contain.refused("network", "create", "front") == "Error: network with name front already exists"
    assert "Pool overlaps" in contain.refused("network", "create", "--subnet", "10.213.0.0/16", "back")
    assert contain("network", "ls", "-q", "-f", "type=custom").strip() == network_id[:12]
    contain("rm", "-f", "web")
    assert contain("network", "rm", network_id[:6]) == f"{network_id[:6]}\n"
    assert contain.refused("network", "inspect", "front") == "Error: network front not found"


def test_a_running_container_is_connected_and_disconnected_and_is_found_there(contain: Networks) -> None:
    contain("network", "create", "front")
    contain.serve("web", "-p", "127.0.0.1::8000")
    port = contain("port", "web", "8000").rsplit(":", 1)[1].strip()

    def asked() -> bytes:
        with socket.create_connection(("127.0.0.1", int(port)), timeout=5) as connection:
            return connection.recv(100)

    contain("run", "-d", "--name", "peer", *on("front"), "host", "sleep", "1000")
    contain("network", "connect", "--alias", "www", "front", "web")
    assert contain.call("www:8000", flags=on("front")) != ["no"]
    assert contain("exec", "web", "python3", "-c", NAMES, "peer").strip() == contain.address("peer", "front")
    assert asked()
    refused = contain.refused("network", "connect", "front", "web")
    assert refused == "Error: endpoint with name web already exists in network front"
    contain("network", "disconnect", "bridge", "web")
    assert asked()  # the port went on to the network that is left
    assert contain("exec", "web", "ip", "route", "show", "default").startswith("default via")
    assert list(json.loads(contain.show("web", "{{json .NetworkSettings.Networks}}"))) == ["front"]
    contain("network", "disconnect", "front", "web")
    assert contain.refused("network", "disconnect", "front", "web").endswith("is not connected to network front")
    assert contain("exec", "web", "ip", "-o", "link").count("\n") == 1
    contain("network", "connect", "front", "web")
    assert contain.call("web:8000", flags=on("front")) != ["no"]
    contain("rename", "web", "shop")
    assert contain.look_up("web", "shop", flags=on("front")) == ["unknown", contain.address("shop", "front")]


@pytest.fixture
def small_image(contain: Networks, small_tree: Path, tmp_path: Path) -> str:
    archive = tmp_path / "small.tar"
    with tarfile.open(archive, "w") as file:
        file.add(small_tree, arcname=".")
    contain("import", str(archive), "small")
    return "small"


def test_a_restart_keeps_the_networks_of_a_container(contain: Networks, small_image: str) -> None:
    contain("network", "create", "--subnet", "10.213.8.0/24", "front")
    contain("run", "-d", "--name", "web", small_image, "sleep", "1000")
    contain("network", "connect", "--ip", "10.213.8.77", "--alias", "www", "front", "web")
    contain("restart", "-t", "0", "web")
    assert list(json.loads(contain.show("web", "{{json .NetworkSettings.Networks}}"))) == ["bridge", "front"]
    assert contain.look_up("www", flags=on("front")) == ["10.213.8.77"]
    contain("stop", "-t", "0", "web")
    contain("network", "rm", "front")  # as with Docker: who does not run does not keep it
    assert contain.refused("start", "web") == "Error: network front not found"
    contain("network", "disconnect", "-f", "bridge", "web")


def test_a_program_that_is_started_again_has_the_networks_of_now(contain: Networks, small_image: str) -> None:
    contain("network", "create", "front")
    contain("run", "-d", "--name", "web", "--restart", "always", small_image, "sleep", "1000")
    contain("network", "connect", "front", "web")
    contain("network", "disconnect", "bridge", "web")
    first = contain.show("web", "{{.State.Pid}}")
    os.kill(int(first), signal.SIGKILL)
    deadline = time.monotonic() + 20
    while contain.show("web", "{{.State.Pid}}") in (first, "0"):
        assert time.monotonic() < deadline
    assert contain("exec", "web", "ip", "-o", "link").count("\n") == 2
    assert contain.look_up("web", flags=on("front")) == [contain.address("web", "front")]


def test_two_networks_at_once_are_both_there(contain: Networks) -> None:
    for name in ("one", "two", "three"):
        contain("network", "create", name)
    contain("run", "-d", "--name", "web", "host", "sleep", "1000")
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "contain.cli.start", "network", "connect", name, "web"], env=contain.environment
        )
        for name in ("one", "two", "three")
    ]
    assert [each.wait(40) for each in running] == [0, 0, 0]
    assert contain("exec", "web", "ip", "-o", "-4", "address").count("\n") == 5


def test_an_internal_network_has_names_and_neighbours_and_nothing_else(contain: Networks) -> None:
    contain("network", "create", "--internal", "inner")
    contain.serve("web", *on("inner"))
    assert contain.call("web:8000", flags=on("inner")) != ["no"]
    assert contain("run", "--rm", *on("inner"), "host", "ip", "route", "show", "default") == ""
    assert contain.look_up("localhost.localdomain.invalid", flags=on("inner")) == ["unknown"]
    refused = contain.refused("run", "--rm", *on("inner"), "-p", "80", "host", "true", status=125)
    assert refused == "Error: ports cannot be published from an internal network"


def test_names_that_no_container_has_are_asked_of_the_given_server_within_the_network(contain: Networks) -> None:
    contain("network", "create", "front")
    server = (
        "import socket\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('0.0.0.0', 53))\n"  # beside the resolver's own port 53
        "print('ready', flush=True)\n"
        "while True:\n"
        "    q, who = s.recvfrom(512)\n"
        "    a = b'\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\1\\0\\4\\xc0\\0\\2\\7' if q[-3:-2] == b'\\1' or q[-4:-2] == b'\\0\\1' else b''\n"
        "    s.sendto(q[:2] + b'\\x81\\x80' + q[4:6] + (b'\\0\\1' if a else b'\\0\\0') + bytes(4) + q[12:] + a, who)\n"
    )
    contain("run", "-d", "--name", "dns", *on("front"), "host", "python3", "-c", server)
    deadline = time.monotonic() + 20
    while "ready" not in contain("logs", "dns"):
        assert time.monotonic() < deadline
    found = contain.look_up("anything.example", "dns", flags=(*on("front"), "--dns", contain.address("dns", "front")))
    assert found == ["192.0.2.7", contain.address("dns", "front")]


def test_a_shared_network_is_the_others_and_ends_sensibly_with_it(contain: Networks) -> None:
    contain("network", "create", "front")
    contain.serve("web", *on("front"))
    assert contain.call("127.0.0.1:8000", "web:8000", flags=on("container:web"))[0] == "127.0.0.1"
    assert contain("run", "--rm", *on("container:web"), "host", "hostname") == contain("exec", "web", "hostname")
    # It may do with that network what the other one may: look at packets.
    raw = "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(); print('raw')"
    assert contain("run", "--rm", *on("container:web"), "host", "python3", "-c", raw) == "raw\n"
    contain("run", "-d", "--name", "beside", *on("container:web"), "host", "sleep", "1000")
    contain("kill", "web")
    contain("wait", "web")
    refused = contain.refused("run", "--rm", *on("container:web"), "host", "true", status=125)
    assert refused.startswith("Error: cannot join network of a non running container: ")
    assert contain("exec", "beside", "ip", "-o", "-4", "address").count("\n") == 1  # loopback
    for flags, what in (
        (("-p", "80"), "port publishing and the container type network mode"),
        (("-h", "x"), "hostname and the network mode"),
    ):
        assert contain.refused("run", *on("container:web"), *flags, "host", "true", status=125).endswith(what)
    assert contain.refused("network", "connect", "front", "beside").startswith("Error: container sharing network namespace")


def test_a_link_on_the_default_network_opens_the_way_and_tells_of_it(contain: Networks) -> None:
    contain.serve("store", "--expose", "8000", "-e", "MODE=x")
    address = contain.address("store", "bridge")
    assert contain.call(f"{address}:8000") == ["no"]
    assert contain.call("db:8000", flags=("--link", "store:db"))[0] != "no"
    variables = dict(line.split("=", 1) for line in contain("run", "--rm", "--link", "store:db", "host", "env").splitlines())
    assert variables["DB_PORT_8000_TCP"] == f"tcp://{address}:8000"
    assert variables["DB_ENV_MODE"] == "x"
    contain("kill", "store")
    contain("wait", "store")
    refused = contain.refused("run", "--rm", "--link", "store:db", "host", "true", status=125)
    assert refused == "Error: Cannot link to a non running container: /store AS /db"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_a_port_is_published_at_ipv6_addresses_too(contain: Networks) -> None:
    contain.serve("web", "-p", "8000", "-p", "[::1]::8000")
    rows = contain("port", "web").splitlines()
    at_all = next(row for row in rows if "[::]" in row).rsplit(":", 1)[1]
    assert f"8000/tcp -> 0.0.0.0:{at_all}" in rows
    at_one = next(row for row in rows if "[::1]" in row).rsplit(":", 1)[1]
    for address, port in (("127.0.0.1", at_all), ("::1", at_all), ("::1", at_one)):
        with socket.create_connection((address, int(port)), timeout=5) as connection:
            assert connection.recv(100)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(at_one)), timeout=5)
    assert f"[::]:{at_all}->8000/tcp" in contain("ps", "--format", "{{.Ports}}")


def test_what_a_killed_supervisor_leaves_goes_with_the_next_command(contain: Networks) -> None:
    contain("network", "create", "--ipv6", "front")
    contain("run", "-d", "--name", "web", *on("front"), "-p", "8000", "host", "sleep", "1000")
    supervisor = int(contain.show("web", "{{.State.Pid}}"))
    while _parent(supervisor) > 1:
        supervisor = _parent(supervisor)
    family = {entry for entry in _processes() if _parent(entry) == supervisor}
    assert len(family) == 2  # the container's and the attendant
    os.kill(supervisor, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while family & _processes():
        assert time.monotonic() < deadline, "the attendant outlived its supervisor"


def _attendant(contain: Networks, name: str) -> int:
    """The process that answers names beside a container; 0 for none."""
    supervisor = _parent(int(contain.show(name, "{{.State.Pid}}")))
    for entry in _processes():
        with contextlib.suppress(OSError):
            if _parent(entry) == supervisor and Path(f"/proc/{entry}/comm").read_text() == "contain-names\n":
                return entry
    return 0


def _await_another(contain: Networks, name: str, before: int) -> int:
    deadline = time.monotonic() + 20
    while (found := _attendant(contain, name)) in (0, before):
        assert time.monotonic() < deadline, "nobody started the attendant again"
    return found


def test_names_are_answered_again_after_the_attendant_was_killed(contain: Networks) -> None:
    contain("network", "create", "front")
    contain("run", "-d", "--name", "web", *on("front"), "host", "sleep", "1000")
    inside = ("exec", "web", "python3", "-c", NAMES, "web")
    address = contain.address("web", "front")
    attendant = _attendant(contain, "web")
    for _ in range(3):
        os.kill(attendant, signal.SIGKILL)
        attendant = _await_another(contain, "web", attendant)
        deadline = time.monotonic() + 20
        while contain(*inside).split() != [address]:
            assert time.monotonic() < deadline, "names stay unknown"
    assert contain("exec", "web", "python3", "-c", NAMES, "nobody-has-this-name.invalid").split() == ["unknown"]
    contain("rm", "-f", "web")
    deadline = time.monotonic() + 10
    while attendant in _processes():
        assert time.monotonic() < deadline, "the attendant outlived its container"


def test_a_command_in_the_foreground_starts_its_attendant_again_too(contain: Networks) -> None:
    contain("network", "create", "front")
    program = "import sys, socket\nsys.stdin.readline()\nprint(socket.gethostbyname('web'))"
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "contain.cli.start",
            "run",
            "-i",
            "--name",
            "web",
            *on("front"),
            "host",
            "python3",
            "-c",
            program,
        ],
        env=contain.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        deadline = time.monotonic() + 20
        while contain("ps", "-q", "--filter", "name=web") == "":
            assert time.monotonic() < deadline, "it never ran"
        address = contain.address("web", "front")
        attendant = _attendant(contain, "web")
        os.kill(attendant, signal.SIGKILL)
        _await_another(contain, "web", attendant)
        out, err = running.communicate("now\n", timeout=20)
    assert (out, running.returncode) == (f"{address}\n", 0), err


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_ports_at_ipv6_addresses_are_carried_again_after_the_attendant_was_killed(contain: Networks) -> None:
    contain.serve("web", "-p", "[::1]::8000")
    port = int(contain("port", "web").strip().rsplit(":", 1)[1])
    attendant = _attendant(contain, "web")
    os.kill(attendant, signal.SIGKILL)
    _await_another(contain, "web", attendant)
    with socket.create_connection(("::1", port), timeout=10) as connection:
        assert connection.recv(100)


def _processes() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def _parent(process_id: int) -> int:
    try:
        return int(Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except (OSError, IndexError):
        return 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", *on("nope"), "host", "true"), "network nope not found"),
        (("run", *on("container:nope"), "host", "true"), "No such container: nope"),
        (("run", *on("host", "bridge"), "host", "true"), "cannot attach both host and other networks"),
        (("run", "--ip", "10.0.0.1", "host", "true"), "supported on user defined networks only"),
        (("run", "--link", "nope", "host", "true"), "No such container: nope"),
        (("run", "--mac-address", "x", "host", "true"), "x is not a valid mac address"),
        (("run", "--dns-option", "a b", "host", "true"), "invalid --dns-option 'a b'"),
        (("network", "create", "bridge"), "operation is not permitted on predefined bridge network"),
        (("network", "create", "a b"), "invalid characters for a local network name"),
        (("network", "create", "-d", "overlay", "x"), "network driver 'overlay' is not supported"),
        (("network", "create", "-d", "host", "x"), 'only one instance of "host" network is allowed'),
        (("network", "create", "--subnet", "x", "x"), "invalid subnet x"),
        (("network", "create", "--aux-address", "a=10.0.0.1", "x"), "--aux-address is not supported"),
        (("network", "create", "-o", "parent=eth0", "x"), "the network option parent is not supported"),
        (("network", "rm", "host"), "host is a pre-defined network and cannot be removed"),
        (("network", "rm", "nope"), "network nope not found"),
        (("network", "connect", "bridge", "nope"), "No such container: nope"),
        (("network", "ls", "-f", "colour=red"), "invalid filter 'colour'"),
    ],
)
def test_what_cannot_be_is_refused_in_dockers_words(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    status = 125 if arguments[0] == "run" else 1
    assert message in Networks(tmp_path / "store").refused(*arguments, status=status)
