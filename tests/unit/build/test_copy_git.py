from __future__ import annotations

import io
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from contain.build.contexts.opening import open_context
from contain.build.contexts.places import parse_context
from contain.build.fetch.git import fetch_git, resolve_git
from contain.build.fetch.git_reference import GitReference, parse_git_reference
from contain.build.run.special_arguments import keeps_git_directory
from contain.errors import HostError, IntegrityError, NotFound, RegistryError, UsageError
from contain.progress import Silent
from contain.store import Store

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs the program git")


def git(directory: Path, *arguments: str) -> str:
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z",
        "GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z",
    }
    for role in ("AUTHOR", "COMMITTER"):
        environ |= {f"GIT_{role}_NAME": "test", f"GIT_{role}_EMAIL": "test@example.org"}
    settings = ["-c", "init.defaultBranch=master", "-c", "protocol.file.allow=always"]
    done = subprocess.run(
        ["git", *settings, *arguments], cwd=directory, env=environ, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def commit(directory: Path, files: dict[str, str], tag: str = "") -> str:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(directory, "add", "-A")
    git(directory, "commit", "-q", "-m", tag or "more")
    if tag:
        git(directory, "tag", tag)
    return git(directory, "rev-parse", "HEAD")


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[Path], str]]:
    """Serves a directory's files on loopback: git's plainest protocol, which knows neither depth nor single commits."""
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


class Repository:
    def __init__(self, path: Path, serve: Callable[[Path], str]) -> None:
        module, self.path = path / "module", path / "repository"
        module.mkdir()
        git(module, "init", "-q")
        commit(module, {"file": "123\n"})
        git(module, "update-server-info")
        self.path.mkdir()
        git(self.path, "init", "-q")
        git(self.path, "submodule", "--quiet", "add", serve(module) + "/.git", "submod")
        self.first = commit(self.path, {"foo": "base\n", "run.sh": "#!/bin/sh\n"}, "v0.0.1")
        git(self.path, "branch", "base")
        git(self.path, "checkout", "-q", "-b", "feature")
        self.feature = commit(self.path, {"foo": "feature\n", "sub/foo": "subfeature\n"})
        git(self.path, "checkout", "-q", "master")
        self.second = commit(self.path, {"foo": "v0.0.2\n"}, "v0.0.2")
        git(self.path, "tag", "-a", "-m", "noted", "noted")
        self.latest = commit(self.path, {"foo": "latest\n"}, "latest")
        git(self.path, "update-server-info")
        self.url = serve(self.path) + "/.git"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, serve: Callable[[Path], str]) -> Repository:
    return Repository(tmp_path_factory.mktemp("git"), serve)


def reference(text: str) -> GitReference:
    found = parse_git_reference(text)
    assert found is not None
    return found


def fetched(text: str, scratch: Path, *, checksum: str = "", keep_git_dir: bool | None = None) -> Path:
    asked = reference(text)
    scratch.mkdir(exist_ok=True)
    return fetch_git(asked, resolve_git(asked, checksum=checksum), scratch, keep_git_dir=keep_git_dir)


@pytest.mark.parametrize(
    ("rest", "content"),
    [
        ("", "latest\n"),
        ("#v0.0.2", "v0.0.2\n"),
        ("?ref=base", "base\n"),
        ("?branch=base", "base\n"),
        ("?tag=v0.0.2#refs/tags/v0.0.2", "v0.0.2\n"),
        ("?commit=LATEST", "latest\n"),
        ("?commit=LATEST8", "latest\n"),
        ("?ref=SECOND", "v0.0.2\n"),
        ("#SECOND", "v0.0.2\n"),
        ("?tag=v0.0.2&commit=SECOND", "v0.0.2\n"),
        ("?ref=SECOND&commit=SECOND", "v0.0.2\n"),
        ("#feature:sub", "subfeature\n"),
        ("?subdir=sub&ref=feature", "subfeature\n"),
        ("?fetch-by-commit&commit=SECOND#refs/heads/gone", "v0.0.2\n"),
        ("#noted", "v0.0.2\n"),
    ],
)
def test_a_commit_is_found_by_branch_tag_or_name(repository: Repository, tmp_path: Path, rest: str, content: str) -> None:
    rest = (
        rest.replace("LATEST8", repository.latest[:8]).replace("LATEST", repository.latest).replace("SECOND", repository.second)
    )
    directory = fetched(repository.url + rest, tmp_path / "scratch")
    assert (directory / "foo").read_text() == content
    assert not (directory / ".git").exists()


