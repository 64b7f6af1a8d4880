"""Pulling from a registry that misbehaves: what enters the store, what is sent to whom, how often we ask."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from contain.errors import IntegrityError, NotFound, NotSupported, RegistryError
from contain.oci import Platform
from contain.oci.image import MEDIA_INDEX, MEDIA_MANIFEST
from contain.reference import parse_reference
from contain.registry.challenge import Credentials
from contain.registry.configuration import RegistryConfiguration
from contain.registry.download import PIECE_BYTES
from contain.registry.pull import pull

if TYPE_CHECKING:
    from contain.store import Store
    from tests.unit.registry.conftest import FaultyRegistry, Puller

AMD64 = Platform()
BIG = bytes(range(256)) * 4096  # 1 MiB, several pieces when stored plainly


@pytest.fixture
def served(registry: FaultyRegistry, make: Any) -> Any:
    image = make.image(make.layer({"a": b"one"}), make.layer({"b": BIG}, "none"), make.layer({"c": b"three"}, "zstd"))
    registry.serve(image)
    return image


def holds_nothing(store: Store, image: Any, make: Any, *, name: str) -> bool:
    """Neither the image nor anything it is made of can be seen."""
    blobs = [image.manifest, image.config]
    return not any(store.has_blob(make.digest(data)) for data in blobs) and store.name_source(parse_reference(name)) is None


def test_an_image_arrives_with_the_digest_of_the_bytes_as_served(
    registry: FaultyRegistry, served: Any, puller: Puller, store: Store, make: Any
) -> None:
    image = puller(registry.reference(), platform=AMD64)
    assert image.digest == make.digest(served.manifest)
    assert store.read_blob(image.digest) == served.manifest
    assert store.read_blob(image.manifest.config.digest) == served.config
    assert all(store.has_layer(layer.diff_id) for layer in served.layers)
    assert store.name_source(registry.reference()) == (image.digest, f"registry {registry.host}")
    assert image.config.command == ("sh",)


def test_what_the_store_has_is_not_fetched_again(registry: FaultyRegistry, served: Any, puller: Puller) -> None:
    puller(registry.reference(), platform=AMD64)
    before = {layer.descriptor["digest"]: len(registry.asked(layer.descriptor["digest"])) for layer in served.layers}
    puller(registry.reference(), platform=AMD64)
    assert before == {layer.descriptor["digest"]: len(registry.asked(layer.descriptor["digest"])) for layer in served.layers}
    assert set(before.values()) == {1}


def test_a_layer_that_stands_twice_is_fetched_once(registry: FaultyRegistry, puller: Puller, make: Any) -> None:
    layer = make.layer({"same": b"x"})
    registry.serve(make.image(layer, make.layer({"between": b"y"}), layer))
    puller(registry.reference(), platform=AMD64)
    assert len(registry.asked(layer.descriptor["digest"])) == 1


def test_an_index_leads_to_the_image_of_the_platform(registry: FaultyRegistry, puller: Puller, make: Any) -> None:
    images = {name: make.image(make.layer({"arch": name.encode()}), platform=name) for name in ("linux/arm64", "linux/amd64")}
    for image in images.values():
        registry.serve(image, tag="hidden")
    registry.serve_manifest(make.index(*images.items()), MEDIA_INDEX)
    for name, wanted in (("linux/amd64", AMD64), ("linux/arm64", Platform(architecture="arm64"))):
        assert puller(registry.reference(), platform=wanted).digest == images[name].digest


def test_an_index_without_the_platform_says_what_there_is(registry: FaultyRegistry, puller: Puller, make: Any) -> None:
    image = make.image(make.layer({"a": b""}), platform="linux/s390x")
    registry.serve(image, tag="hidden")
    registry.serve_manifest(make.index(("linux/s390x", image)), MEDIA_INDEX)
    with pytest.raises(NotFound, match="linux/s390x") as caught:
        puller(registry.reference(), platform=AMD64)
    assert caught.value.code == "platform-not-in-image"


def test_a_reference_by_digest_is_held_to_it(registry: FaultyRegistry, served: Any, puller: Puller, make: Any) -> None:
    assert puller(registry.reference(f"app@{served.digest}"), platform=AMD64).digest == served.digest
    other = make.image(make.layer({"evil": b"x"}))
    registry.manifests["app", served.digest] = (MEDIA_MANIFEST, other.manifest)
    with pytest.raises(IntegrityError):
        puller(registry.reference(f"app@{served.digest}"), platform=AMD64)


def test_a_manifest_that_differs_from_its_index_entry_is_refused(
    registry: FaultyRegistry, puller: Puller, make: Any, store: Store
) -> None:
    image, other = make.image(make.layer({"a": b"1"})), make.image(make.layer({"a": b"2"}))
    registry.serve(image, tag="hidden")
    registry.serve(other, tag="other")
    registry.serve_manifest(make.index(("linux/amd64", image)), MEDIA_INDEX)
    registry.manifests["app", image.digest] = (MEDIA_MANIFEST, other.manifest)
    with pytest.raises(IntegrityError):
        puller(registry.reference(), platform=AMD64)
    assert holds_nothing(store, other, make, name=str(registry.reference()))


def test_a_digest_header_that_contradicts_the_bytes_is_refused(
    registry: FaultyRegistry, served: Any, puller: Puller, make: Any
) -> None:
    registry.fault("/manifests/", make.answer(headers={"Docker-Content-Digest": "sha256:" + "0" * 64}))
    with pytest.raises(IntegrityError):
        puller(registry.reference(), platform=AMD64)


def test_a_layer_with_wrong_bytes_never_enters_the_store(
    registry: FaultyRegistry, served: Any, puller: Puller, store: Store, make: Any
) -> None:
    victim = served.layers[1]
    registry.blobs[victim.descriptor["digest"]] = bytes(len(victim.data))
    with pytest.raises(IntegrityError):
        puller(registry.reference(), platform=AMD64)
    assert not store.has_blob(victim.descriptor["digest"])
    assert not store.has_layer(victim.diff_id)
    assert holds_nothing(store, served, make, name=str(registry.reference()))


def test_a_layer_is_not_there_before_its_blob_was_found_to_be_right(
    registry: FaultyRegistry, puller: Puller, store: Store, make: Any
) -> None:
    """The right files in other bytes of the same size: only the blob's digest tells."""
    victim = make.layer({"a": b"1"}, "gzip")
    registry.serve(make.image(victim))
    changed = bytearray(victim.data)
    changed[4:8] = b"time"  # of the gzip header
    registry.blobs[victim.descriptor["digest"]] = bytes(changed)
    with pytest.raises(IntegrityError):
        puller(registry.reference(), platform=AMD64)
    assert not store.has_blob(victim.descriptor["digest"])
    assert not store.has_layer(victim.diff_id)


