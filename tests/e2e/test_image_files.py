"""Images as files, exchanged with the tools that others wrote, in both directions; and the commands around them as a user
types them.

Each tool has a store of its own below the test's directory, and each test is skipped where its tool is missing. Docker's daemon
is started by hand and stopped by its process id; it gets no network and no bridge.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="the tools need root for files of other owners")]

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
DOCKERFILE = """FROM base:1
COPY data /data/
ENV GREETING=hello
CMD ["/bin/tool"]
"""


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed")


class Tools:
    """``contain`` and the others, each with a home of its own below one directory."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.home = place / "home"

    def contain(self, *arguments: str, home: str = "home", status: int = 0, **options: Any) -> str:
        """Its standard output; stderr is in ``self.said``."""
        environment = {**os.environ, "CONTAIN_HOME": str(self.place / home), "LC_ALL": "C.UTF-8"}
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, **options}
        done = subprocess.run(
            [sys.executable, "-m", "contain.cli.start", *arguments],
            stderr=subprocess.PIPE,
            env=environment,
            timeout=120,
            check=False,
            **options,
        )
        self.said = done.stderr.decode()
        assert "Traceback" not in self.said
        assert done.returncode == status, self.said
        out: bytes = done.stdout or b""
        return out.decode(errors="replace")

    def run(self, *arguments: str | Path, **options: Any) -> str:
        """Another tool."""
        environment = {**os.environ, "TMPDIR": str(self.place / "tmp"), "HOME": str(self.place)}
        done = subprocess.run(arguments, capture_output=True, timeout=120, check=False, env=environment, **options)
        assert done.returncode == 0, done.stderr.decode()
        out: bytes = done.stdout
        return out.decode()

    def skopeo(self, *arguments: str | Path) -> str:
        return self.run("skopeo", "--insecure-policy", *arguments)

    def podman(self, *arguments: str | Path, **options: Any) -> str:
        place = ("--root", self.place / "podman", "--runroot", self.place / "podman-run", "--storage-driver", "vfs")
        return self.run("podman", *place, *arguments, **options)

    def digest(self, name: str, home: str = "home") -> str:
        """An image's digest in a store of ours."""
        return str(self.inspect(name, home)["Id"])

    def inspect(self, name: str, home: str = "home") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.contain("image", "inspect", name, home=home))[0]
        return found


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    """With the images ``base:1`` and ``app:1``, the second one built on the first."""
    made = Tools(tmp_path_factory.mktemp("images"))
    (made.place / "tmp").mkdir()
    tree = made.place / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "etc").mkdir()
    (tree / "bin/tool").write_bytes(b"#!/bin/sh\necho hello\n" + bytes(5000))
    (tree / "bin/tool").chmod(0o4755)
    (tree / "bin/link").symlink_to("tool")
    os.link(tree / "bin/tool", tree / "bin/again")
    (tree / "etc/päth with blanks").write_text("x")
    os.chown(tree / "etc", 1000, 100_000)
    with tarfile.open(made.place / "base.tar", "w") as archive:
        archive.add(tree, arcname=".")
    made.contain("import", str(made.place / "base.tar"), "base:1")
    context = made.place / "context"
    (context / "data").mkdir(parents=True)
    (context / "data/file").write_text("content\n" * 1000)
    (context / "Dockerfile").write_text(DOCKERFILE)
    made.contain("build", "-t", "app:1", str(context))
    made.contain("save", "-o", str(made.place / "app.tar"), "app:1")
    return made


# -- among ourselves -------------------------------------------------------------------------------------------------------------


def test_an_image_is_the_same_after_save_and_load(tools: Tools) -> None:
    assert tools.contain("load", "-i", str(tools.place / "app.tar"), home="second") == "Loaded image: app:1\n"
    assert tools.inspect("app:1", "second")["RootFS"] == tools.inspect("app:1")["RootFS"]
    assert tools.digest("app:1", "second") == tools.digest("app:1")
    tools.contain("save", "-o", str(tools.place / "again.tar"), "app:1", home="second")
    assert (tools.place / "again.tar").read_bytes() == (tools.place / "app.tar").read_bytes()


