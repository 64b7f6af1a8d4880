"""What ``contain events`` tells of real containers, and ``contain update`` of their limits."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
]
SECONDS = 40


class Scene:
    """A store with the image ``small``."""

    def __init__(self, directory: Path) -> None:
        self.environment = {**os.environ, "CONTAIN_HOME": str(directory / "home"), "LC_ALL": "C.UTF-8"}
        self.command = [sys.executable, "-m", "contain.cli.start"]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def ok(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    def events(self, *words: str) -> list[dict[str, Any]]:
        shown = self.ok("events", "--since", "1h", "--until", "0s", "--format", "json", *words)
        return [json.loads(line) for line in shown.splitlines()]

    def actions(self, name: str) -> list[str]:
        return [str(row["Action"]) for row in self.events("--filter", f"container={name}")]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, small_tree: Path) -> Scene:
    directory = tmp_path_factory.mktemp("events")
    made = Scene(directory)
    archive = directory / "small.tar"
    with tarfile.open(archive, "w") as file:
        file.add(small_tree, arcname=".")
    made.ok("import", str(archive), "small")
    return made


@pytest.fixture
def scene(shared: Scene) -> Iterator[Scene]:
    try:
        yield shared
    finally:
        names = shared.ok("ps", "-a", "-q").split()
        if names:
            shared.run("rm", "-f", *names)


def test_a_life_is_told_in_order(scene: Scene) -> None:
    scene.ok("run", "-d", "--network=none", "--name", "life", "--label", "tier=front", "small", "sleep", "100")
    scene.ok("pause", "life")
    scene.ok("unpause", "life")
    scene.ok("exec", "life", "true")
    scene.ok("rename", "life", "other")
    scene.ok("stop", "-t", "0", "other")
    scene.ok("rm", "other")
    rows = scene.events("--filter", "label=tier=front")
    assert [row["Action"] for row in rows] == [
        *("create", "start", "pause", "unpause", "exec_create: true", "exec_start: true", "exec_die"),
        *("rename", "kill", "kill", "die", "stop", "destroy"),
    ]
    assert {row["Actor"]["ID"] for row in rows} == {rows[0]["id"]}
    died = next(row for row in rows if row["Action"] == "die")
    assert died["Actor"]["Attributes"]["exitCode"] == "137"
    assert died["Actor"]["Attributes"]["name"] == "other"


def test_with_rm_the_end_is_told_too(scene: Scene) -> None:
    done = scene.run("run", "--rm", "--network=none", "--name", "brief", "small", "sh", "-c", "exit 3")
    assert done.returncode == 3
    assert scene.actions("brief") == ["create", "start", "die", "destroy"]


def test_who_watches_sees_it_at_once(scene: Scene) -> None:
    template = "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}"
    with subprocess.Popen(
        [*scene.command, "events", "--filter", "container=seen", "--format", template],
        env=scene.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as watching:
        try:
            assert watching.stdout is not None
            position = 0
            while not position:  # until it has the journal open
                for name in os.listdir(f"/proc/{watching.pid}/fd"):
                    with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
                        if os.path.realpath(f"/proc/{watching.pid}/fd/{name}").endswith("/journal"):
                            text = Path(f"/proc/{watching.pid}/fdinfo/{name}").read_text()
                            position = int(text.split()[1])
            scene.ok("create", "--network=none", "--name", "seen", "small", "true")
            assert watching.stdout.readline() == "container create seen\n"
            scene.ok("rm", "seen")
            assert watching.stdout.readline() == "container destroy seen\n"
        finally:
            watching.kill()


def test_volumes_and_images_are_told_too(scene: Scene) -> None:
    scene.ok("volume", "create", "kept")
    scene.ok("volume", "rm", "kept")
    scene.ok("tag", "small", "smaller")
    scene.ok("rmi", "smaller")
    told = [(row["Type"], row["Action"]) for row in scene.events() if row["Type"] in ("volume", "image")]
    assert [row for row in told if row[0] == "volume"] == [("volume", "create"), ("volume", "destroy")]
    assert ("image", "tag") in told
    assert ("image", "untag") in told


def test_an_update_takes_effect_at_once_and_stays(scene: Scene) -> None:
    scene.ok("run", "-d", "--network=none", "--name", "box", "small", "sleep", "100")
    done = scene.run("update", "--pids-limit", "77", "--restart", "on-failure:2", "box")
    if done.returncode and "controller" in done.stderr:
        pytest.skip("this machine has no pids control group controller")
    assert done.stdout == "box\n", done.stderr
    found = json.loads(scene.ok("inspect", "box"))[0]
    assert (found["HostConfig"]["PidsLimit"], found["HostConfig"]["RestartPolicy"]) == (
        77,
        {"Name": "on-failure", "MaximumRetryCount": 2},
    )
    assert "77" in [value.get("pids.max") for value in (found["Effective"]["Limits"] or {}).values()]
    scene.ok("stop", "-t", "0", "box")
    scene.ok("start", "box")
    again = json.loads(scene.ok("inspect", "box"))[0]
    assert "77" in [value.get("pids.max") for value in (again["Effective"]["Limits"] or {}).values()]


def test_prune_removes_what_does_not_run_and_nothing_else(scene: Scene) -> None:
    scene.ok("run", "-d", "--network=none", "--name", "runs", "small", "sleep", "100")
    scene.ok("create", "--network=none", "--name", "kept", "--label", "keep=1", "small", "true")
    ended = scene.ok("create", "--network=none", "--name", "ended", "small", "true").strip()
    shown = scene.ok("container", "prune", "-f", "--filter", "label!=keep")
    assert ended in shown
    assert "Total reclaimed space: 0B" in shown
    assert set(scene.ok("ps", "-a", "--format", "{{.Names}}").split()) == {"runs", "kept"}