def test_a_layer_longer_than_promised_is_cut_off_and_refused(
    registry: FaultyRegistry, served: Any, puller: Puller, store: Store, make: Any
) -> None:
    victim = served.layers[1]
    registry.fault(
        victim.descriptor["digest"], make.answer(body=victim.data + b"more", headers={"Content-Length": ""}, cut=10**9)
    )
    with pytest.raises(IntegrityError) as caught:
        puller(registry.reference(), platform=AMD64)
    assert caught.value.code == "blob-size-mismatch"
    assert not store.has_blob(victim.descriptor["digest"])


def test_a_layer_that_announces_too_many_bytes_is_not_even_read(
    registry: FaultyRegistry, served: Any, puller: Puller, make: Any
) -> None:
    victim = served.layers[1]
    registry.fault(victim.descriptor["digest"], make.answer(body=victim.data + b"more"))
    with pytest.raises(IntegrityError, match="announces"):
        puller(registry.reference(), platform=AMD64)


def test_a_config_with_wrong_bytes_is_refused(
    registry: FaultyRegistry, served: Any, puller: Puller, make: Any, store: Store
) -> None:
    registry.blobs[make.digest(served.config)] = bytes(len(served.config))
    with pytest.raises(IntegrityError):
        puller(registry.reference(), platform=AMD64)
    assert holds_nothing(store, served, make, name=str(registry.reference()))


def test_a_layer_that_unpacks_to_another_diff_id_never_enters_the_store(
    registry: FaultyRegistry, puller: Puller, store: Store, make: Any
) -> None:
    layer = make.layer({"a": b"1"})
    image = make.image(layer, diff_ids=["sha256:" + "5" * 64])
    registry.serve(image)
    with pytest.raises(IntegrityError):
        puller(registry.reference(), platform=AMD64)
    assert not store.has_layer(layer.diff_id)
    assert not store.has_layer("sha256:" + "5" * 64)
    assert holds_nothing(store, image, make, name=str(registry.reference()))