def test_a_pipe_from_save_to_load(tools: Tools) -> None:
    with open(tools.place / "piped", "wb") as out:
        tools.contain("save", "app:1", stdout=out)
    with subprocess.Popen(["cat", tools.place / "piped"], stdout=subprocess.PIPE) as cat:
        assert tools.contain("load", "-q", home="third", stdin=cat.stdout) == "Loaded image: app:1\n"
    assert tools.said == ""
    assert tools.digest("app:1", "third") == tools.digest("app:1")


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_repacked_images_unpack_to_the_same_layers(tools: Tools, compression: str) -> None:
    path = str(tools.place / f"{compression}.tar")
    tools.contain("save", "--compression", compression, "-o", path, "app:1")
    assert DIGEST.search(tools.said)  # the new digest is said
    tools.contain("load", "-i", path, home=compression)
    assert tools.inspect("app:1", compression)["RootFS"] == tools.inspect("app:1")["RootFS"]
    assert tools.digest("app:1", compression) != tools.digest("app:1")
    # Kept as it was packed: saved once more it is the same file.
    tools.contain("save", "-o", path + ".again", "app:1", home=compression)
    assert Path(path + ".again").read_bytes() == Path(path).read_bytes()


def test_save_refuses_what_cannot_be(tools: Tools) -> None:
    place = str(tools.place)
    tools.contain("save", "-o", f"{place}/no/such/app.tar", "app:1", status=1)
    assert "directory" in tools.said
    tools.contain("save", "-o", place, "app:1", status=1)
    assert "is a directory" in tools.said
    tools.contain("save", "--format", "oci-dir", "app:1", status=1)
    assert "-o" in tools.said
    tools.contain("save", "--format", "zip", "app:1", status=1)
    assert "docker, oci, oci-dir" in tools.said
    tools.contain("save", "-o", f"{place}/x.tar", "no-such-image", status=1)
    assert "No such image: no-such-image" in tools.said
    assert not (tools.place / "x.tar").exists()


def test_save_refuses_a_terminal(tools: Tools) -> None:
    ours, theirs = os.openpty()
    try:
        tools.contain("save", "app:1", stdout=theirs, status=1)
    finally:
        os.close(ours)
        os.close(theirs)
    assert "refusing to save to a terminal" in tools.said


def test_an_interrupted_save_leaves_no_file(tools: Tools) -> None:
    place = tools.place / "interrupted"
    place.mkdir()
    environment = {**os.environ, "CONTAIN_HOME": str(tools.home)}
    source = (  # Ctrl-C at the last moment: all is written, and the file not yet named
        "import os, signal, sys\nfrom contain.archive import save\nwrite = save._Writing.archive\n"
        "def stop(self, members, out):\n    write(self, members, out)\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "save._Writing.archive = stop\nfrom contain.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", source, "save", "-o", str(place / "app.tar"), "app:1"]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == 130
    assert os.listdir(place) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_said(tools: Tools) -> None:
    with open("/dev/full", "wb") as full:
        tools.contain("save", "app:1", stdout=full, status=1)
    assert "disk is full" in tools.said
    assert len(tools.said.strip().splitlines()) <= 2


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "empty"), (b"nonsense" * 1000, "no tar archive"), (b"\x1f\x8b\x08rubbish" * 100, "damaged|not")],
)
def test_load_says_what_is_wrong(tools: Tools, content: bytes, said: str) -> None:
    path = tools.place / "wrong.tar"
    path.write_bytes(content)
    tools.contain("load", "-i", str(path), home="wrong", status=1)
    assert re.search(said, tools.said)
    assert tools.contain("images", "-q", home="wrong") == ""


def test_a_root_file_system_is_for_import(tools: Tools) -> None:
    tools.contain("load", "-i", str(tools.place / "base.tar"), home="wrong", status=1)
    assert "contain import" in tools.said
    tools.contain("load", "-i", str(tools.place / "missing.tar"), home="wrong", status=1)
    assert "No such file" in tools.said


def test_two_loads_of_one_file_at_once(tools: Tools) -> None:
    environment = {**os.environ, "CONTAIN_HOME": str(tools.place / "at-once")}
    command = [sys.executable, "-m", "contain.cli.start", "load", "-i", str(tools.place / "app.tar")]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    for process in running:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (0, b"Loaded image: app:1\n"), err
    assert tools.digest("app:1", "at-once") == tools.digest("app:1")


# -- the commands around them ----------------------------------------------------------------------------------------------------


