from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from contain.build.cache.places import CachePlace, Scope
from contain.build.cache.policy import CachePolicy
from contain.build.execute import build, explain
from contain.build.request import BuildHost, BuildRequest, BuildResult
from contain.oci import Platform
from contain.progress import Silent
from contain.reference import parse_reference
from contain.store import Store

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="layers keep owners: needs root"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="needs busybox, statically linked"),
]

HOST = BuildHost(platform=Platform(os="linux", architecture="amd64"))

DOCKERFILE = """\
FROM scratch AS base
COPY busybox /bin/
SHELL ["/bin/busybox", "sh", "-c"]
FROM base AS one
COPY src /src
RUN /bin/busybox cat /src/a > /made
FROM base
ARG A=1
ENV E=1
COPY --from=one /made /made
COPY two /two
WORKDIR /w
RUN echo "$A $E" > x
"""
EXPLAINED = ["COPY busybox", "COPY src", "RUN /bin/busybox", "COPY --from", "COPY two", "WORKDIR", "RUN echo"]


def make_context(directory: Path) -> Path:
    (directory / "src").mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox")), directory / "busybox")
    (directory / "src/a").write_text("a")
    (directory / "two").write_text("2")
    (directory / "Dockerfile").write_text(DOCKERFILE)
    return directory


@pytest.fixture
def context(tmp_path: Path) -> Path:
    return make_context(tmp_path / "context")


def request_for(
    context: Path, policy: CachePolicy | None = None, *, no_cache: bool = False, arguments: dict[str, str] | None = None
) -> BuildRequest:
    return BuildRequest(
        context=context,
        build_args=MappingProxyType(arguments or {}),
        no_cache=no_cache,
        cache=replace(policy or CachePolicy(), explain=True),
    )


def run_build(
    context: Path,
    store: Store,
    policy: CachePolicy | None = None,
    *,
    host: BuildHost = HOST,
    no_cache: bool = False,
    arguments: dict[str, str] | None = None,
) -> BuildResult:
    request = request_for(context, policy, no_cache=no_cache, arguments=arguments)
    return build(request, store=store, progress=Silent(), host=host)


def name_of(text: str) -> str:
    return "RUN echo" if "echo" in text else next(name for name in EXPLAINED if text.startswith(name))


def missed(result: BuildResult) -> dict[str, str]:
    """The steps that were carried out, by the beginning of their text, and why."""
    found = {}
    for each in result.explanations:
        name = name_of(each.text)
        if each.outcome.value == "MISS":
            found[name] = ", ".join(each.reasons)
    assert len(found) == result.executed_steps
    return found


def edit(context: Path, old: str, new: str) -> None:
    text = (context / "Dockerfile").read_text()
    assert old in text
    (context / "Dockerfile").write_text(text.replace(old, new))


def test_an_unchanged_build_misses_nothing(context: Path, store: Store) -> None:
    first = run_build(context, store)
    assert missed(first) == dict.fromkeys(EXPLAINED, "first time")
    again = run_build(context, store)
    assert (missed(again), again.cached_steps, again.digest) == ({}, 7, first.digest)