def test_layers_and_diff_ids_must_be_as_many(registry: FaultyRegistry, puller: Puller, make: Any) -> None:
    layer = make.layer({"a": b"1"})
    registry.serve(make.image(layer, diff_ids=[layer.diff_id, layer.diff_id]))
    with pytest.raises(IntegrityError, match="diff_ids"):
        puller(registry.reference(), platform=AMD64)
    assert not registry.asked(layer.descriptor["digest"])


@pytest.mark.parametrize("cut", [0, 1, PIECE_BYTES + 17])
def test_a_body_that_breaks_off_is_resumed_where_it_stopped(
    registry: FaultyRegistry, served: Any, puller: Puller, store: Store, make: Any, cut: int
) -> None:
    victim = served.layers[1]
    registry.fault(victim.descriptor["digest"], make.answer(cut=cut))
    puller(registry.reference(), platform=AMD64)
    first, second = registry.asked(victim.descriptor["digest"])
    assert "Range" not in first.headers
    assert second.headers.get("Range") == (f"bytes={cut}-" if cut else None)
    assert store.has_layer(victim.diff_id)


def test_a_pull_that_was_interrupted_resumes_in_the_next_one(
    registry: FaultyRegistry, served: Any, puller: Puller, store: Store, make: Any
) -> None:
    victim = served.layers[1]
    registry.fault(victim.descriptor["digest"], make.answer(cut=PIECE_BYTES), make.answer(status=404, body=b""))
    with pytest.raises(RegistryError) as caught:
        puller(registry.reference(), platform=AMD64)
    assert caught.value.code == "registry-incomplete"
    registry.seen.clear()
    puller(registry.reference(), platform=AMD64)
    assert [seen.headers.get("Range") for seen in registry.asked(victim.descriptor["digest"])] == [f"bytes={PIECE_BYTES}-"]


def test_a_registry_that_ignores_range_is_read_from_the_start_without_doubling_bytes(
    registry: FaultyRegistry, served: Any, puller: Puller, store: Store, make: Any
) -> None:
    victim = served.layers[1]
    registry.fault(victim.descriptor["digest"], make.answer(cut=1000), make.answer(ignore_range=True))
    puller(registry.reference(), platform=AMD64)
    assert store.has_layer(victim.diff_id)


def test_a_wrong_half_from_an_earlier_attempt_is_thrown_away_once(
    registry: FaultyRegistry, served: Any, puller: Puller, store: Store, make: Any
) -> None:
    victim = served.layers[1]
    registry.fault(
        victim.descriptor["digest"], make.answer(body=bytes(len(victim.data)), cut=5000), make.answer(status=404, body=b"")
    )
    with pytest.raises(RegistryError):
        puller(registry.reference(), platform=AMD64)
    puller(registry.reference(), platform=AMD64)
    assert store.has_layer(victim.diff_id)


def test_an_answer_for_another_range_is_refused(registry: FaultyRegistry, served: Any, puller: Puller, make: Any) -> None:
    victim = served.layers[1]
    registry.fault(
        victim.descriptor["digest"],
        make.answer(cut=1000),
        make.answer(status=206, body=b"x", headers={"Content-Range": f"bytes 999-{len(victim.data) - 1}/{len(victim.data)}"}),
    )
    with pytest.raises(IntegrityError, match="asked for bytes from 1000"):
        puller(registry.reference(), platform=AMD64)


def test_a_body_that_never_gets_further_is_given_up(registry: FaultyRegistry, served: Any, puller: Puller, make: Any) -> None:
    victim = served.layers[1]
    registry.fault(victim.descriptor["digest"], *[make.answer(cut=0)] * 50)
    with pytest.raises(RegistryError) as caught:
        puller(registry.reference(), platform=AMD64)
    assert (caught.value.code, caught.value.retryable) == ("registry-broken-connection", True)
    assert len(registry.asked(victim.descriptor["digest"])) <= 6


def test_a_body_that_falls_silent_is_resumed(
    registry: FaultyRegistry, served: Any, puller: Puller, store: Store, make: Any
) -> None:
    victim = served.layers[1]
    puller.read_seconds = 0.2
    registry.fault(victim.descriptor["digest"], make.answer(cut=PIECE_BYTES, stall=True))
    puller(registry.reference(), platform=AMD64)
    assert store.has_layer(victim.diff_id)


