"""What stands in an image file, member by member: images and a format to an ordered list. Pure.

The dual form is what Docker writes since version 25: one archive that is an OCI layout and has ``manifest.json`` and
``repositories`` beside it, which readers from Docker 1.10 on understand. Sorted, without times and owners: the same images give
the same bytes.

Sources: OCI image-spec 1.1 ``image-layout.md``; moby ``image/spec/v1.2.md`` ("Combined Image JSON + Filesystem Changeset Format").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum

from contain.annotations import Any
from contain.archive.layout import CONTAINERD_NAME, REF_NAME, blob_member
from contain.oci import Image, Manifest, canonical_json
from contain.oci.image import MEDIA_INDEX
from contain.reference import Reference, parse_reference
from contain.values import dataclass


class FileFormat(Enum):
    """How images are written to a file; the values are what ``--format`` takes."""

    DOCKER = "docker"
    OCI = "oci"
    OCI_DIRECTORY = "oci-dir"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedImage:
    """An image to be written, and the names that the file gives it."""

    names: tuple[Reference, ...]
    image: Image
    manifest_data: bytes
    config_data: bytes

    @property
    def digest(self) -> str:
        """Of its manifest."""
        return self.image.digest

    @property
    def manifest(self) -> Manifest:
        """Its manifest."""
        return self.image.manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedMember:
    """A member: its bytes, or the digest of the layer whose bytes it holds; a directory has neither."""

    name: str
    size: int = 0
    data: bytes | None = None
    layer: str | None = None


def join_names(asked: Iterable[tuple[str, Image]]) -> tuple[tuple[Image, tuple[Reference, ...]], ...]:
    """Each image once, with the names by which it was asked for; one asked for by its digest has none."""
    images: dict[str, Image] = {}
    names: dict[str, list[Reference]] = {}
    for text, image in asked:
        images[image.digest] = image
        known = names.setdefault(image.digest, [])
        if not image.digest.removeprefix("sha256:").startswith(text.removeprefix("sha256:")):
            reference = parse_reference(text)
            if reference.tag is not None and reference.digest is None and reference not in known:
                known.append(reference)
    return tuple((images[digest], tuple(found)) for digest, found in names.items())


def plan_members(images: Sequence[SavedImage], form: FileFormat) -> tuple[PlannedMember, ...]:
    """All members in the order in which they are written: bytewise by name, so a directory before what is in it."""
    blobs: dict[str, PlannedMember] = {}
    for image in images:
        for digest, data in ((image.digest, image.manifest_data), (image.manifest.config.digest, image.config_data)):
            blobs[digest] = PlannedMember(name=blob_member(digest), size=len(data), data=data)
        for layer in image.manifest.layers:
            member = PlannedMember(name=blob_member(layer.digest), size=layer.size, layer=layer.digest)
            blobs.setdefault(layer.digest, member)
    members = [PlannedMember(name="blobs"), PlannedMember(name="blobs/sha256"), *blobs.values()]
    documents: dict[str, Any] = {"oci-layout": {"imageLayoutVersion": "1.0.0"}, "index.json": _index(images)}
    if form is FileFormat.DOCKER:
        documents["manifest.json"] = [_docker_entry(image) for image in images]
        if repositories := _repositories(images):
            documents["repositories"] = repositories
    for name, value in documents.items():
        data = canonical_json(value)
        members.append(PlannedMember(name=name, size=len(data), data=data))
    return tuple(sorted(members, key=lambda member: member.name.encode()))


def _index(images: Sequence[SavedImage]) -> dict[str, Any]:
    manifests = []
    for image in images:
        entry = {
            "mediaType": image.manifest.media_type,
            "digest": image.digest,
            "size": len(image.manifest_data),
        }
        for name in image.names:
            annotations = {CONTAINERD_NAME: str(name), REF_NAME: name.tag or ""}
            manifests.append(entry | {"annotations": annotations})
        if not image.names:
            manifests.append(entry)
    return {"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": manifests}


def _docker_entry(image: SavedImage) -> dict[str, Any]:
    return {
        "Config": blob_member(image.manifest.config.digest),
        "RepoTags": [name.familiar for name in image.names] or None,
        "Layers": [blob_member(layer.digest) for layer in image.manifest.layers],
    }


def _repositories(images: Sequence[SavedImage]) -> dict[str, dict[str, str]]:
    """Names as readers older than ``manifest.json`` know them: repository, tag, the top layer."""
    found: dict[str, dict[str, str]] = {}
    for image in images:
        for name in image.names:
            if image.manifest.layers:
                repository = name.familiar.removesuffix(f":{name.tag}")
                found.setdefault(repository, {})[name.tag or ""] = image.manifest.layers[-1].digest.removeprefix("sha256:")
    return found