SCENARIOS: dict[str, dict[str, str]] = {
    "content": {
        "COPY src": "1 file changed: src/a (content)",
        "RUN /bin/busybox": "an earlier step gave other files: COPY src /src",
        "COPY --from": "1 file changed: made (content)",
        "COPY two": "an earlier step gave other files: COPY --from=one /made /made",
        "WORKDIR": "an earlier step gave other files: COPY --from=one /made /made",
        "RUN echo": "an earlier step gave other files: COPY --from=one /made /made",
    },
    "cut-off": {
        "COPY src": "1 added: src/b",
        "RUN /bin/busybox": "an earlier step gave other files: COPY src /src",
    },
    "executable": {
        "COPY two": "1 file changed: two (mode 0644 -> 0755)",
        "WORKDIR": "an earlier step gave other files: COPY two /two",
        "RUN echo": "an earlier step gave other files: COPY two /two",
    },
    "build-arg": {"RUN echo": "build-arg A: 1 -> 2"},
    "secret": {"RUN echo": "--mount type=secret /run/secrets/s added"},
    "mount": {"RUN echo": "--mount type=tmpfs /t added"},
    "ENV": {"RUN echo": "ENV E: 1 -> 2"},
    "USER": {"RUN echo": "USER: root -> 1000, an earlier step gave other files: WORKDIR /w", "WORKDIR": "USER: root -> 1000"},
    "WORKDIR": {
        "WORKDIR": "WORKDIR: /w -> /v",
        "RUN echo": "WORKDIR: /w -> /v, an earlier step changed: WORKDIR /w -> WORKDIR /v",
    },
    "SHELL": {
        "RUN /bin/busybox": "SHELL: /bin/busybox sh -c -> /bin/busybox sh -ec",
        "RUN echo": "SHELL: /bin/busybox sh -c -> /bin/busybox sh -ec",
    },
    "network": {"RUN echo": "--network: default -> none"},
    "epoch": {
        "COPY busybox": "SOURCE_DATE_EPOCH: 946684800 -> 5",
        **dict.fromkeys(
            EXPLAINED[1:], "SOURCE_DATE_EPOCH: 946684800 -> 5, an earlier step gave other files: COPY busybox /bin/"
        ),
    },
    "command": {"RUN echo": 'the command: echo "$A $E" > x -> echo "$E $A" > x'},
    "no-cache-filter": {"COPY src": "--no-cache-filter one", "RUN /bin/busybox": "--no-cache-filter one"},
    "comment": {},
    "whitespace": {},
    "syntax": {},
    "touch": {},
    "umask": {},
    "moved": {},
    "label": {},
}


@pytest.mark.parametrize("change", SCENARIOS)
def test_after_one_change_exactly_the_steps_miss_that_it_touches(
    change: str, context: Path, store: Store, tmp_path: Path
) -> None:
    before = run_build(context, store)
    policy, host, arguments = CachePolicy(), HOST, {}
    match change:
        case "content":
            (context / "src/a").write_text("other")
        case "cut-off":  # what the RUN reads is the same: its files are, and what follows hits
            (context / "src/b").write_text("b")
        case "executable":
            (context / "two").chmod(0o744)
        case "build-arg":
            arguments = {"A": "2"}
        case "secret":
            edit(context, "RUN echo", "RUN --mount=type=secret,id=s echo")
        case "mount":
            edit(context, "RUN echo", "RUN --mount=type=tmpfs,target=/t echo")
        case "ENV":
            edit(context, "E=1", "E=2")
        case "USER":
            edit(context, "WORKDIR /w", "USER 1000\nWORKDIR /w")
        case "WORKDIR":
            edit(context, "WORKDIR /w", "WORKDIR /v")
        case "SHELL":
            edit(context, '"-c"', '"-ec"')
        case "network":
            edit(context, "RUN echo", "RUN --network=none echo")
        case "epoch":
            host = replace(HOST, epoch_seconds=5)
        case "command":
            edit(context, "$A $E", "$E $A")
        case "no-cache-filter":
            policy = CachePolicy(refused_stages=("one",))
        case "comment":
            edit(context, "ARG A", "# about A\nARG A")
        case "whitespace":
            edit(context, "RUN echo", "RUN    echo")
        case "syntax":
            edit(context, "FROM scratch", "# syntax=docker/dockerfile:1\nFROM scratch")
        case "touch":
            os.utime(context / "src/a", (5, 5))
        case "umask":
            (context / "src").chmod(0o775)
            (context / "src/a").chmod(0o664)
            os.chown(context / "src/a", 1000, 1000)
        case "moved":
            context = context.rename(tmp_path / "elsewhere")
        case "label":
            edit(context, "ARG A=1", "LABEL l=1\nARG A=1")
    result = run_build(context, store, policy, host=host, arguments=arguments)
    assert missed(result) == SCENARIOS[change]
    if change in ("comment", "whitespace", "syntax", "touch", "umask", "moved", "no-cache-filter", "cut-off"):
        assert result.digest == before.digest


