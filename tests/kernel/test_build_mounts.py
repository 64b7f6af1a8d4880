"""What RUN mounts, on the real kernel. The first cases are BuildKit's own (``dockerfile_{mount,secrets,ssh}_test.go``), told again."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from contain.build.execute import build
from contain.build.request import BuildHost, BuildRequest, BuildResult
from contain.build.run.options import RunOptions, SecretSource, SshSource
from contain.errors import BuildStepFailed, ContainError, NotFound, UsageError
from contain.progress import Silent
from contain.registry.platform import host_platform
from contain.store import RootView, Store
from contain.store.cache_mounts import list_cache_mounts

BUSYBOX = Path("/bin/busybox")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
    pytest.mark.skipif(not BUSYBOX.exists(), reason="needs Debian's busybox-static at /bin/busybox"),
]
BASE = 'FROM scratch AS busybox\nCOPY busybox /bin/\nRUN ["/bin/busybox", "--install", "-s", "/bin"]\n'


class Output(Silent):
    def __init__(self) -> None:
        self.text = ""
        self.notes: list[str] = []

    def log(self, text: str) -> None:
        self.text += text

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, title: str) -> None:
        self.notes.append(title)


@pytest.fixture
def context(context: Path) -> Path:
    shutil.copy(BUSYBOX, context / "busybox")
    return context


def run_build(
    text: str,
    context: Path,
    store: Store,
    *,
    output: Output | None = None,
    build_args: dict[str, str] | None = None,
    no_cache: bool = False,
    **options: Any,
) -> BuildResult:
    request = BuildRequest(
        context=context,
        dockerfile_text=BASE + text,
        build_args=build_args or {},
        no_cache=no_cache,
        run=RunOptions(**options),
    )
    return build(request, store=store, progress=output or Output(), host=BuildHost(platform=host_platform()))


def read(result: BuildResult, store: Store, path: str) -> str:
    with RootView(store.layer_trees(result.image)) as view:
        return view.read(path, limit_bytes=1 << 20).decode()


def paths_of_last_layer(result: BuildResult, store: Store) -> list[str]:
    with RootView([store.layer_tree(result.image.config.diff_ids[-1])]) as view:
        return [str(entry.path) for entry in view.walk()]


def layers(result: BuildResult) -> int:
    return len(result.image.config.diff_ids)


# -- BuildKit's cases -----------------------------------------------------------------------------------------------------------


def test_the_context_is_mounted_by_default(context: Path, store: Store) -> None:
    (context / "testfile").write_text("contents0")
    run_build('FROM busybox\nRUN --mount=target=/context [ "$(cat /context/testfile)" == "contents0" ]\n', context, store)


def test_a_memory_file_system_is_gone_after_the_step(context: Path, store: Store) -> None:
    result = run_build(
        "FROM busybox\nRUN --mount=target=/mytmp,type=tmpfs touch /mytmp/foo\nRUN [ ! -e /mytmp/foo ] && [ ! -e /mytmp ]\n",
        context,
        store,
    )
    assert layers(result) == 2


@pytest.mark.parametrize(
    "flag", ["--mont=target=/mytmp,type=tmpfs", "--mount=typ=tmpfs", "--mount=type=tmp", "--mount=target=/"]
)
def test_nonsense_is_refused(flag: str, context: Path, store: Store) -> None:
    with pytest.raises(UsageError):
        run_build(f"FROM busybox\nRUN {flag} /bin/true\n", context, store)


def test_a_writable_mount_of_a_stage_is_cached_by_content_and_keeps_nothing(context: Path, store: Store) -> None:
    text = """
from busybox AS build
copy cachebust /
run mkdir out && echo foo > out/foo

from busybox as second
RUN --mount=from=build,src=out,target=/out,rw touch /out/bar && ls /out > /names && cat /dev/urandom | head -c 100 | sha256sum > /unique

