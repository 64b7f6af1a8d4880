"""Volumes and mounts as somebody uses them who knows Docker: made, filled, shared, kept, removed; and none lost or half made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contain.container.files.volumes import ANONYMOUS_LABEL

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
]


class CommandLine:
    """``contain`` with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "CONTAIN_HOME": str(home), "LC_ALL": "C.UTF-8"}
        self.program = (sys.executable, "-m", "contain.cli.start")

    def __call__(self, *arguments: str, seconds: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
        options.setdefault("stdin", None if "input" in options else subprocess.DEVNULL)
        return subprocess.run(
            [*self.program, *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            env=self.environment,
            check=False,
            **options,
        )

    def good(self, *arguments: str, **options: Any) -> str:
        """Standard output of a command that succeeds."""
        done = self(*arguments, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def sh(self, *arguments: str) -> str:
        """``run --rm``: flags, and at the end a line for the shell."""
        *flags, script = arguments
        return self.good("run", "--rm", "--network=none", *flags, "small", "sh", "-c", script)

    def volumes(self, *flags: str) -> list[str]:
        return self.good("volume", "ls", "-q", *flags).split()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, small_tree: Path) -> Path:
    """A home with an image ``small`` that has something in /data, and one that has /data as its own volume: ``declares``."""
    place = tmp_path_factory.mktemp("prepared")
    made = CommandLine(place / "home")
    data = place / "data"
    (data / "sub").mkdir(parents=True)
    (data / "one").write_text("from the image\n")
    os.link(data / "one", data / "hard")
    (data / "soft").symlink_to("one")
    (data / "sub/tool").write_text("x")
    os.chown(data / "sub/tool", 1000, 2000)
    (data / "sub/tool").chmod(0o4755)
    os.utime(data / "one", (1, 1))
    os.chown(data, 1000, 1000)
    data.chmod(0o2750)
    (place / "kernel").symlink_to("/sys/fs")
    (place / "processes").symlink_to("/proc")
    archive = place / "small.tar"
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as file:
        file.add(small_tree, arcname=".")
        for name in ("data", "kernel", "processes"):
            file.add(place / name, arcname=name, filter=_with_mark)
    made.good("import", str(archive), "small")
    (place / "context").mkdir()
    (place / "context/Dockerfile").write_text("FROM small\nVOLUME /data\n")
    made.good("build", "-t", "declares", str(place / "context"))
    return made.home


@pytest.fixture
def cli(prepared: Path, tmp_path: Path) -> Iterator[CommandLine]:
    """A home of its own, copied from the prepared one."""
    made = CommandLine(tmp_path / "home")
    subprocess.run(["cp", "-a", prepared, made.home], check=True, timeout=60)
    yield made
    containers = made.home / "containers"
    names = [name for name in os.listdir(containers) if len(name) == 64] if containers.exists() else []
    if names:
        made("rm", "-f", *names)
    assert not os.path.exists(made.home / "run/work") or os.listdir(made.home / "run/work") == []


def _with_mark(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    if entry.name == "data/hard":  # the first of its two names
        entry.pax_headers = {"SCHILY.xattr.user.mark": "kept"}
    return entry


# -- volumes by name -----------------------------------------------------------------------------------------------------------


def test_what_is_written_to_a_volume_is_there_for_the_next_container(cli: CommandLine) -> None:
    cli.sh("-v", "kept:/keep", "echo hello > /keep/file")
    assert cli.sh("-v", "kept:/elsewhere", "cat /elsewhere/file") == "hello\n"
    assert cli.volumes() == ["kept"]


def test_an_empty_volume_gets_what_the_image_has_there(cli: CommandLine) -> None:
    cli.sh("-v", "filled:/data", "true")
    data = cli.home / "volumes/filled/_data"
    found = data.stat()
    assert (found.st_uid, found.st_gid, oct(found.st_mode & 0o7777)) == (1000, 1000, "0o2750")
    assert (data / "one").read_text() == "from the image\n"
    assert (data / "one").stat().st_ino == (data / "hard").stat().st_ino
    assert os.readlink(data / "soft") == "one"
    assert os.getxattr(data / "one", "user.mark") == b"kept"
    assert (data / "one").stat().st_mtime == 1
    tool = (data / "sub/tool").stat()
    assert (tool.st_uid, tool.st_gid, oct(tool.st_mode & 0o7777)) == (1000, 2000, "0o4755")


def test_a_volume_is_filled_only_while_it_is_empty_and_only_if_wanted(cli: CommandLine) -> None:
    cli.sh("-v", "own:/keep", "echo mine > /keep/one")
    assert cli.sh("-v", "own:/data", "cat /data/one; ls /data | wc -l").split() == ["mine", "1"]
    assert cli.sh("-v", "bare:/data:nocopy", "ls /data | wc -l").split() == ["0"]
    assert cli.sh("--mount", "src=bare,dst=/data,volume-nocopy", "ls /data | wc -l").split() == ["0"]
    assert cli.sh("-v", "bare:/data", "cat /data/one") == "from the image\n"
    cli.good("volume", "create", "made")
    assert cli.sh("--mount", "src=made,dst=/data", "cat /data/one") == "from the image\n"


def test_a_volume_cannot_take_the_place_of_a_file(cli: CommandLine) -> None:
    done = cli("run", "--rm", "-v", "data:/etc/passwd", "small", "true")
    assert (done.returncode, "cannot mount volume over existing file, file exists /etc/passwd" in done.stderr) == (125, True)
    assert cli.good("ps", "-aq") == ""


def test_read_only_means_it_and_a_read_only_root_leaves_volumes_writable(cli: CommandLine) -> None:
    assert cli.sh("-v", "data:/keep:ro", "touch /keep/x 2>/dev/null || echo refused") == "refused\n"
    assert cli.sh("--mount", "src=data,dst=/keep,readonly", "touch /keep/x 2>/dev/null || echo refused") == "refused\n"
    script = "touch /keep/x /t/x && touch /x 2>/dev/null || echo refused"
    assert cli.sh("--read-only", "-v", "data:/keep", "--tmpfs", "/t", script) == "refused\n"
    assert (cli.home / "volumes/data/_data/x").exists()


@pytest.mark.parametrize("flags", [("-v", "data:/kernel/cgroup"), ("--tmpfs", "/processes/sys"), ("-v", "data:/processes/1")])
def test_no_link_of_an_image_leads_a_mount_into_the_kernels_files(cli: CommandLine, flags: tuple[str, ...]) -> None:
    done = cli("run", "--rm", "--network=none", *flags, "small", "true")
    assert done.returncode == 125
    assert "cannot be mounted because it is inside /" in done.stderr


def test_a_device_node_in_a_volume_cannot_be_opened(cli: CommandLine) -> None:
    cli.good("volume", "create", "data")
    os.mknod(cli.home / "volumes/data/_data/null", 0o020666, os.makedev(1, 3))
    assert cli.sh("-v", "data:/keep", "cat /dev/null && cat /keep/null 2>/dev/null || echo refused") == "refused\n"


def test_tmpfs_has_the_size_mode_and_owner_that_were_asked_for(cli: CommandLine) -> None:
    script = "stat -c %a:%u:%g /t; dd if=/dev/zero of=/t/x bs=4096 count=64 2>/dev/null; stat -c %s /t/x"
    assert cli.sh("--tmpfs", "/t:size=64k,mode=750,uid=7,gid=8", script).split() == ["750:7:8", "65536"]
    assert cli.sh("--mount", "type=tmpfs,dst=/t,tmpfs-size=64k,tmpfs-mode=0700", script).split() == ["700:0:0", "65536"]


# -- volumes without a name ----------------------------------------------------------------------------------------------------


def test_the_images_volume_is_made_for_each_container_and_goes_with_rm_v(cli: CommandLine) -> None:
    for name in ("one", "two"):
        cli.good("run", "--network=none", "--name", name, "-v", "named:/keep", "declares", "sh", "-c", "cat /data/one")
    anonymous = [name for name in cli.volumes() if name != "named"]
    assert len(anonymous) == 2
    assert cli.volumes("-f", f"label={ANONYMOUS_LABEL}") == anonymous
    cli.good("rm", "one")
    assert len(cli.volumes("-f", "dangling=true")) == 1
    cli.good("rm", "-v", "two")
    assert len(cli.volumes()) == 2
    assert "named" in cli.volumes()


def test_with_rm_volumes_without_a_name_go_and_those_with_one_stay(cli: CommandLine) -> None:
    cli.sh("-v", "/x", "-v", "named:/keep", "touch /x/y")
    cli.good("run", "--rm", "--network=none", "declares", "true")
    container = cli.good("run", "-d", "--rm", "--network=none", "declares", "sleep", "60").strip()
    assert len(cli.volumes()) == 2
    cli("stop", "-t", "0", container)
    cli("wait", container)
    assert cli.volumes() == ["named"]
    assert cli("run", "--rm", "--network=none", "-v", "/x", "small", "no-such-program").returncode == 127
    assert cli.volumes() == ["named"]


def test_a_volume_that_another_container_has_too_stays(cli: CommandLine) -> None:
    cli.good("run", "--network=none", "--name", "one", "declares", "sh", "-c", "echo shared > /data/new")
    (name,) = cli.volumes()
    assert cli.sh("--volumes-from", "one", "cat /data/new; touch /data/more") == "shared\n"
    assert cli.volumes() == [name]
    cli.good("run", "--network=none", "--name", "two", "--volumes-from", "one:ro", "small", "sh", "-c", "! touch /data/x")
    cli.good("rm", "-v", "one")
    assert cli.volumes() == [name]
    cli.good("rm", "-v", "two")
    assert cli.volumes() == []
    assert "No such container: nobody" in cli("run", "--volumes-from", "nobody", "small", "true").stderr


def test_inspect_of_a_container_shows_its_mounts(cli: CommandLine, tmp_path: Path) -> None:
    flags = ("-v", "data:/keep:ro", "-v", f"{tmp_path}:/host", "--tmpfs", "/t")
    cli.good("run", "--network=none", "--name", "one", *flags, "declares", "true")
    (found,) = json.loads(cli.good("inspect", "one"))
    mounts = {mount["Destination"]: mount for mount in found["Mounts"]}
    assert {path: mount["Type"] for path, mount in mounts.items()} == {
        "/keep": "volume",
        "/host": "bind",
        "/t": "tmpfs",
        "/data": "volume",
    }
    assert (mounts["/keep"]["Name"], mounts["/keep"]["RW"], mounts["/keep"]["Driver"]) == ("data", False, "local")
    assert mounts["/host"]["Source"] == str(tmp_path)


# -- contain volume ------------------------------------------------------------------------------------------------------------


def test_create_ls_inspect_and_rm(cli: CommandLine) -> None:
    assert cli.good("volume", "create", "--label", "a=b", "--label", "c", "data") == "data\n"
    assert cli.good("volume", "create", "data") == "data\n"
    (found,) = json.loads(cli.good("volume", "inspect", "data"))
    assert (found["Name"], found["Labels"], found["Driver"]) == ("data", {"a": "b", "c": ""}, "local")
    assert Path(found["Mountpoint"]).is_dir()
    assert cli.good("volume", "inspect", "-f", "{{.Mountpoint}}", "data").strip() == found["Mountpoint"]
    made = cli.good("volume", "create").strip()
    assert len(made) == 64
    assert cli.good("volume", "ls", "--format", "{{.Name}} {{.Labels}}", "-f", "name=dat") == "data a=b,c=\n"
    assert cli.good("volume", "ls", "-f", "label=a").splitlines() == ["DRIVER   VOLUME NAME", "local    data"]
    assert cli.good("volume", "rm", "data", made) == f"data\n{made}\n"
    assert cli.good("volume", "ls") == "DRIVER   VOLUME NAME\n"
    done = cli("volume", "rm", "data", "..", "a/b")
    assert (done.returncode, done.stderr.count("no such volume")) == (1, 3)
    assert cli("volume", "rm", "-f", "data").returncode == 0
    done = cli("volume", "inspect", "data")
    assert (done.returncode, json.loads(done.stdout), "get data: no such volume" in done.stderr) == (1, [], True)
    for nonsense in (("-d", "nfs", "x1"), ("-o", "type=nfs", "x1"), ("x",), ("a/b",), ("--name", "x1", "x2")):
        assert cli("volume", "create", *nonsense).returncode == 1
    assert cli.volumes() == []


def test_a_volume_that_a_container_has_cannot_be_removed(cli: CommandLine) -> None:
    cli.good("run", "--network=none", "--name", "one", "-v", "data:/keep", "small", "true")
    container = cli.good("ps", "-aq", "--no-trunc").strip()
    for flags in ((), ("-f",)):
        done = cli("volume", "rm", *flags, "data")
        assert (done.returncode, f"remove data: volume is in use - [{container}]" in done.stderr) == (1, True)
    cli.good("volume", "prune", "-af")
    assert cli.volumes() == ["data"]
    cli.good("rm", "-v", "one")
    assert cli.good("volume", "rm", "data") == "data\n"


def test_only_volume_prune_removes_volumes_and_those_with_a_name_only_if_asked(cli: CommandLine) -> None:
    made = cli.good("volume", "create").strip()
    cli.good("volume", "create", "--label", "keep=1", "data")
    (cli.home / "volumes/data/_data/x").write_text("x" * 1500)
    cli.good("system", "prune", "-f")
    assert len(cli.volumes()) == 2
    assert cli("volume", "prune", input="n\n").returncode == 1
    assert len(cli.volumes()) == 2
    assert cli.good("volume", "prune", "-f") == f"Deleted Volumes:\n{made}\n\nTotal reclaimed space: 0B\n"
    assert cli.good("volume", "prune", "-af", "--filter", "label!=keep") == "Total reclaimed space: 0B\n"
    assert cli.good("volume", "prune", "-a", input="y\n").endswith("Deleted Volumes:\ndata\n\nTotal reclaimed space: 1.5kB\n")


def test_system_prune_takes_volumes_without_a_name_only_if_asked(cli: CommandLine) -> None:
    made = cli.good("volume", "create").strip()
    cli.good("volume", "create", "data")
    cli.good("run", "--network=none", "--name", "one", "-v", "/x", "small", "true")
    assert "Volumes" not in cli.good("prune", "-f")
    assert cli.good("prune", "-f", "--volumes").startswith(f"Deleted Volumes:\n{made}\n\n")
    assert len(cli.volumes()) == 2  # the container's, and the one with a name
    assert "Deleted Volumes:\n" in cli.good("system", "prune", "-f", "--volumes")  # the container goes first
    assert cli.volumes() == ["data"]


# -- at once, and killed -------------------------------------------------------------------------------------------------------


def test_two_containers_at_once_on_one_new_volume_both_see_all_of_it(cli: CommandLine) -> None:
    answers: list[str] = []
    script = "cat /data/one /data/sub/tool | wc -c"
    threads = [threading.Thread(target=lambda: answers.append(cli.sh("-v", "new:/data", script))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.strip() for answer in answers] == ["16"] * 4


def test_a_container_killed_at_its_start_leaves_a_volume_whole_and_removable(cli: CommandLine) -> None:
    for number in range(6):
        process = subprocess.Popen(
            [*cli.program, "run", "--rm", "--network=none", "-v", "data:/data", "small", "sleep", "30"],
            env=cli.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1 + number * 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert cli.sh("-v", "data:/data", "ls /data; cat /data/one").split() == [
        "hard",
        "one",
        "soft",
        "sub",
        *["from", "the", "image"],
    ]
    names = [name for name in os.listdir(cli.home / "containers") if len(name) == 64]
    cli("rm", "-f", *names)
    cli.good("volume", "rm", "data")
    assert [name for name in os.listdir(cli.home / "volumes") if name != ".lock"] == []


def test_system_df_tells_of_containers_and_volumes(cli: CommandLine) -> None:
    cli.good("run", "--network=none", "--name", "one", "-v", "data:/keep", "small", "sh", "-c", "head -c 2500 /dev/zero >/big")
    cli.good("volume", "create", "idle")
    (cli.home / "volumes/data/_data/x").write_text("x" * 1500)
    (cli.home / "volumes/idle/_data/x").write_text("x" * 700)
    rows = {line[:15].strip(): line[15:].split() for line in cli.good("system", "df").splitlines()}
    assert list(rows) == ["TYPE", "Images", "Containers", "Local Volumes", "Build Cache"]
    assert rows["Containers"] == ["1", "0", "2.5kB", "2.5kB", "(100%)"]
    assert rows["Local Volumes"] == ["2", "1", "2.2kB", "700B", "(31%)"]
