"""``contain cp`` on the real kernel: what arrives where, whose it is, and that nobody leads it out of the root."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
]
SECONDS = 40


class Scene:
    """A store with the image ``small``, and a directory of this machine with something to copy."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {**os.environ, "CONTAIN_HOME": str(directory / "home"), "LC_ALL": "C.UTF-8"}
        self.command = [sys.executable, "-m", "contain.cli.start"]

    def run(self, *words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*self.command, *words],
            env=self.environment,
            capture_output=True,
            timeout=SECONDS,
            check=False,
            input=stdin if stdin is not None else b"",
        )

    def ok(self, *words: str, stdin: bytes | None = None) -> bytes:
        done = self.run(*words, stdin=stdin)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    def fails(self, words: tuple[str, ...], message: str, stdin: bytes | None = None) -> None:
        done = self.run(*words, stdin=stdin)
        assert done.returncode == 1, (words, done)
        assert message in done.stderr.decode(), done.stderr

    def shell(self, name: str, script: str) -> str:
        return self.ok("exec", name, "sh", "-c", script).decode()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, small_tree: Path) -> Scene:
    directory = tmp_path_factory.mktemp("copying")
    made = Scene(directory)
    archive = directory / "small.tar"
    with tarfile.open(archive, "w") as file:
        file.add(small_tree, arcname=".")
    made.ok("import", str(archive), "small")
    return made


@pytest.fixture(params=["running", "ended"])
def container(request: pytest.FixtureRequest, store: Scene) -> Iterator[str]:
    """One that runs, and one that has been started and stopped; with a volume at /data."""
    store.ok("run", "-d", "--network=none", "--name", "box", "-v", "data:/data", "small", "sleep", "1000")
    if request.param == "ended":
        store.ok("stop", "-t", "0", "box")
    try:
        yield "box"
    finally:
        store.ok("rm", "-f", "box")
        store.ok("volume", "rm", "data")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    place = tmp_path / "work"
    (place / "d/sub").mkdir(parents=True)
    (place / "f").write_text("one\n")
    (place / "d/g").write_text("two\n")
    (place / "d/sub/h").write_text("three\n")
    (place / "d/link").symlink_to("g")
    os.link(place / "d/g", place / "d/same")
    (place / "f").chmod(0o640)
    os.chown(place / "f", 1000, 2000)
    os.utime(place / "f", (1_000_000_000, 1_000_000_000))
    return place


def look(store: Scene, path: str) -> dict[str, tarfile.TarInfo]:
    """What a container's path holds, by name, as its archive tells."""
    with tarfile.open(fileobj=io.BytesIO(store.ok("cp", f"box:{path}", "-"))) as file:
        return {member.name: member for member in file}


def test_a_file_goes_into_a_directory_or_gets_the_name(store: Scene, container: str, work: Path) -> None:
    store.ok("cp", str(work / "f"), "box:/tmp")
    store.ok("cp", str(work / "f"), "box:/tmp/")
    store.ok("cp", str(work / "f"), "box:/tmp/other")
    store.ok("cp", str(work / "f"), "box:data/in-volume")
    found = look(store, "/tmp/.")
    assert {"f", "other"} <= {name.removeprefix("./") for name in found}
    row = look(store, "/tmp/other")["other"]
    assert (row.uid, row.gid, row.mode, row.mtime, row.size) == (1000, 2000, 0o640, 1_000_000_000, 4)
    assert (Path(store.environment["CONTAIN_HOME"]) / "volumes/data/_data/in-volume").read_text() == "one\n"


def test_with_a_owners_are_kept(store: Scene, container: str, work: Path) -> None:
    store.ok("cp", "-a", str(work / "f"), "box:/tmp/kept")
    row = look(store, "/tmp/kept")["kept"]
    assert (row.uid, row.gid) == (1000, 2000)
    store.ok("cp", "box:/tmp/kept", str(work / "plain"))
    store.ok("cp", "-a", "box:/tmp/kept", str(work / "kept"))
    assert (work / "plain").stat().st_uid == 0
    assert ((work / "kept").stat().st_uid, (work / "kept").stat().st_gid) == (1000, 2000)


ARRIVALS = [
    ("d", "/tmp", "/tmp/d"),
    ("d/", "/tmp", "/tmp/d"),
    ("d/.", "/data", "/data"),
    ("d", "/tmp/new", "/tmp/new"),
    ("d/.", "/tmp/newer", "/tmp/newer"),
    ("d", "/tmp/newest/", "/tmp/newest"),
]


