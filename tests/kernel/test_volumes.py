"""Volumes on disk: a command may be killed before any of its steps, and two may work at once; no volume is ever half made or lost."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contain.container.files.volumes import Volumes
from contain.container.lifecycle.records import describe_spec
from contain.container.request.mounts import resolve_mounts
from contain.errors import Conflict, NotFound, UsageError
from contain.paths import ContainerPath
from contain.spec import ContainerSpec, Identity, Limits, Network, Volume

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="sets owners: needs root"),
]
CHANGES = frozenset(
    [
        "os.mkdir",
        "os.rename",
        "os.remove",
        "os.rmdir",
        "os.link",
        "os.symlink",
        "os.chmod",
        "os.chown",
        "os.utime",
        "os.setxattr",
    ]
)
"""Audit events of what changes names and attributes on disk (sys.addaudithook); ``open`` is counted where it writes."""


def details(home: Path, *layers: Path, anonymous: bool = False, copy: bool = True, target: str = "/data") -> dict[str, Any]:
    name = "f" * 64 if anonymous else "vol"
    volume = Volume(
        name=name,
        source=home / "volumes" / name / "_data",
        target=ContainerPath(target),
        copy=copy,
        anonymous=anonymous,
    )
    spec = ContainerSpec(
        container_id="a" * 64,
        name="x",
        image_digest="",
        image_name="",
        layers=layers,
        upper=None,
        arguments=("true",),
        environment=(),
        working_directory=ContainerPath("/"),
        identity=Identity(),
        hostname="x",
        mounts=resolve_mounts((volume,), container_id="a" * 64, home=home),
        network=Network.NONE,
        limits=Limits(),
        read_only=False,
        terminal=False,
        stop_signal=15,
        capabilities=frozenset(),
    )
    return describe_spec(spec)


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    tree = tmp_path / "layer"
    (tree / "data/sub/deep").mkdir(parents=True)
    (tree / "data/sub/deep/file").write_text("deep")
    (tree / "data/one").write_text("one")
    os.link(tree / "data/one", tree / "data/two")
    (tree / "data/link").symlink_to("sub")
    os.mkfifo(tree / "data/fifo")
    os.setxattr(tree / "data/one", "user.a", b"b")
    os.chown(tree / "data", 3, 4)
    (tree / "data").chmod(0o1770)
    return tree


def shape(place: Path) -> list[tuple[object, ...]]:
    """Names, kinds, modes, owners, links, sizes and attributes below a directory, and of itself."""
    found: list[tuple[object, ...]] = []
    for path in [place, *sorted(place.rglob("*"))]:
        status = path.lstat()
        links = 0 if path.is_dir() else status.st_nlink
        marks = () if path.is_symlink() else tuple((name, os.getxattr(path, name)) for name in os.listxattr(path))
        found.append((str(path.relative_to(place)), status.st_mode, status.st_uid, status.st_gid, links, marks))
    return found


def killed_before_step(number: int, work: Callable[[], None]) -> bool:
    """Run in a child that SIGKILL ends right before its Nth change of the disk; whether it was killed."""
    child = os.fork()
    if child == 0:
        left = number

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if event in CHANGES or writes:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        with contextlib.suppress(BaseException):
            work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def fill(volumes: Volumes, wanted: dict[str, Any]) -> None:
    with volumes.hold(wanted):
        pass


def steps() -> Iterator[int]:
    yield from range(200)
    pytest.fail("the work has no end")


def test_a_kill_before_any_step_of_filling_leaves_nothing_half_made(tmp_path: Path, layer: Path) -> None:
    killed = 0
    for number in steps():
        home = tmp_path / f"home{number}"
        volumes, wanted = Volumes(home), details(home, layer)
        was_killed = killed_before_step(number, lambda volumes=volumes, wanted=wanted: fill(volumes, wanted))  # type: ignore[misc]
        fill(volumes, wanted)
        assert shape(home / "volumes/vol/_data") == shape(layer / "data"), f"killed before step {number}"
        assert sorted(os.listdir(home / "volumes")) == [".lock", "vol"]
        assert sorted(os.listdir(home / "volumes/vol")) == ["_data", "lock", "volume.json"]
        if not was_killed:
            break
        killed += 1
    assert killed > 20


def test_a_kill_before_any_step_of_removing_leaves_a_whole_volume_or_none(tmp_path: Path, layer: Path) -> None:
    whole = gone = 0
    for number in steps():
        home = tmp_path / f"home{number}"
        volumes = Volumes(home)
        fill(volumes, details(home, layer))
        was_killed = killed_before_step(number, lambda volumes=volumes: volumes.remove("vol", dict))  # type: ignore[misc]
        if [record.name for record in volumes.all()] == ["vol"]:
            whole += 1
            assert shape(home / "volumes/vol/_data") == shape(layer / "data")
        else:
            gone += 1
        volumes.create("other")  # any command after it clears what is left
        assert [name for name in os.listdir(home / "volumes") if name.startswith((".gone", ".new"))] == []
        if not was_killed:
            break
    assert whole > 0
    assert gone > 1


def test_what_somebody_wrote_meanwhile_stays(tmp_path: Path, layer: Path) -> None:
    volumes = Volumes(tmp_path / "home")
    volumes.create("vol")
    place = volumes.place("vol")
    (place / "incoming").mkdir()
    (place / "incoming/one").write_text("of the image")
    (place / "incoming/two").write_text("of the image")
    (place / "_data/one").write_text("of a container")
    fill(volumes, details(tmp_path / "home", layer))
    assert {path.name: path.read_text() for path in (place / "_data").iterdir()} == {
        "one": "of a container",
        "two": "of the image",
    }


def test_a_volume_that_a_container_is_about_to_use_cannot_be_removed(tmp_path: Path, layer: Path) -> None:
    volumes = Volumes(tmp_path / "home")
    with volumes.hold(details(tmp_path / "home", layer)):
        with pytest.raises(Conflict, match="volume is in use") as caught:
            volumes.remove("vol", dict)
        assert caught.value.code == "volume-in-use"
    volumes.remove("vol", dict)
    with pytest.raises(NotFound):
        volumes.find("vol")


def test_nobody_takes_away_what_another_command_is_just_removing(tmp_path: Path) -> None:
    volumes = Volumes(tmp_path / "home")
    volumes.create("vol")
    gone = volumes.directory / ".gone-x"
    os.rename(volumes.place("vol"), gone)
    descriptor = os.open(gone, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    volumes.create("other")
    assert gone.exists()
    os.close(descriptor)
    volumes.create("third")
    assert not gone.exists()


def test_a_container_that_is_not_made_leaves_no_volume_without_a_name(tmp_path: Path, layer: Path) -> None:
    volumes = Volumes(tmp_path / "home")
    with contextlib.suppress(ZeroDivisionError), volumes.hold(details(tmp_path / "home", layer, anonymous=True)):
        assert len(volumes.all()) == 1
        raise ZeroDivisionError
    assert volumes.all() == ()
    with pytest.raises(UsageError, match="cannot mount volume over existing file"):
        fill(volumes, details(tmp_path / "home", layer, anonymous=True, target="/data/one"))
    assert volumes.all() == ()


def test_links_of_the_image_are_followed_inside_it_only(tmp_path: Path, layer: Path) -> None:
    (layer / "out").symlink_to("../../../../../../../../data")
    home = tmp_path / "home"
    fill(Volumes(home), details(home, layer, target="/out/link"))
    assert [path.name for path in (home / "volumes/vol/_data").iterdir()] == ["deep"]


def test_what_an_upper_layer_took_away_is_not_copied(tmp_path: Path, layer: Path) -> None:
    above = tmp_path / "above"
    (above / "data").mkdir(parents=True)
    os.mknod(above / "data/one", 0o020000, 0)
    os.mknod(above / "data/sub", 0o020000, 0)
    home = tmp_path / "home"
    fill(Volumes(home), details(home, layer, above))
    assert sorted(path.name for path in (home / "volumes/vol/_data").iterdir()) == ["fifo", "link", "two"]


@pytest.mark.machine
def test_device_nodes_of_an_image_do_not_get_into_a_volume(tmp_path: Path, layer: Path) -> None:
    os.mknod(layer / "data/null", 0o020666, os.makedev(1, 3))
    os.mknod(layer / "data/disk", 0o060666, os.makedev(7, 200))
    home = tmp_path / "home"
    fill(Volumes(home), details(home, layer))
    assert sorted(path.name for path in (home / "volumes/vol/_data").iterdir()) == ["fifo", "link", "one", "sub", "two"]


def test_records_that_nobody_can_read_are_no_volumes(tmp_path: Path) -> None:
    volumes = Volumes(tmp_path / "home")
    volumes.create("good")
    for name, text in (("empty", ""), ("list", "[]"), ("labels", '{"created_seconds": 1, "labels": 3}')):
        (volumes.directory / name).mkdir()
        (volumes.directory / name / "volume.json").write_text(text)
    assert [record.name for record in volumes.all()] == ["good"]
    for name in ("../volumes/good", ".", "..", "", "good/", "go\0od"):
        with pytest.raises(NotFound, match="no such volume"):
            volumes.find(name)
