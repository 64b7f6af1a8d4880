"""Known ways in which a Dockerfile or its context reached the machine that builds it, tried on ours."""

from __future__ import annotations

import errno
import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from contain.build.execute import build
from contain.build.request import BuildHost, BuildRequest, BuildResult
from contain.build.run.options import RunOptions
from contain.errors import BuildStepFailed, Conflict, HostError, NotFound, UsageError
from contain.progress import Silent
from contain.registry.platform import host_platform
from contain.store import RootView, Store
from tests.security.attacks import flipping, untouched

BUSYBOX = Path("/bin/busybox")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
    pytest.mark.skipif(not BUSYBOX.exists(), reason="needs Debian's busybox-static at /bin/busybox"),
]
BASE = 'FROM scratch AS busybox\nCOPY busybox /bin/\nRUN ["/bin/busybox", "--install", "-s", "/bin"]\n'


@pytest.fixture
def context(context: Path) -> Path:
    shutil.copy(BUSYBOX, context / "busybox")
    return context


def run_build(text: str, context: Path, store: Store, *, no_cache: bool = False, **options: Any) -> BuildResult:
    run = RunOptions(**{"network": "none", **options})
    request = BuildRequest(context=context, dockerfile_text=BASE + text, build_args={}, no_cache=no_cache, run=run)
    return build(request, store=store, progress=Silent(), host=BuildHost(platform=host_platform()))


def holds(result: BuildResult, store: Store, secret: str) -> list[str]:
    """Paths of files of the image with a text in them."""
    with RootView(store.layer_trees(result.image)) as view:
        files = [entry for entry in view.walk() if entry.kind.value == "file" and entry.size < 1 << 16]
        return [str(entry.path) for entry in files if secret.encode() in view.read(entry.path, limit_bytes=1 << 20)]


def attempt(text: str, context: Path, store: Store, **options: Any) -> list[str]:
    """Where the canary's text is in what was built; nowhere if it was refused."""
    try:
        return holds(run_build(text, context, store, **options), store, "alive")
    except (UsageError, NotFound, Conflict, BuildStepFailed):  # nothing else: a machine that cannot build shows nothing, too
        return []
    except HostError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):  # a link, seen at the last moment
            raise
        return []


UP = "../" * 20


# -- 27: mounts of RUN ---------------------------------------------------------------------------------------------------------


def test_cve_2024_23651_a_cache_whose_directory_is_exchanged_for_a_link_shows_nothing_else(
    context: Path, store: Store, outside: Path
) -> None:
    run_build("FROM busybox\nRUN --mount=type=cache,id=x,target=/c mkdir /c/sel\n", context, store)
    (tree,) = (store.home / "cache-mounts").glob("*/tree")
    (tree / "link").symlink_to(outside)
    text = "FROM busybox\nRUN --mount=type=cache,id=x,source=sel,target=/c cat /c/canary > /out; touch /c/made; true\n"
    assert attempt(text, context, store) == []
    assert (tree / "sel/made").exists(), "the directory itself is mounted"
    found = []
    with flipping(tree / "sel", tree / "link"):
        for _ in range(30):
            found += attempt(text, context, store, no_cache=True)
    assert found == []
    assert untouched(outside)


def test_cve_2024_23652_what_was_made_for_mounts_is_removed_in_the_layer_only(
    context: Path, store: Store, outside: Path
) -> None:
    (outside / "canary").unlink()
    (outside / "empty").touch()
    (outside / "b").mkdir()
    text = f"""
FROM busybox
RUN mkdir -p /a/b
RUN rm -r /a
RUN --mount=type=tmpfs,target=/a/b --mount=type=bind,source=busybox,target=/a/empty mv /a /moved && ln -s {outside} /a
"""
    run_build(text, context, store)
    assert sorted(os.listdir(outside)) == ["b", "empty"]


@pytest.mark.parametrize("flag", ["--security=insecure", "--network=host"])
@pytest.mark.parametrize("by_trigger", [False, True])
def test_cve_2024_23653_privileges_need_the_permission_of_who_builds(
    context: Path, store: Store, flag: str, by_trigger: bool
) -> None:
    text = f"FROM busybox\nRUN {flag} echo ran\n"
    if by_trigger:
        text = f"FROM busybox AS base\nONBUILD RUN {flag} echo ran\nFROM base\n"
    with pytest.raises(UsageError, match="is not allowed in this build"):
        run_build(text, context, store)


