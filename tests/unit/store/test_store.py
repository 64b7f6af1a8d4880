from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import sqlite3
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contain.errors import Conflict, HostError, IntegrityError, InternalError, NotFound, NotSupported
from contain.oci import Descriptor, Image, ImageConfig, canonical_json, digest_of, render_config
from contain.progress import Silent
from contain.reference import parse_reference
from contain.store import StepRecord, Store, TarLimits
from contain.store.tar_header import TarEntry, TarKind

EPOCH = 946_684_800
LAYER = "application/vnd.oci.image.layer.v1.tar"
Digest = Callable[[bytes], str]
ArchiveMaker = Callable[..., bytes]


def file(path: str, content: bytes) -> tuple[TarEntry, bytes]:
    return TarEntry(path=path.encode(), kind=TarKind.FILE, size_bytes=len(content)), content


def make_layer(store: Store, content: str) -> Descriptor:
    with store.scratch("upper") as upper:
        (upper / "f").write_text(content)
        committed = store.commit_layer(upper, lower=(), epoch_seconds=EPOCH)
    assert committed is not None
    return Descriptor(media_type=LAYER, digest=committed.diff_id, size=committed.size_bytes)


def make_image(store: Store, *contents: str, user: str = "") -> Image:
    layers = [make_layer(store, content) for content in contents]
    return store.put_image(ImageConfig(diff_ids=tuple(layer.digest for layer in layers), user=user), layers)


def visible(store: Store) -> list[str]:
    return sorted(
        str(path.relative_to(store.home))
        for name in ("blobs/sha256", "layers", "tmp")
        for path in (store.home / name).iterdir()
    )


# Opening.