from scratch
COPY --from=second /unique /names /
COPY --from=build /out /out
"""
    (context / "cachebust").write_text("0")
    first = run_build(text, context, store)
    (context / "cachebust").write_text("1")
    second = run_build(text, context, store)
    assert read(first, store, "/unique") == read(second, store, "/unique")
    assert read(second, store, "/names") == "bar\nfoo\n"
    with RootView(store.layer_trees(second.image)) as view:
        assert view.listdir("/out") == ("foo",)


def test_a_cache_has_the_owner_and_mode_asked_for(context: Path, store: Store) -> None:
    run_build(
        "FROM busybox\nRUN --mount=type=cache,target=/mycache,uid=1001,gid=1002,mode=0751 "
        '[ "$(stat -c "%u %g %f" /mycache)" == "1001 1002 41e9" ]\n',
        context,
        store,
    )


def test_a_cache_is_known_by_its_target(context: Path, store: Store) -> None:
    text = """
FROM busybox
RUN --mount=type=cache,target=/mycache touch /mycache/foo
RUN --mount=type=cache,target=/mycache2 [ ! -f /mycache2/foo ]
RUN --mount=type=cache,target=/mycache [ -f /mycache/foo ]
"""
    assert layers(run_build(text, context, store)) == 2
    assert sorted(mount.id for mount in list_cache_mounts(store)) == ["/mycache", "/mycache2"]


def test_variables_expand_in_targets_types_and_ids(context: Path, store: Store) -> None:
    text = """
ARG META_PATH=/tmp/meta
FROM busybox AS stage1
ENV SOME_PATH=/mycache MNT_ID=mycache MNT_TYPE2=cache
ARG MNT_TYPE=cache
ARG META_PATH
RUN --mount=type=cache,target=/mycache touch /mycache/foo
RUN --mount=type=cache,target=$SOME_PATH [ -f $SOME_PATH/foo ]
RUN --mount=type=$MNT_TYPE,target=/mycache2 touch /mycache2/foo
RUN --mount=type=cache,target=/mycache2 [ -f /mycache2/foo ]
RUN --mount=type=cache,id=mycache,target=/abcabc touch /abcabc/foo
RUN --mount=type=$MNT_TYPE2,id=$MNT_ID,target=/cbacba [ -f /cbacba/foo ]
RUN --mount=type=cache,id=mycache,target=$META_PATH [ -f /tmp/meta/foo ]
FROM stage1
RUN --mount=type=$MNT_TYPE2,id=$MNT_ID,target=/whatever [ -f /whatever/foo ]
"""
    run_build(text, context, store)


def test_from_takes_no_variable_and_says_what_to_do(context: Path, store: Store) -> None:
    with pytest.raises(UsageError, match="'from' is not expanded") as caught:
        run_build("FROM busybox\nENV ttt=test\nRUN --mount=from=$ttt,type=cache,target=/tmp ls\n", context, store)
    assert "FROM $IMAGE AS name" in caught.value.remedy


def test_the_size_of_a_memory_file_system(context: Path, store: Store) -> None:
    text = "FROM busybox\nRUN --mount=type=tmpfs,target=/dev/shm,size=128m grep /dev/shm /proc/mounts > /size\n"
    last = read(run_build(text, context, store), store, "/size").splitlines()[-1]
    assert "size=131072k" in last


def test_programs_in_a_memory_file_system_can_be_started_and_a_read_only_one_stays_empty(context: Path, store: Store) -> None:
    text = """
FROM busybox
RUN --mount=type=tmpfs,target=/t cp /bin/busybox /t && /t/busybox true
RUN --mount=type=tmpfs,target=/t,ro ! touch /t/f
"""
    run_build(text, context, store)


def test_a_changed_file_of_one_mount_is_seen_beside_an_unchanged_one(context: Path, store: Store) -> None:
    text = """
FROM busybox
RUN --mount=source=.,target=/tmp/test --mount=source=b.txt,target=/tmp/b.txt cat /tmp/test/a.txt /tmp/b.txt > /combined.txt
"""
    (context / "b.txt").write_text("bar\n")
    for content in ("foo\n", "updated\n"):
        (context / "a.txt").write_text(content)
        assert read(run_build(text, context, store), store, "/combined.txt") == content + "bar\n"


def test_nested_caches_of_two_stages_side_by_side(context: Path, store: Store) -> None:
    text = """
