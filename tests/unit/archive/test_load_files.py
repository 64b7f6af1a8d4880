"""Every form of image file that tools write can be loaded, and its digests stay what they were."""

from __future__ import annotations

import bz2
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from contain.archive.load import load
from contain.errors import IntegrityError, NotFound, NotSupported, UsageError
from contain.oci import Platform, parse_manifest
from contain.oci.image import (
    MEDIA_DOCKER_CONFIG,
    MEDIA_DOCKER_INDEX,
    MEDIA_DOCKER_LAYER_GZIP,
    MEDIA_DOCKER_MANIFEST,
    MEDIA_INDEX,
    MEDIA_LAYER_GZIP,
    MEDIA_MANIFEST,
)
from contain.progress import Silent
from contain.reference import parse_reference
from contain.store import Store

if TYPE_CHECKING:
    from tests.unit.archive.conftest import Make, Members, Shelf


def layout(make: Make, *, packed: Callable[[bytes], bytes] | None = None, name: str = "docker.io/library/app:1") -> Members:
    members: Members = {}
    manifest = make.image(members, make.layer, make.other, packed=packed)
    return make.layout(members, make.describe(manifest, MEDIA_MANIFEST, **make.named(name)))


@pytest.mark.parametrize("packing", ["none", "gzip", "zstd"])
def test_an_oci_layout_keeps_its_manifest_and_so_its_digest(make: Make, shelf: Shelf, packing: str) -> None:
    packed = {"none": None, "gzip": make.gzipped, "zstd": make.zstd}[packing]
    members = layout(make, packed=packed)
    [loaded] = shelf.load(make.pack(members))
    data = members[f"blobs/sha256/{loaded.image.digest[7:]}"]
    assert shelf.store.read_blob(loaded.image.digest) == data
    assert [name.familiar for name in loaded.names] == ["app:1"]
    assert shelf.store.find_image("app:1").digest == loaded.image.digest
    trees = shelf.store.layer_trees(loaded.image)
    assert (trees[0] / "etc/motd").read_text() == "hello\n"
    for layer, diff_id in zip(parse_manifest(data).layers, loaded.image.config.diff_ids, strict=True):
        assert shelf.store.has_blob(layer.digest)  # so that it can be pushed and saved as it is
        out = io.BytesIO()
        shelf.store.write_layer_tar(diff_id, out)
        assert make.digest(out.getvalue()) == diff_id


def test_names_below_a_dot_are_the_same_names(make: Make, shelf: Shelf) -> None:
    assert len(shelf.load(make.pack(layout(make), prefix="./"))) == 1


@pytest.mark.parametrize("compress", [None, "gzip", "zstd", "xz", "bzip2"])
def test_an_archive_may_be_compressed_and_come_from_a_pipe(make: Make, shelf: Shelf, compress: str | None) -> None:
    data = make.pack(layout(make))
    packers: dict[str | None, Callable[[bytes], bytes]] = {
        None: bytes, "gzip": make.gzipped, "zstd": make.zstd, "xz": lzma.compress, "bzip2": bz2.compress,
    }  # fmt: skip
    [streamed] = shelf.stream(packers[compress](data))
    [read] = shelf.load(packers[compress](data))
    assert streamed.image == read.image


def test_a_layout_may_be_a_directory(make: Make, shelf: Shelf, tmp_path: Path) -> None:
    place = tmp_path / "layout"
    for name, data in layout(make).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    [loaded] = load(place, store=shelf.store, progress=Silent())
    assert loaded.image.digest == shelf.load(make.pack(layout(make)))[0].image.digest


def test_what_docker_wrote_before_version_25_is_loaded(make: Make, shelf: Shelf) -> None:
    members = make.docker(make.layer, make.other, tags=["app:1", "app:2"])
    [loaded] = shelf.load(make.pack(members))
    assert [name.familiar for name in loaded.names] == ["app:1", "app:2"]
    # Docker's image id is the config's digest, and the config is kept byte for byte.
    assert loaded.image.manifest.config.digest == make.digest(make.config(make.layer, make.other))
    assert [layer.digest for layer in loaded.image.manifest.layers] == [make.digest(make.layer), make.digest(make.other)]
    assert shelf.load(make.pack(members))[0].image.digest == loaded.image.digest


