"""Pushing to a registry that misbehaves: what is sent, what is named, how often we ask."""

from __future__ import annotations

import contextlib
import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from contain.errors import ContainError, IntegrityError, NotFound, RegistryError, UsageError
from contain.oci import Platform
from contain.oci.image import MEDIA_LAYER_GZIP, MEDIA_LAYER_ZSTD
from contain.registry import upload_plan
from contain.registry.challenge import Credentials
from contain.registry.upload import Delivery

if TYPE_CHECKING:
    from contain.store import Store
    from tests.unit.registry.conftest import FaultyRegistry, Puller, Pusher

NOISE = random.Random(1).randbytes(1_500_000)
SMALL = {"etc/name": b"one"}
LARGE = {"noise": NOISE}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer of 1.5 MB is large here."""
    monkeypatch.setattr("contain.registry.upload.CHUNK_BYTES", 512 << 10)
    monkeypatch.setattr(upload_plan, "SMALLEST_CHUNK_BYTES", 64 << 10)


def served(registry: FaultyRegistry, tag: str = "1", repository: str = "app") -> bytes:
    return registry.manifests[repository, tag][1]


def sent(registry: FaultyRegistry, method: str) -> list[int]:
    return [len(seen.body) for seen in registry.seen if seen.method == method and "/uploads/" in seen.path]


def test_an_image_made_here_has_the_same_digest_in_the_registry(
    registry: FaultyRegistry, pusher: Pusher, store: Store, make: Any
) -> None:
    image = pusher.image(registry.reference(), SMALL, LARGE)
    pushed = pusher(registry.reference())
    assert pushed.digest == image.digest == make.digest(served(registry))
    assert served(registry) == store.read_blob(image.digest)
    assert [delivery for _, delivery in pushed.layers] == [Delivery.SENT, Delivery.SENT]
    assert all(make.digest(registry.blobs[layer.digest]) == layer.digest for layer in image.manifest.layers)


def test_what_was_pulled_is_pushed_byte_for_byte(
    registries: Any, puller: Puller, pusher: Pusher, store: Store, make: Any
) -> None:
    source, target = registries(), registries()
    made = make.image(make.layer({"a": b"1"}), make.layer({"b": b"2"}, "zstd"), make.layer({"c": b"3"}, "none"))
    source.serve(made)
    image = puller(source.reference(), platform=Platform())
    store.tag(target.reference(), image.digest, source="tagged")
    assert pusher(target.reference()).digest == made.digest
    assert target.manifests["app", "1"] == (made.media_type, made.manifest)
    assert {layer.data for layer in made.layers} <= set(target.blobs.values())


def test_a_second_push_sends_no_layer(registry: FaultyRegistry, pusher: Pusher) -> None:
    pusher.image(registry.reference(), SMALL, LARGE)
    pusher(registry.reference())
    before = len(registry.asked("/uploads/"))
    again = pusher(registry.reference())
    assert len(registry.asked("/uploads/")) == before
    assert {delivery for _, delivery in again.layers} == {Delivery.EXISTED}


def test_a_layer_that_stands_twice_is_sent_once(registry: FaultyRegistry, pusher: Pusher) -> None:
    pusher.image(registry.reference(), LARGE, SMALL, LARGE)
    pusher(registry.reference())
    assert sum(len(NOISE) < length for length in sent(registry, "PUT")) == 1


@pytest.mark.parametrize("mounts", [True, False])
def test_a_layer_of_another_repository_is_mounted_or_else_sent_in_the_session_that_was_offered(
    registry: FaultyRegistry, pusher: Pusher, store: Store, mounts: bool
) -> None:
    image = pusher.image(registry.reference("first:1"), LARGE)
    pusher(registry.reference("first:1"))
    registry.mounts = mounts
    store.tag(registry.reference("second:1"), image.digest, source="tagged")
    before = len(registry.uploads), len(sent(registry, "POST"))
    pushed = pusher(registry.reference("second:1"))
    assert [delivery for _, delivery in pushed.layers] == [Delivery.MOUNTED if mounts else Delivery.SENT]
    asked = [seen for seen in registry.asked("/v2/second/blobs/uploads/") if "mount" in seen.query]
    assert [seen.query["from"] for seen in asked] == [["first"]]
    assert len(sent(registry, "POST")) - before[1] == 2  # the layer's and the config's; not one more for the layer
    assert not registry.uploads


def test_locations_may_be_absolute(registry: FaultyRegistry, pusher: Pusher) -> None:
    registry.locations = "absolute"
    image = pusher.image(registry.reference(), LARGE)
    assert pusher(registry.reference(), chunk_bytes=400_000).digest == image.digest


def test_a_location_on_another_host_gets_no_credentials(registries: Any, pusher: Pusher, store: Store) -> None:
    registry, storage = registries(), registries()
    registry.basic = ("ann", "secret")
    pusher.credentials.known = {registry.host: Credentials(username="ann", password="secret")}
    storage.uploads = registry.uploads  # one service, two names
    storage.blobs, storage.repositories = registry.blobs, registry.repositories
    registry.locations = storage.locations = f"http://{storage.host}"
    image = pusher.image(registry.reference(), LARGE)
    assert pusher(registry.reference(), chunk_bytes=400_000).digest == image.digest
    assert storage.seen
    assert {seen.authorization for seen in storage.seen} == {None}
    assert any(seen.authorization for seen in registry.seen)


def test_chunks_are_in_order_and_follow_each_location(registry: FaultyRegistry, pusher: Pusher) -> None:
    image = pusher.image(registry.reference(), LARGE)
    assert pusher(registry.reference(), chunk_bytes=400_000).digest == image.digest
    patches = [
        seen for seen in registry.seen if seen.method == "PATCH" and seen.path.startswith("/v2/app/blobs/uploads/session-0")
    ]
    size = image.manifest.layers[0].size
    starts = range(0, size, 400_000)
    assert [seen.headers["Content-Range"] for seen in patches] == [
        f"{start}-{min(start + 400_000, size) - 1}" for start in starts
    ]
    assert [seen.query["state"] for seen in patches] == [[str(number)] for number in range(len(starts))]


def test_a_chunk_is_no_smaller_than_the_registry_wants(registry: FaultyRegistry, pusher: Pusher) -> None:
    registry.chunk_minimum = 700_000
    image = pusher.image(registry.reference(), LARGE)
    assert pusher(registry.reference(), chunk_bytes=100_000).digest == image.digest
    lengths = [length for length in sent(registry, "PATCH") if length > 10_000]
    assert all(length == 700_000 for length in lengths[:-1])
    assert len(lengths) == 3


def test_a_chunk_that_breaks_costs_only_what_was_not_taken(registry: FaultyRegistry, pusher: Pusher, make: Any) -> None:
    image = pusher.image(registry.reference(), LARGE)
    # The second chunk is half taken and the connection breaks: what was taken is not sent again.
    registry.fault("/uploads/", make.answer(), make.answer(take=123_456), method="PATCH")
    assert pusher(registry.reference(), chunk_bytes=400_000).digest == image.digest
    ranges = [seen.headers["Content-Range"] for seen in registry.seen if seen.method == "PATCH"]
    assert ranges[1].startswith("400000-")
    assert ranges[2].startswith("523456-")
    assert len(pusher.pauses) == 1


def test_a_registry_that_lost_part_of_an_upload_gets_it_again(registry: FaultyRegistry, pusher: Pusher, make: Any) -> None:
    image = pusher.image(registry.reference(), LARGE)
    registry.fault("/uploads/", make.answer(), make.answer(status=416), method="PATCH")
    assert pusher(registry.reference(), chunk_bytes=400_000).digest == image.digest


def test_a_registry_that_claims_to_hold_what_it_has_not_is_found_out(
    registry: FaultyRegistry, pusher: Pusher, make: Any
) -> None:
    image = pusher.image(registry.reference(), LARGE)
    registry.fault("/uploads/", make.answer(headers={"Range": f"0-{image.manifest.layers[0].size - 1}"}), method="PATCH")
    with pytest.raises(RegistryError, match="DIGEST_INVALID"):
        pusher(registry.reference(), chunk_bytes=400_000)
    assert not registry.manifests


def test_a_registry_that_takes_an_upload_nowhere_is_given_up(registry: FaultyRegistry, pusher: Pusher, make: Any) -> None:
    pusher.image(registry.reference(), LARGE)
    registry.fault("/uploads/", *[make.answer(status=416)] * 100, method="PATCH")
    with pytest.raises(RegistryError) as caught:
        pusher(registry.reference(), chunk_bytes=400_000)
    assert caught.value.code == "registry-upload"
    assert not registry.manifests


@pytest.mark.parametrize("break_", [{"take": 200_000}, {"status": 500}, {"status": 503}, {"lost": True}, {"status": 404}])
def test_an_upload_that_breaks_is_begun_again_in_chunks(
    registry: FaultyRegistry, pusher: Pusher, make: Any, break_: dict[str, Any]
) -> None:
    image = pusher.image(registry.reference(), LARGE)
    registry.fault("/uploads/session-0", make.answer(**break_), method="PUT")
    assert pusher(registry.reference()).digest == image.digest
    assert registry.blobs[image.manifest.layers[0].digest]
    assert len(pusher.pauses) == 1
    assert bool(sent(registry, "PATCH")) is ("lost" not in break_)  # it is there: only the answer was lost


def test_retry_after_is_obeyed_in_uploads(registry: FaultyRegistry, pusher: Pusher, make: Any) -> None:
    image = pusher.image(registry.reference(), SMALL)
    registry.fault("/uploads/", make.answer(status=429, headers={"Retry-After": "7"}), method="PUT")
    registry.fault("/uploads/$", make.answer(status=429, headers={"Retry-After": "9"}), method="POST")
    assert pusher(registry.reference()).digest == image.digest
    assert sorted(pusher.pauses) == [7.0, 9.0]


def test_a_registry_that_only_fails_is_given_up_and_nothing_is_named(
    registry: FaultyRegistry, pusher: Pusher, make: Any
) -> None:
    pusher.image(registry.reference(), SMALL)
    registry.fault("/uploads/", *[make.answer(status=502)] * 50, method="PUT")
    with pytest.raises(RegistryError) as caught:
        pusher(registry.reference())
    assert caught.value.code == "registry-failed"
    assert not registry.manifests
    assert len(pusher.pauses) < 10


def test_what_is_too_large_is_sent_in_smaller_chunks(registry: FaultyRegistry, pusher: Pusher) -> None:
    registry.largest_body = 200_000
    image = pusher.image(registry.reference(), LARGE)
    assert pusher(registry.reference()).digest == image.digest
    taken = [length for length in sent(registry, "PATCH") if length <= 200_000]
    assert sum(taken) >= image.manifest.layers[0].size


def test_what_is_too_large_in_any_size_is_refused(registry: FaultyRegistry, pusher: Pusher) -> None:
    registry.largest_body = 10
    pusher.image(registry.reference(), LARGE)
    with pytest.raises(RegistryError, match="413"):
        pusher(registry.reference())
    assert not registry.manifests


def test_a_registry_without_head_gets_everything(registry: FaultyRegistry, pusher: Pusher) -> None:
    registry.heads = False
    image = pusher.image(registry.reference(), SMALL)
    assert pusher(registry.reference()).digest == image.digest


def test_a_head_that_claims_another_digest_is_not_believed(registry: FaultyRegistry, pusher: Pusher, make: Any) -> None:
    image = pusher.image(registry.reference(), SMALL)
    wrong = {"Docker-Content-Digest": "sha256:" + "0" * 64, "Content-Length": str(image.manifest.layers[0].size)}
    registry.fault(image.manifest.layers[0].digest, make.answer(body=b"", headers=wrong), method="HEAD")
    assert pusher(registry.reference()).digest == image.digest
    assert image.manifest.layers[0].digest in registry.blobs


def test_a_registry_that_stored_something_else_is_found_out(registry: FaultyRegistry, pusher: Pusher, make: Any) -> None:
    pusher.image(registry.reference(), SMALL)
    registry.fault("/manifests/", make.answer(headers={"Docker-Content-Digest": "sha256:" + "0" * 64}), method="PUT")
    with pytest.raises(IntegrityError) as caught:
        pusher(registry.reference())
    assert caught.value.code == "digest-mismatch"


def test_the_manifest_is_named_only_after_every_blob_is_there(registry: FaultyRegistry, pusher: Pusher) -> None:
    pusher.image(registry.reference(), SMALL, LARGE, {"third": b"3"})
    pusher(registry.reference())
    writes = [seen for seen in registry.seen if seen.method in ("PUT", "PATCH", "POST")]
    assert "/manifests/" in writes[-1].path
    assert sum("/manifests/" in seen.path for seen in writes) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 500])
def test_a_push_that_fails_leaves_the_tag_as_it_was(registry: FaultyRegistry, pusher: Pusher, make: Any, status: int) -> None:
    pusher.image(registry.reference(), SMALL)
    pusher(registry.reference())
    before = served(registry)
    pusher.image(registry.reference(), SMALL, LARGE)
    registry.fault("/uploads/session-", *[make.answer(status=status)] * 30, method="PUT")
    registry.fault("/uploads/session-", *[make.answer(status=status)] * 30, method="PATCH")
    with pytest.raises(RegistryError):
        pusher(registry.reference())
    assert served(registry) == before


def test_files_that_were_changed_in_the_store_are_not_pushed(registry: FaultyRegistry, pusher: Pusher, store: Store) -> None:
    image = pusher.image(registry.reference(), LARGE)
    (store.layer_trees(image)[0] / "noise").write_bytes(NOISE[::-1])
    with pytest.raises(IntegrityError) as caught:
        pusher(registry.reference())
    assert caught.value.code == "blob-digest"
    assert image.manifest.layers[0].digest not in registry.blobs
    assert not registry.manifests


def test_a_file_that_became_shorter_is_not_pushed(registry: FaultyRegistry, pusher: Pusher, store: Store) -> None:
    image = pusher.image(registry.reference(), LARGE)
    (store.layer_trees(image)[0] / "noise").write_bytes(NOISE[:1000])
    with pytest.raises(IntegrityError):
        pusher(registry.reference())
    assert not registry.manifests


def test_denied_says_to_log_in(registry: FaultyRegistry, pusher: Pusher) -> None:
    registry.basic = ("ann", "secret")
    pusher.image(registry.reference(), SMALL)
    with pytest.raises(RegistryError, match="denied") as caught:
        pusher(registry.reference())
    assert caught.value.code == "registry-denied"
    assert f"contain login {registry.host}" in str(caught.value)


def test_a_token_is_asked_for_what_a_push_needs(registry: FaultyRegistry, pusher: Pusher, store: Store) -> None:
    registry.token_realm = f"http://{registry.host}/token"
    image = pusher.image(registry.reference("first:1"), LARGE)
    pusher(registry.reference("first:1"))
    store.tag(registry.reference("second:1"), image.digest, source="tagged")
    pusher(registry.reference("second:1"))
    scopes = [tuple(seen.query["scope"]) for seen in registry.asked("/token")]
    assert ("repository:first:pull,push",) in scopes
    assert ("repository:second:pull,push", "repository:first:pull") in scopes


def test_a_token_that_expires_is_renewed_before_a_body_is_sent(registry: FaultyRegistry, pusher: Pusher, make: Any) -> None:
    registry.token_realm = f"http://{registry.host}/token"
    image = pusher.image(registry.reference(), LARGE)
    behave = registry._behave

    def expire(seen: Any, **options: Any) -> Any:
        answer = behave(seen, **options)
        if seen.method == "POST" and answer[0] == 202:
            pusher.clock += 1000
        return answer

    registry._behave = expire  # type: ignore[method-assign]
    assert pusher(registry.reference()).digest == image.digest
    assert sum(len(NOISE) < length for length in sent(registry, "PUT")) == 1


def test_a_token_that_the_registry_forgets_in_the_middle_is_replaced(registry: FaultyRegistry, pusher: Pusher) -> None:
    registry.token_realm = f"http://{registry.host}/token"
    image = pusher.image(registry.reference(), LARGE)
    behave = registry._behave

    def forget(seen: Any, **options: Any) -> Any:
        answer = behave(seen, **options)
        if seen.method == "PATCH" and answer[0] == 202:
            registry.tokens.clear()
        return answer

    registry._behave = forget  # type: ignore[method-assign]
    assert pusher(registry.reference(), chunk_bytes=400_000).digest == image.digest


@pytest.mark.parametrize(("compression", "media_type"), [("gzip", MEDIA_LAYER_GZIP), ("zstd", MEDIA_LAYER_ZSTD)])
def test_a_compressed_push_makes_another_image_once_and_remembers_it(
    registry: FaultyRegistry, pusher: Pusher, store: Store, monkeypatch: pytest.MonkeyPatch, compression: str, media_type: str
) -> None:
    image = pusher.image(registry.reference(), LARGE, SMALL)
    pushed = pusher(registry.reference(), compression=compression)
    assert pushed.digest != image.digest
    stored = store.image(pushed.digest)
    assert stored.config == image.config
    assert {layer.media_type for layer in stored.manifest.layers} == {media_type}
    assert json.loads(served(registry))["layers"][0]["mediaType"] == media_type
    assert store.find_image(str(registry.reference())).digest == image.digest  # the name stays with what was built

    def never(_: str) -> None:
        raise AssertionError("compressed twice")

    monkeypatch.setattr("contain.registry.packing.open_compressor", never)
    assert pusher(registry.reference("again:1"), image=image, compression=compression).digest == pushed.digest


def test_compression_is_the_same_in_every_store(registry: FaultyRegistry, pusher: Pusher, tmp_path: Any, make: Any) -> None:
    from contain.store import Store as AnyStore

    digests = set()
    for name in ("one", "two"):
        with AnyStore.open(tmp_path / name) as other:
            pusher.store = other
            pusher.image(registry.reference(), LARGE, SMALL)
            digests.add(pusher(registry.reference(), compression="gzip").digest)
    assert len(digests) == 1


def test_layers_in_the_wanted_form_keep_their_digest(
    registries: Any, puller: Puller, pusher: Pusher, store: Store, make: Any
) -> None:
    source, target = registries(), registries()
    made = make.image(make.layer({"a": b"1"}, "gzip"), make.layer({"b": b"2"}, "zstd"))
    source.serve(made)
    image = puller(source.reference(), platform=Platform())
    pushed = pusher(target.reference(), image=image, compression="gzip")
    layers = json.loads(served(target))["layers"]
    assert layers[0]["digest"] == make.digest(made.layers[0].data)
    assert layers[1]["mediaType"] == MEDIA_LAYER_GZIP
    assert pusher(target.reference("plain:1"), image=image, compression="none").digest != pushed.digest
    plain = json.loads(served(target, repository="plain"))["layers"]
    assert [row["digest"] for row in plain] == list(image.config.diff_ids)


def test_an_unknown_compression_is_refused(registry: FaultyRegistry, pusher: Pusher) -> None:
    pusher.image(registry.reference(), SMALL)
    with pytest.raises(UsageError, match="lzma"):
        pusher(registry.reference(), compression="lzma")
    assert not registry.seen


def test_a_digest_cannot_be_pushed_to(registry: FaultyRegistry, pusher: Pusher) -> None:
    image = pusher.image(registry.reference(), SMALL)
    with pytest.raises(UsageError) as caught:
        pusher(registry.reference(f"app@{image.digest}"))
    assert caught.value.code == "push-by-digest"


def without_blob(store: Store, image: Any) -> None:
    """Only the files are left of the first layer, as when an image that shared it was removed."""
    digest = image.manifest.layers[0].digest
    (store.home / "blobs/sha256" / digest.removeprefix("sha256:")).unlink()


def test_a_layer_whose_blob_is_gone_is_an_error_that_says_what_to_do(
    registries: Any, puller: Puller, pusher: Pusher, store: Store, make: Any
) -> None:
    source, target = registries(), registries()
    source.serve(make.image(make.layer({"a": b"1"})))
    image = puller(source.reference(), platform=Platform())
    without_blob(store, image)
    with pytest.raises(NotFound, match="pull the image again") as caught:
        pusher(target.reference(), image=image)
    assert caught.value.code == "layer-blob-not-found"
    assert not target.manifests
    puller(source.reference(), platform=Platform())  # which helps
    assert pusher(target.reference(), image=image).digest == image.digest


def test_a_layer_whose_blob_is_gone_but_that_the_registry_has_needs_none(
    registry: FaultyRegistry, puller: Puller, pusher: Pusher, store: Store, make: Any
) -> None:
    registry.serve(make.image(make.layer({"a": b"1"})))
    image = puller(registry.reference(), platform=Platform())
    without_blob(store, image)
    assert pusher(registry.reference("other:1"), image=image).layers[0][1] is Delivery.MOUNTED


def test_a_compressed_blob_of_our_own_that_was_pruned_is_made_again(
    registry: FaultyRegistry, pusher: Pusher, store: Store
) -> None:
    image = pusher.image(registry.reference(), LARGE)
    packed = store.image(pusher(registry.reference(), compression="gzip").digest)
    without_blob(store, packed)
    assert pusher(registry.reference("other:1"), image=packed).digest == packed.digest
    assert image.digest != packed.digest


def test_an_image_that_is_not_here_is_not_pushed(registry: FaultyRegistry, pusher: Pusher) -> None:
    with pytest.raises(NotFound, match="No such image"):
        pusher(registry.reference("nobody:1"))
    assert not registry.seen


def test_no_answer_makes_anything_but_an_error_of_ours(registry: FaultyRegistry, pusher: Pusher, make: Any) -> None:
    pusher.image(registry.reference(), SMALL)
    for method, pattern in (("HEAD", "/blobs/"), ("POST", "/uploads/"), ("PUT", "/uploads/"), ("PUT", "/manifests/")):
        for status in (100 + 99, 202, 204, 299, 301, 307, 402, 404, 418, 451, 507):
            registry.repositories.clear()
            registry.blobs.clear()
            registry._faults.clear()
            registry.fault(pattern, *[make.answer(status=status, body=b"<html>")] * 40, method=method)
            with contextlib.suppress(ContainError):
                pusher(registry.reference())
