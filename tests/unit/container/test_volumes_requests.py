"""What -v, --mount, --tmpfs and --volumes-from mean, and which mount wins."""

from __future__ import annotations

import argparse
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from contain.cli.arguments import Parser
from contain.cli.filters import parse_filters
from contain.cli.run import add_run_arguments, parse_mounts
from contain.cli.volumes import CHOICES, select_volumes
from contain.container.files.volumes import ANONYMOUS_LABEL, VolumeRecord, volume_users
from contain.container.request.mounts import (
    MountRequest,
    VolumesFrom,
    anonymous_name,
    check_volume_name,
    describe_mounts,
    inherit_mounts,
    parse_mount,
    parse_tmpfs,
    parse_volume,
    parse_volumes_from,
    resolve_mounts,
)
from contain.errors import NotSupported, UsageError
from contain.spec import Bind, Mount, Tmpfs, Volume

HOME = Path("/store")
ID = "a" * 64


def at(path: str) -> PurePosixPath:
    return PurePosixPath(path)


def resolve(*requests: MountRequest | Mount, **options: Any) -> tuple[Mount, ...]:
    return resolve_mounts(requests, container_id=ID, home=HOME, **options)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("data:/d", {"kind": "volume", "source": "data"}),
        ("data:/d:ro", {"kind": "volume", "source": "data", "read_only": True}),
        ("data:/d:rw", {"kind": "volume", "source": "data"}),
        ("data:/d:nocopy,ro", {"kind": "volume", "source": "data", "read_only": True, "copy": False}),
        ("data:/d:cached", {"kind": "volume", "source": "data"}),
        ("data://d/./", {"kind": "volume", "source": "data"}),
        ("/d", {"kind": "volume", "yields": True}),
        ("/etc:/d", {"kind": "bind", "source": "/etc", "makes_source": True}),
        ("/etc:/d:ro,rprivate", {"kind": "bind", "source": "/etc", "read_only": True, "makes_source": True}),
    ],
)
def test_v_means_what_it_means_to_docker(text: str, meant: dict[str, Any]) -> None:
    assert parse_volume(text) == MountRequest(target=at("/d"), **meant)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a:b", "mount path must be absolute"),
        ("data:d", "mount path must be absolute"),
        ("data", "mount path must be absolute"),
        ("", "invalid volume specification"),
        (":", "invalid volume specification"),
        (":/d", "invalid volume specification"),
        ("data:/d:", "invalid volume specification"),
        ("data:/d:ro:x", "invalid volume specification"),
        ("data:/", "destination can't be '/'"),
        ("data:/d/../e", "destination can't be '/'"),
        ("data:/proc", "it is inside /proc"),
        ("data:/proc/sys/kernel", "it is inside /proc"),
        ("data:/./sys/fs", "it is inside /sys"),
        ("data:/d:ro,rw", "invalid mode: ro,rw"),
        ("data:/d:rx", "invalid mode: rx"),
        ("data:/d:rprivate", "invalid mode: rprivate"),
        ("/etc:/d:nocopy", "invalid mode: nocopy"),
        ("x:/d", "volume name is too short"),
        ("a b:/d", "only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed"),
        ("a/b:/d", "If you intended to pass a host directory, use absolute path"),
    ],
)  # fmt: skip
def test_nonsense_of_v_is_refused_in_dockers_words(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_volume(text)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["data:/d:z", "data:/d:Z", "/etc:/d:shared", "/etc:/d:rslave"])
def test_what_v_cannot_do_is_refused_by_name(text: str) -> None:
    with pytest.raises(NotSupported, match=text.rpartition(":")[2]) as caught:
        parse_volume(text)
    assert caught.value.code == "mount-not-supported"