FROM busybox AS b1
RUN --mount=type=cache,target=/foo/bar --mount=type=cache,target=/foo/bar/baz echo 1 > /1
FROM busybox AS b2
RUN --mount=type=cache,target=/foo/bar --mount=type=cache,target=/foo/bar/baz echo 2 > /2
FROM scratch
COPY --from=b1 /1 p1
COPY --from=b2 /2 p2
"""
    for _ in range(3):
        result = run_build(text, context, store, no_cache=True)
        assert read(result, store, "/p1") + read(result, store, "/p2") == "1\n2\n"


def test_a_cache_s_source_never_leads_out_of_the_cache(context: Path, store: Store) -> None:
    text = """
FROM busybox AS init
RUN --mount=type=cache,id=sourceescape,target=/cache mkdir -p /cache/sel && echo benign > /cache/sel/benign.txt
FROM init AS link
RUN --mount=type=cache,id=sourceescape,target=/cache rm -rf /cache/sel && ln -s /etc /cache/sel
FROM link AS victim
RUN --mount=type=cache,id=sourceescape,source=sel,target=/victim cat /victim/hostname
"""
    with pytest.raises(UsageError, match="not a directory of the cache"):
        run_build(text, context, store)


def test_a_secret_s_file_has_the_owner_and_mode_asked_for_and_leaves_no_stub(
    context: Path, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "pw").write_text("pw")
    text = """
FROM busybox
RUN --mount=type=secret,required=false,mode=741,uid=100,gid=102,target=/mysecret \
    [ "$(stat -c "%u %g %f" /mysecret)" = "100 102 81e1" ] && [ "$(cat /mysecret)" = pw ]
RUN [ ! -f /mysecret ]
"""
    secrets = {"mysecret": SecretSource(id="mysecret", path=str(tmp_path / "pw"))}
    assert layers(run_build(text, context, store, secrets=secrets)) == 2


def test_a_required_secret_that_is_missing_stops_the_build_and_another_is_left_out(context: Path, store: Store) -> None:
    with pytest.raises(UsageError, match="'mysecret' is required") as caught:
        run_build("FROM busybox\nRUN --mount=type=secret,required,id=mysecret foo\n", context, store)
    assert caught.value.code == "secret-not-given"
    assert "--secret id=mysecret,src=FILE" in caught.value.remedy
    run_build("FROM busybox\nRUN --mount=type=secret,id=mysecret [ ! -e /run/secrets/mysecret ]\n", context, store)


@pytest.mark.parametrize(
    ("mount", "test"),
    [
        ("env=SECRET_ENV", '[ "$SECRET_ENV" == "pass word" ] && [ ! -e /run/secrets/mysecret ]'),
        ("env=SECRET_ENV,target=/run/secrets/s", '[ "$SECRET_ENV" == "pass word" ] && [ -f /run/secrets/s ]'),
    ],
)
def test_a_secret_as_a_variable_beats_env(mount: str, test: str, context: Path, store: Store, monkeypatch: Any) -> None:
    monkeypatch.setenv("PW", "pass word")
    text = f"FROM busybox\nENV SECRET_ENV=foo\nRUN --mount=type=secret,id=mysecret,{mount} {test} || false\n"
    result = run_build(text, context, store, secrets={"mysecret": SecretSource(id="mysecret", variable="PW")})
    assert ("SECRET_ENV", "foo") in result.image.config.environment


# -- secrets --------------------------------------------------------------------------------------------------------------------


def test_a_secret_is_in_no_file_of_the_store_no_history_no_key_and_no_log(context: Path, store: Store, tmp_path: Path) -> None:
    secret = "correct-horse-battery"
    (tmp_path / "secret").write_text(secret)
    output = Output()
    text = """
FROM busybox
RUN --mount=type=secret,id=s,env=S,target=/run/secrets/s \\
    cat /run/secrets/s; echo $S; echo done > /done; printf correct-; sleep 0.1; echo horse-battery
"""
    result = run_build(text, context, store, output=output, secrets={"s": SecretSource(id="s", path=str(tmp_path / "secret"))})
    assert output.text.replace("stage-1 | ", "") == "********\n****\n"
    assert secret not in str(result.image.config)
    for directory, _, files in os.walk(store.home):
        for name in files:
            assert secret.encode() not in Path(directory, name).read_bytes(), name
    # another value of the same secret is no reason to do it again
    (tmp_path / "secret").write_text("another-value")
    again = run_build(text, context, store, secrets={"s": SecretSource(id="s", path=str(tmp_path / "secret"))})
    assert again.executed_steps == 0


def test_a_secret_hides_nothing_of_its_directory_and_follows_the_image_s_links(
    context: Path, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "s").write_text("value")
    text = """