def test_a_manifest_that_breaks_off_is_asked_for_again(
    registry: FaultyRegistry, served: Any, puller: Puller, make: Any
) -> None:
    registry.fault("/manifests/", make.answer(cut=7))
    assert puller(registry.reference(), platform=AMD64).digest == served.digest


def test_a_token_is_fetched_once_and_goes_to_the_registry_only(
    registry: FaultyRegistry, registries: Callable[[], FaultyRegistry], served: Any, puller: Puller
) -> None:
    tokens = registries()
    registry.token_realm = f"http://{tokens.host}/token"
    registry.tokens = tokens.tokens
    puller(registry.reference(), platform=AMD64)
    assert len(tokens.seen) == 1
    assert tokens.seen[0].query == {"service": ["test"], "scope": ["repository:app:pull"]}
    assert tokens.seen[0].authorization is None
    assert {seen.authorization for seen in registry.seen} == {None, "Bearer token-0"}


def test_a_token_that_expires_is_replaced(registry: FaultyRegistry, served: Any, puller: Puller) -> None:
    registry.token_realm = f"http://{registry.host}/token"
    puller(registry.reference(), platform=AMD64)
    victim = served.layers[0].descriptor["digest"]

    def forget(_text: str) -> dict[str, Any]:
        return {"access_token": _text, "expires_in": 300}

    registry.token_answer = forget
    registry.tokens.clear()
    registry.seen.clear()
    puller(registry.reference(), platform=AMD64)
    assert len(registry.asked("/token")) == 1
    assert not registry.asked(victim)


def test_a_password_goes_to_the_token_server_and_not_to_the_registry(
    registry: FaultyRegistry, registries: Callable[[], FaultyRegistry], served: Any, puller: Puller
) -> None:
    tokens = registries()
    tokens.basic = ("ann", "secret")
    registry.token_realm, registry.tokens = f"http://{tokens.host}/token", tokens.tokens
    puller.credentials.known = {registry.host: Credentials(username="ann", password="secret")}
    puller(registry.reference(), platform=AMD64)
    assert all((seen.authorization or "").startswith("Basic ") for seen in tokens.seen)
    assert not any((seen.authorization or "").startswith("Basic ") for seen in registry.seen)


def test_an_identity_token_is_posted(registry: FaultyRegistry, served: Any, puller: Puller) -> None:
    registry.token_realm = f"http://{registry.host}/token"
    puller.credentials.known = {registry.host: Credentials(identity_token="identity")}
    puller(registry.reference(), platform=AMD64)
    (asked,) = registry.asked("/token")
    assert asked.method == "POST"
    assert b"refresh_token=identity" in asked.body


def test_basic_authentication_works_and_is_not_sent_unasked(registry: FaultyRegistry, served: Any, puller: Puller) -> None:
    registry.basic = ("ann", "secret")
    puller.credentials.known = {registry.host: Credentials(username="ann", password="secret")}
    puller(registry.reference(), platform=AMD64)
    assert registry.seen[0].authorization is None
    assert puller.credentials.asked == [registry.host]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refused_and_missing_are_one_error(
    registry: FaultyRegistry, served: Any, puller: Puller, make: Any, status: int
) -> None:
    registry.fault("/manifests/", make.answer(status=status, body=b'{"errors":[{"code":"DENIED","message":"no\\u001b[31m"}]}'))
    with pytest.raises(NotFound, match=r"not found at .*, or not allowed") as caught:
        puller(registry.reference(), platform=AMD64)
    assert caught.value.code == "image-not-in-registry"
    assert "\x1b" not in str(caught.value)


def test_wrong_credentials_are_said(registry: FaultyRegistry, served: Any, puller: Puller) -> None:
    registry.token_realm, registry.basic = f"http://{registry.host}/token", ("ann", "secret")
    registry.basic = ("ann", "other")
    puller.credentials.known = {registry.host: Credentials(username="ann", password="secret")}
    with pytest.raises(NotFound):
        puller(registry.reference(), platform=AMD64)
    assert any("ann" in warning for warning in puller.told.warnings)
    assert not any("secret" in text for text in (*puller.told.warnings, *puller.told.notes))