def test_a_new_store_is_private_and_an_oci_layout(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with Store.open(tmp_path / "a" / "b") as store:
            assert stat.S_IMODE(store.home.stat().st_mode) == 0o700
            assert json.loads((store.home / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
            assert all(stat.S_IMODE(path.stat().st_mode) == 0o700 for path in store.home.iterdir() if path.is_dir())
    finally:
        os.umask(before)


def test_opening_twice_changes_nothing(store: Store) -> None:
    image = make_image(store, "x")
    with Store.open(store.home) as again:
        assert again.image(image.digest) == image


def test_a_database_of_a_later_version_is_not_touched(store: Store) -> None:
    store.images()
    store.close()
    connection = sqlite3.connect(store.home / "state.sqlite3")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(HostError, match="version 99") as caught:
        store.images()
    assert caught.value.code == "store-version"


def test_a_damaged_database_says_so(store: Store) -> None:
    (store.home / "state.sqlite3").write_bytes(b"not a database at all, but long enough to be looked at" * 100)
    with pytest.raises(IntegrityError, match="damaged"):
        store.images()


def test_what_a_dead_process_left_is_swept_and_what_lives_is_not(store: Store) -> None:
    with store.scratch("alive") as alive:
        dead = store.home / "tmp" / "dead.1234"
        (dead / "work/deep/er").mkdir(parents=True)
        (dead / "lock").touch()
        torn = store.home / "tmp" / "torn.5678"
        torn.mkdir()
        (store.home / "tmp" / "write.old").touch()
        os.utime(store.home / "tmp" / "write.old", (1, 1))
        (store.home / "tmp" / "write.now").touch()
        with Store.open(store.home):
            assert sorted(path.name for path in (store.home / "tmp").iterdir()) == [alive.parent.name, "write.now"]
            assert alive.exists()


def test_a_scratch_directory_goes_with_its_block_however_it_ends(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.scratch("x") as path:  # noqa: PT012 -- the block is what is tested
        inner = path / "/".join(["deep"] * 300)
        inner.mkdir(parents=True)
        (inner / "f").touch()
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
        raise ZeroDivisionError
    assert os.listdir(store.home / "tmp") == []


def test_a_tree_deeper_than_any_path_is_removed(store: Store) -> None:
    with store.scratch("x") as path:
        here = os.open(path, os.O_RDONLY)
        for _ in range(3000):
            os.mkdir("d", dir_fd=here)
            inner = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
        os.close(here)
    assert os.listdir(store.home / "tmp") == []


def test_removing_a_scratch_directory_follows_no_link(store: Store, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/f").touch()
    with store.scratch("x") as path:
        (path / "l").symlink_to(tmp_path / "precious")
        (path / "d").mkdir()
        (path / "d/l").symlink_to(tmp_path / "precious")
    assert (tmp_path / "precious/f").exists()


def test_locks_exclude_threads_of_one_process_and_their_files_stay(store: Store) -> None:
    from concurrent.futures import ThreadPoolExecutor

    inside: list[int] = []
    most = 0

    def work(number: int) -> None:
        nonlocal most
        with store.lock("same/name"):
            inside.append(number)
            most = max(most, len(inside))
            for _ in range(200):
                os.sched_yield()
            inside.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
    assert most == 1
    assert [path for path in (store.home / "locks").iterdir() if path.suffix == ".lock"]


# Blobs.


def test_a_blob_is_found_under_its_digest(store: Store, digest: Digest) -> None:
    assert store.write_blob(b"hello") == digest(b"hello")
    assert store.has_blob(digest(b"hello"))
    assert store.read_blob(digest(b"hello")) == b"hello"
    with store.open_blob(digest(b"hello")) as opened:
        assert opened.read() == b"hello"
    with pytest.raises(NotFound):
        store.read_blob(digest(b"other"))


def test_a_changed_blob_is_noticed(store: Store, digest: Digest) -> None:
    store.write_blob(b"hello")
    (store.home / "blobs/sha256" / hashlib.sha256(b"hello").hexdigest()).write_bytes(b"hellO")
    with pytest.raises(IntegrityError):
        store.read_blob(digest(b"hello"))
    with pytest.raises(IntegrityError, match="larger than 3"):
        store.read_blob(digest(b"hello"), limit_bytes=3)


@pytest.mark.parametrize(
    "bad",
    ["", "sha256:", "sha256:../../etc/passwd", "sha256:" + "A" * 64, "md5:" + "0" * 32, "0" * 64, "sha256:" + "0" * 64 + "\n"],
)
def test_a_digest_that_is_none_never_becomes_a_path(store: Store, bad: str) -> None:
    for call in (store.has_blob, store.read_blob, store.open_blob, store.has_layer, store.layer_tree):
        with pytest.raises(InternalError):
            call(bad)


def test_an_interrupted_download_goes_on_where_it_stopped(store: Store, digest: Digest) -> None:
    data = bytes(range(256)) * 100
    with pytest.raises(ConnectionError), store.ingest_blob(digest(data), len(data)) as incoming:  # noqa: PT012
        incoming.write(data[:1000])
        raise ConnectionError
    assert not store.has_blob(digest(data))
    with store.ingest_blob(digest(data), len(data)) as incoming:
        assert incoming.offset == 1000
        incoming.write(data[incoming.offset :])
        incoming.commit()
    assert store.read_blob(digest(data)) == data
    assert list((store.home / "ingest").iterdir()) == []


def test_wrong_bytes_are_thrown_away(store: Store, digest: Digest) -> None:
    with pytest.raises(IntegrityError, match="digest"), store.ingest_blob(digest(b"right"), 5) as incoming:  # noqa: PT012
        incoming.write(b"wrong")
        incoming.commit()
    assert visible(store) == []
    with store.ingest_blob(digest(b"right"), 5) as incoming:
        assert incoming.offset == 0


def test_too_many_and_too_few_bytes_are_refused(store: Store, digest: Digest) -> None:
    with pytest.raises(IntegrityError, match="larger"), store.ingest_blob(digest(b"right"), 5) as incoming:
        incoming.write(b"right and more")
    with pytest.raises(IntegrityError, match="3 bytes instead of 5"), store.ingest_blob(digest(b"right"), 5) as incoming:  # noqa: PT012
        incoming.write(b"rig")
        incoming.commit()
    assert visible(store) == []


def test_a_blob_that_is_here_already_needs_no_byte(store: Store, digest: Digest) -> None:
    store.write_blob(b"right")
    with store.ingest_blob(digest(b"right"), 5) as incoming:
        assert incoming.offset == 5
        incoming.commit()
    assert store.read_blob(digest(b"right")) == b"right"


def test_two_downloads_of_one_blob_take_turns(store: Store, digest: Digest) -> None:
    from concurrent.futures import ThreadPoolExecutor

    data = b"x" * 100_000
    written: list[int] = []

    def download() -> None:
        with store.ingest_blob(digest(data), len(data)) as incoming:
            rest = data[incoming.offset :]
            for start in range(0, len(rest), 1000):
                incoming.write(rest[start : start + 1000])
            written.append(len(rest))
            incoming.commit()

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(download) for _ in range(8)]:
            future.result()
    assert sorted(written) == [0] * 7 + [len(data)]
    assert store.read_blob(digest(data)) == data


def test_a_download_that_waited_for_one_that_failed_starts_its_own(
    store: Store, digest: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    real, calls = fcntl.flock, 0

    def flock(descriptor: int, operation: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:  # while we wait, the other one gives up and removes its file
            (store.home / "ingest" / digest(b"right")[7:]).unlink()
        real(descriptor, operation)

    monkeypatch.setattr("contain.store.blobs.fcntl.flock", flock)
    with store.ingest_blob(digest(b"right"), 5) as incoming:
        incoming.write(b"right")
        incoming.commit()
    assert calls == 2
    assert store.read_blob(digest(b"right")) == b"right"


# Layers as they come from elsewhere.


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_layer_with_the_promised_digest_is_unpacked(
    store: Store, archive: ArchiveMaker, digest: Digest, pack: Callable[[bytes], bytes]
) -> None:
    data = archive(file("etc/os-release", b"debian"))
    store.extract_layer(io.BytesIO(pack(data)), diff_id=digest(data), media_type=LAYER, progress=Silent(), label="x")
    assert (store.layer_tree(digest(data)) / "etc/os-release").read_bytes() == b"debian"
    assert store.layer_size(digest(data)) == len(data)


def test_a_layer_without_the_promised_digest_leaves_nothing(store: Store, archive: ArchiveMaker, digest: Digest) -> None:
    data = archive(file("f", b"x"))
    with pytest.raises(IntegrityError, match="was promised"):
        store.extract_layer(io.BytesIO(data), diff_id=digest(b"other"), media_type=LAYER, progress=Silent(), label="x")
    assert visible(store) == []


def test_what_follows_the_end_mark_is_part_of_the_digest(store: Store, archive: ArchiveMaker, digest: Digest) -> None:
    data = archive(file("f", b"x")) + bytes(10240)
    store.extract_layer(io.BytesIO(data), diff_id=digest(data), media_type=LAYER, progress=Silent(), label="x")
    assert store.has_layer(digest(data))


@pytest.mark.parametrize("cut", [1, 512, 700, 1500])
def test_a_layer_that_is_cut_short_leaves_nothing(store: Store, archive: ArchiveMaker, digest: Digest, cut: int) -> None:
    data = archive(file("f", b"x" * 600))
    with pytest.raises(IntegrityError):
        store.extract_layer(io.BytesIO(data[:-cut]), diff_id=digest(data), media_type=LAYER, progress=Silent(), label="x")
    assert visible(store) == []


def test_a_hostile_layer_leaves_nothing(store: Store, archive: ArchiveMaker, digest: Digest) -> None:
    data = archive(file("ok", b"x"), file("../../../escaped", b"x"))
    with pytest.raises(IntegrityError):
        store.extract_layer(io.BytesIO(data), diff_id=digest(data), media_type=LAYER, progress=Silent(), label="x")
    assert visible(store) == []
    assert not (store.home / "escaped").exists()


def test_a_bomb_is_stopped_at_the_limit(tmp_path: Path, archive: ArchiveMaker, digest: Digest) -> None:
    data = archive(file("zeros", bytes(20 << 20)))
    with Store.open(tmp_path / "small", limits=TarLimits(total_bytes=1 << 20)) as store:
        with pytest.raises(IntegrityError, match="when unpacked"):
            store.extract_layer(
                io.BytesIO(gzip.compress(data)), diff_id=digest(data), media_type=LAYER, progress=Silent(), label="x"
            )
        assert visible(store) == []


def test_a_layer_of_an_unknown_kind_is_refused_by_name(store: Store, digest: Digest) -> None:
    with pytest.raises(NotSupported, match="encrypted"):
        store.extract_layer(io.BytesIO(b""), diff_id=digest(b""), media_type=LAYER + "+encrypted", progress=Silent(), label="x")


def test_progress_hears_of_the_bytes(store: Store, archive: ArchiveMaker, digest: Digest) -> None:
    class Listener(Silent):
        def __init__(self) -> None:
            self.amounts: list[tuple[str, int]] = []

        def amount(self, label: str, done: int, total: int | None) -> None:
            self.amounts.append((label, done))

    data = archive(file("f", bytes(9 << 20)))
    listener = Listener()
    store.extract_layer(io.BytesIO(data), diff_id=digest(data), media_type=LAYER, progress=listener, label="base")
    assert len(listener.amounts) >= 2
    assert listener.amounts[-1] == ("base", len(data))


def test_the_archive_of_a_pulled_layer_comes_from_its_blob(store: Store, archive: ArchiveMaker, digest: Digest) -> None:
    data = archive(file("z", b"not in order"), file("a", b"x"))
    blob = store.write_blob(gzip.compress(data))
    store.extract_layer(io.BytesIO(data), diff_id=digest(data), media_type=LAYER, progress=Silent(), label="x")
    with pytest.raises(NotFound, match="only its files"):
        store.write_layer_tar(digest(data), io.BytesIO())
    store.put_image(ImageConfig(diff_ids=(digest(data),)), [Descriptor(media_type=LAYER + "+gzip", digest=blob, size=1)])
    out = io.BytesIO()
    store.write_layer_tar(digest(data), out)
    assert out.getvalue() == data


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", bytes(100)], ids=["empty", "text", "zeros"])
def test_importing_something_else_than_an_archive_is_refused(store: Store, data: bytes) -> None:
    with pytest.raises(IntegrityError):
        store.import_layer(io.BytesIO(data), progress=Silent())
    assert visible(store) == []


# Images.


def test_an_image_is_its_canonical_manifest(store: Store, tmp_path: Path) -> None:
    image = make_image(store, "one", "two", user="app")
    assert digest_of(store.read_blob(image.digest)) == image.digest
    assert store.image(image.digest) == image
    assert [(tree / "f").read_text() for tree in store.layer_trees(image)] == ["one", "two"]
    with Store.open(tmp_path / "second") as other:
        assert make_image(other, "one", "two", user="app").digest == image.digest


def test_an_image_needs_its_layers(store: Store, digest: Digest) -> None:
    missing = Descriptor(media_type=LAYER, digest=digest(b"?"), size=1)
    with pytest.raises(NotFound, match="not in the store"):
        store.put_image(ImageConfig(diff_ids=(missing.digest,)), [missing])
    layer = make_layer(store, "x")
    with pytest.raises(IntegrityError, match="2 layers"):
        store.put_image(ImageConfig(diff_ids=(layer.digest,)), [layer, layer])
    assert store.images() == ()


def test_a_manifest_of_somebody_else_keeps_its_bytes(store: Store) -> None:
    layer = make_layer(store, "x")
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer.digest]}}, indent=3
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "digest": digest_of(config),
                "size": len(config),
            },
            "layers": [{"mediaType": LAYER, "digest": layer.digest, "size": layer.size}],
        },
        indent=3,
    ).encode()
    image = store.put_manifest(manifest, config, source="registry docker.io")
    assert image.digest == digest_of(manifest)
    assert store.images()[0].source == "registry docker.io"
    with pytest.raises(IntegrityError, match="config"):
        store.put_manifest(manifest, config + b" ", source="x")


