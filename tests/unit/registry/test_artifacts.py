"""Documents beside images: generic manifests and blobs, and what refers to what, with and without the referrers API."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from contain.errors import IntegrityError, NotFound, RegistryError, UsageError
from contain.oci import canonical_json
from contain.oci.image import MEDIA_INDEX, MEDIA_MANIFEST
from contain.registry.artifacts import (
    bytes_blob,
    fetch_blob,
    fetch_manifest,
    file_blob,
    list_referrers,
    push_artifact,
    push_manifest,
)

if TYPE_CHECKING:
    from contain.registry.session import RegistrySession
    from tests.unit.registry.conftest import FaultyRegistry, Pusher

SBOM, PROVENANCE = "application/vnd.cyclonedx+json", "application/vnd.in-toto+json"


@pytest.fixture
def session(registry: FaultyRegistry, pusher: Pusher) -> Iterator[RegistrySession]:
    with pusher.session(registry.host) as opened:
        yield opened


@pytest.fixture
def subject(registry: FaultyRegistry, pusher: Pusher) -> str:
    pusher.image(registry.reference(), {"a": b"1"})
    return pusher(registry.reference()).digest


def cache_manifest(*blobs: Any) -> bytes:
    rows = [
        {"mediaType": blob.descriptor.media_type, "digest": blob.descriptor.digest, "size": blob.descriptor.size}
        for blob in blobs
    ]
    return canonical_json({"schemaVersion": 2, "mediaType": MEDIA_MANIFEST, "config": rows[0], "layers": rows[1:]})


def test_a_generic_manifest_and_its_blobs_come_back_as_they_were(
    registry: FaultyRegistry, session: RegistrySession, tmp_path: Path
) -> None:
    (tmp_path / "layer").write_bytes(b"x" * 700_000)
    config = bytes_blob("application/vnd.example.cache.v1+json", b'{"keys":[]}')
    layer = file_blob("application/octet-stream", tmp_path / "layer")
    manifest = cache_manifest(config, layer)
    name = registry.reference("cache:main")
    pushed = push_manifest(name, manifest, [config, layer], session=session)
    served = fetch_manifest(name, session=session)
    assert (served.data, served.digest, served.media_type) == (manifest, pushed.digest, MEDIA_MANIFEST)
    assert served.descriptor == pushed
    out = io.BytesIO()
    fetch_blob(name, layer.descriptor, out, session=session)
    assert out.getvalue() == b"x" * 700_000


def test_a_manifest_can_be_put_by_its_digest_alone(registry: FaultyRegistry, session: RegistrySession, make: Any) -> None:
    manifest = cache_manifest(bytes_blob("a/b", b"{}"))
    name = registry.reference(f"cache@{make.digest(manifest)}")
    push_manifest(name, manifest, [bytes_blob("a/b", b"{}")], session=session)
    assert [tag for _, tag in registry.manifests] == [make.digest(manifest)]
    with pytest.raises(UsageError, match="not sha256:0000"):
        push_manifest(registry.reference("cache@sha256:" + "0" * 64), manifest, [], session=session)


@pytest.mark.parametrize("data", [b"no json", b"[]", b"{}", b'{"mediaType": 7}'])
def test_a_manifest_without_media_type_is_not_pushed(registry: FaultyRegistry, session: RegistrySession, data: bytes) -> None:
    with pytest.raises(UsageError):
        push_manifest(registry.reference(), data, [], session=session)
    assert not registry.seen


def test_a_blob_that_is_not_what_its_descriptor_says_is_not_pushed(
    registry: FaultyRegistry, session: RegistrySession, tmp_path: Path
) -> None:
    path = tmp_path / "changing"
    path.write_bytes(b"before")
    blob = file_blob("a/b", path)
    path.write_bytes(b"after!")
    with pytest.raises(IntegrityError):
        push_manifest(registry.reference(), cache_manifest(blob), [blob], session=session)
    assert not registry.manifests


def test_a_session_is_over_after_a_failure_of_its_threads(
    registry: FaultyRegistry, session: RegistrySession, make: Any
) -> None:
    blob = bytes_blob("a/b", b"{}")
    registry.fault("/uploads/$", make.answer(status=403), method="POST")
    with pytest.raises(RegistryError, match="denied"):
        push_manifest(registry.reference(), cache_manifest(blob), [blob], session=session)
    with pytest.raises(RegistryError) as caught:
        fetch_manifest(registry.reference(), session=session)
    assert caught.value.code == "registry-session-over"


def test_a_blob_with_wrong_bytes_is_refused(registry: FaultyRegistry, session: RegistrySession, make: Any) -> None:
    blob = bytes_blob("a/b", b"right")
    registry.blobs[blob.descriptor.digest] = b"wrong"
    with pytest.raises(IntegrityError) as caught:
        fetch_blob(registry.reference(), blob.descriptor, io.BytesIO(), session=session)
    assert caught.value.code == "blob-digest"


def test_a_blob_whose_connection_breaks_is_resumed(registry: FaultyRegistry, session: RegistrySession, make: Any) -> None:
    data = bytes(range(256)) * 4000
    blob = bytes_blob("a/b", data)
    registry.put("app", data)
    registry.fault("/blobs/", make.answer(cut=600_000))
    out = io.BytesIO()
    fetch_blob(registry.reference(), blob.descriptor, out, session=session)
    assert out.getvalue() == data
    assert registry.asked("/blobs/")[-1].headers["Range"].startswith("bytes=")


def test_a_manifest_with_another_digest_is_refused(registry: FaultyRegistry, session: RegistrySession, subject: str) -> None:
    registry.manifests["app", subject] = (MEDIA_MANIFEST, cache_manifest(bytes_blob("a/b", b"{}")))
    with pytest.raises(IntegrityError):
        fetch_manifest(registry.reference(f"app@{subject}"), session=session)


@pytest.mark.parametrize("api", [False, True, "header"])
def test_what_was_attached_is_found_whatever_the_registry_can(
    registry: FaultyRegistry, session: RegistrySession, subject: str, api: bool | str
) -> None:
    registry.referrers = api
    name = registry.reference()
    sbom = push_artifact(
        name,
        subject,
        artifact_type=SBOM,
        blob=bytes_blob(SBOM, b'{"bom":1}'),
        annotations={"made-by": "tests"},
        session=session,
    )
    proof = push_artifact(name, subject, artifact_type=PROVENANCE, blob=bytes_blob(PROVENANCE, b"{}"), session=session)
    assert {row.descriptor.digest for row in list_referrers(name, subject, session=session)} == {sbom.digest, proof.digest}
    (only,) = list_referrers(name, subject, artifact_type=SBOM, session=session)
    assert only.descriptor.digest == sbom.digest
    document = json.loads(fetch_manifest(registry.reference(f"app@{sbom.digest}"), session=session).data)
    assert document["artifactType"] == SBOM
    assert document["subject"] == {
        "mediaType": MEDIA_MANIFEST,
        "digest": subject,
        "size": len(registry.manifests["app", "1"][1]),
    }
    tagged = ("app", subject.replace(":", "-")) in registry.manifests
    assert tagged is (api is not True)


def test_attaching_the_same_again_makes_nothing_new(registry: FaultyRegistry, session: RegistrySession, subject: str) -> None:
    blob = bytes_blob(SBOM, b"{}")
    first = push_artifact(registry.reference(), subject, artifact_type=SBOM, blob=blob, session=session)
    assert push_artifact(registry.reference(), subject, artifact_type=SBOM, blob=blob, session=session) == first
    assert len(list_referrers(registry.reference(), subject, session=session)) == 1


def test_two_writers_of_one_tag_lose_nothing(registry: FaultyRegistry, session: RegistrySession, subject: str) -> None:
    """Another writer's index arrives right after ours, made from what was there before."""
    tag = subject.replace(":", "-")
    other = {"mediaType": MEDIA_MANIFEST, "digest": "sha256:" + "a" * 64, "size": 3, "artifactType": "other"}
    put, overwritten = registry._put_manifest, list[bool]()

    def overwrite(seen: Any, repository: str, target: str) -> Any:
        answer = put(seen, repository, target)
        if target == tag and not overwritten:
            overwritten.append(True)
            data = canonical_json({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": [other]})
            registry.manifests[repository, tag] = (MEDIA_INDEX, data)
        return answer

    registry._put_manifest = overwrite  # type: ignore[method-assign]
    push_artifact(registry.reference(), subject, artifact_type=SBOM, blob=bytes_blob(SBOM, b"{}"), session=session)
    assert {row.artifact_type for row in list_referrers(registry.reference(), subject, session=session)} == {"other", SBOM}


def test_a_tag_that_others_change_for_ever_is_given_up(
    registry: FaultyRegistry, session: RegistrySession, subject: str
) -> None:
    tag, put = subject.replace(":", "-"), registry._put_manifest

    def overwrite(seen: Any, repository: str, target: str) -> Any:
        answer = put(seen, repository, target)
        if target == tag:
            data = canonical_json({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": []})
            registry.manifests[repository, tag] = (MEDIA_INDEX, data)
        return answer

    registry._put_manifest = overwrite  # type: ignore[method-assign]
    with pytest.raises(RegistryError) as caught:
        push_artifact(registry.reference(), subject, artifact_type=SBOM, blob=bytes_blob(SBOM, b"{}"), session=session)
    assert caught.value.code == "registry-busy"


@pytest.mark.parametrize(
    "body", [b'{"schemaVersion": 2, "manifests": []}', b"<html>hello</html>", b"{}", b'{"manifests": 3, "schemaVersion": 2}']
)
def test_an_api_that_knows_nothing_does_not_hide_what_the_tag_says(
    registry: FaultyRegistry, session: RegistrySession, subject: str, make: Any, body: bytes
) -> None:
    pushed = push_artifact(registry.reference(), subject, artifact_type=SBOM, blob=bytes_blob(SBOM, b"{}"), session=session)
    registry.fault("/referrers/", make.answer(body=body))
    (found,) = list_referrers(registry.reference(), subject, session=session)
    assert found.descriptor.digest == pushed.digest


def test_nothing_attached_is_an_empty_list(registry: FaultyRegistry, session: RegistrySession, subject: str) -> None:
    assert list_referrers(registry.reference(), subject, session=session) == ()


def test_nothing_is_attached_to_what_is_not_there(registry: FaultyRegistry, session: RegistrySession) -> None:
    with pytest.raises(NotFound):
        push_artifact(
            registry.reference(), "sha256:" + "0" * 64, artifact_type=SBOM, blob=bytes_blob(SBOM, b"{}"), session=session
        )
    assert not registry.blobs


def test_what_is_no_digest_is_refused(registry: FaultyRegistry, session: RegistrySession) -> None:
    with pytest.raises(UsageError) as caught:
        list_referrers(registry.reference(), "latest", session=session)
    assert caught.value.code == "bad-digest"