def test_too_many_requests_waits_as_long_as_it_was_asked_to(
    registry: FaultyRegistry, served: Any, puller: Puller, make: Any
) -> None:
    registry.fault("/manifests/", make.answer(status=429, headers={"Retry-After": "7"}, body=b""))
    puller(registry.reference(), platform=AMD64)
    assert puller.pauses == [7.0]


def test_too_many_requests_for_too_long_is_an_error_at_once(
    registry: FaultyRegistry, served: Any, puller: Puller, make: Any
) -> None:
    registry.fault("/manifests/", make.answer(status=429, headers={"Retry-After": "3600"}, body=b""))
    with pytest.raises(RegistryError) as caught:
        puller(registry.reference(), platform=AMD64)
    assert (caught.value.code, caught.value.retryable, puller.pauses) == ("registry-rate-limited", True, [])


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_error_is_asked_again_with_growing_pauses(
    registry: FaultyRegistry, served: Any, puller: Puller, make: Any, status: int
) -> None:
    registry.fault("/manifests/", *[make.answer(status=status, body=b"")] * 3)
    puller(registry.reference(), platform=AMD64)
    assert puller.pauses == [0.25, 0.5, 1.0]


def test_a_lasting_server_error_is_given_up(registry: FaultyRegistry, served: Any, puller: Puller, make: Any) -> None:
    registry.fault("/manifests/", *[make.answer(status=503, body=b"")] * 50)
    with pytest.raises(RegistryError) as caught:
        puller(registry.reference(), platform=AMD64)
    assert (caught.value.code, len(registry.asked("/manifests/"))) == ("registry-failed", 5)


def test_authorization_never_crosses_to_another_host(
    registry: FaultyRegistry, registries: Callable[[], FaultyRegistry], served: Any, puller: Puller, make: Any, store: Store
) -> None:
    storage = registries()
    storage.blobs = registry.blobs
    registry.token_realm = f"http://{registry.host}/token"
    for layer in served.layers:
        name = layer.descriptor["digest"]
        answer = make.answer(status=307, body=b"", headers={"Location": f"http://{storage.host}/storage/{name}?signature=1"})
        registry.fault(f"/blobs/{name}", answer)
    # The first answers to blobs are redirects, given whatever the token; the manifest's 401 has brought the token already.
    puller(registry.reference(), platform=AMD64)
    assert len(storage.seen) == 3
    assert all(seen.authorization is None for seen in storage.seen)
    assert all(seen.authorization for seen in registry.asked("/blobs/"))


def test_authorization_does_not_come_back_by_way_of_another_host(
    registry: FaultyRegistry, registries: Callable[[], FaultyRegistry], served: Any, puller: Puller, make: Any
) -> None:
    other, name = registries(), served.layers[0].descriptor["digest"]
    registry.token_realm = f"http://{registry.host}/token"
    registry.fault(f"/blobs/{name}", make.answer(status=302, body=b"", headers={"Location": f"http://{other.host}/back"}))
    other.fault("/back", make.answer(status=302, body=b"", headers={"Location": f"http://{registry.host}/storage/{name}"}))
    with pytest.raises(RegistryError):
        puller(registry.reference(), platform=AMD64)
    assert [seen.authorization for seen in registry.asked("/storage/")] == [None]


def test_a_redirect_on_the_same_host_keeps_the_authorization(
    registry: FaultyRegistry, served: Any, puller: Puller, make: Any
) -> None:
    name = served.layers[0].descriptor["digest"]
    registry.token_realm = f"http://{registry.host}/token"
    registry.fault(f"/blobs/{name}", make.answer(status=307, body=b"", headers={"Location": f"/storage/{name}"}))
    puller(registry.reference(), platform=AMD64)
    assert [seen.authorization for seen in registry.asked("/storage/")] == ["Bearer token-0"]


def test_a_circle_of_redirects_ends(registry: FaultyRegistry, served: Any, puller: Puller, make: Any) -> None:
    registry.fault("/manifests/", *[make.answer(status=307, body=b"", headers={"Location": "/v2/app/manifests/1"})] * 50)
    with pytest.raises(RegistryError) as caught:
        puller(registry.reference(), platform=AMD64)
    assert caught.value.code == "registry-bad-redirect"
    assert len(registry.asked("/manifests/")) == 6