FROM busybox
RUN mkdir -p /root/.aws /real && echo c > /root/.aws/config && ln -s /real /link && ln -s /nowhere/deep /dangling
RUN --mount=type=secret,id=s,target=/root/.aws/credentials cat /root/.aws/config /root/.aws/credentials > /one
RUN --mount=type=secret,id=s,target=/link/s cat /real/s > /two
RUN --mount=type=secret,id=s,target=/dangling cat /nowhere/deep > /three
RUN ls -A /root/.aws /real > /names; [ ! -e /nowhere ]
"""
    result = run_build(text, context, store, secrets={"s": SecretSource(id="s", path=str(tmp_path / "s"))})
    assert read(result, store, "/one") == "c\nvalue"
    assert read(result, store, "/two") == "value"
    assert read(result, store, "/three") == "value"
    assert read(result, store, "/names") == "/real:\n\n/root/.aws:\nconfig\n"


def test_a_secret_that_cannot_be_read_or_is_too_large_says_so(context: Path, store: Store, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(600 << 10))
    for source, message in (
        (SecretSource(id="s", path=str(tmp_path / "absent")), "No such file"),
        (SecretSource(id="s", path=str(tmp_path / "large")), "larger than 500 KiB"),
        (SecretSource(id="s", variable="SURELY_NOT_SET"), "is not set"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            run_build("FROM busybox\nRUN --mount=type=secret,id=s true\n", context, store, secrets={"s": source})
        assert caught.value.code == "secret-unreadable"


# -- bind -----------------------------------------------------------------------------------------------------------------------


def test_what_the_context_ignores_is_not_mounted_and_modes_are_portable(context: Path, store: Store) -> None:
    (context / ".dockerignore").write_text("hidden\n")
    (context / "hidden").write_text("h")
    (context / "script").write_text("#!/bin/sh\n")
    (context / "script").chmod(0o700)
    text = "FROM busybox\nRUN --mount=target=/c ls -A /c > /names; stat -c '%a %u %Y' /c/script /c > /stat\n"
    result = run_build(text, context, store)
    assert "hidden" not in read(result, store, "/names").split()
    assert read(result, store, "/stat") == "755 0 946684800\n755 0 946684800\n"


def test_a_mount_cannot_be_written_unless_rw_and_then_nothing_is_kept(context: Path, store: Store) -> None:
    (context / "d").mkdir()
    (context / "d" / "f").write_text("f\n")
    with pytest.raises(BuildStepFailed) as caught:
        run_build("FROM busybox\nRUN --mount=source=d,target=/d echo x > /d/g\n", context, store)
    assert "Read-only" in caught.value.log_tail
    with pytest.raises(BuildStepFailed):
        run_build("FROM busybox\nRUN --mount=from=busybox,target=/d echo x > /d/g\n", context, store)
    text = """
FROM busybox
RUN --mount=source=d,target=/d,rw --mount=source=d/f,target=/single,rw echo x >> /d/f && echo y >> /single && cat /d/f /single > /out
"""
    assert read(run_build(text, context, store), store, "/out") == "f\nx\nf\ny\n"
    assert (context / "d" / "f").read_text() == "f\n"


def test_a_stage_s_layers_are_seen_merged(context: Path, store: Store) -> None:
    text = """
FROM busybox AS src
RUN mkdir -p /d/sub && echo 1 > /d/gone && echo 2 > /d/kept && echo 3 > /d/sub/old && ln -s d /link
RUN rm /d/gone && rm -r /d/sub && mkdir /d/sub && echo 4 > /d/sub/new
FROM busybox
RUN --mount=from=src,source=/link,target=/m (cd /m && find . | sort) > /tree
RUN --mount=from=src,source=d/sub/new,target=/file cat /file > /file-content
RUN --mount=from=src,target=/all cat /all/d/kept > /whole
"""
    result = run_build(text, context, store)
    assert read(result, store, "/tree") == ".\n./kept\n./sub\n./sub/new\n"
    assert read(result, store, "/file-content") == "4\n"
    assert read(result, store, "/whole") == "2\n"


def test_only_the_part_of_a_stage_that_is_mounted_counts(context: Path, store: Store) -> None:
    text = """
