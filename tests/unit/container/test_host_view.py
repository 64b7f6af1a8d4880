"""What an ordinary user's container sees of the machine's own root."""

from __future__ import annotations

import stat
from pathlib import Path, PurePosixPath

from contain.container.files.host_view import Entry, plan_host_view
from contain.spec import Bind, CopyOnWrite, Tmpfs

D, F, L = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777

MACHINE: dict[str, list[Entry]] = {
    "/": [
        ("bin", L),
        ("data", D),
        ("dev", D),
        ("etc", D),
        ("proc", D),
        ("root", stat.S_IFDIR | 0o700),
        ("srv", D),
        ("swap", F),
    ],
    "/srv": [("a", D), ("b", D), ("note", F)],
}


def view(*mount_points: str, layers: dict[str, tuple[Path, ...] | None] | None = None) -> tuple[dict[str, object], object]:
    found = plan_host_view(
        frozenset(mount_points),
        MACHINE.__getitem__,
        lambda path: f"to-{path}",
        lambda path: (layers or {}).get(path, ()),
        lambda path: path != "/root",
    )
    return {str(mount.target): mount for mount in found.mounts}, found.links


def copy(path: str, *above: Path) -> CopyOnWrite:
    return CopyOnWrite(sources=(*above, Path(path)), target=PurePosixPath(path), optional=True)


def test_each_directory_is_had_for_itself_and_links_stay_links() -> None:
    mounts, links = view()
    assert mounts["/srv"] == copy("/srv")
    assert mounts["/etc"] == copy("/etc")
    assert mounts["/swap"] == Bind(source=Path("/swap"), target=PurePosixPath("/swap"), read_only=True, optional=True)
    assert links == (("/bin", "to-/bin"),)
    assert "/proc" not in mounts
    assert "/dev" not in mounts


def test_what_is_mounted_shows_empty_and_what_lies_beside_it_shows() -> None:
    mounts, _ = view("/data", "/srv/a")
    assert mounts["/data"] == Tmpfs(target=PurePosixPath("/data"), mode=0o755)
    assert "/srv" not in mounts
    assert mounts["/srv/a"] == Tmpfs(target=PurePosixPath("/srv/a"), mode=0o755)
    assert mounts["/srv/b"] == copy("/srv/b")
    assert mounts["/srv/note"] == Bind(
        source=Path("/srv/note"), target=PurePosixPath("/srv/note"), read_only=True, optional=True
    )


def test_a_directory_that_is_closed_to_the_user_is_empty_and_the_containers() -> None:
    assert view()[0]["/root"] == Tmpfs(target=PurePosixPath("/root"), mode=0o700, executable=True)


def test_layers_lie_over_the_machines_directories_and_may_take_them_away() -> None:
    mounts, links = view(layers={"/etc": (Path("/layer/etc"),), "/srv": None, "/bin": None})
    assert mounts["/etc"] == copy("/etc", Path("/layer/etc"))
    assert "/srv" not in mounts
    assert links == ()


def test_a_directory_in_too_many_pieces_is_seen_as_a_whole_and_read_only() -> None:
    names = [f"d{number}" for number in range(500)]
    machine = {"/": [(name, D) for name in ("srv", *names)], "/srv": [(name, D) for name in names]}
    found = plan_host_view(frozenset({"/srv/d7/x"}), lambda path: machine.get(path, []), str, lambda _: ())
    whole = Bind(source=Path("/srv"), target=PurePosixPath("/srv"), read_only=True)
    assert found.mounts == (whole, *(copy(f"/{name}") for name in names))