MOUNTS = {
    "up": "type=bind,source={up}{outside},target=/m",
    "absolute": "type=bind,source={outside},target=/m",
    "link": "type=bind,source=link,target=/m",
    "through-a-link": "type=bind,source=link/canary,target=/m/canary",
    "relative-link": "type=bind,source=relative,target=/m",
    "of-a-stage": "type=bind,from=stage,source=/link,target=/m",
    "of-a-stage-up": "type=bind,from=stage,source={up}{outside},target=/m",
    "of-a-stage-through-a-link": "type=bind,from=stage,source=/relative/canary,target=/m/canary",
    "cache-from-a-link": "type=cache,from=stage,source=/link,target=/m",
    "cache-id": "type=cache,id={up}{outside},target=/m",
    "cache-source": "type=cache,source={up}{outside},target=/m",
    "cache-source-absolute": "type=cache,source={outside},target=/m",
}


@pytest.mark.parametrize("name", MOUNTS)
def test_cve_2024_9407_and_9675_and_11218_a_mounts_source_stays_where_it_belongs(
    context: Path, store: Store, outside: Path, name: str
) -> None:
    (context / "link").symlink_to(outside)
    (context / "relative").symlink_to(f"{UP}{str(outside).lstrip('/')}")
    mount = MOUNTS[name].format(up=UP, outside=str(outside))
    text = f"""
FROM busybox AS stage
RUN ln -s {outside} /link && ln -s {UP}{str(outside).lstrip("/")} /relative
FROM busybox
RUN --mount={mount},rw cat /m/canary > /out; echo x > /m/canary; touch /m/made; true
"""
    assert attempt(text, context, store) == []
    assert untouched(outside)


# -- 28: the context -----------------------------------------------------------------------------------------------------------

COPIES = {
    "up": "COPY {up}{outside}/canary /x",
    "absolute": "COPY {outside}/canary /x",
    "link": "COPY link/canary /x",
    "link-to-a-file": "COPY file /x",
    "relative-link": "COPY relative/canary /x",
    "directory": "COPY link /x/",
    "wildcard": "COPY */canary /x/",
    "wildcard-up": "COPY {up}{outside}/can* /x/",
    "add": "ADD link/canary /x",
    "parents": "COPY --parents link/canary /x/",
    "linked": "COPY --link link/canary /x",
    "of-a-stage": "COPY --from=stage /link/canary /x",
    "of-a-stage-relative": "COPY --from=stage /relative/canary /x",
    "of-a-stage-up": "COPY --from=stage {up}{outside}/canary /x",
    "of-a-stage-directory": "COPY --from=stage /link /x/",
}


@pytest.mark.parametrize("name", COPIES)
def test_nothing_outside_the_context_or_the_stage_is_copied(context: Path, store: Store, outside: Path, name: str) -> None:
    (context / "link").symlink_to(outside)
    (context / "file").symlink_to(outside / "canary")
    (context / "relative").symlink_to(f"{UP}{str(outside).lstrip('/')}")
    text = f"""
FROM busybox AS stage
RUN ln -s {outside} /link && ln -s {UP}{str(outside).lstrip("/")} /relative
FROM busybox
{COPIES[name].format(up=UP, outside=str(outside).lstrip("/"))}
"""
    assert attempt(text, context, store) == []


def test_a_context_whose_directory_is_exchanged_for_a_link_shows_nothing_else(
    context: Path, store: Store, outside: Path
) -> None:
    (context / "d").mkdir()
    (context / "d/canary").write_text("inside")
    (context / "other").symlink_to(outside)
    found = []
    with flipping(context / "d", context / "other"):
        for _ in range(40):
            found += attempt("FROM busybox\nCOPY d/canary /x\nCOPY d /y/\n", context, store, no_cache=True)
    assert found == []


def test_what_the_context_ignores_is_reached_by_no_other_way(context: Path, store: Store) -> None:
    (context / ".dockerignore").write_text("secret\n")
    (context / "secret").mkdir()
    (context / "secret/key").write_text("alive")
    (context / "way").symlink_to("secret")
    (context / "key").symlink_to("secret/key")
    for line in (
        "COPY secret/key /x",
        "COPY way/key /x",
        "COPY key /x",
        "COPY . /x/",
        "COPY s*/key /x/",
        "COPY ./secret/../secret/key /x",
        "RUN --mount=target=/m cp -r /m/. /x; cat /m/secret/key /m/way/key > /y; true",
        "RUN --mount=source=way,target=/m cp -r /m/. /x",
    ):
        assert attempt(f"FROM busybox\n{line}\n", context, store) == [], line


