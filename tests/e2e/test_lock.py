"""Locks and attestations as somebody uses them: a build gives the locked image, or says exactly what moved."""

from __future__ import annotations

import functools
import http.server
import itertools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from contain.attestation import attestations_of
from contain.store import Store

if TYPE_CHECKING:
    from tests.e2e.conftest import Server

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
]

UUID = "/proc/sys/kernel/random/uuid"
DPKG = "Package: curl\\nStatus: install ok installed\\nArchitecture: all\\nVersion: 1."
PIP = """RUN <<END
set -e
place=/usr/lib/python3/site-packages/flask-1.dist-info
version=
if [ -n "$PIP_CONSTRAINT" ]; then while read line; do case $line in flask==*) version=${line#flask==};; esac; done < $PIP_CONSTRAINT; fi
if [ -n "$version" ] && [ -n "$FAILS" ]; then echo "no such version"; exit 1; fi
if [ -z "$version" ]; then read version < /proc/sys/kernel/random/uuid; fi
mkdir -p $place
echo "Name: Flask" > $place/METADATA
echo "Version: $version" >> $place/METADATA
END
"""
"""What pip does, without pip: takes the constraint's version, else whatever is newest."""


class Project:
    """A directory with a Dockerfile, and ``contain`` with a store of its own."""

    def __init__(self, directory: Path, home: Path) -> None:
        self.directory, self.home = directory, home
        directory.mkdir(exist_ok=True)

    def __call__(self, *arguments: str, seconds: float = 60, **variables: Any) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "CONTAIN_HOME": str(self.home), "LC_ALL": "C.UTF-8", **variables}
        for name in ("CONTAIN_DEBUG", "SOURCE_DATE_EPOCH"):
            if name not in variables:
                environment.pop(name, None)
        return subprocess.run(
            [sys.executable, "-m", "contain.cli.start", *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            env=environment,
            check=False,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
        )

    def good(self, *arguments: str, **variables: Any) -> str:
        done = self(*arguments, **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def moved(self, *arguments: str, **variables: Any) -> list[list[str]]:
        """The rows of the table of a locked build that must fail, cut at wide gaps."""
        done = self("build", "--locked", *arguments, ".", **variables)
        assert done.returncode == 1, done.stdout + done.stderr
        lines = done.stderr[done.stderr.index("  WHAT ") :].splitlines()[1:]
        table = itertools.takewhile(lambda line: line.startswith("  "), lines)
        return [[cell.strip() for cell in line.split("   ") if cell.strip()] for line in table]

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.directory / name.replace("__", ".")).write_text(text)


def import_small(project: Project, tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "small.tar"
    with tarfile.open(archive, "w") as file:
        file.add(tree, arcname=".")
    project.good("import", str(archive), "small")


@pytest.fixture
def project(tmp_path: Path, small_tree: Path) -> Project:
    made = Project(tmp_path / "project", tmp_path / "home")
    import_small(made, small_tree, tmp_path)
    return made


@pytest.fixture
def other_machine(project: Project, tmp_path: Path, small_tree: Path) -> Project:
    """The same project with another store, which has the same base."""
    made = Project(project.directory, tmp_path / "other-home")
    import_small(made, small_tree, tmp_path)
    return made


def test_a_lock_gives_the_same_image_again_and_on_another_machine(project: Project, other_machine: Project) -> None:
    project.write(Dockerfile="FROM small\nCOPY . /app\nRUN echo hello > /x\n", a="1")
    digest = project.good("build", ".")
    project.good("lock")
    assert json.loads((project.directory / "contain.lock").read_text())["image"] == digest
    assert project.good("build", "--locked", "-t", "app", ".") == digest
    assert project.good("build", "--locked", "--no-cache", ".") == digest
    assert other_machine.good("build", "--lock", "contain.lock", ".") == digest
    before = (project.directory / "contain.lock").read_bytes()
    project.good("lock")
    assert (project.directory / "contain.lock").read_bytes() == before


def test_a_changed_file_is_named_and_nothing_is_tagged(project: Project) -> None:
    project.write(Dockerfile="FROM small\nCOPY . /app\nRUN cat /app/a > /x\n", a="1", b="1")
    project.good("lock")
    project.write(a="2")
    rows = project.moved("-t", "app")
    assert [row[0] for row in rows] == ["file /app/a"]
    assert rows[0][3] == "COPY . /app"
    assert project("inspect", "app").returncode != 0


def test_on_a_machine_without_the_locked_layers_the_file_is_named_as_well(project: Project, other_machine: Project) -> None:
    project.write(Dockerfile="FROM small\nCOPY . /app\n", a="1", b="1")
    project.good("lock")
    project.write(b="2")
    assert [row[0] for row in other_machine.moved()] == ["file /app/b"]


def test_another_base_of_the_same_name_is_named_before_anything_is_built(
    project: Project, tmp_path: Path, small_tree: Path
) -> None:
    project.write(Dockerfile="FROM small\nRUN echo hello > /x\n")
    digest = project.good("build", ".")
    project.good("lock")
    changed = tmp_path / "changed"
    shutil.copytree(small_tree, changed, symlinks=True)
    (changed / "etc/issue").write_text("another one\n")
    import_small(project, changed, tmp_path)
    assert project.good("build", "--locked", ".") == digest  # the pinned one is in the store still
    stranger = Project(project.directory, tmp_path / "third-home")
    import_small(stranger, changed, tmp_path)
    rows = stranger.moved()
    assert [row[0] for row in rows] == ["base small:latest"]
    assert len({rows[0][1], rows[0][2]}) == 2


def test_a_base_is_pulled_by_its_digest_though_its_tag_moved(
    project: Project, tmp_path: Path, small_tree: Path, start_registry: Callable[..., Server]
) -> None:
    name = f"{start_registry().host}/base:1"
    project.good("tag", "small", name)
    project.good("push", name)
    project.write(Dockerfile=f"FROM {name}\nRUN cat /etc/issue > /x || true\n")
    project.good("lock")
    digest = json.loads((project.directory / "contain.lock").read_text())["image"]
    changed = tmp_path / "changed"
    shutil.copytree(small_tree, changed, symlinks=True)
    (changed / "etc/issue").write_text("another one\n")
    import_small(project, changed, tmp_path)
    project.good("tag", "small", name)
    project.good("push", name)
    empty = Project(project.directory, tmp_path / "empty-home")
    assert empty.good("build", ".") != digest
    assert empty.good("build", "--locked", ".") == digest


def test_a_package_that_moved_is_named_with_its_step(project: Project) -> None:
    step = f'RUN mkdir -p /var/lib/dpkg && echo -e "{DPKG}$(cat {UUID})" > /var/lib/dpkg/status'
    project.write(Dockerfile=f"FROM small\n{step}\nRUN cat /var/lib/dpkg/status > /copy\n")
    project.good("lock")
    rows = project.moved("--no-cache")
    assert [row[0] for row in rows] == ["dpkg package curl"]
    assert rows[0][1].startswith("1.")
    assert rows[0][2].startswith("1.")
    assert rows[0][3].startswith("RUN mkdir -p /var/lib/dpkg")


def test_the_locked_versions_are_installed_as_long_as_they_are_to_be_had(project: Project) -> None:
    project.write(Dockerfile=f"FROM small\n{PIP}")
    project.good("lock")
    digest = json.loads((project.directory / "contain.lock").read_text())["image"]
    assert project.good("build", "--no-cache", ".") != digest  # the newest one is another one each time
    assert project.good("build", "--locked", "--no-cache", ".") == digest


def test_a_newer_version_in_the_cache_is_not_taken(project: Project) -> None:
    project.write(Dockerfile=f"FROM small\n{PIP}RUN echo after > /after\n")
    project.good("lock")
    digest = json.loads((project.directory / "contain.lock").read_text())["image"]
    assert project.good("build", "--no-cache", ".") != digest
    assert project.good("build", "--locked", ".") == digest
    assert "cached" in project("build", "--locked", ".").stderr


def test_locked_versions_that_are_gone_are_named(project: Project) -> None:
    project.write(Dockerfile=f"FROM small\nARG FAILS=1\n{PIP}")
    project.good("lock")
    rows = project.moved("--no-cache")
    assert [row[0] for row in rows] == ["python package flask"]


def test_what_a_lock_tells_a_step_leaves_no_trace(project: Project) -> None:
    show = "RUN cat /dev/contain/apt-preferences || echo none"
    tell = "if [ -e /dev/contain/apt-preferences ]; then cat /dev/contain/apt-preferences $APT_CONFIG; fi"
    install = f'RUN mkdir -p /var/lib/dpkg && printf "{DPKG}0\\n" > /var/lib/dpkg/status && {tell}'
    project.write(Dockerfile=f"FROM small\n{install}\n{show}\n")
    project.good("lock")
    done = project("build", "--locked", "--no-cache", ".")
    assert done.returncode == 0, done.stderr
    assert "Package: curl\nPin: version 1.0\nPin-Priority: 1001\n" in done.stderr
    assert 'Dir::Etc::Preferences "/dev/contain/apt-preferences";' in done.stderr
    assert "none" in done.stderr.splitlines()  # the second step installed nothing, so it is told nothing


def test_random_bytes_are_named_by_their_file(project: Project) -> None:
    project.write(Dockerfile=f"FROM small\nRUN cat {UUID} > /etc/machine && echo same > /etc/other\n")
    project.good("lock")
    assert [row[0] for row in project.moved("--no-cache")] == ["file /etc/machine"]


def test_other_inputs_are_named(project: Project) -> None:
    project.write(Dockerfile="FROM small AS one\nARG A=1\nRUN echo $A > /x\nFROM one\nRUN echo 2 > /y\n")
    project.good("lock", "--build-arg", "A=1")
    assert project("build", "--locked", "--build-arg", "A=1", ".").returncode == 0
    assert [row[0] for row in project.moved("--build-arg", "A=2")] == ["build argument A"]
    assert [row[:3] for row in project.moved("--build-arg", "A=1", SOURCE_DATE_EPOCH="5")] == [
        ["input SOURCE_DATE_EPOCH", "946684800", "5"]
    ]
    assert ["input target", "the last stage", "one"] in [row[:3] for row in project.moved("--target", "one")]
    project.write(Dockerfile="FROM small AS one\nARG A=1\nRUN echo $A > /x\nFROM one\nRUN echo 3 > /y\n")
    assert [row[0] for row in project.moved("--build-arg", "A=1")] == ["instruction RUN"]


def test_the_lock_remembers_the_time_that_it_was_made_with(project: Project) -> None:
    project.write(Dockerfile="FROM small\nRUN echo $SOURCE_DATE_EPOCH > /x\n")
    digest = project.good("build", ".", SOURCE_DATE_EPOCH="1000000000")
    project.good("lock", SOURCE_DATE_EPOCH="1000000000")
    assert project.good("build", "--locked", ".") == digest


def test_a_lock_is_no_part_of_the_context(project: Project) -> None:
    project.write(Dockerfile="FROM small\nCOPY . /app\nRUN test ! -e /app/contain.lock\n", a="1")
    digest = project.good("build", ".")
    project.good("lock")
    assert project.good("build", "--no-cache", ".") == digest


def test_a_lock_of_another_name_inside_the_context_must_be_left_out(project: Project) -> None:
    project.write(Dockerfile="FROM small\nCOPY . /app\n", a="1")
    refused = project("lock", "-o", "other.lock")
    assert refused.returncode == 1
    assert ".dockerignore" in refused.stderr
    assert not (project.directory / "other.lock").exists()
    project.write(__dockerignore="*.lock\n")
    project.good("lock", "-o", "other.lock")
    project.good("build", "--locked=other.lock", ".")


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "not JSON"), ("{}", "no lock of contain"), ("<<<<<<< HEAD\n", "merge conflict"), (None, "there is no lock")],
)
def test_nonsense_is_a_clear_error_and_nothing_is_built(project: Project, text: str | None, words: str) -> None:
    project.write(Dockerfile="FROM small\nRUN echo built\n")
    if text is not None:
        project.write(contain__lock=text)
    done = project("build", "--locked", ".")
    assert done.returncode == 1
    assert words in done.stderr
    assert "hint: " in done.stderr
    assert "echo built" not in done.stderr


