"""What BuildKit's own tests promise of named contexts, remote contexts, outputs, caches and ``SOURCE_DATE_EPOCH``.

The commands are those that a user types, each a process of its own. Every test names the BuildKit tests
(``frontend/dockerfile/dockerfile_*_test.go``) that say the same in Go.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

BUSYBOX = Path("/bin/busybox")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
    pytest.mark.skipif(not BUSYBOX.exists(), reason="needs Debian's busybox-static at /bin/busybox"),
]
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs the program git")
BASES = 'FROM scratch\nCOPY busybox /bin/\nCOPY etc /etc/\nRUN ["/bin/busybox", "--install", "-s", "/bin"]\n'
RANDOM = "RUN head -c 100 /dev/urandom | sha256sum > "


def write(directory: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return directory


class Builder:
    """``contain build`` with a store of its own."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.environment = environment

    def __call__(self, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        environment = {name: value for name, value in os.environ.items() if name not in ("CONTAIN_DEBUG", "SOURCE_DATE_EPOCH")}
        return subprocess.run(
            [sys.executable, "-m", "contain.cli.start", *arguments],
            input=given,
            capture_output=True,
            timeout=120,
            env={**environment, "CONTAIN_HOME": str(self.home), "LC_ALL": "C.UTF-8", **self.environment},
            check=False,
        )

    def run(self, *arguments: str, given: bytes = b"") -> bytes:
        done = self(*arguments, given=given)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def tree(self, context: str | Path, *flags: str, given: bytes = b"") -> dict[str, str]:
        """The files of the result, as ``--output=-`` writes them."""
        return texts_in(self.run("build", "-q", *flags, "-o", "-", str(context), given=given))

    def config(self, context: str | Path, *flags: str) -> Any:
        digest = self.run("build", "-q", *flags, str(context)).decode().strip()
        manifest = json.loads((self.home / "blobs/sha256" / digest.removeprefix("sha256:")).read_text())
        return json.loads((self.home / "blobs/sha256" / manifest["config"]["digest"].removeprefix("sha256:")).read_text())

    def digest(self, context: str | Path, *flags: str) -> str:
        return self.run("build", "-q", *flags, str(context)).decode().strip()


def texts_in(archive: bytes) -> dict[str, str]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        for member in opened:
            file = opened.extractfile(member) if member.isfile() else None
            if file is not None:
                found[member.name] = file.read().decode(errors="replace")
    return found


def tar_of(files: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content.encode()))
    return buffer.getvalue()


def with_bases(home: Path, directory: Path) -> Builder:
    """Images named busybox and alpine: one static program; alpine has its release file."""
    builder = Builder(home)
    etc = {"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n"}
    shutil.copy(BUSYBOX, write(directory, {**etc, "Dockerfile": BASES}) / "busybox")
    builder.run("build", "-q", "-t", "busybox", str(directory))
    release = "FROM busybox\nCOPY <<EOF /etc/alpine-release\n3.18.0\nEOF\n"
    builder.run("build", "-q", "-t", "alpine", "-f", "-", str(directory), given=release.encode())
    return builder


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    place = tmp_path_factory.mktemp("builder")
    return with_bases(place / "home", place / "bases")


@pytest.fixture
def other(tmp_path: Path) -> Builder:
    """Another machine."""
    return with_bases(tmp_path / "other", tmp_path / "bases")


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Serves a directory's files on loopback."""
    running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(directory: Path) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(directory)))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


# -- named contexts -------------------------------------------------------------------------------------------------------------