def test_names_lead_to_images_and_remember_where_they_came_from(store: Store) -> None:
    first, second = make_image(store, "one"), make_image(store, "two")
    name = parse_reference("app")
    store.tag(name, first.digest, source="build")
    store.tag(name, second.digest, source="imported")
    assert store.name_source(parse_reference("docker.io/library/app:latest")) == (second.digest, "imported")
    assert [(record.digest, record.source) for record in store.name_history(name)] == [
        (second.digest, "imported"),
        (first.digest, "build"),
    ]
    assert store.untag(name) == second.digest
    assert store.untag(name) is None
    assert store.name_source(name) is None
    assert store.image(second.digest) == second
    with pytest.raises(NotFound):
        store.tag(name, "sha256:" + "0" * 64, source="build")


def test_an_image_is_found_by_name_digest_and_beginning(store: Store) -> None:
    image = make_image(store, "one")
    store.tag(parse_reference("localhost:5000/team/app:1.0"), image.digest, source="build")
    plain = image.digest.removeprefix("sha256:")
    for text in (
        "localhost:5000/team/app:1.0",
        f"localhost:5000/team/app@{image.digest}",
        image.digest,
        plain,
        plain[:4],
        "sha256:" + plain[:12],
    ):
        assert store.find_image(text).digest == image.digest, text
    for text in ("app", "localhost:5000/team/app", plain[:3], "", "UPPER", "0" * 64, plain[:6] + "zz"):
        with pytest.raises(NotFound, match="No such image: ") as caught:
            store.find_image(text)
        assert caught.value.code == "image-not-found"


