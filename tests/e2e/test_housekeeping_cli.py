"""What takes space, what can go and what happened, as somebody asks who knows Docker."""

from __future__ import annotations

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


class CommandLine:
    """``contain`` with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "CONTAIN_HOME": str(home), "LC_ALL": "C.UTF-8"}
        self.program = (sys.executable, "-m", "contain.cli.start")

    def __call__(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        options.setdefault("stdin", None if "input" in options else subprocess.DEVNULL)
        return subprocess.run(
            [*self.program, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env=self.environment,
            check=False,
            **options,
        )

    def good(self, *arguments: str, **options: Any) -> str:
        """Standard output of a command that succeeds."""
        done = self(*arguments, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def build(self, name: str, dockerfile: str) -> str:
        """Build an image; its digest."""
        return self.good("build", "-q", "-t", name, "-", input=dockerfile).strip()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, small_tree: Path) -> Path:
    """A home with an image ``small``."""
    place = tmp_path_factory.mktemp("prepared")
    made = CommandLine(place / "home")
    with tarfile.open(place / "small.tar", "w") as file:
        file.add(small_tree, arcname=".")
    made.good("import", str(place / "small.tar"), "small")
    return made.home


@pytest.fixture
def cli(prepared: Path, tmp_path: Path) -> Iterator[CommandLine]:
    """A home of its own, copied from the prepared one."""
    made = CommandLine(tmp_path / "home")
    subprocess.run(["cp", "-a", prepared, made.home], check=True, timeout=60)
    yield made
    containers = made.home / "containers"
    names = [name for name in os.listdir(containers) if len(name) == 64] if containers.exists() else []
    if names:
        made("rm", "-f", *names)


# -- system df -----------------------------------------------------------------------------------------------------------------


def test_system_df_v_tells_what_images_share_and_what_each_thing_takes(cli: CommandLine) -> None:
    cli.build("one", "FROM small\nRUN head -c 3000000 /dev/zero >/three\n")
    cli.build("two", "FROM small\nRUN head -c 5000000 /dev/zero >/five\n")
    cli.good("run", "--network=none", "--name", "box", "-v", "data:/keep", "one", "sh", "-c", "head -c 2500 /dev/zero >/big")
    (cli.home / "volumes/data/_data/x").write_text("x" * 1500)
    found = json.loads(cli.good("system", "df", "-v", "--format", "json"))
    images = {row["Repository"]: row for row in found["Images"]}
    assert sorted(images) == ["one", "small", "two"]
    assert images["one"]["UniqueSize"] == "3MB"
    assert images["two"]["UniqueSize"] == "5MB"
    assert images["small"]["UniqueSize"] == "0B"
    assert {row["SharedSize"] for row in images.values()} == {images["small"]["Size"]}
    assert {name: row["Containers"] for name, row in images.items()} == {"one": "1", "two": "0", "small": "0"}
    assert [(row["Names"], row["Size"], row["LocalVolumes"]) for row in found["Containers"]] == [("box", "2.5kB", "1")]
    assert [(row["Name"], row["Links"], row["Size"]) for row in found["Volumes"]] == [("data", "1", "1.5kB")]
    assert found["BuildCache"] == []
    cli.good("rmi", "two")  # its layer stays for the next build
    found = json.loads(cli.good("system", "df", "-v", "--format", "json"))
    assert [(row["CacheType"], row["Size"], row["InUse"]) for row in found["BuildCache"]] == [("regular", "5MB", False)]
    shown = cli.good("system", "df", "-v")
    headings = [line.split("  ")[0] for line in shown.splitlines() if line.isupper()]
    assert "Images space usage:" in shown
    assert headings == ["REPOSITORY", "CONTAINER ID", "VOLUME NAME", "CACHE ID"]
    assert "Build cache usage: 5MB" in shown


def test_system_df_takes_templates(cli: CommandLine) -> None:
    cli.good("volume", "create", "idle")
    assert cli.good("system", "df", "--format", "{{.Type}}={{.TotalCount}}").splitlines() == [
        "Images=1",
        "Containers=0",
        "Local Volumes=1",
        "Build Cache=0",
    ]
    assert cli.good("system", "df", "--format", "table {{.Type}}\t{{.Active}}").splitlines()[0].split() == ["TYPE", "ACTIVE"]
    assert cli.good("system", "df", "-v", "--format", "{{range .Volumes}}{{.Name}} {{.Links}}{{end}}") == "idle 0\n"
    refused = cli("system", "df", "--format", "{{.Nonsense}}")
    assert refused.returncode == 1
    assert ".Reclaimable" in refused.stderr