def test_an_image_stands_in_for_an_image(builder: Builder, tmp_path: Path) -> None:
    """testNamedImageContext: without a tag; with variables of its own; for a stage that stands on another one."""
    text = "FROM busybox AS base\nRUN cat /etc/alpine-release > /out\nFROM scratch\nCOPY --from=base /out /\n"
    write(tmp_path, {"Dockerfile": text})
    assert builder.tree(tmp_path, "--build-context", "busybox=docker-image://alpine") == {"out": "3.18.0\n"}
    special = write(tmp_path / "special", {"Dockerfile": "FROM alpine:latest\nENV PATH=/foobar:$PATH\nENV FOOBAR=foobar\n"})
    builder.run("build", "-q", "-t", "example.com/named/special", str(special))
    text = "FROM busybox AS base\nRUN env | grep -E '^(PATH|FOOBAR)=' | sort > /out\nFROM scratch\nCOPY --from=base /out /\n"
    write(tmp_path, {"Dockerfile": text})
    shown = builder.tree(tmp_path, "--build-context", "busybox=docker-image://example.com/named/special")["out"]
    assert shown.startswith("FOOBAR=foobar\nPATH=/foobar:/")
    text = (
        "FROM busybox AS parent\nFROM parent AS base\nRUN echo base > /out\n"
        "FROM base\nRUN [ -f /etc/alpine-release ]\nRUN [ ! -f /out ]\n"
    )
    write(tmp_path, {"Dockerfile": text})
    builder.run("build", "-q", "--build-context", "base=docker-image://alpine", str(tmp_path))


def test_the_result_of_another_build_is_a_base_with_its_variables(builder: Builder, tmp_path: Path) -> None:
    """testNamedInputContext, where the first result is passed on as an image."""
    first = write(tmp_path / "first", {"Dockerfile": "FROM alpine\nENV FOO=bar\nRUN echo first > /out\n"})
    builder.run("build", "-q", "-t", "example.com/named/input", str(first))
    text = 'FROM base AS build\nRUN echo "foo is $FOO" > /foo\nFROM scratch\nCOPY --from=build /foo /out /\n'
    write(tmp_path, {"Dockerfile": text})
    found = builder.tree(tmp_path, "--build-context", "base=docker-image://example.com/named/input")
    assert found == {"foo": "foo is bar\n", "out": "first\n"}


def test_a_named_image_is_that_of_the_platform_in_the_dockerfile(builder: Builder, tmp_path: Path) -> None:
    """testNamedImageContextPlatform, with an image of one platform."""
    write(tmp_path, {"Dockerfile": "FROM --platform=$BUILDPLATFORM busybox AS target\nRUN echo hello\n"})
    flags = ("--build-context", "busybox=docker-image://alpine", "--platform", "darwin/ppc64le")
    builder.run("build", "-q", *flags, str(tmp_path))


def test_scratch_stands_in_for_an_image(builder: Builder, tmp_path: Path) -> None:
    """testNamedImageContextScratch."""
    write(tmp_path, {"Dockerfile": "FROM busybox AS build\nCOPY <<EOF /out\nhello world!\nEOF\n"})
    assert builder.tree(tmp_path, "--build-context", "busybox=docker-image://scratch") == {"out": "hello world!\n"}


def test_a_directory_stands_in_for_a_stage_and_has_an_ignore_file(builder: Builder, tmp_path: Path) -> None:
    """testNamedLocalContext."""
    text = "FROM busybox AS base\nRUN cat /etc/alpine-release > /out\nFROM scratch\nCOPY --from=base /o* /\n"
    write(tmp_path / "context", {"Dockerfile": text})
    named = write(tmp_path / "named", {"out": "dummy-result", "out2": "dummy-result", ".dockerignore": "out2\n"})
    assert builder.tree(tmp_path / "context", "--build-context", f"base={named}") == {"out": "dummy-result"}


def unpacked(archive: Path, directory: Path) -> Path:
    with tarfile.open(archive) as opened:
        opened.extractall(directory, filter="data")
    return directory


def test_a_layout_stands_in_for_a_stage_and_for_an_image(builder: Builder, tmp_path: Path) -> None:
    """testNamedOCILayoutContext."""
    text = (
        'FROM busybox:latest\nWORKDIR /test\nRUN sh -c "echo -n first > out"\nRUN sh -c "echo -n second > out2"\nENV foo=bar\n'
    )
    first = write(tmp_path / "first", {"Dockerfile": text})
    builder.run("build", "-q", "-o", f"type=oci,dest={tmp_path / 'first.tar'}", str(first))
    layout = unpacked(tmp_path / "first.tar", tmp_path / "layout")
    (descriptor,) = json.loads((layout / "index.json").read_text())["manifests"]
    place = f"oci-layout://{layout}@{descriptor['digest']}"
    text = (
        "FROM busybox AS base\nRUN cat /etc/alpine-release > out\nFROM foo AS imported\nRUN echo -n $foo > outfoo\n"
        "FROM scratch\nCOPY --from=base /test/o* /\nCOPY --from=imported /test/outfoo /\n"
    )
    second = write(tmp_path / "second", {"Dockerfile": text})
    found = builder.tree(second, "--build-context", f"base={place}", "--build-context", f"foo={place}")
    assert found == {"out": "first", "out2": "second", "outfoo": "bar"}