def test_a_beginning_of_two_digests_is_not_guessed(store: Store) -> None:
    found: dict[str, str] = {}
    number = 0
    while True:
        image = store.put_image(ImageConfig(user=str(number)), [])
        start = image.digest[7:11]
        if start in found:
            break
        found[start] = image.digest
        number += 1
    with pytest.raises(Conflict, match="beginning of 2"):
        store.find_image(start)


def test_a_name_that_looks_like_a_digest_is_a_name(store: Store) -> None:
    one, two = make_image(store, "one"), make_image(store, "two")
    start = one.digest[7:19]
    store.tag(parse_reference(start), two.digest, source="build")
    assert store.find_image(start).digest == two.digest


def test_the_list_says_all_of_each_image(store: Store) -> None:
    image = make_image(store, "one", "two")
    store.tag(parse_reference("b"), image.digest, source="build")
    store.tag(parse_reference("a:1"), image.digest, source="build")
    (row,) = store.images()
    assert row.names == ("docker.io/library/a:1", "docker.io/library/b:latest")
    assert row.size_bytes == sum(store.layer_size(diff_id) for diff_id in image.config.diff_ids)
    assert abs(row.created_seconds - time.time()) < 60


# Removing.


def test_a_removed_image_takes_only_what_nobody_else_needs(store: Store) -> None:
    one, two = make_image(store, "shared", "one"), make_image(store, "shared", "two")
    store.tag(parse_reference("one"), one.digest, source="build")
    report = store.remove_image(one.digest)
    assert report.layers == (one.config.diff_ids[1],)
    assert set(report.blobs) == {one.digest, one.manifest.config.digest}
    assert store.name_source(parse_reference("one")) is None
    assert store.image(two.digest) == two
    assert len(store.layer_trees(two)) == 2
    with pytest.raises(NotFound):
        store.remove_image(one.digest)