def test_flags_of_a_build_that_a_lock_has_no_use_for_are_refused(project: Project) -> None:
    project.write(Dockerfile="FROM small\n")
    for flag in ("--push", "--plan", "--locked"):
        done = project("lock", flag)
        assert (done.returncode, flag in done.stderr) == (1, True)
    assert project("lock", "-", "-o", "x").returncode == 1
    assert project("lock", "-o", "/nonexistent/x").returncode == 1
    assert json.loads(project.good("lock", "-o", "-"))["lock"] == 1


def test_what_an_image_says_about_itself_is_the_same_on_two_machines(project: Project, other_machine: Project) -> None:
    step = f'RUN mkdir -p /var/lib/dpkg && echo -e "{DPKG}0" > /var/lib/dpkg/status'
    project.write(Dockerfile=f"FROM small\nARG SECRET_KEY\nARG PLAIN\n{step}\n")
    arguments = ("--build-arg", "SECRET_KEY=hunter2", "--build-arg", "PLAIN=value")
    digest = project.good("build", "--sbom=a.json", "--provenance=a.intoto", "-t", "app", *arguments, ".")
    assert other_machine.good("build", "--sbom=b.json", "--provenance=b.intoto", *arguments, ".") == digest
    assert (project.directory / "a.json").read_bytes() == (project.directory / "b.json").read_bytes()
    assert (project.directory / "a.intoto").read_bytes() == (project.directory / "b.intoto").read_bytes()
    bill: Any = json.loads(project.good("sbom", "app"))
    assert bill == json.loads((project.directory / "a.json").read_text())
    assert [each["purl"] for each in bill["components"]] == ["pkg:deb/debian/curl@1.0?arch=all"]
    statement: Any = json.loads(project.good("provenance", digest))
    assert statement["subject"][0]["digest"]["sha256"] == digest.removeprefix("sha256:")
    assert "hunter2" not in json.dumps(statement)
    (base,) = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert base["name"] == "small:latest"
    assert statement["predicate"]["runDetails"]["metadata"]["contain_reproducible"] is False
    project.good("lock", *arguments)
    project.good("build", "--locked", "--provenance=c.intoto", *arguments, ".")
    locked: Any = json.loads((project.directory / "c.intoto").read_text())
    assert locked["predicate"]["runDetails"]["metadata"]["contain_reproducible"] is True