def tar_of(*entries: tuple[str, bytes | None, str]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, kind, value in entries:
            member = tarfile.TarInfo(name)
            if kind is None:
                member.size = len(value)
                archive.addfile(member, io.BytesIO(value.encode()))
            else:
                member.type, member.linkname = kind, value
                archive.addfile(member)
    return data.getvalue()


@pytest.mark.parametrize("way", ["{outside}", "{up}{outside}"])
@pytest.mark.parametrize("then", ["symlink", "directory", "hardlink"])
def test_an_archive_that_add_unpacks_stays_in_the_image(
    context: Path, store: Store, outside: Path, way: str, then: str
) -> None:
    target = way.format(up=UP, outside=str(outside).lstrip("/") if way.startswith("{up}") else outside)
    entries: dict[str, tuple[tuple[str, bytes | None, str], ...]] = {
        "symlink": (("l", tarfile.SYMTYPE, f"{target}/canary"), ("l", None, "owned")),
        "directory": (("l", tarfile.SYMTYPE, target), ("l/made", None, "owned"), ("l/canary", None, "owned")),
        "hardlink": (("l", tarfile.SYMTYPE, target), ("h", tarfile.LNKTYPE, "l/canary"), ("h", None, "owned")),
    }
    (context / "a.tar").write_bytes(tar_of(*entries[then]))
    assert attempt("FROM busybox\nADD a.tar /\n", context, store) == []
    assert untouched(outside)
    assert (outside / "canary").stat().st_nlink == 1


# -- 28: the cache -------------------------------------------------------------------------------------------------------------


def test_cve_2024_24557_a_step_is_not_taken_from_the_cache_of_another_parent(context: Path, store: Store) -> None:
    step = "RUN cat /from > /result\n"
    for name in ("one", "two"):
        result = run_build(f"FROM busybox\nRUN echo {name} > /from\n{step}", context, store)
        with RootView(store.layer_trees(result.image)) as view:
            assert view.read("/result", limit_bytes=100) == f"{name}\n".encode()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("HEALTHCHECK CMD true", "HEALTHCHECK CMD false"),
        ("HEALTHCHECK --interval=1s CMD true", "HEALTHCHECK --interval=2s CMD true"),
        ("HEALTHCHECK CMD true", "HEALTHCHECK NONE"),
        ("ONBUILD RUN true", "ONBUILD RUN false"),
    ],
)
def test_cve_2024_24557_a_changed_healthcheck_or_trigger_is_in_the_image(
    context: Path, store: Store, first: str, second: str
) -> None:
    results = [run_build(f"FROM busybox\nRUN echo x > /x\n{line}\n", context, store) for line in (first, second, first)]
    configs = [(result.image.config.healthcheck, result.image.config.on_build) for result in results]
    assert configs[0] != configs[1]
    assert configs[0] == configs[2]
    assert results[0].image.digest == results[2].image.digest != results[1].image.digest


def test_cve_2024_24557_what_a_step_reads_is_part_of_its_key(context: Path, store: Store) -> None:
    for content in ("one", "two"):
        (context / "f").write_text(content)
        os.utime(context / "f", (0, 0))
        text = "FROM busybox\nCOPY f /f\nRUN --mount=source=f,target=/m cp /m /g\n"
        with RootView(store.layer_trees(run_build(text, context, store).image)) as view:
            assert [view.read(path, limit_bytes=100) for path in ("/f", "/g")] == [content.encode()] * 2


# -- 29 ------------------------------------------------------------------------------------------------------------------------


def test_cve_2021_3602_the_hosts_environment_stays_outside_of_builds(
    context: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_OF_THE_HOST", "alive")
    monkeypatch.setenv("LD_PRELOAD_OF_THE_HOST", "alive")
    text = "ARG TOKEN_OF_THE_HOST\nFROM busybox\nARG TOKEN_OF_THE_HOST\nRUN env > /x; cat /proc/*/environ > /y; true\n"
    assert attempt(text, context, store) == []