def test_a_layer_of_a_docker_archive_may_be_compressed(make: Make, shelf: Shelf) -> None:
    members = make.docker(make.layer)
    [name] = [name for name in members if name.endswith("/layer.tar")]
    members[name] = make.gzipped(make.layer)
    [loaded] = shelf.load(make.pack(members))
    [layer] = loaded.image.manifest.layers
    assert (layer.digest, layer.media_type) == (make.digest(make.gzipped(make.layer)), MEDIA_LAYER_GZIP)
    assert loaded.image.config.diff_ids == (make.digest(make.layer),)


@pytest.mark.parametrize("target", ["../{:064x}/layer.tar", "../layer0.tar"])
def test_a_layer_may_be_a_link_to_another_as_docker_and_podman_write_it(make: Make, shelf: Shelf, target: str) -> None:
    members = make.docker(make.layer, make.layer)
    first, second = f"{0:064x}/layer.tar", f"{1:064x}/layer.tar"
    del members[second]
    if target == "../layer0.tar":
        members["layer0.tar"] = members.pop(first)
        members["manifest.json"] = members["manifest.json"].replace(first.encode(), b"layer0.tar")
    link = tarfile.TarInfo(second)
    link.type, link.linkname = tarfile.SYMTYPE, target.format(0)
    [loaded] = shelf.load(make.pack(members, link))
    assert loaded.image.config.diff_ids == (make.digest(make.layer),) * 2


def test_an_image_without_a_name_is_loaded_by_its_digest(make: Make, shelf: Shelf) -> None:
    [loaded] = shelf.load(make.pack(make.docker(make.layer, tags=None)))
    assert loaded.names == ()
    assert shelf.store.image(loaded.image.digest) == loaded.image


def test_images_from_before_docker_1_10_are_loaded(make: Make, shelf: Shelf) -> None:
    base, top = "a" * 64, "b" * 64
    members: Members = {
        "repositories": make.to_json({"old/app": {"1": top}}),
        f"{base}/VERSION": b"1.0",
        f"{base}/json": make.to_json({"id": base, "created": "2014-01-01T00:00:00Z"}),
        f"{base}/layer.tar": make.layer,
        f"{top}/json": make.to_json(
            {
                "id": top,
                "parent": base,
                "created": "2014-01-02T00:00:00Z",
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": ["/bin/tool"]},
                "container_config": {"Cmd": ["/bin/sh", "-c", "#(nop) CMD"]},
            }
        ),
        f"{top}/layer.tar": make.other,
    }
    [loaded] = shelf.load(make.pack(members))
    assert [name.familiar for name in loaded.names] == ["old/app:1"]
    assert loaded.image.config.command == ("/bin/tool",)
    assert loaded.image.config.diff_ids == (make.digest(make.layer), make.digest(make.other))
    assert [row.created_by for row in loaded.image.config.history] == ["", "/bin/sh -c #(nop) CMD"]
    del members["repositories"]  # docker save ID
    [again] = shelf.load(make.pack(members))
    assert (again.names, again.image.digest) == ((), loaded.image.digest)


def two_platforms(make: Make, *, attestation: bool = True) -> tuple[Members, dict[str, bytes]]:
    members: Members = {}
    manifests = {
        "amd64": make.image(members, make.layer),
        "arm64": make.image(members, make.other, architecture="arm64"),
    }
    entries = [
        make.describe(data, MEDIA_MANIFEST, platform={"os": "linux", "architecture": name}) for name, data in manifests.items()
    ]
    if attestation:
        unknown = {"os": "unknown", "architecture": "unknown"}
        note = {"vnd.docker.reference.type": "attestation-manifest"}
        entries.append(make.describe(b"{}", MEDIA_MANIFEST, platform=unknown, annotations=note))
    index = make.index(*entries)
    members[make.blob_name(index)] = index
    return make.layout(members, make.describe(index, MEDIA_INDEX, **make.named("docker.io/library/app:1"))), manifests


def test_of_several_platforms_the_wanted_one_is_loaded_and_attestations_are_left_out(make: Make, shelf: Shelf) -> None:
    members, manifests = two_platforms(make)
    [loaded] = shelf.load(make.pack(members))
    assert loaded.image.digest == make.digest(manifests["amd64"])
    assert any("attestation" in note for note in shelf.told.notes)
    [loaded] = shelf.load(make.pack(members), platform=Platform(os="linux", architecture="arm64"))
    assert loaded.image.digest == make.digest(manifests["arm64"])
    with pytest.raises(NotFound, match="linux/amd64"):
        shelf.load(make.pack(members), platform=Platform(os="linux", architecture="s390x"))