FROM busybox AS src
COPY n /n
RUN mkdir -p /d && echo 1 > /d/f && cp /n /other
FROM busybox
RUN --mount=from=src,source=/d,target=/m cat /m/f > /f
"""
    (context / "n").write_text("1")
    run_build(text, context, store)
    (context / "n").write_text("2")
    assert run_build(text, context, store).executed_steps == 2  # COPY and RUN of src


def test_an_image_is_mounted_by_its_name(context: Path, store: Store) -> None:
    from contain.reference import parse_reference

    request = BuildRequest(
        context=context, dockerfile_text="FROM scratch\nCOPY <<A /a\nfrom the image\nA\n", tags=(parse_reference("tools"),)
    )
    build(request, store=store, progress=Output(), host=BuildHost(platform=host_platform()))
    result = run_build("FROM busybox\nRUN --mount=from=tools,target=/t cat /t/a > /out\n", context, store)
    assert read(result, store, "/out") == "from the image\n"


def test_a_source_that_is_not_there_is_named_with_a_near_one(context: Path, store: Store) -> None:
    (context / "requirements.txt").write_text("x")
    with pytest.raises(NotFound, match=r"'requirement\.txt' is not in the build context") as caught:
        run_build("FROM busybox\nRUN --mount=source=requirement.txt,target=/r cat /r\n", context, store)
    assert caught.value.code == "mount-source-not-found"
    assert "requirements.txt" in caught.value.remedy


def test_a_directory_for_a_file_of_the_image_is_refused(context: Path, store: Store) -> None:
    for flag in ("type=tmpfs,target=/bin/busybox", "source=busybox,target=/bin"):
        with pytest.raises(UsageError) as caught:
            run_build(f"FROM busybox\nRUN --mount={flag} true\n", context, store)
        assert caught.value.code == "mount-target-kind"


@pytest.mark.machine
def test_a_directory_of_this_machine_s_root_is_mounted_and_the_whole_of_it_is_refused(context: Path, store: Store) -> None:
    text = "FROM host AS machine\nFROM busybox\nRUN --mount=from=machine,source={},target=/m cat /m/hostname > /out\n"
    assert read(run_build(text.format("/etc"), context, store), store, "/out") == Path("/etc/hostname").read_text()
    with pytest.raises(UsageError) as caught:
        run_build(text.format("/"), context, store)
    assert caught.value.code == "mount-of-host-root"


def test_a_user_without_privileges_reads_a_secret_of_its_own_only(context: Path, store: Store, tmp_path: Path) -> None:
    (tmp_path / "s").write_text("value")
    text = """
FROM busybox
USER 1000:1000
RUN --mount=type=secret,id=s,uid=1000,target=/mine --mount=type=secret,id=s,target=/roots \\
    [ $(cat /mine) = value ] && ! cat /roots && ! chmod 777 /mine
"""
    run_build(text, context, store, secrets={"s": SecretSource(id="s", path=str(tmp_path / "s"))})


def test_a_mount_inside_a_read_only_one_needs_a_name_there(context: Path, store: Store) -> None:
    (context / "src" / "node_modules").mkdir(parents=True)
    cache = "--mount=type=cache,target=/src/{}"
    text = f"FROM busybox\nRUN --mount=source=src,target=/src{{}} {cache} touch /src/{{}}/f\n"
    run_build(text.format("", "node_modules", "node_modules"), context, store)
    with pytest.raises(UsageError) as caught:
        run_build(text.format("", "other", "other"), context, store)
    assert caught.value.code == "mount-inside-mount"
    run_build(text.format(",rw", "other", "other"), context, store)


# -- mount points ---------------------------------------------------------------------------------------------------------------


def test_mount_points_and_their_parents_leave_nothing_in_the_layer(context: Path, store: Store) -> None:
    text = """
