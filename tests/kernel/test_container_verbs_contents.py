"""What containers hold: what they changed, their roots as archives, and images made of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
]
CHANGE = """
mkdir /new && echo text >/new/file && ln /new/file /new/same && ln -s /etc/passwd /new/link
echo more >>/etc/group
rm /etc/passwd
rm -r /full && mkdir /full && echo x >/full/other
chmod 700 /tmp
"""


class Contain:
    """``contain`` with a home of its own; ``full`` is an image with a filled directory."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "CONTAIN_HOME": str(home), "LC_ALL": "C.UTF-8"}

    def __call__(self, *words: str, status: int = 0, **options: Any) -> str:
        done = self.bytes(*words, **options)
        assert done.returncode == status, (words, done.returncode, done.stdout, done.stderr)
        return (done.stdout + (done.stderr if status else b"")).decode()

    def bytes(self, *words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        options = {"stdin": subprocess.DEVNULL} if "input" not in options else options
        command = [sys.executable, "-m", "contain.cli.start", *words]
        return subprocess.run(command, capture_output=True, timeout=40, env=self.environment, check=False, **options)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, small_tree: Path) -> Contain:
    directory = tmp_path_factory.mktemp("contents")
    made = Contain(directory / "home")
    archive = directory / "small.tar"
    with tarfile.open(archive, "w") as file:
        file.add(small_tree, arcname=".")
        for name in ("full", "full/first", "full/second"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = (tarfile.DIRTYPE, 0o755) if name == "full" else (tarfile.REGTYPE, 0o644)
            file.addfile(entry)
    made("import", str(archive), "full")
    return made


@pytest.fixture
def contain(shared: Contain) -> Iterator[Contain]:
    yield shared
    names = [name for name in os.listdir(shared.home / "containers") if len(name) == 64]
    if names:
        shared("rm", "-f", *names)


CHANGED = [
    "C /etc",
    "C /etc/group",
    "D /etc/passwd",
    "C /full",
    "D /full/first",
    "A /full/other",
    "D /full/second",
    "A /new",
    "A /new/file",
    "A /new/link",
    "A /new/same",
    "C /tmp",
]


def test_diff_tells_what_was_added_changed_and_deleted(contain: Contain) -> None:
    contain("create", "--name", "web", "full", "sh", "-c", CHANGE)
    assert contain("container", "diff", "web") == ""
    contain("start", "-a", "web")
    assert contain("container", "diff", "web").splitlines() == CHANGED


def test_a_container_that_changed_nothing_differs_in_nothing(contain: Contain) -> None:
    contain("run", "--name", "web", "full", "cat", "/etc/passwd")
    assert contain("container", "diff", "web") == ""


def test_export_writes_the_root_as_the_container_sees_it(contain: Contain, tmp_path: Path) -> None:
    contain("run", "--name", "web", "full", "sh", "-c", CHANGE)
    file = tmp_path / "root.tar"
    contain("export", "-o", str(file), "web")
    assert contain.bytes("export", "web").stdout == file.read_bytes()
    with tarfile.open(file) as archive:
        names = archive.getnames()
        assert "etc/passwd" not in names
        assert [name for name in names if name.startswith(("full", "new"))] == [
            *("full", "full/other", "new", "new/file", "new/link", "new/same")
        ]
        assert (archive.getmember("new/same").linkname, archive.getmember("new/link").linkname) == ("new/file", "/etc/passwd")
        same = archive.extractfile("new/same")
        assert same is not None
        assert same.read() == b"text\n"
        assert archive.getmember("tmp").mode == 0o700
    contain("import", str(file), "again")
    assert contain("run", "--rm", "again", "cat", "/new/same") == "text\n"


def test_a_host_container_has_no_root_of_its_own_to_write(contain: Contain) -> None:
    contain("run", "--name", "web", "host", "true")
    assert "stands on this machine's root" in contain("export", "web", status=1)
    assert "stands on this machine's root" in contain("commit", "web", status=1)
    assert "stands on this machine's root" in contain("container", "diff", "web", status=1)


def test_commit_makes_an_image_of_what_was_written_and_given(contain: Contain) -> None:
    contain("run", "--name", "web", "-e", "A=b", "-w", "/full", "full", "sh", "-c", CHANGE)
    digest = contain("commit", "-m", "why", "-a", "Ann", "-c", 'CMD ["cat", "/new/file"]', "-c", "EXPOSE 80", "web", "made:1")
    image = json.loads(contain("image", "inspect", "made:1"))[0]
    assert (image["Id"], image["Author"], image["Comment"]) == (digest.strip(), "Ann", "why")
    assert (image["Config"]["Cmd"], image["Config"]["WorkingDir"]) == (["cat", "/new/file"], "/full")
    assert "A=b" in image["Config"]["Env"]
    assert not any(text.startswith("HOSTNAME=") for text in image["Config"]["Env"])
    assert image["Config"]["ExposedPorts"] == {"80/tcp": {}}
    assert contain("run", "--rm", "made:1") == "text\n"
    assert contain("run", "--rm", "made:1", "sh", "-c", "ls; ls /etc/passwd || echo gone") == "other\ngone\n"
    # The container is as it was, and can go on.
    assert contain("container", "diff", "web").splitlines() == CHANGED


def test_commit_holds_a_running_container_only_meanwhile(contain: Contain) -> None:
    contain("run", "-d", "--name", "web", "full", "sh", "-c", "echo up >/up; sleep 1000")
    contain("exec", "web", "sh", "-c", "while [ ! -s /up ]; do :; done")
    contain("commit", "web", "running")
    assert contain("run", "--rm", "running", "cat", "/up") == "up\n"
    assert json.loads(contain("inspect", "web"))[0]["State"]["Status"] == "running"


@pytest.mark.parametrize("change", ["CMD", "RUN true", "ENV", "ENV a b=", "EXPOSE x", "LABEL =x", 'ENV a="'])
def test_a_change_that_cannot_be_is_refused(contain: Contain, change: str) -> None:
    contain("create", "--name", "web", "full", "true")
    if change == "ENV a b=":  # the old form: all the rest is the value
        contain("commit", "-c", change, "web")
    else:
        assert "--change" in contain("commit", "-c", change, "web", status=1)
