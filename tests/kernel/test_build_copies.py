from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from contain.build.bases import FoundBase
from contain.build.execute import build
from contain.build.request import BuildHost, BuildRequest, BuildResult
from contain.errors import ContainError, NotFound, NotSupported, UsageError
from contain.oci import Platform
from contain.progress import Progress
from contain.reference import Reference, parse_reference
from contain.store import RootView, Store

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="layers keep owners: needs root")]

HOST = BuildHost(platform=Platform(os="linux", architecture="amd64"))


class Recorder:
    def __init__(self) -> None:
        self.steps: list[str] = []
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.output: list[str] = []

    def step(self, title: str) -> None:
        self.steps.append(title)

    def log(self, text: str) -> None:
        self.output.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def amount(self, label: str, done: int, total: int | None) -> None:
        pass


def write(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def run_build(
    text: str,
    context: Path | None,
    store: Store,
    *,
    target: str | None = None,
    build_args: dict[str, str] | None = None,
    no_cache: bool = False,
    tags: tuple[Reference, ...] = (),
    progress: Recorder | None = None,
) -> BuildResult:
    request = BuildRequest(
        context=context, dockerfile_text=text, target=target, build_args=build_args or {}, no_cache=no_cache, tags=tags
    )
    return build(request, store=store, progress=progress or Recorder(), host=HOST)


def tree_of(result: BuildResult, store: Store) -> dict[str, str]:
    """Path -> ``kind mode owner content`` for everything but the root."""
    found: dict[str, str] = {}
    with RootView(store.layer_trees(result.image)) as view:
        for entry in view.walk():
            if str(entry.path) == "/":
                continue
            content = ""
            if entry.kind.value == "file":
                content = " " + view.read(entry.path, limit_bytes=1 << 20).decode("utf-8", "replace")
            elif entry.kind.value == "symlink":
                content = " -> " + entry.link_target
            mode = "" if entry.kind.value == "symlink" else f" {entry.mode:o}"
            found[str(entry.path)] = f"{entry.kind.value}{mode} {entry.uid}:{entry.gid}{content}"
    return found


def test_a_directory_is_copied_by_its_contents_and_a_file_into_a_directory(context: Path, store: Store) -> None:
    write(context, {"src/a.txt": "a", "src/deep/b.txt": "b", "one.txt": "1"})
    (context / "src/run.sh").write_text("#!/bin/sh\n")
    (context / "src/run.sh").chmod(0o700)
    result = run_build("FROM scratch\nCOPY src /app\nCOPY one.txt /app/\nCOPY one.txt /two.txt\n", context, store)
    assert tree_of(result, store) == {
        "/app": "directory 755 0:0",
        "/app/a.txt": "file 644 0:0 a",
        "/app/deep": "directory 755 0:0",
        "/app/deep/b.txt": "file 644 0:0 b",
        "/app/one.txt": "file 644 0:0 1",
        "/app/run.sh": "file 755 0:0 #!/bin/sh\n",
        "/two.txt": "file 644 0:0 1",
    }
    assert len(result.image.config.diff_ids) == 3
    assert [row.created_by for row in result.image.config.history] == [
        "COPY src /app",
        "COPY one.txt /app/",
        "COPY one.txt /two.txt",
    ]


def test_wildcards_match_names_and_an_empty_match_only_warns(context: Path, store: Store) -> None:
    write(context, {"a.py": "a", "b.py": "b", "c.txt": "c", ".hidden.py": "h"})
    progress = Recorder()
    result = run_build("FROM scratch\nCOPY *.py /x/\nCOPY *.none /y/\n", context, store, progress=progress)
    assert set(tree_of(result, store)) == {"/x", "/x/a.py", "/x/b.py", "/x/.hidden.py"}
    assert progress.warnings == ["COPY: nothing in the build context matches '*.none'"]


def test_links_named_as_sources_are_followed_inside_the_context_and_inner_links_stay_links(context: Path, store: Store) -> None:
    write(context, {"real/file": "x"})
    (context / "real/inner").symlink_to("file")
    (context / "link").symlink_to("real")
    (context / "absolute").symlink_to("/real/file")
    (context / "escape").symlink_to("../../../../../../etc/hostname")
    result = run_build("FROM scratch\nCOPY link /a\nCOPY absolute /b\n", context, store)
    assert tree_of(result, store) == {
        "/a": "directory 755 0:0",
        "/a/file": "file 644 0:0 x",
        "/a/inner": "symlink 0:0 -> file",
        "/b": "file 644 0:0 x",
    }
    with pytest.raises(NotFound):
        run_build("FROM scratch\nCOPY escape /c\n", context, store)


def test_dot_dot_in_a_source_stops_at_the_context(context: Path, store: Store) -> None:
    write(context, {"f": "x"})
    (context.parent / "outside").write_text("secret")
    with pytest.raises(NotFound, match="outside"):
        run_build("FROM scratch\nCOPY ../outside /\n", context, store)
    assert set(tree_of(run_build("FROM scratch\nCOPY ../f /\n", context, store), store)) == {"/f"}


def test_a_destination_link_of_the_image_is_followed_inside_the_image(context: Path, store: Store) -> None:
    write(context, {"f": "new", "tree/data/old": "o"})
    (context / "tree/link").symlink_to("/data")
    (context / "tree/out").symlink_to("../../../../data")
    text = "FROM scratch\nCOPY tree /\nCOPY f /link/\nCOPY f /out/second\n"
    found = tree_of(run_build(text, context, store), store)
    assert found["/data/f"] == "file 644 0:0 new"
    assert found["/data/second"] == "file 644 0:0 new"
    assert found["/link"] == "symlink 0:0 -> /data"


def test_dockerignore_hides_files_and_a_later_exception_brings_one_back(context: Path, store: Store) -> None:
    write(context, {"keep.txt": "k", "node_modules/a": "a", "node_modules/keep": "k", "x.log": "l"})
    write(context, {".dockerignore": "*.log\nnode_modules\n!node_modules/keep\n.dockerignore\n"})
    found = tree_of(run_build("FROM scratch\nCOPY . /\n", context, store), store)
    assert set(found) == {"/keep.txt", "/node_modules", "/node_modules/keep"}
    with pytest.raises(NotFound, match="dockerignore excludes it"):
        run_build("FROM scratch\nCOPY x.log /\n", context, store)


def test_the_ignore_file_named_after_the_dockerfile_wins(context: Path, store: Store) -> None:
    write(context, {"a": "a", "b": "b", "my.Dockerfile": "FROM scratch\nCOPY . /\n"})
    write(context, {".dockerignore": "a\n", "my.Dockerfile.dockerignore": "*\n!a\n"})
    request = BuildRequest(context=context, dockerfile=context / "my.Dockerfile")
    result = build(request, store=store, progress=Recorder(), host=HOST)
    assert set(tree_of(result, store)) == {"/a"}


def test_from_a_stage_owner_and_mode_are_kept_and_chown_replaces_them(context: Path, store: Store) -> None:
    write(context, {"f": "x", "etc/passwd": "app:x:1000:1001::/home/app:/bin/sh\n", "etc/group": "web:x:33:\n"})
    text = """
FROM scratch AS first
COPY etc /etc
COPY --chown=app --chmod=640 f /one
COPY --chown=12 f /two
COPY --chown=app:web --chmod=u=rwX,go= f /three
FROM scratch
COPY --from=first /one /two /three /kept/
COPY --from=0 --chown=7:8 /one /changed
"""
    found = tree_of(run_build(text, context, store), store)
    assert found == {
        "/kept": "directory 755 0:0",
        "/kept/one": "file 640 1000:1001 x",
        "/kept/two": "file 644 12:12 x",
        "/kept/three": "file 600 1000:33 x",
        "/changed": "file 640 7:8 x",
    }


def test_an_unknown_chown_name_points_at_the_flag(context: Path, store: Store) -> None:
    write(context, {"f": "x"})
    with pytest.raises(UsageError, match="no user 'nobody'") as caught:
        run_build("FROM scratch\nCOPY --chown=nobody f /\n", context, store)
    assert caught.value.span is not None
    assert caught.value.span.line == 2


def test_hard_links_inside_one_copy_stay_links(context: Path, store: Store) -> None:
    write(context, {"d/a": "same"})
    os.link(context / "d/a", context / "d/b")
    result = run_build("FROM scratch\nCOPY d /d\n", context, store)
    with RootView(store.layer_trees(result.image)) as view:
        first, second = view.lookup("/d/a"), view.lookup("/d/b")
        assert first is not None
        assert second is not None
        assert first.identity == second.identity


def test_heredocs_become_files_and_only_unquoted_ones_are_expanded(store: Store) -> None:
    text = """FROM scratch
ARG NAME=world
COPY <<one <<'two' /d/
hello $NAME
one
raw $NAME
two
COPY --chmod=755 <<run /run.sh
#!/bin/sh
run
"""
    assert tree_of(run_build(text, None, store), store) == {
        "/d": "directory 755 0:0",
        "/d/one": "file 644 0:0 hello world\n",
        "/d/two": "file 644 0:0 raw $NAME\n",
        "/run.sh": "file 755 0:0 #!/bin/sh\n",
    }


def test_add_unpacks_an_archive_by_content_and_copy_does_not(context: Path, store: Store) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, kind in (("dir", tarfile.DIRTYPE), ("dir/file", tarfile.REGTYPE), ("dir/link", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.uid, member.gid = kind, 0o750, 5, 6
            member.linkname = "dir/file" if kind == tarfile.LNKTYPE else ""
            member.size = 2 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"hi") if member.size else None)
    (context / "odd.name").write_bytes(gzip.compress(data.getvalue(), mtime=0))
    (context / "not.tar.gz").write_text("no archive")
    found = tree_of(run_build("FROM scratch\nADD odd.name not.tar.gz /x/\n", context, store), store)
    assert found == {
        "/x": "directory 755 0:0",
        "/x/dir": "directory 750 5:6",
        "/x/dir/file": "file 750 5:6 hi",
        "/x/dir/link": "file 750 5:6 hi",
        "/x/not.tar.gz": "file 644 0:0 no archive",
    }
    assert set(tree_of(run_build("FROM scratch\nCOPY odd.name /\n", context, store), store)) == {"/odd.name"}


def test_an_archive_cannot_write_outside_the_root(context: Path, store: Store) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        link = tarfile.TarInfo("up")
        link.type, link.linkname = tarfile.SYMTYPE, "../../../../../../../../tmp"
        archive.addfile(link)
        member = tarfile.TarInfo("up/contain-escaped")
        archive.addfile(member)
    (context / "a.tar").write_bytes(data.getvalue())
    found = tree_of(run_build("FROM scratch\nADD a.tar /\n", context, store), store)
    assert "/tmp/contain-escaped" in found
    assert not Path("/tmp/contain-escaped").exists()


def test_copying_a_file_onto_a_directory_and_a_directory_onto_a_file_are_errors(context: Path, store: Store) -> None:
    write(context, {"f": "x", "d/f/inner": "y", "e/f": "z"})
    with pytest.raises(UsageError, match="cannot replace directory"):
        run_build("FROM scratch\nCOPY d /d\nCOPY e /d\n", context, store)
    with pytest.raises(UsageError, match="cannot copy to non-directory"):
        run_build("FROM scratch\nCOPY f /d\nCOPY d /d\n", context, store)


def test_a_missing_source_names_what_was_meant(context: Path, store: Store) -> None:
    write(context, {"requirements.txt": "x"})
    with pytest.raises(NotFound, match=r"requirements\.txt") as caught:
        run_build("FROM scratch\nCOPY requirement.txt /\n", context, store)
    assert caught.value.span is not None


def test_umask_working_directory_times_and_store_do_not_change_the_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "FROM scratch AS a\nWORKDIR /w\nCOPY . .\nFROM scratch\nCOPY --from=a /w /w\nENV A=1\n"
    digests = set()
    for number, umask in enumerate((0o022, 0o002, 0o077)):
        previous = os.umask(umask)
        try:
            context = tmp_path / f"context{number}"
            context.mkdir()
            for name in ("b", "a", "c") if number else ("a", "b", "c"):
                (context / name).write_text(name)
                os.utime(context / name, (1_000_000 + number, 1_000_000 + number))
            (context / "x").write_text("x")
            (context / "x").chmod(0o755 & ~umask)
            monkeypatch.chdir(context)
            with Store.open(tmp_path / f"store{number}") as store:
                digests.add(run_build(text, context, store).digest)
        finally:
            os.umask(previous)
    assert len(digests) == 1


def test_the_second_build_executes_nothing_and_a_changed_file_only_what_depends_on_it(context: Path, store: Store) -> None:
    write(context, {"a": "1", "b": "1"})
    text = "FROM scratch\nCOPY a /a\nCOPY b /b\n"
    first = run_build(text, context, store)
    again = run_build(text, context, store)
    assert (first.executed_steps, again.executed_steps, again.cached_steps) == (2, 0, 2)
    assert first.digest == again.digest
    (context / "b").write_text("2")
    changed = run_build(text, context, store)
    assert (changed.executed_steps, changed.cached_steps) == (1, 1)
    assert changed.digest != first.digest
    (context / "b").write_text("1")
    (context / "b").chmod(0o600)
    assert run_build(text, context, store).digest == first.digest


def test_no_cache_executes_everything_and_gives_the_same_image(context: Path, store: Store) -> None:
    write(context, {"a": "1"})
    text = "FROM scratch\nCOPY a /a\n"
    first = run_build(text, context, store)
    second = run_build(text, context, store, no_cache=True)
    assert second.executed_steps == 1
    assert first.digest == second.digest


def test_only_the_stages_that_the_target_needs_are_built(context: Path, store: Store) -> None:
    write(context, {"a": "1"})
    text = "FROM scratch AS one\nCOPY a /one\nFROM scratch AS two\nCOPY missing /\nFROM one AS three\nCOPY a /three\n"
    result = run_build(text, context, store)
    assert set(tree_of(result, store)) == {"/one", "/three"}
    assert set(tree_of(run_build(text, context, store, target="one"), store)) == {"/one"}


def test_onbuild_runs_in_the_child_and_may_copy_from_a_stage(context: Path, store: Store) -> None:
    write(context, {"a": "1"})
    base = "FROM scratch\nONBUILD COPY a /from-trigger\nONBUILD COPY --from=helper /h /h\n"
    name = parse_reference("example.com/base:1")
    run_build(base, context, store, tags=(name,))
    child = "FROM scratch AS helper\nCOPY a /h\nFROM example.com/base:1\nCOPY a /own\n"
    result = run_build(child, context, store)
    assert set(tree_of(result, store)) == {"/from-trigger", "/h", "/own"}
    assert result.image.config.on_build == ()
    assert result.sources[0].source == "build"
    assert result.sources[0].local


def test_workdir_makes_what_is_missing_and_no_layer_for_what_is_there(store: Store) -> None:
    text = "FROM scratch\nCOPY <<passwd /etc/\nu:x:5:6::/:\npasswd\nUSER u\nWORKDIR /a/b\nWORKDIR /a\nWORKDIR ../a/b\n"
    result = run_build(text, None, store)
    found = tree_of(result, store)
    assert found["/a/b"] == "directory 755 5:6"
    assert len(result.image.config.diff_ids) == 2
    assert [row.empty_layer for row in result.image.config.history] == [False, True, False, True, True]
    assert result.image.config.working_directory == "/a/b"


def test_what_is_not_supported_is_refused_before_any_step(context: Path, store: Store) -> None:
    write(context, {"a": "1"})
    progress = Recorder()
    with pytest.raises(NotSupported, match="--device") as caught:
        run_build("FROM scratch\nCOPY a /\nRUN --device=x true\n", context, store, progress=progress)
    assert caught.value.span is not None
    assert caught.value.span.line == 3
    assert progress.steps == []


def test_a_failed_build_tags_nothing(context: Path, store: Store) -> None:
    name = parse_reference("example.com/app:1")
    with pytest.raises(ContainError):
        run_build("FROM scratch\nCOPY missing /\n", context, store, tags=(name,))
    assert store.name_source(name) is None


def test_an_unknown_image_that_resembles_a_stage_suggests_the_stage(context: Path, store: Store) -> None:
    def nothing(reference: Reference, platform: Platform, progress: Progress) -> FoundBase:
        raise NotFound(f"no image {reference.familiar}", code="base-not-found")

    request = BuildRequest(context=context, dockerfile_text="FROM scratch AS builder\nFROM scratch\nCOPY --from=bulder /x /\n")
    with pytest.raises(NotFound, match="did you mean the stage 'builder'") as caught:
        build(request, store=store, progress=Recorder(), host=HOST, bases=nothing)
    assert caught.value.span is not None
    assert (caught.value.span.line, caught.value.span.length) == (3, len("bulder"))


def test_an_ordinary_user_gets_the_digest_that_root_gets(context: Path, store: Store, tmp_path: Path) -> None:
    write(context, {"a": "1", "d/b": "2"})
    text = "FROM scratch AS one\nWORKDIR /w\nCOPY . .\nFROM scratch\nCOPY --from=one /w /again\n"
    expected = run_build(text, context, store).digest
    home = tmp_path / "ordinary"
    home.mkdir()
    os.chown(home, 12345, 12345)
    for directory in (tmp_path, *tmp_path.parents):
        if str(directory).startswith("/tmp/") and directory.stat().st_uid == 0:
            directory.chmod(directory.stat().st_mode | 0o055)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(12345, 12345, 12345)
            os.setresuid(12345, 12345, 12345)
            with Store.open(home / "store") as own:
                os.write(writing, run_build(text, context, own).digest.encode())
        except BaseException as error:  # the test's assertion shows it
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        assert answer.read() == expected
    os.waitpid(child, 0)


def test_names_that_are_not_text_are_copied_as_they_are(context: Path, store: Store) -> None:
    (context / os.fsdecode(b"odd-\xff")).write_text("x")
    result = run_build("FROM scratch\nCOPY . /\n", context, store)
    assert set(tree_of(result, store)) == {os.fsdecode(b"/odd-\xff")}
    assert run_build("FROM scratch\nCOPY . /\n", context, store).cached_steps == 1


def test_a_known_dockerfile_has_a_known_digest(context: Path, store: Store) -> None:
    """What differs here differs between machines or versions: raise `keys.VERSION` and say so in the change log."""
    write(context, {"src/a.txt": "a\n", "src/deep/b.txt": "b\n"})
    (context / "src/run").write_text("#!/bin/sh\n")
    (context / "src/run").chmod(0o755)
    (context / "src/link").symlink_to("a.txt")
    text = 'FROM scratch\nCOPY src /app\nCOPY --chown=5:6 --chmod=600 src/a.txt /b\nENV A=1\nCMD ["/app/run"]\n'
    assert run_build(text, context, store).digest == "sha256:ae83a138f579855bec7fcc08cb05be5fcb3e9433e55fa6ee3d6511050a8efb2d"


def test_workdir_follows_the_image_s_links_inside_the_image(context: Path, store: Store) -> None:
    (context / "link").symlink_to("/data")
    (context / "away").symlink_to("../../../../tmp/contain-workdir-away")
    result = run_build("FROM scratch\nCOPY . /\nWORKDIR /link/sub\nCOPY <<f .\nx\nf\nWORKDIR /away\n", context, store)
    found = tree_of(result, store)
    assert found["/data/sub/f"] == "file 644 0:0 x\n"
    assert found["/tmp/contain-workdir-away"] == "directory 755 0:0"
    assert not Path("/tmp/contain-workdir-away").exists()