def test_a_tag_goes_back_and_forth(tools: Tools) -> None:
    home = "tags"
    tools.contain("load", "-i", str(tools.place / "app.tar"), home=home)
    tools.contain("import", str(tools.place / "base.tar"), "base:1", home=home)
    app, base = tools.digest("app:1", home), tools.digest("base:1", home)
    tools.contain("tag", "app:1", "web", home=home)
    tools.contain("tag", "base:1", "web", home=home)
    assert tools.contain("rollback", "web", home=home) == f"{app}\n"
    tools.contain("rollback", "web", home=home, status=1)
    assert "no other image before" in tools.said
    assert tools.contain("rollback", "web", "--to", base[7:20], home=home) == f"{base}\n"
    table = tools.contain("tag", "--history", "web", home=home).splitlines()
    assert table[0].split() == ["IMAGE", "ID", "SINCE", "SOURCE", "STATE"]
    assert [line.split()[0] for line in table[1:]] == [digest[7:19] for digest in (base, app, base, app)]
    assert table[1].endswith("current")
    tools.contain("rmi", "web", home=home)
    assert tools.contain("rollback", "web", home=home) == f"{base}\n"
    tools.contain("tag", "--history", "never", home=home, status=1)
    assert "No such image: never" in tools.said
    tools.contain("tag", "app:1", home=home, status=1)
    assert "requires NAME" in tools.said


def test_commands_at_once_on_one_tag_leave_one_consistent_result(tools: Tools) -> None:
    home = tools.place / "race"
    tools.contain("load", "-i", str(tools.place / "app.tar"), home="race")
    tools.contain("import", str(tools.place / "base.tar"), "base:1", home="race")
    environment = {**os.environ, "CONTAIN_HOME": str(home)}
    commands = [
        ("tag", "app:1", "web"),
        ("tag", "base:1", "web"),
        ("rollback", "web"),
        ("load", "-i", str(tools.place / "app.tar")),
    ]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "contain.cli.start", *command],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for command in commands * 3
    ]
    for process in running:
        _, said = process.communicate(timeout=120)
        too_early = b"no other image before" in said or b"No such image: web:latest, now or before" in said  # of a rollback
        assert process.returncode == 0 or too_early, said
    rows = tools.contain(
        "tag", "--history", "web", "--no-trunc", "--format", "{{.Digest}} {{.State}}", home="race"
    ).splitlines()
    assert rows[0] == f"{tools.digest('web', 'race')} current"
    assert {row.split()[0] for row in rows} == {tools.digest("app:1", "race"), tools.digest("base:1", "race")}


def test_prune_names_what_can_no_longer_be_rolled_back_to(tools: Tools) -> None:
    home = "pruned"
    tools.contain("load", "-i", str(tools.place / "app.tar"), home=home)
    old = tools.digest("app:1", home)
    tools.contain("import", str(tools.place / "base.tar"), "app:1", home=home)
    tools.contain("prune", "-f", home=home)  # what is younger than an hour stays
    assert tools.inspect(old, home)["RepoTags"] == []
    with contextlib.closing(sqlite3.connect(tools.place / home / "state.sqlite3")) as database, database:
        database.execute("UPDATE images SET added_seconds = added_seconds - 7200")
    said = tools.contain("image", "prune", "-f", home=home)
    assert f"Deleted: {old}\n  app:1 cannot be rolled back to it any more\n" in said
    tools.contain("rollback", "app:1", home=home, status=1)
    assert "not here any more" in tools.said


def test_tables_have_dockers_headings(tools: Tools) -> None:
    history = tools.contain("history", "app:1").splitlines()
    assert re.split(r" {3,}", history[0]) == ["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"]
    assert history[1].startswith(tools.digest("app:1")[7:19])
    assert history[-1].startswith("<missing>")
    images = tools.contain("images", "--digests").splitlines()
    assert re.split(r" {3,}", images[0])[:6] == ["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"]
    assert tools.contain("images", "--format", "{{.Repository}}:{{.Tag}}", "app") == "app:1\n"
    assert tools.contain("images", "-f", "dangling=true", "-q") == ""
    manifest = json.loads(tools.contain("manifest", "inspect", "app:1"))
    assert [layer["digest"] for layer in manifest["layers"]] == tools.inspect("app:1")["Layers"]
    assert tools.contain("inspect", "-f", "{{json .Config.Cmd}}", "app:1") == '["/bin/tool"]\n'


# -- skopeo ----------------------------------------------------------------------------------------------------------------------


@needs("skopeo")
@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive"])
def test_skopeo_reads_the_one_file_as_both(tools: Tools, transport: str) -> None:
    source = f"{transport}:{tools.place}/app.tar"
    config = json.loads(tools.skopeo("inspect", "--config", source))
    assert config["rootfs"]["diff_ids"] == tools.inspect("app:1")["RootFS"]["Layers"]
    if transport == "oci-archive":
        assert json.loads(tools.skopeo("inspect", "--format", '{"d":"{{.Digest}}"}', source))["d"] == tools.digest("app:1")