def test_removing_an_image_leaves_what_the_build_cache_knows(store: Store) -> None:
    image = make_image(store, "cached", "not cached")
    store.record_step(StepRecord(key="k", position="p", ingredients="{}", diff_id=image.config.diff_ids[0]))
    assert store.remove_image(image.digest).layers == (image.config.diff_ids[1],)
    assert store.cached_step("k") is not None


def test_pruning_removes_what_no_name_leads_to(store: Store, digest: Digest) -> None:
    kept, lost, spared = make_image(store, "kept"), make_image(store, "lost"), make_image(store, "spared")
    store.tag(parse_reference("kept"), kept.digest, source="build")
    stray_layer, stray_blob = make_layer(store, "stray"), store.write_blob(b"stray")
    with store.ingest_blob(digest(b"partial"), 7) as incoming:
        incoming.write(b"par")
    store.record_step(StepRecord(key="lost", position="1", ingredients="{}", diff_id=lost.config.diff_ids[0]))
    store.record_step(StepRecord(key="kept", position="1", ingredients="{}", diff_id=kept.config.diff_ids[0]))

    assert store.prune() == store.prune(grace_seconds=3600), "what is an hour old or younger is spared"
    assert len(store.images()) == 3

    report = store.prune(keep=[spared.digest], grace_seconds=0)
    assert report.images == (lost.digest,)
    assert set(report.layers) == {lost.config.diff_ids[0], stray_layer.digest}
    assert set(report.blobs) == {lost.digest, lost.manifest.config.digest, stray_blob}
    assert report.cache_rows == 1
    assert report.freed_bytes > 0
    assert {image.digest for image in store.images()} == {kept.digest, spared.digest}
    assert store.cached_step("kept") is not None
    assert store.cached_step("lost") is None
    assert store.prune(keep=[spared.digest], grace_seconds=0).freed_bytes == 0


