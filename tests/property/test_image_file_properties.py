"""Image files that were damaged at random, or whose documents say anything at all: a value or a `ContainError`, never anything
else; and after an error the store is as it was."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from typing import BinaryIO, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contain.archive.layout import read_contents
from contain.archive.load import load
from contain.archive.members import bad_file, link_target, member_name
from contain.errors import ContainError
from contain.oci import Platform
from contain.oci.image import MEDIA_CONFIG, MEDIA_INDEX, MEDIA_LAYER, MEDIA_MANIFEST
from contain.progress import Silent
from contain.store import Store

OURS = Platform(os="linux", architecture="amd64")
HEX = "ab" * 32


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def packed(members: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.uid, entry.gid = len(data), os.geteuid(), os.getegid()
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def honest() -> bytes:
    layer = packed({"etc/motd": b"hello\n"})
    config = json.dumps(
        {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(layer)}"]}}
    ).encode()

    def describe(data: bytes, media_type: str) -> dict[str, object]:
        return {"mediaType": media_type, "digest": f"sha256:{digest(data)}", "size": len(data)}

    manifest = json.dumps(
        {"schemaVersion": 2, "config": describe(config, MEDIA_CONFIG), "layers": [describe(layer, MEDIA_LAYER)]}
    ).encode()
    annotations = {"annotations": {"io.containerd.image.name": "docker.io/library/app:1"}}
    index = {"schemaVersion": 2, "manifests": [describe(manifest, MEDIA_MANIFEST) | annotations]}
    docker = [{"Config": f"blobs/sha256/{digest(config)}", "RepoTags": ["app:1"], "Layers": [f"blobs/sha256/{digest(layer)}"]}]
    return packed(
        {f"blobs/sha256/{digest(data)}": data for data in (config, layer, manifest)}
        | {"index.json": json.dumps(index).encode(), "manifest.json": json.dumps(docker).encode()}
        | {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    ).rstrip(b"\0") + bytes(1024)


HONEST = honest()
PLACES = st.integers(0, len(HONEST) - 1)
DAMAGE = st.lists(
    st.tuples(PLACES, st.sampled_from(["flip", "cut", "drop", "double"]), st.integers(0, 7)), min_size=1, max_size=4
)


def damaged(changes: list[tuple[int, str, int]]) -> bytes:
    data = bytearray(HONEST)
    for place, kind, bit in changes:
        at = place % max(1, len(data))
        match kind:
            case "flip" if data:
                data[at] ^= 1 << bit
            case "cut":
                del data[at:]
            case "drop":
                del data[at : at + (bit + 1) * 64]
            case "double":
                data[at:at] = data[at : at + (bit + 1) * 512]
    return bytes(data)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(changes=DAMAGE)
def test_damage_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, str, int]]) -> None:
    place = tmp_path_factory.getbasetemp() / "damaged"
    place.mkdir(exist_ok=True)
    path = place / "image.tar"
    path.write_bytes(damaged(changes))
    with Store.open(place / "home") as store:
        before = snapshot(store)
        try:
            loaded = load(path, store=store, progress=Silent(), platform=OURS)
        except ContainError:
            assert snapshot(store) == before
            return
        for item in loaded:  # what was loaded is what was promised, whatever the damage hit
            [tree] = store.layer_trees(item.image)
            assert (tree / "etc/motd").read_bytes() == b"hello\n"
            store.remove_image(item.image.digest)


def snapshot(store: Store) -> list[list[str]]:
    return [sorted(os.listdir(store.home / name)) for name in ("blobs/sha256", "layers", "ingest", "tmp")]


class Written:
    """Members that are only in memory."""

    def __init__(self, members: Mapping[str, bytes]) -> None:
        self._members = members

    def sizes(self) -> Mapping[str, int]:
        return {name: len(data) for name, data in self._members.items()}

    def open(self, name: str) -> BinaryIO:
        if name not in self._members:
            raise bad_file(f"{name} is missing")
        return cast("BinaryIO", io.BytesIO(self._members[name]))


KEYS = st.sampled_from(
    [
        *("schemaVersion", "manifests", "mediaType", "digest", "size", "platform", "annotations", "config", "layers", "Config"),
        *("RepoTags", "Layers", "os", "architecture", "rootfs", "diff_ids", "history", "parent", "id", "created", "app"),
    ]
)
WORDS = st.sampled_from(
    [
        *("", "linux", "amd64", "unknown", "../x", "a/json", f"{HEX}.json", f"sha256:{HEX}", "app:1", "App", "\0", "1.0.0"),
        *(MEDIA_MANIFEST, MEDIA_INDEX, MEDIA_CONFIG, MEDIA_LAYER, "a", "b"),
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.sampled_from([0, 1, 2, -1, 10**30]) | st.just(1.5) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=20,
)
DOCUMENTS = VALUES.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40)
NAMES = st.sampled_from(
    ["index.json", "oci-layout", "manifest.json", "repositories", "a/json", "a/layer.tar", "b/json", f"{HEX}.json"]
)


@settings(max_examples=500, deadline=None)
@given(members=st.dictionaries(NAMES, DOCUMENTS, max_size=8), has_layout=st.booleans())
def test_documents_that_say_anything_are_read_or_refused(members: dict[str, bytes], has_layout: bool) -> None:
    if has_layout:
        members["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    with suppress(ContainError):
        read_contents(Written(members), platform=OURS)


@settings(max_examples=500, deadline=None)
@given(raw=st.binary(max_size=60) | st.text("./\\ab\0é\n", max_size=12).map(str.encode))
def test_the_name_of_a_member_never_leads_out(raw: bytes) -> None:
    try:
        name = member_name(raw)
    except ContainError:
        return
    assert not name.startswith("/")
    assert all(part not in ("", ".", "..") for part in name.split("/")) or name == ""
    assert os.path.normpath(os.path.join("/top", name)).startswith("/top")


@settings(max_examples=300, deadline=None)
@given(link=st.text("./layertarb", max_size=20))
def test_the_target_of_a_link_is_a_name_of_the_archive(link: str) -> None:
    try:
        target = link_target("a/layer.tar", link)
    except ContainError:
        return
    assert member_name(target.encode()) == target