@needs("skopeo")
@pytest.mark.parametrize("transport", ["oci-archive", "oci", "docker-archive"])
def test_what_skopeo_writes_is_loaded_with_its_digest(tools: Tools, transport: str) -> None:
    place, home = tools.place / f"skopeo-{transport}", f"home-{transport}"
    keep = [] if transport == "docker-archive" else ["--preserve-digests"]
    tools.skopeo("copy", *keep, f"oci-archive:{tools.place}/app.tar", f"{transport}:{place}:example.org/app:2")
    assert tools.contain("load", "-i", str(place), home=home) == "Loaded image: example.org/app:2\n"
    assert tools.digest("example.org/app:2", home) == tools.digest("app:1")


@needs("skopeo")
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_skopeo_verifies_what_we_compressed(tools: Tools, compression: str) -> None:
    tools.contain("save", "--format", "oci", "--compression", compression, "-o", f"{tools.place}/packed-{compression}", "app:1")
    tools.skopeo("copy", f"oci-archive:{tools.place}/packed-{compression}", f"dir:{tools.place}/dir-{compression}")


# -- umoci -----------------------------------------------------------------------------------------------------------------------


@needs("umoci")
def test_umoci_unpacks_a_layout_of_ours(tools: Tools) -> None:
    tools.contain("save", "--format", "oci-dir", "-o", f"{tools.place}/layout", "app:1")
    tools.run("umoci", "unpack", "--image", tools.place / "layout:1", tools.place / "bundle")
    root = tools.place / "bundle/rootfs"
    assert (root / "data/file").read_text() == "content\n" * 1000
    assert (root / "bin/tool").stat().st_mode & 0o7777 == 0o4755
    assert (root / "bin/tool").stat().st_ino == (root / "bin/again").stat().st_ino
    assert ((root / "etc").stat().st_uid, (root / "etc").stat().st_gid) == (1000, 100_000)


@needs("umoci")
def test_what_umoci_makes_is_loaded(tools: Tools) -> None:
    layout = tools.place / "umoci"
    tools.run("umoci", "init", "--layout", layout)
    tools.run("umoci", "new", "--image", f"{layout}:1")
    tools.run("umoci", "unpack", "--image", f"{layout}:1", tools.place / "ub")
    (tools.place / "ub/rootfs/made").write_text("by umoci\n")
    tools.run("umoci", "repack", "--image", f"{layout}:example.org/app:2", tools.place / "ub")
    tools.run("umoci", "rm", "--image", f"{layout}:1")
    assert tools.contain("load", "-i", str(layout), home="umoci-home") == "Loaded image: example.org/app:2\n"
    [entry] = json.loads((layout / "index.json").read_text())["manifests"]
    assert tools.digest("example.org/app:2", "umoci-home") == entry["digest"]


# -- podman ----------------------------------------------------------------------------------------------------------------------


@needs("podman")
def test_podman_loads_what_we_save(tools: Tools) -> None:
    try:
        tools.podman("load", "-i", tools.place / "app.tar")
        found = json.loads(tools.podman("image", "inspect", "app:1"))[0]
        assert found["Digest"] == tools.digest("app:1")
        assert found["RootFS"]["Layers"] == tools.inspect("app:1")["RootFS"]["Layers"]
        for form in ("docker-archive", "oci-archive"):
            path = tools.place / f"podman-{form}"
            tools.podman("save", "-q", "--format", form, "-o", path, "app:1")
            assert tools.contain("load", "-i", str(path), home=f"home-{form}-podman") == "Loaded image: app:1\n"
            loaded = tools.inspect("app:1", f"home-{form}-podman")
            assert loaded["RootFS"]["Layers"] == found["RootFS"]["Layers"]
        # Docker's archive has uncompressed layers, as ours has, and the config is the same: so is the image.
        assert tools.digest("app:1", "home-docker-archive-podman") == tools.digest("app:1")
    finally:
        tools.podman("rmi", "-fa")


@needs("podman")
def test_podman_loads_an_oci_archive_of_ours_from_a_pipe(tools: Tools) -> None:
    with open(tools.place / "piped-oci", "wb") as out:
        tools.contain("save", "--format", "oci", "app:1", stdout=out)
    try:
        with open(tools.place / "piped-oci", "rb") as file:
            assert "docker.io/library/app:1" in tools.podman("load", stdin=file)
        assert json.loads(tools.podman("image", "inspect", "app:1"))[0]["Digest"] == tools.digest("app:1")
    finally:
        tools.podman("rmi", "-fa")


# -- buildah ---------------------------------------------------------------------------------------------------------------------


