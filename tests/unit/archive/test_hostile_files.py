"""An image file that lies is refused, and the store is as it was: no blob, no layer, no image, no half of anything."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from contain.archive import members as members_module
from contain.archive.load import load
from contain.archive.members import member_name
from contain.errors import ContainError, IntegrityError
from contain.oci.image import MEDIA_INDEX, MEDIA_MANIFEST
from contain.progress import Silent
from contain.store import TarLimits

if TYPE_CHECKING:
    from tests.unit.archive.conftest import Make, Members, Shelf


def honest(make: Make) -> tuple[Members, bytes]:
    members: Members = {}
    manifest = make.image(members, make.layer, make.other)
    return make.layout(members, make.describe(manifest, MEDIA_MANIFEST, **make.named("docker.io/library/app:1"))), manifest


@pytest.fixture
def refused(shelf: Shelf) -> Callable[..., IntegrityError]:
    """Load, and see that it is refused for the right reason and that nothing stays."""

    def check(data: bytes, why: str) -> IntegrityError:
        before = shelf.content()
        for attempt in (shelf.load, shelf.stream):
            with pytest.raises(IntegrityError, match=why) as caught:
                attempt(data)
            assert shelf.content() == before
        return caught.value

    return check


def entry(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


# -- the archive itself ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/etc/passwd", "absolute"),
        ("../evil", "do not have"),
        ("blobs/../../evil", "do not have"),
        ("blobs//x", "do not have"),
        ("a/./b", "do not have"),
        ("a\nb", "do not have"),
        ("a/" * 20 + "b", "too deep"),
        ("x" * 2000, "too long"),
    ],
)
def test_names_that_lead_elsewhere(make: Make, refused: Any, name: str, why: str) -> None:
    members, _ = honest(make)
    refused(make.pack({**members, name: b"x"}), why)


def test_names_that_are_no_text() -> None:
    with pytest.raises(IntegrityError, match="no text"):
        member_name(b"a\xff")


@pytest.mark.parametrize(
    "made",
    [
        entry("manifest.json", tarfile.SYMTYPE, "/etc/passwd"),
        entry("link", tarfile.SYMTYPE, "index.json"),
        entry("a/layer.tar", tarfile.SYMTYPE, "/etc/shadow"),
        entry("a/layer.tar", tarfile.SYMTYPE, "../../etc/shadow"),
        entry("a/layer.tar", tarfile.SYMTYPE, "../.."),
        entry("a/layer.tar", tarfile.SYMTYPE, "layer.tar"),
        entry("a/b/layer.tar", tarfile.SYMTYPE, "../index.json"),
    ],
    ids=lambda made: f"{made.name}-{made.linkname}",
)
def test_symbolic_links(make: Make, refused: Any, made: tarfile.TarInfo) -> None:
    refused(make.pack(honest(make)[0], made), "symbolic link")


def test_a_link_to_no_member(make: Make, refused: Any) -> None:
    refused(make.pack(honest(make)[0], entry("a/layer.tar", tarfile.SYMTYPE, "../b/layer.tar")), "no member")


def test_a_link_to_a_link(make: Make, refused: Any) -> None:
    links = [entry("a/layer.tar", tarfile.SYMTYPE, "../b/layer.tar"), entry("b/layer.tar", tarfile.SYMTYPE, "../a/layer.tar")]
    refused(make.pack(honest(make)[0], *links), "no member")


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_members_of_other_kinds(make: Make, refused: Any, kind: bytes) -> None:
    refused(make.pack(honest(make)[0], entry("thing", kind, "index.json")), "is a (hard link|character|block|fifo)")


@pytest.mark.parametrize("name", ["index.json", "./index.json"])
def test_a_member_that_stands_there_twice(make: Make, refused: Any, name: str) -> None:
    members, _ = honest(make)
    first = make.pack(members)[: -tarfile.RECORDSIZE]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for key, data in [*members.items(), (name, b"{}")]:
            made = tarfile.TarInfo(key)
            made.size = len(data)
            archive.addfile(made, io.BytesIO(data))
    assert first
    refused(out.getvalue(), "twice")


def test_a_member_below_a_file(make: Make, refused: Any) -> None:
    refused(make.pack({**honest(make)[0], "index.json/x": b""}), "no directory")


def test_a_file_where_a_directory_was(make: Make, refused: Any) -> None:
    directory = entry("manifest.json", tarfile.DIRTYPE)
    members, _ = honest(make)
    refused(make.pack(members, directory, entry("manifest.json", tarfile.REGTYPE)), "twice")


def test_a_size_that_lies(make: Make, refused: Any) -> None:
    members, _ = honest(make)
    data = make.pack(members)
    lie = tarfile.TarInfo("more")
    lie.size = 1 << 40
    refused(data.rstrip(b"\0") + b"\0" * (-len(data.rstrip(b"\0")) % 512) + lie.tobuf(), "lie")


def test_an_archive_that_is_cut_short(make: Make, shelf: Shelf) -> None:
    data = make.pack(honest(make)[0])
    end = len(data.rstrip(b"\0"))
    before = shelf.content()
    for cut in range(0, end, 700):
        with pytest.raises(IntegrityError if cut % 512 else ContainError):  # between two members it is only incomplete
            shelf.load(data[:cut])
        assert shelf.content() == before


def test_a_compressed_archive_that_is_cut_short(make: Make, refused: Any) -> None:
    refused(make.gzipped(make.pack(honest(make)[0]))[:-20], "cut short")


def test_a_bomb(make: Make, shelf: Shelf, tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(make.gzipped(make.pack({"zeros": bytes(1 << 20)})))
    with (
        pytest.raises(IntegrityError, match="more than 65536 bytes"),
        shelf.store.scratch("test") as scratch,
        members_module.open_members(path, scratch=scratch, limits=TarLimits(total_bytes=65536)),
    ):
        pass


def test_too_many_members(make: Make, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members_module, "MOST_MEMBERS", 20)
    refused(make.pack({**honest(make)[0], **{f"x{number}": b"" for number in range(20)}}), "more than 20")


@pytest.mark.parametrize("data", [b"", b"not a tar archive at all" * 100, b"\0" * 3])
def test_what_is_no_archive(refused: Any, data: bytes) -> None:
    refused(data, "image file")


# -- OCI layouts -----------------------------------------------------------------------------------------------------------------


def test_a_huge_index(make: Make, refused: Any) -> None:
    members, _ = honest(make)
    refused(make.pack({**members, "index.json": members["index.json"] + b" " * (5 << 20)}), "at most")


def test_a_huge_manifest(make: Make, refused: Any) -> None:
    members, manifest = honest(make)
    huge = manifest + b" " * (5 << 20)
    members[make.blob_name(huge)] = huge
    refused(make.pack(make.layout(members, make.describe(huge, MEDIA_MANIFEST))), "at most")


def test_a_missing_blob(make: Make, refused: Any) -> None:
    members, _ = honest(make)
    for name in [name for name in members if name.startswith("blobs/")]:
        refused(make.pack({key: data for key, data in members.items() if key != name}), "is missing")


def test_a_changed_blob(make: Make, refused: Any) -> None:
    members, _ = honest(make)
    for name in [name for name in members if name.startswith("blobs/")]:
        changed = bytearray(members[name])
        changed[len(changed) // 3] ^= 1
        refused(make.pack({**members, name: bytes(changed)}), "digest|damaged")


def test_a_blob_of_another_size(make: Make, refused: Any) -> None:
    members, _ = honest(make)
    for name in [name for name in members if name.startswith("blobs/")]:
        refused(make.pack({**members, name: members[name] + b"\0"}), "promised")


def test_a_layer_that_unpacks_to_something_else(make: Make, refused: Any) -> None:
    members: Members = {}
    manifest = json.loads(make.image(members, make.layer))
    other = make.gzipped(make.other)
    members[make.blob_name(other)] = other
    manifest["layers"] = [make.describe(other, "application/vnd.oci.image.layer.v1.tar+gzip")]
    data = make.to_json(manifest)
    members[make.blob_name(data)] = data
    refused(make.pack(make.layout(members, make.describe(data, MEDIA_MANIFEST))), "promised")


def test_a_compressed_layer_that_claims_to_be_plain(make: Make, refused: Any) -> None:
    """It unpacks to what was promised, but these are not the bytes that were."""
    members: Members = {}
    packed = make.gzipped(make.layer)
    manifest = json.loads(make.image(members, make.layer))
    manifest["layers"][0]["size"] = len(packed)
    members[make.blob_name(make.layer)] = packed
    data = make.to_json(manifest)
    members[make.blob_name(data)] = data
    refused(make.pack(make.layout(members, make.describe(data, MEDIA_MANIFEST))), "digest")


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", ".wh.", "a/.wh..."])
@pytest.mark.parametrize("packing", ["none", "gzip"])
def test_a_layer_that_leads_out(make: Make, refused: Any, name: str, packing: str) -> None:
    members: Members = {}
    packed = make.gzipped if packing == "gzip" else None
    manifest = make.image(members, make.layer, make.tar({name: b"x"}), packed=packed)
    refused(make.pack(make.layout(members, make.describe(manifest, MEDIA_MANIFEST))), "layer")


def test_another_blob_cannot_stand_for_a_layer_that_is_here(make: Make, shelf: Shelf, refused: Any) -> None:
    """Otherwise a later push or save of the honest image would take the dishonest bytes."""
    shelf.load(make.pack(honest(make)[0]))
    test_a_layer_that_unpacks_to_something_else(make, refused)


def test_the_second_image_of_a_file_takes_the_first_with_it(make: Make, refused: Any) -> None:
    members, manifest = honest(make)
    bad: Members = {}
    second = make.image(bad, make.tar({"bad": b"x"}))
    layer = make.blob_name(make.tar({"bad": b"x"}))
    bad[layer] = bytes(len(bad[layer]))
    entries = [
        make.describe(data, MEDIA_MANIFEST, **make.named(f"x/app:{len(data)}{data is second}")) for data in (manifest, second)
    ]
    refused(make.pack(make.layout({**members, **bad}, *entries)), "digest")


def test_indexes_within_indexes(make: Make, refused: Any) -> None:
    members, manifest = honest(make)
    inner, media_type = manifest, MEDIA_MANIFEST
    for _ in range(4):
        inner = make.index(make.describe(inner, media_type))
        media_type = MEDIA_INDEX
        members[make.blob_name(inner)] = inner
    refused(make.pack(make.layout(members, make.describe(inner, MEDIA_INDEX))), "one within the other")


def test_a_manifest_that_is_an_index_too(make: Make, refused: Any) -> None:
    members, manifest = honest(make)
    both = make.to_json({**json.loads(manifest), "manifests": []})
    members[make.blob_name(both)] = both
    refused(make.pack(make.layout(members, make.describe(both, MEDIA_MANIFEST))), "both")


def test_an_index_that_is_called_a_manifest(make: Make, refused: Any) -> None:
    members, manifest = honest(make)
    index = make.index(make.describe(manifest, MEDIA_MANIFEST))
    members[make.blob_name(index)] = index
    refused(make.pack(make.layout(members, make.describe(index, MEDIA_MANIFEST))), "kind")


def test_a_key_that_stands_twice(make: Make, refused: Any) -> None:
    members, _ = honest(make)
    twice = members["index.json"].replace(b'"schemaVersion": 2', b'"schemaVersion": 2, "manifests": []', 1)
    refused(make.pack({**members, "index.json": twice}), "twice")


def test_one_name_for_two_images(make: Make, refused: Any) -> None:
    members, manifest = honest(make)
    other = make.image(members, make.other)
    entries = [make.describe(data, MEDIA_MANIFEST, **make.named("docker.io/library/app:1")) for data in (manifest, other)]
    refused(make.pack(make.layout(members, *entries)), "says 2 times")


def test_a_name_that_is_none(make: Make, refused: Any) -> None:
    members, manifest = honest(make)
    entry = make.describe(manifest, MEDIA_MANIFEST, **make.named("../../etc:passwd"))
    refused(make.pack(make.layout(members, entry)), "name")


def test_more_layers_than_diff_ids(make: Make, refused: Any) -> None:
    members, manifest = honest(make)
    value = json.loads(manifest)
    value["layers"].append(value["layers"][0])
    data = make.to_json(value)
    members[make.blob_name(data)] = data
    refused(make.pack(make.layout(members, make.describe(data, MEDIA_MANIFEST))), "3 layers")


def test_a_layout_whose_directory_holds_links(make: Make, shelf: Shelf, tmp_path: Path) -> None:
    members, _ = honest(make)
    place = tmp_path / "layout"
    for name, data in members.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    victim = place / next(name for name in members if name.startswith("blobs/"))
    outside = tmp_path / "outside"
    victim.rename(outside)
    victim.symlink_to(outside)
    before = shelf.content()
    with pytest.raises(IntegrityError, match="no regular file"):
        load(place, store=shelf.store, progress=Silent())
    assert shelf.content() == before


def test_half_a_layout(make: Make, refused: Any) -> None:
    members, _ = honest(make)
    for name in ("index.json", "oci-layout"):
        refused(make.pack({key: data for key, data in members.items() if key != name}), "is missing")


# -- docker save -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["Config", "Layers"])
@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "missing"])
def test_a_manifest_that_points_outside(make: Make, refused: Any, field: str, path: str) -> None:
    members = make.docker(make.layer, tags=["app:1"])
    value = json.loads(members["manifest.json"])
    value[0][field] = path if field == "Config" else [path]
    refused(make.pack({**members, "manifest.json": make.to_json(value)}), "absolute|do not have|missing")


def test_a_config_that_is_not_what_its_name_says(make: Make, refused: Any) -> None:
    members = make.docker(make.layer)
    [name] = [name for name in members if name.endswith(".json") and name != "manifest.json"]
    refused(make.pack({**members, name: members[name] + b" "}), "has the digest")


def test_a_layer_that_is_not_its_diff_id(make: Make, refused: Any) -> None:
    members = make.docker(make.layer)
    [name] = [name for name in members if name.endswith("/layer.tar")]
    refused(make.pack({**members, name: make.other}), "digest")
    refused(make.pack({**members, name: make.gzipped(make.other)}), "digest")


@pytest.mark.parametrize(
    "text",
    [b"{}", b"[1]", b'[{"Config": 1}]', b'[{"Config": "x", "Layers": "y"}]', b"[", b"\xff", b"[" * 100_000, b'[{"a":1,"a":2}]'],
)
def test_a_manifest_that_is_none(make: Make, refused: Any, text: bytes) -> None:
    refused(make.pack({**make.docker(make.layer), "manifest.json": text}), "manifest.json")


def test_fewer_layers_than_diff_ids(make: Make, refused: Any) -> None:
    members = make.docker(make.layer, make.other)
    value = json.loads(members["manifest.json"])
    value[0]["Layers"].pop()
    refused(make.pack({**members, "manifest.json": make.to_json(value)}), "names 1 layers")


def test_one_tag_for_two_images(make: Make, refused: Any) -> None:
    first, second = make.docker(make.layer, tags=["app:1"]), make.docker(make.other, tags=["app:1"])
    value = json.loads(first["manifest.json"])
    other = json.loads(second["manifest.json"])[0]
    second["other/layer.tar"] = second.pop(other["Layers"][0])
    other["Layers"] = ["other/layer.tar"]
    refused(make.pack({**second, **first, "manifest.json": make.to_json([*value, other])}), "twice")


def test_two_tables_of_contents_that_disagree(make: Make, refused: Any) -> None:
    """One reader would load one image, another reader another one."""
    members, _ = honest(make)
    refused(make.pack({**make.docker(make.layer, tags=["app:1"]), **members}), "disagree")


# -- before Docker 1.10 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("repositories", "document", "why"),
    [
        ({"app": {"1": "a"}}, {"parent": "a"}, "come to an end"),
        ({"app": {"1": "a"}}, {"parent": "../x"}, "do not have"),
        ({"app": {"1": "a"}}, {"parent": 7}, "parent is a name"),
        ({"app": {"1": "a"}}, {"parent": []}, "parent is a name"),
        ({"app": {"1": "gone"}}, {}, "missing"),
        ({"App": {"1": "a"}}, {}, "no name"),
        ({"app": {"1": 1}}, {}, "must name a layer"),
    ],
)
def test_old_images_that_lie(make: Make, refused: Any, repositories: Any, document: Any, why: str) -> None:
    members = {"repositories": make.to_json(repositories), "a/json": make.to_json(document), "a/layer.tar": make.layer}
    refused(make.pack(members), why)