@pytest.mark.parametrize(
    ("rest", "error", "message"),
    [
        ("?tag=v0.0.2&commit=LATEST", IntegrityError, "expected checksum to match"),
        ("?commit=SECOND8", IntegrityError, "expected checksum to match"),
        ("?ref=SECOND&commit=LATEST", IntegrityError, "expected checksum to match"),
        ("?branch=invalid", NotFound, "repository does not contain ref"),
        ("?branch=v0.0.2", NotFound, "repository does not contain ref"),
        ("?ref=SECOND8", NotFound, "repository does not contain ref"),
        ("?commit=foobar", UsageError, "expected hex commit hash"),
        ("#feature:nothing", NotFound, "has no directory 'nothing'"),
        ("#feature:foo", NotFound, "has no directory 'foo'"),
    ],
)
def test_what_is_not_there_or_not_right_is_named(
    repository: Repository, tmp_path: Path, rest: str, error: type[Exception], message: str
) -> None:
    for name, value in (("SECOND8", repository.second[:8]), ("SECOND", repository.second), ("LATEST", repository.latest)):
        rest = rest.replace(name, value)
    with pytest.raises(error, match=message):
        fetched(repository.url + rest, tmp_path / "scratch")


def test_submodules_come_along_unless_told_not_to(repository: Repository, tmp_path: Path) -> None:
    assert (fetched(repository.url, tmp_path / "one") / "submod/file").read_text() == "123\n"
    assert (fetched(repository.url + "?submodules", tmp_path / "two") / "submod/file").exists()
    assert not (fetched(repository.url + "?submodules=false", tmp_path / "three") / "submod/file").exists()
    assert not (tmp_path / "one/tree/submod/.git").exists()


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def test_a_kept_git_directory_is_a_clean_repository_and_the_same_each_time(repository: Repository, tmp_path: Path) -> None:
    url = repository.url + "?tag=v0.0.2&keep-git-dir"
    directory = fetched(url, tmp_path / "one")
    before = contents(directory)
    assert (directory / ".git/HEAD").read_text() == repository.second + "\n"
    assert git(directory, "rev-parse", "v0.0.2") == repository.second
    assert git(directory, "status", "--short") == ""
    assert git(directory, "log", "--oneline").count("\n") == 0
    assert contents(fetched(url, tmp_path / "two")) == before
    assert not (fetched(repository.url + "?keep-git-dir=false", tmp_path / "three") / ".git").exists()
    assert (fetched(repository.url, tmp_path / "four", keep_git_dir=True) / ".git/HEAD").exists()


def test_what_arrives_depends_on_neither_umask_nor_settings(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.gitconfig").write_text("[core]\n\tautocrlf = true\n\teol = crlf\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    before = os.umask(0o077)
    try:
        directory = fetched(repository.url, tmp_path / "scratch")
    finally:
        os.umask(before)
    assert (directory / "foo").read_bytes() == b"latest\n"
    assert (directory / "foo").stat().st_mode & 0o777 == 0o644


def test_a_whole_commit_is_not_asked_about(repository: Repository) -> None:
    absent = reference("https://127.0.0.1:1/x.git#" + repository.second)
    assert resolve_git(absent, checksum=repository.second[:7]).commit == repository.second
    with pytest.raises(IntegrityError):
        resolve_git(absent, checksum="0" * 7)


def test_a_repository_with_long_names_works(tmp_path: Path, serve: Callable[[Path], str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    git(source, "init", "-q", "--object-format=sha256")
    name = commit(source, {"foo": "foo of v1\n"}, "v1")
    git(source, "update-server-info")
    url = serve(source) + "/.git"
    asked = reference(url + "#v1")
    assert resolve_git(asked, checksum=name).commit == name
    # The plainest protocol cannot say which kind of names a repository has.
    assert resolve_git(reference(f"{url}#{name}")).commit == name


def test_a_link_in_a_repository_leads_nowhere_as_a_subdirectory(tmp_path: Path, serve: Callable[[Path], str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    git(source, "init", "-q")
    (source / "etc").symlink_to("/etc")
    commit(source, {"foo": "x"})
    git(source, "update-server-info")
    with pytest.raises(NotFound):
        fetched(serve(source) + "/.git#:etc", tmp_path / "scratch")


def test_what_git_says_is_in_the_error_and_the_password_is_not(tmp_path: Path) -> None:
    with pytest.raises(RegistryError) as caught:
        resolve_git(reference("http://me:secret@127.0.0.1:1/x.git"))
    assert caught.value.code == "git-failed"
    assert "secret" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


def test_a_machine_without_git_says_so(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        resolve_git(reference("https://127.0.0.1:1/x.git"), environ={"PATH": str(tmp_path)})
    assert caught.value.code == "git-missing"


@pytest.mark.parametrize(("value", "kept"), [(None, False), ("0", False), ("1", True), ("true", True)])
def test_a_context_keeps_its_git_directory_if_the_build_argument_says_so(
    repository: Repository, tmp_path: Path, value: str | None, kept: bool
) -> None:
    place = parse_context(repository.url)
    given = {} if value is None else {"BUILDKIT_CONTEXT_KEEP_GIT_DIR": value}
    with (
        Store.open(tmp_path / "store") as store,
        open_context(
            place, standard_input=io.BytesIO(), store=store, progress=Silent(), keep_git=keeps_git_directory(given)
        ) as opened,
    ):
        assert opened.directory is not None
        assert (opened.directory / ".git").exists() == kept
