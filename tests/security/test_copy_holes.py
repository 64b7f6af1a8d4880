"""What reads and writes a container's files from outside (cp, export, commit) against containers that exchange them meanwhile."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tarfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from contain.container.files.contents import Trees, commit_layer, export_pieces
from contain.container.files.copy_root import open_root
from contain.container.files.copying import copy_in, copy_out
from contain.container.lifecycle.records import ContainerRecord, Records
from contain.errors import ContainError
from tests.security.attacks import detached, flipping, output_of, untouched

if TYPE_CHECKING:
    from contain.store import Store
    from tests.conftest import Ground

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts containers: needs root"),
]
TRIES = 60

FLIPPER = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
os.makedirs("/work/dir/sub")
open("/work/dir/canary", "w").write("inside")
open("/work/dir/sub/canary", "w").write("inside")
os.symlink(sys.argv[1], "/work/other")
open("/ready", "w").close()
while True:  # RENAME_EXCHANGE: neither name is ever missing
    libc.renameat2(-100, b"/work/dir", -100, b"/work/other", 2)
"""


@contextlib.contextmanager
def flipping_inside(ground: Ground, target: Path) -> Iterator[tuple[Records, ContainerRecord]]:
    """A container in which /work/dir turns into a link to a path of the machine, over and over."""
    program = os.path.realpath(sys.executable)
    upper = ground.directory / "upper"
    arguments = (program, "-I", "-c", textwrap.dedent(FLIPPER), str(target))
    with detached(ground, *arguments, mounts=ground.python_mounts(), upper=upper) as (records, record):
        while not (upper / "ready").exists():
            pass
        yield records, record


def try_copy(ground: Ground, records: Records, record: ContainerRecord, *arguments: Any, out: bool) -> None:
    with contextlib.suppress(ContainError, OSError), open_root(records, record, home=ground.run_home, writing=not out) as root:
        (copy_out if out else copy_in)(root, record.name, *arguments)


def holds_secret(directory: Path) -> bool:
    return any("alive" in path.read_text() for path in directory.rglob("*") if not path.is_symlink() and path.is_file())


# -- cp ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/work/dir/canary", "/work/dir", "/work", "/work/dir/."])
def test_cve_2018_15664_and_2019_10152_a_link_that_flips_while_it_is_copied_out_shows_nothing(
    ground: Ground, outside: Path, path: str
) -> None:
    copies = ground.directory / "copies"
    with flipping_inside(ground, outside) as (records, record):
        for number in range(TRIES):
            (copies / str(number)).mkdir(parents=True)
            try_copy(ground, records, record, path, str(copies / str(number)), out=True)
    assert not holds_secret(copies)
    assert any(copies.rglob("canary")), "the race was won now and then by what is in the container"


@pytest.mark.parametrize("path", ["/work/dir/canary", "/work/dir/", "/work/dir/sub/new", "/work/dir/made"])
def test_cve_2018_15664_a_link_that_flips_while_it_is_copied_in_leads_nowhere(ground: Ground, outside: Path, path: str) -> None:
    (outside / "sub").mkdir()
    source = ground.directory / "source"
    source.mkdir()
    (source / "canary").write_text("owned")
    with flipping_inside(ground, outside) as (records, record):
        for _ in range(TRIES):
            try_copy(ground, records, record, str(source / "canary"), path, out=False)
            try_copy(ground, records, record, str(source), path, out=False)
    assert list((outside / "sub").iterdir()) == []
    (outside / "sub").rmdir()
    assert untouched(outside)


LINKS = [
    "{outside}",
    "/../../../../../../../../../../..{outside}",
    "../../../../../../../../../../..{outside}",
    "/proc/1/root{outside}",
]


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("link", LINKS)
def test_cve_2018_15664_links_of_an_image_lead_nowhere(
    ground: Ground, image: Path, outside: Path, link: str, running: bool
) -> None:
    (image / "way").symlink_to(link.format(outside=outside))
    copies = ground.directory / "copies"
    copies.mkdir()
    source = ground.directory / "canary"
    source.write_text("owned")
    with detached(ground, "sleep" if running else "true", "100", layers=(image,), upper=ground.directory / "upper") as (
        records,
        record,
    ):
        while not running and records.find(record.container_id).process_id is not None:
            pass
        for number, path in enumerate(("/way/canary", "/way", "/way/.")):
            (copies / str(number)).mkdir()
            try_copy(ground, records, records.find(record.container_id), path, str(copies / str(number)), out=True)
        for path in ("/way/canary", "/way/", "/way", "/way/made"):
            try_copy(ground, records, records.find(record.container_id), str(source), path, out=False)
    assert not holds_secret(copies)
    assert untouched(outside)


def tar_of(*members: tuple[str, bytes | None, str]) -> io.BytesIO:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, kind, value in members:
            member = tarfile.TarInfo(name)
            if kind is None:
                member.size = len(value)
                archive.addfile(member, io.BytesIO(value.encode()))
            else:
                member.type, member.linkname = kind, value
                archive.addfile(member)
    data.seek(0)
    return data