def test_use_renews_the_hour(store: Store) -> None:
    layer = make_layer(store, "x")
    record = store.home / "layers" / layer.digest[7:] / "layer.json"
    blob = store.write_blob(b"x")
    for path in (record, store.home / "blobs/sha256" / blob[7:]):
        os.utime(path, (1, 1))
    assert store.has_layer(layer.digest)
    assert store.has_blob(blob)
    assert store.prune().freed_bytes == 0
    assert store.has_layer(layer.digest)


def test_a_lease_protects_while_its_holder_lives(store: Store) -> None:
    image, layer = make_image(store, "image"), make_layer(store, "layer")
    with store.lease(image.digest, layer.digest):
        assert store.prune(grace_seconds=0).freed_bytes == 0
        assert store.remove_image(image.digest).layers == ()
        assert store.has_layer(image.config.diff_ids[0])
    dead = store.home / "leases" / "of-a-dead-process"
    dead.write_text(layer.digest)
    assert layer.digest in store.prune(grace_seconds=0).layers
    assert not dead.exists()


# Build cache.


def test_a_recorded_step_is_found_until_its_layer_is_gone(store: Store) -> None:
    layer = make_layer(store, "x")
    record = StepRecord(
        key="k",
        position="Dockerfile:3",
        ingredients=canonical_json({"cmd": "true"}).decode(),
        diff_id=layer.digest,
        size_bytes=layer.size,
        created_seconds=5,
    )
    assert store.cached_step("k") is None
    store.record_step(record)
    assert store.cached_step("k") == record
    (store.home / "layers" / layer.digest[7:]).rename(store.home / "elsewhere")
    assert store.cached_step("k") is None


def test_a_step_that_changed_nothing_is_found(store: Store) -> None:
    store.record_step(StepRecord(key="k", position="p", ingredients="{}", diff_id=None, created_seconds=7))
    found = store.cached_step("k")
    assert found is not None
    assert found.diff_id is None


def test_the_nearest_steps_are_those_of_the_same_place_newest_first(store: Store) -> None:
    for number in range(3):
        store.record_step(
            StepRecord(key=f"k{number}", position="here", ingredients="{}", diff_id=None, created_seconds=number + 1)
        )
    store.record_step(StepRecord(key="other", position="there", ingredients="{}", diff_id=None))
    assert [record.key for record in store.nearest_steps("here")] == ["k2", "k1", "k0"]
    assert store.nearest_steps("nowhere") == ()