def test_a_directory_arrives_where_docker_puts_it(store: Scene, container: str, work: Path) -> None:
    for number, (source, target, expected) in enumerate(ARRIVALS):
        store.ok("cp", f"{work}/{source}", f"box:{target}")
        found = look(store, expected + "/.")
        assert {name.removeprefix("./") for name in found} >= {"g", "link", "same", "sub", "sub/h"}, (source, target)
        back = work / f"back{number}"
        store.ok("cp", f"box:{expected}/.", str(back))
        assert (back / "sub/h").read_text() == "three\n"
        assert os.readlink(back / "link") == "g"
        assert (back / "same").samefile(back / "g")


def test_out_again_into_a_directory_or_under_a_name(store: Scene, container: str, work: Path) -> None:
    (work / "here").mkdir()
    store.ok("cp", "box:/etc/passwd", str(work / "here"))
    store.ok("cp", "box:/etc", str(work / "here"))
    store.ok("cp", "box:/etc", str(work / "named"))
    assert (
        (work / "here/passwd").read_bytes() == (work / "here/etc/passwd").read_bytes() == (work / "named/passwd").read_bytes()
    )


def test_the_whole_root_comes_out_without_what_the_kernel_mounts(store: Scene, container: str, work: Path) -> None:
    store.ok("cp", "box:/", str(work / "all"))
    assert (work / "all/etc/passwd").is_file()
    assert [list((work / "all" / name).iterdir()) for name in ("proc", "sys", "dev")] == [[], [], []]
    with tarfile.open(fileobj=io.BytesIO(store.ok("cp", "box:/", "-"))) as archive:
        assert {name.split("/")[1] for name in archive.getnames() if name.count("/") > 1} & {"proc", "sys", "dev"} == set()


def test_links_at_the_end_are_copied_or_with_l_followed(store: Scene, container: str, work: Path) -> None:
    store.ok("cp", str(work / "d"), "box:/tmp/d")
    store.ok("cp", "box:/tmp/d/link", str(work / "as-link"))
    store.ok("cp", "-L", "box:/tmp/d/link", str(work / "as-file"))
    assert os.readlink(work / "as-link") == "g"
    assert (work / "as-file").read_text() == "two\n"
    store.ok("cp", str(work / "d/link"), "box:/tmp/link-in")
    store.ok("cp", "-L", str(work / "d/link"), "box:/tmp/file-in")
    assert look(store, "/tmp/link-in")["link-in"].issym()
    assert look(store, "/tmp/file-in")["file-in"].isfile()


def test_a_tar_archive_goes_in_and_its_owners_are_its_own(store: Scene, container: str) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as file:
        member = tarfile.TarInfo("deep/in/it")
        member.size, member.uid, member.gid = 3, 7, 8
        file.addfile(member, io.BytesIO(b"abc"))
    store.ok("cp", "-", "box:/tmp", stdin=data.getvalue())
    row = look(store, "/tmp/deep")["deep/in/it"]
    assert (row.uid, row.gid, row.size) == (7, 8, 3)
    store.fails(("cp", "-", "box:/tmp/deep/in/it"), "must be a directory", stdin=data.getvalue())
    store.fails(("cp", "-", "box:/tmp"), "archive", stdin=b"x" * 1024)


REFUSED = [
    ("box:/nope", "{work}/x", "Could not find the file /nope in container box"),
    ("box:/etc/passwd/", "{work}/x", "Could not find the file /etc/passwd/ in container box"),
    ("{work}/f", "box:/nope/x", "Could not find the file /nope in container box"),
    ("{work}/nope", "box:/tmp", "no such file or directory"),
    ("{work}/f/", "box:/tmp", "not a directory"),
    ("{work}/f", "box:/tmp/nope/", "no such directory"),
    ("{work}/d", "box:/etc/passwd", "cannot copy directory"),
    ("{work}/d/sub", "box:/etc/passwd/x", "Could not find the file"),
    ("box:/etc", "{work}/f", "cannot copy directory"),
    ("box:/etc/passwd", "{work}/nope/x", "invalid output path: directory"),
    ("box:/etc/passwd", "/dev/null", "must be a directory or a regular file"),
    ("nobox:/etc", "{work}/x", "No such container: nobox"),
]


def test_what_cannot_be_copied_is_told_in_dockers_words(store: Scene, container: str, work: Path) -> None:
    for source, target, message in REFUSED:
        store.fails(("cp", source.format(work=work), target.format(work=work)), message)


