from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import MappingProxyType

import pytest

from contain.build.cache.keys import base_chain, key_of, run_ingredients
from contain.build.copy.owners import parse_owner
from contain.build.execute import complete_history
from contain.build.fold import begin_stage, fold
from contain.build.request import BuildHost, BuildRequest
from contain.build.run.memory import sweep
from contain.build.run.perform import (
    CA_TARGET,
    OutputLog,
    RunFiles,
    loopback_proxies,
    plan_run,
    run_environment,
)
from contain.build.sources import read_build_host, read_sources
from contain.build.steps import RunStep
from contain.build.workbench import rfc3339
from contain.dockerfile.parse import parse_dockerfile
from contain.errors import NotFound, UsageError
from contain.oci import History, ImageConfig, Platform
from contain.spec import Identity, Network

AMD64 = Platform(os="linux", architecture="amd64")
PASSWD = "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n33:x:5:6::/:\nbroken\n"
GROUP = "root:x:0:\nweb:x:33:app\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("app", (1000, 1001)),
        ("app:web", (1000, 33)),
        ("app:7", (1000, 7)),
        ("12", (12, 12)),
        ("12:web", (12, 33)),
        ("33", (33, 33)),
        (":web", (0, 33)),
        ("0:0", (0, 0)),
    ],
)
def test_chown_reads_names_and_numbers(text: str, expected: tuple[int, int]) -> None:
    assert parse_owner(text, PASSWD, GROUP) == expected


@pytest.mark.parametrize("text", ["nobody", "app:nogroup", "app:", ":", "", "99999999999"])
def test_chown_refuses_what_it_cannot_resolve(text: str) -> None:
    with pytest.raises(UsageError):
        parse_owner(text, PASSWD, GROUP)


def run_step(text: str = "RUN make") -> RunStep:
    state = begin_stage(ImageConfig(), given={}, global_arguments={})
    _, step = fold(state, parse_dockerfile("FROM x\n" + text).stages[0].instructions[0])
    assert isinstance(step, RunStep)
    return step


def test_every_ingredient_changes_the_key() -> None:
    def key(step: RunStep, base: str = "b", platform: Platform = AMD64, epoch_seconds: int = 0) -> str:
        return key_of(run_ingredients(step, base=base, platform=platform, epoch_seconds=epoch_seconds))

    keys = {
        key(run_step()),
        key(run_step(), base="c"),
        key(run_step(), platform=Platform(os="linux", architecture="arm64")),
        key(run_step(), epoch_seconds=1),
        key(run_step("RUN make all")),
        key(run_step("RUN --network=none make")),
        key(run_step("RUN <<A\n#!/bin/sh\n1\nA\n")),
        key(run_step("RUN <<A\n#!/bin/sh\n2\nA\n")),
    }
    assert len(keys) == 8
    assert key(run_step("run   make")) == key(run_step())


def test_the_chain_tells_the_machine_s_root_from_no_layers() -> None:
    assert len({base_chain(()), base_chain((), "sha256:x"), base_chain(("sha256:x",))}) == 3


def test_what_the_dockerfile_sets_wins_over_what_the_machine_brings() -> None:
    state = begin_stage(ImageConfig(environment=(("HOME", "/own"), ("http_proxy", "image"))), given={}, global_arguments={})
    _, step = fold(state, parse_dockerfile("FROM x\nRUN x").stages[0].instructions[0])
    assert isinstance(step, RunStep)
    host = BuildHost(
        platform=AMD64,
        proxies=MappingProxyType({"http_proxy": "host", "https_proxy": "host"}),
        ca_bundle=Path("/host/ca.crt"),
        epoch_seconds=5,
    )
    found = dict(run_environment(step, host, proxies_given={"https_proxy": "given"}, home="/root"))
    assert (found["HOME"], found["http_proxy"], found["https_proxy"]) == ("/own", "image", "given")
    assert (found["SOURCE_DATE_EPOCH"], found["SSL_CERT_FILE"]) == ("5", str(CA_TARGET))


