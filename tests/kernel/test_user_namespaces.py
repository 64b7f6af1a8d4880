"""Containers with ids of their own, and containers without a user namespace, on the real kernel."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest

from contain.container.run import open_workspace, run, start
from contain.errors import HostError
from contain.host import parse_kernel_release
from contain.linux.idranges import registry_home
from contain.spec import Bind, Device, Identity, IdMapping, Tmpfs, UserNamespace, Volume

if TYPE_CHECKING:
    from tests.conftest import Ground

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
]
needs_translation = pytest.mark.skipif(
    parse_kernel_release(os.uname().release) < (5, 19), reason="overlay takes translated layers since Linux 5.19"
)
AUTO = UserNamespace(mapping=IdMapping.AUTO)
HOST = UserNamespace(mapping=IdMapping.HOST)
WORKER = Identity(user_id=1000, group_id=1000, groups=(1000,))


@pytest.fixture
def forbidden() -> list[tuple[str, int, int, str]]:
    """Devices of this machine that its root can open and a container may not: (kind, major, minor, path)."""
    found = []
    for path in ("/dev/loop-control", "/dev/fuse", "/dev/loop0", "/dev/net/tun", "/dev/hwrng", "/dev/vda", "/dev/sda"):
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            device = os.stat(path)
            kind = "b" if stat.S_ISBLK(device.st_mode) else "c"
            found.append((kind, os.major(device.st_rdev), os.minor(device.st_rdev), path))
    if not found:
        pytest.skip("this machine has no device that could be opened wrongly")
    return found


def _outer(text: str) -> tuple[int, int, int]:
    inside, outside, size = map(int, text.split())
    return inside, outside, size


def _known() -> dict[str, list[int]]:
    try:
        found: dict[str, list[int]] = json.loads((registry_home(Path("/nowhere")) / "id-ranges.json").read_text())
    except OSError:
        return {}
    return found


@needs_translation
def test_root_inside_is_nobody_outside_and_owns_what_is_in_its_image(ground: Ground) -> None:
    done = ground.sh(
        "id -u; cat /proc/self/uid_map; stat -c %u:%g / /bin /etc/passwd; touch /etc/x && stat -c %u /etc/x",
        user_namespace=AUTO,
    )
    assert done.status == 0, done.err
    first, mapped, *owners = done.out.splitlines()
    assert first == "0"
    inside, outside, size = _outer(mapped)
    assert (inside, size) == (0, 65536)
    assert outside >= 65536
    assert owners == ["0:0", "0:0", "0:0", "0"]


@needs_translation
def test_what_is_written_is_stored_with_the_owners_that_were_seen_inside(ground: Ground) -> None:
    upper = ground.directory / "upper"
    script = (
        "echo r > /of-root; mkdir /d; echo w > /d/of-worker; chown 1000:2000 /d /d/of-worker; ln -s x /d/link; rm /etc/group"
    )
    assert ground.sh(script, user_namespace=AUTO, upper=upper).status == 0
    found = {
        name: (os.lstat(upper / name).st_uid, os.lstat(upper / name).st_gid)
        for name in ("of-root", "d", "d/of-worker", "d/link")
    }
    assert found == {"of-root": (0, 0), "d": (1000, 2000), "d/of-worker": (1000, 2000), "d/link": (0, 0)}
    whiteout = os.lstat(upper / "etc/group")
    assert stat.S_ISCHR(whiteout.st_mode)
    assert whiteout.st_rdev == 0
    shutil.rmtree(upper.with_name("upper.work"))  # it serves one mount
    again = ground.sh("cat /of-root /d/of-worker; stat -c %u:%g /d/of-worker; ls /etc/group", user_namespace=AUTO, upper=upper)
    assert again.out.splitlines() == ["r", "w", "1000:2000"]
    shutil.rmtree(upper.with_name("upper.work"))
    other = ground.sh("stat -c %u:%g /of-root /d/of-worker", upper=upper)  # with ids mapped to themselves
    assert other.out.splitlines() == ["0:0", "1000:2000"]


@needs_translation
def test_a_volume_is_the_same_to_containers_with_different_ids(ground: Ground) -> None:
    data = ground.directory / "data"
    data.mkdir()
    volume = Volume(name="data", source=data, target=PurePosixPath("/data"))
    wrote = ground.sh(
        "cat /proc/self/uid_map; echo x > /data/x; chown 1000:1000 /data/x", user_namespace=AUTO, mounts=(volume,)
    )
    assert os.lstat(data / "x").st_uid == 1000
    with _running(ground) as (first, _):
        read = ground.sh(
            "cat /proc/self/uid_map; stat -c %u /data/x; echo y >> /data/x; cat /data/x",
            user_namespace=AUTO,
            mounts=(volume,),
            identity=WORKER,
        )
    assert read.out.splitlines()[1:] == ["1000", "x", "y"]
    assert len({_outer(wrote.out.splitlines()[0])[1], _outer(read.out.splitlines()[0])[1], first}) > 1


class _Running:
    """A container that sleeps; gives the first of its ids outside, and its process's id."""

    def __init__(self, ground: Ground, size: int) -> None:
        self.spec = ground.spec("sleep", "1000", user_namespace=UserNamespace(mapping=IdMapping.AUTO, size=size))
        self.ground = ground
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def __enter__(self) -> tuple[int, int]:
        self.workspace = open_workspace(self.spec, self.ground.run_home)
        opened = self.workspace.__enter__()
        self.started = start(self.spec, opened, stdio=(self.null, self.null, self.null), home=self.ground.run_home)
        process_id = self.started.__enter__().launched.process_id
        return _outer(Path(f"/proc/{process_id}/uid_map").read_text())[1], process_id

    def __exit__(self, *error: object) -> None:
        self.started.__exit__(None, None, None)
        self.workspace.__exit__(None, None, None)
        os.close(self.null)