def test_the_configuration_of_a_layout_is_kept(builder: Builder, tmp_path: Path) -> None:
    """testNamedOCILayoutContextExport."""
    first = write(tmp_path / "first", {"Dockerfile": "FROM scratch\nWORKDIR /test\nENV foo=bar\n"})
    builder.run("build", "-q", "-o", f"type=oci,dest={tmp_path / 'first.tar'}", str(first))
    layout = unpacked(tmp_path / "first.tar", tmp_path / "layout")
    second = write(tmp_path / "second", {"Dockerfile": "FROM nonexistent AS base\n"})
    config = builder.config(second, "--build-context", f"nonexistent=oci-layout://{layout}")["config"]
    assert config["WorkingDir"] == "/test"
    assert "foo=bar" in config["Env"]


FILTERED = (
    "FROM scratch AS copy_from\nCOPY --from=foo /foo /\nFROM alpine AS run_mount\n"
    "RUN --mount=from=foo,src=/foo,target=/in/foo cp /in/foo /foo\nFROM foo AS image_source\nCOPY --from=alpine / /\n"
    "RUN cat /foo > /bar\nFROM scratch AS all\nCOPY --link --from=copy_from /foo /foo.b\n"
    "COPY --link --from=run_mount /foo /foo.c\nCOPY --link --from=image_source /bar /foo.d\n"
)


@pytest.mark.parametrize("first", ["", "FROM scratch AS foo\nCOPY <<EOF /foo\ntest\nEOF\n"], ids=["new", "replace"])
def test_a_directory_is_a_source_a_mount_and_a_base(first: str, builder: Builder, tmp_path: Path) -> None:
    """testNamedFilteredContext; how much is read is not measured here, as nothing is sent anywhere."""
    context = write(tmp_path / "context", {"Dockerfile": first + FILTERED})
    named = write(tmp_path / "named", {"foo": "foo", "bar": "\0" * 4096})
    found = builder.tree(context, "--build-context", f"foo={named}", "--target", "all")
    assert found == {"foo.b": "foo", "foo.c": "foo", "foo.d": "foo"}


def test_a_named_context_that_nothing_needs_is_not_looked_up(builder: Builder, tmp_path: Path) -> None:
    """testEagerNamedContextLookup."""
    text = (
        'FROM broken AS notused\nFROM alpine AS base\nRUN echo "base" > /foo\nFROM busybox AS otherstage\n'
        "FROM scratch\nCOPY --from=base /foo /foo\n"
    )
    write(tmp_path, {"Dockerfile": text})
    contexts = (
        "notused=docker-image://host.invalid/nosuchimage:latest",
        "busybox=docker-image://host.invalid/dontexist:latest",
    )
    flags = [word for value in contexts for word in ("--build-context", value)]
    assert builder.tree(tmp_path, *flags) == {"foo": "base\n"}


# -- contexts from elsewhere ----------------------------------------------------------------------------------------------------


def git(directory: Path, *arguments: str) -> None:
    environ = {"PATH": os.environ["PATH"], "HOME": str(directory), "GIT_CONFIG_NOSYSTEM": "1"}
    for role in ("AUTHOR", "COMMITTER"):
        environ |= {f"GIT_{role}_NAME": "t", f"GIT_{role}_EMAIL": "t@example.org", f"GIT_{role}_DATE": "2020-01-01T00:00:00Z"}
    subprocess.run(["git", *arguments], cwd=directory, env=environ, capture_output=True, check=True, timeout=60)


