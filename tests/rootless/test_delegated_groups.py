"""Limits of an ordinary user's containers where root has delegated control groups (cgroups(7); systemd's ``Delegate=yes``)."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Ordinary = Any  # tests/rootless/conftest.py

pytestmark = [
    pytest.mark.root,
    pytest.mark.machine,
    pytest.mark.skipif(not sys.platform.startswith("linux") or os.geteuid() != 0, reason="needs root: it delegates"),
]

_TOP = Path("/sys/fs/cgroup")
_CONTROLLERS = ("memory", "pids")


class Delegated:
    """Groups of a user, and the groups below them in which the user's shell is."""

    def __init__(self, user: Ordinary, given: list[Path], joined: list[Path]) -> None:
        self.user, self.given, self._joined = user, given, joined

    def join(self) -> None:
        """Becomes part of them: done by the shell's process, as root."""
        for place in self._joined:
            (place / "cgroup.procs").write_text("0")

    def contain(self, *words: str) -> Any:
        return self.user.contain(*words, private=self.join)

    def ok(self, *words: str) -> str:
        out: str = self.user.ok(*words, private=self.join)
        return out

    def left(self) -> list[Path]:
        """What is still there of containers."""
        return [path for place in self.given for path in place.glob("contain/*") if path.is_dir()]


def _give(place: Path, user: Ordinary) -> None:
    """What systemd gives away of a group: the directory and the files for delegation."""
    for path in (place, place / "cgroup.procs", place / "cgroup.subtree_control", place / "cgroup.threads", place / "tasks"):
        if path.exists():
            os.chown(path, user.user_id, user.group_id)


def _make_second(made: list[Path], user: Ordinary) -> tuple[list[Path], list[Path]]:
    """As systemd lays them out: a service that is the user's, and in it a scope with the shell."""
    wanted = " ".join(f"+{name}" for name in _CONTROLLERS)
    place = _TOP
    for part in (f"contain-test-{os.getpid()}.slice", "user.service", "shell.scope"):
        with contextlib.suppress(OSError):
            (place / "cgroup.subtree_control").write_text(wanted)
        place = place / part
        place.mkdir()
        made.append(place)
    service, scope = made[1:]
    if not set(_CONTROLLERS) <= set((service / "cgroup.controllers").read_text().split()):
        pytest.skip("the topmost control group does not hand its controllers down here")
    _give(service, user)
    _give(scope, user)
    return [service], [scope]


def _make_first(made: list[Path], user: Ordinary) -> tuple[list[Path], list[Path]]:
    """As docs/rootless.md says, in each hierarchy."""
    for name in (*_CONTROLLERS, "freezer"):
        if not (_TOP / name / "cgroup.procs").exists():
            pytest.skip(f"no control group hierarchy with {name!r}")
        made.append(_TOP / name / f"contain-test-{os.getpid()}")
        made[-1].mkdir()
        _give(made[-1], user)
    return made, made


@pytest.fixture(params=["ordinary", "single"])
def delegated(request: pytest.FixtureRequest, small_archive: bytes) -> Iterator[Delegated]:
    user = request.getfixturevalue(request.param)
    user.ok("import", "-", "small", stdin=small_archive)
    made: list[Path] = []
    try:
        make: Callable[[list[Path], Ordinary], tuple[list[Path], list[Path]]]
        make = _make_second if (_TOP / "cgroup.controllers").exists() else _make_first
        one = Delegated(user, *make(made, user))
        yield one
        for name in user.ok("ps", "-aq").split():
            one.contain("rm", "-f", name)
        assert not one.left()
    finally:
        for place in reversed(made):
            for path in sorted(place.rglob("*"), reverse=True):
                if path.is_dir():
                    path.rmdir()
            place.rmdir()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_more_memory_than_the_limit_is_the_end_of_it(delegated: Delegated) -> None:
    take = "x=$(head -c 200000000 /dev/zero | tr '\\0' a); echo survived"
    done = delegated.contain("run", "--network", "none", "--name", "web", "-m", "32m", "small", "sh", "-c", take)
    assert "survived" not in done.stdout
    assert done.returncode == 137, (done.stdout, done.stderr)
    assert delegated.ok("inspect", "-f", "{{.State.OOMKilled}}", "web") == "true"


def test_more_processes_than_the_limit_there_are_not(delegated: Delegated) -> None:
    fork = "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; echo survived"
    done = delegated.contain("run", "--rm", "--network", "none", "--pids-limit", "5", "small", "sh", "-c", fork)
    assert "fork" in done.stderr
    assert (
        delegated.contain("run", "--rm", "--network", "none", "small", "sh", "-c", fork.replace("5 &", "0 &")).returncode == 0
    )


def test_it_is_paused_measured_and_stopped(delegated: Delegated) -> None:
    delegated.ok("run", "-d", "--network", "none", "--name", "web", "-m", "64m", "small", "sleep", "1000")
    assert "64MiB" in delegated.ok("stats", "--no-stream", "--format", "{{.MemUsage}}", "web")
    delegated.ok("pause", "web")
    assert delegated.ok("ps", "--format", "{{.Status}}").endswith("(Paused)")
    delegated.ok("unpause", "web")
    delegated.ok("update", "-m", "48m", "--memory-swap", "48m", "web")
    assert "48MiB" in delegated.ok("stats", "--no-stream", "--format", "{{.MemUsage}}", "web")
    delegated.ok("stop", "-t", "0", "web")
    delegated.ok("rm", "web")
    until(lambda: not delegated.left())


def test_doctor_sees_what_was_delegated(delegated: Delegated) -> None:
    rows = {line[:14].strip(): line.split()[2] for line in delegated.ok("doctor").splitlines() if line.startswith("cgroup ")}
    assert {rows["cgroup memory"], rows["cgroup pids"]} == {"ok"}


def test_a_group_with_the_shell_in_it_hands_nothing_down_and_that_is_said(delegated: Delegated) -> None:
    if not (_TOP / "cgroup.controllers").exists():
        pytest.skip("version 1 has no such rule")
    for path in (delegated.given[0], delegated.given[0] / "cgroup.procs"):
        os.chown(path, 0, 0)
    refused = delegated.contain("run", "--rm", "--network", "none", "-m", "32m", "small", "true")
    assert refused.returncode == 125
    assert "no internal processes" in refused.stderr
