"""Image files of every form, made by hand, and a look at everything that a store holds."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
import zstandard

from contain.archive.load import LoadedImage, load
from contain.oci import Platform
from contain.oci.image import MEDIA_CONFIG, MEDIA_INDEX, MEDIA_LAYER, MEDIA_LAYER_GZIP, MEDIA_LAYER_ZSTD, MEDIA_MANIFEST
from contain.progress import Silent
from contain.store import Store

Members = dict[str, bytes]
OURS = Platform(os="linux", architecture="amd64")


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def to_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def make_tar(files: Mapping[str, bytes]) -> bytes:
    """A layer."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(data), 1_000_000_000
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def make_config(*layers: bytes, architecture: str = "amd64", **config: Any) -> bytes:
    """``layers``: uncompressed."""
    return to_json(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], **config},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        }
    )


def blob_name(data: bytes) -> str:
    return "blobs/sha256/" + digest(data)[7:]


def describe(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}


def make_image(members: Members, *layers: bytes, packed: Callable[[bytes], bytes] | None = None, **config: Any) -> bytes:
    """Put an image's blobs into ``members``; its manifest."""
    data = make_config(*layers, **config)
    descriptors = []
    for layer in layers:
        blob = layer if packed is None else packed(layer)
        kinds = {b"\x1f\x8b": MEDIA_LAYER_GZIP, b"\x28\xb5": MEDIA_LAYER_ZSTD}
        members[blob_name(blob)] = blob
        descriptors.append(describe(blob, kinds.get(blob[:2], MEDIA_LAYER)))
    manifest = to_json(
        {"schemaVersion": 2, "mediaType": MEDIA_MANIFEST, "config": describe(data, MEDIA_CONFIG), "layers": descriptors}
    )
    members[blob_name(data)] = data
    members[blob_name(manifest)] = manifest
    return manifest


def make_index(*entries: dict[str, Any]) -> bytes:
    return to_json({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": list(entries)})


def named(name: str) -> dict[str, Any]:
    return {"annotations": {"io.containerd.image.name": name}}


def make_layout(members: Members, *entries: dict[str, Any]) -> Members:
    members["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    members["index.json"] = make_index(*entries)
    return members


def make_docker(*layers: bytes, tags: list[str] | None = None) -> Members:
    """As Docker 1.10 to 24 wrote it."""
    config = make_config(*layers)
    members = {f"{digest(config)[7:]}.json": config}
    names = []
    for index, layer in enumerate(layers):
        names.append(f"{index:064x}/layer.tar")
        members[names[-1]] = layer
        members[f"{index:064x}/VERSION"] = b"1.0"
    members["manifest.json"] = to_json([{"Config": f"{digest(config)[7:]}.json", "RepoTags": tags, "Layers": names}])
    return members


def pack(members: Mapping[str, bytes], *extra: tarfile.TarInfo, prefix: str = "") -> bytes:
    """Members, and then entries without content, as one archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(prefix + name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        for entry in extra:
            archive.addfile(entry)
    return out.getvalue()


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


class Make:
    """What the tests make image files with."""

    layer = make_tar({"etc/motd": b"hello\n"})
    other = make_tar({"etc/issue": b"one\n", "bin/tool": b"#!/bin/sh\n"})
    digest = staticmethod(digest)
    to_json = staticmethod(to_json)
    tar = staticmethod(make_tar)
    config = staticmethod(make_config)
    blob_name = staticmethod(blob_name)
    describe = staticmethod(describe)
    image = staticmethod(make_image)
    index = staticmethod(make_index)
    named = staticmethod(named)
    layout = staticmethod(make_layout)
    docker = staticmethod(make_docker)
    pack = staticmethod(pack)
    gzipped = staticmethod(gzipped)
    zstd = staticmethod(zstd)


class Told(Silent):
    """Progress that is remembered."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.notes.append(text)


class Shelf:
    """A store, and loading into it."""

    def __init__(self, store: Store, directory: Path) -> None:
        self.store, self.directory = store, directory
        self.told = Told()

    def load(self, data: bytes, *, platform: Platform | None = OURS) -> tuple[LoadedImage, ...]:
        """From a file."""
        path = self.directory / "image.tar"
        path.write_bytes(data)
        return load(path, store=self.store, progress=self.told, platform=platform)

    def stream(self, data: bytes) -> tuple[LoadedImage, ...]:
        """From something that cannot be read at any position."""
        path = self.directory / "streamed.tar"
        path.write_bytes(data)
        with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as cat:
            assert cat.stdout is not None
            return load(cast("BinaryIO", cat.stdout), store=self.store, progress=self.told, platform=OURS)

    def content(self) -> dict[str, object]:
        """Everything that is in the store."""
        home = self.store.home
        return {
            **{name: sorted(os.listdir(home / name)) for name in ("blobs/sha256", "layers", "ingest", "tmp", "leases")},
            "images": self.store.images(),
        }


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    with Store.open(tmp_path / "home") as store:
        yield Shelf(store, tmp_path)


@pytest.fixture
def make() -> Make:
    return Make()