def test_a_moved_base_is_named(context: Path, store: Store) -> None:
    small = context / "small"
    small.mkdir()
    for text in ("FROM scratch\nCOPY two /two\n", "FROM scratch\nCOPY two /three\n"):
        made = build(
            BuildRequest(context=context, dockerfile_text=text, tags=(parse_reference("base:1"),)),
            store=store,
            progress=Silent(),
            host=HOST,
        )
        (context / "Dockerfile").write_text("FROM base:1\nCOPY two /x\n")
        result = run_build(context, store)
        reason = missed(result)["COPY two"]
    assert reason.startswith("base base:1 moved: ")
    assert reason.endswith(f"-> {made.digest.removeprefix('sha256:')[:12]}")


def test_a_large_input_is_told_file_by_file(context: Path, store: Store) -> None:
    for number in range(1500):
        (context / f"src/f{number}").write_text(str(number))
    run_build(context, store)
    (context / "src/f700").write_text("other")
    assert missed(run_build(context, store))["COPY src"] == "1 file changed: src/f700 (content)"


def test_records_older_than_the_time_to_live_are_made_again(context: Path, store: Store) -> None:
    first = run_build(context, store)
    assert missed(run_build(context, store, CachePolicy(lifetime_seconds=1000))) == {}
    old = run_build(context, store, CachePolicy(lifetime_seconds=-1))
    assert len(missed(old)) == 7
    assert all(reason.startswith("--cache-ttl: the cached step is ") for reason in missed(old).values())
    assert old.digest == first.digest


def test_without_the_cache_every_step_says_so(context: Path, store: Store) -> None:
    run_build(context, store)
    assert set(missed(run_build(context, store, no_cache=True)).values()) == {"--no-cache"}


def test_explaining_alone_does_nothing(context: Path, store: Store) -> None:
    found = explain(request_for(context), store=store, progress=Silent(), host=HOST)
    assert [each.outcome.value for each in found] == ["MISS", "MISS", "MISS", "OPEN", "MISS", "MISS", "MISS"]
    assert not list((store.home / "layers").iterdir())
    run_build(context, store)
    (context / "src/a").write_text("other")
    images = store.images()
    found = explain(request_for(context), store=store, progress=Silent(), host=HOST)
    told = {name_of(each.text): str(each) for each in found}
    assert told["COPY busybox"] == "HIT  COPY busybox /bin/"
    assert told["COPY src"] == "MISS COPY src /src  1 file changed: src/a (content)"
    assert told["RUN /bin/busybox"].endswith("a hit only if COPY in line 5 gives the same files as before")
    assert told["COPY --from"].startswith("OPEN COPY --from")
    assert store.images() == images


def test_explaining_alone_fetches_nothing(context: Path, store: Store) -> None:
    (context / "Dockerfile").write_text(
        "FROM nothing.invalid/x\nADD http://127.0.0.1:1/x /x\nCOPY --from=other.invalid/y /a /a\nRUN x\n"
    )
    found = explain(request_for(context), store=store, progress=Silent(), host=HOST)
    assert [str(each) for each in found] == [
        "OPEN ADD http://127.0.0.1:1/x /x  what http://127.0.0.1:1/x holds would be looked at",
        "OPEN COPY --from=other.invalid/y /a /a  the image other.invalid/y:latest is not here yet",
        "MISS RUN x  first time",
    ]


def packed(directory: Path) -> CachePlace:
    return CachePlace(text=f"type=local,dest={directory}", directory=directory, scope=Scope.ALL_STAGES)