@pytest.mark.parametrize("name", ["..", ".hidden", "-x", "_x", "a", "", "a/b", "a\0b", "x" * 256, "ä1"])
def test_a_name_that_is_no_directory_name_of_ours_is_refused(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_volume_name(name)
    assert caught.value.code == "bad-volume-name"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("source=data,target=/d", {"kind": "volume", "source": "data"}),
        ("type=volume,src=data,dst=/d,volume-nocopy", {"kind": "volume", "source": "data", "copy": False}),
        ("type=volume,src=data,dst=/d,volume-nocopy=false,ro=0", {"kind": "volume", "source": "data"}),
        ("type=volume,destination=/d,volume-driver=local", {"kind": "volume"}),
        ("type=bind,src=/etc,dst=/d,readonly", {"kind": "bind", "source": "/etc", "read_only": True}),
        ("type=bind,src=/etc,dst=/d,bind-propagation=rprivate,ro=true", {"kind": "bind", "source": "/etc", "read_only": True}),
        ("type=tmpfs,dst=/d", {"kind": "tmpfs", "executable": True}),
        (
            "type=tmpfs,dst=/d,tmpfs-size=1m,tmpfs-mode=0700",
            {"kind": "tmpfs", "executable": True, "size_bytes": 1 << 20, "mode": 0o700},
        ),
        ('type=bind,"src=/etc",dst=/d', {"kind": "bind", "source": "/etc"}),
    ],
)
def test_mount_means_what_it_means_to_docker(text: str, meant: dict[str, Any]) -> None:
    assert parse_mount(text) == MountRequest(target=at("/d"), **meant)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "target is required"),
        ("type=volume", "target is required"),
        ("type=nope,dst=/d", "mount type unknown: 'nope'"),
        ("type=volume,dst", "invalid field 'dst' must be a key=value pair"),
        ("type=volume,dst=/d,frob=1", "unexpected key 'frob' in 'frob=1'"),
        ("type=volume,dst=/d,ro=maybe", "invalid value for readonly: maybe"),
        ("type=bind,dst=/d", "field Source must not be empty"),
        ("type=bind,src=/no/such,dst=/d", "bind source path does not exist: /no/such"),
        ("type=bind,src=/etc,dst=/d,volume-nocopy", "cannot mix 'volume-*' options with mount type 'bind'"),
        ("type=volume,dst=/d,tmpfs-size=1m", "cannot mix 'tmpfs-*' options with mount type 'volume'"),
        ("type=tmpfs,src=/etc,dst=/d", "field Source must not be specified"),
        ("type=tmpfs,dst=/d,tmpfs-mode=9", "invalid value for tmpfs-mode: 9"),
        ("type=tmpfs,dst=/d,tmpfs-size=much", "is not a size"),
        ("type=tmpfs,dst=/proc/x", "it is inside /proc"),
        ("type=volume,src=../x,dst=/d", "includes invalid characters"),
    ],
)
def test_nonsense_of_mount_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_mount(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("type=image,src=x,dst=/d", "image"),
        ("type=npipe,src=x,dst=/d", "npipe"),
        ("type=volume,src=xx,dst=/d,volume-opt=type=nfs", "volume-opt"),
        ("type=volume,src=xx,dst=/d,volume-subpath=a", "volume-subpath"),
        ("type=volume,src=xx,dst=/d,volume-driver=vieux", "vieux"),
        ("type=bind,src=/etc,dst=/d,bind-propagation=shared", "shared"),
        ("type=bind,src=/etc,dst=/d,bind-nonrecursive", "a bind without what is mounted below"),
        ("type=bind,src=/etc,dst=/d,bind-recursive=disabled", "a bind without what is mounted below"),
    ],
)
def test_what_mount_cannot_do_is_refused_by_name(text: str, word: str) -> None:
    with pytest.raises(NotSupported, match=word):
        parse_mount(text)


def test_tmpfs_takes_its_options() -> None:
    assert parse_tmpfs("/d") == MountRequest(kind="tmpfs", target=at("/d"))
    assert parse_tmpfs("/d:size=64k,mode=750,uid=7,gid=8,nr_inodes=9,exec,ro,nosuid,nodev") == MountRequest(
        kind="tmpfs",
        target=at("/d"),
        size_bytes=65536,
        mode=0o750,
        user_id=7,
        group_id=8,
        inodes=9,
        executable=True,
        read_only=True,
    )


@pytest.mark.parametrize("text", ["d", "/d:frob", "/d:mode=99", "/d:uid=x", "/d:uid=", "/d:size=x", "/d:ro=1", "/:size=1m"])
def test_nonsense_of_tmpfs_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_tmpfs(text)


@pytest.mark.parametrize("option", ["suid", "dev", "noatime", "mpol=bind", "nr_blocks=1"])
def test_options_of_tmpfs_that_are_not_built_are_refused_by_name(option: str) -> None:
    with pytest.raises(NotSupported, match=option.partition("=")[0]):
        parse_tmpfs(f"/d:{option}")


def test_volumes_from_names_a_container_and_perhaps_ro() -> None:
    assert parse_volumes_from("web") == VolumesFrom(container="web")
    assert parse_volumes_from("web:ro") == VolumesFrom(container="web", read_only=True)
    for text in ("", ":ro", "web:", "web:nope", "web:ro:x"):
        with pytest.raises(UsageError, match="invalid mode"):
            parse_volumes_from(text)
    with pytest.raises(NotSupported, match="SELinux"):
        parse_volumes_from("web:Z")


def test_the_flags_of_run_become_requests() -> None:
    parser = Parser(prog="contain run")
    add_run_arguments(parser)
    options: argparse.Namespace = parser.parse_args(
        ["-v", "data:/a", "--mount", "dst=/b", "--tmpfs", "/c", "--volumes-from", "web", "image", "-v", "x"]
    )
    assert [str(request.target) for request in parse_mounts(options)] == ["/a", "/b", "/c"]
    assert (options.volumes_from, options.arguments) == (["web"], ["-v", "x"])


# -- which mount wins --------------------------------------------------------------------------------------------------------