def test_flags_of_attestations_are_docker_s(project: Project) -> None:
    project.write(Dockerfile="FROM small\n")
    digest = project.good("build", "--sbom", "--provenance=false", ".")
    refused = project("provenance", digest)
    assert (refused.returncode, "--provenance" in refused.stderr) == (1, True)
    mode = project("build", "--provenance=mode=max", ".")
    assert (mode.returncode, "mode=max" in mode.stderr) == (1, True)
    for flags in (("--sbom", "--plan"), ("--locked", "--check"), ("--locked=a", "--lock", "b")):
        refused = project("build", *flags, ".")
        assert (refused.returncode, flags[0].partition("=")[0] in refused.stderr) == (1, True)
    unwritable = project("build", "--sbom=/nonexistent/x", ".")
    assert (unwritable.returncode, "/nonexistent/x" in unwritable.stderr) == (1, True)


def test_documents_go_when_their_image_goes(project: Project) -> None:
    project.write(Dockerfile="FROM small\nRUN echo 1 > /x\n")
    project.good("build", "--sbom", "--provenance", "-t", "app", ".")
    blobs = project.home / "blobs" / "sha256"
    kinds = [json.loads(path.read_bytes()).get("artifactType") for path in blobs.iterdir() if path.stat().st_size < 10_000]
    assert sorted(kind for kind in kinds if kind) == ["application/vnd.cyclonedx+json", "application/vnd.in-toto+json"]
    project.good("rmi", "app")
    left = [json.loads(path.read_bytes()).get("artifactType") for path in blobs.iterdir() if path.stat().st_size < 10_000]
    assert [kind for kind in left if kind] == []


