"""What counts as a manifest."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contain.errors import ContainError, IntegrityError, NotFound, NotSupported
from contain.oci import ImageConfig, Platform, digest_of
from contain.oci.image import MEDIA_DOCKER_INDEX, MEDIA_DOCKER_MANIFEST, MEDIA_INDEX, MEDIA_MANIFEST
from contain.registry.manifests import Kind, check_bytes, check_kind, check_platform

INDEX: dict[str, Any] = {"schemaVersion": 2, "manifests": []}
MANIFEST: dict[str, Any] = {"schemaVersion": 2, "config": {}, "layers": []}


def kind(value: Any, media_type: str) -> Kind:
    return check_kind(json.dumps(value).encode(), media_type=media_type, name="x")


@pytest.mark.parametrize("media_type", [MEDIA_INDEX, MEDIA_DOCKER_INDEX, "application/json", ""])
def test_an_index_is_known_by_its_fields(media_type: str) -> None:
    assert kind(INDEX, media_type) is Kind.INDEX
    assert kind({**INDEX, "mediaType": MEDIA_INDEX}, media_type) is Kind.INDEX


@pytest.mark.parametrize("media_type", [MEDIA_MANIFEST, MEDIA_DOCKER_MANIFEST, "text/plain", ""])
def test_a_manifest_is_known_by_its_fields(media_type: str) -> None:
    assert kind(MANIFEST, media_type) is Kind.MANIFEST


@pytest.mark.parametrize(
    ("value", "media_type"),
    [
        (INDEX, MEDIA_MANIFEST),
        (MANIFEST, MEDIA_INDEX),
        ({**INDEX, "mediaType": MEDIA_MANIFEST}, MEDIA_INDEX),
        ({**MANIFEST, "mediaType": MEDIA_INDEX}, MEDIA_MANIFEST),
        ({**MANIFEST, **INDEX}, MEDIA_MANIFEST),
        ({**INDEX, "layers": []}, MEDIA_INDEX),
        ({**INDEX, "config": None}, MEDIA_INDEX),
        ({**INDEX, "mediaType": 5}, MEDIA_INDEX),
        ([], MEDIA_INDEX),
    ],
)
def test_a_document_of_two_kinds_is_refused(value: Any, media_type: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        kind(value, media_type)
    assert caught.value.code == "bad-manifest"


def test_a_key_that_stands_twice_is_refused() -> None:
    with pytest.raises(IntegrityError, match="twice"):
        check_kind(b'{"schemaVersion": 2, "layers": [], "layers": [1], "config": {}}', media_type="", name="x")


@pytest.mark.parametrize("value", [{"schemaVersion": 1, "fsLayers": []}, {**MANIFEST, "mediaType": "application/vnd.x"}])
def test_other_kinds_are_not_supported(value: Any) -> None:
    with pytest.raises(NotSupported):
        kind(value, "")


@given(
    st.binary(max_size=80)
    | st.recursive(
        st.none() | st.text(max_size=8),
        lambda inner: st.dictionaries(st.sampled_from(["manifests", "layers", "config", "mediaType", "schemaVersion"]), inner),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_are_a_kind_or_an_expected_error(data: bytes) -> None:
    with contextlib.suppress(ContainError):
        check_kind(data, media_type=MEDIA_INDEX, name="x")


def test_bytes_are_held_to_every_promise() -> None:
    data = b"{}"
    right, wrong = digest_of(data), "sha256:" + "0" * 64
    assert check_bytes(data, promised=right, claimed=right, size=2, name="x") == right
    assert check_bytes(data, promised=None, claimed="", size=None, name="x") == right
    assert check_bytes(data, promised=None, claimed="sha512:0", size=None, name="x") == right
    for promised, claimed, size in ((wrong, right, 2), (right, wrong, 2), (right, right, 3)):
        with pytest.raises(IntegrityError):
            check_bytes(data, promised=promised, claimed=claimed, size=size, name="x")


def test_another_platform_is_a_warning_unless_it_was_asked_for_or_is_no_linux() -> None:
    def check(text: str, *, asked: bool) -> str:
        system, architecture = text.split("/")
        config = ImageConfig(platform=Platform(os=system, architecture=architecture))
        return check_platform(config, wanted=Platform(), chosen_by_user=asked, name="x")

    assert check("linux/amd64", asked=True) == ""
    assert "linux/s390x" in check("linux/s390x", asked=False)
    with pytest.raises(NotFound):
        check("linux/s390x", asked=True)
    with pytest.raises(NotFound):
        check("windows/amd64", asked=False)
