"""What root can do with containers, an ordinary user can: with 65536 ids, and with one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

Ordinary = Any  # tests/rootless/conftest.py

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")

_LOOP = 'trap "exit 3" TERM; echo begun; while :; do sleep 0.05; done'


@pytest.fixture
def image(ordinary: Ordinary, small_archive: bytes) -> Ordinary:
    """A user who has the image ``small``."""
    ordinary.ok("import", "-", "small", stdin=small_archive)
    return ordinary


def until(found: object, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not found():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def parent_of(number: int) -> int:
    return int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])


def supervisor_of(user: Ordinary, name: str) -> int:
    """The process that stays with a container: the first process's outermost ancestor that is this user's."""
    number = int(json.loads(user.ok("inspect", name))[0]["State"]["Pid"])
    while (parent := parent_of(number)) != 1 and os.stat(f"/proc/{parent}").st_uid == user.user_id:
        number = parent
    return number


def test_a_program_is_root_inside_and_its_user_outside(image: Ordinary) -> None:
    assert image.ok("run", "--rm", "--network", "none", "small", "id", "-u") == "0"
    image.ok("run", "-d", "--network", "none", "--name", "looper", "small", "sh", "-c", _LOOP)
    process = json.loads(image.ok("inspect", "looper"))[0]["State"]["Pid"]
    assert os.stat(f"/proc/{process}").st_uid == image.user_id


def test_other_users_of_an_image_have_ids_of_their_own(image: Ordinary) -> None:
    out = image.ok(
        "run", "--rm", "--network", "none", "-u", "worker", "small", "sh", "-c", "id -u; touch /tmp/x; stat -c %u /tmp/x"
    )
    assert out.split() == ["1000", "1000"]


def test_every_verb_reaches_a_container_that_another_command_started(image: Ordinary) -> None:
    image.ok("run", "-d", "--network", "none", "--name", "looper", "small", "sh", "-c", f"echo x > /made; {_LOOP}")
    assert image.ok("ps", "--format", "{{.Names}}") == "looper"
    until(lambda: "begun" in image.ok("logs", "looper"))
    assert image.ok("exec", "looper", "cat", "/made") == "x"
    assert "sleep" in image.ok("top", "looper") or "sh" in image.ok("top", "looper")
    assert "looper" in image.ok("stats", "--no-stream", "looper")
    assert "/made" in image.ok("container", "diff", "looper")
    image.ok("commit", "looper", "committed")
    assert image.ok("run", "--rm", "--network", "none", "committed", "cat", "/made") == "x"
    image.ok("stop", "looper")
    assert image.ok("ps", "-a", "--format", "{{.Names}} {{.Status}}").startswith("looper Exited (3)")
    image.ok("start", "looper")
    assert image.ok("exec", "looper", "cat", "/made") == "x"
    image.ok("kill", "looper")
    image.ok("rm", "-f", "looper")
    assert image.ok("ps", "-aq") == ""


def test_a_privileged_program_is_so_in_its_container_only(image: Ordinary) -> None:
    image.ok("run", "-d", "--name", "box", "--network", "none", "small", "sleep", "100")
    try:
        image.ok("exec", "--privileged", "box", "sh", "-c", "mount -t tmpfs x /tmp && umount /tmp")
        assert image.contain("exec", "box", "mount", "-t", "tmpfs", "x", "/tmp").returncode != 0
        host = os.uname().nodename
        image.ok("exec", "--privileged", "box", "hostname", "other")
        assert os.uname().nodename == host
    finally:
        image.ok("rm", "-f", "box")


def test_all_containers_of_a_store_stand_in_one_user_namespace(image: Ordinary) -> None:
    """Else no command could reach two of them. Also of those that are started at the same time."""
    started = [
        subprocess.Popen(
            image.command("run", "-d", "--network", "none", "--name", f"box{number}", "small", "sh", "-c", _LOOP),
            env=image.environment(),
            preexec_fn=image.prepare(tun=False, private=None),
            stdout=subprocess.DEVNULL,
        )
        for number in range(4)
    ]
    assert [process.wait(60) for process in started] == [0] * 4
    image.ok("stop", "-t", "5", "box0")
    supervisors = [supervisor_of(image, f"box{number}") for number in range(1, 4)]
    assert len({os.readlink(f"/proc/{number}/ns/user") for number in supervisors}) == 1
    image.ok("run", "-d", "--network", "none", "--name", "late", "small", "sh", "-c", _LOOP)
    assert os.readlink(f"/proc/{supervisor_of(image, 'late')}/ns/user") == os.readlink(f"/proc/{supervisors[0]}/ns/user")


def test_a_note_of_somebody_who_is_not_there_is_not_believed(image: Ordinary) -> None:
    """Neither a process that is gone, nor one of somebody else's, nor one that has the number of somebody who was inside."""
    notes = image.store / "run" / "inside"
    mine = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    for name in (f"{os.getpid()}-{mine}", f"{os.getpid()}-1", "999999999-1", "junk"):
        image.give_file(notes / name)
    assert image.ok("run", "--rm", "--network", "none", "small", "id", "-u") == "0"
    assert not {f"{os.getpid()}-{mine}", f"{os.getpid()}-1", "999999999-1", "junk"} & set(os.listdir(notes))