def test_a_machine_with_an_empty_store_carries_out_nothing(context: Path, store: Store, tmp_path: Path) -> None:
    first = run_build(context, store, CachePolicy(destinations=(packed(tmp_path / "cache"),)))
    elsewhere = make_context(tmp_path / "checkout")
    with Store.open(tmp_path / "other") as other:
        again = run_build(elsewhere, other, CachePolicy(sources=(packed(tmp_path / "cache"),)))
        assert (again.executed_steps, again.cached_steps, again.digest) == (0, 7, first.digest)
        for diff_id in again.image.config.diff_ids:
            assert other.is_canonical(diff_id)  # its archive can be written again: it can be pushed
        # From now on the store knows them itself.
        assert run_build(elsewhere, other).executed_steps == 0
        (elsewhere / "src/a").write_text("b")
        assert missed(run_build(elsewhere, other))["COPY src"] == "1 file changed: src/a (content)"


def test_the_cache_of_the_result_alone_holds_no_other_stages_layers(context: Path, store: Store, tmp_path: Path) -> None:
    place = replace(packed(tmp_path / "cache"), scope=Scope.RESULT)
    run_build(context, store, CachePolicy(destinations=(place,)))
    with Store.open(tmp_path / "other") as other:
        again = run_build(context, other, CachePolicy(sources=(place,)))
        assert set(missed(again)) == {"COPY src", "RUN /bin/busybox"}


def test_a_layer_is_fetched_only_for_a_step_that_hits(context: Path, store: Store, tmp_path: Path) -> None:
    first = run_build(context, store, CachePolicy(destinations=(packed(tmp_path / "cache"),)))
    (context / "src/a").write_text("other")
    with Store.open(tmp_path / "other") as other:
        second = run_build(context, other, CachePolicy(sources=(packed(tmp_path / "cache"),)))
        assert set(missed(second)) == set(SCENARIOS["content"])
        here = [other.has_layer(diff_id) for diff_id in first.image.config.diff_ids]
        # busybox hit; what followed stood on other files, though COPY two, WORKDIR and RUN made the same layers again.
        assert here == [True, False, True, True, True]


def test_a_cache_that_is_not_there_is_a_warning(context: Path, store: Store, tmp_path: Path) -> None:
    warnings: list[str] = []

    class Told(Silent):
        def warn(self, text: str) -> None:
            warnings.append(text)

    policy = CachePolicy(sources=(packed(tmp_path / "missing"),))
    build(request_for(context, policy), store=store, progress=Told(), host=HOST)
    (warning,) = warnings
    assert "not used: there is no cache 'latest' in" in warning


PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from contain.build.execute import build
from contain.build.request import BuildHost, BuildRequest
from contain.oci import Platform
from contain.progress import Silent
from contain.store import Store
host = BuildHost(platform=Platform(os="linux", architecture="amd64"))
with Store.open(Path(sys.argv[1])) as store:
    result = build(BuildRequest(context=Path(sys.argv[2])), store=store, progress=Silent(), host=host)