@needs_git
@pytest.mark.parametrize("form", ["sha1", "sha256"])
def test_a_repository_is_a_context(form: str, builder: Builder, tmp_path: Path, serve: Callable[[Path], str]) -> None:
    """testDockerfileFromGit, testDockerfileFromGitSHA1, testDockerfileFromGitSHA256."""
    text = "FROM busybox AS build\nRUN echo -n fromgit > foo\nFROM scratch\nCOPY --from=build foo bar\n"
    repository = write(tmp_path / "repository", {"Dockerfile": text})
    git(repository, "init", "-q", f"--object-format={form}")
    git(repository, "add", "Dockerfile")
    git(repository, "commit", "-q", "-m", "initial")
    git(repository, "branch", "first")
    write(repository, {"Dockerfile": text + "COPY --from=build foo bar2\n"})
    git(repository, "add", "Dockerfile")
    git(repository, "commit", "-q", "-m", "second")
    git(repository, "update-server-info")
    address = serve(repository) + "/.git"
    assert builder.tree(f"{address}#first") == {"bar": "fromgit"}
    assert builder.tree(address) == {"bar": "fromgit", "bar2": "fromgit"}


def test_an_archive_at_an_address_is_a_context(builder: Builder, tmp_path: Path, serve: Callable[[Path], str]) -> None:
    """testDockerfileFromHTTP."""
    (tmp_path / "myurl").write_bytes(tar_of({"mydockerfile": "FROM scratch\nCOPY foo bar\n", "foo": "foo-contents"}))
    assert builder.tree(f"{serve(tmp_path)}/myurl", "-f", "mydockerfile") == {"bar": "foo-contents"}


def test_a_dockerfile_at_an_address_needs_no_context(builder: Builder, tmp_path: Path, serve: Callable[[Path], str]) -> None:
    """testHTTPDockerfile: its name says nothing."""
    write(tmp_path, {"df": 'FROM busybox\nRUN echo -n "foo-contents" > /foo\nFROM scratch\nCOPY --from=0 /foo /foo\n'})
    assert builder.tree(f"{serve(tmp_path)}/df", "-f", "mydockerfile") == {"foo": "foo-contents"}


def test_an_archive_on_standard_input_is_a_context(builder: Builder) -> None:
    """testTarContext; testTarContextExternalDockerfile with the Dockerfile in the archive's subdirectory."""
    archive = tar_of({"Dockerfile": "FROM scratch\nCOPY foo /", "foo": "contents"})
    assert builder.tree("-", given=archive) == {"foo": "contents"}
    archive = tar_of({"sub/dir/Dockerfile": "FROM scratch\nCOPY sub/dir/foo bar\n", "sub/dir/foo": "contents"})
    assert builder.tree("-", "-f", "sub/dir/Dockerfile", given=archive) == {"bar": "contents"}


@needs_git
@pytest.mark.parametrize("form", ["sha1", "sha256"])
def test_a_repository_is_added_at_a_tag_with_a_checksum(
    form: str, builder: Builder, tmp_path: Path, serve: Callable[[Path], str]
) -> None:
    """testAddGit, testAddGitSHA1, testAddGitSHA256, without git in the image."""
    repository = write(tmp_path / "repository", {})
    repository.mkdir()
    git(repository, "init", "-q", f"--object-format={form}")
    commits = {}
    for tag in ("v0.0.1", "v0.0.2", "v0.0.3"):
        write(repository, {"foo": f"foo of {tag}\n"})
        git(repository, "add", "foo")
        git(repository, "commit", "-q", "-m", tag)
        git(repository, "tag", tag)
        commits[tag] = (repository / ".git/refs/tags" / tag).read_text().strip()
    git(repository, "update-server-info")
    address = serve(repository) + "/.git"
    second, third = commits["v0.0.2"], commits["v0.0.3"]
    text = (
        f'FROM alpine\nADD {address}#v0.0.1 /x\nRUN [ "$(cat /x/foo)" = "foo of v0.0.1" ] && [ ! -d /x/.git ]\n'
        f'ARG REPO="{address}"\nARG TAG="v0.0.2"\n'
        f"ADD --keep-git-dir=true --chown=4242:8484 --checksum={second} ${{REPO}}#${{TAG}} /chowned\nUSER 4242\n"
        'RUN cd /chowned && [ "$(cat foo)" = \'foo of v0.0.2\' ] && [ "$(stat -c %u:%g foo)" = 4242:8484 ] && [ -d .git ]\n'
        f"USER 0\nADD --checksum={third} ${{REPO}}#v0.0.3 /plain\nRUN [ -f /plain/foo ] && [ ! -d /plain/.git ]\n"
        f"ADD --keep-git-dir=true --checksum={third} ${{REPO}}#{third} /commit\n"
        "RUN [ \"$(cat /commit/foo)\" = 'foo of v0.0.3' ] && [ -d /commit/.git ]\n"
    )
    builder.run("build", "-q", str(write(tmp_path / "good", {"Dockerfile": text})))
    for checksum, words in ((second, second), ("foobar", "foobar")):
        text = f"FROM alpine\nADD --checksum={checksum} {address}#v0.0.3 /faildir\n"
        failed = builder("build", "-q", str(write(tmp_path / "bad", {"Dockerfile": text})))
        assert failed.returncode == 1
        assert words.encode() in failed.stderr
        assert b"Dockerfile:2" in failed.stderr