def test_an_index_served_as_a_manifest_is_refused(registry: FaultyRegistry, served: Any, puller: Puller, make: Any) -> None:
    index = json.loads(make.index(("linux/amd64", served)))
    del index["mediaType"]
    registry.serve_manifest(json.dumps(index).encode(), MEDIA_MANIFEST, tag="2")
    with pytest.raises(IntegrityError) as caught:
        puller(registry.reference("app:2"), platform=AMD64)
    assert caught.value.code == "bad-manifest"


def test_a_document_that_is_index_and_manifest_at_once_is_refused(registry: FaultyRegistry, puller: Puller, make: Any) -> None:
    registry.serve(make.image(make.layer({"a": b""}), extra={"manifests": []}))
    with pytest.raises(IntegrityError, match="both"):
        puller(registry.reference(), platform=AMD64)


def test_what_is_no_image_is_refused_by_its_name(registry: FaultyRegistry, puller: Puller, make: Any) -> None:
    registry.serve(
        make.image(
            extra={
                "config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": "sha256:" + "0" * 64, "size": 2}
            }
        )
    )
    with pytest.raises(NotSupported, match="helm"):
        puller(registry.reference(), platform=AMD64)


def test_an_endless_manifest_is_cut_off(registry: FaultyRegistry, puller: Puller, make: Any) -> None:
    registry.serve_manifest(b" " * (5 << 20), MEDIA_MANIFEST)
    with pytest.raises(RegistryError) as caught:
        puller(registry.reference(), platform=AMD64)
    assert caught.value.code == "registry-answer-too-large"


def test_a_mirror_is_asked_first_and_gets_no_credentials_of_the_registry(
    registry: FaultyRegistry, registries: Callable[[], FaultyRegistry], served: Any, puller: Puller, store: Store
) -> None:
    mirror = registries()
    mirror.blobs = registry.blobs
    mirror.manifests = {("hub/" + name, tag): found for (name, tag), found in registry.manifests.items()}
    mirror.token_realm = f"http://{mirror.host}/token"
    puller.credentials.known = {registry.host: Credentials(username="ann", password="secret")}
    configuration = RegistryConfiguration(mirrors={registry.host: (f"{mirror.host}/hub",)})
    puller(registry.reference(), platform=AMD64, configuration=configuration)
    assert not registry.seen
    assert not any((seen.authorization or "").startswith("Basic") for seen in mirror.seen)
    assert mirror.asked("/manifests/")[0].query == {"ns": [registry.host]}
    source = store.name_source(registry.reference())
    assert source is not None
    assert source[1] == f"registry {mirror.host} (mirror of {registry.host})"


@pytest.mark.parametrize(
    "fault", [{"status": 404, "body": b""}, {"status": 200, "body": b"no manifest"}, {"status": 400, "body": b""}]
)
def test_the_registry_answers_when_its_mirror_does_not(
    registry: FaultyRegistry, registries: Callable[[], FaultyRegistry], served: Any, puller: Puller, make: Any, fault: Any
) -> None:
    mirror = registries()
    mirror.fault("/manifests/", make.answer(**fault))
    configuration = RegistryConfiguration(mirrors={registry.host: ("127.0.0.1:1", mirror.host)})
    assert puller(registry.reference(), platform=AMD64, configuration=configuration).digest == served.digest
    assert len(puller.told.warnings) + len([note for note in puller.told.notes if note.startswith("mirror")]) == 2


def test_a_layer_that_the_mirror_has_wrong_comes_from_the_registry(
    registry: FaultyRegistry, registries: Callable[[], FaultyRegistry], served: Any, puller: Puller, store: Store
) -> None:
    mirror, victim = registries(), served.layers[1]
    mirror.manifests = registry.manifests
    mirror.blobs = registry.blobs | {victim.descriptor["digest"]: bytes(len(victim.data))}
    configuration = RegistryConfiguration(mirrors={registry.host: (mirror.host,)})
    puller(registry.reference(), platform=AMD64, configuration=configuration)
    assert store.has_layer(victim.diff_id)
    assert [seen.path for seen in registry.seen] == [f"/v2/app/blobs/{victim.descriptor['digest']}"]