def test_a_container_dies_with_its_supervisor_and_nothing_is_left(image: Ordinary) -> None:
    image.ok("run", "-d", "--network", "none", "--name", "looper", "small", "sh", "-c", _LOOP)
    os.kill(supervisor_of(image, "looper"), signal.SIGKILL)
    until(lambda: not image.ok("ps", "-q"))
    assert image.ok("run", "--rm", "--network", "none", "small", "echo", "again") == "again"


def test_the_machines_own_root_is_seen_and_not_changed(ordinary: Ordinary) -> None:
    script = "id -u; for d in /etc /tmp /var/tmp ~; do echo x > $d/contain-mark && cat $d/contain-mark; done; ls /etc/passwd"
    out = ordinary.ok("run", "--rm", "--network", "none", "host", "sh", "-c", script)
    assert out.split() == ["0", "x", "x", "x", "x", "/etc/passwd"]
    assert not [place for place in ("/etc", "/tmp", "/var/tmp", "/root") if os.path.exists(f"{place}/contain-mark")]


def test_a_run_step_on_the_machines_own_root_is_refused_by_name(ordinary: Ordinary) -> None:
    context = ordinary.place / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM host\nCOPY Dockerfile /made\nRUN true\n")
    ordinary.give(context)
    refused = ordinary.contain("build", "--network", "none", str(context))
    assert refused.returncode == 1
    assert "FROM host" in refused.stderr
    (context / "Dockerfile").write_text("FROM host\nCOPY Dockerfile /usr/made\n")
    built = ordinary.ok("build", "-q", str(context))
    assert ordinary.ok("run", "--rm", "--network", "none", built, "head", "-1", "/usr/made") == "FROM host"
    assert not os.path.exists("/usr/made")