def test_platforms_may_stand_in_the_top_index_itself(make: Make, shelf: Shelf) -> None:
    members: Members = {}
    entries = []
    for name, layer in (("arm64", make.other), ("amd64", make.layer)):
        manifest = make.image(members, layer, architecture=name)
        entries.append(make.describe(manifest, MEDIA_MANIFEST, platform={"os": "linux", "architecture": name}))
    [loaded] = shelf.load(make.pack(make.layout(members, *entries)))
    assert loaded.image.config.platform.architecture == "amd64"


def test_blobs_of_other_platforms_may_be_missing(make: Make, shelf: Shelf) -> None:
    members, manifests = two_platforms(make)
    del members[make.blob_name(manifests["arm64"])]
    assert len(shelf.load(make.pack(members))) == 1


@pytest.mark.parametrize(
    ("annotations", "name"),
    [
        ({"io.containerd.image.name": "example.org/app:2", "org.opencontainers.image.ref.name": "2"}, "example.org/app:2"),
        ({"org.opencontainers.image.ref.name": "docker.io/library/app:2"}, "docker.io/library/app:2"),
        ({"org.opencontainers.image.ref.name": "app:2"}, "docker.io/library/app:2"),
        ({"org.opencontainers.image.ref.name": "2"}, None),
        ({"io.containerd.image.name": "docker.io/library/app@sha256:" + "0" * 64}, None),
        ({}, None),
    ],
)
def test_names_are_read_from_annotations(make: Make, shelf: Shelf, annotations: dict[str, str], name: str | None) -> None:
    members: Members = {}
    manifest = make.image(members, make.layer)
    [loaded] = shelf.load(make.pack(make.layout(members, make.describe(manifest, MEDIA_MANIFEST, annotations=annotations))))
    assert [str(found) for found in loaded.names] == ([name] if name else [])


def test_one_image_with_two_names_is_one_image(make: Make, shelf: Shelf) -> None:
    members: Members = {}
    manifest = make.image(members, make.layer)
    entries = [make.describe(manifest, MEDIA_MANIFEST, **make.named(f"docker.io/library/app:{tag}")) for tag in "12"]
    [loaded] = shelf.load(make.pack(make.layout(members, *entries)))
    assert [name.familiar for name in loaded.names] == ["app:1", "app:2"]


def test_a_tag_that_moves_says_what_it_was_and_can_be_rolled_back(make: Make, shelf: Shelf) -> None:
    [first] = shelf.load(make.pack(make.docker(make.layer, tags=["app:1"])))
    [second] = shelf.load(make.pack(make.docker(make.other, tags=["app:1"])))
    assert first.replaced == ()
    assert [(name.familiar, before) for name, before in second.replaced] == [("app:1", first.image.digest)]
    assert shelf.store.rollback(parse_reference("app:1")) == (second.image.digest, first.image.digest)


def test_what_is_here_already_is_not_stored_again(make: Make, shelf: Shelf) -> None:
    shelf.load(make.pack(layout(make)))
    before = shelf.content()
    shelf.load(make.pack(layout(make)))
    assert shelf.content() == before


def test_a_layer_that_is_here_from_another_blob_gets_that_blob_too(make: Make, shelf: Shelf) -> None:
    shelf.load(make.pack(layout(make)))
    [loaded] = shelf.load(make.pack(layout(make, packed=make.gzipped)))
    assert all(shelf.store.has_blob(layer.digest) for layer in loaded.image.manifest.layers)


def test_a_root_file_system_is_no_image_file(make: Make, shelf: Shelf) -> None:
    link = tarfile.TarInfo("bin/sh")
    link.type, link.linkname = tarfile.SYMTYPE, "/bin/busybox"
    for data in (make.layer, make.pack({"etc/motd": b"x", "usr/" * 20 + "deep": b"x"}, link)):
        with pytest.raises(UsageError, match="contain import") as caught:
            shelf.load(data)
        assert caught.value.code == "no-image-in-file"


def test_a_directory_that_is_no_layout_is_not_walked_through(shelf: Shelf) -> None:
    place = shelf.directory / "elsewhere"
    (place / "blobs/sha256").mkdir(parents=True)
    (place / "blobs/sha256/x").symlink_to("/etc/passwd")  # would be refused, if it were looked at
    (place / "link").symlink_to("/")
    with pytest.raises(UsageError, match="holds no image"):
        load(place, store=shelf.store, progress=Silent())