def _running(ground: Ground, size: int = 65536) -> _Running:
    return _Running(ground, size)


@needs_translation
def test_no_two_containers_share_an_id_and_all_are_given_back(ground: Ground) -> None:
    with _running(ground, 1000) as (first, one), _running(ground, 1000) as (second, other), _running(ground, 5) as (third, _):
        ranges = sorted([(first, 1000), (second, 1000), (third, 5)])
        for (begin, size), (next_begin, _) in itertools.pairwise(ranges):
            assert begin + size <= next_begin
        assert os.stat(f"/proc/{one}").st_uid == first
        assert Path(f"/proc/{one}/gid_map").read_text().split()[1] == str(first)
        assert os.readlink(f"/proc/{one}/ns/user") != os.readlink(f"/proc/{other}/ns/user")
    assert not [name for name in _known() if str(ground.directory) in name]


@needs_translation
def test_ids_of_a_killed_owner_are_free_again(ground: Ground) -> None:
    source = (
        "import os, sys, time\nfrom pathlib import Path\nfrom contain.linux.idranges import hold_range\n"
        "from contain.container.workspaces import hold_directory\n"
        "run = Path(sys.argv[1])\n"
        "with hold_directory(run / 'work/x') as place, hold_range(place, 1000, run_home=run) as ids:\n"
        "    print(ids.first, flush=True)\n    time.sleep(1000)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", source, str(ground.run_home)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    first = int(owner.stdout.readline())
    try:
        assert str(ground.run_home / "work/x") in _known()
        with _running(ground, 1000) as (other, _):
            assert other != first
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        owner.stdout.close()
    with _running(ground, 1000) as (again, _):
        assert again == first
        assert str(ground.run_home / "work/x") not in _known()
    (ground.run_home / "work/x").rmdir()


@needs_translation
def test_devices_terminals_and_memory_work_with_ids_of_its_own(ground: Ground) -> None:
    script = (
        "echo x > /dev/null && touch /dev/shm/x /memory/x && head -c 2 /dev/urandom > /dev/null && ls -l /dev/pts > /dev/null && "
        "cat /etc/hostname && echo 127.0.0.9 x >> /etc/hosts; cat /proc/sys/net/ipv4/ping_group_range"
    )
    memory = Tmpfs(target=PurePosixPath("/memory"), user_id=1000, mode=0o700)
    done = ground.sh(script, user_namespace=AUTO, mounts=(memory,))
    assert done.out.split() == ["box", "0", "65535"], done.err
    script = "touch /memory/x && stat -c %u /memory/x"
    as_worker = ground.sh(script, user_namespace=AUTO, mounts=(memory,), identity=WORKER)
    assert as_worker.out.split() == ["1000"], as_worker.err


@needs_translation
@pytest.mark.parametrize("mapping", [AUTO, HOST, UserNamespace()], ids=["auto", "host", "private"])
@pytest.mark.parametrize("identity", [Identity(), WORKER], ids=["root", "worker"])
def test_a_program_may_open_its_own_pipes_by_name(ground: Ground, mapping: UserNamespace, identity: Identity) -> None:
    """As images do whose logs are links to /dev/stdout."""
    write = ("sh", "-c", "echo fine > /dev/stdout; echo fine > /dev/stderr; cat < /dev/stdin")
    spec = ground.spec(*write, user_namespace=mapping, identity=identity)
    pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
    os.write(pipes[0][1], b"given\n")
    os.close(pipes[0][1])
    run(spec, stdin=pipes[0][0], stdout=pipes[1][1], stderr=pipes[2][1], home=ground.run_home)
    for descriptor in (pipes[0][0], pipes[1][1], pipes[2][1]):
        os.close(descriptor)
    with os.fdopen(pipes[1][0]) as out, os.fdopen(pipes[2][0]) as err:
        assert (out.read(), err.read()) == ("fine\ngiven\n", "fine\n")


@needs_translation
def test_a_device_that_is_given_belongs_to_the_containers_root(
    ground: Ground, forbidden: list[tuple[str, int, int, str]]
) -> None:
    kind, major, minor, path = forbidden[0]
    device = Device(source=Path(path), target=PurePosixPath("/dev/given"))
    script = "stat -c '%F %u:%g %t:%T' /dev/given; (: < /dev/given) && echo opened; chmod 666 /dev/given || echo refused"
    before = os.stat(path)
    done = ground.sh(script, user_namespace=AUTO, devices=(device,))
    what = "block" if kind == "b" else "character"
    assert done.out.splitlines() == [f"{what} special file 0:0 {major:x}:{minor:x}", "opened", "refused"], done.err
    after = os.stat(path)
    assert (after.st_uid, after.st_mode) == (before.st_uid, before.st_mode)


@needs_translation
def test_a_host_path_stays_the_hosts(ground: Ground) -> None:
    """Its owners have no name inside, and root inside may there what anybody may."""
    private = ground.directory / "private"
    private.mkdir(mode=0o700)
    (private / "file").write_text("for its owner only")
    (private / "file").chmod(0o600)
    (private / "open").write_text("for all")
    bind = Bind(source=private, target=PurePosixPath("/host"))
    done = ground.sh(
        "stat -c %u /host; cat /host/open; ls /host; cat /host/file; echo x > /host/y", user_namespace=AUTO, mounts=(bind,)
    )
    assert done.out.splitlines() == ["65534"]
    private.chmod(0o755)
    done = ground.sh(
        "cat /host/open; cat /host/file; echo x > /host/open; echo x > /host/y", user_namespace=AUTO, mounts=(bind,)
    )
    assert done.out == "for all"
    assert sorted(os.listdir(private)) == ["file", "open"]


@needs_translation
def test_a_home_that_nobody_may_enter_is_no_hindrance(ground: Ground) -> None:
    """The set-up has no rights outside: what it needs is put within its reach before."""
    ground.run_home.mkdir(parents=True)
    for place in (ground.home, ground.run_home, ground.directory):
        place.chmod(0o700)
    assert ground.sh("echo fine", user_namespace=AUTO).out == "fine\n"


@needs_translation
def test_a_file_system_that_cannot_translate_owners_is_named(ground: Ground) -> None:
    data = Path("/proc/sys")
    volume = Volume(name="data", source=data, target=PurePosixPath("/data"))
    with pytest.raises(HostError) as caught:
        ground.sh("true", user_namespace=AUTO, mounts=(volume,))
    assert caught.value.code == "idmap-not-supported"
    assert "/proc/sys" in str(caught.value)


@pytest.mark.skipif(
    parse_kernel_release(os.uname().release) < (6, 3), reason="memory file systems are translated since Linux 6.3"
)
@pytest.mark.parametrize("above", [False, True], ids=["alone", "below a layer"])
def test_the_machines_own_root_can_be_the_image(ground: Ground, above: bool) -> None:
    layer = ground.directory / "layer"
    layer.mkdir()
    (layer / "of-the-layer").write_text("x")
    os.chown(layer / "of-the-layer", 1000, 1000)
    script = "id -u; stat -c %u:%g /etc/passwd; touch /etc/made-here && stat -c %u /etc/made-here"
    script += "; stat -c %u:%g /of-the-layer" if above else ""
    layers = (Path("/"), layer) if above else (Path("/"),)
    environment = (("PATH", "/usr/bin:/bin"),)
    done = ground.run("/bin/sh", "-c", script, user_namespace=AUTO, layers=layers, environment=environment)
    assert done.out.split() == ["0", "0:0", "0", *(["1000:1000"] if above else [])], done.err
    assert not os.path.exists("/etc/made-here")


def test_an_old_kernel_is_refused_with_the_version_that_it_takes(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = os.uname()
    old = os.uname_result((machine.sysname, machine.nodename, "5.18.0", machine.version, machine.machine))
    monkeypatch.setattr(os, "uname", lambda: old)
    with pytest.raises(HostError) as caught:
        ground.sh("true", user_namespace=AUTO)
    assert caught.value.code == "idmap-not-supported"
    assert "5.19" in str(caught.value)


def _attack(devices: list[tuple[str, int, int, str]], place: str) -> str:
    script = ""
    for number, (kind, major, minor, _) in enumerate(devices):
        node = f"{place}/d{number}"
        script += f"mknod {node} {kind} {major} {minor} && (: < {node}) 2> /dev/null && echo opened {kind} {major}; "
    return script


def test_without_a_user_namespace_no_device_but_the_few_can_be_opened(
    ground: Ground, forbidden: list[tuple[str, int, int, str]]
) -> None:
    fine = "echo fine > /dev/null && head -c 1 /dev/urandom > /dev/null && echo fine"
    script = f"cat /proc/self/uid_map; {_attack(forbidden, '/dev')} {_attack(forbidden, '/tmp')} ls /dev/d0 /tmp/d0; {fine}"
    done = ground.sh(script, user_namespace=HOST)
    assert done.out.split() == ["0", "0", "4294967295", "/dev/d0", "/tmp/d0", "fine"], done.err


def test_device_nodes_of_an_image_cannot_be_opened_without_a_user_namespace(
    ground: Ground, forbidden: list[tuple[str, int, int, str]], small_tree: Path
) -> None:
    """Not even those that every container has: its root is mounted without devices."""
    tree = ground.directory / "layer"
    tree.mkdir()
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    done = ground.sh("(: < /null) && echo opened; echo done", user_namespace=HOST, layers=(small_tree, tree))
    assert done.out == "done\n"


def test_without_a_user_namespace_all_else_holds_too(ground: Ground) -> None:
    script = """
        set +e
        grep -E '^(CapEff|CapBnd|CapInh|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status
        echo x > /proc/sys/kernel/hostname && echo wrote; echo 1 > /proc/sys/vm/drop_caches && echo wrote
        mount -t tmpfs x /tmp && echo mounted; mount -o remount,rw /proc/sys && echo mounted; umount /proc/sys && echo mounted
        hostname other && echo renamed; chmod 600 /dev/null && echo changed; ls /proc | grep -c '^[0-9]'
    """
    done = ground.sh(script, user_namespace=HOST)
    lines = [line.replace("\t", " ") for line in done.out.splitlines()]
    assert lines[:4] == [
        "CapInh: 0000000000000000",
        "CapEff: 00000000a80425fb",
        "CapBnd: 00000000a80425fb",
        "CapAmb: 0000000000000000",
    ]
    assert lines[4:6] == ["NoNewPrivs: 1", "Seccomp: 2"]
    assert len(lines) == 7
    assert int(lines[6]) < 6


def test_exec_is_held_by_the_same_rules_and_ids(ground: Ground, forbidden: list[tuple[str, int, int, str]]) -> None:
    from tests.security.attacks import detached, output_of

    attack = f"{_attack(forbidden, '/dev')} cat /proc/self/uid_map"
    with detached(ground, "sleep", "1000", user_namespace=HOST, upper=ground.directory / "upper") as (_, record):
        assert output_of(record, "sh", "-c", attack).split() == ["0", "0", "4294967295"]
    if parse_kernel_release(os.uname().release) < (5, 19):
        return
    with detached(ground, "sleep", "1000", user_namespace=AUTO, upper=ground.directory / "upper2") as (_, record):
        script = "id -u; touch /x; stat -c %u /x; diff /proc/1/uid_map /proc/self/uid_map"
        assert output_of(record, "sh", "-c", script).split() == ["0", "0"]
        assert output_of(record, "sh", "-c", "id -u; echo fine > /dev/stdout", identity=WORKER).split() == ["1000", "fine"]
        assert os.lstat(ground.directory / "upper2/x").st_uid == 0


@needs_translation
def test_cp_puts_files_where_only_the_containers_own_ids_exist(ground: Ground) -> None:
    from contain.container.files.copy_root import open_root
    from contain.container.files.copying import copy_in, copy_out
    from tests.security.attacks import detached, output_of

    source = ground.directory / "source"
    source.mkdir()
    (source / "file").write_text("content")
    os.chown(source / "file", 1000, 1000)
    upper = ground.directory / "upper"
    with detached(ground, "sleep", "1000", user_namespace=AUTO, upper=upper) as (records, record):
        output_of(record, "sh", "-c", "mkdir -m 700 /closed && chown 1000:1000 /closed")
        with open_root(records, record, home=ground.run_home, writing=True) as root:
            copy_in(root, "box", str(source), "/copied")
            copy_in(root, "box", str(source), "/closed/kept", archive=True)
            assert output_of(record, "stat", "-c", "%u:%g", "/copied", "/copied/file").split() == ["0:0", "1000:1000"]
            assert output_of(record, "stat", "-c", "%u:%g", "/closed/kept/file").split() == ["1000:1000"]
            copy_out(root, "box", "/closed/kept/file", str(ground.directory / "back"), archive=True)
        assert os.stat(ground.directory / "back").st_uid == 1000
        assert (os.stat(upper / "copied").st_uid, os.stat(upper / "copied/file").st_uid) == (0, 1000)
    (ground.directory / "after").write_text("this process is itself again")
    assert os.stat(ground.directory / "after").st_uid == 0
