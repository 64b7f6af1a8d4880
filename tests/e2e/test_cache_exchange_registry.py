"""Build caches in a registry that nobody here wrote: Debian's ``docker-registry``, started on loopback; two stores are two machines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from contain.reference import parse_reference
from contain.registry.artifacts import fetch_manifest

if TYPE_CHECKING:
    from tests.e2e.conftest import Server

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="layers keep owners: needs root"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="needs busybox, statically linked"),
]
DOCKERFILE = """\
FROM scratch AS tools
COPY busybox /bin/
RUN ["/bin/busybox", "sh", "-c", "echo made > /made"]
FROM scratch
COPY --from=tools /made /made
COPY a /a
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    shutil.copy(str(shutil.which("busybox")), directory / "busybox")
    (directory / "a").write_text("a")
    (directory / "Dockerfile").write_text(DOCKERFILE)
    return directory


def contain(store: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CONTAIN_HOME": str(store), "DOCKER_CONFIG": str(store / "none"), "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "contain.cli.start", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)


def outcomes(process: subprocess.CompletedProcess[str]) -> list[str]:
    assert process.returncode == 0, process.stderr
    return [line.split()[1] for line in process.stderr.splitlines() if line.split()[1:2] in (["HIT"], ["MISS"], ["OPEN"])]


@pytest.mark.parametrize("compression", ["zstd", "gzip", "uncompressed"])
def test_a_second_machine_builds_nothing_again(
    compression: str, context: Path, tmp_path: Path, start_registry: Callable[..., Server]
) -> None:
    server = start_registry()
    reference = f"{server.host}/team/app:cache"
    to = f"type=registry,ref={reference},mode=max,compression={compression}"
    first = contain(tmp_path / "one", "build", "--explain", "--cache-to", to, context)
    assert outcomes(first) == ["MISS"] * 4
    manifest = json.loads(fetch_manifest(parse_reference(reference)).data)
    assert manifest["artifactType"] == "application/vnd.contain.build-cache.v1"
    assert len(manifest["layers"]) == 3  # what the RUN made and what is copied from it are one layer
    second = contain(tmp_path / "two", "build", "--explain", "--cache-from", reference, context)
    assert outcomes(second) == ["HIT"] * 4
    assert second.stdout == first.stdout
    # A change is explained against what the other machine did.
    (context / "a").write_text("b")
    third = contain(tmp_path / "three", "build", "--explain", "--cache-from", reference, context)
    assert sorted(outcomes(third)) == ["HIT", "HIT", "HIT", "MISS"]
    assert "MISS COPY a /a  1 file changed: a (content)" in third.stderr


def test_what_a_build_writes_it_can_read_in_the_next_one(
    context: Path, tmp_path: Path, start_registry: Callable[..., Server]
) -> None:
    """The way of a CI: every run begins with an empty store, reads the cache and writes it."""
    reference = f"{start_registry().host}/team/app:cache"
    for number in range(3):
        (context / "a").write_text(str(number // 2))
        flags = ["--cache-from", reference, "--cache-to", f"type=registry,ref={reference},mode=max"]
        run = contain(tmp_path / str(number), "build", "--explain", *flags, context)
        found = outcomes(run)
        if number == 0:
            assert "warning: --cache-from" in run.stderr
            assert found == ["MISS"] * 4
        else:
            assert found.count("MISS") == (1 if number == 2 else 0)


def test_a_directory_keeps_what_is_needed_and_no_more(context: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    sizes = []
    for number in range(3):
        (context / "a").write_text(str(number))
        run = contain(tmp_path / "store", "build", "--cache-to", f"type=local,dest={cache},mode=max", context)
        assert run.returncode == 0, run.stderr
        sizes.append(len(list((cache / "blobs/sha256").iterdir())))
    assert sizes == [5, 5, 5]
    index = json.loads((cache / "index.json").read_text())
    assert len(index["manifests"]) == 1
    other = contain(tmp_path / "store", "build", "--cache-to", f"type=local,dest={cache},tag=other", context)
    assert other.returncode == 0, other.stderr
    assert len(json.loads((cache / "index.json").read_text())["manifests"]) == 2
    again = contain(tmp_path / "two", "build", "--explain", "--cache-from", f"type=local,src={cache}", context)
    assert outcomes(again) == ["HIT"] * 4


def test_a_registry_that_does_not_answer_fails_a_build_only_where_it_must_be_written(context: Path, tmp_path: Path) -> None:
    reference = "127.0.0.1:1/team/app:cache"
    run = contain(tmp_path / "store", "build", "--cache-from", reference, context)
    assert run.returncode == 0, run.stderr
    assert "warning: --cache-from 127.0.0.1:1/team/app:cache: not used: " in run.stderr
    run = contain(tmp_path / "store", "build", "--cache-to", reference, context)
    assert run.returncode == 1
    run = contain(tmp_path / "store", "build", "--cache-to", f"type=registry,ref={reference},ignore-error=true", context)
    assert run.returncode == 0, run.stderr
    assert "not written" in run.stderr
