"""COPY and ADD with their options, as whole builds: --link, --parents, --exclude, URLs, git repositories; and their cache keys."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from contain.build.execute import build
from contain.build.request import BuildHost, BuildRequest, BuildResult
from contain.errors import IntegrityError, NotFound, RegistryError, UsageError
from contain.oci import Platform
from contain.progress import Silent
from contain.store import RootView, Store

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="layers keep owners: needs root")]

LATE = BuildHost(platform=Platform(os="linux", architecture="amd64"), epoch_seconds=1_700_000_000)
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs the program git")


def write(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def run_build(text: str, context: Path, store: Store, **arguments: str) -> BuildResult:
    request = BuildRequest(context=context, dockerfile_text=text, build_args=arguments)
    return build(request, store=store, progress=Silent(), host=LATE)


def tree_of(result: BuildResult, store: Store) -> dict[str, str]:
    """Path -> ``MODE OWNER:GROUP content``."""
    found: dict[str, str] = {}
    with RootView(store.layer_trees(result.image)) as view:
        for entry in view.walk():
            content = "directory"
            if entry.kind.value == "file":
                content = view.read(entry.path, limit_bytes=1 << 20).decode("utf-8", "replace")
            elif entry.kind.value == "symlink":
                content = "-> " + entry.link_target
            found[str(entry.path)] = f"{entry.mode:o} {entry.uid}:{entry.gid} {content}"
    del found["/"]
    return found


class Pages:
    """A web server on loopback. ``asked``: method, path and status of each request."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[dict[str, str], bytes]] = {}
        self.asked: list[tuple[str, int]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers, body = outer.pages.get(self.path, ({}, b""))
                status = 200 if self.path in outer.pages else 404
                if "ETag" in headers and self.headers.get("If-None-Match") == headers["ETag"]:
                    status, body = 304, b""
                outer.asked.append((self.path, status))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if status != 304:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def serve(self, directory: Path) -> None:
        """All files of a directory, as git's plainest protocol wants them."""
        for path in directory.rglob("*"):
            if path.is_file():
                self.pages["/" + str(path.relative_to(directory))] = ({}, path.read_bytes())
                self.pages["/" + str(path.relative_to(directory)) + "?service=git-upload-pack"] = ({}, path.read_bytes())


@pytest.fixture
def pages() -> Iterator[Pages]:
    made = Pages()
    yield made
    made.close()


# -- --link ---------------------------------------------------------------------------------------------------------------------


def test_a_linked_layer_is_reused_on_another_base(context: Path, store: Store) -> None:
    write(context, {"a": "1", "app/x": "x"})

    def text(version: int, flag: str) -> str:
        return f"FROM scratch\nCOPY <<EOF /base\n{version}\nEOF\nCOPY {flag} app /app/\n"

    first, second = (run_build(text(version, "--link"), context, store) for version in (1, 2))
    assert first.image.config.diff_ids[0] != second.image.config.diff_ids[0]
    assert first.image.config.diff_ids[1] == second.image.config.diff_ids[1]
    assert (second.cached_steps, second.executed_steps) == (1, 1)
    assert run_build(text(3, "--link=false"), context, store).executed_steps == 2


def test_a_linked_copy_does_not_look_at_what_is_there(context: Path, store: Store) -> None:
    write(context, {"f": "1"})
    (context / "link").mkdir()
    (context / "link/bin").symlink_to("usr/bin")
    result = run_build("FROM scratch\nCOPY link /\nCOPY --link f /bin/\nCOPY --link f /etc/f\n", context, store)
    found = tree_of(result, store)
    assert found["/bin"] == "755 0:0 directory"
    assert found["/bin/f"] == "644 0:0 1"
    assert "/usr/bin/f" not in found
    follows = tree_of(run_build("FROM scratch\nCOPY link /\nCOPY f /bin/\n", context, store), store)
    assert follows["/bin"].endswith("-> usr/bin")
    assert follows["/usr/bin/f"] == "644 0:0 1"


def test_a_linked_copy_takes_owner_and_mode(context: Path, store: Store) -> None:
    write(context, {"etc/passwd": "app:x:70:71::/:/bin/sh\n", "etc/group": "", "f": "1"})
    text = "FROM scratch\nCOPY etc /etc/\nCOPY --link --chown=app --chmod=u=rwx,go= f /srv/f\n"
    found = tree_of(run_build(text, context, store), store)
    assert found["/srv/f"] == "700 70:71 1"
    assert found["/srv"] == "755 70:71 directory"
    # The name stands for another number now: another key.
    write(context, {"etc/passwd": "app:x:80:81::/:/bin/sh\n"})
    assert tree_of(run_build(text, context, store), store)["/srv/f"] == "700 80:81 1"


# -- --parents and --exclude --------------------------------------------------------------------------------------------------------


def test_parents_keep_the_owner_of_directories_that_are_there(context: Path, store: Store) -> None:
    write(context, {"etc/app/app.conf": "1", "etc/other": "2"})
    text = "FROM scratch\nCOPY --chown=5:6 <<EOF /etc/here\nEOF\nCOPY --parents --chown=1:2 etc/app/app.conf /\n"
    found = tree_of(run_build(text, context, store), store)
    assert found == {
        "/etc": "755 5:6 directory",
        "/etc/here": "644 5:6 ",
        "/etc/app": "755 1:2 directory",
        "/etc/app/app.conf": "644 1:2 1",
    }


def test_parents_and_exclude_and_link_work_together(context: Path, store: Store) -> None:
    write(
        context, {"src/a/one.py": "1", "src/a/one.txt": "t", "src/b/c/two.py": "2", "src/b/skip/three.py": "3", "top.py": "0"}
    )
    text = "FROM scratch\nCOPY --link --parents --exclude=**/skip --exclude=**/*.txt ./src/./**/*.py /out/\n"
    found = tree_of(run_build(text, context, store), store)
    assert [path for path, what in found.items() if not what.endswith("directory")] == ["/out/a/one.py", "/out/b/c/two.py"]
    assert "/out/b/skip" not in found


def test_an_exception_brings_back_what_is_below_an_excluded_directory(context: Path, store: Store) -> None:
    write(context, {"d/keep/x": "x", "d/keep/y": "y", "d/other/z": "z", "e": "e"})
    found = tree_of(run_build("FROM scratch\nCOPY --exclude=d --exclude=!d/keep/x . /out/\n", context, store), store)
    assert [path for path, what in found.items() if not what.endswith("directory")] == ["/out/d/keep/x", "/out/e"]


def test_files_that_a_wildcard_matches_can_be_excluded(context: Path, store: Store) -> None:
    write(context, {"home.txt": "", "home.md": "", "homework": "", "x": ""})
    found = tree_of(
        run_build("FROM scratch\nARG what=md\nCOPY --exclude=*.txt --exclude=*.$what hom* /out/\n", context, store), store
    )
    assert set(found) == {"/out", "/out/homework"}


def test_what_is_excluded_does_not_matter_and_the_patterns_do(context: Path, store: Store) -> None:
    write(context, {"d/a": "1", "d/b.log": "1"})
    text = "FROM scratch\nCOPY --exclude=*.log d /d/\n"
    run_build(text, context, store)
    write(context, {"d/b.log": "2"})
    assert run_build(text, context, store).cached_steps == 1
    assert run_build(text.replace(".log", ".lag"), context, store).executed_steps == 1


def test_a_bad_exclude_pattern_points_at_the_flag(context: Path, store: Store) -> None:
    with pytest.raises(UsageError) as caught:
        run_build("FROM scratch\nCOPY --exclude=[a . /\n", context, store)
    assert caught.value.code == "bad-pattern"
    assert caught.value.span is not None
    assert caught.value.span.line == 2


def test_parents_of_what_is_behind_a_link_say_why_it_is_not_found(context: Path, store: Store) -> None:
    write(context, {"real/f": "1"})
    (context / "link").symlink_to("real")
    with pytest.raises(NotFound, match="symbolic links on the way are not followed"):
        run_build("FROM scratch\nCOPY --parents link/f /\n", context, store)
    assert "/f" in tree_of(run_build("FROM scratch\nCOPY --parents link/./f /\n", context, store), store)


# -- URLs ---------------------------------------------------------------------------------------------------------------------------


def test_an_unchanged_url_is_one_question_and_a_hit(context: Path, store: Store, pages: Pages) -> None:
    pages.pages["/f"] = ({"ETag": '"1"', "Last-Modified": "Wed, 01 Jan 1997 00:00:00 GMT"}, b"one")
    text = f"FROM scratch\nADD {pages.url}/f /\n"
    first = run_build(text, context, store)
    assert tree_of(first, store) == {"/f": "600 0:0 one"}
    with RootView(store.layer_trees(first.image)) as view:
        entry = view.lookup("/f")
        assert entry is not None
        assert entry.mtime_ns == 852_076_800_000_000_000
    second = run_build(text, context, store)
    assert (second.digest, second.cached_steps) == (first.digest, 1)
    assert [status for _, status in pages.asked] == [200, 304]
    pages.pages["/f"] = ({"ETag": '"2"'}, b"two")
    assert tree_of(run_build(text, context, store), store) == {"/f": "600 0:0 two"}


def test_a_url_with_a_checksum_is_not_asked_again(context: Path, store: Store, pages: Pages) -> None:
    pages.pages["/f"] = ({}, b"one")
    text = (
        f"FROM scratch\nADD --checksum=sha256:{hashlib.sha256(b'one').hexdigest()} --chown=1:2 --chmod=u+x {pages.url}/f /d/\n"
    )
    assert tree_of(run_build(text, context, store), store)["/d/f"] == "700 1:2 one"
    pages.pages["/f"] = ({}, b"two")
    assert run_build(text, context, store).cached_steps == 1
    assert len(pages.asked) == 1
    pages.pages["/g"] = ({}, b"two")
    with pytest.raises(IntegrityError, match="digest mismatch"):
        run_build(text.replace("/f /d/", "/g /d/"), context, store)


def test_a_url_that_is_not_there_fails_the_step_with_its_place(context: Path, store: Store, pages: Pages) -> None:
    with pytest.raises(NotFound) as caught:
        run_build(f"FROM scratch\nADD {pages.url}/nope /\n", context, store)
    assert caught.value.code == "url-not-found"
    assert caught.value.span is not None
    assert caught.value.span.line == 2


def test_sources_of_all_kinds_come_in_order(context: Path, store: Store, pages: Pages) -> None:
    pages.pages["/a"] = ({}, b"from the web")
    write(context, {"a": "from here", "b": "b"})
    found = tree_of(run_build(f"FROM scratch\nADD a {pages.url}/a b /d/\n", context, store), store)
    assert found == {"/d": "755 0:0 directory", "/d/a": "600 0:0 from the web", "/d/b": "644 0:0 b"}


def test_a_password_in_a_url_is_not_in_the_history(context: Path, store: Store, pages: Pages) -> None:
    pages.pages["/a"] = ({}, b"1")
    result = run_build(f"FROM scratch\nADD {pages.url.replace('://', '://me:secret@')}/a /\n", context, store)
    assert "secret" not in str(result.image.config)


# -- git ----------------------------------------------------------------------------------------------------------------------------


def git(directory: Path, *arguments: str) -> str:
    environ = {"PATH": os.environ["PATH"], "HOME": str(directory), "GIT_CONFIG_NOSYSTEM": "1"}
    for role in ("AUTHOR", "COMMITTER"):
        environ |= {f"GIT_{role}_NAME": "t", f"GIT_{role}_EMAIL": "t@example.org", f"GIT_{role}_DATE": "2020-01-01T00:00:00Z"}
    done = subprocess.run(
        ["git", "-c", "init.defaultBranch=main", *arguments],
        cwd=directory,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, pages: Pages) -> tuple[str, str]:
    """Address and commit."""
    source = tmp_path / "repository"
    source.mkdir()
    git(source, "init", "-q")
    write(source, {"foo": "foo of v1\n", "sub/run.sh": "#!/bin/sh\n", "sub/notes.md": "notes"})
    (source / "sub/run.sh").chmod(0o755)
    git(source, "add", "-A")
    git(source, "commit", "-q", "-m", "one")
    git(source, "tag", "v1")
    git(source, "update-server-info")
    pages.serve(source)
    return f"{pages.url}/.git", git(source, "rev-parse", "HEAD")


@needs_git
def test_a_repository_is_added_without_history_and_the_same_everywhere(
    context: Path, store: Store, repository: tuple[str, str], tmp_path: Path
) -> None:
    url, _ = repository
    text = f"FROM scratch\nADD --chown=3:4 --exclude=**/*.md {url}#v1 /x\n"
    first = run_build(text, context, store)
    assert tree_of(first, store) == {
        "/x": "755 3:4 directory",
        "/x/foo": "644 3:4 foo of v1\n",
        "/x/sub": "755 3:4 directory",
        "/x/sub/run.sh": "755 3:4 #!/bin/sh\n",
    }
    before = os.umask(0o077)
    try:
        with Store.open(tmp_path / "other") as other:
            assert run_build(text, context, other).digest == first.digest
    finally:
        os.umask(before)
    assert (
        tree_of(run_build(f"FROM scratch\nADD {url}#:sub /y/\n", context, store), store)["/y/run.sh"] == "755 0:0 #!/bin/sh\n"
    )


@needs_git
def test_a_known_commit_is_not_fetched_again(context: Path, store: Store, repository: tuple[str, str], pages: Pages) -> None:
    url, commit = repository
    run_build(f"FROM scratch\nADD {url}#v1 /x\n", context, store)
    asked = len(pages.asked)
    assert run_build(f"FROM scratch\nADD --checksum={commit[:7]} {url}#v1 /x\n", context, store).cached_steps == 1
    assert not any("objects" in path for path, _ in pages.asked[asked:])
    asked = len(pages.asked)
    assert run_build(f"FROM scratch\nADD {url}#{commit} /x\n", context, store).cached_steps == 1
    assert len(pages.asked) == asked


@needs_git
def test_a_kept_git_directory_knows_its_commit(
    context: Path, store: Store, repository: tuple[str, str], tmp_path: Path
) -> None:
    url, commit = repository
    text = f"FROM scratch\nADD --keep-git-dir {url}#v1 /x\n"
    first = run_build(text, context, store)
    assert tree_of(first, store)["/x/.git/HEAD"].endswith(commit + "\n")
    with Store.open(tmp_path / "other") as other:
        assert run_build(text, context, other).digest == first.digest


@needs_git
@pytest.mark.parametrize(
    ("flags", "rest", "error", "message"),
    [
        ("--checksum=0000000", "#v1", IntegrityError, "expected checksum to match 0000000"),
        ("--checksum=foobar", "#v1", UsageError, "expected hex commit hash"),
        ("", "#v2", NotFound, "does not contain ref v2"),
        ("--keep-git-dir=true", "?keep-git-dir=false", UsageError, "say different things"),
        ("--checksum=0000000", "?commit=1111111", UsageError, "checksum mismatch"),
    ],
)
def test_a_repository_that_is_not_what_was_asked_for_is_an_error(
    context: Path, store: Store, repository: tuple[str, str], flags: str, rest: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run_build(f"FROM scratch\nADD {flags} {repository[0]}{rest} /x\n", context, store)


@needs_git
def test_a_repository_that_does_not_exist_is_told_in_git_s_words(context: Path, store: Store, pages: Pages) -> None:
    with pytest.raises(RegistryError, match="not found"):
        run_build(f"FROM scratch\nADD {pages.url}/nope.git /x\n", context, store)