FROM busybox
WORKDIR /work
RUN mkdir -p /was/there /existing /target && ln -s /target /ln && ln -s /void/x/y /dangling
RUN rm -rf /was && rm -r /existing && mkdir /existing
RUN --mount=type=tmpfs,target=/new/deep/place --mount=type=tmpfs,target=relative/dir --mount=type=cache,target=/was/there \
    --mount=type=tmpfs,target=/existing/sub --mount=type=tmpfs,target=/ln/sub --mount=type=tmpfs,target=/dangling \
    --mount=source=busybox,target=/was/file --mount=type=tmpfs,target=/target \
    touch /new/deep/place/f relative/dir/f /was/there/f /existing/sub/f /dangling/f && echo x > /proof && \
    [ -s /was/file ] && touch /new/deep/f && rm /new/deep/f
"""
    result = run_build(text, context, store)
    assert paths_of_last_layer(result, store) == ["/", "/proof"]


def test_what_a_step_writes_beside_a_mount_point_is_kept(context: Path, store: Store) -> None:
    result = run_build("FROM busybox\nRUN --mount=type=tmpfs,target=/a/b/c echo x > /a/b/f\n", context, store)
    assert paths_of_last_layer(result, store) == ["/", "/a", "/a/b", "/a/b/f"]


def test_a_directory_renamed_below_a_mount_point_leads_no_removal_astray(context: Path, store: Store, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (victim / "b").mkdir(parents=True)
    # a mount point whose name the image removed is made in the layer, where a directory above it can be renamed
    text = f"""
FROM busybox
RUN mkdir -p /a/b
RUN rm -r /a
RUN --mount=type=tmpfs,target=/a/b mv /a /moved && ln -s {victim} /a
"""
    run_build(text, context, store)
    assert (victim / "b").is_dir()


# -- caches ---------------------------------------------------------------------------------------------------------------------


def test_a_cache_is_in_no_layer_survives_builds_and_is_no_part_of_the_key(context: Path, store: Store) -> None:
    text = "FROM busybox\nRUN --mount=type=cache,target=/c {extra}echo x >> /c/log; wc -l < /c/log > /count\n"
    first = run_build(text.format(extra=""), context, store)
    assert read(first, store, "/count").strip() == "1"
    assert paths_of_last_layer(first, store) == ["/", "/count"]
    assert run_build(text.format(extra=""), context, store).executed_steps == 0
    assert run_build(text.format(extra="").replace("target=/c", "target=/c,id=other"), context, store).executed_steps == 0
    again = run_build(text.format(extra=""), context, store, no_cache=True)
    assert read(again, store, "/count").strip() == "2"


def test_a_cache_begins_with_what_from_names_and_reads_only_where_ro(context: Path, store: Store) -> None:
    text = """
FROM busybox AS seed
RUN mkdir /s && echo seed > /s/f
FROM busybox
RUN --mount=type=cache,target=/c,from=seed,source=/s cat /c/f > /one && echo more >> /c/f
RUN --mount=type=cache,target=/c,from=seed,source=/s,ro cat /c/f > /two; ! touch /c/g
"""
    result = run_build(text, context, store)
    assert read(result, store, "/one") == "seed\n"
    assert read(result, store, "/two") == "seed\nmore\n"


def test_name_spaces_keep_caches_apart(context: Path, store: Store) -> None:
    text = "FROM busybox\nRUN --mount=type=cache,target=/c echo x >> /c/log; wc -l < /c/log > /count\n"
    for name in ("one", "two"):
        result = run_build(text, context, store, no_cache=True, build_args={"BUILDKIT_CACHE_MOUNT_NS": name})
        assert read(result, store, "/count").strip() == "1"


def test_one_locked_cache_at_two_places_of_one_step(context: Path, store: Store) -> None:
    mounts = "--mount=type=cache,id=x,target=/a,sharing=locked --mount=type=cache,id=x,target=/b,sharing=locked"
    text = f"FROM busybox\nRUN {mounts} touch /a/f && ls /b > /o\n"
    assert read(run_build(text, context, store), store, "/o") == "f\n"


# -- side by side ---------------------------------------------------------------------------------------------------------------

_MEET = "touch /c/{mine}; for i in $(seq 200); do [ -e /c/{other} ] && echo met > /out && exit 0; sleep 0.05; done; exit 9"


def test_two_stages_meet_each_other_in_a_shared_cache(context: Path, store: Store) -> None:
    text = f"""