# File digests.


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute after whatever the test wrote."""
    now = time.time_ns()
    monkeypatch.setattr("contain.store.cache.time.time_ns", lambda: now + 60 * 10**9)


def test_an_unchanged_files_digest_is_remembered_across_openings(store: Store, tmp_path: Path, later: None) -> None:
    path = tmp_path / "f"
    path.write_text("x")
    found = path.stat()
    with store.file_digests() as digests:
        assert digests.lookup(found) is None
        digests.remember(found, "xxh3:1")
        assert digests.lookup(found) == "xxh3:1"
    with Store.open(store.home) as again, again.file_digests() as digests:
        assert digests.lookup(path.stat()) == "xxh3:1"


@pytest.mark.parametrize(
    "change",
    [lambda path: path.write_text("y"), lambda path: path.chmod(0o600), lambda path: os.utime(path, (1, 1))],
    ids=["content", "mode", "time"],
)
def test_a_touched_files_digest_is_forgotten(
    store: Store, tmp_path: Path, later: None, change: Callable[[Path], object]
) -> None:
    path = tmp_path / "f"
    path.write_text("x")
    with store.file_digests() as digests:
        digests.remember(path.stat(), "xxh3:1")
        change(path)
        assert digests.lookup(path.stat()) is None


def test_a_file_changed_this_moment_is_not_trusted(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("x")
    with store.file_digests() as digests:
        digests.remember(path.stat(), "xxh3:1")
        assert digests.lookup(path.stat()) is None


def test_inode_numbers_of_any_size_are_kept(store: Store) -> None:
    found = os.stat_result((0o100644, (1 << 64) - 1, 5, 1, 0, 0, 3, 0, 100, 100), {"st_mtime_ns": 100, "st_ctime_ns": 100})
    with store.file_digests() as digests:
        digests.remember(found, "d")
    with store.file_digests() as digests:
        assert digests.lookup(found) == "d"


def test_rendering_a_config_twice_gives_one_blob(store: Store) -> None:
    assert store.write_blob(render_config(ImageConfig())) == store.write_blob(render_config(ImageConfig()))
    assert len(list((store.home / "blobs/sha256").iterdir())) == 1


@pytest.mark.parametrize("missing", [False, True])
def test_a_damaged_image_is_listed_and_can_be_removed(store: Store, missing: bool) -> None:
    image = make_image(store, "x")
    manifest = store.home / "blobs/sha256" / image.digest[7:]
    manifest.write_bytes(b"damaged")
    assert [row.digest for row in store.images()] == [image.digest]
    with pytest.raises(IntegrityError):
        store.image(image.digest)
    if missing:
        manifest.unlink()
    store.remove_image(image.digest)
    assert store.images() == ()


def test_an_image_cannot_make_its_own_bytes_stand_for_somebody_elses_layer(store: Store, archive: ArchiveMaker) -> None:
    """The layer is here, so nobody unpacks the blob that the manifest pairs with it."""
    honest, other = (archive(file("f", text)) for text in (b"a", b"b"))
    store.extract_layer(io.BytesIO(honest), diff_id=digest_of(honest), media_type=LAYER, progress=Silent(), label="")
    packed = gzip.compress(other, mtime=0)
    store.write_blob(packed)
    config = b'{"rootfs": {"type": "layers", "diff_ids": ["%s"]}}' % digest_of(honest).encode()
    layers = [{"mediaType": LAYER + "+gzip", "digest": digest_of(packed), "size": len(packed)}]
    described = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(config), "size": len(config)}
    manifest = json.dumps({"schemaVersion": 2, "config": described, "layers": layers}).encode()
    with pytest.raises(IntegrityError, match="was promised"):
        store.put_manifest(manifest, config, source="x")
    assert store.layer_blobs(digest_of(honest)) == ()
    assert store.images() == ()


def test_scratch_directories_are_spread_over_the_disk(tmp_path: Path) -> None:
    control = tmp_path / "control"
    control.mkdir()
    try:
        subprocess.run(["chattr", "+T", str(control)], capture_output=True, check=True, timeout=10)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this file system takes no such hint")
    with Store.open(tmp_path / "store") as store:
        shown = subprocess.run(
            ["lsattr", "-d", str(store.home / "tmp")], capture_output=True, text=True, check=True, timeout=10
        )
    assert "T" in shown.stdout.split()[0]