def test_a_volume_gets_its_place_in_the_store() -> None:
    (found,) = resolve(parse_volume("data:/d:ro"))
    assert found == Volume(name="data", source=HOME / "volumes/data/_data", target=at("/d"), read_only=True)


def test_a_volume_without_a_name_is_of_its_container_and_place_only() -> None:
    one, two = resolve(parse_volume("/d"), parse_volume("/e"))
    assert isinstance(one, Volume)
    assert isinstance(two, Volume)
    assert one.anonymous
    assert two.anonymous
    assert len({one.name, two.name, anonymous_name("b" * 64, at("/d"))}) == 3
    assert check_volume_name(one.name) == one.name


def test_two_mounts_for_one_place_are_refused() -> None:
    for other in (parse_volume("other:/d"), parse_tmpfs("/d"), parse_mount("type=bind,src=/etc,dst=/d/")):
        with pytest.raises(UsageError, match="Duplicate mount point: /d"):
            resolve(parse_volume("data:/d"), other)


def test_the_images_volume_is_made_unless_something_else_is_mounted_there() -> None:
    assert [mount.target for mount in resolve(declared=("/d", "/e"))] == [at("/d"), at("/e")]
    for given in (parse_volume("data:/d"), parse_tmpfs("/d"), parse_volume("/etc:/d")):
        assert len(resolve(given, declared=("/d/",))) == 1
    assert isinstance(resolve(parse_tmpfs("/d"), parse_volume("/d"))[0], Tmpfs)


@pytest.mark.parametrize("path", ["/", "relative", "/../etc", "/proc", "/sys/fs"])
def test_an_image_cannot_put_its_volume_anywhere(path: str) -> None:
    with pytest.raises(UsageError):
        resolve(declared=(path,))


def test_a_request_goes_over_what_another_container_brings() -> None:
    inherited = (Bind(source=Path("/a"), target=at("/d")), Bind(source=Path("/b"), target=at("/e")))
    found = resolve(parse_volume("data:/d"), declared=("/e",), inherited=inherited)
    assert {str(mount.target): type(mount) for mount in found} == {"/e": Bind, "/d": Volume}


DETAILS = {
    "mounts": [
        {"source": "/host", "target": "/b", "read_only": False},
        {"name": "data", "source": "/s/_data", "target": "/v", "read_only": True, "copy": True, "anonymous": False},
        {"target": "/t", "size_bytes": 0, "mode": 511, "executable": False, "read_only": False},
    ]
}


def test_volumes_from_takes_volumes_and_host_paths_and_copies_nothing() -> None:
    bind, volume = inherit_mounts(DETAILS, read_only=False)
    assert bind == Bind(source=Path("/host"), target=at("/b"))
    assert volume == Volume(name="data", source=Path("/s/_data"), target=at("/v"), read_only=True, copy=False)
    assert all(mount.read_only for mount in inherit_mounts(DETAILS, read_only=True) if isinstance(mount, (Bind, Volume)))


def test_inspect_shows_mounts_under_dockers_keys() -> None:
    bind, volume, tmpfs = describe_mounts(DETAILS)
    assert bind == {
        "Type": "bind",
        "Source": "/host",
        "Destination": "/b",
        "Mode": "",
        "RW": True,
        "Propagation": "rprivate",
    }
    assert volume == {
        "Type": "volume",
        "Name": "data",
        "Source": "/s/_data",
        "Destination": "/v",
        "Driver": "local",
        "Mode": "ro",
        "RW": False,
        "Propagation": "",
    }
    assert (tmpfs["Type"], tmpfs["Destination"]) == ("tmpfs", "/t")


def test_filters_select_volumes() -> None:
    records = [
        VolumeRecord(name="data", data=HOME, created_seconds=0, labels=(("a", "b"), ("c", ""))),
        VolumeRecord(name="web-data", data=HOME, created_seconds=0, labels=((ANONYMOUS_LABEL, ""),)),
    ]
    users = volume_users([("id", DETAILS)])
    assert users == {"data": ["id"]}

    def names(*filters: str) -> list[str]:
        known = ("dangling", "driver", "label", "name")
        return [record.name for record in select_volumes(records, parse_filters(filters, known, choices=CHOICES), users)]

    assert names() == names("driver=local") == names("name=data") == ["data", "web-data"]
    assert names("dangling=true") == names("name=^web") == names(f"label={ANONYMOUS_LABEL}") == ["web-data"]
    assert names("dangling=0") == names("label=a", "label=c") == names("label=a=b") == ["data"]
    assert names("driver=nfs") == names("label=a=x") == []
    for nonsense in ("frob=x", "dangling", "dangling=perhaps", "name=["):
        with pytest.raises(UsageError) as caught:
            names(nonsense)
        assert caught.value.code == "bad-filter"


def test_v_makes_a_host_path_that_is_not_there_and_mount_does_not() -> None:
    assert parse_volume("/no/such:/d").makes_source
    assert not parse_volume("data:/d").makes_source