FROM busybox AS a
RUN --mount=type=cache,id=meet,target=/c {_MEET.format(mine="a", other="b")}
FROM busybox AS b
RUN --mount=type=cache,id=meet,target=/c {_MEET.format(mine="b", other="a")}
FROM scratch
COPY --from=a /out /a
COPY --from=b /out /b
"""
    result = run_build(text, context, store)
    assert read(result, store, "/a") + read(result, store, "/b") == "met\nmet\n"


def test_a_locked_cache_keeps_two_stages_apart_and_nothing_locks_up(context: Path, store: Store) -> None:
    step = "[ ! -e /c/busy ] && touch /c/busy && sleep 0.3 && rm /c/busy && echo ok > /out"
    text = f"""
FROM busybox AS a
RUN --mount=type=cache,id=one,target=/c,sharing=locked --mount=type=cache,id=two,target=/d,sharing=locked {step}
FROM busybox AS b
RUN --mount=type=cache,id=two,target=/d,sharing=locked --mount=type=cache,id=one,target=/c,sharing=locked {step} ; cat /out
FROM scratch
COPY --from=a /out /a
COPY --from=b /out /b
"""
    output = Output()
    result = run_build(text, context, store, output=output)
    assert read(result, store, "/a") + read(result, store, "/b") == "ok\nok\n"
    assert any("in use; waiting for it" in note for note in output.notes)


def test_private_caches_of_two_stages_are_two(context: Path, store: Store) -> None:
    step = "echo x >> /c/log; sleep 0.3; wc -l < /c/log > /out"
    text = f"""
FROM busybox AS a
RUN --mount=type=cache,id=one,target=/c,sharing=private {step}
FROM busybox AS b
RUN --mount=type=cache,id=one,target=/c,sharing=private {step} ; true
FROM scratch
COPY --from=a /out /a
COPY --from=b /out /b
"""
    result = run_build(text, context, store)
    assert read(result, store, "/a").strip() + read(result, store, "/b").strip() == "11"
    assert len(list_cache_mounts(store)) == 2


def test_a_step_that_fails_lets_go_of_its_cache(context: Path, store: Store) -> None:
    with pytest.raises(BuildStepFailed):
        run_build("FROM busybox\nRUN --mount=type=cache,target=/c,sharing=locked echo x > /c/f; false\n", context, store)
    (mount,) = list_cache_mounts(store)
    assert not mount.in_use
    run_build("FROM busybox\nRUN --mount=type=cache,target=/c,sharing=locked cat /c/f\n", context, store)


# -- ssh ------------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def answering_agent(place: Path, seen: list[bytes]) -> Iterator[None]:
    """An agent that answers the first message with no identities (SSH_AGENT_IDENTITIES_ANSWER, 12)."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(place))
    listener.listen()

    def answer() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                while message := client.recv(100):
                    seen.append(message)
                    client.sendall(b"\0\0\0\5\x0c\0\0\0\0")

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # a thread that waits in accept(2) would not see that it is closed
        thread.join()
        listener.close()


@pytest.fixture
def agent_directory() -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="agent") as directory:  # a socket's path is short
        yield Path(directory)


ASK = """
import os, socket
for request in (b"\\0\\0\\0\\1\\x0b", b"\\0\\0\\0\\1\\x13"):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(os.environ["SSH_AUTH_SOCK"])
        client.sendall(request)
        print(client.recv(9).hex())
"""


def test_an_agent_s_socket_has_the_owner_and_mode_wanted_and_leaves_nothing(
    context: Path, store: Store, agent_directory: Path
) -> None:
    with answering_agent(agent_directory / "s", []):
        text = """
FROM busybox
RUN --mount=type=ssh,mode=741,uid=100,gid=102 [ "$(stat -c "%u %g %f" $SSH_AUTH_SOCK)" = "100 102 c1e1" ] && \\
    [ $SSH_AUTH_SOCK = /run/buildkit/ssh_agent.0 ]
RUN --mount=type=ssh,target=/one --mount=type=ssh [ -S /one ] && [ -S /run/buildkit/ssh_agent.1 ] && [ $SSH_AUTH_SOCK = /one ]
RUN [ ! -e /run ] && [ -z "$SSH_AUTH_SOCK" ]
"""
        ssh = {"default": SshSource(id="default", paths=(str(agent_directory / "s"),))}
        assert layers(run_build(text, context, store, ssh=ssh)) == 2