def test_files_and_directories_do_not_replace_each_other(store: Scene, container: str, work: Path) -> None:
    store.ok("cp", str(work / "d"), "box:/tmp/x")
    (work / "other").mkdir()
    (work / "other/sub").write_text("a file where a directory is\n")
    store.fails(("cp", f"{work}/other/.", "box:/tmp/x"), "cannot overwrite directory")
    (work / "third/g").mkdir(parents=True)
    store.fails(("cp", f"{work}/third/.", "box:/tmp/x"), "cannot overwrite non-directory")


def test_nothing_is_written_where_all_is_read_only(store: Scene, work: Path) -> None:
    words = ("run", "-d", "--network=none", "--name", "ro", "--read-only", "-v", "held:/held:ro", "-v", "free:/free")
    store.ok(*words, "small", "sleep", "1000")
    try:
        for _ in ("running", "ended"):
            store.fails(("cp", str(work / "f"), "ro:/tmp"), "container rootfs is marked read-only")
            store.ok("cp", str(work / "f"), "ro:/free")
            store.ok("stop", "-t", "0", "ro")
    finally:
        store.ok("rm", "-f", "ro")
        store.ok("volume", "rm", "held", "free")


def test_no_privilege_comes_out_of_a_container(store: Scene, container: str, work: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as file:
        member = tarfile.TarInfo("tool")
        member.size, member.mode = 1, 0o6755
        file.addfile(member, io.BytesIO(b"x"))
    store.ok("cp", "-", "box:/tmp", stdin=data.getvalue())
    store.ok("cp", "box:/tmp/tool", str(work / "tool"))
    assert stat.S_IMODE((work / "tool").stat().st_mode) == 0o755


def test_links_of_a_container_lead_nowhere_outside_of_it(store: Scene, work: Path) -> None:
    secret = work / "secret"
    secret.mkdir()
    (secret / "key").write_text("of this machine\n")
    store.ok("run", "-d", "--network=none", "--name", "box", "small", "sleep", "1000")
    try:
        store.shell(
            "box", f"mkdir -p $(dirname {work}); ln -s {secret} /out; ln -s ../../../../../..{secret} /up; ln -s /out/key /k"
        )
        for path in ("/out/key", "/up/key", "/out/", "/proc/self/root/etc/passwd", "/proc/1/root" + str(secret) + "/key"):
            store.fails(("cp", f"box:{path}", str(work / "got")), "Could not find the file")
        store.fails(("cp", "-L", "box:/k", str(work / "got")), "Could not find the file")
        store.fails(("cp", str(work / "f"), "box:/out/new"), "Could not find the file")
        assert os.listdir(secret) == ["key"]
    finally:
        store.ok("rm", "-f", "box")


def test_a_directory_that_is_exchanged_for_a_link_meanwhile_changes_nothing_outside(store: Scene, work: Path) -> None:
    """CVE-2018-15664, both ways: the container exchanges a directory for a link to this machine's as fast as it can."""
    outside = work / "outside"
    outside.mkdir()
    (outside / "name").write_text("of this machine\n")
    source = work / "source"
    source.mkdir()
    (source / "name").write_text("copied\n")
    flip = f"mkdir -p /a/real; echo inside > /a/real/name; cd /a; while :; do mv real x; ln -s {outside} real; rm real; mv x real; done"
    store.ok("run", "-d", "--network=none", "--name", "box", "small", "sh", "-c", flip)
    try:
        seen = set()
        for _ in range(25):
            store.run("cp", f"{source}/.", "box:/a/real")
            store.run("cp", f"{source}/name", "box:/a/real/name")
            done = store.run("cp", "box:/a/real/name", "-")
            if done.returncode == 0:
                with tarfile.open(fileobj=io.BytesIO(done.stdout)) as file:
                    read = file.extractfile("name")
                    seen.add(read.read() if read else b"")
            assert os.listdir(outside) == ["name"]
            assert (outside / "name").read_text() == "of this machine\n"
        assert b"of this machine\n" not in seen
    finally:
        store.ok("rm", "-f", "box")


def test_a_poisoned_library_of_the_image_is_never_loaded(store: Scene, container: str, work: Path) -> None:
    """CVE-2019-14271: who looks up names while it stands in the container's root loads the container's libraries."""
    (work / "evil").write_text("not a library\n")
    store.ok("cp", str(work / "evil"), "box:/etc/nsswitch.conf")
    store.ok("cp", "box:/etc", str(work / "etc"))
    assert (work / "etc/nsswitch.conf").read_text() == "not a library\n"
