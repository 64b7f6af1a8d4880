"""What is saved is the same bytes every time, whole or not there, and what was in the store."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from contain.archive.plan import FileFormat
from contain.engine import Engine
from contain.errors import ContainError, HostError, IntegrityError, NotFound, NotSupported, UsageError
from contain.oci import ImageConfig, parse_manifest
from contain.oci.image import MEDIA_LAYER_GZIP, MEDIA_LAYER_ZSTD
from contain.reference import parse_reference

if TYPE_CHECKING:
    from tests.unit.archive.conftest import Make

BIG = bytes(range(256)) * 20_000  # several pieces


@pytest.fixture
def engine(tmp_path: Path, make: Make) -> Iterator[Engine]:
    with Engine.open(tmp_path / "home", run=tmp_path / "run") as opened:
        opened.import_image(io.BytesIO(make.tar({"etc/motd": b"hello\n", "big": BIG})), "app:1")
        opened.import_image(io.BytesIO(make.tar({"etc/motd": b"other\n"})), "example.org/team/app:2")
        opened.tag("app:1", "app:stable")
        yield opened


def saved(engine: Engine, *names: str, **options: Any) -> bytes:
    out = io.BytesIO()
    engine.save(names, out, **options)
    return out.getvalue()


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = [entry for entry in archive if entry.isreg()]
        return {entry.name: archive.extractfile(entry).read() for entry in files}  # type: ignore[union-attr]


def test_the_dual_form_is_an_oci_layout_and_dockers_manifest(engine: Engine) -> None:
    image = engine.find_image("app:1").image
    found = members(saved(engine, "app:1", "app:stable"))
    assert json.loads(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    entries = json.loads(found["index.json"])["manifests"]
    assert [(entry["digest"], entry["annotations"]["io.containerd.image.name"]) for entry in entries] == [
        (image.digest, "docker.io/library/app:1"),
        (image.digest, "docker.io/library/app:stable"),
    ]
    assert [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in entries] == ["1", "stable"]
    [docker] = json.loads(found["manifest.json"])
    assert docker["RepoTags"] == ["app:1", "app:stable"]
    assert hashlib.sha256(found[docker["Config"]]).hexdigest() == docker["Config"].rpartition("/")[2]
    [layer] = docker["Layers"]
    assert hashlib.sha256(found[layer]).hexdigest() == layer.rpartition("/")[2]
    assert json.loads(found["repositories"]) == {"app": dict.fromkeys(("1", "stable"), layer.rpartition("/")[2])}


def test_the_same_images_give_the_same_sorted_bytes(engine: Engine, tmp_path: Path, make: Make) -> None:
    data = saved(engine, "app:1", "example.org/team/app:2")
    assert data == saved(engine, "app:1", "example.org/team/app:2")
    with Engine.open(tmp_path / "second", run=tmp_path / "run2") as other:
        other.load(io.BytesIO(data))
        assert saved(other, "app:1", "example.org/team/app:2") == data
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        entries = archive.getmembers()
    names = [entry.name for entry in entries]
    assert names == sorted(names)
    assert {(entry.mtime, entry.uid, entry.gid, entry.uname) for entry in entries} == {(946_684_800, 0, 0, "")}


def test_a_layer_of_ours_is_stored_once_wherever_it_is_loaded(engine: Engine, tmp_path: Path) -> None:
    with Engine.open(tmp_path / "second", run=tmp_path / "run2") as other:
        [loaded] = other.load(io.BytesIO(saved(engine, "app:1")))
        layer = loaded.image.manifest.layers[0].digest
        assert other.store.is_canonical(layer)
        assert not other.store.has_blob(layer)


def test_an_image_asked_for_by_its_digest_has_no_name(engine: Engine) -> None:
    digest = engine.find_image("app:1").image.digest
    found = members(saved(engine, digest[7:19]))
    assert json.loads(found["manifest.json"])[0]["RepoTags"] is None
    assert "annotations" not in json.loads(found["index.json"])["manifests"][0]
    assert "repositories" not in found


def test_an_oci_archive_has_nothing_of_docker(engine: Engine) -> None:
    found = members(saved(engine, "app:1", form=FileFormat.OCI))
    assert not {"manifest.json", "repositories"} & set(found)


def test_a_directory_holds_what_the_archive_holds(engine: Engine, tmp_path: Path) -> None:
    engine.save(["app:1"], tmp_path / "layout", form=FileFormat.OCI_DIRECTORY)
    held = {
        str(path.relative_to(tmp_path / "layout")): path.read_bytes()
        for path in (tmp_path / "layout").rglob("*")
        if path.is_file()
    }
    assert held == members(saved(engine, "app:1", form=FileFormat.OCI))
    assert engine.load(tmp_path / "layout")[0].image == engine.find_image("app:1").image
    with pytest.raises(UsageError, match="exists"):
        engine.save(["app:1"], tmp_path / "layout", form=FileFormat.OCI_DIRECTORY)
    assert sorted(os.listdir(tmp_path)) == ["home", "layout"]


@pytest.mark.parametrize(("compression", "media_type"), [("gzip", MEDIA_LAYER_GZIP), ("zstd", MEDIA_LAYER_ZSTD)])
def test_repacked_layers_change_the_manifest_and_not_the_config(
    engine: Engine, tmp_path: Path, compression: str, media_type: str
) -> None:
    data = saved(engine, "app:1", compression=compression)
    assert data == saved(engine, "app:1", compression=compression)
    assert [row.names for row in engine.images() if not row.names] == []  # the repacked one is in the file only
    assert len(data) < len(BIG) // 4
    image = engine.find_image("app:1").image
    with Engine.open(tmp_path / "second", run=tmp_path / "run2") as other:
        [loaded] = other.load(io.BytesIO(data))
        assert loaded.image.manifest.config.digest == image.manifest.config.digest
        assert loaded.image.digest != image.digest
        assert [layer.media_type for layer in loaded.image.manifest.layers] == [media_type]
        # And back again: the image that it was.
        again = saved(other, "app:1", compression="none")
    assert again == saved(engine, "app:1")


def test_gzip_says_nothing_about_when_and_whence(engine: Engine) -> None:
    found = members(saved(engine, "app:1", compression="gzip"))
    manifest = parse_manifest(found["blobs/sha256/" + json.loads(found["index.json"])["manifests"][0]["digest"][7:]])
    packed = found["blobs/sha256/" + manifest.layers[0].digest[7:]]
    assert packed[:8] == b"\x1f\x8b\x08\0\0\0\0\0"  # no name, no time


def test_a_file_is_replaced_when_the_new_one_is_whole(engine: Engine, tmp_path: Path) -> None:
    target = tmp_path / "app.tar"
    target.write_bytes(b"old")
    with pytest.raises(NotFound, match="No such image: missing"):
        engine.save(["app:1", "missing"], target)
    assert target.read_bytes() == b"old"
    engine.save(["app:1"], target)
    assert members(target.read_bytes())
    assert target.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["app.tar", "home"]


def test_a_layer_that_was_changed_on_disk_is_not_saved(engine: Engine, tmp_path: Path) -> None:
    tree = engine.find_image("app:1").trees[0]
    (tree / "etc/motd").write_bytes(b"hellO\n")
    with pytest.raises(IntegrityError, match="changed or damaged"):
        engine.save(["app:1"], tmp_path / "app.tar")
    assert os.listdir(tmp_path) == ["home"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_a_clear_error(engine: Engine) -> None:
    with pytest.raises(HostError, match="disk is full") as caught:
        engine.save(["app:1"], Path("/dev/full"))
    assert caught.value.code == "output-full"


def test_an_output_that_cannot_be_is_a_clear_error(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory"):
        engine.save(["app:1"], tmp_path)
    with pytest.raises(ContainError, match="cannot write"):
        engine.save(["app:1"], tmp_path / "missing/app.tar")


def test_an_image_on_this_machines_root_cannot_be_saved(engine: Engine) -> None:
    config = ImageConfig(labels={"org.pytest-contain.host-fingerprint": "x"})
    image = engine.store.put_image(config, [])
    engine.store.tag(parse_reference("mine"), image.digest, source="build")
    with pytest.raises(NotSupported, match="machine's root"):
        saved(engine, "mine")


def test_a_pipe_is_written_to_and_not_replaced(engine: Engine, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as cat:
        engine.save(["example.org/team/app:2"], pipe)
        assert cat.stdout is not None
        assert cat.stdout.read() == saved(engine, "example.org/team/app:2")
    assert pipe.is_fifo()


def test_a_link_stays_a_link_to_the_new_file(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real.tar")
    engine.save(["example.org/team/app:2"], tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real.tar").read_bytes() == saved(engine, "example.org/team/app:2")


def test_removing_a_name_keeps_what_another_name_can_be_rolled_back_to(engine: Engine) -> None:
    first, second = (engine.find_image(name).image.digest for name in ("app:1", "example.org/team/app:2"))
    engine.tag("app:1", "web")
    engine.tag("example.org/team/app:2", "web")
    assert engine.remove_image("app:stable") == ("Untagged: app:stable",)
    assert engine.remove_image("app:1") == ("Untagged: app:1",)
    assert engine.store.rollback(parse_reference("web")) == (second, first)
    engine.store.rollback(parse_reference("web"), to=second)
    assert engine.remove_image(first) == (f"Deleted: {first}",)  # asked for by its digest: it goes
    with pytest.raises(NotFound, match="not here any more"):
        engine.store.rollback(parse_reference("web"), to=first)


def test_an_image_that_got_a_name_meanwhile_is_not_removed(engine: Engine) -> None:
    image = engine.find_image("example.org/team/app:2").image
    assert engine.store.remove_image(image.digest, only_unnamed=True).images == ()
    assert engine.find_image("example.org/team/app:2").image == image


def test_a_pulled_layer_whose_blob_is_gone_says_what_to_do(engine: Engine, tmp_path: Path) -> None:
    data = saved(engine, "app:1", compression="gzip")
    with Engine.open(tmp_path / "second", run=tmp_path / "run2") as other:
        [loaded] = other.load(io.BytesIO(data))
        (other.home / "blobs/sha256" / loaded.image.manifest.layers[0].digest[7:]).unlink()
        with pytest.raises(NotFound, match="only its files are") as caught:
            saved(other, "app:1")
        assert caught.value.code == "layer-blob-not-found"