def test_a_build_gives_roots_digest(image: Ordinary, small_archive: bytes, tmp_path: Path) -> None:
    context = image.place / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM small\nCOPY file /file\nRUN echo made > /made && chown 1000:1000 /made && chmod 4755 /made && rm /etc/group\n"
        "USER worker\nRUN touch /tmp/mine\n"
    )
    (context / "file").write_text("copied")
    image.give(context)
    built = image.ok("build", "-q", "--network", "none", str(context))
    if os.geteuid() != 0:
        pytest.skip("needs root: to build the same as root")
    environment = {**os.environ, "CONTAIN_HOME": str(tmp_path / "store")}
    command = [sys.executable, "-m", "contain.cli.start"]
    subprocess.run([*command, "import", "-", "small"], input=small_archive, env=environment, check=True, timeout=60)
    roots = subprocess.run(
        [*command, "build", "-q", "--network", "none", context],
        env=environment,
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert built == roots.stdout.strip()


def test_volumes_and_what_belongs_to_other_ids_is_removed(image: Ordinary) -> None:
    image.ok("volume", "create", "data")
    run = ("run", "--rm", "--network", "none", "-v", "data:/data", "small")
    image.ok(*run, "sh", "-c", "echo x > /data/f; chown 1000 /data/f; chmod 0 /data/f")
    assert image.ok(*run, "stat", "-c", "%u", "/data/f") == "1000"
    image.ok("volume", "rm", "data")
    image.ok(
        "run", "--name", "one", "--network", "none", "small", "sh", "-c", "mkdir /d; touch /d/f; chown -R 1000 /d; chmod 0 /d"
    )
    image.ok("rm", "one")
    image.ok("rmi", "small")
    image.ok("system", "prune", "-f")
    assert not [path for path in (image.store / "containers").iterdir() if len(path.name) == 64]


def test_unshare_is_where_the_containers_are(image: Ordinary) -> None:
    assert image.ok("unshare", "id", "-u") == "0"
    assert image.ok("unshare", "--", "cat", "/proc/self/uid_map").split()[:3] == ["0", str(image.user_id), "1"]
    gone = image.contain("unshare", "no-such-program")
    assert gone.returncode == 127
    assert "no-such-program" in gone.stderr


# -- one id ----------------------------------------------------------------------------------------------------------------------


def test_one_id_is_enough_for_images_of_one_owner(single: Ordinary, small_archive: bytes) -> None:
    single.ok("import", "-", "small", stdin=small_archive)
    assert single.ok("run", "--rm", "--network", "none", "small", "id", "-u") == "0"
    single.ok("run", "-d", "--network", "none", "--name", "looper", "small", "sh", "-c", _LOOP)
    assert single.ok("exec", "looper", "id", "-u") == "0"
    single.ok("rm", "-f", "looper")


def test_one_id_is_named_where_it_is_not_enough(single: Ordinary, small_archive: bytes) -> None:
    single.ok("import", "-", "small", stdin=small_archive)
    refused = single.contain("run", "--rm", "--network", "none", "-u", "worker", "small", "true")
    assert refused.returncode == 125
    assert "1000:1000" in refused.stderr
    assert "--add-subuids" in refused.stderr
    context = single.place / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM debian:bookworm\n")
    single.give(context)
    refused = single.contain("build", str(context))
    assert refused.returncode == 1
    assert "several owners" in refused.stderr
    assert "--add-subuids" in refused.stderr


# -- copies instead of overlays ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["ordinary", "single"])
def test_containers_and_builds_on_copies_leave_what_those_on_overlays_leave(
    user: str, small_archive: bytes, request: pytest.FixtureRequest
) -> None:
    who: Ordinary = request.getfixturevalue(user)
    who.ok("import", "-", "small", stdin=small_archive)
    context = who.place / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM small\nRUN echo one >/one && rm /etc/passwd && mkdir /etc/passwd\nRUN chmod u+s /one && ln /one /two && chmod 700 /etc\n"
    )
    who.give(context)
    owner = "chown 5:6 /made" if user == "ordinary" else "chown 0:0 /made"
    script = f"echo x >>/made; {owner}; rm -f /etc/passwd; cat /made"
    found = []
    for storage in ("overlay", "copy"):
        env = {"CONTAIN_STORAGE": storage}
        run = who.contain("run", "--network", "none", "--name", "kept", "small", "sh", "-c", script, env=env)
        assert (run.returncode, run.stdout.strip()) == (0, "x"), run.stderr
        assert ("storage by copying" in run.stderr) == (storage == "copy")
        assert who.ok("start", "-a", "kept", env=env) == "x\nx"
        changes = who.ok("diff", "kept", env=env)
        digest = who.ok("commit", "kept", env=env)
        built = who.contain("build", "-q", "--no-cache", "--network", "none", str(context), env=env)
        found.append((changes, digest, built.stdout))
        assert who.ok("export", "-o", str(who.place / f"{storage}.tar"), "kept", env=env) == ""
        who.ok("rm", "kept", env=env)
    assert found[0] == found[1]
    assert found[0][2].startswith("sha256:")