def test_what_is_no_archive_is_not_written_down(shelf: Shelf) -> None:
    """Not even its second piece: the stream may have no end."""
    with open("/dev/zero", "rb") as endless, pytest.raises(IntegrityError, match="no tar archive"):
        load(endless, store=shelf.store, progress=Silent())


def test_artifacts_that_are_no_images_are_refused_by_name(make: Make, shelf: Shelf) -> None:
    members: Members = {}
    data = make.to_json({"chart": 1})
    members[make.blob_name(data)] = data
    config = make.describe(data, "application/vnd.cncf.helm.config.v1+json")
    manifest = make.to_json({"schemaVersion": 2, "mediaType": MEDIA_MANIFEST, "config": config, "layers": []})
    members[make.blob_name(manifest)] = manifest
    before = shelf.content()
    with pytest.raises(NotSupported, match="helm"):
        shelf.load(make.pack(make.layout(members, make.describe(manifest, MEDIA_MANIFEST))))
    assert shelf.content() == before


def test_a_file_that_is_not_there_is_a_clear_error(store_home: Path, tmp_path: Path) -> None:
    with Store.open(store_home) as store, pytest.raises(UsageError, match="No such file") as caught:
        load(tmp_path / "missing.tar", store=store, progress=Silent())
    assert caught.value.code == "image-file-not-found"


@pytest.fixture
def store_home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_dockers_media_types_are_kept(make: Make, shelf: Shelf) -> None:
    members: Members = {}
    config = make.config(make.layer)
    packed = make.gzipped(make.layer)
    manifest = make.to_json(
        {
            "schemaVersion": 2,
            "mediaType": MEDIA_DOCKER_MANIFEST,
            "config": make.describe(config, MEDIA_DOCKER_CONFIG),
            "layers": [make.describe(packed, MEDIA_DOCKER_LAYER_GZIP)],
        }
    )
    for data in (config, packed, manifest):
        members[make.blob_name(data)] = data
    entries = [make.describe(manifest, MEDIA_DOCKER_MANIFEST, platform={"os": "linux", "architecture": "amd64"})]
    index = make.to_json({"schemaVersion": 2, "mediaType": MEDIA_DOCKER_INDEX, "manifests": entries})
    members[make.blob_name(index)] = index
    [loaded] = shelf.load(make.pack(make.layout(members, make.describe(index, MEDIA_DOCKER_INDEX))))
    assert loaded.image.digest == make.digest(manifest)
    assert loaded.image.manifest.media_type == MEDIA_DOCKER_MANIFEST


def test_a_load_that_fails_spares_what_somebody_else_needs_by_now(make: Make, shelf: Shelf) -> None:
    """Another process found the first layer here while we were loading, and has a lease on it."""
    members: Members = {}
    manifest = make.image(members, make.layer, make.other)
    members[make.blob_name(make.other)] = bytes(len(make.other))
    data = make.pack(make.layout(members, make.describe(manifest, MEDIA_MANIFEST)))
    with shelf.store.lease(make.digest(make.layer)), pytest.raises(IntegrityError):
        shelf.load(data)
    assert shelf.store.has_layer(make.digest(make.layer))
    with pytest.raises(IntegrityError):
        shelf.load(data)
    assert shelf.store.has_layer(make.digest(make.layer))  # it was there before this time


def test_dockers_manifest_may_be_about_another_platform_of_the_same_image(make: Make, shelf: Shelf) -> None:
    """As Docker writes it on a machine of that platform."""
    members, manifests = two_platforms(make)
    config = make.config(make.other, architecture="arm64")
    described = {"Config": make.blob_name(config), "RepoTags": ["app:1"], "Layers": [make.blob_name(make.other)]}
    members["manifest.json"] = make.to_json([described])
    [loaded] = shelf.load(make.pack(members))
    assert loaded.image.digest == make.digest(manifests["amd64"])


@pytest.mark.parametrize("packing", ["none", "gzip"])
@pytest.mark.parametrize("moment", range(5))
def test_an_interrupted_load_leaves_nothing(make: Make, shelf: Shelf, packing: str, moment: int) -> None:
    class Interrupting(Silent):
        left = moment

        def amount(self, label: str, done: int, total: int | None) -> None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt

    path = shelf.directory / "image.tar"
    path.write_bytes(make.pack(layout(make, packed=make.gzipped if packing == "gzip" else None)))
    before = shelf.content()
    try:
        load(path, store=shelf.store, progress=Interrupting())
    except KeyboardInterrupt:
        assert shelf.content() == before
    else:
        assert moment > 3
