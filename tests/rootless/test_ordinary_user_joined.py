"""An ordinary user's containers: copied into and out of, attached to, and told of."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import pytest

Ordinary = Any  # tests/rootless/conftest.py

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")


@pytest.fixture
def image(ordinary: Ordinary, small_archive: bytes) -> Ordinary:
    """A user who has the image ``small``."""
    ordinary.ok("import", "-", "small", stdin=small_archive)
    return ordinary


def test_files_go_in_and_out_whether_it_runs_or_not(image: Ordinary) -> None:
    given = image.place / "given"
    given.write_text("of the user\n")
    os.chown(given, image.user_id, image.group_id)
    image.ok("run", "-d", "--network", "none", "--name", "box", "-v", "kept:/kept", "small", "sleep", "1000")
    image.ok("cp", str(given), "box:/tmp/in")
    image.ok("cp", str(given), "box:/kept")
    assert image.ok("exec", "box", "cat", "/tmp/in", "/kept/given") == "of the user\nof the user"
    assert image.ok("exec", "box", "stat", "-c", "%u", "/tmp/in") == "0"
    image.ok("stop", "-t", "0", "box")
    image.ok("cp", str(given), "box:/tmp/later")
    image.ok("cp", "box:/tmp/.", str(image.place / "out"))
    image.ok("cp", "box:/kept/given", str(image.place / "from-volume"))
    assert (image.place / "out/in").read_text() == (image.place / "out/later").read_text() == "of the user\n"
    assert (image.place / "out/later").stat().st_uid == image.user_id
    assert (image.place / "from-volume").read_text() == "of the user\n"
    image.ok("start", "box")
    assert image.ok("exec", "box", "cat", "/tmp/later") == "of the user"


def test_another_command_attaches_to_a_detached_container(image: Ordinary) -> None:
    image.ok("run", "-di", "--network", "none", "--name", "asks", "small", "sh", "-c", "read x; echo got $x; exit 3")
    done = image.contain("attach", "asks", stdin=b"one\n")
    assert (done.returncode, done.stdout.strip()) == (3, "got one"), done.stderr
    shown = image.ok("events", "--since", "1h", "--until", "0s", "--filter", "container=asks", "--format", "json")
    actions = [json.loads(line)["Action"] for line in shown.splitlines()]
    assert actions == ["create", "start", "attach", "die"]