# -- the network -----------------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def only(user: Ordinary, program: str) -> dict[str, str]:
    """A PATH with one of the two programs."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("this machine has no /dev/net/tun")
    if os.geteuid() != 0 and not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("/dev/net/tun is not for ordinary users here")
    place = user.place / f"only-{program}"
    place.mkdir()
    for name in (program, "newuidmap", "newgidmap", "sh"):
        (place / name).symlink_to(shutil.which(name) or "/nonexistent")
    return {"PATH": str(place)}


@pytest.mark.parametrize("program", ["pasta", "slirp4netns"])
def test_published_ports_reach_the_container(image: Ordinary, program: str) -> None:
    path = only(image, program)
    port = free_port()
    serve = "while :; do echo 'HTTP/1.0 200 OK\r\n\r\nfrom inside' | nc -l -p 80 >/dev/null; done"
    if "busybox" not in os.listdir(image.store.parent) and shutil.which("busybox") is None:
        pytest.skip("busybox is not installed")
    image.ok("run", "-d", "-p", f"127.0.0.1:{port}:80", "--name", "web", "small", "sh", "-c", serve, env=path)
    assert image.ok("port", "web") == f"80/tcp -> 127.0.0.1:{port}"
    answers: list[str] = []

    def answered() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2) as answer:
                answers.append(answer.read().decode())
        except OSError:
            return False
        return True

    until(answered)
    assert answers == ["from inside\n"]
    assert "10.0.2.100" in image.ok("exec", "web", "cat", "/etc/hosts")
    taken = image.contain("run", "-d", "-p", f"127.0.0.1:{port}:80", "small", "true", env=path)
    assert taken.returncode == 125
    assert "port is already allocated" in taken.stderr
    image.ok("rm", "-f", "web")


@pytest.mark.parametrize("program", ["pasta", "slirp4netns"])
def test_the_program_that_carries_packets_ends_with_the_container_however_it_ends(image: Ordinary, program: str) -> None:
    path = only(image, program)

    def carriers() -> list[int]:
        return [number for number in image.processes() if f"/{program}\0" in image.command_of(number)]

    image.ok("run", "-d", "--name", "one", "small", "sh", "-c", _LOOP, env=path)
    assert len(carriers()) == 1
    image.ok("stop", "one")
    assert not carriers()
    image.ok("start", "one", env=path)
    os.kill(supervisor_of(image, "one"), signal.SIGKILL)
    until(lambda: not carriers())


@pytest.mark.parametrize("program", ["pasta", "slirp4netns"])
def test_a_container_does_not_reach_what_listens_on_the_machines_loopback(image: Ordinary, program: str) -> None:
    path = only(image, program)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        script = f"for a in 127.0.0.1 10.0.2.2 10.0.2.3; do nc -w 2 $a {port} </dev/null && echo reached $a; done; true"
        assert "reached" not in image.ok("run", "--rm", "small", "sh", "-c", script, env=path)


def test_without_such_a_program_there_is_loopback_and_it_is_said_once(image: Ordinary) -> None:
    place = image.place / "bin"
    place.mkdir()
    for name in ("newuidmap", "newgidmap"):
        (place / name).symlink_to(shutil.which(name) or "/nonexistent")
    path = {"PATH": str(place)}
    first = image.contain("run", "--rm", "small", "sh", "-c", "ls /sys/class/net", env=path)
    assert (first.returncode, first.stdout) == (0, "lo\n")
    assert "neither pasta nor slirp4netns is installed" in first.stderr
    doctor = image.contain("doctor").stdout
    assert ("a container may start any number of processes" in first.stderr) == ("no process limits" in doctor)
    assert image.contain("run", "--rm", "small", "true", env=path).stderr == ""
    (image.store / "run/said/no-uplink").unlink()
    detached = image.contain("run", "-d", "--rm", "small", "true", env=path)
    assert "neither pasta nor slirp4netns is installed" in detached.stderr
    refused = image.contain("run", "--rm", "-p", "8080:80", "small", "true", env=path)
    assert refused.returncode == 125
    assert "ports cannot be published" in refused.stderr


def test_a_tun_device_that_is_not_for_everybody_is_named(image: Ordinary) -> None:
    only(image, "pasta")
    refused = image.contain("run", "--rm", "-p", "8080:80", "small", "true", tun=False)
    assert refused.returncode == 125
    assert "chmod 666 /dev/net/tun" in refused.stderr


def test_a_containers_network_can_be_shared(image: Ordinary) -> None:
    image.ok("run", "-d", "--network", "none", "--name", "owner", "small", "sh", "-c", _LOOP)
    own = image.ok("exec", "owner", "readlink", "/proc/self/ns/net")
    assert image.ok("run", "--rm", "--network", "container:owner", "small", "readlink", "/proc/self/ns/net") == own


def test_a_program_that_did_not_go_in_is_told_how(ordinary: Ordinary) -> None:
    source = "from contain.engine import Engine, RunRequest\n" + textwrap.dedent(
        """
        with Engine.open() as engine:
            engine.run_captured(RunRequest(image="host", arguments=("true",)))
        """
    )
    place = ordinary.place / "program.py"
    place.write_text(source)
    refused = ordinary.python(f"exec(open({str(place)!r}).read())")
    assert "contain unshare" in refused.stderr
    inside = ordinary.contain("unshare", *ordinary.program(f"exec(open({str(place)!r}).read())"))
    assert inside.returncode == 0, inside.stderr


def test_the_machines_network_can_be_shared(image: Ordinary) -> None:
    out = image.ok("run", "--rm", "--network", "host", "small", "cat", "/proc/net/dev")
    assert {line.split(":")[0].strip() for line in out.splitlines()[2:]} == set(os.listdir("/sys/class/net")) - {
        "bonding_masters"
    }