def test_a_push_takes_along_what_is_attached_and_others_find_it(
    project: Project, start_registry: Callable[..., Server]
) -> None:
    skopeo = shutil.which("skopeo")
    if skopeo is None:
        pytest.skip("skopeo is not installed")
    host = start_registry().host
    project.write(Dockerfile="FROM small\nRUN echo 1 > /x\n")
    digest = project.good("build", "--sbom=bill.json", "--provenance", "-t", f"{host}/app", ".")
    project.good("push", f"{host}/app")
    project.good("push", f"{host}/app")  # again: nothing new

    def raw(name: str) -> Any:
        command = [skopeo, "inspect", "--raw", "--tls-verify=false", f"docker://{host}/{name}"]
        return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=30, env=_no_proxy()).stdout)

    listed = raw(f"app:{digest.replace(':', '-')}")["manifests"]
    assert sorted(row["artifactType"] for row in listed) == ["application/vnd.cyclonedx+json", "application/vnd.in-toto+json"]
    with Store.open(project.home) as store:
        kept = {each.digest: each for each in attestations_of(store, digest)}
    assert {row["digest"] for row in listed} == set(kept)  # the same manifests here and there, byte for byte
    for row in listed:
        manifest = raw(f"app@{row['digest']}")
        assert manifest == json.loads(kept[row["digest"]].manifest)
        assert manifest["subject"]["digest"] == digest
    copied = project.directory / "copied"
    bill = next(row["digest"] for row in listed if "cyclonedx" in row["artifactType"])
    command = [skopeo, "--insecure-policy", "copy", "--src-tls-verify=false", f"docker://{host}/app@{bill}", f"dir:{copied}"]
    subprocess.run(command, capture_output=True, check=True, timeout=30, env=_no_proxy())
    documents = [path.read_bytes() for path in copied.iterdir()]
    assert (project.directory / "bill.json").read_bytes() in documents


def _no_proxy() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


