"""Containers whose root is a copy of their image: they do what those on an overlay do, and leave the same behind."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from contain.container.storage import open_plain_layers
from contain.errors import HostError

if TYPE_CHECKING:
    from tests.conftest import Ground

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
]
OVERLAY, COPY = "overlay", "copy"
CHANGE = """
mkdir /new && echo text >/new/file && ln /new/file /new/same && ln -s /etc/passwd /new/link
t=$(stat -c %Y /full/first); echo 1111 >/full/first; touch -d @$t /full/first
rm /etc/passwd; mkdir /etc/passwd; rm -r /full/deep; mkdir /full/deep
chmod u+s /full/second; chown 5:6 /full /full/third; chmod 700 /tmp; ln /full/third /full/again; chmod 600 /full/linked
"""
DOCKERFILE = """
FROM full
RUN t=$(stat -c %Y /full/first) && echo 1111 >/full/first && touch -d @$t /full/first
RUN rm -r /full/deep /etc/passwd && mkdir /etc/passwd
RUN chmod u+s /full/second && chown 5:6 /full /full/third && chmod 600 /full/linked && ln /full/third /full/again
RUN --mount=type=bind,from=full,source=/full,target=/seen cp /seen/second /copied && echo x >/etc/hostname.new
WORKDIR /made/here
RUN echo x >file && ln -s file link && mkfifo pipe && touch /full/first && true
RUN true
"""


class Contain:
    """``contain`` with a home of its own and one way to store what containers write."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(self, *words: str, storage: str = COPY, status: int = 0, **options: Any) -> str:
        done = self.bytes(*words, storage=storage, **options)
        assert done.returncode == status, (words, done.returncode, done.stdout, done.stderr)
        return (done.stdout + (done.stderr if status else b"")).decode()

    def bytes(self, *words: str, storage: str = COPY, **options: Any) -> subprocess.CompletedProcess[bytes]:
        options = {"stdin": subprocess.DEVNULL} if "input" not in options else options
        environment = {**os.environ, "CONTAIN_HOME": str(self.home), "CONTAIN_STORAGE": storage, "LC_ALL": "C.UTF-8"}
        command = [sys.executable, "-m", "contain.cli.start", *words]
        return subprocess.run(command, capture_output=True, timeout=60, env=environment, check=False, **options)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, small_tree: Path) -> Contain:
    directory = tmp_path_factory.mktemp("copied")
    made = Contain(directory / "home")
    archive = directory / "small.tar"
    with tarfile.open(archive, "w") as file:
        file.add(small_tree, arcname=".")
        for name in ("full", "full/deep"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            file.addfile(entry)
        for name in ("full/first", "full/second", "full/third", "full/deep/fourth"):
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size, entry.mtime = 0o644, 5, 900_000_000
            file.addfile(entry, io.BytesIO(b"0000\n"))
        entry = tarfile.TarInfo("full/linked")
        entry.type, entry.linkname = tarfile.LNKTYPE, "full/second"
        file.addfile(entry)
        entry = tarfile.TarInfo("full/zero")  # /dev/zero
        entry.type, entry.mode, entry.devmajor, entry.devminor = tarfile.CHRTYPE, 0o666, 1, 5
        file.addfile(entry)
    made("import", str(archive), "full")
    return made


@pytest.fixture
def contain(shared: Contain) -> Iterator[Contain]:
    yield shared
    shared.bytes("rm", "-f", *shared("ps", "-aq").split())
    assert os.listdir(shared.home / "containers") == []
    assert os.listdir(shared.home / "run/work") == []


def names_of(archive: bytes) -> list[tuple[str, int, int, int, str]]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return [(each.name, each.mode, each.uid, each.gid, each.linkname) for each in opened]


def test_what_was_changed_is_the_same_as_with_an_overlay(contain: Contain) -> None:
    found = {}
    for storage in (OVERLAY, COPY):
        contain("run", "--network", "none", "--name", "web", "full", "sh", "-ec", CHANGE, storage=storage)
        graph = json.loads(contain("inspect", "web", storage=storage))[0]["GraphDriver"]["Name"]
        assert graph == storage
        changes = contain("container", "diff", "web", storage=storage).splitlines()
        exported = contain.bytes("export", "web", storage=storage).stdout
        digest = contain("commit", "web", storage=storage)
        found[storage] = (changes, names_of(exported), digest)
        contain("rm", "web", storage=storage)
    assert found[COPY] == found[OVERLAY]


def test_a_build_makes_the_same_image_as_with_an_overlay(contain: Contain, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    build = ("build", "-q", "--no-cache", "--network", "none", str(tmp_path))
    assert contain(*build, storage=COPY) == contain(*build, storage=OVERLAY)


def test_every_verb_reaches_a_container_that_is_a_copy(contain: Contain, tmp_path: Path) -> None:
    script = "echo run >>/log; echo up >/up; exec sleep 1000"
    contain("create", "--network", "none", "--name", "web", "full", "sh", "-c", script)
    assert contain("container", "diff", "web") == ""
    assert contain("cp", "web:/full/first", str(tmp_path / "first")) == ""
    assert (tmp_path / "first").read_text() == "0000\n"
    contain("cp", str(tmp_path / "first"), "web:/put")
    assert contain("container", "diff", "web") == "A /put\n"
    contain("start", "web")
    contain("exec", "web", "sh", "-c", "while [ ! -s /up ]; do :; done")
    contain("exec", "web", "sh", "-c", "echo named:x:77:77::/:/bin/sh >>/etc/passwd")
    assert contain("exec", "-u", "named", "web", "id", "-u") == "77\n"
    contain("cp", str(tmp_path / "first"), "web:/again")
    assert {"A /again", "A /put", "A /log", "C /etc/passwd"} <= set(contain("container", "diff", "web").splitlines())
    contain("restart", "-t", "0", "web")
    contain("exec", "web", "sh", "-c", "while [ $(wc -l </log) -lt 2 ]; do :; done")
    contain("commit", "web", "again")
    assert contain("run", "--rm", "--network", "none", "again", "cat", "/log", "/put") == "run\nrun\n0000\n"
    contain("stop", "-t", "0", "web")
    contain("rename", "web", "other")
    written = json.loads(contain("inspect", "--size", "other"))[0]
    rows = contain("ps", "-a", "-s", "--format", "{{.Size}}")
    assert 0 < written["SizeRw"] < 10000 < written["SizeRootFs"]
    assert "B (virtual" in rows
    contain("rm", "other")


def test_a_container_stays_what_it_was_made_as(contain: Contain) -> None:
    for storage, other in ((OVERLAY, COPY), (COPY, OVERLAY)):
        contain("run", "--network", "none", "--name", storage, "full", "sh", "-c", "echo x >>/x; cat /x", storage=storage)
        assert contain("start", "-a", storage, storage=other) == "x\nx\n"
        assert contain("container", "diff", storage, storage=other) == "A /x\n"


def test_it_is_said_once_by_name_and_nonsense_is_refused(contain: Contain, tmp_path: Path) -> None:
    run = ("run", "--rm", "--network", "none", "full", "true")
    said = contain.bytes(*run).stderr.decode()
    assert said.count("warning: storage by copying (CONTAIN_STORAGE=copy)") == said.count("\n") == 1
    (tmp_path / "Dockerfile").write_text("FROM full\nRUN echo a >/a\nRUN echo b >/b\n")
    said = contain.bytes("build", "--no-cache", "--network", "none", str(tmp_path)).stderr.decode()
    assert said.count("storage by copying") == 1
    assert b"copying" not in contain.bytes(*run, storage=OVERLAY).stderr
    assert "CONTAIN_STORAGE: 'vfs' is neither 'overlay' nor 'copy'" in contain(*run, storage="vfs", status=125)
    assert "CONTAIN_STORAGE" in contain("build", "--no-cache", "--network", "none", str(tmp_path), storage="vfs", status=1)
    assert "Driver: copy\n" in contain("info")
    assert "CONTAIN_STORAGE=copy; containers keep what they write in full copies" in contain("doctor")


@pytest.mark.parametrize("options", [(), ("--privileged",), ("--userns", "host"), ("--privileged", "--userns", "auto")])
def test_device_nodes_of_an_image_open_no_device(contain: Contain, options: tuple[str, ...]) -> None:
    """An overlay that a user namespace mounts has no devices; nor has a copy, whatever its root does to the mount."""
    attack = "mount -o remount,bind,dev / 2>/dev/null; head -c 1 /full/zero | wc -c"
    done = contain.bytes("run", "--rm", "--network", "none", *options, "full", "sh", "-c", attack)
    assert done.stdout == b"0\n", done
    assert b"ermission denied" in done.stderr


def test_what_a_stand_in_hides_is_hidden_wherever_the_layer_is_used(ground: Ground, tmp_path: Path) -> None:
    """A store on an overlay has such layers: to the kernel they would show sockets."""
    high = tmp_path / "layer/tree"
    (high / "etc").mkdir(parents=True)
    high.chmod(0o755)
    os.mknod(high / "etc/passwd", stat.S_IFSOCK | 0)
    (high.parent / "layer.json").write_text('{"root_entry": false, "stand_ins": true}')
    layers = (ground.tree, high)
    assert ground.sh("ls -d /etc /etc/passwd", layers=layers).out == "/etc\n"
    with open_plain_layers(ground.spec("worker", layers=layers), ground.run_home) as plain:
        assert len(plain.layers) == 1
        with ground.open_suite(layers=plain.layers) as suite:
            run, _ = suite.test("import os; print(os.path.exists('/etc'), os.path.lexists('/etc/passwd'))")
            assert run.out == "True False\n"
    assert os.listdir(ground.run_home / "work") == []
    with (
        pytest.raises(HostError, match="removes files"),
        open_plain_layers(ground.spec("worker", layers=(Path("/"), high)), ground.run_home),
    ):
        pass


def test_the_machines_own_root_is_not_copied(contain: Contain) -> None:
    assert contain("run", "--rm", "--network", "none", "host", "sh", "-c", "echo x >/x; cat /x") == "x\n"
    assert not os.path.exists("/x")
    contain("run", "--network", "none", "--name", "web", "host", "true")
    assert json.loads(contain("inspect", "web"))[0]["GraphDriver"]["Name"] == OVERLAY


def test_a_copy_is_out_of_reach_of_the_machines_other_users(contain: Contain) -> None:
    contain("create", "--network", "none", "--name", "web", "full", "true")
    root = Path(json.loads(contain("inspect", "web"))[0]["GraphDriver"]["Data"]["RootDir"])
    assert stat.S_IMODE(root.parent.stat().st_mode) == 0o700
    assert {"proc", "sys", "dev", "full"} <= set(os.listdir(root))