def test_a_layer_that_breaks_off_at_the_mirror_for_good_comes_from_the_registry(
    registry: FaultyRegistry,
    registries: Callable[[], FaultyRegistry],
    served: Any,
    puller: Puller,
    store: Store,
    make: Any,
) -> None:
    mirror, victim = registries(), served.layers[1]
    mirror.manifests, mirror.blobs = registry.manifests, registry.blobs
    mirror.fault(
        victim.descriptor["digest"], make.answer(body=bytes(len(victim.data)), cut=5000), make.answer(status=404, body=b"")
    )
    configuration = RegistryConfiguration(mirrors={registry.host: (mirror.host,)})
    puller(registry.reference(), platform=AMD64, configuration=configuration)
    assert store.has_layer(victim.diff_id)


def test_nobody_there_is_unreachable_at_once(puller: Puller) -> None:
    for name in ("127.0.0.1:1/app", "localhost:1/app", "no-such-host.invalid/app"):
        with pytest.raises(RegistryError) as caught:
            puller(parse_reference(name))
        assert (caught.value.code, caught.value.retryable, puller.pauses) == ("registry-unreachable", True, [])
        assert "Connection(" not in str(caught.value)


def test_a_proxy_that_says_no_is_unreachable(registry: FaultyRegistry, puller: Puller) -> None:
    puller.environ = {"HTTPS_PROXY": f"http://{registry.host}"}
    with pytest.raises(RegistryError) as caught:
        puller(parse_reference("registry.invalid/app"))
    assert caught.value.code == "registry-unreachable"


def test_plain_http_goes_through_the_proxy_of_the_environment(registry: FaultyRegistry, served: Any, puller: Puller) -> None:
    # The test registry plays the proxy: a proxy is sent the whole URL, of which it serves the path.
    puller.environ = {"http_proxy": f"http://ann:secret@{registry.host}"}
    configuration = RegistryConfiguration(mirrors={"registry.invalid": ("http://mirror.invalid",)})
    image = puller(parse_reference("registry.invalid/app:1"), configuration=configuration, platform=AMD64)
    assert image.digest == served.digest
    assert registry.asked("^http://mirror.invalid/v2/app/manifests/1")
    assert registry.seen[0].headers["Proxy-Authorization"].startswith("Basic ")


def test_layers_are_fetched_side_by_side_but_no_more_than_three(
    registry: FaultyRegistry, puller: Puller, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.serve(make.image(*(make.layer({"n": str(number).encode()}) for number in range(8))))
    together = threading.Barrier(3)
    inside, most, lock = 0, 0, threading.Lock()
    behave = registry._behave

    def counting(seen: Any, *, ignore_range: bool) -> Any:
        nonlocal inside, most
        is_layer = "/blobs/" in seen.path and len(registry.asked("/blobs/")) > 1
        if is_layer:
            with lock:
                inside += 1
                most = max(most, inside)
            if len(registry.asked("/blobs/")) <= 4:
                together.wait(20)  # passes only if three are here at once
        try:
            return behave(seen, ignore_range=ignore_range)
        finally:
            if is_layer:
                with lock:
                    inside -= 1

    monkeypatch.setattr(registry, "_behave", counting)
    puller(registry.reference(), platform=AMD64)
    assert most == 3


def test_a_failure_in_one_layer_ends_the_others(registry: FaultyRegistry, puller: Puller, make: Any) -> None:
    slow, missing = make.layer({"slow": BIG}, "none"), make.layer({"missing": b"x"})
    registry.serve(make.image(slow, missing))
    registry.fault(slow.descriptor["digest"], make.answer(cut=1000, stall=True))
    del registry.blobs[missing.descriptor["digest"]]
    puller.read_seconds = 600.0
    caught: list[BaseException] = []

    def attempt() -> None:
        try:
            puller(registry.reference(), platform=AMD64)
        except RegistryError as error:
            caught.append(error)

    pulling = threading.Thread(target=attempt)
    pulling.start()
    pulling.join(20)  # the silent body alone would keep it for `read_seconds`
    ended = not pulling.is_alive()
    registry.released.set()
    pulling.join(20)
    assert ended
    assert [error.code for error in caught if isinstance(error, RegistryError)] == ["registry-incomplete"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pull")]


def test_the_public_call_works_with_what_the_machine_says(
    registry: FaultyRegistry, served: Any, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    configuration = tmp_path / "config.toml"
    configuration.write_text("")
    monkeypatch.setenv("CONTAIN_CONFIG", str(configuration))
    assert pull(registry.reference(), store=store, platform=AMD64).digest == served.digest
