"""Manifests, indexes and configs made to be read in two ways, to lead elsewhere, or to break their reader.

Layers have their own tests beside this file. Cases: CVE-2021-41190 (one document of two kinds), CVE-2020-15157 (a layer's bytes
fetched from an address in the manifest), notes of the OCI image-spec on unknown fields, and what JSON readers disagree about.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contain.errors import ContainError, IntegrityError, NotSupported
from contain.oci import Manifest, parse_config, parse_index, parse_manifest
from contain.oci.image import (
    MEDIA_CONFIG,
    MEDIA_INDEX,
    MEDIA_LAYER_GZIP,
    MEDIA_MANIFEST,
    digest_of,
    render_config,
    render_manifest,
)
from contain.registry.manifests import MOST_LAYERS, check_bytes, check_kind, check_manifest, pair_layers
from contain.store import Store
from contain.store.blobs import BlobIngest

DIGEST = "sha256:" + "a" * 64
CONFIG: dict[str, Any] = {"mediaType": MEDIA_CONFIG, "digest": DIGEST, "size": 2}
LAYER: dict[str, Any] = {"mediaType": MEDIA_LAYER_GZIP, "digest": DIGEST, "size": 2}
MANIFEST: dict[str, Any] = {"schemaVersion": 2, "mediaType": MEDIA_MANIFEST, "config": CONFIG, "layers": [LAYER]}
INDEX: dict[str, Any] = {"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": [{**LAYER, "mediaType": MEDIA_MANIFEST}]}
IMAGE: dict[str, Any] = {
    "architecture": "amd64",
    "os": "linux",
    "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], "Labels": {"a": "b"}},
    "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
    "history": [{"created_by": "x"}],
}


def text(value: Any) -> bytes:
    return json.dumps(value).encode()


def test_the_documents_that_the_cases_are_made_of_are_good() -> None:
    manifest = parse_manifest(text(MANIFEST))
    check_manifest(manifest, name="image")
    assert check_kind(text(MANIFEST), media_type=MEDIA_MANIFEST, name="image").value == "manifest"
    assert check_kind(text(INDEX), media_type=MEDIA_INDEX, name="image").value == "index"
    assert len(parse_index(text(INDEX))) == 1
    assert pair_layers(manifest, parse_config(text(IMAGE)), name="image")


BAD_DIGESTS: dict[str, Any] = {
    "none": None,
    "empty": "",
    "number": 5,
    "list": [DIGEST],
    "too-short": "sha256:" + "a" * 63,
    "too-long": "sha256:" + "a" * 65,
    "upper-case": "sha256:" + "A" * 64,
    "other-algorithm": "md5:" + "a" * 32,
    "no-algorithm": "a" * 64,
    "sha512": "sha512:" + "a" * 128,
    "path": "sha256:../../../../etc/passwd",
    "path-of-the-right-length": "sha256:" + "../" * 21 + "a",
    "newline": DIGEST + "\n",
    "zero-byte": "sha256:" + "a" * 63 + "\0",
    "blank": " " + DIGEST,
    "other-digits": "sha256:" + "\u0661" * 64,
}

BAD_SIZES: dict[str, Any] = {
    "none": None,
    "negative": -1,
    "fraction": 2.5,
    "float": 2.0,
    "text": "2",
    "truth": True,
    "huge": 1 << 63,
    "endless": float("inf"),
    "list": [2],
}

BAD_DOCUMENTS: dict[str, bytes] = {
    "empty": b"",
    "not-json": b"<html>",
    "half": text(MANIFEST)[:-5],
    "two": text(MANIFEST) * 2,
    "list": b"[]",
    "null": b"null",
    "number": b"2",
    "not-utf-8": b'{"schemaVersion": 2, "a": "\xff"}',
    "utf-16": json.dumps(MANIFEST).encode("utf-16"),
    "byte-order-mark": b"\xef\xbb\xbf" + text(MANIFEST),
    "deep-lists": b"[" * 100_000,
    "deep-objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep-in-a-field": b'{"schemaVersion": 2, "annotations": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "endless-number": b'{"schemaVersion": ' + b"2" * 100_000 + b"}",
    "infinity": b'{"schemaVersion": Infinity}',
    "not-a-number": b'{"schemaVersion": NaN}',
    "comment": b"/* */" + text(MANIFEST),
    "trailing-comma": text(MANIFEST)[:-1] + b",}",
    "zero-bytes-behind": text(MANIFEST) + bytes(10),
}

TWO_KINDS: dict[str, Any] = {
    "manifest-with-manifests": {**MANIFEST, "manifests": INDEX["manifests"]},
    "manifest-with-no-manifests": {**MANIFEST, "manifests": []},
    "manifest-with-null-manifests": {**MANIFEST, "manifests": None},
    "index-with-layers": {**INDEX, "layers": [LAYER]},
    "index-with-a-config": {**INDEX, "config": CONFIG},
}

SPELT_OTHERWISE: dict[str, Any] = {
    "manifests": {**MANIFEST, "Manifests": INDEX["manifests"]},
    "layers": {**MANIFEST, "LAYERS": []},
    "config": {**MANIFEST, "Config": CONFIG},
    "media-type": {**MANIFEST, "mediatype": MEDIA_INDEX},
    "version": {**MANIFEST, "SchemaVersion": 1},
    "a-layers-digest": {**MANIFEST, "layers": [{**LAYER, "Digest": "sha256:" + "b" * 64}]},
    "a-layers-size": {**MANIFEST, "layers": [{**LAYER, "SIZE": 3}]},
    "a-configs-digest": {**MANIFEST, "config": {**CONFIG, "dIgEsT": "sha256:" + "b" * 64}},
}

TWICE: dict[str, bytes] = {
    "layers": b'{"layers": [], ' + text(MANIFEST)[1:],
    "layers-escaped": b'{"l\\u0061yers": [], ' + text(MANIFEST)[1:],
    "config": b'{"config": {}, ' + text(MANIFEST)[1:],
    "media-type": b'{"mediaType": "x", ' + text(MANIFEST)[1:],
    "digest-of-a-layer": text(MANIFEST).replace(b'"size": 2}]', b'"size": 2, "digest": "sha256:' + b"b" * 64 + b'"}]'),
    "size-of-the-config": text(MANIFEST).replace(b'"size": 2}', b'"size": 2, "size": 3}', 1),
    "annotation": text({**MANIFEST, "annotations": {"a": "b"}}).replace(b'"a": "b"', b'"a": "b", "a": "c"'),
}

OTHER_VERSIONS: dict[str, Any] = {"1": 1, "3": 3, "2.0": 2.0, "text": "2", "truth": True, "none": None, "list": [2]}


def refused_as_manifest(data: bytes) -> None:
    with pytest.raises(IntegrityError) as caught:
        parse_manifest(data)
    assert caught.value.code == "bad-manifest"


@pytest.mark.parametrize("name", BAD_DOCUMENTS)
def test_a_document_that_is_no_json_of_one_meaning_is_refused_by_every_reader(name: str) -> None:
    data = BAD_DOCUMENTS[name]
    refused_as_manifest(data)
    with pytest.raises(IntegrityError):
        parse_index(data)
    if name != "null":
        with pytest.raises(IntegrityError):
            parse_config(data)
    with pytest.raises(IntegrityError):
        check_kind(data, media_type=MEDIA_MANIFEST, name="image")


@pytest.mark.parametrize("name", TWO_KINDS)
def test_a_document_of_two_kinds_is_neither(name: str) -> None:
    data = text(TWO_KINDS[name])
    refused_as_manifest(data)
    with pytest.raises(IntegrityError):
        parse_index(data)
    for media_type in (MEDIA_MANIFEST, MEDIA_INDEX, ""):
        with pytest.raises(IntegrityError):
            check_kind(data, media_type=media_type, name="image")


@pytest.mark.parametrize(("value", "said"), [(MANIFEST, MEDIA_INDEX), (INDEX, MEDIA_MANIFEST)])
def test_a_media_type_that_contradicts_the_fields_is_refused(value: Any, said: str) -> None:
    with pytest.raises(IntegrityError, match="but the registry says"):
        check_kind(text(value), media_type=said, name="image")
    with pytest.raises(IntegrityError, match="but its mediaType says"):
        check_kind(text({**value, "mediaType": said}), media_type="", name="image")


@pytest.mark.parametrize("name", SPELT_OTHERWISE)
def test_a_field_that_only_some_readers_take_for_one_is_refused(name: str) -> None:
    refused_as_manifest(text(SPELT_OTHERWISE[name]))


@pytest.mark.parametrize("name", TWICE)
def test_a_key_that_stands_twice_is_refused(name: str) -> None:
    refused_as_manifest(TWICE[name])
    with pytest.raises(IntegrityError):
        check_kind(TWICE[name], media_type=MEDIA_MANIFEST, name="image")


@pytest.mark.parametrize("name", OTHER_VERSIONS)
def test_another_version_is_refused(name: str) -> None:
    refused_as_manifest(text({**MANIFEST, "schemaVersion": OTHER_VERSIONS[name]}))
    with pytest.raises(IntegrityError):
        parse_index(text({**INDEX, "schemaVersion": OTHER_VERSIONS[name]}))


@pytest.mark.parametrize("name", BAD_DIGESTS)
def test_a_digest_that_is_none_is_refused_wherever_it_stands(name: str) -> None:
    bad = BAD_DIGESTS[name]
    refused_as_manifest(text({**MANIFEST, "config": {**CONFIG, "digest": bad}}))
    refused_as_manifest(text({**MANIFEST, "layers": [LAYER, {**LAYER, "digest": bad}]}))
    with pytest.raises(IntegrityError):
        parse_index(text({**INDEX, "manifests": [{**LAYER, "digest": bad}]}))
    with pytest.raises(IntegrityError) as caught:
        parse_config(text({**IMAGE, "rootfs": {"type": "layers", "diff_ids": [bad]}}))
    assert caught.value.code == "bad-config"


@pytest.mark.parametrize("name", BAD_SIZES)
def test_a_size_that_is_none_is_refused(name: str) -> None:
    bad = {**LAYER, "size": BAD_SIZES[name]}
    if BAD_SIZES[name] is None:
        del bad["size"]
    refused_as_manifest(text({**MANIFEST, "layers": [bad]}))
    refused_as_manifest(text({**MANIFEST, "config": bad}))


@pytest.mark.parametrize("field", ["config", "layers"])
@pytest.mark.parametrize("value", [None, 1, "x", {}, [1], [None], [[]], {"a": 1}])
def test_a_field_of_another_type_is_refused(field: str, value: Any) -> None:
    refused_as_manifest(text({**MANIFEST, field: value}))


@pytest.mark.parametrize(
    "changes",
    [
        {"config": []},
        {"config": "x"},
        {"config": {"Env": "A=b"}},
        {"config": {"Env": [1]}},
        {"config": {"Env": ["A=\0"]}},
        {"config": {"Env": ["A=\ud800"]}},
        {"config": {"Cmd": ["a\0b"]}},
        {"config": {"Entrypoint": {"0": "sh"}}},
        {"config": {"User": 0}},
        {"config": {"User": "root\0"}},
        {"config": {"WorkingDir": "/a\0b"}},
        {"config": {"Labels": {"a": 1}}},
        {"config": {"Labels": {"a\0": "b"}}},
        {"config": {"Volumes": ["/a"]}},
        {"config": {"Volumes": {"/a\0": {}}}},
        {"config": {"ExposedPorts": "80"}},
        {"config": {"Healthcheck": []}},
        {"config": {"Healthcheck": {"Interval": -1}}},
        {"config": {"Healthcheck": {"Test": "x"}}},
        {"config": {"OnBuild": [["RUN x"]]}},
        {"rootfs": []},
        {"rootfs": {"diff_ids": DIGEST}},
        {"rootfs": {"diff_ids": [1]}},
        {"history": {}},
        {"history": [1]},
        {"history": [{"created_by": 1}]},
        {"os": 1},
        {"architecture": ["amd64"]},
        {"created": 0},
        {"RootFS": {"diff_ids": []}},
        {"Config": {}},
        {"OS": "windows"},
    ],
)
def test_a_config_of_other_types_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError) as caught:
        parse_config(text({**IMAGE, **changes}))
    assert caught.value.code == "bad-config"


def test_a_config_with_a_key_twice_is_refused() -> None:
    with pytest.raises(IntegrityError):
        parse_config(text(IMAGE).replace(b'"diff_ids"', b'"diff_ids": [], "diff_ids"'))


def test_what_is_read_can_be_written_and_read_again() -> None:
    manifest, config = parse_manifest(text(MANIFEST)), parse_config(text(IMAGE))
    assert parse_manifest(render_manifest(manifest)) == manifest
    assert parse_config(render_config(config)) == config


def test_addresses_and_embedded_data_of_a_layer_are_not_taken_over() -> None:
    layer = {**LAYER, "urls": ["http://169.254.169.254/"], "data": "eA=="}
    manifest = parse_manifest(text({**MANIFEST, "layers": [layer]}))
    assert b"urls" not in render_manifest(manifest)
    assert not hasattr(manifest.layers[0], "urls")


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "application/vnd.in-toto+json",
        "text/html",
        "",
    ],
)
def test_a_layer_of_another_kind_is_refused_by_name(media_type: str) -> None:
    manifest = parse_manifest(text({**MANIFEST, "layers": [{**LAYER, "mediaType": media_type}]}))
    with pytest.raises(NotSupported):
        check_manifest(manifest, name="image")


def test_a_manifest_of_more_layers_than_can_be_stacked_is_refused() -> None:
    data = text({**MANIFEST, "layers": [LAYER] * (MOST_LAYERS + 1)})
    with pytest.raises(IntegrityError, match="501 layers"):
        check_manifest(parse_manifest(data), name="image")


def test_a_config_that_claims_gigabytes_is_refused_before_it_is_fetched() -> None:
    manifest = parse_manifest(text({**MANIFEST, "config": {**CONFIG, "size": 1 << 40}}))
    with pytest.raises(IntegrityError, match="claims"):
        check_manifest(manifest, name="image")


@pytest.mark.parametrize("diff_ids", [[], [DIGEST, DIGEST]])
def test_a_config_with_another_number_of_layers_is_refused(diff_ids: list[str]) -> None:
    config = parse_config(text({**IMAGE, "rootfs": {"type": "layers", "diff_ids": diff_ids}}))
    with pytest.raises(IntegrityError):
        pair_layers(parse_manifest(text(MANIFEST)), config, name="image")


def test_a_document_that_is_not_what_was_promised_is_refused() -> None:
    data = text(MANIFEST)
    for promised, claimed, size in ((DIGEST, "", None), (None, DIGEST, None), (None, "", len(data) + 1)):
        with pytest.raises(IntegrityError) as caught:
            check_bytes(data, promised=promised, claimed=claimed, size=size, name="image")
        assert caught.value.code == "digest-mismatch"


def _receive(ingest: BlobIngest, data: bytes) -> None:
    ingest.write(data)
    ingest.commit()


@pytest.mark.parametrize(
    ("data", "size"), [(b"other bytes", 11), (b"short", 11), (b"much longer than promised", 11)], ids=["other", "short", "long"]
)
def test_a_blob_that_is_not_what_was_promised_never_enters_the_store(tmp_path: Path, data: bytes, size: int) -> None:
    digest = digest_of(b"right bytes")
    with Store.open(tmp_path / "home") as store:
        with pytest.raises(IntegrityError), store.ingest_blob(digest, size) as ingest:
            _receive(ingest, data)
        assert not store.has_blob(digest)


@pytest.mark.parametrize("digest", ["../../etc/passwd", "sha256:../../../etc/passwd", "sha256:" + "A" * 64, "", "sha256:"])
def test_a_digest_that_is_a_path_reaches_no_file(tmp_path: Path, digest: str) -> None:
    with Store.open(tmp_path / "home") as store:
        attempts: tuple[Callable[[str], object], ...] = (store.read_blob, store.open_blob, store.has_blob)
        for attempt in (*attempts, store.layer_tree, store.has_layer, store.image):
            with pytest.raises(ContainError):
                attempt(digest)


def test_a_blob_that_was_changed_in_the_store_is_noticed(tmp_path: Path) -> None:
    with Store.open(tmp_path / "home") as store:
        digest = store.write_blob(text(MANIFEST))
        path = tmp_path / "home/blobs/sha256" / digest.removeprefix("sha256:")
        path.chmod(0o600)
        path.write_bytes(text({**MANIFEST, "layers": []}))
        with pytest.raises(IntegrityError):
            store.read_blob(digest)


def test_an_image_without_layers_is_an_image() -> None:
    manifest = parse_manifest(text({**MANIFEST, "layers": []}))
    assert isinstance(manifest, Manifest)
    assert pair_layers(manifest, parse_config(text({**IMAGE, "rootfs": {"diff_ids": []}})), name="image") == ()