UP = "../" * 20
ARCHIVES: dict[str, tuple[tuple[str, bytes | None, str], ...]] = {
    "parent": (("{up}{outside}/canary", None, "owned"),),
    "symlink": (("l", tarfile.SYMTYPE, "{outside}"), ("l/canary", None, "owned"), ("l/made", None, "owned")),
    "symlink-up": (("l", tarfile.SYMTYPE, "{up}{outside}"), ("l/canary", None, "owned")),
    "symlink-to-the-file": (("l", tarfile.SYMTYPE, "{outside}/canary"), ("l", None, "owned")),
    "hardlink": (("h", tarfile.LNKTYPE, "{outside}/canary"), ("h", None, "owned")),
    "hardlink-up": (("h", tarfile.LNKTYPE, "{up}{outside}/canary"), ("h", None, "owned")),
    "hardlink-up-makes-directories": (("h", tarfile.LNKTYPE, "{up}{outside}/made/deep/x"),),
    "hardlink-through-a-symlink": (("l", tarfile.SYMTYPE, "{outside}"), ("h", tarfile.LNKTYPE, "l/canary")),
}


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("name", ARCHIVES)
def test_cve_2021_41089_an_archive_that_is_copied_in_stays_inside(
    ground: Ground, outside: Path, name: str, running: bool
) -> None:
    inner = str(outside).lstrip("/")
    members = tuple(
        (
            member.format(up=UP, outside=inner),
            kind,
            value.format(up=UP, outside=inner if value.startswith("{up}") else outside) if kind else value,
        )
        for member, kind, value in ARCHIVES[name]
    )
    with detached(ground, "sleep" if running else "true", "100", upper=ground.directory / "upper") as (records, record):
        while not running and records.find(record.container_id).process_id is not None:
            pass
        try_copy(ground, records, records.find(record.container_id), tar_of(*members), "/tmp", out=False)
    assert untouched(outside)
    assert (outside / "canary").stat().st_nlink == 1


def test_cve_2021_41089_set_id_bits_and_devices_of_a_container_do_not_get_to_the_machine(ground: Ground, image: Path) -> None:
    (image / "data").mkdir()
    shutil.copy(image / "bin/true", image / "data/suid")
    (image / "data/suid").chmod(0o6755)
    os.mknod(image / "data/device", 0o020666, os.makedev(1, 3))
    target = ground.directory / "target"
    target.mkdir()
    with (
        detached(ground, "sleep", "100", layers=(image,), upper=ground.directory / "upper") as (records, record),
        open_root(records, record, home=ground.run_home, writing=False) as root,
    ):
        copy_out(root, record.name, "/data", str(target))
    assert sorted(os.listdir(target / "data")) == ["suid"]
    assert (target / "data/suid").stat().st_mode & 0o7777 == 0o755


# -- libraries of the image ----------------------------------------------------------------------------------------------------


def test_cve_2019_14271_no_library_of_the_image_is_loaded(ground: Ground, image: Path, store: Store) -> None:
    """Docker's cp changed its root and then looked a name up, with the image's own libnss."""
    library = next(
        path for path in ("/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/lib64", "/lib") if os.path.isdir(path)
    )
    (image / "lib").mkdir(exist_ok=True)
    (image / "etc/nsswitch.conf").write_text("passwd: poison\ngroup: poison\nhosts: poison\n")
    some = next(Path(library).glob("libutil.so.1"), None) or next(Path(library).glob("libm.so.*"))
    shutil.copy(some.resolve(), image / "lib/libnss_poison.so.2")
    target = ground.directory / "target"
    target.mkdir()
    upper = ground.directory / "upper"
    with detached(ground, "sh", "-c", "echo x > /made; exec sleep 100", layers=(image,), upper=upper) as (records, record):
        assert output_of(record, "id", "-un")
        with open_root(records, record, home=ground.run_home, writing=True) as root:
            copy_out(root, record.name, "/etc", str(target), archive=True)
            copy_in(root, record.name, str(target / "etc"), "/tmp", archive=True)
        trees = Trees(layers=(image,), upper=upper)
        assert sum(map(len, export_pieces(trees))) > 0
        assert commit_layer(store, trees, 0) is not None
    with open("/proc/self/maps") as maps:
        assert [line for line in maps if "libnss_poison" in line] == []


# -- export and commit ---------------------------------------------------------------------------------------------------------


def test_cve_2018_15664_a_directory_that_flips_while_it_is_exported_or_committed_shows_nothing(
    ground: Ground, outside: Path, store: Store
) -> None:
    upper = ground.directory / "written"
    (upper / "dir/sub").mkdir(parents=True)
    (upper / "dir/canary").write_text("inside")
    (upper / "dir/sub/canary").write_text("inside")
    (upper / "other").symlink_to(outside)
    (outside / "sub").mkdir()
    (outside / "sub/canary").write_text("alive")
    trees = Trees(layers=(ground.tree,), upper=upper)
    copies = ground.directory / "copies"
    copies.mkdir()
    seen = bytearray()
    with flipping(upper / "dir", upper / "other"):
        for number in range(TRIES):
            with contextlib.suppress(ContainError, OSError):
                for piece in export_pieces(Trees(layers=(), upper=upper)):
                    seen += piece
            if number % 4 == 0:
                with contextlib.suppress(ContainError, OSError):
                    committed = commit_layer(store, trees, 0)
                    if committed is not None:
                        seen += b"".join(
                            path.read_bytes()
                            for path in store.layer_tree(committed[0]).rglob("canary")
                            if not path.is_symlink()
                        )
    assert b"alive" not in seen
    assert b"inside" in seen