@needs_git
def test_a_checksum_of_a_repository_is_no_part_of_the_cache(
    builder: Builder, tmp_path: Path, serve: Callable[[Path], str]
) -> None:
    """testAddGitChecksumCache."""
    repository = write(tmp_path / "repository", {"foo": "foo\n"})
    git(repository, "init", "-q")
    git(repository, "add", "foo")
    git(repository, "commit", "-q", "-m", "one")
    git(repository, "tag", "v1")
    git(repository, "update-server-info")
    commit = (repository / ".git/refs/tags/v1").read_text().strip()
    address = serve(repository) + "/.git#v1"
    found = []
    for flag in ("", f"--checksum={commit} "):
        text = f"FROM alpine AS src\nADD --keep-git-dir {flag}{address} /repo\n{RANDOM}/repo/unique.txt\n"
        write(tmp_path, {"Dockerfile": text + "FROM scratch\nCOPY --from=src /repo/unique.txt /\n"})
        found.append(builder.tree(tmp_path))
    assert found[0] == found[1]


def test_dockerfile_context_and_named_context_are_three_places(builder: Builder, tmp_path: Path) -> None:
    """testLocalCustomSessionID, whose three directories come from another client."""
    text = "FROM scratch AS base\nFROM scratch\nCOPY out /out1\nCOPY --from=base /another /out2\n"
    files = {"one/Dockerfile": text, "two/out": "contents1", "three/another": "contents2"}
    write(tmp_path, files)
    flags = ("-f", str(tmp_path / "one/Dockerfile"), "--build-context", f"base={tmp_path / 'three'}")
    assert builder.tree(tmp_path / "two", *flags) == {"out1": "contents1", "out2": "contents2"}


# -- outputs --------------------------------------------------------------------------------------------------------------------


def test_the_files_are_an_archive_or_a_directory(builder: Builder, tmp_path: Path) -> None:
    """testTarExporterBasic."""
    context = write(tmp_path / "context", {"Dockerfile": "FROM scratch\nCOPY foo foo\n", "foo": "data"})
    assert builder.tree(context) == {"foo": "data"}
    builder.run("build", "-q", "-o", str(tmp_path / "out"), str(context))
    assert [(path.name, path.read_text()) for path in (tmp_path / "out").iterdir()] == [("foo", "data")]


def test_an_archive_of_an_image_holds_each_of_its_names(builder: Builder, tmp_path: Path) -> None:
    """testOCILayoutMultiname, as an archive."""
    context = write(tmp_path / "context", {"Dockerfile": "FROM scratch\nCOPY <<EOF /foo\nhello\nEOF\n"})
    out = f'type=oci,dest={tmp_path / "out.tar"},"name=org/repo:tag1,org/repo:tag2"'
    builder.run("build", "-q", "-o", out, str(context))
    with tarfile.open(tmp_path / "out.tar") as archive:
        index = archive.extractfile("index.json")
        assert index is not None
        first, second = json.load(index)["manifests"]
    assert [first[key] for key in ("digest", "size", "mediaType")] == [second[key] for key in ("digest", "size", "mediaType")]
    names = [row["annotations"]["io.containerd.image.name"] for row in (first, second)]
    tags = [row["annotations"]["org.opencontainers.image.ref.name"] for row in (first, second)]
    assert (names, tags) == (["docker.io/org/repo:tag1", "docker.io/org/repo:tag2"], ["tag1", "tag2"])