def write_wheel(directory: Path, version: str) -> None:
    name = f"demo-{version}.dist-info"
    with zipfile.ZipFile(directory / f"demo-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("demo.py", f"version = {version!r}\n")
        wheel.writestr(f"{name}/METADATA", f"Metadata-Version: 2.1\nName: demo\nVersion: {version}\n")
        wheel.writestr(f"{name}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}/RECORD", f"demo.py,,\n{name}/METADATA,,\n{name}/WHEEL,,\n{name}/RECORD,,\n")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A package index on loopback: its address, and the directory of its wheels."""
    wheels = tmp_path / "index" / "demo"
    wheels.mkdir(parents=True)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(wheels.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", wheels
        server.shutdown()
        thread.join()


def test_pip_itself_takes_the_locked_version_as_long_as_the_index_has_it(tmp_path: Path, index: tuple[str, Path]) -> None:
    python = Path("/usr/bin/python3")
    if not python.exists() or subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("this machine's /usr/bin/python3 has no pip")
    address, wheels = index
    project = Project(tmp_path / "project", tmp_path / "home")
    options = f"--no-cache-dir --disable-pip-version-check --no-compile --index-url {address} --target /opt/site-packages"
    step = f"RUN --network=host no_proxy=127.0.0.1 {python} -m pip install {options} demo"
    project.write(Dockerfile=f"FROM host\n{step}\n")
    allow = ("--allow", "network.host")
    write_wheel(wheels, "1.0")
    project.good("lock", *allow)
    digest = json.loads((project.directory / "contain.lock").read_text())["image"]
    write_wheel(wheels, "2.0")
    assert project.good("build", *allow, "--no-cache", ".") != digest
    assert project.good("build", *allow, "--locked", "--no-cache", ".") == digest
    (wheels / "demo-1.0-py3-none-any.whl").unlink()
    assert [row[:3] for row in project.moved(*allow, "--no-cache")] == [["python package demo", "1.0", "2.0"]]


@pytest.mark.network
def test_the_bill_of_a_debian_image_lists_what_dpkg_lists(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", tmp_path / "home")
    done = project("pull", "debian:bookworm", seconds=300)
    if done.returncode != 0:
        pytest.skip(f"no Debian mirror: {done.stderr.strip().splitlines()[-1]}")
    listed = project.good("run", "--rm", "debian:bookworm", "dpkg-query", "-W", "-f", "${Package} ${Version}\n")
    bill: Any = json.loads(project.good("sbom", "debian:bookworm"))
    packages = [each for each in bill["components"] if each["type"] == "library"]
    assert sorted(f"{each['name']} {each['version']}" for each in packages) == sorted(listed.splitlines())
    assert all(each["purl"].startswith("pkg:deb/debian/") for each in packages)


@pytest.mark.network
def test_apt_takes_the_locked_version_though_there_is_a_newer_one(tmp_path: Path) -> None:
    """Debian keeps a point release's version beside the security team's, so that some packages have two."""
    project = Project(tmp_path / "project", tmp_path / "home")
    names = "libexpat1 libpng16-16 libssl3 libxml2 xz-utils"
    project.write(Dockerfile=f"FROM debian:bookworm\nRUN apt-get update && apt-cache madison {names} > /versions\n")
    done = project("build", "-t", "versions", ".", seconds=300)
    if done.returncode != 0:
        pytest.skip(f"no Debian mirror: {done.stderr.strip().splitlines()[-1]}")
    versions: dict[str, list[str]] = {}
    for line in project.good("run", "--rm", "versions", "cat", "/versions").splitlines():
        name, version = (part.strip() for part in line.split("|")[:2])
        versions.setdefault(name, []).append(version)
    several = [(name, found) for name, found in versions.items() if len(set(found)) > 1]
    if not several:
        pytest.skip("the archive has one version of each of these packages today")
    name, (newest, *_, older) = several[0]
    command = f"apt-get update && apt-get install -y --no-install-recommends {name} && dpkg -s {name} | grep ^Version:"
    project.write(Dockerfile=f"FROM debian:bookworm\nRUN {command}\n")
    project.good("lock", "--no-cache")
    path = project.directory / "contain.lock"
    lock = json.loads(path.read_text())
    packages = lock["stages"][0]["steps"][0]["packages"]["dpkg"]
    assert packages[name] == newest
    packages[name], lock["image"] = older, "sha256:" + "0" * 64
    path.write_text(json.dumps(lock))
    built = project("build", "--locked", "--no-cache", ".", seconds=120)
    assert f"Version: {older}\n" in built.stderr
    assert f"package {name} " not in built.stderr[built.stderr.index("  WHAT ") :]  # it is as locked
