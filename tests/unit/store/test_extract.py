"""Layers that mean well and layers that do not, unpacked with openat2 and with the walker."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from contain.beneath import openat2_works
from contain.errors import HostError, IntegrityError
from contain.store import TarLimits, extract_tree
from contain.store.extract import Extracted
from contain.store.ownership import Ownership
from contain.store.tar_header import TarEntry, TarKind

ArchiveMaker = Callable[..., bytes]
MTIME_NS = 1_000_000_000 * 10**9


def directory(path: str, mode: int = 0o755) -> TarEntry:
    return TarEntry(path=path.encode(), kind=TarKind.DIRECTORY, mode=mode, mtime_ns=MTIME_NS)


def file(path: str, content: bytes = b"", mode: int = 0o644) -> tuple[TarEntry, bytes]:
    return TarEntry(path=path.encode(), kind=TarKind.FILE, mode=mode, size_bytes=len(content), mtime_ns=MTIME_NS), content


def symlink(target: str, path: str) -> TarEntry:
    return TarEntry(path=path.encode(), kind=TarKind.SYMLINK, link=target.encode(), mtime_ns=MTIME_NS)


def link(target: str, path: str) -> TarEntry:
    return TarEntry(path=path.encode(), kind=TarKind.HARD_LINK, link=target.encode())


@dataclass
class Jail:
    """A tree to unpack into, with things around it that must not change."""

    top: Path
    make: ArchiveMaker
    walker: bool

    @property
    def tree(self) -> Path:
        return self.top / "a" / "b" / "tree"

    def extract(
        self, *entries: object, whiteouts: bool = True, limits: TarLimits | None = None, require_end: bool = True
    ) -> Extracted:
        data = self.make(*entries)
        # One user's rule for all, so that the tests mean the same for root and for others.
        owner = Ownership(user_id=os.geteuid(), group_id=os.getegid())
        return extract_tree(
            io.BytesIO(data).read,
            self.tree,
            limits=limits or TarLimits(),
            whiteouts=whiteouts,
            require_end=require_end,
            walker=self.walker,
            ownership=owner,
        )

    def refuse(self, *entries: object, **options: object) -> str:
        with pytest.raises(IntegrityError) as caught:
            self.extract(*entries, **options)  # type: ignore[arg-type]
        return str(caught.value)

    def outside(self) -> list[tuple[str, int, int, bytes]]:
        found = []
        for directory, names, files in os.walk(self.top):
            names[:] = [name for name in names if Path(directory, name) != self.tree]
            for name in [*names, *files]:
                path = Path(directory, name)
                status = path.lstat()
                content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
                found.append((str(path), status.st_mode, status.st_nlink, content))
        return sorted(found)


@pytest.fixture(params=["openat2", "walker"])
def jail(request: pytest.FixtureRequest, tmp_path: Path, archive: ArchiveMaker) -> Iterator[Jail]:
    if request.param == "openat2" and not openat2_works():
        pytest.skip("openat2 is not available here")
    found = Jail(tmp_path, archive, request.param == "walker")
    found.tree.mkdir(parents=True)
    for name in ("a/b/passwd", "a/passwd", "passwd", "a/etc/passwd"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"outside")
        path.chmod(0o400)
    before = found.outside()
    yield found
    assert found.outside() == before, "something outside of the tree was changed"


def test_contents_modes_and_times_are_those_of_the_archive(jail: Jail) -> None:
    found = jail.extract(
        directory("usr", 0o555),
        file("usr/sudo", b"program", 0o4755),
        directory("tmp", 0o1777),
        symlink("usr/sudo", "s"),
        file("empty"),
    )
    assert (found.entries, found.content_bytes, found.root_entry) == (5, 7, False)
    assert (jail.tree / "usr/sudo").read_bytes() == b"program"
    assert stat.S_IMODE((jail.tree / "usr/sudo").stat().st_mode) == 0o4755
    assert stat.S_IMODE((jail.tree / "usr").stat().st_mode) == 0o555
    assert stat.S_IMODE((jail.tree / "tmp").stat().st_mode) == 0o1777
    assert os.readlink(jail.tree / "s") == "usr/sudo"
    for name in ("usr", "usr/sudo", "tmp", "s", "empty"):
        assert (jail.tree / name).lstat().st_mtime_ns == MTIME_NS, name


def test_a_directorys_entry_may_come_after_its_content(jail: Jail) -> None:
    jail.extract(file("d/f", b"x"), directory("d", 0o500))
    assert stat.S_IMODE((jail.tree / "d").stat().st_mode) == 0o500
    assert (jail.tree / "d").stat().st_mtime_ns == MTIME_NS


def test_missing_parents_are_plain_directories(jail: Jail) -> None:
    jail.extract(file("a/b/c/f"), directory("a/b/x"))
    assert {stat.S_IMODE((jail.tree / name).stat().st_mode) for name in ("a", "a/b", "a/b/c")} == {0o755}


def test_the_roots_own_entry_is_applied_and_reported(jail: Jail) -> None:
    assert jail.extract(directory(".", 0o711), file("f")).root_entry
    assert stat.S_IMODE(jail.tree.stat().st_mode) == 0o711


def test_hard_links_are_one_file(jail: Jail) -> None:
    jail.extract(file("f", b"x"), directory("d"), link("f", "d/g"), link("./f", "h"))
    assert len({(jail.tree / name).stat().st_ino for name in ("f", "d/g", "h")}) == 1


def test_a_hard_link_to_a_link_is_that_link(jail: Jail) -> None:
    jail.extract(symlink("/etc/passwd", "s"), link("s", "t"))
    assert os.readlink(jail.tree / "t") == "/etc/passwd"


def test_a_fifo_is_made(jail: Jail) -> None:
    jail.extract(TarEntry(path=b"p", kind=TarKind.FIFO, mode=0o622))
    assert stat.S_ISFIFO((jail.tree / "p").stat().st_mode)
    assert stat.S_IMODE((jail.tree / "p").stat().st_mode) == 0o622


def test_names_of_any_bytes_are_kept(jail: Jail) -> None:
    jail.extract((TarEntry(path=b"caf\xe9/\n\t", kind=TarKind.FILE), b""))
    assert os.listdir(os.fsencode(jail.tree / "caf\udce9")) == [b"\n\t"]


def test_attributes_are_set_and_overlays_own_are_left_out(jail: Jail) -> None:
    entry = TarEntry(
        path=b"d",
        kind=TarKind.DIRECTORY,
        xattrs={
            b"user.k": b"v",
            b"user.overlay.opaque": b"y",
            b"user.overlay.redirect": b"/etc",
            b"security.selinux": b"label",
        },
    )
    jail.extract(entry)
    assert [name for name in os.listxattr(jail.tree / "d") if name != "security.selinux"] == ["user.k"]


def test_a_user_attribute_on_a_link_is_refused(jail: Jail) -> None:
    assert "user.k" in jail.refuse(TarEntry(path=b"s", kind=TarKind.SYMLINK, link=b"x", xattrs={b"user.k": b"v"}))


# Whiteouts.


def is_whiteout(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def test_a_whiteout_becomes_overlays_device(jail: Jail) -> None:
    jail.extract(directory("etc"), file("etc/.wh.passwd"), file("etc/hosts"))
    assert is_whiteout(jail.tree / "etc/passwd")
    assert sorted(os.listdir(jail.tree / "etc")) == ["hosts", "passwd"]
    assert (jail.tree / "etc/passwd").lstat().st_mtime_ns == MTIME_NS


def test_an_opaque_mark_becomes_an_attribute(jail: Jail) -> None:
    jail.extract(file("etc/.wh..wh..opq"), directory("etc"))
    assert os.getxattr(jail.tree / "etc", "user.overlay.opaque") == b"y"
    assert os.listdir(jail.tree / "etc") == []


def test_a_whiteout_hides_lower_layers_only_whichever_comes_first(jail: Jail) -> None:
    jail.extract(file("a", b"new"), file(".wh.a"), file(".wh.b"), file("b", b"new"))
    assert (jail.tree / "a").read_bytes() == (jail.tree / "b").read_bytes() == b"new"


@pytest.mark.parametrize("whiteout_first", [True, False])
def test_a_directory_that_is_also_whited_out_is_opaque(jail: Jail, whiteout_first: bool) -> None:
    entries = [file(".wh.d"), directory("d")]
    jail.extract(*(entries if whiteout_first else entries[::-1]))
    assert os.getxattr(jail.tree / "d", "user.overlay.opaque") == b"y"


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "etc/.wh.", "etc/.wh..", "etc/.wh..."])
def test_a_whiteout_of_nothing_or_of_a_parent_is_refused(jail: Jail, name: str) -> None:
    assert "not a valid whiteout" in jail.refuse(directory("etc"), file(name))


def test_a_whiteout_must_be_a_file(jail: Jail) -> None:
    assert "whiteout" in jail.refuse(directory(".wh.d"))
    assert "whiteout" in jail.refuse(symlink("x", ".wh.s"))


def test_a_whiteout_through_a_link_stays_inside(jail: Jail) -> None:
    jail.extract(directory("etc"), symlink("../../../../etc", "l"), file("l/.wh.passwd"))
    assert is_whiteout(jail.tree / "etc/passwd")


def test_a_file_below_a_directory_with_a_whiteouts_name_is_an_ordinary_file(jail: Jail) -> None:
    jail.extract(file(".wh.etc/somefile", b"x"))
    assert (jail.tree / ".wh.etc/somefile").read_bytes() == b"x"


def test_without_whiteouts_their_names_are_plain_files(jail: Jail) -> None:
    jail.extract(file(".wh.x", b"content"), whiteouts=False)
    assert (jail.tree / ".wh.x").read_bytes() == b"content"


def test_a_device_that_is_a_whiteout_in_disguise_is_refused(jail: Jail) -> None:
    assert "0:0" in jail.refuse(TarEntry(path=b"etc", kind=TarKind.CHARACTER, device=(0, 0)))


# Ways out.


@pytest.mark.parametrize("path", ["..", "../x", "../../passwd", "a/../x", "a/..", "./../x", "/../x", "a/b/../../../x"])
def test_a_path_with_two_dots_is_refused(jail: Jail, path: str) -> None:
    assert "leads out" in jail.refuse(file(path, b"x"))
    assert "leads out" in jail.refuse(directory(path))
    assert "leads out" in jail.refuse(symlink("/", path))


def test_an_absolute_path_means_the_trees_root(jail: Jail) -> None:
    jail.extract(file("/etc/passwd", b"inside"), file("//x", b"inside"))
    assert (jail.tree / "etc/passwd").read_bytes() == (jail.tree / "x").read_bytes() == b"inside"


@pytest.mark.parametrize(
    "target",
    [
        "/etc",
        "etc",
        "/dummy/../etc",
        "../etc",
        "../../../../../../../etc",
        "dummy/../../../etc",
        "/../../etc",
        "./dummy/up/etc",
        "/dummy/etc",
    ],
)
def test_writing_through_a_link_stays_inside(jail: Jail, target: str) -> None:
    jail.extract(
        directory("etc"),
        directory("dummy"),
        symlink("../..", "dummy/up"),
        symlink("/etc", "dummy/etc"),
        symlink(target, "l"),
        file("l/passwd", b"inside"),
        file("l/emptied", b"full"),
        file("/l/emptied", b""),
    )
    assert (jail.tree / "etc/passwd").read_bytes() == b"inside"
    assert (jail.tree / "etc/emptied").read_bytes() == b""


def test_a_link_is_replaced_not_written_through(jail: Jail) -> None:
    outside = jail.top / "passwd"
    jail.extract(symlink(str(outside), "l"), file("l", b"mine"))
    assert not (jail.tree / "l").is_symlink()
    assert (jail.tree / "l").read_bytes() == b"mine"


def test_a_link_replaced_by_a_directory_is_no_way_out(jail: Jail) -> None:
    jail.extract(symlink(str(jail.top), "l"), directory("l"), file("l/passwd", b"inside"))
    assert (jail.tree / "l/passwd").read_bytes() == b"inside"


def test_a_directory_replaced_by_a_link_is_no_way_out(jail: Jail) -> None:
    jail.extract(directory("etc"), directory("d"), file("d/old"), symlink("../../../etc", "d"), file("d/passwd", b"inside"))
    assert (jail.tree / "etc/passwd").read_bytes() == b"inside"


def test_a_swapped_parent_is_resolved_again(jail: Jail) -> None:
    jail.extract(
        directory("x"),
        directory("y"),
        symlink("x", "l"),
        file("l/1"),
        symlink("y", "l"),
        file("l/2"),
        directory("l"),
        file("l/3"),
    )
    assert [sorted(os.listdir(jail.tree / name)) for name in ("x", "y", "l")] == [["1"], ["2"], ["3"]]


@pytest.mark.parametrize("target", ["nowhere", "l", "/l/l", "l/../l"])
def test_a_parent_that_is_a_dangling_or_circular_link_is_refused(jail: Jail, target: str) -> None:
    jail.refuse(symlink(target, "l"), file("l/f", b"x"))


def test_a_parent_that_is_a_file_is_refused(jail: Jail) -> None:
    jail.refuse(file("f", b"x"), file("f/g", b"x"))


@pytest.mark.parametrize(
    "target",
    [
        "../../../passwd",
        "../passwd",
        "d/../../passwd",
        "/no/such",
        "missing",
        "d",
        "/",
        "",
        ".",
        "gone",
        ".wh.gone",
        "out/passwd",
        "new",
    ],
)
def test_a_hard_link_to_anything_but_a_file_of_this_layer_is_refused(jail: Jail, target: str) -> None:
    jail.refuse(directory("d"), file(".wh.gone"), symlink("../../..", "out"), link(target, "new"))


@pytest.mark.parametrize("through", ["/etc", "../../etc", "../../../../../../../etc", "../downandout/../../etc"])
def test_a_hard_link_through_a_link_stays_inside(jail: Jail, through: str) -> None:
    jail.extract(
        directory("etc", 0o770),
        file("etc/passwd", b"inside"),
        directory("b"),
        directory("downandout"),
        symlink(through, "b/d1"),
        link("/b/d1/passwd", "b/p"),
    )
    assert (jail.tree / "b/p").samefile(jail.tree / "etc/passwd")


def test_modes_are_never_set_through_a_hard_linked_link(jail: Jail) -> None:
    outside = jail.top / "passwd"
    jail.extract(symlink(str(outside), "s"), TarEntry(path=b"t", kind=TarKind.HARD_LINK, link=b"s", mode=0o777))
    assert stat.S_IMODE(outside.stat().st_mode) == 0o400


def test_a_hard_link_to_itself_keeps_the_file(jail: Jail) -> None:
    jail.extract(file("f", b"x"), link("f", "f"))
    assert (jail.tree / "f").read_bytes() == b"x"


# Duplicates.


def test_the_last_of_several_entries_wins(jail: Jail) -> None:
    jail.extract(
        file("f", b"old"),
        link("f", "g"),
        file("f", b"new"),
        directory("d", 0o700),
        file("d/kept"),
        directory("d", 0o711),
        directory("e"),
        file("e/x"),
        file("e", b"now a file"),
        file("h"),
        directory("h"),
    )
    assert (jail.tree / "f").read_bytes() == b"new"
    assert (jail.tree / "g").read_bytes() == b"old"
    assert stat.S_IMODE((jail.tree / "d").stat().st_mode) == 0o711
    assert (jail.tree / "d/kept").exists()
    assert (jail.tree / "e").read_bytes() == b"now a file"
    assert (jail.tree / "h").is_dir()


def test_attributes_given_through_another_name_of_a_directory_win_when_later(jail: Jail) -> None:
    jail.extract(directory("usr/lib"), symlink("usr/lib", "lib"), directory("lib/x", 0o700), directory("usr/lib/x", 0o711))
    assert stat.S_IMODE((jail.tree / "usr/lib/x").stat().st_mode) == 0o711


# Limits.


def test_depth_is_limited_and_deep_trees_below_it_work(jail: Jail) -> None:
    jail.extract(file("/".join(["d"] * 500) + "/f", b"x"))
    assert "deep" in jail.refuse(file("/".join(["d"] * 600), b"x"))


def test_long_paths_and_names_are_refused(jail: Jail) -> None:
    assert "a path of" in jail.refuse(file("/".join(["d" * 200] * 30)))
    assert "a name of 256 bytes" in jail.refuse(file("n" * 256))
    assert "links to a path of" in jail.refuse(symlink("t" * 5000, "l"))
    jail.extract(file("n" * 255))


def test_the_whole_size_is_limited_while_it_is_unpacked(jail: Jail) -> None:
    assert "more than 1000000 bytes" in jail.refuse(file("big", bytes(3 << 20)), limits=TarLimits(total_bytes=1_000_000))
    assert (jail.tree / "big").stat().st_size <= 1_000_000


def test_a_file_shorter_than_it_claims_is_refused(jail: Jail, archive: ArchiveMaker) -> None:
    entry, _ = file("f")
    claims = TarEntry(path=entry.path, kind=entry.kind, size_bytes=5000)
    data = archive((claims, b"only this"), end=b"")
    with pytest.raises(IntegrityError, match="middle"):
        extract_tree(io.BytesIO(data).read, jail.tree, limits=TarLimits(), walker=jail.walker)


def test_an_archive_without_an_end_is_refused_where_no_digest_covers_it(jail: Jail, archive: ArchiveMaker) -> None:
    data = archive(file("f", b"x"), end=b"")
    with pytest.raises(IntegrityError, match="end mark"):
        extract_tree(io.BytesIO(data).read, jail.tree, limits=TarLimits(), walker=jail.walker, require_end=True)


# An ordinary user.


def test_an_ordinary_user_cannot_unpack_other_peoples_files_and_is_told_so(jail: Jail) -> None:
    with pytest.raises(HostError, match="run as root") as caught:
        jail.extract(TarEntry(path=b"f", kind=TarKind.FILE, user_id=33, group_id=33))
    assert caught.value.code == "store-needs-root"


def test_both_ways_of_resolving_agree(tmp_path: Path) -> None:
    from contain.store.rooted import Root

    (tmp_path / "r/a/b").mkdir(parents=True)
    (tmp_path / "r/f").touch()
    links = {
        "abs": "/a",
        "up": "../../../a",
        "loop": "loop",
        "chain": "abs/b",
        "dot": ".",
        "file": "f",
        "gone": "x/y",
        "a/back": "../a/b",
    }
    for name, target in links.items():
        (tmp_path / "r" / name).symlink_to(target)
    answers = []
    for walker in (True, False):
        with Root(tmp_path / "r", walker=walker) as root:
            found = []
            for path in (
                "a",
                "a/b",
                "abs",
                "abs/b",
                "up/b",
                "loop",
                "loop/x",
                "chain",
                "dot/a",
                "file",
                "f",
                "f/x",
                "gone",
                "a/back",
                "dot/dot/up/back",
            ):
                for follow in (True, False):
                    try:
                        descriptor = root.open_directory(path.encode(), follow=follow)
                    except OSError as error:
                        found.append((path, follow, type(error).__name__))
                        continue
                    found.append((path, follow, str(os.fstat(descriptor).st_ino)))
                    os.close(descriptor)
            answers.append(found)
    assert answers[0] == [(path, follow, what) for path, follow, what in answers[1]]