@needs("buildah")
def test_buildah_and_we_read_each_other(tools: Tools) -> None:
    place = ("--root", tools.place / "buildah", "--runroot", tools.place / "buildah-run", "--storage-driver", "vfs")
    try:
        tools.run("buildah", *place, "pull", f"oci-archive:{tools.place}/app.tar")
        found = tools.run("buildah", *place, "images", "-q", "--no-trunc").strip()
        target = tools.place / "buildah-layout"
        tools.run("buildah", *place, "push", "--disable-compression", found, f"oci:{target}:app:1")
        tools.contain("load", "-i", str(target), home="buildah-home")
        assert tools.inspect("app:1", "buildah-home")["RootFS"] == tools.inspect("app:1")["RootFS"]
    finally:
        tools.run("buildah", *place, "rmi", "-fa")


# -- docker ----------------------------------------------------------------------------------------------------------------------


class Docker:
    """A daemon of our own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.socket = f"unix://{place}/socket"

    def command(self, *arguments: str | Path, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "DOCKER_HOST": self.socket, "HOME": str(self.place)}
        return subprocess.run(
            ["docker", *arguments], env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )

    def __call__(self, *arguments: str | Path) -> str:
        done = self.command(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


def below(place: Path) -> list[str]:
    """Mount points below a directory, the deepest first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return sorted((point for line in lines if (point := line.split()[4]).startswith(f"{place}/")), reverse=True)


@contextlib.contextmanager
def daemon(place: Path) -> Iterator[Docker | None]:
    """A running daemon, or None where it does not start; afterwards nothing of it is left."""
    place.mkdir()
    command: Sequence[str] = (
        "dockerd", "--data-root", f"{place}/data", "--exec-root", f"{place}/exec", "--pidfile", f"{place}/pid",
        "-H", f"unix://{place}/socket", "--iptables=false", "--bridge=none", "--ip-forward=false", "--ip-masq=false",
    )  # fmt: skip
    docker = Docker(place)
    with open(place / "log", "wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        limit = time.monotonic() + 60
        ready = False
        while not ready and process.poll() is None and time.monotonic() < limit:
            ready = docker.command("version").returncode == 0
            if not ready:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
        yield docker if ready else None
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)
        for point in below(place):
            subprocess.run(["umount", "-l", point], check=False, timeout=20)
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    place = tmp_path_factory.mktemp("d") / "d"  # short: a socket's path has at most 107 bytes
    with daemon(place) as started:
        if started is None:
            pytest.skip(f"dockerd does not start here: {(place / 'log').read_text()[-300:]}")
        yield started


@needs("dockerd")
@needs("docker")
def test_docker_and_we_load_what_the_other_saves(tools: Tools, docker: Docker) -> None:
    assert docker("load", "-i", tools.place / "app.tar") == "Loaded image: app:1\n"
    found = json.loads(docker("image", "inspect", "app:1"))[0]
    ours = tools.inspect("app:1")
    manifest = json.loads(tools.contain("manifest", "inspect", "app:1"))
    assert found["Id"] == manifest["config"]["digest"]  # Docker's id is the config's digest
    assert found["RootFS"] == ours["RootFS"]
    assert {key: found["Config"][key] for key in ("Env", "Cmd")} == {key: ours["Config"][key] for key in ("Env", "Cmd")}
    docker("tag", "app:1", "example.org/app:2")
    docker("save", "-o", tools.place / "docker.tar", "app:1", "example.org/app:2")
    assert tools.contain("load", "-i", str(tools.place / "docker.tar"), home="docker") in (
        "Loaded image: app:1\nLoaded image: example.org/app:2\n",
        "Loaded image: example.org/app:2\nLoaded image: app:1\n",
    )
    assert tools.digest("app:1", "docker") == tools.digest("app:1")


@needs("dockerd")
@needs("docker")
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_docker_loads_what_we_compressed(tools: Tools, docker: Docker, compression: str) -> None:
    path = tools.place / f"docker-{compression}.tar"
    tools.contain("save", "--compression", compression, "-o", str(path), "app:1")
    docker("load", "-i", path)
    assert json.loads(docker("image", "inspect", "app:1"))[0]["RootFS"] == tools.inspect("app:1")["RootFS"]


@needs("dockerd")
@needs("docker")
def test_inspect_has_the_keys_that_docker_has(tools: Tools, docker: Docker) -> None:
    docker("load", "-i", tools.place / "app.tar")
    theirs, ours = json.loads(docker("image", "inspect", "app:1"))[0], tools.inspect("app:1")
    assert set(theirs) - set(ours) <= {"Container", "ContainerConfig", "GraphDriver"}  # what only a daemon has
    assert {key: ours[key] for key in ("Created", "Architecture", "Os", "Author")} == {
        key: theirs[key] for key in ("Created", "Architecture", "Os", "Author")
    }
