"""What BuildKit's own tests promise of an image's provenance, as far as that is not about fields of BuildKit's.

Every test names the BuildKit tests (``frontend/dockerfile/dockerfile_provenance_test.go``) that say the same in Go.
"""

from __future__ import annotations

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
BASE = 'FROM scratch\nCOPY busybox /bin/\nRUN ["/bin/busybox", "--install", "-s", "/bin"]\n'


def write(directory: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return directory


class Builder:
    """``contain build --provenance`` with a store of its own, in which busybox is an image."""

    def __init__(self, place: Path) -> None:
        self.home, self.document = place / "home", place / "provenance.json"
        shutil.copy(BUSYBOX, write(place / "base", {"Dockerfile": BASE}) / "busybox")
        self.base = self.run("-t", "busybox", str(place / "base"))

    def run(self, *arguments: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name not in ("CONTAIN_DEBUG", "SOURCE_DATE_EPOCH")}
        done = subprocess.run(
            [sys.executable, "-m", "contain.cli.start", "build", "-q", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            env={**environment, "CONTAIN_HOME": str(self.home), "LC_ALL": "C.UTF-8"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def provenance(self, context: str | Path, *flags: str) -> tuple[str, Any, str]:
        """The image's digest, the statement, and its text."""
        digest = self.run(*flags, f"--provenance={self.document}", str(context))
        text = self.document.read_text()
        return digest, json.loads(text), text


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(tmp_path_factory.mktemp("provenance"))


def dependencies(statement: Any) -> list[tuple[str, dict[str, str]]]:
    return [(row["uri"], row["digest"]) for row in statement["predicate"]["buildDefinition"]["resolvedDependencies"]]


def is_base(row: tuple[str, dict[str, str]], builder: Builder) -> bool:
    uri, digest = row
    return uri.startswith("pkg:docker/busybox@latest?platform=linux%2F") and digest == {
        "sha256": builder.base.partition(":")[2]
    }


def test_a_statement_names_the_image_its_base_and_its_dockerfile(builder: Builder, tmp_path: Path) -> None:
    """testProvenanceAttestation; arguments and labels by their digests only."""
    write(tmp_path, {"Dockerfile": 'FROM busybox:latest\nARG FOO\nRUN echo "ok" > /foo\n'})
    flags = ("--build-arg", "FOO=a-value-of-an-argument", "--label", "lbl=a-value-of-a-label")
    digest, statement, text = builder.provenance(tmp_path, *flags)
    assert (statement["_type"], statement["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )
    assert statement["subject"][0]["digest"] == {"sha256": digest.partition(":")[2]}
    (row,) = dependencies(statement)
    assert is_base(row, builder)
    parameters = statement["predicate"]["buildDefinition"]["externalParameters"]
    assert parameters["dockerfile"]["path"] == "Dockerfile"
    assert set(parameters["buildArgs"]) == {"FOO", "--label lbl"}
    assert "a-value-of" not in text
    assert not statement["predicate"]["runDetails"]["metadata"]["contain_reproducible"]


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Serves a directory's files on loopback: host and port."""
    running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(directory: Path) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(directory)))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return f"127.0.0.1:{server.server_port}"

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


def git(directory: Path, *arguments: str) -> str:
    environ = {"PATH": os.environ["PATH"], "HOME": str(directory), "GIT_CONFIG_NOSYSTEM": "1"}
    for role in ("AUTHOR", "COMMITTER"):
        environ |= {f"GIT_{role}_NAME": "t", f"GIT_{role}_EMAIL": "t@example.org", f"GIT_{role}_DATE": "2020-01-01T00:00:00Z"}
    done = subprocess.run(
        ["git", *arguments], cwd=directory, env=environ, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


@needs_git
@pytest.mark.parametrize("form", ["sha1", "sha256"])
def test_a_repository_is_named_with_its_commit_and_without_its_password(
    form: str, builder: Builder, tmp_path: Path, serve: Callable[[Path], str]
) -> None:
    """testGitProvenanceAttestation, testGitProvenanceAttestationSHA1, testGitProvenanceAttestationSHA256."""
    text = 'FROM busybox:latest\nRUN --network=none echo "git" > /foo\nCOPY myapp.Dockerfile /\n'
    repository = write(tmp_path / "repository", {"src/myapp.Dockerfile": text})
    git(repository, "init", "-q", f"--object-format={form}")
    git(repository, "add", "src/myapp.Dockerfile")
    git(repository, "commit", "-q", "-m", "initial")
    git(repository, "branch", "v1")
    git(repository, "update-server-info")
    commit = git(repository, "rev-parse", "v1")
    place = serve(repository)
    _, statement, shown = builder.provenance(f"http://user:pass-word@{place}/.git#v1:src", "-f", "myapp.Dockerfile")
    rows = dependencies(statement)
    assert len(rows) == 2
    (source,) = (row for row in rows if not is_base(row, builder))
    assert place in source[0]
    assert commit in source[1].values()
    assert "pass-word" not in shown
    assert statement["predicate"]["buildDefinition"]["externalParameters"]["dockerfile"]["path"] == "myapp.Dockerfile"
    assert statement["predicate"]["runDetails"]["metadata"]["contain_reproducible"]


@needs_git
def test_a_repository_as_a_named_context_is_named_with_its_commit(
    builder: Builder, tmp_path: Path, serve: Callable[[Path], str]
) -> None:
    repository = write(tmp_path / "repository", {"foo": "foo\n"})
    git(repository, "init", "-q")
    git(repository, "add", "foo")
    git(repository, "commit", "-q", "-m", "initial")
    git(repository, "update-server-info")
    context = write(tmp_path / "context", {"Dockerfile": "FROM scratch\nCOPY --from=source /foo /\n"})
    address = f"http://{serve(repository)}/.git"
    _, statement, _ = builder.provenance(context, "--build-context", f"source={address}")
    assert dependencies(statement) == [(f"git+{address}", {"gitCommit": git(repository, "rev-parse", "HEAD")})]


def test_an_image_of_a_layout_is_named_by_its_digest(builder: Builder, tmp_path: Path) -> None:
    """testOCILayoutProvenance."""
    first = write(tmp_path / "first", {"Dockerfile": "FROM scratch\nCOPY <<EOF /foo\nfoo\nEOF\n"})
    builder.run("-o", f"type=oci,dest={tmp_path / 'first.tar'}", str(first))
    with tarfile.open(tmp_path / "first.tar") as archive:
        archive.extractall(tmp_path / "layout", filter="data")
    (descriptor,) = json.loads((tmp_path / "layout/index.json").read_text())["manifests"]
    second = write(tmp_path / "second", {"Dockerfile": "FROM foo\nCOPY <<EOF /bar\nbar\nEOF\n"})
    place = f"foo=oci-layout://{tmp_path / 'layout'}@{descriptor['digest']}"
    _, statement, text = builder.provenance(second, "--build-context", place)
    assert dependencies(statement) == [("pkg:oci/foo", {"sha256": descriptor["digest"].partition(":")[2]})]
    assert str(tmp_path) not in text


def test_an_image_without_any_file_has_a_provenance(builder: Builder, tmp_path: Path) -> None:
    """testNilProvenance; testProvenanceExportLocal, where the document is where the flag says, and not among the files."""
    context = write(tmp_path / "context", {"Dockerfile": "FROM scratch\nENV FOO=bar\n"})
    for flags in ((), ("-o", str(tmp_path / "out")), ("-o", f"type=tar,dest={tmp_path / 'out.tar'}")):
        _, statement, _ = builder.provenance(context, *flags)
        assert dependencies(statement) == []
    assert list((tmp_path / "out").iterdir()) == []


def test_a_base_of_several_stages_is_named_once(builder: Builder, tmp_path: Path) -> None:
    """testDuplicateLayersProvenance."""
    text = (
        "FROM busybox:latest AS base\nFROM base AS a\nRUN date +%s > /a.txt\n"
        "FROM base AS b\nCOPY --from=a /a.txt /\nRUN date +%s > /b.txt\n"
    )
    write(tmp_path, {"Dockerfile": text})
    _, statement, _ = builder.provenance(tmp_path)
    (row,) = dependencies(statement)
    assert is_base(row, builder)


def test_a_secret_is_not_in_the_provenance(builder: Builder, tmp_path: Path) -> None:
    """testSecretSSHProvenance, where BuildKit lists the names that were asked for."""
    text = (
        "FROM busybox:latest\nRUN --mount=type=secret,id=mysecret --mount=type=ssh cat /run/secrets/mysecret | wc -c > /foo\n"
    )
    context = write(tmp_path / "context", {"Dockerfile": text})
    write(tmp_path, {"secret": "a very secret text"})
    _, _, shown = builder.provenance(context, "--secret", f"id=mysecret,src={tmp_path / 'secret'}")
    assert "a very secret text" not in shown
    assert str(tmp_path) not in shown
