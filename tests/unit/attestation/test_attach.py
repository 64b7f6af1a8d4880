"""Documents live with their image: attached once, found again, gone with it, spared with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from contain.attestation import ARTIFACT_PROVENANCE, ARTIFACT_SBOM, attach, attestations_of
from contain.errors import NotFound
from contain.oci import Descriptor, Image, ImageConfig, digest_of
from contain.oci.image import MEDIA_LAYER
from contain.reference import parse_reference
from contain.store import Store

DOCUMENT = b'{"bomFormat": "CycloneDX"}\n'


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "home") as opened:
        yield opened


def make_image(store: Store, text: str) -> Image:
    with store.scratch("test") as work:
        upper = work / "upper"
        upper.mkdir()
        (upper / "file").write_text(text)
        layer = store.commit_layer(upper, lower=(), epoch_seconds=0)
    assert layer is not None
    descriptor = Descriptor(media_type=MEDIA_LAYER, digest=layer.diff_id, size=layer.size_bytes)
    return store.put_image(ImageConfig(diff_ids=(layer.diff_id,)), (descriptor,))


def test_an_artifact_names_its_subject_and_its_kind(store: Store) -> None:
    image = make_image(store, "a")
    made = attach(store, image.digest, DOCUMENT, artifact_type=ARTIFACT_SBOM)
    manifest = json.loads(store.read_blob(made.digest))
    assert manifest["artifactType"] == ARTIFACT_SBOM
    assert manifest["subject"] == {
        "mediaType": image.manifest.media_type,
        "digest": image.digest,
        "size": len(store.read_blob(image.digest)),
    }
    assert manifest["layers"][0]["digest"] == digest_of(DOCUMENT)
    assert [store.has_blob(digest) for digest in made.blobs] == [True, True]


def test_attaching_the_same_document_again_changes_nothing(store: Store) -> None:
    image = make_image(store, "a")
    first = attach(store, image.digest, DOCUMENT, artifact_type=ARTIFACT_SBOM)
    assert attach(store, image.digest, DOCUMENT, artifact_type=ARTIFACT_SBOM) == first
    assert attestations_of(store, image.digest) == (first,)


def test_the_newest_document_of_a_kind_comes_first(store: Store) -> None:
    image = make_image(store, "a")
    attach(store, image.digest, b"old", artifact_type=ARTIFACT_SBOM)
    attach(store, image.digest, b"statement", artifact_type=ARTIFACT_PROVENANCE, annotations={"k": "v"})
    attach(store, image.digest, b"new", artifact_type=ARTIFACT_SBOM)
    assert [each.document for each in attestations_of(store, image.digest, artifact_type=ARTIFACT_SBOM)] == [b"new", b"old"]
    assert [dict(each.annotations) for each in attestations_of(store, image.digest)] == [{}, {"k": "v"}, {}]


def test_nothing_is_attached_to_what_is_not_there(store: Store) -> None:
    with pytest.raises(NotFound):
        attach(store, "sha256:" + "0" * 64, DOCUMENT, artifact_type=ARTIFACT_SBOM)
    assert attestations_of(store, "sha256:" + "0" * 64) == ()


def test_documents_stay_as_long_as_their_image_and_go_with_it(store: Store) -> None:
    kept, gone = make_image(store, "kept"), make_image(store, "gone")
    store.tag(parse_reference("kept"), kept.digest, source="test")
    first = attach(store, kept.digest, DOCUMENT, artifact_type=ARTIFACT_SBOM)
    second = attach(store, gone.digest, b"other", artifact_type=ARTIFACT_SBOM)
    report = store.prune(grace_seconds=0)
    assert {second.digest, second.blobs[1]} <= set(report.blobs)
    assert attestations_of(store, kept.digest) == (first,)
    assert attestations_of(store, gone.digest) == ()
    assert set(store.remove_image(kept.digest).blobs) >= {first.digest, *first.blobs}


def test_an_image_that_comes_back_has_no_documents_of_its_former_life(store: Store) -> None:
    image = make_image(store, "a")
    attach(store, image.digest, DOCUMENT, artifact_type=ARTIFACT_SBOM)
    store.remove_image(image.digest)
    assert store.referrers(image.digest) == ()
    assert make_image(store, "a").digest == image.digest
    assert attestations_of(store, image.digest) == ()


def test_a_document_that_somebody_deleted_is_not_attached(store: Store) -> None:
    image = make_image(store, "a")
    made = attach(store, image.digest, DOCUMENT, artifact_type=ARTIFACT_SBOM)
    (store.home / "blobs" / "sha256" / made.blobs[1].removeprefix("sha256:")).unlink()
    assert attestations_of(store, image.digest) == ()
