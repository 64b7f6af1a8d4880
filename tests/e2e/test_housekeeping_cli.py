"""What takes space, what can go and what happened, as somebody asks who knows Docker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Server

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


# -- prune ---------------------------------------------------------------------------------------------------------------------


def test_image_prune_takes_what_its_filters_name_at_once(cli: CommandLine) -> None:
    first = cli.build("app", "FROM small\nRUN echo 1 >/x\nLABEL stage=one\n")
    second = cli.build("app", "FROM small\nRUN echo 2 >/x\nLABEL stage=two keep=yes\n")
    third = cli.build("app", "FROM small\nRUN echo 3 >/x\n")

    def images() -> set[str]:
        return set(cli.good("images", "-q", "--no-trunc").split())

    assert {first, second, third} < images()
    cli.good("image", "prune", "-f", "--filter", "until=1h")
    cli.good("image", "prune", "-f", "--filter", "label=stage=three")
    assert {first, second, third} < images()
    said = cli.good("image", "prune", "-f", "--filter", "label=stage", "--filter", "label!=keep")
    assert f"Deleted: {first}\n  app:latest cannot be rolled back to it any more\n" in said
    assert {second, third} < images()
    assert first not in images()
    cli.good("image", "prune", "-f")
    assert second not in images()
    assert third in images()


def test_image_prune_of_all_leaves_what_a_container_uses(cli: CommandLine) -> None:
    used = cli.build("used", "FROM small\nLABEL a=1\n")
    idle = cli.build("idle", "FROM small\nLABEL a=2\n")
    cli.good("create", "--network=none", "used", "true")
    said = cli.good("image", "prune", "-f", "--filter", "dangling=false", "--filter", "label=a")
    assert "untagged: idle:latest\n" in said
    assert f"Deleted: {idle}\n" in said
    assert set(cli.good("images", "--format", "{{.Repository}}").split()) == {"used", "small"}
    said = cli.good("image", "prune", "-a", "-f")
    assert "untagged: small:latest\n" in said
    assert cli.good("images", "-q", "--no-trunc").split() == [used]
    assert cli.good("run", "--rm", "--network=none", "used", "echo", "still here") == "still here\n"


def test_an_image_that_somebody_works_with_is_not_pruned(cli: CommandLine) -> None:
    from contain.store import Store

    digest = cli.build("app", "FROM small\nRUN echo 1 >/x\n")
    with Store.open(cli.home) as store, store.lease(digest):
        cli.good("image", "prune", "-a", "-f")
        assert digest in cli.good("images", "-q", "--no-trunc").split()
    cli.good("image", "prune", "-a", "-f")
    assert digest not in cli.good("images", "-q", "--no-trunc").split()


def test_system_prune_has_the_filters_for_all_that_it_removes(cli: CommandLine) -> None:
    for name in ("kept", "gone"):
        flags = ("--label", "keep=1") if name == "kept" else ()
        cli.good("create", "--network=none", "--name", name, *flags, "small", "true")
        cli.good("network", "create", *flags, f"net-{name}")
        cli.build(name, f"FROM small\nRUN echo {name} >/x\n" + ("LABEL keep=1\n" if flags else ""))
        cli.good("tag", "small", name)  # the image that was built has no name any more
    said = cli.good("system", "prune", "-f", "--filter", "label!=keep")
    assert cli.good("ps", "-a", "--format", "{{.Names}}") == "kept\n"
    names = cli.good("network", "ls", "--format", "{{.Name}}").split()
    assert "net-kept" in names
    assert "net-gone" not in names
    assert len(cli.good("images", "-q", "--filter", "dangling=true").split()) == 1
    assert "Deleted Networks:\nnet-gone\n" in said
    asked = cli("system", "prune", "--filter", "label!=keep")
    assert "Items to be pruned will be filtered with:\n  - label!=keep\n" in asked.stdout
    refused = cli("system", "prune", "-f", "--volumes", "--filter", "until=1h")
    assert refused.returncode == 1
    assert 'The "until" filter is not supported with "--volumes"' in refused.stderr


# -- events --------------------------------------------------------------------------------------------------------------------


def told(cli: CommandLine, *flags: str) -> list[dict[str, Any]]:
    shown = cli.good("events", "--since", "1h", "--until", "0s", "--format", "json", *flags)
    return [json.loads(line) for line in shown.splitlines()]


def actions(rows: list[dict[str, Any]]) -> list[str]:
    return [f"{row['Type']} {row['Action']}" for row in rows]


def test_events_tell_what_a_container_does_to_networks_and_volumes(cli: CommandLine) -> None:
    container = cli.good("run", "-d", "--network=none", "-v", "kept:/keep:ro", "-v", "/own", "small", "sleep", "100").strip()
    cli.good("rm", "-f", "-v", container)
    rows = [row for row in told(cli) if row["Type"] in ("network", "volume") or row["Action"] in ("create", "start", "die")]
    assert actions(rows) == [
        *("volume create", "volume create", "container create"),
        *("network connect", "volume mount", "volume mount", "container start"),
        *("container die", "network disconnect", "volume unmount", "volume unmount"),
        "volume destroy",
    ]
    assert {row["Actor"]["Attributes"]["container"] for row in rows if row["Action"] in ("connect", "mount", "unmount")} == {
        container
    }
    mounted = told(cli, "--filter", "volume=kept", "--filter", "event=mount")
    assert mounted[0]["Actor"]["Attributes"] == {
        "container": container,
        "destination": "/keep",
        "driver": "local",
        "propagation": "",
        "read/write": "false",
    }
    joined = told(cli, "--filter", "network=none")
    assert [row["Action"] for row in joined] == ["connect", "disconnect"]
    assert joined[0]["Actor"]["Attributes"] == {"container": container, "name": "none", "type": "null"}


def test_events_tell_of_networks_that_a_running_container_joins_and_leaves(cli: CommandLine) -> None:
    network = cli.good("network", "create", "second").strip()
    cli.good("run", "-d", "--network=none", "--name", "alone", "small", "sleep", "100")
    cli.good("create", "--network=second", "--name", "box", "small", "sleep", "100")
    cli.good("network", "disconnect", "second", "box")
    assert actions(told(cli, "--filter", "network=second")) == ["network create"], "a container that does not run joins nothing"
    cli.good("start", "box")
    cli.good("network", "connect", "second", "box")
    cli.good("network", "disconnect", "second", "box")
    cli.good("network", "rm", "second")
    rows = told(cli, "--filter", "type=network", "--filter", "network=second")
    assert [row["Action"] for row in rows] == ["create", "connect", "disconnect", "destroy"]
    assert {row["Actor"]["ID"] for row in rows} == {network}


def test_events_tell_what_becomes_of_images(cli: CommandLine, tmp_path: Path) -> None:
    digest = cli.build("app:1", "FROM small\nLABEL tier=front\n")
    cli.good("tag", "app:1", "app:2")
    cli.good("save", "-o", str(tmp_path / "app.tar"), "app:1")
    cli.good("rmi", "app:1", "app:2")
    cli.good("load", "-i", str(tmp_path / "app.tar"))
    cli.good("rmi", "app:1")
    cli.good("image", "prune", "-f")
    rows = told(cli, "--filter", "label=tier=front")
    assert [row["Action"] for row in rows] == ["tag", "tag", "save", "untag", "untag", "delete", "load", "untag", "delete"]
    assert {row["id"] for row in rows} == {digest}
    assert actions(told(cli, "--filter", "image=app", "--filter", "event=tag")) == ["image tag", "image tag"]
    assert actions(told(cli, "--filter", "event=prune")) == ["image prune"]


def test_events_tell_what_is_taken_out_of_a_container(cli: CommandLine, tmp_path: Path) -> None:
    cli.good("create", "--network=none", "--name", "box", "small", "true")
    cli.good("cp", "box:/etc/passwd", str(tmp_path / "passwd"))
    cli.good("cp", str(tmp_path / "passwd"), "box:/tmp/passwd")
    cli.good("export", "-o", str(tmp_path / "box.tar"), "box")
    digest = cli.good("commit", "box", "kept:1").strip()
    rows = told(cli, "--filter", "container=box")
    assert [row["Action"] for row in rows] == ["create", "archive-path", "extract-to-dir", "export", "commit"]
    assert rows[-1]["Actor"]["Attributes"]["imageID"] == digest
    assert rows[-1]["Actor"]["Attributes"]["imageRef"] == "kept:1"


def test_events_tell_what_goes_to_a_registry_and_comes_from_there(
    cli: CommandLine, start_registry: Callable[..., Server]
) -> None:
    place = f"{start_registry().host}/app"
    digest = cli.build(f"{place}:1", "FROM small\nLABEL tier=front\n")
    cli.good("push", "-q", f"{place}:1")
    cli.good("rmi", "-f", f"{place}:1")
    cli.good("run", "--rm", "--network=none", f"{place}:1", "true")
    cli.good("pull", "-q", f"{place}:1")
    rows = told(cli, "--filter", "label=tier=front", "--filter", "type=image")
    assert [row["Action"] for row in rows] == ["tag", "push", "untag", "delete", "pull", "pull"]
    assert {row["id"] for row in rows if row["Action"] in ("push", "pull")} == {f"{place}:1"}
    assert {row["Actor"]["Attributes"]["name"] for row in rows if row["Action"] == "pull"} == {place}
    assert rows[0]["id"] == digest