def test_several_platforms_at_once_are_refused_by_name(builder: Builder, tmp_path: Path) -> None:
    """testTarExporterMulti, testExportMultiPlatform: each platform is a build of its own here."""
    write(tmp_path, {"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
    failed = builder("build", "--platform", "linux/amd64,darwin/amd64", str(tmp_path))
    assert failed.returncode == 1
    assert b"several platforms is not supported" in failed.stderr


# -- caches ---------------------------------------------------------------------------------------------------------------------

UNIQUE = (
    f"FROM busybox AS base\nCOPY foo const\n{RANDOM}unique\nFROM scratch\nCOPY --from=base const /\nCOPY --from=base unique /\n"
)


def test_another_machine_takes_every_step_from_a_cache(builder: Builder, other: Builder, tmp_path: Path) -> None:
    """testCacheImportExport, testImportExportReproducibleIDs."""
    context = write(tmp_path / "context", {"Dockerfile": UNIQUE, "foo": "foobar"})
    cache = tmp_path / "cache"
    first = builder.tree(context, "--cache-to", f"type=local,dest={cache},mode=max")
    assert first["const"] == "foobar"
    assert other.tree(context, "--cache-from", f"type=local,src={cache}") == first
    assert other.digest(context) == builder.digest(context)


def test_a_cache_is_written_to_where_it_was_read_from(builder: Builder, other: Builder, tmp_path: Path) -> None:
    """testExportCacheLoop."""
    text = (
        "FROM alpine as base\nRUN echo aa > /foo\nWORKDIR /bar\nFROM base as base1\nCOPY hello.txt .\nFROM base as base2\n"
        "COPY --from=base1 /bar/hello.txt .\nRUN true\nFROM scratch\nCOPY --from=base2 /foo /f\n"
    )
    context = write(tmp_path / "context", {"Dockerfile": text, "hello.txt": "hello"})
    cache = tmp_path / "cache"
    for machine in (builder, other, other):
        flags = ("--cache-to", f"type=local,dest={cache}") + (("--cache-from", f"type=local,src={cache}") * (machine is other))
        assert machine.tree(context, *flags) == {"f": "aa\n"}


def test_the_same_build_gives_the_same_image_under_another_name(builder: Builder, other: Builder, tmp_path: Path) -> None:
    """testReproducibleIDs; on another machine, too."""
    text = "FROM busybox\nENV foo=bar\nCOPY foo /\nRUN echo bar > bar\n"
    context = write(tmp_path / "context", {"Dockerfile": text, "foo": "foo-contents"})
    digests = {builder.digest(context, "-t", "example.com/ids:1"), builder.digest(context, "-t", "example.com/ids:2")}
    assert digests == {other.digest(context)}


def test_without_the_cache_all_stages_or_one_are_made_again(builder: Builder, tmp_path: Path) -> None:
    """testNoCache."""
    text = (
        f"FROM busybox AS s0\n{RANDOM}unique\nFROM busybox AS s1\n{RANDOM}unique2\n"
        "FROM scratch\nCOPY --from=s0 unique /\nCOPY --from=s1 unique2 /\n"
    )
    write(tmp_path, {"Dockerfile": text})
    first, second, third = (builder.tree(tmp_path, *flags) for flags in ((), ("--no-cache",), ("--no-cache-filter", "s1")))
    assert first["unique"] != second["unique"]
    assert first["unique2"] != second["unique2"]
    assert second["unique"] == third["unique"]
    assert third["unique2"] not in (first["unique2"], second["unique2"])


def test_cache_mounts_outlive_a_build_without_the_cache(builder: Builder, tmp_path: Path) -> None:
    """testCacheMountModeNoCache, where BuildKit begins with an empty directory, if the mount has a mode of its own."""
    text = (
        "FROM busybox AS base\nARG FOO=abc\n"
        "RUN --mount=type=cache,target=/cache,mode=0773 touch /cache/$FOO && ls /cache | wc -l > /out\n"
        "FROM scratch\nCOPY --from=base /out /\n"
    )
    write(tmp_path, {"Dockerfile": text})
    builds = (("--no-cache",), ("--no-cache", "--build-arg", "FOO=def"), ("--build-arg", "FOO=ghi"))
    assert [builder.tree(tmp_path, *flags)["out"] for flags in builds] == ["1\n", "2\n", "3\n"]


def test_a_file_that_got_another_name_counts(builder: Builder, tmp_path: Path) -> None:
    """testWildcardRenameCache."""
    write(tmp_path, {"Dockerfile": "FROM alpine\nCOPY file* /files/\nRUN ls /files/file1\n", "file1": "foo"})
    builder.run("build", "-q", str(tmp_path))
    (tmp_path / "file1").rename(tmp_path / "file2")
    failed = builder("build", "-q", str(tmp_path))
    assert failed.returncode == 1
    assert b"Dockerfile:3" in failed.stderr


def test_when_all_is_pruned_nothing_is_left(other: Builder, tmp_path: Path) -> None:
    """testCacheReleased; an image without a name would stay for a while."""
    write(tmp_path, {"Dockerfile": "FROM busybox\nRUN --mount=type=cache,target=/c echo x > /c/x\n"})
    other.run("rmi", other.digest(tmp_path), "busybox", "alpine")
    other.run("builder", "prune", "--all", "--force")
    other.run("system", "prune", "--force")
    left = [path.name for place in ("layers", "blobs/sha256", "tmp") for path in (other.home / place).glob("*")]
    assert left == []


# -- time -----------------------------------------------------------------------------------------------------------------------


NUMBER = "ARG SOURCE_DATE_EPOCH=1700000001\nFROM scratch\nCOPY Dockerfile .\n"
STAGE = "ARG SOURCE_DATE_EPOCH=mysource\nFROM scratch AS mysource\nCOPY Dockerfile .\nFROM scratch\nCOPY Dockerfile .\n"
TIMES = [
    ("testSourceDateEpochWithoutExporter", "FROM scratch\nENTRYPOINT foo bar\nCOPY Dockerfile .\n", 1_700_000_002),
    ("testSourceDateEpochDockerfileDefault", NUMBER, None),
    ("testSourceDateEpochDockerfileDefaultOverride", NUMBER, 1_700_000_002),
    ("testSourceDateEpochStageOverride", STAGE, 1_700_000_002),
]


@pytest.mark.parametrize(("text", "given"), [pytest.param(*rest, id=name) for name, *rest in TIMES])
def test_the_time_is_that_of_the_image_its_history_and_its_files(
    text: str, given: int | None, builder: Builder, tmp_path: Path
) -> None:
    write(tmp_path, {"Dockerfile": text})
    flags = [] if given is None else ["--build-arg", f"SOURCE_DATE_EPOCH={given}"]
    created = "2023-11-14T22:13:21Z" if given is None else "2023-11-14T22:13:22Z"
    config = builder.config(tmp_path, *flags)
    assert {config["created"], *(row["created"] for row in config["history"])} == {created}
    with tarfile.open(fileobj=io.BytesIO(builder.run("build", "-q", *flags, "-o", "-", str(tmp_path)))) as archive:
        times = {member.mtime for member in archive if member.isfile()}
    assert times == {given or 1_700_000_001}


def test_the_caller_s_variable_wins_over_the_dockerfile_and_is_the_argument(builder: Builder, tmp_path: Path) -> None:
    """As buildx does it, which passes the variable on as a build argument."""
    text = "ARG SOURCE_DATE_EPOCH=1700000001\nFROM busybox AS base\nARG SOURCE_DATE_EPOCH\n"
    text += "RUN echo $SOURCE_DATE_EPOCH > /out\nFROM scratch\nCOPY --from=base /out /\n"
    write(tmp_path, {"Dockerfile": text})
    asking = Builder(builder.home, SOURCE_DATE_EPOCH="1700000002")
    for by, seconds, created in ((builder, "1700000001", "22:13:21"), (asking, "1700000002", "22:13:22")):
        assert by.tree(tmp_path) == {"out": f"{seconds}\n"}
        assert by.config(tmp_path)["created"] == f"2023-11-14T{created}Z"


def test_a_context_gives_no_time(builder: Builder, tmp_path: Path) -> None:
    """testSourceDateEpochContextGit and its like: what BuildKit takes from there is refused."""
    write(tmp_path, {"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
    failed = builder("build", "-q", "--build-arg", "SOURCE_DATE_EPOCH=context", str(tmp_path))
    assert failed.returncode == 1
    assert b"SOURCE_DATE_EPOCH='context' is not a time" in failed.stderr


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("not-a-timestamp", id="testSourceDateEpochDockerfileDefaultInvalid"),
        pytest.param("mysource", id="testSourceDateEpochStageInvalid"),
    ],
)
def test_what_is_no_time_is_refused_where_it_stands(value: str, builder: Builder, tmp_path: Path) -> None:
    """A stage that gives the time is refused, too, whatever it consists of."""
    write(tmp_path, {"Dockerfile": f"# one\nARG SOURCE_DATE_EPOCH={value}\nFROM scratch AS mysource\nCOPY Dockerfile .\n"})
    failed = builder("build", "-q", str(tmp_path))
    assert failed.returncode == 1
    assert f"SOURCE_DATE_EPOCH={value!r} is not a time".encode() in failed.stderr
    assert b"Dockerfile:2" in failed.stderr


TOUCHED = (
    "FROM busybox\nRUN touch /foo\nRUN touch /foo.1\nRUN touch -d '2010-01-01 12:34:56' /foo-2010\n"
    "RUN touch -d '2010-01-01 12:34:56' /foo-2010.1\nRUN touch -d '2030-01-01 12:34:56' /foo-2030\n"
    "RUN touch -d '2030-01-01 12:34:56' /foo-2030.1\nRUN rm -f /foo.1\nRUN rm -f /foo-2010.1\nRUN rm -f /foo-2030.1\n"
)


def test_later_times_become_the_build_s_and_earlier_ones_stay(builder: Builder, other: Builder, tmp_path: Path) -> None:
    """testReproSourceDateEpoch: files, whiteouts, the base's own history; the same after the cache is gone."""
    epoch = 1_673_354_096
    write(tmp_path, {"Dockerfile": TOUCHED})
    flags = ("--build-arg", f"SOURCE_DATE_EPOCH={epoch}")
    with tarfile.open(fileobj=io.BytesIO(builder.run("build", "-q", *flags, "-o", "-", str(tmp_path)))) as archive:
        times = {member.name: member.mtime for member in archive if member.name.startswith("foo")}
    assert times == {"foo": epoch, "foo-2010": 1_262_349_296, "foo-2030": epoch}
    base = builder.config(write(tmp_path / "base", {"Dockerfile": "FROM busybox\n"}), *flags)
    config = builder.config(tmp_path, *flags)
    assert config["history"][: len(base["history"])] == base["history"]
    assert {row["created"] for row in base["history"]} == {"2000-01-01T00:00:00Z"}
    assert {row["created"] for row in config["history"][len(base["history"]) :]} == {"2023-01-10T12:34:56Z"}
    assert other.digest(tmp_path, *flags) == builder.digest(tmp_path, *flags)


def test_a_linked_copy_and_no_step_at_all_have_one_digest_everywhere(builder: Builder, other: Builder, tmp_path: Path) -> None:
    """testReproSourceDateEpoch (CopyLink, NoAdditionalLayer), testWorkdirSourceDateEpochReproducible."""
    flags = ("--build-arg", "SOURCE_DATE_EPOCH=1673354096")
    for number, text in enumerate(("FROM busybox\nCOPY --link foo foo\n", "FROM busybox\n", "FROM busybox\nWORKDIR /a/b\n")):
        context = write(tmp_path / str(number), {"Dockerfile": text, "foo": "foo"})
        assert builder.digest(context, *flags) == other.digest(context, *flags)