print(result.digest, result.executed_steps, result.cached_steps)
"""


def start(store: Store, context: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(store.home), str(context)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def collect(process: subprocess.Popen[str]) -> tuple[str, int, int]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    digest, executed, cached = out.split()
    return digest, int(executed), int(cached)


@pytest.mark.parametrize("count", [2, 8])
def test_builds_at_once_carry_out_each_step_once(count: int, context: Path, store: Store) -> None:
    # Each RUN leaves a line in a directory that all builds share.
    edit(context, "RUN echo", "RUN --mount=type=cache,target=/count echo run >> /count/lines; echo")
    processes = [start(store, context) for _ in range(count)]
    results = [collect(process) for process in processes]
    assert len({digest for digest, _, _ in results}) == 1
    assert sum(executed for _, executed, _ in results) == 7
    assert all(executed + cached == 7 for _, executed, cached in results)
    (lines,) = (store.home / "cache-mounts").glob("*/tree/lines")
    assert lines.read_text() == "run\n"
    assert sorted(path.name for path in (store.home / "locks").iterdir() if path.name.startswith("step")) == ["steps"]


def test_when_the_build_that_is_at_it_is_killed_another_one_takes_over(context: Path, store: Store) -> None:
    script = "echo run >> /count/lines; test -e /count/go || sleep 60"
    edit(context, "RUN echo", f"RUN --mount=type=cache,target=/count {script}; echo")
    first = start(store, context)
    lines = wait_for(store, "run\n")
    second = start(store, context)
    third = start(store, context)
    (lines.parent / "go").touch()
    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=20)
    results = [collect(second), collect(third)]
    assert sum(executed for _, executed, _ in results) == 1
    assert lines.read_text() == "run\nrun\n"


def wait_for(store: Store, content: str) -> Path:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for path in (store.home / "cache-mounts").glob("*/tree/lines"):
            if path.read_text() == content:
                return path
        time.sleep(0.01)
    raise AssertionError("the first build never came to its RUN")


def test_a_cache_over_its_limit_loses_what_was_used_least_recently_at_the_end_of_a_build(
    context: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTAIN_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").write_text('[build]\ncache_limit = "none"\n')
    (context / "Dockerfile").write_text("FROM scratch\nCOPY two /two\n")
    results = []
    for number in range(6):
        if number == 5:
            (tmp_path / "config.toml").write_text("[build]\ncache_limit = 450000\n")
        (context / "two").write_bytes(bytes([number]) * 200_000)
        result = run_build(context, store)
        results.append(result.image.config.diff_ids[0])
        if number < 5:
            store.remove_image(result.digest)  # the layer stays for the cache alone
            age_records(store)
    assert [store.has_layer(diff_id) for diff_id in results] == [False, False, False, True, True, True]
    assert store.cache_usage().total_bytes <= 450_000
    (context / "two").write_bytes(bytes([4]) * 200_000)
    assert run_build(context, store).executed_steps == 0
    (context / "two").write_bytes(bytes([0]) * 200_000)
    assert run_build(context, store).executed_steps == 1


def test_pruning_takes_what_was_superseded_and_with_all_everything(context: Path, store: Store) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY two /two\n")
    layers = []
    for text in ("1", "2", "3"):
        (context / "two").write_text(text)
        result = run_build(context, store)
        store.remove_image(result.digest)
        layers.append(result.image.config.diff_ids[0])
        age_records(store)
    release = store.try_hold(layers[0])
    assert release is not None
    assert store.prune_cache(only_superseded=True).layers == (layers[1],)
    release()
    assert store.prune_cache(only_superseded=True).layers == (layers[0],)
    assert store.prune_cache(unused_for_seconds=3600).layers == ()
    assert store.prune_cache(forget=True).layers == (layers[2],)
    usage = store.cache_usage()
    assert (usage.steps, usage.total_bytes) == (0, 0)


def age_records(store: Store) -> None:
    """As if a second had passed."""
    import sqlite3

    with sqlite3.connect(store.home / "state.sqlite3") as database:
        database.execute("UPDATE steps SET used_seconds = used_seconds - 1")
    database.close()


def test_a_layer_that_was_removed_meanwhile_is_made_again_and_that_is_said(context: Path, store: Store) -> None:
    run_build(context, store)
    (image,) = store.images()
    store.remove_image(image.digest)
    records = store.prune_cache().steps
    assert records > 0
    assert len(missed(run_build(context, store))) == 7
    (image,) = store.images()
    lost = store.image(image.digest).config.diff_ids[-1]
    shutil.rmtree(store.home / "layers" / lost.removeprefix("sha256:"))
    assert missed(run_build(context, store)) == {"RUN echo": "its layer was removed from the store"}
