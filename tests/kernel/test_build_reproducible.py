from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from contain.build.execute import build
from contain.build.request import BuildHost, BuildRequest, BuildResult
from contain.build.verify.report import Verification
from contain.build.verify.verify import verify
from contain.errors import BuildStepFailed
from contain.progress import Silent
from contain.registry.platform import host_platform
from contain.store import RootView, Store

BUSYBOX = Path("/bin/busybox")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
    pytest.mark.skipif(not BUSYBOX.exists(), reason="needs Debian's busybox-static at /bin/busybox"),
]
BASE = 'FROM scratch\nCOPY busybox /bin/\nRUN ["/bin/busybox", "--install", "-s", "/bin"]\n'
NOISE = """RUN mkdir -p /var/log/apt /etc /var/cache/ldconfig /root/.npm/_logs /root/.cache/pip/http \\
 && cat /proc/sys/kernel/random/uuid > /now \\
 && tee /var/log/apt/history.log /var/log/dpkg.log /var/cache/ldconfig/aux-cache /root/.npm/_logs/$(cat /now).log < /now && rm /now \\
 && cat /proc/sys/kernel/random/uuid > /root/.cache/pip/http/entry && tr -d - < /proc/sys/kernel/random/uuid > /etc/machine-id
"""


class Output(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.text = ""

    def note(self, text: str) -> None:
        self.notes.append(text)

    def log(self, text: str) -> None:
        self.text += text


@pytest.fixture
def context(context: Path) -> Path:
    shutil.copy(BUSYBOX, context / "busybox")
    return context


HOST = BuildHost(platform=host_platform())


def request(text: str, context: Path, **values: Any) -> BuildRequest:
    return BuildRequest(context=context, dockerfile_text=BASE + text, **values)


def run_build(text: str, context: Path, store: Store, *, output: Output | None = None, **values: Any) -> BuildResult:
    return build(request(text, context, **values), store=store, progress=output or Output(), host=HOST)


def run_verify(text: str, context: Path, store: Store, *, output: Output | None = None, **values: Any) -> Verification:
    return verify(request(text, context, **values), store=store, progress=output or Output(), host=HOST)[1]


def causes(found: Verification) -> dict[int, dict[str, str]]:
    return {step.line: {each.path: each.cause for each in step.differences} for step in found.steps}


def read(result: BuildResult, store: Store, path: str) -> bytes:
    with RootView(store.layer_trees(result.image)) as view:
        return view.read(path, limit_bytes=1 << 20)


def test_the_noise_of_a_step_does_not_reach_the_image_and_what_was_done_is_told_and_kept(
    context: Path, store: Store, tmp_path: Path
) -> None:
    output = Output()
    first = run_build(NOISE, context, store, output=output)
    with Store.open(tmp_path / "other") as other:
        second = run_build(NOISE, context, other)
    assert first.digest == second.digest
    (told,) = [note for note in output.notes if note.startswith("normalised")]
    assert told == ("normalised 6 files: apt-log 1, dpkg-log 1, ldconfig-aux-cache 1, machine-id 1, npm-logs 1, pip-cache 1")
    assert read(first, store, "/var/log/dpkg.log") == b""
    assert len(read(first, store, "/etc/machine-id")) == 33
    kept = [json.loads(record.result) for record in store.nearest_steps(f"{context}|Dockerfile|stage-0|3")]
    assert kept[0]["normalised"]["machine-id"] == 1


def test_without_normalisation_the_layer_is_what_the_step_wrote(context: Path, store: Store) -> None:
    result = run_build(NOISE, context, store, reproducible=False)
    assert len(read(result, store, "/var/log/dpkg.log")) == 37
    assert run_build(NOISE, context, store, reproducible=True).executed_steps == 2  # both RUNs, not the COPY


def test_files_of_the_author_are_never_touched(context: Path, store: Store) -> None:
    (context / "dpkg.log").write_text("mine\n")
    (context / "machine-id").write_text("1" * 32 + "\n")
    text = """COPY dpkg.log /var/log/dpkg.log
COPY machine-id /etc/machine-id
RUN echo more >> /var/log/dpkg.log && touch /etc/machine-id && chmod 600 /var/log/dpkg.log
RUN echo 22222222222222222222222222222222 > /etc/machine-id
"""
    result = run_build(text, context, store)
    assert read(result, store, "/var/log/dpkg.log") == b"mine\n"
    assert read(result, store, "/etc/machine-id") == b"2" * 32 + b"\n"
    with RootView(store.layer_trees(result.image)) as view:
        entry = view.lookup("/var/log/dpkg.log")
        assert entry is not None
        assert entry.mode == 0o600


def test_verifying_a_reproducible_build_says_so_and_leaves_nothing_behind(context: Path, store: Store, tmp_path: Path) -> None:
    (context / "dir").mkdir()
    for name in ("a", "b", "c"):
        (context / "dir" / name).write_text(name)
    before = set(os.listdir("/dev/shm"))
    output = Output()
    found = run_verify("COPY dir /dir\nRUN hostname > /name; umask > /umask; id > /id\n", context, store, output=output)
    assert found.reproducible, causes(found)
    assert found.digests[0] == found.digests[1]
    assert {"umask", "host name of the machine"} <= {each.what for each in found.varied}
    assert any("wall clock" in each for each in found.same)
    assert {name for name in set(os.listdir("/dev/shm")) - before if name.startswith("contain-build.")} == set()
    assert list((store.home / "tmp").iterdir()) == []


def test_each_difference_is_attributed_to_its_line_and_cause(context: Path, store: Store) -> None:
    text = """RUN date +%s > /built
RUN cat /proc/sys/kernel/random/uuid > /id
RUN mktemp -p /
COPY busybox /again
RUN date +%s >> /built
RUN head -c 32 /dev/urandom > /random; chmod 600 /random
"""
    found = causes(run_verify(text, context, store))
    assert {line: set(found[line].values()) for line in found} == {
        4: {"timestamp"},
        5: {"random-value"},
        6: {"random-name"},
        8: {"follows"},
        9: {"unknown"},
    }
    assert found[9] == {"/random": "unknown"}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs to take one away")
def test_the_number_of_cpus_and_the_order_of_directories_are_varied(context: Path, store: Store) -> None:
    found = run_verify("RUN nproc > /cpus\nRUN find /bin > /list\n", context, store)
    kinds = causes(found)
    assert kinds[4] == {"/cpus": "build-machine"}
    if any(each.second == "tmpfs" for each in found.varied):
        assert kinds[5] == {"/list": "file-order"}


def test_a_difference_in_a_stage_is_attributed_to_the_stage_that_made_it(context: Path, store: Store) -> None:
    text = "RUN date +%s > /built\nFROM scratch\nCOPY --from=0 /built /\n"
    found = run_verify(text, context, store)
    assert [(step.stage, step.line) for step in found.steps] == [("stage-0", 4), ("stage-1", 6)]


def test_the_cache_is_a_third_witness(context: Path, store: Store) -> None:
    text = "RUN test -e /nothing || cat /proc/sys/kernel/random/uuid > /id\n"
    run_build(text, context, store)
    found = run_verify(text, context, store)
    assert found.cached_steps == 3
    against = [step.against for step in found.steps]
    assert against[0] == ""
    assert against[1].startswith("the cache's layer of 20")


def test_todays_date_is_found_where_both_builds_are_equal(context: Path, store: Store) -> None:
    found = run_verify("RUN date +%F > /day\n", context, store)
    assert found.reproducible
    assert [(each.line, each.path) for each in found.suspicions] == [(4, "/day")]


def test_a_second_build_that_fails_is_told_from_the_first(context: Path, store: Store) -> None:
    with pytest.raises(BuildStepFailed, match="first build succeeded, and the second") as caught:
        run_verify("RUN ! grep -q tmpfs /proc/self/mountinfo || test $(nproc) -gt 1\n", context, store)
    assert "failed" in caught.value.message
    with pytest.raises(BuildStepFailed) as caught:
        run_verify("RUN exit 7\n", context, store)
    assert "second" not in caught.value.message


def test_named_contexts_and_mounts_are_the_same_in_both_builds(
    context: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contain.build.contexts.places import parse_named_contexts

    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    monkeypatch.chdir(tmp_path)
    text = """COPY --from=other file /a
RUN --mount=type=bind,from=other,target=/m --mount=type=cache,target=/c cp /m/file /b && date > /c/now
"""
    found = run_verify(text, context, store, contexts=parse_named_contexts(["other=other"]))
    assert found.reproducible, causes(found)


def test_strict_modes_reach_the_second_build(context: Path, store: Store) -> None:
    (context / "tool").write_text("x")
    (context / "tool").chmod(0o751)
    result, found = verify(request("COPY tool /\n", context, strict_modes=True), store=store, progress=Output(), host=HOST)
    assert found.reproducible, causes(found)
    with RootView(store.layer_trees(result.image)) as view:
        entry = view.lookup("/tool")
        assert entry is not None
        assert stat.S_IMODE(entry.host_stat.st_mode) == 0o751