def build_on_this_machine(text: str, context: Path, store: Store, **options: Any) -> str:
    """What a step prints whose base is this machine's own root: it has a Python, which can talk to sockets."""
    if Path("/dev/shm").stat().st_dev == Path("/").stat().st_dev or not Path("/usr/bin/python3").exists():
        pytest.skip("needs a memory file system at /dev/shm and a Python at /usr/bin")
    output = Output()
    request = BuildRequest(context=context, dockerfile_text=text, run=RunOptions(**options), no_cache=True)
    try:
        build(request, store=store, progress=output, host=BuildHost(platform=host_platform()))
    except BuildStepFailed as error:
        pytest.fail(error.log_tail)
    return output.text


def test_an_agent_is_asked_for_keys_and_nothing_that_would_change_it(
    context: Path, store: Store, agent_directory: Path
) -> None:
    seen: list[bytes] = []
    with answering_agent(agent_directory / "s", seen):
        ssh = {"default": SshSource(id="default", paths=(str(agent_directory / "s"),))}
        text = f"FROM host\nRUN --mount=type=ssh python3 <<EOF\n{ASK}\nEOF\n"
        assert build_on_this_machine(text, context, store, ssh=ssh).split() == ["000000050c00000000", "0000000105"]
        assert seen[0] == b"\0\0\0\1\x0b"
        assert not any(b"\x13" in message for message in seen)


@pytest.mark.skipif(shutil.which("ssh-keygen") is None or shutil.which("ssh-agent") is None, reason="needs OpenSSH's client")
def test_a_private_key_is_put_into_an_agent_of_the_build_s_own(context: Path, store: Store, agent_directory: Path) -> None:
    import subprocess

    key = agent_directory / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    text = f"FROM host\nRUN --mount=type=ssh,id=k,required python3 <<EOF\n{ASK}\nEOF\n"
    ssh = {"k": SshSource(id="k", paths=(str(key),))}
    first, refused = build_on_this_machine(text, context, store, ssh=ssh).split()
    assert first.endswith("0c00000001")  # one identity
    assert refused == "0000000105"
    key.write_text("no key")
    with pytest.raises(UsageError, match="cannot be used") as caught:
        build_on_this_machine(text, context, store, ssh=ssh)
    assert caught.value.code == "ssh-agent"


def test_a_required_agent_that_is_missing_stops_the_build_and_another_is_left_out(context: Path, store: Store) -> None:
    with pytest.raises(UsageError) as caught:
        run_build("FROM busybox\nRUN --mount=type=ssh,required true\n", context, store)
    assert caught.value.code == "ssh-not-given"
    run_build('FROM busybox\nRUN --mount=type=ssh [ -z "$SSH_AUTH_SOCK" ]\n', context, store)


# -- triggers -------------------------------------------------------------------------------------------------------------------


def test_a_mount_behind_onbuild_needs_its_stage(context: Path, store: Store) -> None:
    text = """
FROM busybox AS src
RUN echo 1 > /f
FROM busybox AS base
ONBUILD RUN --mount=from=src,target=/s cp /s/f /copied
FROM base
"""
    assert read(run_build(text, context, store), store, "/copied") == "1\n"


def test_a_secret_in_a_failed_step_is_not_in_the_error(context: Path, store: Store, tmp_path: Path) -> None:
    (tmp_path / "s").write_text("top-secret-value\n")
    with pytest.raises(ContainError) as caught:
        run_build(
            "FROM busybox\nRUN --mount=type=secret,id=s cat /run/secrets/s; false\n",
            context,
            store,
            secrets=MappingProxyType({"s": SecretSource(id="s", path=str(tmp_path / "s"))}),
        )
    assert isinstance(caught.value, BuildStepFailed)
    assert "top-secret" not in caught.value.log_tail + str(caught.value)
    assert "****" in caught.value.log_tail