def test_the_host_s_certificates_are_mounted_where_nothing_can_remain() -> None:
    host = BuildHost(platform=AMD64, ca_bundle=Path("/host/ca.crt"))
    spec = plan_run(
        run_step("RUN --network=host x"),
        host,
        container_id="0" * 64,
        layers=(),
        upper=Path("/upper"),
        environment=(),
        identity=Identity(),
        files=RunFiles(apt=Path("/scratch/apt.conf")),
        capabilities=frozenset(),
    )
    assert [str(mount.target) for mount in spec.mounts] == ["/dev/contain/ca-certificates.crt", "/dev/contain/apt.conf"]
    assert spec.network is Network.HOST
    assert spec.hostname == "buildcontainer"


def test_without_a_bundle_nothing_is_said_about_certificates() -> None:
    found = dict(run_environment(run_step(), BuildHost(platform=AMD64), proxies_given={}, home="/"))
    assert set(found) == {"HOME", "PATH", "SOURCE_DATE_EPOCH"}


def test_proxies_on_loopback_are_noticed() -> None:
    values = [
        ("http_proxy", "http://127.0.0.1:3128"),
        ("HTTPS_PROXY", "http://user:pw@localhost:1"),
        ("no_proxy", "localhost"),
        ("ALL_PROXY", "http://proxy:1"),
    ]
    assert loopback_proxies(values) == ("http_proxy", "HTTPS_PROXY")


def test_the_log_keeps_the_last_lines_and_whole_characters() -> None:
    pieces: list[str] = []
    log = OutputLog(pieces.append)
    data = "".join(f"line {number} ü\n" for number in range(50)).encode() + b"end \xc3"
    for start in range(0, len(data), 7):
        log.feed(data[start : start + 7])
    log.feed(b"", final=True)
    assert "".join(pieces).startswith("line 0 ü\nline 1 ü\n")
    assert log.tail.splitlines()[0] == "line 20 ü"
    assert log.tail.splitlines()[-1] == "end \ufffd"


def test_a_base_s_history_gets_a_row_for_each_layer() -> None:
    config = ImageConfig(history=(History(created_by="ENV", empty_layer=True), History(created_by="RUN")))
    rows = complete_history(config, 3, "2000-01-01T00:00:00Z")
    assert [row.empty_layer for row in rows] == [True, False, False, False]


def test_the_epoch_comes_from_the_build_argument_then_the_environment_then_the_default() -> None:
    environ = {"SOURCE_DATE_EPOCH": "10", "HTTP_PROXY": "p", "OTHER": "x"}
    assert read_build_host(environ, build_args={"SOURCE_DATE_EPOCH": "20"}).epoch_seconds == 20
    host = read_build_host(environ)
    assert host.epoch_seconds == 10
    assert dict(host.proxies) == {"HTTP_PROXY": "p"}
    assert rfc3339(read_build_host({}).epoch_seconds) == "2000-01-01T00:00:00Z"
    with pytest.raises(UsageError):
        read_build_host({"SOURCE_DATE_EPOCH": "yesterday"})


def test_the_dockerfile_is_found_in_the_context_also_in_lower_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFound, match="there is no Dockerfile"):
        read_sources(BuildRequest(context=tmp_path))
    (tmp_path / "dockerfile").write_text("FROM scratch\n")
    assert read_sources(BuildRequest(context=tmp_path)).dockerfile.file == "dockerfile"
    (tmp_path / "Dockerfile").write_text("FROM x\n")
    found = read_sources(BuildRequest(context=tmp_path))
    assert found.dockerfile.stages[0].base == "x"
    assert found.position == os.fspath(tmp_path / "Dockerfile")


def test_a_dockerfile_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_bytes(b"FROM \xff\n")
    with pytest.raises(UsageError, match="UTF-8"):
        read_sources(BuildRequest(context=tmp_path))


def test_memory_directories_of_dead_owners_are_swept_and_locked_ones_stay(tmp_path: Path) -> None:
    for name in ("contain-build.dead", "contain-build.held", "other"):
        (tmp_path / name / "inner").mkdir(parents=True)
    held = os.open(tmp_path / "contain-build.held", os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        sweep(tmp_path)
        assert len(list(tmp_path.iterdir())) == 3
        sweep(tmp_path, now_seconds=time.time() + 3600)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["contain-build.held", "other"]
    finally:
        os.close(held)
